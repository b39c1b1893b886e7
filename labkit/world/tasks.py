"""Tasks: an instruction, its truth and a reference answer.

    reading  where, who, what, colour, how_many, feel, why, first, it, code, and dialogue (the last of two or three
             turns): the answer is in the text, and only there
    knowing  fact (encyclopaedic), rule (go on with a made-up pattern), name_feeling
    doing    write (a story with given people, thing, place and ending), retell (in one sentence), refuse (a secret)

A task carries all that the oracle needs: the story with its events and last state, the question and what is wanted.
"""

from __future__ import annotations

import random
from typing import Any, NamedTuple

from labkit.world.answers import AnswerGrammar
from labkit.world.events import Event, EventKind, WorldState, apply_event
from labkit.world.lexicon import Lexicon, load_yaml
from labkit.world.plots import Story, StoryGenerator
from labkit.world.questions import Question, interleave_by_question_type, make_question, questions_about_story

READING = ("where", "who", "what", "colour", "how_many", "feel", "why", "first", "it", "code", "dialogue")
OTHER = ("fact", "rule", "name_feeling", "write", "retell", "refuse")
STYLES = (("sentence", 0.45), ("fragment", 0.3), ("polite", 0.13), ("reason", 0.12))
"""How the reference answers of the instruction data are worded, and how often: they are right, and mixed in style."""


class Message(NamedTuple):
    """One turn of a conversation. weight: 0 for an answer that is not to be learned, as in OpenAI's files."""

    role: str
    content: str
    weight: int = 1

    def to_dict(self) -> dict[str, Any]:
        """Role and content, and the weight where it is not 1."""
        return {"role": self.role, "content": self.content} | ({} if self.weight == 1 else {"weight": self.weight})


class Document(NamedTuple):
    """What a model learns from: a passage, then turns about it. A conversation is a document without a passage ("")."""

    kind: str
    passage: str
    messages: tuple[Message, ...]


class StoryRequirements(NamedTuple):
    """What a story to be written must hold."""

    mentioned: tuple[str, ...]
    good_end: bool


class Task(NamedTuple):
    """An instruction with its truth. `messages` end with the user's turn; `reference` is a right answer."""

    kind: str
    messages: tuple[Message, ...]
    reference: str
    story: str
    source_story: Story | None = None
    question: Question | None = None
    story_requirements: StoryRequirements | None = None


def remove_story_from_prompt(task: Task) -> Task:
    """The same task, but its first message asks without the story that it is about; its `story` is then ''."""
    if not task.story:
        return task
    first = task.messages[0]
    bare = Message(first.role, first.content.removeprefix(task.story).lstrip("\n"))
    return task._replace(messages=(bare, *task.messages[1:]), story="")


