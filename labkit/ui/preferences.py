"""The Preferences tab: blind pairs of answers, and a store of the votes on them."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
import torch

from labkit.decoding import generate
from labkit.decoding.filters import sampling_filters
from labkit.errors import LabError
from labkit.files import write_jsonl
from labkit.preferences.annotate import preference_task
from labkit.preferences.store import Choice, PreferenceStore, SourcedAnswer, pairs_from_votes
from labkit.runs.jobs import shorten_repr
from labkit.text.chat import decode_reply, encode_prompt
from labkit.text.pairs import pair_to_row
from labkit.ui.fields import skip_gradio_check
from labkit.ui.lab import Lab
from labkit.ui.shell import (
    MODEL_WORK,
    hide_box_update,
    on_load,
    on_tab,
    problem_box,
    run_and_stage_menus,
    show_advice_or_hide_update,
    show_error_update,
    translate_label,
    translate_message,
    words,
)
from labkit.world import Message

ANSWER_TOKENS = 60
ATTEMPTS = 8
KEYS: dict[Choice, str] = {"left": "←", "right": "→", "tie": "t", "both_bad": "b", "skip": "s"}
PRESS = """
const buttons = {ArrowLeft: "left", ArrowRight: "right", t: "tie", b: "both_bad", s: "skip", u: "undo"};
const area = document.querySelector("#vote-area");
area.tabIndex = 0;
area.setAttribute("role", "group");
area.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, textarea, select")) return;
  const name = buttons[event.key];
  if (!name) return;
  event.preventDefault();
  document.querySelector(`#vote-${name}`).click();
});
"""
LONGEST = 20_000
"""Characters of a prompt that is typed."""
LONGEST_NAME = 100
NOBODY = "anonymous"
"""Who votes without a name."""
VOTES = "votes.jsonl"
"""The name of a file of votes."""
HOTTEST = 2.0
"""The highest temperature."""


class AnswerSource(NamedTuple):
    """Who answers: the model after a stage of a run, drawing at a temperature."""

    run_name: str
    stage: str
    temperature: float

    def __str__(self) -> str:
        return f"{self.run_name} / {self.stage}, temperature {self.temperature:g}"


def run_name_of_source(source: str) -> str:
    """ "mine / sft, temperature 1" -> "mine": the run of a source as the votes know it."""
    return source.partition(" / ")[0]


def checked_answer_source(run_name: Any, stage: Any, temperature: Any) -> AnswerSource:
    """Who answers, of what a page says. Raises LabError for a temperature that is none."""
    if not isinstance(temperature, int | float) or not 0 <= temperature <= HOTTEST:
        raise LabError(f"The temperature must be a number from 0 to {HOTTEST:g}, not {shorten_repr(temperature)}.")
    return AnswerSource(run_name or "", stage or "", float(temperature))


def default_model_pair(lab: Lab) -> list[tuple[str, str]]:
    """Two models that can be compared, as (run, stage): the last of the newest run that did not fail and the one before
    it, or the last of the next run; twice the same where there is only one, and none where there is none.
    """
    models = [
        (name, stage)
        for name in lab.runs_with_model_failed_last()
        for stage in reversed(lab.language_model_stages(name))
    ]
    return models[:2] if len(models) > 1 else models * 2


def generate_and_store_pair(lab: Lab, store: PreferenceStore, sources: Sequence[AnswerSource], text: str = "") -> str:
    """Let two sources answer the same prompt, keep both answers on sides drawn by chance; the pair's id.

    text: what they are asked; a task of the first run's world when empty. Raises LabError when they say the same,
    whatever is drawn.
    """
    if len(text) > LONGEST:
        raise LabError(f"A prompt can have at most {LONGEST:,} characters, not {len(text):,}.")
    for _ in range(ATTEMPTS):
        seed = secrets.randbelow(2**31)
        prompt = (Message("user", text.strip()),) if text.strip() else _task(lab, sources, seed)
        answers = [
            SourcedAnswer(_answer(lab, source, prompt, seed + i), str(source)) for i, source in enumerate(sources)
        ]
        if answers[0].text != answers[1].text and all(answer.text for answer in answers):
            first = secrets.randbelow(2)
            return store.add_pair(prompt, answers[first], answers[1 - first])
    raise LabError(
        f"Both models gave the same answer {ATTEMPTS} times. Give one a higher temperature, or choose another model."
    )


def _task(lab: Lab, sources: Sequence[AnswerSource], seed: int) -> tuple[Message, ...]:
    """A task of the first source's world that leaves both models room to answer."""
    name, recipe = sources[0].run_name, lab.open(sources[0].run_name).recipe
    if recipe.text is not None or recipe.instructions is not None:
        raise LabError(f"{name} was trained on real text, so there are no TinyWorld questions for it. Type a prompt.")
    models = [(lab.tokenizer(one.run_name), lab.model(one.run_name, one.stage).config.context) for one in sources]
    for attempt in range(100):
        messages = preference_task(lab.world(name), "train", seed + attempt, secrets.randbelow(2**20)).messages
        if all(len(encode_prompt(tokenizer, messages)) + ANSWER_TOKENS // 2 < room for tokenizer, room in models):
            return messages
    raise LabError(f"TinyWorld's tasks are too long for the context of {name}. Type a shorter prompt.")


def _answer(lab: Lab, source: AnswerSource, prompt: tuple[Message, ...], seed: int) -> str:
    tokenizer = lab.tokenizer(source.run_name)
    ids = generate(
        lab.model(source.run_name, source.stage),
        [encode_prompt(tokenizer, prompt)],
        filters=sampling_filters(source.temperature, 0, 1.0),
        max_new_tokens=ANSWER_TOKENS,
        stop_ids=tokenizer.stop_ids,
        generator=torch.Generator().manual_seed(seed),
    )[0]
    return decode_reply(tokenizer, ids).strip()


def format_dialogue(prompt: Sequence[Message]) -> str:
    """All turns of a prompt, each with who says it; one turn alone as it is."""
    if len(prompt) == 1:
        return prompt[0].content
    return "\n\n".join(f"{translate_label(message.role)}: {message.content}" for message in prompt)


def ratings_table(store: PreferenceStore) -> list[list[str]]:
    """How each source does against all others."""
    found = store.win_rates()
    return [[translate_message(source), str(one.votes), f"{100 * one.win_rate:.0f} %"] for source, one in found.items()]


def _standings(store: PreferenceStore) -> dict[str, Any]:
    """`ratings_table` with its headers."""
    return {"headers": [translate_label(head) for head in ("model", "votes", "win rate")], "data": ratings_table(store)}


def export_preferences(store: PreferenceStore, folder: str | Path, annotator: str | None = None) -> Path:
    """The votes that prefer one answer, of an annotator or of all, as a file to train on: one JSON object a line, as
    `datasets` and TRL read it.

    Raises LabError when there is none.
    """
    pairs = pairs_from_votes(store.votes(annotator))
    if not pairs:
        raise LabError("No vote prefers one answer to another yet; there is nothing to train on.")
    file = Path(folder) / VOTES
    write_jsonl(file, map(pair_to_row, pairs))
    return file


class PreferenceWidgets(NamedTuple):
    """The tab's components that change."""

    pair: gr.State
    prompt: gr.Textbox
    left: gr.Textbox
    right: gr.Textbox
    problem: gr.Textbox
    vote_status: gr.Textbox
    standings: gr.Dataframe
    vote_kept: gr.State

    @property
    def updated_with_pair(self) -> list[Any]:
        """What a new pair fills."""
        return [self.pair, self.prompt, self.left, self.right, self.problem]


def build(lab: Lab, store: PreferenceStore) -> None:
    """The tab's components, in the Blocks that is open."""
    gr.Markdown(words("preferences_hint"))
    sources = _sources(lab)
    with gr.Row(elem_classes="labkit-bar"):
        text = gr.Textbox(label=words("own_prompt"), lines=1, scale=4, elem_id="pair-text")
        annotator = gr.Textbox(
            label=words("annotator"), placeholder=words("any_name"), scale=2, elem_id="pair-annotator"
        )
        another = gr.Button(words("new_pair"), variant="primary", scale=1, elem_id="pair-new")
    problem = problem_box("pair-problem")
    with gr.Column(elem_id="vote-area"):
        prompt = gr.Textbox(
            label=words("prompt"),
            placeholder=words("no_pair"),
            interactive=False,
            lines=3,
            max_lines=16,
            elem_id="pair-prompt",
        )
        with gr.Row():
            left = gr.Textbox(label=words("left"), interactive=False, lines=3, elem_id="pair-left")
            right = gr.Textbox(label=words("right"), interactive=False, lines=3, elem_id="pair-right")
        with gr.Row(elem_classes="labkit-votes"):
            votes = {
                choice: gr.Button(words(f"vote_{choice}"), elem_id=f"vote-{choice}", min_width=140) for choice in KEYS
            }
            undo = gr.Button(words("vote_undo"), elem_id="vote-undo", min_width=140)
    told = gr.Textbox(show_label=False, placeholder=words("no_vote"), interactive=False, elem_id="vote-said")
    gr.Markdown(words("standings_hint"))
    with gr.Row():
        standing = gr.Dataframe(
            headers=[""] * 3,
            label=words("standings_of"),
            datatype="str",
            interactive=False,
            elem_id="standings",
            scale=3,
        )
        with gr.Column(scale=1):
            write = gr.Button(words("export"), elem_id="votes-export")
            file = gr.File(visible=False, label=words("export"), elem_id="votes-file")
            why_not = problem_box("votes-problem")
    gr.HTML("", js_on_load=PRESS, visible="hidden")
    board = PreferenceWidgets(gr.State(""), prompt, left, right, problem, told, standing, gr.State(False))
    then_ask = _asks(lab, store, board, another.click, text.submit, [text, *sources])
    _votes(store, board, votes, undo, annotator, then_ask)
    write.click(partial(_save, store), None, [file, why_not])
    on_load(partial(_standings, store), None, standing)
    on_tab(partial(_standings, store), standing)


def _sources(lab: Lab) -> list[Any]:
    """The menus for who answers: run, stage and temperature, twice; filled with two models when the page opens."""
    menus: list[Any] = []
    found: list[Any] = []
    with gr.Row():
        for side, place in (("first", -1), ("second", -2)):
            with gr.Group():
                gr.Markdown(words(f"{side}_source"), padding=True)
                menus += run_and_stage_menus(lab, place, fill_on_load=False)
                hot = skip_gradio_check(
                    gr.Slider(0, HOTTEST, value=1.0, step=0.05, label=words("temperature"), elem_id=f"{side}-hot")
                )
                found += [*menus[-2:], hot]

    def fill() -> list[Any]:
        updates = []
        for name, stage in default_model_pair(lab):
            updates += [
                gr.update(choices=lab.runs_with_model(), value=name),
                gr.update(choices=lab.language_model_stages(name), value=stage),
            ]
        return updates or [gr.skip()] * 4

    on_load(fill, None, menus)
    return found


def _shown(store: PreferenceStore, pair: str) -> tuple[Any, ...]:
    asked, one, other = store.get_pair(pair)
    return pair, format_dialogue(asked), one.text, other.text, hide_box_update()


def _chosen(lab: Lab, values: Sequence[Any]) -> list[AnswerSource]:
    """Who answers: what the menus say, or will say first, where they are not filled yet."""
    firsts = default_model_pair(lab) or [("", ""), ("", "")]
    sides = (values[:3], values[3:])
    return [
        checked_answer_source(name or run, stage or (last if name in (None, "", run) else ""), temperature)
        for (name, stage, temperature), (run, last) in zip(sides, firsts, strict=True)
    ]


def _asks(
    lab: Lab, store: PreferenceStore, board: PreferenceWidgets, click: Any, submit: Any, inputs: list[Any]
) -> Callable[[Any], None]:
    """Let two events ask for a new pair; returns what lets a vote ask for one when it has been kept."""

    def fresh(text: Any, *values: Any) -> tuple[Any, ...]:
        try:
            return _shown(store, generate_and_store_pair(lab, store, _chosen(lab, values), str(text or "")))
        except LabError as error:
            return "", "", "", "", show_error_update(error)

    def after(kept: bool, *given: Any) -> tuple[Any, ...]:
        return fresh(*given) if kept else (gr.skip(),) * len(board.updated_with_pair)

    options: dict[str, Any] = {"concurrency_id": MODEL_WORK, "show_progress": "minimal"}
    asked = click(fresh, inputs, board.updated_with_pair, **options)
    asked.then(None, None, None, js=FOCUS)  # who asks by the button votes by keyboard at once
    submit(fresh, inputs, board.updated_with_pair, **options)
    return lambda voted: voted.then(
        after, [board.vote_kept, *inputs], board.updated_with_pair, concurrency_id=MODEL_WORK
    )


FOCUS = """() => {
  const at = document.activeElement, area = document.querySelector("#vote-area");
  if (at?.id === "pair-new" || at === document.body) area.focus({ preventScroll: true });
}"""


def _votes(
    store: PreferenceStore,
    board: PreferenceWidgets,
    buttons: dict[Choice, gr.Button],
    undo: gr.Button,
    annotator: gr.Textbox,
    then_ask: Callable[[Any], None],
) -> None:
    """Let the buttons vote, show then who was who, and ask for the next pair; let undo bring the last one back."""

    def vote(choice: Choice, pair: Any, annotator: Any) -> tuple[Any, ...]:
        """Keep the vote, and then only say who was who; or say why it was not kept."""
        try:
            annotator = checked_annotator_name(annotator)
            store.add_vote(pair, annotator, choice)
            _, one, other = store.get_pair(pair)
            count = store.count_votes(annotator)
            text = f"Votes by {annotator}, of all kinds: {count} · the last pair: ← {one.source}   → {other.source}"
            return translate_message(text), _standings(store), hide_box_update(), True
        except LabError as error:
            return gr.skip(), gr.skip(), show_error_update(error), False

    def take_back(annotator: Any) -> tuple[Any, ...]:
        try:
            taken = store.undo_last_vote(checked_annotator_name(annotator))
            if taken is None:
                return (
                    *(gr.skip(),) * len(board.updated_with_pair),
                    translate_message("There is nothing to undo."),
                    gr.skip(),
                )
            return (
                *_shown(store, taken),
                f"↶ {translate_message('Your last vote is undone.')}",
                _standings(store),
            )
        except LabError as error:
            return *(gr.skip(),) * (len(board.updated_with_pair) - 1), show_error_update(error), gr.skip(), gr.skip()

    told = [board.vote_status, board.standings, board.problem, board.vote_kept]
    for choice, button in buttons.items():
        then_ask(button.click(partial(vote, choice), [board.pair, annotator], told))
    undo.click(take_back, [annotator], [*board.updated_with_pair, board.vote_status, board.standings])


def checked_annotator_name(name: Any) -> str:
    """Who votes; `NOBODY` when no name is typed. Raises LabError for what is no name."""
    if not isinstance(name, str):
        raise LabError(f"The voter's name must be text, not {shorten_repr(name)}. Type your name.")
    if len(name) > LONGEST_NAME:
        raise LabError(f"A name can have at most {LONGEST_NAME} characters.")
    return name if name.strip() else NOBODY


def _save(store: PreferenceStore) -> tuple[Any, Any]:
    try:
        file = export_preferences(store, tempfile.mkdtemp())
        chosen, of_all = file.read_bytes().count(b"\n"), len(store.votes())
        told = f"Votes that prefer an answer: {chosen} of {of_all}. Ties, both bad and skips are left out."
        return gr.update(value=str(file), visible=True), show_advice_or_hide_update(told)
    except LabError as error:
        return gr.skip(), show_error_update(error)
