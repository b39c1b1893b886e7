"""The Attention tab: a text, a model, and what each of its heads looks at."""

from __future__ import annotations

from typing import Any

import gradio as gr

from labkit.errors import LabError
from labkit.interpret import attention, for_viewer
from labkit.text.chat import encode_opening
from labkit.ui.lab import Lab
from labkit.ui.shell import MODEL_WORK, pick_run, problem_box, words
from labkit.ui.viewers import attention_panel

OPENING = "The animal did not cross the street because it was too tired."


def look(lab: Lab, name: str, stage: str, text: str) -> dict[str, Any]:
    """What the viewer shows of a text read by a model. Raises LabError for what cannot be read."""
    if not text.strip():
        raise LabError("There is nothing to look at: type a text.")
    tokenizer = lab.tokenizer(name)
    return for_viewer(attention(lab.model(name, stage), tokenizer, encode_opening(tokenizer, text.strip())))


def build(lab: Lab) -> None:
    """The tab's components, in the Blocks that is open."""
    gr.Markdown(words("look_hint"))
    with gr.Row():
        name, stage = pick_run(lab)
    with gr.Row(elem_classes="labkit-bar"):
        text = gr.Textbox(OPENING, label=words("text"), lines=2, scale=4, elem_id="attention-text")
        button = gr.Button(words("look"), variant="primary", scale=1, elem_id="attention-look")
    problem = problem_box("attention-problem")
    panel = attention_panel(elem_id="attention-view")

    def show(name: str, stage: str, text: str) -> tuple[Any, Any]:
        if not name or not stage:
            return gr.skip(), gr.skip()
        try:
            return look(lab, name, stage, text), gr.update(visible=False)
        except LabError as error:
            return None, gr.update(value=str(error), visible=True)

    gr.on(
        [
            button.click,
            text.submit,
            stage.change,
        ],  # the stage is set when the page opens, so something is there at once
        show,
        [name, stage, text],
        [panel, problem],
        concurrency_id=MODEL_WORK,
        api_name="attention",
        show_progress="minimal",
    )
