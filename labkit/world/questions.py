"""Questions about a story and what answers them.

A question is an event with an asked role: Event("lose", ("Anna", None)) asks what Anna lost. Whatever sentence fills
that role makes a claim, and the claim is right when it is the value that the story has there. Questions are found, not
written: every event and every part of the last state that only one answer fits is a question (data/world gives the
words).
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from labkit.world.events import Event, EventKind
from labkit.world.plots import Story

FRAGMENT_MODES = {"place": "in", "meant": "", "number": "", "origin": "", "young": "a"}
"""The mode in which a bare answer of a type is written: 'In the park.' 'A puppy.'"""
ASKED_BY_ROLE = {
    "who": "who",
    "where": "where",
    "number": "how_many",
    "cause": "why",
    "colour": "colour",
    "feeling": "feel",
    "meant": "it",
}
RARE = ("how_many", "it")
"""What only some stories can be asked."""
ALSO = {
    "is_at": (("be_at", (0, 1)), ("appear", (0, 1)), ("go", (0, 1)), ("arrive", (0, 1))),
    "is_feeling": (("feel", (0, 1)), ("feel_because", (0, 1, None))),
}
"""Other kinds that answer a statement's question, and which of their arguments are which of the statement's."""


class Question(NamedTuple):
    """What is asked. `pattern` has None where the answer goes, at index `asked_role` of its arguments;
    `alternative_patterns` are other patterns that answer it.
    """

    question_type: str
    pattern: Event
    asked_role: int
    value: Any
    alternative_patterns: tuple[Event, ...]
    value_is_event: bool = False

    @property
    def answer_event(self) -> Event:
        """The statement that answers the question."""
        return self.value if self.value_is_event else fill_pattern(self.pattern, self.asked_role, self.value)

    def stated_value(self, event: Event) -> Any:
        """What an event says in the place that is asked for, None when it does not speak to the question."""
        for pattern in (self.pattern, *self.alternative_patterns):
            if event.kind == pattern.kind:
                asked_role = pattern.args.index(None)
                if all(p in (None, Ellipsis) or p == a for p, a in zip(pattern.args, event.args, strict=True)):
                    return event.args[asked_role]
        return None


def fill_pattern(pattern: Event, asked_role: int, value: Any) -> Event:
    """A pattern with `value` as the argument `asked_role`."""
    return Event(pattern.kind, tuple(value if i == asked_role else a for i, a in enumerate(pattern.args)))


def make_question(kind: EventKind, role: str, event: Event) -> Question:
    """The question that leaves out one role of an event or statement."""
    asked_role = list(kind.roles).index(role)
    also = []
    for other, order in ALSO.get(kind.name, ()):
        args = [Ellipsis if i is None else None if i == asked_role else event.args[i] for i in order]
        also.append(Event(other, tuple(args)))
    asks = {"define": "code", "turn_into": "rule"}.get(kind.name) or ASKED_BY_ROLE.get(role, "what")
    if kind.group == "world":
        asks = "fact"
    return Question(asks, fill_pattern(event, asked_role, None), asked_role, event.args[asked_role], tuple(also))


def final_state_statements(story: Story) -> Iterator[Event]:
    """What the story's end says: who is where, has what, feels what; which colour a thing has.

    A feeling is asked for only if the story said it and nothing changed it since.
    """
    for (fluent, *about), value in story.state.changing.items():
        subject = about[0] if about else ""
        if fluent == "place" and any(
            e.kind in ("be_at", "appear", "go", "arrive") and e.args[0] == subject for e in story.events
        ):
            yield Event("is_at", (subject, value))
        elif fluent == "holder" and value != "nobody" and story.state.get(("colour", subject)):
            yield Event("has", (value, subject))
        elif fluent == "colour":
            yield Event("is_colour", (subject, value))
        elif fluent == "feels" and story.told_feelings.get(subject, ("",))[0] == value:
            yield Event("is_feeling", (subject, value))


def resolve_winograd_pronoun(fail_cross_event: Event, tiredness_reasons: Iterable[str]) -> Event:
    """'The dog did not cross the bridge because it was too tired' -> was_too(dog, tired): the reason tells whom "it"
    means, as in a Winograd schema (Levesque et al. 2012).
    """
    animal, obstacle, reason = fail_cross_event.args
    return Event("was_too", (animal if reason in tiredness_reasons else obstacle, reason))


def questions_about_story(
    story: Story, kinds: dict[str, EventKind], tiredness_reasons: frozenset[str]
) -> list[Question]:
    """Every question about a story that has one answer."""
    found: dict[tuple[Event, int], set[Any]] = {}
    asked: list[tuple[EventKind, str, Event]] = []
    events = [*story.events, *final_state_statements(story)]
    events += [resolve_winograd_pronoun(e, tiredness_reasons) for e in story.events if e.kind == "fail_cross"]
    for event in dict.fromkeys(events):
        kind = kinds[event.kind]
        for role in kind.ask:
            asked_role = list(kind.roles).index(role)
            found.setdefault((fill_pattern(event, asked_role, None), asked_role), set()).add(event.args[asked_role])
            asked.append((kind, role, event))
    questions = [make_question(*one) for one in asked]
    questions = [q for q in questions if len(found[q.pattern, q.asked_role]) == 1 and q.question_type != "rule"]
    return questions + what_happened_first_questions(story, kinds)


def what_happened_first_questions(story: Story, kinds: dict[str, EventKind]) -> list[Question]:
    """'What happened first?': the whole event is the answer."""
    happened = [e for e in story.events if kinds[e.kind].is_happening]
    if len(happened) < 2:
        return []
    return [Question("first", Event("first", (None,)), 0, happened[0], (), value_is_event=True)]


def interleave_by_question_type(questions: list[Question], rng: random.Random) -> list[Question]:
    """The questions in an order in which each question type comes about equally often and early; those that few
    stories allow come first, for a row has room for some only."""
    by: dict[str, list[Question]] = {}
    for question in questions:
        by.setdefault(question.question_type, []).append(question)
    for group in by.values():
        rng.shuffle(group)
    out: list[Question] = []
    groups = list(by.values())
    while groups:
        rng.shuffle(groups)
        groups.sort(key=lambda group: group[0].question_type not in RARE)
        out += [group.pop() for group in groups]
        groups = [group for group in groups if group]
    return out
