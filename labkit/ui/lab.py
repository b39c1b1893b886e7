"""What every tab of the app works on: the runs on disk, their stages, and models, loaded when first asked for."""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, TypeVar

from labkit.errors import LabError
from labkit.model.reward_model import RewardModel
from labkit.model.transformer import Transformer
from labkit.runs.folder import Run
from labkit.runs.jobs import Jobs, check_run_name, shorten_repr
from labkit.runs.lock import lock_holder
from labkit.text.tokenizer import Tokenizer
from labkit.world import World

T = TypeVar("T")
KEPT = 16
"""How many models stay in memory: a few megabytes each at the default size."""

RUNS = 256
"""How many recipes that were read."""
LOOKS = 6
"""How many texts that were looked at: each some tens of megabytes at most."""
RESULTS = 64
"""How much that was measured or searched for, as heads and trees of beams."""
DEMO = "demo"
"""The name of the run that comes with labkit."""


class LRUCache:
    """What was made last, `size` things at most, by a key; others may ask for other things while one is made."""

    def __init__(self, size: int):
        self.size, self.lock = size, threading.Lock()
        self.kept: OrderedDict[Hashable, Any] = OrderedDict()
        self.making: dict[Hashable, threading.Lock] = {}

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The thing of this key, made once however many ask for it."""
        with self.lock:
            if key in self.kept:
                self.kept.move_to_end(key)
                return self.kept[key]
            making = self.making.setdefault(key, threading.Lock())
        with making:
            with self.lock:
                if key in self.kept:
                    return self.kept[key]
            try:
                made = make()
                self.put(key, made)
                return made
            finally:
                with self.lock:
                    self.making.pop(key, None)

    def put(self, key: Hashable, value: Any) -> None:
        with self.lock:
            self.kept[key] = value
            self.kept.move_to_end(key)
            while len(self.kept) > self.size:
                self.kept.popitem(last=False)


class Lab:
    """The runs in a folder, and the one that comes with labkit.

    Names are the folders' names; stages are those that left a language model. `answering` is held while a viewer's
    question is answered, so that those of fifty pupils come one after another.
    """

    def __init__(self, folder: str | Path = "runs", demo: Path | None = None, inputs: Path | None = Path()):
        """demo: the folder of a finished run that is always there, called "demo"; none when not given. inputs: where
        the files must lie that a page asks to be trained on; None for anywhere.
        """
        self.folder, self.demo, self.inputs = Path(folder), demo, inputs
        self.answering = threading.Lock()
        self.models, self.looks, self.results = LRUCache(KEPT), LRUCache(LOOKS), LRUCache(RESULTS)
        self.runs = LRUCache(RUNS)

    def runs_with_model(self) -> list[str]:
        """The runs that have a model, newest first; those that cannot be read are left out."""
        return [name for name in self.all_run_names() if self.stages_if_readable(name)]

    def runs_with_model_failed_last(self) -> list[str]:
        """`runs_with_model` in the order in which a tab opens on them: those that failed come last."""
        return sorted(self.runs_with_model(), key=self._failed)

    def _failed(self, name: str) -> bool:
        try:
            return has_failed(Jobs(self.folder), self.open(name))
        except LabError:  # deleted while we looked
            return True

    def all_run_names(self) -> list[str]:
        """All runs, those without a model or that cannot be read too, newest first; the one that comes with labkit is
        the last.
        """
        files = self.folder.glob("*/recipe.json") if self.folder.is_dir() else []
        found = {file.parent.name: _modified(file.parent) for file in files if _sayable(file.parent.name)}
        names = sorted(found, key=lambda name: -found[name])
        shipped = self.demo is not None and (self.demo / "recipe.json").is_file() and DEMO not in names
        return [*names, DEMO] if shipped else names

    def read_error(self, run_name: str) -> str | None:
        """Why a run cannot be read; None for one that can. Raises LabError for one that is not there."""
        self.path(run_name)
        try:
            self.open(run_name)
            return None
        except LabError as error:
            return str(error)

    def is_demo(self, run_name: str) -> bool:
        """Whether a run is the one that comes with labkit, which nobody changes."""
        return self.demo is not None and self.path(run_name) == self.demo

    def path(self, run_name: str) -> Path:
        """A run's folder. Raises LabError for one that is not there; a path is not a name."""
        for path in (self.folder / run_name if _sayable(run_name) else None, self.demo if run_name == DEMO else None):
            if path is not None and (path / "recipe.json").is_file():
                return path
        raise LabError(f"There is no run {shorten_repr(run_name)} in {self.folder}.")

    def open(self, run_name: str) -> Run:
        """A run by its name, read once for each state of its recipe. Raises LabError for one that is not there, or
        cannot be read.
        """
        path = self.path(run_name)
        file = path / "recipe.json"
        return self.runs.get((file, _version(file)), lambda: self._read(path))

    def _read(self, path: Path) -> Run:
        try:
            return Run.open(path)
        except LabError:
            raise
        except (AttributeError, TypeError, ValueError, RecursionError) as error:  # of a recipe that is none
            raise LabError(f"{path / 'recipe.json'} is not a recipe of labkit: {error}") from error

    def language_model_stages(self, run_name: str) -> list[str]:
        """The stages of a run that have a language model to be asked, in order; a judge's is none."""
        writes = [stage for stage in self.open(run_name).stages if stage.generates_text and stage.config.policy]
        return [stage.name for stage in writes if stage.trained]

    def stages_if_readable(self, run_name: Any) -> list[str]:
        """`language_model_stages`; none of a run that cannot be read, is not there, or was deleted while we looked."""
        try:
            return self.language_model_stages(run_name)
        except LabError:
            return []

    def tokenizer(self, run_name: str) -> Tokenizer:
        """A run's tokenizer."""
        return self.load_cached(self.path(run_name) / "tokenizer.json", lambda: self.open(run_name).tokenizer())

    def model(self, run_name: str, stage: str) -> Transformer:
        """The model after a stage of a run. Raises LabError when it is not there."""
        folder = self.open(run_name).stage(stage)
        return self.load_cached(folder.weights_or_index_file, folder.model)

    def reward_model(self, run_name: str) -> RewardModel | None:
        """The reward model of a run; None where it has none."""
        folder = self.open(run_name).latest_reward_stage()
        if folder is None:
            return None
        return self.load_cached(folder.weights_or_index_file, folder.reward_model, "reward_model")

    def example_prompt(self, run_name: str) -> str:
        """Something to ask a run's model: of its world, a story to write; of real text, nothing."""
        recipe = self.open(run_name).recipe
        if recipe.text is not None or recipe.instructions is not None:
            return ""
        return self.world(run_name).task("test", 0, 0, "write").messages[-1].content

    def world(self, run_name: str) -> World:
        """The world of a run."""
        recipe = self.path(run_name) / "recipe.json"
        return self.load_cached(recipe, lambda: World.load(self.open(run_name).recipe.tinyworld_size))

    def load_cached(self, file: Path, load: Callable[[], T], what: str = "") -> T:
        """What `load` gives, loaded once for each state of the file that it reads; `what` tells two of them apart."""
        return self.models.get((file, what, _version(file)), load)

    def last_modified(self, run_name: str) -> float:
        """When anything of a run was last made, as seconds since 1970. Raises LabError for one that is not there."""
        path = self.path(run_name)
        return max(_modified(path), *(_modified(path / stage.name) for stage in self.open(run_name).stages))

    def weights_version(self, run_name: str, stage: str) -> tuple[Path, int]:
        """What a stage's model is now: another when its weights change. Raises LabError when it is not there."""
        file = self.open(run_name).stage(stage).weights_or_index_file
        return file, _version(file)


