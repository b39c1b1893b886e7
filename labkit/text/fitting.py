"""Which examples fit in a row of T tokens, which are cut there, and which then have nothing left to teach."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from labkit.errors import LabError
from labkit.text.chat import Row, encode_documents
from labkit.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from labkit.world import Document

LossOn = Literal["all", "answers"]


class LengthReport(NamedTuple):
    """Examples beside the rows that they were to fit in.

    total: how many there are. truncated: how many of them are longer than a row and lose their end. left_out: how many
    are not used, for no label of theirs is left in the row (or, of pairs and prompts, which are never cut, all longer).
    """

    total: int
    truncated: int = 0
    left_out: int = 0

    def message(self, what: str, length: int) -> str:
        """A sentence on what does not fit; '' where all does."""
        parts = [
            f"{done}: {count}" for done, count in (("truncated", self.truncated), ("left out", self.left_out)) if count
        ]
        if not parts:
            return ""
        return (
            f"Longer than {length} tokens (train.max_length): {self.truncated + self.left_out} of {self.total} {what}; "
            f"{', '.join(parts)}. Raise train.max_length (up to model.context) to fit them."
        )


def encode_within_length(
    tokenizer: Tokenizer, documents: Sequence[Document], max_length: int, loss_on: LossOn = "answers"
) -> tuple[list[Row], LengthReport]:
    """Documents -> their rows of at most `max_length` ids, without those that keep no label; and what did not fit.

    A document that is too long keeps its text and as many whole exchanges as fit (see `encode_document`).
    """
    rows = encode_documents(tokenizer, documents, sys.maxsize)
    long = [index for index, (ids, _) in enumerate(rows) if len(ids) > max_length]
    for index, row in zip(long, encode_documents(tokenizer, [documents[i] for i in long], max_length), strict=True):
        rows[index] = row
    kept = [row for row in rows if has_labels(row, loss_on)]
    left_out = sum(not has_labels(rows[index], loss_on) for index in long)
    return kept, LengthReport(len(rows), len(long) - left_out, left_out)


def has_labels(row: Row, loss_on: LossOn) -> bool:
    """Whether a label of the row counts; its first id is no label."""
    ids, answer = row
    return any(answer[1:]) if loss_on == "answers" else len(ids) > 1


def check_any_fit(report: LengthReport, what: str, length: int) -> None:
    """Raises LabError where all that was given is left out."""
    if report.total and report.left_out == report.total:
        raise LabError(
            f"None of {report.total} {what} fits, with its prompt, in {length} tokens. Raise train.max_length (up to "
            f"model.context), or shorten the prompts."
        )
