"""A simulated user asks on after a right answer, once more after a wrong one, and is content at the end or not."""

import random

import pytest

from labkit.errors import LabError
from labkit.world import World
from labkit.world.users import AGAIN, THANKS, SimulatedUser

WORLD = World.load("tiny")


def user(index: int = 0, profile: str = "concise", **options) -> SimulatedUser:
    return SimulatedUser(WORLD, WORLD.profiles[profile], "train", 0, index, **options)


def right_answer(asking: SimulatedUser, style: str = "sentence") -> str:
    tasks = WORLD.example_generator.tasks
    return tasks.write_answer(asking.questions[asking.at], asking.story, random.Random(0), style)


def test_right_answers_bring_the_next_question_and_the_end():
    for index in range(20):
        asking = user(index)
        assert asking.first_message() == f"{asking.story.text}\n{asking.asked[0]}"
        assert asking.reply(right_answer(asking)) == f"{THANKS} {asking.asked[1]}"
        assert asking.reply(right_answer(asking)) is None
        assert asking.satisfaction() == pytest.approx(1)
        assert [message.role for message in asking.messages] == ["user", "assistant"] * 2


def test_a_wrong_answer_is_asked_once_more_and_costs():
    asking = user()
    asking.first_message()
    assert asking.reply("I like cats") == f"{AGAIN} {asking.asked[0]}"
    assert asking.reply(right_answer(asking)) == f"{THANKS} {asking.asked[1]}"
    assert asking.reply("") == f"{AGAIN} {asking.asked[1]}"
    assert asking.reply("") is None
    assert asking.satisfaction() == pytest.approx(0.5 - 2 * 0.1)


def test_two_wrong_answers_end_it():
    asking = user()
    asking.first_message()
    asking.reply("")
    assert asking.reply("") is None and asking.satisfaction() == pytest.approx(-0.1)


def test_polite_answers_please_a_user_by_the_profiles_weight():
    found = []
    for profile in ("concise", "warm"):
        asking = user(profile=profile)
        asking.first_message()
        while asking.reply(right_answer(asking, "polite")) is not None:
            pass
        found.append(asking.satisfaction())
    assert found == pytest.approx([1 + 0.2 * 0.1, 1 + 0.2 * 0.7])


def test_turns_are_at_most_so_many_and_a_user_is_the_same_again():
    asking = user(max_turns=2)
    asking.first_message()
    asking.reply("")
    assert asking.reply(right_answer(asking)) is None, "two answers were read"
    assert asking.satisfaction() == pytest.approx(0.5 - 0.1)
    assert user(3).first_message() == user(3).first_message() != user(4).first_message()
    with pytest.raises(LabError, match="reads at least as many answers: max_turns is 1"):
        user(num_questions=2, max_turns=1)


def test_more_questions_than_any_story_has_are_refused():
    with pytest.raises(LabError, match="None of 1,000 stories has 100 questions. Lower num_questions."):
        user(num_questions=100, max_turns=100)
