"""Policy gradients: every method raises a reward, its parts do what they say, and what is stopped can be resumed."""

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from labkit.errors import LabError
from labkit.evaluation.config import EvaluationConfig
from labkit.evaluation.judges import Mean, MeanLessDeviation, Worst
from labkit.model.actor_critic import ActorCritic
from labkit.model.reward_model import RewardModel
from labkit.model.transformer import Transformer
from labkit.runs.folder import Run
from labkit.runs.plan import PlannedStage, make_plan, resolve_dependencies
from labkit.stages import SFT, STAGES, Pretrain, RewardModeling
from labkit.stages.clipping import ClipRatio, ClipWeight
from labkit.stages.credit import (
    Credit,
    GroupMean,
    KLInLoss,
    KLInReward,
    LeaveOneOut,
    MovingMean,
    NoBaseline,
    NoKL,
    ScoredAnswers,
    ValueModel,
)
from labkit.stages.grpo import GRPO
from labkit.stages.policy_gradient import PolicyGradient
from labkit.stages.reinforce import REINFORCE
from labkit.stages.rewards import Custom, Ensemble, Verifier, Votes, reward_function
from labkit.stages.rollouts import RolloutSource
from labkit.training.loop import fit
from tests.tiny_alignment import TRAIN
from tests.tiny_recipe import tiny_recipe

KINDS = sorted(kind for kind, stage in STAGES.items() if issubclass(stage, PolicyGradient))
SHORT = dataclasses.replace(TRAIN, steps=32, batch_size=16, max_length=160, adamw_lr=1e-2)


pytestmark = pytest.mark.usefixtures("vowels")


def stage(kind: str = "grpo", **changes):
    made: Any = STAGES[kind]
    return made(SHORT, **{"reward": Custom("vowels"), "max_new_tokens": 10} | changes)


def trained(stage, stage_inputs, steps: int | None = None):
    model = stage.initial_model(stage_inputs)
    records = []
    for record in fit(model, stage.source(stage_inputs, model), stage.objective, stage.train):
        records.append(record)
        if len(records) == steps:
            break
    return model, records


@pytest.mark.parametrize("kind", KINDS)
def test_every_method_raises_the_reward(stage_inputs, kind):
    one = stage(kind)
    one = dataclasses.replace(one, train=dataclasses.replace(SHORT, steps=24 * one.epochs))
    model, records = trained(one, stage_inputs)
    assert isinstance(model, Transformer), "there is no critic"
    before, after = (sum(one.metrics["reward"] for one in part) / 4 for part in (records[:4], records[-4:]))
    assert after > before + 0.3
    assert all(math.isfinite(one.loss) for one in records) and records[-1].metrics["kl"] > 0


def test_a_critic_can_be_the_baseline_of_any_reward(stage_inputs):
    """Without a reward model it begins as a copy of the policy."""
    alone = dataclasses.replace(stage_inputs, reward_model_of=lambda name: None)
    one = stage("reinforce", baseline=ValueModel(), clipping=ClipRatio(), whiten=True)
    model, records = trained(one, alone, steps=20)
    assert isinstance(model, ActorCritic)
    assert records[-1].metrics["reward"] > records[0].metrics["reward"]
    assert records[-1].metrics["explained_variance"] > records[0].metrics["explained_variance"]


def test_the_first_step_on_a_rollout_clips_nothing(stage_inputs):
    for kind in ("grpo", "gspo", "cispo"):
        one = stage(kind)
        model = one.initial_model(stage_inputs)
        batch = one.source(stage_inputs, model).next_batch(model, 0)
        _, count, watched = one.objective(model, batch)
        assert watched["clip_fraction"] == 0
        assert count == (batch.mask.sum() if one.loss_mean == "token" else 16)


@pytest.mark.parametrize("kind", ["dapo", "gspo", "cispo", "reinforcepp"])
def test_the_second_step_on_a_rollout_clips(stage_inputs, kind):
    """With bounds so narrow that they bind after one step of a large learning rate."""
    narrow: Any = ClipWeight(1.001) if kind == "cispo" else ClipRatio(1e-4, 1e-4)
    one = stage(kind, clipping=narrow)
    assert one.epochs == 2
    _, records = trained(one, stage_inputs, steps=2)
    assert records[0].metrics["clip_fraction"] == 0 < records[1].metrics["clip_fraction"]


