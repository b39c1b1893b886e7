"""What can happen and what it changes, by worked examples."""

import pytest

from labkit.world.events import Event, State, condition, effect, happen, kinds_of, why_not

KINDS = kinds_of("full")


def played(*events: Event) -> State:
    """The state after these events, each of which could happen."""
    state = State({})
    for event in events:
        assert why_not(KINDS[event.kind], event, state) is None
        happen(KINDS[event.kind], event, state)
    return state


START = (Event("be_at", ("Anna", "park")), Event("own", ("Anna", "red", "ball")), Event("be_at", ("Tom", "zoo")))


def test_giving_needs_the_thing_and_the_same_place():
    give = Event("give", ("Anna", "ball", "Tom"))
    apart = played(*START)
    assert why_not(KINDS["give"], give, apart) == "'give' needs place(who) = place(whom), for Anna, ball, Tom"
    together = played(*START, Event("go", ("Anna", "zoo")))
    assert why_not(KINDS["give"], give, together) is None
    assert "holder(what) = who" in (why_not(KINDS["give"], Event("give", ("Tom", "ball", "Anna")), together) or "")


def test_giving_moves_the_thing_and_makes_happy_because_of_it():
    give = Event("give", ("Anna", "ball", "Tom"))
    state = played(*START, Event("go", ("Anna", "zoo")), give)
    assert state.get(("holder", "ball")) == "Tom"
    assert (state.get(("feels", "Tom")), state.get(("cause", "Tom"))) == ("happy", give)


def test_what_was_never_said_is_not_so():
    assert why_not(KINDS["lose"], Event("lose", ("Anna", "ball")), State({})) is not None
    assert why_not(KINDS["go"], Event("go", ("Anna", "park")), State({})) is not None


def test_two_unknown_places_are_not_the_same_place():
    state = State({}, {("holder", "ball"): "Anna"})
    assert why_not(KINDS["give"], Event("give", ("Anna", "ball", "Tom")), state) is not None


def test_nobody_gives_to_themselves():
    assert why_not(KINDS["give"], Event("give", ("Anna", "ball", "Anna")), State({})) is not None


def test_a_feeling_needs_its_very_cause():
    lost = Event("lose", ("Anna", "ball"))
    state = played(*START, lost)
    because = KINDS["feel_because"]
    assert why_not(because, Event("feel_because", ("Anna", "sad", lost)), state) is None
    assert why_not(because, Event("feel_because", ("Anna", "sad", Event("break", ("Anna", "ball")))), state)
    assert why_not(because, Event("feel_because", ("Anna", "happy", lost)), state)


def test_the_language_of_needs():
    state = State({("breaks", "cup"): "yes"}, {("holder", "cup"): "Anna"})
    for text, true in (
        ("holder(x) = y", True),
        ("holder(x) != y", False),
        ("breaks(x) = yes", True),
        ("lost(x) = no", True),
        ("lost(x) = nil", True),
        ("lost(x) = yes", False),
    ):
        assert condition(text, ["x", "y"]).holds(state, ("cup", "Anna")) is true, text
    effect("holder(x) = nil", ["x"]).apply(state, ("cup",))
    assert state.get(("holder", "cup")) is None


def test_an_effect_without_a_fluent_is_refused():
    with pytest.raises(ValueError, match="needs a fluent"):
        effect("x = y", ["x", "y"])
