"""Which of a file's tensors is which of a family's: none is left over without a word.

A tensor is one that the model has, or known by its name to say nothing, or the checkpoint is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from labkit.errors import LabError
from labkit.hub.folder import TensorEntry, read_tensor, refuse_quantized
from labkit.hub.parts import Family, TensorMapping
from labkit.model.transformer import ModelConfig, Transformer

IGNORED_TENSORS = r"(.*\.)?(rotary_emb\.inv_freq|position_ids)"
"""Buffers that any family may have saved, and that its config says already."""
MOST_TOKENS = 2**24
"""No model reads longer rows; a config that says so is damaged."""


class LazyCheckpoint(NamedTuple):
    """A checkpoint whose tensors are known, and are read when they are asked for.

    mappings: {our name of a tensor: what it is made of}. entries: {the family's name of a tensor: where it lies}.
    """

    config: ModelConfig
    mappings: dict[str, TensorMapping]
    entries: dict[str, TensorEntry]

    def read(self, labkit_name: str) -> Tensor:
        """One of our tensors, in fp32. Raises LabError for NaN or infinite numbers, and for a damaged file."""
        theirs = {one: read_tensor(self.entries[one]) for one in self.mappings[labkit_name].theirs}
        ours = self.mappings[labkit_name].to_ours(theirs, self.config)
        return torch.empty(ours.shape).copy_(ours)

    def check_finite(self) -> None:
        """Read every tensor once, one after the other. Raises LabError for NaN or infinite numbers, and for a damaged
        file.
        """
        for entry in self.entries.values():
            read_tensor(entry)


def match_tensors(
    family: Family, config: ModelConfig, entries: Mapping[str, TensorEntry], folder: Path
) -> LazyCheckpoint:
    """Find all tensors of a model of this config in a checkpoint. Raises LabError for those that are missing, of
    another shape, quantized or left over, and where two that are to be one differ.
    """
    check_config_plausible(config, len(entries), str(folder), "config.json")
    parts = {part.ours: part for part in family.tensor_mappings(config)}
    wanted = {name for part in parts.values() for name in part.theirs}
    found, left = _by_family_names(family, wanted, entries, folder)
    refuse_quantized({name: entries[name] for name in (*found.values(), *left.values())}, folder)
    twins = _twins(family, found, left)
    if left:
        first = next(iter(left.values()))
        raise LabError(
            f"{folder} contains {len(left)} tensors that the model of its config.json does not have; the first is "
            f"{first}. Without them it would be a different model, so it is refused."
        )
    missing = sorted(wanted - found.keys())
    if missing:
        raise LabError(_missing(missing, family, folder))
    shapes = {name: entries[found[name]].shape for name in wanted}
    check_shapes(list(parts.values()), config, shapes, str(folder), "config.json")
    for other, name in twins.items():
        if not torch.equal(*(read_tensor(entries[one]) for one in (other, found[name]))):
            raise LabError(
                f"{folder}: its config.json says that {other} is {name} (tie_word_embeddings), but the file contains "
                "two that differ. With tie_word_embeddings false in config.json both are loaded."
            )
    return LazyCheckpoint(config, parts, {name: entries[found[name]] for name in wanted})


def _by_family_names(
    family: Family, wanted: set[str], entries: Mapping[str, TensorEntry], folder: Path
) -> tuple[dict[str, str], dict[str, str]]:
    """{the family's name: the file's} of the tensors that the model has, and the same of those that it has not."""
    found: dict[str, str] = {}
    left: dict[str, str] = {}
    spare = re.compile(f"{IGNORED_TENSORS}|{family.ignored_tensors}" if family.ignored_tensors else IGNORED_TENSORS)
    for given in entries:
        name = _plain(given)
        if name not in wanted and f"{family.base_model_prefix}{name}" in wanted | family.tied_weights_keys.keys():
            name = f"{family.base_model_prefix}{name}"  # of the model without its head
        if name not in wanted and (spare.fullmatch(name) or spare.fullmatch(f"{family.base_model_prefix}{name}")):
            continue
        where = found if name in wanted else left
        if name in where:
            raise LabError(f"{folder} contains {name} twice, as {where[name]} and as {given}.")
        where[name] = given
    return found, left


def _plain(name: str) -> str:
    """A tensor's name without what torch.compile, data parallelism and TensorFlow's BERT add to it."""
    name = name.replace("_orig_mod.", "").removeprefix("module.")
    return re.sub(r"LayerNorm\.(gamma|beta)$", lambda m: f"LayerNorm.{_RENAMED[m[1]]}", name)


_RENAMED = {"gamma": "weight", "beta": "bias"}


def _twins(family: Family, found: dict[str, str], left: dict[str, str]) -> dict[str, str]:
    """Take tensors that are another one by a second name from `left`: {the file's name: what it must equal}. Where the
    first name is missing, the second stands in for it.
    """
    twins = {}
    for other, name in family.tied_weights_keys.items():
        if other in left:
            given = left.pop(other)
            if found.setdefault(name, given) != given:
                twins[given] = name
    return twins


def _missing(missing: list[str], family: Family, folder: Path) -> str:
    if set(missing) <= family.tied_weights_keys.keys():
        return (
            f"{folder} has no head: {missing[0]} is not in its files, and its config.json does not tie it to the "
            "embedding (tie_word_embeddings). It is a model without a head, or incomplete."
        )
    return f"{folder} lacks {len(missing)} tensors that its config.json asks for; the first is {missing[0]}."


def check_config_plausible(config: ModelConfig, num_tensors: int, where: str, config_source: str) -> None:
    """Raises LabError for a depth or a context that no checkpoint of so many tensors can have. config_source: what of
    the checkpoint says the config, as in "its header".
    """
    if max(config.depth, config.encoder_depth) > num_tensors or config.context > MOST_TOKENS:
        raise LabError(
            f"{where}: its {config_source} describes {config.depth} layers and a context of {config.context} tokens, "
            f"but it contains {num_tensors} tensors: the two do not belong together."
        )


def check_shapes(
    mappings: list[TensorMapping],
    config: ModelConfig,
    shapes: Mapping[str, tuple[int, ...]],
    where: str,
    config_source: str,
) -> None:
    """Raises LabError where tensors of these shapes do not make a model of this config; needs no memory for it."""
    with torch.device("meta"):
        expected = {name: x.shape for name, x in Transformer(config).state_dict().items()}
        for part in mappings:
            try:
                found = part.to_ours({name: torch.empty(shapes[name]) for name in part.theirs}, config).shape
            except (RuntimeError, IndexError):
                found = torch.Size(shapes[part.theirs[0]])
            if found != expected[part.ours]:
                raise LabError(
                    f"{where}: {part.theirs[0]} would be {tuple(found)}, not {tuple(expected[part.ours])} by its "
                    f"{config_source}; the two do not belong together."
                )
