"""A run's model, taken away: to transformers or to llama.cpp, with its tokenizer and chat template."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from labkit.errors import LabError
from labkit.files import write_json
from labkit.hub import save_pretrained
from labkit.hub.gguf import Kind, save_gguf
from labkit.runs.folder import Run

Format = Literal["transformers", "gguf"]


def export(
    run: Run, target: str | Path, stage: str | None = None, format: Format = "transformers", gguf_dtype: Kind = "f16"
) -> Path:
    """Write the model after `stage` (the last that writes when None) into the folder `target`; what was written.

    format: "transformers", a folder for AutoModelForCausalLM and AutoTokenizer, or "gguf", a file in it whose matrices
    are of `gguf_dtype`. Raises LabError when there is no such model, or the folder holds something already.
    """
    target, tokenizer = Path(target), run.tokenizer()
    folder = run.stage(stage) if stage else run.latest_language_model_stage()
    model = folder.model().cpu()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise LabError(f"{target} is not empty. Choose another folder.")
    if format == "gguf":
        file = target / f"{run.path.resolve().name}-{folder.name}.{gguf_dtype.upper()}.gguf"
        save_gguf(model, tokenizer, file, gguf_dtype)
        return file
    save_pretrained(model, target)
    tokenizer.save(target)
    write_json(target / "generation_config.json", tokenizer.generation_config)
    return target
