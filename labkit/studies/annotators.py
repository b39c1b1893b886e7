"""Whose values? A policy learns from each of two annotators, and both annotators judge both policies.

    labkit study annotators --annotators concise thorough --method ppo

A seed is one fine-tuned model. Each annotator compares answers of it, a reward model is fitted to the choices where the
method needs one, and a policy is trained. Then all three models answer the same held-out prompts, greedily, and the
oracle scores each answer under either annotator's profile. What is called aligned is aligned with somebody: under its
own annotator a policy should win over the other's, and under the other's lose.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from labkit.errors import LabError
from labkit.evaluation.policies import OracleScores, paired_oracle_metrics
from labkit.files import write_json, write_text
from labkit.machine import describe_machine
from labkit.reporting.charts import figure_page, interval_chart
from labkit.reporting.terminal import align_columns
from labkit.runs.folder import Run
from labkit.runs.prepare import prepare_inputs
from labkit.runs.recipe import Recipe
from labkit.studies.measuring import greedy_oracle_scores
from labkit.studies.methods import BASE, method_stage_name, recipe_of_methods, refuse_relabelled
from labkit.studies.options import AnnotatorsStudy
from labkit.studies.seeds import summarize_seeds
from labkit.studies.training import PlannedRun, check_runs, train_stages

SHARED = ("pretrain", "sft")
"""The stages that both policies of a seed begin with."""


def study_recipe(config: AnnotatorsStudy, preset: Recipe) -> Recipe:
    """The preset's recipe with the study's method. Raises LabError for what is no method, and for one annotator."""
    if len(set(config.annotators)) < 2:
        raise LabError("study annotators compares two: --annotators concise thorough")
    refuse_relabelled(config.method, offers_flags=False)
    evaluation = dataclasses.replace(preset.evaluation, policy_prompts=config.prompts)
    return recipe_of_methods(dataclasses.replace(preset, evaluation=evaluation), [config.method])


def own_settings(config: AnnotatorsStudy) -> dict[str, str]:
    """The fields of the recipe that the study sets itself, and what to set instead."""
    return {
        "annotation.annotator": f"use --annotators, as --annotators {' '.join(config.annotators)}",
        "annotation.judge": "each annotator chooses by its own profile",
        "evaluation.policy_prompts": "use --prompts",
    }


def seed_runs(config: AnnotatorsStudy, recipe: Recipe) -> dict[str, PlannedRun]:
    """The run of each annotator, of the recipe's seed."""
    runs = {}
    for annotator in config.annotators:
        own = dataclasses.replace(recipe.annotation, annotator=annotator)
        folder = config.folder / f"seed-{recipe.seed}-{annotator}"
        runs[annotator] = PlannedRun(folder, dataclasses.replace(recipe, annotation=own))
    return runs


def run(
    config: AnnotatorsStudy, recipe: Recipe, progress: Callable[[str], object] = lambda line: None
) -> dict[str, Any]:
    """Make what is not there yet of each seed's two runs; all numbers, as what JSON can write. recipe: see
    `study_recipe`.

    {"preset", "seeds", "method", "annotators", "judged_by": {ANNOTATOR: {"seeds": [metrics of each], "over_seeds":
    {NAME: SeedSummary}}}, "figure", "machine"}. Of an annotator, win_rate, win_low and win_high are of its policy over
    the other's, gold_gain of its policy over the fine-tuned model and other_gain of the other's. Raises LabError as the
    runs do, and for an annotator that the world has not.
    """
    check_runs(config.seeds, recipe, lambda of_seed: seed_runs(config, of_seed))
    judged: dict[str, list[dict[str, float]]] = {annotator: [] for annotator in config.annotators}
    for seed in config.seeds:
        base, scores = None, {}
        for annotator, (folder, own) in seed_runs(config, dataclasses.replace(recipe, seed=seed)).items():
            progress(f"{folder} ...")
            opened = train_stages(own, folder, [*BASE, method_stage_name(config.method)], base, SHARED)
            base = base or opened
            scores[annotator] = measure_run(opened, config)
        for annotator, metrics in judge_policies(config, scores).items():
            judged[annotator].append(metrics)
    result = {
        "preset": config.preset,
        "seeds": list(config.seeds),
        "method": config.method,
        "annotators": list(config.annotators),
        "judged_by": {
            annotator: {
                "seeds": each,
                "over_seeds": {name: summarize_seeds([one[name] for one in each])._asdict() for name in each[0]},
            }
            for annotator, each in judged.items()
        },
        "figure": str(config.folder / "annotators.html"),
        "machine": describe_machine(),
    }
    write_json(config.folder / "annotators.json", result)
    write_text(config.folder / "annotators.html", figure_page(win_figure(result), "Two annotators"))
    return result


