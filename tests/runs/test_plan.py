import json
from dataclasses import dataclass, replace
from typing import Any

import pytest

from labkit.errors import LabError
from labkit.files import read_json, write_json
from labkit.paths import demo_folder
from labkit.runs.folder import Run
from labkit.runs.pipeline import rerun_stage, run
from labkit.runs.plan import (
    PlannedStage,
    extend_plan,
    format_plan,
    make_plan,
    parse_plan,
    plan_from_list,
    resolve_dependencies,
)
from labkit.runs.presets import make_recipe, plan_templates
from labkit.runs.recipe import Recipe
from labkit.runs.settings import override_recipe
from labkit.stages import DPO, IPO, PPO, SFT, STAGES, Pretrain, RewardModeling
from labkit.training.config import TrainConfig
from tests.tiny import weights_hash
from tests.tiny_recipe import tiny_recipe

WHOLE = make_recipe("smoke").plan


def planned(text: str) -> Recipe:
    """The tiny recipe with another plan."""
    return replace(tiny_recipe(), plan=parse_plan(text, tiny_recipe().plan))


def test_a_plan_is_its_text():
    text = "pretrain,sft,reward,ppo,dpo-strict,dpo@ppo"
    assert format_plan(parse_plan(text, WHOLE)) == text
    assert format_plan(WHOLE) == "pretrain,sft,reward,ppo,dpo"
    assert parse_plan(format_plan(WHOLE), WHOLE) == WHOLE


def test_a_stage_has_the_settings_of_its_name_else_of_its_kind_else_its_defaults():
    known = (*make_plan(pretrain=Pretrain(), sft=SFT()), PlannedStage("dpo-strict", DPO(beta=0.7)))
    pretrain, sft, strict, other = parse_plan("pretrain,sft,dpo-strict,dpo-other", known)
    assert strict.stage == other.stage == DPO(beta=0.7) and sft.stage == SFT()
    both = (*known, PlannedStage("dpo", DPO(beta=0.2)))
    assert [one.stage for one in parse_plan("pretrain,sft,dpo,dpo-strict", both)[2:]] == [DPO(beta=0.2), DPO(beta=0.7)]
    assert parse_plan("pretrain,sft,reward", known)[2].stage == RewardModeling()


def test_a_stage_that_is_not_in_a_presets_plan_is_trained_as_the_preset_suggests():
    """As DPO is there; of a recipe's own stages none is changed, nor those of a recipe that is of no preset."""
    for recipe in (make_recipe("smoke"), make_recipe("lab", text="a.txt", instructions="b", preferences="c")):
        dpo = recipe.stages["dpo"].train
        for kind in ("ipo", "robustdpo", "simpo", "orpo", "kto"):
            stage = parse_plan(f"pretrain,sft,{kind}-other", plan_templates(recipe))[2].stage
            assert (stage.train.steps, stage.train.max_length) == (dpo.steps, dpo.max_length)
    own = replace(make_recipe("smoke"), plan=(*WHOLE, PlannedStage("ipo-own", IPO(beta=0.7))))
    assert parse_plan("pretrain,sft,ipo", plan_templates(own))[2].stage == IPO(beta=0.7)
    assert plan_templates(tiny_recipe()) == tiny_recipe().plan


def test_what_a_stage_begins_with():
    recipe = planned("pretrain,sft,sft-long@sft,reward,ppo,dpo,dpo-strict@ppo")
    begins = {name: recipe.predecessor(name) for name in recipe.stages}
    assert begins["pretrain"] is None and begins["sft"] == "pretrain" and begins["sft-long"] == "sft"
    assert begins["reward"] == begins["ppo"] == begins["dpo"] == "sft-long" and begins["dpo-strict"] == "ppo"
    assert recipe.dependencies("ppo") == ["sft-long", "reward"] and recipe.dependencies("dpo") == ["sft-long"]
    assert recipe.annotated_stage == "sft-long" and recipe.preceding_reward_stage("dpo") == "reward"
    assert recipe.chat_stages == ["sft", "sft-long", "ppo", "dpo", "dpo-strict"]


