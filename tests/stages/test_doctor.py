"""The doctor: every trouble is provoked in a short training and named with its setting; a healthy one is silent."""

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from labkit.errors import LabError
from labkit.runs.arguments import parse_run_arguments
from labkit.stages import DPO, KTO, ORPO, PPO, SFT, PreferenceSplit, RewardModeling, SimPO
from labkit.stages.credit import KLInReward, NoKL, ValueModel
from labkit.stages.doctor import (
    INFORMATION,
    Case,
    Doctor,
    Finding,
    chosen_falls,
    diagnose,
    group_without_variance,
    kl_runs_away,
    one_kind_of_label,
    reward_follows_length,
    value_model_explains_nothing,
)
from labkit.stages.grpo import GRPO
from labkit.stages.reinforce import REINFORCE
from labkit.stages.reinforcepp import REINFORCEPlusPlus
from labkit.stages.rewards import REWARD_FUNCTIONS, Custom, RewardModelScore, reward_function
from labkit.stages.rollouts import rank_correlation
from labkit.text.pairs import PreferencePair
from labkit.text.unpaired import LabeledSource, encode_with_mismatched, unpair
from labkit.training.loop import fit
from labkit.ui.chinese import UNTRANSLATED, translate_message_to_chinese
from labkit.world import Message
from tests.tiny_alignment import TRAIN, tiny_materials

SHORT = replace(TRAIN, batch_size=16, max_length=160, adamw_lr=1e-2)
REWARDS = {
    "vowels": lambda prompt, response: sum(vowel in response for vowel in "aeiou"),
    "same": lambda prompt, response: 1.0,
    "seldom": lambda prompt, response: float(len(response)) if sum(prompt.encode()) % 5 == 0 else 1.0,
    "brief": lambda prompt, response: -float(len(response)),
}


@pytest.fixture(scope="module")
def stage_inputs():
    torch.set_num_threads(1)
    return tiny_materials()


@pytest.fixture(autouse=True)
def rewards():
    for name, function in REWARDS.items():
        reward_function(name)(function)
    yield
    REWARD_FUNCTIONS.clear()


def policy_gradient(kind: Any = GRPO, reward: str = "vowels", steps: int = 24, lr: float = 1e-2, **changes: Any) -> Any:
    return kind(replace(SHORT, steps=steps, adamw_lr=lr), reward=Custom(reward), max_new_tokens=10, **changes)


def examined(stage: Any, stage_inputs: Any, name: str, source: Any = None) -> list[Finding]:
    """What the doctor says of a training; of whatever it says, a page in Chinese says it in Chinese."""
    model = stage.initial_model(stage_inputs)

    def validate(model: Any, step: int) -> dict[str, float]:
        return {"validation_loss": stage.validation_loss(model, stage_inputs, None)}

    evaluate = validate if stage.train.evaluate_every else None
    steps = fit(model, source or stage.source(stage_inputs, model), stage.objective, stage.train, evaluate=evaluate)
    found = diagnose(name, stage, [record.to_dict() for record in steps])
    assert UNTRANSLATED.format("") not in "".join(translate_message_to_chinese(finding.message) for finding in found)
    return found


def warning(found: list[Finding], check: str) -> str:
    """The message of the one warning."""
    (only,) = [finding for finding in found if finding.is_warning]
    assert only.check == check
    return only.message


def test_a_reward_that_is_always_the_same(stage_inputs):
    found = examined(policy_gradient(reward="same", steps=5), stage_inputs, "grpo-2")
    said = warning(found, "constant_reward")
    assert said.startswith("All answers of the last 5 rollouts got the same reward, 1: nothing tells a good answer")
    assert "(--grpo-2.reward)" in said and said.endswith("or raise --grpo-2.temperature where they are all alike.")
    assert len(found) == 1, "a gradient of 0 is not excused, and the groups are not named beside"


def test_groups_without_variance(stage_inputs):
    said = warning(examined(policy_gradient(reward="seldom", steps=12), stage_inputs, "grpo"), "group_without_variance")
    assert "% of the prompts of the last 10 rollouts had answers that were all rewarded alike" in said
    assert "Raise --grpo.temperature or --grpo.num-generations, or choose a reward" in said
    rewards = {"reward": [0.5] * 10, "reward_std": [0.2] * 10, "frac_reward_zero_std": [0.7] * 10}
    assert group_without_variance(case(GRPO(SHORT), "grpo", **rewards))
    other = case(REINFORCEPlusPlus(SHORT), "reinforcepp", **rewards)
    assert not group_without_variance(other), "an answer is compared with those to other prompts"


