"""TRL's own statements, read from its files and run on tensors of a test; TRL itself is not imported.

LABKIT_TRL names the folder in which the wheels of two versions were unpacked, each in a folder of its own: 0.24.0, the
last in which PPO stood among the trainers, and 1.10.0. `.ci/run` does that.
"""

import __future__

import ast
import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

OLD, NEW = "0.24.0", "1.10.0"


@cache
def parsed(file: str, version: str = OLD) -> ast.Module:
    """One file of TRL."""
    if "LABKIT_TRL" not in os.environ:
        message = "LABKIT_TRL names no folder; pip download --no-deps trl==0.24.0, and unpack it in a folder 0.24.0"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    return ast.parse((Path(os.environ["LABKIT_TRL"]) / version / "trl" / file).read_text(encoding="utf-8"))


def assigns(statement: ast.stmt, name: str) -> bool:
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    return any(isinstance(target, ast.Name) and target.id == name for target in targets)


def between(tree: ast.AST, first: str, last: str) -> ast.Module:
    """The statements of the block that assigns these two names, from the first such to the last such."""
    for node in ast.walk(tree):
        for block in (value for _, value in ast.iter_fields(node) if isinstance(value, list)):
            at = [i for i, one in enumerate(block) if assigns(one, first)]
            ends = [i for i, one in enumerate(block) if assigns(one, last)]
            if at and ends:
                return ast.Module(block[at[0] : ends[-1] + 1], [])
    raise AssertionError(f"no block of TRL assigns {first} and {last}")


def run(code: ast.Module, library: ast.Module | None = None, **names: Any) -> dict[str, Any]:
    """The names after these statements; the functions of `library`, the old core.py where none is given, are known."""
    functions = [one for one in (library or parsed("core.py")).body if isinstance(one, ast.FunctionDef)]
    known: dict[str, Any] = {"torch": torch, "F": F, "nn": torch.nn, **names}
    unread = __future__.annotations.compiler_flag  # types are not looked up
    exec(compile(ast.Module([*functions, *code.body], []), "trl", "exec", unread), known)
    return known


def method(file: str, name: str) -> ast.FunctionDef:
    for node in ast.walk(parsed(file)):
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return node
    raise AssertionError(f"TRL has no {name}")
