"""The same few fixed prompts after every stage, and what the model makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

import torch

from labkit.decoding import Temperature, generate
from labkit.evaluation.answers import _fitting, _room, answer_tasks_greedily, generate_greedy_replies
from labkit.evaluation.config import EvaluationConfig, TextData, WorldData, truncate_texts
from labkit.model.transformer import Transformer
from labkit.text.chat import encode_prompt, encode_text_prompt
from labkit.text.tokenizer import Tokenizer
from labkit.world import Document, Message

WRITTEN_ON = Temperature(0.8)


class Sample(NamedTuple):
    """A fixed prompt and what the model made of it; `reference` is '' where there is none."""

    prompt: str
    response: str
    reference: str = ""


SAMPLED_KINDS = ("where", "why", "fact", "write", "refuse")


def sample_answers(
    model: Transformer,
    tokenizer: Tokenizer,
    data: WorldData | TextData,
    config: EvaluationConfig,
    chat: bool = True,
) -> list[Sample]:
    """The same five fixed prompts after each stage: held-out tasks of the world, else held-out questions,
    else lines of held-out text; the first that leave room for an answer. Questions are answered greedily; what is
    plain text is continued by a base model at 0.8.
    """
    if isinstance(data, WorldData):
        tasks = [data.world.task("test", config.seed + 1, i, kind) for i, kind in enumerate(SAMPLED_KINDS)]
        tasks = _fitting(model, tokenizer, tasks, config)
        answers = answer_tasks_greedily(model, tokenizer, tasks, config, chat)
        return [Sample(_shown(t.messages), a, t.reference) for t, a in zip(tasks, answers, strict=True)]
    if not data.conversations:
        openings = _lines(truncate_texts(data.texts, config.characters), len(SAMPLED_KINDS))
        return _write_on(model, tokenizer, [Sample(line, "") for line in openings], config)
    room = _room(model, 2 * config.answer_max_new_tokens)
    exchanges = map(_first_exchange, data.conversations)
    fit = (one for one in exchanges if len(encode_prompt(tokenizer, one[0])) <= room)
    asked = list(islice(fit, len(SAMPLED_KINDS)))
    if not chat:
        fixed = [Sample(_shown(messages) + "\n", "", answer) for messages, answer in asked]
        return _write_on(model, tokenizer, fixed, config)
    prompts = [encode_prompt(tokenizer, messages) for messages, _ in asked]
    replies = generate_greedy_replies(
        model, tokenizer, prompts, 2 * config.answer_max_new_tokens, config.generation_batch_size
    )
    return [Sample(_shown(m), said, answer) for (m, answer), said in zip(asked, replies, strict=True)]


def _write_on(
    model: Transformer, tokenizer: Tokenizer, fixed: Sequence[Sample], config: EvaluationConfig
) -> list[Sample]:
    """Each prompt that leaves room as plain text, continued."""
    room = _room(model, 2 * config.answer_max_new_tokens)
    pairs = [(sample, encode_text_prompt(tokenizer, sample.prompt, leading_space=False)) for sample in fixed]
    fixed, opened = [s for s, ids in pairs if len(ids) <= room], [ids for _, ids in pairs if len(ids) <= room]
    written = generate(
        model,
        opened,
        filters=[WRITTEN_ON],
        max_new_tokens=2 * config.answer_max_new_tokens,
        stop_ids=tokenizer.stop_ids,
        generator=torch.Generator().manual_seed(config.seed),
        batch_size=config.generation_batch_size,
    )
    said = [tokenizer.decode_continuation(before, ids) for before, ids in zip(opened, written, strict=True)]
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
