"""Loading: every ending, every column layout, every refusal; the corpora folder, or files of its shape."""

import json
import os

import datasets
import pyarrow
import pytest
from pyarrow import parquet

from labkit.errors import LabError
from labkit.text.clean import clean_text
from labkit.text.reading import read_conversations, read_preferences, read_texts, split_held_out
from labkit.text.reading.texts import read_unsplit_texts
from labkit.text.sources import RandomChunkSource, encode_corpus
from labkit.text.tokenizer import Tokenizer

ROWS = [{"text": f"Story {index}: {index * 37} birds sat on {index * 91} trees."} for index in range(30)]
TURNS = [{"instruction": f"Add {n} and one, {n}.", "input": "", "output": f"It is {n + 1}, {n}."} for n in range(20)]


def write(path, rows):
    if path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    else:
        path.write_text(json.dumps(rows))
    return path


def test_one_text_is_split_by_character(corpora):
    raw = (corpora / "tinyshakespeare.txt").read_text()
    texts = read_texts(corpora / "tinyshakespeare.txt")
    whole = clean_text(raw)
    assert texts.train == [whole[: int(len(whole) * 0.9)]]
    assert texts.train[0] + texts.validation[0] == whole
    assert texts.reading.removed_characters == len(raw) - len(whole)


def test_real_text_reaches_a_batch_and_comes_back(corpora):
    texts = read_texts(corpora / "tinyshakespeare.txt")
    tokenizer = Tokenizer.train(map(str, texts.train))
    ids = encode_corpus(tokenizer, texts.validation)
    assert tokenizer.decode(ids.tolist()) == texts.validation[0]
    assert 320 <= tokenizer.vocab_size <= 4096 and tokenizer.vocab_size % 64 == 0
    batch = RandomChunkSource(ids, 4, 32, bos_token_id=tokenizer.bos_token_id).next_batch(None, 0)
    assert tokenizer.decode(batch.labels[0].tolist()) in texts.validation[0]


def test_instructions(corpora):
    conversations = read_conversations(corpora / "instructions.json")
    rows = json.loads((corpora / "instructions.json").read_text())
    read = len(conversations.train) + len(conversations.validation)
    record = conversations.reading
    assert read == record.kept and read + record.dropped.total() == record.read == len(rows)
    assert read > 0.9 * len(rows)
    assert abs(len(conversations.validation) - 0.1 * read) < 1
    row = next(row for row in rows if row["input"])
    wanted = f"{row['instruction']}\n\n{row['input']}"
    found = [d for d in conversations.train + conversations.validation if d.messages[0].content == wanted]
    assert [message.role for message in found[0].messages] == ["user", "assistant"]
    assert found[0].messages[1].content == row["output"]


def test_other_columns_of_a_table_do_not_matter(corpora):
    assert len(read_conversations(corpora / "instruction-preferences.json").train) > 900


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".parquet"])
def test_tables_of_text_and_of_conversations(tmp_path, ending):
    texts = read_texts(write(tmp_path / f"rows{ending}", ROWS))
    assert sorted(map(str, [*texts.train, *texts.validation])) == sorted(row["text"] for row in ROWS)
    assert (len(texts.train), len(texts.validation)) == (27, 3)
    conversations = read_conversations(write(tmp_path / f"turns{ending}", TURNS))
    assert (len(conversations.train), len(conversations.validation)) == (18, 2)


def test_a_json_list_of_strings_and_a_wrapped_list(tmp_path):
    plain = [row["text"] for row in ROWS]
    (tmp_path / "plain.json").write_text(json.dumps(plain))
    (tmp_path / "wrapped.json").write_text(json.dumps({"version": 1, "data": ROWS}))
    assert read_texts(tmp_path / "plain.json")[:2] == read_texts(tmp_path / "wrapped.json")[:2]


