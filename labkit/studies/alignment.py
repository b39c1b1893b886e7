"""Every way to learn from preferences, from the same fine-tuned model, over several seeds.

    labkit study alignment --seeds 0 1 2 --methods ppo grpo dpo

A seed is a run of its own: tokenizer, pretraining, fine-tuning and reward model once, then each method from the same
fine-tuned model. Methods with labels of their own, as dpo-rlaif and dpo-bestworst, have a second run, seed-N-rlaif or
seed-N-bestworst, that begins with copies of the first two stages. Each policy and that model answer the same held-out
prompts, and the oracle scores both answers to a prompt: gain in gold, win rate, right answers. They answer greedily,
and by sampling at temperature 1, as the policies were trained: what a method does to a distribution need not have
reached its mode. The prompts are the run's own, so the spread of seeds holds that of prompts, too. A method is called
better than another only outside the spread of seeds: see `labkit.studies.seeds`.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from labkit.errors import count_with_noun
from labkit.evaluation.policies import OracleScores, greedy_answer_ids, oracle_scores, paired_oracle_metrics
from labkit.files import write_json, write_text
from labkit.machine import describe_machine
from labkit.model.transformer import Transformer
from labkit.reporting.charts import figure_page, interval_chart
from labkit.reporting.terminal import align_columns
from labkit.runs.folder import Run
from labkit.runs.prepare import prepare_inputs
from labkit.runs.recipe import Recipe
from labkit.runs.stage_folder import StageFolder
from labkit.stages import StageInputs
from labkit.studies.measuring import MAX_NEW_TOKENS, Arrays, Asked, ask, kept_arrays, kl_of_answers, sampled_answers
from labkit.studies.methods import BASE, OWN_LABELS, method_names, method_stage_name, own_labels, recipe_of_methods
from labkit.studies.options import AlignmentStudy
from labkit.studies.seeds import FORMULA, SeedComparison, compare_over_seeds, summarize_seeds
from labkit.studies.training import PlannedRun, check_runs, train_stages
from labkit.text.chat import without_end_token
from labkit.text.tokenizer import Tokenizer

SHARED = ("pretrain", "sft")
"""The stages that a run with another judge begins with copies of."""
SAMPLES = 4
"""Answers to a prompt that each model draws."""
ANNOTATOR = "annotator"
"""The run of a seed whose methods all learn from the annotator's labels."""
LARGEST_FALL = 0.02
"""Of right answers, in any seed, that is not said."""


def study_recipe(config: AlignmentStudy, preset: Recipe) -> Recipe:
    """The preset's recipe with the study's methods and prompts. Raises LabError for what is no method, and where one is
    named twice.
    """
    evaluation = dataclasses.replace(preset.evaluation, policy_prompts=max(2, config.prompts))
    return recipe_of_methods(dataclasses.replace(preset, evaluation=evaluation), chosen_methods(config))


def own_settings(config: AlignmentStudy) -> dict[str, str]:
    """The fields of the recipe that the study sets itself, and what to set instead."""
    own = {"evaluation.policy_prompts": "use --prompts"}
    for method in chosen_methods(config):
        if suffix := own_labels(method):
            for field in OWN_LABELS[suffix].annotation:
                own[f"annotation.{field}"] = f"{method} has labels of its own. Leave it out, as --methods ppo dpo"
    return own


def chosen_methods(config: AlignmentStudy) -> tuple[str, ...]:
    """The methods that are trained."""
    return config.methods or tuple(method_names())


def run(
    config: AlignmentStudy, recipe: Recipe, progress: Callable[[str], object] = lambda line: None
) -> dict[str, Any]:
    """Make what is not there yet of each seed's run; all numbers, as what JSON can write. recipe: see `study_recipe`.

    {"preset", "seeds", "prompts": of each seed, "formula", "methods": {METHOD: {"seeds": [metrics of each],
    "over_seeds": {NAME: SeedSummary}}}, "comparisons": [SeedComparison], "figure", "machine"}. Raises LabError as the
    runs do.
    """
    check_runs(config.seeds, recipe, lambda of_seed: seed_runs(config, of_seed))
    found: dict[str, list[dict[str, float]]] = {method: [] for method in chosen_methods(config)}
    for seed in config.seeds:
        runs = train_seed(config, dataclasses.replace(recipe, seed=seed), progress)
        progress(f"seed {seed}: answers to {count_with_noun(config.prompts, 'held-out prompt')} ...")
        for method, metrics in measure_seed(runs, config).items():
            found[method].append(metrics)
    result = {
        "preset": config.preset,
        "seeds": list(config.seeds),
        "prompts": [int(metrics["prompts"]) for metrics in found[chosen_methods(config)[0]]],
        "formula": FORMULA,
        "methods": {method: {"seeds": each, "over_seeds": over_seeds(each)} for method, each in found.items()},
        "comparisons": [one._asdict() | {"words": str(one)} for one in compare_methods(found)],
        "figure": str(config.folder / "alignment.html"),
        "machine": describe_machine(),
    }
    write_json(config.folder / "alignment.json", result)
    write_text(config.folder / "alignment.html", figure_page(gain_figure(result), "Methods of alignment"))
    return result


