"""Conversations with simulated users: rows in the form of a chat, all at once, ended cleanly, measured in pairs."""

import random

import numpy as np
import pytest

from labkit.errors import LabError
from labkit.evaluation.conversations import (
    Conversation,
    ConversationScores,
    SimulatedUsers,
    conversation_scores,
    greedy_conversations,
    hold_conversations,
    paired_conversation_metrics,
)
from labkit.text.chat import encode_answer_prefix, encode_messages, encode_prompt
from labkit.world import Message
from tests.tiny_alignment import tiny_materials

INPUTS = tiny_materials()
TOKENIZER = INPUTS.tokenizer


def users_of(split: str = "train", max_length: int = 256, **options) -> SimulatedUsers:
    asked = {"num_questions": 2, "max_turns": 4, "max_new_tokens": 20} | options
    return SimulatedUsers(TOKENIZER, INPUTS.world, "warm", split, 0, max_length=max_length, **asked)


def right_answer(user) -> str:
    tasks = INPUTS.world.example_generator.tasks
    return tasks.write_answer(user.questions[user.at], user.story, random.Random(0), "polite")


def answered_rightly(users: SimulatedUsers, index: int) -> Conversation:
    one = Conversation(users, index)
    while one.add_answer([*encode_answer_prefix(TOKENIZER, right_answer(one.user)), TOKENIZER.turn_end_id]):
        pass
    return one


def test_a_row_is_the_conversation_as_the_chat_form_writes_it():
    users = users_of()
    for index in range(5):
        one = answered_rightly(users, index)
        assert one.ids == encode_messages(TOKENIZER, one.user.messages) and one.answers == 2
        assert (
            one.ids[: one.prompt_length] == users.prompt_ids(index) == encode_prompt(TOKENIZER, one.user.messages[:1])
        )
        answers = [message.content for message in one.user.messages if message.role == "assistant"]
        drawn = [token for token, is_drawn in zip(one.ids, one.answer_mask, strict=True) if is_drawn]
        ended = [[*encode_answer_prefix(TOKENIZER, answer), TOKENIZER.turn_end_id] for answer in answers]
        assert drawn == [token for answer in ended for token in answer]
        assert one.user.satisfaction() == pytest.approx(1 + 0.2 * 0.7)


def test_drawn_tokens_stay_as_they_were_drawn_and_a_cut_answer_is_ended_for_the_model():
    """Spelt letter by letter, which encoding the words anew would not give; and without an end."""
    letters = [token for letter in " cats" for token in TOKENIZER.encode(letter)]
    assert letters != TOKENIZER.encode(" cats")
    one = Conversation(users_of(), 0)
    assert one.add_answer(letters)
    start = one.prompt_length
    assert one.ids[start : start + len(letters)] == letters
    rest = one.ids[start + len(letters) :]
    assert rest == [TOKENIZER.turn_end_id, *encode_prompt(TOKENIZER, [one.user.messages[-1]])[1:]]
    assert sum(one.answer_mask) == len(letters) and one.user.messages[1] == Message("assistant", "cats")


def test_all_that_go_on_are_answered_together_and_turn_by_turn():
    """Of two users the first is answered wrongly twice, and is gone; the second rightly once, then wrongly twice."""
    users = users_of(num_questions=3, max_turns=4)
    turns = []

    def write(turn, going_on, rows):
        turns.append((turn, list(going_on)))
        first = answered[turn] if 1 in going_on else ""
        return [encode_answer_prefix(TOKENIZER, first if at == 1 else "no") for at in going_on]

    user = users.user(1)
    user.first_message()
    answered = {0: right_answer(user), 1: "no", 2: "no"}
    held = hold_conversations(users, [0, 1], write)
    assert turns == [(0, [0, 1]), (1, [0, 1]), (2, [1])]
    assert [one.answers for one in held] == [2, 3] and [one.user.right for one in held] == [0, 1]


def test_a_conversation_that_no_longer_fits_is_ended_and_counted():
    """A row with room for the first message and two answers, not for a turn between them."""
    room = len(users_of().prompt_ids(0)) + 2 * 20
    users = users_of(max_length=room)
    one = answered_rightly(users, 0)
    assert one.truncated and one.answers == 1 and len(one.ids) <= room
    assert one.user.satisfaction() == pytest.approx(0.5 + 0.2 * 0.7), "half of what was asked"
    assert one.ids[-1] == TOKENIZER.turn_end_id and one.answer_mask[-1], "the row ends with the answer"
    assert not answered_rightly(users_of(), 0).truncated
    assert conversation_scores([one]).truncated.tolist() == [1]


def test_users_are_of_their_split_and_leave_room_for_an_answer():
    train, test = users_of(), users_of("test")
    assert [train.prompt_ids(index) for index in range(20)] == [users_of().prompt_ids(index) for index in range(20)]
    assert train.messages(3)[0].content != test.messages(3)[0].content
    lengths = [len(train.prompt_ids(index)) for index in range(40)]
    narrow = users_of(max_length=sorted(lengths)[20] + 20)
    assert all(len(narrow.prompt_ids(index)) <= sorted(lengths)[20] for index in range(40))
    for index, length in enumerate(lengths):
        assert (narrow.prompt_ids(index) == train.prompt_ids(index)) == (length <= sorted(lengths)[20])
    with pytest.raises(LabError, match="leaves 4 tokens for a prompt, too few for TinyWorld's"):
        users_of(max_length=24).prompt_ids(0)


def test_what_changed_is_measured_user_by_user():
    """Satisfaction 1 and 0.5 where it was 0.5 and 0.5: a gain of 0.25 with deviation 0.25, so an error of 0.25 / √2."""
    columns = {"right": 1.0, "repeats": 0.0, "turns": 2.0, "polite": 0.0, "truncated": 0.0}

    def scores(*satisfaction: float) -> ConversationScores:
        both = {name: [value, value] for name, value in columns.items()}
        return ConversationScores(*map(np.array, ([*satisfaction], *both.values())))

    found = paired_conversation_metrics(scores(1.0, 0.5), scores(0.5, 0.5))
    assert found["satisfaction_gain"] == 0.25 and found["prompts"] == 2
    assert found["satisfaction_gain_standard_error"] == pytest.approx(0.25 / 2**0.5)
    assert (found["satisfaction"], found["satisfaction_before"], found["turns_before"]) == (0.75, 0.5, 2)


def test_a_model_talks_with_each_user_as_it_does_alone():
    users = users_of("test")
    model = INPUTS.model("sft")
    together = greedy_conversations(model, users, range(4))
    for index, one in enumerate(together):
        (alone,) = greedy_conversations(model, users, [index])
        assert alone.ids == one.ids and alone.answer_mask == one.answer_mask
