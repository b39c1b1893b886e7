"""The report page: what it says, that it needs no network, and that no text in it can become code."""

import json
import re
from html.parser import HTMLParser

import pytest

from labkit.errors import LabError
from labkit.evaluation.metrics import METRICS, abbreviate_number
from labkit.reporting import page as report
from labkit.reporting.markup import Markup, html_tag
from labkit.reporting.metrics import NOT_FOR_REAL_TEXT, metric_spec
from labkit.runs.folder import Run
from tests.tiny_recipe import tiny_recipe

HOSTILE = "</script><script>alert(1)</script> {{7*7}} ${1+1} <img src=x onerror=alert(2)> \"' & \ufffd"


def stage(name: str, accuracy: float, response: str, **more) -> dict:
    metrics = {
        "validation_loss": 0.8,
        "accuracy": accuracy,
        "accuracy/where": accuracy,
        "question_only/where": 0.25,
        "gold/warm": 0.5,
    }
    samples = [{"prompt": "Where is Tom?", "response": response, "reference": "Tom is at the zoo."}]
    return {
        "stage": name, "seconds": 75.2, "training_seconds": 50.0, "tokens": 1_500_000, "flops": 2.5e12, "mfu": 0.25,
        "peak_memory_mb": 912.4, "metrics": metrics, "samples": samples, **more,
    }  # fmt: skip


def a_report(**recipe) -> dict:
    return {
        "recipe": {"preset": "lab", "seed": 3, "text": None, "instructions": None, **recipe},
        "stages": [stage("pretrain", 0.5, "At the"), stage("sft", 0.75, "Tom is at the zoo.")],
        "machine": {"processor": "a processor", "bf16": True, "matrix_peak": 4.0e11},
    }


RECORDS = {"pretrain": [{"step": 1, "loss": 4.0, "lr": 0.5}, {"step": 2, "loss": 2.0, "lr": 1.0}]}


class Reader(HTMLParser):
    """What a browser sees: the visible text, the elements, and the scripts."""

    def __init__(self, page: str):
        super().__init__()
        self.words: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.scripts: list[str] = []
        self.inside = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        if self.inside == "script":
            self.scripts[-1] += data
        elif self.inside != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def test_tag_escapes_all_but_markup():
    assert html_tag("p", "1 < 2", class_="soft") == '<p class="soft">1 &lt; 2</p>'
    assert html_tag("b", html_tag("i", "&"), ["<", Markup("<br>")]) == "<b><i>&amp;</i>&lt;<br></b>"
    assert html_tag("a", "", title='"><script>') == '<a title="&quot;&gt;&lt;script&gt;"></a>'
    assert html_tag("div", "", data_figure="x") == '<div data-figure="x"></div>'


def test_the_page_says_what_happened():
    text = Reader(report.render_report_html(a_report(), RECORDS, "my run")).text
    assert "my run" in text and "preset lab, seed 3" in text
    assert "2 min 30 s" in text  # 75.2 + 75.2 s
    assert "75.0 % accuracy after fine-tuning; 50.0 % after pretraining" in text
    assert "1.5M" in text and "30k" in text  # tokens, and 1.5M / 50 s of training
    assert "25.0 %" in text and "912 MB" in text and "400G FLOP/s" in text


def test_each_measure_is_explained_with_its_direction():
    text = Reader(report.render_report_html(a_report(), RECORDS, "run")).text
    assert metric_spec("accuracy").meaning in text and metric_spec("gold/warm").meaning in text
    assert "gold score: warm" in text and "↑ higher" in text and "↓ lower" in text


def test_samples_stand_side_by_side_under_one_prompt():
    text = Reader(report.render_report_html(a_report(), RECORDS, "run")).text
    assert text.count("Where is Tom?") == 1
    assert re.search("after pretraining At the after fine-tuning Tom is at the zoo. one right answer", text)


def test_an_empty_answer_is_shown_as_nothing():
    broken = a_report()
    broken["stages"][0]["samples"][0]["response"] = " \n"
    assert "after pretraining (nothing)" in Reader(report.render_report_html(broken, {}, "run")).text


def test_gains_are_points_above_the_question_alone():
    """Where: 0.75 right, 0.25 without the story: 50 points."""
    assert "where 50 % 75 % 25 % +50" in Reader(report.render_report_html(a_report(), RECORDS, "run")).text


ALIGNED = {
    "reward": [{"step": i, "loss": 0.7, "lr": 0.1, "accuracy": 0.5 + 0.1 * i} for i in (1, 2)],
    "dpo": [{"step": i, "loss": 0.7, "lr": 0.1, "chosen_reward": 0.1, "rejected_reward": -0.1} for i in (1, 2)],
    "ppo": [
        {
            "step": i, "loss": 0.1, "lr": 0.1, "reward": 1.0 * i, "gold": 0.5, "kl": 0.1, "entropy": 0.3, "length": 9,
            "clip_fraction": 0.05, "explained_variance": 0.4,
        }
        for i in (1, 2)
    ],
}  # fmt: skip


