"""`accelerate launch` on two processes (gloo, on the processor) trains what one process trains."""

import json
import subprocess
import sys

import pytest
import torch

from labkit.train import fit
from tests.tiny import Counting, TinyModel, tiny_config, tiny_objective


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(tmp_path):
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    options = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    command = [*launch, *options, "-m", "tests.two_processes", str(tmp_path / "both"), "eager"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    results = [json.loads(line[len("RESULT") :]) for line in done.stdout.splitlines() if line.startswith("RESULT")]
    assert sorted(result["rank"] for result in results) == [0, 1]
    assert results[0]["hash"] == results[1]["hash"]  # both hold the same weights

    model, source = TinyModel(seed=0), Counting(rows=8)
    single = [r.to_dict() for r in fit(model, source, tiny_objective, tiny_config(rows=8, accumulate=2))]
    for ours, theirs in zip(single, results[0]["records"], strict=True):
        for name in ("loss", "counted", "gradient_norm", "right"):
            assert theirs[name] == pytest.approx(ours[name], rel=1e-4)

    # What the first process wrote can be gone on with, by one process too.
    lines = (tmp_path / "both" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 6
    with pytest.warns(UserWarning, match="other processes than before"):
        list(fit(TinyModel(), source, tiny_objective, tiny_config(rows=8, accumulate=2), folder=tmp_path / "both"))
    assert torch.get_num_threads() == 1
