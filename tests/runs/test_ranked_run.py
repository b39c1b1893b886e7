"""A run whose annotator ranks, with two reward models that differ by their seeds."""

import json
from dataclasses import replace
from itertools import islice

import pytest

from labkit.errors import LabError
from labkit.evaluation.judges import Worst, reward_ensemble
from labkit.preferences.annotate import read_annotated_rankings
from labkit.runs.folder import Run
from labkit.runs.pipeline import check_plan, run
from labkit.runs.plan import parse_plan
from labkit.runs.recipe import Recipe
from labkit.runs.settings import override_recipe
from labkit.stages.reward import AllPairs, BradleyTerry, PlackettLuce
from labkit.text.chat import encode_prompt
from tests.tiny import weights_hash
from tests.tiny_recipe import tiny_recipe

FLAGS = ["--annotation.format", "rankings", "--reward.loss", "PlackettLuce", "--reward-2.loss", "AllPairs"]


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    planned = replace(tiny_recipe(), plan=parse_plan("pretrain,sft,reward,reward-2,dpo", tiny_recipe().plan))
    return override_recipe(planned, [*FLAGS, "--reward-2.seed", "1", "--reward-2.head-std", "0.1"], "run")


@pytest.fixture(scope="module")
def made(recipe, tmp_path_factory) -> Run:
    path = tmp_path_factory.mktemp("ranked") / "run"
    list(run(recipe, path))
    return Run.open(path)


def test_flags_choose_the_loss(recipe):
    stages = recipe.stages
    assert stages["reward"].loss == PlackettLuce() and stages["reward-2"].loss == AllPairs()
    back = override_recipe(recipe, ["--reward.loss", "BradleyTerry", "--reward.loss.margin-coef", "2"], "run")
    assert back.stages["reward"].loss == BradleyTerry(margin_coef=2.0)
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_rankings_are_kept_and_both_kinds_of_stages_learn_from_them(made):
    rankings = read_annotated_rankings(made.path / "preferences" / "train.jsonl")
    assert max(len(one.ranking.answers) for one in rankings) > 2
    held_out = read_annotated_rankings(made.path / "preferences" / "validation.jsonl")
    pairs = sum(len(one.pairs) for one in held_out)
    for name in ("reward", "reward-2", "dpo"):
        assert made.stage(name).result["metrics"]["pairs"] == pairs
    assert 0 <= made.stage("reward").result["metrics"]["calibration_error"] <= 0.5


def test_the_two_reward_models_are_an_ensemble(made):
    models = [made.stage(name).reward_model() for name in ("reward", "reward-2")]
    assert weights_hash(models[0]) != weights_hash(models[1])
    tokenizer = made.tokenizer()
    ranking = read_annotated_rankings(made.path / "preferences" / "train.jsonl")[0].ranking
    prompts = [encode_prompt(tokenizer, ranking.prompt)] * len(ranking.answers)
    judge = reward_ensemble(models, tokenizer, Worst())
    answers = [tokenizer.encode(" " + answer) for answer in ranking.answers]
    both = judge.scores(prompts, answers)
    assert judge(prompts, answers) == both.amin(0).tolist() and not both[0].equal(both[1])


def test_stopped_and_resumed_it_ends_with_the_same_weights(recipe, made, tmp_path):
    path = tmp_path / "stopped"
    events = run(recipe, path, ["pretrain", "sft", "reward"])
    steps = (event for event in events if event.stage == "reward" and event.phase == "train")
    list(islice(steps, 3))
    events.close()
    list(run(recipe, path, ["pretrain", "sft", "reward"], resume=True))
    assert weights_hash(Run.open(path).stage("reward").reward_model()) == weights_hash(
        made.stage("reward").reward_model()
    )


def test_an_annotator_that_nobody_knows_is_refused_before_anything_is_trained(recipe, tmp_path):
    unknown = replace(recipe, annotation=replace(recipe.annotation, other_annotators=("grumpy",)))
    check_plan(unknown)
    with pytest.raises(LabError, match="no annotator 'grumpy'"):
        list(run(unknown, tmp_path / "refused"))
    assert not (tmp_path / "refused").exists()
