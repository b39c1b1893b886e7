"""What every stage is given, what every stage offers, and the objective that the first stages share."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from labkit.errors import LabError
from labkit.losses import next_token_loss
from labkit.training.config import Source, TrainConfig

if TYPE_CHECKING:
    from labkit.evaluation.config import EvaluationConfig
    from labkit.model.reward_model import RewardModel
    from labkit.model.transformer import ModelConfig, Transformer
    from labkit.preferences.annotate import Choice
    from labkit.preferences.prompts import Prompts
    from labkit.stages.claims import Claim, Metrics
    from labkit.text.batch import Batch
    from labkit.text.fitting import Fit
    from labkit.text.pairs import Pair
    from labkit.text.reading import Conversations, Preferences, Texts
    from labkit.text.tokenizer import Tokenizer
    from labkit.world import World

T = TypeVar("T")

PROMPT_SEED = 1000
"""Added to the run's seed for the prompts that a policy is trained on: others than were annotated."""


@dataclass(frozen=True, eq=False)
class PreferenceSplit:
    """Preference pairs to train on, and held out; `choices`: the held-out ones with gold, of the world's annotator."""

    train: Sequence[Pair]
    validation: Sequence[Pair]
    choices: Sequence[Choice] = ()


@dataclass(frozen=True, eq=False)
class StageInputs:
    """What a run reads.

    texts, conversations, preferences: real ones, or None where the world's take their place. shape: of a new model, its
    vocabulary left open. annotator: the profile that judges in the world. model_of: a stage's name -> the language
    model that it made; reward_model_of: the same for reward models, None where none was made. comparisons: gives the
    pairs, once the fine-tuned model is there to be chosen from. rank, world_size: this process among all; each reads
    its share of a batch. folder: the run's.
    """

    tokenizer: Tokenizer
    world: World
    seed: int = 0
    texts: Texts | None = None
    conversations: Conversations | None = None
    preferences: Preferences | None = None
    shape: ModelConfig | None = None
    annotator: str = "warm"
    model_of: Callable[[str], Transformer] | None = None
    reward_model_of: Callable[[str], RewardModel | None] | None = None
    comparisons: Callable[[], PreferenceSplit] | None = None
    rank: int = 0
    world_size: int = 1
    folder: Path | None = None

    @property
    def of_the_world(self) -> bool:
        """Whether all that the model has read is of the world, so that the oracle knows what is true of it."""
        return self.texts is None and self.conversations is None

    @cached_property
    def corpus(self) -> NDArray[Any]:
        """The real training texts as one array of token ids [N], kept in the run's folder and mapped from there; of
        several processes the first one writes it.
        """
        from labkit.text.sources import encode_corpus
        from labkit.training.processes import accelerator

        texts = self.texts.train if self.texts else []
        with accelerator().main_process_first():
            return encode_corpus(self.tokenizer, texts, self.folder and self.folder / "corpus")

    def new_model(self) -> Transformer:
        """A model whose weights are drawn from the run's seed."""
        from labkit.model.transformer import Transformer

        assert self.shape is not None
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            return Transformer(dataclasses.replace(self.shape, vocabulary=self.tokenizer.size))

    def model(self, stage: str) -> Transformer:
        """A fresh copy of the language model after a stage."""
        assert self.model_of is not None
        return self.model_of(stage)

    def reward_model(self) -> RewardModel:
        """A fresh copy of the reward model. Raises LabError when the run has made none."""
        reward_model = self.judge()
        if reward_model is None:
            raise LabError("There is no reward model yet to learn from: make the stage reward first.")
        return reward_model

    def judge(self) -> RewardModel | None:
        """A fresh copy of the reward model, where the run has made one."""
        return self.reward_model_of("reward") if self.reward_model_of is not None else None

    @cached_property
    def preference_split(self) -> PreferenceSplit:
        """All preference pairs."""
        assert self.comparisons is not None
        return self.comparisons()

    @cached_property
    def known(self) -> dict[Hashable, Any]:
        """What `once` has made."""
        return {}

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` gives, made once: for what two stages ask of the fine-tuned model, which does not change."""
        if key not in self.known:
            self.known[key] = make()
        return self.known[key]

    def pairs(self, length: int) -> list[Pair]:
        """The training pairs that fit in rows of `length` tokens. Raises LabError when none does."""
        return self._fitting(self.preference_split.train, length, "preference pairs")

    def fit(self, count: Callable[[], tuple[Any, Fit]], what: str, length: int) -> Fit:
        """How examples fit in rows of `length` tokens: counted once, and said once where some do not. Raises LabError
        where none does.
        """
        from labkit.text.fitting import refuse_none

        def said() -> Fit:
            _, fit = count()
            refuse_none(fit, what, length)
            if words := fit.said(what, length):
                warnings.warn(words, stacklevel=2)
            return fit

        return self.once(("fit", what, length), said)

    def check_pairs(self, length: int) -> None:
        """Raises LabError when no given pair fits in rows of `length` tokens, or nobody is known who could choose."""
        self.check_annotator()
        if self.preferences is not None:
            self.pairs(length)
            self.held_out_pairs(length)

    def check_annotator(self) -> None:
        """Raises LabError when the world has not the annotator who is to choose where no pairs are given."""
        if self.preferences is None and self.annotator not in self.world.profiles:
            raise LabError(f"There is no annotator {self.annotator!r}; there are {', '.join(self.world.profiles)}.")

    def _fitting(self, given: Sequence[Pair], length: int, what: str) -> list[Pair]:
        from labkit.text.fitting import Fit
        from labkit.text.pairs import fitting

        pairs = fitting(self.tokenizer, given, length)
        self.fit(lambda: (pairs, Fit(len(given), 0, len(given) - len(pairs))), what, length)
        return pairs

    def held_out_pairs(self, length: int) -> list[Pair]:
        """The held-out pairs that fit in rows of `length` tokens. Raises LabError when none does."""
        return self._fitting(self.preference_split.validation, length, "held-out preference pairs")

    def left_out(self, length: int) -> int:
        """How many training pairs do not fit in rows of `length` tokens."""
        return len(self.preference_split.train) - len(self.pairs(length))

    def held_out_choices(self, length: int) -> list[Choice]:
        """The held-out choices of the world's annotator that fit; none with real preferences."""
        fit = set(self.held_out_pairs(length))
        return [choice for choice in self.preference_split.choices if choice.pair in fit]

    def prompts(self, length: int, answer_tokens: int) -> Prompts:
        """What a policy is asked while it trains: prompts that leave room for an answer in `length` tokens."""
        from labkit.preferences.prompts import GivenPrompts, WorldPrompts

        room = length - answer_tokens
        if self.preferences is not None:
            given = GivenPrompts(self.tokenizer, self.preferences.train, room)
            self.fit(lambda: (given, given.fit), f"prompts with an answer of {answer_tokens} tokens", length)
            return given
        return WorldPrompts(self.tokenizer, self.world, self.annotator, room, self.seed + PROMPT_SEED)

    def shared(self) -> dict[str, Any]:
        """What a source needs to know to share batches and to draw its own."""
        return {"seed": self.seed, "rank": self.rank, "world_size": self.world_size}


class StageConfig(Protocol):
    """What `labkit.runs.pipeline` asks of a stage."""

    name: ClassVar[str]
    needs: ClassVar[tuple[str, ...]]
    """The stages that it builds on; it begins with the weights of the first."""

    @property
    def train(self) -> TrainConfig: ...

    def check(self, stage_inputs: StageInputs, config: EvaluationConfig) -> None:
        """Raises LabError when what the stage will read, or be measured on, can be known not to serve it: before it, or
        any stage before it, is trained.
        """

    def initial_model(self, stage_inputs: StageInputs) -> nn.Module:
        """What is trained, before the first step."""

    def source(self, stage_inputs: StageInputs, model: Any) -> Source:
        """The training batches; `model` is as the stage begins with it."""

    def objective(self, model: Any, batch: Any) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """See `labkit.training.config.Objective`."""

    def result_model(self, model: Any) -> Transformer | RewardModel:
        """What the stage leaves behind, of what was trained."""

    def flops(self, model: Any, tokens: float) -> float:
        """Floating-point operations of the whole stage, which read so many tokens, sampling included."""

    def loss(self, model: Any, stage_inputs: StageInputs, config: EvaluationConfig) -> float | None:
        """Nats a label on held-out data: the one measure cheap enough to take while training; None without one."""

    def evaluate(self, model: Any, stage_inputs: StageInputs, config: EvaluationConfig) -> dict[str, float]:
        """All that can be measured after the stage."""

    @classmethod
    def claim(cls, results: Mapping[str, Metrics]) -> Claim | None:
        """What the stage must beat, from the metrics of the run's finished stages, by name; None where nothing was
        measured.
        """


def token_count_metric(inputs: Tensor) -> dict[str, Tensor]:
    """For an objective's metrics: how many tokens were read, padding included, where that differs from step to step."""
    return {"tokens": torch.tensor(inputs.numel(), device=inputs.device)}


def next_token_objective(model: Transformer, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """(summed loss, how many labels, nothing more) of the next token, over the batch's labels that count; where there
    are experts, with what keeps them all in use. What comes after a row's last such label is padding to them.
    """
    real = batch.mask.flip(-1).cumsum(-1).flip(-1) > 0 if model.mixture else None
    loss_sum, counted = next_token_loss(model(batch.inputs, mask=real), batch.labels, batch.mask)
    if model.mixture:
        loss_sum = loss_sum + counted * model.auxiliary_loss()
    return loss_sum, counted, {}
