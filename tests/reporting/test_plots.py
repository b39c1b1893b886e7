"""The figures: what is drawn where, by numbers a reader can check."""

import json

import plotly.graph_objects as go
import pytest

from labkit.reporting import plots

RECORDS = [
    {"step": 1, "loss": 4.0, "lr": 0.1},
    {"step": 2, "loss": 2.0, "lr": 0.2, "validation_loss": 3.0},
    {"step": 3, "loss": 3.0, "lr": 0.1},
]


def traces(figure: go.Figure) -> dict[str, tuple[list, list]]:
    return {trace.name: (list(trace.x), list(trace.y)) for trace in figure.data}


def test_smoothed_is_the_mean_of_the_last_values():
    """Window 2: 1, (1 + 3) / 2 = 2, (3 + 5) / 2 = 4. Window 1 and less change nothing."""
    assert plots.moving_average([1, 3, 5], 2) == [1, 2, 4]
    assert plots.moving_average([1, 3, 5], 1) == plots.moving_average([1, 3, 5], 0) == [1, 3, 5]
    assert plots.moving_average([], 3) == []


def test_loss_curves_draw_training_at_each_step_and_validation_where_it_was_measured():
    drawn = traces(plots.loss_curves(RECORDS))
    assert drawn["training"] == ([1, 2, 3], [4.0, 2.0, 3.0])
    assert drawn["validation"] == ([2], [3.0])


def test_two_measured_losses_are_points_and_three_a_line():
    def mode(count):
        records = [{"step": step, "loss": 1.0, "validation_loss": 1.0} for step in range(count)]
        return next(trace.mode for trace in plots.loss_curves(records).data if trace.name == "validation")

    assert (mode(2), mode(3)) == ("markers", "lines+markers")


def test_loss_curves_without_validation_have_no_such_line():
    assert "validation" not in traces(plots.loss_curves([{"step": 1, "loss": 4.0}]))


def test_learning_rate_is_drawn_over_the_steps():
    assert traces(plots.learning_rate_curve(RECORDS)) == {"learning rate": ([1, 2, 3], [0.1, 0.2, 0.1])}


def test_accuracy_is_in_percent_beside_the_question_alone_and_ordered_by_gain():
    """Gains after sft: where 0.9 - 0.5 = 0.4, who 0.9 - 0.2 = 0.7, so who comes first."""
    base = {"accuracy/where": 0.6, "accuracy/who": 0.3, "accuracy": 0.45}
    chat = {"accuracy/where": 0.9, "accuracy/who": 0.9, "question_only/where": 0.5, "question_only/who": 0.2}
    drawn = traces(plots.accuracy_by_question_kind_chart({"pretrain": base, "sft": chat}))
    assert drawn["without the story"] == (["who", "where"], pytest.approx([20, 50]))
    assert drawn["after pretrain"] == (["who", "where"], pytest.approx([30, 60]))
    assert drawn["after sft"] == (["who", "where"], pytest.approx([90, 90]))


def test_kinds_that_need_no_story_come_last():
    """Gains: why 0.9 - 0.5 = 0.4, who 0.7 - 0.2 = 0.5; a fact is asked without a story."""
    measured = {"accuracy/fact": 1.0, "accuracy/why": 0.9, "accuracy/who": 0.7}
    measured |= {"question_only/why": 0.5, "question_only/who": 0.2}
    assert plots.sort_question_kinds_by_gain_over_question_only(measured) == [
        "who",
        "why",
        "fact",
    ]


def test_a_kind_that_a_stage_did_not_measure_leaves_a_gap():
    drawn = traces(plots.accuracy_by_question_kind_chart({"pretrain": {}, "sft": {"accuracy/who": 0.5}}))
    assert drawn["after pretrain"] == (["who"], [None])


def test_cost_splits_the_seconds_of_a_stage():
    """Of 90 s, 70 in training: 20 are left for preparing and measuring."""
    bars = plots.cost_chart([{"stage": "pretrain", "seconds": 90.0, "training_seconds": 70.0}]).data
    assert {bar.name: list(bar.x) for bar in bars} == {"training": [70.0], "preparation and evaluation": [20.0]}
    assert all(list(bar.y) == ["pretrain"] for bar in bars)


@pytest.mark.parametrize(
    "empty", [plots.loss_curves([]), plots.learning_rate_curve([]), plots.accuracy_by_question_kind_chart({})]
)
def test_nothing_to_draw_is_an_empty_figure(empty):
    assert not any(len(trace.x) for trace in empty.data)
    assert json.loads(empty.to_json())["layout"]["yaxis"]["title"]["text"]


def test_every_axis_with_numbers_names_its_unit():
    assert plots.loss_curves(RECORDS).layout.yaxis.title.text == "loss (nats per token)"
    assert plots.accuracy_by_question_kind_chart({}).layout.yaxis.title.text == "accuracy (%)"
    assert plots.cost_chart([]).layout.xaxis.title.text == "seconds"


def test_a_loss_is_drawn_where_it_moves():
    """Between 0.64 and 0.69: an axis that began at 0 would make a straight line of it."""
    records = [{"step": step, "loss": 0.69 - 0.01 * step} for step in range(6)]
    assert plots.loss_curves(records, "nats per pair").layout.yaxis.rangemode is None


def test_the_gold_axis_has_ticks_of_its_own():
    """plotly's default for a second axis, sync, puts them at whatever stands beside the ticks of the first."""
    records = [{"step": step, "reward": step / 7, "gold": 0.6 + step / 91} for step in range(9)]
    layout = plots.reward_and_gold_curves(records).layout
    assert layout.yaxis2.tickmode == "auto" and layout.yaxis2.overlaying == "y"


def test_two_runs_in_one_figure():
    one, other = (plots.loss_curves([{"step": step, "loss": loss} for step in (1, 2)]) for loss in (1.0, 2.0))
    both = plots.overlay_figures(one, other, ("mine", "theirs"))
    assert [list(line.y) for line in both.data if line.name == "training · theirs"] == [[2.0, 2.0]]
    drawn = [line for line in both.data if line.showlegend is not False]
    assert [(line.name, line.line.dash) for line in drawn] == [("training · mine", None), ("training · theirs", "dot")]
    assert [line.name for line in one.data] == ["training", "training"]  # the first is left as it was
    assert both.layout.showlegend and both.layout.yaxis.title.text == one.layout.yaxis.title.text
