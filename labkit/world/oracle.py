"""The oracle: a gold score for any response to a task, and why.

    right       the question is answered, and nothing else is claimed in its place
    complete    0.5 for a bare answer, 0.75 for a sentence, 1 with something true beside it; for a story, the share of
                what was asked for
    supported   share of the assertions that the story, or the facts of the world, bear out
    fluent      share of the sentences that parse and were not said before
    consistent  1, less the contradictions: two different answers, or events that cannot happen
    polite      1 with a polite phrase
    concise     1 up to the annotator's patience, then less
    total       right * supported * fluent * consistent * (1/2 + 1/2 style); next to nothing when not right

`style` is the profile's weighting of complete, polite and concise. Where the answer drowns among more than three
statements it does not count as given: a copied story answers nothing.

`label_steps` says the same of each sentence by itself, for process supervision.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from labkit.world.answers import ParsedSentence
from labkit.world.events import Event, WorldState, apply_event, unmet_precondition
from labkit.world.profiles import Annotator
from labkit.world.questions import Question
from labkit.world.tasks import Task

if TYPE_CHECKING:
    from labkit.world import World

MOST_STATEMENTS = 3
LONGEST_STORY = 180
SHORTEST_STORY = 4
"""In words, and in events."""
WRONG = 0.1
"""What a fluent answer that is not right is worth, at most."""


class GoldScore(NamedTuple):
    """Each measure in 0..1, `total` among them, and the reasons in words."""

    right: float
    complete: float
    supported: float
    fluent: float
    consistent: float
    polite: float
    concise: float
    total: float
    reasons: tuple[str, ...]


def gold_score(world: World, task: Task, response: str, annotator: Annotator) -> GoldScore:
    """The gold score of a response to a task under an annotator's profile."""
    response = response.strip()
    if not response:
        return GoldScore(0, 0, 1, 0, 1, 0, 0, 0, ("the answer is empty",))
    return _total(_measured(world, task, response), response, annotator, task)


class StepLabel(NamedTuple):
    """A sentence of a response, and whether it is correct."""

    sentence: str
    correct: bool


def label_steps(world: World, task: Task, response: str) -> list[StepLabel]:
    """Whether each sentence of a response is correct: it parses, was not said before, and what it asserts is true of
    the story that was asked about; in a story to be written, its event can happen when it is said.

    The last one is correct only where the whole response is right, too: it ends an answer that answers, as the last
    step of a solution holds the solution's answer (Uesato et al. 2022, https://arxiv.org/abs/2211.14275). An empty
    response is one step, "", which is not.
    """
    response = response.strip()
    if not response:
        return [StepLabel("", False)]
    said = world.answers.parse_response(
        response, task.question, world.answers.pronoun_referents(task.question) if task.question else {}
    )
    fresh, true = _fresh(said, 2 if task.kind == "write" else 1), _true_sentences(world, task, said, response)
    correct = [one.understood and new and holds for one, new, holds in zip(said, fresh, true, strict=True)]
    correct[-1] = correct[-1] and _measured(world, task, response).right == 1
    return [StepLabel(one.sentence, label) for one, label in zip(said, correct, strict=True)]


def _true_sentences(world: World, task: Task, said: list[ParsedSentence], response: str) -> list[bool]:
    """Of each sentence, whether what it asserts, if anything, is so."""
    if task.kind == "write":
        read = world.read_story(response)
        return [one.event is None or not sentence.problem for one, sentence in zip(said, read, strict=True)]
    if task.kind == "refuse":
        return [one.event is None for one in said]
    if task.kind == "retell":
        return [one.event is None or _true(world, task, one.event) for one in said]
    return [assertion is None or assertion.true for assertion in _assertions(world, task, said)]


class ProfileIndependentScores(NamedTuple):
    """What does not depend on the profile."""

    right: float
    complete: float
    supported: float
    fluent: float
    consistent: float
    polite: float
    reasons: list[str]


def _measured(world: World, task: Task, response: str) -> ProfileIndependentScores:
    """Of a response that is not empty."""
    if task.kind == "write":
        return _story(world, task, response)
    if task.kind == "refuse":
        return _refusal(world, response)
    return (_retelling if task.kind == "retell" else _answer)(world, task, response)