def train_seed(config: AlignmentStudy, recipe: Recipe, progress: Callable[[str], object]) -> dict[str, Run]:
    """The finished run of each method, all from copies of one fine-tuned model."""
    runs = dict[str, Run]()
    for labels, (folder, own_recipe) in seed_runs(config, recipe).items():
        progress(f"{folder} ...")
        runs[labels] = train_stages(own_recipe, folder, list(own_recipe.stages), runs.get(ANNOTATOR), SHARED)
    return {method: runs[own_labels(method) or ANNOTATOR] for method in chosen_methods(config)}


def seed_runs(config: AlignmentStudy, recipe: Recipe) -> dict[str, PlannedRun]:
    """The runs of the recipe's seed: of all methods that learn from the annotator's labels, under `ANNOTATOR`, and of
    those with other labels under their suffix.
    """
    folder, methods = config.folder / f"seed-{recipe.seed}", dict[str, list[str]]()
    for method in chosen_methods(config):
        methods.setdefault(own_labels(method) or ANNOTATOR, []).append(method)
    runs = {ANNOTATOR: PlannedRun(folder, recipe_of(recipe, methods.pop(ANNOTATOR, [])))}
    for suffix, own in methods.items():
        annotation = dataclasses.replace(recipe.annotation, **OWN_LABELS[suffix].annotation)
        relabelled = dataclasses.replace(recipe_of(recipe, own), annotation=annotation)
        runs[suffix] = PlannedRun(Path(f"{folder}-{suffix}"), relabelled)
    return runs


def recipe_of(recipe: Recipe, methods: Sequence[str]) -> Recipe:
    """The recipe with the stages that these methods share, and theirs, alone."""
    kept = {*BASE, *map(method_stage_name, methods)}
    return dataclasses.replace(recipe, plan=tuple(one for one in recipe.plan if one.name in kept))


def measure_seed(runs: Mapping[str, Run], config: AlignmentStudy) -> dict[str, dict[str, float]]:
    """{METHOD: metrics} of one seed's finished runs, by their methods."""
    run = next(iter(runs.values()))
    inputs = prepare_inputs(run)
    asked = ask(inputs, config.prompts, MAX_NEW_TOKENS, SAMPLES)
    reference = run.model("sft")
    key = {
        "prompts": config.prompts,
        "max_new_tokens": MAX_NEW_TOKENS,
        "samples": SAMPLES,
        "annotator": inputs.annotator,
        "sft": run.stage("sft").weights_hash,
    }
    before = kept_arrays(
        run.path / "study-alignment" / "sft.safetensors", key, lambda: measure_policy(reference, None, inputs, asked)
    )
    found = {}
    for method, trained in runs.items():
        stage = trained.stage(method_stage_name(method))

        def measured(stage: StageFolder = stage) -> Arrays:
            return measure_policy(stage.model(), reference, inputs, asked)

        key_of_stage = key | {"policy": stage.weights_hash}
        kept = trained.path / "study-alignment" / f"{stage.name}.safetensors"
        after = kept_arrays(kept, key_of_stage, measured)
        assert stage.result is not None
        found[method] = paired_metrics(after, before) | {
            "seconds": stage.result["seconds"],
            "training_seconds": stage.result["training_seconds"],
        }
    return found


