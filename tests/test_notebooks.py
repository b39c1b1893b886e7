"""What the notebooks say of each other, and whether their code, and the README's, calls what there is."""

import ast
import importlib
import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest

from labkit.course.registry import exercises, notebook_title, notebooks

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
OPENING = (
    "**Afterwards you can predict:**",
    "**Time:**",
    "**Before this:**",
    "**Paper:**",
    "**Part of the recipe:**",
)
LINK = re.compile(r"\]\((\d\d[a-z]?_\w+\.ipynb)\)")
COURSE = [path.name for path in NOTEBOOKS]

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def number_of(path: Path) -> str:
    """07b_policy_gradients.ipynb -> 07b"""
    return path.name.partition("_")[0]


def cells_of(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return found


def source_of(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


@every_notebook
def test_a_notebook_opens_with_what_it_teaches_and_ends_with_the_next(path):
    first, last = (source_of(cells_of(path)[at]) for at in (0, -1))
    lines = first.splitlines()
    assert lines[0].startswith("# ")
    begins = [next(i for i, line in enumerate(lines) if line.startswith(label)) for label in OPENING]
    assert begins == sorted(begins)
    at = COURSE.index(path.name)
    before = next(line for line in lines if line.startswith("**Before this:**"))
    assert LINK.findall(before) == COURSE[at - 1 : at] if at else not LINK.findall(before)
    following = next(line for line in last.splitlines() if line.startswith("**Next:**"))
    assert LINK.findall(following) == (COURSE[at + 1 : at + 2] or [COURSE[0]])


def test_the_first_notebook_lists_all():
    assert LINK.findall(source_of(cells_of(NOTEBOOKS[0])[0])) == COURSE[1:]


@every_notebook
def test_links_of_a_notebook_resolve(path):
    text = "\n".join(source_of(cell) for cell in cells_of(path) if cell["cell_type"] == "markdown")
    linked = {target for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target}
    assert not {target for target in linked if not (path.parent / target.partition("#")[0]).exists()}


@every_notebook
def test_a_notebook_is_stored_without_outputs(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    for cell in notebook["cells"]:
        assert cell["cell_type"] == "markdown" or (cell["outputs"] == [] and cell["execution_count"] is None)
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)


@every_notebook
def test_a_notebook_asserts_what_it_claims(path):
    tree = ast.parse(python_of(path))
    asserts = [node for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    closer = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr == "assert_close"]
    assert len(asserts) + len(closer) >= 5


@every_notebook
def test_a_notebook_has_its_exercises(path):
    """Each is asked in the text, and checked in a cell of its own, whose last line shows what is said."""
    wanted = {exercise.id: exercise for exercise in exercises(number_of(path))}
    cells = cells_of(path)
    asked = [id for cell in cells for id in re.findall(r"^\*\*Exercise (\d\d[a-z]?\.\d+)\.\*\*", source_of(cell), re.M)]
    assert asked == list(wanted)
    checked = []
    for cell in cells:
        tree = ast.parse(source_of(cell)) if cell["cell_type"] == "code" else ast.Module([], [])
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "check"]
        for call in calls:
            assert call is getattr(tree.body[-1], "value", None), "check(...) is the last line of its cell"
            id = ast.literal_eval(call.args[0])
            assert {keyword.arg for keyword in call.keywords} == set(wanted[id].checker.given)
            checked.append(id)
    assert checked == list(wanted)


LITERAL = re.compile(r'"[^"]+"')
NUMBER = re.compile(r"(?<![\w.])[−-]?\d+(?:\.\d+)?")


def numbers_of(text: str) -> set[float]:
    return {float(number.replace("−", "-")) for number in NUMBER.findall(text)}


@every_notebook
def test_an_exercise_asks_the_same_in_the_notebook(path):
    """Each text in quotes and each number of the checker's question stand in its cell or beside it."""
    cells = [source_of(cell) for cell in cells_of(path)]
    for exercise in exercises(number_of(path)):
        at = next(at for at, text in enumerate(cells) if text.startswith(f"**Exercise {exercise.id}.**"))
        shown = "\n".join(cells[max(0, at - 3) : at + 2])
        assert all(literal in shown for literal in LITERAL.findall(exercise.question)), exercise.id
        assert numbers_of(exercise.question) <= numbers_of(shown), exercise.id


def test_exercises_are_of_notebooks():
    assert notebooks() == [number_of(path) for path in NOTEBOOKS]


def test_the_course_calls_notebooks_as_the_first_of_them_does():
    listed = re.findall(r"\[(\d\db? [^\]]+)\]\(\d\db?_", source_of(cells_of(NOTEBOOKS[0])[0]))
    assert listed == [f"{number} {notebook_title(number)}" for number in notebooks()[1:]]
    assert source_of(cells_of(NOTEBOOKS[0])[0]).startswith(f"# {notebook_title('00')}")


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
