"""The notebooks' figures and tables."""

import pytest

from labkit.reporting.charts import as_text, bar_chart, line_chart, mark_x, mark_y
from labkit.reporting.plots import COLOURS
from labkit.reporting.tables import answers_table, before_after_table, number_table, stage_before_after_table


def test_lines_differ_in_marker_and_name_their_axes():
    figure = line_chart(
        {"one": (range(3), [1.0, 0.5, 0.2]), "two": ([0, 2], [1.0, 0.1])},
        x="step",
        y="loss (nats per token)",
        title="It falls",
        log_y=True,
    )
    first, second = figure.data
    assert list(first.x) == [0, 1, 2] and list(second.y) == [1.0, 0.1]
    assert first.marker.symbol != second.marker.symbol and list(figure.layout.colorway) == list(COLOURS)
    assert figure.layout.xaxis.title.text == "step" and figure.layout.yaxis.title.text == "loss (nats per token)"
    assert figure.layout.yaxis.type == "log" and figure.layout.xaxis.type is None
    assert figure.layout.title.text == "It falls" and figure.layout.showlegend
    assert not line_chart({"one": ([0], [1])}, x="a", y="b").layout.showlegend


def test_marks_are_dotted_and_named():
    figure = mark_y(mark_x(line_chart({"one": ([0, 9], [1, 2])}, x="a", y="b"), 5, "here"), 1.5)
    assert [shape.line.dash for shape in figure.layout.shapes] == ["dot", "dot"]
    assert figure.layout.annotations[0].text == "here"


def test_bars_stand_side_by_side():
    figure = bar_chart({"before": {"a<b": 0.5}, "after": {"a<b": 0.75}}, x="kind", y="accuracy (%)", percent=True)
    assert [list(bar.y) for bar in figure.data] == [[0.5], [0.75]] and figure.data[0].x[0] == "a&lt;b"
    assert figure.layout.barmode == "group" and figure.layout.yaxis.tickformat == ".0%"


def test_a_mark_stands_at_its_line_on_a_log_axis():
    """plotly takes a line's place as it is, and an annotation's as its logarithm."""
    figure = line_chart({"one": ([1, 1000], [1, 100])}, x="a", y="b", log_x=True, log_y=True)
    mark_y(mark_x(figure, 100, "here"), 10, "there")
    assert [(shape.x0, shape.y0) for shape in figure.layout.shapes] == [(100, 0), (0, 10)]
    here, there = figure.layout.annotations
    assert (here.x, there.y) == (2, 1) and (here.yref, there.xref) == ("y domain", "x domain")


@pytest.mark.parametrize(("label", "shown"), [("<b>x</b>", "&lt;b>x&lt;/b>"), ("&amp;", "&amp;amp;"), (3, "3")])
def test_a_label_is_no_markup(label, shown):
    assert as_text(label) == shown


def test_tables():
    assert number_table({"base": {"loss": 1.0, "right": 0.5}, "tuned": {"loss": 0.25, "right": 1}}, 2).splitlines() == [
        "       loss  right",
        "base   1.00   0.50",
        "tuned  0.25   1.00",
    ]
    expected = ["      before  after  change", "gold     0.5    0.8    +0.3"]
    assert before_after_table({"gold": 0.5}, {"gold": 0.8}, 1).splitlines() == expected
    assert stage_before_after_table({"gold_before": 0.5, "gold": 0.8}, ["gold"], 1).splitlines() == expected


def test_answers_stand_below_their_question():
    said = answers_table(["A story.\nWho?", ""], {"base": ["Ben\nruns.", "x"], "tuned": ["Mia.", "y"]})
    assert said.splitlines() == [
        "Who?",
        "   base   Ben runs.",
        "   tuned  Mia.",
        "",
        "(no prompt)",
        "   base   x",
        "   tuned  y",
    ]
