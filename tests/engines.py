"""Run by test_engines.py on one process or more: stages of seconds on the tiny model; what happened, as JSON.

python -m tests.engines all STEPS           {strategy: {optimizer: {stage: records}, "share": of what is held}}
python -m tests.engines ppo STEPS FOLDER    PPO in a folder, resumed if it was begun: {"records", "hash"}; multiturn too
python -m tests.engines bf16 STEPS          {stage or kind of mixer: losses}, in bf16 whatever the processor has
"""

import copy
import functools
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from safetensors.torch import save

from labkit.model import Gated, Transformer
from labkit.model.feedforward import MoE
from labkit.model.gru import GRU
from labkit.model.positions import NoPosition
from labkit.model.rwkv import RWKV
from labkit.stages import DPO, KTO, PPO, SFT, Pretrain, RewardModeling, Stage, StageInputs
from labkit.stages.credit import ValueModel
from labkit.stages.grpo import GRPO
from labkit.stages.multiturn import MultiTurn
from labkit.stages.off_policy import TruncatedImportanceSampling
from labkit.training.config import TrainConfig, build_optimizer
from labkit.training.engine import make_parallel_engine
from labkit.training.loop import fit
from labkit.training.processes import accelerator, parallel_config, shards_models
from labkit.training.sharding import local_shard
from labkit.world.users import SimulatedUser
from tests.tiny import weights_hash
from tests.tiny_alignment import TRAIN, content_with_vowels, tiny_materials
from tests.tiny_recipe import tiny_recipe


def stages(steps: int, optimizer: Any, compile: bool = False) -> dict[str, Stage]:
    train = replace(TRAIN, steps=steps, optimizer=optimizer, max_length=128, adamw_lr=1e-3, muon_lr=1e-3)
    answers = replace(train, max_length=160, adamw_lr=3e-4, muon_lr=3e-4)
    return {
        "pretrain": Pretrain(replace(train, gradient_accumulation_steps=2, compile=compile)),
        "sft": SFT(train),
        "reward": RewardModeling(train),
        "ppo": PPO(answers, max_new_tokens=10),
        "dpo": DPO(train),
        "kto": KTO(train),
    }


def off_policy(train: TrainConfig) -> Stage:
    """Answers of another distribution than is trained, a critic, prompts that are shared, and steps that a KL ends."""
    return GRPO(
        replace(train, prefix_sharing=True),
        epochs=2,
        baseline=ValueModel(),
        max_new_tokens=10,
        max_kl=1e-6,
        sampler_top_p=0.9,
        off_policy_correction=TruncatedImportanceSampling(),
    )


def trained(stage: Stage, stage_inputs: StageInputs, folder: Path | None = None) -> dict[str, Any]:
    """The records of all steps, and a hash of the weights after them, on the main process where they were sharded."""
    model = stage_inputs.model("") if stage.kind == "pretrain" else stage.initial_model(stage_inputs)
    source = stage.source(stage_inputs, model)

    def validate(trained: Any, step: int) -> dict[str, float]:
        return {"validation_loss": stage.validation_loss(trained, stage_inputs, tiny_recipe().evaluation) or 0.0}

    run = fit(model, source, stage.objective, stage.train, folder=folder, evaluate=validate)
    records = [record.to_dict() for record in run]
    if shards_models() and not accelerator().is_main_process:
        assert all(p.numel() == 0 for p in model.parameters() if p.ndim)
        return {"records": records}
    save({name: p.data for name, p in model.named_parameters()})  # whole tensors, with no storage beyond them
    return {"records": records, "hash": weights_hash(model)}


def share(stage_inputs: StageInputs) -> float:
    """How much of the parameters and of the optimizer's state this process holds."""
    model = stage_inputs.model("")
    whole = sum(p.numel() for p in model.parameters())
    engine = make_parallel_engine(model, torch.device("cpu"))
    optimizer = build_optimizer(engine.model, replace(TRAIN, optimizer="adamw"))
    state = sum(local_shard(tensor).numel() for tensor in optimizer.tensors().values() if tensor.ndim)
    return (sum(local_shard(p).numel() for p in engine.model.parameters()) + state) / (3 * whole)


def every_stage(stage_inputs: StageInputs, steps: int, compile: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"share": share(stage_inputs)}
    for optimizer in ("adamw", "muon"):
        named = stages(steps, optimizer, compile)
        if optimizer == "adamw":
            named["off policy, with a critic"] = off_policy(named["ppo"].train)
        found[optimizer] = {name: trained(stage, stage_inputs)["records"] for name, stage in named.items()}
    return found


def in_bf16(stage_inputs: StageInputs, steps: int) -> dict[str, list[float]]:
    """Every stage, and pretraining with the mixers that compute a part of their work in fp32."""
    named: dict[str, Any] = stages(steps, "adamw")
    named = {name: replace(stage, train=replace(stage.train, precision="bf16")) for name, stage in named.items()}
    found = {name: trained(stage, stage_inputs) for name, stage in named.items()}
    mixers: dict[str, dict[str, Any]] = {
        "rwkv": {"mixer": RWKV(), "position": NoPosition(), "token_shift": True},
        "gru": {"mixer": GRU(), "position": NoPosition()},
        "moe": {"feed_forward": MoE(Gated(32), num_experts=4, top_k=2)},
    }
    for name, changes in mixers.items():
        torch.manual_seed(0)
        model = Transformer(replace(stage_inputs.model("").config, **changes))
        found[name] = trained(named["pretrain"], replace(stage_inputs, model_of=functools.partial(_same, model)))
    return {name: [record["loss"] for record in one["records"]] for name, one in found.items()}


def _same(model: Transformer, name: str) -> Transformer:
    return copy.deepcopy(model)


def main() -> None:
    torch.set_num_threads(1)
    processes = accelerator()
    stage_inputs = tiny_materials(rank=processes.process_index, world_size=processes.num_processes)
    what, steps, *folder = sys.argv[1:]
    found: dict[str, Any] = {}
    if what in ("ppo", "multiturn"):
        train = replace(stages(int(steps), "muon")["ppo"].train, checkpoint_every=3)  # every other one inside a rollout
        stage: Stage = PPO(train, max_new_tokens=10)
        if what == "multiturn":
            stage = MultiTurn(replace(train, max_length=200), epochs=2, max_new_tokens=10)
        with mock.patch.object(SimulatedUser, "satisfaction", content_with_vowels):
            found = trained(stage, stage_inputs, Path(*folder))
    elif what == "bf16":
        with mock.patch("labkit.machine.has_bf16", return_value=True):
            found = in_bf16(stage_inputs, int(steps))
    else:
        for strategy in ("ddp", "fsdp") if processes.num_processes > 1 else ("ddp",):
            os.environ["LABKIT_PARALLEL"] = strategy
            parallel_config.cache_clear()
            compiled = strategy == "ddp" and processes.num_processes > 1
            found[strategy] = every_stage(stage_inputs, int(steps), compiled)
    print(json.dumps(found))
    sys.stdout.flush()
    processes.end_training()  # a process that only exits may abort while the other still listens


if __name__ == "__main__":
    main()
