"""Checks a story that anyone wrote, a model say: which sentences parse, and which of their events can happen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from labkit.world.events import Event, EventKind, WorldState, apply_event, unmet_precondition
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


class StorySentence(NamedTuple):
    """A sentence of a story. event: what it states, None where it does not parse. problem: what is wrong with it, empty
    where it states an event that can happen in the state that the story has reached.
    """

    text: str
    event: Event | None
    problem: str


def read_story(text: str, grammar: Grammar, kinds: dict[str, EventKind], lexicon: Lexicon) -> Iterator[StorySentence]:
    """A story sentence by sentence, each in the state that those before it have reached.

    An event is possible when its kind's needs hold then. One that is not is taken at its word: the story goes on from
    what it says. Facts about the world count as events that the lexicon allows or not. A sentence that does not parse
    is no event.
    """
    state, referents = WorldState(lexicon.facts), PronounReferents()
    for line in split_sentences(text):
        reading = grammar.parse(line, referents)
        if reading is None:
            yield StorySentence(line, None, f"not a TinyWorld sentence: {line}")
            continue
        kind = kinds[reading.event.kind]
        reason = unmet_precondition(kind, reading.event, state)
        apply_event(kind, reading.event, state)
        yield StorySentence(line, reading.event, f"not possible: {line} ({reason})" if reason is not None else "")


def check_story(text: str, grammar: Grammar, kinds: dict[str, EventKind], lexicon: Lexicon) -> StoryCheck:
    """How many sentences of a story parse, and how many of their events can happen: see `read_story`."""
    read = list(read_story(text, grammar, kinds, lexicon))
    parsed = sum(one.event is not None for one in read)
    problems = tuple(one.problem for one in read if one.problem)
    return StoryCheck(len(read), parsed, parsed, sum(not one.problem for one in read), problems)
