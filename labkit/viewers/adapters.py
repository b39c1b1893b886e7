"""The viewers of the .js files here, in Gradio and in notebooks: both hand the same element the same data, and answer
what it asks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import anywidget
import traitlets

from labkit.interpret.views import CheckpointInspections

if TYPE_CHECKING:
    import gradio

RequestHandler = Callable[[Mapping[str, Any]], dict[str, Any]]
FILES = ("common", "table", "attention", "texts", "grid")
BUNDLE = "\n".join(files("labkit.viewers").joinpath(f"{name}.js").read_text(encoding="utf-8") for name in FILES)
TEMPLATES = {
    "labkit-attention": "<labkit-attention></labkit-attention>",
    "labkit-texts": "<labkit-texts></labkit-texts>",
    "labkit-grid": "<labkit-grid></labkit-grid>",
    "labkit-table": "<labkit-table></labkit-table>",
}
SOURCE = f'(() => {{\nif (customElements.get("labkit-attention")) return;\n{BUNDLE}\n}})();\n'
IN_GRADIO = """
const view = element.querySelector("%s");
if (typeof server !== "undefined" && server && server.answer) {
  let open = 0;
  view.ask = async (question) => {
    open += 1;
    const late = setTimeout(() => { view.notice = view.waiting.server; }, 1500);
    try { return await server.answer(question); }
    finally { clearTimeout(late); open -= 1; if (!open) view.notice = ""; }
  };
  view.chooseCheckpoint = (checkpoint) => trigger("checkpoint", { checkpoint, run: view.data.subject.run });
}
const show = () => { view.data = props.value; };
show();
watch("value", show);
"""
SCRIPTS = {element: SOURCE + IN_GRADIO % element for element in TEMPLATES}
IN_NOTEBOOK = files("labkit.viewers").joinpath("notebook.js").read_text(encoding="utf-8")


def viewer_component(
    element: str,
    data: dict[str, Any] | None = None,
    handle_request: RequestHandler | None = None,
    translate_error: Callable[[str], str] = str,
    **options: Any,
) -> gradio.HTML:
    """A viewer of TEMPLATES as a Gradio component. handle_request: what it asks. translate_error: an error in the
    page's language.

    The template is fixed and the data reach the element as an object, so that no text in them can become markup.
    """
    import gradio

    def answer_(question: dict[str, Any]) -> dict[str, Any]:
        assert handle_request is not None
        found = handle_request(question)
        return {"error": translate_error(found["error"])} if set(found) == {"error"} else found

    answer_.__name__ = "answer"  # what the page calls it by
    return gradio.HTML(
        data,
        html_template=TEMPLATES[element],
        js_on_load=SCRIPTS[element],
        server_functions=[answer_] if handle_request else None,
        **options,
    )


class AttentionViewer(anywidget.AnyWidget):
    """The attention viewer in a notebook: AttentionViewer(inspections), or AttentionViewer(inspections, "sft").

    `show_inspections` shows something else in its place.
    """

    _esm = SOURCE + IN_NOTEBOOK.replace("ELEMENT", "labkit-attention")
    data = traitlets.Dict().tag(sync=True)

    def __init__(self, inspections: CheckpointInspections, checkpoint_name: str | None = None):
        super().__init__()
        self.on_msg(self._asked)
        self.show_inspections(inspections, checkpoint_name)

    def show_inspections(self, inspections: CheckpointInspections, checkpoint_name: str | None = None) -> None:
        """Show a text as the checkpoint `checkpoint_name` reads it, the first when not given."""
        self.inspections = inspections
        self.data = inspections.attention_viewer_data(
            inspections.checkpoint_names[0] if checkpoint_name is None else checkpoint_name
        )

    def _asked(self, widget: Any, message: dict[str, Any], buffers: Any) -> None:
        self.send({"id": message.get("id"), "answer": self.inspections.handle_request(message.get("question", {}))})


class TextsViewer(anywidget.AnyWidget):
    """Texts side by side in a notebook: TextsViewer(data=…) of what `labkit.ui.writing.stream_comparison` gives.

    handle_request: `labkit.ui.writing.handle_viewer_request` of the same lab, for what is asked of a token; without it,
    nothing is.
    """

    _esm = SOURCE + IN_NOTEBOOK.replace("ELEMENT", "labkit-texts")
    data = traitlets.Dict().tag(sync=True)

    def __init__(self, data: dict[str, Any], handle_request: RequestHandler | None = None):
        super().__init__(data=data)
        self.handle_request = handle_request
        self.on_msg(self._asked)

    def _asked(self, widget: Any, message: dict[str, Any], buffers: Any) -> None:
        asked = message.get("question", {})
        self.send({"id": message.get("id"), "answer": self.handle_request(asked) if self.handle_request else None})


class GridViewer(anywidget.AnyWidget):
    """Numbers in rows and columns in a notebook: GridViewer(data={"rows", "columns", "values", "note"})."""

    _esm = SOURCE + IN_NOTEBOOK.replace("ELEMENT", "labkit-grid")
    data = traitlets.Dict().tag(sync=True)
