"""Run by test_resume.py: make a run that is killed again and again, and one that is not; print both as JSON.

Each attempt is a process of its own, forked from this one, which has imported everything but computed nothing: so an
attempt compiles its graph anew (from the cache on disk), as a new process would, without the seconds of imports.
"""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from labkit.runs.folder import Run
from labkit.runs.pipeline import run
from labkit.runs.plan import PlannedStage
from labkit.stages import KTO
from labkit.training.config import TrainConfig
from tests.tiny import weights_hash
from tests.tiny_recipe import tiny_recipe

STEPS = 24
KILLS = {"pretrain": 3, "sft": 3, "reward": 0, "ppo": 5, "kto": 2}
"""The compiled stage while it compiles, in a checkpoint and in a step; of those whose batches follow from the step
alone, one in a step, in a checkpoint and, once resumed, in a step again; most where the source has a state, and one
that trains on a list of its own. The reward model is there for PPO to read.
"""
TRAIN = TrainConfig(steps=STEPS, batch_size=4, max_length=128, checkpoint_every=3, warmup_steps=2, compile=True)
RECIPE = tiny_recipe(TRAIN)
RECIPE = replace(RECIPE, plan=(*RECIPE.plan[:-1], PlannedStage("kto", KTO(RECIPE.stages["dpo"].train))))
RECIPE = RECIPE.with_stages(ppo=replace(RECIPE.stages["ppo"], max_kl=2e-5))  # the rollouts may end early
for name in ("sft", "reward", "ppo", "kto"):  # not compiled, so their steps pass quickly: twice as many
    stage = RECIPE.stages[name]
    RECIPE = RECIPE.with_stages(**{name: replace(stage, train=replace(stage.train, steps=2 * STEPS, compile=False))})
STAGES = tuple(RECIPE.stages)


def attempt(folder: Path, stage: str) -> int:
    """Begin or go on with the run in a new process; its id."""
    child = os.fork()
    if child:
        return child
    try:
        torch.set_num_threads(1)
        for _ in run(RECIPE, folder, [stage], resume=True):
            pass
        os._exit(0)
    except BaseException as error:  # a forked child must never go on into its parent's code
        print(f"the attempt failed: {error!r}", file=sys.stderr)
        os._exit(1)


def steps_done(folder: Path) -> int:
    file = folder / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def kill_when(child: int, ready: Callable[[], bool]) -> bool:
    """Kill the child once `ready`; False when it ended before."""
    while not ready():
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            assert os.waitstatus_to_exitcode(status) == 0
            return False
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
    return True


def in_a_checkpoint(folder: Path, step: int) -> Callable[[], bool]:
    return lambda: steps_done(folder) >= step and any((folder / "checkpoints").glob("*.labkit-partial"))


def in_a_step(folder: Path, step: int, delay: float) -> Callable[[], bool]:
    def ready() -> bool:
        if steps_done(folder) < step:
            return False
        time.sleep(delay)
        return True

    return ready


def compiling(moment: float) -> Callable[[], bool]:
    return lambda: time.monotonic() > moment


def killed_stage(folder: Path, stage: str, rng: random.Random) -> list[str]:
    """Kill the stage at points spread over its length, every third one while a checkpoint is being written."""
    inside, kills = folder / stage, []
    for number in range(KILLS[stage]):
        step = steps_done(inside) + rng.randint(1, 3)
        if number == 0 and RECIPE.stages[stage].train.compile:
            where, ready = "compiling", compiling(time.monotonic() + 1.5 * rng.random())
        elif number % 3 == 1:
            where, ready = "in a checkpoint", in_a_checkpoint(inside, step)
        else:
            where, ready = "in a step", in_a_step(inside, step, 0.01 * rng.random())
        if not kill_when(attempt(folder, stage), ready):
            break
        kills.append(f"{where}, after step {steps_done(inside)}")
    finish(folder, stage)
    return kills


def finish(folder: Path, stage: str) -> None:
    _, status = os.waitpid(attempt(folder, stage), 0)
    assert os.waitstatus_to_exitcode(status) == 0


def main() -> None:
    # What compiling imports, so that the attempts need not; here, as test_resume.py imports this file to collect.
    import torch._inductor.compile_fx
    from torch._inductor.cpu_vec_isa import pick_vec_isa

    torch.set_num_threads(1)
    pick_vec_isa()  # builds and loads a library for each kind of vector instructions, in every process that compiles
    folder, seed = Path(sys.argv[1]), int(sys.argv[2])
    rng, result = random.Random(seed), {}
    for stage in STAGES:
        finish(folder / "straight", stage)
        kills = killed_stage(folder / "killed", stage, rng)
        made = [Run.open(folder / name).stage(stage) for name in ("straight", "killed")]
        hashes = [weights_hash(one.model() if one.generates_text else one.reward_model()) for one in made]
        losses = [
            [json.loads(line)["loss"] for line in (folder / name / stage / "metrics.jsonl").read_text().splitlines()]
            for name in ("straight", "killed")
        ]
        result[stage] = {"kills": kills, "hashes": hashes, "losses": losses}
    print("RESULT" + json.dumps(result))


if __name__ == "__main__":
    main()
