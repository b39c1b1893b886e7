"""Who says what an answer is worth: a reward model, several of them, or the oracle of the world."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from labkit.configs import NonNegative, check_fields
from labkit.decoding import Judge
from labkit.decoding.best import judge_scores
from labkit.errors import LabError
from labkit.evaluation.verdicts import chosen_probabilities, verdict_logprobs
from labkit.model.reward_model import RewardModel
from labkit.model.transformer import Transformer
from labkit.text.batch import batch_with_last_token_index
from labkit.text.chat import decode_reply
from labkit.text.pairs import PreferencePair
from labkit.text.tokenizer import Tokenizer
from labkit.world import Message, Task, World
from labkit.world.oracle import gold_score


def reward_judge(reward_model: RewardModel, tokenizer: Tokenizer, has_end_token: bool = False) -> Judge:
    """The reward model's number at the last token of each answer: its end token, which is put behind it. has_end_token:
    the answer holds the end token that the model drew; one that was cut off has none, and is read where it was cut.
    """

    @torch.no_grad()
    def judge(prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> list[float]:
        context, end = reward_model.config.context, [] if has_end_token else [tokenizer.turn_end_id]
        marked = []
        for prompt, answer in zip(prompts, answers, strict=True):
            row = [*prompt, *answer, *end][:context]
            marked.append((row, [i >= len(prompt) for i in range(len(row))]))
        (inputs, _, mask), ends = batch_with_last_token_index(marked, context, tokenizer.pad_token_id)
        device = reward_model.body.embedding.weight.device
        return reward_model.eval().scores_at(inputs.to(device), mask.to(device), ends.to(device)).tolist()

    return judge


@dataclass(frozen=True)
class Mean:
    """The mean of the members' scores."""

    def __call__(self, scores: Tensor) -> Tensor:
        return scores.mean(0)


@dataclass(frozen=True)
class Worst:
    """The lowest of the members' scores, so that an answer must convince each of them."""

    def __call__(self, scores: Tensor) -> Tensor:
        return scores.amin(0)


@dataclass(frozen=True)
class MeanLessDeviation:
    """The mean less `coef` times the sample deviation of the members' scores: what they disagree on is worth less."""

    coef: NonNegative = 1.0

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, scores: Tensor) -> Tensor:
        return scores.mean(0) - self.coef * scores.std(0)


Combine = Mean | Worst | MeanLessDeviation
"""Scores [M, N] of M members for N answers -> one score each, [N]."""


@dataclass(frozen=True)
class RewardEnsemble:
    """Several judges as one, against over-optimisation: an error that one of them makes alone counts for less.

    Coste et al. 2023 (https://arxiv.org/abs/2310.02743) compare mean, worst and mean less `coef` times the variance,
    of members from one pretraining; Eisenstein et al. 2023 (https://arxiv.org/abs/2312.09244) find that members from
    different pretraining runs err more differently. Bradley and Terry's model leaves the level of each member's scores
    open, and Worst goes by the member with the lowest level: train members with `center_rewards_coefficient`.

    Raises LabError for an ensemble of fewer than two, and for a member that does not give each answer a number.
    """

    members: Sequence[Judge]
    combine: Combine = Mean()

    def __post_init__(self) -> None:
        if len(self.members) < 2:
            raise LabError(f"An ensemble needs two or more reward models, not {len(self.members)}.")

    def scores(self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> Tensor:
        """What each member gives each answer, [M, N]."""
        return torch.tensor([judge_scores(member, prompts, answers) for member in self.members])

    def __call__(self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> list[float]:
        return self.combine(self.scores(prompts, answers)).tolist()


def reward_ensemble(
    reward_models: Sequence[RewardModel], tokenizer: Tokenizer, combine: Combine = Mean(), has_end_token: bool = False
) -> RewardEnsemble:
    """The reward models of several stages as one judge; see `reward_judge`.

        models = [run.stage(name).reward_model() for name in ("reward", "reward-2", "reward-3")]
        judge = reward_ensemble(models, run.tokenizer(), MeanLessDeviation(1.0))

    Such stages differ by their `seed` (and with `head_std` by their heads), or by what they come after.
    """
    return RewardEnsemble([reward_judge(model, tokenizer, has_end_token) for model in reward_models], combine)


@dataclass(frozen=True)
class GenerativeJudge:
    """A language model that was trained to write verdicts, by the stage `judge`."""

    model: Transformer
    tokenizer: Tokenizer

    def probability_first_is_better(self, prompt: Sequence[Message], first: str, second: str) -> float:
        """The probability of the verdict for `first`, mean over both orders of the answers (Zheng et al. 2023,
        https://arxiv.org/abs/2306.05685, ask twice against position bias); so 1 less that of the answers exchanged.
        """
        logprobs = verdict_logprobs(self.model, self.tokenizer, [PreferencePair(tuple(prompt), first, second)])
        return float(chosen_probabilities(logprobs).mean())


def oracle_judge(world: World, tasks: Mapping[tuple[int, ...], Task], annotator: str, tokenizer: Tokenizer) -> Judge:
    """The gold score under an annotator's profile; tasks: what each prompt asks. Raises LabError for an annotator that
    the world has not, and for a prompt that is none of the tasks.
    """
    profile = world.profile(annotator)

    def judge(prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> list[float]:
        found = []
        for prompt, answer in zip(prompts, answers, strict=True):
            task = tasks.get(tuple(prompt))
            if task is None:
                raise LabError(
                    "The oracle scores answers to TinyWorld's own tasks only; this prompt is not one of them."
                )
            found.append(gold_score(world, task, decode_reply(tokenizer, answer).strip(), profile).total)
        return found

    return judge
