"""What the stages share that sample answers, have them scored, and learn from some of them: `onlinedpo`,
`rejectionsampling`.

They draw as a policy gradient does, whose source they read. Without a baseline and without a KL penalty its advantages
are the scores themselves, the same at each token of an answer.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from labkit.errors import LabError
from labkit.losses.policy import ImportanceLevel, LossMean
from labkit.stages.clipping import NoClip
from labkit.stages.credit import NoBaseline, NoKL
from labkit.stages.doctor import constant_reward, reward_follows_length
from labkit.stages.policy_gradient import PolicyGradientStage
from labkit.stages.rollouts import Rollout


class AnswerSelectionStage(PolicyGradientStage):
    """Learns from answers that are chosen by their scores from `num_generations` to each prompt."""

    baseline: ClassVar[NoBaseline] = NoBaseline()
    whiten: ClassVar[bool] = False
    kl: ClassVar[NoKL] = NoKL()
    importance_level: ClassVar[ImportanceLevel] = "token"
    clipping: ClassVar[NoClip] = NoClip()
    loss_mean: ClassVar[LossMean] = "token"
    entropy_coef = 0.0
    ptx_coef = 0.0

    checks = (constant_reward, reward_follows_length)

    def check_settings(self) -> None:
        super().check_settings()
        if self.num_generations < 2:
            raise LabError(
                f"{type(self).__name__} chooses between answers to one prompt: num_generations must be at least 2, not "
                f"{self.num_generations}."
            )

    def group_scores(self, batch: Rollout) -> Tensor:
        """[prompts, num_generations]: the score of each answer of a batch."""
        first = batch.mask.int().argmax(-1, keepdim=True)
        return batch.advantages.gather(1, first).view(-1, self.num_generations)
