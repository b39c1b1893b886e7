"""TinyWorld: a small simulated world whose truth is known.

world = World.load("lab")
world.document("train", seed=0, index=7)        # a story with questions about it
task = world.task("test", seed=0, index=7)      # an instruction with its truth
gold_score(world, task, "Anna is in the park.", world.profiles["warm"])
"""

from __future__ import annotations

from labkit.errors import LabError
from labkit.world.answers import AnswerGrammar
from labkit.world.check import StoryCheck, StorySentence, check_story, read_story
from labkit.world.corpus import DocumentAndTaskGenerator
from labkit.world.events import Event, WorldState, kinds_in_size
from labkit.world.grammar import Grammar
from labkit.world.lexicon import Lexicon, load_size
from labkit.world.oracle import GoldScore, StepLabel, gold_score, label_steps
from labkit.world.plots import StoryGenerator
from labkit.world.profiles import Annotator, load_annotators
from labkit.world.splits import WordPairSplits, check_split
from labkit.world.tasks import OTHER, READING, Document, Message, Task, TaskGenerator, remove_story_from_prompt

__all__ = [
    "Document",
    "Event",
    "Message",
    "Annotator",
    "GoldScore",
    "WorldState",
    "StepLabel",
    "StoryCheck",
    "Task",
    "World",
    "gold_score",
    "label_steps",
    "remove_story_from_prompt",
]


class World:
    """One size of TinyWorld, ready to write, to ask and to judge."""

    def __init__(self, size: str) -> None:
        self.size = load_size(size)
        self.lexicon = Lexicon(self.size)
        self.kinds = kinds_in_size(size)
        self.splits = WordPairSplits(self.lexicon)
        self.grammar = Grammar(self.lexicon, list(self.kinds.values()), self.size.forms, self.size.pronouns)
        self.answers = AnswerGrammar(self.lexicon, self.kinds, self.grammar, self.size.phrasings)
        self.story_generator = StoryGenerator(self.size, self.lexicon, self.kinds, self.grammar, self.splits)
        task_generator = TaskGenerator(self.lexicon, self.kinds, self.story_generator, self.answers)
        self.example_generator = DocumentAndTaskGenerator(task_generator)
        self.profiles = load_annotators()
        present = "fail_cross" in self.kinds
        self.reading_kinds = tuple(k for k in READING if k != "it" or present)
        self.task_kinds = (*self.reading_kinds, *OTHER)

    def profile(self, name: str) -> Annotator:
        """The annotator of this name. Raises LabError where there is none."""
        if name not in self.profiles:
            raise LabError(f"There is no annotator {name!r}; there are {', '.join(self.profiles)}.")
        return self.profiles[name]

    @classmethod
    def load(cls, size: str = "lab") -> World:
        """The world of a size: "tiny", "lab" or "full". Raises LabError for another name."""
        return cls(size)

    def document(self, split: str, seed: int, index: int, kind: str | None = None) -> Document:
        """A pretraining document of a split in {"train", "validation", "test"}; the same for the same arguments."""
        check_split(split)
        return self.example_generator.document(split, seed, index, kind)

    def conversation(self, split: str, seed: int, index: int) -> Document:
        """An instruction-tuning example: messages only."""
        check_split(split)
        return self.example_generator.conversation(split, seed, index)

    def task(self, split: str, seed: int, index: int, kind: str | None = None) -> Task:
        """A task with its truth. Raises LabError when this world has no such kind."""
        check_split(split)
        if kind is not None and kind not in self.task_kinds:
            raise LabError(
                f"TinyWorld of size {self.size.name} has no task {kind!r}; it has {', '.join(self.task_kinds)}."
            )
        return self.example_generator.task(split, seed, index, (kind,) if kind else self.task_kinds)

    def check(self, text: str) -> StoryCheck:
        """How much of a story is grammatical, and how many of its events can happen."""
        return check_story(text, self.grammar, self.kinds, self.lexicon)

    def read_story(self, text: str) -> list[StorySentence]:
        """The sentences of a story, and what is wrong with each."""
        return list(read_story(text, self.grammar, self.kinds, self.lexicon))
