"""Files and folders that are either whole or not there, whatever kills the process or fills the disk.

    write_json(path, value)                           # what was there before stays until the new is whole
    with atomic_replace(path) as partial: ...         # the same for a file that somebody else writes
    with atomic_replace_folder(path) as partial: ...  # and for a folder of files
    for record in read_jsonl(path): ...               # JSON, one value a line

What is written goes to a temporary place beside, is brought to the disk (fsync), and takes its place by one rename. A
link stays a link: what it leads to is replaced. Only regular files are read and replaced, no pipes and no devices.
"""

from __future__ import annotations

import errno
import json
import os
import shlex
import shutil
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from labkit.errors import LabError

PARTIAL, OLD = ".labkit-partial", ".labkit-old"
"""Endings of what is being written, and of a folder whose successor takes its place: names that nobody else gives."""
LFS_POINTER = b"version https://git-lfs"
"""How the small files begin that git leaves where its large files are not fetched."""


class DiskFull(LabError):
    """`path` could not be written; `suggestion` is what to do once there is room."""

    def __init__(self, path: Path, suggestion: str = "try again"):
        self.path = path
        super().__init__(
            f"The disk is full: {path} could not be written. What was saved before is intact; free some space and "
            f"{suggestion}."
        )


class DamagedFile(LabError):
    """A file that can be read, and does not hold what it should."""


def hidden_sibling(path: Path, suffix: str) -> Path:
    """The hidden name beside `path` of what labkit does to it: model -> .model.labkit-partial"""
    return path.with_name(f".{path.name}{suffix}")


@contextmanager
def explain_write_errors(path: Path) -> Iterator[None]:
    """Say in words what hindered writing to `path`: raises DiskFull, or LabError for a disk that refuses."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        number = getattr(error, "errno", None)
        text = str(error)
        if number in (errno.ENOSPC, errno.EDQUOT) or "os error 28" in text or "No space left" in text:
            raise DiskFull(path) from error
        raise LabError(f"{path} could not be written: {text}") from error


@contextmanager
def explain_read_errors(path: Path) -> Iterator[None]:
    """Say in words why `path` cannot be read: raises LabError that names it, for a missing right first of all."""
    try:
        yield
    except PermissionError as error:
        mend = f"chmod u+rX {shlex.quote(str(path))}"
        raise LabError(f"{path} cannot be read: permission denied. Allow reading it: {mend}") from error
    except OSError as error:
        raise LabError(f"{path} cannot be read: {error.strerror or error}.") from error


def check_regular_file(path: Path) -> None:
    """Raises LabError for a pipe, a socket or a device: reading one may never end, and none may be replaced by a file.
    Nothing at all, or a folder, passes.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise LabError(f"{path} is a pipe or a device, not a regular file. Give another path, or move it away.")


def refuse_lfs_pointer(data: bytes, name: str | Path) -> None:
    """Raises LabError for the content of a file that only stands for another one, which Git LFS keeps. data: all of it,
    or its beginning.
    """
    if data.startswith(LFS_POINTER):
        raise LabError(f"{name} is a Git LFS pointer, not the file itself. Fetch the file with git lfs pull.")


def check_not_lfs_pointer(file: Path) -> None:
    """As `refuse_lfs_pointer`, of a file on the disk. Raises OSError when it cannot be read."""
    with file.open("rb") as opened:
        refuse_lfs_pointer(opened.read(len(LFS_POINTER)), file)


def follow_link(path: Path) -> Path:
    """What a link leads to, there or not; `path` as it is, where it is no link."""
    return Path(os.path.realpath(path)) if os.path.islink(path) else path


def fsync_path(path: Path) -> None:
    """Bring a file, or a folder's list of names, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def atomic_replace(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; what was written there takes the place of `path` at the end, at once.

    Where `path` is a link, both are so beside and in place of what it leads to. The file gets the mode that the umask
    gives, whoever wrote it. Nothing is left behind when writing fails. Raises LabError as `explain_write_errors` does,
    and for what is no regular file.
    """
    with explain_write_errors(path):
        check_regular_file(path)
        path = follow_link(path)
        partial = hidden_sibling(path, PARTIAL)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.unlink(missing_ok=True)
            partial.touch()
            mode = partial.stat().st_mode & 0o777
            yield partial
            partial.chmod(mode)  # safetensors makes files that only their owner can read
            fsync_path(partial)
            os.replace(partial, path)
            fsync_path(path.parent)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def atomic_replace_folder(path: Path) -> Iterator[Path]:
    """Give an empty temporary folder beside `path`, which takes its place at the end; `path` may be a link to one.

    A kill between the two renames leaves what was there before as .NAME.labkit-old, which `restore_interrupted_write`
    puts back. Raises LabError as `explain_write_errors` does.
    """
    path = Path(os.path.realpath(path))
    partial, old = hidden_sibling(path, PARTIAL), hidden_sibling(path, OLD)
    with explain_write_errors(path):
        restore_interrupted_write(path)
        try:
            partial.mkdir(parents=True)
            mode = partial.stat().st_mode & 0o666
            yield partial
            for file in sorted(partial.rglob("*"), reverse=True):
                if file.is_file():
                    file.chmod(mode)
                fsync_path(file)
            fsync_path(partial)
            if path.exists():
                os.rename(path, old)
            os.rename(partial, path)
            fsync_path(path.parent)
            shutil.rmtree(old, ignore_errors=True)
        except BaseException:
            restore_interrupted_write(path)
            raise


