"""Methods of alignment on a recipe of seconds: what is made, what is not made again, and what is said."""

import json
from dataclasses import replace
from typing import Any

import pytest

from labkit.commands.main import main
from labkit.errors import LabError
from labkit.evaluation.policies import oracle_scores
from labkit.preferences.principles import Principles, ProfileJudge
from labkit.runs import pipeline
from labkit.runs.extend import extend_run
from labkit.runs.folder import Run
from labkit.runs.prepare import prepare_inputs
from labkit.stages.rewards import Verifier
from labkit.studies import alignment as study
from labkit.studies import annotators, rounds
from labkit.studies.measuring import ask, sampled_answers
from labkit.studies.methods import method_names, recipe_of_methods
from labkit.studies.options import AnnotatorsStudy, RoundsStudy
from tests.tiny_study import study_preset

METHODS = ("ppo", "dpo")


def asked(out, **changes: Any) -> tuple[study.AlignmentStudy, Any]:
    config = study.AlignmentStudy(**{"seeds": (0,), "methods": METHODS, "prompts": 8, "out": out} | changes)
    return config, study.study_recipe(config, study_preset(study.MAX_NEW_TOKENS))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A study of one seed, and its result."""
    out = tmp_path_factory.mktemp("study")
    return out, study.run(*asked(out))


def test_the_numbers_are_those_of_the_reports(made):
    out, result = made
    report = {one["stage"]: one for one in Run.open(out / "seed-0").report()["stages"]}
    assert list(report) == ["pretrain", "sft", "reward", "ppo", "dpo"]
    for method in METHODS:
        (found,) = result["methods"][method]["seeds"]
        for name in ("gold", "gold_before", "gold_gain", "gold_gain_standard_error", "win_rate", "right", "prompts"):
            assert found[name] == pytest.approx(report[method]["metrics"][name]), name
        assert found["seconds"] == report[method]["seconds"] and found["kl"] >= 0
    assert json.loads((out / "alignment.json").read_text())["methods"] == result["methods"]


def test_sampled_answers_are_measured_too(made):
    """Of what sampling gives the policy at temperature 1, from the draws of the fine-tuned model."""
    out, result = made
    (found,) = result["methods"]["ppo"]["seeds"]
    run = Run.open(out / "seed-0")
    inputs = prepare_inputs(run)
    asked_for = ask(inputs, 8, study.MAX_NEW_TOKENS, study.SAMPLES)
    tasks = [task for task in asked_for.prompts.tasks for _ in range(study.SAMPLES)]
    gold = {}
    for name in ("sft", "ppo"):
        drawn = sampled_answers(run.model(name), inputs.tokenizer, asked_for)
        gold[name] = oracle_scores(inputs.world, inputs.annotator, inputs.tokenizer, tasks, drawn).gold
    gain = gold["ppo"] - gold["sft"]
    assert found["sampled_gold_gain"] == pytest.approx(gain.mean())
    assert found["sampled_win_rate"] == pytest.approx(((gain > 0) + 0.5 * (gain == 0)).mean())
    assert 0 <= found["sampled_right"] <= 1


def test_the_table_and_the_figure_say_what_one_seed_can(made):
    out, result = made
    text = study.text_report(result)
    assert "one seed has no spread, so neither is better" in text and "n >= ((t(0.975" in text
    assert "Seed 0 alone: the intervals are over prompts" in text and "8 held-out prompts" in text
    page = (out / "alignment.html").read_text(encoding="utf-8")
    assert "gain in gold score over the fine-tuned model" in page and "http" not in page[:200]


def test_what_is_finished_is_not_made_again_and_methods_can_be_added(made, monkeypatch):
    out, before = made
    with monkeypatch.context() as unused:
        unused.setattr(pipeline, "fit", None)
        unused.setattr(study, "measure_policy", None)
        assert study.run(*asked(out))["methods"] == before["methods"]
    weights = Run.open(out / "seed-0").stage("ppo").weights_hash
    result = study.run(*asked(out, methods=("dpo", "rlvr")))
    opened = Run.open(out / "seed-0")
    assert list(result["methods"]) == ["dpo", "rlvr"] and result["methods"]["dpo"] == before["methods"]["dpo"]
    assert list(opened.recipe.stages) == ["pretrain", "sft", "reward", "ppo", "dpo", "grpo-rlvr"]
    assert opened.recipe.stages["grpo-rlvr"].reward == Verifier()
    assert opened.stage("ppo").weights_hash == weights


def test_pairs_of_another_judge_are_a_second_run_from_the_same_fine_tuned_model(made):
    out, before = made
    result = study.run(*asked(out, methods=("dpo", "dpo-rlaif")))
    assert result["methods"]["dpo"] == before["methods"]["dpo"]
    base, relabelled = Run.open(out / "seed-0"), Run.open(out / "seed-0-rlaif")
    assert "dpo-rlaif" not in base.recipe.stages and "ppo" not in relabelled.recipe.stages
    assert (base.recipe.annotation.judge, relabelled.recipe.annotation.judge) == (ProfileJudge(), Principles())
    assert relabelled.recipe.annotation.pairing == "best_with_worst"
    assert base.stage("sft").weights_hash == relabelled.stage("sft").weights_hash
    labels = [(run.path / "preferences" / "train.jsonl").read_text() for run in (base, relabelled)]
    assert labels[0] != labels[1] and base.stage("dpo").weights_hash != relabelled.stage("dpo-rlaif").weights_hash
    (alone,) = result["methods"]["dpo"]["seeds"]
    (found,) = result["methods"]["dpo-rlaif"]["seeds"]
    assert found["gold_before"] == alone["gold_before"]
    report = {one["stage"]: one for one in relabelled.report()["stages"]}
    assert found["gold"] == pytest.approx(report["dpo-rlaif"]["metrics"]["gold"])
    assert study.run(*asked(out, methods=("dpo-rlaif",)))["methods"]["dpo-rlaif"]["seeds"] == [found]


def test_the_best_with_the_worst_are_a_run_that_methods_share(made):
    """One pair to a prompt, and half of the preset's steps; methods with the same labels stand in the same run."""
    out, _ = made
    result = study.run(*asked(out, methods=("dpo", "dpo-bestworst", "ppo-bestworst")))
    assert list(result["methods"]) == ["dpo", "dpo-bestworst", "ppo-bestworst"]
    base, paired = Run.open(out / "seed-0"), Run.open(out / "seed-0-bestworst")
    assert paired.recipe.annotation == replace(base.recipe.annotation, pairing="best_with_worst")
    assert {"dpo-bestworst", "ppo-bestworst"} <= set(paired.recipe.stages) and "dpo" not in paired.recipe.stages
    steps = [run.recipe.stages[name].train.steps for run, name in ((base, "dpo"), (paired, "dpo-bestworst"))]
    assert steps[1] == max(1, round(steps[0] / 2))
    assert paired.recipe.stages["ppo-bestworst"].train.steps == base.recipe.stages["ppo"].train.steps


