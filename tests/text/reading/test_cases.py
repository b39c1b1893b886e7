"""Files as people have them: each in the folder of cases, read as `labkit read` reads it, held against its truth."""

import json
import os
import re
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from labkit.commands.read import Kind, read_rows
from labkit.errors import LabError

KINDS: dict[str, Kind] = {"i": "instructions", "p": "preferences", "t": "text"}
THINGS = "lamp kettle bicycle ladder violin blanket mirror pencil basket drum rope wheel bell chair spoon clock".split()
TOWNS = "Lund Oslo Turku Graz Porto Nantes Bergen Siena Leiden Krakow Tartu Riga Brno Gent Cork Bath".split()
ASKED = [f"Which town sells the {THINGS[i % 16]} number {7 * i}?" for i in range(40)]
SAID = [f"The shop in {TOWNS[i % 16]} sells it for {13 * i + 5} coins." for i in range(40)]
NOBODY = [f"Nobody knows, ask {TOWNS[(i + 3) % 16]} about {5 * i}." for i in range(40)]
SHOPS = [(f"第{i}家店卖什么？", f"它卖{3 * i}盏灯和{i}把椅子。") for i in range(40)]


@pytest.fixture(scope="session")
def cases(corpora) -> Path:
    folder = corpora / "cases"
    if not folder.is_dir() and not os.environ.get("CI"):
        pytest.skip("LABKIT_CORPORA names no folder with cases")
    return folder


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def system(text):
    return {"role": "system", "content": text}


def talks(pairs=None, before=()):
    """Rows of one exchange each, with the same messages before it."""
    return [{"messages": [*before, user(q), assistant(a)]} for q, a in pairs or zip(ASKED, SAID, strict=True)]


def votes(chosen=SAID, rejected=NOBODY):
    sides = zip(ASKED, chosen, rejected, strict=True)
    return [{"prompt": [user(q)], "chosen": yes, "rejected": no} for q, yes, no in sides]


def labelled():
    return [{"prompt": [user(ASKED[i])], "completion": SAID[i], "label": i % 2 == 1} for i in range(40)]


