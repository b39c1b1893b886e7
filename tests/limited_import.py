"""Run by test_import.py: import a checkpoint, and load it, under a limit on this process's memory.

python -m tests.limited_import FOLDER     where `publish` has put the checkpoints small and large
"""

import resource
import sys
from pathlib import Path

import torch

from labkit.hub import from_pretrained, save_pretrained
from labkit.hub.importing import import_checkpoint
from labkit.machine import is_out_of_memory
from labkit.model import Gated, ModelConfig, Transformer
from labkit.paths import demo_folder
from labkit.runs.presets import make_recipe
from labkit.text.tokenizer import Tokenizer
from labkit.training import weights
from tests.limited import data_bytes


def publish(folder: Path, depth: int) -> None:
    """A Llama with the tokenizer of the shipped run."""
    tokenizer = Tokenizer.load(demo_folder())
    shape = ModelConfig(tokenizer.vocab_size, 64, 256, depth, 4, feed_forward=Gated(768), qk_norm=False)
    model = Transformer(shape)
    save_pretrained(model, folder)
    tokenizer.save(folder)


def limit(added: float) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (data_bytes() + int(added), resource.RLIM_INFINITY))


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    recipe = make_recipe("smoke")
    import_checkpoint(folder / "small", folder / "small-run", recipe)  # what it imports and reads is not limited
    from_pretrained(folder / "small")
    weights.MAX_SHARD_BYTES = 8_000_000
    files = weights.weight_files(folder / "large")
    size = sum(file.stat().st_size for file in files)
    limit(size / 2)
    import_checkpoint(folder / "large", folder / "run", recipe)
    assert min(len(files), len(weights.weight_files(folder / "run" / "sft"))) > 8
    print("imported")
    try:
        from_pretrained(folder / "large")
    except (RuntimeError, MemoryError) as error:
        print("too large to load" if is_out_of_memory(error) else error)
    limit(1.3 * size)
    from_pretrained(folder / "large")
    print("loaded")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