def aligned_report() -> dict:
    made = a_report()
    for name in ("reward", "ppo", "dpo"):
        policy = {"gold_gain": 0.25, "right": 0.9, "right_before": 0.91}
        ranked = {"validation_loss": 0.6, "pair_accuracy": 0.7}
        metrics = {"reward": ranked, "ppo": policy, "dpo": ranked | policy}[name]
        made["stages"].append(stage(name, 0.5, "Sure!") | {"metrics": metrics})
    return made


def test_what_an_objective_watches_is_drawn():
    figures = json.loads(Reader(report.render_report_html(aligned_report(), ALIGNED, "run")).scripts[0])
    watched = ("reward", "kl", "entropy", "clip_fraction", "explained_variance", "length", "loss", "lr")
    assert {name for name in figures if name.startswith("ppo-")} == {f"ppo-{name}" for name in watched}
    drawn = [(line["name"], line["y"]) for line in figures["ppo-reward"]["data"]]
    assert ("reward", [1.0, 2.0]) in drawn and ("gold", [0.5, 0.5]) in drawn
    assert figures["ppo-reward"]["layout"]["yaxis2"]["title"]["text"] == "gold score"
    assert figures["ppo-loss"]["layout"]["yaxis"]["title"]["text"] == "loss"
    assert figures["dpo-loss"]["layout"]["yaxis"]["title"]["text"] == "loss (nats per pair)"
    assert "reward-accuracy" in figures and "dpo-chosen_reward" in figures


def test_gold_is_not_drawn_where_there_is_none():
    records = {"ppo": [record | {"gold": 0.0} for record in ALIGNED["ppo"]]}
    figures = json.loads(Reader(report.render_report_html(aligned_report(), records, "run")).scripts[0])
    assert {line["name"] for line in figures["ppo-reward"]["data"]} == {"reward"}


def test_a_policy_is_compared_with_the_fine_tuned_model_and_a_reward_model_with_nothing():
    text = Reader(report.render_report_html(aligned_report(), ALIGNED, "run")).text
    stages = text.split("Stage ")
    assert "right answers 90.0 % 91.0 %" in stages[4] and "after fine-tuning" in stages[4]
    assert "right_before" not in text and "after the reward model" not in "".join(stages[1:5])
    assert "after fine-tuning" not in stages[3] and "0.800 validation loss after fine-tuning" in stages[0]
    assert (
        "loss on held-out preferences 0.600 nats per choice, or squared error" in stages[3]
        and "validation loss" not in stages[3]
    )


def test_hostile_text_is_text():
    made = a_report(preset=HOSTILE, text=HOSTILE)
    made["stages"].append(stage(HOSTILE, 0.5, HOSTILE))
    made["stages"][-1]["samples"] = [{"prompt": HOSTILE, "response": HOSTILE}]
    made["stages"][-1]["metrics"] = {HOSTILE: 0.5, f"accuracy/{HOSTILE}": 0.5}
    made["machine"] = {HOSTILE: HOSTILE}
    clean = Reader(report.render_report_html(a_report(), RECORDS, "run"))
    dirty = Reader(report.render_report_html(made, {**RECORDS, HOSTILE: RECORDS["pretrain"]}, HOSTILE))
    assert len(dirty.scripts) == len(clean.scripts)
    assert not [tag for tag, _ in dirty.tags if tag == "img"]
    assert not [name for _, attributes in dirty.tags for name in attributes if name.startswith("on")]
    assert " ".join(HOSTILE.split()) in dirty.text
    json.loads(dirty.scripts[0])


def test_figures_are_json_that_names_every_place():
    reader = Reader(report.render_report_html(a_report(), RECORDS, "run"))
    figures = json.loads(reader.scripts[0])
    assert "<" not in reader.scripts[0]
    places = {attributes["data-figure"] for _, attributes in reader.tags if "data-figure" in attributes}
    assert places == set(figures) == {"pretrain-loss", "pretrain-lr", "kinds", "cost"}
    validation = next(trace for trace in figures["pretrain-loss"]["data"] if trace["name"] == "validation")
    assert (validation["x"], validation["y"]) == ([2], [0.8])


def test_the_page_asks_nothing_of_the_network():
    page = report.render_report_html(a_report(), RECORDS, "run")
    for _, attributes in Reader(page).tags:
        assert not {"src", "href"} & attributes.keys()
    style = report.files("labkit.reporting").joinpath("report.css").read_text()
    assert "url(" not in style and "@import" not in style
    assert page.count("plotly.js v") <= 2 and page.count("Plotly.newPlot(") >= 1


