"""GGUF files as people have them: other quantizations, architectures and cuts of text, and files that are not whole."""

import ctypes
import json
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import tokenizers
import torch
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from labkit.decoding import Temperature, generate
from labkit.errors import LabError
from labkit.hub.gguf import load_gguf, save_gguf
from labkit.hub.gguf_file import find_gguf_file
from labkit.hub.gguf_tokenizer import CUTS, WHOLE_WORDS, read_gguf_tokenizer
from labkit.model.feedforward import Gated
from labkit.model.positions import Rotary
from labkit.model.rotary_scaling import LinearScaling, Llama3Scaling, YaRN
from labkit.model.transformer import ModelConfig, Transformer
from labkit.text.tokenizer import PLAIN_TEMPLATE, Tokenizer

TEXTS = [
    "Tom's key isn't in the PARK, it'll be  in room 12345 (or 6)...\n\n  \tWHERE? 12,5 % 你好 café",
    "  two blanks, a tab\tand\r\nlines \n",
]
TRAINED_ON = [*TEXTS, "Tom is in the park. Where is Tom? user assistant system <think> 1999 2024"] * 9
CONFIG = {"eos_token": "</s>", "bos_token": "<s>", "chat_template": PLAIN_TEMPLATE}


def byte_level(cut: str) -> Tokenizer:
    """A small tokenizer that cuts text as llama.cpp's kind of this name; <think> is added, and not special."""
    backend = tokenizers.Tokenizer(models.BPE(ignore_merges=cut in WHOLE_WORDS))
    backend.pre_tokenizer = pre_tokenizers.Sequence(CUTS[cut]())
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(TRAINED_ON, trainer)
    backend.add_tokens([tokenizers.AddedToken("<think>", special=False, normalized=False)])
    return Tokenizer(backend, CONFIG)


def tiny(vocabulary: int, **shape: Any) -> Transformer:
    torch.manual_seed(0)
    base: dict[str, Any] = {"width": 32, "depth": 2, "heads": 2, "key_value_heads": 1, "feed_forward": Gated(64)}
    model = Transformer(ModelConfig(vocabulary, 128, **base | {"qk_norm": False} | shape)).eval()
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return model


@pytest.fixture(scope="module")
def plain() -> Tokenizer:
    return byte_level("gpt-2")


@pytest.fixture
def file(plain, tmp_path) -> Path:
    save_gguf(tiny(plain.vocab_size + 5), plain, tmp_path / "tiny.gguf", "f32")
    return tmp_path / "tiny.gguf"


def retold(
    file: Path, fields: Mapping[str, Any], tensors: Mapping[str, tuple[np.ndarray, int] | None] | None = None
) -> Path:
    """A copy of a GGUF file with other fields and tensors; None leaves one out."""
    reader = gguf.GGUFReader(file)
    architecture = fields.get("general.architecture", reader.fields["general.architecture"].contents())
    writer = gguf.GGUFWriter(file.with_suffix(".told.gguf"), architecture)
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in fields or name == "general.architecture":
            continue
        kinds = field.types
        writer.add_key_value(name, field.contents(), kinds[0], kinds[-1] if len(kinds) > 1 else None)
    for name, value in fields.items():
        if name != "general.architecture" and value is not None:
            named = {str: "STRING", bool: "BOOL", int: "UINT32", float: "FLOAT32"}[type(value)]
            writer.add_key_value(name, value, gguf.GGUFValueType[named])
    kept = {t.name: (np.array(t.data), int(t.tensor_type)) for t in reader.tensors} | dict(tensors or {})
    for name, tensor in kept.items():
        if tensor is not None:
            writer.add_tensor(name, tensor[0], raw_dtype=gguf.GGMLQuantizationType(tensor[1]))
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()
    return file.with_suffix(".told.gguf")


def refused(path: Path) -> str:
    with pytest.raises(LabError) as error:
        load_gguf(path)
    return str(error.value)


KINDS = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL", "IQ4_XS")


