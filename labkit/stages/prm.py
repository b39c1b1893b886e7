"""A process reward model: a scalar head on the fine-tuned model that says of each sentence of an answer whether it is
correct, fitted to a label for each sentence.

    loss = - sum over sentences of log sigmoid(score) where the sentence is correct, else log sigmoid(-score)

Uesato et al. 2022 (https://arxiv.org/abs/2211.14275) and Lightman et al. 2023 (https://arxiv.org/abs/2305.20050)
compare such process supervision with outcome supervision, a label for the whole answer: `train_on_last_step_only`. The
fine-tuned model answers prompts of the training split, and the world's oracle labels each sentence
(`labkit.world.label_steps`).

Where this departs from the papers and from TRL's PRMTrainer:

1. The oracle labels, not people. Lightman et al. stop at the first mistake, and Uesato et al. ask whether the steps so
   far are correct; here each sentence has a label of its own, also behind a mistake.
2. A sentence is a step, and its score is read at its last token (TRL: at that of a separator behind it). That of the
   last one is read at the end token, and it is correct only where the whole answer is right, too.
3. One logit, the log-odds (TRL: two, whose difference this is). To the head's number comes the mean log-probability
   that the model itself gives the sentence, as in `RewardModel`; the head's bias begins so that the mean score is the
   log-odds of the labels.
4. A batch is averaged over its sentences, as TRL's; Lightman et al. train for one epoch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from labkit.configs import check_fields
from labkit.errors import LabError
from labkit.evaluation.metrics import MetricSpec
from labkit.losses import step_loss
from labkit.model.reward_model import RewardModel
from labkit.preferences.stepwise import StepLabelConfig, generate_stepwise_answers, step_tasks
from labkit.stages.claims import Claim, Metrics
from labkit.stages.inputs import StageInputs, token_count_metric
from labkit.stages.registry import Curve, Stage, register
from labkit.text.fitting import LengthReport
from labkit.text.steps import StepBatch, StepSource, StepwiseAnswer, fits_in_row
from labkit.training.config import BatchSource, TrainConfig
from labkit.training.cost import has_numbers
from labkit.training.engine import call_on_device

if TYPE_CHECKING:
    from labkit.evaluation.config import EvaluationConfig
    from labkit.world import Task

LEVELLED = 64
"""Answers by which the level of the scores is set before training."""


class LabelledAnswers(NamedTuple):
    """Labelled answers that fit in a row, and the task that each is to; num_left_out: how many did not fit."""

    answers: list[StepwiseAnswer]
    tasks: list[Task]
    num_left_out: int

    @property
    def groups(self) -> list[list[int]]:
        """The places of the answers to each task, where they are two or more."""
        found: dict[int, list[int]] = {}
        for place, task in enumerate(self.tasks):
            found.setdefault(id(task), []).append(place)
        return [group for group in found.values() if len(group) > 1]


@register("prm", "a process reward model, which scores each sentence of an answer")
@dataclass(frozen=True)
class ProcessRewardModeling(Stage):
    """Fit a process reward model to labels of sentences.

    train.batch_size: answers. labelled: which answers are labelled. train_on_last_step_only: the last label of each
    answer alone counts, which says whether the answer as a whole is right: outcome supervision.
    """

    train: TrainConfig = TrainConfig()
    labelled: StepLabelConfig = StepLabelConfig()
    train_on_last_step_only: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        if self.labelled.max_new_tokens >= self.train.max_length:
            raise LabError(
                f"ProcessRewardModeling: answers of {self.labelled.max_new_tokens} tokens leave no room for a prompt: "
                f"train.max_length is {self.train.max_length}. Lower labelled.max_new_tokens, or raise "
                f"train.max_length."
            )

    title = "Process reward model"
    short_title = "the process reward model"
    batch_unit = "answers with labelled sentences"
    about = (
        "The fine-tuned model answers prompts, most of them with several sentences, and the oracle labels each "
        "sentence as correct or not. A copy of the model learns to predict the labels, reading each sentence at its "
        "last token. Of several answers the one is chosen whose sentences are most likely all correct; an outcome "
        "reward model gives one score to the whole."
    )
    reads = "preferences"
    leaves = "reward model"
    scores_answers = False
    loss_unit = "nats per sentence"
    curves = (Curve("Accuracy of the sentence labels", "fraction of the sentences", ("accuracy",)),)
    metric_specs = {
        "untrained_loss": MetricSpec(
            "loss on held-out sentences before this stage", "nats per sentence", "", "The same loss before training."
        ),
        "validation_loss": MetricSpec(
            "loss on held-out sentences",
            "nats per sentence",
            "lower",
            "Mean over the sentences of held-out answers of −log of the probability that the model gives to the label; "
            "with outcome supervision over their last sentences.",
        ),
        "step_accuracy": MetricSpec(
            "accuracy of the sentence labels",
            "share",
            "higher",
            "Share of the sentences of held-out answers of which the model holds the right label for the likelier one.",
        ),
        "step_majority": MetricSpec(
            "share of the more frequent sentence label",
            "share",
            "",
            "The accuracy of giving all sentences the label that is more frequent among them.",
        ),
        "step_ranking": MetricSpec(
            "correct sentences above wrong ones",
            "share",
            "higher",
            "How often a correct sentence scores above a wrong one; chance is one half.",
        ),
        "steps": MetricSpec("sentences evaluated", "number", "", "Sentences of the held-out answers."),
        "any_correct": MetricSpec(
            "prompts with an answer without a wrong sentence",
            "share",
            "",
            "Share of the held-out prompts to which one answer or more has no wrong sentence: no choice can do better.",
        ),
    } | {
        f"{name}_{what}": MetricSpec(
            f"{label} ({words})",
            unit,
            "" if name == "random" else "higher",
            f"Of the answers to each held-out prompt one is {words}.",
        )
        for name, words in {
            "random": "chosen at random",
            "product": "chosen by the product over sentences",
            "min": "chosen by the worst sentence",
            "last": "chosen by the last sentence",
            "outcome": "chosen by the outcome reward model",
        }.items()
        for what, label, unit in (
            ("correct", "answers without a wrong sentence", "share"),
            ("gold", "gold score", "score"),
        )
    }

    def check(self, stage_inputs: StageInputs, config: EvaluationConfig) -> None:
        self.refuse_prefix_sharing()
        if not stage_inputs.uses_world_data:
            raise LabError(
                "ProcessRewardModeling: the oracle can label sentences of answers to TinyWorld's own tasks only, and "
                "this run learns from files. Take prm out of the plan."
            )
        stage_inputs.check_tasks(self.labelled.tasks, "StepLabelConfig")
        stage_inputs.check_annotator()

    def initial_model(self, stage_inputs: StageInputs) -> RewardModel:
        """The fine-tuned model with a head that is zero but for its bias."""
        model = RewardModel(stage_inputs.predecessor_model())
        if has_numbers(model):
            model.head.bias.data += self._distance_from_log_odds(model, stage_inputs)
        return model

    def _distance_from_log_odds(self, model: RewardModel, stage_inputs: StageInputs) -> Tensor:
        """How far, in the mean, the scores of the first training answers are below the log-odds of their labels: []."""
        from labkit.evaluation.steps import score_steps

        train, some = self.train, self._labelled(stage_inputs, "train").answers[:LEVELLED]
        scores = call_on_device(
            model, lambda one: score_steps(one, stage_inputs.tokenizer, some, train.max_length, train.precision)
        )
        counted = slice(-1, None) if self.train_on_last_step_only else slice(None)
        labels = [label for answer in some for label in answer.labels[counted]]
        correct = (sum(labels) + 1) / (len(labels) + 2)  # neither 0 nor 1
        mean = torch.cat([one[counted] for one in scores]).mean()
        return (math.log(correct / (1 - correct)) - mean).to(model.head.bias.device)

    def source(self, stage_inputs: StageInputs, model: RewardModel) -> BatchSource:
        train, answers = self.train, self._labelled(stage_inputs, "train").answers
        return StepSource(
            stage_inputs.tokenizer,
            answers,
            train.batch_size,
            train.max_length,
            self.train_on_last_step_only,
            **stage_inputs.seed_and_rank_options(),
        )

    def _labelled(self, stage_inputs: StageInputs, split: str) -> LabelledAnswers:
        """Answers to tasks of a split, made once. Raises LabError where none fits in a row."""
        train, config = self.train, self.labelled

        def make() -> LabelledAnswers:
            tokenizer, world, model = stage_inputs.tokenizer, stage_inputs.world, stage_inputs.predecessor_model()
            tasks = step_tasks(world, config, split, stage_inputs.seed)
            answers = generate_stepwise_answers(
                model, tokenizer, world, config, tasks, stage_inputs.seed, train.precision
            )
            fit = [place for place, one in enumerate(answers) if fits_in_row(tokenizer, one, train.max_length)]
            asked = [tasks[place // config.num_generations] for place in fit]
            return LabelledAnswers([answers[place] for place in fit], asked, len(answers) - len(fit))

        key = ("steps", split, stage_inputs.predecessor, config, train.max_length, train.precision)
        found = stage_inputs.cached(key, make)
        report = LengthReport(len(found.answers) + found.num_left_out, 0, found.num_left_out)
        what = "answers with labelled sentences" if split == "train" else "held-out answers with labelled sentences"
        stage_inputs.check_fit(lambda: (found, report), what, train.max_length)
        return found

    def objective(self, model: RewardModel, batch: StepBatch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """(summed loss, how many sentences, how many of them have the label that the model holds for likelier)."""
        scores = model.step_scores(batch.inputs, batch.mask, batch.step_ends)
        loss = step_loss(scores, batch.correct, batch.step_ends)
        return loss.loss_sum, loss.step_count, {"accuracy": loss.correct_count} | token_count_metric(batch.inputs)

    def flops(self, model: RewardModel, tokens: float) -> float:
        return tokens * model.body.training_flops_per_token(self.train.max_length)

    def validation_loss(self, model: RewardModel, stage_inputs: StageInputs, config: EvaluationConfig) -> float:
        from labkit.evaluation.steps import step_metrics

        scores, answers = self._scores(model, stage_inputs), self._labelled(stage_inputs, "test").answers
        return step_metrics(scores, answers, self.train_on_last_step_only)["validation_loss"]

    def _scores(self, model: RewardModel, stage_inputs: StageInputs) -> list[Tensor]:
        """Of the sentences of each held-out answer."""
        from labkit.evaluation.steps import score_steps

        answers, train = self._labelled(stage_inputs, "test").answers, self.train
        return score_steps(model, stage_inputs.tokenizer, answers, train.max_length, train.precision)

    def evaluate(self, model: RewardModel, stage_inputs: StageInputs, config: EvaluationConfig) -> dict[str, float]:
        """Held-out sentences labelled, and the best of the answers to each held-out prompt chosen: by the scores of
        their sentences, and by the run's outcome reward model, where there is one.
        """
        from labkit.evaluation.ratings import score_answers
        from labkit.evaluation.steps import AGGREGATES, answer_score, best_of_n_metrics, step_metrics
        from labkit.text.unpaired import RatedAnswer
        from labkit.world import gold_score

        train, held_out = self.train, self._labelled(stage_inputs, "test")
        scores, answers = self._scores(model, stage_inputs), held_out.answers
        names = AGGREGATES[-1:] if self.train_on_last_step_only else AGGREGATES
        chosen_by: dict[str, list[float]] = {name: [answer_score(one, name) for one in scores] for name in names}
        outcome = stage_inputs.reward_model_or_none()
        if outcome is not None:
            rated = [RatedAnswer(one.prompt, one.answer, 0.0) for one in answers]
            given = score_answers(outcome, stage_inputs.tokenizer, rated, train.max_length, train.precision)
            chosen_by["outcome"] = given.tolist()
        world, profile = stage_inputs.world, stage_inputs.world.profile(stage_inputs.annotator)
        both = zip(held_out.tasks, answers, strict=True)
        golds = [gold_score(world, task, one.answer, profile).total for task, one in both]
        correct = [all(one.labels) for one in answers]
        left_out = {"left_out": self._labelled(stage_inputs, "train").num_left_out}
        return (
            step_metrics(scores, answers, self.train_on_last_step_only)
            | best_of_n_metrics(held_out.groups, chosen_by, correct, golds)
            | left_out
        )

    @classmethod
    def claim(cls, metrics: Metrics, predecessor_metrics: Metrics) -> Claim | None:
        """It chooses answers without a wrong sentence more often than chance does."""
        found = metrics.get("product_correct", metrics.get("last_correct"))
        if found is None:
            return None
        words, baseline = "answers without a wrong sentence", metrics["random_correct"]
        return Claim(cls.kind, words, found, baseline, "chosen at random", "higher")
