"""report.json and the metrics of a run -> report.html: one page that opens without a network.

Every piece of text goes into the page through ``html_tag``, which escapes it, and every figure as JSON in which "<"
cannot occur. So a prompt, a response or a file name can hold anything and is shown as text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs
from plotly.utils import PlotlyJSONEncoder

from labkit.errors import LabError
from labkit.evaluation.metrics import METRICS, abbreviate_number
from labkit.files import write_text
from labkit.reporting import plots
from labkit.reporting.markup import Markup, html_tag
from labkit.reporting.metrics import HEADLINES, NOT_FOR_REAL_TEXT, metric_spec
from labkit.reporting.stage_section import figure_place, stage_section
from labkit.runs.locked import lock_and_open_run
from labkit.runs.recipe import Recipe
from labkit.runs.report import read_report
from labkit.stages import stage_class, stage_title, stage_title_in_sentence
from labkit.text.reading.report import format_reading_summary
from labkit.training.checkpoints import read_records


def write_report(folder: Path) -> Path:
    """Write ``report.html`` into a run's folder; see `render_run_report`.

    Raises LabError while somebody else is at work on the run, and for a folder that holds none.
    """
    target = folder / "report.html"
    with lock_and_open_run(folder):
        write_text(target, render_run_report(folder))
    return target


def render_run_report(folder: Path) -> str:
    """The page of the ``report.json`` and each stage's ``metrics.jsonl`` in a run's folder.

    Raises LabError when the folder holds no report or one that cannot be read.
    """
    path = folder / "report.json"
    if not path.exists():
        raise LabError(f"{folder} contains no report.json; finish its run first: labkit run --out {folder} --resume")
    report = read_report(path)
    names = [stage["stage"] for stage in report["stages"]]
    records = {name: read_records(folder / name / "metrics.jsonl") for name in names}
    return render_report_html(report, records, folder.resolve().name)


def render_report_html(
    report: Mapping[str, Any], records_by_stage: Mapping[str, Sequence[Mapping[str, Any]]], run_name: str
) -> str:
    """The whole page of a report whose stages' records are given by stage."""
    stages = report["stages"]
    figures: dict[str, go.Figure] = {}
    body = [_header(report, run_name), _reading(report)]
    for number, stage in enumerate(stages, 1):
        before = _before(stages, number - 1)
        body.append(stage_section(number, stage, before, records_by_stage.get(stage["stage"], []), figures))
    body += [_kinds(stages, figures), _samples(stages), _cost(stages, figures), _missing(report), _machine(report)]
    assets = files("labkit.reporting")
    parts = [
        html_tag("style", Markup(assets.joinpath("report.css").read_text(encoding="utf-8"))),
        html_tag("main", body),
        html_tag(
            "script",
            Markup(_json({key: figure.to_plotly_json() for key, figure in figures.items()})),
            type="application/json",
            id="figures",
        ),
        html_tag("script", Markup(get_plotlyjs())),
        html_tag("script", Markup(assets.joinpath("report.js").read_text(encoding="utf-8"))),
    ]
    head = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
    )
    title = html_tag("title", f"{run_name} – labkit report")
    return f"{head}{title}{parts[0]}</head>\n<body>{''.join(parts[1:])}</body></html>\n"


def _before(stages: Sequence[Mapping[str, Any]], at: int) -> Mapping[str, Any] | None:
    """The stage whose model a stage began with; older reports do not say it, and mean the last that was not aligned."""
    if "after" in stages[at]:
        return next((one for one in stages if one["stage"] == stages[at]["after"]), None)
    earlier = [one for one in stages[:at] if not _learned_from_choices(one)]
    return earlier[-1] if earlier else None


def _learned_from_choices(stage: Mapping[str, Any]) -> bool:
    known = stage_class(stage["stage"])
    return known is not None and known.reads == "preferences"


def uses_real_text_or_instructions(report: Mapping[str, Any]) -> bool:
    """True when the run read real text or real instructions, so that nobody knows the truth about them."""
    recipe = report.get("recipe") or {}
    return bool(recipe.get("text") or recipe.get("instructions"))


def _json(value: Any) -> str:
    """JSON that can stand inside a script element: it holds no "<", so nothing in it can end the element."""
    return json.dumps(value, cls=PlotlyJSONEncoder).replace("<", "\\u003c")


def _header(report: Mapping[str, Any], name: str) -> Markup:
    recipe, stages = report.get("recipe") or {}, report["stages"]
    source = (
        "real text"
        if uses_real_text_or_instructions(report)
        else "TinyWorld, a small simulated world whose truth is known"
    )
    facts = [f"preset {recipe['preset']}"] if recipe.get("preset") else []
    facts += [f"seed {recipe['seed']}"] if "seed" in recipe else []
    facts += [f"{abbreviate_number(stage['parameters'])} parameters" for stage in stages[:1] if "parameters" in stage]
    line = f"A language model trained on {source}" + (f" ({', '.join(facts)})." if facts else ".")
    tiles = [
        _tile(
            format_duration(sum(stage.get(("seconds"), 0) for stage in stages)),
            ("for the whole run, evaluation included"),
        )
    ]
    tiles += [_tile(*tile) for tile in (_latest(key, stages) for key in HEADLINES) if tile]
    return html_tag(
        "header", html_tag("h1", name), html_tag("p", line, class_="soft"), html_tag("div", tiles, class_="tiles")
    )


