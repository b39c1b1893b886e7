"""Checks a story that anyone wrote, a model say: which sentences parse, and which of their events can happen."""

from __future__ import annotations

from typing import NamedTuple

from labkit.world.events import EventKind, WorldState, apply_event, unmet_precondition
from labkit.world.grammar import Grammar, PronounReferents, split_sentences
from labkit.world.lexicon import Lexicon


class StoryCheck(NamedTuple):
    """grammatical = parsed / sentences, consistent = possible / events; `problems` says what was wrong, sentence by
    sentence."""

    sentences: int
    parsed: int
    events: int
    possible: int
    problems: tuple[str, ...]


def check_story(text: str, grammar: Grammar, kinds: dict[str, EventKind], lexicon: Lexicon) -> StoryCheck:
    """Read a story sentence by sentence in the state that it has reached.

    An event is possible when its kind's needs hold then. One that is not is counted, once, and taken at its word: the
    story goes on from what it says. Facts about the world count as events that the lexicon allows or not. A sentence
    that does not parse is no event.
    """
    state, referents = WorldState(lexicon.facts), PronounReferents()
    parsed = possible = 0
    problems: list[str] = []
    lines = split_sentences(text)
    for line in lines:
        reading = grammar.parse(line, referents)
        if reading is None:
            problems.append(f"not a TinyWorld sentence: {line}")
            continue
        parsed += 1
        kind = kinds[reading.event.kind]
        reason = unmet_precondition(kind, reading.event, state)
        apply_event(kind, reading.event, state)
        if reason is None:
            possible += 1
        else:
            problems.append(f"not possible: {line} ({reason})")
    return StoryCheck(len(lines), parsed, parsed, possible, tuple(problems))
