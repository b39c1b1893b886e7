"""The viewers of viewers.js, in Gradio and in notebooks: both hand the same element the same data."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Any

import anywidget
import traitlets

if TYPE_CHECKING:
    import gradio

SOURCE = files("labkit.ui").joinpath("viewers.js").read_text(encoding="utf-8")
IN_GRADIO = """
const show = () => { element.querySelector("labkit-attention, labkit-texts").data = props.value; };
show();
watch("value", show);
"""
IN_NOTEBOOK = """
export default {
  render({ model, el }) {
    const view = document.createElement("%s");
    const show = () => { view.data = model.get("data"); };
    show();
    model.on("change:data", show);
    el.append(view);
  },
};
"""


def attention_panel(data: dict[str, Any] | None = None, **options: Any) -> gradio.HTML:
    """The attention viewer as a Gradio component whose value is what `for_viewer` gives.

    The template is fixed and the data reach the element as an object, so that no text in them can become markup.
    """
    import gradio

    template = "<labkit-attention></labkit-attention>"
    return gradio.HTML(data, html_template=template, js_on_load=SOURCE + IN_GRADIO, **options)


def texts_panel(data: dict[str, Any] | None = None, **options: Any) -> gradio.HTML:
    """Texts side by side, token by token, with the candidates of a chosen one; handed over in the same way."""
    import gradio

    return gradio.HTML(data, html_template="<labkit-texts></labkit-texts>", js_on_load=SOURCE + IN_GRADIO, **options)


class AttentionViewer(anywidget.AnyWidget):
    """The same in a notebook: AttentionViewer(data=for_viewer(found)). Setting `data` shows something else."""

    _esm = SOURCE + IN_NOTEBOOK % "labkit-attention"
    data = traitlets.Dict().tag(sync=True)


class TextsViewer(anywidget.AnyWidget):
    """Texts side by side in a notebook: TextsViewer(data=…) of what `labkit.ui.decoding.compare` gives."""

    _esm = SOURCE + IN_NOTEBOOK % "labkit-texts"
    data = traitlets.Dict().tag(sync=True)
