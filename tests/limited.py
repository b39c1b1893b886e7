"""Run by test_engines.py: train a model under a limit on this process's memory.

python -m tests.limited TIMES PRECISION     TIMES the weights' bytes may be added to the data that is there at the start
python -m tests.limited shards              a model is sharded and given back; the limit is a shard and one block
"""

import resource
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from labkit.commands import launched
from labkit.errors import LabError
from labkit.model import Gated, ModelConfig, Transformer
from labkit.stages import next_token_objective
from labkit.text.batch import Batch
from labkit.training.config import TrainConfig
from labkit.training.engine import make_parallel_engine
from labkit.training.loop import fit
from labkit.training.processes import accelerator
from labkit.training.sharding import local_shard

SHAPE = ModelConfig(100, 32, width=512, depth=12, heads=4, feed_forward=Gated(1536))
TRAIN = TrainConfig(2, 4, 16, optimizer="adamw", precision="fp32", checkpoint_every=0)


class Random:
    """Rows of random tokens, shared out among the processes."""

    def next_batch(self, model: Any, step: int) -> Batch:
        ids = torch.randint(100, (4, 17), generator=torch.Generator().manual_seed(step))
        own = ids[accelerator().process_index :: accelerator().num_processes]
        return Batch(own[:, :-1], own[:, 1:], torch.ones_like(own[:, 1:], dtype=torch.bool))

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert not state


def data_bytes() -> int:
    """The memory that the limit counts."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmData"))
    return int(line.split()[1]) * 1024


def limit_data(size: float) -> None:
    limit = data_bytes() + int(size)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.RLIM_INFINITY))


def shard_and_give_back() -> None:
    """Its weights are in shared memory, which the limit does not count, as a GPU's would not count the CPU's."""
    torch.manual_seed(0)
    model, main = Transformer(SHAPE), accelerator().is_main_process
    model.share_memory()
    before = {name: p.detach().clone().share_memory_() for name, p in model.named_parameters()}
    whole = sum(p.nbytes for p in model.parameters())
    block = sum(p.nbytes for p in model.blocks[0].parameters())
    torch.distributed.barrier()  # which starts threads
    limit_data(whole / 2 + block)
    engine = make_parallel_engine(model, torch.device("cpu"))
    assert all(p.numel() == 0 for p in model.parameters())
    held = sum(local_shard(p).nbytes for p in engine.model.parameters())
    limit_data(block + (whole if main else 0))
    engine.gather_full_weights_to_main_process()
    if main:
        assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    print(held / whole, [p.numel() for p in model.parameters()] == [p.numel() for p in before.values()])


def main() -> int:
    torch.set_num_threads(1)
    accelerator()
    if sys.argv[1] == "shards":
        import_module("labkit.training.distributed")
        shard_and_give_back()
        accelerator().end_training()
        return 0
    times: str
    precision: Any
    times, precision = sys.argv[1:]
    train = replace(TRAIN, precision=precision)
    import_module("labkit.training.distributed")  # what it imports is no part of what is limited
    with torch.device("meta"):
        weights = 4 * sum(p.numel() for p in Transformer(SHAPE).parameters())
    limit_data(float(times) * weights)
    try:
        torch.manual_seed(0)
        with mock.patch("labkit.machine.has_bf16", return_value=True):
            for record in fit(Transformer(SHAPE), Random(), next_token_objective, train):
                print(record.step, record.loss)
    except LabError as error:
        print(error, file=sys.stderr)
        return 2
    except Exception as error:
        return launched.report_process_failure(error)
    accelerator().end_training()
    return 0


if __name__ == "__main__":
    sys.exit(launched.exit_at_once_on_failure(main()))
