"""Over-optimisation: what becomes of gold while a policy pleases a reward model ever more.

    labkit study overoptimisation --seeds 0 1 2 --annotated-prompts 100

Reward and gold against the square root of the KL from the fine-tuned model, as Gao et al. 2022 draw them
(https://arxiv.org/abs/2210.10760): for best-of-n, whose KL is log n - (n - 1) / n, and for a policy gradient (GRPO).
A reward model that has seen few pairs is wrong where few answers were compared; optimised against, it leads there.
Against that stand ensembles of reward models (Coste et al. 2023, https://arxiv.org/abs/2310.02743) and a KL penalty.

A seed is a run of its own. Its stages:

    pretrain, sft
    reward, reward-2 …            reward models that differ by the order of the pairs and by their heads
    grpo-one-1, grpo-one-2 …      the policy along a training without KL: each goes on from the one before
    grpo-kl-1, grpo-kl-2 …        policies trained as long, from the fine-tuned model, with a KL coefficient each
    grpo-mean4-1 …                as grpo-one, rewarded by an ensemble: its mean, worst, or mean less deviation

Where this departs from the paper: the true reward is the oracle's, not a larger reward model's; a policy's checkpoints
are stages, so that the moments of Adam and the learning rate's schedule begin anew at each, while the prompts go on;
every reward model has seen the same pairs, as in Coste et al.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from labkit.errors import count_with_noun
from labkit.evaluation.judges import Combine, Mean, MeanLessDeviation, Worst
from labkit.evaluation.policies import oracle_scores, reward_scores
from labkit.files import write_json, write_text
from labkit.machine import describe_machine
from labkit.reporting.charts import figure_page
from labkit.reporting.study_charts import overoptimisation_figure
from labkit.runs.folder import Run
from labkit.runs.plan import PlannedStage, parse_plan
from labkit.runs.prepare import prepare_inputs
from labkit.runs.presets import plan_templates
from labkit.runs.recipe import Recipe
from labkit.stages import StageInputs
from labkit.stages.credit import KLInLoss, NoKL
from labkit.stages.rewards import Ensemble, RewardModelScore
from labkit.studies.best_of_n import best_of_n_kl, expected_of_best
from labkit.studies.curves import Curve, CurvePoint, summarize_curves, text_of_curves
from labkit.studies.measuring import MAX_NEW_TOKENS, Arrays, Asked, ask, kept_arrays, kl_of_answers, sampled_answers
from labkit.studies.options import Combination, OveroptimisationStudy
from labkit.studies.training import PlannedRun, check_runs, train_stages

COMBINE: dict[Combination, Combine] = {"mean": Mean(), "worst": Worst(), "deviation": MeanLessDeviation(1.0)}


def study_recipe(config: OveroptimisationStudy, preset: Recipe) -> Recipe:
    """The preset's recipe with the study's plan and few annotations. Raises LabError for more stages than a plan
    holds.
    """
    ensembles = [name for judge, names in config.chains.items() if judge != "one" for name in names]
    names = [
        *("pretrain", "sft", "reward", *config.chains["one"], *config.kl_stages),
        *(*config.reward_stages[1:], *ensembles),  # behind those that one reward model rewards: the last one before
    ]
    planned = {one.name: one for one in parse_plan(",".join(names), plan_templates(preset))}
    plan = [_stage(config, planned[name]) for name in names]
    annotation = dataclasses.replace(
        preset.annotation, prompts=config.annotated_prompts, num_generations=2, format="pairs"
    )
    evaluation = dataclasses.replace(preset.evaluation, policy_prompts=min(preset.evaluation.policy_prompts, 50))
    return dataclasses.replace(preset, plan=tuple(plan), annotation=annotation, evaluation=evaluation)


def own_settings(config: OveroptimisationStudy) -> dict[str, str]:
    """The fields of the recipe that the study sets itself, and what to set instead."""
    own = {
        "annotation.prompts": "use --annotated-prompts",
        "annotation.num_generations": "two answers to each prompt are compared",
        "annotation.format": "the reward models learn from pairs",
    }
    for name in config.reward_stages:
        own |= {
            f"{name}.seed": "the reward models differ by it",
            f"{name}.head_std": "use --head-std",
            f"{name}.center_rewards_coefficient": "use --center-rewards-coefficient",
        }
    for name in (*config.kl_stages, *(name for names in config.chains.values() for name in names)):
        own |= {
            f"{name}.train.steps": "use --steps and --checkpoints",
            f"{name}.reward": "use --ensembles and --combine",
            f"{name}.kl": "use --kl-coefs",
        }
        if config.learning_rate is not None:
            own[f"{name}.train.adamw_lr"] = "--learning-rate is that of all policies"
    return own


def _stage(config: OveroptimisationStudy, planned: PlannedStage) -> PlannedStage:
    """A stage as the study needs it."""
    name, stage = planned.name, planned.stage
    if name in config.reward_stages:
        center = config.center_rewards_coefficient
        index = config.reward_stages.index(name)
        options: dict[str, Any] = {"seed": index, "head_std": config.head_std, "center_rewards_coefficient": center}
        return PlannedStage(name, _replaced(stage, **options))
    if name in config.kl_stages:
        coef = config.kl_coefs[config.kl_stages.index(name)]
        steps = config.steps * config.checkpoints
        return PlannedStage(name, _policy(config, stage, steps, reward=RewardModelScore(), kl=KLInLoss(coef)))
    for judge, names in config.chains.items():
        if name in names:
            size, combination = config.judges[judge]
            combine = COMBINE[combination]
            reward = RewardModelScore() if size == 1 else Ensemble(config.reward_stages[:size], combine)
            link, grpo = names.index(name), _policy(config, stage, config.steps, reward=reward, kl=NoKL())
            asked = link * config.steps * grpo.train.batch_size // grpo.num_generations
            after = names[link - 1] if link else None
            return PlannedStage(name, dataclasses.replace(grpo, prompt_offset=asked), after)
    return planned


def _policy(config: OveroptimisationStudy, stage: Any, steps: int, **axes: Any) -> Any:
    train = dataclasses.replace(stage.train, steps=steps, warmup_steps=min(stage.train.warmup_steps, steps // 10))
    if config.learning_rate is not None:
        train = dataclasses.replace(train, adamw_lr=config.learning_rate)
    return dataclasses.replace(stage, train=train, **axes)


def _replaced(stage: Any, **changes: Any) -> Any:
    return dataclasses.replace(stage, **changes)


def run(
    config: OveroptimisationStudy, recipe: Recipe, progress: Callable[[str], object] = lambda line: None
) -> dict[str, Any]:
    """Make what is not there yet of each seed's run; all curves, as what JSON can write. recipe: see `study_recipe`.

    {"preset", "seeds", "pairs": that each seed's reward models have seen, "curves": [of each seed, see `Curve`],
    "over_seeds": see `summarize_curves`, "figure", "machine"}. Raises LabError as the runs do.
    """
    check_runs(config.seeds, recipe, lambda of_seed: seed_runs(config, of_seed))
    curves, pairs = list[Curve](), list[int]()
    for seed in config.seeds:
        ((folder, of_seed),) = seed_runs(config, dataclasses.replace(recipe, seed=seed)).values()
        progress(f"{folder} ...")
        opened = train_stages(of_seed, folder, list(of_seed.stages))
        progress(f"{folder}: answers to {count_with_noun(config.prompts, 'held-out prompt')} ...")
        inputs = prepare_inputs(opened)
        pairs.append(len(inputs.load_preferences().train) if inputs.load_preferences else 0)
        curves += seed_curves(config, opened, inputs)
    result: dict[str, Any] = {
        "preset": config.preset,
        "seeds": list(config.seeds),
        "prompts": config.prompts,
        "pairs": pairs,
        "curves": [curve.to_dict() for curve in curves],
        "over_seeds": summarize_curves(curves),
        "figure": str(config.folder / "overoptimisation.html"),
        "machine": describe_machine(),
    }
    write_json(config.folder / "overoptimisation.json", result)
    figure = overoptimisation_figure(result["over_seeds"])
    write_text(config.folder / "overoptimisation.html", figure_page(figure, "Over-optimisation"))
    return result


def seed_runs(config: OveroptimisationStudy, recipe: Recipe) -> dict[str, PlannedRun]:
    """The one run of the recipe's seed."""
    return {"all": PlannedRun(config.folder / f"seed-{recipe.seed}", recipe)}


