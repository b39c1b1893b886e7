"""Reward models from pairs, from ranked lists and from ratings, of the same annotated answers, over several seeds.

    labkit study feedback --seeds 0 1 2 --annotation.prompts 600

A seed is one fine-tuned model, which gives several answers to each prompt. An annotator, the same profile with the same
mistakes as often, compares them two by two, or ranks them all, or rates each by itself. From each kind of feedback a
reward model is trained from the fine-tuned model, in as many steps, of as many answers each, so that every answer is
read about once. Effort is counted in answers that the annotator has read: choosing between two takes one choice, and
sorting n answers in some log2 n choices each, so that of the same answers a list says more than pairs do.

A model's accuracy is measured on one set for all: each two answers to held-out prompts that gold does not hold equal.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

from labkit.errors import LabError
from labkit.evaluation.preference_accuracy import gold_ranking_metrics
from labkit.files import write_json, write_text
from labkit.machine import describe_machine
from labkit.reporting.charts import figure_page, interval_chart
from labkit.reporting.terminal import align_columns
from labkit.runs.folder import Run
from labkit.runs.plan import PlannedStage
from labkit.runs.prepare import prepare_inputs
from labkit.runs.recipe import Recipe
from labkit.stages.reward import AllPairs, BradleyTerry, PlackettLuce, Ratings
from labkit.studies.options import FeedbackStudy
from labkit.studies.seeds import SeedComparison, compare_over_seeds, summarize_seeds
from labkit.studies.training import PlannedRun, check_runs, train_stages

SHARED = ("pretrain", "sft")
"""The stages that all reward models of a seed begin with."""


class Feedback(NamedTuple):
    """A kind of feedback and what is made of it. format: of the annotations; stage: of the reward model in the run of
    that format; answers: that are one row of its batches, of n to a prompt.
    """

    format: str
    stage: str
    loss: Any
    answers: Callable[[int], int]


FEEDBACK = {
    "pairs": Feedback("pairs", "reward", BradleyTerry(), lambda n: 2),
    "lists, all pairs": Feedback("rankings", "reward", AllPairs(), lambda n: n),
    "lists, Plackett-Luce": Feedback("rankings", "reward-plackettluce", PlackettLuce(), lambda n: n),
    "ratings": Feedback("ratings", "reward", Ratings(), lambda n: 1),
}


def study_recipe(config: FeedbackStudy, preset: Recipe) -> Recipe:
    """The preset's recipe up to the reward model, which is measured on answers to as many prompts as the study asks."""
    annotation = dataclasses.replace(preset.annotation, held_out=config.prompts)
    plan = tuple(one for one in preset.plan if one.name in (*SHARED, "reward"))
    return dataclasses.replace(preset, annotation=annotation, plan=plan)


def own_settings(config: FeedbackStudy) -> dict[str, str]:
    """The fields of the recipe that the study sets itself, and what to set instead."""
    steps = "every answer is read about once; set --annotation.prompts or --reward.train.batch-size"
    return {
        "annotation.format": "all formats are compared",
        "annotation.judge": "one annotator gives all kinds of feedback",
        "annotation.held_out": "use --prompts",
        "reward.loss": "each kind of feedback has its own loss",
        "reward.train.steps": steps,
        "reward.train.warmup_steps": "at most a tenth of the steps, which follow from --annotation.prompts",
    }


