"""The words of the world: who and what there is, how each is written, and what is true of it for good.

A `Lexicon` is cut to a size from `data/world/lexicon.yaml`. It answers three questions: which values a type has
(`values["person"]`), how a value is written in each mode (`surfaces[("food", "many")]["apple"] == "apples"`), and
which facts never change (`facts[("colour", "apple")] == "red"`).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any, NamedTuple

import yaml

from labkit.errors import LabError
from labkit.paths import data_folder

Fact = tuple[str, ...]
PRONOUNS = {"she": "her", "he": "him", "it": "it"}
"""Subject pronoun -> object pronoun."""
COUNTED = ("people", "animals", "things", "foods", "places", "obstacles", "colours", "weather", "numbers", "secrets")
LEGS = {2: "two", 4: "four", 6: "six"}


class WorldSize(NamedTuple):
    """How much of the world there is; see data/world/sizes.yaml."""

    name: str
    people: int
    animals: int
    things: int
    foods: int
    places: int
    obstacles: int
    colours: int
    weather: int
    numbers: int
    secrets: int
    forms: int
    phrasings: int
    pronouns: float
    connectives: float
    bystanders: float
    chain: float


@cache
def load_yaml(name: str) -> dict[str, Any]:
    """data/world/NAME.yaml, read once."""
    text = (data_folder() / "world" / f"{name}.yaml").read_text(encoding="utf-8")
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def load_size(name: str) -> WorldSize:
    """A size by its name. Raises LabError for a name that sizes.yaml does not have."""
    sizes = load_yaml("sizes")
    if name not in sizes:
        raise LabError(f"there is no TinyWorld of size {name!r}; the sizes are {', '.join(sizes)}.")
    return WorldSize(name=name, **sizes[name])


def with_article(words: str) -> str:
    """'red ball' -> 'a red ball', 'apple' -> 'an apple'."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def regular_plural(noun: str) -> str:
    """The regular plural: 'cup' -> 'cups', 'box' -> 'boxes'."""
    return noun + ("es" if noun.endswith(("s", "x", "ch", "sh")) else "s")


