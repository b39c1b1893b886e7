"""What is held out: by size where sizes differ, by content where they do not, and as the source says where it does."""

import json
from pathlib import Path

import datasets
import pytest

from labkit.errors import LabError
from labkit.text.reading import read_conversations, read_preferences, read_texts, split_held_out
from labkit.text.reading.files import file_splits
from labkit.text.reading.held_out import hold_out_texts


@pytest.mark.parametrize("seed", range(8))
def test_a_note_beside_a_book_is_not_all_that_is_trained_on(seed):
    note, book = f"A note of forty-five characters, number {seed}....", f"{seed} birds sat on a tree. " * 20_000
    train, validation = hold_out_texts([note, book], 0.1)
    assert book[: int(len(book) * 0.9)] in train
    assert 0.09 < sum(map(len, validation)) / len(note + book) < 0.11


@pytest.mark.parametrize("count", [2, 3, 4, 10, 100])
def test_about_a_tenth_of_the_characters_is_held_out_of_texts_of_any_size(count):
    texts = [f"text {index} " * (1 + index**2 % 37) for index in range(count)]
    train, validation = hold_out_texts(texts, 0.1)
    share = sum(map(len, validation)) / sum(map(len, texts))
    assert 0.05 < share < 0.2
    assert sum(map(len, train)) + sum(map(len, validation)) == sum(map(len, texts))


def test_equal_texts_are_held_out_whole_and_by_content_alone():
    texts = [f"A story, number {index:03}." for index in range(50)]
    train, validation = hold_out_texts(texts, 0.1)
    assert (train, validation) == split_held_out(texts, 0.1, key=str)
    assert set(hold_out_texts(texts[::-1], 0.1)[1]) == set(validation) and len(validation) == 5


def test_too_little_to_hold_out_is_said():
    with pytest.raises(LabError, match="too short to hold out a part: 2 characters"):
        hold_out_texts(["x", "y"], 0.1)


def lines(path, rows):
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(map(json.dumps, rows)))


def test_files_named_as_splits_are_what_they_say(tmp_path):
    texts = [{"text": f"Story {index} of {index * 7} birds."} for index in range(30)]
    lines(tmp_path / "data" / "train-00000-of-00002.jsonl", texts[:10])
    lines(tmp_path / "data" / "train-00001-of-00002.jsonl", texts[10:20])
    lines(tmp_path / "data" / "valid.jsonl", texts[20:25])
    lines(tmp_path / "test" / "rows.jsonl", texts[25:])
    found = read_texts(tmp_path)
    assert [len(found.train), len(found.validation)] == [20, 5]
    assert found.validation == [row["text"] for row in texts[20:25]]
    assert found.reading.warnings == ["The split validation (5 rows) is the held-out data."]
    assert found.reading.unused == ["split test (5 rows)"]


def test_a_file_called_test_among_others_is_a_file_like_any_other(tmp_path):
    lines(tmp_path / "test.jsonl", [{"text": f"Test {index}"} for index in range(10)])
    lines(tmp_path / "more.jsonl", [{"text": f"More {index}"} for index in range(10)])
    found = read_texts(tmp_path)
    assert len(found.train) == 18 and not found.reading.warnings


def test_the_splits_inside_one_file(tmp_path):
    rows = [{"prompt": f"Add {n}.", "completion": f"It is {n}."} for n in range(20)]
    (tmp_path / "rows.json").write_text(json.dumps({"test": rows[:3], "train": rows[3:]}))
    found = read_conversations(tmp_path / "rows.json")
    assert [m.content for m in found.validation[0].messages] == ["Add 0.", "It is 0."]
    assert [len(found.train), len(found.validation)] == [17, 3]


def test_a_prompt_that_the_source_holds_out_is_not_trained_on(tmp_path):
    rows = [{"prompt": f"Add {n}.", "chosen": f"It is {n}.", "rejected": "No."} for n in range(10)]
    (tmp_path / "rows.json").write_text(json.dumps({"train": rows, "validation": rows[:2]}))
    found = read_preferences(tmp_path / "rows.json")
    assert [len(found.train), len(found.validation)] == [8, 2]
    assert "2 training pairs have a prompt that is held out, and are not trained on." in found.reading.warnings


def splits_of(*names):
    return dict(zip(names, file_splits([Path(name) for name in names]).split_per_file, strict=True))


@pytest.mark.parametrize(
    "splits",
    [
        {"train-00000-of-00002-3f1d.parquet": "train", "valid.txt.gz": "validation", "test/a.txt": "test"},
        {"my_train_trip.txt": "", "other test day.txt": "", "training_day.txt": "", "evaluation.txt": ""},
        {"alpaca_train.json": "train", "alpaca_test.json": "test", "my_test.json": ""},
        {"train_v2.jsonl": "train", "test.jsonl": "test"},
        {"data/train_sft-0.jsonl": "train", "data/test_sft-0.jsonl": "test"},
        {"train_data/a.txt": "train", "test_data/a.txt": "test"},
    ],
)
def test_a_name_that_only_holds_a_splits_word_is_none(splits):
    assert splits_of(*splits) == splits


