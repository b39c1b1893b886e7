"""Texts at which writing ends, whatever tokens they are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from labkit.errors import LabError

MOST_TOKENS = 4
"""Of one character: its bytes."""


class StopStrings:
    """StopStrings(tokenizer.decode, ["\\n\\n", "Question:"]): where one of them is written, the text is over."""

    def __init__(self, decode: Callable[[Sequence[int]], str], texts: Sequence[str]):
        """Raises LabError for an empty text, which would end everything at once."""
        if not all(texts):
            raise LabError("A stop text has at least one character.")
        self.decode, self.texts = decode, tuple(texts)
        self.reach = MOST_TOKENS * max((len(text) for text in texts), default=0) + 1

    def has_stop(self, written: Sequence[int]) -> bool:
        """Whether the latest of these tokens completes one of the texts."""
        tail = self.decode(list(written[-self.reach :]))
        return any(text in tail for text in self.texts)

    def cut_at_stop(self, written: Sequence[int]) -> list[int]:
        """The tokens before the first of the texts; one that holds the end of the one and the beginning of the other
        goes too.
        """
        whole = self.decode(list(written))
        first = min((place for text in self.texts if (place := whole.find(text)) >= 0), default=None)
        if first is None:
            return list(written)
        kept = (n for n in range(len(written), -1, -1) if len(self.decode(list(written[:n]))) <= first)
        return list(written[: next(kept)])
