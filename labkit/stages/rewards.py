"""Rewards: what says how good an answer of a rollout is. The second of the three parts of a policy-gradient stage.

GRPO(reward=Verifier())                  reinforcement learning from verifiable rewards

@reward_function("brief")
def brief(prompt: str, response: str) -> float:
    return -float(len(response.split()))

GRPO(reward=Custom("brief"))
"""

from __future__ import annotations

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

import torch
from torch.nn.functional import logsigmoid

from labkit.configs import check_fields
from labkit.errors import LabError
from labkit.evaluation.judges import Mean, MeanLessDeviation, Worst, reward_ensemble, reward_judge
from labkit.evaluation.steps import answer_score, score_drawn_steps
from labkit.machine import uses_bf16
from labkit.text.chat import decode_reply, without_end_token
from labkit.training.engine import make_parallel_eval_engine
from labkit.training.processes import accelerator

if TYPE_CHECKING:
    from labkit.decoding import Judge
    from labkit.evaluation.policies import HeldOutPrompts
    from labkit.model.reward_model import RewardModel
    from labkit.preferences.prompts import IndexedPrompts
    from labkit.stages.inputs import StageInputs
    from labkit.stages.registry import Stage
    from labkit.stages.sampling import Samples
    from labkit.text.tokenizer import Tokenizer
    from labkit.world import GoldScore

RewardOfSamples = Callable[[Sequence[int], "Samples"], Sequence[float]]
"""(the index of each prompt, the answers drawn) -> a number for each answer."""


class StepReward(NamedTuple):
    """What a step of a drawn answer is worth. end: the place of its last token in the answer."""

    end: int
    reward: float


StepRewardsOfSamples = Callable[["Samples"], Sequence[Sequence[StepReward]]]
"""(the answers drawn) -> the rewards of the steps of each."""


class Reward(ABC):
    """Where rewards come from; a frozen dataclass, a setting of a stage."""

    needs_reward_model: ClassVar[bool] = False

    @property
    def reward_stages(self) -> tuple[str, ...]:
        """The stages of the plan whose reward models it reads by name."""
        return ()

    def can_read(self, stage: Stage) -> bool:
        """Whether one of `reward_stages` may be this stage."""
        return stage.leaves == "reward model" and stage.scores_answers

    def check_group(self, num_generations: int) -> None:
        """Raises LabError where so many answers to a prompt cannot be rewarded."""
        return

    def check(self, stage_inputs: StageInputs) -> None:
        """Raises LabError when it can be known beforehand that nothing can be rewarded."""
        return

    def held_out_judge(self, stage_inputs: StageInputs, held_out: HeldOutPrompts) -> Judge | None:
        """For answers to held-out prompts, where these are not judged so anyhow: by the last reward model, or by the
        oracle, whose measures say how often an answer is right and what its gold score is.
        """
        return None

    @abstractmethod
    def of_samples(self, stage_inputs: StageInputs, prompts: IndexedPrompts, precision: str) -> RewardOfSamples:
        """Rewards of answers to these prompts."""

    def of_steps(self, stage_inputs: StageInputs, precision: str) -> StepRewardsOfSamples | None:
        """Rewards of the steps of answers; None where an answer is rewarded as a whole."""
        return None


@dataclass(frozen=True)
class RewardModelScore(Reward):
    """The reward model's number at an answer's last token: reinforcement learning from human feedback."""

    needs_reward_model: ClassVar[bool] = True

    def of_samples(self, stage_inputs: StageInputs, prompts: IndexedPrompts, precision: str) -> RewardOfSamples:
        """By as many processes as hold its weights."""
        tokenizer, device = stage_inputs.tokenizer, accelerator().device
        engine = make_parallel_eval_engine(stage_inputs.reward_model(), device, uses_bf16(precision, device))

        def rewards(indices: Sequence[int], samples: Samples) -> Sequence[float]:
            scores = engine.call_with_weights(
                lambda model: reward_judge(model, tokenizer, has_end_token=True)(samples.prompts, samples.completions)
            )
            for score, drawn in zip(scores, samples.completions, strict=True):
                if not math.isfinite(score):
                    answer = decode_reply(tokenizer, without_end_token(tokenizer, drawn)).strip()
                    raise LabError(
                        f"The reward model {stage_inputs.reward_stage} gave {score} for the answer {answer!r}. Its "
                        f"weights are damaged, or its training diverged: train it again (--again) at a lower learning "
                        f"rate."
                    )
            return scores

        return rewards


