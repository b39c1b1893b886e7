"""The corpus: which documents a model is pretrained on, and which conversations it is tuned on.

A document is made from (split, seed, index) alone, whatever came before it, so a run can stop and go on anywhere.
Questions and answers follow the text within the document: copying from the context, which all later stages need, comes
late and suddenly from stories alone, and early where a text is asked about.
"""

from __future__ import annotations

import random

from labkit.world.plots import Story
from labkit.world.questions import Question
from labkit.world.tasks import OTHER, READING, Document, Message, Task, TaskGenerator, sample_answer_style

MIX = (("story", 0.81), ("scene", 0.06), ("code", 0.05), ("rule", 0.03), ("facts", 0.05))
"""Kinds of pretraining documents and their shares."""
QUESTIONS = 4
"""Questions asked about one text, at most; a row keeps as many as it has room for."""
CONVERSATIONS = (
    ("reading", 0.74),
    ("code", 0.05),
    ("rule", 0.02),
    ("fact", 0.04),
    ("name_feeling", 0.03),
    ("write", 0.06),
    ("retell", 0.03),
    ("refuse", 0.03),
)
"""Kinds of conversations and their shares."""


def seeded_rng(purpose: str, split: str, seed: int, index: int) -> random.Random:
    """A generator that depends on its arguments only (strings are hashed by SHA-512, the same everywhere)."""
    return random.Random(f"{purpose}|{split}|{seed}|{index}")


def weighted_choice(shares: tuple[tuple[str, float], ...], rng: random.Random) -> str:
    """A name by its share."""
    names, weights = zip(*shares, strict=True)
    return rng.choices(names, weights)[0]


class DocumentAndTaskGenerator:
    """Documents, conversations and tasks of one world."""

    def __init__(self, tasks: TaskGenerator) -> None:
        self.tasks = tasks

    def document(self, split: str, seed: int, index: int, kind: str | None = None) -> Document:
        """A pretraining document: a text and questions about it."""
        rng = seeded_rng("document", split, seed, index)
        kind = kind or weighted_choice(MIX, rng)
        if kind == "rule":
            story, question = self.tasks.analogy_story_and_question(rng)
            questions = [question]
        elif kind == "facts":
            story, questions = self.tasks.facts_and_questions(rng)
        else:
            story = self._text(kind, split, rng)
            questions = self.tasks.questions(story, rng)
        return Document(kind, story.text, self.write_turns(questions[:QUESTIONS], story, rng, ("sentence", "fragment")))

    def _text(self, kind: str, split: str, rng: random.Random) -> Story:
        if kind == "code":
            return self.tasks.made_up_language_story(rng)
        return (
            self.tasks.story_generator.plotless_scene(split, rng)
            if kind == "scene"
            else self.tasks.story_generator.story(split, rng)
        )

    def write_turns(
        self, questions: list[Question], story: Story, rng: random.Random, styles: tuple[str, ...] | None = None
    ) -> tuple[Message, ...]:
        """The questions and their answers as turns, in these styles (the first twice in three), or in all."""
        out: list[Message] = []
        for question in questions:
            style = sample_answer_style(rng) if styles is None else styles[rng.random() < 1 / 3]
            asked, answer = self.tasks.write_exchange(question, story, rng, style)
            out += [Message("user", asked), Message("assistant", answer)]
        return tuple(out)

    def conversation(self, split: str, seed: int, index: int) -> Document:
        """An instruction-tuning example: one turn or several."""
        rng = seeded_rng("conversation", split, seed, index)
        kind = weighted_choice(CONVERSATIONS, rng)
        if kind in OTHER:
            task = self.tasks.non_reading_task(split, rng, kind)
            return Document(kind, "", (*task.messages, Message("assistant", task.reference)))
        story = self._text("code" if kind == "code" else "story", split, rng)
        questions = self.tasks.questions(story, rng)[:QUESTIONS]
        turns = self.write_turns(questions, story, rng)
        first = Message("user", f"{story.text}\n{turns[0].content}")
        return Document(kind, "", (first, *turns[1:]))

    def task(self, split: str, seed: int, index: int, kinds: tuple[str, ...]) -> Task:
        """A task to be graded, of any of these kinds."""
        rng = seeded_rng("task", split, seed, index)
        kind = rng.choice(kinds)
        return (
            self.tasks.reading_task(split, rng, kind)
            if kind in READING
            else self.tasks.non_reading_task(split, rng, kind)
        )
