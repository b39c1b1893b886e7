"""The Decoding tab: the same prompt under several strategies at once, with the same random numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from labkit.decode_compare import shown
from labkit.errors import LabError
from labkit.ui import writing
from labkit.ui.lab import Lab
from labkit.ui.shell import LINK, MODEL_WORK, first_stage, on_load, pick_run, problem_box, words
from labkit.ui.viewers import panel
from labkit.ui.writing import Column, Settings

MOST = 4
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
ADDED = "The weights of “{stage}” of {run} are others than when this link was made: the texts may differ."


def from_link(lab: Lab, text: str) -> tuple[Settings, str]:
    """What a link asks for, and what must be said of it. Raises LabError for one that cannot be followed."""
    settings = Settings.of_link(text)
    if settings.run not in lab.names() or settings.stage not in lab.stages(settings.run):
        raise LabError(f"This link is to the model after {settings.stage!r} of a run {settings.run!r}, not found here.")
    changed = settings.checkpoint and settings.checkpoint != writing.checkpoint(lab, settings)
    return settings, ADDED.format(stage=settings.stage, run=settings.run) if changed else ""


def score_table(lab: Lab, settings: Settings, seeds: int) -> tuple[list[str], list[list[str]]]:
    """Column heads and rows: every strategy's scores with their 95 % intervals."""
    found = writing.scores(lab, settings, seeds)
    names = list(found[0][1])
    return ["strategy", *names], [[line, *(shown(scores[name]) for name in names)] for line, scores in found]


