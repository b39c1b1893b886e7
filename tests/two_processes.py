"""Run by `accelerate launch` in test_processes.py: train the tiny model, write what happened as JSON."""

import json
import sys

from labkit.training.loop import fit
from labkit.training.processes import accelerator
from tests.tiny import Counting, TinyModel, tiny_config, tiny_objective, weights_hash


def main() -> None:
    folder, compiled = sys.argv[1], sys.argv[2] == "compiled"
    processes = accelerator()
    source = Counting(rows=8, rank=processes.process_index, world_size=processes.num_processes)
    # Each process begins elsewhere: fit must start all of them from the weights of the first.
    model = TinyModel(seed=processes.process_index)
    config = tiny_config(batch_size=8, gradient_accumulation_steps=2, compile=compiled)
    records = [record.to_dict() for record in fit(model, source, tiny_objective, config, folder=folder)]
    print("RESULT" + json.dumps({"rank": processes.process_index, "hash": weights_hash(model), "records": records}))
    processes.end_training()  # a process that only exits may abort while the other still listens


if __name__ == "__main__":
    main()
