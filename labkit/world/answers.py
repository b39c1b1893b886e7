"""How questions are put into words, and answers written and read.

An answer is a fragment ('In the park.'), a statement ('Anna is in the park.'), or a statement beside something polite
or something more that the story says. `AnswerGrammar.parse_response` gives back what each sentence of any response
says, for the oracle.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

from labkit.world.events import Event, EventKind
from labkit.world.grammar import Form, Grammar, PronounReferents, capitalise, compile_form, split_sentences
from labkit.world.lexicon import PRONOUNS, Lexicon, load_yaml
from labkit.world.questions import FRAGMENT_MODES, Question


class ParsedSentence(NamedTuple):
    """One sentence of a response: what it states (or the value, of a fragment), and whether it is only polite."""

    sentence: str
    event: Event | None = None
    fragment_value: Any = None
    polite: bool = False
    refusal: bool = False

    @property
    def understood(self) -> bool:
        """Whether the sentence is English of this world."""
        return self.event is not None or self.fragment_value is not None or self.polite or self.refusal


class AnswerGrammar:
    """Writes questions and answers in the words of one world, and reads answers."""

    def __init__(self, lexicon: Lexicon, kinds: dict[str, EventKind], grammar: Grammar, phrasings: int) -> None:
        self.lexicon, self.kinds, self.grammar, self.phrasings = lexicon, kinds, grammar, phrasings
        words = load_yaml("tasks")
        self.first, self.follow = words["first"][:phrasings], words["follow"]
        self.before, self.after = words["polite_before"], words["polite_after"]
        self.refusals = words["refusals"]
        self._asking: dict[tuple[str, int], tuple[Form, ...]] = {}

    # Writing

    def write_question(self, question: Question, referents: PronounReferents, rng: random.Random) -> str:
        """The question in one of its phrasings; a pronoun stands for whom the referents allow."""
        if question.value_is_event:
            return rng.choice(self.first)
        forms = self._forms(question)
        return capitalise(self.grammar.write_form(rng.choice(forms), question.answer_event, referents, rng))

    def _forms(self, question: Question) -> tuple[Form, ...]:
        key = (question.pattern.kind, question.asked_role)
        if key not in self._asking:
            kind = self.kinds[question.pattern.kind]
            asked = kind.ask[list(kind.roles)[question.asked_role]][: self.phrasings]
            self._asking[key] = tuple(compile_form(kind, n, text) for n, text in enumerate(asked))
        return self._asking[key]

    def write_statement(self, question: Question, referents: PronounReferents, rng: random.Random) -> str:
        """The answer as a whole sentence."""
        return self.grammar.write(question.answer_event, referents, rng)

    def write_fragment(self, question: Question, referents: PronounReferents, rng: random.Random) -> str:
        """The answer as short as it can be said."""
        if question.value_is_event:
            return self.grammar.write(question.answer_event, referents, rng)
        role = list(self.kinds[question.pattern.kind].roles.values())[question.asked_role]
        if role == "event":
            return (
                f"Because {self.grammar.write_clause(question.value, keep_subject_referent(question, referents), rng)}."
            )
        written = self.lexicon.surfaces[role, FRAGMENT_MODES.get(role, "")]
        return capitalise(written[question.value]) + "."

    def pronoun_referents(self, question: Question) -> PronounReferents:
        """Whom a pronoun in the answer stands for: those whom the question names."""
        referents: PronounReferents = {}
        if not question.value_is_event:
            self._mention_all(question.pattern.args, referents)
        return referents

    def _mention_all(self, args: Sequence[Any], referents: PronounReferents) -> None:
        for value in args:
            pronoun = self.lexicon.pronoun.get(value) if isinstance(value, str) else None
            if pronoun:
                referents[pronoun] = value

    # Reading

    def parse_response(
        self, response: str, question: Question | None, referents: PronounReferents
    ) -> list[ParsedSentence]:
        """Every sentence of a response and what it says, pronouns read by these referents."""
        referents = dict(referents)
        return [self._read(sentence, question, referents) for sentence in split_sentences(response)]

    def _read(self, sentence: str, question: Question | None, referents: PronounReferents) -> ParsedSentence:
        if sentence in self.before or sentence in self.after:
            return ParsedSentence(sentence, polite=True)
        if sentence in self.refusals:
            return ParsedSentence(sentence, refusal=True)
        value = self._read_fragment(sentence, question, referents) if question else None
        if value is not None:
            return ParsedSentence(sentence, fragment_value=value)
        parsed = self.grammar.parse(sentence, referents)
        return ParsedSentence(sentence, event=parsed.event if parsed else None)

    def _read_fragment(self, sentence: str, question: Question, referents: PronounReferents) -> Any:
        if question.value_is_event or not sentence.endswith("."):
            return None
        role = list(self.kinds[question.pattern.kind].roles.values())[question.asked_role]
        body = sentence[:-1]
        if role == "event":
            clause = body.removeprefix("Because ")
            return self.grammar.parse_clause(clause, referents) if clause != body else None
        table = self.grammar.tables[role, FRAGMENT_MODES.get(role, "")]
        values = table.values_by_text.get(body.lower(), ())
        return (
            values[0]
            if len(values) == 1 and not values[0].startswith("@") and sentence == capitalise(sentence)
            else None
        )


def keep_subject_referent(question: Question, referents: PronounReferents) -> PronounReferents:
    """Only the referent that is the question's subject, so that a because-clause names everybody else."""
    return {p: v for p, v in referents.items() if v == question.pattern.args[0] and p in PRONOUNS}