def build(lab: Lab) -> None:
    """The tab's components, in the Blocks that is open."""
    gr.Markdown(words("decoding_hint"))
    with gr.Row():
        name, stage = pick_run(lab, fill=False)
        seed = gr.Number(0, label=words("seed"), precision=0, elem_id="decoding-seed")
        tokens = gr.Slider(10, 200, value=80, step=10, label=words("new_tokens"), elem_id="decoding-tokens")
    how_many = gr.Radio([1, 2, 3, 4], value=3, label=words("how_many"), elem_id="decoding-many")
    lines, columns = [], []
    with gr.Row():
        for number, line in enumerate(DEFAULTS):
            with gr.Column(visible=number < 3, min_width=180) as column:
                box = gr.Textbox(line, label=words("strategy"), elem_id=f"decoding-strategy-{number + 1}")
                example_of = gr.Dropdown(
                    list(EXAMPLES), value=None, label=words("examples"), elem_id=f"decoding-example-{number + 1}"
                )
                example_of.input(lambda line: (line, None), example_of, [box, example_of], show_progress="hidden")
            lines.append(box)
            columns.append(column)
    with gr.Row(elem_classes="labkit-bar"):
        text = gr.Textbox(label=words("prompt"), lines=3, scale=4, min_width=260, elem_id="decoding-prompt")
        with gr.Column(scale=1, min_width=120):
            button = gr.Button(words("compare"), variant="primary", elem_id="decoding-compare")
            stop = gr.Button(words("stop"), elem_id="decoding-stop")
    with gr.Accordion(words("more"), open=False, elem_id="decoding-more"):
        gr.Markdown(words("strategies_hint"))
        with gr.Row():
            ends = gr.Textbox(label=words("stop_texts"), lines=2, elem_id="decoding-ends")
            draft = gr.Dropdown([], label=words("draft"), allow_custom_value=True, elem_id="decoding-draft")
    problem = problem_box("decoding-problem")
    view = panel("labkit-texts", answer=lambda question: writing.answer(lab, question), elem_id="decoding-view")
    with gr.Accordion(words("scores"), open=False, elem_id="decoding-scores"):
        gr.Markdown(words("scores_hint"))
        with gr.Row(elem_classes="labkit-bar"):
            seeds = gr.Slider(2, 64, value=16, step=1, label=words("seeds"), elem_id="decoding-seeds")
            measure = gr.Button(words("measure"), elem_id="decoding-measure")
        unscored = problem_box("scores-problem")
        table = gr.Dataframe(interactive=False, visible=False, elem_id="decoding-table")

    def read(values: tuple[Any, ...]) -> Settings:
        name, stage, text, many, seed, tokens, ends, draft, *chosen = values
        return Settings(
            str(name or ""),
            str(stage or ""),
            str(text or ""),
            tuple(Column(str(line or "")) for line in chosen[: int(many)]),
            int(seed or 0),
            int(tokens),
            tuple(line for line in str(ends or "").splitlines() if line),
            str(draft or ""),
        )

    stopping: set[str | None] = set()  # pages whose writing is to end: Gradio's own cancelling calls that an error

    def begin(request: gr.Request) -> Any:
        stopping.discard(request.session_hash)
        return gr.update(visible=False)

    def end(request: gr.Request) -> None:
        stopping.add(request.session_hash)

    def show(request: gr.Request, *values: Any) -> Iterator[Any]:
        try:
            for data in writing.compare(lab, read(values)):
                stop_now = request.session_hash in stopping
                yield writing.stopped(data) if stop_now else data, gr.skip()
                if stop_now:
                    return
        except LabError as error:
            yield None, gr.update(value=str(error), visible=True)

    def score(many_seeds: int, *values: Any) -> Iterator[Any]:
        try:
            heads, rows = score_table(lab, read(values), int(many_seeds))
            yield gr.update(headers=heads, value=rows, visible=True), gr.update(visible=False)
        except LabError as error:
            yield gr.update(visible=False), gr.update(value=str(error), visible=True)

    def fill(request: gr.Request) -> Iterator[Any]:
        """The first run, or what a link asks for, which is then written."""
        names = lab.names()
        settings, said = None, ""
        try:
            if LINK in request.query_params:
                settings, said = from_link(lab, request.query_params[LINK])
        except LabError as error:
            said = str(error)
        run = settings.run if settings else names[0] if names else None
        stages = lab.stages(run) if run else []
        own = [column.strategy for column in settings.columns if not column.begins] if settings else list(DEFAULTS[:3])
        shown_lines = [*own[:MOST], *DEFAULTS[len(own[:MOST]) :]]
        controls = [
            gr.update(choices=names, value=run),
            gr.update(choices=stages, value=settings.stage if settings else first_stage(lab, run, -1)),
            (settings.prompt if settings else lab.example(run) if run else ""),
            len(own[:MOST]) or 1,
            settings.seed if settings else 0,
            settings.tokens if settings else 80,
            "\n".join(settings.stop) if settings else "",
            gr.update(choices=stages, value=(settings.draft if settings else "") or first_stage(lab, run, 0)),
            *shown_lines,
            *(gr.update(visible=i < max(1, len(own))) for i in range(MOST)),
        ]
        yield [*controls, gr.skip(), gr.update(value=said, visible=bool(said))]
        try:
            for data in writing.compare(lab, settings) if settings else ():
                yield [*(gr.skip() for _ in controls), data, gr.skip()]
        except LabError as error:
            yield [*(gr.skip() for _ in controls), None, gr.update(value=str(error), visible=True)]

    def example(name: str | None, text: str) -> str:
        """Another run's example in place of an example; what somebody typed stays."""
        examples = {lab.example(one) for one in lab.names()}
        return lab.example(name) if name and text in {"", *examples} else text

    def stages_of(name: str | None) -> Any:
        return gr.update(choices=lab.stages(name) if name else [], value=first_stage(lab, name, 0))

    controls = [name, stage, text, how_many, seed, tokens, ends, draft, *lines]
    on_load(fill, None, [*controls, *columns, view, problem], concurrency_id=MODEL_WORK)
    how_many.change(lambda many: [gr.update(visible=i < many) for i in range(MOST)], how_many, columns)
    name.input(example, [name, text], text)
    name.input(stages_of, name, draft)
    asked = gr.on([button.click, text.submit, *(line.submit for line in lines)], begin, None, problem)
    asked.then(show, controls, [view, problem], concurrency_id=MODEL_WORK, show_progress="minimal")
    stop.click(end, None, None)
    measure.click(score, [seeds, *controls], [table, unscored], concurrency_id=MODEL_WORK, show_progress="minimal")
