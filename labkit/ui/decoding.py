"""The Decoding tab: the same prompt under several settings at once, with the same random numbers."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

import gradio as gr
import torch

from labkit.decoding import Step, trace
from labkit.errors import LabError
from labkit.talk import filters
from labkit.text.chat import encode_opening, encode_prompt
from labkit.text.tokenizer import Tokenizer
from labkit.ui.lab import Lab
from labkit.ui.shell import MODEL_WORK, pick_run, problem_box, words
from labkit.ui.viewers import panel
from labkit.world import Message

MOST = 4
SEEDS = 2**32
TOGETHER = 4
"""Tokens that are shown at once: all that is written is sent each time."""


class Setting(NamedTuple):
    """temperature: 0 is greedy; top_k: 0 keeps all; top_p: 1 keeps all."""

    temperature: float
    top_k: int = 0
    top_p: float = 1.0

    def __str__(self) -> str:
        parts = ["greedy" if self.temperature == 0 else f"temperature {self.temperature:g}"]
        parts += [f"top-k {self.top_k}"] if self.top_k else []
        parts += [f"top-p {self.top_p:g}"] if self.top_p < 1 else []
        return ", ".join(parts)


DEFAULTS = (Setting(0.0), Setting(0.8), Setting(1.0, top_p=0.9), Setting(1.5))


def prompt_ids(tokenizer: Tokenizer, stage: str, text: str) -> list[int]:
    """What a model of that stage is given: a beginning for a base model, a message for one that was tuned to answer."""
    if stage == "pretrain":
        return encode_opening(tokenizer, text.strip())
    return encode_prompt(tokenizer, [Message("user", text.strip())])


def compare(
    lab: Lab, name: str, stage: str, text: str, settings: Sequence[Setting], seed: int, new_tokens: int
) -> Iterator[dict[str, Any]]:
    """What the viewer shows, again after every few tokens: all texts as far as they are written, and where they part.

    Every setting sees the same random number at the same step. Raises LabError for what cannot be written on from.
    """
    if not 0 <= seed < SEEDS:
        raise LabError(f"A seed is a whole number from 0 to {SEEDS - 1}, not {seed}.")
    tokenizer, model = lab.tokenizer(name), lab.model(name, stage)
    prompt, stops = prompt_ids(tokenizer, stage, text), tokenizer.specials
    traces = [
        trace(
            model,
            prompt,
            steps=filters(*setting),
            max_new_tokens=new_tokens,
            stop_ids=stops,
            generator=torch.Generator().manual_seed(seed),
        )
        for setting in settings
    ]
    key = uuid.uuid4().hex  # tells the viewer that another comparison has begun
    columns: list[dict[str, Any]] = [{"label": str(setting), "tokens": [], "done": False} for setting in settings]
    written: list[list[int]] = [[] for _ in settings]
    for number, steps in enumerate(zip_longest(*traces)):
        for column, ids, step in zip(columns, written, steps, strict=True):
            if step is None:
                column["done"] = True
            else:
                ids.append(step.token)
                column["tokens"].append(_shown(tokenizer, step))
        if number % TOGETHER == 0:
            yield {"key": key, "columns": columns, "parts": first_difference(written)}
    yield {
        "key": key,
        "columns": [column | {"done": True} for column in columns],
        "parts": first_difference(written, ended=True),
    }


def stopped(data: dict[str, Any] | None) -> dict[str, Any] | None:
    """What the viewer shows when the texts that it has will not be written on."""
    return data and data | {"columns": [column | {"done": True} for column in data["columns"]]}


def first_difference(written: Sequence[Sequence[int]], ended: bool = False) -> int | None:
    """Where token ids first differ: first_difference([[5, 6], [5, 7]]) -> 1; None where they do not.

    ended: no text goes on, so that one which is over differs from one that is not.
    """
    for place, tokens in enumerate(zip_longest(*written)):
        known = set(tokens) if ended else set(tokens) - {None}
        if len(known) > 1:
            return place
    return None


def _shown(tokenizer: Tokenizer, step: Step) -> dict[str, Any]:
    candidates = [[tokenizer.token(c.token), c.probability, c.kept, c.token == step.token] for c in step.candidates]
    return {"text": tokenizer.token(step.token), "ended": step.ended, "candidates": candidates}


def build(lab: Lab) -> None:
    """The tab's components, in the Blocks that is open."""
    gr.Markdown(words("decoding_hint"))
    with gr.Row():
        name, stage = pick_run(lab)
        how_many = gr.Radio([2, 3, 4], value=3, label=words("how_many"))
        seed = gr.Number(0, label=words("seed"), precision=0)
        new_tokens = gr.Slider(10, 200, value=80, step=10, label=words("new_tokens"))
    columns, knobs = [], []
    with gr.Row():
        for number, setting in enumerate(DEFAULTS):
            with gr.Column(visible=number < 3, min_width=180) as column:
                knobs += [
                    gr.Slider(0, 2, value=setting.temperature, step=0.05, label=words("temperature")),
                    gr.Slider(0, 100, value=setting.top_k, step=1, label=words("top_k")),
                    gr.Slider(0.05, 1, value=setting.top_p, step=0.05, label=words("top_p")),
                ]
            columns.append(column)
    with gr.Row(elem_classes="labkit-bar"):
        text = gr.Textbox(label=words("prompt"), lines=3, scale=4, min_width=260, elem_id="decoding-prompt")
        with gr.Column(scale=1, min_width=120):
            button = gr.Button(words("compare"), variant="primary", elem_id="decoding-compare")
            stop = gr.Button(words("stop"))
    problem = problem_box("decoding-problem")
    view = panel("labkit-texts", elem_id="decoding-view")

    def show(name: str, stage: str, text: str, many: int, seed: int, tokens: int, *values: float) -> Iterator[Any]:
        chosen = [Setting(values[3 * i], int(values[3 * i + 1]), values[3 * i + 2]) for i in range(int(many))]
        yield gr.skip(), gr.update(visible=False)
        try:
            for data in compare(lab, name, stage, text, chosen, int(seed or 0), int(tokens)):
                yield data, gr.skip()
        except LabError as error:
            yield None, gr.update(value=str(error), visible=True)

    how_many.change(lambda many: [gr.update(visible=i < many) for i in range(MOST)], how_many, columns)
    gr.on([name.change], lambda name: lab.example(name) if name else "", name, text)
    going = gr.on(
        [button.click, text.submit],
        show,
        [name, stage, text, how_many, seed, new_tokens, *knobs],
        [view, problem],
        concurrency_id=MODEL_WORK,
        show_progress="minimal",
    )
    stop.click(stopped, view, view, cancels=[going])
