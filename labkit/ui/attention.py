"""The Attention tab: a text, a model, what each of its heads looks at, and what it causes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr

from labkit.errors import LabError
from labkit.interpret import (
    Findings,
    Look,
    Probe,
    Views,
    accuracy,
    find_heads,
    log_odds,
    patching,
    schema_probe,
    schema_probes,
    token_at,
    world_probes,
)
from labkit.text.chat import encode_opening, encode_prompt
from labkit.ui.lab import Lab
from labkit.ui.shell import MODEL_WORK, pick_run, problem_box, words
from labkit.ui.viewers import panel
from labkit.world import Message

OPENING = "The animal did not cross the street because it was too tired."
WHY = ("tired", "wide")
PATCHED = (
    "The horse did not climb the wall because it was too tired.\nWhat was too tired?",
    "The horse did not climb the wall because it was too high.\nWhat was too high?",
)
HEADINGS = ["layer.head", "token before", "induction", "from the pronoun", "from the answer", "carried (nats)"]
PROBES = 48
"""Texts with a pronoun that heads are measured on."""


def views(lab: Lab, name: str, text: str) -> Views:
    """A text as the models after all stages of a run read it. Raises LabError for no text."""
    if not text.strip():
        raise LabError("There is nothing to look at: type a text.")
    tokenizer = lab.tokenizer(name)
    ids = encode_opening(tokenizer, text.strip())
    return Views(lab.stages(name), lambda stage: Look(lab.model(name, stage), tokenizer, ids))


def look(lab: Lab, name: str, stage: str, text: str) -> dict[str, Any]:
    """What the viewer shows of a text read by a model, and what it says when it asks for more.

    Of the opening example it shows the head that looks most from "it" to the animal. Raises LabError for what cannot
    be read.
    """
    asked = views(lab, name, text)
    data = asked.view(stage) | {"subject": {"run": name, "text": text}}
    if text.strip() == OPENING:
        map_ = asked.look(stage).maps[0]
        text_read = "".join(map_.rows)
        it, animal = (token_at(map_.rows, text_read.index(word) + len(word) - 1) for word in (" it", "animal"))
        strongest = int(map_.weights[:, :, it, animal].argmax())
        data["focus"] = [*divmod(strongest, map_.weights.shape[1]), it]
    return data


def probe_sets(lab: Lab, name: str) -> dict[str, list[Probe]]:
    """Texts with a pronoun, by where they are from: the run's own world, where "it" is said there, and English."""
    recipe, tokenizer = lab.run(name).recipe, lab.tokenizer(name)
    sets = {"everyday English": schema_probes(tokenizer, PROBES)}
    if recipe.text is None and recipe.instructions is None and "it" in lab.world(name).task_kinds:
        return {"TinyWorld": world_probes(lab.world(name), tokenizer, PROBES)} | sets
    return sets


def about_opening(lab: Lab, name: str, stage: str) -> str:
    """What is measured about the opening example: whether the model tells whom "it" stands for, in its own world's
    words and in everyday English, and what another reason changes.
    """
    model, tokenizer, said = lab.model(name, stage), lab.tokenizer(name), []
    for where, probes in probe_sets(lab, name).items():
        right, error = accuracy(log_odds(model, probes))
        said.append(f"in {where} {right:.0%} (± {error:.0%}, {len(probes)} texts)")
    tired, wide = log_odds(model, [schema_probe(tokenizer, OPENING.replace("tired", why), why) for why in WHY]).tolist()
    return (
        f"Whom “it” stands for, this checkpoint tells right {' and '.join(said)}; chance is 50 %. Up to “too”, nothing "
        f"changes when “tired” becomes “wide”: a causal model reads “it” before it can know. Asked after the sentence, "
        f"its odds of “animal” over “street” are {tired:+.2f} nats, and {wide:+.2f} with “wide”."
    )


def answer(lab: Lab, question: Mapping[str, Any]) -> dict[str, Any]:
    """What a viewer wants to know of what it shows; what goes wrong is an answer too: {"error": in words}."""
    try:
        with lab.answering:
            return views(lab, str(question.get("run")), str(question.get("text"))).answer(question)
    except LabError as error:
        return {"error": str(error)}


def found(lab: Lab, name: str, stage: str) -> tuple[Findings, str]:
    """A model's heads by what they do, on the first of its `probe_sets`, and where those texts are from."""
    where, probes = next(iter(probe_sets(lab, name).items()))
    return find_heads(lab.model(name, stage), lab.tokenizer(name), probes), where


def heads_found(lab: Lab, name: str, stage: str) -> tuple[str, list[list[Any]]]:
    """`found` as a sentence and the rows of a table. Raises LabError as `find_heads` does."""
    findings, source = found(lab, name, stage)
    said = (
        f"{findings.probes} texts of {source}: whom “it” stands for is told right in {findings.accuracy:.0%} "
        f"(± {findings.error:.0%}; chance is 50 %), by {findings.odds:+.2f} nats."
    )
    rows = [
        [f"{head.layer + 1}.{head.head + 1}", *(f"{x:.3f}" for x in head[2:6]), _signed(head.carried)]
        for head in findings.heads
    ]
    return said, rows