def measure_policy(policy: Transformer, reference: Transformer | None, inputs: StageInputs, asked: Asked) -> Arrays:
    """Of each of P prompts' greedy answer: gold, right, unsupported, polite, and how many tokens it has, [P] each; of n
    sampled answers sampled_gold and sampled_right, [P, n]; and where there is a reference, the KL from it, [P].
    """
    tokenizer, tasks, prompts = inputs.tokenizer, asked.prompts.tasks, asked.prompts.prompt_ids
    answers = greedy_answer_ids(policy, tokenizer, prompts, asked.max_new_tokens)
    scores = oracle_scores(inputs.world, inputs.annotator, tokenizer, tasks, answers)
    arrays: Arrays = {name: column.astype(float) for name, column in scores._asdict().items()}
    arrays["tokens"] = answer_lengths(tokenizer, answers)
    samples = asked.draws.shape[1]
    drawn, each = sampled_answers(policy, tokenizer, asked), [task for task in tasks for _ in range(samples)]
    sampled = oracle_scores(inputs.world, inputs.annotator, tokenizer, each, drawn)
    for name in ("gold", "right"):
        arrays[f"sampled_{name}"] = getattr(sampled, name).astype(float).reshape(-1, samples)
    if reference is not None:
        repeated = [prompt for prompt in prompts for _ in range(samples)]
        kl = kl_of_answers(policy, reference, tokenizer, repeated, drawn)
        arrays["kl"] = kl.reshape(-1, samples).mean(1)
    return arrays


def answer_lengths(tokenizer: Tokenizer, answers: Sequence[Sequence[int]]) -> Any:
    """[P] tokens of each answer, without its end token."""
    return np.array([len(without_end_token(tokenizer, ids)) for ids in answers], dtype=float)


def paired_metrics(after: Arrays, before: Arrays) -> dict[str, float]:
    """A policy beside the fine-tuned model, from what `measure_policy` found of both."""
    scores = [OracleScores(*(one[name] for name in OracleScores._fields)) for one in (after, before)]
    gain = after["sampled_gold"] - before["sampled_gold"]
    return paired_oracle_metrics(*scores) | {
        "sampled_gold_gain": float(gain.mean()),
        "sampled_win_rate": float(((gain > 0) + 0.5 * (gain == 0)).mean()),
        "sampled_right": float(after["sampled_right"].mean()),
        "sampled_right_before": float(before["sampled_right"].mean()),
        "right_gain": float(after["right"].mean() - before["right"].mean()),
        "kl": float(after["kl"].mean()),
        "tokens": float(after["tokens"].mean()),
        "tokens_before": float(before["tokens"].mean()),
        "prompts": len(after["gold"]),
    }


def over_seeds(each: Sequence[dict[str, float]]) -> dict[str, dict[str, Any]]:
    """Each metric over the seeds; and the lowest gain of right answers."""
    summaries = {name: summarize_seeds([metrics[name] for metrics in each])._asdict() for name in each[0]}
    summaries["right_gain"]["lowest"] = min(metrics["right_gain"] for metrics in each)
    return summaries


def compare_methods(found: dict[str, list[dict[str, float]]]) -> list[SeedComparison]:
    """Each two methods by their gain in gold, those with the highest mean first."""
    gains = {method: [metrics["gold_gain"] for metrics in each] for method, each in found.items()}
    best_first = sorted(gains, key=lambda method: -summarize_seeds(gains[method]).mean)
    pairs = itertools.combinations(best_first, 2)
    return [compare_over_seeds(first, gains[first], second, gains[second]) for first, second in pairs]


def text_report(result: dict[str, Any]) -> str:
    """The result as a table, the best method first, and what can be said of the best one beside the others."""
    methods = sorted(result["methods"], key=lambda name: -result["methods"][name]["over_seeds"]["gold_gain"]["mean"])
    heads = ["", "gold gain (95 % interval)", "win rate", "win rate, sampled", "right before", "right", "KL", "tokens"]
    rows = [[*heads, "training s"], *(_row(name, result["methods"][name]) for name in methods)]
    best = [one["words"] for one in result["comparisons"] if methods and one["first"] == methods[0]]
    lines = [align_columns(rows), "", _reading(result), *_warnings(result)]
    if best:
        lines += ["", f"Gain in gold of {methods[0]}, less that of the others:", *best]
        lines += ["", f"Seeds that would decide a difference d with a spread s, with a power of 80 %: {FORMULA}."]
    return "\n".join([*lines, "", f"Figure: {result['figure']}"])


def _row(name: str, method: dict[str, Any]) -> list[str]:
    over, gain, wins = method["over_seeds"], gain_interval(method), win_interval(method)
    mean = {key: summary["mean"] for key, summary in over.items()}
    spread = "" if over["gold_gain"]["spread"] is None else f" ± {over['gold_gain']['spread']:.3f}"
    sampled = sampled_win_interval(method)
    return [
        name,
        f"{mean['gold_gain']:+.3f}{spread} ({gain[0]:+.3f} to {gain[1]:+.3f})",
        f"{mean['win_rate']:.3f} ({wins[0]:.3f} to {wins[1]:.3f})",
        f"{mean['sampled_win_rate']:.3f}" + (f" ({sampled[0]:.3f} to {sampled[1]:.3f})" if sampled else ""),
        f"{100 * mean['right_before']:.1f} %",
        f"{100 * mean['right']:.1f} %",
        f"{mean['kl']:.2f}",
        f"{mean['tokens_before']:.1f} → {mean['tokens']:.1f}",
        f"{mean['training_seconds']:.0f}",
    ]


