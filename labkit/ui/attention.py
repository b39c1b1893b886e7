"""The Attention tab: a text, a model, what each of its heads looks at, and what it causes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import gradio as gr

from labkit.errors import LabError
from labkit.interpret import (
    CheckpointInspections,
    CorefExample,
    HeadReport,
    Inspection,
    PatchingResult,
    accuracy_and_standard_error,
    activation_patching,
    answer_log_odds,
    check_attention_memory,
    check_patching_cost,
    find_heads,
    token_index_at_character,
    winograd_example,
    winograd_examples,
    world_coref_examples,
)
from labkit.interpret.patching import Progress
from labkit.model.transformer import Transformer
from labkit.text.chat import encode_answer_prefix, encode_prompt, encode_text_prompt
from labkit.text.tokenizer import Tokenizer
from labkit.ui.checks import checked_text
from labkit.ui.lab import Lab
from labkit.ui.shell import (
    MODEL_WORK,
    hide_box_update,
    problem_box,
    run_and_stage_menus,
    show_error_update,
    translate_message,
    words,
)
from labkit.viewers.adapters import viewer_component
from labkit.world import Message

OPENING = "The horse did not climb the wall because it was too tired."
"""A sentence of TinyWorld, which the run that comes with labkit has read."""
WHY = ("tired", "high")
PATCHED = (
    "The horse did not climb the wall because it was too tired.\nWhat was too tired?",
    "The horse did not climb the wall because it was too high.\nWhat was too high?",
)
HEADINGS = ["layer.head", "previous", "induction", "pronoun", "answer", "ablation effect"]
"""Of the table of heads, as <labkit-table> knows them in words."""
NUM_EXAMPLES = 48
"""Texts with a pronoun that heads are measured on."""
NUMBERS = 4_000_000
"""Attention weights that are sent to a page at most, of all heads together."""


def inspections_of_all_stages(lab: Lab, run_name: str, text: str) -> CheckpointInspections:
    """A text as the models after all stages of a run read it. Raises LabError for no text, and for one whose attention
    is more than a page shows.
    """
    tokenizer = lab.tokenizer(checked_text(run_name, "The run"))
    text = checked_text(text, "The text").strip()
    if not text:
        raise LabError("There is nothing to show: type a text.")
    ids = encode_text_prompt(tokenizer, text)

    def read(stage: str) -> Inspection:
        model = lab.model(run_name, stage)
        check_attention_fits_page(model, len(ids))
        return lab.looks.get((lab.weights_version(run_name, stage), text), lambda: Inspection(model, tokenizer, ids))

    return CheckpointInspections(lab.language_model_stages(run_name), read)


def check_attention_fits_page(model: Transformer, num_tokens: int) -> None:
    """Raises LabError for a text whose attention cannot be looked at in a page, and says how long one may be."""
    if num_tokens > model.config.context:
        return  # that is said in words by who reads it
    check_attention_memory(model, num_tokens)
    heads = model.config.depth * model.config.heads
    if heads * num_tokens**2 > NUMBERS:
        raise LabError(
            f"The attention of {heads} heads over {num_tokens:,} tokens is {heads * num_tokens**2:,} values; a page "
            f"shows at most {NUMBERS:,}. Use a text of at most {int((NUMBERS / heads) ** 0.5)} tokens."
        )


def attention_viewer_data(lab: Lab, run_name: str, stage: str, text: str) -> dict[str, Any]:
    """What the viewer shows of a text read by a model, and what it says when it asks for more.

    Of the opening example it shows the head that looks most from "it" to the horse. Raises LabError for what cannot
    be read.
    """
    asked = inspections_of_all_stages(lab, run_name, text)
    data = asked.attention_viewer_data(stage) | {"subject": {"run": run_name, "text": text}}
    if text.strip() == OPENING:
        map_ = asked.inspect(stage).attention_maps[0]
        text_read = "".join(map_.rows)
        it, horse = (
            token_index_at_character(map_.rows, text_read.index(word) + len(word) - 1) for word in (" it", "horse")
        )
        strongest = int(map_.weights[:, :, it, horse].argmax())
        data["focus"] = [*divmod(strongest, map_.weights.shape[1]), it]
    return data


def pronoun_prompt_sets(lab: Lab, run_name: str) -> dict[str, list[CorefExample]]:
    """Texts with a pronoun, by where they are from: the run's own world, where "it" is said there, and English."""
    recipe, tokenizer = lab.open(run_name).recipe, lab.tokenizer(run_name)
    sets = {"everyday English": winograd_examples(tokenizer, NUM_EXAMPLES)}
    if recipe.text is None and recipe.instructions is None and "it" in lab.world(run_name).task_kinds:
        return {"TinyWorld": world_coref_examples(lab.world(run_name), tokenizer, NUM_EXAMPLES)} | sets
    return sets


