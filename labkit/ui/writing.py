"""What the Decoding tab shows: texts under several strategies from the same random numbers, and what is asked of them.

Nothing is kept between two questions: what is asked holds all that its answer needs, and what a link holds writes the
same text again.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from typing import Any, NamedTuple

import torch

from labkit.decode_compare import Asked, first_difference, task_of
from labkit.decode_compare import compare as compare_scores
from labkit.decoding import History, Step, beam_search, read_back, trace
from labkit.decoding.scores import Score
from labkit.decoding.strategies import Beside, Strategy, parse, said
from labkit.decoding.stream import filtered, weighed
from labkit.errors import LabError
from labkit.judges import by_oracle, by_reward
from labkit.model.transformer import Transformer
from labkit.text.chat import encode_opening, encode_prompt
from labkit.text.tokenizer import Tokenizer
from labkit.ui.lab import Lab
from labkit.world import Message, World

SEEDS = 2**32
LONGEST = 1000
"""New tokens that may be asked for."""
MOST = 12
"""Columns side by side, branches among them."""
TOGETHER = 4
"""Tokens that are shown at once: all that is written is sent each time."""
TREE = 6000
"""Steps of beams that are drawn at most."""


class Column(NamedTuple):
    """A strategy as a line, and the tokens that its text begins with: none, or those up to where it was branched."""

    strategy: str
    begins: tuple[int, ...] = ()


@dataclass(frozen=True)
class Settings:
    """All that a comparison is made of; as JSON, all that a link holds.

    stop: texts that end writing. draft: the stage whose model guesses ahead for "speculative"; the first when empty.
    checkpoint: a hash of the weights that wrote; empty for whatever is there.
    """

    run: str
    stage: str
    prompt: str
    columns: tuple[Column, ...]
    seed: int = 0
    tokens: int = 80
    stop: tuple[str, ...] = ()
    draft: str = ""
    checkpoint: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.seed < SEEDS:
            raise LabError(f"A seed is a whole number from 0 to {SEEDS - 1}, not {self.seed}.")
        if not 1 <= self.tokens <= LONGEST:
            raise LabError(f"A text has from 1 to {LONGEST} new tokens, not {self.tokens}.")
        if not 1 <= len(self.columns) <= MOST:
            raise LabError(f"From 1 to {MOST} strategies are compared, not {len(self.columns)}.")

    @classmethod
    def read(cls, raw: Any) -> Settings:
        """What `json` gave. Raises LabError for anything else."""
        try:
            values = dict(raw)
            columns = tuple(Column(str(one["strategy"]), tuple(map(int, one["begins"]))) for one in values["columns"])
            texts = {name: str(values.get(name, "")) for name in ("draft", "checkpoint")}
            return cls(
                str(values["run"]),
                str(values["stage"]),
                str(values["prompt"]),
                columns,
                int(values.get("seed", 0)),
                int(values.get("tokens", 80)),
                tuple(map(str, values.get("stop", ()))),
                **texts,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise LabError(f"These are no settings of a comparison: {type(error).__name__} {error}.") from None

    @classmethod
    def of_link(cls, text: str) -> Settings:
        """From the text of a link. Raises LabError for one that is damaged."""
        try:
            return cls.read(json.loads(text))
        except json.JSONDecodeError as error:
            raise LabError(f"This link holds no settings that can be read: {error}.") from None

    def json(self) -> dict[str, Any]:
        """As a viewer and a link hold it."""
        return asdict(self) | {
            "columns": [{"strategy": one.strategy, "begins": list(one.begins)} for one in self.columns]
        }


class Desk(NamedTuple):
    """What is needed to write: the model, its tokenizer, the prompt's tokens, and what stands beside."""

    model: Transformer
    tokenizer: Tokenizer
    prompt: list[int]
    beside: Beside


