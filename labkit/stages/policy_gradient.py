"""Policy gradients: one stage with axes. The pages beside it (reinforce, rloo, grpo, ppo …) are points on these axes.

A step has three parts. `sampling.Sampler` draws answers from the policy; `rewards` gives each a number; `credit` says
what each token was worth. Then the policy is moved so that what was better than expected becomes likelier:

    loss = mean over tokens of surrogate(ratio, A) + kl.coef KL + vf_coef value loss - entropy_coef entropy
           + ptx_coef language-model loss

    axis              choices
    reward            RewardModelScore, Ensemble, ProcessReward, Verifier, Votes, Custom: who says how good an answer is
    baseline          NoBaseline, MovingMean, GroupMean, LeaveOneOut, ValueModel: what a score is compared with
    whiten            advantages of mean 0 and variance 1 over a whole step
    kl                NoKL, KLInReward, KLInLoss: where it stands, which estimator, fixed or steered to a target
    importance_level  token, sequence: whose probability is compared with what it was when the answer was drawn
    clipping          NoClip, ClipRatio, ClipWeight: how far one rollout may move it
    loss_mean         token, answer, constant: how tokens of long and short answers are averaged
    epochs            steps on each rollout
    off_policy_correction  NoCorrection, TruncatedImportanceSampling: where the sampler is not quite the policy
    max_kl            steps on a rollout end early once the policy is so far from the one that wrote it
"""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor

from labkit.configs import Count, CountOrNone, NonNegative, Positive, Range, check_fields
from labkit.decoding.filters import COLDEST, HOTTEST, Part
from labkit.errors import LabError
from labkit.losses import clipped_value_loss, entropy, next_token_loss, token_logprobs
from labkit.losses.policy import ImportanceLevel, LossMean, importance_ratio, kl_estimate, token_weights
from labkit.machine import all_reduce_sum
from labkit.model.actor_critic import ActorCritic, actor_critic_output, actor_of
from labkit.model.reward_model import RewardModel
from labkit.preferences.prompts import OffsetPrompts
from labkit.stages.claims import Claim, Metrics
from labkit.stages.clipping import ClippingChoice, NoClip
from labkit.stages.credit import (
    BaselineChoice,
    Credit,
    KLChoice,
    KLInLoss,
    KLInReward,
    NoBaseline,
    ValueModel,
)
from labkit.stages.doctor import POLICY_GRADIENT_CHECKS
from labkit.stages.inputs import StageInputs, token_count_metric
from labkit.stages.off_policy import NoCorrection, OffPolicyCorrection
from labkit.stages.pretrain import Pretrain
from labkit.stages.registry import Curve, RolloutSchedule, Stage
from labkit.stages.rewards import Reward, RewardChoice, RewardModelScore
from labkit.stages.rollouts import Policy, Rollout, RolloutSource, check_batch_size
from labkit.stages.sampling import Sampler, apply_temperature
from labkit.training.config import TrainConfig

if TYPE_CHECKING:
    from labkit.evaluation.config import EvaluationConfig
    from labkit.model.transformer import Transformer
    from labkit.preferences.prompts import IndexedPrompts
    from labkit.text.batch import Batch
    from labkit.training.config import BatchSource

Temperature = Annotated[float, Range(COLDEST, HOTTEST)]


