"""Each family beside transformers' own class, both ways, from files."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from labkit.decoding.generate import left_pad
from labkit.errors import LabError
from labkit.hub import from_pretrained, save_pretrained
from labkit.hub.families import FAMILIES
from labkit.model.feedforward import Plain
from labkit.model.positions import Learned, NoPosition
from labkit.model.rwkv import RWKV
from labkit.model.transformer import ModelConfig, Transformer
from tests.devices import use_device
from tests.tiny import weights_hash

V, T = 61, 13
LLAMA = {
    "vocab_size": V,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
WINDOW = {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 0}
GPT2 = {"vocab_size": V, "n_positions": 64, "n_embd": 32, "n_layer": 3, "n_head": 4}
BLOOM = {"vocab_size": V, "hidden_size": 32, "n_layer": 3}
BERT = {"vocab_size": V, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
T5 = {"vocab_size": V, "d_model": 32, "d_kv": 12, "d_ff": 48, "num_layers": 3, "num_decoder_layers": 2, "num_heads": 4}


SWITCH = T5 | {"num_layers": 4, "num_sparse_encoder_layers": 2, "num_sparse_decoder_layers": 1, "num_experts": 3}


def rope(kind: str, **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 500.0, **more}}


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", LLAMA | rope("default")),
    "llama-tied": ("Llama", LLAMA | {"tie_word_embeddings": True, "head_dim": 16}),
    "llama-linear": ("Llama", LLAMA | rope("linear", factor=4.0)),
    "llama-3": (
        "Llama",
        LLAMA
        | rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32),
    ),
    "llama-yarn": ("Llama", LLAMA | rope("yarn", factor=4.0, original_max_position_embeddings=16)),
    "llama-yarn-told": (
        "Llama",
        LLAMA
        | {"original_max_position_embeddings": 32}
        | rope("yarn", factor=4.0, original_max_position_embeddings=16, attention_factor=1.3)
        | {"max_position_embeddings": 96},
    ),
    "llama-yarn-ramp": (
        "Llama",
        LLAMA
        | rope("yarn", factor=4.0, original_max_position_embeddings=32, beta_fast=4.0, beta_slow=0.5, truncate=False),
    ),
    "llama-yarn-mscale": (
        "Llama",
        LLAMA | rope("yarn", factor=8.0, original_max_position_embeddings=32, mscale=0.7, mscale_all_dim=1.2),
    ),
    "mistral": ("Mistral", LLAMA | {"head_dim": 8, "sliding_window": None}),
    "mistral-window": ("Mistral", LLAMA | {"head_dim": 8, "sliding_window": 5}),
    "qwen2": ("Qwen2", LLAMA | {"tie_word_embeddings": True}),
    "qwen2-window": ("Qwen2", LLAMA | WINDOW),
    "qwen3": ("Qwen3", LLAMA | {"head_dim": 16}),
    "qwen3-window": ("Qwen3", LLAMA | WINDOW),
    "mixtral": ("Mixtral", LLAMA | {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "gpt2": ("GPT2", GPT2),
    "gpt2-inner": ("GPT2", GPT2 | {"n_inner": 40, "activation_function": "relu"}),
    "bloom": ("Bloom", BLOOM | {"n_head": 4}),
    "bloom-heads": ("Bloom", BLOOM | {"hidden_size": 36, "n_head": 6}),
    "bert": ("Bert", BERT),
    "t5": ("T5", T5),
    "bert-pairs": ("Bert", BERT),
    "switch": ("SwitchTransformers", SWITCH),
    "t5-gated": ("T5", T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
}
CLASSES = {
    "bert": "BertForMaskedLM",
    "bert-pairs": "BertForPreTraining",
    "switch": "SwitchTransformersForConditionalGeneration",
}


def theirs(case: str) -> Any:
    """transformers' model, every weight drawn at random so that none is at rest."""
    name, options = CASES[case]
    special = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}
    config = getattr(transformers, f"{name}Config")(**options, **special)
    if name in ("T5", "SwitchTransformers"):
        config.decoder_start_token_id = 0
    config._attn_implementation = "eager"
    kind = {"T5": "T5ForConditionalGeneration", "GPT2": "GPT2LMHeadModel"}.get(name, f"{name}ForCausalLM")
    model = getattr(transformers, CLASSES.get(case, kind))(config).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


