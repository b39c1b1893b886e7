"""The Decoding tab: the same prompt under several strategies at once, with the same random numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import gradio as gr

from labkit.errors import LabError
from labkit.evaluation.strategies import format_score
from labkit.ui import writing
from labkit.ui.checks import checked_text, checked_whole_number
from labkit.ui.decoding_settings import LONGEST, SEEDS, DecodingSettings, StrategyColumn
from labkit.ui.fields import skip_gradio_check
from labkit.ui.lab import Lab
from labkit.ui.shell import (
    LINK,
    MODEL_WORK,
    default_stage,
    hide_box_update,
    on_load,
    problem_box,
    run_and_stage_menus,
    show_advice_or_hide_update,
    show_error_update,
    translate_message,
    words,
)
from labkit.ui.strategy_scores import ScoringProgress, score_strategies
from labkit.viewers.adapters import viewer_component

MOST = 4
"""Strategies that can be typed side by side."""
EXAMPLES = (
    "greedy",
    "temperature=0.8",
    "temperature=1 top-p=0.9",
    "temperature=1.5",
    "temperature=1.5 min-p=0.1",
    "temperature=0.8 top-k=40 top-p=0.9",
    "repetition=1.3 temperature=0.8 typical=0.9",
    "greedy no-repeat=3",
    "beam beams=4",
    "beam beams=4 length-penalty=2 no-repeat=3",
    "beam beams=4 groups=2 diversity=1",
    "contrastive k=5 alpha=0.6",
    "best n=8 temperature=1",
    "speculative ahead=4 temperature=0.8",
)
DEFAULTS = ("greedy", "temperature=1 top-p=0.9", "beam beams=4", "temperature=1.5")


class OpenedLink(NamedTuple):
    """What a link asks for. warning: that the model's weights have changed since it was made; else ''."""

    settings: DecodingSettings
    warning: str


def open_link(lab: Lab, link_json: str) -> OpenedLink:
    """What a link asks for. Raises LabError for one that cannot be followed."""
    settings = DecodingSettings.from_link_json(link_json)
    if settings.run not in lab.runs_with_model() or settings.stage not in lab.language_model_stages(settings.run):
        raise LabError(
            f"This link is to the model after {settings.stage!r} of a run {settings.run!r}, not found here. Shown "
            f"instead are the settings that the tab begins with."
        )
    changed = settings.weights_hash and settings.weights_hash != writing.weights_hash(lab, settings)
    if not changed:
        return OpenedLink(settings, "")
    made_of = f"“{settings.stage}” of {settings.run}"
    warning = f"The weights of {made_of} have changed since this link was made: the texts may differ."
    return OpenedLink(settings, warning)


def score_table(progress: ScoringProgress) -> dict[str, Any]:
    """What <labkit-table> shows: a row per strategy, its scores with their 95 % intervals, and how far it is."""
    names = list(progress.finished_strategies[0][1]) if progress.finished_strategies else []
    rows = [[line, *(format_score(scores[name]) for name in names)] for line, scores in progress.finished_strategies]
    note = None if progress.done == progress.total else ["scoring", {"done": progress.done, "total": progress.total}]
    return {"heads": ["strategy", *names] if rows else [], "rows": rows, "note": note}


class Controls(NamedTuple):
    """The components that say what is compared, in the order in which a handler gets their values."""

    run: gr.Dropdown
    stage: gr.Dropdown
    prompt: gr.Textbox
    num_strategies: gr.Radio
    seed: gr.Number
    tokens: gr.Slider
    stop: gr.Textbox
    draft: gr.Dropdown


def read_settings(lab: Lab, values: tuple[Any, ...]) -> DecodingSettings:
    """The values of all controls and lines as settings; of menus that are not filled yet, what they will say first.
    Raises LabError for what they cannot be.
    """
    name, stage, text, many, seed, tokens, ends, draft, *chosen = values
    name = name or next(iter(lab.runs_with_model_failed_last()), None)
    stage = stage or default_stage(lab, name, -1)
    if not stage:
        raise LabError("Choose a run and a stage.")
    many = checked_whole_number(many, "The number of strategies", 1, MOST)
    lines = [checked_text(line, f"Strategy {number}") for number, line in enumerate(chosen[:many], 1)]
    return DecodingSettings(
        checked_text(name, "The run"),
        checked_text(stage, "The stage"),
        checked_text(text, "The prompt"),
        tuple(map(StrategyColumn, lines)),
        checked_whole_number(seed or 0, "A seed", 0, SEEDS - 1),
        checked_whole_number(tokens, "The number of new tokens", 1, LONGEST),
        tuple(line for line in checked_text(ends, "The stop texts").splitlines() if line),
        checked_text(draft, "The draft"),
    )


