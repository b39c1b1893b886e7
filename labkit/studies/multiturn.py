"""Multi-turn GRPO over several seeds: what it does to the satisfaction of simulated users who ask follow-ups.

    labkit study multiturn --seeds 0 1 2

A seed is one fine-tuned model. From it a policy is trained on whole conversations, which are rewarded at their end
(`labkit.stages.multiturn`), and beside it a control: the same stage, in as many steps of as many conversations, with
one question and one answer each, so that its reward follows the answer at once and it never sees a follow-up. What the
policy gains over the control is due to turns after the first.

All three models talk with the same held-out users, greedily: in whole conversations, as the policy was trained.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from labkit.errors import LabError
from labkit.evaluation.conversations import (
    ConversationScores,
    conversation_scores,
    greedy_conversations,
    paired_conversation_metrics,
)
from labkit.files import write_json, write_text
from labkit.machine import describe_machine
from labkit.reporting.charts import figure_page, interval_chart
from labkit.reporting.terminal import align_columns
from labkit.runs.folder import Run
from labkit.runs.plan import PlannedStage, parse_plan
from labkit.runs.prepare import prepare_inputs
from labkit.runs.presets import plan_templates
from labkit.runs.recipe import Recipe
from labkit.stages import StageInputs
from labkit.stages.multiturn import MultiTurn
from labkit.studies.measuring import Arrays, kept_arrays
from labkit.studies.options import MultiTurnStudy
from labkit.studies.seeds import compare_over_seeds, summarize_seeds
from labkit.studies.training import PlannedRun, check_runs, train_stages

POLICIES = {"multi-turn": "multiturn", "first questions alone": "multiturn-single"}
"""The policies, and their stages."""


def study_recipe(config: MultiTurnStudy, preset: Recipe) -> Recipe:
    """The preset's recipe up to fine-tuning, and the policy; see `with_control` for what stands beside it."""
    plan = parse_plan("pretrain,sft,multiturn", plan_templates(preset))
    evaluation = dataclasses.replace(preset.evaluation, policy_prompts=config.prompts)
    return dataclasses.replace(preset, plan=plan, evaluation=evaluation)


def own_settings(config: MultiTurnStudy) -> dict[str, str]:
    """The fields of the recipe that the study sets itself, and what to set instead."""
    return {"evaluation.policy_prompts": "use --prompts"}


def seed_runs(config: MultiTurnStudy, recipe: Recipe) -> dict[str, PlannedRun]:
    """The one run of the recipe's seed."""
    return {"policies": PlannedRun(config.folder / f"seed-{recipe.seed}", with_control(recipe))}


def with_control(recipe: Recipe) -> Recipe:
    """The study's recipe, once its flags are read, and the control. Raises LabError where both would be the same."""
    stage: Any = recipe.stages["multiturn"]
    if stage.max_turns < 2:
        raise LabError(
            "study multiturn: with max_turns 1 no user asks a follow-up, and the policy is its own control. Raise "
            "--multiturn.max-turns to 2 or more."
        )
    control = PlannedStage("multiturn-single", dataclasses.replace(stage, num_questions=1, max_turns=1), after="sft")
    return dataclasses.replace(recipe, plan=(*recipe.plan, control))


def run(
    config: MultiTurnStudy, recipe: Recipe, progress: Callable[[str], object] = lambda line: None
) -> dict[str, Any]:
    """Make what is not there yet of each seed's run; all numbers, as what JSON can write. recipe: see `study_recipe`.

    {"preset", "seeds", "users", "policies": {POLICY: {"seeds": [`paired_conversation_metrics` of each, beside the
    fine-tuned model], "over_seeds": {NAME: SeedSummary}}}, "comparisons": [SeedComparison of satisfaction, with the
    fine-tuned model and with the control], "figure", "machine"}. Raises LabError as the runs do.
    """
    check_runs(config.seeds, recipe, lambda of_seed: seed_runs(config, of_seed))
    found: dict[str, list[dict[str, float]]] = {policy: [] for policy in POLICIES}
    for seed in config.seeds:
        folder, own = seed_runs(config, dataclasses.replace(recipe, seed=seed))["policies"]
        progress(f"{folder} ...")
        opened = train_stages(own, folder, list(POLICIES.values()))
        inputs = prepare_inputs(opened)
        before = _scores(config, opened, inputs, "sft")
        for policy, stage in POLICIES.items():
            found[policy].append(paired_conversation_metrics(_scores(config, opened, inputs, stage), before))
    first, control = (found[policy] for policy in POLICIES)
    beside = {
        "the fine-tuned model": [metrics["satisfaction_before"] for metrics in first],
        "first questions alone": [metrics["satisfaction"] for metrics in control],
    }
    satisfaction = [metrics["satisfaction"] for metrics in first]
    compared = [compare_over_seeds("multi-turn", satisfaction, name, values) for name, values in beside.items()]
    result = {
        "preset": config.preset,
        "seeds": list(config.seeds),
        "users": config.prompts,
        "policies": {
            policy: {
                "seeds": each,
                "over_seeds": {name: summarize_seeds([one[name] for one in each])._asdict() for name in each[0]},
            }
            for policy, each in found.items()
        },
        "comparisons": [one._asdict() | {"words": str(one)} for one in compared],
        "figure": str(config.folder / "multiturn.html"),
        "machine": describe_machine(),
    }
    write_json(config.folder / "multiturn.json", result)
    write_text(config.folder / "multiturn.html", figure_page(gain_figure(result), "Multi-turn GRPO"))
    return result


