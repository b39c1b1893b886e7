"""What the Decoding tab shows: texts under several strategies from the same random numbers, and what is asked of them.

Nothing is kept between two questions: what is asked holds all that its answer needs, and what a link holds writes the
same text again.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Any, NamedTuple, TypeVar

import torch

from labkit.decoding import BestOfN, History, TracedStep, trace_generation, trace_given_tokens
from labkit.decoding.beam import BeamSearchOutput, beam_steps
from labkit.decoding.best import best_of_n_steps
from labkit.decoding.contrastive import contrastive_candidates
from labkit.decoding.filters import check_tokens_remain, logits_before_and_after_each_filter
from labkit.decoding.limits import MAX_PAGE_COST, GenerationCost, check_generation_cost
from labkit.decoding.prompts import check_prompt
from labkit.decoding.strategies import OPTIONS, DecodingResources, Strategy, format_option_value, parse_strategy
from labkit.decoding.stream import make_traced_step
from labkit.errors import LabError
from labkit.evaluation.judges import oracle_judge, reward_judge
from labkit.evaluation.strategies import find_held_out_task, first_difference_index
from labkit.model.transformer import Transformer
from labkit.stages import stage_class
from labkit.text.chat import encode_prompt, encode_text_prompt
from labkit.text.tokenizer import Tokenizer
from labkit.ui.decoding_settings import DecodingSettings, StrategyColumn
from labkit.ui.lab import Lab, LRUCache
from labkit.world import Message, Task, World

T = TypeVar("T")
TOGETHER = 4
"""Tokens that are shown at once: all that is written is sent each time."""
TREE = 6000
"""Steps of beams that are drawn at most."""
MAX_COMPARISON_COST = MAX_PAGE_COST._replace(
    processed_tokens=2 * MAX_PAGE_COST.processed_tokens, flops=2 * MAX_PAGE_COST.flops
)
"""What all strategies of a comparison together may cost."""
ANSWERS_AT_ONCE = 4
"""Answers of "best" that are written between two looks at whether they are still wanted."""


class DecodingSession(NamedTuple):
    """What is needed to write: the model, its tokenizer, the prompt's tokens, what stands beside, and the trees of
    beams that were searched last. weights_hash: a hash of the model's.
    """

    model: Transformer
    tokenizer: Tokenizer
    prompt: list[int]
    resources: DecodingResources
    beam_trees: LRUCache
    weights_hash: str


def encode_prompt_for_stage(tokenizer: Tokenizer, stage: str, text: str) -> list[int]:
    """What a model of that stage is given: a beginning for a base model (for no text, it begins one itself), a message
    for one that was tuned to answer. Raises LabError for no message.
    """
    known = stage_class(stage)
    if known is not None and not known.chat:
        return encode_text_prompt(tokenizer, text.strip())
    if not text.strip():
        raise LabError("There is nothing to reply to: type a prompt.")
    return encode_prompt(tokenizer, [Message("user", text.strip())])


def world_of(lab: Lab, run: str) -> World | None:
    """The world that a run learnt from; None where that was real text."""
    recipe = lab.open(run).recipe
    return None if recipe.text is not None or recipe.instructions is not None else lab.world(run)


def annotator_of(lab: Lab, run: str) -> str:
    """The annotator of a run's world, whose gold answers are held against."""
    return lab.open(run).recipe.annotation.annotator


def decoding_session(lab: Lab, settings: DecodingSettings) -> DecodingSession:
    """Raises LabError for a run or a stage that is not there, and for a prompt that leaves no room."""
    tokenizer, model = lab.tokenizer(settings.run), lab.model(settings.run, settings.stage)
    prompt = encode_prompt_for_stage(tokenizer, settings.stage, settings.prompt)
    check_prompt(model, prompt)
    world, judge = world_of(lab, settings.run), None
    task = task_of(lab, settings)
    reward_model = lab.reward_model(settings.run)
    if reward_model is not None:
        judge = reward_judge(reward_model, tokenizer)
    elif world is not None and task is not None:
        judge = oracle_judge(world, {tuple(prompt): task}, annotator_of(lab, settings.run), tokenizer)
    draft = lab.model(settings.run, settings.draft or lab.language_model_stages(settings.run)[0])
    resources = DecodingResources(tokenizer, settings.stop, draft, judge)
    return DecodingSession(model, tokenizer, prompt, resources, lab.results, weights_hash(lab, settings))