def by_llama_cpp(kind: str, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of floats quantized by llama.cpp's own C code, and what that code reads in them again."""
    import xllamacpp.xllamacpp

    library = ctypes.CDLL(xllamacpp.xllamacpp.__file__)
    rows, width = weights.shape
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    packed, again = np.zeros((rows, width // block * size), np.uint8), np.zeros_like(weights)
    name = kind.replace("Q", "q", 1) if kind.startswith("Q") else kind.lower()
    quantize, dequantize = library[f"quantize_{name}"], library[f"dequantize_row_{name}"]
    quantize.restype = ctypes.c_size_t
    pointer = ctypes.c_void_p
    quantize(*map(pointer, (weights.ctypes.data, packed.ctypes.data)), *map(ctypes.c_int64, weights.shape), None)
    dequantize(*map(pointer, (packed.ctypes.data, again.ctypes.data)), ctypes.c_int64(weights.size))
    return packed, again


def test_each_quantization_is_what_llama_cpp_reads_in_it(plain, tmp_path):
    model = tiny(plain.vocab_size, depth=len(KINDS), feed_forward=Gated(256), width=64)
    save_gguf(model, plain, tmp_path / "a.gguf", "f32")
    packed, expected = {}, {}
    for i, kind in enumerate(KINDS):
        weights = model.blocks[i].get_parameter("feed_forward.down.weight").detach().numpy()
        data, expected[i] = by_llama_cpp(kind, np.ascontiguousarray(weights))
        assert 0 < np.abs(expected[i] - weights).max() < 1
        packed[f"blk.{i}.ffn_down.weight"] = data, int(gguf.GGMLQuantizationType[kind])
    again = load_gguf(retold(tmp_path / "a.gguf", {}, packed))
    for i, kind in enumerate(KINDS):
        found = again.blocks[i].get_parameter("feed_forward.down.weight").detach()
        torch.testing.assert_close(found, torch.from_numpy(expected[i]), atol=1e-6, rtol=1e-6, msg=kind)


class LlamaCpp:
    """llama.cpp's own server, asked for the likeliest words."""

    def __init__(self, file: Path):
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path, params.n_ctx, params.cpuparams.n_threads, params.warmup = str(file), 128, 1, False
        self.server = xllamacpp.Server(params)

    def write(self, prompt: str | list[int], tokens: int) -> tuple[str, int]:
        """What it writes, and how many tokens it read."""
        answer = self.server.handle_completions({"prompt": prompt, "max_tokens": tokens, "temperature": 0})
        return answer["choices"][0]["text"], answer["usage"]["prompt_tokens"]


@pytest.mark.parametrize("cut", CUTS)
def test_text_is_cut_as_llama_cpp_cuts_it(cut, tmp_path):
    tokenizer = byte_level(cut)
    save_gguf(tiny(tokenizer.vocab_size), tokenizer, tmp_path / "a.gguf", "f32")
    fields = gguf.GGUFReader(tmp_path / "a.gguf").fields
    assert fields["tokenizer.ggml.pre"].contents() == cut
    backend, _ = read_gguf_tokenizer(tmp_path / "a.gguf")
    theirs = LlamaCpp(tmp_path / "a.gguf")
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert backend.encode(text, add_special_tokens=False).ids == ids
        assert theirs.write(text, 6) == theirs.write(ids, 6) and theirs.write(text, 1)[1] == len(ids)


def test_a_token_that_was_added_is_one_token(file, plain):
    fields = gguf.GGUFReader(file).fields
    tokens, types = (fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "token_type"))
    kinds = dict(zip(tokens, types, strict=True))
    assert [kinds[t] for t in ("<s>", "</s>", "<think>", "T", f"[PAD{plain.vocab_size}]")] == [3, 3, 4, 1, 5]
    assert len(tokens) == plain.vocab_size + 5
    backend, _ = read_gguf_tokenizer(file)
    assert backend.encode("a<think>b", add_special_tokens=False).ids == plain.encode("a<think>b")
    assert backend.token_to_id("<think>") in plain.encode("a<think>b")
    assert {t.content for t in backend.get_added_tokens_decoder().values() if t.special} == {"<s>", "</s>"}


def test_a_cut_that_has_no_name_is_said(file, plain, tmp_path):
    for odd in (pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=True)):
        backend = tokenizers.Tokenizer.from_str(plain.backend.to_str())
        backend.pre_tokenizer = odd
        with pytest.raises(LabError, match="llama.cpp has no name for this tokenizer's pre-tokenizer"):
            save_gguf(tiny(plain.vocab_size), Tokenizer(backend, CONFIG), tmp_path / "odd.gguf")
    assert not (tmp_path / "odd.gguf").exists()
    with pytest.raises(LabError, match="has the pre-tokenizer 'tekken'"):
        read_gguf_tokenizer(retold(file, {"tokenizer.ggml.pre": "tekken"}))
    with pytest.raises(LabError, match="of the type 'rwkv'; supported are gpt2 and llama"):
        read_gguf_tokenizer(retold(file, {"tokenizer.ggml.model": "rwkv"}))
    nameless, _ = read_gguf_tokenizer(retold(file, {"tokenizer.ggml.pre": None}))  # as llama.cpp reads it
    assert (
        nameless.pre_tokenizer.pre_tokenize_str("a12345")[1:]
        != plain.backend.pre_tokenizer.pre_tokenize_str("a12345")[1:]
    )
    begun, config = read_gguf_tokenizer(
        retold(file, {"tokenizer.ggml.pre": "llama-bpe", "tokenizer.ggml.add_bos_token": None})
    )
    assert begun.encode("a").tokens == ["<s>", "a"] and config["bos_token"] == "<s>"


def test_sentencepiece_is_read_from_its_scores(file, tmp_path):
    backend = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    backend.train_from_iterator(
        ["▁".join(text.split()) for text in TRAINED_ON],
        trainers.BpeTrainer(vocab_size=400, special_tokens=specials, show_progress=False),
    )
    vocabulary = backend.get_vocab()
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    writer = gguf.GGUFWriter(tmp_path / "spm.gguf", "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0 if i < 259 else -float(i) for i in range(len(tokens))])
    writer.add_token_types([2, 3, 3, *[6] * 256, *[1] * (len(tokens) - 259)])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()
    again, config = read_gguf_tokenizer(tmp_path / "spm.gguf")
    for text in ("Tom is in the park.", " Where  is Tom? 1999", "héllo 你 \n"):
        ids = again.encode(text, add_special_tokens=False).ids
        assert ids == backend.encode(text, add_special_tokens=False).ids
        assert again.decode(ids) == text and again.encode(text).ids == [1, *ids]
    assert "<0xE4>" in again.encode("\u4f60").tokens or "你" in again.encode("你").tokens
    assert config["eos_token"] == "</s>"


SHAPES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {"qkv_bias": True, "tied": False, "head_dim": 16},
    "qwen3": {"qk_norm": True, "head_dim": 32},
    "llama-linear": {"position": Rotary(500.0, LinearScaling(4.0))},
    "llama-3": {"position": Rotary(500_000.0, Llama3Scaling(8.0, original_max_position_embeddings=32))},
    "llama-yarn": {"position": Rotary(500.0, YaRN(4.0, 32))},
}


@torch.no_grad()
@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_is_llama_cpps_and_comes_back(name, plain, tmp_path):
    model = tiny(plain.vocab_size, **{"head_dim": 32} | SHAPES[name])
    save_gguf(model, plain, tmp_path / "a.gguf", "f32")
    again = load_gguf(tmp_path / "a.gguf")
    ids = plain.encode(TEXTS[0])[:60]
    torch.testing.assert_close(again(torch.tensor([ids])), model(torch.tensor([ids])), atol=1e-4, rtol=1e-4)
    (ours,) = generate(model, [ids], filters=[Temperature(0)], max_new_tokens=8, stop_ids=[plain.eos_token_id])
    assert LlamaCpp(tmp_path / "a.gguf").write(ids, 8)[0] == plain.decode(ours)


@pytest.mark.parametrize(
    "fields,message",
    [
        ({"general.architecture": "gemma3"}, "architecture 'gemma3'; supported in GGUF files are llama, qwen2, qwen3"),
        ({"llama.final_logit_softcapping": 30.0}, "has llama.final_logit_softcapping = 30.0, which is not supported"),
        ({"llama.attention.sliding_window": 16}, "a window of 16 tokens"),
        ({"llama.expert_count": 8}, "llama.expert_count = 8"),
        ({"llama.attention.causal": False}, "llama.attention.causal = False, which is not supported"),
        ({"llama.rope.scaling.type": "longrope"}, "the rotary scaling 'longrope' is not supported"),
        ({"llama.rope.scaling.type": "yarn", "llama.rope.scaling.yarn_beta_fast": 20.0}, "yarn_beta_fast = 20.0"),
        ({"llama.rope.dimension_count": 8}, "rope.dimension_count = 8 differs"),
        ({"llama.block_count": 4_000_000_000}, "depth must be at least 1 and at most"),
        ({"llama.embedding_length": 4_000_000_000}, "width must be at least 1 and at most"),
        ({"llama.context_length": 4_000_000_000}, "context must be at least 1 and at most"),
        ({"llama.context_length": None}, "has no llama.context_length"),
        ({"llama.context_length": "long"}, "context must be a whole number, not .long.|does not describe"),
        ({"split.count": 3}, "one of 3 parts. Join them first"),
    ],
)
def test_what_a_header_says_is_read_or_refused(fields, message, file):
    with pytest.raises(LabError, match=message):
        load_gguf(retold(file, fields))


def scaling(path: Path) -> Any:
    position = load_gguf(path).config.position
    assert isinstance(position, Rotary)
    return position.scaling


def test_positions_are_scaled_linearly_where_no_type_is_said_as_in_llama_cpp(file, plain):
    factor = {"llama.rope.scaling.factor": 4.0}
    scaled = retold(file, factor)
    assert scaling(scaled) == LinearScaling(4.0)
    (ours,) = generate(
        load_gguf(scaled),
        [plain.encode(TEXTS[0])[:60]],
        filters=[Temperature(0)],
        max_new_tokens=8,
        stop_ids=[plain.eos_token_id],
    )
    assert LlamaCpp(scaled).write(plain.encode(TEXTS[0])[:60], 8)[0] == plain.decode(ours)
    assert scaling(retold(file, factor | {"llama.rope.scaling.type": "none"})) is None
    assert scaling(retold(file, {"llama.rope.scaling.factor": 1.0})) is None
    assert load_gguf(retold(file, {"llama.attention.causal": True})).config == load_gguf(file).config


def test_no_tensor_is_left_over(file):
    ints = np.ones((8, 8), np.int32), int(gguf.GGMLQuantizationType.I32)
    assert "do not belong together" in refused(retold(file, {}, {"token_embd.weight": ints}))
    ints = np.ones((32, 32), np.int32), ints[1]
    assert "attn_q.weight has the type I32, which is not" in refused(retold(file, {}, {"blk.0.attn_q.weight": ints}))
    bias = np.ones(32, np.float32), 0
    assert "attn_q.bias. Without them" in refused(retold(file, {}, {"blk.0.attn_q.bias": bias}))
    assert "lacks 1 tensors" in refused(retold(file, {}, {"blk.1.ffn_up.weight": None}))
    assert "differently from Llama 3.1" in refused(retold(file, {}, {"rope_freqs.weight": (bias[0][:8] * 3, 0)}))


def test_a_file_that_is_cut_off_or_lies_is_said_at_once(file, tmp_path):
    whole, broken = file.read_bytes(), tmp_path / "broken.gguf"
    for length in (3, 10, 24, 60, 300, len(whole) // 3, len(whole) - 100):
        broken.write_bytes(whole[:length])
        assert (
            "truncated or damaged" in refused(broken)
            or "is damaged" in refused(broken)
            or "not a GGUF" in refused(broken)
        )
    begun = time.monotonic()
    for at, value in ((8, 2**60), (16, 2**60), (24, 2**62), (8, 2**40), (16, 10**5)):
        broken.write_bytes(whole[:at] + struct.pack("<Q", value) + whole[at + 8 :])
        assert "truncated or damaged" in refused(broken)
    name = whole.index(b"output_norm.weight")
    for at, value in ((name + 22, 2**50), (name + 34, 2**50)):  # its length, and where it lies
        broken.write_bytes(whole[:at] + struct.pack("<Q", value) + whole[at + 8 :])
        assert "truncated or damaged" in refused(broken)
    assert time.monotonic() - begun < 20


def test_a_folder_with_a_gguf_file(file, tmp_path):
    assert find_gguf_file(tmp_path) == file and find_gguf_file(file) == file and find_gguf_file(str(file)) == file
    (tmp_path / "other.gguf").touch()
    with pytest.raises(LabError, match="contains 2 GGUF files .other.gguf, tiny.gguf.. Name the one"):
        find_gguf_file(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({}))
    assert find_gguf_file(tmp_path) is None


def test_numbers_that_are_none_are_refused_by_name(plain, tmp_path):
    model = tiny(plain.vocab_size + 5)
    model.get_parameter("norm.weight").data[3] = torch.nan
    save_gguf(model, plain, tmp_path / "broken.gguf", "f32")
    with pytest.raises(LabError, match="1 of 32 numbers in output_norm.weight are NaN or infinite"):
        load_gguf(tmp_path / "broken.gguf")


def test_a_pointer_of_git_lfs_is_said(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:12\n")
    with pytest.raises(LabError, match="model.gguf is a Git LFS pointer"):
        load_gguf(tmp_path / "model.gguf")
