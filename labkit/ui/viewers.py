"""The viewers of the .js files here, in Gradio and in notebooks: both hand the same element the same data, and answer
what it asks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import anywidget
import traitlets

from labkit.interpret.views import Views

if TYPE_CHECKING:
    import gradio

Answer = Callable[[Mapping[str, Any]], dict[str, Any]]
FILES = ("common", "attention", "texts", "grid")
BUNDLE = "\n".join(files("labkit.ui").joinpath(f"{name}.js").read_text(encoding="utf-8") for name in FILES)
TEMPLATES = {
    "labkit-attention": "<labkit-attention></labkit-attention>",
    "labkit-texts": "<labkit-texts></labkit-texts>",
    "labkit-grid": "<labkit-grid></labkit-grid>",
}
SOURCE = f'(() => {{\nif (customElements.get("labkit-attention")) return;\n{BUNDLE}\n}})();\n'
IN_GRADIO = """
const view = element.querySelector("%s");
if (typeof server !== "undefined" && server && server.answer) view.ask = (question) => server.answer(question);
const show = () => { view.data = props.value; };
show();
watch("value", show);
"""
IN_NOTEBOOK = """
export default {
  render({ model, el }) {
    const view = document.createElement("%s"), waiting = new Map();
    let last = 0;
    view.ask = (question) => new Promise((resolve) => {
      last += 1;
      const id = last;
      waiting.set(id, resolve);
      setTimeout(() => { if (waiting.delete(id)) resolve(null); }, 60000); // nobody answers a saved page
      model.send({ id, question });
    });
    model.on("msg:custom", ({ id, answer }) => { if (waiting.has(id)) waiting.get(id)(answer); waiting.delete(id); });
    const show = () => { view.data = model.get("data"); };
    show();
    model.on("change:data", show);
    el.append(view);
  },
};
"""


def panel(
    element: str, data: dict[str, Any] | None = None, answer: Answer | None = None, **options: Any
) -> gradio.HTML:
    """A viewer as a Gradio component: "labkit-attention", "labkit-texts" or "labkit-grid". answer: what it asks.

    The template is fixed and the data reach the element as an object, so that no text in them can become markup.
    """
    import gradio

    def answer_(question: dict[str, Any]) -> dict[str, Any]:
        assert answer is not None
        return answer(question)

    answer_.__name__ = "answer"  # what the page calls it by
    return gradio.HTML(
        data,
        html_template=TEMPLATES[element],
        js_on_load=SOURCE + IN_GRADIO % element,
        server_functions=[answer_] if answer else None,
        **options,
    )


class AttentionViewer(anywidget.AnyWidget):
    """The attention viewer in a notebook: AttentionViewer(views), or AttentionViewer(views, "sft").

    `show` shows something else in its place.
    """

    _esm = SOURCE + IN_NOTEBOOK % "labkit-attention"
    data = traitlets.Dict().tag(sync=True)

    def __init__(self, views: Views, stage: str | None = None):
        super().__init__()
        self.on_msg(self._asked)
        self.show(views, stage)

    def show(self, views: Views, stage: str | None = None) -> None:
        """Show a text as the checkpoint `stage` reads it, the first when not given."""
        self.views = views
        self.data = views.view(views.names[0] if stage is None else stage)

    def _asked(self, widget: Any, message: dict[str, Any], buffers: Any) -> None:
        self.send({"id": message.get("id"), "answer": self.views.answer(message.get("question", {}))})


class TextsViewer(anywidget.AnyWidget):
    """Texts side by side in a notebook: TextsViewer(data=…) of what `labkit.ui.writing.compare` gives.

    answer: `labkit.ui.writing.answer` of the same lab, for what is asked of a token; without it, nothing is.
    """

    _esm = SOURCE + IN_NOTEBOOK % "labkit-texts"
    data = traitlets.Dict().tag(sync=True)

    def __init__(self, data: dict[str, Any], answer: Answer | None = None):
        super().__init__(data=data)
        self.answer = answer
        self.on_msg(self._asked)

    def _asked(self, widget: Any, message: dict[str, Any], buffers: Any) -> None:
        asked = message.get("question", {})
        self.send({"id": message.get("id"), "answer": self.answer(asked) if self.answer else None})


class GridViewer(anywidget.AnyWidget):
    """Numbers in rows and columns in a notebook: GridViewer(data={"rows", "columns", "values", "note"})."""

    _esm = SOURCE + IN_NOTEBOOK % "labkit-grid"
    data = traitlets.Dict().tag(sync=True)
