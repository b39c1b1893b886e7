"""The prompts that a policy is trained on by its own answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np

from labkit.errors import LabError
from labkit.preferences.annotate import preference_task
from labkit.text.chat import decode_reply, encode_prompt
from labkit.text.fitting import LengthReport
from labkit.text.tokenizer import Tokenizer
from labkit.world import Document, GoldScore, Message, Task, World, gold_score


class IndexedPrompts(Protocol):
    """Endless prompts, each made from its index alone."""

    def prompt_ids(self, index: int) -> list[int]:
        """The ids of a prompt."""

    def messages(self, index: int) -> tuple[Message, ...]:
        """The same prompt, as messages; the last one is the user's."""

    def oracle_scores_if_known(self, indices: Sequence[int], answers: Sequence[Sequence[int]]) -> list[GoldScore]:
        """What the oracle says of the answers (as ids) to these prompts; an empty list where there is no oracle."""


class WorldPrompts:
    """Tasks of the training split with at most `max_prompt_tokens` tokens, judged under the annotator's profile. tasks:
    their kinds, see `preference_task`.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        world: World,
        annotator: str,
        max_prompt_tokens: int,
        seed: int,
        tasks: Sequence[str] = (),
    ):
        self.tokenizer, self.world, self.seed, self.tasks = tokenizer, world, seed, tasks
        self.max_prompt_tokens = max_prompt_tokens
        self.profile = world.profiles[annotator]
        self._made = lru_cache(maxsize=1024)(self._make)

    def prompt_ids(self, index: int) -> list[int]:
        return self._made(index)[1]

    def messages(self, index: int) -> tuple[Message, ...]:
        return self._made(index)[0].messages

    def oracle_scores_if_known(self, indices: Sequence[int], answers: Sequence[Sequence[int]]) -> list[GoldScore]:
        tasks = [self._made(index)[0] for index in indices]
        texts = [decode_reply(self.tokenizer, answer) for answer in answers]
        return [gold_score(self.world, *one, self.profile) for one in zip(tasks, texts, strict=True)]

    def _make(self, index: int) -> tuple[Task, list[int]]:
        """The first task that fits, of those that stand for this index."""
        for attempt in range(100):
            task = preference_task(self.world, "train", self.seed + attempt, index, self.tasks)
            ids = encode_prompt(self.tokenizer, task.messages)
            if len(ids) <= self.max_prompt_tokens:
                return task, ids
        raise LabError(
            f"train.max_length leaves {self.max_prompt_tokens} tokens for a prompt, too few for TinyWorld's. "
            f"Raise train.max_length."
        )


def prompts_of_conversation(document: Document) -> list[tuple[Message, ...]]:
    """What stands before each answer of a conversation that is to be learned."""
    messages = document.messages
    learned = [at for at, one in enumerate(messages) if at and one.role == "assistant" and one.weight > 0]
    return [messages[:at] for at in learned]


class ConversationPrompts:
    """Endless prompts of at most `max_prompt_tokens` tokens from conversations: each is the beginning of one, up to an
    answer that is drawn by the index. read_conversation(seed, index): makes a conversation.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        read_conversation: Callable[[int, int], Document],
        max_prompt_tokens: int,
        seed: int,
    ):
        self.tokenizer, self.read_conversation, self.seed = tokenizer, read_conversation, seed
        self.max_prompt_tokens = max_prompt_tokens
        self._made = lru_cache(maxsize=1024)(self._make)

    def prompt_ids(self, index: int) -> list[int]:
        return self._made(index)[1]

    def messages(self, index: int) -> tuple[Message, ...]:
        return self._made(index)[0]

    def oracle_scores_if_known(self, indices: Sequence[int], answers: Sequence[Sequence[int]]) -> list[GoldScore]:
        return []

    def _make(self, index: int) -> tuple[tuple[Message, ...], list[int]]:
        """One that fits of the first conversation that has one, of those that stand for this index."""
        for attempt in range(100):
            found = prompts_of_conversation(self.read_conversation(self.seed + attempt, index))
            encoded = [(prompt, encode_prompt(self.tokenizer, prompt)) for prompt in found]
            fitting = [one for one in encoded if len(one[1]) <= self.max_prompt_tokens]
            if fitting:
                return fitting[int(np.random.default_rng([self.seed, index]).integers(len(fitting)))]
        raise LabError(
            f"train.max_length leaves {self.max_prompt_tokens} tokens for a prompt, too few for TinyWorld's. "
            f"Raise train.max_length."
        )


class DatasetPrompts:
    """Given prompts, in turn; those of more than `max_prompt_tokens` are left out, and counted in
    `fit`.
    """

    def __init__(self, tokenizer: Tokenizer, prompts: Sequence[tuple[Message, ...]], max_prompt_tokens: int):
        whole = {prompt: encode_prompt(tokenizer, prompt) for prompt in prompts}
        fitting = {prompt: ids for prompt, ids in whole.items() if len(ids) <= max_prompt_tokens}
        self.conversations, self.prompts = list(fitting), list(fitting.values())
        self.fit = LengthReport(len(whole), left_out=len(whole) - len(self.prompts))
        if not self.prompts:
            raise LabError(
                f"None of {len(whole)} prompts fits in {max_prompt_tokens} tokens. "
                f"Raise train.max_length, or shorten the prompts."
            )

    def prompt_ids(self, index: int) -> list[int]:
        return self.prompts[index % len(self.prompts)]

    def messages(self, index: int) -> tuple[Message, ...]:
        return self.conversations[index % len(self.conversations)]

    def oracle_scores_if_known(self, indices: Sequence[int], answers: Sequence[Sequence[int]]) -> list[GoldScore]:
        return []


class OffsetPrompts:
    """The same prompts, of which `offset` is the first: index 0 is theirs."""

    def __init__(self, prompts: IndexedPrompts, offset: int):
        self.given, self.offset = prompts, offset

    def prompt_ids(self, index: int) -> list[int]:
        return self.given.prompt_ids(self.offset + index)

    def messages(self, index: int) -> tuple[Message, ...]:
        return self.given.messages(self.offset + index)

    def oracle_scores_if_known(self, indices: Sequence[int], answers: Sequence[Sequence[int]]) -> list[GoldScore]:
        return self.given.oracle_scores_if_known([self.offset + index for index in indices], answers)