def test_entropy_is_a_mean_over_tokens_whatever_the_loss_is(stage_inputs):
    """Of one rollout, with a critic: the policy's average does not change what entropy and value loss are."""
    found = {}
    for mean in ("token", "answer", "constant"):
        one = stage("reinforce", baseline=ValueModel(), loss_mean=mean)
        model = one.initial_model(stage_inputs)
        batch = one.source(stage_inputs, model).next_batch(model, 0)
        _, count, watched = one.objective(model, batch)
        found[mean] = [float(watched[name] / count) for name in ("entropy", "value_loss")]
    for other in ("answer", "constant"):
        assert found[other] == pytest.approx(found["token"], rel=1e-4)


def test_grpos_loss_begins_at_zero_and_that_is_no_error(stage_inputs):
    """Advantages add up to 0 in each group, every answer counts the same, and the KL is 0: its gradient is not."""
    one = stage("grpo")
    model = one.initial_model(stage_inputs)
    loss, _, _ = one.objective(model, one.source(stage_inputs, model).next_batch(model, 0))
    assert loss.item() == pytest.approx(0, abs=1e-4)
    loss.backward()
    assert max(float(weight.grad.abs().max()) for weight in model.parameters() if weight.grad is not None) > 1e-4


def some_answers(scores: list[float], kl: float = 0.0) -> ScoredAnswers:
    """Answers of 2 and 3 tokens in turn, each token `kl` likelier than for the reference."""
    mask = torch.tensor([[True, True, at % 2 == 1] for at in range(len(scores))])
    zeros = torch.zeros(mask.shape)
    return ScoredAnswers(torch.tensor(scores), zeros, zeros - kl, zeros, mask)


def test_credit_by_hand():
    """Scores 1 and 3 with a KL of 0.5 a token at 0.1: 0.9 and 2.85 of whole answers."""
    part = some_answers([1.0, 3.0], kl=0.5)
    none, group, others = (
        Credit(baseline, KLInReward(0.1), whiten=False, num_generations=2)([part])[0].advantages
        for baseline in (NoBaseline(), GroupMean(divide_by_deviation=False), LeaveOneOut())
    )
    torch.testing.assert_close(none, torch.tensor([[0.9, 0.95, 0.0], [2.85, 2.9, 2.95]]))
    torch.testing.assert_close(group, torch.tensor([[-0.975, -0.975, 0.0], [0.975, 0.975, 0.975]]))
    torch.testing.assert_close(others, 2 * group)


def test_kl_in_the_loss_or_nowhere_leaves_the_reward_alone():
    part = some_answers([1.0, 3.0], kl=0.5)
    for kl in (NoKL(), KLInLoss(0.5)):
        (found,) = Credit(NoBaseline(), kl, whiten=False)([part])
        torch.testing.assert_close(found.advantages, torch.tensor([[1.0, 1, 0], [3, 3, 3]]))


def test_the_moving_mean_is_of_earlier_rollouts():
    # the first rollout is compared with its own mean, 2; then 2; then 0.5 * 2 + 0.5 * 6 = 4
    credit = Credit(MovingMean(0.5), NoKL(), whiten=False)
    first, second, third = (credit([some_answers(scores)])[0] for scores in ([1.0, 3.0], [5.0, 7.0], [4.0, 4.0]))
    assert [one.advantages[0, 0].item() for one in (first, second, third)] == [-1, 3, 0]
    resumed = Credit(MovingMean(0.5), NoKL(), whiten=False)
    resumed.load_state_dict(credit.state_dict())
    assert resumed([some_answers([0.0])])[0].advantages[0, 0] == credit([some_answers([0.0])])[0].advantages[0, 0] == -4


def test_an_adaptive_kl_coefficient_by_hand():
    """KL per answer 0.5 * 2 and 0.5 * 3, a mean of 1.25. With a target of 1 the error is 0.25, held to 0.2: 2 % more;
    with a target of 1.3 it is -0.0385: 0.385 % less.
    """
    for target, coef in ((1.0, 0.1 * 1.02), (1.3, 0.1 * (1 - 0.1 * (1 - 1.25 / 1.3)))):
        credit = Credit(NoBaseline(), KLInReward(0.1, target=target), whiten=False)
        credit([some_answers([1.0, 3.0], kl=0.5)])
        assert credit.kl_coef == pytest.approx(coef)


