"""Multi-turn GRPO: the policy talks with simulated users, and a conversation is rewarded once, at its end.

A user (`labkit.world.users`) has a story and several questions about it. A right answer brings the next question, a
wrong one the same question again; how content the user is, is known at the end alone. `num_generations` conversations
with the same user are a group. The satisfaction stands at the last token of the last answer, and every token that the
policy drew, in whichever turn, has the conversation's advantage:

    A_i = (satisfaction_i - mean of the group) / deviation of the group          i: of the conversations with one user
    loss = mean over the policy's tokens of surrogate(ratio, A) + kl.coef KL

What the user says is read and never learnt: it has no log-probability, no KL, no advantage and no loss. GRPO is Shao
et al. 2024, https://arxiv.org/abs/2402.03300, 4.1; to credit all turns by the reward of the whole trajectory is StarPO
(RAGEN, Wang et al. 2025, https://arxiv.org/abs/2504.20073).

Other credit is a setting: LeaveOneOut, MovingMean, or ValueModel, whose generalised advantage estimation goes from the
last token of an answer to the first of the next one, as if nothing stood between them.

Departures. (1) From GRPO: groups of 4, not 64; the loss is averaged over tokens (`loss_mean` says otherwise). (2) From
RAGEN: an answer is one action, without a thought before it. (3) From both: a row that has no room for the next turn
ends its conversation, which is then rewarded for what was answered; `truncated` says how often. (4) Each turn reads the
conversation anew: no cache is kept from one turn to the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from labkit.configs import Count, NonNegative, Positive
from labkit.errors import LabError
from labkit.evaluation.metrics import MetricSpec
from labkit.losses.policy import ImportanceLevel, LossMean
from labkit.machine import all_reduce_sum, autocast, float_for_sums
from labkit.model.actor_critic import actor_of
from labkit.stages.claims import Claim, Metrics
from labkit.stages.clipping import ClippingChoice, ClipRatio
from labkit.stages.credit import BaselineChoice, GroupMean, KLChoice, KLInLoss
from labkit.stages.doctor import (
    WINDOW,
    Case,
    check,
    constant_reward,
    group_without_variance,
    kl_runs_away,
    mean,
    value_model_explains_nothing,
    zero_loss,
)
from labkit.stages.inputs import PROMPT_SEED, StageInputs
from labkit.stages.policy_gradient import PolicyGradientStage, Temperature
from labkit.stages.registry import Curve, RolloutSchedule, register
from labkit.stages.rewards import Reward, RewardOfSamples
from labkit.stages.rollouts import Policy, RolloutSource, check_batch_size
from labkit.stages.sampling import Sampler, Samples
from labkit.text.batch import batch_with_last_token_index
from labkit.text.chat import encode_next_turn
from labkit.training.config import TrainConfig
from labkit.training.engine import gather_full_parameters

if TYPE_CHECKING:
    from labkit.evaluation.config import EvaluationConfig
    from labkit.evaluation.conversations import SimulatedUsers
    from labkit.model.transformer import Transformer
    from labkit.preferences.prompts import IndexedPrompts

MOST_TRUNCATED = 0.1
"""Of the conversations: above it the room of a row, and not the user, says when many of them end."""


@check("truncated")
def conversations_do_not_fit(case: Case) -> str | None:
    """Many conversations ended because a row was full."""
    share = mean(case.recent, "truncated")
    if share <= MOST_TRUNCATED:
        return None
    return (
        f"{100 * share:.0f} % of the conversations of the last {WINDOW} rollouts ended because their rows had no room "
        f"for one more turn: what the users had still to ask counts as not answered. Raise "
        f"{case.flags('train.max_length')}, up to the model's context, or lower "
        f"{case.flags('num_questions', 'max_turns', 'max_new_tokens')}."
    )


class Satisfaction(Reward):
    """How content the user is at the end of a conversation: see `SimulatedUser.satisfaction`."""

    def of_samples(self, stage_inputs: StageInputs, prompts: IndexedPrompts, precision: str) -> RewardOfSamples:
        def rewards(indices: Sequence[int], samples: Samples) -> list[float]:
            return [one.user.satisfaction() for one in samples.conversations]

        return rewards


class ConversationSource(RolloutSource):
    """Rollouts that are conversations: `prompts` are users, and the first answer to each is drawn as in a rollout of
    single answers. Turn t of batch n draws from (seed, n, t), whichever process writes it.
    """

    prompts: SimulatedUsers

    def _sampled(self, model: Policy, batch: int) -> Samples:
        from labkit.evaluation.conversations import hold_conversations

        indices, G = self._indices(batch), self.num_generations
        first = batch * (self.batch_size // G)
        places = [(index - first) * G + at % G for at, index in enumerate(indices)]
        actor, device = actor_of(model), actor_of(model).embedding.weight.device

        def write(turn: int, going_on: Sequence[int], rows: Sequence[Sequence[int]]) -> Sequence[Sequence[int]]:
            draws = self._uniform_draws(batch, turn)[[places[at] for at in going_on]]
            return self.sampler.sample(actor, rows, draws).completions

        with autocast(device, self.sampler_precision), gather_full_parameters(actor):
            held = hold_conversations(self.prompts, indices, write)
        rows = [(one.ids, one.answer_mask) for one in held]
        tokens, _ = batch_with_last_token_index(rows, self.sampler.max_length, self.sampler.tokenizer.pad_token_id)
        starts = [one.prompt_length for one in held]
        prompts = [one.ids[:start] for one, start in zip(held, starts, strict=True)]
        completions = [one.ids[start:] for one, start in zip(held, starts, strict=True)]
        return Samples(prompts, completions, tokens.to(device), held)

    def _more_means(self, written: Sequence[Samples]) -> dict[str, Tensor]:
        """Over all conversations of a step and all processes: see `ConversationScores`."""
        from labkit.evaluation.conversations import conversation_scores

        scores = conversation_scores([one for samples in written for one in samples.conversations])
        names, device = ("right", "repeats", "turns", "truncated"), written[0].batch.inputs.device
        sums = [len(scores.right), *(getattr(scores, name).sum() for name in names)]
        count, *found = all_reduce_sum(torch.tensor(sums, dtype=float_for_sums(device), device=device)).tolist()
        return {
            name: torch.tensor(value / count, dtype=torch.float32, device=device)
            for name, value in zip(names, found, strict=True)
        }


@register("multiturn", "policy gradient over whole conversations with simulated users")
@dataclass(frozen=True)
class MultiTurn(PolicyGradientStage):
    """Train the fine-tuned model by multi-turn GRPO.

    train.batch_size: conversations of one rollout, `num_generations` with each user. train.max_length: of a whole
    conversation. num_questions: that a user has. max_turns: answers that a user reads at most. max_new_tokens: where an
    answer is cut. The others: see `PolicyGradient`.
    """

    train: TrainConfig = TrainConfig()
    num_generations: Count = 4
    num_questions: Count = 2
    max_turns: Count = 4
    epochs: Count = 1
    baseline: BaselineChoice = GroupMean()
    whiten: bool = False
    kl: KLChoice = KLInLoss()
    importance_level: ImportanceLevel = "token"
    clipping: ClippingChoice = ClipRatio()
    loss_mean: LossMean = "token"
    entropy_coef: NonNegative = 0.0
    ptx_coef: NonNegative = 0.0
    temperature: Temperature = 1.0
    max_new_tokens: Count = 40
    compile_rollouts: bool = False
    max_kl: Positive | None = None

    reward: ClassVar[Satisfaction] = Satisfaction()
    rollout_source = ConversationSource
    checks = (
        *(zero_loss, constant_reward, group_without_variance, kl_runs_away, value_model_explains_nothing),
        conversations_do_not_fit,
    )

    title = "Multi-turn policy gradient"
    short_title = "multi-turn GRPO"
    batch_unit = "conversations, num_generations with each user"
    about = (
        "The policy talks with simulated users, who ask about a story, ask on after a right answer and ask again after "
        "a wrong one. How content a user is, is known at the end of the conversation alone. Several conversations with "
        "the same user are compared, and all answers of the better ones become likelier; what the user says is read, "
        "not learnt."
    )
    curves = (
        Curve("Questions answered right", "fraction of the questions", ("right",)),
        Curve("Answers of a conversation", "answers per conversation", ("turns", "repeats")),
        Curve("Conversations that no longer fitted", "fraction of the conversations", ("truncated",)),
        Curve("KL from the reference model", "KL (nats per conversation)", ("kl",)),
        Curve("Entropy", "nats per token", ("entropy",)),
        Curve("Clip fraction", "fraction of the tokens", ("clip_fraction",)),
        Curve("Users whose conversations are all rewarded alike", "fraction of the users", ("frac_reward_zero_std",)),
        Curve("Length of the answers of a conversation", "tokens", ("length",)),
    )
    metric_specs: ClassVar = {
        "right": MetricSpec(
            "questions answered right", "share", "higher", "Share of the users' questions that were answered right."
        ),
        "repeats": MetricSpec(
            "questions asked again", "", "lower", "How many questions a user had to ask again in a conversation."
        ),
        "turns": MetricSpec("answers of a conversation", "", "", "How many answers the model gave in a conversation."),
        "truncated": MetricSpec(
            "conversations that no longer fitted",
            "share",
            "lower",
            "Share of the conversations that ended because the row had no room for one more turn and its answer.",
        ),
        "prompts": MetricSpec("users", "number", "", "How many held-out users both models talked with."),
    }

    def __post_init__(self) -> None:
        self.check_settings()

    def check_settings(self) -> None:
        super().check_settings()
        if self.max_turns < self.num_questions:
            raise LabError(
                f"MultiTurn: a user with {self.num_questions} questions reads at least as many answers, and max_turns "
                f"is {self.max_turns}. Raise max_turns, or lower num_questions."
            )

    def check(self, stage_inputs: StageInputs, config: EvaluationConfig) -> None:
        """The users ask of TinyWorld, their first messages must leave room for an answer, and a chat must go on from
        it.
        """
        if not stage_inputs.uses_world_data:
            raise LabError(
                "MultiTurn: the simulated users ask about TinyWorld's stories, and this model learns from other texts. "
                "Choose a stage that asks the prompts of a file, as grpo."
            )
        check_batch_size(self.train.batch_size, self.num_generations, stage_inputs.world_size)
        encode_next_turn(stage_inputs.tokenizer, "And then?")
        self.prompts(stage_inputs).prompt_ids(0)
        self.held_out_users(stage_inputs).prompt_ids(0)

    def prompts(self, stage_inputs: StageInputs) -> SimulatedUsers:
        """The users of training."""
        return self._users(stage_inputs, "train", stage_inputs.seed + PROMPT_SEED)

    def held_out_users(self, stage_inputs: StageInputs) -> SimulatedUsers:
        """Users whose stories have combinations that training never shows."""
        return self._users(stage_inputs, "test", stage_inputs.seed)

    def _users(self, stage_inputs: StageInputs, split: str, seed: int) -> SimulatedUsers:
        from labkit.evaluation.conversations import SimulatedUsers

        return SimulatedUsers(
            stage_inputs.tokenizer,
            stage_inputs.world,
            stage_inputs.annotator,
            split,
            seed,
            num_questions=self.num_questions,
            max_turns=self.max_turns,
            max_length=self.train.max_length,
            max_new_tokens=self.max_new_tokens,
        )

    def sampler(self, stage_inputs: StageInputs) -> Sampler:
        """Which reads each row by itself: after the first answers no two conversations with a user are alike."""
        sampler = super().sampler(stage_inputs)
        sampler.answers_per_reading = 1
        return sampler

    def rollout_schedule(self) -> RolloutSchedule:
        return RolloutSchedule(self.max_turns * self.max_new_tokens, self.epochs)

    @classmethod
    def claim(cls, metrics: Metrics, predecessor_metrics: Metrics) -> Claim | None:
        """Held-out users are more content than with the model that it began with."""
        if "satisfaction" not in metrics:
            return None
        values = metrics["satisfaction"], metrics["satisfaction_before"]
        return Claim(cls.kind, "satisfaction", *values, "the initial model", "higher")

    def evaluate(self, model: Transformer, stage_inputs: StageInputs, config: EvaluationConfig) -> dict[str, float]:
        """Talks greedily with held-out users, as does the model before: what changed, user by user."""
        from labkit.evaluation.conversations import (
            conversation_scores,
            greedy_conversations,
            paired_conversation_metrics,
        )

        users, indices = self.held_out_users(stage_inputs), range(config.policy_prompts)
        models = (model, stage_inputs.predecessor_model())
        after, before = (conversation_scores(greedy_conversations(one, users, indices)) for one in models)
        return paired_conversation_metrics(after, before)