def tokens(rows: int = 3, seed: int = 1) -> torch.Tensor:
    return torch.randint(1, V, (rows, T), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def their_logits(model: Any, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    if model.config.is_encoder_decoder:
        return model(input_ids=ids, attention_mask=mask.long(), decoder_input_ids=ids.flip(1)).logits
    found = model(input_ids=ids, attention_mask=mask.long())
    return found.prediction_logits if "prediction_logits" in found else found.logits


@torch.no_grad()
def our_logits(model: Transformer, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    model.cpu()
    if model.encoder is not None:
        return model(ids.flip(1), memory=model.encode(ids, mask))
    return model(ids, mask=mask)


def padded() -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens of rows that end early, and their mask."""
    mask = torch.ones(3, T, dtype=torch.bool)
    mask[1, 9:] = mask[2, 4:] = False
    return tokens().masked_fill(~mask, 0), mask


@pytest.mark.parametrize("case", CASES)
def test_logits_are_theirs_with_padding_and_back_again(case, tmp_path):
    published = theirs(case)
    published.save_pretrained(tmp_path / "in")
    ours = from_pretrained(tmp_path / "in")
    ids, mask = padded()
    expected = their_logits(published, ids, mask)
    counts = mask if ours.encoder is None else torch.ones_like(mask)  # what pads a decoder's row is read here
    torch.testing.assert_close(our_logits(ours, ids, mask)[counts], expected[counts], atol=1e-4, rtol=0)
    save_pretrained(ours, tmp_path / "out")
    again = type(published).from_pretrained(tmp_path / "out", attn_implementation="eager").eval()
    torch.testing.assert_close(their_logits(again, ids, mask)[counts], expected[counts], atol=1e-5, rtol=0)
    assert from_pretrained(tmp_path / "out").config == ours.config


@pytest.mark.parametrize("case", [name for name in CASES if "bert" not in name])
def test_with_a_cache_the_same(case, tmp_path):
    theirs(case).save_pretrained(tmp_path)
    model, ids = from_pretrained(tmp_path).cpu(), tokens()
    with torch.no_grad():
        memory = None if model.encoder is None else model.encode(tokens(seed=2))
        whole, state = model(ids, memory=memory), model.new_state(3, T)
        pieces = [model(ids[:, a:b], state=state, memory=memory) for a, b in ((0, 5), (5, 6), (6, T))]
    torch.testing.assert_close(torch.cat(pieces, 1), whole, atol=5e-5, rtol=0)


@torch.no_grad()
def test_a_window_counts_a_text_that_begins_later_alike():
    """Padding on the left, and several texts in one row: a token sees the same five up to itself."""
    shape: dict[str, Any] = {"width": 32, "depth": 2, "heads": 2, "key_value_heads": 1, "feed_forward": Plain(16)}
    torch.manual_seed(0)
    model = Transformer(ModelConfig(V, 64, **shape, window=5)).eval()
    one, other = tokens(1, seed=1)[:, :9], tokens(1, seed=2)
    expected = model(one)[0, -1], model(other)[0, -1]
    assert not torch.allclose(Transformer(ModelConfig(V, 64, **shape)).eval()(one)[0, -1], expected[0])
    batch, positions, mask = left_pad([one[0].tolist(), other[0].tolist()])
    torch.testing.assert_close(model(batch, positions, mask)[:, -1], torch.stack(expected), atol=1e-5, rtol=0)
    packed = model(torch.cat((one, other), 1), documents=torch.tensor([[0] * 9 + [1] * T]))
    torch.testing.assert_close(packed[0, [8, 8 + T]], torch.stack(expected), atol=1e-5, rtol=0)
    far = one.clone()
    far[0, :4] = 3  # what the last of nine does not see
    shallow = Transformer(ModelConfig(V, 64, **shape | {"depth": 1}, window=5)).eval()
    torch.testing.assert_close(shallow(far)[0, -1], shallow(one)[0, -1])


def test_bert_tells_if_one_sentence_follows_another(tmp_path):
    published = theirs("bert-pairs")
    published.save_pretrained(tmp_path)
    model, (ids, mask) = from_pretrained(tmp_path).cpu(), padded()
    types = (torch.arange(T) > 5).long().expand(3, T)
    with torch.no_grad():
        expected = published(input_ids=ids, attention_mask=mask.long(), token_type_ids=types).seq_relationship_logits
        found = model.class_logits(model.hidden_states(ids, mask=mask, token_type_ids=types))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    with pytest.raises(LabError, match="has no classification head"):
        Transformer(ModelConfig(9)).class_logits(torch.zeros(1, 1, 128))


@torch.no_grad()
def test_switch_drops_the_tokens_that_it_drops_and_none_in_evaluation(tmp_path):
    """Ours counts an expert's room by a row's length, theirs is a number: the same for rows as long as the context."""
    published = theirs("switch")
    published.config.n_positions = T
    for room in (2, T):
        for module in published.modules():
            if hasattr(module, "expert_capacity"):
                module.expert_capacity = room
        published.config.expert_capacity = room
        published.save_pretrained(tmp_path)
        model, ids = from_pretrained(tmp_path).cpu(), tokens()
        everyone = torch.ones(3, T, dtype=torch.bool)
        expected = their_logits(published, ids, everyone)
        torch.testing.assert_close(our_logits(model.train(), ids, everyone), expected, atol=1e-4, rtol=0)
        evaluated = our_logits(model.eval(), ids, everyone)
        assert torch.allclose(evaluated, expected, atol=1e-4) == (room == T)


def authors_names(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A published RWKV-7's tensors as its authors' own package names and turns them."""
    renamed = {"model.embeddings.": "emb.", "model.norm.": "ln_out.", "lm_head.": "head.", "model.layers.": "blocks."}
    renamed |= {".pre_norm.": ".ln0.", ".attn_norm.": ".ln1.", ".ffn_norm.": ".ln2.", ".attn.": ".att."}
    renamed |= {".r_proj.": ".receptance.", ".k_proj.": ".key.", ".v_proj.": ".value.", ".o_proj.": ".output."}
    renamed |= {".g_norm.": ".ln_x.", "_lora.lora.0.weight": "1", "_lora.lora.2.weight": "2", "_lora.lora.2.bias": "0"}
    found = {}
    for name, tensor in tensors.items():
        for theirs_, authors in renamed.items():
            name = name.replace(theirs_, authors)
        found[name] = tensor.T.contiguous() if name[-2:] in {f"{a}{i}" for a in "wavg" for i in "12"} else tensor
    return found


@torch.no_grad()
def test_rwkv_is_its_authors(tmp_path, monkeypatch):
    """Their package beside ours, on the same weights: a text at once, and on from its state."""
    monkeypatch.setenv("RWKV_V7_ON", "1")
    from rwkv.model import RWKV as Authors

    torch.manual_seed(0)
    shape: dict[str, Any] = {"norm": "layer", "norm_eps": 1e-5, "embedding_norm": True, "token_shift": True}
    shape |= {"position": NoPosition(), "qk_norm": False, "tied": False}
    mixer, layer = RWKV((9, 8, 7, 10)), Plain(200, "relu2")
    model = Transformer(ModelConfig(V, 64, 128, 3, 2, 2, feed_forward=layer, mixer=mixer, **shape)).eval()
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    save_pretrained(model, tmp_path)
    again = from_pretrained(tmp_path).cpu()
    assert again.config == model.config
    tensors = authors_names(load_file(tmp_path / "model.safetensors"))
    torch.save(tensors, tmp_path / "authors.pth")
    authors = Authors(model=str(tmp_path / "authors"), strategy="cpu fp32")
    ids = tokens(1)
    expected, state = authors.forward(ids[0].tolist(), None, full_output=True)
    torch.testing.assert_close(again(ids)[0], expected, atol=1e-4, rtol=0)
    kept = again.new_state(1, T + 2)
    again(ids, state=kept)
    for token in (3, 5):
        expected, state = authors.forward(token, state)
        torch.testing.assert_close(again(torch.tensor([[token]]), state=kept)[0, 0], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("case", ["t5", "t5-gated", "switch"])
def test_an_encoder_decoder_writes_the_same(case, tmp_path):
    published = theirs(case)
    published.save_pretrained(tmp_path)
    model, source = from_pretrained(tmp_path).cpu(), tokens()
    expected = published.generate(source, max_new_tokens=12, min_new_tokens=12, do_sample=False)
    with torch.no_grad():
        memory, written = model.encode(source), torch.zeros(3, 1, dtype=torch.int64)
        for _ in range(12):
            best = model(written, memory=memory)[:, -1].argmax(-1, keepdim=True)
            written = torch.cat((written, best), 1)
    assert torch.equal(written, expected)


def test_a_checkpoint_in_several_files(tmp_path):
    published = theirs("llama")
    published.save_pretrained(tmp_path, max_shard_size="20KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    ids, mask = padded()
    expected = their_logits(published, ids, mask)
    torch.testing.assert_close(
        our_logits(from_pretrained(tmp_path), ids, mask)[mask], expected[mask], atol=1e-4, rtol=0
    )


def test_a_large_model_is_exported_in_several_files(tmp_path, monkeypatch):
    theirs("gpt2").save_pretrained(tmp_path / "whole")
    model = from_pretrained(tmp_path / "whole")
    monkeypatch.setattr("labkit.training.weights.MAX_SHARD_BYTES", 20_000)
    save_pretrained(model, tmp_path / "shards")
    assert len(list((tmp_path / "shards").glob("model-*"))) > 2
    read: Any = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "shards", dtype=torch.float32).eval()
    ids, mask = tokens(), torch.ones(3, T, dtype=torch.bool)
    torch.testing.assert_close(our_logits(model, ids, mask), their_logits(read, ids, mask), atol=1e-4, rtol=0)
    save_pretrained(from_pretrained(tmp_path / "shards"), tmp_path / "again")
    again = load_shards(tmp_path / "again")
    assert all(torch.equal(tensor, again[name]) for name, tensor in load_shards(tmp_path / "shards").items()) and again


def test_a_checkpoint_is_loaded_to_the_default_device(tmp_path):
    theirs("t5").save_pretrained(tmp_path)
    with use_device("simulated cuda") as at:
        model = from_pretrained(tmp_path)
        assert {tensor.device for tensor in (*model.parameters(), *model.buffers())} == {at}
        save_pretrained(model, tmp_path / "again")
    assert weights_hash(from_pretrained(tmp_path / "again")) == weights_hash(from_pretrained(tmp_path))


def load_shards(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("model-*") for name, tensor in load_file(file).items()}


def refused(folder: Path) -> str:
    with pytest.raises(LabError) as error:
        from_pretrained(folder)
    return str(error.value)


def test_what_cannot_be_read_is_said(tmp_path):
    theirs("llama").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert "nor a model id" in refused(tmp_path / "nowhere" / "at" / "all")

    def changed(**values: Any) -> str:
        (tmp_path / "config.json").write_text(json.dumps(config | values))
        return refused(tmp_path)

    assert "model type 'mamba'; supported are llama" in changed(model_type="mamba")
    assert "attention_bias = True, which is not supported, only False" in changed(attention_bias=True)
    assert "scaling 'longrope'" in changed(rope_parameters={"rope_type": "longrope"})
    assert "do not belong together" in changed(intermediate_size=50)
    assert "lacks 9 tensors" in changed(num_hidden_layers=4)
    assert "activation 'swish2'" in changed(hidden_act="swish2")
    del config["vocab_size"]
    assert "has no 'vocab_size'" in changed()
    (tmp_path / "config.json").write_text("{")
    assert "cannot be read" in refused(tmp_path)


def test_pickles_are_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", **LLAMA, "rms_norm_eps": 1e-6}))
    assert "contains no weights" in refused(tmp_path)
    torch.save({}, tmp_path / "pytorch_model.bin")
    assert "as pickles (pytorch_model.bin)" in refused(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"none")
    assert "cannot be read" in refused(tmp_path)


def test_a_shape_that_nobody_has(tmp_path):
    odd = Transformer(ModelConfig(vocabulary=9, position=NoPosition(), feed_forward=Plain(8)))
    with pytest.raises(LabError, match="No architecture of transformers has this config: NoPosition positions"):
        save_pretrained(odd, tmp_path / "odd")
    shapes: list[tuple[dict[str, Any], str]] = [
        ({"qkv_bias": True}, "each has at most one"),
        ({"qk_norm": False, "attention_scale": 0.5}, "a llama cannot have attention_scale = 0.5"),
        ({"embedding_norm": True}, "a qwen3 cannot have embedding_norm = True"),
        (
            {"position": Learned(), "norm": "layer", "bias": True, "feed_forward": Plain(8)},
            "cannot have qk_norm = True",
        ),
    ]
    for change, message in shapes:
        with pytest.raises(LabError, match=message):
            save_pretrained(Transformer(ModelConfig(9, **change)), tmp_path / "odd")
    assert not (tmp_path / "odd").exists()


def test_no_family_is_named_in_the_model():
    """The model room is general: what is particular is in the config, and in the table of the families."""
    for name in ("transformer", "mixers", "context", "positions", "feedforward", "heads", "initial"):
        text = (Path(__file__).parents[2] / "labkit" / "model" / f"{name}.py").read_text()
        code = [line.split("#")[0] for line in text.split('"""')[::2] for line in line.splitlines()]
        assert not [line for line in code if any(f'"{family}"' in line.lower() for family in FAMILIES)], name