def _reading(report: Mapping[str, Any]) -> Markup:
    """What was made of each source that the run was given to read, and what was left out of it."""
    records = report.get("reading") or {}
    if not records:
        return Markup()
    parts: list[Markup] = []
    for name, record in records.items():
        parts += [html_tag("h3", name.capitalize()), html_tag("p", format_reading_summary(record))]
        if record["warnings"]:
            parts.append(html_tag("ul", [html_tag("li", warning) for warning in record["warnings"]]))
    return html_tag("section", html_tag("h2", "What was read"), *parts, id="reading")


def _latest(key: str, stages: Sequence[Mapping[str, Any]]) -> tuple[str, str] | None:
    """A metric's value after the last stage that measured it, and its name with the value before."""
    known = metric_spec(key)
    measured = [stage for stage in stages if key in stage["metrics"] and metric_spec(key, stage["stage"]) == known]
    if not measured:
        return None
    last = measured[-1]
    label = f"{known.label} after {stage_title_in_sentence(last['stage'])}"
    if len(measured) > 1 and known.unit == "share":  # a loss on answers is not one on documents
        label += f"; {known.format(measured[0]['metrics'][key])} after {stage_title_in_sentence(measured[0]['stage'])}"
    return known.format(last["metrics"][key]), label.replace(" %", "\N{NO-BREAK SPACE}%")


def _tile(value: str, label: str) -> Markup:
    return html_tag("div", html_tag("b", value), html_tag("span", label), class_="tile")


