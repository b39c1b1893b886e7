"""Run by `accelerate launch` in test_processes.py: reward, dpo and ppo on the tiny model; what happened, as JSON."""

import dataclasses
import json
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from labkit.stages import DPO, PPO, FitReward, Stage, StageInputs
from labkit.training.loop import fit
from labkit.training.processes import accelerator
from tests.tiny import weights_hash
from tests.tiny_alignment import TRAIN, tiny_materials

SHORT = dataclasses.replace(TRAIN, steps=4, checkpoint_every=3)
STAGES: dict[str, Stage] = {
    "reward": FitReward(SHORT),
    "dpo": DPO(SHORT),
    "ppo": PPO(dataclasses.replace(SHORT, length=160), answer_tokens=10),
}


def trained(stage: Stage, stage_inputs: StageInputs, folder: Path | None = None, steps: int = 4) -> dict[str, Any]:
    """The records of up to `steps` steps and a hash of the weights after them."""
    torch.set_num_threads(1)
    model = stage.initial_model(stage_inputs)
    source = stage.source(stage_inputs, model)
    run = fit(model, source, stage.objective, stage.train, folder=folder)
    records = [record.to_dict() for record in islice(run, steps)]
    run.close()
    return {"records": records, "hash": weights_hash(model)}


def main() -> None:
    folder, processes = Path(sys.argv[1]), accelerator()
    stage_inputs = tiny_materials(rank=processes.process_index, world_size=processes.num_processes)
    found = {name: trained(stage, stage_inputs) for name, stage in STAGES.items()}
    # Stopped between the two steps of a rollout, just after a checkpoint, and resumed.
    trained(STAGES["ppo"], stage_inputs, folder, steps=3)
    processes.wait_for_everyone()
    found["ppo resumed"] = trained(STAGES["ppo"], stage_inputs, folder)
    print("RESULT" + json.dumps({"rank": processes.process_index, "stages": found}))
    processes.end_training()  # a process that only exits may abort while the other still listens


if __name__ == "__main__":
    main()
