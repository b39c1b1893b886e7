"""Proximal policy optimisation: generate answers, have them judged, and make what was better than expected likelier.

Three parts: `sampling.Sampler` draws answers from the policy, the reward model that was fitted to choices judges them,
and `credit.GAECredit` says what each token was worth, with a price on every nat away from the fine-tuned model and a
critic that learns what to expect (Schulman et al. 2017, https://arxiv.org/abs/1707.06347; for language models Ouyang
et al. 2022, https://arxiv.org/abs/2203.02155). In the world the oracle's gold is measured beside the reward: where the
two part, the policy has learnt the reward model's mistakes.

Where this departs from the two papers, and from TRL's PPOTrainer (0.24, the last with one):

1. A step reads the whole rollout: `epochs` steps on each, no mini-batches (TRL: 4 epochs of shuffled mini-batches).
2. The reward model adds an answer's mean log-probability to its head's number (see `RewardModel`); the critic begins as
   a copy of it that goes by its head alone, with a body of its own (TRL: a value model of its own, too).
3. An answer that was cut off is judged at its last token; nothing is taken off for it (TRL: missing_eos_penalty, off by
   default, as here).
4. Advantages are whitened over all answers of a step and all processes, by the deviation with N (TRL: over those of one
   process, by that with N - 1); rewards are not. The score stands on the last token (TRL: one place behind it).
5. Ratio, KL and entropy are of the distribution at the sampling temperature, as in TRL; Ouyang et al. sample at 1.
6. The KL penalty is the plain difference of log-probabilities (k1) with a fixed weight (Ziegler et al. adapt it).
7. An entropy bonus can be added (entropy_coef, off by default); there is no pretraining loss mixed in (PPO-ptx).
8. The value loss is 1/2 of the clipped squared error, weighted by vf_coef, as in TRL, whose names these are.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import torch
from torch import Tensor

from labkit.configs import Count, NonNegative, Positive, Range, Share, check_fields
from labkit.decoding.filters import COLDEST, HOTTEST
from labkit.errors import LabError
from labkit.evaluation.judges import reward_judge
from labkit.losses import clipped_policy_loss, clipped_value_loss, entropy, token_logprobs
from labkit.machine import uses_bf16
from labkit.model.actor_critic import ActorCritic
from labkit.stages.claims import Claim, Metrics
from labkit.stages.credit import GAECredit
from labkit.stages.inputs import StageInputs, token_count_metric
from labkit.stages.registry import Curve, RolloutSchedule, Stage, register
from labkit.stages.rollouts import Rollout, RolloutSource, check_batch_size
from labkit.stages.sampling import Sampler, apply_temperature
from labkit.training.config import TrainConfig
from labkit.training.engine import make_parallel_eval_engine
from labkit.training.processes import accelerator

if TYPE_CHECKING:
    from labkit.decoding import Judge
    from labkit.evaluation.config import EvaluationConfig
    from labkit.model.reward_model import RewardModel
    from labkit.model.transformer import Transformer
    from labkit.text.tokenizer import Tokenizer
    from labkit.training.config import BatchSource


@register("ppo", "reinforcement learning on the reward model's scores")
@dataclass(frozen=True)
class PPO(Stage):
    """Train the fine-tuned model against the reward model.

    train.batch_size: answers of one rollout, `num_generations` to each prompt. epochs: steps taken on each rollout.
    kl_coef: the weight of the KL penalty against the reference model. cliprange, cliprange_value: how far a step may
    move a probability (as a ratio) and a value. vf_coef, entropy_coef: the weights of the value loss and of the entropy
    bonus. gamma, lam: see `advantages.gae`. temperature, max_new_tokens: how answers are sampled, and where they are
    cut. compile_rollouts: sample with the forward pass compiled: half a minute once, which long answers win back.
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
    temperature: Annotated[float, Range(COLDEST, HOTTEST)] = 1.0
    max_new_tokens: Count = 40
    compile_rollouts: bool = False

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
        check_fields(self)
        if self.max_new_tokens >= self.train.max_length:
            raise LabError(
                f"PPO: answers of {self.max_new_tokens} tokens leave no room for a prompt: train.max_length is "
                f"{self.train.max_length}. Lower max_new_tokens, or raise train.max_length."
            )
        if self.train.compile:
            raise LabError(
                "PPO: train.compile would recompile the objective for each answer length, which takes minutes; leave "
                "it off. compile_rollouts compiles the sampling of rollouts."
            )

    title = "Proximal policy optimisation"
    short_title = "PPO"
    about = (
        "The policy generates answers, the reward model scores them, and the answers that score higher than a value "
        "model (the critic) predicted become likelier. A KL penalty keeps the policy close to the fine-tuned model, "
        "from which it starts."
    )
    reads = "preferences"
    needs_reward_model = True
    curves = (
        Curve("KL from the reference model", "KL (nats per answer)", ("kl",)),
        Curve("Entropy", "nats per token", ("entropy",)),
        Curve("Clip fraction", "fraction of the tokens", ("clip_fraction",)),
        Curve("Explained variance of the value model", "fraction of the returns' variance", ("explained_variance",)),
        Curve("Length of the answers", "tokens", ("length",)),
    )

    def check(self, stage_inputs: StageInputs, config: EvaluationConfig) -> None:
        """Prompts must leave room for an answer, those to train on and those held out."""
        from labkit.evaluation.policies import held_out_prompts

        stage_inputs.check_annotator()
        check_batch_size(self.train.batch_size, self.num_generations, stage_inputs.world_size)
        stage_inputs.prompts(self.train.max_length, self.max_new_tokens).prompt_ids(0)
        held_out_prompts(stage_inputs, config.policy_prompts, self.train.max_length, self.max_new_tokens)

    def initial_model(self, stage_inputs: StageInputs) -> ActorCritic:
        """The fine-tuned model as actor, and a copy of the reward model as critic.

        Of an answer that has only begun, its log-probability so far says little: the critic goes by its head alone.
        """
        critic = stage_inputs.reward_model()
        critic.logprob_weight.data.zero_()
        return ActorCritic(stage_inputs.predecessor_model(), critic)

    def source(self, stage_inputs: StageInputs, model: ActorCritic) -> BatchSource:
        """Rollouts of the actor, judged by the reward model; the reference is a copy of the actor as it is before the
        first step.
        """
        tokenizer, train = stage_inputs.tokenizer, self.train
        return RolloutSource(
            stage_inputs.prompts(train.max_length, self.max_new_tokens),
            self.sampler(tokenizer),
            self.judge(stage_inputs.reward_model(), tokenizer),
            GAECredit(self.kl_coef, self.gamma, self.lam),
            copy.deepcopy(model.actor),
            batch_size=train.batch_size,
            num_generations=self.num_generations,
            epochs=self.epochs,
            gradient_accumulation_steps=train.gradient_accumulation_steps,
            precision=train.precision,
            **stage_inputs.seed_and_rank_options(),
        )

    def judge(self, reward_model: RewardModel, tokenizer: Tokenizer) -> Judge:
        """The reward model's number of each answer, by as many processes as hold its weights."""
        device = accelerator().device
        engine = make_parallel_eval_engine(reward_model, device, uses_bf16(self.train.precision, device))

        def judge(prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> Sequence[float]:
            return engine.call_with_weights(
                lambda model: reward_judge(model, tokenizer, has_end_token=True)(prompts, answers)
            )

        return judge

    def sampler(self, tokenizer: Tokenizer) -> Sampler:
        """What draws the answers."""
        return Sampler(
            tokenizer,
            max_length=self.train.max_length,
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            compile=self.compile_rollouts,
        )

    def objective(self, model: ActorCritic, batch: Rollout) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """(policy loss + vf_coef value loss - entropy_coef entropy, how many tokens, what to watch)."""
        mask, count = batch.mask, batch.mask.sum()
        x, values = model(batch.inputs, mask)
        logits = model.actor.logits(x[mask]).unsqueeze(0)  # [1, N, V] of the N tokens of answers
        logits = apply_temperature(logits, self.temperature)
        logprobs = token_logprobs(logits, batch.labels[mask].unsqueeze(0))
        before, advantages = batch.logprobs[mask].unsqueeze(0), batch.advantages[mask].unsqueeze(0)
        every = torch.ones_like(logprobs, dtype=torch.bool)
        policy, clipped = clipped_policy_loss(logprobs, before, advantages, every, cliprange=self.cliprange)
        value, _ = clipped_value_loss(values, batch.values, batch.returns, mask, cliprange_value=self.cliprange_value)
        spread = entropy(logits).sum()
        loss = policy + self.vf_coef * value - self.entropy_coef * spread
        watched = {"clip_fraction": clipped, "entropy": spread, "value_loss": value} | token_count_metric(batch.inputs)
        return loss, count, watched | {name: mean * count for name, mean in batch.metrics.items()}

    def result_model(self, model: ActorCritic) -> Transformer:
        return model.actor

    def rollout_schedule(self) -> RolloutSchedule:
        return RolloutSchedule(self.max_new_tokens, self.epochs)

    def frozen_rollout_models(self, stage_inputs: StageInputs) -> dict[str, Transformer | RewardModel]:
        return {"reference": stage_inputs.predecessor_model(), "reward model": stage_inputs.reward_model()}

    def flops(self, model: ActorCritic, tokens: float) -> float:
        """Actor and critic are trained; a rollout is five forward passes: writing, both of them, reward, reference."""
        return tokens * model.actor.training_flops_per_token(self.train.max_length) * (2 + 5 / 3 / self.epochs)

    @classmethod
    def claim(cls, metrics: Metrics, predecessor_metrics: Metrics) -> Claim | None:
        """Its answers to held-out prompts are rewarded more than those of the model that it began with."""
        if "reward" not in metrics:
            return None
        return Claim(cls.kind, "reward", metrics["reward"], metrics["reward_before"], "the initial model", "higher")

    def evaluate(self, model: Transformer, stage_inputs: StageInputs, config: EvaluationConfig) -> dict[str, float]:
        """Generates greedy answers to held-out prompts, and compares their gold or reward with that of the model
        before.
        """
        from labkit.evaluation.policies import policy_metrics

        return policy_metrics(model, stage_inputs, config.policy_prompts, self.train.max_length, self.max_new_tokens)
