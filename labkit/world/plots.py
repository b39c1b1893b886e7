"""Stories: a plot is cast, played through the simulator, and written down.

A plot (data/world/plots.yaml) is a list of steps. Each is tried in the state that the story has reached: what cannot
happen is passed over, so every story is consistent by construction, whatever chance left out.
"""

from __future__ import annotations

import random
from functools import cache
from typing import NamedTuple

from labkit.world.events import SIZES, Event, EventKind, WorldState, apply_event, unmet_precondition
from labkit.world.grammar import Grammar, PronounReferents
from labkit.world.lexicon import Lexicon, WorldSize, load_yaml
from labkit.world.splits import OBJECTS, WordPairSplits

PLAIN_CONNECTIVES = ("Then", "After that,", "Soon", "Later,")
CASTING = {kind: order for order, kind in enumerate(("person", *OBJECTS, "place"))}
"""Who and what the split speaks of, in the order in which a plot is cast; details come last."""
BECAUSE = 0.5
"""How often a feeling is told with its cause."""
SHORTEST, LONGEST = 40, 180
"""A story's length, in words."""


class PlotStep(NamedTuple):
    """One step of a plot: a kind and which of the cast plays which role, in the kind's order."""

    kind: str
    cast: tuple[str, ...]
    optional: bool


class StoryPlot(NamedTuple):
    """A plot as data/world/plots.yaml has it."""

    name: str
    size: str
    cast: dict[str, str]
    steps: tuple[PlotStep, ...]


class Story(NamedTuple):
    """A story and all that is known about it. `told_feelings` is what each was last said to feel, and its cause."""

    plot: str
    text: str
    events: tuple[Event, ...]
    state: WorldState
    told_feelings: dict[str, tuple[str, Event]]


def parse_step(text: str) -> PlotStep:
    """'[go a q]' -> PlotStep('go', ('a', 'q'), True)."""
    kind, *cast = text.strip("[]").split()
    return PlotStep(kind, tuple(cast), text.startswith("["))


@cache
def plots_in_size(size: str) -> tuple[StoryPlot, ...]:
    """The plots that a world of this size has."""
    sizes = SIZES[: SIZES.index(size) + 1]
    return tuple(
        StoryPlot(name, raw["size"], raw["cast"], tuple(map(parse_step, raw["steps"])))
        for name, raw in load_yaml("plots").items()
        if raw["size"] in sizes
    )


class StoryGenerator:
    """Casts plots, plays them and writes them down."""

    def __init__(
        self, size: WorldSize, lexicon: Lexicon, kinds: dict[str, EventKind], grammar: Grammar, splits: WordPairSplits
    ) -> None:
        self.size, self.lexicon, self.kinds, self.grammar, self.splits = size, lexicon, kinds, grammar, splits
        self.plots = plots_in_size(size.name)

    def story(self, split: str, rng: random.Random) -> Story:
        """A story of at least 40 words from this split's combinations."""
        while True:
            story = self._tell(split, rng)
            if story is not None and SHORTEST <= story.text.count(" ") + 1 <= LONGEST:
                return story

    def plotless_scene(self, split: str, rng: random.Random) -> Story:
        """Two to four sentences that only set out who is where and has what: the shortest text to ask about."""
        telling = StoryBuilder(self, split, rng)
        for _ in range(rng.randint(1, 2)):
            telling.add_bystander()
        return telling.finish("scene")

    def _tell(self, split: str, rng: random.Random) -> Story | None:
        telling = StoryBuilder(self, split, rng)
        plot = rng.choice(self.plots)
        cast = telling.cast_roles(plot)
        if cast is None:
            return None
        telling.play_plot(plot, cast)
        if rng.random() < self.size.chain:
            second = rng.choice(self.plots)
            again = telling.cast_roles(second)
            if again is not None:
                telling.play_plot(second, again)
        return telling.finish(plot.name)


