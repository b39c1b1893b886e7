"""The reward model: a scalar head on the fine-tuned model, fitted to choices between answers.

An answer's score is read where it ends, and begins as the fine-tuned model's own opinion of it (see `RewardModel`). Of
two answers to a prompt the chosen one should score higher, by as much as the choice is sure: Bradley and Terry's model
(Ouyang et al. 2022, https://arxiv.org/abs/2203.02155, 3.5). Of several that were ranked, each two (their equation 1),
or the ranking as a whole (Plackett and Luce). Of single answers that were rated, or labelled good or bad, the score is
fitted to the rating itself (TAMER, Knox and Stone 2009, https://doi.org/10.1145/1597735.1597738). `loss` says which.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from labkit.configs import NonNegative, Seed, check_fields
from labkit.errors import LabError
from labkit.evaluation.metrics import MetricSpec
from labkit.losses import all_pairs_loss, centering_loss, pairwise_loss, plackett_luce_loss, rating_loss
from labkit.model.reward_model import RewardModel
from labkit.stages.claims import Claim, Metrics
from labkit.stages.doctor import overfits_pairs
from labkit.stages.inputs import StageInputs, token_count_metric
from labkit.stages.pairs import RANKED
from labkit.stages.registry import Stage, register
from labkit.stages.single_answers import check_ratings, fitting_rated_answers, num_left_out_answers
from labkit.text.pairs import PairBatch, PairSource, PreferencePair
from labkit.text.rankings import RankingBatch, RankingSource
from labkit.text.ratings import RatedBatch, RatedSource, RatingScale, standard_scale
from labkit.training.config import BatchSource, TrainConfig
from labkit.training.cost import has_numbers
from labkit.training.engine import call_on_device

if TYPE_CHECKING:
    from collections.abc import Sequence

    from labkit.evaluation.config import EvaluationConfig


LEVELLED = 64
"""Answers by which the level of the scores is set before ratings are fitted."""


@dataclass(frozen=True)
class BradleyTerry:
    """Each pair by itself; a ranked list is split into its pairs.

    Attributes:
        margin_coef: how far apart two answers must score for each unit by which one was said to be better (Llama 2's
            margin); in TinyWorld the unit is that of the gold score.
    """

    margin_coef: NonNegative = 0.0

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class AllPairs:
    """All pairs of a ranked list in one batch, each list with the same weight (InstructGPT)."""


@dataclass(frozen=True)
class PlackettLuce:
    """A ranked list as choices, each of the best answer that is left."""


@dataclass(frozen=True)
class Ratings:
    """Regression on single answers' ratings, or on their labels as 1 (good) and 0 (bad).

    Attributes:
        standardize: fit (rating - mean) / standard deviation, both of the ratings trained on, so that all scales train
            alike and give rewards of one size; otherwise the ratings as they are.
    """

    standardize: bool = True

    def __post_init__(self) -> None:
        check_fields(self)


def reward_objective(
    model: RewardModel,
    batch: PairBatch,
    margin_coef: float = 0.0,
    center_rewards_coefficient: float = 0.0,
    prefix_sharing: bool = False,
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """(summed loss, how many pairs, how many of them are ranked as chosen)."""
    scores = model.scores_at(batch.inputs, batch.mask, batch.last_token_index, prefix_sharing)
    chosen, rejected = scores.chunk(2)
    loss, right = pairwise_loss(chosen, rejected, margin_coef * batch.margin)
    if center_rewards_coefficient:
        both = torch.stack((chosen, rejected), 1)
        loss = loss + center_rewards_coefficient * centering_loss(both, torch.ones_like(both, dtype=torch.bool))
    return (
        loss.sum(),
        torch.tensor(len(loss), device=loss.device),
        {"accuracy": right.sum()} | token_count_metric(batch.inputs),
    )


def ranking_objective(
    model: RewardModel,
    batch: RankingBatch,
    kind: AllPairs | PlackettLuce,
    center_rewards_coefficient: float = 0.0,
    prefix_sharing: bool = False,
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """(summed loss, how many lists or choices, the share of pairs that are ranked as in the lists, as often as these
    count).
    """
    scores = model.scores_at(batch.inputs, batch.mask, batch.last_token_index, prefix_sharing)[batch.rows]
    loss = all_pairs_loss if isinstance(kind, AllPairs) else plackett_luce_loss
    loss_sum, count, correct = loss(scores, batch.present)
    if center_rewards_coefficient:
        loss_sum = loss_sum + center_rewards_coefficient * count * centering_loss(scores, batch.present)
    return loss_sum.sum(), count.sum(), {"accuracy": (correct * count).sum()} | token_count_metric(batch.inputs)


def rating_objective(
    model: RewardModel, batch: RatedBatch, prefix_sharing: bool = False
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """(summed loss, how many answers, nothing more)."""
    scores = model.scores_at(batch.inputs, batch.mask, batch.last_token_index, prefix_sharing)
    loss = rating_loss(scores, batch.ratings)
    return loss.sum(), torch.tensor(len(loss), device=loss.device), token_count_metric(batch.inputs)


@register("reward", "a reward model, from preference pairs, ranked lists or ratings")
@dataclass(frozen=True)
class RewardModeling(Stage):
    """Fit a reward model to preference pairs, to ranked lists, or to ratings.

    Attributes:
        loss: what is fitted: each pair by itself (BradleyTerry), ranked lists (AllPairs or PlackettLuce, to which a
            pair is a list of two), or single answers (Ratings).
        center_rewards_coefficient: weight of the term that holds the scores near zero.
        seed: added to the run's seed for the order of the data and for the head; reward models that differ by it make
            an ensemble.
        head_std: standard deviation of the head's first weights. At 0 a score begins as the fine-tuned model's own
            log-probability, the same in each member of an ensemble.
    """

    train: TrainConfig = TrainConfig()
    loss: BradleyTerry | AllPairs | PlackettLuce | Ratings = BradleyTerry()
    center_rewards_coefficient: NonNegative = 0.0
    seed: Seed = 0
    head_std: NonNegative = 0.0

    added_fields = ("loss", "center_rewards_coefficient", "seed", "head_std")
    older_kind = "FitReward"

    def __post_init__(self) -> None:
        check_fields(self)
        if self.center_rewards_coefficient and isinstance(self.loss, Ratings):
            raise LabError(
                "RewardModeling: center_rewards_coefficient holds the level of scores that choices leave open, and "
                "Ratings fixes it. Leave it at 0."
            )

    title = "Reward model"
    short_title = "the reward model"
    about = (
        "The data are answers to prompts and an annotator's judgement of them: which of two was chosen, how several "
        "were ranked, or a rating of each. In TinyWorld the answers are sampled from the fine-tuned model, and the "
        "annotator is simulated. A copy of the fine-tuned model learns to give the better of two answers the higher "
        "score, or to predict the rating. Before training, an answer's score is its mean log-probability under that "
        "model."
    )
    reads = "preferences"
    batch_unit = "pairs of answers; ranked lists with the loss AllPairs or PlackettLuce; single answers with Ratings"
    leaves = "reward model"
    checks = (overfits_pairs,)
    loss_unit = "nats per choice, or squared error"
    curves = (RANKED,)
    metric_specs = {
        "untrained_loss": MetricSpec(
            "loss on held-out preferences before this stage",
            "nats per choice, or squared error",
            "",
            "The same loss before the first step. Of pairs, guessing gives log 2 = 0.693.",
        ),
        "validation_loss": MetricSpec(
            "loss on held-out preferences",
            "nats per choice, or squared error",
            "lower",
            "Of pairs and ranked lists, mean over the held-out pairs of −log of the probability that the model gives "
            "to the choice; of ratings, half the mean squared difference between score and rating.",
        ),
    }

    def check(self, stage_inputs: StageInputs, config: EvaluationConfig) -> None:
        if isinstance(self.loss, Ratings):
            check_ratings(stage_inputs)
            stage_inputs.check_annotator()
            if stage_inputs.preferences is not None:
                self._scale(stage_inputs)
                fitting_rated_answers(stage_inputs, self.train.max_length, held_out=True)
            return
        stage_inputs.check_pairs(self.train.max_length)
        if stage_inputs.preferences is not None and not isinstance(self.loss, BradleyTerry):
            stage_inputs.fitting_rankings(self.train.max_length)
        elif stage_inputs.preferences is not None:
            self._check_margins(stage_inputs.fitting_pairs(self.train.max_length))

    def _check_margins(self, pairs: Sequence[PreferencePair]) -> None:
        """Raises LabError for a coefficient of margins where no pair has one."""
        coefficient = self.loss.margin_coef if isinstance(self.loss, BradleyTerry) else 0.0
        if coefficient and not any(pair.margin for pair in pairs):
            raise LabError(
                f"RewardModeling: margin_coef is {coefficient:g}, but none of the {len(pairs)} preference pairs says "
                f"how much better its chosen answer is. Set it to 0, or give a column margin, or lists with scores."
            )

    def initial_model(self, stage_inputs: StageInputs) -> RewardModel:
        """The fine-tuned model with a head that is zero: an answer scores its mean log-probability; or with one that is
        drawn, see head_std. Where ratings are fitted, its bias brings the scores to their mean, which steps of a small
        learning rate would hardly reach.
        """
        model = RewardModel(stage_inputs.predecessor_model())
        if self.head_std:
            drawn = torch.Generator().manual_seed(self._seed(stage_inputs))
            weight = torch.randn(model.head.weight.shape, generator=drawn) * self.head_std
            model.head.weight.data.copy_(weight)
        if isinstance(self.loss, Ratings) and has_numbers(model):
            model.head.bias.data += self._distance_from_ratings(model, stage_inputs)
        return model

    def _distance_from_ratings(self, model: RewardModel, stage_inputs: StageInputs) -> Tensor:
        """How far, in the mean, the scores of the first training answers are below their ratings: []."""
        from labkit.evaluation.ratings import score_answers

        tokenizer, length, precision = stage_inputs.tokenizer, self.train.max_length, self.train.precision
        scale, some = self._scale(stage_inputs), fitting_rated_answers(stage_inputs, length)[:LEVELLED]
        scores = call_on_device(model, lambda one: score_answers(one, tokenizer, some, length, precision))
        wanted = torch.tensor([scale.score(one.rating) for one in some])
        return (wanted - scores).mean().to(model.head.bias.device)

    def _seed(self, stage_inputs: StageInputs) -> int:
        return stage_inputs.seed + self.seed

    def source(self, stage_inputs: StageInputs, model: RewardModel) -> BatchSource:
        """Pairs; or lists, or rated answers, where the loss is of these."""
        tokenizer, rows, length = stage_inputs.tokenizer, self.train.batch_size, self.train.max_length
        options = stage_inputs.seed_and_rank_options() | {"seed": self._seed(stage_inputs)}
        if isinstance(self.loss, BradleyTerry):
            return PairSource(tokenizer, stage_inputs.fitting_pairs(length), rows, length, **options)
        if isinstance(self.loss, Ratings):
            answers, scale = fitting_rated_answers(stage_inputs, length), self._scale(stage_inputs)
            return RatedSource(tokenizer, answers, scale, rows, length, **options)
        return RankingSource(tokenizer, stage_inputs.fitting_rankings(length), rows, length, **options)

    def _scale(self, stage_inputs: StageInputs) -> RatingScale:
        """What scores mean, by the ratings that are trained on. Raises LabError where these are all the same."""
        scale = standard_scale(fitting_rated_answers(stage_inputs, self.train.max_length))
        return scale if isinstance(self.loss, Ratings) and self.loss.standardize else RatingScale()

    def objective(self, model: RewardModel, batch: Any) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """See `reward_objective`, `ranking_objective` and `rating_objective`."""
        center = self.center_rewards_coefficient
        if isinstance(self.loss, Ratings):
            return rating_objective(model, batch, self.train.prefix_sharing)
        if isinstance(self.loss, BradleyTerry):
            return reward_objective(model, batch, self.loss.margin_coef, center, self.train.prefix_sharing)
        return ranking_objective(model, batch, self.loss, center, self.train.prefix_sharing)

    def flops(self, model: RewardModel, tokens: float) -> float:
        return tokens * model.body.training_flops_per_token(self.train.max_length)

    def validation_loss(self, model: RewardModel, stage_inputs: StageInputs, config: EvaluationConfig) -> float:
        return self._measured(model, stage_inputs)["validation_loss"]

    def _measured(self, model: RewardModel, stage_inputs: StageInputs) -> dict[str, float]:
        from labkit.evaluation.preference_accuracy import ranking_metrics
        from labkit.evaluation.ratings import rating_metrics

        tokenizer, length, precision = stage_inputs.tokenizer, self.train.max_length, self.train.precision
        if isinstance(self.loss, Ratings):
            answers = fitting_rated_answers(stage_inputs, length, held_out=True)
            return rating_metrics(model, tokenizer, answers, self._scale(stage_inputs), length, precision)
        return ranking_metrics(model, tokenizer, stage_inputs.fitting_held_out_pairs(length), length, precision)

    @classmethod
    def claim(cls, metrics: Metrics, predecessor_metrics: Metrics) -> Claim | None:
        """Its preference accuracy on held-out pairs is above chance; where there are none, as of answers that were
        rated by themselves, its predictions are nearer to the ratings than their mean is.
        """
        if "pair_accuracy" not in metrics and "rating_error" in metrics:
            error, variance = metrics["rating_error"], metrics["rating_variance"]
            return Claim(cls.kind, "squared error of the rating", error, variance, "always the mean", "lower")
        if "pair_accuracy" not in metrics:
            return None
        return Claim(cls.kind, "preference accuracy", metrics["pair_accuracy"], 0.5, "chance", "higher")

    def evaluate(self, model: RewardModel, stage_inputs: StageInputs, config: EvaluationConfig) -> dict[str, float]:
        """Held-out pairs ranked, or ratings predicted; in the world also against gold."""
        from labkit.evaluation.preference_accuracy import gold_ranking_metrics

        length, tokenizer, precision = self.train.max_length, stage_inputs.tokenizer, self.train.precision
        choices = stage_inputs.held_out_annotated_pairs(length)
        measured = self._measured(model, stage_inputs) | {"left_out": self._num_left_out(stage_inputs)}
        return measured | (gold_ranking_metrics(model, tokenizer, choices, length, precision) if choices else {})

    def _num_left_out(self, stage_inputs: StageInputs) -> int:
        """How many examples to train on are too long."""
        if isinstance(self.loss, Ratings):
            return num_left_out_answers(stage_inputs, self.train.max_length)
        if isinstance(self.loss, BradleyTerry):
            return stage_inputs.num_left_out_pairs(self.train.max_length)
        return stage_inputs.num_left_out_rankings(self.train.max_length)