@pytest.mark.parametrize(("recipe", "real"), [({}, False), ({"text": "a.txt"}, True), ({"instructions": "b"}, True)])
def test_real_text_says_what_cannot_be_measured(recipe, real):
    made = a_report(**recipe)
    for each in made["stages"]:
        each["metrics"] = {"validation_loss": 1.0, "grammatical": 0.5}
    text = Reader(report.render_report_html(made, RECORDS, "run")).text
    assert ("What is not measured here" in text) is real
    assert (NOT_FOR_REAL_TEXT["accuracy"] in text) is real
    assert NOT_FOR_REAL_TEXT["grammatical"] not in text  # it was measured, on the world's half of this run


def test_what_was_read_and_what_was_dropped_is_shown():
    record = {
        "source": "<rows>.jsonl",
        "characters": 0,
        "files": [{"path": "<rows>.jsonl", "format": "jsonl", "encoding": "gb18030", "rows": 40}],
        "read": 40,
        "kept": 39,
        "dropped": {"empty answer": 1},
        "unused": ["column score"],
        "warnings": ["empty answer: rows.jsonl, line 7"],
    }
    text = Reader(report.render_report_html({**a_report(), "reading": {"instructions": record}}, RECORDS, "run")).text
    assert (
        "What was read" in text
        and "What was read" not in Reader(report.render_report_html(a_report(), RECORDS, "run")).text
    )
    said = "<rows>.jsonl (jsonl in gb18030): read 40, kept 39, dropped 1 empty answer; not used: column score."
    assert said in text and "empty answer: rows.jsonl, line 7" in text


def test_a_report_of_one_unknown_stage_without_anything_still_opens():
    bare = {"recipe": None, "stages": [{"stage": "some_stage", "metrics": {}}], "machine": None}
    assert "Some stage" in Reader(report.render_report_html(bare, {}, "run")).text
    assert "labkit report" in report.render_report_html({"recipe": {}, "stages": []}, {}, "run")


def test_write_reads_the_run_and_leaves_out_a_torn_line(tmp_path):
    Run.create(tmp_path, tiny_recipe())
    (tmp_path / "pretrain").mkdir()
    lines = [json.dumps(record) for record in RECORDS["pretrain"]] + ['{"step": 3, "lo']
    (tmp_path / "pretrain" / "metrics.jsonl").write_text("\n".join(lines))
    (tmp_path / "report.json").write_text(json.dumps(a_report()))
    page = report.write_report(tmp_path)
    assert page == tmp_path / "report.html"
    figures = json.loads(Reader(page.read_text()).scripts[0])
    assert figures["pretrain-lr"]["data"][0]["x"] == [1, 2]


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "contains no report.json; finish its run"), ("{", "is not a report"), ("[1]", "is not a report")],
)
def test_a_missing_or_broken_report_is_said_in_words(tmp_path, content, message):
    Run.create(tmp_path, tiny_recipe())
    if content is not None:
        (tmp_path / "report.json").write_text(content)
    with pytest.raises(LabError, match=message):
        report.write_report(tmp_path)


def test_lines_that_are_no_records_are_left_out_of_the_page(tmp_path):
    Run.create(tmp_path, tiny_recipe())
    (tmp_path / "pretrain").mkdir()
    (tmp_path / "pretrain" / "metrics.jsonl").write_text('[1]\n{"step": 2}\nnull\n')
    (tmp_path / "report.json").write_text(json.dumps(a_report()))
    with pytest.warns(UserWarning, match="2 of its lines are not step records"):
        assert report.write_report(tmp_path).is_file()


def test_what_cannot_be_measured_on_real_text_are_measures():
    assert NOT_FOR_REAL_TEXT.keys() <= METRICS.keys()


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("accuracy", 0.975, "97.5 %"), ("gold/warm", 0.5, "0.50"), ("validation_loss", 1.23456, "1.235"),
        ("tasks", 1234.0, "1,234"), ("something_new", 2.0, "2.000"), ("accuracy", float("nan"), "not defined"),
    ],
)  # fmt: skip
def test_values_are_shown_in_their_unit(name, value, shown):
    assert metric_spec(name).format(value) == shown


def test_labels_of_parts_name_both():
    assert metric_spec("accuracy/how_many").label == "accuracy: how many"
    assert metric_spec("something_new").label == "something new"
    assert metric_spec("accuracy_standard_error").label == "standard error of the accuracy"


@pytest.mark.parametrize(
    ("number", "shown"), [(0, "0"), (7, "7"), (1234, "1.23k"), (2.5e12, "2.5T"), (3e15, "3P"), (4e18, "4E")]
)
def test_count_gives_three_digits(number, shown):
    assert abbreviate_number(number) == shown
