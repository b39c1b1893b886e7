"""Every number that can be set has a range, in every dataclass of settings, and what is outside of it is refused."""

import dataclasses
import math
import typing
from pathlib import Path
from typing import Annotated, Any

import pytest

from labkit.bench.claims import ClaimsBench
from labkit.bench.generate import GenerateBench
from labkit.bench.memory import MemoryBench
from labkit.bench.plan import PlanBench
from labkit.bench.run import RunBench
from labkit.bench.train import ModelShape, TrainBench
from labkit.bench.world import WorldBench
from labkit.commands.bench import BenchOptions
from labkit.commands.chat import ChatOptions
from labkit.commands.decode_compare import DecodeCompareOptions
from labkit.commands.generate import GenerateOptions
from labkit.commands.plan import PlanOptions
from labkit.commands.world import WorldOptions
from labkit.configs import Range, check_fields
from labkit.decoding import filters
from labkit.errors import LabError
from labkit.evaluation.config import EvaluationConfig
from labkit.model.feedforward import Gated, MoE, Plain
from labkit.model.positions import Shaw, T5Buckets
from labkit.model.rotary_scaling import LinearScaling, YaRN
from labkit.model.transformer import ModelConfig
from labkit.preferences.annotate import AnnotationConfig
from labkit.runs.arguments import RunOptions
from labkit.runs.plan import PlannedStage
from labkit.runs.recipe import Recipe, TokenizerConfig
from labkit.stages import DPO, PPO, SFT, STAGES
from labkit.stages.rewards import Custom
from labkit.studies.options import STUDIES
from labkit.training.config import TrainConfig

HERE = Path(".")
FP16: Any = "fp16"
SAMPLES: list[Any] = [
    Recipe(),
    *(stage() for stage in STAGES.values()),
    PlannedStage("sft", SFT()),
    GenerateBench(),
    TrainBench(),
    ModelShape("tiny", 8, 1, 1, 1, 8),
    WorldBench(),
    RunBench(),
    ClaimsBench(),
    MemoryBench(),
    PlanBench(),
    ChatOptions(HERE),
    GenerateOptions(HERE),
    WorldOptions(),
    RunOptions(),
    BenchOptions("run"),
    *(study() for study in STUDIES.values()),
    PlanOptions(),
    DecodeCompareOptions(HERE),
    Gated(8),
    Plain(8),
    MoE(Gated(8)),
    LinearScaling(2.0),
    YaRN(4.0, 128),
    ModelConfig(9),
    filters.Temperature(1.0),
    filters.TopK(3),
    filters.TopP(0.9),
    filters.MinP(0.1),
    filters.Typical(0.5),
    filters.Epsilon(0.1),
    filters.RepetitionPenalty(1.2),
    filters.PresencePenalty(0.1),
    filters.FrequencyPenalty(0.1),
    filters.NoRepeatNgram(2),
    Custom("brief"),
]


def reached(samples: list[Any]) -> dict[type, Any]:
    """An instance of each dataclass that the samples are made of or could be: by its class."""
    found = {type(one): one for one in samples}
    waiting = list(found)
    while waiting:
        for hint in typing.get_type_hints(waiting.pop()).values():
            for one in (hint, *typing.get_args(hint)):
                if dataclasses.is_dataclass(one) and isinstance(one, type) and one not in found:
                    found[one] = one()  # what cannot be made without an argument is missing among the samples
                    waiting.append(one)
    return found


CONFIGS = reached(SAMPLES)


def ranges(hint: Any) -> list[Range]:
    """Of a type, in each place where a number stands; an empty Range where nothing limits it."""
    if typing.get_origin(hint) is Annotated:
        return [one for one in hint.__metadata__ if isinstance(one, Range)]
    if hint in (int, float):
        return [Range()]
    return [range_ for part in typing.get_args(hint) for range_ in ranges(part)]


NUMBERS = [
    pytest.param(sample, field.name, hints[field.name], id=f"{cls.__name__}.{field.name}")
    for cls, sample in CONFIGS.items()
    for hints in [typing.get_type_hints(cls, include_extras=True)]
    for field in dataclasses.fields(cls)
    if ranges(hints[field.name])
]


def test_the_walk_reaches_what_a_recipe_is_made_of():
    assert {TrainConfig, PPO, DPO, EvaluationConfig, AnnotationConfig, TokenizerConfig, T5Buckets, Shaw} <= set(CONFIGS)
    assert len(NUMBERS) > 120


@pytest.mark.parametrize(("sample", "name", "hint"), NUMBERS)
def test_every_number_has_a_range_and_keeps_to_it(sample, name, hint):
    """Neither nan nor infinity nor what is absurdly large is taken by any; what is taken lies in the range."""
    limits = ranges(hint)
    assert limits and all(math.isfinite(one.low) for one in limits), "the field's type names no lowest number"
    many, whole = isinstance(getattr(sample, name), tuple), "int" in str(hint)
    for value in (0, -1, 1, 2.5, math.nan, math.inf, -math.inf, 10**30, True, "3"):
        given = (value,) if many else value
        try:
            changed = dataclasses.replace(sample, **{name: given})
            check_fields(changed)
        except LabError as error:
            assert type(sample).__name__ in str(error) or name in str(error), error
        else:
            assert isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            assert not whole or (isinstance(value, int) and value < 2**40)
            assert any(one.contains(value) for one in limits)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: PPO(epochs=0), "PPO: epochs must be at least 1.* not 0"),
        (lambda: PPO(temperature=0.0), "PPO: temperature must be at least 1e-06"),
        (lambda: PPO(max_new_tokens=192), "answers of 192 tokens leave no room for a prompt: train.max_length is 192"),
        (lambda: PPO(TrainConfig(compile=True)), "PPO: train.compile would recompile .* compile_rollouts"),
        (lambda: PPO(gamma=1.1), "PPO: gamma must be at least 0 and at most 1, not 1.1"),
        (lambda: DPO(beta=-0.1), "DPO: beta must be above 0, not -0.1"),
        (lambda: DPO(beta=math.nan), "DPO: beta must be above 0, not nan"),
        (lambda: EvaluationConfig(loss_batch_size=0), "EvaluationConfig: loss_batch_size must be at least 1"),
        (lambda: AnnotationConfig(num_generations=1), "AnnotationConfig: num_generations must be at least 2"),
        (lambda: TrainConfig(muon_lr=math.inf), "TrainConfig: muon_lr must be .* not inf"),
        (lambda: TrainConfig(precision=FP16), "TrainConfig: precision must be one of bf16, fp32, not 'fp16'"),
        (lambda: TokenizerConfig(vocabulary=100), "vocabulary must be at least 262.* not 100"),
        (lambda: Recipe(seed=-1), "Recipe: seed must be at least 0"),
        (lambda: RunBench(seeds=()), "at least one seed"),
    ],
)
def test_what_means_nothing_is_refused_in_words(make, words):
    with pytest.raises(LabError, match=words):
        make()
