"""What every stage is given, and the objective that the first stages share."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labkit.errors import LabError, count_with_noun
from labkit.losses import next_token_loss
from labkit.machine import all_reduce_sum
from labkit.text.unpaired import AnswerSplit

if TYPE_CHECKING:
    from labkit.model.reward_model import RewardModel
    from labkit.model.transformer import ModelConfig, Transformer
    from labkit.preferences.annotate import AnnotatedPair
    from labkit.preferences.prompts import IndexedPrompts
    from labkit.text.batch import Batch
    from labkit.text.fitting import LengthReport
    from labkit.text.pairs import PreferencePair
    from labkit.text.rankings import Ranking
    from labkit.text.reading import Conversations, Preferences, Texts
    from labkit.text.tokenizer import Tokenizer
    from labkit.world import World

    Feedback = Literal["pairs", "rankings", "labels", "ratings"]

T = TypeVar("T")

PROMPT_SEED = 1000
"""Added to the run's seed for the prompts that a policy is trained on: others than were annotated."""


@dataclass(frozen=True, eq=False)
class PreferenceSplit:
    """Preference pairs to train on, and held out; `annotated_pairs`: the held-out ones with the gold
    scores of the world's annotator. rankings: the lists to train on, of which `train` holds each two answers; empty
    where there are pairs alone. answers: single ones with a label or a rating; where there are some, there are no pairs
    but `annotated_pairs`, of which the annotator rated the one higher than the other."""

    train: Sequence[PreferencePair]
    validation: Sequence[PreferencePair]
    annotated_pairs: Sequence[AnnotatedPair] = ()
    rankings: Sequence[Ranking] = ()
    answers: AnswerSplit = AnswerSplit()

    @classmethod
    def of(cls, preferences: Preferences) -> PreferenceSplit:
        """What was given, in place of the world's."""
        train, validation, _, rankings, answers = preferences
        return cls(train, validation, rankings=rankings, answers=answers)