def _scores(config: MultiTurnStudy, opened: Run, inputs: StageInputs, stage: str) -> ConversationScores:
    """What became of the conversations of a stage's model with the held-out users; kept in the run's folder."""
    page = opened.recipe.stages["multiturn"]
    assert isinstance(page, MultiTurn)

    def measure() -> Arrays:
        users = page.held_out_users(inputs)
        return conversation_scores(greedy_conversations(opened.model(stage), users, range(config.prompts)))._asdict()

    asked = {name: getattr(page, name) for name in ("num_questions", "max_turns", "max_new_tokens")}
    key = {"users": config.prompts, "length": page.train.max_length, "annotator": inputs.annotator, **asked}
    key |= {"seed": inputs.seed, "model": opened.stage(stage).weights_hash}
    arrays = kept_arrays(opened.path / "study-multiturn" / f"{stage}.safetensors", key, measure)
    return ConversationScores(**arrays)


def text_report(result: dict[str, Any]) -> str:
    """A table, a row a policy, and what may be said of the first."""
    rows = [
        ["", "satisfaction", "gain", "95 % interval", "right", "polite", "asked again", "answers", "no longer fitted"]
    ]
    policies = {name: policy["over_seeds"] for name, policy in result["policies"].items()}
    for name, over in {"fine-tuned model": policies["multi-turn"], **policies}.items():
        ending = "" if name in policies else "_before"
        gain = over["satisfaction_gain"]
        spread = "" if gain["spread"] is None else f" ± {gain['spread']:.3f}"
        interval = "" if gain["low"] is None else f"{gain['low']:+.3f} to {gain['high']:+.3f}"
        mean = {key: over[f"{key}{ending}"]["mean"] for key in ConversationScores._fields}
        rows.append(
            [
                name,
                f"{mean['satisfaction']:.3f}",
                *([f"{gain['mean']:+.3f}{spread}", interval] if name in policies else ["", ""]),
                *(f"{100 * mean[key]:.1f} %" for key in ("right", "polite")),
                *(f"{mean[key]:.2f}" for key in ("repeats", "turns")),
                f"{100 * mean['truncated']:.1f} %",
            ]
        )
    seeds = ", ".join(map(str, result["seeds"]))
    reading = (
        f"Conversations with {result['users']} held-out users a seed; means over seeds {seeds}. First questions alone: "
        "a control, trained with one question and one answer to each user."
    )
    said = [one["words"] for one in result["comparisons"]]
    return "\n".join([align_columns(rows), "", reading, "", "Satisfaction:", *said, "", f"Figure: {result['figure']}"])


def gain_figure(result: dict[str, Any]) -> Any:
    """Gain in satisfaction of each policy: mean, interval, each seed."""
    rows = {}
    for name, policy in reversed(result["policies"].items()):
        gain = policy["over_seeds"]["satisfaction_gain"]
        low, high = (gain["mean"],) * 2 if gain["low"] is None else (gain["low"], gain["high"])
        rows[name] = (gain["mean"], low, high, [metrics["satisfaction_gain"] for metrics in policy["seeds"]])
    beside_tuned, beside_control = (one["better"] == "multi-turn" for one in result["comparisons"])
    rises = "rises" if beside_tuned else "does not rise beyond the spread of seeds"
    follow = "" if not (beside_tuned and beside_control) else ", and more than by first questions alone"
    return interval_chart(
        rows,
        x="gain in satisfaction over the fine-tuned model (95 % interval over seeds)",
        title=f"The satisfaction of users who ask follow-ups {rises}{follow}",
    )
