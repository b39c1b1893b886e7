"""Frozen dataclasses: the values that their fields may hold; to plain dictionaries, for JSON, and back.

A numeric field says in its type which numbers make sense, and `check_fields` refuses the others:

    @dataclass(frozen=True)
    class Nucleus:
        p: Annotated[float, Range(0, 1, exclude_low=True)] = 0.9

        def __post_init__(self) -> None:
            check_fields(self)

A field whose type is a choice of dataclasses (``feed_forward: Gated | MoE``) is written with its class name
under "kind", so that it comes back as what it was: {"feed_forward": {"kind": "Gated", "intermediate_size": 352}}.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from functools import cache
from numbers import Integral, Real
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from labkit.errors import LabError

C = TypeVar("C")


class Range(NamedTuple):
    """The numbers from `low` to `high`, both among them; exclude_low: `low` itself is not. Neither nan nor infinity
    is.
    """

    low: float = -math.inf
    high: float = math.inf
    exclude_low: bool = False

    def contains(self, number: float) -> bool:
        high_enough = number > self.low if self.exclude_low else number >= self.low
        return high_enough and number <= self.high and math.isfinite(number)

    def unmet_requirement(self, number: float) -> str:
        """What a number that is not in it must be; empty for one that is."""
        if self.contains(number):
            return ""
        low, high = _shown(self.low), _shown(self.high)
        if self.low == -math.inf:
            return f"at most {high}" if math.isfinite(self.high) else "a finite number"
        if number == self.high == math.inf:
            return f"finite and above {low}" if self.exclude_low else f"finite and at least {low}"
        if self.high < LARGEST or self.high < number < math.inf:
            return f"above {low} and at most {high}" if self.exclude_low else f"at least {low} and at most {high}"
        return f"above {low}" if self.exclude_low else f"at least {low}"


LARGEST = 2**31 - 1
"""The largest whole number of a setting: what is counted in torch, sums included, then stays within 64 bits."""
Count = Annotated[int, Range(1, LARGEST)]
CountOrNone = Annotated[int, Range(0, LARGEST)]
"""A count, or 0 for none."""
Seed = Annotated[int, Range(0, 2**32 - 1)]
Positive = Annotated[float, Range(0, exclude_low=True)]
NonNegative = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1)]


def check_fields(config: Any, flags: bool = False) -> None:
    """Raises LabError for a field of this dataclass whose value its type, or the Range in it, does not hold. flags:
    name the field as the command line does.
    """
    kind: Any = type(config)
    for name, hint in _hints(kind).items():
        value = getattr(config, name)
        wanted = _unmet(hint, value)
        if wanted:
            named = f"--{name.replace('_', '-')}" if flags else f"{kind.__name__}: {name}"
            raise LabError(f"{named} must be {wanted}, not {_shown(value)}.")


@cache
def _types(cls: Any) -> dict[str, Any]:
    """The types of a class' fields. Kept, as making types of what an annotation says is most of reading a recipe."""
    return typing.get_type_hints(cls)


@cache
def _hints(cls: Any) -> dict[str, Any]:
    """The types of a dataclass' fields, with what is annotated."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _unmet(hint: Any, value: Any) -> str:
    """What a value of this type must be; empty where it is."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        ranges = [one for one in inner[1:] if isinstance(one, Range)]
        return _unmet(inner[0], value) or next(filter(None, (one.unmet_requirement(value) for one in ranges)), "")
    if origin in (typing.Union, types.UnionType):
        unmet = [_unmet(option, value) for option in inner]
        return "" if "" in unmet else _either(unmet, value)
    if origin is Literal:
        return "" if value in inner else f"one of {', '.join(map(str, inner))}"
    if origin is tuple:
        return _unmet_tuple(inner, value)
    if hint in _PLAIN:
        kind, words = _PLAIN[hint]
        return "" if isinstance(value, kind) and (hint is bool or not isinstance(value, bool)) else words
    return "" if not isinstance(hint, type) or isinstance(value, hint) else f"of type {hint.__name__}"


_PLAIN: dict[Any, tuple[type, str]] = {
    int: (Integral, "a whole number"),
    float: (Real, "a number"),
    bool: (bool, "true or false"),
    str: (str, "text"),
    type(None): (type(None), "None"),
}


def _either(unmet: list[str], value: Any) -> str:
    """Of a choice of types: where the value is a number, what is wrong with the number alone."""
    numbers = [words for words in unmet if words.startswith(("at ", "above ", "finite and "))]
    return numbers[0] if numbers and isinstance(value, int | float) else " or ".join(dict.fromkeys(unmet))


def _unmet_tuple(inner: tuple[Any, ...], value: Any) -> str:
    if not isinstance(value, tuple):
        return "a list"
    many = len(inner) == 2 and inner[1] is Ellipsis
    if not many and len(value) != len(inner):
        return f"{len(inner)} values"
    hints = [inner[0]] * len(value) if many else inner
    unmet = next((words for words in map(_unmet, hints, value) if words), "")
    return unmet and f"values that are each {unmet}"


def _shown(value: Any) -> str:
    """nan, 0.1, 12,345: as a reader writes it."""
    if isinstance(value, float):
        return f"{value:,.15g}"
    return f"{value:,}" if isinstance(value, int) and abs(value) >= 10_000 else repr(value)


def to_dict(config: Any, legacy_names: bool = False) -> dict[str, Any]:
    """A dataclass as a dictionary that JSON can write. legacy_names: as it was written at first, with the names that
    its fields had, and without those that came later and are at their defaults: a class names these as `added_fields`.
    """
    names = _older_names(type(config)) if legacy_names else {}
    fields = [
        field for field in dataclasses.fields(config) if not legacy_names or not _is_unused_addition(config, field)
    ]
    return {
        names.get(field.name, field.name): to_json_value(getattr(config, field.name), legacy_names) for field in fields
    }


