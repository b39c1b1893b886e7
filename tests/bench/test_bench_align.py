"""Alignment beside TRL at a tiny size: what is counted, who takes turns, and the form of the report."""

import json
import os
from pathlib import Path

import pytest

from labkit import machine
from labkit.bench import align
from labkit.bench.align import AlignBench, run, text_report
from labkit.bench.align_flops import Group, forward_flops, step_flops
from labkit.bench.align_turns import TrainingProcess
from labkit.bench.align_worker import AlignBatch
from labkit.bench.train import ModelShape
from labkit.commands.bench import BenchOptions
from labkit.commands.options import parse_options
from labkit.errors import LabError
from labkit.model import Gated, ModelConfig, Transformer
from tests.trl_source import NEW

TINY = ModelShape("tiny", width=16, depth=1, heads=1, key_value_heads=1, intermediate_size=16)
QUICK = AlignBench(
    stages=("dpo",),
    shape=TINY,
    batch=AlignBatch(pairs=2, answers=4, num_generations=2, max_new_tokens=4),
    prompts=24,
    rounds=2,
)


@pytest.fixture(scope="module")
def materials(tmp_path_factory):
    folder = tmp_path_factory.mktemp("align")
    align.make_materials(QUICK, folder)
    return folder


def test_products_of_a_forward_pass_by_hand():
    """Two prompt tokens and answers of 1 and 2. Matrices of the block: 16 (48 + 16) of attention, 3 of 16 16 in the
    feed-forward, 1,792 weights, each 2 FLOPs for 5 tokens. Tokens look at 1 + 2 tokens in the prompt, at 3 in the first
    answer and at 3 + 4 in the second, 13 in all, at 4 16 FLOPs each. The head is asked for 3 labels.
    """
    model = Transformer(ModelConfig(10, 32, width=16, depth=1, heads=1, feed_forward=Gated(16), qk_norm=False))
    without = 2 * 1792 * 5 + 4 * 16 * 13
    assert forward_flops(model, Group(2, (1, 2)), head=False) == without
    assert forward_flops(model, Group(2, (1, 2))) == without + 2 * 10 * 16 * 3


def test_a_step_is_three_passes_and_a_rollout_more(materials):
    flops = {name: step_flops(name, QUICK.batch, materials) for name in ("dpo", "reward", "grpo", "ppo")}
    assert flops["dpo"] > flops["reward"] > 0
    longer = step_flops("dpo", AlignBatch(pairs=4), materials)
    assert longer == pytest.approx(2 * flops["dpo"])
    assert flops["ppo"] > flops["grpo"]  # no prompt has a second answer, and there is a value model


def test_our_side_takes_turns_and_says_its_memory(materials):
    process = TrainingProcess("grpo by labkit", ["labkit", "grpo", "fp32", str(materials)], [])
    try:
        process.wait_until_ready()
        turns = [process.take(1), process.take(2)]
        memory = process.end()
    finally:
        process.close()
    assert all(turn.seconds > 0 and turn.processor_seconds > 0 for turn in turns)
    assert 0 < memory["training_mb"] < memory["peak_mb"]


def test_a_process_that_fails_says_why(tmp_path):
    process = TrainingProcess("dpo by labkit", ["labkit", "dpo", "fp32", str(tmp_path)], [])
    with pytest.raises(LabError, match="dpo by labkit: the training process ended with exit code 1: (.|\n)*batch.json"):
        process.wait_until_ready()
    process.close()


@pytest.mark.parametrize(("theirs", "target", "met"), [(4.0, 2.0, True), (1.5, 1.3, False)])
def test_the_target_is_half_of_theirs_or_more_than_the_floor(monkeypatch, theirs, target, met):
    monkeypatch.setattr(align, "step_flops", lambda *given: 1e9)
    timed = {"labkit": {"seconds": 1.5}, "trl": {"seconds": theirs}}
    found = align._floor("dpo", QUICK, Path("."), timed, 1e9)
    assert (found["floor_seconds"], found["target_seconds"], found["target_met"]) == (1.0, target, met)


def test_a_folder_without_that_trl_is_refused(tmp_path):
    with pytest.raises(LabError, match=r"does not contain TRL 1\.10\.0: pip install --no-deps --target"):
        run(AlignBench(trl=tmp_path))


def test_the_command_takes_the_folder():
    assert parse_options(BenchOptions, "bench", ["align", "--trl", "there"]).trl == Path("there")


@pytest.mark.slow
def test_both_sides_in_turns(monkeypatch):
    if "LABKIT_TRL" not in os.environ:
        message = "LABKIT_TRL names no folder; see tests/trl_source.py"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    monkeypatch.setattr(machine, "has_bf16", lambda device=None: False)
    report = run(align.dataclasses.replace(QUICK, trl=Path(os.environ["LABKIT_TRL"]) / NEW))
    assert json.loads(json.dumps(report)) == report
    (one,) = report["stages"]
    assert one["ratio"] == pytest.approx(one["labkit"]["seconds"] / one["trl"]["seconds"])
    assert len(one["labkit"]["turns"]) == len(one["trl"]["turns"]) == 2
    assert one["labkit"]["training_mb"] > 0 and one["trl"]["training_mb"] > 0
    assert "labkit/TRL" in text_report(report) and "dpo" in text_report(report)