def prompt_ids(tokenizer: Tokenizer, stage: str, text: str) -> list[int]:
    """What a model of that stage is given: a beginning for a base model (for no text, it begins one itself), a message
    for one that was tuned to answer. Raises LabError for no message.
    """
    if stage == "pretrain":
        return encode_opening(tokenizer, text.strip())
    if not text.strip():
        raise LabError("There is nothing to reply to: type a prompt.")
    return encode_prompt(tokenizer, [Message("user", text.strip())])


def world_of(lab: Lab, run: str) -> World | None:
    """The world that a run learnt from; None where that was real text."""
    recipe = lab.run(run).recipe
    return None if recipe.text is not None or recipe.instructions is not None else lab.world(run)


def desk(lab: Lab, settings: Settings) -> Desk:
    """Raises LabError for a run or a stage that is not there."""
    tokenizer, model = lab.tokenizer(settings.run), lab.model(settings.run, settings.stage)
    prompt = prompt_ids(tokenizer, settings.stage, settings.prompt)
    world, judge = world_of(lab, settings.run), None
    task = None if world is None else task_of(world, settings.prompt.strip())
    scorer = lab.scorer(settings.run)
    if scorer is not None:
        judge = by_reward(scorer, tokenizer)
    elif world is not None and task is not None:
        judge = by_oracle(world, {tuple(prompt): task}, next(iter(world.profiles)), tokenizer)
    draft = lab.model(settings.run, settings.draft or lab.stages(settings.run)[0])
    return Desk(model, tokenizer, prompt, Beside(tokenizer, settings.stop, draft, judge))


def checkpoint(lab: Lab, settings: Settings) -> str:
    """A hash of the weights that write."""
    file = lab.run(settings.run).stage(settings.stage).path / "model.safetensors"
    return lab.keep(file, lambda: hashlib.sha256(file.read_bytes()).hexdigest()[:12], "hash")


def compare(lab: Lab, settings: Settings) -> Iterator[dict[str, Any]]:
    """What the viewer shows, again after every few tokens: all texts as far as they are written, and where they part.

    Every strategy that draws token by token sees the same random number at the same step. Raises LabError for what
    cannot be written on from.
    """
    at = desk(lab, settings)
    settings = Settings(**(vars(settings) | {"checkpoint": checkpoint(lab, settings)}))
    strategies = [_understood(number, column.strategy, at) for number, column in enumerate(settings.columns, 1)]
    texts = [
        written(at, strategy, column, settings) for strategy, column in zip(strategies, settings.columns, strict=True)
    ]
    shared = {"key": uuid.uuid4().hex, "settings": settings.json()}  # the key tells that another comparison has begun
    columns = [_head(one, column) for one, column in zip(strategies, settings.columns, strict=True)]
    for number, latest in enumerate(zip_longest(*texts)):
        for column, tokens in zip(columns, latest, strict=True):
            column.update({"done": True} if tokens is None else {"tokens": tokens})
        if number % TOGETHER == 0:
            yield {**shared, "columns": columns, "parts": parting(columns)}
    columns = [column | {"done": True} for column in columns]
    yield {**shared, "columns": columns, "parts": parting(columns)}


def _understood(number: int, line: str, at: Desk) -> Strategy:
    """A line as a strategy; what is wrong with it names the place where it stands."""
    try:
        strategy = parse(line)
        strategy.steps(at.tokenizer)
    except LabError as error:
        raise LabError(f"Strategy {number}, {line}: {error}") from None
    return strategy


def stopped(data: dict[str, Any] | None) -> dict[str, Any] | None:
    """What the viewer shows when the texts that it has will not be written on."""
    if data is None:
        return None
    return data | {"columns": [column | {"done": True, "stopped": not column["done"]} for column in data["columns"]]}


def parting(columns: Sequence[Mapping[str, Any]]) -> int | None:
    """Where the texts first differ; None where they do not, as far as they are written."""
    ids = [[-1 if token["ended"] else token["id"] for token in column["tokens"]] for column in columns]
    return first_difference(ids, ended=all(column["done"] for column in columns))


