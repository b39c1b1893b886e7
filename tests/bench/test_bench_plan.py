"""What is estimated stands beside what is measured, for one small case."""

import pytest

from labkit.bench import plan


@pytest.mark.slow
def test_a_small_case_is_estimated_and_measured():
    """Tiny, so that the ratios say little; the bench's own cases are larger."""
    case = plan.Case("pretrain", 128, 2, 2, 8, 128)
    (found,) = plan.run(plan.PlanBench((case,), 2), lambda line: None)["cases"]
    assert 0.5 < found["memory_ratio"] < 2 and found["time_ratio"] > 0
    assert found["estimated_bytes"] == found["parts"]["peak_bytes"] and found["measured_seconds"] > 0
    assert "pretrain, 128 x 2, adamw, 1 process" in plan.text_report({"cases": [found]})


def test_the_cases_are_of_several_sizes_stages_and_processes():
    assert len(plan.CASES) == 6
    assert {case.stage for case in plan.CASES} == {"pretrain", "sft", "ppo", "dpo"}
    assert {(case.strategy, case.processes) for case in plan.CASES} == {("ddp", 1), ("ddp", 2), ("fsdp", 2)}
    assert len({(case.width, case.depth) for case in plan.CASES}) >= 3


def test_a_case_is_a_recipe_that_ends_with_its_stage():
    recipe = plan.case_recipe(plan.Case("dpo", 64, 2, 2, 4, 96, "muon"), 5)
    assert list(recipe.stages) == ["pretrain", "sft", "dpo"]
    train = recipe.stages["dpo"].train
    assert (train.steps, train.batch_size, train.max_length, train.optimizer) == (5, 4, 96, "muon")
    assert recipe.model.width == 64