def task_of(lab: Lab, settings: DecodingSettings) -> Task | None:
    """The task of the run's world that the prompt is."""
    world = world_of(lab, settings.run)
    return None if world is None else find_held_out_task(world, settings.prompt.strip())


def weights_hash(lab: Lab, settings: DecodingSettings) -> str:
    """A hash of the model's weights."""
    folder = lab.open(settings.run).stage(settings.stage)
    return lab.load_cached(folder.weights_or_index_file, lambda: folder.weights_hash[:12], "hash")


def stream_comparison(lab: Lab, settings: DecodingSettings) -> Iterator[dict[str, Any]]:
    """What the viewer shows, again after every few tokens: all texts as far as they are written, and where they part.

    Every strategy that draws token by token sees the same random number at the same step. Raises LabError for what
    cannot be continued.
    """
    at = decoding_session(lab, settings)
    settings = replace(settings, weights_hash=at.weights_hash)
    strategies = parse_strategies(at, settings, MAX_COMPARISON_COST)
    texts = [
        _named(number, strategy, stream_column(at, strategy, column, settings))
        for number, (strategy, column) in enumerate(zip(strategies, settings.columns, strict=True), 1)
    ]
    shared = {
        "key": uuid.uuid4().hex,
        "settings": settings.to_json(),
    }  # the key tells that another comparison has begun
    columns = [_head(one, column) for one, column in zip(strategies, settings.columns, strict=True)]
    for number, latest in enumerate(zip_longest(*texts)):
        for column, news in zip(columns, latest, strict=True):
            column.update({"done": True} if news is None else news)
        if number % TOGETHER == 0 or any(not column["tokens"] for column in columns):  # of "best", nothing for long
            yield {**shared, "columns": columns, "parts": divergence_position(columns)}
    columns = [column | {"done": True} for column in columns]
    yield {**shared, "columns": columns, "parts": divergence_position(columns)}


def parse_strategies(
    session: DecodingSession, settings: DecodingSettings, max_total_cost: GenerationCost, seeds: int = 1
) -> list[Strategy]:
    """The lines as strategies, each of which is no more than one visitor may ask for, and all together take no more
    tokens and floating-point operations than `max_total_cost`. Raises LabError, which names the line that is wrong.
    """
    found, costs = [], []
    for number, column in enumerate(settings.columns, 1):
        strategy, cost = _understood(session, column, settings, f"Strategy {number}, ")
        found.append(strategy)
        costs.append(cost)
    many = [seeds if strategy.is_random else 1 for strategy in found]
    limits = {"processed_tokens": max_total_cost.processed_tokens, "flops": max_total_cost.flops}
    for what, most in limits.items():
        total = sum(count * getattr(cost, what) for count, cost in zip(many, costs, strict=True))
        if total > most:
            said = f"{total:,.0f} tokens to process" if what == "processed_tokens" else f"{total / 1e12:,.1f} TFLOP"
            limit = f"{most:,.0f}" if what == "processed_tokens" else f"{most / 1e12:,.1f} TFLOP"
            raise LabError(
                f"All strategies together are {said}; the limit is {limit}. Use fewer strategies, "
                f"{'samples' if seeds > 1 else 'beams'} or new tokens."
            )
    return found


def _understood(
    at: DecodingSession, column: StrategyColumn, settings: DecodingSettings, name: str = ""
) -> tuple[Strategy, GenerationCost]:
    """A line as a strategy, and what it costs. Raises LabError, which names the line, for what is wrong or too much."""
    try:
        strategy = parse_strategy(column.strategy)
        strategy.logits_filters(at.tokenizer)
        return strategy, check_generation_cost(strategy, len(at.prompt), settings.tokens, at.model)
    except LabError as error:
        line = "" if str(error).startswith(f"{column.strategy} ") else f"{column.strategy}: "
        raise LabError(f"{name}{line}{error}") from None


