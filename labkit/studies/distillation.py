"""What a small model gains from a larger one: fine-tuning alone, and distillation on- and off-policy.

    labkit study distillation --preset smoke --teacher 96x3 --student 32x2 --teachers sft ppo

A seed is two runs with one tokenizer. The larger model is pretrained, fine-tuned, and aligned by the methods named; the
small one is pretrained and fine-tuned. From the small fine-tuned model begin, all with the same steps and batches:

    more          fine-tuning again, on the same conversations: the control
    off-policy    the teacher's distributions on the conversations' answers, forward KL
    on-policy     on answers that the student draws itself, reverse KL
    seqkd         the teacher's greedy answers, by next-token prediction (sequence-level KD)

the last three once for each teacher. All models answer the same held-out prompts, greedily; the oracle scores them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from labkit.evaluation.policies import OracleScores
from labkit.files import write_json, write_text
from labkit.machine import describe_machine
from labkit.reporting.charts import figure_page, interval_chart
from labkit.reporting.terminal import align_columns
from labkit.runs.folder import Run
from labkit.runs.plan import PlannedStage, parse_plan
from labkit.runs.prepare import prepare_inputs
from labkit.runs.presets import plan_templates
from labkit.runs.recipe import Recipe
from labkit.studies.measuring import greedy_oracle_scores
from labkit.studies.methods import method_stage_name, recipe_of_methods, refuse_relabelled
from labkit.studies.options import DistillationStudy
from labkit.studies.seeds import SeedComparison, compare_over_seeds, summarize_seeds
from labkit.studies.sizes import recipe_of_size
from labkit.studies.training import PlannedRun, check_runs, train_stages

STUDENT = ("pretrain", "sft")
"""What the small model is before it is taught."""
MORE = "sft-more"
"""The control's stage."""
WAYS: dict[str, dict[str, Any]] = {
    "off-policy": {"lmbda": 0.0, "beta": 0.0},
    "on-policy": {"lmbda": 1.0, "beta": 1.0},
    "seqkd": {"lmbda": 0.0, "seq_kd": True, "loss_type": "nll"},
}
"""How a student is taught, as settings of the stage `distill`."""


def study_recipe(config: DistillationStudy, preset: Recipe) -> Recipe:
    """The preset's recipe with the stages of both models: the teachers' methods, and a stage `distill` whose settings
    all ways of teaching share. Raises LabError for what is no method.
    """
    methods = [name for name in config.teachers if name != "sft"]
    for method in methods:
        refuse_relabelled(method)
    evaluation = dataclasses.replace(preset.evaluation, policy_prompts=config.prompts)
    preset = dataclasses.replace(preset, evaluation=evaluation)
    distill: Any = next(one.stage for one in plan_templates(preset) if one.stage.kind == "distill")
    taught = dataclasses.replace(distill, teacher=config.teachers[0])
    aligned = recipe_of_methods(preset, methods)
    plan = aligned.plan if methods else parse_plan(",".join(STUDENT), plan_templates(preset))
    after = "pretrain" if config.teachers[0] == "sft" else "sft"
    return dataclasses.replace(aligned, plan=(*plan, PlannedStage("distill", taught, after)))


def own_settings(config: DistillationStudy) -> dict[str, str]:
    """The fields of the recipe that the study sets itself, and what to set instead."""
    size, follows = "use --teacher and --student, as --teacher 96x3 --student 32x2", "it follows from a model's width"
    shape = {"model.width": size, "model.depth": size, "model.heads": follows, "model.feed_forward": follows}
    way = "the ways of teaching are compared"
    taught = {f"distill.{name}": way for settings in WAYS.values() for name in settings}
    return {
        **shape,
        **taught,
        "distill.teacher": "use --teachers, as --teachers sft ppo",
        "evaluation.policy_prompts": "use --prompts",
    }


def teacher_recipe(config: DistillationStudy, recipe: Recipe) -> Recipe:
    """The larger model's part of the study's recipe."""
    plan = tuple(one for one in recipe.plan if one.name != "distill")
    return recipe_of_size(dataclasses.replace(recipe, plan=plan), *config.shapes[0])


def student_recipe(config: DistillationStudy, recipe: Recipe, teacher: Path) -> Recipe:
    """The small model's part: fine-tuning again, and each way of being taught by each stage of the run `teacher`."""
    settings: Any = recipe.stages["distill"]
    base = tuple(one for one in recipe.plan if one.name in STUDENT)
    sft: Any = recipe.stages["sft"]
    more = dataclasses.replace(sft, train=dataclasses.replace(settings.train, compile=sft.train.compile))
    taught = [
        PlannedStage(
            distill_stage(way, name),
            dataclasses.replace(settings, teacher=f"{teacher}/{teacher_stage(name)}", **WAYS[way]),
            "sft",
        )
        for name in config.teachers
        for way in WAYS
    ]
    small = recipe_of_size(recipe, *config.shapes[1])
    return dataclasses.replace(small, plan=(*base, PlannedStage(MORE, more, "sft"), *taught))


def teacher_stage(name: str) -> str:
    """The stage of the larger model: sft, or a method's."""
    return name if name == "sft" else method_stage_name(name)


def distill_stage(way: str, teacher: str) -> str:
    """The name of a student's stage."""
    return f"distill-{way}-{teacher}"


