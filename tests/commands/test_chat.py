"""A conversation in pieces: what is sent to the model, what is forgotten, and that pieces add up."""

import io
from pathlib import Path

import pytest
import torch

from labkit.commands.chat import ChatOptions, Conversation, _say, read_message
from labkit.decoding import Temperature, TopK, TopP
from labkit.decoding.filters import sampling_filters
from labkit.errors import LabError
from labkit.model import Gated, ModelConfig, Transformer
from labkit.text.tokenizer import Tokenizer
from labkit.world import Message


@pytest.fixture(scope="module")
def talk() -> Conversation:
    tokenizer = Tokenizer.train(["Tom is in the park. Where is Tom? Grüße! " * 20])
    torch.manual_seed(0)
    config = ModelConfig(
        vocabulary=tokenizer.vocab_size,
        context=48,
        width=16,
        depth=1,
        heads=1,
        key_value_heads=1,
        feed_forward=Gated(16),
    )
    options = ChatOptions(Path("somewhere"), temperature=1.0, max_tokens=10)
    return Conversation(Transformer(config).eval(), tokenizer, options)


def test_filters_leave_out_what_changes_nothing():
    assert sampling_filters(1.0, 0, 1.0) == []
    assert sampling_filters(0.8, 40, 0.9) == [Temperature(0.8), TopK(40), TopP(0.9)]
    assert sampling_filters(0.0, 0, 1.0) == [Temperature(0.0)]


def test_a_message_is_taken_as_it_is_and_goes_on_after_a_backslash(monkeypatch):
    typed = "C:\\new\\table \nTom is here.\\\nWhere is Tom?\n\nand\\\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    told = [read_message(False) for _ in range(4)]
    assert told == ["C:\\new\\table", "Tom is here.\nWhere is Tom?", "", "and"] and read_message(False) is None


def test_a_prompt_and_stop_texts_keep_their_backslashes(monkeypatch, capsys):
    from labkit.commands.main import main
    from labkit.paths import demo_folder

    asked = ["generate", str(demo_folder()), "--prompt", "C:\\new", "--stop", "\\n", "--max-tokens", "2"]
    assert main(asked) == 0
    assert capsys.readouterr().out.startswith("C:\\new")


def test_the_pieces_of_a_reply_add_up_to_it(talk):
    talk.reset()
    for question in ("Where is Tom?", "Grüße!", "Tom?"):
        said = "".join(talk.answer(question))
        assert talk.messages[-1].role == "assistant"
        assert said.strip() == talk.messages[-1].content


def test_a_story_opens_the_next_message_and_only_that(talk):
    talk.reset("Tom is here.")
    list(talk.answer("Where?"))
    assert talk.messages[0].content == "Tom is here.\nWhere?"
    list(talk.answer("And now?"))
    assert talk.messages[-2].content == "And now?"


def test_the_oldest_exchange_is_forgotten_when_the_context_is_full(talk):
    talk.reset()
    for _ in range(8):
        list(talk.answer("Where is Tom?"))
        assert talk.messages[0].role == "user"
    assert len(talk.messages) < 16 and talk.forgotten == 2


@pytest.mark.parametrize("message", ["Tom is in the park. " * 1000, "half \ud83d"])
def test_a_message_that_cannot_be_read_is_refused_and_the_conversation_goes_on(talk, message, capsys):
    talk.reset()
    list(talk.answer("Where is Tom?"))
    before = list(talk.messages)
    talk.story = "Tom is here."
    with pytest.raises(
        LabError, match=("The prompt has .* leaves no room for new tokens in a context of 48|a broken character")
    ):
        list(talk.answer(message))
    assert talk.messages == before and talk.story == "Tom is here."
    _say(talk, message)
    assert capsys.readouterr().err.startswith("labkit: The ")
    _say(talk, "Tom?")
    assert talk.messages[-2].content == "Tom is here.\nTom?"


def test_a_message_that_fits_is_never_cut(talk):
    talk.reset()
    messages, prompt = talk._fitting([Message("user", "Tom is in the park. " * 8)])
    assert len(prompt) > 48 - 10  # no room for the whole reply
    assert prompt[:2] == [talk.tokenizer.bos_token_id, talk.tokenizer.token_to_id("<|user|>")] and messages
