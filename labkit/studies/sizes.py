"""What alignment gains at several model sizes, and whether a small aligned model beats a larger one that is not.

    labkit study sizes --preset smoke --sizes 32x2 64x2 96x3 --method ppo

A seed and a size is a run of its own: pretraining, fine-tuning, reward model and the method, all with the preset's
numbers of steps and batches, so that a larger model has had more compute. All models of a seed share the tokenizer and
answer the same held-out prompts, greedily; the oracle scores them. Labelers preferred the 1.3B InstructGPT over the
175B GPT-3 (Ouyang et al. 2022, https://arxiv.org/abs/2203.02155); here the larger model is fine-tuned, too, and lacks
the reward alone.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

from labkit.errors import LabError
from labkit.evaluation.policies import OracleScores, paired_oracle_metrics
from labkit.files import write_json, write_text
from labkit.machine import describe_machine
from labkit.model.feedforward import Gated
from labkit.reporting.charts import figure_page, line_chart
from labkit.reporting.terminal import align_columns
from labkit.runs.folder import Run
from labkit.runs.prepare import prepare_inputs
from labkit.runs.recipe import Recipe
from labkit.studies.measuring import greedy_oracle_scores
from labkit.studies.methods import BASE, method_stage_name, recipe_of_methods, refuse_relabelled
from labkit.studies.options import SizesStudy
from labkit.studies.seeds import summarize_seeds
from labkit.studies.training import PlannedRun, check_runs, train_stages

HEAD_WIDTH = 64
"""Of an attention head, where a model is as wide; wider where the width is no multiple of it."""


def study_recipe(config: SizesStudy, preset: Recipe) -> Recipe:
    """The preset's recipe with the study's method; its model is replaced by each size's."""
    refuse_relabelled(config.method)
    evaluation = dataclasses.replace(preset.evaluation, policy_prompts=config.prompts)
    return recipe_of_methods(dataclasses.replace(preset, evaluation=evaluation), [config.method])


def own_settings(config: SizesStudy) -> dict[str, str]:
    """The fields of the recipe that the study sets itself, and what to set instead."""
    size = f"use --sizes, as --sizes {' '.join(config.sizes)}"
    follows = "it follows from a model's width"
    shape = {"model.width": size, "model.depth": size, "model.heads": follows, "model.feed_forward": follows}
    return {**shape, "evaluation.policy_prompts": "use --prompts"}


