"""What a stage has truly done: dictionaries of name -> value.

In the world the truth is known, so generated stories and answers are judged by the simulator that wrote the
corpus. Real text has no oracle; there the losses on held-out text and answers are what can be said.

    validation_loss, bits_per_byte, nats_per_character   see labkit.evaluation.held_out_loss
    grammatical, consistent, novel    shares over generated stories, see `story_metrics`
    accuracy, accuracy/KIND           greedy answers to held-out combinations that are right
    question_only/KIND                what the question alone gives, see `question_only`
    gold/PROFILE                      mean gold score of the same answers under an annotator's profile
    unsupported                       share of answers that claim what neither story nor facts say

A base model is asked in the form of its pretraining documents, the story before the first turn; a chat
model in the form of its conversations, the story in the user's turn.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Annotated, NamedTuple

import numpy as np
import torch

from labkit.configs import LARGEST, Count, Range, Seed, check
from labkit.decoding import Temperature, generate
from labkit.evaluation.held_out_loss import Metrics, document_loss, mismatched_loss, text_loss
from labkit.model.transformer import Transformer
from labkit.text.chat import decode_reply, encode_opening, encode_prompt
from labkit.text.pieces import Text
from labkit.text.tokenizer import Tokenizer
from labkit.world import Document, Message, Task, World, score, without_story
from labkit.world.grammar import sentences

WRITTEN_ON = Temperature(0.8)


@dataclass(frozen=True)
class EvaluationConfig:
    """How much is measured. While training, half of the documents and a tenth of the characters are.

    documents: held-out documents (or conversations) for the losses. characters: of held-out real text, from
    its start. stories: generated from bos. tasks: answered of each kind. examples: training tasks of each
    kind behind the most frequent answer. compared: training documents that stories are compared with (see
    `novelty`). story_tokens, answer_tokens: where generation is cut. rows, loss_rows: how many at a time.
    prompts: held-out ones on which a policy is compared with the model before it. seed: which tasks, and the draws of
    the stories.
    """

    documents: Annotated[int, Range(2, LARGEST)] = 200
    characters: Annotated[int, Range(10, LARGEST)] = 400_000
    stories: Count = 200
    tasks: Count = 50
    examples: Count = 300
    compared: Count = 5000
    story_tokens: Count = 200
    answer_tokens: Count = 32
    rows: Count = 100
    loss_rows: Count = 32
    prompts: Annotated[int, Range(2, LARGEST)] = 500
    seed: Seed = 0

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, eq=False)
class WorldData:
    """A world to be measured in, the row length, and what was trained on: documents 0 … trained - 1 of
    `seed`.
    """

    world: World
    length: int
    seed: int = 0
    trained: int = 0


@dataclass(frozen=True, eq=False)
class TextData:
    """Held-out real texts and conversations (either may be empty), and the row length."""

    texts: Sequence[Text]
    conversations: Sequence[Document]
    length: int


class Sample(NamedTuple):
    """A fixed prompt and what the model made of it; `reference` is '' where there is none."""

    prompt: str
    response: str
    reference: str = ""


def evaluate_base(
    model: Transformer, tokenizer: Tokenizer, data: WorldData | TextData, config: EvaluationConfig
) -> Metrics:
    """A pretrained model: held-out loss; in the world also its stories, and its answers before any fine-
    tuning.
    """
    if isinstance(data, TextData):
        texts = first_characters(data.texts, config.characters)
        return text_loss(model, tokenizer, texts, data.length, config.loss_rows)
    documents = [data.world.document("validation", data.seed, index) for index in range(config.documents)]
    return {
        **document_loss(model, tokenizer, documents, data.length, config.loss_rows),
        **story_metrics(model, tokenizer, data, config),
        **answer_metrics(model, tokenizer, data, config, chat=False),
    }


def evaluate_chat(
    model: Transformer, tokenizer: Tokenizer, data: WorldData | TextData, config: EvaluationConfig
) -> Metrics:
    """A fine-tuned model: loss on held-out answers; in the world also accuracy, gold and unsupported
    claims.
    """
    if isinstance(data, TextData):
        conversations = list(data.conversations)[: config.documents]
        return {
            **document_loss(model, tokenizer, conversations, data.length, config.loss_rows, "answers"),
            **mismatched_loss(model, tokenizer, conversations, data.length, config.loss_rows),
        }
    documents = [data.world.conversation("validation", data.seed, index) for index in range(config.documents)]
    return {
        **document_loss(model, tokenizer, documents, data.length, config.loss_rows, "answers"),
        **answer_metrics(model, tokenizer, data, config, chat=True),
    }


# Stories


def story_metrics(model: Transformer, tokenizer: Tokenizer, data: WorldData, config: EvaluationConfig) -> Metrics:
    """Stories generated from bos at temperature 1, unfiltered: which share of their sentences parses
    (`grammatical`), which share of their events can happen (`consistent`), which share of them is not in
    the training set (`novel`).
    """
    stories = write_stories(model, tokenizer, data.world, config)
    checks = [data.world.check(story) for story in stories]
    written = sum(check.sentences for check in checks)
    events = sum(check.events for check in checks)
    return {
        "grammatical": sum(check.parsed for check in checks) / max(1, written),
        "consistent": sum(check.possible for check in checks) / max(1, events),
        "novel": novelty(stories, data, config.compared),
        "stories": len(stories),
        "story_sentences": written,
    }


def write_stories(model: Transformer, tokenizer: Tokenizer, world: World, config: EvaluationConfig) -> list[str]:
    """`config.stories` stories generated from bos.

    A model of the corpus also writes fact paragraphs, patterns and scenes in which nothing happens. Those
    are passed over, but only where every sentence of them is flawless, so that the choice cannot flatter
    the model. At most three times as many texts are written.
    """
    generator = torch.Generator().manual_seed(config.seed)
    stories: list[str] = []
    for _ in range(3):
        missing = config.stories - len(stories)
        written = generate(
            model,
            [encode_opening(tokenizer, "")] * math.ceil(1.5 * missing),
            max_new_tokens=min(config.story_tokens, model.config.context - 1),
            stop_ids=tokenizer.stops,
            generator=generator,
            rows=config.rows,
        )
        texts = [decode_reply(tokenizer, ids) for ids in written]
        stories += [text for text in texts if not uneventful(world, text)][:missing]
        if len(stories) == config.stories:
            break
    return stories


def uneventful(world: World, text: str) -> bool:
    """Whether a text is flawless and nothing happens in it: facts, a pattern, a scene."""
    context: dict[str, str] = {}
    read = [world.grammar.parse(line, context) for line in sentences(text)]
    if any(parsed is None or world.kinds[parsed.event.kind].happens for parsed in read):
        return False
    return bool(read) and not world.check(text).problems


def novelty(stories: Sequence[str], data: WorldData, compared: int) -> float:
    """The share of stories that are not word for word in the training set.

    Up to `compared` training documents are compared, evenly spaced. When the run saw more, each find stands
    for trained / compared of them, so the estimate stays unbiased.
    """
    if not data.trained:
        return 1.0
    count = min(data.trained, compared)
    known = _training_hashes(data.world, data.seed, data.trained, count)
    found = sum(hash(story.strip()) in known for story in stories)
    return max(0.0, 1 - found / max(1, len(stories)) * data.trained / count)


@lru_cache(maxsize=2)
def _training_hashes(world: World, seed: int, trained: int, count: int) -> frozenset[int]:
    return frozenset(hash(world.document("train", seed, i * trained // count).text.strip()) for i in range(count))


# Answers


def answer_metrics(
    model: Transformer, tokenizer: Tokenizer, data: WorldData, config: EvaluationConfig, chat: bool
) -> Metrics:
    """Answers to held-out tasks: accuracy by kind beside what the question alone gives, gold under each
    profile, and the share of answers with an unsupported claim. Tasks that leave too little room for an answer are
    left out, and counted.
    """
    chosen = held_out_tasks(data.world, config.seed, config.tasks)
    tasks = _fitting(model, tokenizer, chosen, config)
    answers = answer_tasks(model, tokenizer, tasks, config, chat)
    right: dict[str, list[float]] = defaultdict(list)
    gold: dict[str, list[float]] = defaultdict(list)
    unsupported = []
    for task, response in zip(tasks, answers, strict=True):
        scores = {name: score(data.world, task, response, p) for name, p in data.world.profiles.items()}
        for name, value in scores.items():
            gold[name].append(value.total)
        value = next(iter(scores.values()))  # what is right does not depend on the profile
        right[task.kind].append(value.right)
        unsupported.append(value.supported < 1)
    every = [value for values in right.values() for value in values]
    return {
        "accuracy": _mean(every),
        "accuracy_standard_error": float(np.std(every or [0.0]) / math.sqrt(max(1, len(every)))),
        "tasks": len(every),
        **({"tasks_left_out": len(chosen) - len(tasks)} if len(tasks) < len(chosen) else {}),
        **{f"accuracy/{kind}": _mean(values) for kind, values in right.items()},
        **question_only(model, tokenizer, data.world, tasks, config, chat),
        **{f"gold/{name}": _mean(values) for name, values in gold.items()},
        "unsupported": _mean(unsupported),
    }


def question_only(
    model: Transformer,
    tokenizer: Tokenizer,
    world: World,
    tasks: Sequence[Task],
    config: EvaluationConfig,
    chat: bool,
) -> Metrics:
    """`question_only/KIND` for the kinds whose answer is in the story: how many are right without reading it.

    The better of the model's own accuracy when the story is dropped, and the accuracy of the most frequent
    right answer (`frequent_accuracy`). What lies above it was read.
    """
    asked = [task for task in tasks if task.kind in world.reading_kinds]
    answers = answer_tasks(model, tokenizer, [without_story(task) for task in asked], config, chat)
    judge = next(iter(world.profiles.values()))
    alone: dict[str, list[float]] = defaultdict(list)
    for task, response in zip(asked, answers, strict=True):
        alone[task.kind].append(score(world, task, response, judge).right)
    frequent = frequent_accuracy(world, asked, config.seed, config.examples)
    return {f"question_only/{kind}": max(_mean(values), frequent[kind]) for kind, values in alone.items()}


def frequent_accuracy(world: World, tasks: Sequence[Task], seed: int, examples: int) -> Metrics:
    """Accuracy by kind of always giving the most frequent right answer, counted over `examples` training
    tasks.

    'To that question' is taken three ways: to the very same question (Where is Tom?), to the same form of
    it (Where is …?), and to any of its kind. The best of the three counts, so that the measure is no easy
    mark.
    """
    kinds = tuple(dict.fromkeys(task.kind for task in tasks))
    counts = _answer_counts(world, kinds, seed, examples)
    hits: dict[str, list[list[bool]]] = defaultdict(list)
    for task in tasks:
        hits[task.kind].append([_value(task) == _most_frequent(counts, key) for key in _questions(task)])
    return {kind: float(np.mean(rows, axis=0).max()) for kind, rows in hits.items()}


def answer_tasks(
    model: Transformer, tokenizer: Tokenizer, tasks: Sequence[Task], config: EvaluationConfig, chat: bool
) -> list[str]:
    """Greedy answers, in the form that the stage has trained on (see above). Tasks to write get room for a
    story.
    """
    prompts = [task_prompt(tokenizer, task, chat) for task in tasks]
    answers = [""] * len(tasks)
    for new_tokens in {config.answer_tokens, config.story_tokens}:
        chosen = [index for index, task in enumerate(tasks) if _new_tokens(task, config) == new_tokens]
        replies = reply(model, tokenizer, [prompts[index] for index in chosen], new_tokens, config.rows)
        for index, text in zip(chosen, replies, strict=True):
            answers[index] = text
    return answers


def _fitting(model: Transformer, tokenizer: Tokenizer, tasks: Sequence[Task], config: EvaluationConfig) -> list[Task]:
    """The tasks that leave room for an answer in either form, so that all stages are asked the same."""

    def fits(task: Task) -> bool:
        longest = max(len(task_prompt(tokenizer, task, chat)) for chat in (False, True))
        return longest <= _room(model, _new_tokens(task, config))

    return [task for task in tasks if fits(task)]


def _new_tokens(task: Task, config: EvaluationConfig) -> int:
    return config.story_tokens if task.kind == "write" else config.answer_tokens


def task_prompt(tokenizer: Tokenizer, task: Task, chat: bool) -> list[int]:
    """A task as a prompt: in the form of conversations (`chat`), or in that of pretraining documents."""
    if chat:
        return encode_prompt(tokenizer, task.messages)
    return encode_prompt(tokenizer, without_story(task).messages, text=task.story)


def reply(
    model: Transformer, tokenizer: Tokenizer, prompts: Sequence[list[int]], new_tokens: int, rows: int
) -> list[str]:
    """Prompts -> greedy replies."""
    replies = generate(
        model,
        prompts,
        steps=[Temperature(0)],
        max_new_tokens=new_tokens,
        stop_ids=tokenizer.stops,
        rows=rows,
    )
    return [decode_reply(tokenizer, ids) for ids in replies]


@lru_cache(maxsize=4)
def held_out_tasks(world: World, seed: int, count: int) -> tuple[Task, ...]:
    """`count` tasks of each kind, of combinations that training never shows."""
    return tuple(world.task("test", seed, index, kind) for kind in world.task_kinds for index in range(count))


@lru_cache(maxsize=4)
def _answer_counts(world: World, kinds: tuple[str, ...], seed: int, examples: int) -> dict[Hashable, Counter[Hashable]]:
    """How often each answer is right to a question, to a form of question and to a kind, in training."""
    counts: dict[Hashable, Counter[Hashable]] = defaultdict(Counter)
    for kind in kinds:
        for index in range(examples):
            task = world.task("train", seed, index, kind)
            for key in _questions(task):
                counts[key][_value(task)] += 1
    return dict(counts)


def _questions(task: Task) -> tuple[Hashable, Hashable, Hashable]:
    """What is asked, more and more loosely."""
    question = task.question
    if question is None:
        return (task.kind, task.kind, task.kind)
    form = (task.kind, question.pattern.kind, question.hole)
    return ((task.kind, question.pattern), form, task.kind)


def _value(task: Task) -> Hashable:
    return task.reference if task.question is None else task.question.value


def _most_frequent(counts: dict[Hashable, Counter[Hashable]], key: Hashable) -> Hashable:
    return counts[key].most_common(1)[0][0] if key in counts else None


def _room(model: Transformer, new_tokens: int) -> int:
    """How many tokens a prompt may have, so that a reply of `new_tokens`, or of half the context, has room."""
    return model.config.context - min(new_tokens, model.config.context // 2)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else 0.0


# Samples


SAMPLED_KINDS = ("where", "why", "fact", "write", "refuse")


def samples(
    model: Transformer,
    tokenizer: Tokenizer,
    data: WorldData | TextData,
    config: EvaluationConfig,
    chat: bool = True,
) -> list[Sample]:
    """The same five fixed prompts after each stage: held-out tasks of the world, else held-out questions,
    else lines of held-out text; the first that leave room for an answer. Questions are answered greedily; what is
    plain text to a base model is written on at 0.8.
    """
    if isinstance(data, WorldData):
        tasks = [data.world.task("test", config.seed + 1, i, kind) for i, kind in enumerate(SAMPLED_KINDS)]
        tasks = _fitting(model, tokenizer, tasks, config)
        answers = answer_tasks(model, tokenizer, tasks, config, chat)
        return [Sample(_shown(t.messages), a, t.reference) for t, a in zip(tasks, answers, strict=True)]
    if not data.conversations:
        openings = _lines(first_characters(data.texts, config.characters), len(SAMPLED_KINDS))
        return _write_on(model, tokenizer, [Sample(line, "") for line in openings], config)
    room = _room(model, 2 * config.answer_tokens)
    exchanges = map(_first_exchange, data.conversations)
    fit = (one for one in exchanges if len(encode_prompt(tokenizer, one[0])) <= room)
    asked = list(islice(fit, len(SAMPLED_KINDS)))
    if not chat:
        fixed = [Sample(_shown(messages) + "\n", "", answer) for messages, answer in asked]
        return _write_on(model, tokenizer, fixed, config)
    prompts = [encode_prompt(tokenizer, messages) for messages, _ in asked]
    replies = reply(model, tokenizer, prompts, 2 * config.answer_tokens, config.rows)
    return [Sample(_shown(m), said, answer) for (m, answer), said in zip(asked, replies, strict=True)]


def first_characters(texts: Sequence[Text], characters: int) -> list[str]:
    """The first texts, the last of them cut, that hold so many characters together."""
    chosen: list[str] = []
    for text in texts:
        if characters <= 0:
            break
        chosen.append(str(text[:characters]))
        characters -= len(text)
    return chosen


def _write_on(
    model: Transformer, tokenizer: Tokenizer, fixed: Sequence[Sample], config: EvaluationConfig
) -> list[Sample]:
    """Each prompt that leaves room as plain text, written on."""
    room = _room(model, 2 * config.answer_tokens)
    pairs = [(sample, encode_opening(tokenizer, sample.prompt, lead=False)) for sample in fixed]
    fixed, opened = [s for s, ids in pairs if len(ids) <= room], [ids for _, ids in pairs if len(ids) <= room]
    written = generate(
        model,
        opened,
        steps=[WRITTEN_ON],
        max_new_tokens=2 * config.answer_tokens,
        stop_ids=tokenizer.stops,
        generator=torch.Generator().manual_seed(config.seed),
        rows=config.rows,
    )
    said = [tokenizer.continuation(before, ids) for before, ids in zip(opened, written, strict=True)]
    return [sample._replace(response=text) for sample, text in zip(fixed, said, strict=True)]


def _lines(texts: Sequence[str], count: int) -> list[str]:
    """`count` evenly spaced lines of some length."""
    lines = [line[:80] for text in texts for line in text.splitlines() if len(line) > 20] or [""]
    return [lines[index * len(lines) // count] for index in range(count)]


def _first_exchange(document: Document) -> tuple[tuple[Message, ...], str]:
    """The messages up to the first answer, and that answer."""
    end = next(index for index, message in enumerate(document.messages) if message.role == "assistant")
    return document.messages[:end], document.messages[end].content


def _shown(messages: Sequence[Message]) -> str:
    return "\n".join(message.content for message in messages)
