"""Files that are whole or not there: a full disk, a kill between two renames, signs that end no line, and rights."""

import errno
import json
import os
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from torch import nn

from labkit import files
from labkit.errors import LabError
from labkit.files import (
    absolute_path,
    atomic_replace,
    atomic_replace_folder,
    explain_write_errors,
    read_json,
    read_jsonl,
    read_object,
    restore_interrupted_write,
    write_json,
    write_jsonl,
)
from labkit.model.transformer import ModelConfig, Transformer
from labkit.preferences.annotate import AnnotatedPair, write_annotated_pairs
from labkit.reporting import page as report
from labkit.runs.folder import Run
from labkit.text.pairs import PreferencePair
from labkit.text.tokenizer import Tokenizer
from labkit.training.checkpoints import Checkpoints
from labkit.training.weights import write_weights
from labkit.world import Message
from tests.faults import tree, without_root_rights
from tests.tiny_recipe import tiny_recipe


def full_disk(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_write_json_is_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "folder" / "a.json"
    write_json(path, {"a": "é"})
    monkeypatch.setattr(files, "fsync_path", full_disk)
    with pytest.raises(LabError, match="The disk is full: .*a.json could not be written"):
        write_json(path, {"a": 2})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": "é"}
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]


def test_errors_of_safetensors_are_said_in_words_too(tmp_path):
    """What safetensors raises for a full disk is an exception of its own."""
    with pytest.raises(LabError, match="The disk is full"), explain_write_errors(tmp_path / "model.safetensors"):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    with (
        pytest.raises(LabError, match="b could not be written: .*Permission denied"),
        explain_write_errors(tmp_path / "b"),
    ):
        raise PermissionError(errno.EACCES, "Permission denied")


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(LabError, match="could not be written"):
        write_json(tmp_path / "run" / "recipe.json", {})


def test_a_name_that_is_no_text_comes_back(tmp_path):
    """What a console without UTF-8 makes of a file's name holds half characters."""
    write_json(tmp_path / "a.json", {"text": "\udce4.txt", "other": "é"})
    assert read_json(tmp_path / "a.json") == {"text": "\udce4.txt", "other": "é"}


