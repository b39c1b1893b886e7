"""GGUF, the format of llama.cpp: one file with the shape, the weights and the tokenizer.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Read for Llama and Qwen3 with any quantization that the
package `gguf` knows; written for the same in F32, F16 and Q8_0.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers
from torch import Tensor

from labkit.errors import LabError
from labkit.files import replacing
from labkit.hub.parts import Part, qkv_rows
from labkit.model.feedforward import Gated
from labkit.model.positions import Rotary
from labkit.model.transformer import ModelConfig, Transformer
from labkit.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from gguf import GGUFReader, GGUFWriter

Kind = Literal["f32", "f16", "q8_0"]
ARCHITECTURES = ("llama", "qwen3")
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
CUTS: dict[str, Callable[[], list[Any]]] = {
    "gpt-2": list,
    "smollm": lambda: [pre_tokenizers.Digits(individual_digits=True)],
}
"""How a text is cut before its bytes are merged, by llama.cpp's names."""
NORMAL, CONTROL = 1, 3
"""Types of tokens: those that text spells, and those that it never does."""
ENDS = (("bos_token", "bos"), ("eos_token", "eos"), ("pad_token", "padding"))


def load_gguf(path: str | Path) -> Transformer:
    """The model in a GGUF file, in eval mode and fp32.

    Raises LabError for a file that is none, for an architecture or a type of numbers that is not known, and for a shape
    that cannot be built.
    """
    path = Path(path)
    fields = _fields(reader := _reader(path))
    config = _config(fields, {tensor.name: tuple(tensor.shape) for tensor in reader.tensors}, path)
    tensors = {tensor.name: _numbers(tensor, path) for tensor in reader.tensors}
    model, turned = Transformer(config), fields["general.architecture"] == "llama"
    try:
        state = {
            part.ours: part.join(_turned(part, tensors, config, turned, back=True), config) for part in _parts(config)
        }
        model.load_state_dict(state)
    except (KeyError, RuntimeError) as error:
        raise LabError(f"{path}: its tensors are not those of the shape that it names: {error}") from error
    return model.eval()


