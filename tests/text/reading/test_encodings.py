"""Encodings: what is written in each comes back, and is named; what is no text is refused."""

import codecs
import json

import pytest

from labkit.errors import LabError
from labkit.text.reading.encodings import decode

CHINESE = "那年冬天雪下得很大，老人坐在门口看着远处的山。你来了，他说，我等了你很久。我点点头，没有说话。"
TAIWAN = "那年冬天雪下得很大，老人坐在門口看著遠處的山。你來了，他說，我等了你很久。我點點頭，沒有說話。"
JAPANESE = "吾輩の店には灯りがある。第一の日は寒い。私は昨日、東京へ行きました。コンピュータを買いたいと思います。"
KOREAN = "그 해 겨울에는 눈이 많이 내렸다. 노인은 문 앞에 앉아 먼 산을 바라보고 있었다."
FRENCH = "L'été dernier, nous avons été très heureux à la forêt. C'était là, près du château; “oui” — dit-il."
GERMAN = "Die Straße führt über die Brücke. Wir müssen größere Äpfel kaufen, sagte das Mädchen."
SPANISH = "El niño comió piñas por la mañana. ¿Dónde está el camión? ¡Qué día más bonito!"
RUSSIAN = "Той зимой выпало много снега. Старик сидел у двери и смотрел на далёкие горы."
CZECH = "Příliš žluťoučký kůň úpěl ďábelské ódy. Starý muž seděl u dveří a díval se na vzdálené hory."
POLISH = "Zażółć gęślą jaźń. Stary człowiek siedział przy drzwiach i patrzył na dalekie góry. Śnieg padał całą noc."
ENGLISH = "The quick brown fox jumps over the lazy dog near the river bank, and nobody says why. "
CERTAIN = ("utf-8", "utf-8-sig", "utf-16", "utf-32")
WRITTEN = [
    *(("gb18030", text) for text in (CHINESE, TAIWAN)),
    ("gbk", CHINESE),
    ("big5", TAIWAN),
    ("shift_jis", JAPANESE),
    ("euc_jp", JAPANESE),
    ("cp949", KOREAN),
    *(("cp1252", text) for text in (FRENCH, GERMAN, SPANISH)),
    ("latin-1", GERMAN),
    ("cp1251", RUSSIAN),
    ("koi8-r", RUSSIAN),
    *((encoding, RUSSIAN) for encoding in ("cp866", "iso8859-5", "mac-cyrillic")),
    *((encoding, text) for encoding in ("cp1250", "iso8859-2", "cp852") for text in (CZECH, POLISH)),
    *(("mac-roman", text) for text in (FRENCH, GERMAN, SPANISH)),
    ("iso2022_jp", JAPANESE),
    ("iso2022_kr", KOREAN),
    ("hz", CHINESE),
    *((encoding, CHINESE) for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32")),
    *((encoding, FRENCH) for encoding in ("utf-8", "utf-16", "utf-16-le", "utf-16-be")),
]
SHAPES = {
    "a line": lambda text: text,
    "lines": lambda text: f"{text}\n" * 30,
    "json": lambda text: json.dumps([{"instruction": text[:14], "output": text[14:34]}] * 20, ensure_ascii=False),
    "english": lambda text: f"{ENGLISH * 5}{text} " * 20,
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("encoding, text", WRITTEN)
def test_what_was_written_comes_back(encoding, text, shape):
    whole = SHAPES[shape](text)
    found = decode(whole.encode(encoding), "file.txt")
    assert found.text == whole
    said = "" if found.encoding in CERTAIN else f"file.txt: read as {found.encoding}, which is a guess."
    assert found.warning.startswith(said) and bool(found.warning) == bool(said)
    assert codecs.lookup(found.encoding)


@pytest.mark.parametrize("encoding, text", [("gbk", "你好世界"), ("cp1251", "снегопад"), ("cp1252", "café")])
def test_a_few_words_in_a_long_text_are_found(encoding, text):
    whole = f"{ENGLISH * 50}{text}. " * 3
    assert decode(whole.encode(encoding), "f").text == whole


@pytest.mark.parametrize(
    "data, message",
    [
        (f"{CHINESE}\n".encode() * 3 + f"{CHINESE}\n".encode("gbk") * 20, "f has mixed encodings: line 1 .* line 4 "),
        ((f"{ENGLISH * 20}那年. " * 20).encode("gbk"), "f is not UTF-8, and too short for its encoding to be detected"),
    ],
)
def test_what_cannot_be_told_is_refused(data, message):
    with pytest.raises(LabError, match=message):
        decode(data, "f")


@pytest.mark.parametrize(
    "data, text, warning",
    [
        (b"plain words and " * 99 + b"\xff one", "\ufffd one", "1 byte not of utf-8 (0xff at position 1584, line 1)"),
        ("数える。".encode() * 50 + b"\xe6\x95", "\ufffd", "1 byte not of utf-8 (0xe6 at position 600, line 1)"),
        (b"A caf\xe9 in town. " * 20, "café in town. ", "read as cp1252, which is a guess"),
        (b"Plain words, long ago. " * 500 + b"It\x92s a caf\xe9.", "It’s a café.", "read as cp1252, which is a guess"),
    ],
)
def test_stray_bytes_are_replaced_and_named_and_accents_are_read(data, text, warning):
    found = decode(data, "book.txt")
    assert found.text.endswith(text)
    assert warning in found.warning and bool(found.warning)


@pytest.mark.parametrize(
    "data, message",
    [
        (b"PK\x03\x04rest", "f is a zip archive or an Office document: a binary file, not text. To use it, unpack it"),
        (b"\x28\xb5\x2f\xfdrest", "f is packed with zstd"),
        (b"\x80\x04\x95\x10q\x01X\x05\x02\x01\x06", "f is a binary file, not text"),
        (bytes(range(256)) * 4, "f is not text, or is damaged: it has 4 NUL bytes, the first in line 1. .* remove"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\n", "f is a Git LFS pointer, .* git lfs pull"),
        (b"x" * 257 + b"ustar" + b"\0" * 99, "f is a tar archive. To use it, unpack it .tar xf. and give its folder"),
    ],
)
def test_what_is_no_text_is_refused(data, message):
    with pytest.raises(LabError, match=message):
        decode(data, "f")
