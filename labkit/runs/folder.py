"""A run's folder: everything that a run is, made and measured.

runs/NAME/
    recipe.json       the recipe, what it read (hashes of files, and where they stood), the number of threads, and the
                      Python files that were imported for it (`labkit.runs.imports`)
    tokenizer.json    (and tokenizer_config.json)
    pretrain/         one folder a stage:
        metrics.jsonl     one record a step, written as it happens
        checkpoints/      to resume from; gone once the stage is finished
        model.safetensors (in shards when large: labkit.training.weights), config.json, result.json
    preferences/      what the world's annotator chose, train.jsonl and validation.jsonl
    report.json, report.html
    .lock             while a process makes the run; .aside-1: what is being made again, as it was; see `transactions`
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Collection, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from labkit.errors import LabError
from labkit.files import PARTIAL, explain_write_errors, read_json, write_json
from labkit.machine import describe_machine
from labkit.model.transformer import Transformer
from labkit.runs.imports import IMPORTED, suggest_imports
from labkit.runs.inputs import (
    KEPT_TEXTS,
    absolute_input_paths,
    check_same_tokenizer,
    check_world_unchanged,
    input_hashes,
    kept_texts_key,
    matches_hash,
)
from labkit.runs.lock import LOCK_FILE
from labkit.runs.plan import is_other_run_stage
from labkit.runs.recipe import Recipe
from labkit.runs.report import read_report
from labkit.runs.stage_folder import StageFolder
from labkit.runs.transactions import (
    FolderTransaction,
    begin_replacement,
    open_transactions,
    pending_transactions,
)
from labkit.stages.registry import DATA_FIELDS
from labkit.text.tokenizer import Tokenizer
from labkit.training.weights import hash_weights, weights_or_index_file

PREPARED = ("recipe.json", "tokenizer.json", "tokenizer_config.json")
"""The files with which a run begins."""
REPORTS = ("report.json", "report.html")
RECIPE_KEYS = ("recipe", "inputs", "places", "threads", "imports")
"""The keys of recipe.json."""


class Run:
    """A run in its folder. Make one with `Run.create`, find one with `Run.open`.

    inputs: what the recipe reads, by its name there -> the SHA-256 of its content; data sets of the hub have none.
    original_locations: by the same names, where each stood when the run was begun (older runs do not know). threads:
    torch's.
    """

    def __init__(
        self,
        path: Path,
        recipe: Recipe,
        inputs: dict[str, str],
        threads: int,
        original_locations: dict[str, str] | None = None,
    ):
        self.path, self.recipe, self.inputs, self.threads = path, recipe, inputs, threads
        self.reading: dict[str, Any] = {}
        """What was made of each source that the run was given to read, as `labkit.text.reading.ReadReport` says it."""
        self.original_locations = original_locations or {}
        self.imports: list[str] = []
        """The Python files that were imported when it was made."""
        self.unknown_keys: dict[str, Any] = {}
        """What another version of labkit keeps in recipe.json; it stays there."""

    @classmethod
    def create(cls, path: str | Path, recipe: Recipe) -> Run:
        """Begin a run in a new or empty folder, or in place of one that was never trained a step.

        Raises LabError when the folder holds anything else.
        """
        run = cls.new_unsaved(path, recipe)
        with explain_write_errors(run.path):
            for name in ("tokenizer.json", "tokenizer_config.json"):
                (run.path / name).unlink(missing_ok=True)
        run.save_recipe()
        return run

    @classmethod
    def new_unsaved(cls, path: str | Path, recipe: Recipe, other_run_stages_from: Run | None = None) -> Run:
        """A run that would be begun in a free folder, where nothing is written yet. other_run_stages_from: a run that
        knows where the stages of other runs are now, and their hashes. Raises LabError as `create`.
        """
        cls.check_unused(Path(path))
        known = other_run_stages_from.inputs if other_run_stages_from else {}
        begun_with = {
            one: other_run_stages_from.locate_other_run_stage(one) if other_run_stages_from and one in known else one
            for one in recipe.other_run_stages
        }
        for place in begun_with.values():
            open_other_run_stage(place)
        hashes = input_hashes(recipe) | {one: hash_weights(Path(at)) for one, at in begun_with.items()}
        places = absolute_input_paths(recipe) | {one: str(Path(at).absolute()) for one, at in begun_with.items()}
        run = cls(Path(path), recipe, hashes, torch.get_num_threads(), places)
        run.input_locations = {
            field: getattr(recipe, field) for field in DATA_FIELDS if getattr(recipe, field) is not None
        }
        return run

    def branch(self, path: str | Path, recipe: Recipe, copied_stages: Sequence[str]) -> Run:
        """A new run of `recipe` in `path` that begins with copies of these finished stages of this one.

        Raises LabError when one is not finished or would be another under `recipe`, when what they have read is gone
        or has changed, or the folder is not free.
        """
        self.check_branch(recipe, copied_stages)
        read = {field for name in copied_stages for field in self.recipe.data_fields_used(name)}
        located = self.locate_inputs(read)
        run = Run.new_unsaved(path, recipe, other_run_stages_from=self)
        run.imports = list(self.imports)
        check_world_unchanged(self.path, self.inputs)
        noted = [KEPT_TEXTS, *map(kept_texts_key, copied_stages)] if "text" in read else []
        run.inputs |= {key: self.inputs[key] for key in noted if key in self.inputs}
        for field in read & located.keys():  # from elsewhere, a relative path is another file, or none
            given = getattr(recipe, field)
            if given in self.inputs:
                run.inputs[given], run.original_locations[given] = (
                    self.inputs[given],
                    str(Path(located[field]).absolute()),
                )
                run.input_locations[field] = located[field]
        with explain_write_errors(run.path):
            run.path.mkdir(parents=True, exist_ok=True)
            for name in ("tokenizer.json", "tokenizer_config.json"):
                shutil.copy(self.path / name, run.path / name)
            for name in copied_stages:
                shutil.copytree(self.path / name, run.path / name)
        run.save_recipe()  # last: without it the folder is no run
        return run

    def check_branch(self, recipe: Recipe, copied_stages: Sequence[str]) -> None:
        """Raises LabError when a stage that a run of `recipe` would begin with is not finished, or would be another."""
        missing = [name for name in copied_stages if not self.stage(name).finished]
        if missing:
            raise LabError(f"{self.path} has not finished {', '.join(missing)}. Resume the run first.")
        other = [name for name in copied_stages if self.recipe.fingerprint(name) != recipe.fingerprint(name)]
        if other:
            changed = ", ".join(self.recipe.differences(recipe))
            raise LabError(f"{', '.join(other)} of {self.path} would be a different model with a different {changed}.")

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """The run in a folder. Raises LabError, which names the file, when there is none or it cannot be read."""
        file = Path(path) / "recipe.json"
        if not file.exists():
            raise LabError(f"{path} contains no run (no recipe.json). Start one: labkit run --out {path}")
        saved = read_json(file)
        try:
            imports = [str(name) for name in saved.get("imports", ())]
            with suggest_imports(Path(path), imports):
                recipe = Recipe.from_dict(saved["recipe"])
            places = dict(saved.get("places", {}))
            run = cls(Path(path), recipe, dict(saved["inputs"]), int(saved["threads"]), places)
            run.imports = imports
            run.unknown_keys = {key: value for key, value in saved.items() if key not in RECIPE_KEYS}
            return run
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise LabError(f"{file} is not a recipe of labkit: {error}") from error

    @staticmethod
    def is_unused(path: Path) -> bool:
        """Whether a folder holds nothing, or no more than the preparations for a run, which are labkit's."""
        if not path.is_dir():
            return False
        aside = {one.path.name for one in open_transactions(path)}
        names = {file.name for file in path.iterdir() if not file.name.endswith(PARTIAL)} - aside - {LOCK_FILE}
        return not names or (names <= {*PREPARED} and _is_recipe(path / "recipe.json"))

    @classmethod
    def check_unused(cls, path: Path) -> None:
        """Raises LabError for a folder that holds more than preparations."""
        cls.check_not_foreign(path)
        if path.exists() and not cls.is_unused(path):
            raise LabError(f"{path} already contains a run. Resume it (--resume), or choose another folder.")

    @classmethod
    def check_not_foreign(cls, path: Path) -> None:
        """Raises LabError for a folder that is neither a run's nor free for one; it is left as it is."""
        if not path.exists() or cls.is_unused(path) or (path.is_dir() and open_transactions(path)):
            return
        if not path.is_dir():
            raise LabError(f"{path} is a file, not a run's folder. Choose another.")
        if not (path / "recipe.json").is_file():
            raise LabError(f"{path} is not empty and contains no run. Choose another folder.")
        cls.open(path)

    def check_same_recipe(self, recipe: Recipe) -> None:
        """Raises LabError when this run was begun with another recipe, or what it reads is gone or has changed since.

        An input that `recipe` finds in another place, with the same content, is no other.
        """
        differences = self.recipe.differences(recipe)
        for field in [field for field in DATA_FIELDS if field in differences]:
            if self.relocate_input_if_unchanged(field, getattr(recipe, field)):
                del differences[field]
        if differences:
            named = [f"{name}: {mine!r}, not {other!r}" for name, (mine, other) in differences.items()]
            raise LabError(
                f"{self.path} contains a run with a different recipe ({'; '.join(named[:5])}). Choose another folder, "
                "or resume with the recipe that it was started with."
            )
        self.input_locations = self.locate_inputs()
        check_world_unchanged(self.path, self.inputs)

    @cached_property
    def input_locations(self) -> dict[str, str]:
        """What `locate_inputs` finds of all that the recipe reads."""
        return self.locate_inputs()

    def relocate_input_if_unchanged(self, field: str, location: str | None) -> bool:
        """Look for an input of this run in `location` from now on, if its content there is the same; whether it is."""
        given = getattr(self.recipe, field)
        if location is None or given not in self.inputs or not Path(location).exists():
            return False
        if not matches_hash(Path(location), self.inputs[given]):
            return False
        self.original_locations[given] = str(Path(location).absolute())
        return True

    def locate_inputs(self, fields: Collection[str] = DATA_FIELDS) -> dict[str, str]:
        """Where that which the recipe reads is now, by field: as it was given, or where it stood when the run was
        begun; the name of a data set of the hub as it is.

        Raises LabError, which says where it was looked for, when one is gone or has changed.
        """
        found = {}
        for field in fields:
            given = getattr(self.recipe, field)
            if given is not None:
                found[field] = self._place(field, given) if given in self.inputs else given
            if given is not None and given not in self.inputs and Path(given).exists():
                raise LabError(
                    f"{given} was a data set of the hub when {self.path} was started; now a file or folder here has "
                    f"that name. Resume from another working directory, or move it away."
                )
        return found

    def _place(self, field: str, given: str) -> str:
        looked = dict.fromkeys([str(Path(given).absolute()), *filter(None, [self.original_locations.get(given)])])
        there = [place for place in looked if Path(place).exists()]
        for place in there:
            if matches_hash(Path(place), self.inputs[given]):
                return given if place == str(Path(given).absolute()) else place
        go_on = f"labkit run --out {shlex.quote(str(self.path))} --resume --{field} PLACE"
        if there:
            raise LabError(
                f"{' and '.join(there)} has changed since {self.path} was started, so it cannot be resumed. Put the "
                f"old file back, give its path ({go_on}), or start a new run in another folder."
            )
        raise LabError(
            f"{given}, which {self.path} reads ({field}), is missing: there is no {' and no '.join(looked)}. Put it "
            f"back, or give its new path: {go_on}"
        )

    def save_recipe(self) -> None:
        value = {
            "recipe": self.recipe.to_dict(),
            "inputs": self.inputs,
            "places": self.original_locations,
            "threads": self.threads,
        }
        self.imports = list(dict.fromkeys([*self.imports, *IMPORTED]))
        imports = {"imports": self.imports} if self.imports else {}
        write_json(self.path / "recipe.json", value | imports | self.unknown_keys)

    def begin_rerun(self, stage: str) -> FolderTransaction:
        """Set a stage aside, with all that builds on it, until it is finished anew; write the recipe as it is now."""
        again = [stage, *self.recipe.descendants(stage)]
        folders = [*again, *(["preferences"] if self.recipe.annotated_stage in again else [])]
        files = ["recipe.json", *REPORTS]
        begun = begin_replacement(self.path, f"{stage} --again", folders, files, f"{stage}/result.json")
        try:
            self.save_recipe()
            begun.mark_pending()
        except BaseException:
            begun.rollback()
            raise
        self.refresh_report()
        return begun

    def check_no_other_rerun(self, stage: str) -> None:
        """Raises LabError while another stage, which does not build on this one, is being made again."""
        for one in pending_transactions(self.path):
            other = str(one.completion_file).partition("/")[0]
            if other != stage and stage not in self.recipe.ancestors(other):
                raise LabError(
                    f"{self.path}: {other} is being trained again and not finished. Finish it first (labkit {other} "
                    f"{self.path}), or undo it (labkit {other} {self.path} --undo)."
                )

    def undo_unfinished_rerun(self, stage: str) -> None:
        """Put back what `begin_rerun` set aside last, and drop what was made in its place so far.

        Raises LabError when `stage` is not being made again.
        """
        last = next(iter(pending_transactions(self.path)[-1:]), None)
        if last is None or str(last.completion_file).partition("/")[0] != stage:
            raise LabError(f"{self.path}: {stage} is not being trained again, so there is nothing to undo.")
        last.rollback()
        self.recipe = Run.open(self.path).recipe
        self.refresh_report()

    def stage(self, name: str) -> StageFolder:
        """The folder of a stage, which may not be there yet. Raises LabError for a stage not in the recipe."""
        if name not in self.recipe.stages:
            raise LabError(f"{self.path} has no stage {name!r}; it has {', '.join(self.recipe.stages)}.")
        return StageFolder(self.path / name, self.recipe.stages[name])

    @property
    def stages(self) -> list[StageFolder]:
        """All stages of the recipe, in order."""
        return [self.stage(name) for name in self.recipe.stages]

    def latest_sft_stage(self) -> StageFolder | None:
        """The last stage that has learned to answer, from instructions and not yet from preferences; None where none
        has.
        """
        made = [stage for stage in self.stages if stage.trained and stage.config.reads == "instructions"]
        return made[-1] if made else None

    def latest_reward_stage(self) -> StageFolder | None:
        """The last stage that has a reward model of whole answers; None where none has."""
        made = [one for one in self.stages if one.trained and not one.generates_text and one.config.scores_answers]
        return made[-1] if made else None

    def latest_language_model_stage(self) -> StageFolder:
        """The last stage that has a language model. Raises LabError when none has, and where the last that was finished
        has lost its weights.
        """
        for stage in reversed([stage for stage in self.stages if stage.generates_text and stage.config.policy]):
            if stage.trained:
                return stage
            stage.check_weights_are_there()
        raise LabError(f"{self.path} has no model yet. Resume the run: labkit run --out {self.path} --resume")

    def tokenizer(self) -> Tokenizer:
        """The run's tokenizer. Raises LabError when it is not there yet."""
        return Tokenizer.load(self.path)

    def model(self, stage: str | None = None, device: torch.device | None = None) -> Transformer:
        """The model after `stage`, which may be one of another run (RUN/STAGE); after the last finished one when None.
        device: see `StageFolder.model`.

        Raises LabError where there is none, and for another run's that reads other tokens.
        """
        if is_other_run_stage(stage):
            return self.other_run_stage(str(stage)).model(device)
        return (self.stage(stage) if stage else self.latest_language_model_stage()).model(device)

    def other_run_stage(self, other_run_stage: str) -> StageFolder:
        """A stage of another run, RUN/STAGE, as this run was begun with it. Raises LabError where there is none, where
        its weights have changed since, and where it reads other tokens than this run.
        """
        other, folder = open_other_run_stage(self.locate_other_run_stage(other_run_stage))
        check_same_tokenizer(other.path, self.path)
        return folder

    def locate_other_run_stage(self, other_run_stage: str) -> str:
        """Where a stage of another run, RUN/STAGE, is now: as it was given, or where it stood when this run was begun.

        Raises LabError, which says where it was looked for, when it is gone or has changed.
        """
        begun_with = self.original_locations.get(other_run_stage)
        looked = dict.fromkeys([str(Path(other_run_stage).absolute()), *filter(None, [begun_with])])
        there = [place for place in looked if weights_or_index_file(Path(place)).is_file()]
        for place in there:
            if other_run_stage not in self.inputs or self.inputs[other_run_stage] == hash_weights(Path(place)):
                return place
        if there:
            raise LabError(
                f"{' and '.join(there)} has changed since {self.path} was started with it. Put the old weights back, "
                f"or start a new run."
            )
        raise LabError(
            f"{other_run_stage}, which {self.path} starts from, is missing: there is no {' and no '.join(looked)}. "
            "Put it back."
        )

    def report(self) -> dict[str, Any]:
        """report.json. Raises LabError when no stage is finished, and for a file that is no report."""
        file = self.path / "report.json"
        if not file.is_file():
            raise LabError(f"{self.path} has no report yet: no stage of it is finished.")
        return read_report(file)

    def write_report(self, machine: dict[str, Any]) -> dict[str, Any]:
        """Gather the results of the finished stages into report.json."""
        file, results = self.path / "report.json", [stage.result for stage in self.stages if stage.finished]
        report = {"recipe": self.recipe.to_dict(), "stages": results, "machine": machine}
        what_was_read = self.reading or (read_report(file).get("reading") if file.is_file() else None)
        if what_was_read:
            report["reading"] = what_was_read
        write_json(file, report)
        return report

    def refresh_report(self) -> None:
        """Write report.json again when it is not of the stages that are finished now; remove it when none is."""
        file, finished = self.path / "report.json", [stage.name for stage in self.stages if stage.finished]
        known: dict[str, Any] = read_report(file) if file.is_file() else {"stages": [], "machine": describe_machine()}
        if not finished:
            with explain_write_errors(file):
                file.unlink(missing_ok=True)
        elif [stage["stage"] for stage in known["stages"]] != finished:
            self.write_report(known.get("machine") or describe_machine())


def open_other_run_stage(other_run_stage: str) -> tuple[Run, StageFolder]:
    """The run and the stage that RUN/STAGE names. Raises LabError where no language model lies there."""
    path = Path(other_run_stage)
    other = Run.open(path.parent)
    folder = other.stage(path.name)
    if not folder.trained or not folder.generates_text:
        raise LabError(f"{path} has no language model to start from: finish that stage, or name another.")
    return other, folder


def run_file_names(recipe: Recipe) -> list[str]:
    """Everything that making a run of this recipe leaves in its folder."""
    return [*PREPARED, *recipe.stages, "preferences", "corpus", *REPORTS]


def _is_recipe(file: Path) -> bool:
    try:
        saved = read_json(file)
    except LabError:
        return False
    return isinstance(saved, dict) and {"recipe", "threads"} <= saved.keys()