@pytest.mark.parametrize(
    "text, said",
    [
        ("pretrain,sft,ppo", "ppo needs a reward model: put reward before it in the plan"),
        ("sft", "sft needs a language model to start from: put a stage before it in the plan .pretrain,sft., or name"),
        ("pretrain,sft,sft", "sft is in the plan twice. Name the second one sft-2"),
        ("pretrain,spin", "There is no stage 'spin'; the stages are .*dpo.*, and names with a suffix, like dpo-strict"),
        (
            "pretrain,sft-",
            ("'sft-' is not a valid name for a stage: use dpo, or dpo-strict for a second stage of that type"),
        ),
        ("pretrain,sft-Long", "'sft-Long' is not a valid name for a stage"),
        ("pretrain,sft,dpo@reward", "dpo cannot come after reward: no earlier stage of that name produces a language"),
        ("pretrain,dpo@sft,sft", "dpo cannot come after sft"),
        ("pretrain,sft,reward,dpo@reward", "dpo cannot come after reward"),
        ("pretrain@sft", "pretrain starts from random weights: it comes after no stage"),
        ("", "A plan needs a stage"),
        (",,", "A plan needs a stage"),
    ],
)
def test_what_is_no_plan_is_refused_in_words(text, said):
    with pytest.raises(LabError, match=said):
        replace(make_recipe("smoke"), plan=parse_plan(text, WHOLE))


@pytest.mark.parametrize("text", ["", "pretrain,sft,sft", "pretrain,spin", ",".join(f"dpo-{n}" for n in range(65))])
def test_names_are_refused_before_anything_is_built_of_them(text):
    with pytest.raises(LabError):
        parse_plan(text, WHOLE)


def test_a_stage_with_a_setting_that_has_no_default_is_no_suggestion_and_needs_it(monkeypatch):
    """It breaks no other plan; where it is planned, the setting must be given."""

    @dataclass(frozen=True, kw_only=True)
    class Paced(IPO):
        pace: int

    monkeypatch.setitem(STAGES, "paced", Paced)
    monkeypatch.setattr(Paced, "kind", "paced")
    recipe = make_recipe("smoke")
    assert "paced" not in [one.name for one in plan_templates(recipe)]
    assert override_recipe(recipe, [], "run", "pretrain,sft,ipo").plan[2].stage.kind == "ipo"
    made = override_recipe(recipe, ["--paced.pace", "3"], "run", "pretrain,sft,paced")
    assert made.stages["paced"] == Paced(pace=3)
    with pytest.raises(LabError, match="Paced needs --paced.pace too"):
        override_recipe(recipe, [], "run", "pretrain,sft,paced")
    with pytest.raises(LabError, match="Paced needs pace"):
        parse_plan("pretrain,sft,paced", WHOLE)


def test_a_policy_does_not_begin_with_a_judge():
    judge: Any = STAGES["judge"]()
    first = make_plan(pretrain=Pretrain(), sft=SFT(), judge=judge)
    with pytest.raises(LabError, match="dpo cannot come after judge, whose model compares answers and writes none"):
        resolve_dependencies((*first, PlannedStage("dpo", DPO(), "judge")))
    found = resolve_dependencies((*first, PlannedStage("judge-more", judge, "judge")))
    assert found["judge-more"].predecessor == "judge"


@pytest.mark.parametrize(
    ("stages", "plan"),
    [
        (["ipo"], "pretrain,sft,reward,ppo,dpo,ipo"),
        (["dpo@ppo"], "pretrain,sft,reward,ppo,dpo@ppo"),
        (["ppo@dpo"], "pretrain,sft,reward,dpo,ppo@dpo"),
        (["ppo@ipo", "ipo"], "pretrain,sft,reward,dpo,ipo,ppo@ipo"),
        (["dpo@runs/other/sft"], "pretrain,sft,reward,ppo,dpo@runs/other/sft"),
    ],
)
def test_a_stage_that_is_put_after_another_stands_behind_it(stages, plan):
    recipe = make_recipe("smoke")
    assert extend_plan(recipe.plan, stages) == plan
    resolve_dependencies(parse_plan(plan, plan_templates(recipe)))


def test_a_name_says_its_kind():
    with pytest.raises(LabError, match="'dpo' is not a valid name for a ppo stage"):
        PlannedStage("dpo", PPO())
    with pytest.raises(LabError, match="in the plan twice"):
        resolve_dependencies([*WHOLE, PlannedStage("dpo", DPO())])


def test_recipes_come_back_from_json_with_their_plans():
    recipe = planned("pretrain,sft,dpo,dpo-strict@dpo")
    recipe = recipe.with_stages(**{"dpo-strict": DPO(recipe.stages["dpo"].train, beta=0.9)})
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    changed = recipe.with_stages(dpo=DPO(recipe.stages["dpo"].train, beta=0.5))
    assert recipe.differences(changed) == {"dpo.beta": (0.3, 0.5)}
    other = replace(recipe, plan=recipe.plan[:3])
    assert recipe.differences(other)["plan"] == ("pretrain,sft,dpo,dpo-strict@dpo", "pretrain,sft,dpo")
    with pytest.raises(LabError, match="The plan has no stage ppo; it is pretrain,sft,dpo"):
        recipe.with_stages(ppo=PPO())


