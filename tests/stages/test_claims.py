"""What each stage must beat, by numbers a reader can check."""

import math

from labkit.reporting.terminal import format_claims as claim_lines
from labkit.stages import STAGES, gold_change_in_words, stage_claims
from labkit.stages.policy_gradient import PolicyGradientStage

POLICY_GRADIENTS = [
    kind
    for kind, stage in STAGES.items()
    if issubclass(stage, PolicyGradientStage) and kind not in ("ppo", "multiturn")
]


def entry(stage: str, **metrics: float) -> dict:
    return {"stage": stage, "metrics": metrics}


def run_of(*, accuracy: float = 0.7, dpo_loss: float = 0.6, reward: float = 0.5) -> list[dict]:
    return [
        entry("pretrain", untrained_loss=6.4, validation_loss=0.4, accuracy=0.5),
        entry("sft", untrained_loss=2.0, validation_loss=0.5, accuracy=accuracy),
        entry("distill", untrained_loss=0.7, validation_loss=0.6),
        entry("reward", pair_accuracy=0.7, length_accuracy=0.6),
        entry("judge", pair_accuracy=0.6),
        entry("prm", product_correct=0.3, random_correct=0.1),
        entry("ppo", reward_before=-0.5, reward=reward, gold_gain=0.12, gold_gain_standard_error=0.03),
        entry("dpo", validation_loss=dpo_loss, gold_gain=-0.12, gold_gain_standard_error=0.03),
        *(entry(kind, gold_before=0.4, gold=0.6) for kind in POLICY_GRADIENTS),
        entry("multiturn", satisfaction_before=0.4, satisfaction=0.6),
        *(
            entry(name, untrained_loss=0.7, validation_loss=0.6)
            for name in ("ipo", "robustdpo", "simpo", "orpo", "kto")
        ),
    ]


def test_every_stage_has_one_claim_that_holds_or_not():
    claims = {claim.stage: claim for claim in stage_claims(run_of())}
    assert sorted(claims) == sorted(STAGES) and all(claim.holds for claim in claims.values())
    assert math.isclose(claims["pretrain"].margin, 6.0)  # 6.4 - 0.4
    assert math.isclose(claims["sft"].margin, 0.2)  # 0.7 - 0.5
    assert math.isclose(claims["reward"].margin, 0.2)  # 0.7 - a half
    assert math.isclose(claims["judge"].margin, 0.1) and math.isclose(claims["prm"].margin, 0.2)
    assert math.isclose(claims["ppo"].margin, 1.0)  # 0.5 - (-0.5)
    assert math.isclose(claims["dpo"].margin, math.log(2) - 0.6)
    assert len(POLICY_GRADIENTS) >= 8 and math.isclose(claims["grpo"].margin, 0.2)  # 0.6 - 0.4
    broken = stage_claims(run_of(accuracy=0.5, dpo_loss=0.6932, reward=-0.6))
    assert [claim.stage for claim in broken if not claim.holds] == ["sft", "ppo", "dpo"], "as good is not better"


def test_a_number_that_is_none_holds_nothing():
    assert not stage_claims([entry("dpo", validation_loss=math.nan)])[0].holds


def test_a_share_of_right_answers_stands_beside_its_standard_error():
    stages = run_of()
    stages[1]["metrics"]["accuracy_standard_error"] = 0.0205
    (claim,) = [claim for claim in stage_claims(stages) if claim.stage == "sft"]
    assert str(claim) == "sft: accuracy 0.700 (± 0.021), above 0.500 (the base model): beats its baseline"


def test_where_nobody_knows_what_is_right_fine_tuning_is_held_against_its_loss():
    stages = [
        entry("pretrain", untrained_loss=6.0, validation_loss=3.0),
        entry("sft", untrained_loss=4.0, validation_loss=1.5),
    ]
    assert [claim.margin for claim in stage_claims(stages)] == [3.0, 2.5]


def test_what_was_not_measured_claims_nothing():
    assert stage_claims([entry("pretrain"), entry("ppo"), entry("reward")]) == []


def test_gold_is_said_whichever_way_it_went():
    """Two standard errors are a change: 0.06 is none of 0.03 and one of 0.02."""
    said = {
        gain: gold_change_in_words({"gold_gain": gain, "gold_gain_standard_error": 0.02})
        for gain in (0.06, 0.03, -0.06)
    }
    assert said[0.06] == "gold score rose by 0.060 (± 0.020)"
    assert said[0.03] == "gold score did not change beyond chance: +0.030 (± 0.020)"
    assert said[-0.06].startswith("gold score FELL by 0.060 (± 0.020)")
    assert gold_change_in_words({"reward": 1.0}) == ""


def test_the_terminal_says_them():
    lines = claim_lines(run_of(dpo_loss=0.7)).splitlines()
    assert "sft: accuracy 0.700, above 0.500 (the base model): beats its baseline" in lines
    assert "dpo: loss on held-out pairs 0.700, below 0.693 (chance: log 2): DOES NOT BEAT ITS BASELINE" in lines
    assert any(line.startswith("dpo: gold score FELL by 0.120") for line in lines)
