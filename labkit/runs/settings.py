"""The fields of a recipe as flags: `labkit run --model.width 256 --model.position ALiBi`.

tyro builds them from the recipe's dataclasses; a kind of part is chosen by its name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from tyro.conf import AvoidSubcommands, FlagCreatePairsOff

from labkit.configs import check_fields, convert_config, required_number_fields, union_field_choices
from labkit.errors import LabError
from labkit.runs import flags

if TYPE_CHECKING:
    from labkit.runs.recipe import Recipe

T = TypeVar("T")


def parse_known_args(
    options: type[T], command: str, arguments: list[str], default: T | None = None
) -> tuple[T, list[str]]:
    """The options, and the arguments that are not theirs: fields of a recipe, for `override_parts`."""
    settings: dict[str, Any] = {} if default is None else {"default": default}
    prog, config = f"labkit {command}", (FlagCreatePairsOff,)
    parsed, rest = flags.parse_flags(options, prog, arguments, config=config, return_unknown_args=True, **settings)
    check_fields(parsed, flags=True)
    return parsed, rest


def override_recipe(recipe: Recipe, rest: list[str], command: str) -> Recipe:
    """The recipe with those of its parts and stages that the flags in ``rest`` set."""
    flags.refuse_renamed_flags({f"--{older}": f"--{name}" for name, older in recipe.older_names.items()}, rest)
    return recipe.with_parts(override_parts(recipe.parts, rest, command)) if rest else recipe


def override_parts(parts: Mapping[str, Any], rest: list[str], command: str) -> dict[str, Any]:
    """Parts, each under the name that its flags begin with, as the flags in ``rest`` set them."""
    left = list(rest)
    now = {name: _chosen(part, f"--{name}", left) for name, part in parts.items()}
    for name, part in now.items():
        flags.refuse_renamed_flags(_older_flags(part, f"--{name}"), left)
    fields = [(name.replace("-", "_"), type(part), dataclasses.field(default=part)) for name, part in now.items()]
    all_fields = dataclasses.make_dataclass("Fields", fields, frozen=True)
    settings: dict[str, Any] = {"description": "The fields of the recipe.", "config": (AvoidSubcommands,)}
    parsed: Any = flags.parse_flags(all_fields, f"labkit {command}", left, **settings)
    made = {name: getattr(parsed, name.replace("-", "_")) for name in now}
    for name, part in made.items():
        _refuse_unused(parts[name], part, f"--{name}")
    return made


def _older_flags(part: Any, prefix: str) -> dict[str, str]:
    """The flags that the fields of a part had under their older names -> those of today, at any depth."""
    if not dataclasses.is_dataclass(part) or isinstance(part, type):
        return {}
    names, fields = getattr(part, "older_names", {}), [field.name for field in dataclasses.fields(part)]
    flags = {older: name for name, older in names.items() if older not in fields}
    found = {f"{prefix}.{older}": f"{prefix}.{name}" for older, name in flags.items()}
    for name in fields:
        found |= _older_flags(getattr(part, name), f"{prefix}.{name}")
    return found


def _refuse_unused(before: Any, part: Any, flag: str) -> None:
    """Raises LabError for a learning rate that was set and that nothing reads."""
    if hasattr(part, "train"):
        _refuse_unused(before.train, part.train, f"{flag}.train")
    elif getattr(part, "optimizer", "") == "adamw" and part.muon_lr != before.muon_lr:
        raise LabError(f"{flag}.muon-lr is Muon's learning rate; this stage trains by AdamW. Set {flag}.adamw-lr.")


def _chosen(part: Any, prefix: str, left: list[str]) -> Any:
    """A part with the kinds that the flags in ``left`` name for its fields, at any depth; these are taken out."""
    if not dataclasses.is_dataclass(part) or isinstance(part, type):
        return part
    kinds, changed = union_field_choices(type(part)), dict[str, Any]()
    for field in dataclasses.fields(part):
        flag, now = f"{prefix}.{field.name}", getattr(part, field.name)
        kind = _take(left, flag) if field.name in kinds else None
        made = now if kind is None else _of_kind(kind, kinds[field.name], now, flag, left)
        made = _chosen(made, flag, left)
        if made is not now:
            changed[field.name] = made
    # All at once, since not every kind goes with every other.
    return dataclasses.replace(part, **changed) if changed else part


def _of_kind(kind: str, kinds: dict[str, type], now: Any, flag: str, left: Sequence[str]) -> Any:
    """A part of that kind with what it shares with the one before; numbers that it cannot do without are read from
    their flags in ``left``.
    """
    shown = flag.replace("_", "-")
    if kind not in kinds:
        raise LabError(f"{shown} can be {', '.join(kinds)}, not {kind!r}.")
    if kinds[kind] is type(None):
        return None
    needed = [name for name in required_number_fields(kinds[kind]) if not hasattr(now, name)]
    given = {name: _take(list(left), f"{flag}.{name}") for name in needed}
    missing = [f"{shown}.{name.replace('_', '-')}" for name, value in given.items() if value is None]
    if missing:
        raise LabError(f"{shown} {kind} needs {' and '.join(missing)} too.")
    numbers: dict[str, Any] = {}
    for name, value in given.items():
        try:
            numbers[name] = required_number_fields(kinds[kind])[name](value)
        except ValueError:
            raise LabError(f"{shown}.{name} must be a number, not {value!r}.") from None
    return convert_config(kinds[kind], now, numbers)


def _take(left: list[str], flag: str) -> str | None:
    """Remove a flag with its value from ``left``, in either form (--a.b C, --a.b=C); the last counts."""
    value = None
    for at in reversed(range(len(left))):
        name, equals, behind = left[at].partition("=")
        if name.replace("_", "-") == flag.replace("_", "-"):
            found = behind if equals else left[at + 1] if at + 1 < len(left) else ""
            value = found if value is None else value
            del left[at : at + (1 if equals else 2)]
    return value