def gain_interval(method: dict[str, Any]) -> tuple[float, float]:
    """Of the gain in gold, 95 %: over seeds; of one seed over its prompts."""
    over, (first, *_) = method["over_seeds"]["gold_gain"], method["seeds"]
    if over["low"] is not None:
        return over["low"], over["high"]
    half = 1.96 * first["gold_gain_standard_error"]
    return first["gold_gain"] - half, first["gold_gain"] + half


def win_interval(method: dict[str, Any]) -> tuple[float, float]:
    """Of the win rate, 95 %: over seeds; of one seed over its prompts."""
    over, (first, *_) = method["over_seeds"]["win_rate"], method["seeds"]
    return (over["low"], over["high"]) if over["low"] is not None else (first["win_low"], first["win_high"])


def sampled_win_interval(method: dict[str, Any]) -> tuple[float, float] | None:
    """Of the win rate of sampled answers, 95 % over seeds; None of one seed."""
    over = method["over_seeds"]["sampled_win_rate"]
    return None if over["low"] is None else (over["low"], over["high"])


def _reading(result: dict[str, Any]) -> str:
    count = len(result["seeds"])
    over = (
        f"Means over seeds {', '.join(map(str, result['seeds']))}, ± their sample deviation; intervals are Student's."
        if count > 1
        else f"Seed {result['seeds'][0]} alone: the intervals are over prompts, and say nothing of other seeds."
    )
    prompts = " and ".join(dict.fromkeys(map(str, result["prompts"])))
    paired = (
        f"{prompts} held-out prompts, paired with the fine-tuned model's answers; KL from it in nats per answer.\n"
        f"Answers are greedy; sampled: {SAMPLES} to a prompt at temperature 1, of both models from the same draws."
    )
    return f"{over}\n{paired}"


def _warnings(result: dict[str, Any]) -> list[str]:
    """Methods of which not even a gain is sure, and those after which fewer answers are right."""
    methods = result["methods"].items()
    unsure = [name for name, method in methods if win_interval(method)[0] <= 0.5]
    unsure_sampled = [name for name, method in methods if (sampled_win_interval(method) or (1.0,))[0] <= 0.5]
    fell = [name for name, method in methods if method["over_seeds"]["right_gain"]["lowest"] < -LARGEST_FALL]
    said = []
    if unsure:
        said.append(f"Win rate not above 0.5 beyond chance: {', '.join(unsure)}.")
    if unsure_sampled:
        said.append(f"Sampled answers do not win beyond chance: {', '.join(unsure_sampled)}.")
    if fell:
        said.append(
            f"Right answers fell by more than {100 * LARGEST_FALL:.0f} percentage points in a seed: {', '.join(fell)}."
        )
    return said


def gain_figure(result: dict[str, Any]) -> Any:
    """Gain in gold per method, the highest at the top: mean, interval, and each seed."""
    methods = sorted(result["methods"].items(), key=lambda one: one[1]["over_seeds"]["gold_gain"]["mean"])
    rows = {
        name: (
            method["over_seeds"]["gold_gain"]["mean"],
            *gain_interval(method),
            [metrics["gold_gain"] for metrics in method["seeds"]],
        )
        for name, method in methods
    }
    several = len(result["seeds"]) > 1
    over = "over seeds" if several else "over prompts, of one seed"
    return interval_chart(
        rows, x=f"gain in gold score over the fine-tuned model (95 % interval {over})", title=_title(result)
    )


def _title(result: dict[str, Any]) -> str:
    """What the figure shows, in words."""
    methods = result["methods"]
    best = max(methods, key=lambda name: methods[name]["over_seeds"]["gold_gain"]["mean"])
    others = [one for one in result["comparisons"] if one["first"] == best]
    if not others:
        return f"The gain of {best}"
    if len(result["seeds"]) == 1:
        return f"{best} gains most in one seed"
    sure = all(one["better"] == best for one in others)
    return f"{best} gains most" if sure else f"{best} gains most, but not beyond the spread of seeds"