def _named(number: int, strategy: Strategy, texts: Iterator[T]) -> Iterator[T]:
    """What goes wrong while a text is generated names the strategy."""
    try:
        yield from texts
    except LabError as error:
        raise LabError(f"Strategy {number}, {strategy}: {error}") from None


def mark_stopped(data: dict[str, Any] | None) -> dict[str, Any] | None:
    """What the viewer shows when the generation of its texts was stopped."""
    if data is None:
        return None
    return data | {"columns": [column | {"done": True, "stopped": not column["done"]} for column in data["columns"]]}


def divergence_position(columns: Sequence[Mapping[str, Any]]) -> int | None:
    """Where the texts first differ; None where they do not, as far as they are written."""
    ids = [[-1 if token["ended"] else token["id"] for token in column["tokens"]] for column in columns]
    return first_difference_index(ids, end_is_difference=all(column["done"] for column in columns))


def stream_column(
    session: DecodingSession, strategy: Strategy, column: StrategyColumn, settings: DecodingSettings
) -> Iterator[dict[str, Any]]:
    """What is new of a column, again and again: its {"tokens"} as the viewer shows them, and of "best" the {"answers"}
    of which it was chosen.
    """
    _check_begins(session, column)
    begins, tokenizer = list(column.forced_prefix), session.tokenizer
    common: dict[str, Any] = {"stop_ids": tokenizer.stop_ids}
    filters = strategy.logits_filters(tokenizer)
    if strategy.kind in ("sample", "greedy"):
        shown: list[dict[str, Any]] = []
        common |= {
            "stop": session.resources.stop_strings(),
            "forced_prefix": begins,
            "top_n": 1,
            "max_new_tokens": settings.tokens,
        }
        generator = torch.Generator().manual_seed(settings.seed)
        for step in trace_generation(session.model, session.prompt, filters=filters, generator=generator, **common):
            shown.append(_token(tokenizer, step))
            if step.ended and not shown[-1]["ended"]:  # by a stop text, which stays to be seen
                shown.append({"id": -1, "text": "", "ended": True, "stop": True})
            yield {"tokens": list(shown)}
        return
    text: list[int] = []
    answers: dict[str, Any] = {}
    prompt, left = [*session.prompt, *begins], max(1, settings.tokens - len(begins))
    streamed: Iterator[list[int]]
    if strategy.kind == "beam":
        streamed = (beams.hypotheses[0].tokens for beams in _beams(session, strategy, column, settings))
    elif strategy.kind == "best" and session.resources.judge is not None:
        streamed = _best(session, strategy, prompt, begins, settings, left, answers)
    else:
        streamed = strategy.stream_partial_outputs(
            session.model, prompt, max_new_tokens=left, seed=settings.seed, resources=_behind(session, begins), **common
        )
    for text in streamed:
        yield {"tokens": [{"id": one, "text": tokenizer.token_text(one), "ended": False} for one in [*begins, *text]]}
    ended = len(text) < min(left, session.model.config.context - len(prompt))
    whole = [*begins, *text, *([tokenizer.turn_end_id] if ended else [])]
    final = [
        _token(tokenizer, step) for step in trace_given_tokens(session.model, session.prompt, whole, filters=filters)
    ]
    if ended:  # which of the two it was, if there are stop texts, is not known
        final[-1] |= {"text": "", "ended": True, "stop": bool(settings.stop)}
    yield {"tokens": final} | answers


def _beams(
    at: DecodingSession, strategy: Strategy, column: StrategyColumn, settings: DecodingSettings
) -> Iterator[BeamSearchOutput]:
    """What stands after each step of a beam search, whose tree is kept for who asks for it next."""
    key = (at.weights_hash, tuple(at.prompt), column, settings.tokens, settings.stop)
    left = max(1, settings.tokens - len(column.forced_prefix))
    told = {name.replace("-", "_"): strategy.option(name) for name in OPTIONS["beam"]}
    filters, stop = strategy.logits_filters(at.tokenizer), at.resources.stop_strings()
    common: dict[str, Any] = {"stop": stop, "stop_ids": at.tokenizer.stop_ids, "max_new_tokens": left}
    for beams in beam_steps(at.model, [*at.prompt, *column.forced_prefix], **told, **common, filters=filters):
        yield beams
    at.beam_trees.put(key, beams)


