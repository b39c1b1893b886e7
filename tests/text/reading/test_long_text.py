"""A text that stays in its file is the text that cleaning the whole gives, and takes little memory."""

import subprocess
import sys
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit.errors import LabError
from labkit.text.clean import clean_blocks, clean_text, deduplicate, is_never_combining
from labkit.text.reading import long_text, read_texts
from labkit.text.reading.long_text import LongText
from labkit.text.sources import encode_corpus
from labkit.text.tokenizer import Tokenizer

SIGNS = st.one_of(st.characters(), st.sampled_from(" \t\n\r\x07e\u0301\x0c\u1100\u1161\u11a8가\u0338<\ufeff\ud800"))
TEXT = "Cafe\u0301 \r\n\r\n\r\n\r\nTom's 数字  123\x07 \t\nall\u1100\u1161 🙂 d'accord, said all of them. " * 400


@given(st.lists(st.text(SIGNS, max_size=6), max_size=8))
@settings(deadline=None, max_examples=500)
def test_blocks_are_cleaned_as_the_whole(blocks):
    assert "".join(clean_blocks(blocks)) == clean_text("".join(blocks))


def test_no_base_joins_with_what_is_before_it():
    for at in range(sys.maxunicode + 1):
        sign = chr(at)
        parts = unicodedata.decomposition(sign).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            first, second = (chr(int(part, 16)) for part in parts)
            assert not (is_never_combining(second) and unicodedata.normalize("NFC", first + second) == sign)
        assert not (is_never_combining(sign) and unicodedata.combining(unicodedata.normalize("NFD", sign)[0]))


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(long_text, "BLOCK", 100)
    monkeypatch.setattr(long_text, "LONG", 1000)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gb18030", "iso2022_jp"])
