"""The single answers that a stage learns from, and what is said where the preferences are something else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from labkit.errors import LabError
from labkit.text.fitting import LengthReport
from labkit.text.ratings import as_rated
from labkit.text.unpaired import LabeledAnswer, RatedAnswer, drop_long_answers, unpair, unpair_rankings

if TYPE_CHECKING:
    from labkit.stages.inputs import StageInputs

HELD = {
    "pairs": "preference pairs",
    "rankings": "ranked lists",
    "labels": "single answers with a label",
    "ratings": "single answers with a rating",
}
"""What preferences are, in a message."""


def refuse_single_answers(stage_inputs: StageInputs) -> None:
    """Raises LabError where there are no pairs for a stage that learns from them."""
    kind, source = stage_inputs.feedback, stage_inputs.preferences_name
    if kind not in ("labels", "ratings"):
        return
    others = "the reward model with --reward.loss Ratings" + (", or kto," * (kind == "labels"))
    mend = "Give chosen and rejected answers, or ranked lists"
    if stage_inputs.preferences is None:
        mend = "Set annotation.format to pairs or rankings"
    raise LabError(
        f"{source}: {HELD[kind]} cannot be paired, and this stage compares two answers to a prompt. {mend}; or train "
        f"{others} on them instead."
    )


def check_labels(stage_inputs: StageInputs) -> None:
    """Raises LabError where answers have ratings, for a stage that learns from labels or from pairs."""
    if stage_inputs.feedback == "ratings":
        mend = "Give each a label, true for those that are good enough"
        if stage_inputs.preferences is None:
            mend = "Set annotation.format to pairs or rankings"
        raise LabError(
            f"{stage_inputs.preferences_name}: {HELD['ratings']} do not say which are good, and this stage learns from "
            f"good and bad ones. {mend}; or train the reward model with --reward.loss Ratings on them instead."
        )


def check_ratings(stage_inputs: StageInputs) -> None:
    """Raises LabError where answers are compared, for a stage that learns from their ratings or labels."""
    kind = stage_inputs.feedback
    if kind in ("pairs", "rankings"):
        mend = "Give single answers with a rating or a label (labkit read FILE --as preferences shows what a file has)"
        if stage_inputs.preferences is None:
            mend = "Set annotation.format to ratings"
        raise LabError(
            f"{stage_inputs.preferences_name}: the loss Ratings cannot learn from {HELD[kind]}. {mend}, or choose "
            f"another loss: BradleyTerry, AllPairs or PlackettLuce."
        )


def fitting_labeled_answers(stage_inputs: StageInputs, length: int, held_out: bool = False) -> list[LabeledAnswer]:
    """The labelled answers that fit in rows of `length` tokens; where there are pairs, both answers of those that do,
    one by one; to train on, where there are ranked lists, the answers of each list once. Raises LabError when none
    does.
    """
    check_labels(stage_inputs)
    given = _given(stage_inputs, held_out)
    if not given and not held_out and stage_inputs.preference_split.rankings:
        return unpair_rankings(stage_inputs.fitting_rankings(length))
    if not given:
        return unpair(stage_inputs.fitting_held_out_pairs(length) if held_out else stage_inputs.fitting_pairs(length))
    return _fitting(stage_inputs, [one for one in given if isinstance(one, LabeledAnswer)], length, held_out)


def fitting_rated_answers(stage_inputs: StageInputs, length: int, held_out: bool = False) -> list[RatedAnswer]:
    """The rated answers that fit in rows of `length` tokens, a label being a rating of 1 or 0. Raises LabError when
    none does.
    """
    check_ratings(stage_inputs)
    return _fitting(stage_inputs, [as_rated(one) for one in _given(stage_inputs, held_out)], length, held_out)


def num_left_out_answers(stage_inputs: StageInputs, length: int) -> int:
    """How many single answers to train on do not fit in rows of `length` tokens."""
    given = _given(stage_inputs, held_out=False)
    return len(given) - len(fitting_rated_answers(stage_inputs, length))


def _given(stage_inputs: StageInputs, held_out: bool) -> Sequence[Any]:
    answers = stage_inputs.preference_split.answers
    return answers.validation if held_out else answers.train


def _fitting(stage_inputs: StageInputs, given: Sequence[Any], length: int, held_out: bool) -> list[Any]:
    answers = drop_long_answers(stage_inputs.tokenizer, given, length)
    report = LengthReport(len(given), 0, len(given) - len(answers))
    what = "held-out single answers" if held_out else "single answers"
    stage_inputs.check_fit(lambda: (answers, report), what, length)
    return answers