@pytest.mark.parametrize("container", ["folder", "object"])
def test_splits_of_several_stages_are_not_pooled(tmp_path, container):
    names = ("train_sft", "test_sft", "train_prefs", "test_prefs")
    rows = {name: [{"prompt": f"{name} {n}", "completion": "Yes."} for n in range(4)] for name in names}
    if container == "object":
        (tmp_path / "rows.json").write_text(json.dumps(rows))
    else:
        for name, part in rows.items():
            lines(tmp_path / "data" / f"{name}-00000-of-00001.jsonl", part)
    with pytest.raises(LabError, match="several splits to train on, train_(prefs|sft), .*; which is meant"):
        read_conversations(tmp_path / "rows.json" if container == "object" else tmp_path)


def folder(path, **files):
    for name, rows in files.items():
        (path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.mark.parametrize("held", ["validation", "test", "eval"])
def test_of_a_row_that_is_trained_on_and_held_out_the_held_out_copy_stays(tmp_path, held):
    rows = [{"instruction": f"Add {n}.", "output": f"It is {n}."} for n in range(6)]
    found = read_conversations(folder(tmp_path, train=[*rows, rows[5]], **{held: rows[:2]}))
    assert [document.messages[0].content for document in found.validation] == ["Add 0.", "Add 1."]
    assert len(found.train) == 4 and found.reading.dropped == {"held out too": 2, "duplicate": 1}


def test_of_a_text_that_is_nearly_one_held_out_the_held_out_one_stays(tmp_path):
    texts = [" ".join(f"word{n * k % 91}" for k in range(1, 80)) for n in range(1, 7)]
    train = [{"text": text} for text in [*texts, f"{texts[1]} end"]]
    found = read_texts(folder(tmp_path, train=train, validation=[{"text": texts[0]}, {"text": f"{texts[1]} so"}]))
    assert found.validation == [texts[0], f"{texts[1]} so"]
    assert found.train == texts[2:] and found.reading.dropped == {"held out too": 3}


def test_a_training_split_that_is_all_held_out_is_refused(tmp_path):
    rows = [{"instruction": f"Add {n}.", "output": f"It is {n}."} for n in range(6)]
    with pytest.raises(LabError, match=r"nothing is left to train on: of the split train \(6 rows\)"):
        read_conversations(folder(tmp_path, train=rows, validation=rows))


def test_a_split_of_which_nothing_is_left_is_said(tmp_path):
    rows = [{"instruction": f"Add {n}.", "output": f"It is {n}."} for n in range(12)]
    found = read_conversations(folder(tmp_path, train=rows, validation=[{"instruction": "Add.", "output": ""}]))
    assert "The split validation (1 read) has no row left." in found.reading.warnings


@pytest.mark.parametrize("name, damaged", [("train.jsonl", ""), ("train.parquet", "PAR1 cut"), ("train.json", "{}")])
def test_a_training_file_that_cannot_be_read_is_refused_whatever_lies_beside_it(tmp_path, name, damaged):
    rows = [{"instruction": f"Add {n}.", "output": f"It is {n}."} for n in range(6)]
    folder(tmp_path, test=rows, validation=rows[:3], more=rows)
    (tmp_path / name).write_text(damaged)
    with pytest.raises(LabError, match="train"):
        read_conversations(tmp_path)


def test_an_empty_training_list_beside_a_test_list_is_refused(tmp_path):
    rows = [{"instruction": f"Add {n}.", "output": f"It is {n}."} for n in range(6)]
    (tmp_path / "rows.json").write_text(json.dumps({"train": [], "test": rows}))
    with pytest.raises(LabError, match="rows.json contains nothing to train on: its split train is empty"):
        read_conversations(tmp_path / "rows.json")


def test_a_column_split_parts_rows_as_names_of_files_do(tmp_path):
    rows = [{"text": f"Story {n} of {n * 7} birds.", "split": "train" if n < 7 else "dev"} for n in range(9)]
    found = read_texts(folder(tmp_path, rows=rows))
    assert [len(found.train), len(found.validation)] == [7, 2] and not found.reading.unused


@pytest.mark.parametrize("split", ["test", "validation"])
def test_a_source_of_one_split_that_is_held_out_elsewhere_is_trained_on_and_that_is_said(tmp_path, split):
    lines(tmp_path / "rows.jsonl", [{"text": f"Story {index} of birds.", "split": split} for index in range(20)])
    found = read_texts(tmp_path / "rows.jsonl")
    assert [len(found.train), len(found.validation)] == [18, 2]
    assert found.reading.warnings == [
        f"All rows are of the split {split}: they are trained on, except a held-out part."
    ]


def test_an_empty_split_to_train_on_of_a_hub_data_set_is_refused(monkeypatch):
    held = datasets.Dataset.from_list([{"text": f"Story {index} of birds."} for index in range(20)])
    loaded = datasets.DatasetDict(train=held.select([]), test=held)
    monkeypatch.setattr(datasets, "load_dataset", lambda path, config: loaded)
    with pytest.raises(LabError, match="someone/stories: nothing is there to train on: its split train is empty"):
        read_texts("someone/stories")
