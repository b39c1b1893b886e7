"""``labkit export RUN FOLDER``: export a run's model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from labkit.commands.options import RunFolder, parse_options


@dataclass(frozen=True)
class ExportOptions:
    """Export a run's model, with its tokenizer and chat template, for transformers or for llama.cpp."""

    run: RunFolder
    """The run's folder."""
    out: Annotated[Positional[Path], arg(metavar="FOLDER", help_behavior_hint="")]
    """The folder to write to, new or empty."""
    stage: Annotated[str | None, arg(metavar="STAGE", help_behavior_hint="")] = None
    """Export the model after this stage; after the last one when not given."""
    format: Literal["transformers", "gguf"] = "transformers"
    """transformers: config.json and model.safetensors, in shards above 5 GB. gguf: one file."""
    outtype: Literal["f32", "f16", "q8_0"] = "f16"
    """For gguf: the type of the weight matrices, as in llama.cpp's convert_hf_to_gguf.py: floats of 32 or 16 bits, or
    quantized to 8 bits (q8_0)."""
    older_names = {"outtype": "kind"}


def command(arguments: list[str]) -> int:
    """`labkit export`: its exit code."""
    options = parse_options(ExportOptions, "export", arguments)
    from labkit.hub.export import export
    from labkit.runs.folder import Run

    made = export(Run.open(options.run), options.out, options.stage, options.format, options.outtype)
    print(f"Written: {made}")
    return 0
