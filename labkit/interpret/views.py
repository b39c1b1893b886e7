"""The same text as several checkpoints read it, and what a viewer asks about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from labkit.errors import LabError
from labkit.interpret.inspection import Inspection

MOST = 120
"""Tokens of a lens that are read out at most: beyond, a table of words is no longer looked at."""


class CheckpointInspections:
    """checkpoint_names: of the checkpoints, in order. load: a name -> the text as that checkpoint
    reads it; asked once for each.

    view = views.attention_viewer_data("sft") is what the viewer shows, and views.handle_request(request) what it asks
    for later.
    """

    def __init__(self, checkpoint_names: Sequence[str], load: Callable[[str], Inspection]):
        if not checkpoint_names:
            raise LabError("There is nothing to show: give at least one checkpoint.")
        self.checkpoint_names, self.load = list(checkpoint_names), load
        self.looks: dict[str, Inspection] = {}

    def inspect(self, checkpoint_name: str) -> Inspection:
        """The text as one checkpoint reads it. Raises LabError for one that is not there."""
        if checkpoint_name not in self.checkpoint_names:
            raise LabError(
                f"There is no checkpoint {checkpoint_name!r} here; there are {', '.join(self.checkpoint_names)}."
            )
        if checkpoint_name not in self.looks:
            self.looks[checkpoint_name] = self.load(checkpoint_name)
        return self.looks[checkpoint_name]

    def attention_viewer_data(self, checkpoint_name: str) -> dict[str, Any]:
        """`Inspection.attention_viewer_data`, with the checkpoints that there are and the one shown."""
        return self.inspect(checkpoint_name).attention_viewer_data() | {
            "stages": self.checkpoint_names,
            "stage": checkpoint_name,
        }

    def handle_request(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """What a viewer wants to know of a stage: {"what": "view" | "cell" | "without" | "effects" | "lens"}, with the
        numbers of the map, layer, head, row and column where these matter; of "without" and "effects", "place" is the
        token after which is predicted, the last when not given.

        What goes wrong is an answer too: {"error": in words}.
        """
        try:
            return self._answer(request)
        except LabError as error:
            return {"error": str(error)}
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            return {"error": f"This is not a request about a text: {type(error).__name__} {error!s}."}

    def _answer(self, question: Mapping[str, Any]) -> dict[str, Any]:
        checkpoint_name = str(question["stage"])
        what = question["what"]
        if what == "view":
            return self.attention_viewer_data(checkpoint_name)
        look = self.inspect(checkpoint_name)
        if what == "lens":
            return {"lens": look.logit_lens(last_tokens=MOST)}
        map_ = int(question["map"])
        place = None if question.get("place") is None else int(question["place"])
        if what == "effects":
            return {"effects": look.ablation_effects(map_, question["kind"], place).tolist()}
        layer, head = int(question["layer"]), int(question["head"])
        if what == "without":
            return look.ablate(map_, layer, head, question["kind"], prediction_position=place)._asdict()
        if what == "cell":
            return look.score_breakdown(map_, layer, head, int(question["row"]), int(question["column"]))._asdict()
        raise LabError(f"A viewer can ask for view, cell, without, effects or lens, not {what!r}.")
