"""Run by `accelerate launch` in test_processes.py: reward, dpo and ppo on the tiny model; what happened, as JSON."""

import dataclasses
import json
import sys
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from labkit.model import Gated, ModelConfig, Transformer
from labkit.model.feedforward import MoE
from labkit.preferences.stepwise import StepLabelConfig
from labkit.stages import DPO, KTO, ORPO, PPO, RewardModeling, Stage, StageInputs, next_token_objective
from labkit.stages.credit import KLInReward, MovingMean
from labkit.stages.distill import Distill
from labkit.stages.grpo import GRPO
from labkit.stages.off_policy import TruncatedImportanceSampling
from labkit.stages.onlinedpo import OnlineDPO
from labkit.stages.prm import ProcessRewardModeling
from labkit.stages.reward import PlackettLuce
from labkit.stages.rewards import ProcessReward
from labkit.text.sources import DocumentSource
from labkit.training.loop import fit
from labkit.training.processes import accelerator
from tests.tiny import weights_hash
from tests.tiny_alignment import TRAIN, tiny_materials

SHORT = dataclasses.replace(TRAIN, steps=4, checkpoint_every=3)
STAGES: dict[str, Stage] = {
    "reward": RewardModeling(SHORT),
    "dpo": DPO(SHORT),
    "orpo": ORPO(SHORT),
    "kto": KTO(SHORT),
    "ppo": PPO(dataclasses.replace(SHORT, max_length=160), max_new_tokens=10),
    "grpo": GRPO(
        dataclasses.replace(SHORT, max_length=160),
        max_new_tokens=10,
        num_generations=2,
        baseline=MovingMean(),
        kl=KLInReward(target=0.5),
        ptx_coef=0.1,
    ),
    "grpo off policy": GRPO(
        dataclasses.replace(SHORT, max_length=160, prefix_sharing=True),
        max_new_tokens=10,
        num_generations=2,
        epochs=2,
        max_kl=1e-6,
        sampler_top_p=0.9,
        off_policy_correction=TruncatedImportanceSampling(),
    ),
    "onlinedpo": OnlineDPO(dataclasses.replace(SHORT, max_length=160), max_new_tokens=10),
    "distill": Distill(dataclasses.replace(SHORT, max_length=160), "teacher", max_new_tokens=10),
    "distill, nll": Distill(
        dataclasses.replace(SHORT, max_length=160), "teacher", 0.0, seq_kd=True, loss_type="nll", max_new_tokens=10
    ),
    "prm": ProcessRewardModeling(
        dataclasses.replace(SHORT, max_length=96),
        StepLabelConfig(prompts=12, held_out=2, num_generations=2, max_new_tokens=8),
    ),
    "grpo of steps": GRPO(
        dataclasses.replace(SHORT, max_length=160), max_new_tokens=10, num_generations=2, reward=ProcessReward()
    ),
    "reward of lists": RewardModeling(SHORT, PlackettLuce(), center_rewards_coefficient=0.1),
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


def mixture(stage_inputs: StageInputs) -> dict[str, Any]:
    """A mixture in which most experts are never asked: its records, and the norm of each expert's first weights."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    experts = MoE(Gated(4), num_experts=128, top_k=1, aux_loss_coef=0.5)
    vocab_size = stage_inputs.tokenizer.vocab_size
    shape = ModelConfig(vocab_size, 64, width=8, depth=1, heads=1, key_value_heads=1, feed_forward=experts)
    model = Transformer(shape)
    train = dataclasses.replace(TRAIN, steps=3, batch_size=4, max_length=16, weight_decay=0.5, adamw_lr=0.1)
    read = partial(stage_inputs.world.conversation, "train", 0)
    source = DocumentSource(stage_inputs.tokenizer, read, 4, 16, **stage_inputs.seed_and_rank_options())
    records = [record.to_dict() for record in fit(model, source, next_token_objective, train)]
    weights = [weight for name, weight in model.named_parameters() if ".experts." in name]
    return {"records": records, "norms": [float(weight.norm()) for weight in weights]}


def main() -> None:
    folder, processes = Path(sys.argv[1]), accelerator()
    stage_inputs = tiny_materials(rank=processes.process_index, world_size=processes.num_processes)
    found = {name: trained(stage, stage_inputs) for name, stage in STAGES.items()}
    # Stopped between the two steps of a rollout, just after a checkpoint, and resumed.
    trained(STAGES["ppo"], stage_inputs, folder, steps=3)
    processes.wait_for_everyone()
    found["ppo resumed"] = trained(STAGES["ppo"], stage_inputs, folder)
    found["mixture"] = mixture(stage_inputs)
    for rank in range(processes.num_processes):  # one after another: long lines of two would mix
        if rank == processes.process_index:
            print("RESULT" + json.dumps({"rank": rank, "stages": found}), flush=True)
        processes.wait_for_everyone()
    processes.end_training()  # a process that only exits may abort while the other still listens


if __name__ == "__main__":
    main()
