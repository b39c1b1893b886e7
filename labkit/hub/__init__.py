"""Published checkpoints, in and out: folders of transformers, or a hub's id.

    model = from_pretrained("HuggingFaceTB/SmolLM2-135M")     # or a folder with config.json and model.safetensors
    save_pretrained(model, "exported")                        # transformers' AutoModel reads it

Weights are read and written as safetensors alone; a pickle is refused.
"""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from labkit.files import atomic_replace, explain_write_errors, write_json
from labkit.hub.families import FAMILIES
from labkit.hub.folder import WEIGHTS, read_config, read_tensor_entries, resolve_checkpoint
from labkit.hub.matching import read_checkpoint_tensors
from labkit.hub.shapes import config_from_hf, config_to_hf, family_from_config, family_name
from labkit.model.transformer import Transformer

__all__ = ["family_name", "from_pretrained", "resolve_checkpoint", "save_pretrained"]


def from_pretrained(source: str | Path) -> Transformer:
    """The model of a checkpoint in transformers' form, in eval mode and fp32.

    source: a folder, or the id of a model on the Hugging Face hub, of which only safetensors and JSON are fetched.
    Raises LabError for a folder without weights, with pickles or an adapter alone, for an unknown family, for a config
    that cannot be built or says what is not known here, for quantized weights, and for tensors that are missing, left
    over, of another shape, or with NaN or infinite numbers.
    """
    folder = resolve_checkpoint(source)
    config = read_config(folder)
    family = family_from_config(config, folder)
    shape = config_from_hf(family, config, folder / "config.json")
    tensors = read_checkpoint_tensors(family, shape, read_tensor_entries(folder), folder)
    model = Transformer(shape)
    model.load_state_dict(
        {part.ours: part.to_ours(tensors, shape) for part in family.tensor_mappings(shape)}
    )  # copies, into fp32
    return model.eval()


def save_pretrained(model: Transformer, target: str | Path) -> None:
    """Write the model as transformers reads it: config.json and model.safetensors.

    The family is the one whose shape the model has. Raises LabError when there is none.
    """
    target, name = Path(target), family_name(model.config)
    family, ours = FAMILIES[name], model.state_dict()
    described = config_to_hf(name, model.config)
    tensors: dict[str, Tensor] = {}
    for part in family.tensor_mappings(model.config):
        tensors |= part.to_theirs(ours[part.ours].detach().cpu(), model.config)
    with explain_write_errors(target):
        target.mkdir(parents=True, exist_ok=True)
        with atomic_replace(target / WEIGHTS) as partial:
            save_file(tensors, str(partial), metadata={"format": "pt"})
    write_json(target / "config.json", described)
