import dataclasses

import pytest
import torch

from labkit.errors import LabError
from labkit.evaluation.config import TextData, WorldData
from labkit.model.transformer import Transformer
from labkit.stages import Pretrain, StageInputs
from labkit.text.chat import texts_with_leading_space
from labkit.text.reading import ReadReport, Texts
from labkit.text.sources import document_batch
from labkit.text.tokenizer import Tokenizer
from labkit.training.config import TrainConfig
from labkit.training.loop import fit
from labkit.world import World
from tests.tiny_recipe import tiny_recipe

STAGE = Pretrain(
    TrainConfig(steps=20, batch_size=4, max_length=64, muon_lr=0.02, adamw_lr=0.02, warmup_steps=2, precision="fp32")
)


@pytest.fixture(scope="module")
def stage_inputs():
    world = World.load("tiny")
    documents = [world.document("train", 0, index) for index in range(60)]
    tokenizer = Tokenizer.train([piece for document in documents for piece in texts_with_leading_space(document)])
    return StageInputs(tokenizer, world, seed=2)


@pytest.fixture
def real(stage_inputs):
    held_out = "that is the question: not to be, or to be. " * 20
    texts = Texts(["to be or not to be, that is the question. " * 40], [held_out], ReadReport("rows"))
    return dataclasses.replace(stage_inputs, texts=texts)


def new_model(stage_inputs):
    torch.manual_seed(0)
    return Transformer(dataclasses.replace(tiny_recipe().model, vocabulary=stage_inputs.tokenizer.vocab_size))


def test_each_row_is_one_document_of_the_training_split(stage_inputs):
    batch = STAGE.source(stage_inputs, None).next_batch(None, 3)
    documents = [stage_inputs.world.document("train", 2, index) for index in range(12, 16)]
    expected = document_batch(stage_inputs.tokenizer, documents, 64)
    assert all(torch.equal(a, b) for a, b in zip(batch, expected, strict=True))


def test_processes_share_a_batch(stage_inputs):
    whole = STAGE.source(stage_inputs, None).next_batch(None, 1)
    parts = [
        STAGE.source(dataclasses.replace(stage_inputs, rank=rank, world_size=2), None).next_batch(None, 1)
        for rank in (0, 1)
    ]
    assert torch.equal(whole.inputs[0::2], parts[0].inputs) and torch.equal(whole.inputs[1::2], parts[1].inputs)


def test_real_text_is_read_in_crops(real):
    batch = STAGE.source(real, None).next_batch(None, 0)
    assert batch.inputs.shape == (4, 64) and batch.mask.all()
    assert (batch.inputs[:, 0] == real.tokenizer.bos_token_id).all()
    assert real.tokenizer.decode(batch.labels[0].tolist()) in real.texts.train[0]


def test_text_shorter_than_a_row(stage_inputs):
    short = dataclasses.replace(stage_inputs, texts=Texts(["too short"], ["x"], ReadReport("rows")))
    with pytest.raises(LabError, match="too short: .* tokens, but a context of 64 needs at least"):
        STAGE.source(short, None)


def test_what_it_is_measured_on(stage_inputs, real):
    data = STAGE.eval_data(stage_inputs)
    assert isinstance(data, WorldData) and data.num_trained_documents == 80 and data.seed == 2
    data = STAGE.eval_data(real)
    assert isinstance(data, TextData) and data.texts == real.texts.validation


@pytest.mark.parametrize("which", ["world", "text"])
def test_training_lowers_the_held_out_loss(stage_inputs, real, which):
    chosen = stage_inputs if which == "world" else real
    model, evaluation = new_model(stage_inputs), tiny_recipe().evaluation
    before = STAGE.validation_loss(model, chosen, evaluation)
    list(fit(model, STAGE.source(chosen, None), STAGE.objective, STAGE.train))
    assert STAGE.validation_loss(model, chosen, evaluation) < before - 0.5