@dataclass(frozen=True, eq=False)
class StageInputs:
    """What a run reads, for one of its stages.

    texts, conversations, preferences: real ones, or None where the world's take their place. model_config: of a new
    model, its vocabulary left open. annotator: the profile that judges in the world, other_annotators: those who
    annotate beside it, annotation_format: what they give. model_of: a stage's name, or the folder of another run's
    stage -> the language model that it left; reward_model_of: the same for reward models, None where none was made.
    load_preferences: gives the preferences, once the model is there whose answers are judged. rank, world_size: this
    process among all; each reads its share of a batch. folder: the run's. predecessor, reward_stage: the stage that
    this one comes after, and the one whose reward model it is given; None where there is none. cache: what `cached` has
    made, for all of the run's stages.
    """

    tokenizer: Tokenizer
    world: World
    seed: int = 0
    texts: Texts | None = None
    conversations: Conversations | None = None
    preferences: Preferences | None = None
    model_config: ModelConfig | None = None
    annotator: str = "warm"
    model_of: Callable[[str], Transformer] | None = None
    reward_model_of: Callable[[str], RewardModel | None] | None = None
    load_preferences: Callable[[], PreferenceSplit] | None = None
    rank: int = 0
    world_size: int = 1
    folder: Path | None = None
    predecessor: str | None = None
    reward_stage: str | None = None
    other_annotators: tuple[str, ...] = ()
    annotation_format: Feedback = "pairs"
    cache: dict[Hashable, Any] = field(default_factory=dict, init=False)

    def for_stage(self, predecessor: str | None, reward_stage: str | None) -> StageInputs:
        """The same for a stage that comes after this one and is judged by that; what was made once is shared."""
        return self._replaced(predecessor=predecessor, reward_stage=reward_stage)

    def with_models(
        self, model_of: Callable[[str], Transformer], reward_model_of: Callable[[str], RewardModel | None]
    ) -> StageInputs:
        """The same, but that models come from elsewhere; what was made once is shared."""
        return self._replaced(model_of=model_of, reward_model_of=reward_model_of)

    def _replaced(self, **changes: Any) -> StageInputs:
        made = dataclasses.replace(self, **changes)
        object.__setattr__(made, "cache", self.cache)
        return made

    @property
    def uses_world_data(self) -> bool:
        """Whether all that the model has read is of the world, so that the oracle knows what is true of it."""
        return self.texts is None and self.conversations is None

    @property
    def corpus(self) -> NDArray[Any]:
        """The real training texts as one array of token ids [N], kept in the run's folder and mapped from there; of
        several processes the first one writes it.
        """
        from labkit.text.sources import encode_corpus
        from labkit.training.processes import accelerator

        def encoded() -> NDArray[Any]:
            texts = self.texts.train if self.texts else []
            with accelerator().main_process_first():
                return encode_corpus(self.tokenizer, texts, self.folder and self.folder / "corpus")

        return self.cached("corpus", encoded)

    def new_model(self) -> Transformer:
        """A model whose weights are drawn from the run's seed; on the CPU, so that they are the same on any device."""
        from labkit.model.transformer import Transformer
        from labkit.training.processes import initial_device

        assert self.model_config is not None
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seed)
            model = Transformer(dataclasses.replace(self.model_config, vocabulary=self.tokenizer.vocab_size))
        return model.to(initial_device())

    def predecessor_model(self) -> Transformer:
        """A fresh copy of the language model that the stage begins with. Raises LabError where it comes after none."""
        if self.predecessor is None:
            raise LabError("No earlier stage has produced a language model.")
        return self.model(self.predecessor)

    def model(self, stage: str) -> Transformer:
        """A fresh copy of the language model after a stage of the run, or of another: RUN/STAGE."""
        assert self.model_of is not None
        return self.model_of(stage)

    def reward_model(self) -> RewardModel:
        """A fresh copy of the reward model. Raises LabError when the run has made none."""
        reward_model = self.reward_model_or_none()
        if reward_model is None:
            raise LabError("There is no reward model yet: train the stage reward first.")
        return reward_model

    def reward_model_or_none(self) -> RewardModel | None:
        """A fresh copy of the reward model, where the run has made one."""
        if self.reward_model_of is None or self.reward_stage is None:
            return None
        return self.reward_model_of(self.reward_stage)

    @property
    def preference_split(self) -> PreferenceSplit:
        """All preference pairs."""
        assert self.load_preferences is not None
        return self.cached("pairs", self.load_preferences)

    @property
    def feedback(self) -> Feedback:
        """What the preferences are, given or still to be made."""
        if self.preferences is None:
            return self.annotation_format
        return self.preferences.answers.kind or ("rankings" if self.preferences.rankings else "pairs")

    @property
    def preferences_name(self) -> str:
        """How the source of the preferences is called in a message."""
        return "TinyWorld's annotator" if self.preferences is None else self.preferences.reading.source

    def cached(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` gives, made once: for what two stages ask of a model that neither changes."""
        if key not in self.cache:
            self.cache[key] = make()
        return self.cache[key]

    def fitting_pairs(self, length: int) -> list[PreferencePair]:
        """The training pairs that fit in rows of `length` tokens. Raises LabError when none does."""
        self.refuse_single_answers()
        return self._fitting(self.preference_split.train, length, "preference pairs")

    def check_fit(
        self, measure_lengths: Callable[[], tuple[Any, LengthReport]], what: str, length: int
    ) -> LengthReport:
        """How examples fit in rows of `length` tokens: counted once, and said once where some do not. Raises LabError
        where none does.
        """
        from labkit.text.fitting import check_any_fit

        def said() -> LengthReport:
            _, fit = measure_lengths()
            check_any_fit(fit, what, length)
            if words := fit.message(what, length):
                warnings.warn(words, stacklevel=2)
            return fit

        return self.cached(("fit", what, length), said)

    def check_pairs(self, length: int) -> None:
        """Raises LabError when there are no pairs, or no given one fits in rows of `length` tokens, or nobody is known
        who could choose.
        """
        self.refuse_single_answers()
        self.check_annotator()
        if self.preferences is not None:
            self.fitting_pairs(length)
            self.fitting_held_out_pairs(length)

    def refuse_single_answers(self) -> None:
        """Raises LabError where the preferences are no pairs."""
        from labkit.stages.single_answers import refuse_single_answers

        refuse_single_answers(self)

    def check_annotator(self) -> None:
        """Raises LabError when the world has not the annotator who is to choose where no pairs are given."""
        if self.preferences is None:
            for name in (self.annotator, *self.other_annotators):
                self.world.profile(name)

    def _fitting(self, given: Sequence[PreferencePair], length: int, what: str) -> list[PreferencePair]:
        from labkit.text.fitting import LengthReport
        from labkit.text.pairs import drop_long_pairs

        pairs = drop_long_pairs(self.tokenizer, given, length)
        self.check_fit(lambda: (pairs, LengthReport(len(given), 0, len(given) - len(pairs))), what, length)
        return pairs

    def fitting_held_out_pairs(self, length: int) -> list[PreferencePair]:
        """The held-out pairs that fit in rows of `length` tokens. Raises LabError when none does."""
        self.refuse_single_answers()
        return self._fitting(self.preference_split.validation, length, "held-out preference pairs")

    def fitting_rankings(self, length: int) -> list[Ranking]:
        """The training lists, of each the answers that fit in rows of `length` tokens, if they are two or more; a pair,
        where there are pairs alone, is a list of two. Raises LabError when none does.
        """
        from labkit.text.fitting import LengthReport
        from labkit.text.rankings import drop_long_rankings

        self.refuse_single_answers()
        given = self._rankings
        rankings = drop_long_rankings(self.tokenizer, given, length)
        before, after = (sum(len(one.answers) for one in lists) for lists in (given, rankings))
        report = LengthReport(before, 0, before - after)
        self.check_fit(lambda: (rankings, report), "answers in ranked lists", length)
        return rankings

    @property
    def _rankings(self) -> Sequence[Ranking]:
        from labkit.text.rankings import ranking_of_pair

        split = self.preference_split
        return split.rankings or [ranking_of_pair(pair) for pair in split.train]

    def num_left_out_rankings(self, length: int) -> int:
        """How many training lists do not fit in rows of `length` tokens."""
        return len(self._rankings) - len(self.fitting_rankings(length))

    def num_left_out_pairs(self, length: int) -> int:
        """How many training pairs do not fit in rows of `length` tokens."""
        return len(self.preference_split.train) - len(self.fitting_pairs(length))

    def held_out_annotated_pairs(self, length: int) -> list[AnnotatedPair]:
        """The held-out choices of the world's annotator that fit; none with real preferences."""
        from labkit.text.pairs import drop_long_pairs

        choices = self.preference_split.annotated_pairs
        fit = set(drop_long_pairs(self.tokenizer, [choice.pair for choice in choices], length))
        return [choice for choice in choices if choice.pair in fit]

    def check_tasks(self, tasks: Sequence[str], owner: str) -> None:
        """Raises LabError for kinds of tasks that the world has not; owner: whose setting they are."""
        for kind in tasks:
            if kind not in self.world.task_kinds:
                raise LabError(
                    f"{owner}: TinyWorld of size {self.world.size.name} has no task {kind!r}; it has "
                    f"{', '.join(self.world.task_kinds)}."
                )

    def prompts(self, length: int, max_new_tokens: int, tasks: Sequence[str] = ()) -> IndexedPrompts:
        """What a policy is asked while it trains: prompts that leave room for an answer in `length` tokens. tasks: of
        the world's, these kinds alone, where there are any.
        """
        from labkit.preferences.prompts import DatasetPrompts, WorldPrompts

        room = length - max_new_tokens
        if self.preferences is not None:
            given = DatasetPrompts(self.tokenizer, self.preferences.train_prompts, room)
            self.check_fit(
                lambda: (given, given.fit),
                f"prompts with an answer of {count_with_noun(max_new_tokens, 'token')}",
                length,
            )
            return given
        return WorldPrompts(self.tokenizer, self.world, self.annotator, room, self.seed + PROMPT_SEED, tasks)

    def conversation_prompts(self, length: int, max_new_tokens: int, split: str = "train") -> IndexedPrompts:
        """The beginnings of conversations, of the training data or held out ("validation"), that leave room for an
        answer in `length` tokens: what a model is asked that learns from no preferences.
        """
        from labkit.preferences.prompts import ConversationPrompts, DatasetPrompts, prompts_of_conversation

        room = length - max_new_tokens
        if self.conversations is None:
            return ConversationPrompts(self.tokenizer, partial(self.world.conversation, split), room, self.seed)
        documents = self.conversations.train if split == "train" else self.conversations.validation
        found = [prompt for document in documents for prompt in prompts_of_conversation(document)]
        order = np.random.default_rng(self.seed).permutation(len(found))
        given = DatasetPrompts(self.tokenizer, [found[at] for at in order], room)
        held_out = "" if split == "train" else "held-out "
        what = f"{held_out}prompts of conversations with an answer of {count_with_noun(max_new_tokens, 'token')}"
        self.check_fit(lambda: (given, given.fit), what, length)
        return given

    def seed_and_rank_options(self) -> dict[str, Any]:
        """What a source needs to know to share batches and to draw its own."""
        return {"seed": self.seed, "rank": self.rank, "world_size": self.world_size}


def token_count_metric(inputs: Tensor) -> dict[str, Tensor]:
    """For an objective's metrics: how many tokens were read, padding included, where that differs from step to step."""
    return {"tokens": torch.tensor(inputs.numel(), device=inputs.device)}


def next_token_objective(model: Transformer, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """(summed loss, how many labels, nothing more) of the next token, over the batch's labels that count; where there
    are experts, with what keeps them all in use. What comes after a row's last such label is padding to them.
    """
    token_mask = batch.mask.flip(-1).cumsum(-1).flip(-1) > 0 if model.is_moe else None
    loss_sum, counted = next_token_loss(model(batch.inputs, mask=token_mask), batch.labels, batch.mask)
    if model.is_moe:
        balance = model.weighted_aux_loss()
        # Its value is all processes' together, of which each counts its labels' share; its gradient is this process's.
        own = all_reduce_sum(counted) * (balance - balance.detach())
        loss_sum = loss_sum + counted * balance.detach() + own
    return loss_sum, counted, {}