def test_a_study_with_one_kind_of_labels_refuses_another_judge():
    config = AnnotatorsStudy(preset="smoke", method="dpo-rlaif")
    with pytest.raises(LabError, match="dpo-rlaif has labels of its own: compare it by labkit study alignment"):
        annotators.study_recipe(config, study_preset())
    message = "dpo-bestworst has labels .* Here, set --annotation.pairing best_with_worst with --method dpo"
    with pytest.raises(LabError, match=message):
        rounds.study_recipe(RoundsStudy(preset="smoke", method="dpo-bestworst"), study_preset())


def test_killed_within_a_method_it_goes_on_there(tmp_path, monkeypatch):
    config, recipe = asked(tmp_path)
    fit, fitted = pipeline.fit, []

    def killed(model, source, objective, train, **options):
        fitted.append(options["folder"].name)
        for number, record in enumerate(fit(model, source, objective, train, **options)):
            yield record
            if options["folder"].name == "ppo" and number == 0 and fitted.count("ppo") == 1:
                raise RuntimeError("killed")

    monkeypatch.setattr(pipeline, "fit", killed)
    with pytest.raises(RuntimeError, match="killed"):
        study.run(config, recipe)
    study.run(config, recipe)
    assert fitted == ["pretrain", "sft", "reward", "ppo", "ppo", "dpo"]


def test_another_recipe_and_other_settings_are_refused_by_name(made):
    out, _ = made
    config, recipe = asked(out)
    with pytest.raises(LabError, match=r"different recipe \(dpo.beta: 0.3, not 0.7\)"):
        study.run(config, recipe.with_stages(dpo=replace(recipe.stages["dpo"], beta=0.7)))
    before = (out / "seed-0" / "recipe.json").read_bytes()
    with pytest.raises(LabError, match=r"different recipe \(model.width: 32, not 64\)"):
        extend_run(out / "seed-0", replace(recipe, model=replace(recipe.model, width=64)))
    assert (out / "seed-0" / "recipe.json").read_bytes() == before


