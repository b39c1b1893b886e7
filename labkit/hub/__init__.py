"""Published checkpoints, in and out: folders of transformers, or a hub's id.

    model = from_pretrained("HuggingFaceTB/SmolLM2-135M")     # or a folder with config.json and model.safetensors
    save_pretrained(model, "exported")                        # transformers' AutoModel reads it

Weights are read and written as safetensors alone; a pickle is refused.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from labkit.files import write_json
from labkit.hub.families import FAMILIES
from labkit.hub.folder import read_config, read_tensor_entries, resolve_checkpoint
from labkit.hub.matching import LazyCheckpoint, match_tensors
from labkit.hub.shapes import config_from_hf, config_to_hf, family_from_config, family_name
from labkit.machine import check_memory_available, default_device
from labkit.model.transformer import ModelConfig, Transformer
from labkit.training.weights import write_tensors

__all__ = ["family_name", "from_pretrained", "open_checkpoint", "resolve_checkpoint", "save_pretrained"]


def open_checkpoint(path_or_hub_name: str | Path) -> LazyCheckpoint:
    """The config of a checkpoint in transformers' form, and where its tensors lie, which are read when asked for.

    path_or_hub_name: a folder, or the id of a model on the Hugging Face hub, of which only safetensors and JSON are
    fetched. Raises LabError for a folder without weights, with pickles or an adapter alone, for an unknown family, for
    a config that cannot be built or says what is not known here, for quantized weights, and for tensors that are
    missing, left over, of another shape, in two files, or by two names with different numbers.
    """
    folder = resolve_checkpoint(path_or_hub_name)
    config = read_config(folder)
    family = family_from_config(config, folder)
    shape = config_from_hf(family, config, folder / "config.json")
    return match_tensors(family, shape, read_tensor_entries(folder), folder)


def from_pretrained(path_or_hub_name: str | Path) -> Transformer:
    """The model of a checkpoint, on `default_device`, in eval mode and fp32. In memory are the model and one of the
    checkpoint's tensors; then it goes to the device.

    Raises LabError as `open_checkpoint`, for NaN or infinite numbers, and for a model that this machine's memory cannot
    hold.
    """
    checkpoint = open_checkpoint(path_or_hub_name)
    model = _without_weights(checkpoint.config)
    for name in dict(model.named_parameters()):
        owner, _, own_name = name.rpartition(".")
        setattr(model.get_submodule(owner), own_name, nn.Parameter(checkpoint.read(name)))
    return model.to(default_device()).eval()


def _without_weights(config: ModelConfig) -> Transformer:
    """A model whose parameters wait on the device meta. Its tables of positions, which no checkpoint has, are real."""
    with torch.device("meta"):
        model = Transformer(config)
    count = max(model.parameter_count, config.min_parameter_count)  # the second with the tables
    check_memory_available(4.0 * count, f"A model of {count:,} parameters")
    for stack in (model, model.encoder) if model.encoder else (model,):
        stack.position = config.new_position(stack.causal)
    return model


def save_pretrained(model: Transformer, target: str | Path) -> None:
    """Write the model as transformers reads it: config.json and model.safetensors, in shards when it is large.

    The family is the one whose shape the model has. Raises LabError when there is none.
    """
    target, name = Path(target), family_name(model.config)
    family, ours = FAMILIES[name], model.state_dict()
    described = config_to_hf(name, model.config)
    parts = {theirs: part for part in family.tensor_mappings(model.config) for theirs in part.theirs}

    def theirs(name: str) -> Tensor:
        part = parts[name]
        return part.to_theirs(ours[part.ours].detach().cpu(), model.config)[name]

    like: dict[str, Tensor] = {}
    for part in parts.values():
        like |= part.to_theirs(ours[part.ours].detach().to("meta"), model.config)
    write_tensors(target, like, theirs, metadata={"format": "pt"})
    write_json(target / "config.json", described)
