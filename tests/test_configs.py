"""Configs to JSON and back."""

import json
from dataclasses import dataclass

import pytest

from labkit.configs import from_dict, to_dict
from labkit.errors import LabError
from labkit.evaluation.config import EvaluationConfig
from labkit.model.feedforward import Gated, MoE
from labkit.model.positions import Rotary, T5Buckets
from labkit.model.rotary_scaling import LinearScaling, Llama3Scaling, YaRN
from labkit.model.transformer import ModelConfig
from labkit.preferences.annotate import AnnotationConfig
from labkit.stages import PPO
from labkit.training.config import TrainConfig


@dataclass(frozen=True)
class Round:
    radius: float = 1.0


@dataclass(frozen=True)
class Square:
    side: float


@dataclass(frozen=True)
class Picture:
    shape: Round | Square
    colours: tuple[str, ...] = ("red",)
    title: str | None = None


def test_a_choice_comes_back_as_what_it_was():
    for picture in (Picture(Round(2.0)), Picture(Square(3.0), ("blue", "green"), "Two")):
        assert from_dict(Picture, to_dict(picture)) == picture


def test_missing_fields_take_their_defaults():
    assert from_dict(Picture, {"shape": {"kind": "Round"}}) == Picture(Round(1.0))


@pytest.mark.parametrize(
    "data,message",
    [
        ({}, "Picture needs shape"),
        ({"shape": {"kind": "Star"}}, "Picture.shape cannot be 'Star'; it can be Round, Square"),
        ({"shape": {"kind": "Square"}}, "Square needs side"),
        ({"shape": {"kind": "Round"}, "size": 3}, "Picture has no field size; it has shape, colours, title"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(data, message):
    with pytest.raises(LabError, match=message):
        from_dict(Picture, data)


@dataclass(frozen=True)
class Renamed:
    size: int = 1
    older_names = {"size": "count"}
    older_kind = "Before"


@dataclass(frozen=True)
class Heir(Renamed):
    count: int = 5


@dataclass(frozen=True)
class Before:
    size: int = 9


@dataclass(frozen=True)
class Holder:
    inner: Renamed | Heir | int = 0
    other: Renamed | Before | int = 0


def test_older_names_and_kinds_are_read_as_what_they_are_now():
    older = to_dict(Holder(Renamed(3)), legacy_names=True)
    assert older["inner"] == {"kind": "Before", "count": 3} and from_dict(Holder, older) == Holder(Renamed(3))
    assert from_dict(Holder, to_dict(Holder(Renamed(3)))) == Holder(Renamed(3))


@dataclass(frozen=True)
class Grown:
    size: int = 1
    weight: float = 0.0
    added_fields = ("weight",)


def test_a_field_that_a_config_got_later_is_not_in_its_older_form_while_it_is_at_its_default():
    assert to_dict(Grown(2), legacy_names=True) == {"size": 2} and to_dict(Grown(2)) == {"size": 2, "weight": 0.0}
    assert to_dict(Grown(1, 0.5), legacy_names=True) == {"size": 1, "weight": 0.5}
    assert from_dict(Grown, {"size": 2}) == Grown(2)


def test_an_older_name_never_takes_what_has_that_name_now():
    assert from_dict(Heir, {"size": 2, "count": 3}) == Heir(2, 3)
    assert from_dict(Holder, {"inner": to_dict(Heir(2, 3)) | {"kind": "Heir"}}) == Holder(Heir(2, 3))
    assert from_dict(Holder, {"other": {"kind": "Before", "size": 4}}) == Holder(0, Before(4))
    assert to_dict(Holder(Heir(2, 3)), legacy_names=True)["inner"]["kind"] == "Heir"
    with pytest.raises(LabError, match="Renamed has count and size, which are the same setting"):
        from_dict(Renamed, {"count": 1, "size": 2})


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(
            9, feed_forward=MoE(Gated(8), 4, 2, False, 1.5, sparse_step=2, aux_loss_coef=0.1), norm_placement="post"
        ),
        ModelConfig(9, position=Rotary(scaling=LinearScaling(2.0)), encoder_depth=1),
        ModelConfig(9, position=Rotary(scaling=Llama3Scaling())),
        ModelConfig(9, position=Rotary(scaling=YaRN(2.0, 64, 8.0, 2.0))),
        ModelConfig(9, position=T5Buckets(num_buckets=8)),
        ModelConfig(9, heads=4, key_value_heads=2, head_dim=8),
        ModelConfig(9, position=T5Buckets(max_distance=40)),
        TrainConfig(batch_size=3, max_length=20, muon_lr=0.5, adamw_lr=0.25, max_grad_norm=2.0, warmup_steps=7),
        EvaluationConfig(novelty_documents=7, story_max_new_tokens=5, answer_max_new_tokens=6),
        EvaluationConfig(generation_batch_size=5, loss_batch_size=3),
        AnnotationConfig(num_generations=3, max_new_tokens=9),
        PPO(kl_coef=0.3, cliprange=0.1, cliprange_value=0.7, vf_coef=0.2, entropy_coef=0.1, num_generations=4),
    ],
    ids=lambda config: type(config).__name__,
)
def test_what_an_older_labkit_wrote_is_read(config):
    older = to_dict(config, legacy_names=True)
    assert set(older) != set(to_dict(config)) or older != to_dict(config)
    assert from_dict(type(config), json.loads(json.dumps(older))) == config


def test_a_field_that_came_later_counts_only_where_it_is_set():
    """So that what was hashed before there was that field has the same hash."""

    @dataclass(frozen=True)
    class Grown:
        beta: float = 0.1
        margin: float = 0.0

        added_fields = ("margin",)

    assert to_dict(Grown(), legacy_names=True) == {"beta": 0.1}
    assert to_dict(Grown(margin=1.0), legacy_names=True) == {"beta": 0.1, "margin": 1.0}
    assert to_dict(Grown()) == {"beta": 0.1, "margin": 0.0} and from_dict(Grown, {"beta": 0.1}) == Grown()
