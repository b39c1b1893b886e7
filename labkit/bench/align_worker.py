"""One process of `labkit bench align`: a stage of labkit, or a trainer of TRL, on the materials of a folder.

    python -m labkit.bench.align_worker LIBRARY STAGE PRECISION FOLDER

The folder holds `model/`, in transformers' form with its tokenizer, `pairs.jsonl` and `batch.json`.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from labkit.bench.align_turns import TrainingDone, TurnTaker, resident_bytes
from labkit.configs import Count, check_fields

WARM_UP = {"dpo": 3, "reward": 3, "grpo": 2, "ppo": 1}
"""Steps, of PPO rollouts, that are not timed."""
FOREVER = 1_000_000

Precision = Literal["fp32", "bf16"]
StageName = Literal["dpo", "reward", "grpo", "ppo"]


@dataclasses.dataclass(frozen=True)
class AlignBatch:
    """What a step is made of, the same on both sides.

    pairs: of a step of DPO and of the reward model. answers: of a rollout of GRPO, `num_generations` to each prompt,
    and of PPO, one to each. ppo_epochs: steps on each rollout of PPO. max_length, max_new_tokens: of a row, and of an
    answer that is sampled. prefix_sharing: labkit's setting; TRL has none like it.
    """

    pairs: Count = 16
    answers: Count = 32
    num_generations: Count = 4
    ppo_epochs: Count = 2
    max_length: Count = 192
    max_new_tokens: Count = 40
    prefix_sharing: bool = True

    def __post_init__(self) -> None:
        check_fields(self)


def train_labkit(stage: StageName, precision: Precision, folder: Path, batch: AlignBatch, turns: TurnTaker) -> None:
    """Train by labkit until told to end."""
    from labkit.stages.registry import STAGES
    from labkit.training.config import TrainConfig
    from labkit.training.loop import fit

    rows = batch.pairs if stage in ("dpo", "reward") else batch.answers
    train = TrainConfig(
        FOREVER,
        rows,
        batch.max_length,
        optimizer="adamw",
        adamw_lr=1e-5,
        warmup_steps=0,
        precision=precision,
        checkpoint_every=0,
        prefix_sharing=batch.prefix_sharing,
    )
    settings: dict[StageName, dict[str, Any]] = {
        "dpo": {"beta": 0.1},
        "reward": {},
        "grpo": {"num_generations": batch.num_generations, "max_new_tokens": batch.max_new_tokens},
        "ppo": {"num_generations": 1, "epochs": batch.ppo_epochs, "max_new_tokens": batch.max_new_tokens},
    }
    kind: Any = STAGES[stage]
    config = kind(train=train, **settings[stage])
    inputs = labkit_inputs(folder)
    model = config.initial_model(inputs)
    for record in fit(model, config.source(inputs, model), config.objective, train):
        if stage != "ppo" or record.step % batch.ppo_epochs == 0:
            turns.step_done()


def labkit_inputs(folder: Path) -> Any:
    """The materials as a stage of labkit is given them. Only the end token ends an answer, as it does for TRL."""
    from labkit.files import read_jsonl
    from labkit.hub import from_pretrained
    from labkit.model.reward_model import RewardModel
    from labkit.stages.inputs import PreferenceSplit, StageInputs
    from labkit.text.pairs import PreferencePair
    from labkit.text.reading.preferences import Preferences
    from labkit.text.reading.report import ReadReport
    from labkit.text.tokenizer import Tokenizer
    from labkit.world import Message, World

    tokenizer = Tokenizer.load(folder / "model")
    tokenizer.stop_ids = [tokenizer.eos_token_id]
    pairs = [
        PreferencePair(
            tuple(Message(turn["role"], turn["content"]) for turn in row["prompt"]),
            row["chosen"][0]["content"],
            row["rejected"][0]["content"],
        )
        for row in read_jsonl(folder / "pairs.jsonl")
    ]
    return StageInputs(
        tokenizer,
        World.load("tiny"),
        preferences=Preferences(pairs, [], ReadReport("the bench's pairs")),
        model_of=lambda name: from_pretrained(folder / "model"),
        reward_model_of=lambda name: RewardModel(from_pretrained(folder / "model")).eval(),
        load_preferences=lambda: PreferenceSplit(pairs, []),
        predecessor="sft",
        reward_stage="reward",
    )


def main() -> None:
    """See the module."""
    library, stage, precision, place = sys.argv[1:]
    folder = Path(place)
    train: Callable[..., None]
    batch = AlignBatch(**json.loads((folder / "batch.json").read_text()))
    if library == "trl":
        from labkit.bench.align_trl import train_trl as train
    else:
        importlib.import_module("labkit.training.loop")  # before memory is counted
        train = train_labkit
    turns = TurnTaker(WARM_UP[stage], resident_bytes())
    try:
        train(stage, precision, folder, batch, turns)
    except TrainingDone:
        return


if __name__ == "__main__":
    main()