class RequestTracker:
    """Whose texts are wanted: of each page the newest request counts, and those before it end at their next step.

    Gradio's own way to cancel shows an error.
    """

    def __init__(self) -> None:
        self.latest: dict[str | None, int] = {}
        self.over: dict[str | None, int] = {}

    def begin_request(self, page: str | None) -> None:
        """Count a new request of a page, which is then the current one."""
        self.latest[page] = self.latest.get(page, 0) + 1

    def stop_handler(self) -> Callable[[gr.Request], None]:
        """What a Stop button does."""

        def stop(request: gr.Request) -> None:
            self.over[request.session_hash] = self.latest_request_number(request.session_hash)

        return stop

    def latest_request_number(self, page: str | None) -> int:
        return self.latest.get(page, 0)

    def is_current(self, page: str | None, number: int) -> bool:
        return number == self.latest.get(page, 0) and number > self.over.get(page, -1)


def build(lab: Lab) -> None:
    """The tab's components, in the Blocks that is open."""
    gr.Markdown(words("decoding_hint"))
    with gr.Row():
        name, stage = run_and_stage_menus(lab, fill_on_load=False)
        seed = skip_gradio_check(gr.Number(0, label=words("seed"), precision=0, elem_id="decoding-seed"))
        tokens = skip_gradio_check(
            gr.Slider(10, 200, value=80, step=10, label=words("new_tokens"), elem_id="decoding-tokens")
        )
    many, lines, columns = _build_lines()
    with gr.Row(elem_classes="labkit-bar"):
        text = gr.Textbox(
            label=words("prompt"), lines=3, max_lines=6, scale=4, min_width=260, elem_id="decoding-prompt"
        )
        with gr.Column(scale=1, min_width=120, elem_classes="labkit-pair"):
            button = gr.Button(words("compare"), variant="primary", elem_id="decoding-compare")
            stop = gr.Button(words("stop"), elem_id="decoding-stop")
    with gr.Accordion(words("more"), open=False, elem_id="decoding-more"):
        gr.Markdown(words("strategies_hint"))
        with gr.Row():
            ends = gr.Textbox(label=words("stop_texts"), lines=2, max_lines=6, elem_id="decoding-ends")
            draft = gr.Dropdown([], label=words("draft"), allow_custom_value=True, elem_id="decoding-draft")
    problem, told = problem_box("decoding-problem"), problem_box("decoding-told-problem")
    view = viewer_component(
        "labkit-texts",
        handle_request=lambda question: writing.handle_viewer_request(lab, question),
        translate_error=translate_message,
        elem_id="decoding-view",
    )
    controls = Controls(name, stage, text, many, seed, tokens, ends, draft)
    asked = RequestTracker()

    def begin(request: gr.Request) -> Any:
        asked.begin_request(request.session_hash)
        return hide_box_update()

    def show(request: gr.Request, *values: Any) -> Iterator[Any]:
        page, number = request.session_hash, asked.latest_request_number(request.session_hash)
        try:
            for data in writing.stream_comparison(lab, read_settings(lab, values)):
                wanted = asked.is_current(page, number)
                yield data if wanted else writing.mark_stopped(data), gr.skip()
                if not wanted:
                    return
        except LabError as error:
            yield None, show_error_update(error)

    boxes = [*controls, *lines]
    begun = gr.on([button.click, text.submit, *(line.submit for line in lines)], begin, None, problem)
    # A click while texts are generated ends them, and is answered next.
    begun.then(
        show, boxes, [view, problem], concurrency_id=MODEL_WORK, show_progress="minimal", trigger_mode="always_last"
    )
    stop.click(asked.stop_handler(), None, None)
    _fill(lab, controls, lines, columns, view, problem, told)
    _build_scores(lab, boxes)


def _build_lines() -> tuple[gr.Radio, list[gr.Textbox], list[gr.Column]]:
    """How many strategies, their boxes, and the columns that these are in."""
    many = gr.Radio([1, 2, 3, 4], value=3, label=words("how_many"), elem_id="decoding-many")
    lines, columns = [], []
    with gr.Row():
        for number, line in enumerate(DEFAULTS):
            with gr.Column(visible=number < 3, min_width=180, elem_classes="labkit-pair") as column:
                box = gr.Textbox(line, label=words("strategy"), max_lines=3, elem_id=f"decoding-strategy-{number + 1}")
                example_of = gr.Dropdown(
                    list(EXAMPLES), value=None, label=words("examples"), elem_id=f"decoding-example-{number + 1}"
                )
                example_of.input(lambda line: (line, None), example_of, [box, example_of], show_progress="hidden")
            lines.append(box)
            columns.append(column)
    many.change(lambda chosen: [gr.update(visible=i < chosen) for i in range(MOST)], many, columns)
    return many, lines, columns


