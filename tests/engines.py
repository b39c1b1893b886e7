"""Run by test_engines.py on one process or more: stages of seconds on the tiny model; what happened, as JSON.

python -m tests.engines all STEPS           {strategy: {optimizer: {stage: records}, "share": of what is held}}
python -m tests.engines ppo STEPS FOLDER    PPO in a folder, resumed if it was begun: {"records", "hash"}
"""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from labkit.stages import DPO, PPO, SFT, Pretrain, RewardModeling, Stage, StageInputs
from labkit.training.config import build_optimizer
from labkit.training.engine import make_engine
from labkit.training.loop import fit
from labkit.training.processes import accelerator, parallel_config
from labkit.training.sharding import local_shard
from tests.tiny import weights_hash
from tests.tiny_alignment import TRAIN, tiny_materials
from tests.tiny_recipe import tiny_recipe


def stages(steps: int, optimizer: Any) -> dict[str, Stage]:
    train = replace(TRAIN, steps=steps, optimizer=optimizer, max_length=128, adamw_lr=1e-3, muon_lr=1e-3)
    answers = replace(train, max_length=160, adamw_lr=3e-4, muon_lr=3e-4)
    return {
        "pretrain": Pretrain(replace(train, gradient_accumulation_steps=2)),
        "sft": SFT(train),
        "reward": RewardModeling(train),
        "ppo": PPO(answers, max_new_tokens=10),
        "dpo": DPO(train),
    }


def trained(stage: Stage, stage_inputs: StageInputs, folder: Path | None = None) -> dict[str, Any]:
    """The records of all steps, and a hash of the weights after them."""
    model = stage_inputs.model("") if stage.kind == "pretrain" else stage.initial_model(stage_inputs)
    source = stage.source(stage_inputs, model)

    def validate(trained: Any, step: int) -> dict[str, float]:
        return {"validation_loss": stage.validation_loss(trained, stage_inputs, tiny_recipe().evaluation) or 0.0}

    run = fit(model, source, stage.objective, stage.train, folder=folder, evaluate=validate)
    records = [record.to_dict() for record in run]
    save({name: p.data for name, p in model.named_parameters()})  # whole tensors, with no storage beyond them
    return {"records": records, "hash": weights_hash(model)}


def share(stage_inputs: StageInputs) -> float:
    """How much of the parameters and of the optimizer's state this process holds."""
    model = stage_inputs.model("")
    whole = sum(p.numel() for p in model.parameters())
    engine = make_engine(model, torch.device("cpu"))
    optimizer = build_optimizer(engine.model, replace(TRAIN, optimizer="adamw"))
    state = sum(local_shard(tensor).numel() for tensor in optimizer.tensors().values() if tensor.ndim)
    return (sum(local_shard(p).numel() for p in engine.model.parameters()) + state) / (3 * whole)


def every_stage(stage_inputs: StageInputs, steps: int) -> dict[str, Any]:
    found: dict[str, Any] = {
        optimizer: {name: trained(stage, stage_inputs)["records"] for name, stage in stages(steps, optimizer).items()}
        for optimizer in ("adamw", "muon")
    }
    return found | {"share": share(stage_inputs)}


def main() -> None:
    torch.set_num_threads(1)
    processes = accelerator()
    stage_inputs = tiny_materials(rank=processes.process_index, world_size=processes.num_processes)
    what, steps, *folder = sys.argv[1:]
    found: dict[str, Any] = {}
    if what == "ppo":
        train = replace(stages(int(steps), "muon")["ppo"].train, checkpoint_every=2)
        found = trained(PPO(train, max_new_tokens=10), stage_inputs, Path(*folder))
    else:
        for strategy in ("ddp", "fsdp") if processes.num_processes > 1 else ("ddp",):
            os.environ["LABKIT_PARALLEL"] = strategy
            parallel_config.cache_clear()
            found[strategy] = every_stage(stage_inputs, int(steps))
    print(json.dumps(found))
    sys.stdout.flush()
    processes.end_training()  # a process that only exits may abort while the other still listens


if __name__ == "__main__":
    main()
