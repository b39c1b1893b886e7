"""The grammar: how an event is written, and how a sentence is read back into the event that it states.

`Grammar.write(event, referents)` picks a form and fills its slots; `Grammar.parse(sentence, referents)` undoes it, so
that `parse(write(event)) == event` with the same referents. The referents are who was mentioned last: a pronoun stands
for the most recent person or thing that agrees with it. Both directions are made of the same forms
(data/world/events.yaml), hence they cannot drift apart.

Reading walks a trie of the forms' words; a slot's edge tries each way in which a value of its type can be written.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from labkit.world.events import Event, EventKind
from labkit.world.lexicon import PRONOUNS, Lexicon

TOKEN = re.compile(r"\w+|[^\w\s]")
SLOT = re.compile(r"\{(\w+)(?:\.(\w+))?\}")
SENTENCE = re.compile(r"(?<=[.!?])\s+|(?<=[.!?]\")\s+")
CONNECTIVES = ("Then", "After that,", "Soon", "Later,", "One day,", "But", "So")
REFERRING = {"person": ("", "obj"), "thing": ("",), "animal": ("", "obj")}
"""The slots where a pronoun may stand."""
PronounReferents = dict[str, str]
"""Pronoun -> whom it stands for."""


class Slot(NamedTuple):
    """A place in a form for the value of a role, written as the lexicon's surfaces[value_type, surface_mode]."""

    role_index: int
    value_type: str
    surface_mode: str


class Form(NamedTuple):
    """One way to write a kind. A clause has no full stop of its own and can follow 'because'."""

    kind: str
    form_index: int
    pieces: tuple[str | Slot, ...]
    clause: bool


class SurfaceForms(NamedTuple):
    """How the values of a type are written in a mode: text -> values. `max_words` is counted in words."""

    values_by_text: dict[str, tuple[str, ...]]
    max_words: int


class TrieNode:
    """A place in the trie of forms."""

    __slots__ = ("ends", "slots", "words")

    def __init__(self) -> None:
        self.words: dict[str, TrieNode] = {}
        self.slots: dict[tuple[str, str], TrieNode] = {}
        self.ends: list[Form] = []


class Parsed(NamedTuple):
    """What a sentence states, in which form, with its connective, if any."""

    event: Event
    form: Form
    connective: str


Capture = tuple[tuple[str, ...], str]
"""What a slot's words may mean, and the words."""


def compile_form(kind: EventKind, form_index: int, text: str) -> Form:
    """'{who} went to {where}' -> Form."""
    roles = list(kind.roles)
    pieces: list[str | Slot] = []
    place = 0
    for match in SLOT.finditer(text):
        if match.start() > place:
            pieces.append(text[place : match.start()])
        role, mode = match[1], match[2] or ""
        pieces.append(Slot(roles.index(role), kind.roles[role], mode))
        place = match.end()
    if place < len(text):
        pieces.append(text[place:])
    return Form(kind.name, form_index, tuple(pieces), not text.endswith('"'))


def split_sentences(text: str) -> list[str]:
    """A text cut after each full stop, question mark or exclamation mark."""
    return [s for s in SENTENCE.split(text.strip()) if s]


def capitalise(text: str) -> str:
    """First letter in capitals, the rest as it is."""
    return text[:1].upper() + text[1:]


