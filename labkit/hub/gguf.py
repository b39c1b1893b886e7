"""GGUF, the format of llama.cpp: one file with the shape, the weights and the tokenizer.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Read for Llama, Qwen2 and Qwen3 with any quantization that
the package `gguf` knows; written for the same in F32, F16 and Q8_0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from labkit.errors import LabError
from labkit.files import atomic_replace
from labkit.hub.folder import check_finite
from labkit.hub.gguf_file import open_gguf
from labkit.hub.gguf_shape import config_from_gguf, gguf_architecture_name, rope_factors, write_gguf_config
from labkit.hub.gguf_tokenizer import read_gguf_tokenizer, write_gguf_tokenizer
from labkit.hub.matching import check_config_plausible, check_shapes
from labkit.hub.parts import TensorMapping, qkv_split_sizes
from labkit.hub.tokenizer_files import choose_chat_template
from labkit.model.transformer import ModelConfig, Transformer
from labkit.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from gguf import GGUFWriter

Kind = Literal["f32", "f16", "q8_0"]
ROPE_FREQS = "rope_freqs.weight"


def load_gguf(path: str | Path) -> Transformer:
    """The model in a GGUF file, in eval mode and fp32.

    Raises LabError for a file that is none or not whole, for an architecture, a key or a type of numbers that is not
    known, and for tensors that are missing, left over, of another shape, or with NaN or infinite numbers.
    """
    path = Path(path)
    reader = open_gguf(path)
    fields = {name: f.contents() for name, f in reader.fields.items() if not name.startswith(("tokenizer.", "GGUF."))}
    found = {tensor.name: tensor for tensor in reader.tensors}
    shapes = {name: tuple(int(n) for n in reversed(tensor.shape)) for name, tensor in found.items()}
    factors = _numbers(found[ROPE_FREQS], path) if ROPE_FREQS in found else None
    config = config_from_gguf(fields, shapes, factors, path)
    check_config_plausible(config, len(found), str(path), "header")
    parts = list(_parts(config))
    _check_names({name for part in parts for name in part.theirs}, set(found) - {ROPE_FREQS}, path)
    check_shapes(parts, config, shapes, str(path), "header")
    model, turned = Transformer(config), fields["general.architecture"] == "llama"
    for part in parts:  # one after the other, so that only one matrix is there twice
        tensors = {name: _numbers(found[name], path) for name in part.theirs}
        ours = part.to_ours(_turned(part, tensors, config, turned, back=True), config)
        model.get_parameter(part.ours).data.copy_(ours)
    return model.eval()


def load_gguf_tokenizer(
    path: str | Path, chat_template_name: str | None = None, say: Callable[[str], None] = print
) -> Tokenizer:
    """The tokenizer in a GGUF file, with its chat template.

    chat_template_name: "plain" for turns written plainly. say: is told where there is no template. Raises LabError as
    `read_gguf_tokenizer` does.
    """
    backend, config = read_gguf_tokenizer(Path(path))
    return Tokenizer(backend, choose_chat_template(config, chat_template_name, say))


def save_gguf(model: Transformer, tokenizer: Tokenizer, path: str | Path, dtype: Kind = "f16") -> None:
    """Write the model and its tokenizer, chat template included, as llama.cpp reads them.

    dtype: of the matrices; norms and biases stay in F32. Raises LabError for a model whose shape is not Llama's,
    Qwen2's or Qwen3's or that llama.cpp would read as another, for a width that Q8_0 cannot cut into blocks of 32, and
    for a tokenizer that llama.cpp has no name for.
    """
    from gguf import GGUFWriter

    config, path = model.config, Path(path)
    architecture = gguf_architecture_name(config)
    with atomic_replace(path) as partial:
        writer = GGUFWriter(partial, architecture)
        write_gguf_config(writer, config)
        write_gguf_tokenizer(writer, tokenizer, config.vocabulary)
        if (factors := rope_factors(config)) is not None:
            writer.add_tensor(ROPE_FREQS, factors.numpy())
        _add_tensors(writer, model, dtype, architecture == "llama")
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def _check_names(wanted: set[str], given: set[str], path: Path) -> None:
    """Raises LabError for tensors that are missing or left over."""
    if missing := sorted(wanted - given):
        raise LabError(f"{path} lacks {len(missing)} tensors of the model of its header; the first is {missing[0]}.")
    if left := sorted(given - wanted):
        raise LabError(
            f"{path} contains {len(left)} tensors that the model of its header does not have; the first is {left[0]}. "
            "Without them it would be a different model, so it is refused."
        )


def _parts(c: ModelConfig) -> Iterator[TensorMapping]:
    """All tensors by their names in the file."""
    yield TensorMapping("embedding.weight", ("token_embd.weight",))
    hidden = c.feed_forward.intermediate_size
    for i in range(c.depth):
        ours, theirs = f"blocks.{i}", f"blk.{i}"
        yield TensorMapping(f"{ours}.mixer_norm.weight", (f"{theirs}.attn_norm.weight",))
        yield TensorMapping(
            f"{ours}.mixer.qkv.weight",
            tuple(f"{theirs}.attn_{part}.weight" for part in "qkv"),
            split_sizes=qkv_split_sizes(c),
        )
        if c.qkv_bias:
            names = tuple(f"{theirs}.attn_{part}.bias" for part in "qkv")
            yield TensorMapping(f"{ours}.mixer.qkv.bias", names, split_sizes=qkv_split_sizes(c))
        yield TensorMapping(f"{ours}.mixer.out.weight", (f"{theirs}.attn_output.weight",))
        if c.qk_norm:
            yield TensorMapping(f"{ours}.mixer.query_norm.weight", (f"{theirs}.attn_q_norm.weight",))
            yield TensorMapping(f"{ours}.mixer.key_norm.weight", (f"{theirs}.attn_k_norm.weight",))
        yield TensorMapping(f"{ours}.feed_forward_norm.weight", (f"{theirs}.ffn_norm.weight",))
        names = (f"{theirs}.ffn_gate.weight", f"{theirs}.ffn_up.weight")
        yield TensorMapping(f"{ours}.feed_forward.gate_up.weight", names, split_sizes=(hidden, hidden))
        yield TensorMapping(f"{ours}.feed_forward.down.weight", (f"{theirs}.ffn_down.weight",))
    yield TensorMapping("norm.weight", ("output_norm.weight",))
    if not c.tied:
        yield TensorMapping("head.weight", ("output.weight",))


def _turned(
    part: TensorMapping, tensors: dict[str, Tensor], c: ModelConfig, llama: bool, back: bool
) -> dict[str, Tensor]:
    """The part's tensors; Llama's queries and keys with their pairs beside each other there, half a head apart here.

    back: from the file's order to ours.
    """
    found = {name: tensors[name] for name in part.theirs}
    for name in found:
        if llama and name.endswith(("attn_q.weight", "attn_k.weight")):
            heads = found[name].shape[0] // c.attention_config.head_dim
            halves = (c.attention_config.head_dim // 2, 2) if back else (2, c.attention_config.head_dim // 2)
            found[name] = found[name].unflatten(0, (heads, *halves)).transpose(1, 2).flatten(0, 2)
    return found


def _numbers(tensor: Any, path: Path) -> Tensor:
    """A tensor in fp32, whatever it is kept in."""
    from gguf import dequantize

    try:
        numbers = torch.from_numpy(np.array(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32))
    except RuntimeError as error:  # its own error for a type that it cannot read is one
        raise LabError(
            f"{path}: {tensor.name} has the type {tensor.tensor_type.name}, which is not supported."
        ) from error
    check_finite(tensor.name, numbers, path)
    return numbers


def _add_tensors(writer: GGUFWriter, model: Transformer, kind: Kind, llama: bool) -> None:
    from gguf import GGMLQuantizationType, quantize

    ours = model.state_dict()
    types = {"f32": GGMLQuantizationType.F32, "f16": GGMLQuantizationType.F16, "q8_0": GGMLQuantizationType.Q8_0}
    for part in _parts(model.config):
        tensors = part.to_theirs(ours[part.ours].detach().float().cpu(), model.config)
        for name, tensor in _turned(part, tensors, model.config, llama, back=False).items():
            chosen = types[kind] if tensor.dim() > 1 else GGMLQuantizationType.F32
            if chosen == GGMLQuantizationType.Q8_0 and tensor.shape[-1] % 32:
                raise LabError(
                    f"{name} has rows of {tensor.shape[-1]}, which is not a multiple of 32, as Q8_0 needs; use f16."
                )
            writer.add_tensor(name, quantize(tensor.numpy(), chosen), raw_dtype=chosen)
