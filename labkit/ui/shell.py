"""What holds the tabs together: the page, its look and its words. How it is served: `labkit.ui.served`."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.resources import files
from typing import Any

import gradio as gr
from gradio.context import Context, LocalContext

from labkit.ui import chinese
from labkit.ui.lab import Lab
from labkit.ui.words import TRANSLATIONS

MODEL_WORK = "model"
"""The queue of everything that asks a model: each waits for the one before, whichever tab it is from."""

LINK = "decoding"
"""The part of the address in which a link to the Decoding tab holds its settings."""

TAB = "tab"
"""The part of the address that names the chosen tab."""

LANGUAGE = "labkit-language"
"""The cookie that holds the language that was chosen; without it, the browser's decides. shell.js knows it, too."""

ABOVE = re.compile(r"(?<![\w.:/~])/(?:[^\s/'\"]+/)*(?=[^\s/'\"]+/[^\s/'\"]+)")
"""Of an absolute path all but its last two parts."""

words = gr.I18n(**TRANSLATIONS)
CSS = files("labkit.ui").joinpath("shell.css").read_text(encoding="utf-8")
HEAD = "<script>" + files("labkit.ui").joinpath("shell.js").read_text(encoding="utf-8") + "</script>"
THEME = gr.themes.Default(
    primary_hue="blue",
    font=["system-ui", "sans-serif"],
    font_mono=["ui-monospace", "Menlo", "Consolas", "monospace"],
)


def is_page_in_chinese() -> bool:
    """Whether the page that asks just now is read in Chinese; never outside of a page."""
    request: Any = LocalContext.request.get(None)
    if request is None:
        return False
    chosen = dict(request.cookies).get(LANGUAGE, "")
    return (chosen or dict(request.headers).get("accept-language", "")).lower().startswith("zh")


def translate_message(text: object) -> str:
    """A message (an error, too) in the language of the page that asks, which need not know where on this machine things
    lie: "/home/ada/lab/runs/mine is in use" is "runs/mine is in use".
    """
    shown = ABOVE.sub("", str(text))
    return chinese.translate_message_to_chinese(shown) if is_page_in_chinese() else shown


def translate_label(text: str) -> str:
    """A label, a state, a table head, in the language of the page that asks."""
    return chinese.label_in_chinese(text) if is_page_in_chinese() else text


def show_error_update(error: object) -> Any:
    """Fills a `problem_box` with what went wrong."""
    return gr.update(value=translate_message(error), visible=True, elem_classes="labkit-wrong")


def show_advice_or_hide_update(*messages: str) -> Any:
    """Fills a `problem_box` with what is good to know, and is no error, a line each; hides it when that is nothing."""
    text = "\n".join(translate_message(message) for message in messages if message)
    return gr.update(value=text, visible=True, elem_classes="labkit-advice") if text else hide_box_update()


def hide_box_update() -> Any:
    """Hides a `problem_box`."""
    return gr.update(visible=False)


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


def run_and_stage_menus(lab: Lab, stage_index: int = -1, fill_on_load: bool = True) -> tuple[gr.Dropdown, gr.Dropdown]:
    """Two menus: a run, and the model after which of its stages. They are filled when the page opens, unless the tab
    does that itself.

    stage_index: which stage is chosen at first, counted as in a list; the first where there are not so many.
    """
    name = gr.Dropdown([], label=words("run"), allow_custom_value=True)
    stage = gr.Dropdown([], label=words("stage"), allow_custom_value=True)

    def stages_of(name: str | None) -> Any:
        return gr.update(choices=lab.stages_if_readable(name), value=default_stage(lab, name, stage_index))

    def first() -> tuple[Any, Any]:
        chosen = next(iter(lab.runs_with_model_failed_last()), None)
        return gr.update(choices=lab.runs_with_model(), value=chosen), stages_of(chosen)

    name.input(stages_of, name, stage)
    on_tab(lambda: gr.update(choices=lab.runs_with_model()), name)
    if fill_on_load:
        on_load(first, None, [name, stage])
    return name, stage


def default_stage(lab: Lab, name: str | None, stage_index: int) -> str | None:
    """The stage of a run that is chosen at first: the one in this place, or the first of all; None without a run."""
    stages = lab.stages_if_readable(name)
    return stages[stage_index] if len(stages) >= abs(stage_index) else next(iter(stages), None)


def problem_box(elem_id: str) -> gr.Textbox:
    """Where a tab says what went wrong, as text; hidden until then."""
    return gr.Textbox(
        visible=False, label=words("message"), show_label=False, interactive=False, elem_id=elem_id, container=False
    )


def build_page(lab: Lab, tabs: dict[str, Callable[[Lab], None]]) -> gr.Blocks:
    """The whole page; tabs: the key of each tab's name in `words`, and what builds it."""
    with gr.Blocks(title="labkit", analytics_enabled=False) as blocks:
        with gr.Row(elem_classes="labkit-head"):
            gr.Markdown("# labkit")
            gr.Markdown(words("subtitle"))
            switch = gr.Button(words("other_language"), size="sm", elem_id="language")
        switch.click(None, None, None, js="() => labkit.switchLanguage()")
        with gr.Tabs() as all_tabs:
            for key, build in tabs.items():
                with gr.Tab(words(key), id=key):
                    build(lab)

        def open_named(request: gr.Request) -> Any:
            asked = request.query_params.get(TAB) or (LINK if LINK in request.query_params else None)
            return gr.Tabs(selected=asked) if asked in tabs else gr.skip()

        on_load(open_named, None, all_tabs)
    return blocks
