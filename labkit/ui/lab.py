"""What every tab of the app works on: the runs on disk, their stages, and models, loaded when first asked for."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from labkit.errors import LabError
from labkit.model.scorer import Scorer
from labkit.model.transformer import Transformer
from labkit.runs import Run
from labkit.text.tokenizer import Tokenizer
from labkit.world import World

T = TypeVar("T")
KEPT = 16
"""How many models stay in memory: a few megabytes each at the default size."""


DEMO = "demo"
"""The name of the run that comes with labkit."""


class Lab:
    """The runs in a folder, and the one that comes with labkit.

    Names are the folders' names; stages are those that made a model that writes. `answering` is held while a viewer's
    question is answered, so that those of fifty pupils come one after another.
    """

    def __init__(self, folder: str | Path = "runs", demo: Path | None = None):
        """demo: the folder of a finished run that is always there, called "demo"; none when not given."""
        self.folder, self.demo = Path(folder), demo
        self.lock = threading.Lock()
        self.answering = threading.Lock()
        self.kept: OrderedDict[tuple[Any, ...], Any] = OrderedDict()

    def names(self) -> list[str]:
        """The runs that have a model, newest first."""
        return [name for name in self.all_names() if self.stages(name)]

    def all_names(self) -> list[str]:
        """All runs, those without a model too, newest first; the one that comes with labkit is the last."""
        files = self.folder.glob("*/recipe.json") if self.folder.is_dir() else []
        newest = sorted((file.parent for file in files), key=lambda path: -path.stat().st_mtime)
        names = [path.name for path in newest if not path.name.startswith(".")]
        shipped = self.demo is not None and (self.demo / "recipe.json").is_file() and DEMO not in names
        return [*names, DEMO] if shipped else names

    def path(self, name: str) -> Path:
        """A run's folder. Raises LabError for one that is not there; a path is not a name."""
        if name not in self.all_names():
            raise LabError(f"There is no run {name!r} in {self.folder}.")
        mine = self.folder / name
        return mine if self.demo is None or (mine / "recipe.json").is_file() else self.demo

    def run(self, name: str) -> Run:
        """A run by its name. Raises LabError for one that is not there."""
        return Run.open(self.path(name))

    def stages(self, name: str) -> list[str]:
        """The stages of a run that have a model that writes, in order."""
        return [stage.name for stage in self.run(name).stages if stage.trained and stage.writes]

    def tokenizer(self, name: str) -> Tokenizer:
        """A run's tokenizer."""
        return self.keep(self.path(name) / "tokenizer.json", lambda: self.run(name).tokenizer())

    def model(self, name: str, stage: str) -> Transformer:
        """The model after a stage of a run. Raises LabError when it is not there."""
        folder = self.run(name).stage(stage)
        return self.keep(folder.path / "model.safetensors", folder.model)

    def scorer(self, name: str) -> Scorer | None:
        """The reward model of a run; None where it has none."""
        folder = next((stage for stage in self.run(name).stages if stage.name == "reward" and stage.trained), None)
        return None if folder is None else self.keep(folder.path / "model.safetensors", folder.scorer)

    def example(self, name: str) -> str:
        """Something to ask a run's model: of its world, a story to write; of real text, nothing."""
        recipe = self.run(name).recipe
        if recipe.text is not None or recipe.instructions is not None:
            return ""
        return self.world(name).task("test", 0, 0, "write").messages[-1].content

    def world(self, name: str) -> World:
        """The world of a run."""
        return self.keep(self.path(name) / "recipe.json", lambda: World.load(self.run(name).recipe.world_size))

    def keep(self, file: Path, load: Callable[[], T], what: str = "") -> T:
        """What `load` gives, loaded once for each state of the file that it reads; `what` tells two of them apart."""
        key = (file, what, file.stat().st_mtime_ns if file.is_file() else 0)
        with self.lock:
            if key not in self.kept:
                self.kept[key] = load()
            self.kept.move_to_end(key)
            while len(self.kept) > KEPT:
                self.kept.popitem(last=False)
            return self.kept[key]