def recipe_of_format(recipe: Recipe, annotation_format: str) -> Recipe:
    """The study's recipe for one kind of annotation, with a reward model for each kind of feedback that it gives.

    A step reads as many answers as reward.train.batch_size pairs have, and there are as many steps as the answers fill.
    """
    changed: Any = {"format": annotation_format}
    annotation = dataclasses.replace(recipe.annotation, **changed)
    template: Any = recipe.stages["reward"]
    answers = 2 * template.train.batch_size
    steps = max(1, math.ceil(annotation.prompts * annotation.num_generations / answers))
    stages = []
    for kind in FEEDBACK.values():
        if kind.format == annotation_format:
            rows = max(1, answers // kind.answers(annotation.num_generations))
            warmup = min(template.train.warmup_steps, steps // 10)
            train = dataclasses.replace(template.train, batch_size=rows, steps=steps, warmup_steps=warmup)
            stages.append(PlannedStage(kind.stage, dataclasses.replace(template, train=train, loss=kind.loss)))
    plan = tuple(one for one in recipe.plan if one.name in SHARED)
    return dataclasses.replace(recipe, annotation=annotation, plan=(*plan, *stages))


def run(config: FeedbackStudy, recipe: Recipe, progress: Callable[[str], object] = lambda line: None) -> dict[str, Any]:
    """Make what is not there yet of each seed's runs; all numbers, as what JSON can write. recipe: see `study_recipe`.

    {"preset", "seeds", "annotated_prompts", "answers": to each, "feedback": {KIND: {"gold_accuracy": [of each seed],
    "examples": [pairs, lists or rated answers of each seed], "over_seeds": SeedSummary}}, "comparisons":
    [SeedComparison], "figure", "machine"}. Raises LabError as the runs do.
    """
    check_runs(config.seeds, recipe, lambda of_seed: seed_runs(config, of_seed))
    found: dict[str, dict[str, list[float]]] = {kind: {"gold_accuracy": [], "examples": []} for kind in FEEDBACK}
    for seed in config.seeds:
        for kind, numbers in _seed_numbers(config, dataclasses.replace(recipe, seed=seed), progress).items():
            for name, number in numbers.items():
                found[kind][name].append(number)
    accuracy = {kind: numbers["gold_accuracy"] for kind, numbers in found.items()}
    result: dict[str, Any] = {
        "preset": config.preset,
        "seeds": list(config.seeds),
        "annotated_prompts": recipe.annotation.prompts,
        "answers": recipe.annotation.num_generations,
        "feedback": {
            kind: numbers | {"over_seeds": summarize_seeds(numbers["gold_accuracy"])._asdict()}
            for kind, numbers in found.items()
        },
        "comparisons": [one._asdict() | {"words": str(one)} for one in _beside_pairs(accuracy)],
        "figure": str(config.folder / "feedback.html"),
        "machine": describe_machine(),
    }
    write_json(config.folder / "feedback.json", result)
    write_text(config.folder / "feedback.html", figure_page(accuracy_figure(result), "Kinds of feedback"))
    return result


def seed_runs(config: FeedbackStudy, recipe: Recipe) -> dict[str, PlannedRun]:
    """The run of each format of annotations, of the recipe's seed."""
    return {
        one: PlannedRun(config.folder / f"seed-{recipe.seed}-{one}", recipe_of_format(recipe, one))
        for one in dict.fromkeys(kind.format for kind in FEEDBACK.values())
    }


def _seed_numbers(
    config: FeedbackStudy, recipe: Recipe, progress: Callable[[str], object]
) -> dict[str, dict[str, float]]:
    """{KIND: {"gold_accuracy", "examples"}} of one seed, of which every format is a run of its own."""
    runs, base = dict[str, Run](), None
    for annotation_format, (folder, own) in seed_runs(config, recipe).items():
        progress(f"{folder} ...")
        runs[annotation_format] = train_stages(own, folder, list(own.stages), base, SHARED)
        base = base or runs[annotation_format]
    test_inputs = prepare_inputs(runs["rankings"])
    numbers = {}
    for name, kind in FEEDBACK.items():
        opened, stage = runs[kind.format], runs[kind.format].recipe.stages[kind.stage]
        length, precision = stage.train.max_length, stage.train.precision
        pairs = test_inputs.held_out_annotated_pairs(length)
        model = opened.stage(kind.stage).reward_model()
        measured = gold_ranking_metrics(model, test_inputs.tokenizer, pairs, length, precision)
        if "gold_accuracy" not in measured:
            raise LabError(
                f"Gold holds all answers to {config.prompts} held-out prompts equal, so no order can be right. Raise "
                f"--prompts, or fine-tune for longer."
            )
        split = prepare_inputs(opened).preference_split
        examples = len(split.rankings or split.answers.train or split.train)
        numbers[name] = {"gold_accuracy": measured["gold_accuracy"], "examples": float(examples)}
    return numbers


def _beside_pairs(accuracy: dict[str, list[float]]) -> list[SeedComparison]:
    """Each other kind of feedback beside pairs."""
    pairs = accuracy["pairs"]
    return [compare_over_seeds(kind, own, "pairs", pairs) for kind, own in accuracy.items() if kind != "pairs"]


def text_report(result: dict[str, Any]) -> str:
    """A table, a row a kind of feedback, and what may be said of each beside pairs."""
    rows = [["", "gold accuracy", "95 % interval", "examples"]]
    for kind, numbers in result["feedback"].items():
        over = numbers["over_seeds"]
        spread = "" if over["spread"] is None else f" ± {over['spread']:.3f}"
        interval = "" if over["low"] is None else f"{over['low']:.3f} to {over['high']:.3f}"
        examples = " and ".join(dict.fromkeys(f"{count:,.0f}" for count in numbers["examples"]))
        rows.append([kind, f"{over['mean']:.3f}{spread}", interval, examples])
    read = f"{result['answers']} answers to each of {result['annotated_prompts']} prompts, read by one annotator"
    seeds = ", ".join(map(str, result["seeds"]))
    said = [one["words"] for one in result["comparisons"]]
    return "\n".join(
        [align_columns(rows), "", f"{read}; seeds {seeds}.", "", "Gold accuracy, less that of pairs:", *said]
        + ["", f"Figure: {result['figure']}"]
    )


def accuracy_figure(result: dict[str, Any]) -> Any:
    """Gold accuracy of each kind of feedback, less that of pairs: mean, interval, each seed."""
    rows, pairs = {}, result["feedback"]["pairs"]["gold_accuracy"]
    for one in reversed(result["comparisons"]):
        low, high = (one["difference"],) * 2 if one["low"] is None else (one["low"], one["high"])
        own = result["feedback"][one["first"]]["gold_accuracy"]
        singles = [ours - theirs for ours, theirs in zip(own, pairs, strict=True)]
        rows[one["first"]] = (one["difference"], low, high, singles)
    sure = [one["first"] for one in result["comparisons"] if one["better"] == one["first"]]
    title = f"Better than pairs: {', '.join(sure)}" if sure else "None is better than pairs beyond the spread of seeds"
    return interval_chart(rows, x="gold accuracy less that of pairs (95 % interval over seeds)", title=title)