def pronoun_accuracy_table(lab: Lab, run_name: str, stage: str) -> dict[str, Any]:
    """How often a model tells whom "it" stands for, in its own world's words and in everyday English, and what another
    reason changes in the opening example; as <labkit-table> says it.
    """
    stage = checked_text(stage, "The stage")
    return lab.results.get(
        (lab.weights_version(run_name, stage), "about"), lambda: _pronoun_accuracy(lab, run_name, stage)
    )


def _pronoun_accuracy(lab: Lab, run_name: str, stage: str) -> dict[str, Any]:
    model, tokenizer, sets = lab.model(run_name, stage), lab.tokenizer(run_name), []
    for where, examples in pronoun_prompt_sets(lab, run_name).items():
        right, error = accuracy_and_standard_error(answer_log_odds(model, examples))
        sets.append({"where": where, "right": right, "error": error, "count": len(examples)})
    told = {why: OPENING.replace("tired", why) for why in WHY}
    tired, high = answer_log_odds(
        model, [winograd_example(tokenizer, told[why], why, "horse", "wall") for why in WHY]
    ).tolist()
    return {"note": ["about", {"stage": stage, "sets": sets, "tired": tired, "high": high}]}


def handle_viewer_request(lab: Lab, request: Mapping[str, Any]) -> dict[str, Any]:
    """What a viewer wants to know of what it shows; what goes wrong is an answer too: {"error": in words}."""
    try:
        if not isinstance(request, Mapping):
            raise LabError("This is not a request about a text.")
        with lab.answering:
            return inspections_of_all_stages(
                lab, checked_text(request.get("run"), "The run"), request.get("text") or ""
            ).handle_request(request)
    except LabError as error:
        return {"error": str(error)}


class SourcedHeadReport(NamedTuple):
    """A report on heads, and where the texts are from that it was made on."""

    report: HeadReport
    text_source: str


def cached_head_report(lab: Lab, run_name: str, stage: str) -> SourcedHeadReport:
    """A model's heads by what they do, on the first of its `pronoun_prompt_sets`."""

    def find() -> SourcedHeadReport:
        where, examples = next(iter(pronoun_prompt_sets(lab, run_name).items()))
        return SourcedHeadReport(find_heads(lab.model(run_name, stage), lab.tokenizer(run_name), examples), where)

    stage = checked_text(stage, "The stage")
    return lab.results.get((lab.weights_version(run_name, stage), "heads"), find)


def heads_table(lab: Lab, run_name: str, stage: str) -> dict[str, Any]:
    """`cached_head_report` as <labkit-table> shows it: a sentence, and a row per head. Raises LabError as `find_heads`
    does.
    """
    findings, source = cached_head_report(lab, run_name, stage)
    rows = [
        [f"{head.layer + 1}.{head.head + 1}", *(f"{x:.3f}" for x in head[2:6]), _signed(head.ablation_log_odds_drop)]
        for head in findings.heads
    ]
    said = {
        "where": source,
        "right": findings.accuracy,
        "error": findings.standard_error,
        "odds": findings.mean_log_odds,
    }
    return {"heads": HEADINGS, "rows": rows, "note": ["heads", said | {"count": findings.num_examples, "stage": stage}]}