def _best(
    at: DecodingSession,
    strategy: Strategy,
    prompt: Sequence[int],
    begins: Sequence[int],
    settings: DecodingSettings,
    left: int,
    found: dict[str, Any],
) -> Iterator[list[int]]:
    """Nothing while the answers are written, a few at a time; then the best of them, and all of them in `found`."""
    judge, stop = _behind(at, begins).judge, at.resources.stop_strings()
    assert judge is not None
    common: dict[str, Any] = {"stop": stop, "stop_ids": at.tokenizer.stop_ids, "max_new_tokens": left}
    generator, filters = torch.Generator().manual_seed(settings.seed), strategy.logits_filters(at.tokenizer)
    common |= {"n": strategy.option("n"), "batch_size": ANSWERS_AT_ONCE, "filters": filters, "generator": generator}
    for best in best_of_n_steps(at.model, prompt, judge, **common):
        if best is not None:
            found["answers"] = _answers(at.tokenizer, best, begins)
        yield [] if best is None else best.answers[best.best_index]


def _answers(tokenizer: Tokenizer, best: BestOfN, begins: Sequence[int]) -> list[list[Any]]:
    """All answers as [text, worth, whether it was chosen], the best first."""
    order = sorted(range(len(best.answers)), key=lambda i: (-best.scores[i], i != best.best_index))
    return [[tokenizer.decode([*begins, *best.answers[i]]), best.scores[i], i == best.best_index] for i in order]


def _behind(at: DecodingSession, begins: Sequence[int]) -> DecodingResources:
    """The judge is told of a branch's beginning as part of the answer, not of the prompt."""
    judge = at.resources.judge
    if judge is None or not begins:
        return at.resources
    known = judge
    return DecodingResources(
        at.resources.tokenizer,
        at.resources.stop,
        at.resources.draft,
        lambda prompts, answers: known([at.prompt] * len(answers), [[*begins, *answer] for answer in answers]),
    )


def _check_begins(at: DecodingSession, column: StrategyColumn) -> None:
    unknown = [token for token in column.forced_prefix if not 0 <= token < at.model.config.vocabulary]
    if unknown:
        raise LabError(f"There is no token {unknown[0]} in this model's vocabulary of {at.model.config.vocabulary}.")


def _head(strategy: Strategy, column: StrategyColumn) -> dict[str, Any]:
    """What a column says before its text."""
    kind = str(Strategy(strategy.kind, (), strategy.options))
    return {
        "strategy": str(strategy),
        "kind": strategy.kind,
        "head": "" if kind == "sample" else kind,
        "filters": [[name, format_option_value(value)] for name, value in strategy.filters],
        "begins": list(column.forced_prefix),
        "tokens": [],
        "done": False,
    }


def _token(tokenizer: Tokenizer, step: TracedStep) -> dict[str, Any]:
    stops = step.token in tokenizer.stop_ids
    return {
        "id": step.token,
        "text": "" if stops else tokenizer.token_text(step.token),
        "ended": step.ended and stops,
        "entropy": [round(x, 4) for x in step.entropy],
    }


def handle_viewer_request(lab: Lab, request: Mapping[str, Any]) -> dict[str, Any]:
    """What a viewer wants to know: {"what": "step" | "branch" | "tree", "settings", "column"}, for "step" with the
    place of a token and, as "line", a strategy in place of the column's. What goes wrong is an answer too: {"error"}.
    """
    try:
        if not isinstance(request, Mapping):
            raise LabError("This is not a request about a text.")
        with lab.answering:
            settings = DecodingSettings.from_json(request.get("settings"))
            column = DecodingSettings.from_json({**settings.to_json(), "columns": [request.get("column")]}).columns[0]
            found = {"step": _step, "branch": _branch, "tree": _tree}.get(str(request.get("what")))
            if found is None:
                raise LabError("This is not a request about a text.")
            return found(decoding_session(lab, settings), settings, column)
    except LabError as error:
        return {"error": str(error)}