def restore_interrupted_write(path: Path) -> None:
    """Remove what a killed `atomic_replace_folder` left beside `path`, and put back what it had set aside."""
    partial, old = hidden_sibling(path, PARTIAL), hidden_sibling(path, OLD)
    if old.exists() and not path.exists():
        os.rename(old, path)
    for left in (partial, old):
        shutil.rmtree(left, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` in UTF-8, whole or not at all."""
    with atomic_replace(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path`, whole or not at all."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    if any("\ud800" <= sign <= "\udfff" for sign in text):  # a file's name that is no text, say; JSON can spell it
        text = json.dumps(value, indent=2)
    write_text(path, text + "\n")


def read_json(path: Path) -> Any:
    """The value in a JSON file. Raises LabError, which names it, when it cannot be read: DamagedFile where that is its
    content's fault.
    """
    try:
        with explain_read_errors(path):
            check_regular_file(path)
            data = path.read_bytes()
        refuse_lfs_pointer(data, path)
        return json.loads(data.decode("utf-8"))
    except LabError:
        raise
    except RecursionError as error:
        raise DamagedFile(f"{path} cannot be read: it is nested too deeply") from error
    except ValueError as error:
        state = f"is not JSON: {error}" if data else "is empty"
        raise DamagedFile(f"{path} cannot be read: it {state}") from error


def read_object(path: Path, **required_types: type) -> dict[str, Any]:
    """The object in a JSON file. required_types: keys that it must have, by the types of their values. Raises
    LabError, which names the file, as `read_json` does, and DamagedFile when it holds something else.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise DamagedFile(f"{path} is damaged: it contains {_kind(value)}, not an object ({{…}}).")
    for name, kind in required_types.items():
        if name not in value:
            raise DamagedFile(f"{path} is damaged: it has no {name!r}.")
        if not isinstance(value[name], kind):
            raise DamagedFile(f"{path} is damaged: its {name!r} is {_kind(value[name])}, not {KINDS[kind]}.")
    return value


KINDS: dict[type, str] = {dict: "an object", list: "a list", str: "a text"}
"""What JSON calls the values that are asked for."""


def _kind(value: Any) -> str:
    return KINDS.get(type(value), json.dumps(value))


def write_jsonl(path: Path, values: Iterable[Any]) -> None:
    """Write values as JSON, one a line, whole or not at all."""
    with atomic_replace(path) as partial, partial.open("w", encoding="utf-8", newline="\n") as file:
        for value in values:
            file.write(json.dumps(value, ensure_ascii=False) + "\n")


def read_jsonl(path: Path, strict: bool = False) -> list[Any]:
    """The values of a file of JSON lines; [] when there is none. Only a line feed ends a line.

    A last line without an end, which a kill tore, is left out; a line in the middle that is not JSON is left out with
    a warning that names it. With `strict`, as for what `write_jsonl` wrote, either is refused. Raises LabError when the
    file cannot be read.
    """
    with explain_read_errors(path):
        if not path.exists():
            return []
        check_regular_file(path)
        data = path.read_bytes()
    refuse_lfs_pointer(data, path)
    lines = data.split(b"\n")
    values, damaged = [], []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                values.append(json.loads(line))
            except ValueError:
                damaged.append(number)
    if damaged and strict:
        raise LabError(f"{path}, line {damaged[0]}, is not JSON: the file is damaged.")
    if damaged and damaged != [len(lines)]:
        named = ", ".join(map(str, damaged[:5])) + (", …" if len(damaged) > 5 else "")
        warnings.warn(
            f"{path}: damaged lines are skipped (line {named}); totals over its lines are too low.",
            stacklevel=2,
        )
    return values


def absolute_path(path: str | Path) -> Path:
    """The absolute path, where ~ is a home folder; of a user who has none, ~NAME is a name like any other."""
    try:
        return Path(path).expanduser().resolve()
    except RuntimeError:
        return Path(path).resolve()