def test_a_folder_is_all_its_files(tmp_path):
    write(tmp_path / "a.jsonl", ROWS[:10])
    (tmp_path / "deeper").mkdir()
    write(tmp_path / "deeper" / "b.parquet", ROWS[10:])
    (tmp_path / "c.txt").write_text("A text of its own.")
    (tmp_path / "notes.md").write_text("# Notes are text")
    (tmp_path / "table.csv").write_text("text,n\nA cell of text.,1\n")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "index.txt").write_text("hidden")
    (tmp_path / "._c.txt").write_bytes(b"\0\5\x16\7")
    (tmp_path / "empty.txt").write_text("")
    texts = read_texts(tmp_path)
    more = ["A text of its own.", "# Notes are text", "A cell of text."]
    assert sorted(map(str, [*texts.train, *texts.validation])) == sorted([*(row["text"] for row in ROWS), *more])
    assert texts.reading.unused == [
        "file ._c.txt (hidden)",
        "file .git/index.txt (hidden)",
        "file picture.png (unsupported type)",
        "file empty.txt",
        "column n",
    ]
    assert "Not read: empty.txt is empty." in texts.reading.warnings


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user", "content": "Hi {}?"}, {"role": "assistant", "content": "Yes {}."}]},
        {"conversations": [{"from": "human", "value": "Hi {}?"}, {"from": "gpt", "value": "Yes {}."}]},
        {"prompt": "Hi {}?", "completion": "Yes {}."},
        {"prompt": "Hi {}?", "response": "Yes {}."},
        {"question": "Hi {}?", "answer": "Yes {}.", "id": 7},
        {"instruction": "Hi {}?", "context": "", "response": "Yes {}."},
    ],
)
def test_every_column_layout_gives_the_same_conversations(tmp_path, row):
    rows = [json.loads(json.dumps(row).replace("{}?", f"{n}?").replace("{}.", f"{n}.")) for n in range(5)]
    conversations = read_conversations(write(tmp_path / "rows.jsonl", rows))
    contents = sorted(
        [message.content for message in document.messages]
        for document in conversations.train + conversations.validation
    )
    assert contents == [[f"Hi {n}?", f"Yes {n}."] for n in range(5)]


def test_unanswered_and_repeated_conversations_are_dropped_and_counted(tmp_path):
    rows = [*TURNS, TURNS[0], {"instruction": "Why?", "input": None, "output": " "}]
    rows.append({"instruction": "add 3 and one 3", "input": "", "output": "it is 4 3"})
    conversations = read_conversations(write(tmp_path / "rows.json", rows))
    assert conversations.reading.dropped == {"empty answer": 1, "duplicate": 1}
    assert "empty answer: rows.json, row 22" in conversations.reading.warnings
    assert len(conversations.train) + len(conversations.validation) == 21  # one that is only like another stays


def test_what_is_held_out_does_not_depend_on_the_order():
    items = [f"item {index}" for index in range(50)]
    train, validation = split_held_out(items, 0.1, key=str)
    train_again, validation_again = split_held_out(items[::-1], 0.1, key=str)
    assert len(validation) == 5 and not set(train) & set(validation)
    assert set(validation) == set(validation_again) and train == train_again[::-1]
    assert [len(part) for part in split_held_out(items[:2], 0.01, key=str)] == [1, 1]


def test_a_hub_data_set_by_name(monkeypatch):
    asked = []

    def load_dataset(path, config):
        asked.append((path, config))
        return datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert len(read_texts("someone/stories:small").train) == 27
    assert len(read_texts("stories").train) == 27
    assert asked == [("someone/stories", "small"), ("stories", None)]


def test_the_splits_of_a_hub_data_set_are_kept(monkeypatch):
    parts = {"train": ROWS[:20], "validation": ROWS[20:25], "test": ROWS[25:]}
    loaded = datasets.DatasetDict({name: datasets.Dataset.from_list(rows) for name, rows in parts.items()})
    monkeypatch.setattr(datasets, "load_dataset", lambda path, config: loaded)
    texts = read_texts("someone/stories")
    assert texts.train == [row["text"] for row in ROWS[:20]]
    assert texts.validation == [row["text"] for row in ROWS[20:25]]
    assert texts.reading.unused == ["split test (5 rows)"]


def test_several_training_splits_of_a_hub_data_set_are_not_guessed_among(monkeypatch):
    rows = datasets.Dataset.from_list(ROWS)
    monkeypatch.setattr(datasets, "load_dataset", lambda path, config: {"train_sft": rows, "train_prefs": rows})
    with pytest.raises(LabError, match="several splits to train on, train_sft, train_prefs; which is meant"):
        read_texts("someone/stories")


def test_a_hub_that_gives_nothing_is_said_so(monkeypatch):
    def load_dataset(path, config):
        raise FileNotFoundError("Couldn't reach the hub")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(LabError, match="someone/stories is not a file, .* Couldn't reach the hub"):
        read_texts("someone/stories")


