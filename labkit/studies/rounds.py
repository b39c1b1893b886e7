"""Iterated rounds: collect choices, fit a reward model, train the policy; then again, from the policy's own answers.

    labkit study rounds --rounds 3 --method ppo

A reward model has seen answers of the model before it, and is asked about those of the policy that it trains. In the
next round the annotator compares answers of that policy, and a new reward model, which begins with it, is fitted to
these choices (Bai et al. 2022, https://arxiv.org/abs/2204.05862, 4.5: iterated online RLHF). A round is a run of its
own, whose stages come after the policy of the round before, with other prompts; the method's KL is from that policy.

Beside it stands a control: the method in one round, with as many steps as all rounds together. What the rounds gain
over it is not due to more steps; it may be due to new choices, to other prompts, or to the reference that moves. All
policies answer the same held-out prompts, those of the first round, greedily.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from labkit.evaluation.policies import OracleScores, paired_oracle_metrics
from labkit.files import write_json, write_text
from labkit.machine import describe_machine
from labkit.reporting.charts import figure_page, interval_chart
from labkit.reporting.terminal import align_columns
from labkit.runs.folder import Run
from labkit.runs.plan import PlannedStage
from labkit.runs.prepare import prepare_inputs
from labkit.runs.recipe import Recipe
from labkit.studies.measuring import greedy_oracle_scores
from labkit.studies.methods import method_stage_name, recipe_of_methods, refuse_relabelled
from labkit.studies.options import RoundsStudy
from labkit.studies.seeds import compare_over_seeds, summarize_seeds
from labkit.studies.training import PlannedRun, check_runs, train_stages

LONG = "long"
"""The suffix of the control's stage: one round with the steps of all."""
SEED_OF_ROUND = 1000
"""Added to the run's seed with each round, so that it annotates and asks other prompts."""


def study_recipe(config: RoundsStudy, preset: Recipe) -> Recipe:
    """The preset's recipe with the study's method; see `with_control` for what stands beside it."""
    refuse_relabelled(config.method)
    evaluation = dataclasses.replace(preset.evaluation, policy_prompts=config.prompts)
    return recipe_of_methods(dataclasses.replace(preset, evaluation=evaluation), [config.method])


def own_settings(config: RoundsStudy) -> dict[str, str]:
    """The fields of the recipe that the study sets itself, and what to set instead."""
    return {"evaluation.policy_prompts": "use --prompts"}


def with_control(config: RoundsStudy, recipe: Recipe) -> Recipe:
    """The recipe of the first round: the study's, once its flags are read, and the control beside the method."""
    method = method_stage_name(config.method)
    stage: Any = recipe.stages[method]
    train = dataclasses.replace(stage.train, steps=config.rounds * stage.train.steps)
    control = PlannedStage(f"{method}-{LONG}", dataclasses.replace(stage, train=train))
    return dataclasses.replace(recipe, plan=(*recipe.plan, control))


def recipe_of_round(config: RoundsStudy, recipe: Recipe, number: int, before: Path) -> Recipe:
    """The recipe of a round after the first, which comes after `before`, a policy's stage: RUN/STAGE."""
    method = method_stage_name(config.method)
    after = str(before)
    plan = tuple(dataclasses.replace(one, after=after) for one in recipe.plan if one.name in ("reward", method))
    return dataclasses.replace(recipe, plan=plan, seed=recipe.seed + SEED_OF_ROUND * (number - 1))


def run(config: RoundsStudy, recipe: Recipe, progress: Callable[[str], object] = lambda line: None) -> dict[str, Any]:
    """Make what is not there yet of each seed's rounds; all numbers, as what JSON can write. recipe: see
    `study_recipe`.

    {"preset", "seeds", "method", "policies": {"round 1": {"seeds": [metrics of each, beside the fine-tuned model],
    "over_seeds": {NAME: SeedSummary}}, …, "control"}, "comparisons": [SeedComparison of gains in gold, with round 1 and
    with the control], "figure", "machine"}. Raises LabError as the runs do.
    """
    found: dict[str, list[dict[str, float]]] = {}
    check_runs(config.seeds, recipe, lambda of_seed: seed_runs(config, of_seed))
    for seed in config.seeds:
        for name, metrics in _seed_metrics(config, dataclasses.replace(recipe, seed=seed), progress).items():
            found.setdefault(name, []).append(metrics)
    gains = {name: [metrics["gold_gain"] for metrics in each] for name, each in found.items()}
    last = f"round {config.rounds}"
    compared = [compare_over_seeds(last, gains[last], name, gains[name]) for name in ("round 1", "control")]
    result = {
        "preset": config.preset,
        "seeds": list(config.seeds),
        "method": config.method,
        "policies": {
            name: {
                "seeds": each,
                "over_seeds": {key: summarize_seeds([one[key] for one in each])._asdict() for key in each[0]},
            }
            for name, each in found.items()
        },
        "comparisons": [one._asdict() | {"words": str(one)} for one in compared],
        "figure": str(config.folder / "rounds.html"),
        "machine": describe_machine(),
    }
    write_json(config.folder / "rounds.json", result)
    write_text(config.folder / "rounds.html", figure_page(gain_figure(result), "Iterated rounds"))
    return result


