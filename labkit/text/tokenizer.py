"""Text to token ids and back: byte-level byte-pair encoding (Sennrich et al. 2016, arXiv 1508.07909; bytes
as in GPT-2).

    >>> tokenizer = Tokenizer.train(["Tom is in the park.", "Tom is happy."])
    >>> tokenizer.decode(tokenizer.encode("Tom is in the park."))
    'Tom is in the park.'

All 256 bytes are tokens, so every text has a code and comes back exactly. Six special tokens mark
documents and turns; they are never read out of text: the user who types `<|end|>` has typed seven
characters, not ended the turn.

**How large is the vocabulary?** Asked for a number, the tokenizer has exactly that many tokens. Left open,
it is a pure function of the text: merges go on while the pair merged occurs at least `MIN_PAIR_COUNT`
times, up to `MAX_DEFAULT_VOCABULARY`. A token seen less often than that gives its embedding too few
gradients to be worth its row, and each row costs time in the output layer at every step. On a small grammar
this levels off by itself (2,000 documents and as many conversations of the lab world: 1,017, and one token
for 99.6 % of the words written); 1.1 MB of Shakespeare gives 2,300. Unused special tokens
`<|reserved_0|>`, … then fill the vocabulary up to a multiple of 64, which is what matrix products like; they
also leave room for later stages.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from labkit.errors import LabError
from labkit.files import write_text
from labkit.text.form import form_of
from labkit.text.pieces import PIECE, breakable, pieces

# One thread encodes 750,000 tokens a second, thirty times what training reads on two cores; more threads would
# only take the cores from the model, and give a warning at every fork.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

SPECIAL_TOKENS = ("<|bos|>", "<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
SMALLEST_VOCABULARY = 256 + len(SPECIAL_TOKENS)
MIN_PAIR_COUNT = 30
MAX_DEFAULT_VOCABULARY = 8192
MULTIPLE = 64

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|> ' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
"""The chat form of `labkit.text.chat`, for transformers. (Transformers reads special tokens out of the
rendered text; we encode each content by itself, so the two differ only for a content that spells a special
token.)"""


OWN: dict[str, Any] = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": SPECIAL_TOKENS[0],
    "eos_token": SPECIAL_TOKENS[2],
    "pad_token": SPECIAL_TOKENS[1],
    "chat_template": CHAT_TEMPLATE,
    "clean_up_tokenization_spaces": False,
}
"""tokenizer_config.json of a tokenizer that labkit trained."""
PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{{ message['role'] + ': ' + message['content'] + eos_token }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
"""The form of a tokenizer that comes without one: a base model's, which has yet to learn any."""


def _bytes() -> dict[str, int]:
    """Which byte each sign of a byte-level token stands for: itself where it can be printed, else one from 256 on."""
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printed]
    return {chr(byte): byte for byte in printed} | {chr(256 + n): byte for n, byte in enumerate(others)}


BYTES = _bytes()