def written(at: Desk, strategy: Strategy, column: Column, settings: Settings) -> Iterator[list[dict[str, Any]]]:
    """The tokens of a column as the viewer shows them, again and again as they change."""
    _check_begins(at, column)
    begins, tokenizer = list(column.begins), at.tokenizer
    common: dict[str, Any] = {"stop_ids": tokenizer.specials}
    steps = strategy.steps(tokenizer)
    if strategy.kind in ("sample", "greedy"):
        shown: list[dict[str, Any]] = []
        common |= {"stop": at.beside.stops(), "begins": begins, "leading": 1, "max_new_tokens": settings.tokens}
        generator = torch.Generator().manual_seed(settings.seed)
        for step in trace(at.model, at.prompt, steps=steps, generator=generator, **common):
            shown.append(_token(tokenizer, step))
            if step.ended and not shown[-1]["ended"]:  # by a stop text, which stays to be seen
                shown.append({"id": -1, "text": "", "ended": True, "stop": True})
            yield list(shown)
        return
    text: list[int] = []
    prompt, left = [*at.prompt, *begins], max(1, settings.tokens - len(begins))
    streamed = strategy.stream(
        at.model, prompt, max_new_tokens=left, seed=settings.seed, beside=_behind(at, begins), **common
    )
    for text in streamed:
        yield [{"id": one, "text": tokenizer.token(one), "ended": False} for one in [*begins, *text]]
    ended = len(text) < min(left, at.model.config.context - len(prompt))
    whole = [*begins, *text, *([tokenizer.end] if ended else [])]
    final = [_token(tokenizer, step) for step in read_back(at.model, at.prompt, whole, steps=steps)]
    if ended:  # which of the two it was, if there are stop texts, is not known
        final[-1] |= {"text": "", "ended": True, "stop": bool(settings.stop)}
    yield final


def _behind(at: Desk, begins: Sequence[int]) -> Beside:
    """The judge is told of a branch's beginning as part of the answer, not of the prompt."""
    judge = at.beside.judge
    if judge is None or not begins:
        return at.beside
    known = judge
    return Beside(
        at.beside.tokenizer,
        at.beside.stop,
        at.beside.draft,
        lambda prompt, answers: known(at.prompt, [[*begins, *answer] for answer in answers]),
    )


def _check_begins(at: Desk, column: Column) -> None:
    unknown = [token for token in column.begins if not 0 <= token < at.model.config.vocabulary]
    if unknown:
        raise LabError(f"There is no token {unknown[0]} in this model's vocabulary of {at.model.config.vocabulary}.")


def _head(strategy: Strategy, column: Column) -> dict[str, Any]:
    """What a column says before its text."""
    kind = str(Strategy(strategy.kind, (), strategy.options))
    return {
        "strategy": str(strategy),
        "kind": strategy.kind,
        "head": "" if kind == "sample" else kind,
        "filters": [[name, said(value)] for name, value in strategy.filters],
        "begins": list(column.begins),
        "tokens": [],
        "done": False,
    }


def _token(tokenizer: Tokenizer, step: Step) -> dict[str, Any]:
    special = step.token in tokenizer.specials
    return {
        "id": step.token,
        "text": "" if special else tokenizer.token(step.token),
        "ended": step.ended and special,
        "entropy": [round(x, 4) for x in step.entropy],
    }


def answer(lab: Lab, question: Mapping[str, Any]) -> dict[str, Any]:
    """What a viewer wants to know: {"what": "step" | "branch" | "tree", "settings", "column"}, for "step" with the
    place of a token and, as "line", a strategy in place of the column's. What goes wrong is an answer too: {"error"}.
    """
    try:
        with lab.answering:
            settings = Settings.read(question.get("settings"))
            column = Settings.read({**settings.json(), "columns": [question.get("column")]}).columns[0]
            found = {"step": _step, "branch": _branch, "tree": _tree}.get(str(question.get("what")))
            if found is None:
                raise LabError("This is no question about a text.")
            return found(desk(lab, settings), settings, column)
    except LabError as error:
        return {"error": str(error)}


