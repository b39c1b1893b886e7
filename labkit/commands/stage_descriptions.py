"""What the command line says of each kind of stage, read in the stages' files: importing them takes torch's seconds."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import Any, NamedTuple

import labkit
from labkit.runs.arguments import DATA_FIELDS


class StageDescription(NamedTuple):
    """What a stage says of itself. command_help: the line that it is registered with; title, about, batch_unit, online:
    its class's (see `labkit.stages.registry`); is_policy: whether it learns from preferences and leaves a policy.
    """

    command_help: str
    title: str
    about: str
    batch_unit: str
    online: bool
    is_policy: bool


DEFAULTS: dict[str, Any] = {
    **{"title": "", "about": "", "reads": "", "leaves": "language model"},
    **{"batch_unit": "rows", "online": False, "policy": True},
}
"""What is read of a stage's class, and what counts where neither it nor a base in the stages' files says it."""


def stage_descriptions() -> dict[str, StageDescription]:
    """Every kind of stage by its name: those of labkit in the order of a recipe, then those that were registered
    elsewhere.
    """
    files = [ast.parse(file.read_text(encoding="utf-8")) for file in sorted(_stages_folder().glob("*.py"))]
    classes = {node.name: node for file in files for node in file.body if isinstance(node, ast.ClassDef)}
    found = [_described(node, call, classes) for node in classes.values() for call in _registrations(node)]
    registry = sys.modules.get("labkit.stages.registry")
    registered = {}
    if registry:
        for kind, line in registry.STAGE_DESCRIPTIONS.items():
            says = {name: getattr(registry.STAGES[kind], name, default) for name, default in DEFAULTS.items()}
            registered[kind] = _description(line, says)
    return {kind: said for _, kind, said in sorted(found)} | registered


def _registrations(stage: ast.ClassDef) -> list[ast.Call]:
    calls = [decorator for decorator in stage.decorator_list if isinstance(decorator, ast.Call)]
    return [call for call in calls if ast.unparse(call.func) == "register"]


def _stages_folder() -> Path:
    return Path(labkit.__file__).with_name("stages")


def _described(
    stage: ast.ClassDef, registration: ast.Call, classes: dict[str, ast.ClassDef]
) -> tuple[tuple[int, bool, bool], str, StageDescription]:
    """The stage's place, its name and what it says of itself; classes: those of all stages' files, by name."""
    kind, line = map(ast.literal_eval, registration.args)
    assigned = _assigned(stage, classes)
    says = {name: _literal(assigned, name, default) for name, default in DEFAULTS.items()}
    return _order(says), kind, _description(line, says)


def _description(line: str, says: dict[str, Any]) -> StageDescription:
    is_policy = says["reads"] == "preferences" and says["leaves"] == "language model" and says["policy"]
    return StageDescription(line, says["title"], says["about"], says["batch_unit"], says["online"], is_policy)


def _assigned(stage: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> dict[str, ast.expr]:
    """What stands behind the name of each attribute that a class or one of its bases sets."""
    found: dict[str, ast.expr] = {}
    for base in reversed(stage.bases):
        if (name := ast.unparse(base)) in classes:
            found |= _assigned(classes[name], classes)
    for node in stage.body:
        if isinstance(node, ast.Assign):
            found[ast.unparse(node.targets[0])] = node.value
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            found[ast.unparse(node.target)] = node.value
    return found


def _literal(says: dict[str, ast.expr], name: str, default: Any) -> Any:
    return ast.literal_eval(says[name]) if name in says else default


def _order(says: dict[str, Any]) -> tuple[int, bool, bool]:
    """Sorts stages by the place of what they learn from among DATA_FIELDS (last where the class does not say it); of
    preferences, what leaves a reward model comes first, then what learns from answers of its own; of instructions,
    fine-tuning on given answers comes first.
    """
    place = DATA_FIELDS.index(says["reads"]) if says["reads"] else len(DATA_FIELDS)
    return place, says["leaves"] != "reward model", says["online"] == (says["reads"] == "instructions")