@pytest.mark.parametrize("text,words", [("", "it is empty"), ('{"a": ', "it is not JSON")])
def test_a_file_that_is_no_json_is_named(tmp_path, text, words):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(LabError, match=f"a.json cannot be read: {words}"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize(
    "text,words",
    [
        ("[1]", "it contains a list, not an object"),
        ("null", "it contains null, not an object"),
        ("{}", "it has no 'stages'"),
        ('{"stages": {}}', "its 'stages' is an object, not a list"),
    ],
)
def test_json_of_another_kind_is_named(tmp_path, text, words):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(LabError, match=f"a.json is damaged: {words}"):
        read_object(tmp_path / "a.json", stages=list)
    (tmp_path / "a.json").write_text('{"stages": [1]}')
    assert read_object(tmp_path / "a.json", stages=list) == {"stages": [1]}


# Links, pipes, pointers


def test_a_link_to_a_file_stays_a_link(tmp_path):
    """It is written through, even where it leads to nothing."""
    (tmp_path / "other" / "deep").mkdir(parents=True)
    for name in ("link.json", "link.jsonl"):
        (tmp_path / name).symlink_to(Path("other") / "deep" / "real")
    (tmp_path / "nowhere.json").symlink_to("new/real")
    write_json(tmp_path / "link.json", {"a": 1})
    assert read_json(tmp_path / "link.json") == {"a": 1}
    write_jsonl(tmp_path / "link.jsonl", [2])
    write_json(tmp_path / "nowhere.json", 3)
    assert all((tmp_path / name).is_symlink() for name in ("link.json", "link.jsonl", "nowhere.json"))
    assert (tmp_path / "other" / "deep" / "real").read_text() == "2\n" and read_json(tmp_path / "new" / "real") == 3
    before = tree(tmp_path)
    with pytest.raises(LabError, match="The disk is full"), atomic_replace(tmp_path / "link.json"):
        full_disk()
    assert tree(tmp_path) == before


def test_a_pipe_or_device_is_neither_read_nor_replaced(tmp_path):
    """Reading a pipe that nobody writes never ends; and root could put a file in the place of /dev/null."""
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(os.devnull)
    for path in (pipe, link, Path(os.devnull)):
        for use in (read_json, read_object, read_jsonl, lambda path: write_json(path, {})):
            with pytest.raises(LabError, match=f"{path} is a pipe or a device, not a regular file"):
                use(path)
    assert pipe.is_fifo() and Path(os.devnull).is_char_device() and link.is_symlink()


def test_a_pointer_of_git_lfs_is_said_whatever_reads_it(tmp_path):
    run = Run.create(tmp_path / "run", tiny_recipe())
    save_tokenizer(run.path)
    model = Transformer(ModelConfig(vocabulary=16, context=8, width=8, depth=1, heads=1, key_value_heads=1))
    run.stage("pretrain").save_model(model)
    (run.path / "pretrain" / "metrics.jsonl").touch()
    uses = {
        "recipe.json": lambda: Run.open(run.path),
        "tokenizer.json": run.tokenizer,
        "tokenizer_config.json": run.tokenizer,
        "pretrain/model.safetensors": lambda: run.model("pretrain"),
        "pretrain/metrics.jsonl": lambda: run.stage("pretrain").step_records,
    }
    for name, use in uses.items():
        file = run.path / name
        content = file.read_bytes()
        use()
        file.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12\n")
        with pytest.raises(LabError, match=f"{name} is a Git LFS pointer, .* git lfs pull"):
            use()
        file.write_bytes(content)


# Lines


def test_only_a_line_feed_ends_a_line(tmp_path):
    """Signs that Python's splitlines takes for line ends, and JSON leaves as they are."""
    rows = [{"text": f"a{sign}b"} for sign in ("\u2028", "\u2029", "\x85", "\x0b", "\x1c", "\r")]
    write_jsonl(tmp_path / "a.jsonl", rows)
    assert read_jsonl(tmp_path / "a.jsonl", strict=True) == rows


def test_no_file_no_lines(tmp_path):
    assert read_jsonl(tmp_path / "none.jsonl") == []


def test_a_torn_last_line_is_left_out_and_a_torn_middle_line_is_said(tmp_path, recwarn):
    path = tmp_path / "a.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert read_jsonl(path) == [{"step": 1}, {"step": 2}] and not recwarn.list
    path.write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.warns(UserWarning, match=r"a.jsonl: damaged lines are skipped \(line 2\)"):
        assert read_jsonl(path) == [{"step": 1}, {"step": 3}]
    with pytest.raises(LabError, match="a.jsonl, line 2, is not JSON"):
        read_jsonl(path, strict=True)


# Folders


def written(path: Path, text: str) -> None:
    with atomic_replace_folder(path) as partial:
        (partial / "a.txt").write_text(text)


def test_a_folder_takes_the_place_of_another_at_once(tmp_path, monkeypatch):
    written(tmp_path / "f", "old")
    with pytest.raises(LabError, match="The disk is full"), atomic_replace_folder(tmp_path / "f") as partial:
        (partial / "a.txt").write_text("half")
        full_disk()
    assert [p.name for p in tmp_path.iterdir()] == ["f"] and (tmp_path / "f" / "a.txt").read_text() == "old"
    written(tmp_path / "f", "new")
    assert [p.name for p in tmp_path.iterdir()] == ["f"] and (tmp_path / "f" / "a.txt").read_text() == "new"


def test_a_kill_between_the_two_renames_leaves_the_old(tmp_path):
    written(tmp_path / "f", "old")
    (tmp_path / "f").rename(tmp_path / ".f.labkit-old")
    (tmp_path / ".f.labkit-partial").mkdir()
    restore_interrupted_write(tmp_path / "f")
    assert [p.name for p in tmp_path.iterdir()] == ["f"] and (tmp_path / "f" / "a.txt").read_text() == "old"


def test_what_somebody_else_keeps_beside_is_left_alone(tmp_path):
    """Names that another tool, or a person, may give to what they set aside or have not finished."""
    for name in ("f.old", "f.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "precious").write_text("p")
    for name in ("a.json.old", "a.json.partial"):
        (tmp_path / name).write_text("p")
    before = tree(tmp_path)
    for _ in range(2):
        written(tmp_path / "f", "new")
        write_json(tmp_path / "a.json", {})
    after = tree(tmp_path)
    assert {name: after.get(name) for name in before} == before
    assert set(after) - set(before) == {"f", "f/a.txt", "a.json"}


def test_a_link_to_a_folder_stays_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    written(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real" / "a.txt").read_text() == "new"


# A full disk, whoever writes


def save_tokenizer(folder: Path) -> None:
    Tokenizer.train(["Tom is in the park."]).save(folder)


def save_report(folder: Path) -> None:
    if not (folder / "recipe.json").exists():
        Run.create(folder, tiny_recipe())
    report.write_report(folder)


def save_choices(folder: Path) -> None:
    write_annotated_pairs(
        folder / "train.jsonl", [AnnotatedPair(PreferencePair((Message("user", "Who?"),), "a\u2028b", "c"), 1.0, 0.0)]
    )


@pytest.mark.parametrize("save", [save_tokenizer, save_report, save_choices])
@pytest.mark.parametrize("hindered", ["labkit.files.fsync_path", "labkit.files.os.replace", "pathlib.Path.touch"])
def test_what_was_there_before_a_full_disk_is_whole(tmp_path, monkeypatch, save, hindered):
    monkeypatch.setattr(report, "render_run_report", lambda folder: "<!doctype html>")
    save(tmp_path)
    before = tree(tmp_path)
    assert len(before) > 1
    with monkeypatch.context() as full:
        full.setattr(hindered, full_disk)
        with pytest.raises(LabError, match="The disk is full"):
            save(tmp_path)
    assert tree(tmp_path) == before


# Rights


@pytest.mark.parametrize("umask", [0o022, 0o027])
def test_weights_have_the_mode_of_their_neighbours(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_json(tmp_path / "config.json", {})
        write_weights(tmp_path, nn.Linear(2, 2))
        Checkpoints(tmp_path / "c").save(1, nn.Linear(2, 2), {"optimizer": {"a": torch.zeros(1)}}, {"step": 1})
    finally:
        os.umask(before)
    modes = {p.name: oct(p.stat().st_mode & 0o777) for p in tmp_path.rglob("*") if p.is_file()}
    assert len(modes) == 4 and set(modes.values()) == {oct(0o666 & ~umask)}


def test_weights_that_may_not_be_read_are_said_to_be():
    with tempfile.TemporaryDirectory() as folder:
        run = Run.create(Path(folder) / "run", tiny_recipe())
        model = Transformer(ModelConfig(vocabulary=16, context=8, width=8, depth=1, heads=1, key_value_heads=1))
        run.stage("pretrain").save_model(model)
        (run.path / "pretrain" / "model.safetensors").chmod(0o000)
        Path(folder).chmod(0o755)
        mend = "Allow reading it: chmod u.rX .*model.safetensors$"
        with (
            without_root_rights(),
            pytest.raises(LabError, match=f"model.safetensors cannot be read: permission denied. {mend}"),
        ):
            run.model("pretrain")


def test_a_path_of_a_user_who_is_none_is_a_name():
    assert absolute_path("~nobody-of-this-name/x.py") == Path.cwd().resolve() / "~nobody-of-this-name/x.py"
    assert absolute_path("~/x.py") == Path.home().resolve() / "x.py"