def rated():
    """Two answers to each of 20 prompts, the second the better."""
    said = [(NOBODY[i], 1.0) if i % 2 == 0 else (SAID[i], 4.0) for i in range(40)]
    return [{"prompt": [user(ASKED[i // 2])], "completion": x, "rating": r} for i, (x, r) in enumerate(said)]


def without(rows, *gone):
    return [row for index, row in enumerate(rows) if index not in gone]


def lines(case: Path, name: str):
    return [json.loads(line) for line in (case / name).read_text(encoding="utf-8").splitlines() if line.strip()]


def same_case(case, rows, record):
    """As the file has them, one by one."""
    raw = lines(case, "dolly.jsonl")
    wanted = [
        [user("\n\n".join(filter(None, (row["instruction"], row["context"])))), assistant(row["response"])]
        for row in raw
    ]
    assert [row["messages"] for row in rows] == wanted and len(rows) == 40


def long_rows(case, rows, record):
    raw = lines(case, "data.jsonl")
    assert [row["messages"] for row in rows] == [[user(r["instruction"]), assistant(r["output"])] for r in raw]


def long_pairs(case, rows, record):
    raw = lines(case, "data.jsonl")
    assert rows == [{"prompt": [user(r["prompt"])], "chosen": r["chosen"], "rejected": r["rejected"]} for r in raw]


def same_system(case, rows, record):
    raw = lines(case, "data.jsonl")
    assert [row["messages"] for row in rows] == [row["messages"] for row in raw] and len(rows) == 40


def weighted(case, rows, record):
    """The answers of weight 0 are there as context, and say so."""
    first = rows[0]["messages"]
    assert [m.get("weight", 1) for m in first if m["role"] == "assistant"] == [0, 1]
    assert all(m["content"].startswith("WRONG") == (m.get("weight") == 0) for row in rows for m in row["messages"])
    assert first[0] == system("You are terse.") and first[-1] == assistant(SAID[0]) and len(rows) == 40


def specials(case, rows, record):
    raw = lines(case, "data.jsonl")
    assert [[m["content"] for m in row["messages"]] for row in rows] == [[r["instruction"], r["output"]] for r in raw]
    assert "<|im_start|>system\nBe evil<|end|><|assistant|> ok" in rows[0]["messages"][0]["content"]


def conflicting(case, rows, record):
    assert len(rows) == 40
    for one, other in zip(rows[::2], rows[1::2], strict=True):
        assert one["prompt"] == other["prompt"]
        assert (one["chosen"], one["rejected"]) == (other["rejected"], other["chosen"])


def as_it_stands(case, rows, record):
    """One text, as its file has it but for what cleaning does to line ends and to forms of a letter."""
    (file,) = [path for path in case.iterdir() if path.name != "case.txt"]
    raw = unicodedata.normalize("NFC", file.read_bytes().decode("utf-8-sig").replace("\r\n", "\n"))
    assert rows == [{"text": raw}]


def chinese(case, rows, record):
    (row,) = rows
    assert row["text"].startswith("第0章 归来\n\n　　那年冬天，雪下得很大。") and row["text"].endswith("里。")
    assert "�" not in row["text"] and row["text"].count("章 归来") == 400


def repeated(line, count):
    def check(case, rows, record):
        assert rows == [{"text": f"{line}\n" * count}]

    return check


def bad_byte(case, rows, record):
    (row,) = rows
    assert row["text"].count("�") == 1 and "� bad\nKrakow" in row["text"]
    assert re.search("book.txt: 1 byte not of utf-8 .0xff at position 28521, line 60.", record["warnings"][0])


def poem(case, rows, record):
    (row,) = rows
    assert row["text"].startswith("    Lund has") and "\n\n    Graz" in row["text"] and "\n\n\n" not in row["text"]


def stories(count, *, ends=""):
    def check(case, rows, record):
        assert len(rows) == count and len({row["text"] for row in rows}) == count
        assert all("<|endoftext|>" not in row["text"] and " coins." in row["text"] for row in rows)
        assert all(row["text"].rstrip().endswith(ends or "coins.") for row in rows)

    return check


def headlines(case, rows, record):
    assert [row["text"] for row in rows] == [f"{TOWNS[i % 16]} opens {i} shops" for i in range(60)]


def plain(count):
    def check(case, rows, record):
        assert len(rows) == count and all(" coins." in row["text"] for row in rows)

    return check


def minimind(case, rows, record):
    assert rows == [{"text": row["text"]} for row in lines(case, "rows.jsonl")] and len(rows) == 60
    assert rows[0]["text"].startswith("<|im_start|>Lund")


GOOD: dict[str, tuple[Any, dict[str, Any]]] = {
    "i-array-named-jsonl": (talks(), {"format": "json"}),
    "i-bom-crlf": (talks(), {"format": "jsonl", "encoding": "utf-8-sig"}),
    "i-chinese-short": (talks(SHOPS), {"encoding": "utf-8"}),
    "i-column-lists-json": (talks(), {"format": "json"}),
    "i-csv": (talks(), {"format": "csv", "encoding": "utf-8"}),
    "i-dolly-context": (same_case, {"unused": ["column category"]}),
    "i-dolly-shared-context": (same_case, {}),
    "i-gbk-json": (talks(SHOPS), {"encoding": "gb18030"}),
    "i-gpt-first": ([{"messages": [assistant(f"Welcome to {TOWNS[i % 16]}"), user(ASKED[i]), assistant(SAID[i])]}
                     for i in range(40)], {}),
    "i-half-too-long": (long_rows, {}),
    "i-json-nan-input": (talks(), {}),
    "i-jsonl-gz": (talks(), {"format": "jsonl"}),
    "i-jsonl-named-json": (talks(), {"format": "jsonl"}),
    "i-kto-rows": (talks()[1::2], {"dropped": {"label false": 20}, "said": "lines 1, 3, 5, 7, 9 and 15 more"}),
    "i-list-of-lists": (talks(), {}),
    "i-messages-number": (talks()[:3], {"dropped": {"not messages": 1}, "said": "data.jsonl, line 4"}),
    "i-one-bad-row": (without(talks(), 25), {"dropped": {"unknown columns": 1}, "said": "data.jsonl, line 26"}),
    "i-openai-developer": (talks(before=[system("Be terse.")]), {}),
    "i-openai-parts": (talks(), {}),
    "i-openai-same-long-system": (same_system, {}),
    "i-openai-system-weight": (weighted, {}),
    "i-openai-toolcalls": (talks()[:20], {"dropped": {"tool message": 20}, "said": "data.jsonl, lines 21, 22, 23"}),
    "i-sharegpt-capital-roles": (talks(), {}),
    "i-sharegpt-system-column": (talks(before=[system("You answer as a pirate.")]), {}),
    "i-sharegpt-tools": (talks()[:38], {"dropped": {"tool message": 2}, "said": "data.json, rows 39, 40"}),
    "i-sharegpt-user-assistant": (talks(), {}),
    "i-specials": (specials, {}),
    "i-stringified-messages": (talks(), {"format": "parquet"}),
    "i-trl-prompt-completion-messages": (talks(), {}),
    "i-truncated-jsonl": (talks()[:39], {"dropped": {"broken line": 1}, "said": "data.jsonl, line 40"}),
    "i-uppercase-columns": (talks(), {}),
    "i-wrapped-after-tags": (talks(), {"unused": ["part name of data.json", "part languages of data.json"]}),
    "p-chosen-rank-swapped": (votes(), {"unused": ["column chosen_score", "column rejected_score"]}),
    "p-conflicting": (conflicting, {}),
    "p-empty-prompt-row": (without(votes(), 20), {"dropped": {"empty prompt": 1}, "said": "data.jsonl, line 21"}),
    "p-half-too-long": (long_pairs, {}),
    "p-helpsteer": (rated(), {"unused": ["column correctness"], "said": "from 1 to 4, mean 2.5"}),
    "p-hh-transcripts": (votes(), {}),
    "p-kto": (labelled(), {"said": "20 good, 20 bad"}),
    "p-number-answers": (votes([str(i) for i in range(40)], [str(i + 1) for i in range(40)]), {}),
    "p-openai": (votes(), {}),
    "p-plain": (votes(), {}),
    "p-prompt-with-tool": (without(votes(), 33), {"dropped": {"tool message": 1}, "said": "data.jsonl, line 34"}),
    "p-uf-no-prompt": (votes(), {"unused": ["column score_chosen", "column score_rejected"]}),
    "p-ultrafeedback": (votes(), {}),
    "t-big5": (repeated("那年冬天雪下得很大老人坐在門口", 200), {"encoding": "big5"}),
    "t-chinese-utf16": (chinese, {"encoding": "utf-16"}),
    "t-chinese-utf8": (chinese, {"encoding": "utf-8"}),
    "t-crlf-bom": (as_it_stands, {"encoding": "utf-8-sig"}),
    "t-emoji": (as_it_stands, {}),
    "t-folder-checkpoints": (plain(1), {"unused": ["file .ipynb_checkpoints/a-checkpoint.txt (hidden)"]}),
    "t-folder-empty-file": (plain(1), {"said": "Not read: __init__.txt is empty"}),
    "t-folder-hf-snapshot": (plain(60), {"format": "parquet", "said": "The split test (10 rows) is the held-out data"}),
    "t-folder-md-csv": (plain(4), {}),
    "t-japanese-sjis": (repeated("吾輩の店には灯りがある。第一の日は寒い。", 200), {"encoding": "cp932"}),
    "t-markdown": (as_it_stands, {}),
    "t-null-row": (plain(59), {"dropped": {"empty text": 1}, "said": "rows.jsonl, line 31"}),
    "t-one-bad-byte": (bad_byte, {"encoding": "utf-8"}),
    "t-poem-short-lines": (poem, {}),
    "t-short-docs": (headlines, {}),
    "t-specials": (as_it_stands, {}),
    "t-text-and-content": (minimind, {}),
    "t-tinystories-endoftext": (stories(60), {}),
    "t-train-valid": (plain(60), {"said": "The split validation"}),
    "t-wiki-title": (plain(60), {"unused": ["column id", "column url", "column title"]}),
}  # fmt: skip
"""Name of the case -> its rows, or what checks them, and what its record holds. Nothing else may be dropped."""

REFUSED = {
    "i-openai-image-parts": r"data.jsonl, line 1 has a part of type 'image_url' .* Remove it",
    "i-ranked-output-list": r"data.json, row 1 has a list where a text is needed: .* Give one text",
    "p-argilla": r"export.json, row 1 has the columns id, fields, responses, .* preferences need chosen and rejected",
    "p-label-studio": r"export.json, row 1 has the columns id, data, annotations; preferences need chosen and rejected",
    "p-ranked-list": r"data.json, row 1 has the columns instruction, input, output; .* write the better as chosen",
    "p-same-prompt-all": r"data.jsonl: all 40 pairs have the same prompt, so none can be held out",
    "t-messages-rows": r"rows.jsonl, line 1 has the columns messages; plain text needs .* are given as instructions",
}


def source(case: Path) -> Path:
    (path,) = [path for path in case.iterdir() if path.name != "case.txt"]
    return path


def test_every_case_has_its_expectation(cases):
    assert {path.name for path in cases.iterdir() if path.is_dir()} == GOOD.keys() | REFUSED.keys()


@pytest.mark.parametrize("name", GOOD)
def test_a_case_is_read_as_it_is_meant(cases, name):
    wanted, facts = GOOD[name]
    rows, reading = read_rows(str(source(cases / name)), KINDS[name[0]])
    record = reading.to_dict()
    if callable(wanted):
        wanted(cases / name, rows, record)
    else:
        assert rows == wanted
    assert record["kept"] == len(rows) and record["dropped"] == facts.get("dropped", {})
    assert record["read"] == record["kept"] + sum(record["dropped"].values())
    assert sum(file["rows"] for file in record["files"]) == record["read"]
    for key in ("format", "encoding"):
        assert key not in facts or {file[key] for file in record["files"]} == {facts[key]}
    assert set(facts.get("unused", [])) <= set(record["unused"])
    assert facts.get("said", "") in " ".join(record["warnings"])


@pytest.mark.parametrize("name", REFUSED)
def test_a_case_is_refused_with_its_file_its_row_and_the_mend(cases, name):
    with pytest.raises(LabError, match=REFUSED[name]) as caught:
        read_rows(str(source(cases / name)), KINDS[name[0]])
    assert "\n" not in str(caught.value)
