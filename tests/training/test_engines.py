"""DDP and FSDP2 on two processes (gloo, on the processor) train what one process trains; killed and resumed too."""

import json
import os
import random
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from labkit.errors import LabError
from labkit.stages import Pretrain, next_token_objective
from labkit.training.checkpoints import Checkpoints
from labkit.training.config import build_optimizer
from labkit.training.loop import fit
from labkit.training.processes import parallel_config
from tests.tiny import TinyModel, weights_hash
from tests.tiny_alignment import TRAIN, tiny_materials
from tests.workers import finish, start

STEPS = os.environ.get("LABKIT_STEPS", "5")
"""Of each stage; the README's claim is of 50."""

pytestmark = pytest.mark.slow


def test_two_processes_give_the_losses_of_one():
    """Every stage, with both optimizers, by both strategies; by DDP pretraining is compiled."""
    (alone,) = map(json.loads, finish(start("tests.engines", ["all", STEPS], 1), 900))
    both = [json.loads(said) for said in finish(start("tests.engines", ["all", STEPS]), 900)]
    furthest = 0.0
    for strategy in ("ddp", "fsdp"):
        for optimizer in ("adamw", "muon"):
            for stage, ours in alone["ddp"][optimizer].items():
                theirs = both[0][strategy][optimizer][stage]
                assert len(ours) == int(STEPS) and [x["counted"] for x in theirs] == [x["counted"] for x in ours]
                apart = max(abs(x["loss"] - y["loss"]) for x, y in zip(ours, theirs, strict=True))
                assert apart < 1e-5, (strategy, optimizer, stage)
                assert theirs[-1]["validation_loss"] == pytest.approx(ours[-1]["validation_loss"], abs=1e-5)
                furthest = max(furthest, apart)
        held = [one[strategy]["share"] for one in both]
        assert held == pytest.approx([0.5, 0.5], abs=0.01) if strategy == "fsdp" else held == [1, 1]
    print(f"losses of {STEPS} steps are at most {furthest:.1e} apart")


def test_in_bf16_two_processes_give_the_losses_of_one_to_three_digits():
    """Whose weights are gathered in bf16; some mixers compute a part of their work in fp32."""
    (alone,) = map(json.loads, finish(start("tests.engines", ["bf16", "2"], 1), 300))
    both = [json.loads(said) for said in finish(start("tests.engines", ["bf16", "2"], LABKIT_PARALLEL="fsdp"), 300)]
    assert (
        both[0].keys() >= {"pretrain", "sft", "reward", "ppo", "dpo", "kto", "rwkv", "gru", "moe"}
        and both[0] == both[1]
    )
    for name, losses in alone.items():
        # PPO's answers may part where two tokens are nearly as likely.
        assert both[0][name] == pytest.approx(losses, abs=0.03 if name == "ppo" else 1e-3), name


def killed(folder: Path, steps: str, rng: random.Random, processes: int) -> None:
    """Begin or resume, and kill all processes at a random moment after a few new records."""
    log = folder / "metrics.jsonl"
    before = log.read_bytes().count(b"\n") if log.exists() else 0
    more, until = rng.randint(1, 4), time.monotonic() + 120
    started = start("tests.engines", ["ppo", steps, str(folder)], processes, LABKIT_PARALLEL="fsdp")
    while all(process.poll() is None for process in started) and time.monotonic() < until:
        if log.exists() and log.read_bytes().count(b"\n") >= before + more:
            time.sleep(0.2 * rng.random())
            break
        time.sleep(0.01)
    for process in started:
        process.kill()
        process.communicate()