def _step(at: Desk, settings: Settings, column: Column) -> dict[str, Any]:
    """What is weighed for the last of the column's tokens, under its strategy."""
    _check_begins(at, column)
    strategy = parse(column.strategy)
    steps = strategy.steps(at.tokenizer)
    *before, token = column.begins or (None,)
    if token is None:
        raise LabError("There is no token to look at.")
    ids = torch.tensor([[*at.prompt, *before]], device=at.model.embedding.weight.device)
    if ids.shape[1] > at.model.config.context:
        raise LabError(f"The text has {ids.shape[1]} tokens, and the model's context is {at.model.config.context}.")
    with torch.no_grad():
        raw = at.model(ids)[:, -1].float()
    step = weighed(filtered(steps, raw, History(ids, len(at.prompt))), token, None, False, 10)
    rows = [[one.token, at.tokenizer.token(one.token), one.probability, list(one.after)] for one in step.candidates]
    names = [f"{name}={said(value)}" for name, value in strategy.filters]
    names += ["greedy"] if strategy.kind == "greedy" else []
    return {
        "candidates": rows,
        "effects": [list(effect) for effect in step.effects],
        "names": names,
        "entropy": list(step.entropy),
        "vocabulary": at.model.config.vocabulary,
    } | {key: value for key, value in _head(strategy, column).items() if key in ("strategy", "head", "filters", "kind")}


def _branch(at: Desk, settings: Settings, column: Column) -> dict[str, Any]:
    """The whole text of a column that begins as told."""
    strategy = parse(column.strategy)
    *_, tokens = written(at, strategy, column, settings)
    return _head(strategy, column) | {"tokens": tokens, "done": True}


def _tree(at: Desk, settings: Settings, column: Column) -> dict[str, Any]:
    """Every step that a beam search weighed, and the texts that it found."""
    strategy = parse(column.strategy)
    if strategy.kind != "beam":
        raise LabError(f"Only beam search has a tree of beams, not {strategy.kind}.")
    _check_begins(at, column)
    told = {name.replace("-", "_"): strategy.told(name) for name in ("beams", "length-penalty", "ending", "groups")}
    beams = beam_search(
        at.model,
        [*at.prompt, *column.begins],
        **told,
        diversity=strategy.told("diversity"),
        steps=strategy.steps(at.tokenizer),
        stop=at.beside.stops(),
        stop_ids=at.tokenizer.specials,
        max_new_tokens=max(1, settings.tokens - len(column.begins)),
    )
    if len(beams.tree) > TREE:
        raise LabError(f"This tree has {len(beams.tree)} steps, more than can be drawn: take fewer beams or tokens.")
    special = set(at.tokenizer.specials)
    nodes = [
        [
            node.parent,
            "■" if node.token in special else at.tokenizer.token(node.token),
            node.logprob,
            node.step,
            node.fate,
        ]
        for node in beams.tree
    ]
    return {"nodes": nodes, "penalty": told["length_penalty"], "beams": told["beams"], "strategy": str(strategy)}


def scores(lab: Lab, settings: Settings, seeds: int) -> list[tuple[str, dict[str, Score]]]:
    """The scores of each strategy over so many seeds, on this prompt; branches are left out. Raises LabError as
    `compare`.
    """
    if not 1 <= seeds <= 256:
        raise LabError(f"Scores are of 1 to 256 seeds, not {seeds}.")
    at, world = desk(lab, settings), world_of(lab, settings.run)
    task = None if world is None else task_of(world, settings.prompt.strip())
    strategies = [parse(column.strategy) for column in settings.columns if not column.begins]
    found = compare_scores(
        at.model,
        at.tokenizer,
        [Asked(settings.prompt, at.prompt, task)],
        strategies,
        seeds=seeds,
        max_new_tokens=settings.tokens,
        world=world,
        beside=at.beside,
    )
    return [(one.strategy, one.scores) for one in found]
