"""`accelerate launch` on two processes (gloo, on the processor) trains what one process trains."""

import json
import subprocess
import sys
from typing import Any

import pytest
import torch

from labkit.training.loop import fit
from tests.tiny import Counting, TinyModel, tiny_config, tiny_objective
from tests.tiny_alignment import tiny_materials
from tests.two_processes_align import STAGES, mixture, trained


def launched(module: str, *arguments: str) -> list[dict[str, Any]]:
    """What both processes print after RESULT, by rank."""
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    options = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    command = [*launch, *options, "-m", module, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    results = [json.loads(line[len("RESULT") :]) for line in done.stdout.splitlines() if line.startswith("RESULT")]
    assert sorted(result["rank"] for result in results) == [0, 1]
    return sorted(results, key=lambda result: result["rank"])


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(tmp_path):
    results = launched("tests.two_processes", str(tmp_path / "both"), "eager")
    assert results[0]["hash"] == results[1]["hash"]  # both hold the same weights

    model, source = TinyModel(seed=0), Counting(rows=8)
    single = [
        r.to_dict()
        for r in fit(model, source, tiny_objective, tiny_config(batch_size=8, gradient_accumulation_steps=2))
    ]
    for ours, theirs in zip(single, results[0]["records"], strict=True):
        for name in ("loss", "counted", "gradient_norm", "right"):
            assert theirs[name] == pytest.approx(ours[name], rel=1e-4)

    # What the first process wrote can be resumed, by one process too.
    lines = (tmp_path / "both" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 6
    with pytest.warns(UserWarning, match="these changed: .*processes"):
        list(
            fit(
                TinyModel(),
                source,
                tiny_objective,
                tiny_config(batch_size=8, gradient_accumulation_steps=2),
                folder=tmp_path / "both",
            )
        )
    assert torch.get_num_threads() == 1


@pytest.mark.slow
def test_what_learns_from_pairs_is_on_two_processes_that_of_one_and_ppo_goes_on_after_a_stop(tmp_path):
    first, second = (result["stages"] for result in launched("tests.two_processes_align", str(tmp_path / "ppo")))
    for name in (*STAGES, "ppo resumed"):
        assert first[name]["hash"] == second[name]["hash"]
    stage_inputs = tiny_materials()
    alone = mixture(stage_inputs)  # balanced over all tokens; experts that nobody asked stay as they were
    assert first["mixture"]["norms"] == pytest.approx(alone["norms"], rel=1e-3)
    for ours, theirs in zip(alone["records"], first["mixture"]["records"], strict=True):
        assert theirs["loss"] == pytest.approx(ours["loss"], rel=1e-4)
        assert theirs["gradient_norm"] == pytest.approx(ours["gradient_norm"], rel=1e-4)
    for name in ("reward", "reward of lists", "dpo", "orpo", "kto", "prm"):
        single = trained(STAGES[name], stage_inputs)["records"]
        assert len(single) == 4
        for ours, theirs in zip(single, first[name]["records"], strict=True):
            for measured in ("loss", "counted", "gradient_norm", "accuracy"):
                assert theirs[measured] == pytest.approx(ours[measured], rel=1e-4)
    measures = {"grpo": "ptx_loss", "onlinedpo": "accuracy", "grpo off policy": "importance_weight"}
    measures["grpo of steps"] = "entropy"
    assert sum(record["skipped_steps"] for record in first["grpo off policy"]["records"]) > 0
    for name, more in measures.items():
        single = trained(STAGES[name], stage_inputs)["records"]
        for ours, theirs in zip(single, first[name]["records"], strict=True):
            for measured in ("loss", "counted", "gradient_norm", "reward", "kl", more):
                assert theirs[measured] == pytest.approx(ours[measured], rel=1e-3, abs=1e-5)
    for name, watched in (("distill", ("forward_kl", "reverse_kl")), ("distill, nll", ())):
        single = trained(STAGES[name], stage_inputs)["records"]
        assert {one["on_policy"] for one in single} == ({0.0, 1.0} if watched else {0.0})
        for ours, theirs in zip(single, first[name]["records"], strict=True):
            for measured in ("loss", "counted", "gradient_norm", "on_policy", *watched):
                assert theirs[measured] == pytest.approx(ours[measured], rel=1e-3, abs=1e-5)
    # Each process wrote its own half of the answers, and kept them for the second step on them.
    rewards = [record["reward"] for record in first["ppo"]["records"]]
    assert len(rewards) == 4 and rewards[2] == pytest.approx(rewards[3])
    assert first["ppo resumed"]["hash"] == first["ppo"]["hash"]
