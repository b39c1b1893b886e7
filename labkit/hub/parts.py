"""What a published family is: which of its files' words and tensors are which of ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from labkit.errors import LabError
from labkit.hub.config_keys import ConfigKeys
from labkit.model.feedforward import Activation, MoE
from labkit.model.transformer import ModelConfig

Json = Mapping[str, Any]
Layout = Literal["concatenated", "transposed", "interleaved_qkv", "flattened"]


class TensorMapping(NamedTuple):
    """One of our tensors, and what it is made of in a file.

    layout: what ours is of theirs. "concatenated": theirs one below the other, of so many rows each as `split_sizes`
    says. "transposed": theirs, transposed. "interleaved_qkv": theirs has queries, keys and values of each head
    together, ours all queries first. "flattened": theirs as a vector; theirs has the shape `theirs_shape`.
    """

    ours: str
    theirs: tuple[str, ...]
    layout: Layout = "concatenated"
    split_sizes: tuple[int, ...] = ()
    theirs_shape: tuple[int, ...] = ()

    def to_ours(self, tensors: Mapping[str, Tensor], config: ModelConfig) -> Tensor:
        """Ours, of theirs."""
        found = [tensors[name] for name in self.theirs]
        if self.layout == "transposed":
            return found[0].T
        if self.layout == "flattened":
            return found[0].flatten()
        if self.layout == "interleaved_qkv":
            return (
                found[0].unflatten(0, (config.heads, 3, config.attention_config.head_dim)).transpose(0, 1).flatten(0, 2)
            )
        return torch.cat(found) if len(found) > 1 else found[0]

    def to_theirs(self, tensor: Tensor, config: ModelConfig) -> dict[str, Tensor]:
        """Theirs, of ours."""
        if self.layout == "transposed":
            found = [tensor.T]
        elif self.layout == "flattened":
            found = [tensor.view(self.theirs_shape)]
        elif self.layout == "interleaved_qkv":
            found = [
                tensor.unflatten(0, (3, config.heads, config.attention_config.head_dim)).transpose(0, 1).flatten(0, 2)
            ]
        else:
            found = list(tensor.split(self.split_sizes)) if self.split_sizes else [tensor]
        return {name: part.contiguous() for name, part in zip(self.theirs, found, strict=True)}


class Family(NamedTuple):
    """architecture: the class that is made of it. read_config: config.json -> our config; write_config: the other way.
    tensor_mappings: all tensors of a model. config_keys: what each key of config.json means. base_model_prefix: of the
    tensors' names, which a model saved without its head lacks. tied_weights_keys: {second name of a tensor: its first},
    as of a head that is tied to the embedding. ignored_tensors: a pattern of names of tensors that say nothing.
    """

    architecture: str
    read_config: Callable[[Json], ModelConfig]
    write_config: Callable[[ModelConfig], dict[str, Any]]
    tensor_mappings: Callable[[ModelConfig], Iterator[TensorMapping]]
    config_keys: ConfigKeys
    base_model_prefix: str = ""
    tied_weights_keys: Mapping[str, str] = {}
    ignored_tensors: str = ""


def weight_and_bias_mappings(
    ours: str, theirs: str, config: ModelConfig, layout: Layout = "concatenated"
) -> Iterator[TensorMapping]:
    """A matrix and its bias, where there is one. A bias has nothing to be transposed."""
    yield TensorMapping(f"{ours}.weight", (f"{theirs}.weight",), layout)
    if config.bias:
        yield TensorMapping(f"{ours}.bias", (f"{theirs}.bias",), "concatenated" if layout == "transposed" else layout)


def qkv_split_sizes(config: ModelConfig) -> tuple[int, int, int]:
    """How many rows of the matrix of queries, keys and values are whose."""
    E = config.attention_config.head_dim
    return config.heads * E, config.attention_config.key_value_heads * E, config.attention_config.key_value_heads * E


ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "sqrelu": "relu2",
}
"""Their names of activations, and ours."""


def activation_from_hf(name: str) -> Activation:
    """Our name of an activation, from theirs. Raises LabError for one that is not known here."""
    if name not in ACTIVATIONS:
        raise LabError(f"The activation {name!r} is not supported; supported are {', '.join(ACTIVATIONS)}.")
    return ACTIVATIONS[name]


def activation_to_hf(config: ModelConfig) -> str:
    """Their name of the activation that the feed-forward has."""
    layer = config.feed_forward.expert if isinstance(config.feed_forward, MoE) else config.feed_forward
    return {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}[layer.activation]
