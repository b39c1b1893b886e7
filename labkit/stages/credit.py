"""Credit: from a judge's number for a whole answer to what each of its tokens was worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from labkit.configs import NonNegative, Share
from labkit.losses.advantages import Advantages, gae, shaped_rewards, whiten_together
from labkit.machine import all_reduce_sum


class ScoredAnswers(NamedTuple):
    """B answers of T tokens, as credit needs them: the judge's `scores` [B]; `logprobs` of the policy that wrote them,
    `reference_logprobs`, and the value model's `values`, each [B, T]; `mask` [B, T] True on the answers.
    """

    scores: Tensor
    logprobs: Tensor
    reference_logprobs: Tensor
    values: Tensor
    mask: Tensor


@dataclass(frozen=True)
class GAECredit:
    """The score stands on the last token, each nat away from the reference costs `kl_coef`, and a value model says what
    was to be expected: generalised advantage estimation (see `losses.gae`), whitened over all answers of a step.
    """

    kl_coef: NonNegative = 0.1
    gamma: Share = 1.0
    lam: Share = 0.95

    def __call__(self, parts: Sequence[ScoredAnswers]) -> list[Advantages]:
        """Of the batches that make one step together; all processes are asked at once."""
        found = [self._of(part) for part in parts]
        advantages = whiten_together([one.advantages for one in found], [part.mask for part in parts], all_reduce_sum)
        return [one._replace(advantages=white) for one, white in zip(found, advantages, strict=True)]

    def _of(self, part: ScoredAnswers) -> Advantages:
        rewards = shaped_rewards(part.scores, part.logprobs, part.reference_logprobs, part.mask, kl_coef=self.kl_coef)
        return gae(rewards, part.values, part.mask, gamma=self.gamma, lam=self.lam)