REFUSED = [
    ("empty.txt", b"", "empty.txt is empty"),
    ("blank.txt", b" \n\n ", "blank.txt is empty"),
    ("mark.json", b"\xff\xfe", "mark.json is empty"),
    ("one.txt", b"x", "too short to hold out a part: 1 characters"),
    ("zeros.txt", b"rest\x04\x00\x00rest!", "zeros.txt is not text, or is damaged: it has 2 NUL bytes"),
    ("bytes.txt", bytes(range(1, 256)), "bytes.txt is not UTF-8, and too short for its encoding"),
    ("story.pdf", b"%PDF", "story.pdf is a PDF: a binary file, not text. To use it, save it as text"),
    ("story.docx", b"word", r"unknown file extension; supported are \.txt, \.text, \.md"),
    ("rows.gz", b"\x1f\x8b\x08cut", "rows.gz cannot be unpacked: .* Is the download complete"),
    ("rows.json", b"[1, 2", "rows.json is not JSON"),
    ("none.json", b"[]", "none.json is empty: it contains no row"),
    ("number.json", b"3", "contains no list of rows"),
    ("mixed.json", b'[true, {"a": 1}]', "mixed.json, row 1 has true or false where a text is needed"),
    ("rows.jsonl", b'{"text": "a"}\n{"text": \n{"t', "rows.jsonl, line 2 is not JSON: .*2 of 3 rows cannot be used"),
    ("titles.jsonl", b'{"title": "a", "n": 1}', "has the columns title, n; plain text needs one of text, content"),
    ("void.parquet", b"", "void.parquet is empty"),
    ("fake.parquet", b"not parquet at all", "fake.parquet is not a parquet file"),
]