@dataclass(frozen=True)
class Ensemble(Reward):
    """The reward models of several stages as one (see `evaluation.judges.RewardEnsemble`), against over-optimisation:

        labkit run --plan pretrain,sft,reward,reward-2,grpo --reward-2.seed 1 --grpo.reward Ensemble

    combine: Mean, Worst, or MeanLessDeviation.
    """

    stages: tuple[str, ...] = ("reward", "reward-2")
    combine: Mean | Worst | MeanLessDeviation = Mean()

    needs_reward_model: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_fields(self)
        if len(set(self.stages)) < max(2, len(self.stages)):
            raise LabError(
                f"Ensemble: stages must name two reward models or more, each once, not {', '.join(self.stages)}."
            )

    @property
    def reward_stages(self) -> tuple[str, ...]:
        return self.stages

    def held_out_judge(self, stage_inputs: StageInputs, held_out: HeldOutPrompts) -> Judge:
        models = [stage_inputs.for_stage(stage_inputs.predecessor, stage).reward_model() for stage in self.stages]
        return reward_ensemble(models, stage_inputs.tokenizer, self.combine, has_end_token=True)

    def of_samples(self, stage_inputs: StageInputs, prompts: IndexedPrompts, precision: str) -> RewardOfSamples:
        """By as many processes as hold each member's weights."""
        members = [stage_inputs.for_stage(stage_inputs.predecessor, stage) for stage in self.stages]
        one = RewardModelScore()
        scores_of = [one.of_samples(inputs, prompts, precision) for inputs in members]

        def rewards(indices: Sequence[int], samples: Samples) -> list[float]:
            return self.combine(torch.tensor([scores(indices, samples) for scores in scores_of])).tolist()

        return rewards


