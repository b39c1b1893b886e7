"""The folder of a published checkpoint: its config.json and what its safetensors files hold.

What is in the files is known from their headers, so that a checkpoint is refused before its weights are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from labkit.errors import LabError
from labkit.files import check_not_lfs_pointer
from labkit.hub.tokenizer_files import FILES
from labkit.training.weights import (
    INDEX,
    WEIGHTS,
    read_checkpoint_json,
    weight_files,
    weights_or_index_file,
)

ADAPTER = "adapter_config.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.msgpack", "*.h5")
FLOATS = ("F64", "F32", "F16", "BF16")


class TensorEntry(NamedTuple):
    """Where a tensor lies: its file, its name there, the type of its numbers in safetensors' words, and its shape."""

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]


def resolve_checkpoint(path_or_hub_name: str | Path) -> Path:
    """The folder of a checkpoint, fetched from the hub when `path_or_hub_name` is none. Raises LabError when there is
    neither.
    """
    folder = Path(path_or_hub_name)
    if folder.is_dir():
        return folder
    if folder.exists() or str(path_or_hub_name).count("/") != 1 or str(path_or_hub_name).startswith((".", "/", "~")):
        raise LabError(f"{path_or_hub_name} is neither a folder with a checkpoint nor a model id like OWNER/NAME.")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(path_or_hub_name), allow_patterns=["*.safetensors", *FILES]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise LabError(
            f"{path_or_hub_name} is not a folder, and could not be downloaded from the hub: {error}"
        ) from error


def read_config(folder: Path) -> dict[str, Any]:
    """config.json. Raises LabError when it is missing or no object, and for an adapter, which is no whole model."""
    if (folder / ADAPTER).is_file():
        base = read_checkpoint_json(folder / ADAPTER).get("base_model_name_or_path") or "another model"
        raise LabError(
            f"{folder} contains an adapter (LoRA) of {base}, not a whole model. Merge the two first (peft: "
            "merge_and_unload, then save_pretrained) and import the result."
        )
    if not (folder / "config.json").is_file():
        run = " It is a run of labkit, which needs no import." if (folder / "recipe.json").is_file() else ""
        raise LabError(
            f"{folder} contains no checkpoint: looked for config.json with {WEIGHTS} or {INDEX}, or a .gguf file; "
            f"there {_listed(folder)}.{run}"
        )
    return read_checkpoint_json(folder / "config.json")


def _listed(folder: Path) -> str:
    """What lies in a folder, in words."""
    names = sorted(file.name + "/" * file.is_dir() for file in folder.iterdir() if not file.name.startswith("."))
    return f"are {', '.join(names[:6])}{' …' * (len(names) > 6)}" if names else "is nothing in it"


def read_tensor_entries(folder: Path) -> dict[str, TensorEntry]:
    """All tensors of a checkpoint, of one file or of several with an index, by the names in the files.

    Raises LabError for weights that are missing, cut off, pickles, or no plain floating-point numbers.
    """
    entries: dict[str, TensorEntry] = {}
    for file in _files(folder):
        check_not_lfs_pointer(file)
        try:
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():
                    if name in entries:
                        raise LabError(f"{folder} contains {name} twice, in {entries[name].file.name} and {file.name}.")
                    found = opened.get_slice(name)
                    entries[name] = TensorEntry(file, name, found.get_dtype(), tuple(found.get_shape()))
        except (OSError, SafetensorError) as error:
            raise LabError(f"{file} cannot be read, or is truncated: {error}") from error
    return entries


def check_finite(name: str, tensor: Tensor, file: Path) -> None:
    """Raises LabError for weights with NaN or infinite numbers, of which every answer would be NaN."""
    odd = tensor.numel() - int(torch.isfinite(tensor).sum())
    if odd:
        raise LabError(
            f"{file}: {odd:,} of {tensor.numel():,} numbers in {name} are NaN or infinite: training diverged, or the "
            "file is damaged. Use another checkpoint."
        )


def refuse_quantized(entries: Mapping[str, TensorEntry], folder: Path) -> None:
    """Raises LabError for weights that mean nothing without the scales of a quantization."""
    odd = sorted(name for name, entry in entries.items() if entry.dtype not in FLOATS)
    if odd:
        kinds = ", ".join(sorted({entries[name].dtype for name in odd}))
        raise LabError(
            f"{folder} contains {len(odd)} tensors of {kinds}; the first is {odd[0]}: quantized weights, which are not "
            f"supported without their scales. Use the original weights; supported are {', '.join(FLOATS)}."
        )


def read_tensor(entry: TensorEntry) -> Tensor:
    """A tensor of a file. Raises LabError where it cannot be read, and for NaN or infinite numbers."""
    try:
        with safe_open(entry.file, framework="pt", backend="pread") as opened:  # of the file no more than the tensor
            tensor = opened.get_tensor(entry.name)
    except (OSError, SafetensorError) as error:
        raise LabError(f"{entry.file} cannot be read: {error}") from error
    check_finite(entry.name, tensor, entry.file)
    return tensor


def _files(folder: Path) -> list[Path]:
    """The files that hold the weights; as in transformers, one whole file is preferred to an index."""
    if weights_or_index_file(folder).is_file():
        return weight_files(folder)
    pickles = sorted(file.name for pattern in PICKLES for file in folder.glob(pattern))
    if pickles:
        raise LabError(
            f"{folder} has its weights as pickles ({', '.join(pickles)}), which can run code when they are loaded. "
            "Convert them to safetensors."
        )
    parts = sorted(file.name for file in folder.glob("*.safetensors"))
    if parts:
        raise LabError(
            f"{folder} contains {', '.join(parts[:3])}{' …' * (len(parts) > 3)}, but no {INDEX}, which lists their "
            f"tensors: download it too. A checkpoint in one file is named {WEIGHTS}."
        )
    raise LabError(f"{folder} contains no weights: neither {WEIGHTS} nor {INDEX}; there {_listed(folder)}.")