def _signed(x: float | None) -> str:
    return "" if x is None else f"{x:+.2f}"


def patched(lab: Lab, name: str, stage: str, first: str, second: str, begins: str) -> dict[str, Any]:
    """What of one prompt, put into another, changes its answer: a grid of layers and tokens.

    begins: how the answer begins; the next token is what is measured. Raises LabError as `patching` does.
    """
    tokenizer, model = lab.tokenizer(name), lab.model(name, stage)
    start = tokenizer.encode(tokenizer.form.lead + begins.strip()) if begins.strip() else []
    one, other = ([*encode_prompt(tokenizer, [Message("user", text)]), *start] for text in (first, second))
    result = patching(model, one, other)
    a, b = (tokenizer.token(token).strip() for token in result.answers)
    note = (
        f"1 = all of the difference comes back. Odds of “{a}” over “{b}”: {result.odds[0]:+.2f} nats in the first "
        f"text, {result.odds[1]:+.2f} in the second, which is read here with one vector of the first put in."
    )
    layers = ["embedding", *(f"layer {i + 1}" for i in range(model.config.depth))]
    pieces = [
        tokenizer.token(i) if i == j else f"{tokenizer.token(i)}→{tokenizer.token(j)}"
        for i, j in zip(one, other, strict=True)
    ]
    order = range(len(layers) - 1, -1, -1)  # the last layer on top
    values = [[round(float(x), 3) for x in result.stream[layer]] for layer in order]
    return {"rows": [layers[layer] for layer in order], "columns": pieces, "values": values, "note": note}


def build(lab: Lab) -> None:
    """The tab's components, in the Blocks that is open."""
    gr.Markdown(words("look_hint"))
    with gr.Row():
        name, stage = pick_run(lab)
    with gr.Row(elem_classes="labkit-bar"):
        text = gr.Textbox(OPENING, label=words("text"), lines=2, scale=4, elem_id="attention-text")
        button = gr.Button(words("look"), variant="primary", scale=1, elem_id="attention-look")
    problem = problem_box("attention-problem")
    view = panel("labkit-attention", answer=lambda question: answer(lab, question), elem_id="attention-view")

    def show(name: str, stage: str, text: str) -> tuple[Any, Any]:
        if not name or not stage:
            return gr.skip(), gr.skip()
        try:
            return look(lab, name, stage, text), gr.update(visible=False)
        except LabError as error:
            return None, gr.update(value=str(error), visible=True)

    def about(name: str, stage: str, text: str) -> Any:
        if not name or not stage or text.strip() != OPENING:
            return gr.update(visible=False)
        try:
            return gr.update(value=about_opening(lab, name, stage), visible=True)
        except LabError:  # of what is shown, `show` has said it
            return gr.update(visible=False)

    shown = gr.on(
        [button.click, text.submit, stage.change],  # the stage is set when the page opens
        show,
        [name, stage, text],
        [view, problem],
        concurrency_id=MODEL_WORK,
        api_name="attention",
        show_progress="minimal",
    )
    note = problem_box("attention-about")
    shown.then(about, [name, stage, text], note, concurrency_id=MODEL_WORK, show_progress="hidden", api_name=False)
    _build_heads(lab, name, stage)
    _build_patching(lab, name, stage)


def _build_heads(lab: Lab, name: gr.Dropdown, stage: gr.Dropdown) -> None:
    with gr.Accordion(words("find_heads"), open=False, elem_id="heads"):
        gr.Markdown(words("find_heads_hint"))
        button = gr.Button(words("find_heads"), elem_id="heads-find")
        said = gr.Textbox(
            label=words("message"), show_label=False, interactive=False, elem_id="heads-said", container=False
        )
        table = gr.Dataframe(headers=HEADINGS, interactive=False, elem_id="heads-table")

    def find(name: str, stage: str) -> tuple[str, Any]:
        try:
            return heads_found(lab, name, stage)
        except LabError as error:
            return str(error), []

    button.click(find, [name, stage], [said, table], concurrency_id=MODEL_WORK, api_name="heads")


def _build_patching(lab: Lab, name: gr.Dropdown, stage: gr.Dropdown) -> None:
    with gr.Accordion(words("patching"), open=False, elem_id="patching"):
        gr.Markdown(words("patching_hint"))
        with gr.Row():
            first = gr.Textbox(PATCHED[0], label=words("first_text"), lines=3, elem_id="patching-first")
            second = gr.Textbox(PATCHED[1], label=words("second_text"), lines=3, elem_id="patching-second")
        with gr.Row(elem_classes="labkit-bar"):
            begins = gr.Textbox("The", label=words("answer_begins"), elem_id="patching-begins")
            button = gr.Button(words("patch"), elem_id="patching-go")
        problem = problem_box("patching-problem")
        grid = panel("labkit-grid", elem_id="patching-grid")

    def patch(name: str, stage: str, first: str, second: str, begins: str) -> tuple[Any, Any]:
        try:
            return patched(lab, name, stage, first, second, begins), gr.update(visible=False)
        except LabError as error:
            return None, gr.update(value=str(error), visible=True)

    inputs = [name, stage, first, second, begins]
    button.click(patch, inputs, [grid, problem], concurrency_id=MODEL_WORK, api_name="patching")
