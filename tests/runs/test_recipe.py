import json
from dataclasses import replace

import pytest

from labkit.configs import to_dict
from labkit.errors import LabError
from labkit.model.positions import NoPosition, Sinusoidal, T5Buckets
from labkit.model.rwkv import RWKV
from labkit.runs.presets import PRESETS, REAL_TEXT, make_recipe
from labkit.runs.recipe import Recipe
from labkit.stages import SFT
from labkit.training.config import TrainConfig


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("text", [None, "a.txt"])
def test_presets_come_back_from_json(preset, text):
    recipe = make_recipe(preset, seed=3, text=text, instructions="b.json")
    again = Recipe.from_dict(json.loads(json.dumps(recipe.to_dict())))
    assert again == recipe and again.fingerprint() == recipe.fingerprint()
    assert (recipe.preset, recipe.seed, recipe.text, recipe.instructions) == (preset, 3, text, "b.json")


def test_every_preset_has_its_settings_for_real_text():
    assert list(PRESETS) == list(REAL_TEXT) == ["smoke", "lab", "full"]


def test_an_unknown_preset():
    with pytest.raises(LabError, match="no preset 'large'; the presets are smoke, lab, full"):
        make_recipe("large")


def test_rows_longer_than_the_context():
    with pytest.raises(LabError, match="sft.train.max_length is 999 tokens, but the model's context is"):
        make_recipe("smoke").with_stages(sft=SFT(TrainConfig(max_length=999)))


def test_stages():
    assert list(make_recipe("smoke").stages) == ["pretrain", "sft", "reward", "ppo", "dpo"]
    assert list(make_recipe("smoke", text="a.txt").stages) == ["pretrain"]
    assert list(make_recipe("smoke", text="a.txt", instructions="b.json").stages) == ["pretrain", "sft"]
    aligned = make_recipe("smoke", text="a.txt", instructions="b.json", preferences="c.json")
    assert list(aligned.stages) == ["pretrain", "sft", "reward", "ppo", "dpo"]


def test_what_a_stage_builds_on():
    recipe = make_recipe("smoke")
    assert recipe.ancestors("pretrain") == [] and recipe.ancestors("dpo") == ["pretrain", "sft"]
    assert recipe.ancestors("ppo") == ["pretrain", "sft", "reward"]
    assert recipe.descendants("reward") == ["ppo"] and recipe.descendants("sft") == ["reward", "ppo", "dpo"]
    other = recipe.with_stages(ppo=replace(recipe.stages["ppo"], kl_coef=0.5))
    assert recipe.fingerprint("dpo") == other.fingerprint("dpo") and recipe.fingerprint("ppo") != other.fingerprint(
        "ppo"
    )
    choosing = replace(recipe, annotation=replace(recipe.annotation, annotator="concise"))
    assert recipe.fingerprint("sft") == choosing.fingerprint("sft")
    assert recipe.fingerprint("dpo") != choosing.fingerprint("dpo")


def test_a_run_whose_dpo_had_fewer_settings_can_be_resumed():
    """Its fingerprint stays what it was before label_smoothing and rpo_alpha, until one of them is used."""
    recipe = make_recipe("smoke")
    assert to_dict(recipe.stages["dpo"], legacy_names=True).keys() == {"train", "beta"}
    smooth = recipe.with_stages(dpo=replace(recipe.stages["dpo"], label_smoothing=0.1))
    assert smooth.fingerprint("dpo") != recipe.fingerprint("dpo")


def test_fingerprints_change_with_what_decides_the_weights_and_no_more():
    recipe = make_recipe("smoke")
    shorter = recipe.with_stages(sft=SFT(TrainConfig(steps=1)))
    assert recipe.fingerprint("pretrain") == shorter.fingerprint("pretrain")
    assert recipe.fingerprint("sft") != shorter.fingerprint("sft")
    measured = replace(recipe, evaluation=replace(recipe.evaluation, stories=1))
    assert recipe.fingerprint("sft") == measured.fingerprint("sft") and recipe.fingerprint() != measured.fingerprint()
    assert recipe.fingerprint("pretrain") != make_recipe("smoke", seed=1).fingerprint("pretrain")


def test_differences_name_the_field_and_both_values():
    recipe = make_recipe("smoke")
    steps = recipe.stages["sft"].train.steps
    other = replace(recipe.with_stages(sft=SFT(replace(recipe.stages["sft"].train, steps=7))), seed=1)
    assert recipe.differences(other) == {"seed": (0, 1), "sft.train.steps": (steps, 7)}
    assert recipe.differences(recipe) == {}


def test_recipes_of_before_whose_stages_have_a_seed_still_load():
    """It did nothing: the run's own seed decides."""
    recipe = make_recipe("smoke", seed=3)
    old = recipe.to_dict()
    for planned in old["plan"]:
        planned["stage"]["train"]["seed"] = 7
    assert Recipe.from_dict(old) == recipe
    assert not any(hasattr(stage.train, "seed") for stage in recipe.stages.values())


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ({"width": 257}, r"head_dim \(or width / heads\) must be even, not 257 .width 257 and 1"),
        ({"head_dim": 3}, "must be even, not 3"),
        ({"width": 257, "position": Sinusoidal()}, "needs an even width, not 257"),
        ({"position": T5Buckets(32, 16)}, "max_distance must be above 16, not 16"),
        ({"mixer": RWKV(), "position": NoPosition(), "head_dim": 8}, "1 heads of 8 with 1 keys do not make 64"),
        ({"encoder_depth": 2}, "leave model.causal True and model.encoder_depth 0"),
        ({"causal": False}, "leave model.causal True and model.encoder_depth 0"),
    ],
)
def test_a_model_that_does_not_fit_is_refused_when_the_recipe_is_made(shape, words):
    recipe = make_recipe("smoke")
    with pytest.raises(LabError, match=words):
        replace(recipe, model=replace(recipe.model, **shape))