class PolicyGradientStage(Stage):
    """All that the pages share; each says where it stands on the axes, as settings or for good."""

    num_generations: int
    epochs: int
    entropy_coef: float
    ptx_coef: float
    temperature: float
    max_new_tokens: int
    compile_rollouts: bool
    max_kl: float | None = None
    sampler_top_p: float = 1.0
    sampler_precision: str | None = None
    prompt_offset: int = 0
    tasks: tuple[str, ...] = ()

    rollout_source: ClassVar[type[RolloutSource]] = RolloutSource

    @property
    def off_policy_correction(self) -> OffPolicyCorrection:
        return NoCorrection()

    @property
    @abstractmethod
    def reward(self) -> Reward: ...

    @property
    @abstractmethod
    def baseline(self) -> BaselineChoice: ...

    @property
    @abstractmethod
    def whiten(self) -> bool: ...

    @property
    @abstractmethod
    def kl(self) -> KLChoice: ...

    @property
    @abstractmethod
    def importance_level(self) -> ImportanceLevel: ...

    @property
    @abstractmethod
    def clipping(self) -> ClippingChoice: ...

    @property
    @abstractmethod
    def loss_mean(self) -> LossMean: ...

    reads = "preferences"
    batch_unit = "answers, num_generations to each prompt"
    online = True
    checks = POLICY_GRADIENT_CHECKS
    curves: ClassVar[tuple[Curve, ...]] = (
        Curve("KL from the reference model", "KL (nats per answer)", ("kl",)),
        Curve("Entropy", "nats per token", ("entropy",)),
        Curve("Clip fraction", "fraction of the tokens", ("clip_fraction",)),
        Curve("Prompts whose answers are all rewarded alike", "fraction of the prompts", ("frac_reward_zero_std",)),
        Curve("Length of the answers", "tokens", ("length",)),
    )

    @property
    def needs_reward_model(self) -> bool:
        return self.reward.needs_reward_model

    @property
    def reward_stages(self) -> tuple[str, ...]:
        return self.reward.reward_stages

    def can_read_rewards_of(self, stage: Stage) -> bool:
        return self.reward.can_read(stage)

    def check_settings(self) -> None:
        """Raises LabError for settings that do not go together."""
        check_fields(self)
        name = type(self).__name__
        if self.max_new_tokens >= self.train.max_length:
            raise LabError(
                f"{name}: answers of {self.max_new_tokens} tokens leave no room for a prompt: train.max_length is "
                f"{self.train.max_length}. Lower max_new_tokens, or raise train.max_length."
            )
        if self.train.compile:
            raise LabError(
                f"{name}: train.compile would recompile the objective for each answer length, which takes minutes; "
                "leave it off. compile_rollouts compiles the sampling of rollouts."
            )
        if self.max_kl is not None and self.epochs < 2:
            raise LabError(
                f"{name}: max_kl ends the steps on a rollout early, and epochs is 1: there is nothing to end. Raise "
                "epochs, or set max_kl to None."
            )
        self.baseline.check(self.num_generations)
        self.reward.check_group(self.num_generations)

    def check(self, stage_inputs: StageInputs, config: EvaluationConfig) -> None:
        """Prompts must leave room for an answer, those to train on and those held out."""
        from labkit.evaluation.policies import held_out_prompts

        stage_inputs.check_annotator()
        self._check_tasks(stage_inputs)
        self.reward.check(stage_inputs)
        check_batch_size(self.train.batch_size, self.num_generations, stage_inputs.world_size)
        self.prompts(stage_inputs).prompt_ids(0)
        held_out_prompts(stage_inputs, config.policy_prompts, self.train.max_length, self.max_new_tokens, self.tasks)

    def _check_tasks(self, stage_inputs: StageInputs) -> None:
        """Raises LabError for kinds of tasks that cannot be asked."""
        name = type(self).__name__
        if self.tasks and (stage_inputs.preferences is not None or not stage_inputs.uses_world_data):
            raise LabError(
                f"{name}: tasks chooses among TinyWorld's own tasks, and the prompts are those of a file. Leave it "
                f"empty."
            )
        stage_inputs.check_tasks(self.tasks, name)

    def prompts(self, stage_inputs: StageInputs) -> IndexedPrompts:
        """What the policy is asked while it trains."""
        prompts = stage_inputs.prompts(self.train.max_length, self.max_new_tokens, self.tasks)
        return OffsetPrompts(prompts, self.prompt_offset)

    def initial_model(self, stage_inputs: StageInputs) -> Policy:
        """The fine-tuned model; with a value model, which begins as a copy of the reward model whose scores are the
        reward (of an ensemble the first), else of the fine-tuned model.

        Of an answer that has only begun, its log-probability so far says little: the critic goes by its head alone.
        """
        if not isinstance(self.baseline, ValueModel):
            return stage_inputs.predecessor_model()
        critic = self._reward_model(stage_inputs) or RewardModel(stage_inputs.predecessor_model())
        critic.logprob_weight.data.zero_()
        return ActorCritic(stage_inputs.predecessor_model(), critic)

    def _reward_model(self, stage_inputs: StageInputs) -> RewardModel | None:
        """The one whose scores are the reward, or the first of them; None where no reward model gives it."""
        if self.reward_stages:
            return stage_inputs.for_stage(stage_inputs.predecessor, self.reward_stages[0]).reward_model()
        return stage_inputs.reward_model() if self.needs_reward_model else None

    def source(self, stage_inputs: StageInputs, model: Policy) -> BatchSource:
        """Rollouts of the policy, rewarded; the reference is a copy of the policy as it is before the first step."""
        train, prompts = self.train, self.prompts(stage_inputs)
        return self.rollout_source(
            prompts,
            self.sampler(stage_inputs),
            self.reward.of_samples(stage_inputs, prompts, train.precision),
            Credit(self.baseline, self.kl, whiten=self.whiten, num_generations=self.num_generations),
            copy.deepcopy(actor_of(model)),
            batch_size=train.batch_size,
            num_generations=self.num_generations,
            epochs=self.epochs,
            gradient_accumulation_steps=self.batches_per_rollout,
            precision=train.precision,
            prefix_sharing=train.prefix_sharing,
            pretraining=Pretrain(train).source(stage_inputs, model) if self.ptx_coef else None,
            max_kl=self.max_kl,
            off_policy_correction=self.off_policy_correction,
            step_rewards=self.reward.of_steps(stage_inputs, train.precision),
            **stage_inputs.seed_and_rank_options(),
        )

    @property
    def batches_per_rollout(self) -> int:
        """How many batches of answers are drawn together, before the first of them is learnt from: those of a step."""
        return self.train.gradient_accumulation_steps

    def sampler(self, stage_inputs: StageInputs) -> Sampler:
        """What draws the answers."""
        return Sampler(
            stage_inputs.tokenizer,
            max_length=self.train.max_length,
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            compile=self.compile_rollouts,
            answers_per_reading=self.num_generations if self.train.prefix_sharing else 1,
            top_p=self.sampler_top_p,
            precision=self.sampler_precision,
        )

    def objective(self, model: Policy, batch: Rollout) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """(the loss of the module's docstring, summed; by what it is divided; what to watch)."""
        mask, actor = batch.mask, actor_of(model)
        x, values = actor_critic_output(model, batch.inputs, mask, self.train.prefix_sharing)
        logits = actor.logits(x[mask]).unsqueeze(0)  # [1, N, V] of the N tokens of answers
        logits = apply_temperature(logits, self.temperature)
        found = token_logprobs(logits, batch.labels[mask].unsqueeze(0))
        logprobs = found.new_zeros(mask.shape).masked_scatter(mask, found)  # [B, T]

        ratio = importance_ratio(logprobs, batch.logprobs, mask, self.importance_level)
        surrogate = self.clipping(ratio, logprobs, batch.advantages)
        weights, count = token_weights(mask, self.loss_mean, self.max_new_tokens)
        per_token_loss = surrogate.loss
        if isinstance(batch.importance_weights, Tensor):
            per_token_loss = per_token_loss * batch.importance_weights
        loss = (per_token_loss * weights)[mask].sum()
        per_token = self._count_per_token(mask, count)  # for what is averaged over tokens, whatever the loss is
        entropy_sum = entropy(logits).sum() * per_token
        watched = {"clip_fraction": (surrogate.clipped & mask).sum() * per_token}
        if isinstance(self.baseline, ValueModel):
            bound = self.baseline.cliprange_value
            value, _ = clipped_value_loss(values, batch.values, batch.returns, mask, cliprange_value=bound)
            value = value * per_token
            loss = loss + self.baseline.vf_coef * value
            watched["value_loss"] = value
        loss = loss - self.entropy_coef * entropy_sum
        if isinstance(self.kl, KLInLoss):
            kl = kl_estimate(logprobs, batch.reference_logprobs, self.kl.estimator)
            loss = loss + self.kl.coef * (kl * weights)[mask].sum()
        if batch.pretraining:
            text = self._language_model_loss(actor, batch.pretraining, count)
            loss = loss + self.ptx_coef * text
            watched["ptx_loss"] = text
        watched |= {"entropy": entropy_sum} | token_count_metric(batch.inputs)
        return loss, count, watched | {name: mean * count for name, mean in batch.metrics.items()}

    def _count_per_token(self, mask: Tensor, count: Tensor) -> Tensor:
        """By what a sum over tokens is multiplied, to be a mean over tokens when it is divided by all counts."""
        if self.loss_mean == "token":
            return torch.ones((), device=mask.device)
        return all_reduce_sum(count.float()) / all_reduce_sum(mask.sum().float())

    def _language_model_loss(self, actor: Transformer, text: Batch, count: Tensor) -> Tensor:
        """Of the text that is mixed in (PPO-ptx, Ouyang et al. 2022, equation 2): nats per token of all processes'
        text, times `count`, by which the sum of all losses is divided.
        """
        loss_sum, labels_counted = next_token_loss(actor(text.inputs), text.labels, text.mask)
        share = all_reduce_sum(count.float()) / all_reduce_sum(labels_counted.float())
        return loss_sum * share.detach()

    def result_model(self, model: Policy) -> Transformer:
        return actor_of(model)

    def rollout_schedule(self) -> RolloutSchedule:
        return RolloutSchedule(self.max_new_tokens, self.epochs)

    def frozen_rollout_models(self, stage_inputs: StageInputs) -> dict[str, Transformer | RewardModel]:
        frozen: dict[str, Any] = {"reference": stage_inputs.predecessor_model()}
        if self.reward_stages:
            return frozen | {name: stage_inputs.for_stage(None, name).reward_model() for name in self.reward_stages}
        return frozen | ({"reward model": stage_inputs.reward_model()} if self.needs_reward_model else {})

    def flops(self, model: Policy, tokens: float) -> float:
        """Of the models that are trained, and of all rollouts' forward passes: see `forward_passes`. Where max_kl ends
        rollouts early there are more of them, which are not counted.
        """
        trained = 1 + isinstance(model, ActorCritic)
        passes = self.forward_passes(trained) * self.drawn_for_each_learnt() / self.epochs
        per_token = actor_of(model).training_flops_per_token(self.train.max_length)
        return tokens * per_token * (trained + passes / 3)

    def forward_passes(self, trained: int) -> int:
        """Over each answer of a rollout: sampling, each of the models that are trained, reference and reward models;
        the KL before each step but the first, and the sampler's probabilities, where these are asked for.
        """
        judges = len(self.reward_stages) or int(self.needs_reward_model)
        kl = self.epochs - 1 if self.max_kl is not None else 0
        sampler = self.sampler_top_p < 1 or self.sampler_precision not in (None, self.train.precision)
        return 2 + trained + judges + kl + sampler

    def drawn_for_each_learnt(self) -> float:
        """Answers that are drawn for each that is learnt from as often as the settings say: 1, and more where the
        stage ends within a rollout.
        """
        schedule = self.rollout_schedule().steps_per_rollout
        return math.ceil(self.train.steps / schedule) * schedule / self.train.steps

    @classmethod
    def claim(cls, metrics: Metrics, predecessor_metrics: Metrics) -> Claim | None:
        """Its answers to held-out prompts are better than those of the model that it began with: by a reward of their
        own, which the stage was trained on; else by the gold score; where nobody knows it, by the reward model.
        """
        for name, words in (("training_reward", "reward of training"), ("gold", "gold score"), ("reward", "reward")):
            if name in metrics:
                return Claim(cls.kind, words, metrics[name], metrics[f"{name}_before"], "the initial model", "higher")
        return None

    def evaluate(self, model: Transformer, stage_inputs: StageInputs, config: EvaluationConfig) -> dict[str, float]:
        """Generates greedy answers to held-out prompts, and compares their gold or reward with that of the model
        before.
        """
        from labkit.evaluation.policies import policy_metrics

        return policy_metrics(
            model,
            stage_inputs,
            config.policy_prompts,
            self.train.max_length,
            self.max_new_tokens,
            lambda held_out: self.reward.held_out_judge(stage_inputs, held_out),
            self.tasks,
        )


