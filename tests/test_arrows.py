"""The arrows between the rooms point one way, and a few habits that no file may have."""

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "labkit").rglob("*.py")) + [path for path in [ROOT / "app.py"] if path.exists()]

GROUND = ("errors", "configs", "files", "paths", "launcher", "machine")
"""The modules that stand beside the rooms: every room is built on them."""
FLOORS = (
    "losses",
    "model",
    "training",
    "world",
    "text",
    "decoding",
    "interpret",
    "preferences",
    "evaluation",
    "stages",
    "runs",
    "reporting",
    "course",
    "hub",
    "bench",
    "studies",
    "commands",
    "viewers",
    "ui",
)
"""The rooms, from the ground up: one imports from those before it, never from those after it."""


def module(path: Path) -> str:
    """labkit/text/chat.py -> labkit.text.chat; a package's __init__.py is the package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imported(path: Path) -> frozenset[str]:
    """Every module that a file imports anywhere in it, but for types alone."""
    tree = parsed(path)
    for_types = {id(inside) for node in ast.walk(tree) if is_for_types(node) for inside in ast.walk(node)}
    names: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports by dots; write the whole name"
            names |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(names)


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def within(name: str, packages: list[str]) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def floor(name: str) -> int:
    """How high a module of labkit stands: 0 for the ground."""
    room = name.split(".")[1]
    return 0 if room in GROUND else 1 + FLOORS.index(room)


INSIDE = [path for path in FILES if "." in module(path) and path.stem != "__main__"]


def test_no_module_is_loose():
    assert {path.name for path in INSIDE if path.parent == ROOT / "labkit"} == {f"{name}.py" for name in GROUND}
    assert {module(path).split(".")[1] for path in INSIDE} == {*GROUND, *FLOORS}


def offenders(found: Callable[[Path], Iterable[object]], paths: Iterable[Path] = FILES) -> dict[str, list[object]]:
    """What is found in each module, where anything is. All modules in one test: they are hundreds, each read in no
    time, and every worker collects every test.
    """
    return {module(path): there for path in paths if (there := list(found(path)))}


def test_offenders_are_named_with_what_was_found_in_each():
    found = {"labkit": ["one"], "labkit.files": [], "labkit.paths": ["two", "three"]}
    paths = [path for path in FILES if module(path) in found]
    assert offenders(lambda path: found[module(path)], paths) == {"labkit": ["one"], "labkit.paths": ["two", "three"]}
    assert len(FILES) > 200 and {module(path) for path in FILES} > {"labkit.ui", "labkit.losses", "labkit.model"}


def test_imports_follow_the_floors():
    known = {module(inside) for inside in INSIDE}
    above = offenders(lambda path: [n for n in imported(path) & known if floor(n) > floor(module(path))], INSIDE)
    assert not above


WHOLES = ("transformer", "prefix_sharing", "reward_model", "actor_critic")
"""The files of labkit/model that are made of the others."""


def test_parts_of_a_model_do_not_know_the_whole():
    def wholes(path: Path) -> frozenset[str]:
        later = WHOLES[WHOLES.index(path.stem) if path.stem in WHOLES else 0 :]
        return imported(path) & {f"labkit.model.{name}" for name in later}

    parts = sorted((ROOT / "labkit" / "model").glob("[a-z]*.py"))
    assert {path.stem for path in parts} > {*WHOLES}
    assert not offenders(wholes, parts)


def test_nothing_imports_the_ways_in():
    def ways_in(path: Path) -> list[str]:
        others = [name for name in ("labkit.commands", "labkit.ui", "app") if not within(module(path), [name])]
        return [name for name in imported(path) if within(name, others)]

    assert not offenders(ways_in, [path for path in FILES if module(path) not in ("labkit.__main__", "app")])


def test_objectives_import_torch_alone():
    def others(path: Path) -> list[str]:
        names = [n for n in imported(path) if n.split(".")[0] not in {*sys.stdlib_module_names, "torch"}]
        return [name for name in names if not within(name, ["labkit.losses"])]

    objectives = sorted((ROOT / "labkit" / "losses").glob("*.py"))
    assert objectives and not offenders(others, objectives)


def test_the_world_imports_no_torch():
    inside = [name for path in FILES if within(module(path), ["labkit.world"]) for name in imported(path)]
    allowed = {*sys.stdlib_module_names, "yaml", "labkit"}
    assert {name.split(".")[0] for name in inside} <= allowed
    assert {n for n in inside if within(n, ["labkit"]) and not within(n, ["labkit.world"])} <= {
        "labkit.errors", "labkit.errors.LabError", "labkit.paths", "labkit.paths.data_folder",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["labkit", "labkit.world", "labkit.commands.main"])
def test_light_modules_load_without_torch(name):
    code = f"import sys, {name}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_a_model_loads_without_the_compiler():
    """Which takes longer to import than the rest of torch, and which most processes never use."""
    code = "import sys, labkit.runs.folder, labkit.model; sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def pickles(tree: ast.AST) -> list[str]:
    """Where a file reads or writes a pickle by torch."""
    return [
        f"line {node.lineno}: torch.{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "torch"
        if node.attr in ("load", "save")
    ]


def test_weights_are_never_pickles():
    assert pickles(ast.parse("import torch\ntorch.load(file)")) == ["line 2: torch.load"]
    modules = {"pickle", "dill", "cloudpickle", "joblib", "shelve"}
    assert not offenders(lambda path: modules & {name.split(".")[0] for name in imported(path)})
    assert not offenders(lambda path: pickles(parsed(path)))


def html_calls(tree: ast.AST) -> list[ast.Call]:
    names = {"gr.HTML", "gradio.HTML"}
    names |= {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gradio")
        for alias in node.names
        if alias.name == "HTML"
    }
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) in names]


def put_together(tree: ast.AST, node: ast.AST, depth: int = 5) -> str:
    """How text is put into this expression, or into the names of this file that it is made of; "" where it is not."""
    for inside in ast.walk(node):
        if isinstance(inside, ast.JoinedStr):
            return "an f-string"
        if isinstance(inside, ast.BinOp) and isinstance(inside.op, ast.Add | ast.Mod):
            return "+ or %"
        if isinstance(inside, ast.Call) and isinstance(inside.func, ast.Attribute):
            if inside.func.attr in ("format", "format_map", "join", "replace", "substitute", "safe_substitute"):
                return f".{inside.func.attr}"
        if isinstance(inside, ast.Call) and ast.unparse(inside.func).endswith("Template"):
            return "Template"
        if depth and isinstance(inside, ast.Name):
            for made in assigned(tree, inside.id):
                if how := put_together(tree, made, depth - 1):
                    return f"{how} (of {inside.id})"
    return ""


def assigned(tree: ast.AST, name: str) -> list[ast.AST]:
    """What a file's variable of this name is given; nothing for a constant, which is made before any text is there."""
    found: list[ast.AST] = []
    for node in ast.walk(tree) if not name.isupper() else ():
        if isinstance(node, ast.Assign):
            found += [node.value for one in node.targets if isinstance(one, ast.Name) and one.id == name]
        elif isinstance(node, ast.AnnAssign | ast.AugAssign | ast.NamedExpr) and node.value is not None:
            if isinstance(node.target, ast.Name) and node.target.id == name:
                longer = isinstance(node, ast.AugAssign)
                found.append(ast.BinOp(node.value, ast.Add(), node.value) if longer else node.value)
    return found