@dataclass(frozen=True)
class ProcessReward(Reward):
    """The process reward model of a stage: the log-probability that the sentences of an answer are correct.

        labkit run --plan pretrain,sft,prm,grpo --grpo.reward ProcessReward

    placement: each sentence's at its last token ("steps"), so that a token is credited with what comes after it; or one
    number at the answer's last token, made of the sentences by their product, their minimum or the last one (see
    `losses.answer_log_probability`). The sum of "steps" is the log of the product. A log-probability is at most 0, so
    that no sentence pays for being said; of probabilities, which are above 0, each one more would. But of fewer
    sentences the product is larger, and a policy may learn to say one: `GroupMean` compares each of "steps" with the
    mean sentence, so that one that is better pays.
    """

    stage: str = "prm"
    placement: Literal["steps", "product", "min", "last"] = "steps"

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def reward_stages(self) -> tuple[str, ...]:
        return (self.stage,)

    def can_read(self, stage: Stage) -> bool:
        return stage.leaves == "reward model" and not stage.scores_answers

    def held_out_judge(self, stage_inputs: StageInputs, held_out: HeldOutPrompts) -> Judge:
        model, tokenizer = self._model(stage_inputs), stage_inputs.tokenizer

        def judge(prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> list[float]:
            return self._together(score_drawn_steps(model, tokenizer, prompts, answers)[0])

        return judge

    def of_samples(self, stage_inputs: StageInputs, prompts: IndexedPrompts, precision: str) -> RewardOfSamples:
        """The model is read when it is first asked: where steps are rewarded, it is not."""
        scored = cache(lambda: self._scored(stage_inputs, precision))
        return lambda indices, samples: self._together(scored()(samples)[0])

    def of_steps(self, stage_inputs: StageInputs, precision: str) -> StepRewardsOfSamples | None:
        if self.placement != "steps":
            return None
        scored = self._scored(stage_inputs, precision)

        def rewards(samples: Samples) -> list[list[StepReward]]:
            both = zip(*scored(samples), strict=True)
            return [list(map(StepReward, ends, logsigmoid(scores).tolist())) for scores, ends in both]

        return rewards

    def _together(self, scores: Sequence[torch.Tensor]) -> list[float]:
        """A number for each answer."""
        aggregate = "product" if self.placement == "steps" else self.placement
        return [answer_score(one, aggregate) for one in scores]

    def _model(self, stage_inputs: StageInputs) -> RewardModel:
        return stage_inputs.for_stage(stage_inputs.predecessor, self.stage).reward_model()

    def _scored(
        self, stage_inputs: StageInputs, precision: str
    ) -> Callable[[Samples], tuple[list[torch.Tensor], list[list[int]]]]:
        """What scores the sentences of drawn answers, by as many processes as hold the model's weights."""
        tokenizer, device = stage_inputs.tokenizer, accelerator().device
        engine = make_parallel_eval_engine(self._model(stage_inputs), device, uses_bf16(precision, device))

        def scored(samples: Samples) -> tuple[list[torch.Tensor], list[list[int]]]:
            found = engine.call_with_weights(
                lambda model: score_drawn_steps(model, tokenizer, samples.prompts, samples.completions)
            )
            if not all(bool(scores.isfinite().all()) for scores in found[0]):
                raise LabError(
                    f"The process reward model {self.stage} gave a sentence a score that is no number. Its weights are "
                    f"damaged, or its training diverged: train it again (--again) at a lower learning rate."
                )
            return found

        return scored


class OracleReward(Reward):
    """A reward that the oracle of the world gives."""

    def check(self, stage_inputs: StageInputs) -> None:
        if not stage_inputs.uses_world_data or stage_inputs.preferences is not None:
            raise LabError(
                f"{type(self).__name__}: the oracle can judge answers to TinyWorld's own tasks only, not to prompts of "
                f"a file. Choose another reward: RewardModelScore, or a function of your own (Custom)."
            )

    def of_samples(self, stage_inputs: StageInputs, prompts: IndexedPrompts, precision: str) -> RewardOfSamples:
        def rewards(indices: Sequence[int], samples: Samples) -> list[float]:
            answers = [without_end_token(stage_inputs.tokenizer, drawn) for drawn in samples.completions]
            return self.from_oracle(stage_inputs, indices, prompts.oracle_scores_if_known(indices, answers))

        return rewards

    @abstractmethod
    def from_oracle(
        self, stage_inputs: StageInputs, indices: Sequence[int], scores: Sequence[GoldScore]
    ) -> list[float]:
        """A number for each answer; indices: of the prompts, the same for answers that stand side by side."""


@dataclass(frozen=True)
class Verifier(OracleReward):
    """How far the answer is right, 0 to 1, which can be verified: reinforcement learning from verifiable rewards (RLVR,
    Lambert et al. 2024, https://arxiv.org/abs/2411.15124, 6).
    """

    def from_oracle(
        self, stage_inputs: StageInputs, indices: Sequence[int], scores: Sequence[GoldScore]
    ) -> list[float]:
        return [float(score.right) for score in scores]


@dataclass(frozen=True)
class Votes(OracleReward):
    """The share of the other answers to the same prompt over which the world's annotator chooses this one: no reward
    model stands between the choices and the policy. The annotator errs as often as its profile says; the biases that
    `annotation` can add are not its.
    """

    def check_group(self, num_generations: int) -> None:
        if num_generations < 2:
            raise LabError(
                f"Votes compares the answers to one prompt: num_generations must be at least 2, not {num_generations}."
            )

    def from_oracle(
        self, stage_inputs: StageInputs, indices: Sequence[int], scores: Sequence[GoldScore]
    ) -> list[float]:
        annotator, found = stage_inputs.world.profile(stage_inputs.annotator), [0.0] * len(scores)
        for index in dict.fromkeys(indices):
            rng = random.Random(f"votes {stage_inputs.seed} {index}")
            group = [at for at, other in enumerate(indices) if other == index]
            for place, first in enumerate(group):
                for second in group[place + 1 :]:
                    chosen = (
                        first if annotator.chooses_first(scores[first].total, scores[second].total, rng) else second
                    )
                    found[chosen] += 1 / (len(group) - 1)
        return found


RewardFunction = Callable[[str, str], float]
"""(the user's last message, the response) -> a number, the higher the better."""
REWARD_FUNCTIONS: dict[str, RewardFunction] = {}
"""Those that `reward_function` has made known."""


def reward_function(name: str) -> Callable[[RewardFunction], RewardFunction]:
    """Make a function known as a reward under a name, for `Custom`: in each process that trains or resumes by it."""

    def known(function: RewardFunction) -> RewardFunction:
        REWARD_FUNCTIONS[name] = function
        return function

    return known


@dataclass(frozen=True)
class Custom(Reward):
    """A Python function of your own, by the name that `reward_function` gave it."""

    function: str

    def __post_init__(self) -> None:
        check_fields(self)

    def check(self, stage_inputs: StageInputs) -> None:
        self._function()

    def of_samples(self, stage_inputs: StageInputs, prompts: IndexedPrompts, precision: str) -> RewardOfSamples:
        def rewards(indices: Sequence[int], samples: Samples) -> list[float]:
            asked = [prompts.messages(index)[-1].content for index in indices]
            return self._rewards(stage_inputs.tokenizer, asked, samples.completions)

        return rewards

    def held_out_judge(self, stage_inputs: StageInputs, held_out: HeldOutPrompts) -> Judge:
        both = zip(held_out.prompt_ids, held_out.conversations, strict=True)
        asked = {tuple(ids): messages[-1].content for ids, messages in both}

        def judge(prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> list[float]:
            return self._rewards(stage_inputs.tokenizer, [asked[tuple(ids)] for ids in prompts], answers)

        return judge

    def _rewards(
        self, tokenizer: Tokenizer, prompts: Sequence[str], completions: Sequence[Sequence[int]]
    ) -> list[float]:
        texts = [decode_reply(tokenizer, without_end_token(tokenizer, drawn)).strip() for drawn in completions]
        return [self._reward(prompt, response) for prompt, response in zip(prompts, texts, strict=True)]

    def _reward(self, prompt: str, response: str) -> float:
        function = self._function()
        try:
            reward = float(function(prompt, response))
        except Exception as error:
            raise LabError(f"The reward function {self.function!r} failed on {response!r}: {error!r}") from error
        if not math.isfinite(reward):
            raise LabError(
                f"The reward function {self.function!r} gave {reward} for the answer {response!r} to {prompt!r}. A "
                f"reward must be a finite number."
            )
        return reward

    def _function(self) -> RewardFunction:
        if self.function not in REWARD_FUNCTIONS:
            known = ", ".join(REWARD_FUNCTIONS) or "none"
            raise LabError(
                f"There is no reward function {self.function!r}; known: {known}. Put @reward_function("
                f"{self.function!r}) above it, and import its file before the stage is trained: --import FILE on the "
                f"command line."
            )
        return REWARD_FUNCTIONS[self.function]


RewardChoice = RewardModelScore | Ensemble | ProcessReward | Verifier | Votes | Custom
