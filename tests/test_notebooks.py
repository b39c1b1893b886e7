"""What the notebooks say of each other, and whether their code, and the README's, calls what there is."""

import ast
import importlib
import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_begins_with_the_list_of_all(path):
    """Their numbers have gaps, so each says which there are."""
    first = "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"])
    linked = re.findall(r"\[\d\d [^]]+\]\((.+?\.ipynb)\)", first)
    assert linked == [other.name for other in NOTEBOOKS if other != path]
    assert re.findall(r"\*\*(\d\d) ", first) == [path.name[:2]]


def python_of(path: Path) -> str:
    """The code of a notebook's cells, or of a page's blocks, one below the other."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    return "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "code")


def imported(tree: ast.Module) -> dict[str, Any]:
    """What the code imports of labkit, by the names that it has there. Fails for what is not there."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("labkit"):
            module = importlib.import_module(str(node.module))
            for name in node.names:
                if not hasattr(module, name.name):  # a module of a package
                    importlib.import_module(f"{node.module}.{name.name}")
                found[name.asname or name.name] = getattr(module, name.name)
    return found


@pytest.mark.parametrize("path", [*NOTEBOOKS, ROOT / "README.md"], ids=lambda path: path.stem)
def test_code_calls_what_there_is(path):
    """Each import of labkit exists, and takes the keywords that it is called with."""
    tree = ast.parse(python_of(path))
    known = imported(tree)
    assert known
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        match call.func:
            case ast.Name(name) if name in known:
                called = known[name]
            case ast.Attribute(ast.Name(name), attribute) if inspect.ismodule(known.get(name)):
                called = getattr(known[name], attribute)
            case _:
                continue
        taken = inspect.signature(called).parameters
        if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in taken.values()):
            continue
        unknown = {keyword.arg for keyword in call.keywords if keyword.arg} - set(taken)
        assert not unknown, f"line {call.lineno}: {ast.unparse(call.func)} does not take {unknown}"