def _version(file: Path) -> int:
    """Another number for each state of a file; 0 for one that is not there."""
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0


def _modified(path: Path) -> float:
    """When a folder was last changed; long ago for one that is gone by now."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _sayable(name: Any) -> bool:
    """Whether a folder's name can be a run's."""
    try:
        return bool(check_run_name(name))
    except LabError:
        return False


def requested_stages(jobs: Jobs, run: Run) -> list[str]:
    """The stages that a run is to have: those that its last process was asked for, or all of its recipe."""
    flags = jobs.arguments(run.path.name)
    named: list[str] = []
    if "--stages" in flags:
        after = flags[flags.index("--stages") + 1 :]
        named = list(itertools.takewhile(lambda flag: not flag.startswith("--"), after))
    return [stage for stage in run.recipe.stages if not named or stage in named]


def unfinished_stages(jobs: Jobs, run: Run) -> list[str]:
    """The stages that were asked for and are not finished."""
    return [name for name in requested_stages(jobs, run) if not run.stage(name).finished]


def has_failed(jobs: Jobs, run: Run) -> bool:
    """Whether the last process that was begun here for a run ended before it was done, without having been asked to."""
    name = run.path.name
    begun = bool(jobs.arguments(name)) and not jobs.stop_requested(name)
    return begun and bool(unfinished_stages(jobs, run)) and not jobs.is_running(name) and lock_holder(run.path) is None
