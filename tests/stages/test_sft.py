import dataclasses

import pytest
import torch

from labkit.errors import LabError
from labkit.evaluation.config import TextData, WorldData
from labkit.model.transformer import Transformer
from labkit.stages import SFT, StageInputs
from labkit.text.chat import texts_with_leading_space
from labkit.text.reading import Conversations, ReadReport
from labkit.text.sources import PackedDocumentSource
from labkit.text.tokenizer import Tokenizer
from labkit.training.config import TrainConfig
from labkit.training.loop import fit
from labkit.world import Document, Message, World
from tests.tiny_recipe import tiny_recipe

STAGE = SFT(
    TrainConfig(steps=20, batch_size=4, max_length=96, muon_lr=0.02, adamw_lr=0.02, warmup_steps=2, precision="fp32")
)


@pytest.fixture(scope="module")
def stage_inputs():
    world = World.load("tiny")
    documents = [world.conversation("train", 0, index) for index in range(60)]
    tokenizer = Tokenizer.train([piece for document in documents for piece in texts_with_leading_space(document)])
    return StageInputs(tokenizer, world, seed=2)


@pytest.fixture
def real(stage_inputs):
    asked = [
        Document(
            "conversation", "", (Message("user", f"What comes after {i}?"), Message("assistant", f"It is {i + 1}."))
        )
        for i in range(30)
    ]
    return dataclasses.replace(stage_inputs, conversations=Conversations(asked[:25], asked[25:], ReadReport("rows")))


def test_only_the_assistants_words_count(stage_inputs):
    tokenizer = stage_inputs.tokenizer
    batch = STAGE.source(stage_inputs, None).next_batch(None, 0)
    conversation = stage_inputs.world.conversation("train", 2, 0)
    counted = tokenizer.decode(batch.labels[0][batch.mask[0]].tolist(), keep_special_tokens=True)
    answers = [f" {m.content}<|end|>" for m in conversation.messages if m.role == "assistant"]
    assert answers and counted == "".join(answers)[: len(counted)]
    assert 0 < batch.mask.sum() < batch.mask.numel()


def test_the_labels_that_do_not_count_do_not_change_the_loss(stage_inputs):
    torch.manual_seed(0)
    model = Transformer(dataclasses.replace(tiny_recipe().model, vocabulary=stage_inputs.tokenizer.vocab_size))
    batch = STAGE.source(stage_inputs, None).next_batch(None, 0)
    other = batch._replace(labels=batch.labels.masked_fill(~batch.mask, 7))
    losses = [STAGE.objective(model, b)[0].item() for b in (batch, other)]
    assert losses[0] == losses[1]


def test_instruction_files_are_packed_and_every_answer_comes_once_a_pass(real):
    tokenizer, source = real.tokenizer, STAGE.source(real, None)
    assert isinstance(source, PackedDocumentSource)
    turns = len(source.packed)
    assert turns < 25  # several conversations to a row
    labels = [
        tokenizer.decode(ids[t : t + 1], keep_special_tokens=True)
        for ids, answer in source.packed
        for t in range(len(ids))
        if answer[t]
    ]
    assert "".join(labels).count("<|end|>") == 25


def test_what_it_is_measured_on(stage_inputs, real):
    assert isinstance(STAGE.eval_data(stage_inputs), WorldData)
    data = STAGE.eval_data(real)
    assert isinstance(data, TextData) and data.conversations == real.conversations.validation


@pytest.mark.parametrize("which", ["world", "file"])
def test_training_lowers_the_loss_on_held_out_answers(stage_inputs, real, which):
    chosen = stage_inputs if which == "world" else real
    torch.manual_seed(0)
    model = Transformer(dataclasses.replace(tiny_recipe().model, vocabulary=stage_inputs.tokenizer.vocab_size))
    before = STAGE.validation_loss(model, chosen, tiny_recipe().evaluation)
    list(fit(model, STAGE.source(chosen, None), STAGE.objective, STAGE.train))
    assert STAGE.validation_loss(model, chosen, tiny_recipe().evaluation) < before - 1


def test_conversations_that_do_not_fit_are_counted_said_and_left_out(real):
    """Of five in rows of 32: one whose question alone fills the row, one whose answer ends beyond it."""
    asked = real.conversations.train[:3]
    long = "What comes after this? " * 20
    no_answer = Document("conversation", "", (Message("user", long), Message("assistant", "It is 3.")))
    no_end = Document("conversation", "", (Message("user", "What?"), Message("assistant", long)))
    given = dataclasses.replace(
        real, conversations=real.conversations._replace(train=[*asked, no_answer, no_end], validation=[*asked, no_end])
    )
    stage = dataclasses.replace(STAGE, train=dataclasses.replace(STAGE.train, max_length=32))
    with pytest.warns(UserWarning) as said:
        source = stage.source(given, None)
    words = [str(one.message) for one in said]
    assert "Longer than 32 tokens (train.max_length): 2 of 5 conversations; truncated: 1, left out: 1." in words[0]
    assert "Longer than 32 tokens (train.max_length): 1 of 4 held-out conversations; truncated: 1." in words[1]
    assert (
        isinstance(source, PackedDocumentSource)
        and all(any(answer) for _, answer in source.packed)
        and source.fit == (5, 1, 1)
    )
    model = Transformer(dataclasses.replace(tiny_recipe().model, vocabulary=real.tokenizer.vocab_size))
    found = stage.evaluate(model, given, tiny_recipe().evaluation)
    assert (found["cut"], found["left_out"], found["held_out_cut"], found["held_out_left_out"]) == (1, 1, 1, 0)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_conversations_of_which_none_fits_are_refused_before_training(real, split):
    long = (Message("user", "What comes after this? " * 20), Message("assistant", "It is 3."))
    beyond = real.conversations._replace(**{split: [Document("conversation", "", long)] * 3})
    stage = dataclasses.replace(STAGE, train=dataclasses.replace(STAGE.train, max_length=32))
    with pytest.raises(LabError, match="None of 3 .*conversations fits, with its prompt, in 32 tokens"):
        stage.source(dataclasses.replace(real, conversations=beyond), None)