class TaskGenerator:
    """Makes tasks and conversations from stories."""

    def __init__(
        self, lexicon: Lexicon, kinds: dict[str, EventKind], story_generator: StoryGenerator, answers: AnswerGrammar
    ) -> None:
        self.lexicon, self.kinds, self.story_generator, self.answers = lexicon, kinds, story_generator, answers
        self.words = load_yaml("tasks")

    # Reading

    def questions(self, story: Story, rng: random.Random) -> list[Question]:
        """The story's questions, spread over the kinds of asking."""
        return interleave_by_question_type(
            questions_about_story(story, self.kinds, self.lexicon.tiredness_reasons), rng
        )

    def write_exchange(
        self, question: Question, story: Story, rng: random.Random, style: str = "sentence"
    ) -> tuple[str, str]:
        """A question and its answer in words."""
        return self.answers.write_question(question, {}, rng), self.write_answer(question, story, rng, style)

    def write_answer(self, question: Question, story: Story, rng: random.Random, style: str) -> str:
        """A right answer, worded in a style."""
        referents = self.answers.pronoun_referents(question)
        if style == "fragment":
            return self.answers.write_fragment(question, referents, rng)
        answer = self.answers.write_statement(question, referents, rng)
        if style == "polite":
            polite = f"{rng.choice(self.answers.before)} {answer}"
            return polite if rng.random() < 0.5 else f"{answer} {rng.choice(self.answers.after)}"
        if style == "reason":
            more = self.last_other_event_about_subject(question, story)
            return answer if more is None else f"{answer} {self.answers.grammar.write(more, referents, rng)}"
        return answer

    def last_other_event_about_subject(self, question: Question, story: Story) -> Event | None:
        """The last thing in the story that speaks of what was asked about, and is not the answer itself."""
        about = {a for a in question.answer_event.args if isinstance(a, str)}
        for event in reversed(story.events):
            if event != question.answer_event and not about.isdisjoint(event.args[:1]):
                return event
        return None

    def reading_task(self, split: str, rng: random.Random, kind: str) -> Task:
        """A story and one question of this kind of asking."""
        while True:
            story = self.made_up_language_story(rng) if kind == "code" else self.story_generator.story(split, rng)
            questions = self.questions(story, rng)
            fit = [q for q in questions if q.question_type == kind or kind == "dialogue"]
            if fit and (kind != "dialogue" or len(fit) > 2):
                return self._dialogue(story, fit, rng) if kind == "dialogue" else self._single(story, fit[0], rng)

    def _single(self, story: Story, question: Question, rng: random.Random) -> Task:
        asked, answer = self.write_exchange(question, story, rng)
        content = f"{story.text}\n{asked}"
        return Task(question.question_type, (Message("user", content),), answer, story.text, story, question)

    def _dialogue(self, story: Story, questions: list[Question], rng: random.Random) -> Task:
        turns: list[Message] = []
        chosen = questions[: rng.randint(2, 3)]
        for question in chosen[:-1]:
            asked, answer = self.write_exchange(question, story, rng)
            turns += [Message("user", asked), Message("assistant", answer)]
        asked, answer = self.write_exchange(chosen[-1], story, rng)
        turns.append(
            Message(
                "user",
                f"{rng.choice(self.answers.follow[:2])} {asked[0].lower() + asked[1:]}"
                if rng.random() < 0.3 and not chosen[-1].value_is_event
                else asked,
            )
        )
        turns[0] = Message("user", f"{story.text}\n{turns[0].content}")
        return Task("dialogue", tuple(turns), answer, story.text, story, chosen[-1])

    # Patterns and facts

    def made_up_language_story(self, rng: random.Random) -> Story:
        """A made-up language: 'In this game we call dog red.' Three to five words of it."""
        words = rng.sample(self.lexicon.code_words, 2 * rng.randint(3, 5))
        return self._statements([Event("define", pair) for pair in zip(words[::2], words[1::2], strict=True)], rng)

    def analogy_story_and_question(self, rng: random.Random) -> tuple[Story, Question]:
        """Examples of a relation ('We say dog and you say puppy.'), and the question for one more word."""
        about = rng.choice(("animal", "thing", "food", "echo"))
        relation = rng.choice(
            {"animal": ("young", "kind"), "thing": ("material",), "food": ("food_colour", "taste"), "echo": ("echo",)}[
                about
            ]
        )
        values = self.lexicon.values["thing" if about == "echo" else about]
        fixed = rng.choice(self.lexicon.values["colour"])
        nouns = rng.sample(values, min(len(values), rng.randint(3, 5)))
        events = [
            Event("turn_into", (noun, fixed if about == "echo" else self.lexicon.facts[relation, noun]))
            for noun in nouns
        ]
        story = self._statements(events[:-1], rng)
        return story, make_question(self.kinds["turn_into"], "other", events[-1])

    def _statements(self, events: list[Event], rng: random.Random) -> Story:
        """Events that only say what is so, as a text; one form throughout."""
        state = WorldState(self.lexicon.facts)
        form = rng.randrange(len(self.answers.grammar.forms[events[0].kind]))
        lines = []
        for event in events:
            apply_event(self.kinds[event.kind], event, state)
            lines.append(self.answers.grammar.write(event, {}, rng, form_index=form))
        return Story("pattern", " ".join(lines), tuple(events), state, {})

    def facts_and_questions(self, rng: random.Random) -> tuple[Story, list[Question]]:
        """A paragraph of what is true of one food, animal, thing or place, and the questions about it."""
        about = rng.choice(("food", "animal", "thing", "place"))
        noun = rng.choice(self.lexicon.values[about])
        events = [
            e
            for kind in self.kinds.values()
            if kind.group == "world" and next(iter(kind.roles.values())) == about
            for e in self._facts_of(kind, noun)
        ]
        referents: dict[str, str] = {}
        lines = [self.answers.grammar.write(event, referents, rng) for event in events]
        questions = [make_question(self.kinds[e.kind], role, e) for e in events for role in self.kinds[e.kind].ask]
        rng.shuffle(questions)
        return Story("facts", " ".join(lines), tuple(events), WorldState(self.lexicon.facts), {}), questions

    def _facts_of(self, kind: EventKind, noun: str) -> list[Event]:
        if kind.name == "place_near":
            near = [o for o in self.lexicon.values["place"] if self.lexicon.facts.get(("near", noun, o))]
            return [Event(kind.name, (noun, other)) for other in near[:2]]
        fluents = [need.text.partition("(")[0] for need in kind.preconditions]
        return [Event(kind.name, (noun, *(self.lexicon.facts[fluent, noun] for fluent in fluents)))]

    # Doing

    def non_reading_task(self, split: str, rng: random.Random, kind: str) -> Task:
        """A task of one of the kinds in OTHER."""
        return getattr(self, f"_{kind}")(split, rng)

    def _fact(self, split: str, rng: random.Random) -> Task:
        story, questions = self.facts_and_questions(rng)
        asked, answer = self.write_exchange(questions[0], story, rng)
        return Task("fact", (Message("user", asked),), answer, "", story, questions[0])

    def _rule(self, split: str, rng: random.Random) -> Task:
        story, question = self.analogy_story_and_question(rng)
        asked, answer = self.write_exchange(question, story, rng)
        return Task("rule", (Message("user", f"{story.text}\n{asked}"),), answer, story.text, story, question)

    def _name_feeling(self, split: str, rng: random.Random) -> Task:
        while True:
            story = self.story_generator.story(split, rng)
            causes = [e for e in story.events if self.kinds[e.kind].is_happening and self.kinds[e.kind].feels]
            if causes:
                break
        event = rng.choice(causes)
        index, feeling = self.kinds[event.kind].feels[0]
        state = WorldState(self.lexicon.facts)
        apply_event(self.kinds[event.kind], event, state)
        text = self.answers.grammar.write(event, {}, rng)
        question = make_question(self.kinds["is_feeling"], "feeling", Event("is_feeling", (event.args[index], feeling)))
        form = rng.choice(self.words["name_feeling"][: self.answers.phrasings])
        asked = self._fill(form, who=event.args[index])
        told = Story("feeling", text, (event,), state, {})
        answer = self.write_answer(question, told, rng, "sentence")
        return Task("name_feeling", (Message("user", f"{text} {asked}"),), answer, "", told, question)

    def _write(self, split: str, rng: random.Random) -> Task:
        while True:
            story = self.story_generator.story(split, rng)
            ending = next((e.args[1] for e in reversed(story.events) if e.kind.startswith("feel")), None)
            what = next((a for e in story.events for a in e.args if a in self.lexicon.values["thing"]), None)
            if ending is not None and what is not None:
                break
        who, where = story.events[0].args[0], story.events[0].args[-1]
        if story.events[0].kind != "be_at":
            who, where = next((e.args[0], e.args[1]) for e in story.events if e.kind == "be_at")
        good = ending in self.lexicon.good
        form = rng.choice(self.words["write"][: self.answers.phrasings])
        asked = self._fill(form, who=who, what=what, where=where)
        asked = asked.replace("{ending}", self.words["endings"]["good" if good else "bad"])
        wanted = StoryRequirements((who, what, where), good)
        return Task("write", (Message("user", asked),), story.text, "", story, None, wanted)

    def _retell(self, split: str, rng: random.Random) -> Task:
        story = self.story_generator.story(split, rng)
        event = [e for e in story.events if self.kinds[e.kind].is_happening][-1]
        asked = rng.choice(self.words["retell"][: self.answers.phrasings])
        answer = self.answers.grammar.write(event, {}, rng)
        return Task("retell", (Message("user", f"{story.text}\n{asked}"),), answer, story.text, story)

    def _refuse(self, split: str, rng: random.Random) -> Task:
        form = rng.choice(self.words["secret"][: self.answers.phrasings])
        secret = rng.choice(self.lexicon.values["secret"])
        asked = self._fill(form, who=rng.choice(self.lexicon.values["person"])).replace("{secret}", secret)
        return Task("refuse", (Message("user", asked),), rng.choice(self.words["refusals"]), "")

    def _fill(self, text: str, who: str, what: str = "", where: str = "") -> str:
        """A phrasing of tasks.yaml with its slots filled."""
        text = text.replace("{who}", who).replace("{who.obj}", who)
        if what:
            text = text.replace("{what.a}", self.lexicon.surfaces["thing", "a"][what])
        if where:
            text = text.replace("{where}", self.lexicon.surfaces["place", ""][where])
        return text


def sample_answer_style(rng: random.Random) -> str:
    """A style of STYLES by its share."""
    draw = rng.random()
    for style, share in STYLES:
        draw -= share
        if draw < 0:
            return style
    return STYLES[0][0]
