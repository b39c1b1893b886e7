"""GSPO: the ratio is that of a whole answer.

Zheng et al. 2025, https://arxiv.org/abs/2507.18071: a reward is given to an answer, so its probability as a whole (the
geometric mean over its tokens) is what is compared and clipped, to 3e-4 and 4e-4.

Departures: none in the loss; groups of 4.
"""

from __future__ import annotations

from dataclasses import dataclass

from labkit.configs import Count
from labkit.losses.policy import ImportanceLevel
from labkit.stages.clipping import ClippingChoice, ClipRatio
from labkit.stages.credit import KLChoice, NoKL
from labkit.stages.grpo import GRPO
from labkit.stages.registry import register


@register("gspo", "GRPO with the ratio of whole answers")
@dataclass(frozen=True)
class GSPO(GRPO):
    """Train the fine-tuned model by GSPO."""

    epochs: Count = 2
    kl: KLChoice = NoKL()
    importance_level: ImportanceLevel = "sequence"
    clipping: ClippingChoice = ClipRatio(3e-4, 4e-4)

    title = "Group sequence policy optimisation"
    short_title = "GSPO"
    about = (
        "GRPO in which the probability of a whole answer, not of each token, is compared with what it was when the "
        "answer was drawn, and clipped."
    )
