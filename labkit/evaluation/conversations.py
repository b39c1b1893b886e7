"""Conversations of a model with simulated users, all at once, turn by turn; and how content the users are at the end.

    users = SimulatedUsers(tokenizer, world, "warm", "test", seed=0, ...)
    conversations = greedy_conversations(model, users, range(100))
    conversations[0].user.satisfaction(), conversations[0].user.messages

A conversation is one row of tokens: what the user says, in the form of a chat, and the very tokens that the model drew
to answer. It ends when the user has asked all, has read `max_turns` answers or was answered wrongly twice; and where
the row has no room for one more turn and an answer of `max_new_tokens`, which is counted: it is truncated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from labkit.decoding import Temperature, generate
from labkit.errors import LabError
from labkit.evaluation.held_out_loss import Metrics
from labkit.model.transformer import Transformer
from labkit.text.chat import decode_reply, encode_next_turn, encode_prompt, without_end_token
from labkit.text.tokenizer import Tokenizer
from labkit.world import GoldScore, Message, World
from labkit.world.users import SimulatedUser


class SimulatedUsers:
    """Endless users, each made from its index alone, under the annotator's profile: those of whom the first message
    leaves room for an answer of `max_new_tokens` in rows of `max_length`.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        world: World,
        annotator: str,
        split: str,
        seed: int,
        *,
        num_questions: int,
        max_turns: int,
        max_length: int,
        max_new_tokens: int,
    ):
        self.tokenizer, self.world, self.profile = tokenizer, world, world.profile(annotator)
        self.split, self.seed, self.num_questions, self.max_turns = split, seed, num_questions, max_turns
        self.max_length, self.max_new_tokens = max_length, max_new_tokens
        self._fitting = lru_cache(maxsize=1024)(self._find_fitting)

    def user(self, index: int) -> SimulatedUser:
        """A user whom nobody has answered yet, the same one for the same index."""
        return self._user(self._fitting(index)[0], index)

    def prompt_ids(self, index: int) -> list[int]:
        """The ids of a user's first message."""
        return self._fitting(index)[1]

    def messages(self, index: int) -> tuple[Message, ...]:
        """The same as a message."""
        return (Message("user", self.user(index).first_message()),)

    def oracle_scores_if_known(self, indices: Sequence[int], answers: Sequence[Sequence[int]]) -> list[GoldScore]:
        """None: what is judged is a whole conversation, by its user."""
        return []

    def _user(self, seed: int, index: int) -> SimulatedUser:
        options = {"num_questions": self.num_questions, "max_turns": self.max_turns}
        return SimulatedUser(self.world, self.profile, self.split, seed, index, **options)

    def _find_fitting(self, index: int) -> tuple[int, list[int]]:
        """(seed, first message) of the first user that fits, of those that stand for this index."""
        room = self.max_length - self.max_new_tokens
        for seed in range(self.seed, self.seed + 100):
            ids = encode_prompt(self.tokenizer, [Message("user", self._user(seed, index).first_message())])
            if len(ids) <= room:
                return seed, ids
        raise LabError(
            f"train.max_length leaves {room} tokens for a prompt, too few for TinyWorld's. Raise train.max_length."
        )


class Conversation:
    """A user, and the row of what was said: `ids`, and beside each in `answer_mask` whether the model drew it.

    answers: how many were drawn. truncated: whether the row had no room for the user's next turn and its answer.
    """

    def __init__(self, users: SimulatedUsers, index: int):
        self.users, self.user = users, users.user(index)
        self.user.first_message()
        self.ids = list(users.prompt_ids(index))
        self.answer_mask = [False] * len(self.ids)
        self.prompt_length, self.answers, self.truncated = len(self.ids), 0, False

    def add_answer(self, drawn: Sequence[int]) -> bool:
        """Take an answer, with the end token where the model drew one, and what the user says to it; whether the model
        is to answer again.
        """
        tokenizer, users = self.users.tokenizer, self.users
        self._extend(drawn, True)
        self.answers += 1
        words = without_end_token(tokenizer, drawn)
        said = self.user.reply(decode_reply(tokenizer, words))
        if said is None:
            return False
        end = [tokenizer.turn_end_id] if len(words) == len(drawn) else []  # the answer was cut
        turn = [*end, *encode_next_turn(tokenizer, said)]
        self.truncated = len(self.ids) + len(turn) + users.max_new_tokens > users.max_length
        if not self.truncated:
            self._extend(turn, False)
        return not self.truncated

    def _extend(self, ids: Sequence[int], drawn: bool) -> None:
        self.ids += ids
        self.answer_mask += [drawn] * len(ids)


Write = Callable[[int, Sequence[int], Sequence[Sequence[int]]], Sequence[Sequence[int]]]
"""(which turn, from 0; which of the conversations go on; the row of each so far) -> what the model draws to answer."""


def hold_conversations(users: SimulatedUsers, indices: Sequence[int], write: Write) -> list[Conversation]:
    """A conversation with each of these users, the same one as often as it is named. All that go on are answered
    together.
    """
    held = [Conversation(users, index) for index in indices]
    going_on, turn = list(range(len(held))), 0
    while going_on:
        drawn = write(turn, going_on, [held[at].ids for at in going_on])
        going_on = [at for at, answer in zip(going_on, drawn, strict=True) if held[at].add_answer(answer)]
        turn += 1
    return held


def greedy_conversations(model: Transformer, users: SimulatedUsers, indices: Sequence[int]) -> list[Conversation]:
    """Conversations in which the model gives the likeliest answer, token by token."""

    def write(turn: int, going_on: Sequence[int], rows: Sequence[Sequence[int]]) -> Sequence[Sequence[int]]:
        return generate(
            model,
            rows,
            filters=[Temperature(0)],
            max_new_tokens=users.max_new_tokens,
            stop_ids=users.tokenizer.stop_ids,
            batch_size=128,
            keep_stop=True,
        )

    return hold_conversations(users, indices, write)


class ConversationScores(NamedTuple):
    """Of conversations with the same users in the same order, one number each, [N].

    satisfaction: the user's at the end. right: the share of the user's questions that were answered rightly. repeats:
    how many questions were asked again. turns: how many answers the model gave. polite: the share of these that are.
    truncated: 1 where the conversation no longer fitted, else 0.
    """

    satisfaction: NDArray[np.float64]
    right: NDArray[np.float64]
    repeats: NDArray[np.float64]
    turns: NDArray[np.float64]
    polite: NDArray[np.float64]
    truncated: NDArray[np.float64]


def conversation_scores(conversations: Sequence[Conversation]) -> ConversationScores:
    """What became of conversations that have ended."""
    rows = [
        (
            one.user.satisfaction(),
            one.user.right / len(one.user.questions),
            one.user.repeats,
            one.answers,
            sum(one.user.polite) / len(one.user.polite),
            one.truncated,
        )
        for one in conversations
    ]
    return ConversationScores(*np.array(rows, dtype=np.float64).T)


def paired_conversation_metrics(after: ConversationScores, before: ConversationScores) -> Metrics:
    """What changed, user by user: means of both, and the gain in satisfaction with the standard error of its mean."""
    gain = after.satisfaction - before.satisfaction
    means = {name: float(column.mean()) for name, column in after._asdict().items()}
    means |= {f"{name}_before": float(column.mean()) for name, column in before._asdict().items()}
    error = float(gain.std() / math.sqrt(len(gain)))
    return means | {
        "satisfaction_gain": float(gain.mean()),
        "satisfaction_gain_standard_error": error,
        "prompts": len(gain),
    }