def test_a_reward_that_follows_length(stage_inputs):
    said = warning(examined(policy_gradient(reward="brief", steps=26), stage_inputs, "grpo"), "reward_follows_length")
    assert "(rank correlation -0." in said and "the policy may learn length and nothing else" in said
    assert (
        "(--grpo.reward), hold the policy closer (--grpo.kl.coef), or bound its answers (--grpo.max-new-tokens)" in said
    )


def test_a_kl_that_runs_away(stage_inputs):
    one = policy_gradient(REINFORCE, kl=NoKL(), lr=6e-2, steps=20)
    said = warning(examined(one, stage_inputs, "reinforce"), "kl_runs_away")
    assert said.startswith("The KL from the reference model is ") and "nats per answer and grows" in said
    assert said.endswith("(--reinforce.kl KLInReward), or lower --reinforce.train.adamw-lr.")


def test_a_value_model_that_explains_nothing(stage_inputs):
    alone = replace(stage_inputs, reward_model_of=lambda name: None)
    one = policy_gradient(REINFORCE, baseline=ValueModel(vf_coef=0.0), steps=20)
    said = warning(examined(one, alone, "reinforce"), "value_model_explains_nothing")
    assert said.startswith("After 20 rollouts the value model explains nothing of the returns: explained variance ")
    assert "Raise --reinforce.baseline.vf-coef or --reinforce.train.steps" in said


def test_a_healthy_policy_gradient_is_silent_but_for_a_loss_of_zero(stage_inputs):
    (found,) = examined(policy_gradient(), stage_inputs, "grpo")
    assert (found.step, found.check, found.is_warning) == (1, "zero_loss", False)
    assert found.message.startswith("The loss of the first step is 0, which is no error") and INFORMATION == (
        "zero_loss",
    )


def pairs(stage_inputs, good: str, bad: str) -> list[PreferencePair]:
    names = stage_inputs.world.lexicon.values["person"]
    return [
        PreferencePair((Message("user", f"Where is {who}?"),), f"{who} is in the {good}.", f"{who} is in the {bad}.")
        for who in names
    ]


def with_pairs(stage_inputs, train, held_out):
    return replace(stage_inputs, load_preferences=lambda: PreferenceSplit(train, held_out))


def test_chosen_answers_that_become_less_likely(stage_inputs):
    """Two answers that differ in a word, to a model that knows the chosen one: what lowers the one lowers the other."""
    alike = with_pairs(stage_inputs, *[pairs(stage_inputs, "park", "shop")] * 2)
    known = stage_inputs.model("sft")
    first = ORPO(replace(TRAIN, steps=60, adamw_lr=1e-2), beta=1e-3)
    for _ in fit(known, first.source(alike, known), first.objective, first.train):
        pass
    begun = replace(alike, model_of=lambda name: copy.deepcopy(known))
    one = DPO(replace(TRAIN, steps=20, adamw_lr=1e-2), beta=0.05)
    said = warning(examined(one, begun, "dpo"), "chosen_falls")
    assert said.startswith("The chosen answers become less likely together with the rejected ones: ")
    assert said.endswith("(--dpo.beta, --dpo.rpo-alpha).") and "Lower --dpo.train.adamw-lr or --dpo.train.steps" in said


def test_few_pairs_that_are_learnt_by_heart(stage_inputs):
    """Held-out pairs say the opposite."""
    few = with_pairs(stage_inputs, pairs(stage_inputs, "park", "shop")[:4], pairs(stage_inputs, "shop", "park")[:4])
    train = replace(TRAIN, batch_size=4, steps=16, adamw_lr=1e-3, evaluate_every=4)
    for name, stage in {"dpo": DPO(train), "reward": RewardModeling(train)}.items():
        said = warning(examined(stage, few, name), "overfits_pairs")
        assert said.startswith("The accuracy on the last 10 batches is 1.00, but the loss on held-out pairs rose from ")
        assert f"lower --{name}.train.steps or --{name}.train.adamw-lr" in said