def _signed(x: float | None) -> str:
    return "" if x is None else f"{x:+.2f}"


def patching_grid(
    lab: Lab,
    run_name: str,
    stage: str,
    clean_prompt: str,
    corrupted_prompt: str,
    answer_prefix: str,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """What of one prompt, put into another, changes its answer: a grid of layers and tokens, as <labkit-grid> shows it.

    answer_prefix: how the answer begins; the next token is what is measured. Raises LabError as `activation_patching`
    does, and for texts that are more than a page reads.
    """
    clean_prompt, corrupted_prompt = (
        checked_text(clean_prompt, "The first prompt"),
        checked_text(corrupted_prompt, "The second prompt"),
    )
    answer_prefix, stage = (
        checked_text(answer_prefix, "The answer's beginning").strip(),
        checked_text(stage, "The stage"),
    )
    tokenizer, model = lab.tokenizer(run_name), lab.model(run_name, stage)
    start = encode_answer_prefix(tokenizer, answer_prefix) if answer_prefix else []
    one, other = (
        [*encode_prompt(tokenizer, [Message("user", text)]), *start] for text in (clean_prompt, corrupted_prompt)
    )
    if len(one) == len(other) <= model.config.context:
        check_patching_cost(model, one, other)
    result = activation_patching(model, one, other, progress=progress)
    layers = ["embedding", *(str(i + 1) for i in range(model.config.depth))]
    pieces = [
        tokenizer.token_text(i) if i == j else f"{tokenizer.token_text(i)}→{tokenizer.token_text(j)}"
        for i, j in zip(one, other, strict=True)
    ]
    order = range(len(layers) - 1, -1, -1)  # the last layer on top
    values = [[round(float(x), 3) for x in result.residual_recovered[layer]] for layer in order]
    note = _shown_by(tokenizer, result, [(t, pieces[t]) for t in range(len(one)) if one[t] != other[t]])
    if (clean_prompt, corrupted_prompt) == PATCHED:
        note["example"] = True
    return {"rows": [layers[i] for i in order], "columns": pieces, "values": values, "note": ["patched", note]}


def _shown_by(tokenizer: Tokenizer, result: PatchingResult, differing: Sequence[tuple[int, str]]) -> dict[str, Any]:
    """What a grid shows, in numbers: the two answers and their odds, and how much each word that differs brings back by
    itself.
    """
    a, b = (tokenizer.token_text(token).strip() for token in result.answer_ids)
    alone = [[t + 1, piece, float(result.residual_recovered[0, t])] for t, piece in differing]
    return {"answers": [a, b], "odds": [result.clean_log_odds, result.corrupted_log_odds], "alone": alone}


def build(lab: Lab) -> None:
    """The tab's components, in the Blocks that is open."""
    gr.Markdown(words("look_hint"))
    with gr.Row():
        name, stage = run_and_stage_menus(lab)
    with gr.Row(elem_classes="labkit-bar"):
        text = gr.Textbox(OPENING, label=words("text"), lines=2, max_lines=6, scale=4, elem_id="attention-text")
        button = gr.Button(words("look"), variant="primary", scale=1, elem_id="attention-look")
    problem = problem_box("attention-problem")
    view = viewer_component(
        "labkit-attention",
        handle_request=lambda question: handle_viewer_request(lab, question),
        translate_error=translate_message,
        elem_id="attention-view",
    )

    def show(name: str, stage: str, text: str) -> tuple[Any, Any]:
        if not name or not stage:
            return gr.skip(), show_error_update("Choose a run and a stage.")
        if name in lab.runs_with_model() and stage not in lab.stages_if_readable(name):
            return gr.skip(), hide_box_update()  # of the run before; that of this one is being chosen
        try:
            return attention_viewer_data(lab, name, stage, text), hide_box_update()
        except LabError as error:
            return None, show_error_update(error)

    def about(name: str, stage: str, text: str) -> Any:
        if not name or not stage or not isinstance(text, str) or text.strip() != OPENING:
            return None
        try:
            return pronoun_accuracy_table(lab, name, stage)
        except LabError:  # of what is shown, `show` has said it
            return None

    shown = gr.on(
        [button.click, text.submit, name.input, stage.change],  # the stage is set when the page opens
        show,
        [name, stage, text],
        [view, problem],
        concurrency_id=MODEL_WORK,
        api_name="attention",
        show_progress="minimal",
        trigger_mode="always_last",  # a click during work is done after it
    )
    note = viewer_component("labkit-table", elem_id="attention-about")
    shown.then(
        about,
        [name, stage, text],
        note,
        concurrency_id=MODEL_WORK,
        show_progress="hidden",
        api_name=False,
        trigger_mode="always_last",
    )
    sync_stage_menu(view, name, stage)
    _build_heads(lab, name, stage)
    _build_patching(lab, name, stage)


def sync_stage_menu(view: gr.HTML, name: gr.Dropdown, stage: gr.Dropdown) -> None:
    """The viewer's slider chooses in the menu, which alone says what is shown."""

    def choose(name: str, event: gr.EventData) -> Any:
        chosen = event.checkpoint if isinstance(event.checkpoint, str) else ""
        return gr.update(value=chosen) if chosen and event.run == name else gr.skip()

    view.checkpoint(choose, name, stage, show_progress="hidden", api_name=False, trigger_mode="always_last")


def _build_heads(lab: Lab, name: gr.Dropdown, stage: gr.Dropdown) -> None:
    with gr.Accordion(words("find_heads"), open=False, elem_id="heads"):
        gr.Markdown(words("find_heads_hint"))
        button = gr.Button(words("find_heads"), elem_id="heads-find")
        problem = problem_box("heads-problem")
        table = viewer_component("labkit-table", elem_id="heads-table")

    def find(name: str, stage: str) -> tuple[Any, Any]:
        try:
            return heads_table(lab, name, stage), hide_box_update()
        except LabError as error:
            return None, show_error_update(error)

    button.click(
        find,
        [name, stage],
        [table, problem],
        concurrency_id=MODEL_WORK,
        api_name="heads",
        show_progress="minimal",
        trigger_mode="always_last",
    )


def _build_patching(lab: Lab, name: gr.Dropdown, stage: gr.Dropdown) -> None:
    with gr.Accordion(words("patching"), open=False, elem_id="patching"):
        gr.Markdown(words("patching_hint"))
        with gr.Row():
            first = gr.Textbox(PATCHED[0], label=words("first_text"), lines=3, max_lines=6, elem_id="patching-first")
            second = gr.Textbox(PATCHED[1], label=words("second_text"), lines=3, max_lines=6, elem_id="patching-second")
        with gr.Row(elem_classes="labkit-bar"):
            begins = gr.Textbox("The", label=words("answer_begins"), elem_id="patching-begins")
            button = gr.Button(words("patch"), elem_id="patching-go")
        problem = problem_box("patching-problem")
        grid = viewer_component("labkit-grid", elem_id="patching-grid")

    bar = gr.Progress()

    def patch(name: str, stage: str, first: str, second: str, begins: str, progress: gr.Progress = bar) -> Any:
        try:
            done = patching_grid(lab, name, stage, first, second, begins, lambda done, total: progress((done, total)))
            return done, hide_box_update()
        except LabError as error:
            return None, show_error_update(error)

    button.click(
        patch,
        [name, stage, first, second, begins],
        [grid, problem],
        concurrency_id=MODEL_WORK,
        api_name="patching",
        trigger_mode="always_last",
    )