def test_killed_and_resumed_a_sharded_run_ends_with_the_same_weights(tmp_path):
    steps, rng = "14", random.Random(0)
    straight = finish(start("tests.engines", ["ppo", steps, str(tmp_path / "a")], LABKIT_PARALLEL="fsdp"))
    for _ in range(2):
        killed(tmp_path / "b", steps, rng, 2)
    last = sorted((tmp_path / "b" / "checkpoints").glob("step-*"))[-1]
    assert (last / "shards").is_dir() and not (last / "model.safetensors").exists()
    shutil.copytree(tmp_path / "b", tmp_path / "c")
    again = finish(start("tests.engines", ["ppo", steps, str(tmp_path / "b")], LABKIT_PARALLEL="fsdp"))
    assert len({json.loads(said)["hash"] for said in [straight[0], again[0]]}) == 1

    # On one process too, whose last bits differ, and from there on two; also inside a rollout of two steps.
    killed(tmp_path / "c", steps, rng, 1)
    assert sorted((tmp_path / "c" / "checkpoints").glob("step-*/model.safetensors"))
    finish(start("tests.engines", ["ppo", steps, str(tmp_path / "c")], LABKIT_PARALLEL="fsdp"))
    ours, theirs = (
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()] for name in "ac"
    )
    assert [record["step"] for record in theirs] == list(range(1, int(steps) + 1))
    assert [record["loss"] for record in theirs] == pytest.approx([record["loss"] for record in ours], abs=1e-5)


def test_what_does_not_fit_in_one_process_is_trained_by_two():
    """AdamW takes four times the weights in one process, and two times, and what is gathered, in each of two."""
    (alone,) = start("tests.limited", ["2.8", "fp32"], 1)
    said, why = alone.communicate(timeout=300)
    assert alone.returncode == 2 and "2 " not in said
    assert "do not fit in memory. Lower train.batch_size" in why and "--parallel fsdp" in why
    for precision in ("fp32", "bf16"):  # which keeps no copy of the weights in bf16
        both = finish(start("tests.limited", ["2.8", precision], LABKIT_PARALLEL="fsdp"))
        assert [len(printed.splitlines()) for printed in both] == [2, 2]


def test_a_model_is_sharded_and_given_back_block_by_block():
    """Both fit in a shard and one block; the whole weights, bit for bit, are the main process's alone."""
    main, other = finish(start("tests.limited", ["shards"], LABKIT_PARALLEL="fsdp"))
    assert main.split() == ["0.5", "True"] and other.split() == ["0.5", "False"]


def test_when_one_process_ends_the_others_do_too():
    """One of two may not have the memory: it says so, and the other says that it has lost it."""
    started = start("tests.limited", ["2.8", "fp32"], LABKIT_PARALLEL="ddp")
    errors = [process.communicate(timeout=60)[1] for process in started]
    assert all(process.returncode in (1, 2) for process in started)
    assert any("do not fit in memory" in error for error in errors)


def test_activation_checkpointing_changes_nothing_but_memory(monkeypatch):
    losses: dict[str, list[float]] = {}
    for asked in ("", "1"):
        monkeypatch.setenv("LABKIT_ACTIVATION_CHECKPOINTING", asked)
        parallel_config.cache_clear()
        stage_inputs = tiny_materials()
        model = stage_inputs.model("")
        train = replace(TRAIN, steps=3, max_length=128)
        for _ in range(2):  # the second time on a model that has it
            source = Pretrain(train).source(stage_inputs, model)
            losses.setdefault(asked, []).extend(
                record.loss for record in fit(model, source, next_token_objective, train)
            )
    parallel_config.cache_clear()
    assert losses["1"] == losses[""] and losses[""][-1] < losses[""][0]


def test_a_checkpoint_that_lacks_a_weight_is_refused(tmp_path):
    """Whether it is read whole or in shares."""
    checkpoints, model = Checkpoints(tmp_path), TinyModel()
    optimizer = build_optimizer(model, TRAIN).tensors()
    checkpoints.save(1, model, {"optimizer": optimizer}, {})
    saved = checkpoints.latest()
    assert saved is not None and not saved.sharded
    other = TinyModel(seed=1)
    saved.load_into(other, build_optimizer(other, TRAIN).tensors())
    assert weights_hash(other) == weights_hash(model)
    other.extra = torch.nn.Parameter(torch.zeros(2))
    with pytest.raises(LabError, match="model.safetensors has no extra, so training cannot be resumed"):
        saved.load_into(other, optimizer)