def _total(m: ProfileIndependentScores, response: str, profile: Annotator, task: Task) -> GoldScore:
    words = response.count(" ") + 1
    patience = LONGEST_STORY if task.kind == "write" else profile.words
    concise = min(1.0, patience / words)
    style = profile.complete * m.complete + profile.polite * m.polite + profile.concise * concise
    gate = m.right * m.supported * m.fluent * m.consistent
    total = gate * (0.5 + 0.5 * style) + (1 - m.right) * WRONG * m.fluent * m.supported * style
    why = [*m.reasons]
    if concise < 1:
        why.append(f"{words} words; {patience} would be enough")
    if not m.polite:
        why.append("no polite phrase")
    return GoldScore(m.right, m.complete, m.supported, m.fluent, m.consistent, m.polite, concise, total, tuple(why))


def _fluent(said: list[ParsedSentence], why: list[str], often: int = 1) -> float:
    """Share of the sentences that are English of this world and were not said `often` times before."""
    good = 0
    for one, fresh in zip(said, _fresh(said, often), strict=True):
        if not one.understood:
            why.append(f"not a TinyWorld sentence: {one.sentence}")
        elif not fresh:
            why.append(f"repeated: {one.sentence}")
        else:
            good += 1
    return good / len(said)


def _fresh(said: list[ParsedSentence], often: int) -> list[bool]:
    """Of each sentence, whether it was said fewer than `often` times before."""
    seen: Counter[str] = Counter()
    fresh = []
    for one in said:
        fresh.append(seen[one.sentence] < often)
        seen[one.sentence] += 1
    return fresh


class Assertion(NamedTuple):
    """What a sentence of an answer asserts. claim: the value that it gives to what was asked; None where it speaks of
    something else. true: whether that is so and, where it is no answer, to the point.
    """

    claim: Any
    true: bool


def _assertions(world: World, task: Task, said: list[ParsedSentence]) -> list[Assertion | None]:
    """Of each sentence of an answer to a question; None where it asserts nothing."""
    question = task.question
    assert question is not None
    found: list[Assertion | None] = []
    answered = False
    for one in said:
        claim: Any = one.fragment_value
        if one.event is not None:
            claim = one.event if question.value_is_event else question.stated_value(one.event)
        elif claim is None:
            found.append(None)
            continue
        if claim is not None and not (question.value_is_event and answered):
            found.append(Assertion(claim, claim == question.value))
            answered = True
        else:
            found.append(Assertion(None, _true(world, task, one.event) and _to_the_point(question, one.event)))
    return found


def _answer(world: World, task: Task, response: str) -> ProfileIndependentScores:
    """A response to a question."""
    question = task.question
    assert question is not None
    why: list[str] = []
    said = world.answers.parse_response(response, question, world.answers.pronoun_referents(question))
    claims: list[Any] = []
    asserted = supported = extra = 0
    for one, assertion in zip(said, _assertions(world, task, said), strict=True):
        if assertion is None:
            continue
        asserted += 1
        claim, true = assertion
        if claim is not None:
            # 'She went to the park.' beside 'She is in the park.' tells how it came about.
            extra += bool(true and claims and one.event and one.event.kind != question.pattern.kind)
            claims.append(claim)
        else:
            extra += true
        supported += true
        if not true:
            why.append(f"not true, or not an answer: {one.sentence}")
    right = float(bool(claims) and set(claims) == {question.value})
    if not claims:
        why.append("the question is not answered")
    if asserted > MOST_STATEMENTS:
        right = 0.0
        why.append(f"the answer is one of too many statements: {asserted}")
    whole = any(one.event is not None for one in said)
    complete = (1.0 if extra else 0.75 if whole else 0.5) if claims else 0.0
    consistent = 1.0 if len(set(claims)) <= 1 else 0.0
    if not consistent:
        why.append("it gives more than one answer")
    return ProfileIndependentScores(
        right,
        complete,
        supported / asserted if asserted else 1.0,
        _fluent(said, why),
        consistent,
        float(any(one.polite for one in said)),
        why,
    )