def measure_run(run: Run, config: AnnotatorsStudy) -> dict[str, dict[str, OracleScores]]:
    """{"sft", "policy"}: {ANNOTATOR: what the oracle says under its profile} of a model's answers to held-out
    prompts.
    """
    inputs = prepare_inputs(run)
    return {
        name: greedy_oracle_scores(config.name, inputs, config.prompts, run, stage, config.annotators)
        for name, stage in (("sft", "sft"), ("policy", method_stage_name(config.method)))
    }


def judge_policies(
    config: AnnotatorsStudy, scores: dict[str, dict[str, dict[str, OracleScores]]]
) -> dict[str, dict[str, float]]:
    """{ANNOTATOR: metrics} of one seed, from what `measure_run` found of each annotator's run."""
    found = {}
    first, second = config.annotators
    for own, other in ((first, second), (second, first)):
        policy, others, before = (
            judged[own] for judged in (scores[own]["policy"], scores[other]["policy"], scores[own]["sft"])
        )
        beside = paired_oracle_metrics(policy, others)
        found[own] = {
            "win_rate": beside["win_rate"],
            "win_low": beside["win_low"],
            "win_high": beside["win_high"],
            "gold_gain": float((policy.gold - before.gold).mean()),
            "other_gain": float((others.gold - before.gold).mean()),
        }
    return found


def text_report(result: dict[str, Any]) -> str:
    """A table, a row an annotator."""
    heads = ["judged by", "own policy's win rate", "95 % interval", "own policy's gain in gold", "the other's"]
    rows = [heads]
    for annotator, judged in result["judged_by"].items():
        mean = {name: summary["mean"] for name, summary in judged["over_seeds"].items()}
        low, high = win_interval(judged)
        gains = [f"{mean['gold_gain']:+.3f}", f"{mean['other_gain']:+.3f}"]
        rows.append([annotator, f"{mean['win_rate']:.3f}", f"{low:.3f} to {high:.3f}", *gains])
    seeds = ", ".join(map(str, result["seeds"]))
    reading = (
        f"Policies trained by {result['method']}, one from the choices of each annotator; seeds {seeds}. Win rate of "
        "an annotator's own policy over the other's, a tie half a win; gain over the fine-tuned model."
    )
    return "\n".join([align_columns(rows), "", reading, "", f"Figure: {result['figure']}"])


def win_interval(judged: dict[str, Any]) -> tuple[float, float]:
    """Of the win rate, 95 %: over seeds; of one seed over its prompts."""
    over, (first, *_) = judged["over_seeds"]["win_rate"], judged["seeds"]
    return (over["low"], over["high"]) if over["low"] is not None else (first["win_low"], first["win_high"])


def win_figure(result: dict[str, Any]) -> Any:
    """How far above a half an annotator's own policy wins: mean, interval, each seed."""
    rows = {}
    for annotator, judged in result["judged_by"].items():
        low, high = win_interval(judged)
        singles = [one["win_rate"] - 0.5 for one in judged["seeds"]]
        rows[f"judged by {annotator}"] = (
            judged["over_seeds"]["win_rate"]["mean"] - 0.5,
            low - 0.5,
            high - 0.5,
            singles,
        )
    both = all(win_interval(judged)[0] > 0.5 for judged in result["judged_by"].values())
    title = (
        "Each annotator prefers its own policy" if both else "Not each annotator prefers its own policy beyond chance"
    )
    return interval_chart(rows, x="win rate of the own policy over the other's, less 0.5 (95 % interval)", title=title)