def format_duration(seconds: float) -> str:
    """format_duration(75.2) -> "1 min 15 s"; format_duration(8.31) -> "8.3 s"."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{round(seconds) // 60} min {round(seconds) % 60} s"


def _kinds(stages: Sequence[Mapping[str, Any]], figures: dict[str, go.Figure]) -> Markup:
    """Accuracy by question type after each stage, beside the accuracy without the story."""
    measured = {
        stage["stage"]: stage["metrics"]
        for stage in stages
        if plots.metric_by_question_kind(stage["metrics"], "accuracy")
    }
    if not measured:
        return Markup()
    figures["kinds"] = plots.accuracy_by_question_kind_chart(
        {stage_title_in_sentence(name): metrics for name, metrics in measured.items()}
    )
    last = list(measured.values())[-1]
    alone = plots.metric_by_question_kind(last, "question_only")
    right = plots.metric_by_question_kind(last, "accuracy")
    heads = [
        html_tag("th", "question type"),
        *(html_tag("th", stage_title_in_sentence(name), class_="number") for name in measured),
    ]
    heads += [
        html_tag(("th"), ("without the story"), class_=("number")),
        html_tag(("th"), ("gain, percentage points"), class_=("number")),
    ]
    rows = []
    for kind in plots.sort_question_kinds_by_gain_over_question_only(last):
        shares = [metrics.get(f"accuracy/{kind}") for metrics in measured.values()] + [alone.get(kind)]
        cells = [html_tag("td", "" if share is None else f"{100 * share:.0f} %", class_="number") for share in shares]
        gain = f"{100 * (right[kind] - alone[kind]):+.0f}" if kind in alone else ""
        rows.append(
            html_tag(
                "tr",
                html_tag("th", kind.replace("_", " ")),
                cells,
                html_tag("td", html_tag("b", gain), class_="number"),
            )
        )
    text = (
        "Accuracy for each question type, on combinations of people, things and places that never occur together in "
        "training. The grey bar is the accuracy that can be reached without reading the story: a model that stays near "
        "it guesses from the question. Types without a grey bar have no story."
    )
    table = html_tag("table", html_tag("thead", html_tag("tr", heads)), html_tag("tbody", rows))
    figure = html_tag("div", figure_place("kinds", "Accuracy by question type, in percent"), class_="card")
    details = html_tag(
        "details", html_tag("summary", "The same numbers as a table"), html_tag("div", table, class_="card scroll")
    )
    return html_tag("section", html_tag("h2", "What it can answer"), html_tag("p", text), figure, details, id="kinds")


def _samples(stages: Sequence[Mapping[str, Any]]) -> Markup:
    """The same prompts answered after each stage, side by side."""
    answers: dict[str, list[tuple[str, str]]] = {}
    for stage in stages:
        for sample in stage.get("samples") or []:
            given = answers.setdefault(sample["prompt"], [])
            given.append((f"after {stage_title_in_sentence(stage['stage'])}", sample["response"]))
    for sample in (stages[-1].get("samples") or []) if stages else []:
        if sample.get("reference"):
            answers[sample["prompt"]].append(("one right answer", sample["reference"]))
    if not answers:
        return Markup()
    cards = [
        html_tag(
            "div",
            html_tag("div", prompt.strip(), class_="prompt"),
            html_tag("div", map(_answer, given), class_="answers"),
            class_="card",
        )
        for prompt, given in answers.items()
    ]
    return html_tag(
        "section",
        html_tag("h2", "The same prompts after each stage"),
        html_tag("p", "The same held-out prompts for every stage; no answer was picked or edited."),
        html_tag("div", cards, class_="samples"),
        id="samples",
    )


def _answer(given: tuple[str, str]) -> Markup:
    heading, text = given
    said = (
        html_tag("p", text.strip(), class_="answer")
        if text.strip()
        else html_tag("p", "(nothing)", class_="answer empty")
    )
    return html_tag("div", html_tag("h3", heading), said)


def _cost(stages: Sequence[Mapping[str, Any]], figures: dict[str, go.Figure]) -> Markup:
    if not stages:
        return Markup()
    figures["cost"] = plots.cost_chart([{**stage, "stage": stage_title(stage["stage"])} for stage in stages])
    names = ("stage", "time", "training time", "tokens", "tokens/s", "FLOPs", "MFU", "peak memory")
    heads = [html_tag("th", name, class_="number" if i else "") for i, name in enumerate(names)]
    rows = [
        html_tag(
            "tr",
            html_tag("th", stage_title(stage["stage"])),
            [html_tag("td", cell, class_="number") for cell in _costs(stage)],
        )
        for stage in stages
    ]
    text = (
        "Time is that of the whole stage, compilation and evaluation included; tokens per second count the training "
        "time alone. FLOPs are the floating-point operations that training needs. MFU (model FLOPs utilisation) is "
        "FLOPs per second of training time, over those of the fastest matrix product measured on the same machine."
    )
    table = html_tag(
        "div", html_tag("table", html_tag("thead", html_tag("tr", heads)), html_tag("tbody", rows)), class_="scroll"
    )
    return html_tag(
        "section",
        html_tag("h2", "Time, compute and memory"),
        html_tag("p", text),
        html_tag("div", figure_place("cost", "Seconds"), table, class_="card"),
        id="cost",
    )


def _costs(stage: Mapping[str, Any]) -> list[str]:
    seconds, tokens = stage.get("seconds") or 0.0, stage.get("tokens") or 0
    training = stage.get("training_seconds") or seconds
    mfu, memory = stage.get("mfu"), stage.get("peak_memory_mb")
    return [
        format_duration(seconds),
        format_duration(training),
        abbreviate_number(tokens),
        abbreviate_number(tokens / training) if training else "",
        abbreviate_number(stage.get("flops") or 0),
        "" if mfu is None else f"{100 * mfu:.1f} %",
        "" if memory is None else f"{memory:,.0f} MB",
    ]


def _missing(report: Mapping[str, Any]) -> Markup:
    """Which metrics a run on real text cannot have, and why."""
    if not uses_real_text_or_instructions(report):
        return Markup()
    text = (
        "In TinyWorld the truth of every sentence is known, so answers can be checked. Real text has no such ground "
        "truth. These metrics do not exist for this run:"
    )
    measured = {name for stage in report["stages"] for name in stage["metrics"]}
    missing = {name: why for name, why in NOT_FOR_REAL_TEXT.items() if name not in measured}
    items = [html_tag("li", html_tag("b", METRICS[name].label), f" – {why}.") for name, why in missing.items()]
    return html_tag(
        "section", html_tag("h2", "What is not measured here"), html_tag("p", text), html_tag("ul", items), id="missing"
    )


def _machine(report: Mapping[str, Any]) -> Markup:
    machine = report.get("machine")
    facts = machine.items() if isinstance(machine, Mapping) else [("machine", machine)] if machine else []
    rows = [
        (html_tag(("dt"), FACTS.get(str(key), str(key).replace(("_"), (" ")))), html_tag(("dd"), _fact(key, value)))
        for key, value in facts
    ]
    recipe = html_tag("pre", json.dumps(_recipe_today(report.get("recipe")), indent=2, ensure_ascii=False))
    return html_tag(
        "section",
        html_tag("h2", "How to reproduce this run"),
        html_tag("p", "The same recipe and seed on the same machine give the same weights."),
        html_tag("div", html_tag("dl", [part for row in rows for part in row]), class_="card"),
        html_tag("details", html_tag("summary", "The whole recipe"), recipe),
        id="machine",
    )


FACTS = {
    "memory_gb": "memory, GB",
    "bf16": "bf16 arithmetic",
    "compiler": "C++ compiler (for torch.compile)",
    "matrix_peak": "fastest matrix product measured",
}
"""What the page calls facts about the machine, where that is not their name."""


def _recipe_today(recipe: Any) -> Any:
    """A recipe with the fields under the names that they have now; as it is where it cannot be read."""
    try:
        return Recipe.from_dict(recipe).to_dict()
    except (LabError, TypeError, AttributeError, ValueError):
        return recipe


def _fact(key: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{abbreviate_number(value)} FLOP/s" if isinstance(value, float) and "peak" in key else str(value)
