"""The oracle's labels of sentences."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.world import World, gold_score, label_steps
from labkit.world.tasks import OTHER, READING

WORLD = World.load("lab")


def task_of(kind, index=0):
    return WORLD.task("test", 0, index, kind)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(READING + OTHER), st.integers(0, 10**6))
def test_every_sentence_of_a_reference_answer_is_correct(kind, seed):
    task = WORLD.task("test", seed, 0, kind)
    steps = label_steps(WORLD, task, task.reference)
    assert all(step.correct for step in steps) and " ".join(step.sentence for step in steps) == task.reference


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(READING + OTHER), st.sampled_from(READING + OTHER), st.integers(0, 10**6))
def test_an_answer_without_a_wrong_sentence_is_right_and_true(kind, other, seed):
    """Whatever is said to whatever is asked."""
    task = WORLD.task("test", seed, 0, kind)
    said = f"{task.reference} {WORLD.task('test', seed, 1, other).reference}"
    score = gold_score(WORLD, task, said, WORLD.profiles["warm"])
    correct = [step.correct for step in label_steps(WORLD, task, said)]
    sound = score.right == score.supported == score.consistent == score.fluent == 1
    assert all(correct) == sound, (said, correct, score)


def test_a_story_is_labelled_sentence_by_sentence():
    task = task_of("write")
    sentences = [step.sentence for step in label_steps(WORLD, task, task.reference)]
    who = task.story_requirements.mentioned[0]
    broken = [sentences[0], f"{who} had a course!", *sentences[1:]]
    labels = [step.correct for step in label_steps(WORLD, task, " ".join(broken))]
    assert labels == [True, False, *[True] * (len(sentences) - 1)]
    cut = label_steps(WORLD, task, " ".join(sentences[:2]))
    assert [step.correct for step in cut] == [True, False]  # it ends before it is what was asked for


@pytest.mark.parametrize(
    ("kind", "answer", "labels"),
    [
        ("where", "", [False]),
        ("where", "I hope that helps!", [False]),
        ("refuse", "I am sorry, but that is a secret. Anna is sad.", [True, False]),
        ("where", "Um.", [False]),
    ],
)
def test_answers_that_do_not_answer(kind, answer, labels):
    assert [step.correct for step in label_steps(WORLD, task_of(kind), answer)] == labels


def test_what_was_said_before_is_not_said_again():
    task = task_of("where")
    steps = label_steps(WORLD, task, f"Sure! {task.reference} {task.reference}")
    assert [step.correct for step in steps] == [True, True, False]
