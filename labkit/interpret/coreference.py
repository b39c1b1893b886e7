"""Texts in which it is known whom a pronoun stands for."""

from __future__ import annotations

import itertools
import random
from typing import NamedTuple

from labkit.errors import LabError
from labkit.text.chat import encode_answer_prefix, encode_prompt, encode_text_prompt
from labkit.text.tokenizer import Tokenizer
from labkit.world import World

SEED = 20_000
"""Of the tasks that the examples are made of: no stage measures itself on these."""

FRAMES = (
    ("The {a} did not cross the {b} because it was too {why}.", ("animal", "dog", "cat"), ("street", "river", "road")),
    ("The {a} could not climb the {b} because it was too {why}.", ("goat", "boy", "man"), ("wall", "hill", "tower")),
    ("The {a} would not jump over the {b} because it was too {why}.", ("horse", "sheep", "fox"), ("fence", "gate")),
    ("The {a} could not pull the {b} because it was too {why}.", ("donkey", "pony"), ("cart", "wagon", "boat")),
)
"""Sentences, who can do it, and what it is done to."""
REASONS = (
    (("tired", "weak", "scared"), ("wide", "busy", "long")),
    (("tired", "small", "weak"), ("high", "steep", "tall")),
    (("tired", "old", "scared"), ("high", "tall", "wide")),
    (("tired", "small", "weak"), ("heavy", "big", "large")),
)
"""For each sentence what fits the first, and what fits the second."""


class CorefExample(NamedTuple):
    """ids: a text that ends where it is to be said whom its pronoun stands for. right_answer_ids, wrong_answer_ids: the
    two possible answers. pronoun_index, right_index, wrong_index: which tokens of the text are the pronoun, the one it
    stands for, and the other, the last of each name. text: as a person reads it.
    """

    ids: list[int]
    right_answer_ids: list[int]
    wrong_answer_ids: list[int]
    pronoun_index: int
    right_index: int
    wrong_index: int
    text: str


def world_coref_examples(world: World, tokenizer: Tokenizer, count: int = 48) -> list[CorefExample]:
    """Stories of the world in which an animal could not pass something because "it" was too tired, or too high, with
    the question what was; of the test split. Raises LabError for a world without such.
    """
    if "it" not in world.task_kinds:
        raise LabError(f"TinyWorld of size {world.size.name} has no stories with the pronoun it; size lab has them.")
    found = []
    for index in range(count):
        task = world.task("test", SEED, index, "it")
        assert task.source_story is not None and task.question is not None
        animal, obstacle, _ = (str(a) for a in next(e for e in task.source_story.events if e.kind == "fail_cross").args)
        right, wrong = (animal, obstacle) if task.question.value == animal else (obstacle, animal)
        ids = encode_prompt(tokenizer, task.messages)
        options = [encode_answer_prefix(tokenizer, f"The {name}") for name in (right, wrong)]
        found.append(_example(tokenizer, ids, options, right, wrong))
    return found


def winograd_examples(tokenizer: Tokenizer, count: int = 48) -> list[CorefExample]:
    """Sentences in everyday English of the same kind, each with either reason: The Winograd Schema Challenge, Levesque,
    Davis and Morgenstern, 2012.
    """
    all_of_them = []
    for (frame, firsts, seconds), reasons in zip(FRAMES, REASONS, strict=True):
        for a, b, whose in itertools.product(firsts, seconds, (0, 1)):
            for why in reasons[whose]:
                sentence = frame.format(a=a, b=b, why=why)
                all_of_them.append((sentence, why, *((a, b) if whose == 0 else (b, a))))
    random.Random(0).shuffle(all_of_them)
    found = []
    for sentence, why, right, wrong in all_of_them[:count]:
        found.append(winograd_example(tokenizer, sentence, why, right, wrong))
    return found


def winograd_example(
    tokenizer: Tokenizer, sentence: str, question_adjective: str, right_noun: str = "animal", wrong_noun: str = "street"
) -> CorefExample:
    """One sentence of this kind, and the question what was too `question_adjective`."""
    ids = encode_text_prompt(tokenizer, f"{sentence} What was too {question_adjective}? The")
    return _example(
        tokenizer, ids, [tokenizer.encode(f" {name}") for name in (right_noun, wrong_noun)], right_noun, wrong_noun
    )


def _example(tokenizer: Tokenizer, ids: list[int], options: list[list[int]], right: str, wrong: str) -> CorefExample:
    pieces = [tokenizer.token_text(token) for token in ids]
    text = "".join(pieces)
    cause = text.rindex(" because it was too ")
    start = max(text.rfind(sign, 0, cause) for sign in (".", "\n", ">")) + 1  # of the sentence
    pronoun = token_index_at_character(pieces, cause + len(" because it") - 1)
    places = [token_index_at_character(pieces, text.index(f" {name}", start) + len(name)) for name in (right, wrong)]
    return CorefExample(ids, options[0], options[1], pronoun, places[0], places[1], text)


def token_index_at_character(token_texts: list[str], character: int) -> int:
    """The token that holds the character at this place of the joined pieces."""
    ends = itertools.accumulate(len(piece) for piece in token_texts)
    return next(i for i, end in enumerate(ends) if character < end)