class Lexicon:
    """The lexicon cut to a size."""

    def __init__(self, size: WorldSize) -> None:
        raw = load_yaml("lexicon")
        cut = {name: raw[name][: getattr(size, name)] for name in COUNTED}
        self.pronoun: dict[str, str] = {p["name"]: p["pronoun"] for p in cut["people"]}
        self.values: dict[str, tuple[str, ...]] = {}
        self.surfaces: dict[tuple[str, str], dict[str, str]] = {}
        self.facts: dict[Fact, str] = {}
        self.choices: dict[tuple[str, str], tuple[str, ...]] = {}
        self._people_and_places(cut)
        self._nouns(cut)
        self._obstacles(cut["obstacles"], raw["tiredness"])
        self._plain(cut, raw)
        self._words()

    def _add(self, kind: str, values: Iterable[str], **modes: Iterable[str]) -> None:
        """A type, its values and how each is written, a mode a keyword; '' is spelt `plain`."""
        self.values[kind] = tuple(dict.fromkeys(values))
        for mode, written in modes.items():
            self.surfaces[(kind, "" if mode == "plain" else mode)] = dict(zip(values, written, strict=True))

    def _people_and_places(self, cut: dict[str, Any]) -> None:
        names = [p["name"] for p in cut["people"]]
        self._add("person", names, plain=names, obj=names)
        places = [p["name"] for p in cut["places"]]
        for noun in places:
            self.pronoun[noun] = ""
        inside = [f"{p['preposition']} the {p['name']}" for p in cut["places"]]
        self._add("place", places, plain=[f"the {n}" for n in places], noun=places, **{"in": inside})
        self._attribute("use", cut["places"], "use")
        for place in cut["places"]:
            for other in place["near"]:
                self.facts[("near", place["name"], other)] = "yes"

    def _nouns(self, cut: dict[str, Any]) -> None:
        for kind, section in (("thing", "things"), ("animal", "animals"), ("food", "foods")):
            nouns = [entry["name"] for entry in cut[section]]
            self.pronoun.update(dict.fromkeys(nouns, "it"))
            the = [f"the {noun}" for noun in nouns]
            many = [entry.get("plural") or regular_plural(entry["name"]) for entry in cut[section]]
            self._add(kind, nouns, plain=the, the=the, obj=the, noun=nouns, a=map(with_article, nouns), many=many)
        for attribute in ("material", "use"):
            self._attribute(attribute, cut["things"], attribute)
        for thing in cut["things"]:
            self.facts[("breaks", thing["name"])] = "yes" if thing["breaks"] else "no"
            self.facts[("opens", thing["name"])] = "yes" if thing["opens"] else "no"
            self.choices[("colour", thing["name"])] = tuple(thing["colours"])
        self._add("breakable", [t["name"] for t in cut["things"] if t["breaks"]])
        for attribute in ("shape", "kind", "origin", "taste"):
            self._attribute(attribute, cut["foods"], attribute)
        self._attribute("food_colour", cut["foods"], "colour")
        for attribute in ("young", "home", "kind"):
            self._attribute(attribute, cut["animals"], attribute)
        self._attribute("eats", cut["animals"], "food")
        for animal in cut["animals"]:
            self.facts[("legs", animal["name"])] = LEGS[animal["legs"]]

    def _attribute(self, fluent: str, entries: list[dict[str, Any]], field: str) -> None:
        """A lasting fact of each entry; its values are a type of their own."""
        for entry in entries:
            self.facts[(fluent, entry["name"])] = entry[field]
        if fluent != "food_colour":
            known = dict.fromkeys((*self.values.get(fluent, ()), *(entry[field] for entry in entries)))
            self._add(fluent, list(known), plain=list(known), a=[with_article(v) for v in known])

    def _obstacles(self, obstacles: list[dict[str, Any]], tiredness: list[str]) -> None:
        """'It was too tired' speaks of the mover, 'it was too narrow' of the obstacle: the reason tells which."""
        nouns = [o["name"] for o in obstacles]
        the = [f"the {n}" for n in nouns]
        self._add("obstacle", nouns, plain=the, the=the, obj=the, noun=nouns, verb=[o["verb"] for o in obstacles])
        self.pronoun.update(dict.fromkeys(nouns, ""))
        self.tiredness_reasons = frozenset(tiredness[: 2 * len(nouns)])
        reasons = [*tiredness[: 2 * len(nouns)], *(r for o in obstacles for r in o["reasons"])]
        self._add("reason", list(dict.fromkeys(reasons)), plain=list(dict.fromkeys(reasons)))
        for obstacle in obstacles:
            own = (*obstacle["reasons"], *sorted(self.tiredness_reasons))
            self.choices[("reason", obstacle["name"])] = own
            for reason in own:
                self.facts[("blocks", obstacle["name"], reason)] = "yes"
        movers = [*self.values["animal"], *nouns]
        self._add("meant", movers, plain=[f"the {n}" for n in movers])

    def _plain(self, cut: dict[str, Any], raw: dict[str, Any]) -> None:
        colours = cut["colours"]
        food_colours = {value for (fluent, *_), value in self.facts.items() if fluent == "food_colour"}
        known = list(dict.fromkeys((*colours, *sorted(food_colours))))
        self._add("colour", known, plain=known, a=[with_article(c) for c in known])
        for noun in self.values["thing"]:
            own = tuple(c for c in self.choices[("colour", noun)] if c in colours)
            self.choices[("colour", noun)] = own or tuple(colours)
        names = [w["name"] for w in cut["weather"]]
        self._add("weather", names, plain=names, adjective=[w["adjective"] for w in cut["weather"]])
        numbers = list(dict.fromkeys((*cut["numbers"], *LEGS.values())))
        self._add("number", numbers, plain=numbers)
        self.counts = tuple(cut["numbers"])
        self._add("secret", cut["secrets"], plain=cut["secrets"])
        feelings = [f["name"] for f in raw["feelings"]]
        self._add("feeling", feelings, plain=feelings)
        self.good = frozenset(f["name"] for f in raw["feelings"] if f["good"])

    def _words(self) -> None:
        """The words that made-up mappings are made of: nouns and colours; a rule also leads to their attributes."""
        nouns = [word for kind in ("animal", "thing", "food", "colour") for word in self.values[kind]]
        attributes = [word for kind in ("young", "material", "taste", "kind") for word in self.values[kind]]
        self.code_words = tuple(dict.fromkeys(nouns))
        words = list(dict.fromkeys((*nouns, *attributes)))
        self._add("word", words, plain=words)
