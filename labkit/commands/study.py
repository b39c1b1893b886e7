"""``labkit study``: an experiment over several seeds."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from labkit.commands.stage_help import method_lines, print_stage_settings
from labkit.errors import LabError, count_with_noun
from labkit.runs.flags import HELP
from labkit.runs.settings import override_recipe, parse_known_args
from labkit.studies.options import STUDIES, Study, refuse_own_settings

SUMMARIES = {
    "alignment": "each method that learns from preferences, from the same fine-tuned model",
    "overoptimisation": "reward and gold as the KL grows; ensembles and a KL penalty against it",
    "feedback": "reward models from pairs, ranked lists and ratings of the same answers",
    "annotators": "two annotators with other tastes, and the policy that learns from each",
    "sizes": "what alignment gains at several model sizes",
    "distillation": "what a small model gains from a larger one, on- and off-policy",
    "rounds": "iterated rounds: choices between the policy's own answers, a new reward model, more training",
    "multiturn": "simulated users who ask follow-ups, and a reward at the end of each conversation",
}


def command(arguments: list[str]) -> int:
    """`labkit study`: its exit code."""
    name, *given = arguments or ["--help"]
    if name in ("-h", "--help"):
        print(_help())
        return 0
    if name.startswith("-"):
        named = next((argument for argument in given if argument in STUDIES), "NAME")
        raise LabError(f"Give the study's name first, as in labkit study {named} {name} …")
    if name not in STUDIES:
        raise LabError(f"There is no study {name!r}; the studies are {', '.join(STUDIES)}.")
    if not HELP.isdisjoint(given):
        return _study_help(name, [argument for argument in given if argument not in HELP])
    options, rest = parse_known_args(STUDIES[name], f"study {name}", given)
    study: Any = importlib.import_module(f"labkit.studies.{name}")
    try:
        result = _run(study, options, rest)
    except KeyboardInterrupt:
        print("\nStopped; what is finished is kept. To go on, give the same command again.", file=sys.stderr)
        return 130
    machine = result["machine"]
    where = f"{machine['processor']}, {count_with_noun(machine['cores'], 'core')}"
    print(json.dumps(result, indent=2) if options.json else f"{study.text_report(result)}\n\nMeasured on {where}.")
    return 0


def _run(study: Any, options: Study, rest: list[str]) -> dict[str, Any]:
    from labkit.runs.presets import make_recipe

    refuse_own_settings(options.name, study.own_settings(options), rest)
    recipe = override_recipe(study.study_recipe(options, make_recipe(options.preset)), rest, f"study {options.name}")
    return study.run(options, recipe, lambda line: print(f"study {options.name}: {line}", file=sys.stderr))


def _study_help(name: str, given: list[str]) -> int:
    """What --help prints of a study: its options, and the methods; or the settings of the methods that are given."""
    options, rest = parse_known_args(STUDIES[name], f"study {name}", given)
    one_is_named = "--method" in [argument.partition("=")[0] for argument in given]
    methods = getattr(options, "methods", ()) or ((getattr(options, "method", ""),) if one_is_named else ())
    if methods:
        _print_method_settings(name, options, methods, rest)
        return 0
    with suppress(SystemExit):
        parse_known_args(STUDIES[name], f"study {name}", ["--help"])
    print(_what_next(name, options))
    return 0


STAGES_OF_STUDY = {"multiturn": "multiturn", "distillation": "distill,ppo", "feedback": "reward"}
"""The stages that a study trains, of those without a choice of methods; the others' are reward and grpo."""


def _what_next(name: str, options: Any) -> str:
    """Where the methods of a study, and its other flags, are listed."""
    shown = f"labkit study {name}"
    if hasattr(options, "methods"):
        return f"{method_lines()}\n{shown} --methods simpo dpo-strict --help lists the settings of these, as flags."
    if hasattr(options, "method"):
        return f"{shown} --method grpo --help lists the settings of this method, as flags."
    stages = STAGES_OF_STUDY.get(name, "reward,grpo")
    return f"labkit run --plan {stages} --help lists the settings of these stages, as flags; labkit recipe lists all."


def _print_method_settings(study: str, options: Any, methods: Sequence[str], rest: list[str]) -> None:
    from labkit.runs.presets import make_recipe
    from labkit.studies.methods import method_stage_name, recipe_of_methods

    recipe = recipe_of_methods(make_recipe(options.preset), methods)
    stages: dict[str, Any] = {name: recipe.stages[name] for name in map(method_stage_name, methods)}
    flag = "--method" if hasattr(options, "method") else "--methods"
    print_stage_settings(
        stages | {"annotation": recipe.annotation}, rest, f"labkit study {study} {flag} {' '.join(methods)}"
    )
    print(f"labkit study {study} --help lists the other options; labkit recipe lists the settings of the other stages.")


def _help() -> str:
    lines = [f"  {name:18}{words}" for name, words in SUMMARIES.items()]
    return "\n".join(
        [
            "usage: labkit study NAME [OPTIONS]",
            "",
            "Run one experiment over several seeds. What is finished in its folder is not made again.",
            "",
            *lines,
            "",
            "labkit study NAME --help lists a study's options.",
        ]
    )
