"""A flag on what a study sets itself is refused, every other one reaches each of its runs; and what one of the runs
would be refused for is said before the first of them is trained.
"""

import dataclasses
import importlib
import typing
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from labkit.commands.main import main
from labkit.configs import union_field_choices
from labkit.errors import LabError
from labkit.runs.plan import PlannedStage
from labkit.runs.recipe import Recipe
from labkit.stages.distill import Distill
from labkit.stages.multiturn import MultiTurn
from labkit.studies import alignment, feedback, sizes
from labkit.studies.measuring import MAX_NEW_TOKENS
from labkit.studies.options import STUDIES, AlignmentStudy, FeedbackStudy, SizesStudy, Study, refuse_own_settings
from labkit.studies.training import train_stages
from tests.tiny_study import study_preset

SMALL: dict[str, dict[str, Any]] = {
    "alignment": {"methods": ("ppo", "dpo", "dpo-rlaif")},
    "overoptimisation": {
        **{"ensembles": (2,), "combine": ("mean",), "kl_coefs": (0.1,), "checkpoints": 2, "steps": 20},
        "learning_rate": 1e-4,
    },
}
Path = tuple[str, ...]


def module(name: str) -> Any:
    return importlib.import_module(f"labkit.studies.{name}")


def planned(name: str) -> tuple[Any, Any, Recipe]:
    """A study's module, its options, and its recipe."""
    config: Any = STUDIES[name](preset="smoke", **SMALL.get(name, {}))
    return module(name), config, module(name).study_recipe(config, preset_of(name))


def preset_of(name: str) -> Recipe:
    """The tiny preset, with the stage that the study is of, as small as the others."""
    recipe = study_preset(MAX_NEW_TOKENS)
    sft, ppo = (recipe.stages[one].train for one in ("sft", "ppo"))
    own: dict[str, Any] = {
        "multiturn": MultiTurn(ppo, num_generations=2, max_new_tokens=6),
        "distillation": Distill(sft, teacher="sft"),
    }
    stages = [PlannedStage(own[name].kind, own[name])] if name in own else []
    return replace(recipe, plan=(*recipe.plan, *stages))


def fields(config: Any, path: Path = ()) -> Iterator[Path]:
    """The fields that have flags, at any depth."""
    for field in dataclasses.fields(config):
        value, inside = getattr(config, field.name), (*path, field.name)
        if not dataclasses.is_dataclass(value):
            yield inside
            continue
        if field.name in union_field_choices(type(config)):
            yield inside
        yield from fields(value, inside)


def value_of(part: Any, path: Path) -> Any:
    for name in path:
        part = getattr(part, name, None)
    return part


def changed(part: Any, path: Path, value: Any) -> Any:
    first, *rest = path
    return replace(part, **{first: changed(getattr(part, first), tuple(rest), value) if rest else value})


