"""What can happen and what it changes, by worked examples."""

import pytest

from labkit.world.events import (
    Event,
    WorldState,
    apply_event,
    kinds_in_size,
    parse_condition,
    parse_effect,
    unmet_precondition,
)

KINDS = kinds_in_size("full")


def played(*events: Event) -> WorldState:
    """The state after these events, each of which could happen."""
    state = WorldState({})
    for event in events:
        assert unmet_precondition(KINDS[event.kind], event, state) is None
        apply_event(KINDS[event.kind], event, state)
    return state


START = (Event("be_at", ("Anna", "park")), Event("own", ("Anna", "red", "ball")), Event("be_at", ("Tom", "zoo")))


def test_giving_needs_the_thing_and_the_same_place():
    give = Event("give", ("Anna", "ball", "Tom"))
    apart = played(*START)
    assert (
        unmet_precondition(KINDS["give"], give, apart) == "'give' needs place(who) = place(whom), for Anna, ball, Tom"
    )
    together = played(*START, Event("go", ("Anna", "zoo")))
    assert unmet_precondition(KINDS["give"], give, together) is None
    assert "holder(what) = who" in (
        unmet_precondition(KINDS["give"], Event("give", ("Tom", "ball", "Anna")), together) or ""
    )


def test_giving_moves_the_thing_and_makes_happy_because_of_it():
    give = Event("give", ("Anna", "ball", "Tom"))
    state = played(*START, Event("go", ("Anna", "zoo")), give)
    assert state.get(("holder", "ball")) == "Tom"
    assert (state.get(("feels", "Tom")), state.get(("cause", "Tom"))) == ("happy", give)


def test_what_was_never_said_is_not_so():
    assert unmet_precondition(KINDS["lose"], Event("lose", ("Anna", "ball")), WorldState({})) is not None
    assert unmet_precondition(KINDS["go"], Event("go", ("Anna", "park")), WorldState({})) is not None


def test_two_unknown_places_are_not_the_same_place():
    state = WorldState({}, {("holder", "ball"): "Anna"})
    assert unmet_precondition(KINDS["give"], Event("give", ("Anna", "ball", "Tom")), state) is not None


def test_nobody_gives_to_themselves():
    assert unmet_precondition(KINDS["give"], Event("give", ("Anna", "ball", "Anna")), WorldState({})) is not None


def test_a_feeling_needs_its_very_cause():
    lost = Event("lose", ("Anna", "ball"))
    state = played(*START, lost)
    because = KINDS["feel_because"]
    assert unmet_precondition(because, Event("feel_because", ("Anna", "sad", lost)), state) is None
    assert unmet_precondition(because, Event("feel_because", ("Anna", "sad", Event("break", ("Anna", "ball")))), state)
    assert unmet_precondition(because, Event("feel_because", ("Anna", "happy", lost)), state)


def test_the_language_of_needs():
    state = WorldState({("breaks", "cup"): "yes"}, {("holder", "cup"): "Anna"})
    for text, true in (
        ("holder(x) = y", True),
        ("holder(x) != y", False),
        ("breaks(x) = yes", True),
        ("lost(x) = no", True),
        ("lost(x) = nil", True),
        ("lost(x) = yes", False),
    ):
        assert parse_condition(text, ["x", "y"]).holds(state, ("cup", "Anna")) is true, text
    parse_effect("holder(x) = nil", ["x"]).apply(state, ("cup",))
    assert state.get(("holder", "cup")) is None


def test_an_effect_without_a_fluent_is_refused():
    with pytest.raises(ValueError, match="needs a fluent"):
        parse_effect("x = y", ["x", "y"])