class StoryBuilder:
    """A story while it is being told."""

    def __init__(self, story_generator: StoryGenerator, split: str, rng: random.Random) -> None:
        self.story_generator, self.split, self.rng = story_generator, split, rng
        self.lexicon = story_generator.lexicon
        self.state = WorldState(story_generator.lexicon.facts)
        self.referents: PronounReferents = {}
        self.events: list[Event] = []
        self.lines: list[str] = []
        self.told: dict[str, tuple[str, Event]] = {}
        self.used: list[str] = []
        self.others = ("train",) if split == "train" else ("train", split)

    # Casting

    def choose_entity(self, kind: str, partner: str | None = None) -> str | None:
        """Someone or something new that may stand beside all who are in the story; in a held-out split, one whose
        pair with `partner` is held out."""
        splits = self.story_generator.splits
        fit = set(self.lexicon.values[kind]).difference(self.used)
        for one in self.used:
            fit &= splits.partners(one, kind, self.others)
        if partner is not None and self.split != "train":
            fit &= splits.partners(partner, kind, (self.split,))
        if not fit:
            return None
        chosen = self.rng.choice(sorted(fit))
        self.used.append(chosen)
        return chosen

    def cast_roles(self, plot: StoryPlot) -> dict[str, str] | None:
        """Who plays whom, None when the split leaves nobody. In a held-out split the hero's pairs are held out."""
        cast: dict[str, str] = {}
        hero = None
        first_place = True
        for role, kind in sorted(plot.cast.items(), key=lambda item: CASTING.get(item[1], len(CASTING))):
            if kind not in CASTING:
                cast[role] = self._detail(kind, cast)
                continue
            held = hero if kind in OBJECTS or (kind == "place" and first_place) else None
            first_place = first_place and kind != "place"
            chosen = self.choose_entity(kind, held)
            if chosen is None:
                return None
            hero = hero or chosen
            cast[role] = chosen
        return cast

    def _detail(self, kind: str, cast: dict[str, str]) -> str:
        """A colour that some thing of the cast can have, a reason of its obstacle, or any value of the kind."""
        for about in cast.values():
            if (kind, about) in self.lexicon.choices:
                return self.rng.choice(self.lexicon.choices[kind, about])
        values = self.lexicon.counts if kind == "number" else self.lexicon.values[kind]
        return self.rng.choice(values)

    # Playing

    def play_plot(self, plot: StoryPlot, cast: dict[str, str]) -> None:
        """The plot's steps, in order, those that can happen."""
        for step in plot.steps:
            if step.kind == "other":
                if self.rng.random() < self.story_generator.size.bystanders:
                    self.add_bystander()
            elif not step.optional or self.rng.random() < 0.5:
                self.play_step(step.kind, tuple(cast[role] for role in step.cast))

    def add_bystander(self) -> None:
        """Someone uninvolved, somewhere, with something."""
        who, where = self.choose_entity("person"), self.choose_entity("place")
        if who is None or where is None:
            return
        self.play_step("be_at", (who, where))
        if self.rng.random() < 0.5:
            what = self.choose_entity("thing")
            if what is not None:
                self.play_step("own", (who, self.rng.choice(self.lexicon.choices["colour", what]), what))
        else:
            food = self.choose_entity("food")
            if food is not None:
                self.play_step("have_many", (who, self.rng.choice(self.lexicon.counts), food))

    def play_step(self, kind: str, args: tuple[str, ...]) -> None:
        """Let it happen and write it, if it can. Whoever is met when the story has begun appears."""
        if kind == "be_at" and any(event.kind == "be_at" for event in self.events):
            kind = "appear"
        if kind == "feel":
            self.add_feeling(args[0])
        elif kind in self.story_generator.kinds:
            self.add_event_if_possible(Event(kind, args))

    def add_feeling(self, who: str) -> None:
        """Tell what someone feels by now, with the cause or without, once."""
        feeling = self.state.get(("feels", who))
        cause = self.state.get(("cause", who))
        if feeling is None or self.told.get(who) == (feeling, cause):
            return
        self.told[who] = (feeling, cause)
        if self.rng.random() < BECAUSE:
            self.add_event_if_possible(Event("feel_because", (who, feeling, cause)))
        else:
            self.add_event_if_possible(Event("feel", (who, feeling)))

    def add_event_if_possible(self, event: Event) -> None:
        """The event happens and is written down, unless it cannot."""
        kind = self.story_generator.kinds[event.kind]
        if unmet_precondition(kind, event, self.state) is not None:
            return
        apply_event(kind, event, self.state)
        connective = ""
        if not self.lines and kind.name != "weather":
            connective = "One day,"
        elif kind.is_happening and self.rng.random() < self.story_generator.size.connectives:
            connective = self.rng.choice(PLAIN_CONNECTIVES)
        self.lines.append(self.story_generator.grammar.write(event, self.referents, self.rng, connective))
        self.events.append(event)

    def finish(self, plot: str) -> Story:
        """The story as it stands."""
        return Story(plot, " ".join(self.lines), tuple(self.events), self.state, self.told)