def formatted(tree: ast.Module) -> list[str]:
    """Where a file puts text into what an HTML component shows."""
    calls = [(call, put_together(tree, call)) for call in html_calls(tree)]
    return [f"line {call.lineno}: {how}" for call, how in calls if how]


def test_html_components_take_no_formatted_text():
    found = offenders(lambda path: formatted(parsed(path)))
    assert not found, "hand text over as props or value, not in the HTML"


@pytest.mark.parametrize(
    "made",
    [
        'gr.HTML(f"<b>{text}</b>")',
        'gr.HTML("<b>%s</b>" % text)',
        'gr.HTML("<b>{}</b>".format(text))',
        'gr.HTML("<b>" + text + "</b>")',
        'gr.HTML("".join(["<b>", text]))',
        'gr.HTML(Template("<b>$x</b>").substitute(x=text))',
        'gr.HTML("<b>X</b>".replace("X", text))',
        'page = "<b>"\npage += text\ngr.HTML(value=page)',
        'page = f"<b>{text}</b>"\nshown = page\ngr.HTML(shown)',
        'from gradio import HTML\nHTML("<b>" + text)',
    ],
)
def test_every_way_to_put_text_into_html_is_seen(made):
    assert formatted(ast.parse(f"import gradio as gr\n{made}"))
    assert not formatted(ast.parse('import gradio as gr\npage = "<b></b>"\ngr.HTML(page, text=text)'))


def test_nothing_is_left_open_or_silenced():
    left = re.compile(r"\b(?:TODO|FIXME|XXX|NotImplementedError)\b|# (?:noqa|type: ignore)")
    assert left.findall("# TODO: this  # noqa") == ["TODO", "# noqa"]
    assert not offenders(lambda path: left.findall(path.read_text(encoding="utf-8")))