def test_recipes_from_before_there_were_plans_can_be_read():
    """Their stages were fields; and so the fingerprints of their checkpoints are those of today."""
    older = make_recipe("smoke").to_dict()
    for one in older.pop("plan"):
        older[one["name"]] = {"kind": "any", **one["stage"], "train": {**one["stage"]["train"], "seed": 5}}
    assert Recipe.from_dict(older) == make_recipe("smoke")
    assert Recipe.from_dict({"preset": "lab", "sft": {"train": {"steps": 7}}}).stages["sft"].train.steps == 7
    shipped = Run.open(demo_folder()).recipe
    assert shipped.fingerprint("pretrain") == "bfac20b304d02fc1" and shipped.fingerprint("ppo") == "e2f39f86c5bfad3b"


def test_a_stage_that_another_labkit_had_is_named(tmp_path):
    list(run(tiny_recipe(), tmp_path / "run", ["pretrain"]))
    file = tmp_path / "run" / "recipe.json"
    saved: Any = read_json(file)
    saved["recipe"]["plan"].append({"name": "spin", "after": None, "stage": {}})
    write_json(file, saved)
    with pytest.raises(LabError, match="There is no stage 'spin'; the stages are"):
        Run.open(tmp_path / "run")


def test_who_wrote_the_answers_that_are_compared_is_built_on():
    """The first learner comes after sft-long: the world's annotator compares its answers, for those after sft too."""
    recipe = planned("pretrain,sft,sft-long@sft,reward,dpo@sft")
    assert recipe.annotated_stage == "sft-long" and recipe.dependencies("dpo") == ["sft", "sft-long"]
    assert recipe.descendants("sft-long") == ["reward", "dpo"]
    alone = planned("pretrain,sft,sft-long@sft,dpo@sft")
    assert alone.annotated_stage == "sft" and alone.fingerprint("dpo") != recipe.fingerprint("dpo")
    given = replace(recipe, text="t", instructions="i", preferences="p")
    assert given.annotated_stage is None and given.dependencies("dpo") == ["sft"]


def test_a_plan_of_many_rounds_is_resolved_at_once():
    rounds = [f"reward-{k}@ppo-{k - 1},ppo-{k}@ppo-{k - 1}" for k in range(2, 30)]
    recipe = planned(",".join(["pretrain,sft,reward-1,ppo-1", *rounds]))
    assert len(recipe.ancestors("ppo-29")) == 59
    with pytest.raises(LabError, match="at most 64 stages, not 66"):
        planned(",".join(["pretrain,sft,reward-1,ppo-1", *rounds, *(f"sft-{k}" for k in range(6))]))


@pytest.mark.parametrize(
    "stage",
    [
        "dpo",
        {"name": 3, "stage": {}},
        {"name": "dpo", "stage": [1]},
        {"name": "dpo", "stage": {}, "after": 5},
        {"name": "dpo", "stage": {}, "after": "runs/a,b/sft"},
    ],
)
def test_a_damaged_plan_is_refused_in_words(stage):
    with pytest.raises(LabError, match="needs a name and settings|cannot come after"):
        plan_from_list([{"name": "pretrain", "stage": {}}, stage])


def test_the_fingerprint_knows_what_a_stage_comes_after():
    plain, moved = planned("pretrain,sft,reward,ppo,dpo"), planned("pretrain,sft,reward,ppo,dpo@ppo")
    assert plain.fingerprint("dpo") != moved.fingerprint("dpo")
    assert plain.fingerprint("ppo") == moved.fingerprint("ppo")


def test_two_stages_of_a_kind_are_made_beside_each_other(tmp_path):
    short = replace(tiny_recipe().stages["dpo"].train, steps=2)
    recipe = planned("pretrain,sft,dpo,dpo-strict,dpo-more@dpo")
    strict = {"dpo": DPO(short), "dpo-strict": DPO(short, beta=2.0), "dpo-more": DPO(short)}
    path = tmp_path / "run"
    list(run(recipe.with_stages(**strict), path))
    made = Run.open(path)
    report = {stage["stage"]: stage for stage in made.report()["stages"]}
    assert list(report) == ["pretrain", "sft", "dpo", "dpo-strict", "dpo-more"]
    assert [report[name]["after"] for name in report] == [None, "pretrain", "sft", "sft", "dpo"]
    hashes = {weights_hash(stage.model()) for stage in made.stages}
    assert len(hashes) == 5
    before = weights_hash(made.model("dpo-strict"))
    list(rerun_stage(path, "dpo"))  # what comes after it goes; what stands beside it stays, and so do the choices
    made = Run.open(path)
    assert not made.stage("dpo-more").exists and weights_hash(made.model("dpo-strict")) == before
    assert (path / "preferences").is_dir()


