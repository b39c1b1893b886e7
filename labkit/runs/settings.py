"""The fields of a recipe as flags: `labkit run --model.width 256 --model.position ALiBi`.

A recipe, or a stage, is built once: the stages that a plan names, then the kinds that flags name, each at its own
defaults, then numbers, which tyro reads; only then is it checked what goes with what.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import tyro
from tyro.conf import AvoidSubcommands, FlagCreatePairsOff

from labkit.configs import check_fields, default_draft, unchecked_config, union_field_choices
from labkit.errors import LabError
from labkit.runs import flags

if TYPE_CHECKING:
    from labkit.runs.recipe import Recipe

T = TypeVar("T")
Path = tuple[str, ...]
"""The names of the fields that lead to a part: ("grpo", "reward", "function")."""


def parse_known_args(
    options: type[T], command: str, arguments: list[str], default: T | None = None
) -> tuple[T, list[str]]:
    """The options, and the arguments that are not theirs: fields of a recipe, for `override_recipe`."""
    settings: dict[str, Any] = {} if default is None else {"default": default}
    prog, config = f"labkit {command}", (FlagCreatePairsOff,)
    parsed, rest = flags.parse_flags(options, prog, arguments, config=config, return_unknown_args=True, **settings)
    check_fields(parsed, flags=True)
    return parsed, rest


def override_recipe(recipe: Recipe, rest: list[str], command: str, plan: str | None = None) -> Recipe:
    """The recipe with the stages that `plan` names, as `parse_plan` reads it, and with those fields of its parts and
    stages that the flags in `rest` set. Raises LabError for a flag that is none, and for what does not go together.
    """
    if not rest and plan is None:
        return recipe
    from labkit.runs.plan import parse_plan
    from labkit.runs.presets import plan_templates

    flags.refuse_renamed_flags({f"--{older}": f"--{name}" for name, older in recipe.older_names.items()}, rest)
    planned = recipe.plan if plan is None else parse_plan(plan, plan_templates(recipe), default_draft)
    parts = recipe.parts_with_plan(planned)
    made = override_config(_as_fields(parts), rest, command, "The fields of the recipe.")
    return recipe.with_parts({name: getattr(made, name.replace("-", "_")) for name in parts}, planned)


def print_settings(parts: Mapping[str, Any], rest: list[str], usage: str) -> None:
    """Print the flags of these parts of a recipe, by their names, with what they mean and their values: as they are,
    and with the kinds that flags in `rest` name. usage: the command that has these flags. Whether the settings go
    together is not checked. Raises LabError for a kind that is none.
    """
    draft = _draft(_as_fields(parts), (), list(rest))
    settings: dict[str, Any] = {"config": (AvoidSubcommands,), "description": ""}
    with suppress(SystemExit):
        flags.parse_flags(type(draft), usage, ["--help"], default=draft, **settings)
    if choices := _choices(draft, ()):
        print("Parts that can be of another type, each type with settings of its own, listed once it is chosen:")
        print("\n".join(f"  {line}" for line in choices))


def _as_fields(parts: Mapping[str, Any]) -> Any:
    """A dataclass of these parts, so that tyro makes a group of flags of each."""
    fields = {name.replace("-", "_"): part for name, part in parts.items()}
    kind: Any = dataclasses.make_dataclass("Fields", [(name, type(part)) for name, part in fields.items()], frozen=True)
    return kind(**fields)


def _choices(config: Any, path: Path) -> list[str]:
    """ "--grpo.kl KLInLoss (or NoKL, KLInReward)" of each field, at any depth, that can be one of several types."""
    if not _is_config(config):
        return []
    found, kinds = list[str](), union_field_choices(type(config))
    for field in dataclasses.fields(config):
        inside, value = (*path, field.name), getattr(config, field.name, None)
        if field.name in kinds:
            now = "None" if value is None else type(value).__name__
            found.append(f"{_flag(inside)} {now} (or {', '.join(kind for kind in kinds[field.name] if kind != now)})")
        found += _choices(value, inside)
    return found


def override_config(config: T, rest: list[str], command: str, description: str | None = None) -> T:
    """A dataclass with those of its fields, at any depth, that the flags in `rest` set: --reward.function for its
    `reward.function`. description: what --help says first; None for the docstring of its class.
    """
    left = list(rest)
    draft = _draft(config, (), left)
    flags.refuse_renamed_flags(_older_flags(draft, ()), left)
    settings: dict[str, Any] = {"config": (AvoidSubcommands,), "description": description}
    made: T = flags.parse_flags(type(config), f"labkit {command}", left, default=draft, **settings)
    _refuse_unused(draft, made, ())
    return made


def _flag(path: Path) -> str:
    return f"--{'.'.join(path).replace('_', '-')}"


def _is_config(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _draft(config: Any, path: Path, left: list[str]) -> Any:
    """A draft of a dataclass (see `unchecked_config`) with the kinds that the flags in `left` name for its fields, at
    any depth; these are taken out. Raises LabError for a field without a value, where no flag gives it one.
    """
    kinds, values, missing = union_field_choices(type(config)), dict[str, Any](), list[str]()
    for field in dataclasses.fields(config):
        inside = (*path, field.name)
        value = getattr(config, field.name, tyro.MISSING)
        kind = _take(left, _flag(inside)) if field.name in kinds else None
        value = value if kind is None else _of_kind(kind, kinds[field.name], value, _flag(inside))
        if value is tyro.MISSING and _take(list(left), _flag(inside)) is None:
            missing.append(_flag(inside))
        values[field.name] = _draft(value, inside, left) if _is_config(value) else value
    if missing:
        raise LabError(f"{type(config).__name__} needs {' and '.join(missing)} too.")
    return unchecked_config(type(config), values)


def _of_kind(kind: str, kinds: Mapping[str, type], value: Any, flag: str) -> Any:
    """`value`, if it is of that kind; else a draft of one, at its own defaults."""
    if kind not in kinds:
        raise LabError(f"{flag} can be {', '.join(kinds)}, not {kind!r}.")
    if kinds[kind] is type(None):
        return None
    return value if type(value) is kinds[kind] else default_draft(kinds[kind], value)


def _older_flags(config: Any, path: Path) -> dict[str, str]:
    """The flags that the fields of a dataclass had under their older names -> those of today, at any depth."""
    if not _is_config(config):
        return {}
    names, fields = getattr(config, "older_names", {}), [field.name for field in dataclasses.fields(config)]
    found = {_flag((*path, older)): _flag((*path, name)) for name, older in names.items() if older not in fields}
    for name in fields:
        found |= _older_flags(getattr(config, name), (*path, name))
    return found


def _refuse_unused(draft: Any, made: Any, path: Path) -> None:
    """Raises LabError for a learning rate that was set and that nothing reads."""
    if getattr(made, "optimizer", "") == "adamw" and made.muon_lr != draft.muon_lr:
        raise LabError(
            f"{_flag((*path, 'muon_lr'))} is Muon's learning rate; this stage trains by AdamW. Set "
            f"{_flag((*path, 'adamw_lr'))}."
        )
    for field in dataclasses.fields(made):
        if _is_config(getattr(made, field.name)):
            _refuse_unused(getattr(draft, field.name), getattr(made, field.name), (*path, field.name))


def _take(left: list[str], flag: str) -> str | None:
    """Remove a flag with its value from ``left``, in either form (--a.b C, --a.b=C); the last counts."""
    value = None
    for at in reversed(range(len(left))):
        name, equals, behind = left[at].partition("=")
        if name.replace("_", "-") == flag:
            found = behind if equals else left[at + 1] if at + 1 < len(left) else ""
            value = found if value is None else value
            del left[at : at + (1 if equals else 2)]
    return value