def test_batches_of_one_kind_of_label(stage_inputs):
    """Thumbs up, all but one."""
    stage, tokenizer = KTO(replace(TRAIN, steps=10, adamw_lr=1e-3)), stage_inputs.tokenizer
    answers = [one for at, one in enumerate(unpair(stage_inputs.fitting_pairs(64))) if one.label or at == 1]
    encoded = encode_with_mismatched(tokenizer, answers, 64)
    reference = stage.reference_logprobs(stage_inputs.model("sft"), tokenizer, encoded)
    source = LabeledSource(answers, encoded, reference, 4, 64, tokenizer.pad_token_id)
    said = warning(examined(stage, stage_inputs, "kto", source), "one_kind_of_label")
    assert "of the last 10 batches all answers had the same label" in said and "Raise --kto.train.batch-size" in said


@pytest.mark.parametrize("stage", [DPO, KTO, SimPO, RewardModeling])
def test_healthy_training_on_pairs_is_silent(stage_inputs, stage):
    one = stage(replace(TRAIN, adamw_lr=1e-3, evaluate_every=10))
    assert not examined(one, stage_inputs, stage.kind)


@pytest.mark.parametrize("given", [math.nan, math.inf, None])
def test_a_reward_function_that_gives_no_number_is_named_with_the_answer(stage_inputs, given):
    @reward_function("broken")
    def broken(prompt: str, response: str) -> Any:
        return given

    one = policy_gradient(reward="broken")
    model = one.initial_model(stage_inputs)
    said = "failed on '.*TypeError" if given is None else f"gave {given} for the answer '.*' to '.*a finite number"
    with pytest.raises(LabError, match=f"The reward function 'broken' {said}"):
        one.source(stage_inputs, model).next_batch(model, 0)


def test_a_reward_model_that_gives_no_number_is_named_with_the_answer(stage_inputs):
    damaged = stage_inputs.reward_model()
    damaged.head.weight.data.fill_(math.nan)
    inputs = replace(stage_inputs, reward_model_of=lambda name: damaged)
    one = GRPO(SHORT, reward=RewardModelScore(), max_new_tokens=4)
    model = one.initial_model(inputs)
    with pytest.raises(LabError, match="The reward model reward gave nan for the answer '.*'. Its weights are"):
        one.source(inputs, model).next_batch(model, 0)


def case(stage: Any, name: str, /, **columns: list[float]) -> Case:
    """Of records with these columns; the first and the last ten."""
    records = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return Case(name, stage, records[:10], records[-10:], len(records))


def test_a_kl_is_said_above_its_bound_and_while_it_grows():
    def said(*kl: float, stage: Any = None, name: str = "grpo") -> str | None:
        return kl_runs_away(case(stage or GRPO(SHORT), name, kl=[one for one in kl for _ in range(5)]))

    assert said(15, 21) and said(0, 0, 15, 21)
    assert not said(15, 20) and not said(20, 21) and not said(30, 25) and not said(100)
    ppo = said(15, 21, stage=PPO(SHORT, num_generations=4), name="ppo") or ""
    assert "(--ppo.kl-coef, --ppo.target-kl), or lower --ppo.train.adamw-lr." in ppo
    steered = said(15, 21, stage=REINFORCE(SHORT, kl=KLInReward(target=3.0)), name="reinforce") or ""
    assert "(--reinforce.kl.coef, --reinforce.kl.target)" in steered


def test_length_is_named_where_it_drifts_the_way_that_is_rewarded():
    def said(correlation: float, before: float, now: float) -> str | None:
        length = [before] * 10 + [now] * 10
        return reward_follows_length(
            case(GRPO(SHORT), "grpo", length=length, reward_length_correlation=[correlation] * 20)
        )

    assert said(0.81, 20, 25) and said(-0.81, 25, 20)
    assert not said(0.79, 20, 40) and not said(0.9, 20, 24) and not said(0.9, 25, 20) and not said(-0.9, 20, 25)