class Tokenizer:
    """Byte-level BPE with the special tokens of the chat form. Make one with `train` or `load`.

    `bos`, `pad` and `end` are ids of special tokens, `specials` all of them, `form` how turns are written with them;
    `size` counts every id.
    """

    def __init__(self, backend: tokenizers.Tokenizer, config: Mapping[str, Any] | None = None):
        """config: what tokenizer_config.json says of a tokenizer that labkit did not train: eos_token, chat_template,
        and bos_token and pad_token, which eos_token stands in for.
        """
        special = {token.content: index for index, token in backend.get_added_tokens_decoder().items()}
        if all(token in special for token in SPECIAL_TOKENS):
            config = OWN
        elif config is None or not config.get("eos_token"):
            missing = [token for token in SPECIAL_TOKENS if token not in special]
            raise LabError(
                f"This tokenizer has no {', '.join(missing)}, so labkit did not train it, and no tokenizer_config.json "
                f"that names its eos_token."
            )
        backend.encode_special_tokens = True  # text is text: not kept in the JSON, so set here
        self.backend, self.config = backend, dict(config)
        names = {
            name: _content(config.get(name) or config["eos_token"]) for name in ("bos_token", "eos_token", "pad_token")
        }
        self.bos, self.end, self.pad = (self._special(name) for name in names.values())
        template = config.get("chat_template")
        if not isinstance(template, str):
            template = PLAIN_TEMPLATE
        self.form = form_of(template, self._parse, names)
        self.specials = sorted({index for token, index in special.items() if not token.startswith("<|reserved_")})
        self.size: int = backend.get_vocab_size(with_added_tokens=True)

    def _special(self, token: str) -> int:
        index = self.backend.token_to_id(token)
        if index is None:
            raise LabError(f"This tokenizer's tokenizer_config.json names {token!r}, which it has not.")
        return index

    def _parse(self, text: str) -> list[int]:
        """Text in which special tokens are read: for what a chat template writes, never for what somebody says."""
        self.backend.encode_special_tokens = False
        ids = self.backend.encode(text, add_special_tokens=False).ids
        self.backend.encode_special_tokens = True
        return ids

    @classmethod
    def train(cls, texts: Iterable[str], vocabulary: int | None = None) -> Tokenizer:
        """Learn the merges from texts.

        `vocabulary` counts all tokens: 6 special ones, 256 bytes, and the merges. None takes the rule
        above. Raises LabError when it is too small to hold every byte, or larger than the pairs in the text
        can fill. Memory grows with the words that differ: 10 MB for a megabyte of prose, up to 300 MB for one of
        Chinese, so `labkit.text.pieces.sample` a long text.
        """
        if vocabulary is None:
            backend = _train(texts, MAX_DEFAULT_VOCABULARY, MIN_PAIR_COUNT)
            _fill_up(backend)
            return cls(backend)
        if vocabulary < SMALLEST_VOCABULARY:
            raise LabError(
                f"A vocabulary of {vocabulary} is too small: BPE of bytes needs {SMALLEST_VOCABULARY} tokens "
                f"or more (256 bytes and {len(SPECIAL_TOKENS)} special tokens)."
            )
        backend = _train(texts, vocabulary, 2)
        possible = backend.get_vocab_size()
        if possible < vocabulary:
            raise LabError(
                f"The text cannot give a vocabulary of {vocabulary}: its repeated pairs end at {possible}. "
                f"Ask for at most {possible}, leave the size open, or give more text."
            )
        return cls(backend)

    def encode(self, text: str) -> list[int]:
        """'Tom ran' -> [352, 417]. Special tokens are never parsed out of the text.

        A long text is encoded in pieces (see `encode_long`), which bounds the memory that it takes.
        """
        return [index for ids in self.encode_long([_encodable(text)]) for index in ids]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The same as [encode(text) for text in texts], with one call for all that are short."""
        found: list[list[int]] = []
        for group in _groups(texts):
            found += self._encode_together(group) if len(group) > 1 else [self.encode(group[0])]
        return found

    def encode_long(self, blocks: Iterable[str]) -> Iterator[list[int]]:
        """One text, given in blocks of any length -> its ids, some tens of thousands at a time.

        They are those of one call for the whole text: it is cut only where this tokenizer makes the same of the two
        sides apart as together (see `labkit.text.pieces`, and there what is done where no such place is found).
        """
        for piece in pieces(blocks, self._same_apart):
            yield self._encode_together([piece])[0]

    def _encode_together(self, texts: Sequence[str]) -> list[list[int]]:
        checked = [_encodable(text) for text in texts]
        return [encoding.ids for encoding in self.backend.encode_batch_fast(checked, add_special_tokens=False)]

    def _same_apart(self, left: str, right: str) -> bool:
        one, other, whole = self._encode_together([left, right, left + right])
        return one + other == whole

    def decode(self, ids: Sequence[int], special: bool = False) -> str:
        """[352, 417] -> 'Tom ran'. Special tokens are left out, unless `special`. A cut character becomes
        U+FFFD.
        """
        return self.backend.decode(list(ids), skip_special_tokens=not special)

    def token(self, index: int) -> str:
        """The text of one token, special ones included, for tables and figures; bytes that are no whole character as
        <E4>.
        """
        text = self.decode([index], special=True)
        if "\ufffd" not in text:
            return text
        return "".join(f"<{BYTES[sign]:02X}>" for sign in self.backend.id_to_token(index) or "")

    def save(self, path: str | Path) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json` into a folder (or beside the named
        tokenizer.json).

        The folder opens with transformers' AutoTokenizer, chat template included.
        """
        file = _json_file(Path(path))
        write_text(file.with_name("tokenizer_config.json"), json.dumps(self.config, indent=2))
        write_text(file, self.backend.to_str(pretty=True))  # last: a tokenizer never stands without its config

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """Read what `save` wrote, from the folder or the file. Raises LabError when it is missing or is no
        tokenizer.
        """
        file = _json_file(Path(path))
        if not file.is_file():
            raise LabError(f"There is no tokenizer at {file}.")
        try:
            backend = tokenizers.Tokenizer.from_str(file.read_text(encoding="utf-8"))
        except Exception as error:  # the binding raises bare Exception for any malformed file
            raise LabError(f"{file} is not a tokenizer file: {error}") from error
        return cls(backend, _beside(file.with_name("tokenizer_config.json")))


def _beside(file: Path) -> dict[str, Any] | None:
    """tokenizer_config.json with the template beside it, where that has a file of its own."""
    if not file.is_file():
        return None
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise LabError(f"{file} cannot be read: {error}") from error
    template = file.with_name("chat_template.jinja")
    return config | {"chat_template": template.read_text(encoding="utf-8")} if template.is_file() else config


def _content(token: str | Mapping[str, Any]) -> str:
    """A special token's text; files also write it with how it is stripped."""
    return token if isinstance(token, str) else token["content"]


def _train(texts: Iterable[str], vocabulary: int, min_pair_count: int) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=min_pair_count,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),  # all 256 bytes, so that nothing is unknown
        show_progress=False,
    )
    whole = (_encodable(text) for text in texts)
    backend.train_from_iterator((piece for text in whole for piece in breakable([text])), trainer)
    return backend


def _groups(texts: Sequence[str]) -> Iterator[list[str]]:
    """Texts, in order, in groups that one call can take: a few pieces long; a longer text by itself."""
    group: list[str] = []
    size = 0
    for text in texts:
        if group and size + len(text) > 4 * PIECE:
            yield group
            group, size = [], 0
        group.append(text)
        size += len(text)
    if group:
        yield group


def _fill_up(backend: tokenizers.Tokenizer) -> None:
    """Add unused special tokens until the size is a multiple of 64."""
    missing = -backend.get_vocab_size() % MULTIPLE
    backend.add_special_tokens([f"<|reserved_{index}|>" for index in range(missing)])


def _encodable(text: str) -> str:
    """Refuse half characters (lone surrogates), which no encoding of Unicode can hold."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            where = error.start
            raise LabError(f"The text holds half a character (a lone surrogate) at position {where}.") from error
    return text


def _json_file(path: Path) -> Path:
    return path if path.suffix == ".json" else path / "tokenizer.json"
