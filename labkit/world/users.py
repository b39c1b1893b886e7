"""Simulated users who ask follow-ups: a user has a story and questions about it, and asks one after another.

    user = SimulatedUser(world, world.profiles["warm"], "train", seed=0, index=3)
    message = user.first_message()
    while message is not None:
        message = user.reply(answer_to(message))
    user.satisfaction()

A right answer brings the next question, a wrong one the same question once more, and a second wrong one ends the
conversation. How content the user is, is known at the end alone: a delayed reward.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from labkit.errors import LabError
from labkit.world.oracle import gold_score
from labkit.world.profiles import Annotator
from labkit.world.tasks import Message, Task

if TYPE_CHECKING:
    from labkit.world import World

REPEAT_COST = 0.1
"""What asking a question again takes off the satisfaction."""
POLITE_GAIN = 0.2
"""What polite answers add at most, to a user whose profile weighs nothing else."""
STORIES = 1000
"""That are told at most to find one with enough questions."""
THANKS, AGAIN = "Thank you.", "That is not right."


class SimulatedUser:
    """One user of TinyWorld; the same for the same arguments and the same answers."""

    def __init__(
        self,
        world: World,
        profile: Annotator,
        split: str,
        seed: int,
        index: int,
        *,
        num_questions: int = 2,
        max_turns: int = 4,
    ):
        """max_turns: answers that the user reads at most. Raises LabError where they are fewer than the questions, and
        where no story has so many questions.
        """
        if not 1 <= num_questions <= max_turns:
            raise LabError(
                f"A simulated user with {num_questions} questions reads at least as many answers: max_turns is "
                f"{max_turns}. Raise it, or lower num_questions (at least 1)."
            )
        self.world, self.profile, self.max_turns = world, profile, max_turns
        self.rng = random.Random(f"user {split} {seed} {index}")
        tasks = world.example_generator.tasks
        for _ in range(STORIES):
            self.story = tasks.story_generator.story(split, self.rng)
            self.questions = tasks.questions(self.story, self.rng)[:num_questions]
            if len(self.questions) == num_questions:
                break
        else:
            raise LabError(f"None of {STORIES:,} stories has {num_questions} questions. Lower num_questions.")
        self.asked = [world.answers.write_question(question, {}, self.rng) for question in self.questions]
        self.messages: list[Message] = []
        self.at = self.right = self.repeats = 0
        self.polite: list[float] = []

    def first_message(self) -> str:
        """The story and the first question."""
        return self._say(f"{self.story.text}\n{self.asked[0]}")

    def reply(self, answer: str) -> str | None:
        """What the user says to an answer; None ends the conversation."""
        score = gold_score(self.world, self._task(), answer, self.profile)
        self.messages.append(Message("assistant", answer))
        self.polite.append(score.polite)
        if score.right == 1:
            self.right, self.at = self.right + 1, self.at + 1
        elif self._repeated():
            return None
        done = self.at == len(self.questions) or len(self.polite) == self.max_turns
        if done:
            return None
        if score.right == 1:
            return self._say(f"{THANKS} {self.asked[self.at]}")
        self.repeats += 1
        return self._say(f"{AGAIN} {self.asked[self.at]}")

    def satisfaction(self) -> float:
        """The share of the questions that were answered rightly, less REPEAT_COST for each that was asked again, plus
        POLITE_GAIN times the profile's weight of politeness times the share of polite answers.
        """
        polite = sum(self.polite) / max(len(self.polite), 1)
        right = self.right / len(self.questions)
        return right - REPEAT_COST * self.repeats + POLITE_GAIN * self.profile.polite * polite

    def _repeated(self) -> bool:
        """Whether the question was asked again already."""
        return self.messages[-2].content.startswith(AGAIN)

    def _task(self) -> Task:
        question = self.questions[self.at]
        return Task(question.question_type, tuple(self.messages), "", self.story.text, self.story, question)

    def _say(self, text: str) -> str:
        self.messages.append(Message("user", text))
        return text