def test_a_file_and_every_part_of_it_is_its_cleaned_text(tmp_path, small_blocks, encoding):
    raw = TEXT if encoding != "iso2022_jp" else "日本語の文章。\r\n\r\n\r\nabc 数 " * 200
    (tmp_path / "a.txt").write_bytes(raw.encode(encoding))
    text, whole = LongText(tmp_path / "a.txt", encoding), clean_text(raw)
    assert str(text) == whole and len(text) == len(whole) and text.num_bytes == len(whole.encode())
    for start, stop in [(0, 10), (7, 7), (len(whole) // 3, len(whole) // 2), (len(whole) - 5, None), (1000, 1200)]:
        assert str(text[start:stop]) == whole[start:stop]
        assert str(text[start:stop][2:4]) == whole[start:stop][2:4]


def test_a_long_file_gives_what_a_short_one_gives(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text(TEXT, newline="")
    short = read_texts(tmp_path / "a.txt")
    monkeypatch.setattr(long_text, "BLOCK", 1000)
    monkeypatch.setattr("labkit.text.reading.containers.LONG", 1000)
    long = read_texts(tmp_path / "a.txt")
    assert not isinstance(long.train[0], str)
    assert [str(text) for text in long.train] == short.train
    assert [str(text) for text in long.validation] == short.validation
    assert (
        long.reading.to_dict() == short.reading.to_dict()
        and long.reading.removed_characters == short.reading.removed_characters
    )
    tokenizer = Tokenizer.train(short.train)
    assert (encode_corpus(tokenizer, long.train, tmp_path) == encode_corpus(tokenizer, short.train)).all()


def test_long_texts_that_are_the_same_are_one(tmp_path, small_blocks):
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text(TEXT, newline="")
    texts = [LongText(tmp_path / f"{name}.txt", "utf-8") for name in ("a", "b")]
    assert deduplicate([*texts, "short"]) == ([0, 2], 1, 0)


def test_a_file_that_changes_while_it_is_in_use_is_refused(tmp_path, small_blocks):
    (tmp_path / "a.txt").write_text(TEXT)
    text = LongText(tmp_path / "a.txt", "utf-8")
    (tmp_path / "a.txt").write_text(TEXT + "more")
    with pytest.raises(LabError, match="has changed since it was first read"):
        str(text)


def test_ids_are_made_again_for_another_text_or_tokenizer_only(tmp_path):
    tokenizer, other = Tokenizer.train([TEXT]), Tokenizer.train([TEXT], 300)
    ids = encode_corpus(tokenizer, [TEXT], tmp_path)
    assert isinstance(ids, np.memmap) and (ids == encode_corpus(tokenizer, [TEXT])).all()
    (file,) = tmp_path.iterdir()
    before = file.stat().st_mtime_ns
    encode_corpus(tokenizer, [TEXT], tmp_path)
    assert file.stat().st_mtime_ns == before
    for made_of in ((other, [TEXT]), (tokenizer, [TEXT + "!"]), (tokenizer, [TEXT, "!"])):
        assert (encode_corpus(*made_of, tmp_path) == encode_corpus(*made_of)).all()
        (now,) = tmp_path.iterdir()
        assert now != file


MEASURE = """
import sys
from pathlib import Path
import labkit.text.reading.containers as containers
from labkit.text.pieces import sample_evenly_spaced_pieces
from labkit.text.reading import read_texts
from labkit.text.sources import encode_corpus
from labkit.text.tokenizer import Tokenizer

def held(name):
    return int(next(l for l in open("/proc/self/status") if l.startswith(name)).split()[1]) // 1024

file = Path(sys.argv[1])
tokenizer = Tokenizer.train(["Tom is in the park. Where is Tom? " * 100])
before = held("RssAnon")
open("/proc/self/clear_refs", "w").write("5")
containers.LONG = 1_000_000
texts = read_texts(file)
for piece in sample_evenly_spaced_pieces(texts.train, 300_000): tokenizer.encode(piece)
encode_corpus(tokenizer, texts.train, file.parent)
print(held("VmHWM") - held("RssFile") - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_large_text_is_read_and_tokenized_in_little_memory(tmp_path):
    """In one call, the ids of 5 MB take 800."""
    with open(tmp_path / "a.txt", "w") as file:
        file.writelines(f"Tom is in the park with {number} kites. " for number in range(140_000))
    assert (tmp_path / "a.txt").stat().st_size > 5e6
    found = subprocess.run([sys.executable, "-c", MEASURE, tmp_path / "a.txt"], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert int(found.stdout) < 100


def test_a_stray_byte_of_a_long_file_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("labkit.text.reading.containers.LONG", 10)
    (tmp_path / "a.txt").write_bytes(b"Tom is in the park. " * 100 + b"\xff" + b" It is late." * 50)
    texts = read_texts(tmp_path / "a.txt")
    assert isinstance(texts.train[0], LongText)
    assert "1 bytes not of utf-8 replaced" in texts.reading.warnings[0]


def test_a_long_file_of_documents_is_parted_as_a_short_one(tmp_path, monkeypatch):
    stories = [f"Story {number}: Tom has {number} kites." for number in range(40)]
    (tmp_path / "a.txt").write_text("\n<|endoftext|>\n".join(stories))
    short = read_texts(tmp_path / "a.txt")
    monkeypatch.setattr("labkit.text.reading.containers.LONG", 10)
    assert read_texts(tmp_path / "a.txt").train == short.train and len(short.train) > 1


@pytest.mark.parametrize("encoding", ["cp1252", "gb18030"])
def test_a_long_file_that_begins_in_ascii_is_read_in_the_encoding_of_its_rest(tmp_path, monkeypatch, encoding):
    rest = {"cp1252": "L'été dernier, nous étions à la forêt. ", "gb18030": "那年冬天雪下得很大，老人坐在门口。"}[
        encoding
    ]
    whole = "The book begins here. " * 12_000 + f"{rest}\n" * 2000
    (tmp_path / "a.txt").write_bytes(whole.encode(encoding))
    short = read_texts(tmp_path / "a.txt")
    monkeypatch.setattr("labkit.text.reading.containers.LONG", 10)
    long = read_texts(tmp_path / "a.txt")
    assert isinstance(long.train[0], LongText)
    for texts in (short, long):
        assert "".join(map(str, (*texts.train, *texts.validation))) == clean_text(whole)
        assert texts.reading.files[0].encoding == encoding and "which is a guess" in texts.reading.warnings[0]


def test_a_long_file_in_two_encodings_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("labkit.text.reading.containers.LONG", 10)
    line = "L'été dernier, nous étions à la forêt.\n"
    (tmp_path / "a.txt").write_bytes((line * 6000).encode() + (line * 9000).encode("cp1252"))
    with pytest.raises(LabError, match="a.txt has mixed encodings"):
        read_texts(tmp_path / "a.txt")


@pytest.mark.parametrize("between", [",", "\t"])
def test_a_long_table_that_is_called_txt_is_refused(tmp_path, monkeypatch, between):
    monkeypatch.setattr("labkit.text.reading.containers.LONG", 10)
    rows = [f"{n}{between}It is in the park of {n * 7} trees." for n in range(20)]
    (tmp_path / "a.txt").write_text("\n".join([f"id{between}text", *rows]))
    with pytest.raises(LabError, match="a.txt is (CSV|TSV) by its content"):
        read_texts(tmp_path / "a.txt")
