"""Texts at which writing ends, whatever tokens they are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from labkit.errors import LabError

MOST_TOKENS = 4
"""Of one character: its bytes."""


class StopStrings:
    """StopStrings(tokenizer.decode, ["\\n\\n", "Question:"]): where one of them is written, the text is over."""

    def __init__(self, decode: Callable[[Sequence[int]], str], stop_strings: Sequence[str]):
        """Raises LabError for an empty text, which would end everything at once."""
        if not all(stop_strings):
            raise LabError("A stop text has at least one character.")
        self.decode, self.texts = decode, tuple(stop_strings)
        self.reach = MOST_TOKENS * max((len(text) for text in stop_strings), default=0) + 1

    def ends_with_stop(self, token_ids: Sequence[int]) -> bool:
        """Whether the latest of these tokens completes one of the texts."""
        tail = self.decode(list(token_ids[-self.reach :]))
        return any(text in tail for text in self.texts)

    def cut_at_stop(self, token_ids: Sequence[int]) -> list[int]:
        """The tokens before the first of the texts; one that holds the end of the one and the beginning of the other
        goes too.
        """
        whole = self.decode(list(token_ids))
        first = min((place for text in self.texts if (place := whole.find(text)) >= 0), default=None)
        if first is None:
            return list(token_ids)
        kept = (n for n in range(len(token_ids), -1, -1) if len(self.decode(list(token_ids[:n]))) <= first)
        return list(token_ids[: next(kept)])