class Grammar:
    """The forms of the kinds of one world, to write and to read."""

    def __init__(
        self, lexicon: Lexicon, kinds: Iterable[EventKind], max_forms: int, pronoun_probability: float
    ) -> None:
        self.lexicon = lexicon
        self.pronoun_probability = pronoun_probability
        self.forms: dict[str, tuple[Form, ...]] = {}
        self.tables = {key: self._table(*key) for key in lexicon.surfaces}
        self.root = TrieNode()
        for kind in kinds:
            kept = [f for f in kind.forms if not f.endswith('"')][:max_forms]
            kept += [f for f in kind.forms if f.endswith('"')] if max_forms > 2 else []
            self.forms[kind.name] = tuple(compile_form(kind, n, text) for n, text in enumerate(kept))
            for form in self.forms[kind.name]:
                self._learn(form)
        self.roles = {kind.name: list(kind.roles.values()) for kind in kinds}

    def _table(self, kind: str, mode: str) -> SurfaceForms:
        values: dict[str, tuple[str, ...]] = {}
        for value, written in self.lexicon.surfaces[(kind, mode)].items():
            key = " ".join(TOKEN.findall(written.lower()))
            values[key] = (*values.get(key, ()), value)
        if mode in REFERRING.get(kind, ()):
            for subject, other in PRONOUNS.items():
                if (subject == "it") == (kind != "person"):
                    values[other if mode == "obj" else subject] = (f"@{subject}",)
        return SurfaceForms(values, max((key.count(" ") + 1 for key in values), default=1))

    def _learn(self, form: Form) -> None:
        node = self.root
        for piece in form.pieces:
            if isinstance(piece, Slot):
                node = node.slots.setdefault((piece.value_type, piece.surface_mode), TrieNode())
            else:
                for word in TOKEN.findall(piece.lower()):
                    node = node.words.setdefault(word, TrieNode())
        node.ends.append(form)

    # Writing

    def write(
        self,
        event: Event,
        referents: PronounReferents,
        rng: random.Random,
        connective: str = "",
        form_index: int | None = None,
    ) -> str:
        """The event as a sentence; the referents are then those that it mentioned, too."""
        forms = self.forms[event.kind]
        chosen = forms[form_index] if form_index is not None else rng.choice(forms) if len(forms) > 1 else forms[0]
        text = self._fill(chosen, event, referents, rng, self.pronoun_probability)
        if connective:
            text = f"{connective} {text}"
        self.update_referents(chosen, event, referents)
        return capitalise(text if text.endswith('"') else text + ".")

    def write_clause(
        self, event: Event, referents: PronounReferents, rng: random.Random, pronoun_probability: float = 1.0
    ) -> str:
        """The event as a clause that can follow 'because'. `pronoun_probability` is how often a name gives way."""
        forms = [f for f in self.forms[event.kind] if f.clause]
        return self._fill(forms[int(rng.random() * len(forms))], event, referents, rng, pronoun_probability)

    def write_form(self, form: Form, event: Event, referents: PronounReferents, rng: random.Random) -> str:
        """The event in any form of its kind, a question's too; the referents stay as they are."""
        return self._fill(form, event, referents, rng, self.pronoun_probability)

    def _fill(self, form: Form, event: Event, referents: PronounReferents, rng: random.Random, pronouns: float) -> str:
        out: list[str] = []
        inner = dict(referents) if any(isinstance(a, Event) for a in event.args) else referents
        for piece in form.pieces:
            if isinstance(piece, str):
                out.append(piece)
                continue
            value = event.args[piece.role_index]
            if piece.value_type == "event":
                out.append(self.write_clause(value, {p: v for p, v in inner.items() if v in event.args}, rng))
                continue
            out.append(self._refer(piece, value, referents, rng, pronouns))
            pronoun = self.lexicon.pronoun.get(value)
            if pronoun and inner is not referents:
                inner[pronoun] = value
        return "".join(out)

    def _refer(self, slot: Slot, value: str, referents: PronounReferents, rng: random.Random, pronouns: float) -> str:
        """A value in its slot: by pronoun where the referents allow it and chance wants it."""
        if slot.surface_mode in REFERRING.get(slot.value_type, ()):
            pronoun = self.lexicon.pronoun[value]
            if referents.get(pronoun) == value and rng.random() < pronouns:
                return PRONOUNS[pronoun] if slot.surface_mode == "obj" else pronoun
        return self.lexicon.surfaces[(slot.value_type, slot.surface_mode)][value]

    def update_referents(self, form: Form, event: Event, referents: PronounReferents) -> None:
        """Change the referents, in place, to those after the event was written in this form: of each pronoun the last
        that agrees with it.
        """
        for piece in form.pieces:
            if isinstance(piece, Slot):
                value = event.args[piece.role_index]
                if isinstance(value, Event):
                    self.update_referents(self.forms[value.kind][0], value, referents)
                    continue
                pronoun = self.lexicon.pronoun.get(value)
                if pronoun and piece.value_type in REFERRING:
                    referents[pronoun] = value

    # Reading

    def parse(self, sentence: str, referents: PronounReferents) -> Parsed | None:
        """The event that a sentence states, its pronouns read by `referents`, or None for no sentence of the grammar.
        Updates `referents`, in place, with whom the sentence mentioned.
        """
        for parsed in self.all_parses(sentence, referents):
            self.update_referents(parsed.form, parsed.event, referents)
            return parsed
        return None

    def all_parses(self, sentence: str, referents: PronounReferents) -> Iterator[Parsed]:
        """Every reading of a sentence; the grammar has one a sentence (tested)."""
        for connective in ("", *(c for c in CONNECTIVES if sentence.startswith(c + " "))):
            rest = sentence[len(connective) + 1 :] if connective else sentence
            body = rest[:-1] if rest.endswith(".") else rest
            tokens = TOKEN.findall(body.lower())
            for form, captures in self._walk(self.root, tokens, 0, ()):
                event = self._event(form, captures, referents)
                if event is not None and self._exact(form, captures, sentence, connective):
                    yield Parsed(event, form, connective)

    def parse_clause(self, text: str, referents: PronounReferents) -> Event | None:
        """A clause without its full stop -> the event it states."""
        for form, captures in self._walk(self.root, TOKEN.findall(text.lower()), 0, ()):
            event = self._event(form, captures, referents) if form.clause else None
            if event is not None:
                return event
        return None

    def _walk(
        self, node: TrieNode, tokens: list[str], at: int, captured: tuple[Capture, ...]
    ) -> Iterator[tuple[Form, tuple[Capture, ...]]]:
        if at == len(tokens):
            for form in node.ends:
                yield form, captured
            return
        follow = node.words.get(tokens[at])
        if follow is not None:
            yield from self._walk(follow, tokens, at + 1, captured)
        for (kind, mode), after in node.slots.items():
            if kind == "event":
                rest = " ".join(tokens[at:])
                yield from ((form, (*captured, ((), rest))) for form in after.ends)
                continue
            table = self.tables[(kind, mode)]
            for length in range(1, min(table.max_words, len(tokens) - at) + 1):
                words = " ".join(tokens[at : at + length])
                values = table.values_by_text.get(words)
                if values is not None:
                    yield from self._walk(after, tokens, at + length, (*captured, (values, words)))

    def _event(self, form: Form, captures: tuple[Capture, ...], referents: PronounReferents) -> Event | None:
        """Captures -> event: pronouns stand for whom the referents say, several slots of a role must agree."""
        slots = [p for p in form.pieces if isinstance(p, Slot)]
        args: list[Any] = [None] * len(self.roles[form.kind])
        inner = dict(referents)
        for slot, (values, words) in zip(slots, captures, strict=True):
            if slot.value_type == "event":
                args[slot.role_index] = self.parse_clause(words, inner)
            else:
                meant = {referents.get(v[1:], "") if v[0] == "@" else v for v in values}
                meant &= set(self.lexicon.values[slot.value_type])
                known = args[slot.role_index]
                agreed = meant if known is None else meant & known
                if not agreed:
                    return None
                args[slot.role_index] = agreed
                if len(agreed) == 1:
                    value = next(iter(agreed))
                    pronoun = self.lexicon.pronoun.get(value)
                    if pronoun:
                        inner[pronoun] = value
        if any(a is None or (isinstance(a, set) and len(a) != 1) for a in args):
            return None
        return Event(form.kind, tuple(next(iter(a)) if isinstance(a, set) else a for a in args))

    def _exact(self, form: Form, captures: tuple[Capture, ...], sentence: str, connective: str) -> bool:
        """Whether the sentence has the form's very letters: spaces, capitals and the full stop count."""
        written = iter(captures)
        parts = [p if isinstance(p, str) else self._spelt(p, next(written)) for p in form.pieces]
        text = "".join(parts)
        return sentence == capitalise(f"{connective} {text}" if connective else text) + ("." if form.clause else "")

    def _spelt(self, slot: Slot, capture: Capture) -> str:
        values, words = capture
        if slot.value_type == "event":
            return " ".join(self._name(word) for word in words.split(" "))
        if values[0].startswith("@"):
            return words
        return self.lexicon.surfaces[(slot.value_type, slot.surface_mode)][values[0]]

    def _name(self, word: str) -> str:
        name = word.capitalize()
        return name if name in self.lexicon.values["person"] else word