def run(
    config: DistillationStudy, recipe: Recipe, progress: Callable[[str], object] = lambda line: None
) -> dict[str, Any]:
    """Make what is not there yet of each seed's two runs; all numbers, as what JSON can write. recipe: see
    `study_recipe`.

    {"preset", "seeds", "teacher", "student", "models": {NAME: {"seeds": [{"gold", "right"} of each], "over_seeds":
    {NAME: SeedSummary}}}, "comparisons": [SeedComparison of right answers, and of gold, with the control], "figure",
    "machine"}. Raises LabError as the runs do.
    """
    check_runs(config.seeds, recipe, lambda of_seed: seed_runs(config, of_seed))
    found: dict[str, list[dict[str, float]]] = {}
    for seed in config.seeds:
        for name, scores in _seed_scores(config, dataclasses.replace(recipe, seed=seed), progress).items():
            means = {"gold": float(scores.gold.mean()), "right": float(scores.right.mean())}
            found.setdefault(name, []).append(means)
    compared = [_beside_control(found, name, measure) for measure in ("right", "gold") for name in _taught(config)]
    result = {
        "preset": config.preset,
        "seeds": list(config.seeds),
        "teacher": config.teacher,
        "student": config.student,
        "models": {
            name: {
                "seeds": each,
                "over_seeds": {key: summarize_seeds([one[key] for one in each])._asdict() for key in each[0]},
            }
            for name, each in found.items()
        },
        "comparisons": compared,
        "figure": str(config.folder / "distillation.html"),
        "machine": describe_machine(),
    }
    write_json(config.folder / "distillation.json", result)
    write_text(config.folder / "distillation.html", figure_page(gold_figure(result), "Distillation"))
    return result


def _taught(config: DistillationStudy) -> list[str]:
    """The students, as they are called in the table."""
    return [f"{way}, {name}" for name in config.teachers for way in WAYS]


def _beside_control(found: dict[str, list[dict[str, float]]], name: str, measure: str) -> dict[str, Any]:
    mine, control = ([one[measure] for one in found[model]] for model in (name, "more"))
    compared: SeedComparison = compare_over_seeds(name, mine, "more", control)
    return compared._asdict() | {"measure": measure, "words": str(compared)}


def seed_runs(config: DistillationStudy, recipe: Recipe) -> dict[str, PlannedRun]:
    """The two runs of the recipe's seed, the teacher's first."""
    folder = config.folder / f"seed-{recipe.seed}"
    teacher, student = Path(f"{folder}-teacher"), Path(f"{folder}-student")
    return {
        "teacher": PlannedRun(teacher, teacher_recipe(config, recipe)),
        "student": PlannedRun(student, student_recipe(config, recipe, teacher)),
    }


def _seed_scores(
    config: DistillationStudy, recipe: Recipe, progress: Callable[[str], object]
) -> dict[str, OracleScores]:
    """{MODEL: the oracle's scores of its answers} of one seed: teachers, the fine-tuned student, and what it became."""
    made = dict[str, Run]()
    for name, (folder, own) in seed_runs(config, recipe).items():
        progress(f"{folder} ...")
        made[name] = train_stages(own, folder, list(own.stages))
    teacher, student = made["teacher"], made["student"]
    models = {f"teacher, {name}": (teacher, teacher_stage(name)) for name in config.teachers}
    models |= {"student, sft": (student, "sft"), "more": (student, MORE)}
    stages = [distill_stage(way, name) for name in config.teachers for way in WAYS]
    models |= {name: (student, stage) for name, stage in zip(_taught(config), stages, strict=True)}
    inputs, annotator = prepare_inputs(student), recipe.annotation.annotator
    return {
        name: greedy_oracle_scores(config.name, inputs, config.prompts, *model, [annotator])[annotator]
        for name, model in models.items()
    }


def text_report(result: dict[str, Any]) -> str:
    """A table, a row a model; then each student beside the control."""
    rows = [["", "gold", "95 % interval", "right", "95 % interval"]]
    for name, model in result["models"].items():
        gold, right = (model["over_seeds"][key] for key in ("gold", "right"))
        cells = [name, f"{gold['mean']:.3f}", "" if gold["low"] is None else f"{gold['low']:.3f} to {gold['high']:.3f}"]
        interval = "" if right["low"] is None else f"{100 * right['low']:.1f} to {100 * right['high']:.1f} %"
        rows.append([*cells, f"{100 * right['mean']:.1f} %", interval])
    seeds = ", ".join(map(str, result["seeds"]))
    reading = (
        f"Teacher {result['teacher']}, student {result['student']}, greedy answers to held-out prompts; means over "
        f"seeds {seeds}. More: fine-tuning again for as many steps."
    )
    lines = [align_columns(rows), "", reading]
    for measure, heading in (("right", "Share of right answers"), ("gold", "Gold score")):
        said = [one["words"] for one in result["comparisons"] if one["measure"] == measure]
        lines += ["", f"{heading}, beside the control:", *said]
    return "\n".join([*lines, "", f"Figure: {result['figure']}"])


def gold_figure(result: dict[str, Any]) -> Any:
    """Gold score of each model: mean, interval, each seed."""
    rows = {}
    for name, model in reversed(result["models"].items()):
        gold = model["over_seeds"]["gold"]
        low, high = (gold["mean"],) * 2 if gold["low"] is None else (gold["low"], gold["high"])
        rows[name] = (gold["mean"], low, high, [one["gold"] for one in model["seeds"]])
    of_gold = [one for one in result["comparisons"] if one["measure"] == "gold"]
    better = [one["first"] for one in of_gold if one["better"] == one["first"]]
    title = (
        f"Better than more fine-tuning: {'; '.join(better)}"
        if better
        else "No student is better than more fine-tuning beyond the spread of seeds"
    )
    return interval_chart(rows, x="gold score of held-out answers (95 % interval over seeds)", title=title)