def _step(at: DecodingSession, settings: DecodingSettings, column: StrategyColumn) -> dict[str, Any]:
    """What is weighed for the last of the column's tokens, under its strategy."""
    _check_begins(at, column)
    strategy, _ = _understood(at, column, settings)
    filters = strategy.logits_filters(at.tokenizer)
    *before, token = column.forced_prefix or (None,)
    if token is None:
        raise LabError("There is no token to show.")
    ids = torch.tensor([[*at.prompt, *before]], device=at.model.embedding.weight.device)
    if ids.shape[1] > at.model.config.context:
        raise LabError(f"The text has {ids.shape[1]} tokens, and the model's context is {at.model.config.context}.")
    if strategy.kind == "contrastive":
        return _contrasted(at, strategy, column, ids[0].tolist(), token)
    with torch.no_grad():
        raw = at.model(ids)[:, -1].float()
    seen = logits_before_and_after_each_filter(filters, raw, History(ids, len(at.prompt)))
    check_tokens_remain(filters, seen)
    step = make_traced_step(seen, token, None, False, 10)
    rows = [
        [one.token, at.tokenizer.token_text(one.token), one.probability, list(one.filtered_probabilities)]
        for one in step.candidates
    ]
    names = [f"{name}={format_option_value(value)}" for name, value in strategy.filters]
    names += ["greedy"] if strategy.kind == "greedy" else []
    return {
        "candidates": rows,
        "effects": [list(effect) for effect in step.filter_effects],
        "names": names,
        "entropy": list(step.entropy),
        "vocabulary": at.model.config.vocabulary,
    } | {key: value for key, value in _head(strategy, column).items() if key in ("strategy", "head", "filters", "kind")}


def _contrasted(
    at: DecodingSession, strategy: Strategy, column: StrategyColumn, before: list[int], token: int
) -> dict[str, Any]:
    """What contrastive search weighs: of each candidate the probability, the similarity, and what it is ranked by."""
    k, alpha = strategy.option("k"), strategy.option("alpha")
    weighed = contrastive_candidates(at.model, before, k=k, alpha=alpha)
    rows = [
        [one.token, at.tokenizer.token_text(one.token), one.probability, one.max_similarity, one.score]
        for one in weighed
    ]
    return _head(strategy, column) | {"contrast": rows, "alpha": alpha, "token": token}


def _branch(at: DecodingSession, settings: DecodingSettings, column: StrategyColumn) -> dict[str, Any]:
    """The whole text of a column that begins as told."""
    strategy, _ = _understood(at, column, settings)
    *_, last = stream_column(at, strategy, column, settings)
    return _head(strategy, column) | last | {"done": True}


def _tree(at: DecodingSession, settings: DecodingSettings, column: StrategyColumn) -> dict[str, Any]:
    """Every step that a beam search weighed, and the texts that it found."""
    strategy, _ = _understood(at, column, settings)
    if strategy.kind != "beam":
        raise LabError(f"Only beam search has a tree of beams, not {strategy.kind}.")
    _check_begins(at, column)
    key = (at.weights_hash, tuple(at.prompt), column, settings.tokens, settings.stop)

    def search() -> BeamSearchOutput:
        *_, last = _beams(at, strategy, column, settings)
        return last

    beams = at.beam_trees.get(key, search)
    if len(beams.tree) > TREE:
        raise LabError(f"This tree has {len(beams.tree)} steps, more than can be drawn: use fewer beams or tokens.")
    stops = set(at.tokenizer.stop_ids)
    nodes = [
        [
            node.parent,
            "■" if node.token in stops else at.tokenizer.token_text(node.token),
            node.cumulative_logprob,
            node.step,
            node.outcome,
        ]
        for node in beams.tree
    ]
    penalty, count = strategy.option("length-penalty"), strategy.option("beams")
    return {"nodes": nodes, "penalty": penalty, "beams": count, "strategy": str(strategy)}
