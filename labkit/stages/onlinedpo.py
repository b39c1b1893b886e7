"""Online DPO: the policy answers each prompt twice, a reward says which answer is better, and DPO's loss learns it.

Guo et al. 2024, https://arxiv.org/abs/2402.04792, algorithm 1: as DPO, with pairs of the policy's own answers,
annotated while it trains. With more than two answers to a prompt the best is paired with the worst.

    loss = - log sigmoid(beta (log policy ratio - log reference ratio))      ratio = chosen / rejected

Departures. (1) From the paper: its annotator is a language model that is asked; here it is any reward, the reward model
by default, as in TRL. (2) From both: answers with equal scores are no pair. They add nothing to the loss, which is
averaged over all prompts; `frac_reward_zero_std` is their share. TRL's OnlineDPOTrainer takes the first as the better.
(3) From TRL: log-probabilities are those of the distribution that is sampled from, at `temperature`; TRL's are at 1.
(4) From both: more than two answers to a prompt, and with `epochs` more than one step on them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from labkit.configs import Count, Positive
from labkit.losses import dpo_loss, ipo_loss
from labkit.machine import all_reduce_sum
from labkit.model.actor_critic import actor_critic_output, actor_of
from labkit.stages.answer_selection import AnswerSelectionStage
from labkit.stages.inputs import token_count_metric
from labkit.stages.pairs import RANKED
from labkit.stages.policy_gradient import PolicyGradientStage, Temperature
from labkit.stages.preference_policy import IMPLICIT_REWARDS
from labkit.stages.registry import register
from labkit.stages.rewards import RewardChoice, RewardModelScore
from labkit.stages.rollouts import Policy, Rollout
from labkit.stages.sampling import completion_logprobs
from labkit.training.config import TrainConfig


@register("onlinedpo", "DPO on pairs of the policy's own answers")
@dataclass(frozen=True)
class OnlineDPO(AnswerSelectionStage):
    """Train the fine-tuned model by online DPO.

    Attributes:
        num_generations: answers that are sampled to each prompt; the best and the worst are the pair.
        epochs: optimizer steps on each batch of answers.
        reward: who says which answer is better.
        beta: how strongly the policy is kept close to the reference model.
        loss_type: sigmoid (DPO's loss) or ipo (IPO's).
        temperature: sampling temperature.
        max_new_tokens: tokens after which an answer is cut.
        compile_rollouts: compile the forward pass that samples: takes half a minute once, worth it for long answers.
    """

    train: TrainConfig = TrainConfig()
    num_generations: Count = 2
    epochs: Count = 1
    reward: RewardChoice = RewardModelScore()
    beta: Positive = 0.1
    loss_type: Literal["sigmoid", "ipo"] = "sigmoid"
    temperature: Temperature = 1.0
    max_new_tokens: Count = 40
    compile_rollouts: bool = False

    def __post_init__(self) -> None:
        self.check_settings()

    title = "Online direct preference optimisation"
    short_title = "online DPO"
    about = (
        "The policy generates several answers to each prompt, and a reward says which is the best and which the worst. "
        "The loss of direct preference optimisation makes the better one likelier than the worse, each relative to its "
        "probability under the reference model. From answers with equal rewards it learns nothing."
    )
    curves = (
        RANKED,
        IMPLICIT_REWARDS,
        *(one for one in PolicyGradientStage.curves if one.metric_names[0] not in ("entropy", "clip_fraction")),
    )

    def objective(self, model: Policy, batch: Rollout) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """(summed loss of the pairs, how many prompts, what to watch). accuracy: of the pairs, how many the policy
        ranks as the reward does; it and the rewards of the two are left out where there is no pair.
        """
        x, _ = actor_critic_output(model, batch.inputs, batch.mask, self.train.prefix_sharing)
        policy = completion_logprobs(actor_of(model), x, batch, self.temperature).sum(-1)
        scores, reference = self.group_scores(batch), batch.reference_logprobs.sum(-1)
        first = torch.arange(len(scores), device=scores.device) * self.num_generations
        chosen, rejected = first + scores.argmax(-1), first + scores.argmin(-1)
        sides = policy[chosen], policy[rejected], reference[chosen], reference[rejected]
        differ = (scores.amax(-1) > scores.amin(-1)).to(policy.dtype)
        loss_of = dpo_loss if self.loss_type == "sigmoid" else ipo_loss
        loss, better, worse = loss_of(*sides, beta=self.beta)

        prompts = torch.tensor(len(scores), device=scores.device)
        per_pair = all_reduce_sum(prompts.float()) / all_reduce_sum(differ.sum().float())  # infinite: 0 of 0 pairs, NaN
        watched = {
            "accuracy": ((better > worse) * differ).sum() * per_pair,
            "chosen_reward": (better * differ).sum() * per_pair,
            "rejected_reward": (worse * differ).sum() * per_pair,
        }
        watched |= token_count_metric(batch.inputs)
        watched |= {name: mean * prompts for name, mean in batch.metrics.items()}
        return (loss * differ).sum(), prompts, watched
