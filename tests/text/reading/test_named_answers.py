"""Answers that models gave under columns of their own: the models' names are never learned as answers."""

import json

import pytest

from labkit.errors import LabError
from tests.text.reading.samples import jsonl, pairs

ASKED = {"role": "user", "content": "Hi {}?"}
GOOD, BAD = "Yes, I am {}.", "No, I am not."
SAID = [[ASKED, {"role": "assistant", "content": text}] for text in (BAD, GOOD)]
MODELS = {"model_a": "vicuna-13b", "model_b": "koala 13b"}
ARENA = {**MODELS, "winner": "model_b", "conversation_a": SAID[0], "conversation_b": SAID[1]}


def numbered(row, count=4):
    return [json.loads(json.dumps(row).replace("{}", str(n))) for n in range(count)]


@pytest.mark.parametrize(
    "row",
    [
        ARENA,
        {"prompt": "Hi {}?", **ARENA},
        {"prompt": "Hi {}?", **MODELS, "winner": "b", "conv_a": SAID[0][1:], "conv_b": SAID[1][1:]},
        {"prompt": "Hi {}?", **ARENA, "winner": "", "chosen": "model_b", "rejected": "model_a"},
    ],
)
def test_chatbot_arena_is_read_from_its_conversations(tmp_path, row):
    found, _ = pairs(jsonl(tmp_path / "rows.jsonl", numbered(row)))
    assert found == [([("user", f"Hi {n}?")], f"Yes, I am {n}.", BAD) for n in range(4)]


@pytest.mark.parametrize("pointer", [{"winner": "model_b"}, {"chosen": "model_b", "rejected": "model_a"}])
@pytest.mark.parametrize("stem", ["reply_text", "utterance", "dialogue"])
@pytest.mark.parametrize("value", [lambda text: text, lambda text: [{"role": "assistant", "content": text}]])
def test_names_of_models_beside_columns_that_nobody_reads_are_refused(tmp_path, pointer, stem, value):
    row = {"prompt": "Hi {}?", **MODELS, **pointer, f"{stem}_a": value(BAD), f"{stem}_b": value(GOOD)}
    with pytest.raises(LabError, match="rows cannot be used"):
        pairs(jsonl(tmp_path / "rows.jsonl", numbered(row)))


def test_a_few_words_beside_messages_that_nobody_reads_are_refused(tmp_path):
    row = {"prompt": "Hi {}?", "chosen": "left", "rejected": "right", "talk_x": SAID[0], "talk_y": SAID[1]}
    with pytest.raises(LabError, match="left, right, which seem to point to the answers in the columns talk_x, talk_y"):
        pairs(jsonl(tmp_path / "rows.jsonl", numbered(row)))


def test_a_tie_of_the_arena_is_counted(tmp_path):
    tied = {**ARENA, "winner": "tie (bothbad)"}
    _, reading = pairs(jsonl(tmp_path / "rows.jsonl", [*numbered(ARENA), *numbered(tied, 2)]))
    assert reading.dropped == {"tie": 2}