def seed_curves(config: OveroptimisationStudy, run: Run, inputs: StageInputs) -> list[Curve]:
    """All curves of one seed's finished run."""
    measured = _SeedMeasures(config, run, inputs)
    best, sft = measured.best_of_n(), measured.policy("sft")
    chains = {judge: [measured.policy(name) for name in names] for judge, names in config.chains.items()}
    penalised = [measured.policy(name) for name in config.kl_stages]
    curves = []
    for judge, (size, combination) in config.judges.items():
        combine = COMBINE[combination]
        curves.append(best_of_n_curve(config, run.recipe.seed, judge, best, size, combine))
        points = [sft, *chains[judge]]
        curves.append(policy_curve(run.recipe.seed, "policy gradient", judge, points, size, combine))
    if penalised:
        by_coef = policy_curve(run.recipe.seed, "policy gradient with KL", "one", [sft, *penalised], 1, Mean())
        curves.append(by_coef)
    return curves


def best_of_n_curve(
    config: OveroptimisationStudy, seed: int, judge: str, best: Arrays, size: int, combine: Combine
) -> Curve:
    """best: gold [P, N] and scores [M, P, N] of N answers to each of P prompts."""
    scores = combined(best["scores"], size, combine)
    points = [
        CurvePoint(
            f"n = {n}",
            best_of_n_kl(n),
            expected_of_best(scores, scores, n),
            expected_of_best(scores, best["gold"], n),
        )
        for n in sorted(config.best_of)
    ]
    return Curve(seed, "best of n", judge, points)


