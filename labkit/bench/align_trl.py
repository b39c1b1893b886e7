"""TRL's trainers as `labkit bench align` times them: at their fastest for the same batch.

No gradient checkpointing, the reference's log-probabilities computed before training (DPO), nothing logged or saved.
With bf16 the models that are not trained, the reference of PPO and the reward model, are loaded in bf16; TRL would
compute them in fp32. The trained ones compute in bf16 with fp32 weights, as labkit's do.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)

from labkit.files import read_jsonl

if TYPE_CHECKING:
    from labkit.bench.align_turns import TurnTaker
    from labkit.bench.align_worker import AlignBatch, Precision, StageName

MANY = 1_000_000


class _Turns(TrainerCallback):
    def __init__(self, turns: TurnTaker):
        self.turns = turns

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        self.turns.step_done()


def train_trl(stage: StageName, precision: Precision, folder: Path, batch: AlignBatch, turns: TurnTaker) -> None:
    """Train by TRL until told to end."""
    datasets.disable_progress_bars()
    build = {"dpo": _dpo, "reward": _reward, "grpo": _grpo, "ppo": _ppo}[stage]
    build(precision, folder, batch, [_Turns(turns)]).train()


def _options(precision: Precision, folder: Path, rows: int) -> dict[str, Any]:
    """What all trainers are told."""
    return {
        "output_dir": str(folder / "trl"),
        "per_device_train_batch_size": rows,
        "gradient_checkpointing": False,
        "bf16": precision == "bf16",
        "learning_rate": 1e-5,
        "lr_scheduler_type": "constant",
        "logging_steps": MANY,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": not torch.cuda.is_available(),
    }


def _model(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)


def _scorer(folder: Path, precision: Precision = "fp32") -> Any:
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    return AutoModelForSequenceClassification.from_pretrained(folder / "model", num_labels=1, dtype=dtype)


def _tokenizer(folder: Path, side: str = "right") -> Any:
    return AutoTokenizer.from_pretrained(folder / "model", padding_side=side)


def _pairs(folder: Path) -> Any:
    return datasets.Dataset.from_list(read_jsonl(folder / "pairs.jsonl"))


def _prompts(folder: Path) -> list[Any]:
    return [row["prompt"] for row in read_jsonl(folder / "pairs.jsonl")]


def _dpo(precision: Precision, folder: Path, batch: AlignBatch, callbacks: list[Any]) -> Any:
    from trl import DPOConfig, DPOTrainer

    config = DPOConfig(
        **_options(precision, folder, batch.pairs),
        max_steps=MANY,
        max_length=batch.max_length,
        beta=0.1,
        precompute_ref_log_probs=True,
    )
    return DPOTrainer(
        _model(folder),
        args=config,
        train_dataset=_pairs(folder),
        processing_class=_tokenizer(folder),
        callbacks=callbacks,
    )


def _reward(precision: Precision, folder: Path, batch: AlignBatch, callbacks: list[Any]) -> Any:
    from trl import RewardConfig, RewardTrainer

    config = RewardConfig(**_options(precision, folder, batch.pairs), max_steps=MANY, max_length=batch.max_length)
    return RewardTrainer(
        _scorer(folder),
        args=config,
        train_dataset=_pairs(folder),
        processing_class=_tokenizer(folder),
        callbacks=callbacks,
    )


def _grpo(precision: Precision, folder: Path, batch: AlignBatch, callbacks: list[Any]) -> Any:
    from trl import GRPOConfig, GRPOTrainer

    config = GRPOConfig(
        **_options(precision, folder, batch.answers),
        max_steps=MANY,
        num_generations=batch.num_generations,
        max_completion_length=batch.max_new_tokens,
        beta=0.1,
        loss_type="grpo",
    )
    tokenizer = _tokenizer(folder, "left")
    return GRPOTrainer(
        _model(folder),
        reward_funcs=_scorer(folder, precision),
        reward_processing_classes=_tokenizer(folder),
        args=config,
        train_dataset=datasets.Dataset.from_dict({"prompt": _prompts(folder)}),
        processing_class=tokenizer,
        callbacks=callbacks,
    )


def _ppo(precision: Precision, folder: Path, batch: AlignBatch, callbacks: list[Any]) -> Any:
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    tokenizer = _tokenizer(folder, "left")
    config = PPOConfig(
        **_options(precision, folder, batch.answers),
        total_episodes=MANY * batch.answers,
        num_ppo_epochs=batch.ppo_epochs,
        num_mini_batches=1,
        num_sample_generations=0,
        response_length=batch.max_new_tokens,
        local_rollout_forward_batch_size=batch.answers,
        stop_token="eos",
        temperature=1.0,
        kl_coef=0.1,
        vf_coef=0.5,
        cliprange_value=0.5,
    )
    ids = [
        tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
        for prompt in _prompts(folder)
    ]
    reference = AutoModelForCausalLM.from_pretrained(
        folder / "model", dtype=torch.bfloat16 if precision == "bf16" else torch.float32
    )
    return PPOTrainer(
        config,
        tokenizer,
        model=_model(folder),
        ref_model=reference,
        reward_model=_scorer(folder, precision),
        value_model=_scorer(folder),
        train_dataset=datasets.Dataset.from_dict({"input_ids": ids}),
        eval_dataset=datasets.Dataset.from_dict({"input_ids": ids[: batch.answers]}),
        callbacks=callbacks,
    )