@dataclass(frozen=True)
class PolicyGradient(PolicyGradientStage):
    """The axes as settings: see the module.

    Attributes:
        num_generations: answers that are sampled to each prompt: its group.
        epochs: optimizer steps on each rollout.
        reward: who gives an answer its score.
        baseline: what a score is compared with.
        whiten: scale the advantages of a step to mean 0 and variance 1.
        kl: where the KL penalty against the reference model stands: in the loss, in the reward, or nowhere.
        importance_level: whose probability is compared with what it was in the rollout: each token's, or the whole
            answer's (sequence).
        clipping: how far one rollout may move the policy.
        loss_mean: the loss is a mean over all tokens (token); over each answer's tokens, then over answers (answer); or
            over answers, of the sum over each one's tokens divided by max_new_tokens (constant).
        entropy_coef: weight of the entropy bonus.
        ptx_coef: weight of the language-model loss on pretraining text, of which train.batch_size rows are read with
            each step (PPO-ptx).
        temperature: sampling temperature of the rollouts.
        max_new_tokens: tokens after which an answer is cut.
        compile_rollouts: compile the forward pass that samples: takes half a minute once, worth it for long answers.
        max_kl: nats per token. Once the policy is further than this from the one that wrote the rollout, the rest of
            its epochs is skipped and a new rollout is sampled. None: all epochs are taken.
        off_policy_correction: what is done where the answers are sampled from another distribution than the one that is
            trained.
        sampler_top_p: sample the rollouts from the nucleus of this probability; training does not know of it, unless
            off_policy_correction corrects it.
        sampler_precision: precision of the sampling; None: that of training.
        prompt_offset: the index of the first prompt, so that a policy that goes on from another is asked other prompts.
        tasks: kinds of TinyWorld's tasks that are asked, as write (a story); of none given, all but stories.
    """

    train: TrainConfig = TrainConfig()
    num_generations: Count = 4
    epochs: Count = 1
    reward: RewardChoice = RewardModelScore()
    baseline: BaselineChoice = NoBaseline()
    whiten: bool = False
    kl: KLChoice = KLInReward()
    importance_level: ImportanceLevel = "token"
    clipping: ClippingChoice = NoClip()
    loss_mean: LossMean = "token"
    entropy_coef: NonNegative = 0.0
    ptx_coef: NonNegative = 0.0
    temperature: Temperature = 1.0
    max_new_tokens: Count = 40
    compile_rollouts: bool = False
    max_kl: Positive | None = None
    off_policy_correction: OffPolicyCorrection = NoCorrection()
    sampler_top_p: Part = 1.0
    sampler_precision: Literal["bf16", "fp32"] | None = None
    prompt_offset: CountOrNone = 0
    tasks: tuple[str, ...] = ()

    added_fields = (
        *("max_kl", "off_policy_correction", "sampler_top_p", "sampler_precision"),
        *("prompt_offset", "tasks"),
    )

    def __post_init__(self) -> None:
        self.check_settings()
