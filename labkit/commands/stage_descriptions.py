"""What the command line says of each kind of stage, read in the stages' files: importing them takes torch's seconds."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import Any, NamedTuple

import labkit
from labkit.runs.arguments import DATA_FIELDS


class StageDescription(NamedTuple):
    """What a stage says of itself. command_help: the line that it is registered with; title, about: its class's (see
    `labkit.stages.registry`).
    """

    command_help: str
    title: str
    about: str


def stage_descriptions() -> dict[str, StageDescription]:
    """Every kind of stage by its name: those of labkit in the order of a recipe, then those that were registered
    elsewhere.
    """
    found = []
    for file in sorted(Path(labkit.__file__).with_name("stages").glob("*.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                found += [_described(node, call) for call in _registrations(node)]
    registry = sys.modules.get("labkit.stages.registry")
    registered = {}
    if registry:
        for kind, line in registry.STAGE_DESCRIPTIONS.items():
            stage = registry.STAGES[kind]
            registered[kind] = StageDescription(line, getattr(stage, "title", ""), getattr(stage, "about", ""))
    return {kind: said for _, kind, said in sorted(found)} | registered


def _registrations(stage: ast.ClassDef) -> list[ast.Call]:
    calls = [decorator for decorator in stage.decorator_list if isinstance(decorator, ast.Call)]
    return [call for call in calls if ast.unparse(call.func) == "register"]


def _described(stage: ast.ClassDef, registration: ast.Call) -> tuple[tuple[int, bool, bool], str, StageDescription]:
    """The stage's place, its name and what it says of itself."""
    kind, line = map(ast.literal_eval, registration.args)
    says = _assigned(stage)
    return _order(says), kind, StageDescription(line, _literal(says, "title"), _literal(says, "about"))


def _assigned(stage: ast.ClassDef) -> dict[str, ast.expr]:
    """What stands in a class's file behind the name of each attribute that it sets."""
    found = {}
    for node in stage.body:
        if isinstance(node, ast.Assign):
            found[ast.unparse(node.targets[0])] = node.value
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            found[ast.unparse(node.target)] = node.value
    return found


def _literal(says: dict[str, ast.expr], name: str, default: Any = "") -> Any:
    return ast.literal_eval(says[name]) if name in says else default


def _order(says: dict[str, ast.expr]) -> tuple[int, bool, bool]:
    """Sorts stages by the place of what they learn from among DATA_FIELDS (last where the class does not say it); of
    these, what leaves a reward model comes first, then what needs one.
    """
    place = DATA_FIELDS.index(_literal(says, "reads")) if "reads" in says else len(DATA_FIELDS)
    return place, _literal(says, "leaves") != "reward model", not _literal(says, "needs_reward_model", False)
