"""The side-by-side timing at a tiny size: the form of its report, and equal losses."""

import dataclasses
import json
import math

import pytest

from labkit.bench.train import (
    ModelShape,
    StepVariant,
    TrainBench,
    _ratios,
    _step,
    candidate_variants,
    random_batches,
    run,
    text_report,
)

TINY = ModelShape(
    "tiny", width=32, depth=2, heads=2, key_value_heads=1, intermediate_size=48, vocabulary=40, sequence_length=16
)
QUICK = TrainBench(
    shapes=(TINY,),
    batch_size=4,
    rounds=3,
    steps_per_round=1,
    trial_steps=1,
    loss_curve_steps=200,
    compiled=False,
    threads=1,
)


@pytest.fixture(scope="module")
def report():
    return run(QUICK)


def test_the_loss_curves_are_equal_and_fall(report):
    curve = report["loss_curve"]
    assert curve["steps"] == len(curve["labkit"]) == len(curve["transformers"]) == 200
    assert curve["max_difference"] < 1e-4
    assert curve["labkit"][0] == pytest.approx(math.log(40), abs=0.1)
    assert curve["labkit"][-1] < 0.75 * curve["labkit"][0]


def test_the_report_has_its_form(report):
    assert json.loads(json.dumps(report)) == report
    (shape,) = report["shapes"]
    assert shape["name"] == "tiny" and shape["tokens"] == 64
    assert {name.split()[0] for name in shape["timings"]} == {"labkit", "transformers"}
    for timing in shape["timings"].values():
        assert timing["tokens_per_second"] == pytest.approx(64 / timing["seconds"])
    assert set(shape["ratios"]) == {"eager"}
    fastest = min(t["seconds"] for name, t in shape["timings"].items() if name.startswith("transformers"))
    ours = min(t["seconds"] for name, t in shape["timings"].items() if name.startswith("labkit"))
    assert shape["ratios"]["eager"] == pytest.approx(fastest / ours)
    assert "times as fast" in text_report(report) and "200 steps" in text_report(report)


def test_each_side_tries_every_way():
    names = [variant.name for variant in candidate_variants(("fp32", "bf16"))]
    assert len(names) == len(set(names)) == 12
    assert "transformers eager bf16 sdpa attention fused" in names


def test_batches_are_shifted_by_one_and_come_again():
    first, again = (next(random_batches(TINY, 3)) for _ in range(2))
    assert (first[0][:, 1:] == first[1][:, :-1]).all()
    assert all((a == b).all() for a, b in zip(first, again, strict=True))


def test_ratios_take_the_best_of_each_side():
    eager = StepVariant("labkit", "bf16", "own", "fused", False)
    theirs = eager._replace(library="transformers", attention="sdpa")
    seconds = {
        eager: 2.0,
        theirs: 4.0,
        theirs._replace(attention="eager"): 3.0,
        eager._replace(compiled=True): 1.0,
        theirs._replace(compiled=True): 1.5,
    }
    assert _ratios(seconds) == {"eager": 1.5, "compiled": 1.5, "compiled_to_eager": 3.0}


@pytest.mark.slow
def test_a_compiled_step_gives_the_losses_of_an_eager_one():
    shape = dataclasses.replace(TINY, depth=1)
    eager, compiled = (_step(StepVariant("labkit", "fp32", "own", "fused", c), shape, 2) for c in (False, True))
    assert [compiled() for _ in range(5)] == pytest.approx([eager() for _ in range(5)], abs=1e-5)