@pytest.mark.parametrize("name, content, message", REFUSED, ids=[case[0] for case in REFUSED])
def test_bad_text_is_refused_in_words(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(LabError, match=message):
        read_texts(tmp_path / name)


@pytest.mark.parametrize("name", ["missing.txt", "no/such/folder", "./missing", "/nowhere", "a b"])
def test_a_missing_file_is_named(name):
    with pytest.raises(LabError, match="There is no file or folder"):
        read_texts(name)


def test_a_folder_without_text_is_refused(tmp_path):
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    with pytest.raises(LabError, match="contains no .txt, .text, .md, .markdown, .jsonl"):
        read_texts(tmp_path)


def test_conversations_name_the_columns_found_and_those_needed(tmp_path):
    path = write(tmp_path / "rows.json", [{"instruction": "Hi", "reply": "Yes"}])
    with pytest.raises(LabError) as caught:
        read_conversations(path)
    assert "rows.json, row 1 has the columns instruction, reply; conversations need messages, or a" in str(caught.value)
    assert "question" in str(caught.value) and "response" in str(caught.value)


@pytest.mark.parametrize(
    "rows, message",
    [
        ([{"messages": [{"role": "robot", "content": "x"}]}], "role 'robot'"),
        ([{"messages": ["x"]}], "rows.json, row 1 has a list where a list of messages"),
        (TURNS[:1], "contains one conversation; 2 different ones are needed"),
        (["x"], "rows.json, row 1 is text where a row with named columns is needed"),
    ],
)
def test_bad_conversations_are_refused_in_words(tmp_path, rows, message):
    with pytest.raises(LabError, match=message):
        read_conversations(write(tmp_path / "rows.json", rows))


def test_plain_text_is_no_conversation(tmp_path):
    (tmp_path / "a.txt").write_text("Hello.")
    with pytest.raises(LabError, match="is plain text; this kind of data is read from .jsonl"):
        read_conversations(tmp_path / "a.txt")


# Preferences

PAIRS = [{"prompt": f"Add {n} and one.", "chosen": f"It is {n + 1}.", "rejected": "No."} for n in range(20)]


def test_preferences(corpora):
    found = read_preferences(corpora / "instruction-preferences.json")
    rows = json.loads((corpora / "instruction-preferences.json").read_text())
    pairs = found.train + found.validation
    assert len(pairs) == found.reading.kept and found.reading.read == len(rows) and len(pairs) > 0.9 * len(rows)
    row = next(row for row in rows if row["input"] and row["chosen"] != row["rejected"])
    wanted = f"{row['instruction']}\n\n{row['input']}"
    pair = next(pair for pair in pairs if pair.prompt[0].content == wanted)
    assert (pair.chosen, pair.rejected) == (row["chosen"], row["rejected"])


@pytest.mark.parametrize("name", ["p.json", "p.jsonl", "p.parquet"])
def test_preferences_as_text_or_as_messages(tmp_path, name):
    said = [
        {
            "prompt": [{"role": "user", "content": row["prompt"]}],
            **{side: [{"role": "assistant", "content": row[side]}] for side in ("chosen", "rejected")},
        }
        for row in PAIRS
    ]
    plain = read_preferences(write(tmp_path / name, PAIRS))
    assert plain[:2] == read_preferences(write(tmp_path / f"messages-{name}", said))[:2]
    assert len(plain.train) == 18 and len(plain.validation) == 2


def test_a_held_out_prompt_is_in_no_training_pair(tmp_path):
    again = [row | {"rejected": f"No, {n}."} for row in PAIRS for n in range(3)]
    found = read_preferences(write(tmp_path / "p.json", again))
    assert not {pair.prompt for pair in found.train} & {pair.prompt for pair in found.validation}
    assert len(found.train) == 54 and len(found.validation) == 6


def test_equal_and_empty_answers_are_left_out(tmp_path):
    rows = [*PAIRS, PAIRS[0], PAIRS[1] | {"rejected": PAIRS[1]["chosen"]}, PAIRS[2] | {"rejected": ""}]
    found = read_preferences(write(tmp_path / "p.json", rows))
    assert len(found.train) + len(found.validation) == 21
    assert found.reading.dropped == {"identical answers": 1, "empty answer": 1}
    assert found.reading.warnings == ["identical answers: p.json, row 22", "empty answer: p.json, row 23"]


def test_votes_stay_as_many_as_they_are_and_may_disagree(tmp_path):
    again = [PAIRS[0]] * 9 + [PAIRS[0] | {"chosen": PAIRS[0]["rejected"], "rejected": PAIRS[0]["chosen"]}]
    found = read_preferences(write(tmp_path / "p.jsonl", [*again, *PAIRS[1:]]))
    mine = [pair for pair in found.train + found.validation if pair.prompt[0].content == PAIRS[0]["prompt"]]
    assert [pair.rejected for pair in mine] == ["No."] * 9 + ["It is 1."]
    assert not found.reading.dropped


def test_preferences_without_a_pair(tmp_path):
    rows = [row | {"rejected": row["chosen"]} for row in PAIRS]
    with pytest.raises(LabError, match="p.json, row 1 has the same answer chosen and rejected.*20 of 20 rows"):
        read_preferences(write(tmp_path / "p.json", rows))


def test_preferences_with_other_columns(tmp_path):
    with pytest.raises(
        LabError, match="row 1 has the columns instruction, input, output; preferences need chosen and rejected"
    ):
        read_preferences(write(tmp_path / "p.json", TURNS))


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_pipe_or_a_device_is_refused_before_it_is_read(tmp_path, kind):
    path = tmp_path / "rows.jsonl"
    os.mkfifo(path)
    with pytest.raises(LabError, match="is a pipe or a device, not a file"):
        read_texts(path if kind == "pipe" else "/dev/zero")


def test_a_pipe_and_a_dead_link_in_a_folder_are_passed_over(tmp_path):
    write(tmp_path / "a.jsonl", ROWS)
    os.mkfifo(tmp_path / "b.jsonl")
    (tmp_path / "c.jsonl").symlink_to("gone.jsonl")
    unused = read_texts(tmp_path).reading.unused
    assert unused == [f"file {name}.jsonl (a link to nothing, a pipe or a device)" for name in "bc"]


@pytest.mark.parametrize("address", ["https://example.org/rows.json", "s3://box/rows.parquet", "hf://datasets/a/b"])
def test_an_address_is_no_path(address):
    with pytest.raises(LabError, match="is a URL. Download it and give the file"):
        read_texts(address)


def test_what_datasets_keeps_on_the_disk_is_refused_with_the_mend(tmp_path):
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "kept")
    with pytest.raises(LabError, match="kept is what datasets' save_to_disk writes, .* to_parquet"):
        read_texts(tmp_path / "kept")


def test_documents_begin_after_the_mark_that_parts_them(tmp_path):
    texts = ["One day.", "  Two days.\n\nAnd more.", "Three."]
    (tmp_path / "a.txt").write_text("<|endoftext|>\n<|endoftext|>\r\n".join(f"{text}\n" for text in texts))
    assert [str(text) for text in read_unsplit_texts(tmp_path / "a.txt").values] == [*texts[:2], "Three.\n"]
