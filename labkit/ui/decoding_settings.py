"""All that a comparison of decoding strategies is made of, as the Decoding tab, a viewer and a link hold it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from labkit.errors import LabError
from labkit.ui.checks import checked_text

SEEDS = 2**32
LONGEST = 1000
"""New tokens that may be asked for."""
MOST = 12
"""Columns side by side, branches among them."""


class InvalidSettings(LabError):
    """What was to be settings of a comparison is something else."""


class StrategyColumn(NamedTuple):
    """A strategy as a line, and the tokens that its text begins with: none, or those up to where it was branched."""

    strategy: str
    forced_prefix: tuple[int, ...] = ()


@dataclass(frozen=True)
class DecodingSettings:
    """All that a comparison is made of; as JSON, all that a link holds.

    stop: texts that end writing. draft: the stage whose model guesses ahead for "speculative"; the first when empty.
    weights_hash: of the weights that wrote; empty for whatever is there.
    """

    run: str
    stage: str
    prompt: str
    columns: tuple[StrategyColumn, ...]
    seed: int = 0
    tokens: int = 80
    stop: tuple[str, ...] = ()
    draft: str = ""
    weights_hash: str = ""

    def __post_init__(self) -> None:
        for what, text in (("The run", self.run), ("The stage", self.stage), ("The prompt", self.prompt)):
            checked_text(text, what)
        for what, texts in (("A strategy", [one.strategy for one in self.columns]), ("A stop text", self.stop)):
            for text in texts:
                checked_text(text, what)
        checked_text(self.draft, "The draft")
        checked_text(self.weights_hash, "The checkpoint's hash")
        for number, column in enumerate(self.columns, 1):
            if not column.strategy.strip():
                raise LabError(f"Strategy {number} is missing: type one, as sample (the model as it is) or greedy.")
        if not 0 <= self.seed < SEEDS:
            raise LabError(f"A seed must be a whole number from 0 to {SEEDS - 1}, not {self.seed}.")
        if not 1 <= self.tokens <= LONGEST:
            raise LabError(f"The number of new tokens must be from 1 to {LONGEST}, not {self.tokens}.")
        if not 1 <= len(self.columns) <= MOST:
            raise LabError(f"From 1 to {MOST} strategies are compared, not {len(self.columns)}.")

    @classmethod
    def from_json(cls, raw: Any) -> DecodingSettings:
        """What `json` gave. Raises LabError for anything else."""
        try:
            values = dict(raw)
            columns = tuple(
                StrategyColumn(str(one["strategy"]), tuple(map(int, one["begins"]))) for one in values["columns"]
            )
            return cls(
                str(values["run"]),
                str(values["stage"]),
                str(values["prompt"]),
                columns,
                int(values.get("seed", 0)),
                int(values.get("tokens", 80)),
                tuple(map(str, values.get("stop", ()))),
                draft=str(values.get("draft", "")),
                weights_hash=str(values.get("checkpoint", "")),
            )
        except LabError:
            raise
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InvalidSettings(
                f"These are not settings of a comparison: {type(error).__name__} {error!s:.80}."
            ) from None

    @classmethod
    def from_link_json(cls, link_json: str) -> DecodingSettings:
        """From the text of a link. Raises LabError for one that is damaged."""
        try:
            return cls.from_json(json.loads(link_json))
        except (json.JSONDecodeError, RecursionError, InvalidSettings):
            raise LabError(
                "This link is broken: no settings can be read from it. Shown instead are those that the tab begins "
                "with."
            ) from None
        except LabError as error:
            raise LabError(
                f"This link cannot be opened: {error} Shown instead are the settings that the tab begins with."
            ) from None

    def to_json(self) -> dict[str, Any]:
        """As a viewer and a link hold it."""
        values = asdict(self) | {
            "columns": [{"strategy": one.strategy, "begins": list(one.forced_prefix)} for one in self.columns]
        }
        return values | {"checkpoint": values.pop("weights_hash")}
