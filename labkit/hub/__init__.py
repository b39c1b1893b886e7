"""Published checkpoints, in and out: folders of transformers, or a hub's id.

    model = from_pretrained("HuggingFaceTB/SmolLM2-135M")     # or a folder with config.json and model.safetensors
    save_pretrained(model, "exported")                        # transformers' AutoModel reads it

Weights are read and written as safetensors alone; a pickle is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from labkit.errors import LabError
from labkit.files import disk_errors, replacing, write_json
from labkit.hub.families import FAMILIES
from labkit.hub.parts import Family
from labkit.model.feedforward import MoE
from labkit.model.positions import ALiBi, Learned, NoPosition, Rotary, T5Buckets
from labkit.model.rwkv import RWKV
from labkit.model.transformer import ModelConfig, Transformer

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def from_pretrained(source: str | Path) -> Transformer:
    """The model of a checkpoint in transformers' form, in eval mode and fp32.

    source: a folder, or the id of a model on the Hugging Face hub, of which only safetensors and JSON are fetched.
    Raises LabError for a folder without weights or with pickles alone, for an unknown family, for a config that cannot
    be built, and for tensors that are missing or of another shape.
    """
    folder = local_folder(source)
    config = _config(folder)
    family = _family(config, folder)
    try:
        shape = family.read(config)
    except KeyError as error:
        raise LabError(f"{folder}/config.json has no {error}, which a {config['model_type']} needs.") from error
    return _filled(Transformer(shape), family, _tensors(folder), folder).eval()


def save_pretrained(model: Transformer, target: str | Path) -> None:
    """Write the model as transformers reads it: config.json and model.safetensors.

    The family is the one whose shape the model has. Raises LabError when there is none.
    """
    target, name = Path(target), family_of(model.config)
    family, ours = FAMILIES[name], model.state_dict()
    tensors: dict[str, Tensor] = {}
    for part in family.parts(model.config):
        tensors |= part.split(ours[part.ours].detach().cpu(), model.config)
    with disk_errors(target):
        target.mkdir(parents=True, exist_ok=True)
        with replacing(target / WEIGHTS) as partial:
            save_file(tensors, str(partial), metadata={"format": "pt"})
    described = {"architectures": [family.architecture], "model_type": name, "dtype": "float32"}
    write_json(target / "config.json", described | family.write(model.config))


def family_of(config: ModelConfig) -> str:
    """The family that has this shape. Raises LabError when none has."""
    match config.position:
        case Rotary() if config.norm == "rms" and config.order == "pre" and config.causal and not config.bias:
            if isinstance(config.feed_forward, MoE):
                return "mixtral"
            return "qwen3" if config.qk_norm else "llama"
        case Learned() if config.norm == "layer" and config.bias:
            return "gpt2" if config.causal else "bert"
        case ALiBi() if config.norm == "layer" and config.bias and config.embedding_norm:
            return "bloom"
        case T5Buckets() if config.encoder:
            return "switch_transformers" if isinstance(config.feed_forward, MoE) else "t5"
        case NoPosition() if isinstance(config.mixer, RWKV) and config.embedding_norm and config.token_shift:
            return "rwkv7"
    raise LabError(
        f"No family of transformers has this shape: {type(config.position).__name__} positions, {config.norm} norm, "
        f"{config.order}-normalised, {type(config.feed_forward).__name__} feed-forward. Those known: "
        f"{', '.join(FAMILIES)}."
    )


def local_folder(source: str | Path) -> Path:
    """The folder of a checkpoint, fetched from the hub when `source` is none. Raises LabError when there is neither."""
    folder = Path(source)
    if folder.is_dir():
        return folder
    if folder.exists() or str(source).count("/") != 1 or str(source).startswith((".", "/", "~")):
        raise LabError(f"{source} is no folder with a checkpoint, and no model's id like OWNER/NAME.")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(source), allow_patterns=["*.json", "*.safetensors"]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise LabError(f"{source} is no folder here, and could not be fetched from the hub: {error}") from error


def _config(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LabError(f"{file} cannot be read, so it is not known what its weights are: {error}") from error


def _family(config: Mapping[str, Any], folder: Path) -> Family:
    name = config.get("model_type")
    if name not in FAMILIES:
        raise LabError(f"{folder} holds a model of the family {name!r}; those known are {', '.join(FAMILIES)}.")
    return FAMILIES[name]


def _tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint, of one file or of several with an index."""
    names = [WEIGHTS]
    if (folder / INDEX).is_file():
        names = sorted(set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
    elif not (folder / WEIGHTS).is_file():
        pickles = sorted(file.name for pattern in PICKLES for file in folder.glob(pattern))
        if pickles:
            raise LabError(
                f"{folder} holds its weights as pickles ({', '.join(pickles)}), which can run code when they are "
                f"loaded. Get or convert them as safetensors."
            )
        raise LabError(f"{folder} holds no weights: neither {WEIGHTS} nor {INDEX}.")
    tensors: dict[str, Tensor] = {}
    for name in names:
        try:
            tensors |= load_file(folder / Path(name).name)
        except (OSError, SafetensorError) as error:
            raise LabError(f"{folder / name} cannot be read: {error}") from error
    return tensors


def _filled(model: Transformer, family: Family, tensors: dict[str, Tensor], folder: Path) -> Transformer:
    """The model with the tensors of a checkpoint, whose names may lack the prefix of the whole model's."""
    parts = list(family.parts(model.config))
    wanted = {name for part in parts for name in part.theirs}
    for prefix in sorted({name.split(".")[0] for name in wanted if name not in tensors}):
        for name in [name for name in wanted - tensors.keys() if name.startswith(f"{prefix}.")]:
            if name.removeprefix(f"{prefix}.") in tensors:
                tensors[name] = tensors[name.removeprefix(f"{prefix}.")]
    missing = sorted(wanted - tensors.keys())
    if missing:
        raise LabError(f"{folder} lacks {len(missing)} tensors that its config.json asks for, {missing[0]} the first.")
    state = {part.ours: part.join(tensors, model.config) for part in parts}
    expected = {name: x.shape for name, x in model.state_dict().items()}
    wrong = [name for name, x in state.items() if x.shape != expected[name]]
    if wrong:
        shapes = f"{tuple(state[wrong[0]].shape)}, not {tuple(expected[wrong[0]])}"
        raise LabError(f"{folder}: {wrong[0]} would be {shapes} by its config.json; the two do not belong together.")
    model.load_state_dict(state)  # which copies, into fp32
    return model