@pytest.mark.parametrize("changes", [{"baseline": MovingMean(), "kl": KLInReward(0.1, target=1.0)}, {"epochs": 2}])
def test_what_is_stopped_and_resumed_is_the_same(stage_inputs, tmp_path, changes):
    one = stage("reinforce", **changes)
    one = dataclasses.replace(one, train=dataclasses.replace(SHORT, steps=6, checkpoint_every=3))
    whole, _ = trained(one, stage_inputs)
    model = one.initial_model(stage_inputs)
    for record in fit(model, one.source(stage_inputs, model), one.objective, one.train, folder=tmp_path):
        if record.step == 4:
            break
    model = one.initial_model(stage_inputs)
    records = list(fit(model, one.source(stage_inputs, model), one.objective, one.train, folder=tmp_path))
    assert records[0].step > 1, "it resumed"
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), model.parameters(), strict=True))


def test_text_that_is_mixed_in_is_learnt_too(stage_inputs):
    """PPO-ptx: its share of the loss is the language-model loss of the batch, and it falls."""
    _, plain = trained(stage("reinforce"), stage_inputs, steps=1)
    _, mixed = trained(stage("reinforce", ptx_coef=0.5), stage_inputs, steps=8)
    assert mixed[0].loss - plain[0].loss == pytest.approx(0.5 * mixed[0].metrics["ptx_loss"], rel=1e-4)
    assert mixed[-1].metrics["ptx_loss"] < mixed[0].metrics["ptx_loss"]


def test_a_reward_of_ones_own_in_five_lines(stage_inputs):
    @reward_function("brief")
    def brief(prompt: str, response: str) -> float:
        return -float(len(response))

    _, records = trained(stage(reward=Custom("brief")), stage_inputs, steps=20)
    assert records[-1].metrics["reward"] > records[0].metrics["reward"]


def test_the_oracle_and_its_annotators_reward(stage_inputs):
    for reward, most in ((Verifier(), 1.0), (Votes(), 1.0)):
        one = stage(reward=reward)
        model = one.initial_model(stage_inputs)
        source = one.source(stage_inputs, model)
        assert isinstance(source, RolloutSource)
        (batch,) = source.generate_batches(model, 0)
        assert 0 <= batch.metrics["reward"] <= most
    # votes: of each pair one wins, so that the shares of a group of four add up to 2
    assert batch.metrics["reward"].item() == pytest.approx(0.5)


def test_an_ensemble_combines_the_reward_models_of_several_stages(stage_inputs):
    """Two members that give every answer 1 and 3: their mean is 2, the worst 1, less one sample deviation 0.586."""

    class Constant(RewardModel):
        def __init__(self, body: Transformer, score: float):
            super().__init__(body)
            self.given = score

        def scores_at(self, tokens, mask, ends, prefix_sharing=False):
            return torch.full((len(tokens),), self.given)

    def member(name: str) -> RewardModel:
        return Constant(stage_inputs.model("sft"), {"reward": 1.0, "reward-2": 3.0}[name])

    inputs = dataclasses.replace(stage_inputs, reward_model_of=member)
    for combine, score in ((Mean(), 2.0), (Worst(), 1.0), (MeanLessDeviation(1.0), 2 - math.sqrt(2))):
        one = stage(reward=Ensemble(("reward", "reward-2"), combine))
        model = one.initial_model(inputs)
        assert one.source(inputs, model).next_batch(model, 0).metrics["reward"].item() == pytest.approx(score, abs=1e-5)
        assert set(one.frozen_rollout_models(inputs)) == {"reference", "reward", "reward-2"}