@pytest.mark.parametrize("sharded", [False, True])
def test_a_stage_begins_with_a_model_of_another_run(tmp_path, monkeypatch, sharded):
    """With its weights and its tokenizer; when they change, it is said."""
    if sharded:
        monkeypatch.setattr("labkit.training.weights.MAX_SHARD_BYTES", 20_000)
    big, path = tmp_path / "big", tmp_path / "student"
    list(run(tiny_recipe(), big, ["pretrain"]))
    recipe = planned(f"sft@{big}/pretrain")
    list(run(recipe, path))
    made = Run.open(path)
    ending = ".index.json" if sharded else "model.safetensors"
    assert Run.open(big).stage("pretrain").weights_or_index_file.name.endswith(ending)
    assert [stage.name for stage in made.stages] == ["sft"] and made.stage("sft").finished
    assert (path / "tokenizer.json").read_bytes() == (big / "tokenizer.json").read_bytes()
    whole = tmp_path / "whole"
    list(run(tiny_recipe(), whole, ["pretrain", "sft"]))
    assert weights_hash(made.model("sft")) == weights_hash(Run.open(whole).model("sft"))
    assert made.inputs[f"{big}/pretrain"] and list(run(recipe, path, resume=True))[-1].phase == "skipped"
    list(rerun_stage(big, "pretrain", Pretrain(replace(tiny_recipe().stages["pretrain"].train, steps=3))))
    with pytest.raises(LabError, match="has changed since .* was started with it"):
        list(rerun_stage(path, "sft"))


def test_both_may_be_moved_and_what_was_begun_is_not_begun_anew(tmp_path, monkeypatch):
    """A model of another run is found where it stood, or by its name; a branch knows its old weights from new ones."""
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    list(run(tiny_recipe(), "big", ["pretrain"]))
    recipe = planned("sft@big/pretrain,dpo")
    list(run(recipe, "student", ["sft"]))
    monkeypatch.chdir(tmp_path)
    assert Run.open("a/student").other_run_stage("big/pretrain").trained
    Run.open("a/student").branch("branch", recipe, ["sft"])
    assert Run.open("branch").original_locations["big/pretrain"] == str(tmp_path / "a" / "big" / "pretrain")
    (tmp_path / "a").rename(tmp_path / "b")
    monkeypatch.chdir(tmp_path / "b")
    assert Run.open("student").other_run_stage("big/pretrain").trained
    list(rerun_stage("big", "pretrain", Pretrain(replace(tiny_recipe().stages["pretrain"].train, steps=3))))
    with pytest.raises(LabError, match="has changed since student was started with it"):
        Run.open("student").branch("another", recipe, ["sft"])
    (tmp_path / "b" / "big").rename(tmp_path / "b" / "gone")
    with pytest.raises(LabError, match="big/pretrain, which student starts from, is missing: there is no"):
        Run.open("student").other_run_stage("big/pretrain")


@pytest.mark.parametrize(
    "place, said",
    [("nothing/sft", "contains no run"), ("big/sft", "has no language model"), ("big/no", "has no stage 'no'")],
)
def test_another_run_without_that_model_is_refused_before_anything_is_written(tmp_path, place, said):
    list(run(tiny_recipe(), tmp_path / "big", ["pretrain"]))
    with pytest.raises(LabError, match=said):
        list(run(planned(f"sft@{tmp_path / place}"), tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_rows_longer_than_the_other_runs_context_are_refused(tmp_path):
    list(run(tiny_recipe(), tmp_path / "big", ["pretrain"]))
    recipe = planned(f"sft@{tmp_path / 'big'}/pretrain")
    wide = replace(recipe, model=replace(recipe.model, context=512))
    with pytest.raises(LabError, match="sft.train.max_length is 200 tokens, but the context of .*big/pretrain is 128"):
        list(run(wide.with_stages(sft=SFT(TrainConfig(steps=2, max_length=200))), tmp_path / "new"))
    later = replace(wide, plan=(*wide.plan, PlannedStage("dpo", DPO(TrainConfig(steps=2, max_length=200)))))
    with pytest.raises(LabError, match="dpo.train.max_length is 200 tokens, but the context of .*big/pretrain is 128"):
        list(run(later, tmp_path / "new"))