def others(config: Any, name: str) -> list[Any]:
    """Values that a field may take, too."""
    value, hint = getattr(config, name), typing.get_type_hints(type(config))[name]
    known = union_field_choices(type(config)).get(name, {})
    if known:
        kinds = [kind for kind in known.values() if kind is not type(value)]
        return [None if kind is type(None) else kind() for kind in kinds if _has_defaults(kind)]
    options = [hint, *typing.get_args(hint)]
    literals = [one for option in options for one in typing.get_args(option) if isinstance(one, str)]
    found: list[Any] = [one for one in (*literals, "concise", "lab", "honest", "oracle") if isinstance(value, str)]
    if isinstance(value, bool):
        found = [not value]
    elif isinstance(value, int | float):
        found = [2 * value, value // 2 if isinstance(value, int) else value / 2, value + 1, 0.3, 1, 2]
    elif isinstance(value, tuple):
        found = [("concise",), ("reward",), (0.5, 0.9)]
    elif value is None:
        found = [1, 2, 16, 0.5, "bf16", "fp32"]
    return [one for one in found if one != value]


def _has_defaults(kind: Any) -> bool:
    return kind is type(None) or all(
        one.default is not dataclasses.MISSING or one.default_factory is not dataclasses.MISSING
        for one in dataclasses.fields(kind)
    )


def runs(study: Any, config: Study, recipe: Recipe) -> list[Recipe]:
    return [one.recipe for one in study.seed_runs(config, recipe).values()]


def refusal(name: str, own: dict[str, str], flag: str) -> str:
    try:
        refuse_own_settings(name, own, [flag, "1"])
    except LabError as error:
        return str(error)
    return ""


def variants(study: Any, config: Study, recipe: Recipe, path: Path) -> Iterator[list[Recipe]]:
    """A study's runs with another value of this field, of each that is possible."""
    part = path[0]
    owner = value_of(recipe.parts[part], path[1:-1]) if path[1:] else recipe
    for value in others(owner, path[-1]):
        try:
            given = changed(recipe.parts[part], path[1:], value) if path[1:] else value
            other = recipe.with_parts(recipe.parts | {part: given})
            if other != recipe:  # as many key heads as there are heads is what None says
                yield runs(study, config, other)
        except LabError:
            continue


@pytest.mark.parametrize("name", STUDIES)
def test_every_flag_changes_all_runs_that_have_it_or_is_refused_by_name(name):
    study, config, recipe = planned(name)
    own, before, checked = study.own_settings(config), runs(study, config, recipe), 0
    paths = [
        path
        for part, settings in recipe.parts.items()
        for path in (fields(settings, (part,)) if dataclasses.is_dataclass(settings) else [(part,)])
    ]
    for path in paths:
        flag = "--" + ".".join(path).replace("_", "-")
        if said := refusal(name, own, flag):
            assert flag in said and f"study {name} sets" in said
        elif (after := next(variants(study, config, recipe, path), None)) is not None:
            checked += 1
            for one, other in zip(before, after, strict=True):
                if path[0] in one.parts:
                    was, now = (value_of(each.parts[path[0]], path[1:]) for each in (one, other))
                    assert was != now, f"{flag} is ignored"
    assert checked > 80
    for field in own:
        assert field.partition(".")[0] in recipe.parts, f"{field} is no field of the recipe"


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("feedback --reward.train.steps 10", "study feedback sets --reward.train.steps itself: every answer is read"),
        ("feedback --reward.loss Ratings", "study feedback sets --reward.loss itself: each kind of feedback has its"),
        ("feedback --annotation.format=ratings", "sets --annotation.format itself: all formats are compared."),
        ("annotators --annotation.annotator warm", "itself: use --annotators, as --annotators concise thorough."),
        ("sizes --model.width 64", "study sizes sets --model.width itself: use --sizes, as --sizes 32x2 64x2 96x3."),
        ("sizes --model.feed_forward.intermediate-size 9", "sets --model.feed-forward.intermediate-size itself: it f"),
        ("alignment --methods dpo dpo-rlaif --annotation.judge Principles", "dpo-rlaif has labels of its own. Lea"),
        ("alignment --methods kto-bestworst --annotation.pairing two_by_two", "kto-bestworst has labels of its own. L"),
        ("alignment --methods dpo --evaluation.policy-prompts 9", "--evaluation.policy-prompts itself: use --prompts."),
        ("overoptimisation --grpo-kl-1.kl NoKL", "study overoptimisation sets --grpo-kl-1.kl itself: use --kl-coefs."),
        # what only a later run would be refused for
        ("annotators --annotators warm nobody", "nobody"),
        ("feedback --annotation.position-bias 0.2", "position_bias and lazy_choice are of choices between answers"),
        ("alignment --methods dpo dpo-rlaif --annotation.laziness 0.2", "the judge follows Principles"),
        ("alignment --methods dpo dpo-rlaif --dpo-rlaif.train.max-length 8", "held-out prompts leaves room"),
        ("sizes --sizes 32x2 33x2", "The size 33x2 is not possible. "),
        ("--preset smoke alignment", "Give the study's name first, as in labkit study alignment --preset"),
    ],
)
def test_it_is_refused_before_anything_is_written(arguments, message, tmp_path, monkeypatch, capsys):
    for name in STUDIES:
        monkeypatch.setattr(module(name), "train_stages", None)
    given = arguments.split()
    assert main(["study", *given, "--preset", "smoke", "--seeds", "0", "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_width_that_is_no_multiple_of_64_has_fewer_heads():
    assert [sizes.recipe_of_size(study_preset(), width, 1).model.heads for width in (64, 128, 200, 130)] == [1, 2, 2, 1]
    config = SizesStudy(preset="smoke", sizes=("32x2", "200x4"))
    assert list(sizes.seed_runs(config, study_preset())) == ["32x2", "200x4"]


def test_a_later_folder_of_another_recipe_is_refused_first(tmp_path, monkeypatch):
    config = FeedbackStudy(preset="smoke", seeds=(0, 1), prompts=4, out=tmp_path)
    recipe = feedback.study_recipe(config, study_preset())
    folder, own = feedback.seed_runs(config, replace(recipe, seed=1))["ratings"]
    train_stages(replace(own, model=replace(own.model, width=16)), folder, ["pretrain"])
    monkeypatch.setattr(feedback, "train_stages", None)
    with pytest.raises(LabError, match=r"seed-1-ratings contains a run with a different recipe \(model.width: 16, not"):
        feedback.run(config, recipe)


def test_the_judge_of_a_method_without_one_can_be_set():
    config = AlignmentStudy(preset="smoke", methods=("dpo",))
    own = alignment.own_settings(config)
    assert "annotation.judge" not in own
    refuse_own_settings("alignment", own, ["--annotation.judge", "Principles"])