def policy_curve(seed: int, by: str, judge: str, policies: list[Arrays], size: int, combine: Combine) -> Curve:
    """policies: gold [P], scores [M, P] and kl [P] of each, the fine-tuned model first."""
    points = [
        CurvePoint(
            f"policy {number}" if number else "fine-tuned model",
            float(one["kl"].mean()),
            combined(one["scores"], size, combine),
            one["gold"],
        )
        for number, one in enumerate(policies)
    ]
    return Curve(seed, by, judge, points)


def combined(scores: NDArray, size: int, combine: Combine) -> NDArray:
    """[M, …] scores of all reward models -> what the first `size` of them say together, […]."""
    found: NDArray = combine(torch.from_numpy(scores[:size]).flatten(1)).numpy()
    return found.reshape(scores.shape[1:])


class _SeedMeasures:
    """What is measured of one seed's run, each once."""

    def __init__(self, config: OveroptimisationStudy, run: Run, inputs: StageInputs):
        self.config, self.run, self.inputs = config, run, inputs
        self.reference = run.model("sft")
        self.reward_models = [run.stage(name).reward_model() for name in config.reward_stages]
        self.key = {
            "prompts": config.prompts,
            "annotator": inputs.annotator,
            "models": [run.stage(name).weights_hash for name in ("sft", *config.reward_stages)],
        }

    def policy(self, stage: str) -> Arrays:
        """gold [P], scores [M, P] and kl [P] of an answer that a stage's policy draws to each prompt."""

        def measure() -> Arrays:
            asked, policy = ask(self.inputs, self.config.prompts, MAX_NEW_TOKENS), self.run.model(stage)
            answers = sampled_answers(policy, self.inputs.tokenizer, asked)
            given = asked.prompts.prompt_ids, answers
            kl = kl_of_answers(policy, self.reference, self.inputs.tokenizer, *given)
            judged = self._judged(asked, answers)
            return {"gold": judged["gold"][:, 0], "scores": judged["scores"][..., 0], "kl": kl}

        return self._kept(stage, {"policy": self.run.stage(stage).weights_hash}, measure)

    def best_of_n(self) -> Arrays:
        """gold [P, N] and scores [M, P, N] of N answers that the fine-tuned model draws to each prompt."""
        count = max(self.config.best_of)

        def measure() -> Arrays:
            asked = ask(self.inputs, self.config.prompts, MAX_NEW_TOKENS, count)
            return self._judged(asked, sampled_answers(self.reference, self.inputs.tokenizer, asked))

        return self._kept("best-of-n", {"n": count}, measure)

    def _judged(self, asked: Asked, answers: list[list[int]]) -> Arrays:
        """Each different answer to a prompt is judged once."""
        tokenizer, tasks, prompts = self.inputs.tokenizer, asked.prompts.tasks, asked.prompts.prompt_ids
        each = len(answers) // len(prompts)
        given = [(at // each, tuple(answer)) for at, answer in enumerate(answers)]
        different = list(dict.fromkeys(given))
        where = {one: place for place, one in enumerate(different)}
        places = np.array([where[one] for one in given]).reshape(len(prompts), each)
        texts = [list(ids) for _, ids in different]
        asked_again = [prompts[prompt] for prompt, _ in different]
        gold = oracle_scores(
            self.inputs.world, self.inputs.annotator, tokenizer, [tasks[prompt] for prompt, _ in different], texts
        ).gold
        scores = [reward_scores(model, tokenizer, asked_again, texts) for model in self.reward_models]
        return {"gold": gold.astype(float)[places], "scores": np.stack(scores)[:, places]}

    def _kept(self, name: str, key: dict[str, Any], make: Callable[[], Arrays]) -> Arrays:
        file = self.run.path / "study-overoptimisation" / f"{name}.safetensors"
        return kept_arrays(file, self.key | key, make)


def text_report(result: dict[str, Any]) -> str:
    """The result for a terminal: where gold peaks, by what is optimised and against what."""
    seeds = ", ".join(map(str, result["seeds"]))
    pairs = " and ".join(dict.fromkeys(map(str, result["pairs"])))
    head = f"Reward models that have seen {pairs} pairs; {result['prompts']} held-out prompts; seeds {seeds}."
    return "\n\n".join([head, text_of_curves(result["over_seeds"]), f"Figure: {result['figure']}"])
