"""Events, the kinds they come in, and the state they change: what can happen, and what is so afterwards.

An event is a kind and its arguments, `Event("give", ("Anna", "ball", "Tom"))`. Its kind says what must hold before (its
preconditions, `needs`) and what holds after (its effects, `makes`), in the small language of data/world/events.yaml: a
fluent of some roles, equal to a role, to another fluent or to a constant: `place(who) = place(whom)`, `lost(what) =
yes`, `holder(what) = nil`.

The world is closed: what was not said is not so, hence nobody can give a thing that no sentence put in their hands.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Literal, NamedTuple

from labkit.world.lexicon import Fact, load_yaml

SIZES = ("tiny", "lab", "full")


class Event(NamedTuple):
    """Something that happens or is said to be so. An argument is a word, or an event that is a cause."""

    kind: str
    args: tuple[Any, ...]


class EventKind(NamedTuple):
    """A kind of event or statement, as the YAML files describe it."""

    name: str
    size: str
    group: Literal["scene", "pattern", "event", "story", "world"]
    roles: dict[str, str]
    preconditions: tuple[Condition, ...]
    effects: tuple[Effect, ...]
    feels: tuple[tuple[int, str], ...]
    forms: tuple[str, ...]
    ask: dict[str, tuple[str, ...]]

    @property
    def is_happening(self) -> bool:
        """Whether it is a happening: not a scene, a pattern, a feeling or a statement."""
        return self.group == "event" and not self.name.startswith("feel")


class WorldState:
    """What is so: fluent and arguments -> value, over the lexicon's lasting facts."""

    __slots__ = ("changing", "lasting")

    def __init__(self, lasting: Mapping[Fact, str], changing: dict[tuple[Any, ...], Any] | None = None) -> None:
        self.lasting = lasting
        self.changing = dict(changing or {})

    def get(self, key: tuple[Any, ...]) -> Any:
        """The value of a fluent, None when nothing is known."""
        value = self.changing.get(key)
        return self.lasting.get(key) if value is None else value


TermEvaluator = Callable[[WorldState, tuple[Any, ...]], Any]
FLUENT = re.compile(r"(\w+)\(([\w, ]*)\)$")


class Condition(NamedTuple):
    """`left = right`, `left != right`, or `left = one or other`; `text` is how the YAML writes it."""

    text: str
    left: TermEvaluator
    equal: bool
    allowed_values: tuple[TermEvaluator, ...]

    def holds(self, state: WorldState, args: tuple[Any, ...]) -> bool:
        """Two unknowns are not equal, but unknown is the same as nil and as no."""
        left = self.left(state, args)
        return any(left == right(state, args) for right in self.allowed_values) is self.equal


class Effect(NamedTuple):
    """`fluent(args) = value`, made so."""

    fluent: str
    arg_indices: tuple[int, ...]
    value: TermEvaluator

    def apply(self, state: WorldState, args: tuple[Any, ...]) -> None:
        """Make it so; nil makes it unknown."""
        value = self.value(state, args)
        key = (self.fluent, *(args[i] for i in self.arg_indices))
        if value == "nil":
            state.changing.pop(key, None)
        else:
            state.changing[key] = value


def compile_term(text: str, roles: list[str], value_if_unset: str) -> TermEvaluator:
    """A role, a fluent of roles, or a constant -> how to look it up. A fluent that is not set reads as
    `value_if_unset`.
    """
    fluent = FLUENT.match(text)
    if fluent:
        name, where = fluent[1], tuple(roles.index(r) for r in fluent[2].replace(" ", "").split(",") if r)

        def look_up(state: WorldState, args: tuple[Any, ...]) -> Any:
            value = state.get((name, *(args[i] for i in where)))
            return value_if_unset if value is None else value

        return look_up
    if text in roles:
        index = roles.index(text)
        return lambda state, args: args[index]
    return lambda state, args: text


def parse_condition(text: str, roles: list[str]) -> Condition:
    """'holder(what) = who' -> Condition."""
    left, sign, right = text.partition(" != " if "!=" in text else " = ")
    values = right.split(" or ")
    unknown = values[0] if values[0] in ("nil", "no") else "nil"
    rights = tuple(compile_term(value, roles, "unknown" if FLUENT.match(value) else unknown) for value in values)
    return Condition(text, compile_term(left, roles, unknown), "!" not in sign, rights)


def parse_effect(text: str, roles: list[str]) -> Effect:
    """'holder(what) = whom' -> Effect."""
    left, _, right = text.partition(" = ")
    fluent = FLUENT.match(left)
    if fluent is None:
        raise ValueError(f"an effect needs a fluent on its left: {text!r}")
    where = tuple(roles.index(r) for r in fluent[2].replace(" ", "").split(",") if r)
    return Effect(fluent[1], where, compile_term(right, roles, "nil"))


def parse_kind(name: str, raw: dict[str, Any]) -> EventKind:
    """One entry of events.yaml or statements.yaml -> EventKind."""
    roles = list(raw["roles"])
    return EventKind(
        name,
        raw.get("size", "tiny"),
        raw.get("of") or ("pattern" if raw.get("pattern") else "scene" if raw.get("scene") else "event"),
        raw["roles"],
        tuple(parse_condition(text, roles) for text in raw.get("needs", ())),
        tuple(parse_effect(text, roles) for text in raw.get("makes", ())),
        tuple((roles.index(role), feeling) for role, feeling in raw.get("feels", {}).items()),
        tuple(raw["forms"]),
        {role: tuple(questions) for role, questions in raw.get("ask", {}).items()},
    )


@cache
def all_kinds() -> dict[str, EventKind]:
    """Every kind of events.yaml and statements.yaml, by name."""
    raw = {**load_yaml("events"), **load_yaml("statements")}
    return {name: parse_kind(name, entry) for name, entry in raw.items()}


def kinds_in_size(size: str) -> dict[str, EventKind]:
    """The kinds that a world of this size has."""
    sizes = SIZES[: SIZES.index(size) + 1]
    return {name: kind for name, kind in all_kinds().items() if kind.size in sizes}


def unmet_precondition(kind: EventKind, event: Event, state: WorldState) -> str | None:
    """None when the event can happen now (or the statement holds), else the first reason why not."""
    types = list(kind.roles.values())
    for i, value in enumerate(event.args):
        if types[i] != "number" and any(value == event.args[j] and types[j] == types[i] for j in range(i)):
            return f"{value} cannot be both {list(kind.roles)[i]} and another in '{event.kind}'"
    for need in kind.preconditions:
        if not need.holds(state, event.args):
            return f"'{event.kind}' needs {need.text}, for {', '.join(map(str, event.args))}"
    return None


def apply_event(kind: EventKind, event: Event, state: WorldState) -> None:
    """Change the state as the event does; the feelings it causes remember it."""
    for made in kind.effects:
        made.apply(state, event.args)
    for index, feeling in kind.feels:
        state.changing[("feels", event.args[index])] = feeling
        state.changing[("cause", event.args[index])] = event
