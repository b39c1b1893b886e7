"""What holds the tabs together: the page, its look, its words, and how it is served."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import gradio as gr
from gradio.context import Context

from labkit.ui.lab import Lab
from labkit.ui.words import TRANSLATIONS

MODEL_WORK = "model"
"""The queue of everything that asks a model: each waits for the one before, whichever tab it is from."""

LINK = "decoding"
"""The part of the address in which a link to the Decoding tab holds its settings."""

words = gr.I18n(**TRANSLATIONS)

CSS = """
.gradio-container { max-width: 1180px !important; width: 100% !important; margin: 0 auto !important; }
.gradio-container main, .gradio-container .wrap { width: 100%; }
.labkit-head { align-items: baseline !important; border-bottom: 3px solid #0072b2; padding-bottom: 8px; }
.labkit-head > :first-child { flex: 0 0 auto !important; min-width: 0 !important; }
.labkit-head h1 { margin: 0; letter-spacing: -.02em; }
.labkit-head p { margin: 0; opacity: .75; }
.labkit-bar { align-items: flex-end !important; }
.labkit-bar > button { flex: 0 0 auto !important; width: auto !important; }
.labkit-bar > .column { flex: 0 0 auto !important; width: 150px !important; }
.labkit-votes button { white-space: nowrap; }
[id$="-problem"] textarea { color: #b00020 !important; -webkit-text-fill-color: #b00020 !important; }
.dark [id$="-problem"] textarea { color: #ff8a80 !important; -webkit-text-fill-color: #ff8a80 !important; }
#runs-log textarea { font-family: var(--font-mono); font-size: 12px; }
.gradio-container table, .gradio-container table td, .gradio-container table th {
  font-family: var(--font) !important; font-size: 14px; }
"""


def on_load(fn: Callable[..., Any], inputs: Any, outputs: Any, **options: Any) -> None:
    """Call `fn` whenever the page that is being built is opened."""
    assert Context.root_block is not None
    Context.root_block.load(fn, inputs, outputs, show_progress="hidden", **options)


def on_tab(fn: Callable[[], Any], outputs: Any) -> None:
    """Call `fn` whenever the tab that is being built is chosen: what there is to choose from may have changed."""
    block = Context.block
    while block is not None and not isinstance(block, gr.Tab):
        block = block.parent
    assert isinstance(block, gr.Tab)
    block.select(fn, None, outputs, show_progress="hidden")


def pick_run(lab: Lab, place: int = -1, fill: bool = True) -> tuple[gr.Dropdown, gr.Dropdown]:
    """Two menus: a run, and the model after which of its stages. They are filled when the page opens, unless the tab
    does that itself.

    place: which stage is chosen at first, counted as in a list; the first where there are not so many.
    """
    name = gr.Dropdown([], label=words("run"), allow_custom_value=True)
    stage = gr.Dropdown([], label=words("stage"), allow_custom_value=True)

    def stages_of(name: str | None) -> Any:
        return gr.update(choices=lab.stages(name) if name else [], value=first_stage(lab, name, place))

    def first() -> tuple[Any, Any]:
        names = lab.names()
        newest = names[0] if names else None
        return gr.update(choices=names, value=newest), stages_of(newest)

    name.input(stages_of, name, stage)
    on_tab(lambda: gr.update(choices=lab.names()), name)
    if fill:
        on_load(first, None, [name, stage])
    return name, stage


def first_stage(lab: Lab, name: str | None, place: int) -> str | None:
    """The stage of a run that is chosen at first: the one in this place, or the first of all; None without a run."""
    stages = lab.stages(name) if name else []
    return stages[place] if len(stages) >= abs(place) else next(iter(stages), None)


def problem_box(elem_id: str) -> gr.Textbox:
    """Where a tab says what went wrong, as text; hidden until then."""
    return gr.Textbox(
        visible=False, label=words("message"), show_label=False, interactive=False, elem_id=elem_id, container=False
    )


def page(lab: Lab, tabs: dict[str, Callable[[Lab], None]]) -> gr.Blocks:
    """The whole page; tabs: the key of each tab's name in `words`, and what builds it."""
    with gr.Blocks(title="labkit", analytics_enabled=False) as blocks:
        with gr.Row(elem_classes="labkit-head"):
            gr.Markdown("# labkit")
            gr.Markdown(words("subtitle"))
        with gr.Tabs() as all_tabs:
            for key, build in tabs.items():
                with gr.Tab(words(key), id=key):
                    build(lab)

        def open_linked(request: gr.Request) -> Any:
            return gr.Tabs(selected=LINK) if LINK in request.query_params else gr.skip()

        on_load(open_linked, None, all_tabs)
    return blocks


def serve(blocks: gr.Blocks, **options: Any) -> None:
    """Open the page for browsers on this machine until ctrl-C; nothing leaves it."""
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    _, address, _ = blocks.queue(default_concurrency_limit=1).launch(
        theme=gr.themes.Default(
            primary_hue="blue",
            font=["system-ui", "sans-serif"],
            font_mono=["ui-monospace", "Menlo", "Consolas", "monospace"],
        ),
        css=CSS,
        i18n=words,
        share=False,
        quiet=True,
        run_history=False,
        enable_monitoring=False,
        footer_links=[],
        prevent_thread_lock=True,
        **options,
    )
    print(f"The lab is open at {address} (ctrl-C closes it).", flush=True)
    blocks.block_thread()