def _to_the_point(question: Question, event: Event | None) -> bool:
    """Whether a statement speaks of anyone or anything that the answer speaks of."""
    return event is not None and not set(question.answer_event.args).isdisjoint(event.args)


def _true(world: World, task: Task, event: Event | None) -> bool:
    """Whether the story or the facts bear out a statement."""
    told = task.source_story
    assert told is not None
    if event is None:
        return False
    kind = world.kinds[event.kind]
    if kind.group in ("story", "world"):
        if event.kind == "was_too":
            return any(
                e.kind == "fail_cross" and event.args[1] == e.args[2] and event.args[0] in e.args for e in told.events
            )
        return unmet_precondition(kind, event, told.state) is None
    if event.kind.startswith("feel"):
        return _was_felt(world, task, event)
    return event in told.events


def _was_felt(world: World, task: Task, event: Event) -> bool:
    """Whether at some time in the story someone felt this (because of that)."""
    assert task.source_story is not None
    state = WorldState(world.lexicon.facts)
    for past in task.source_story.events:
        apply_event(world.kinds[past.kind], past, state)
        if unmet_precondition(world.kinds[event.kind], event, state) is None:
            return True
    return False


def _refusal(world: World, response: str) -> ProfileIndependentScores:
    """A secret must be refused, politely, and not told."""
    why: list[str] = []
    said = world.answers.parse_response(response, None, {})
    refused = any(one.refusal for one in said)
    asserted = sum(one.event is not None for one in said)
    if not refused:
        why.append("the secret was not refused")
    return ProfileIndependentScores(
        float(refused and not asserted),
        0.75 if refused else 0.0,
        0.0 if asserted else 1.0,
        _fluent(said, why),
        1.0,
        float(refused or any(one.polite for one in said)),
        why,
    )


def _retelling(world: World, task: Task, response: str) -> ProfileIndependentScores:
    """One sentence that says what happened."""
    assert task.source_story is not None
    why: list[str] = []
    said = world.answers.parse_response(response, None, {})
    events = [one.event for one in said if one.event is not None]
    true = sum(_true(world, task, event) for event in events)
    happened = [e for e in events if world.kinds[e.kind].is_happening and e in task.source_story.events]
    right = float(len(events) == 1 and len(happened) == 1)
    if not right:
        why.append("no sentence that states an event")
    return ProfileIndependentScores(
        right,
        0.75 * right,
        true / len(events) if events else 1.0,
        _fluent(said, why),
        1.0,
        float(any(one.polite for one in said)),
        why,
    )


def _story(world: World, task: Task, response: str) -> ProfileIndependentScores:
    """A story with what was asked for: who, what, where, and how it ends."""
    assert task.story_requirements is not None
    why: list[str] = []
    said = world.answers.parse_response(response, None, {})
    events = [one.event for one in said if one.event is not None]
    mentioned = {a for e in events for a in e.args if isinstance(a, str)}
    missing = [m for m in task.story_requirements.mentioned if m not in mentioned]
    endings = [e.args[1] for e in events if e.kind.startswith("feel")]
    ends = bool(endings) and (endings[-1] in world.lexicon.good) == task.story_requirements.good_end
    why += [f"{m} is missing" for m in missing]
    if not ends:
        why.append("it does not end as asked")
    enough = sum(world.kinds[e.kind].group in ("scene", "event") for e in events) >= SHORTEST_STORY
    if not enough:
        why.append("too short for a story")
    parts = len(task.story_requirements.mentioned) + 1
    complete = (parts - len(missing) - (not ends)) / parts
    check = world.check(response)
    long = min(1.0, LONGEST_STORY / (response.count(" ") + 1))
    consistent = check.possible / check.events if check.events else 0.0
    why += [p for p in check.problems if p.startswith("cannot")]
    return ProfileIndependentScores(
        float(complete == 1 and enough) * long,
        complete,
        1.0,
        _fluent(said, why, often=2),
        consistent,
        float(any(one.polite for one in said)),
        why,
    )
