"""What the command line says of each kind of stage, read in the stages' files: importing them takes torch's seconds."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import NamedTuple

import labkit
from labkit.runs.arguments import INPUTS


class StageKind(NamedTuple):
    """What a stage says of itself: its line for `register`, its class's title and about (`labkit.stages.registry`)."""

    line: str
    title: str
    about: str


def stage_kinds() -> dict[str, StageKind]:
    """Every kind of stage by its name: those of labkit in the order of a recipe, then those that were registered
    elsewhere.
    """
    found = []
    for file in sorted(Path(labkit.__file__).with_name("stages").glob("*.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            for decorator in getattr(node, "decorator_list", []):
                if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "register":
                    kind, line = map(ast.literal_eval, decorator.args)
                    says = _assigned(node)
                    said = StageKind(line, _text(says, "title"), _text(says, "about"))
                    found.append((_order(says), kind, said))
    registry = sys.modules.get("labkit.stages.registry")
    registered = {}
    if registry:
        for kind, line in registry.LINES.items():
            registered[kind] = StageKind(line, registry.STAGES[kind].title, registry.STAGES[kind].about)
    return {kind: said for _, kind, said in sorted(found)} | registered


def _assigned(stage: ast.AST) -> dict[str, ast.expr]:
    """What stands in a class's file behind the name of each attribute that it sets."""
    return {ast.unparse(node.targets[0]): node.value for node in ast.walk(stage) if isinstance(node, ast.Assign)}


def _text(says: dict[str, ast.expr], name: str) -> str:
    return ast.literal_eval(says[name]) if name in says else ""


def _order(says: dict[str, ast.expr]) -> tuple[int, bool, bool]:
    """Sorts stages by the place of what they learn from among INPUTS (last where the class does not say it); of these,
    what leaves a reward model comes first, then what needs one.
    """
    place = INPUTS.index(_text(says, "reads")) if "reads" in says else len(INPUTS)
    return place, "leaves" not in says, "needs_reward_model" not in says
