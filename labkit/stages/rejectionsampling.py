"""Rejection sampling: of the policy's answers to a prompt the best is kept, and learnt as a conversation is.

Dong et al. 2023, RAFT, https://arxiv.org/abs/2304.06767, algorithm 1: in each round the policy of that moment answers
`num_generations` times to each prompt of `rollout_batches` batches; a reward ranks the answers; the policy is
fine-tuned on those that are kept, with the loss of fine-tuning, and the next round asks the policy that this has made.
One round that is as long as the stage is the best-of-n distillation of Llama 2 (Touvron et al. 2023,
https://arxiv.org/abs/2307.09288, 3.2.3).

    selection       which answers are learnt, always one in num_generations
    best            the best to each prompt
    random          any one to each prompt: the control, which has as many examples and learns nothing of the reward
    top             the best of a batch, whatever their prompts: more from prompts that are easy

Departures. (1) From RAFT: a round begins with the policy as it is, its optimiser goes on, and its learning rate is the
stage's; RAFT fine-tunes anew each round. (2) From RAFT: no KL penalty in the reward; the KL is watched. (3) From
Llama 2: answers of earlier rounds are not kept. (4) `top` looks at one batch of all processes, not at a whole round.
(5) `random` keeps the first of the answers to a prompt: they are drawn alike, so that it is any of them. TRL has no
trainer for this.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from labkit.configs import Count
from labkit.machine import all_reduce_sum
from labkit.model.actor_critic import actor_of
from labkit.model.prefix_sharing import row_hidden_states
from labkit.stages.answer_selection import AnswerSelectionStage
from labkit.stages.inputs import token_count_metric
from labkit.stages.policy_gradient import PolicyGradientStage, Temperature
from labkit.stages.registry import Curve, RolloutSchedule, register
from labkit.stages.rewards import RewardChoice, RewardModelScore
from labkit.stages.rollouts import Policy, Rollout
from labkit.stages.sampling import completion_logprobs
from labkit.text.batch import Batch
from labkit.training.config import TrainConfig
from labkit.training.processes import accelerator

Selection = Literal["best", "random", "top"]


@register("rejectionsampling", "fine-tuning on the best of the policy's own answers")
@dataclass(frozen=True)
class RejectionSampling(AnswerSelectionStage):
    """Fine-tune the model further on its own answers, chosen by a reward.

    Attributes:
        num_generations: answers that are sampled to each prompt; one in num_generations is learnt.
        rollout_batches: batches of answers that are sampled together: a round.
        epochs: how often the answers of a round are learnt.
        selection: which answers are learnt: the best to each prompt, the best of a batch whatever their prompts (top),
            or any one to each prompt (random, the control).
        reward: who says which answer is best.
        temperature: sampling temperature.
        max_new_tokens: tokens after which an answer is cut.
        compile_rollouts: compile the forward pass that samples: takes half a minute once, worth it for long answers.
    """

    train: TrainConfig = TrainConfig()
    num_generations: Count = 4
    rollout_batches: Count = 4
    epochs: Count = 1
    selection: Selection = "best"
    reward: RewardChoice = RewardModelScore()
    temperature: Temperature = 1.0
    max_new_tokens: Count = 40
    compile_rollouts: bool = False

    def __post_init__(self) -> None:
        self.check_settings()

    title = "Rejection sampling"
    short_title = "rejection sampling"
    about = (
        "The policy generates several answers to each prompt, a reward says which is the best, and the policy is "
        "fine-tuned on the best ones. Then the new policy generates answers again. It learns nothing from the other "
        "answers, and no KL penalty keeps it close to the reference model."
    )
    loss_unit = "nats per token"
    curves = (
        Curve("Reward of the answers that are kept", "reward", ("kept_reward", "reward")),
        *(one for one in PolicyGradientStage.curves if one.metric_names[0] not in ("entropy", "clip_fraction")),
    )

    @property
    def batches_per_rollout(self) -> int:
        return self.rollout_batches * self.train.gradient_accumulation_steps

    def rollout_schedule(self) -> RolloutSchedule:
        return RolloutSchedule(self.max_new_tokens, self.epochs * self.rollout_batches)

    def kept(self, scores: Tensor) -> Tensor:
        """[prompts, num_generations] bool, of their scores: whether an answer is learnt."""
        if self.selection == "top":
            return self._top(scores)
        chosen = scores.argmax(-1) if self.selection == "best" else torch.zeros_like(scores[:, 0], dtype=torch.long)
        return torch.nn.functional.one_hot(chosen, self.num_generations).bool()

    def _top(self, scores: Tensor) -> Tensor:
        """The best of all processes' answers, of equal ones those to earlier prompts, as on one process."""
        processes = accelerator()
        together = processes.gather(scores).view(processes.num_processes, *scores.shape).transpose(0, 1)
        best = together.flatten().sort(descending=True, stable=True).indices[: together[..., 0].numel()]
        kept = torch.zeros(together.numel(), dtype=torch.bool, device=scores.device)
        kept[best] = True
        return kept.view(together.shape)[:, processes.process_index]

    def _kept_rows(self, kept: Tensor) -> Tensor:
        """The places of the answers that are kept, in order, as many as prompts; of the best over several processes
        however many are this one's, and at least one row, since the model is called all the same.
        """
        if self.selection == "top" and accelerator().num_processes > 1:
            rows = kept.flatten().nonzero().flatten()
            return rows if len(rows) else torch.zeros(1, dtype=torch.long, device=kept.device)
        return kept.flatten().int().sort(descending=True, stable=True).indices[: len(kept)]

    def objective(self, model: Policy, batch: Rollout) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """(summed negative log-likelihood of the answers that are kept, how many tokens these have, what to watch)."""
        scores = self.group_scores(batch)
        kept = self.kept(scores)
        rows = self._kept_rows(kept)
        mask = (batch.mask & kept.flatten().unsqueeze(-1))[rows]
        learnt = Batch(batch.inputs[rows], batch.labels[rows], mask)
        actor = actor_of(model)
        x = row_hidden_states(actor, learnt.inputs, learnt.mask, self.train.prefix_sharing)
        loss = -completion_logprobs(actor, x, learnt).sum()

        count = mask.sum()
        total, tokens = all_reduce_sum(kept.sum().float()), all_reduce_sum(count.float())
        watched = {"kept_reward": (scores * kept).sum() * tokens / total} | token_count_metric(learnt.inputs)
        return loss, count, watched | {name: mean * count for name, mean in batch.metrics.items()}

    def flops(self, model: Policy, tokens: float) -> float:
        """Of the answers that are learnt, and of the forward passes over all that are drawn: see `forward_passes`."""
        passes = self.forward_passes(1) * self.num_generations * self.drawn_for_each_learnt() / self.epochs
        per_token = actor_of(model).training_flops_per_token(self.train.max_length)
        return tokens * per_token * (1 + passes / 3)