def test_a_fall_is_measured_in_nats_and_by_what_there_was():
    def said(before: float, now: float, rejected: float = -90.0) -> str | None:
        chosen = [before] * 10 + [now] * 10
        return chosen_falls(case(DPO(), "dpo", chosen_logprob=chosen, rejected_logprob=[-80.0] * 10 + [rejected] * 10))

    assert said(-4, -10.1) and said(-100, -151)
    assert not said(-4, -9.9) and not said(-100, -149) and not said(-4, -20, rejected=-70)


def test_two_good_batches_of_one_kind_in_ten_are_chance():
    for alone, found in ((2, False), (3, True)):
        chosen = [0.0] * alone + [-3.0] * (10 - alone)
        assert bool(one_kind_of_label(case(KTO(), "kto", chosen_logprob=chosen, rejected_logprob=[-3.0] * 10))) == found


def test_a_value_model_must_explain_something():
    for explained, found in ((-0.1, True), (0.0, True), (0.01, False)):
        ppo = case(PPO(SHORT, num_generations=4), "ppo", explained_variance=[explained] * 20)
        assert bool(value_model_explains_nothing(ppo)) == found


def test_records_of_an_older_labkit_say_nothing():
    assert not diagnose("grpo", GRPO(SHORT), [{"step": at, "loss": 1.0} for at in range(1, 30)])
    assert not value_model_explains_nothing(case(GRPO(SHORT), "grpo", explained_variance=[-1.0] * 20)), (
        "there is no value model"
    )


def test_each_thing_is_said_once_and_not_again_after_a_resume():
    """Two steps a rollout: of 40 steps, 20 rollouts; the KL passes its bound with the 16th, in step 31."""
    records = [{"step": at, "kl": float(at)} for at in range(1, 41)]
    stage = PPO(SHORT, num_generations=4, epochs=2)
    whole = Doctor("ppo", stage)
    (found,) = [finding for record in records for finding in whole(record)]
    assert found.check == "kl_runs_away"
    before, after = records[: found.step - 4], records[found.step - 4 :]
    resumed = Doctor("ppo", stage, earlier=[*before, *after[:2]])  # of two steps after the checkpoint, too
    assert [finding for record in after for finding in resumed(record)] == [found]
    late = Doctor("ppo", stage, earlier=records[: found.step])
    assert not [one for record in records[found.step :] for one in late(record)] and late.findings == [found]


def test_what_only_the_evaluation_shows_is_said_at_the_end():
    records = [{"step": at, "accuracy": 1.0} for at in range(1, 11)]
    ends = {"untrained_loss": 0.7, "validation_loss": 0.8}
    assert [(one.step, one.check) for one in diagnose("dpo", DPO(), records, ends)] == [(10, "overfits_pairs")]
    assert not diagnose("dpo", DPO(), records, {"untrained_loss": 0.7, "validation_loss": 0.72})


def test_the_flags_that_are_named_are_flags():
    flags = ["--dapo.kl", "KLInReward", "--dapo.reward", "Votes", "--dapo.num-generations", "8", "--dapo.temperature"]
    plan = ["--plan", "pretrain,sft,reward,dapo,ppo", "--ppo.target-kl", "3", "--ppo.kl-coef", "0.2"]
    _, recipe = parse_run_arguments(["--preset", "smoke", "--out", "new", *plan, *flags, "1.2"])
    assert (recipe.stages["dapo"].kl, recipe.stages["ppo"].target_kl) == (KLInReward(), 3.0)


def test_rank_correlation_by_hand():
    # ranks 0 1 2 3 and 0.5 0.5 2 3: sum of products about 1.5 is 4.75 - ... = 4.5, over sqrt(5 * 4.5)
    one, other = torch.tensor([1.0, 2.0, 5.0, 9.0]), torch.tensor([3, 3, 4, 7])
    assert rank_correlation(one, other) == pytest.approx(4.5 / math.sqrt(5 * 4.5))
    assert rank_correlation(one, -other) == pytest.approx(-4.5 / math.sqrt(5 * 4.5))
    assert rank_correlation(one, one**3) == pytest.approx(1) and rank_correlation(one, torch.ones(4)) == 0


def test_a_stage_without_checks_has_nothing_to_say():
    assert not SFT.checks and not diagnose("sft", SFT(), [{"step": 1, "loss": 0.0, "gradient_norm": 0.0}])