def load_gguf_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer in a GGUF file, with its chat template.

    Raises LabError for one that is no byte-level BPE, or cuts text in a way that is not known.
    """
    path = Path(path)
    reader = _reader(path)
    fields = {name: field.contents() for name, field in reader.fields.items() if name.startswith("tokenizer.")}
    kind, cut = fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.pre", "gpt-2")
    if kind != "gpt2" or cut not in CUTS:
        raise LabError(
            f"{path} has a tokenizer of the kind {kind!r} ({cut}); those known are gpt2 ({', '.join(CUTS)})."
        )
    tokens, types = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    merges = [tuple(pair.split(" ")) for pair in fields["tokenizer.ggml.merges"]]
    backend = tokenizers.Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    backend.pre_tokenizer = pre_tokenizers.Sequence([*CUTS[cut](), BYTES])
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([token for token, kind in zip(tokens, types, strict=True) if kind == CONTROL])
    ends = {
        name: tokens[fields[f"tokenizer.ggml.{key}_token_id"]]
        for name, key in ENDS
        if f"tokenizer.ggml.{key}_token_id" in fields
    }
    return Tokenizer(
        backend,
        {**ends, "chat_template": fields.get("tokenizer.chat_template"), "tokenizer_class": "PreTrainedTokenizerFast"},
    )


def save_gguf(model: Transformer, tokenizer: Tokenizer, path: str | Path, kind: Kind = "f16") -> None:
    """Write the model and its tokenizer, chat template included, as llama.cpp reads them.

    kind: of the matrices; norms stay in F32. Raises LabError for a model that is neither Llama's nor Qwen3's shape, and
    for a width that Q8_0 cannot cut into blocks of 32.
    """
    from gguf import GGUFWriter

    config, path = model.config, Path(path)
    if not (isinstance(config.position, Rotary) and isinstance(config.feed_forward, Gated) and config.norm == "rms"):
        raise LabError("Only models of Llama's and Qwen3's shape (rotary, RMSNorm, gated) are written as GGUF.")
    if config.position.scaling is not None:
        raise LabError("A model with scaled rotary positions is not written as GGUF here; export it for transformers.")
    architecture = "qwen3" if config.qk_norm else "llama"
    with replacing(path) as partial:
        writer = GGUFWriter(partial, architecture)
        _describe(writer, config)
        _describe_tokenizer(writer, tokenizer)
        _add_tensors(writer, model, kind, architecture == "llama")
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def _parts(c: ModelConfig) -> Iterator[Part]:
    """All tensors by their names in the file."""
    yield Part("embedding.weight", ("token_embd.weight",))
    hidden = c.feed_forward.hidden
    for i in range(c.depth):
        ours, theirs = f"blocks.{i}", f"blk.{i}"
        yield Part(f"{ours}.mixer_norm.weight", (f"{theirs}.attn_norm.weight",))
        yield Part(
            f"{ours}.mixer.qkv.weight", tuple(f"{theirs}.attn_{part}.weight" for part in "qkv"), rows=qkv_rows(c)
        )
        yield Part(f"{ours}.mixer.out.weight", (f"{theirs}.attn_output.weight",))
        if c.qk_norm:
            yield Part(f"{ours}.mixer.query_norm.weight", (f"{theirs}.attn_q_norm.weight",))
            yield Part(f"{ours}.mixer.key_norm.weight", (f"{theirs}.attn_k_norm.weight",))
        yield Part(f"{ours}.feed_forward_norm.weight", (f"{theirs}.ffn_norm.weight",))
        names = (f"{theirs}.ffn_gate.weight", f"{theirs}.ffn_up.weight")
        yield Part(f"{ours}.feed_forward.gate_up.weight", names, rows=(hidden, hidden))
        yield Part(f"{ours}.feed_forward.down.weight", (f"{theirs}.ffn_down.weight",))
    yield Part("norm.weight", ("output_norm.weight",))
    if not c.tied:
        yield Part("head.weight", ("output.weight",))


def _turned(part: Part, tensors: dict[str, Tensor], c: ModelConfig, llama: bool, back: bool) -> dict[str, Tensor]:
    """The part's tensors; Llama's queries and keys with their pairs beside each other there, half a head apart here.

    back: from the file's order to ours.
    """
    found = {name: tensors[name] for name in part.theirs}
    for name in found:
        if llama and name.endswith(("attn_q.weight", "attn_k.weight")):
            heads = found[name].shape[0] // c.head_size
            halves = (c.head_size // 2, 2) if back else (2, c.head_size // 2)
            found[name] = found[name].unflatten(0, (heads, *halves)).transpose(1, 2).flatten(0, 2)
    return found


def _reader(path: Path) -> GGUFReader:
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise LabError("GGUF files are read by the package gguf: pip install 'labkit[hub]'.") from error
    try:
        return GGUFReader(path)
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise LabError(f"{path} is not a GGUF file that can be read: {error}") from error


def _fields(reader: GGUFReader) -> dict[str, Any]:
    return {name: field.contents() for name, field in reader.fields.items() if not name.startswith("tokenizer.")}


def _config(fields: dict[str, Any], shapes: dict[str, tuple[int, ...]], path: Path) -> ModelConfig:
    """shapes: of the tensors, the other way round than ours."""
    architecture = fields.get("general.architecture")
    if architecture not in ARCHITECTURES:
        raise LabError(f"{path} holds a model of the architecture {architecture!r}; those known are llama, qwen3.")
    if fields.get(f"{architecture}.rope.scaling.type", "none") != "none" or "rope_freqs.weight" in shapes:
        raise LabError(f"{path} scales its rotary positions, which is not read from GGUF; use transformers' files.")

    def given(name: str, default: Any = None) -> Any:
        value = fields.get(f"{architecture}.{name}", default)
        if value is None:
            raise LabError(f"{path} does not say {architecture}.{name}, without which its shape is not known.")
        return value

    if "token_embd.weight" not in shapes:
        raise LabError(f"{path} has no token embedding (token_embd.weight): it is not a whole model.")
    heads = given("attention.head_count")
    return ModelConfig(
        vocabulary=int(shapes["token_embd.weight"][1]),
        context=given("context_length"),
        width=given("embedding_length"),
        depth=given("block_count"),
        heads=heads,
        key_heads=given("attention.head_count_kv", heads),
        head_width=given("attention.key_length", given("embedding_length") // heads),
        feed_forward=Gated(given("feed_forward_length")),
        position=Rotary(float(given("rope.freq_base", 10_000.0))),
        qk_norm=architecture == "qwen3",
        tied="output.weight" not in shapes,
        norm_eps=given("attention.layer_norm_rms_epsilon"),
    )


def _numbers(tensor: Any, path: Path) -> Tensor:
    """A tensor in fp32, whatever it is kept in."""
    from gguf import dequantize

    try:
        return torch.from_numpy(np.array(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32))
    except RuntimeError as error:  # its own error for a type that it cannot read is one
        raise LabError(
            f"{path}: {tensor.name} is kept as {tensor.tensor_type.name}, which is not known here."
        ) from error


def _describe(writer: GGUFWriter, c: ModelConfig) -> None:
    assert isinstance(c.position, Rotary)
    writer.add_vocab_size(c.vocabulary)
    writer.add_context_length(c.context)
    writer.add_embedding_length(c.width)
    writer.add_block_count(c.depth)
    writer.add_feed_forward_length(c.feed_forward.hidden)
    writer.add_head_count(c.heads)
    writer.add_head_count_kv(c.key_heads)
    writer.add_key_length(c.head_size)
    writer.add_value_length(c.head_size)
    writer.add_rope_dimension_count(c.head_size)
    writer.add_rope_freq_base(c.position.base)
    writer.add_layer_norm_rms_eps(c.norm_eps)


def _describe_tokenizer(writer: GGUFWriter, tokenizer: Tokenizer) -> None:
    kept = json.loads(tokenizer.backend.to_str())
    ids = tokenizer.backend.get_vocab(with_added_tokens=True)
    special = {token["id"] for token in kept["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(sorted(ids, key=ids.__getitem__))
    writer.add_token_types([CONTROL if index in special else NORMAL for index in range(len(ids))])
    writer.add_token_merges([" ".join(pair) for pair in kept["model"]["merges"]])
    writer.add_bos_token_id(tokenizer.bos)
    writer.add_eos_token_id(tokenizer.end)
    writer.add_pad_token_id(tokenizer.pad)
    writer.add_add_bos_token(False)  # the chat template begins with it
    writer.add_chat_template(tokenizer.config["chat_template"])


def _add_tensors(writer: GGUFWriter, model: Transformer, kind: Kind, llama: bool) -> None:
    from gguf import GGMLQuantizationType, quantize

    ours = model.state_dict()
    types = {"f32": GGMLQuantizationType.F32, "f16": GGMLQuantizationType.F16, "q8_0": GGMLQuantizationType.Q8_0}
    for part in _parts(model.config):
        tensors = part.split(ours[part.ours].detach().float().cpu(), model.config)
        for name, tensor in _turned(part, tensors, model.config, llama, back=False).items():
            chosen = types[kind] if tensor.dim() > 1 else GGMLQuantizationType.F32
            if chosen == GGMLQuantizationType.Q8_0 and tensor.shape[-1] % 32:
                raise LabError(f"{name} has rows of {tensor.shape[-1]}, which Q8_0 cannot cut into 32s; write f16.")
            writer.add_tensor(name, quantize(tensor.numpy(), chosen), raw_dtype=chosen)
