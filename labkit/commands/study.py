"""``labkit study``: an experiment over several seeds."""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from labkit.configs import Count, NonNegative, Positive, Range, Seed
from labkit.errors import count_with_noun
from labkit.runs.arguments import Folder, Preset, Switch, default_preset
from labkit.runs.settings import override_recipe, parse_known_args

if TYPE_CHECKING:
    from labkit.runs.recipe import Recipe

Methods = Annotated[tuple[str, ...], arg(metavar="METHOD …", help_behavior_hint="")]
Ensembles = Annotated[tuple[Annotated[int, Range(2, 16)], ...], arg(metavar="N …")]


@dataclass(frozen=True)
class StudyOptions:
    """Run one experiment over several seeds. What is finished in its folder is not made again.

    alignment: each method that learns from preferences, from the same fine-tuned model of each seed: gain in gold, win
    rate, right answers, KL. A method is called better only outside the spread of seeds. overoptimisation: reward and
    gold as the KL grows, for best-of-n and a policy gradient, one reward model and ensembles.

    Every field of the recipe can be set too, as --pretrain.train.steps 500 or --ppo.kl-coef 0.1.
    """

    what: Annotated[Positional[Literal["alignment", "overoptimisation"]], arg(metavar="{alignment,overoptimisation}")]
    """Which study to run."""
    json: Switch = False
    """Print all results as JSON."""
    preset: Preset = dataclasses.field(default_factory=default_preset)
    """Sizes and settings of each seed's run."""
    seeds: tuple[Seed, ...] = (0, 1, 2)
    """One run per seed."""
    prompts: Annotated[int, Range(2, 100_000)] = 500
    """Held-out prompts that every policy answers."""
    out: Folder = None
    """The folder of the study; runs/study-alignment or runs/study-overoptimisation when not given."""
    methods: Methods = ()
    """For alignment: ppo, grpo, dpo …, rlvr (GRPO rewarded by the oracle's verdict), votes, and names with a suffix,
    which have flags of their own (--methods dpo dpo-strict --dpo-strict.beta 0.5); all methods when not given."""
    annotated_prompts: Count = 100
    """For overoptimisation: prompts of which two answers each are compared. The fewer, the sooner a reward model is
    over-optimised."""
    ensembles: Ensembles = (2, 4, 8)
    """For overoptimisation: how many reward models an ensemble is."""
    combine: tuple[Literal["mean", "worst", "deviation"], ...] = ("mean", "worst", "deviation")
    """For overoptimisation: what an ensemble says: the mean of its scores, the lowest, or the mean less the
    deviation."""
    best_of: tuple[Count, ...] = (1, 2, 4, 8, 16, 32, 64)
    """For overoptimisation: the n of best-of-n."""
    checkpoints: Count = 5
    """For overoptimisation: at how many moments a policy is measured."""
    steps: Count = 20
    """For overoptimisation: optimizer steps from one of them to the next."""
    kl_coefs: tuple[Positive, ...] = (0.3, 0.1, 0.03)
    """For overoptimisation: KL coefficients, of a policy each."""
    learning_rate: Annotated[Positive | None, arg(metavar="FLOAT", help_behavior_hint="")] = None
    """For overoptimisation: of all policies; the preset's for PPO when not given."""
    head_std: NonNegative = 0.02
    """For overoptimisation: standard deviation of the first weights of each reward model's head."""


def command(arguments: list[str]) -> int:
    """`labkit study`: its exit code."""
    options, rest = parse_known_args(StudyOptions, "study", arguments)
    try:
        text_report, result = _run(options, rest)
    except KeyboardInterrupt:
        print("\nStopped; what is finished is kept. To go on, give the same command again.", file=sys.stderr)
        return 130
    machine = result["machine"]
    where = f"{machine['processor']}, {count_with_noun(machine['cores'], 'core')}"
    print(json.dumps(result, indent=2) if options.json else f"{text_report(result)}\n\nMeasured on {where}.")
    return 0


def _run(options: StudyOptions, rest: list[str]) -> tuple[Any, dict[str, Any]]:
    """The study's `text_report`, and its result."""
    from labkit.runs.presets import make_recipe

    def say(line: str) -> None:
        print(f"study {options.what}: {line}", file=sys.stderr)

    def recipe(planned: Recipe) -> Recipe:
        return override_recipe(planned, rest, "study")

    preset = make_recipe(options.preset)
    if options.what == "alignment":
        from labkit.studies import alignment

        config = alignment.AlignmentStudy(**_fields(options, alignment.AlignmentStudy))
        return alignment.text_report, alignment.run(config, recipe(alignment.study_recipe(config, preset)), say)
    from labkit.studies import overoptimisation as study

    asked = study.OveroptimisationStudy(**_fields(options, study.OveroptimisationStudy))
    return study.text_report, study.run(asked, recipe(study.study_recipe(asked, preset)), say)


def _fields(options: StudyOptions, study: Any) -> dict[str, Any]:
    """Those options that the study has, but for a folder that is not given."""
    named = {field.name for field in dataclasses.fields(study)}
    given = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    return {name: value for name, value in given.items() if name in named and (name != "out" or value is not None)}