def _is_unused_addition(config: Any, field: dataclasses.Field[Any]) -> bool:
    """Whether a field came later and does nothing here, so that a hash of this config is what it was before it came."""
    return field.name in getattr(config, "added_fields", ()) and getattr(config, field.name) == field.default


def _older_names(cls: Any) -> Mapping[str, str]:
    """What fields were called before, by their names of today: a class says it as `older_names`."""
    return getattr(cls, "older_names", {})


def from_dict(cls: type[C], data: Mapping[str, Any]) -> C:
    """The dataclass ``cls`` that ``to_dict`` made ``data`` from.

    Fields may stand under the names that they had before; those that are missing take their defaults. Raises LabError
    that names an unknown or missing field, or a choice that does not exist.
    """
    hints = _types(typing.cast(Any, cls))
    fields = {field.name: field for field in dataclasses.fields(typing.cast(Any, cls))}
    today = {older: name for name, older in _older_names(cls).items() if older not in fields}
    twice = [f"{name} and {today[name]}" for name in data if today.get(name) in data]
    if twice:
        raise LabError(f"{cls.__name__} has {', '.join(twice)}, which are the same setting. Remove one of them.")
    data = {today.get(name, name): value for name, value in data.items()}
    unknown = sorted(set(data) - set(fields) - {"kind"})
    if unknown:
        raise LabError(f"{cls.__name__} has no field {', '.join(unknown)}; it has {', '.join(fields)}.")
    missing = [name for name, field in fields.items() if name not in data and _required(field)]
    if missing:
        raise LabError(f"{cls.__name__} needs {', '.join(missing)}.")
    return cls(**{name: _value(f"{cls.__name__}.{name}", hints[name], data[name]) for name in fields if name in data})


def union_field_choices(cls: type) -> dict[str, dict[str, type]]:
    """The fields of a dataclass that can hold one of several dataclasses: {field: {class name: class}}; where a field
    can be None too, that is a class "None".
    """
    if not dataclasses.is_dataclass(cls):
        return {}
    hints = {name: typing.get_args(hint) for name, hint in _types(cls).items()}
    kinds = {name: {one.__name__: one for one in options if _is_config(one)} for name, options in hints.items()}
    for name, found in kinds.items():
        if type(None) in hints[name]:
            found["None"] = type(None)
    return {name: found for name, found in kinds.items() if len(found) > 1}


def required_fields(cls: type) -> list[str]:
    """The fields of a dataclass that have no default."""
    return [field.name for field in dataclasses.fields(typing.cast(Any, cls)) if _required(field)]


def unchecked_config(cls: type[C], values: Mapping[str, Any]) -> C:
    """A draft of a `cls`: these are its fields, and its `__post_init__` has not seen them, as some may still change.

    A field without a value is no attribute of it.
    """
    draft = object.__new__(cls)
    for name, value in values.items():
        object.__setattr__(draft, name, value)
    return draft


def default_draft(cls: type[C], replaced: Any = None) -> C:
    """A draft (see `unchecked_config`) of a `cls` at its own defaults, in place of `replaced`.

    Of `replaced` it takes the fields that the class names as `shared_fields`: those that mean the same in both. Where
    `replaced` itself can be the value of a field that has no default, it is: that of MoE's experts, say.
    """
    kind: Any = cls
    shared, hints = getattr(cls, "shared_fields", ()), _hints(kind)
    values: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        if field.name in shared and hasattr(replaced, field.name):
            values[field.name] = getattr(replaced, field.name)
        elif field.default is not dataclasses.MISSING:
            values[field.name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            values[field.name] = field.default_factory()
        elif dataclasses.is_dataclass(replaced) and not _unmet(hints[field.name], replaced):
            values[field.name] = replaced
        elif _is_config(hints[field.name]):
            values[field.name] = default_draft(hints[field.name])
    return unchecked_config(cls, values)


def _is_config(hint: Any) -> bool:
    return isinstance(hint, type) and dataclasses.is_dataclass(hint)


def _required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def to_json_value(value: Any, legacy_names: bool = False) -> Any:
    """A value of a field as JSON can write it; a dataclass with its class name under "kind". legacy_names: see
    `to_dict`; a class that was renamed says its first name as `older_kind`.
    """
    if dataclasses.is_dataclass(value):
        name = type(value).__name__
        return {
            "kind": vars(type(value)).get("older_kind", name) if legacy_names else name,
            **to_dict(value, legacy_names),
        }
    if isinstance(value, tuple | list):
        return [to_json_value(item, legacy_names) for item in value]
    return value


def _value(where: str, hint: Any, value: Any) -> Any:
    """``value`` as the type ``hint`` of the field ``where`` asks: dataclasses and tuples are built, the rest
    is kept.
    """
    options: tuple[Any, ...] = (hint,) if isinstance(hint, type) else typing.get_args(hint)
    if isinstance(value, Mapping):
        classes = [option for option in options if isinstance(option, type)]
        choices = {option.__name__: option for option in classes if dataclasses.is_dataclass(option)}
        older = {vars(one)["older_kind"]: one for one in choices.values() if "older_kind" in vars(one)}
        kind = value.get("kind", next(iter(choices), None) if len(choices) == 1 else None)
        if kind not in older | choices:
            raise LabError(f"{where} cannot be {kind!r}; it can be {', '.join(choices)}.")
        return from_dict((older | choices)[kind], value)
    is_tuple = any(typing.get_origin(option) is tuple for option in (hint, *options))
    return tuple(value) if isinstance(value, list) and is_tuple else value