def recipe_of_size(recipe: Recipe, width: int, depth: int) -> Recipe:
    """The recipe with a model of this width and depth. The feed-forwards have 8/3 of the width, in steps of 16."""
    inside = max(16, 16 * round(8 * width / 3 / 16))
    most = max(1, width // HEAD_WIDTH)
    heads = next((heads for heads in range(most, 1, -1) if width % (2 * heads) == 0), 1)  # rotary heads are even
    model = dataclasses.replace(recipe.model, width=width, depth=depth, heads=heads, feed_forward=Gated(inside))
    return dataclasses.replace(recipe, model=model)


def seed_runs(config: SizesStudy, recipe: Recipe) -> dict[str, PlannedRun]:
    """The run of each size, of the recipe's seed. Raises LabError, which names it, for a size that no model has."""
    runs = {}
    for size, shape in config.shapes.items():
        try:
            runs[size] = PlannedRun(config.folder / f"seed-{recipe.seed}-{size}", recipe_of_size(recipe, *shape))
        except LabError as error:
            raise LabError(f"The size {size} is not possible. {error}") from error
    return runs


def run(config: SizesStudy, recipe: Recipe, progress: Callable[[str], object] = lambda line: None) -> dict[str, Any]:
    """Make what is not there yet of each seed's runs; all numbers, as what JSON can write. recipe: see `study_recipe`.

    {"preset", "seeds", "method", "sizes": {SIZE: {"parameters", "seeds": [metrics of each], "over_seeds": {NAME:
    SeedSummary}}}, "beside_larger": [{"small", "large", "win_rates": [of each seed], "over_seeds": SeedSummary}],
    "figure", "machine"}. A win rate there is of the small aligned model over the large fine-tuned one. Raises LabError
    as the runs do.
    """
    check_runs(config.seeds, recipe, lambda of_seed: seed_runs(config, of_seed))
    sizes: dict[str, dict[str, Any]] = {size: {"parameters": 0, "seeds": []} for size in config.shapes}
    wins: dict[tuple[str, str], list[float]] = {pair: [] for pair in itertools.combinations(sizes, 2)}
    for seed in config.seeds:
        scores = {}
        for size, (folder, of_size) in seed_runs(config, dataclasses.replace(recipe, seed=seed)).items():
            progress(f"{folder} ...")
            opened = train_stages(of_size, folder, [*BASE, method_stage_name(config.method)])
            scores[size] = {
                stage: _scores(opened, stage, config) for stage in ("sft", method_stage_name(config.method))
            }
            before, after = scores[size].values()
            sizes[size]["parameters"] = opened.model("sft").parameter_count
            sizes[size]["seeds"].append(paired_oracle_metrics(after, before))
        for small, large in wins:
            aligned, fine_tuned = scores[small][method_stage_name(config.method)], scores[large]["sft"]
            wins[small, large].append(paired_oracle_metrics(aligned, fine_tuned)["win_rate"])
    for found in sizes.values():
        each = found["seeds"]
        found["over_seeds"] = {name: summarize_seeds([one[name] for one in each])._asdict() for name in each[0]}
    result = {
        "preset": config.preset,
        "seeds": list(config.seeds),
        "method": config.method,
        "sizes": sizes,
        "beside_larger": [
            {"small": small, "large": large, "win_rates": rates, "over_seeds": summarize_seeds(rates)._asdict()}
            for (small, large), rates in wins.items()
        ],
        "figure": str(config.folder / "sizes.html"),
        "machine": describe_machine(),
    }
    write_json(config.folder / "sizes.json", result)
    write_text(config.folder / "sizes.html", figure_page(gold_figure(result), "Sizes"))
    return result


def _scores(run: Run, stage: str, config: SizesStudy) -> OracleScores:
    """What the oracle says of the greedy answers of a stage's model to the held-out prompts."""
    inputs, annotator = prepare_inputs(run), run.recipe.annotation.annotator
    return greedy_oracle_scores(config.name, inputs, config.prompts, run, stage, [annotator])[annotator]


def text_report(result: dict[str, Any]) -> str:
    """A table, a row a size; then small aligned models beside larger ones."""
    rows = [
        ["", "parameters", "gold before", "gold after", "gain", "95 % interval", "right before", "right", "win rate"]
    ]
    for size, found in result["sizes"].items():
        over = found["over_seeds"]
        mean = {name: summary["mean"] for name, summary in over.items()}
        gain = over["gold_gain"]
        interval = "" if gain["low"] is None else f"{gain['low']:+.3f} to {gain['high']:+.3f}"
        rows.append(
            [
                size,
                f"{found['parameters']:,}",
                f"{mean['gold_before']:.3f}",
                f"{mean['gold']:.3f}",
                f"{mean['gold_gain']:+.3f}",
                interval,
                f"{100 * mean['right_before']:.1f} %",
                f"{100 * mean['right']:.1f} %",
                f"{mean['win_rate']:.3f}",
            ]
        )
    said = [_beside_larger(one) for one in result["beside_larger"]]
    seeds = ", ".join(map(str, result["seeds"]))
    head = f"Before and after {result['method']}; means over seeds {seeds}."
    lines = [align_columns(rows), "", head, "", f"Win rate after {result['method']} over a larger model before it:"]
    return "\n".join([*lines, *said, "", f"Figure: {result['figure']}"])


def _beside_larger(one: dict[str, Any]) -> str:
    over = one["over_seeds"]
    interval = "" if over["low"] is None else f" ({over['low']:.3f} to {over['high']:.3f})"
    return f"{one['small']} over {one['large']}: {over['mean']:.3f}{interval}"


def gold_figure(result: dict[str, Any]) -> Any:
    """Gold before and after against the number of parameters."""
    sizes = result["sizes"].values()
    parameters = [found["parameters"] for found in sizes]

    def means(name: str) -> list[float]:
        return [found["over_seeds"][name]["mean"] for found in sizes]

    lines = {"fine-tuned": (parameters, means("gold_before")), f"after {result['method']}": (parameters, means("gold"))}
    first = result["beside_larger"][0]
    above = first["over_seeds"]["low"] is not None and first["over_seeds"]["low"] > 0.5
    title = (
        f"{first['small']} after {result['method']} wins over {first['large']} before it"
        if above
        else f"{first['small']} after {result['method']} does not win over {first['large']} beyond the spread of seeds"
    )
    return line_chart(lines, x="parameters", y="gold score of held-out answers (0 to 1)", title=title, log_x=True)
