"""SIGKILL at any moment, compiled and not, then resume: the weights of a run that was never stopped, bit for bit."""

import json
import os
import subprocess
import sys

import pytest

from tests.killed import KILLS, STEPS


@pytest.mark.slow
def test_killed_many_times_ends_with_the_same_weights(tmp_path):
    command = [sys.executable, "-W", "ignore", "-m", "tests.killed", str(tmp_path), "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout.split("RESULT")[1])
    assert list(result) == ["pretrain", "sft", "reward", "ppo", "kto"]
    for stage in result:
        kills, (straight, killed), losses = (result[stage][name] for name in ("kills", "hashes", "losses"))
        many = KILLS[stage]
        assert len(kills) == many, kills
        assert sum(kill.startswith("in a checkpoint") for kill in kills) >= many // 3, kills
        assert len(set(kills)) >= many - 1, kills  # spread over the stage
        assert straight == killed
        # the record shows no seam either
        assert losses[0] == losses[1] and len(losses[0]) == (STEPS if stage == "pretrain" else 2 * STEPS)
