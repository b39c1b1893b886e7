"""Single answers with a label, whether someone found them good, or with a rating. None is compared with another.

    {"prompt": [{"role": "user", "content": …}], "completion": "In Lund.", "label": true}
    {"prompt": [{"role": "user", "content": …}], "completion": "In Lund.", "rating": 4.5}

The first is TRL's unpaired format. For other rows that are read see `labkit.text.reading.unpaired`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor

from labkit.errors import LabError
from labkit.text.chat import Row, encode_prompt_and_answer
from labkit.text.pairs import PreferencePair, collate_pairs
from labkit.text.rankings import Ranking
from labkit.text.sources import EpochSampler, StatelessSource
from labkit.text.tokenizer import Tokenizer
from labkit.world import Message


class LabeledAnswer(NamedTuple):
    """`prompt` ends with the user's turn; `completion` is the assistant's words alone; label: whether it is good."""

    prompt: tuple[Message, ...]
    completion: str
    label: bool


class RatedAnswer(NamedTuple):
    """The same with a number that says how good it is, the higher the better."""

    prompt: tuple[Message, ...]
    completion: str
    rating: float


SingleAnswer = LabeledAnswer | RatedAnswer
A = TypeVar("A", LabeledAnswer, RatedAnswer)


class AnswerSplit(NamedTuple):
    """Single answers to train on, and held out; all with a label or all with a rating."""

    train: Sequence[SingleAnswer] = ()
    validation: Sequence[SingleAnswer] = ()

    @property
    def kind(self) -> Literal["labels", "ratings"] | None:
        """What they have; None where there are none."""
        if not self.train:
            return None
        return "labels" if isinstance(self.train[0], LabeledAnswer) else "ratings"


class LabeledBatch(NamedTuple):
    """B answers as 2B rows: each behind its prompt, then each prompt with an answer to another one.

    inputs, labels, mask [2B, T] and reference_logprobs [2B] as in PairBatch. desirable [B] bool: the answers' labels.
    """

    inputs: Tensor
    labels: Tensor
    mask: Tensor
    reference_logprobs: Tensor
    desirable: Tensor


class LabeledSource(StatelessSource):
    """B = `batch_size` answers a step in rows of T = `length`, every pass shuffled anew by (seed, pass).

    encoded_rows: what `encode_with_mismatched` gives of the answers; reference_logprobs [N, 2] of these rows.
    """

    def __init__(
        self,
        answers: Sequence[LabeledAnswer],
        encoded_rows: Sequence[tuple[Row, Row]],
        reference_logprobs: NDArray[Any],
        batch_size: int,
        length: int,
        pad_token_id: int,
        seed: int = 0,
        *,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.desirable = torch.tensor([answer.label for answer in answers])
        self.encoded, self.reference, self.length, self.pad = encoded_rows, reference_logprobs, length, pad_token_id
        self.order = EpochSampler(batch_size, seed, len(answers), rank, world_size)

    def next_batch(self, unused_model: Any, step: int) -> LabeledBatch:
        chosen = self.order.row_indices(step)
        rows = collate_pairs([self.encoded[i] for i in chosen], self.length, self.pad, self.reference[chosen])
        return LabeledBatch(rows.inputs, rows.labels, rows.mask, rows.reference_logprobs, self.desirable[chosen])


def unpair(pairs: Sequence[PreferencePair]) -> list[LabeledAnswer]:
    """The answers of N pairs, each by itself: 2N, the chosen one of a pair (good) before its rejected one (not)."""
    return [
        LabeledAnswer(p.prompt, text, good) for p in pairs for text, good in ((p.chosen, True), (p.rejected, False))
    ]


def unpair_rankings(rankings: Iterable[Ranking]) -> list[LabeledAnswer]:
    """The answers of ranked lists, each by itself and once: of K the better K // 2 (good), then the worse K // 2 (not).
    Where K is odd the one in the middle, neither of them, is left out. Of lists of two this is `unpair`.
    """
    labeled = []
    for prompt, answers, _ in rankings:
        half = len(answers) // 2
        labeled += [LabeledAnswer(prompt, answer, True) for answer in answers[:half]]
        labeled += [LabeledAnswer(prompt, answer, False) for answer in answers[-half:]]
    return labeled


def once_in_lists(answers: Sequence[LabeledAnswer]) -> list[int]:
    """Of the answers of all pairs of ranked lists (`unpair`) the indices of those that `unpair_rankings` has: each
    answer once, as good or bad as most of its pairs say, without the one in the middle.
    """
    balance: Counter[tuple[Any, str]] = Counter()
    for one in answers:
        balance[one[:2]] += 1 if one.label else -1
    first = {one: at for at, one in reversed(list(enumerate(answers)))}
    return sorted(at for one, at in first.items() if balance[one[:2]] * (1 if one.label else -1) > 0)


def count_contradictions(answers: Sequence[LabeledAnswer]) -> int:
    """How many different answers to a prompt are called both good and not."""
    good, bad = ({one[:2] for one in answers if one.label is label} for label in (True, False))
    return len(good & bad)


def drop_long_answers(tokenizer: Tokenizer, answers: Sequence[A], length: int) -> list[A]:
    """The answers that fit, with their prompt, in a row of `length` tokens."""
    return [one for one in answers if len(encode_prompt_and_answer(tokenizer, *one[:2])[0]) <= length]


def single_answer_to_row(answer: SingleAnswer) -> dict[str, Any]:
    """An answer as a row of the files described above."""
    return {**answer._asdict(), "prompt": [message.to_dict() for message in answer.prompt]}


def encode_with_mismatched(
    tokenizer: Tokenizer, answers: Sequence[LabeledAnswer], length: int
) -> list[tuple[Row, Row]]:
    """Each answer -> the row of its prompt with it, and the row of its prompt with another one's answer.

    The others' answers are all the same answers, set behind other prompts; where such a row is longer than `length`
    tokens it loses its end. Raises LabError where all prompts are the same.
    """
    others = mismatched_indices([answer.prompt for answer in answers])
    encoded = []
    for (prompt, completion, _), other in zip(answers, others, strict=True):
        ids, counts = encode_prompt_and_answer(tokenizer, prompt, answers[other].completion)
        encoded.append((encode_prompt_and_answer(tokenizer, prompt, completion), (ids[:length], counts[:length])))
    return encoded


def mismatched_indices(prompts: Sequence[Any]) -> list[int]:
    """For each of N prompts the index of another one, each index once where prompts that are the same stand together.

    mismatched_indices(["a", "a", "b", "c"]) -> [2, 3, 0, 1]. Raises LabError where all are the same.
    """
    if len(set(prompts)) < 2:
        raise LabError(
            f"All {len(prompts)} answers have the same prompt. KTO estimates the KL from answers set behind "
            f"other prompts: give answers to at least 2 prompts."
        )
    count, longest = len(prompts), max(len(list(same)) for _, same in groupby(prompts))
    after = [0] * count  # the next index with another prompt
    for index in reversed(range(2 * count)):  # twice round, for the last ones look at the first
        here, there = index % count, (index + 1) % count
        after[here] = there if prompts[here] != prompts[there] else after[there]
    shifted = [(index + longest) % count for index in range(count)]
    return [other if prompts[other] != prompt else after[other] for prompt, other in zip(prompts, shifted, strict=True)]