def seed_runs(config: RoundsStudy, recipe: Recipe) -> dict[str, PlannedRun]:
    """The run of each round, of the recipe's seed: {"round 1": …}; the control is in the first."""
    method, recipe = method_stage_name(config.method), with_control(config, recipe)
    folders = [Path(f"{config.folder / f'seed-{recipe.seed}'}-round-{number + 1}") for number in range(config.rounds)]
    later = {
        f"round {number}": PlannedRun(folder, recipe_of_round(config, recipe, number, before / method))
        for number, (before, folder) in enumerate(itertools.pairwise(folders), start=2)
    }
    return {"round 1": PlannedRun(folders[0], recipe), **later}


def _seed_metrics(
    config: RoundsStudy, recipe: Recipe, progress: Callable[[str], object]
) -> dict[str, dict[str, float]]:
    """{"round 1": metrics beside the fine-tuned model, …, "control"} of one seed."""
    method, policies = method_stage_name(config.method), dict[str, tuple[Run, str]]()
    for name, (folder, own) in seed_runs(config, recipe).items():
        progress(f"{folder} ...")
        policies[name] = train_stages(own, folder, list(own.stages)), method
    first, _ = policies["round 1"]
    policies["control"] = first, f"{method}-{LONG}"
    scores = {name: _scores(config, first, *policy) for name, policy in {"sft": (first, "sft"), **policies}.items()}
    fine_tuned = scores.pop("sft")
    return {name: paired_oracle_metrics(after, fine_tuned) for name, after in sorted(scores.items(), reverse=True)}


def _scores(config: RoundsStudy, first: Run, of: Run, stage: str) -> OracleScores:
    """What the oracle says of the greedy answers of a stage's model to the first round's held-out prompts."""
    inputs, annotator = prepare_inputs(first), first.recipe.annotation.annotator
    return greedy_oracle_scores(config.name, inputs, config.prompts, of, stage, [annotator])[annotator]


def text_report(result: dict[str, Any]) -> str:
    """A table, a row a policy, and what may be said of the last round."""
    rows = [["", "gold gain", "95 % interval", "win rate", "right before", "right"]]
    for name, policy in result["policies"].items():
        over = policy["over_seeds"]
        gain = over["gold_gain"]
        spread = "" if gain["spread"] is None else f" ± {gain['spread']:.3f}"
        interval = "" if gain["low"] is None else f"{gain['low']:+.3f} to {gain['high']:+.3f}"
        right = [f"{100 * over[key]['mean']:.1f} %" for key in ("right_before", "right")]
        rows.append([name, f"{gain['mean']:+.3f}{spread}", interval, f"{over['win_rate']['mean']:.3f}", *right])
    seeds = ", ".join(map(str, result["seeds"]))
    reading = (
        f"Gain over the fine-tuned model by {result['method']}; means over seeds {seeds}. Control: one round with as "
        "many steps as all rounds together."
    )
    said = [one["words"] for one in result["comparisons"]]
    return "\n".join([align_columns(rows), "", reading, "", "Gain in gold:", *said, "", f"Figure: {result['figure']}"])


def gain_figure(result: dict[str, Any]) -> Any:
    """Gain in gold of each round and of the control: mean, interval, each seed."""
    rows = {}
    for name, policy in sorted(result["policies"].items(), reverse=True):
        gain = policy["over_seeds"]["gold_gain"]
        low, high = (gain["mean"],) * 2 if gain["low"] is None else (gain["low"], gain["high"])
        rows[name] = (gain["mean"], low, high, [metrics["gold_gain"] for metrics in policy["seeds"]])
    beside_first, beside_control = result["comparisons"]
    last = beside_first["first"]
    sure = [one["second"] for one in (beside_first, beside_control) if one["better"] == last]
    title = (
        f"{last} is better than {' and '.join(sure)}" if sure else f"{last} is not better beyond the spread of seeds"
    )
    return interval_chart(
        rows, x="gain in gold score over the fine-tuned model (95 % interval over seeds)", title=title
    )
