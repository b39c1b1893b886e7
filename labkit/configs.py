"""Frozen dataclasses to plain dictionaries, for JSON, and back.

A field whose type is a choice of dataclasses (``feed_forward: Gated | MoE``) is written with its class name
under "kind", so that it comes back as what it was: {"feed_forward": {"kind": "Gated", "hidden": 352}}.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from labkit.errors import LabError

C = TypeVar("C")


def to_dict(config: Any) -> dict[str, Any]:
    """A dataclass as a dictionary that JSON can write."""
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


def from_dict(cls: type[C], data: Mapping[str, Any]) -> C:
    """The dataclass ``cls`` that ``to_dict`` made ``data`` from.

    Fields that are missing take their defaults. Raises LabError that names an unknown or missing field, or a
    choice that does not exist.
    """
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(typing.cast(Any, cls))}
    unknown = sorted(set(data) - set(fields) - {"kind"})
    if unknown:
        raise LabError(f"{cls.__name__} has no field {', '.join(unknown)}; it has {', '.join(fields)}.")
    missing = [name for name, field in fields.items() if name not in data and _required(field)]
    if missing:
        raise LabError(f"{cls.__name__} needs {', '.join(missing)}.")
    return cls(**{name: _value(f"{cls.__name__}.{name}", hints[name], data[name]) for name in fields if name in data})


def choices(cls: type) -> dict[str, dict[str, type]]:
    """The fields of a dataclass that can hold one of several dataclasses: {field: {class name: class}}."""
    if not dataclasses.is_dataclass(cls):
        return {}
    hints = {name: typing.get_args(hint) for name, hint in typing.get_type_hints(cls).items()}
    kinds = {name: [one for one in options if _is_config(one)] for name, options in hints.items()}
    return {name: {one.__name__: one for one in found} for name, found in kinds.items() if len(found) > 1}


def another(cls: type[C], current: Any) -> C:
    """A `cls` in place of `current`, with the values of the fields that both have; a field without a default takes
    `current` itself.
    """
    if type(current) is cls:
        return current
    fields = dataclasses.fields(typing.cast(Any, cls))
    shared = {field.name: getattr(current, field.name) for field in fields if hasattr(current, field.name)}
    needed = {field.name: current for field in fields if _required(field) and field.name not in shared}
    return cls(**shared | needed)


def _is_config(hint: Any) -> bool:
    return isinstance(hint, type) and dataclasses.is_dataclass(hint)


def _required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {"kind": type(value).__name__, **to_dict(value)}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


def _value(where: str, hint: Any, value: Any) -> Any:
    """``value`` as the type ``hint`` of the field ``where`` asks: dataclasses and tuples are built, the rest
    is kept.
    """
    options: tuple[Any, ...] = (hint,) if isinstance(hint, type) else typing.get_args(hint)
    if isinstance(value, Mapping):
        classes = [option for option in options if isinstance(option, type)]
        choices = {option.__name__: option for option in classes if dataclasses.is_dataclass(option)}
        kind = value.get("kind", next(iter(choices), None) if len(choices) == 1 else None)
        if kind not in choices:
            raise LabError(f"{where} cannot be {kind!r}; it can be {', '.join(choices)}.")
        return from_dict(choices[kind], value)
    is_tuple = any(typing.get_origin(option) is tuple for option in (hint, *options))
    return tuple(value) if isinstance(value, list) and is_tuple else value
