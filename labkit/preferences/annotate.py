"""Annotators of the world: a model answers, a profile chooses between its answers, ranks or rates them, with mistakes.

What comes out is what people's votes would be, but for one thing: the gold score of both answers is known, and so how
far a reward model that was fitted to the choices is right.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import torch

from labkit.configs import Count, NonNegative, Range, Share, check_fields
from labkit.decoding import Temperature, generate
from labkit.decoding.compiled import CompiledGenerator, supports_compiled_generation
from labkit.decoding.filters import COLDEST, HOTTEST
from labkit.errors import LabError
from labkit.files import read_jsonl, write_jsonl
from labkit.machine import autocast
from labkit.model.transformer import Transformer
from labkit.preferences.choosing import Chooser, LazyChoice, ShownAnswer
from labkit.preferences.principles import PrincipleJudge, Principles, ProfileJudge, read_answer
from labkit.text.chat import decode_reply, encode_prompt
from labkit.text.pairs import PreferencePair, pair_to_row
from labkit.text.rankings import Ranking, ranking_to_row
from labkit.text.ratings import differently_rated
from labkit.text.tokenizer import Tokenizer
from labkit.text.unpaired import RatedAnswer, single_answer_to_row
from labkit.world import Message, Task, World, gold_score

T = TypeVar("T")

COMPILED_FROM = 4096
"""Answers from which compiling, 10 to 20 seconds, pays on CUDA."""


@dataclass(frozen=True)
class AnnotationConfig:
    """Who labels the answers that stages learn preferences from, and which answers.

    Attributes:
        annotator: the simulated annotator: a profile of the world, whose preferences the gold score follows.
        prompts: prompts that are answered for training.
        held_out: prompts that are answered for the held-out preferences.
        num_generations: answers to each prompt, two or more; two at a time are compared, unless they are equal.
        temperature: sampling temperature of the answers.
        max_new_tokens: tokens after which an answer is cut.
        keep_ties: keep pairs of which the annotator likes both answers alike; a coin labels them.
        precision: bf16 samples the answers in bf16, where the processor can; or fp32.
        format: pairs; or rankings of all different answers to a prompt; or ratings of each, from 1 to 5.
        other_annotators: further profiles that label, each about as many prompts as `annotator`. The gold score follows
            `annotator` alone, so labels of others are wrong where they disagree.
        position_bias: share of the choices that fall on the answer shown first, whatever it is.
        laziness: share of the other choices that are made without reading.
        lazy_choice: what is chosen then: either answer (coin), the longer or the shorter one.
        rating_noise: standard deviation of the noise in ratings.
        judge: who labels: the annotator (ProfileJudge), or a judge that follows written principles (see
            `labkit.preferences.principles`). The gold score follows the annotator either way.
        pairing: which two answers are compared: the first with the second, the third with the fourth and so on; or the
            best with the worst of all, once they are ranked, a pair a prompt. These differ more and are mistaken less
            often (Zephyr, Tunstall et al. 2023, https://arxiv.org/abs/2310.16944: the best with one of the others).
    """

    annotator: str = "warm"
    prompts: Count = 1200
    held_out: Count = 300
    num_generations: Annotated[int, Range(2, 4096)] = 4
    temperature: Annotated[float, Range(COLDEST, HOTTEST)] = 1.0
    max_new_tokens: Count = 40
    keep_ties: bool = False
    precision: Literal["bf16", "fp32"] = "bf16"
    format: Literal["pairs", "rankings", "ratings"] = "pairs"
    other_annotators: tuple[str, ...] = ()
    position_bias: Share = 0.0
    laziness: Share = 0.0
    lazy_choice: LazyChoice = "coin"
    rating_noise: NonNegative = 0.5
    judge: ProfileJudge | Principles = ProfileJudge()
    pairing: Literal["two_by_two", "best_with_worst"] = "two_by_two"

    added_fields = (
        *("format", "other_annotators", "position_bias", "laziness", "lazy_choice", "rating_noise"),
        *("judge", "pairing"),
    )
    older_names = {"num_generations": "samples", "max_new_tokens": "answer_tokens", "keep_ties": "ties"}

    def __post_init__(self) -> None:
        check_fields(self)
        if self.format == "ratings" and (self.position_bias or self.lazy_choice != "coin"):
            raise LabError(
                "AnnotationConfig: position_bias and lazy_choice are of choices between answers, and with the format "
                "ratings each is rated by itself. Leave position_bias at 0 and lazy_choice at coin."
            )
        if self.pairing == "best_with_worst" and self.format != "pairs":
            raise LabError(
                f"AnnotationConfig: pairing says which answers are compared, and the format is {self.format}, which "
                "keeps all of them. Set the format to pairs, or pairing to two_by_two."
            )
        if isinstance(self.judge, Principles):
            self._check_only_principles()

    def _check_only_principles(self) -> None:
        """Raises LabError for what a judge that follows principles does not do."""
        if self.format != "pairs":
            raise LabError(
                f"AnnotationConfig: Principles choose between two answers, and the format is {self.format}. Set it to "
                "pairs, or the judge to ProfileJudge."
            )
        if self.other_annotators or self.position_bias or self.laziness or self.lazy_choice != "coin":
            raise LabError(
                "AnnotationConfig: other_annotators, position_bias, laziness and lazy_choice are of people, and the "
                "judge follows Principles, whose mistakes are its noise. Leave them at their defaults."
            )


class AnnotatedPair(NamedTuple):
    """A pair as it was chosen, with the gold score of either answer under the profile `AnnotationConfig.annotator`."""

    pair: PreferencePair
    chosen_gold: float
    rejected_gold: float

    @property
    def rated_pair(self) -> PreferencePair:
        """The pair with its margin, as an annotator would state it: how far apart the gold scores are, whichever was
        chosen.
        """
        return self.pair._replace(margin=abs(self.chosen_gold - self.rejected_gold))


class AnnotatedRanking(NamedTuple):
    """A ranking as it was given, with the gold score of each answer under the profile `AnnotationConfig.annotator`."""

    ranking: Ranking
    golds: tuple[float, ...]

    @property
    def pairs(self) -> list[AnnotatedPair]:
        """Each two of the answers, the better one chosen."""
        both = zip(self.ranking.pairs, combinations(self.golds, 2), strict=True)
        return [AnnotatedPair(pair, *golds) for pair, golds in both]


class AnnotatedAnswer(NamedTuple):
    """An answer as it was rated, with its gold score under the profile `AnnotationConfig.annotator`."""

    answer: RatedAnswer
    gold: float


def compare_ratings(answers: Sequence[AnnotatedAnswer]) -> list[AnnotatedPair]:
    """Each two answers to a prompt that were rated differently, the higher one chosen."""
    compared = []
    for better, worse in differently_rated([one.answer for one in answers]):
        (chosen, chosen_gold), (rejected, rejected_gold) = answers[better], answers[worse]
        pair = PreferencePair(chosen.prompt, chosen.completion, rejected.completion)
        compared.append(AnnotatedPair(pair, chosen_gold, rejected_gold))
    return compared


def generate_annotated_pairs(
    model: Transformer,
    tokenizer: Tokenizer,
    world: World,
    config: AnnotationConfig,
    split: str,
    num_prompts: int,
    seed: int = 0,
) -> list[AnnotatedPair]:
    """Choices between answers of `model` to `num_prompts` tasks of a split; the same for the same weights and
    arguments.

    Raises LabError for an annotator that the world has not, and when there is nothing to choose between.
    """
    choices = []
    choose = _pair_chooser(world, config, split, seed)
    for task, shown in _shown_answers(model, tokenizer, world, config, split, num_prompts, seed):
        for chosen, rejected in choose(task, shown):
            pair = PreferencePair(task.messages, shown.answers[chosen].text, shown.answers[rejected].text)
            choices.append(AnnotatedPair(pair, shown.golds[chosen], shown.golds[rejected]))
    return _some(choices, config, num_prompts)


def generate_annotated_rankings(
    model: Transformer,
    tokenizer: Tokenizer,
    world: World,
    config: AnnotationConfig,
    split: str,
    num_prompts: int,
    seed: int = 0,
) -> list[AnnotatedRanking]:
    """Rankings of all different answers of `model` to each of `num_prompts` tasks of a split, where they are two or
    more; of the same answers that `generate_annotated_pairs` chooses between. Raises LabError as that does.
    """
    ranked = []
    for task, shown in _shown_answers(model, tokenizer, world, config, split, num_prompts, seed):
        order = shown.chooser.rank(shown.answers, config.keep_ties)
        if len(order) > 1:
            ranking = Ranking(task.messages, tuple(shown.answers[place].text for place in order))
            ranked.append(AnnotatedRanking(ranking, tuple(shown.golds[place] for place in order)))
    return _some(ranked, config, num_prompts)


def generate_annotated_answers(
    model: Transformer,
    tokenizer: Tokenizer,
    world: World,
    config: AnnotationConfig,
    split: str,
    num_prompts: int,
    seed: int = 0,
) -> list[AnnotatedAnswer]:
    """Ratings of all different answers of `model` to each of `num_prompts` tasks of a split; of the same answers that
    `generate_annotated_pairs` chooses between. Raises LabError as that does.
    """
    rated = []
    for task, shown in _shown_answers(model, tokenizer, world, config, split, num_prompts, seed):
        for answer, gold in zip(shown.answers, shown.golds, strict=True):
            rating = float(shown.chooser.rate(answer))
            rated.append(AnnotatedAnswer(RatedAnswer(task.messages, answer.text, rating), gold))
    return _some(rated, config, num_prompts)


class _Shown(NamedTuple):
    """What one annotator is shown: the different, non-empty answers to a task, in a random order. golds: under the
    profile that the run is measured by.
    """

    chooser: Chooser
    answers: list[ShownAnswer]
    golds: list[float]


def _pair_chooser(
    world: World, config: AnnotationConfig, split: str, seed: int
) -> Callable[[Task, _Shown], Iterator[tuple[int, int]]]:
    """What chooses between the answers to a task: the annotator, or a judge that sees their words alone."""
    ends = config.pairing == "best_with_worst"
    if isinstance(config.judge, ProfileJudge):

        def choose(task: Task, shown: _Shown) -> Iterator[tuple[int, int]]:
            chooser = shown.chooser
            pairs = chooser.choose_best_and_worst if ends else chooser.choose_two_by_two
            return pairs(shown.answers, config.keep_ties)

        return choose
    judge = PrincipleJudge(config.judge, random.Random(f"principles {split} {seed}"))

    def judged(task: Task, shown: _Shown) -> Iterator[tuple[int, int]]:
        read = [read_answer(world, task, answer.text) for answer in shown.answers]
        return (judge.choose_best_and_worst if ends else judge.choose_two_by_two)(read, config.keep_ties)

    return judged


def _shown_answers(
    model: Transformer,
    tokenizer: Tokenizer,
    world: World,
    config: AnnotationConfig,
    split: str,
    num_prompts: int,
    seed: int,
) -> Iterator[tuple[Task, _Shown]]:
    """Each task with what the annotator who judges it is shown."""
    names = (config.annotator, *config.other_annotators)
    for name in names:
        if name not in world.profiles:
            raise LabError(f"There is no annotator {name!r}; there are {', '.join(world.profiles)}.")
    tasks = [preference_task(world, split, seed, index) for index in range(num_prompts)]
    with autocast(model.embedding.weight.device, config.precision):
        answers = sample_task_answers(model, tokenizer, tasks, config, seed)
    texts = [decode_reply(tokenizer, ids).strip() for ids in answers]
    rng = random.Random(f"{split} {seed}")
    for index, task in enumerate(tasks):
        said = texts[index * config.num_generations : (index + 1) * config.num_generations]
        different = [text for text in dict.fromkeys(said) if text]
        rng.shuffle(different)
        own, profile = world.profiles[names[0]], world.profiles[names[0] if len(names) == 1 else rng.choice(names)]
        golds = [gold_score(world, task, text, own).total for text in different]
        seen = golds if profile is own else [gold_score(world, task, text, profile).total for text in different]
        chooser = Chooser(profile, rng, config.position_bias, config.laziness, config.lazy_choice, config.rating_noise)
        yield task, _Shown(chooser, list(map(ShownAnswer, different, seen)), golds)


def _some(annotated: list[T], config: AnnotationConfig, num_prompts: int) -> list[T]:
    """What was annotated. Raises LabError where nothing was."""
    if not annotated and isinstance(config.judge, Principles):
        raise LabError(
            f"The principles of the group {config.judge.group} decide between no two of the answers to {num_prompts} "
            f"prompts, so there is nothing to learn from. Choose another annotation.judge.group, set "
            f"annotation.judge.ask to in_order, or raise annotation.prompts or annotation.temperature."
        )
    if not annotated:
        raise LabError(
            f"The annotator {config.annotator} gives equal scores to all answers to {num_prompts} prompts, so there is "
            f"nothing to learn from. Fine-tune for longer, or raise annotation.prompts or annotation.temperature."
        )
    return annotated


def sample_task_answers(
    model: Transformer, tokenizer: Tokenizer, tasks: Sequence[Task], config: AnnotationConfig, seed: int
) -> list[list[int]]:
    """`config.num_generations` answers to each task, one after another, as token ids.

    Many answers on CUDA are written by one compiled step, which writes the same from the same draws: launching an eager
    step's kernels takes 22 ms for 256 rows of the `full` preset's model on an H200, a CUDA graph's less than 1 ms.
    """
    prompts = [encode_prompt(tokenizer, task.messages) for task in tasks]
    samples, new, batch = config.num_generations, config.max_new_tokens, 256
    draws = torch.rand(len(prompts), samples, new, generator=torch.Generator().manual_seed(seed))
    filters, stops = [Temperature(config.temperature)], tokenizer.stop_ids
    on_cuda = model.embedding.weight.device.type == "cuda"
    if on_cuda and len(prompts) * samples >= COMPILED_FROM and supports_compiled_generation(model):
        writer = CompiledGenerator(model, batch_size=batch, max_length=max(map(len, prompts)) + new, filters=filters)
        repeated = [prompt for prompt in prompts for _ in range(samples)]
        return writer.generate(
            repeated, max_new_tokens=new, stop_ids=stops, uniform_draws=draws.flatten(0, 1).unsqueeze(1)
        )
    return generate(
        model,
        prompts,
        filters=filters,
        max_new_tokens=new,
        stop_ids=stops,
        uniform_draws=draws,
        num_return_sequences=samples,
        batch_size=batch,
    )


def preference_task(world: World, split: str, seed: int, index: int, tasks: Sequence[str] = ()) -> Task:
    """A task of the kinds in `tasks`, in turn; of none given, of any but stories to be written, whose length would
    drown all else.
    """
    kinds = tasks or [kind for kind in world.task_kinds if kind != "write"]
    return world.task(split, seed, index, kinds[index % len(kinds)])


def write_annotated_pairs(path: str | Path, pairs: Sequence[AnnotatedPair]) -> None:
    """Choices as one JSON object a line, for `datasets` and TRL too; whole or not at all."""
    golds = ({"chosen_gold": choice.chosen_gold, "rejected_gold": choice.rejected_gold} for choice in pairs)
    write_jsonl(Path(path), (pair_to_row(one.pair) | gold for one, gold in zip(pairs, golds, strict=True)))


def read_annotated_pairs(path: str | Path) -> list[AnnotatedPair]:
    """What `write_annotated_pairs` wrote. Raises LabError when the file is not there or is none of its kind."""
    return _read(path, _pair_of_row)


def write_annotated_rankings(path: str | Path, rankings: Sequence[AnnotatedRanking]) -> None:
    """Rankings as one JSON object a line, with the gold score of each response; whole or not at all."""
    write_jsonl(Path(path), (ranking_to_row(one.ranking) | {"golds": list(one.golds)} for one in rankings))


def read_annotated_rankings(path: str | Path) -> list[AnnotatedRanking]:
    """What `write_annotated_rankings` wrote. Raises LabError when the file is not there or is none of its kind."""
    return _read(path, _ranking_of_row)


def write_annotated_answers(path: str | Path, answers: Sequence[AnnotatedAnswer]) -> None:
    """Rated answers as one JSON object a line, with the gold score of each; whole or not at all."""
    write_jsonl(Path(path), (single_answer_to_row(one.answer) | {"gold": one.gold} for one in answers))


def read_annotated_answers(path: str | Path) -> list[AnnotatedAnswer]:
    """What `write_annotated_answers` wrote. Raises LabError when the file is not there or is none of its kind."""
    return _read(path, _answer_of_row)


def _pair_of_row(row: dict[str, Any]) -> AnnotatedPair:
    pair = PreferencePair(_prompt(row), row["chosen"][0]["content"], row["rejected"][0]["content"])
    return AnnotatedPair(pair, row["chosen_gold"], row["rejected_gold"])


def _ranking_of_row(row: dict[str, Any]) -> AnnotatedRanking:
    return AnnotatedRanking(Ranking(_prompt(row), tuple(row["responses"])), tuple(row["golds"]))


def _answer_of_row(row: dict[str, Any]) -> AnnotatedAnswer:
    return AnnotatedAnswer(RatedAnswer(_prompt(row), row["completion"], row["rating"]), row["gold"])


def _prompt(row: dict[str, Any]) -> tuple[Message, ...]:
    return tuple(Message(**turn) for turn in row["prompt"])


def _read(path: str | Path, parse: Callable[[dict[str, Any]], T]) -> list[T]:
    path = Path(path)
    if not path.is_file():
        raise LabError(f"{path} does not exist, so there are no choices of TinyWorld's annotators.")
    try:
        return [parse(row) for row in read_jsonl(path, strict=True)]
    except (KeyError, TypeError, IndexError) as error:
        raise LabError(f"{path} cannot be read as choices of TinyWorld's annotators: {error}") from error
