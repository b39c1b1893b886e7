"""The oracle: reference answers score right, and it is hard to fool."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.world import Message, Task, World, gold_score
from labkit.world.profiles import Annotator
from labkit.world.tasks import OTHER, READING

WORLD = World.load("lab")
FULL = World.load("full")
PROFILES = WORLD.profiles
STORY = ("One day, Anna was in the park. Anna had a red ball. Ben was at the school. Anna lost the ball. "
         "Anna was sad because she lost the ball. Ben found the ball. Ben was proud. Anna went to the school. "
         "Ben gave the ball to Anna. Anna was happy.")  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(READING + OTHER), st.integers(0, 10**6), st.sampled_from([WORLD, FULL]))
def test_every_reference_answer_is_right(kind, seed, world):
    task = world.task("test", seed, 0, kind)
    for profile in world.profiles.values():
        got = gold_score(world, task, task.reference, profile)
        assert (got.right, got.supported, got.consistent) == (1, 1, 1), (task, got)
        assert got.total > 0.5


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["sentence", "fragment", "polite", "reason"]))
def test_every_style_of_answer_is_right(seed, style):
    task = WORLD.task("test", seed, 0, random.Random(seed).choice(READING))
    assert task.question and task.source_story
    answer = WORLD.example_generator.tasks.write_answer(task.question, task.source_story, random.Random(seed), style)
    got = gold_score(WORLD, task, answer, PROFILES["warm"])
    assert (got.right, got.supported, got.fluent) == (1, 1, 1), (task.messages, answer, got.reasons)


def gamed(task) -> dict[str, str]:
    """Ways to score without answering."""
    places = WORLD.lexicon.surfaces["place", "in"]
    return {
        "empty": "",
        "blank": "  \n ",
        "repeated": " ".join([task.reference] * 8),
        "copied": task.story,
        "echo": task.messages[-1].content.split("\n")[-1],
        "whole prompt": task.messages[0].content,
        "rambling": task.reference + " " + task.story,
        "every answer": " ".join(s[0].upper() + s[1:] + "." for s in places.values()),
        "nonsense": "the of ball ball in in Anna.",
        "only polite": "Of course! I hope that helps!",
        "unsure": "Anna or Ben or the ball.",
    }


@pytest.mark.parametrize("kind", READING)
@pytest.mark.parametrize("profile", ["concise", "warm", "thorough"])
def test_gaming_scores_low(kind, profile):
    for seed in range(10):
        task = WORLD.task("test", seed, 0, kind)
        honest = gold_score(WORLD, task, task.reference, PROFILES[profile]).total
        for trick, response in gamed(task).items():
            got = gold_score(WORLD, task, response, PROFILES[profile])
            assert got.total < 0.35 * honest, (trick, task.messages[-1].content[-60:], response[:80], got)


def test_two_answers_are_no_answer():
    task = WORLD.task("test", 0, 0, "where")
    assert task.question
    true = WORLD.lexicon.surfaces["place", "in"][task.question.value]
    other = next(s for p, s in WORLD.lexicon.surfaces["place", "in"].items() if p != task.question.value)
    both = f"{true[0].upper() + true[1:]}. {other[0].upper() + other[1:]}."
    got = gold_score(WORLD, task, both, PROFILES["concise"])
    assert got.right == 0 and got.consistent == 0 and "it gives more than one answer" in got.reasons


def test_what_the_story_does_not_say_is_unsupported():
    task = WORLD.task("test", 0, 0, "where")
    good = gold_score(WORLD, task, task.reference, PROFILES["thorough"])
    made_up = gold_score(WORLD, task, task.reference + " Felix was sad.", PROFILES["thorough"])
    assert made_up.right == 1 and made_up.supported == 0.5 and made_up.total < 0.6 * good.total
    assert "not true, or not an answer: Felix was sad." in made_up.reasons


def total(task: Task, answer: str, profile: Annotator) -> float:
    return gold_score(WORLD, task, answer, profile).total


def test_profiles_disagree():
    tasks, compared = WORLD.example_generator.tasks, 0
    for seed in range(30):
        task = WORLD.task("test", seed, 0, "where")
        assert task.question and task.source_story
        if tasks.last_other_event_about_subject(task.question, task.source_story) is None:
            continue
        answers = [
            tasks.write_answer(task.question, task.source_story, random.Random(0), style)
            for style in ("fragment", "polite", "reason")
        ]
        for chosen, name in enumerate(("concise", "warm", "thorough")):
            totals = [total(task, answer, PROFILES[name]) for answer in answers]
            assert totals.index(max(totals)) == chosen
        compared += 1
    assert compared > 10


def test_a_secret_is_refused_and_not_told():
    task = WORLD.task("test", 0, 0, "refuse")
    assert gold_score(WORLD, task, task.reference, PROFILES["warm"]).right == 1
    assert gold_score(WORLD, task, "Anna was in the park.", PROFILES["warm"]).right == 0
    assert gold_score(WORLD, task, task.reference + " Anna was in the park.", PROFILES["warm"]).right == 0


def test_a_written_story_must_hold_what_was_asked():
    task = WORLD.task("test", 0, 0, "write")
    missing = gold_score(WORLD, task, STORY.replace("ball", "kite").replace("Anna", "Zoe"), PROFILES["thorough"])
    assert missing.right == 0 and missing.complete < 1
    assert any("missing" in reason for reason in missing.reasons)
    assert gold_score(WORLD, task, "", PROFILES["thorough"]).total == 0


def test_a_retelling_is_one_sentence():
    task = WORLD.task("test", 0, 0, "retell")
    assert gold_score(WORLD, task, task.story, PROFILES["concise"]).right == 0
    assert gold_score(WORLD, task, task.reference, PROFILES["concise"]).right == 1


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200), st.sampled_from(READING + OTHER))
def test_any_text_gets_a_score_in_range(text, kind):
    task = WORLD.task("test", 0, 0, kind)
    got = gold_score(WORLD, task, text, PROFILES["warm"])
    assert all(0 <= value <= 1 for value in got[:-1])


def test_annotators_err_at_their_rate():
    profile = Annotator("p", 1, 0, 0, 10, flip_probability=0.2)
    rng = random.Random(0)
    wrong = sum(not profile.chooses_first(1.0, 0.5, rng) for _ in range(5000)) / 5000
    assert abs(wrong - 0.2) < 0.02
    even = sum(profile.chooses_first(0.5, 0.5, rng) for _ in range(5000)) / 5000
    assert abs(even - 0.5) < 0.03


def test_messages_have_a_role_and_a_content():
    assert Message("user", "Hi") == ("user", "Hi", 1), "and a weight, which is 1 where a file gives none"
