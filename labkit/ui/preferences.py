"""The Preferences tab: two answers, nobody says whose, and a vote that is kept."""

from __future__ import annotations

import json
import secrets
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
import torch

from labkit.decoding import generate
from labkit.errors import LabError
from labkit.preferences.annotate import preference_task
from labkit.preferences.store import Answer, Choice, Store, preference_pairs, standings
from labkit.talk import filters
from labkit.text.chat import decode_reply, encode_prompt
from labkit.text.pairs import pair_columns
from labkit.ui.lab import Lab
from labkit.ui.shell import MODEL_WORK, first_stage, on_load, pick_run, problem_box, words
from labkit.world import Message

ANSWER_TOKENS = 60
ATTEMPTS = 8
KEYS: dict[Choice, str] = {"left": "←", "right": "→", "tie": "t", "both_bad": "b", "skip": "s"}
PRESS = """
const buttons = {ArrowLeft: "left", ArrowRight: "right", t: "tie", b: "both_bad", s: "skip", u: "undo"};
document.addEventListener("keydown", (event) => {
  const here = document.querySelector("#vote-left");
  const typing = event.composedPath()[0];
  if (!here || here.offsetParent === null || event.ctrlKey || event.metaKey || event.altKey) return;
  if (typing.matches && typing.matches("input, textarea, select, [role=listbox], [role=slider]")) return;
  const name = buttons[event.key];
  if (!name) return;
  event.preventDefault();
  document.querySelector(`#vote-${name}`).click();
});
"""


class Source(NamedTuple):
    """Who answers: the model after a stage of a run, drawing at a temperature."""

    name: str
    stage: str
    temperature: float

    def __str__(self) -> str:
        return f"{self.name} / {self.stage}, temperature {self.temperature:g}"


def new_pair(lab: Lab, store: Store, sources: Sequence[Source], text: str = "") -> str:
    """Let two sources answer the same prompt, keep both answers on sides drawn by chance; the pair's id.

    text: what they are asked; a task of the first run's world when empty. Raises LabError when they say the same,
    whatever is drawn.
    """
    for _ in range(ATTEMPTS):
        seed = secrets.randbelow(2**31)
        prompt = (Message("user", text.strip()),) if text.strip() else _task(lab, sources, seed)
        answers = [Answer(_answer(lab, source, prompt, seed + i), str(source)) for i, source in enumerate(sources)]
        if answers[0].text != answers[1].text and all(answer.text for answer in answers):
            first = secrets.randbelow(2)
            return store.show(prompt, answers[first], answers[1 - first])
    raise LabError(f"Both said the same {ATTEMPTS} times. Give one a higher temperature, or choose another model.")


