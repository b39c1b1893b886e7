"""Proximal policy optimisation: generate answers, have them judged, and make what was better than expected likelier.

Three parts: `sampling.Sampler` draws answers from the policy, the reward model that was fitted to choices judges them,
and `credit.Credit` says what each token was worth, with a price on every nat away from the fine-tuned model and a
critic that learns what to expect (Schulman et al. 2017, https://arxiv.org/abs/1707.06347; for language models Ouyang
et al. 2022, https://arxiv.org/abs/2203.02155). In the world the oracle's gold is measured beside the reward: where the
two part, the policy has learnt the reward model's mistakes.

Where this departs from the two papers, and from TRL's PPOTrainer (0.24; in 1.10 in trl.experimental):

1. A step reads the whole rollout: `epochs` steps on each, no mini-batches (TRL: 4 epochs of shuffled mini-batches).
2. The reward model adds an answer's mean log-probability to its head's number (see `RewardModel`); the critic begins as
   a copy of it that goes by its head alone, with a body of its own (TRL: a value model of its own, too).
3. An answer that was cut off is judged at its last token; nothing is taken off for it (TRL: missing_eos_penalty, off by
   default, as here).
4. Advantages are whitened over all answers of a step and all processes, by the deviation with N (TRL: over those of one
   process, by that with N - 1); rewards are not. The score stands on the last token (TRL: one place behind it).
5. Ratio, KL and entropy are of the distribution at the sampling temperature, as in TRL; Ouyang et al. sample at 1.
6. The KL penalty is the plain difference of log-probabilities (k1) with a fixed weight; Ziegler et al. adapt it, which
   target_kl does. ptx_coef mixes in the pretraining loss (PPO-ptx), off by default.
7. An entropy bonus can be added (entropy_coef, off by default).
8. The value loss is 1/2 of the clipped squared error, weighted by vf_coef, as in TRL, whose names these are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from labkit.configs import Count, NonNegative, Positive, Share
from labkit.losses.policy import ImportanceLevel, LossMean
from labkit.stages.claims import Claim, Metrics
from labkit.stages.clipping import ClipRatio
from labkit.stages.credit import KLInReward, ValueModel
from labkit.stages.policy_gradient import PolicyGradientStage, Temperature
from labkit.stages.registry import Curve, register
from labkit.stages.rewards import RewardModelScore
from labkit.training.config import TrainConfig


@register("ppo", "reinforcement learning on the reward model's scores")
@dataclass(frozen=True)
class PPO(PolicyGradientStage):
    """Train the fine-tuned model against the reward model.

    Attributes:
        num_generations: answers that are sampled to each prompt.
        epochs: optimizer steps on each rollout.
        kl_coef: weight of the KL penalty against the reference model.
        cliprange: how far from 1 the ratio of a token's new probability to its old one may move.
        cliprange_value: how far a step may move a value.
        vf_coef: weight of the value loss.
        entropy_coef: weight of the entropy bonus.
        gamma: discount of later rewards.
        lam: λ of generalised advantage estimation.
        temperature: sampling temperature of the rollouts.
        max_new_tokens: tokens after which an answer is cut.
        compile_rollouts: compile the forward pass that samples: takes half a minute once, worth it for long answers.
        ptx_coef: weight of the language-model loss on pretraining text (PPO-ptx).
        target_kl: nats per answer that kl_coef is steered to; None keeps kl_coef as it is.
        max_kl: nats per token. Once the policy is further than this from the one that wrote the rollout, the rest of
            its epochs is skipped and a new rollout is sampled. None: all epochs are taken.
    """

    train: TrainConfig = TrainConfig()
    num_generations: Count = 2
    epochs: Count = 2
    kl_coef: NonNegative = 0.1
    cliprange: Positive = 0.2
    cliprange_value: Positive = 0.5
    vf_coef: NonNegative = 0.5
    entropy_coef: NonNegative = 0.0
    gamma: Share = 1.0
    lam: Share = 0.95
    temperature: Temperature = 1.0
    max_new_tokens: Count = 40
    compile_rollouts: bool = False
    ptx_coef: NonNegative = 0.0
    target_kl: Positive | None = None
    max_kl: Positive | None = None

    added_fields = ("ptx_coef", "target_kl", "max_kl")
    older_names = {
        "kl_coef": "kl",
        "cliprange": "clip",
        "cliprange_value": "value_clip",
        "vf_coef": "value_weight",
        "entropy_coef": "entropy_weight",
        "num_generations": "samples",
        "max_new_tokens": "answer_tokens",
    }

    def __post_init__(self) -> None:
        self.check_settings()

    reward: ClassVar[RewardModelScore] = RewardModelScore()
    whiten: ClassVar[bool] = True
    importance_level: ClassVar[ImportanceLevel] = "token"
    loss_mean: ClassVar[LossMean] = "token"

    title = "Proximal policy optimisation"
    short_title = "PPO"
    about = (
        "The policy generates answers, the reward model scores them, and the answers that score higher than a value "
        "model (the critic) predicted become likelier. A KL penalty keeps the policy close to the fine-tuned model, "
        "from which it starts."
    )
    curves = (
        Curve("KL from the reference model", "KL (nats per answer)", ("kl",)),
        Curve("Entropy", "nats per token", ("entropy",)),
        Curve("Clip fraction", "fraction of the tokens", ("clip_fraction",)),
        Curve("Explained variance of the value model", "fraction of the returns' variance", ("explained_variance",)),
        Curve("Length of the answers", "tokens", ("length",)),
    )

    @property
    def baseline(self) -> ValueModel:
        """The critic, a copy of the reward model."""
        return ValueModel(self.gamma, self.lam, self.vf_coef, self.cliprange_value)

    @property
    def kl(self) -> KLInReward:
        """In the reward, token by token."""
        return KLInReward(self.kl_coef, target=self.target_kl)

    @property
    def clipping(self) -> ClipRatio:
        """Of the ratio, alike on both sides."""
        return ClipRatio(self.cliprange, self.cliprange)

    @classmethod
    def claim(cls, metrics: Metrics, predecessor_metrics: Metrics) -> Claim | None:
        """Its answers to held-out prompts are rewarded more than those of the model that it began with."""
        if "reward" not in metrics:
            return None
        return Claim(cls.kind, "reward", metrics["reward"], metrics["reward_before"], "the initial model", "higher")