def test_what_an_ensemble_reads_must_stand_before_it_in_the_plan():
    made = {"pretrain": Pretrain(), "sft": SFT(), "reward": RewardModeling()}
    grpo = GRPO(SHORT, reward=Ensemble(("reward", "reward-2")))
    with pytest.raises(LabError, match="grpo needs the reward model reward-2: put reward-2 before it in the plan"):
        resolve_dependencies(make_plan(**made, grpo=grpo))
    both = make_plan(**made) + (PlannedStage("reward-2", RewardModeling(seed=1)), PlannedStage("grpo", grpo))
    assert resolve_dependencies(both)["grpo"].required_stages == ("sft", "reward", "reward-2")
    with pytest.raises(LabError, match="stages must name two reward models or more"):
        Ensemble(("reward",))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GRPO(SHORT, num_generations=1), "GroupMean compares the answers to one prompt.*at least 2, not 1"),
        (lambda: REINFORCE(SHORT, max_new_tokens=160), "REINFORCE: answers of 160 tokens leave no room for a prompt"),
        (lambda: GRPO(dataclasses.replace(SHORT, compile=True)), "GRPO: train.compile would recompile"),
        (lambda: GRPO(SHORT, kl=KLInLoss(-1.0)), "coef must be at least 0"),
        (lambda: KLInLoss(0.1, "k1"), "KLInLoss: k1 has a gradient of mean 0"),
        (lambda: KLInReward(0.0, target=1.0), "KLInReward: target steers coef by a factor"),
        (lambda: REINFORCE(SHORT, num_generations=1, reward=Votes()), "Votes compares the answers.*at least 2, not 1"),
        (lambda: Ensemble(("reward", "reward")), "two reward models or more, each once, not reward, reward"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(make, message):
    with pytest.raises(LabError, match=message):
        make()


def test_rewards_that_cannot_be_given_are_refused_beforehand(stage_inputs):
    real = dataclasses.replace(stage_inputs, preferences=object())
    with pytest.raises(LabError, match="Verifier: the oracle can judge answers to TinyWorld's own tasks only"):
        Verifier().check(real)
    with pytest.raises(LabError, match="There is no reward function 'brevity'; known: vowels. Put @reward_function"):
        Custom("brevity").check(stage_inputs)


def test_a_stage_is_measured_by_the_reward_that_it_was_trained_on(stage_inputs):
    """Beside the oracle and the run's reward model: how many vowels greedy answers to held-out prompts have."""
    one, few = stage(), EvaluationConfig(policy_prompts=4)
    found = one.evaluate(stage_inputs.model("sft"), stage_inputs, few)
    assert found["training_reward"] == found["training_reward_before"] and 0 <= found["training_reward"] <= 5
    assert {"gold", "reward"} <= set(found)
    claim = GRPO.claim(found, {})
    assert claim is not None and claim.metric == "reward of training" and not claim.holds, "nothing was trained"
    assert "training_reward" not in stage(reward=Verifier()).evaluate(stage_inputs.model("sft"), stage_inputs, few)


def test_a_reward_that_is_not_finite_is_named_with_the_response(stage_inputs):
    reward_function("endless")(lambda prompt, response: -math.inf)
    one = stage(reward=Custom("endless"))
    model = one.initial_model(stage_inputs)
    with pytest.raises(
        LabError, match="The reward function 'endless' gave -inf for the answer .* to .*must be a finite number"
    ):
        one.source(stage_inputs, model).next_batch(model, 0)


def test_a_reward_function_that_fails_is_named_with_the_response(stage_inputs):
    @reward_function("broken")
    def broken(prompt: str, response: str) -> float:
        raise ValueError("no such thing")

    one = stage(reward=Custom("broken"))
    model = one.initial_model(stage_inputs)
    with pytest.raises(LabError, match="The reward function 'broken' failed on .*no such thing"):
        one.source(stage_inputs, model).next_batch(model, 0)


def test_the_readmes_reward_of_ones_own_trains(tmp_path, monkeypatch, capsys):
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", readme, re.S) if "@reward_function" in block]
    monkeypatch.setattr("labkit.runs.presets.make_recipe", lambda preset: tiny_recipe())
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    opened = Run.open(tmp_path / "runs" / "brief")
    assert opened.recipe.stages["grpo"].reward == Custom("brief")
    rewards = [record["reward"] for record in opened.stage("grpo").step_records]
    assert rewards and all(reward <= 0 for reward in rewards) and "grpo" in capsys.readouterr().out