def _task(lab: Lab, sources: Sequence[Source], seed: int) -> tuple[Message, ...]:
    """A task of the first source's world that leaves both models room to answer."""
    name, recipe = sources[0].name, lab.run(sources[0].name).recipe
    if recipe.text is not None or recipe.instructions is not None:
        raise LabError(f"{name} has read real text, about which no questions are known. Type what to ask.")
    models = [(lab.tokenizer(one.name), lab.model(one.name, one.stage).config.context) for one in sources]
    for attempt in range(100):
        messages = preference_task(lab.world(name), "train", seed + attempt, secrets.randbelow(2**20)).messages
        if all(len(encode_prompt(tokenizer, messages)) + ANSWER_TOKENS // 2 < room for tokenizer, room in models):
            return messages
    raise LabError(f"The tasks of {name} leave its model no room to answer. Type something shorter to ask.")


def _answer(lab: Lab, source: Source, prompt: tuple[Message, ...], seed: int) -> str:
    tokenizer = lab.tokenizer(source.name)
    ids = generate(
        lab.model(source.name, source.stage),
        [encode_prompt(tokenizer, prompt)],
        steps=filters(source.temperature, 0, 1.0),
        max_new_tokens=ANSWER_TOKENS,
        stop_ids=tokenizer.stops,
        generator=torch.Generator().manual_seed(seed),
    )[0]
    return decode_reply(tokenizer, ids).strip()


def table(store: Store) -> list[list[str]]:
    """How each source does against all others."""
    found = standings(store.votes())
    return [[source, str(one.votes), f"{100 * one.win_rate:.0f} %"] for source, one in found.items()]


def export(store: Store, folder: str | Path) -> Path:
    """The votes that prefer one answer as a file to train on: one JSON object a line, as `datasets` and TRL read it.

    Raises LabError when there is none.
    """
    pairs = preference_pairs(store.votes())
    if not pairs:
        raise LabError("No vote prefers one answer to another yet; there is nothing to train on.")
    file = Path(folder) / "votes.jsonl"
    file.write_text("".join(json.dumps(pair_columns(pair), ensure_ascii=False) + "\n" for pair in pairs), "utf-8")
    return file


class Board(NamedTuple):
    """The tab's components that change."""

    pair: gr.State
    prompt: gr.Textbox
    left: gr.Textbox
    right: gr.Textbox
    problem: gr.Textbox
    said: gr.Textbox
    standings: gr.Dataframe
    kept: gr.State

    @property
    def shown(self) -> list[Any]:
        """What a new pair fills."""
        return [self.pair, self.prompt, self.left, self.right, self.problem]


def build(lab: Lab, store: Store) -> None:
    """The tab's components, in the Blocks that is open."""
    gr.Markdown(words("preferences_hint"))
    sources = _sources(lab)
    with gr.Row(elem_classes="labkit-bar"):
        text = gr.Textbox(label=words("own_prompt"), lines=1, scale=4, elem_id="pair-text")
        annotator = gr.Textbox("me", label=words("annotator"), scale=1, elem_id="pair-annotator")
        another = gr.Button(words("new_pair"), variant="primary", scale=1, elem_id="pair-new")
    problem = problem_box("pair-problem")
    prompt = gr.Textbox(label=words("prompt"), interactive=False, lines=3, elem_id="pair-prompt")
    with gr.Row():
        left = gr.Textbox(label=words("left"), interactive=False, lines=3, elem_id="pair-left")
        right = gr.Textbox(label=words("right"), interactive=False, lines=3, elem_id="pair-right")
    with gr.Row(elem_classes="labkit-votes"):
        votes = {choice: gr.Button(words(f"vote_{choice}"), elem_id=f"vote-{choice}", min_width=140) for choice in KEYS}
        undo = gr.Button(words("vote_undo"), elem_id="vote-undo", min_width=140)
    said = gr.Textbox(show_label=False, interactive=False, elem_id="vote-said")
    with gr.Row():
        heads = ["source", "votes", "wins"]
        standing = gr.Dataframe(headers=heads, datatype="str", interactive=False, elem_id="standings", scale=3)
        with gr.Column(scale=1):
            write = gr.Button(words("export"), elem_id="votes-export")
            file = gr.File(visible=False, label=words("export"), elem_id="votes-file")
            why_not = problem_box("votes-problem")
    gr.HTML("", js_on_load=PRESS, visible="hidden")
    board = Board(gr.State(""), prompt, left, right, problem, said, standing, gr.State(False))
    then_ask = _asks(lab, store, board, [another.click, text.submit], [text, *sources])
    _votes(store, board, votes, undo, annotator, then_ask)
    write.click(partial(_save, store), None, [file, why_not])
    on_load(partial(table, store), None, standing)


PLACES = (-1, -3)
"""Which stages are compared at first: the last, and the one two before it."""


def _source(lab: Lab, place: int, name: str | None, stage: str | None, temperature: float) -> Source:
    """What the menus say; what they will say first, where they are not filled yet."""
    name = name or next(iter(lab.names()), "")
    return Source(name, stage or first_stage(lab, name, place) or "", temperature)


def _sources(lab: Lab) -> list[Any]:
    """The menus for who answers: run, stage and temperature, twice."""
    found: list[Any] = []
    with gr.Row():
        for side, place in zip(("first", "second"), PLACES, strict=True):
            with gr.Group():
                gr.Markdown(words(f"{side}_source"), padding=True)
                found += [*pick_run(lab, place), gr.Slider(0, 2, value=1.0, step=0.05, label=words("temperature"))]
    return found


def _shown(store: Store, pair: str) -> tuple[Any, ...]:
    asked, one, other = store.pair(pair)
    return pair, asked[-1].content, one.text, other.text, gr.update(visible=False)


def _asks(lab: Lab, store: Store, board: Board, events: list[Any], inputs: list[Any]) -> Callable[[Any], None]:
    """Let `events` ask for a new pair; returns what lets a vote ask for one when it has been kept."""

    def fresh(text: str, *values: Any) -> tuple[Any, ...]:
        try:
            sources = [_source(lab, PLACES[0], *values[:3]), _source(lab, PLACES[1], *values[3:])]
            return _shown(store, new_pair(lab, store, sources, text))
        except LabError as error:
            return "", "", "", "", gr.update(value=str(error), visible=True)

    def after(kept: bool, *given: Any) -> tuple[Any, ...]:
        return fresh(*given) if kept else (gr.skip(),) * len(board.shown)

    gr.on(events, fresh, inputs, board.shown, concurrency_id=MODEL_WORK, show_progress="minimal")
    return lambda voted: voted.then(after, [board.kept, *inputs], board.shown, concurrency_id=MODEL_WORK)


def _votes(
    store: Store,
    board: Board,
    buttons: dict[Choice, gr.Button],
    undo: gr.Button,
    annotator: gr.Textbox,
    then_ask: Callable[[Any], None],
) -> None:
    """Let the buttons vote, show then who was who, and ask for the next pair; let undo bring the last one back."""

    def vote(choice: Choice, pair: str, annotator: str) -> tuple[Any, ...]:
        """Keep the vote, and then only say who was who; or say why it was not kept."""
        try:
            store.vote(pair, annotator, choice)
        except LabError as error:
            return gr.skip(), gr.skip(), gr.update(value=str(error), visible=True), False
        _, one, other = store.pair(pair)
        count = len(store.votes(annotator))
        return (
            f"{count} · the last pair: ← {one.source}   → {other.source}",
            table(store),
            gr.update(visible=False),
            True,
        )

    def take_back(annotator: str) -> tuple[Any, ...]:
        taken = store.undo(annotator)
        if taken is None:
            return *(gr.skip(),) * len(board.shown), "There is no vote to take back.", gr.skip()
        return *_shown(store, taken), "↶ The last vote is taken back.", table(store)

    told = [board.said, board.standings, board.problem, board.kept]
    for choice, button in buttons.items():
        then_ask(button.click(partial(vote, choice), [board.pair, annotator], told))
    undo.click(take_back, [annotator], [*board.shown, board.said, board.standings])


def _save(store: Store) -> tuple[Any, Any]:
    try:
        return gr.update(value=str(export(store, tempfile.mkdtemp())), visible=True), gr.update(visible=False)
    except LabError as error:
        return gr.skip(), gr.update(value=str(error), visible=True)