def metrics(gain: float, right_gain: float = 0.0, win: float = 0.7, sampled: float = 0.6) -> dict[str, float]:
    return {
        **{"sampled_gold_gain": gain, "sampled_win_rate": sampled, "sampled_right": 0.8, "sampled_right_before": 0.8},
        **{"gold_gain": gain, "gold_gain_standard_error": 0.01, "win_rate": win, "win_low": 0.6, "win_high": 0.8},
        **{"right_before": 0.9, "right": 0.9 + right_gain, "right_gain": right_gain, "kl": 2.0, "tokens": 12.0},
        **{"tokens_before": 10.0, "training_seconds": 30.0, "prompts": 500},
    }


def test_several_seeds_give_means_intervals_and_verdicts():
    found = {
        "ppo": [metrics(0.24), metrics(0.25), metrics(0.26)],
        "dpo": [metrics(0.20), metrics(0.20), metrics(0.20, right_gain=-0.03)],
        "kto": [metrics(0.21, win=0.4, sampled=0.5), metrics(0.25, win=0.5, sampled=0.55), metrics(0.29)],
    }
    result: dict[str, Any] = {
        "seeds": [0, 1, 2],
        "prompts": [500, 500, 500],
        "methods": {name: {"seeds": each, "over_seeds": study.over_seeds(each)} for name, each in found.items()},
        "comparisons": [one._asdict() | {"words": str(one)} for one in study.compare_methods(found)],
        "figure": "x.html",
    }
    text = study.text_report(result)
    assert "+0.250 ± 0.010" in text and "+0.225 to +0.275" in text  # 4.303 · 0.01 / √3 = 0.025
    assert "ppo - dpo: +0.050 (+0.025 to +0.075), ppo is better" in text
    assert "inside the spread of seeds" in text
    assert "Right answers fell by more than 2 percentage points in a seed: dpo." in text
    assert "Win rate not above 0.5 beyond chance: kto." in text
    assert "Sampled answers do not win beyond chance: kto." in text
    assert "0.550 (0.426 to 0.674)" in text  # 4.303 · 0.05 / √3 = 0.124
    figure = study.gain_figure(result)
    assert set(figure.data[0].y) == {"ppo", "dpo", "kto"} and len(figure.data[1].x) == 9
    assert "not beyond the spread of seeds" in figure.layout.title.text


def test_the_command_prints_json_and_takes_the_recipes_flags(made, monkeypatch, capsys):
    out, before = made
    monkeypatch.setattr("labkit.runs.presets.make_recipe", lambda preset: study_preset(study.MAX_NEW_TOKENS))
    given = ["study", "alignment", "--seeds", "0", "--prompts", "8", "--out", str(out), "--methods", "ppo"]
    assert main([*given, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["methods"]["ppo"] == before["methods"]["ppo"] and found["comparisons"] == []
    assert main([*given, "--ppo.kl-coef", "0.7"]) == 2
    assert "ppo.kl_coef: 0.1, not 0.7" in capsys.readouterr().err


def test_stopped_it_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    def stopped(*given, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(study, "train_stages", stopped)
    assert main(["study", "alignment", "--preset", "smoke", "--methods", "dpo", "--out", str(tmp_path / "out")]) == 130
    assert "To go on, give the same command again." in capsys.readouterr().err


def test_methods_are_the_stages_that_leave_a_policy_and_named_settings():
    names = method_names()
    assert {"ppo", "grpo", "rloo", "dpo", "kto", "ipo", "simpo", "rlvr", "votes", "dpo-rlaif"} <= set(names)
    assert not {"pretrain", "sft", "reward"} & set(names)
    recipe = recipe_of_methods(study_preset(study.MAX_NEW_TOKENS), ["grpo", "rlvr", "dpo-soft"])
    assert [one.name for one in recipe.plan] == ["pretrain", "sft", "reward", "grpo", "grpo-rlvr", "dpo-soft"]
    assert {recipe.predecessor(name) for name in ("grpo", "grpo-rlvr", "dpo-soft")} == {"sft"}


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--methods", "sft"], "There is no method 'sft'; the methods are"),
        (["--seeds", "1", "1"], "each seed once"),
        (["--methods", "dpo", "dpo"], "dpo is in the plan twice"),
        (["--prompts", "1"], "--prompts must be"),
        (["--methods", "dpo", "--nonsense", "1"], "nonsense"),
    ],
)
def test_what_cannot_be_studied_is_refused_in_words(arguments, message, tmp_path, capsys):
    given = ["study", "alignment", "--preset", "smoke", "--out", str(tmp_path / "out"), *arguments]
    assert main(given) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