def _fill(
    lab: Lab,
    controls: Controls,
    lines: list[gr.Textbox],
    columns: list[gr.Column],
    view: gr.HTML,
    problem: gr.Textbox,
    told: gr.Textbox,
) -> None:
    """What the controls say when the page opens, and when another run is chosen."""

    def fill(request: gr.Request) -> Iterator[Any]:
        """The first run, or what a link asks for, whose texts are then generated."""
        names = lab.runs_with_model()
        settings, note, hindered = None, "", hide_box_update()
        try:
            if LINK in request.query_params:
                settings, note = open_link(lab, request.query_params[LINK])
        except LabError as error:
            hindered = show_error_update(error)
        run = settings.run if settings else next(iter(lab.runs_with_model_failed_last()), None)
        stages = lab.language_model_stages(run) if run else []
        own = (
            [column.strategy for column in settings.columns if not column.forced_prefix]
            if settings
            else list(DEFAULTS[:3])
        )
        values = [
            gr.update(choices=names, value=run),
            gr.update(choices=stages, value=settings.stage if settings else default_stage(lab, run, -1)),
            (settings.prompt if settings else lab.example_prompt(run) if run else ""),
            len(own[:MOST]) or 1,
            settings.seed if settings else 0,
            settings.tokens if settings else 80,
            "\n".join(settings.stop) if settings else "",
            gr.update(choices=stages, value=(settings.draft if settings else "") or default_stage(lab, run, 0)),
            *own[:MOST],
            *DEFAULTS[len(own[:MOST]) :],
            *(gr.update(visible=i < max(1, len(own))) for i in range(MOST)),
        ]
        unchanged = [gr.skip() for _ in values]
        yield [*values, gr.skip(), hindered, show_advice_or_hide_update(note)]
        try:
            for data in writing.stream_comparison(lab, settings) if settings else ():
                yield [*unchanged, data, gr.skip(), gr.skip()]
        except LabError as error:
            yield [*unchanged, None, show_error_update(error), gr.skip()]

    def example(name: str | None, text: str) -> str:
        """Another run's example in place of an example; what somebody typed stays."""
        examples = {lab.example_prompt(one) for one in lab.runs_with_model()}
        return lab.example_prompt(name) if name in lab.runs_with_model() and text in {"", *examples} else text

    def stages_of(name: str | None) -> Any:
        known = name if name in lab.runs_with_model() else None
        return gr.update(choices=lab.language_model_stages(known) if known else [], value=default_stage(lab, known, 0))

    on_load(fill, None, [*controls, *lines, *columns, view, problem, told], concurrency_id=MODEL_WORK)
    controls.run.input(example, [controls.run, controls.prompt], controls.prompt)
    controls.run.input(stages_of, controls.run, controls.draft)


def _build_scores(lab: Lab, boxes: list[Any]) -> None:
    with gr.Accordion(words("scores"), open=False, elem_id="decoding-scores"):
        gr.Markdown(words("scores_hint"))
        with gr.Row(elem_classes="labkit-bar"):
            seeds = skip_gradio_check(
                gr.Slider(2, 64, value=16, step=1, label=words("seeds"), elem_id="decoding-seeds")
            )
            measure = gr.Button(words("measure"), elem_id="decoding-measure")
            stop = gr.Button(words("stop"), elem_id="decoding-measure-stop")
        problem = problem_box("scores-problem")
        table = viewer_component("labkit-table", elem_id="decoding-table")
    asked = RequestTracker()

    def score(request: gr.Request, many_seeds: Any, *values: Any) -> Iterator[Any]:
        page, number = request.session_hash, asked.latest_request_number(request.session_hash)
        try:
            for scored in score_strategies(lab, read_settings(lab, values), many_seeds):
                yield score_table(scored), hide_box_update()
                if not asked.is_current(page, number):
                    yield score_table(scored) | {"note": ["stopped", {}]}, gr.skip()
                    return
        except LabError as error:
            yield None, show_error_update(error)

    def begin(request: gr.Request) -> None:
        asked.begin_request(request.session_hash)

    begun = measure.click(begin, None, None, show_progress="hidden")
    begun.then(
        score,
        [seeds, *boxes],
        [table, problem],
        concurrency_id=MODEL_WORK,
        show_progress="minimal",
        trigger_mode="always_last",
    )
    stop.click(asked.stop_handler(), None, None)
