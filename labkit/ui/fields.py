"""Gradio's fields for numbers, which hand on what they would refuse: who asked for it says so in words."""

from __future__ import annotations

from typing import Any, TypeVar

import gradio as gr

F = TypeVar("F", gr.Slider, gr.Number)


def skip_gradio_check(field: F) -> F:
    """The field, for a handler that checks what it is given: Gradio's own check fails on None, and its refusals are
    in English.
    """
    check = field.preprocess

    def preprocess(payload: Any) -> Any:
        try:
            return check(payload)
        except (gr.Error, TypeError, ValueError):
            return payload

    vars(field)["preprocess"] = preprocess  # a class of our own would make Gradio write a .pyi file beside it
    return field
