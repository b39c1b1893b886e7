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
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from labkit.errors import LabError
from labkit.files import explain_read_errors, read_object, refuse_lfs_pointer, write_text
from labkit.text.pieces import PIECE_CHARACTERS, split_into_pieces, split_long_pretokens
from labkit.text.template import ChatTemplate

# One thread encodes 750,000 tokens a second, thirty times what training reads on two cores; more threads would
# only take the cores from the model, and the library warns when a process with such threads is forked.
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
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)
"""The plain form: of a tokenizer that comes without one (a base model's, which has yet to learn any), and of one whose
own template is not to be followed. Where a text begins with bos, so does this.
"""


def _bytes() -> dict[str, int]:
    """Which byte each sign of a byte-level token stands for: itself where it can be printed, else one from 256 on."""
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printed]
    return {chr(byte): byte for byte in printed} | {chr(256 + n): byte for n, byte in enumerate(others)}


BYTES = _bytes()


class Tokenizer:
    """Byte-level BPE with the special tokens of the chat form, or a published tokenizer of any kind. Make one with
    `train` or `load`.

    `bos_token_id`, `pad_token_id` and `eos_token_id` (of a text's end) are as in transformers; `turn_end_id` ends an
    assistant's turn. `special_token_ids` are all special tokens, `stop_ids` those that end what is generated,
    `prefix_ids` those that every text begins with. `template` writes conversations; None where labkit trained the
    tokenizer, whose form is that of `labkit.text.chat`. `leading_space` is the blank between the assistant's marker and
    its words. `vocab_size` is one more than the largest id.
    """

    def __init__(
        self, backend: tokenizers.Tokenizer, config: Mapping[str, Any] | None = None, stop_ids: Sequence[int] = ()
    ):
        """config: what tokenizer_config.json says of a tokenizer that labkit did not train: eos_token, chat_template,
        and bos_token and pad_token, which eos_token stands in for. stop_ids: ids that end a text beside eos_token, as
        generation_config.json names them.

        Raises LabError where no end is named, for names that are no tokens, and for a chat template that cannot be
        followed.
        """
        added = backend.get_added_tokens_decoder()
        special = {token.content: index for index, token in added.items() if token.special}
        own = all(token in special for token in SPECIAL_TOKENS)
        if own:
            config, stop_ids = OWN, ()
        elif config is None or not (config.get("eos_token") or stop_ids):
            missing = [token for token in SPECIAL_TOKENS if token not in special]
            raise LabError(
                f"This tokenizer has no {', '.join(missing)}, so labkit did not train it, and neither its "
                f"tokenizer_config.json nor a generation_config.json names the token that ends a text (eos_token)."
            )
        stop_ids = [*stop_ids, *config.get("stop_token_ids", ())]  # a name of labkit's own
        backend.encode_special_tokens = True  # text is text: not kept in the JSON, so set here
        backend.no_truncation()  # which some files ask for, of every text
        backend.no_padding()
        self.backend, self.config = backend, dict(config)
        # Words end nothing: a config may keep the numbers of its family. Where nobody names an end, one has to.
        stop_ids = [end for end in stop_ids if end in added] or ([] if config.get("eos_token") else stop_ids[:1])
        if not config.get("eos_token"):
            self.config["eos_token"] = self._spelling(stop_ids[0])
        ids = map(self._special, ("bos_token", "eos_token", "pad_token"))
        self.bos_token_id, self.eos_token_id, self.pad_token_id = ids
        self.special_token_ids = sorted({i for token, i in special.items() if not token.startswith("<|reserved_")})
        known = backend.get_vocab_size(with_added_tokens=True)
        self.vocab_size: int = max(known, 1 + max(added, default=0))  # gaps count
        self.prefix_ids = [self.bos_token_id] if own else self._prefix()
        self.template: ChatTemplate | None = None
        self.turn_end_id, self.leading_space, self.stop_ids = self.eos_token_id, " ", self.special_token_ids
        if not own:
            self.template = self._template([self.eos_token_id, *stop_ids])
            self.turn_end_id, self.leading_space = self.template.turn_end_id, self.template.leading_space
            self.stop_ids = self.config["stop_token_ids"] = sorted({self.eos_token_id, *stop_ids, self.turn_end_id})

    def _template(self, ends: Sequence[int]) -> ChatTemplate:
        """The chat template, which the config may hold as a list of named ones; the plain one where there is none."""
        more = self.config.get("extra_special_tokens")
        given = {**self.config, **(more if isinstance(more, Mapping) else {})}
        spelt = {name: value for name, value in given.items() if name.endswith("_token")}
        names = {name: _content(value) for name, value in spelt.items() if value and not isinstance(value, bool)}
        source = select_chat_template(self.config.get("chat_template"))
        if source is None:
            source = self.config["chat_template"] = self.plain_chat_template
        return ChatTemplate(source, names, self.backend, ends)

    @property
    def plain_chat_template(self) -> str:
        """The plain form, for this tokenizer."""
        return ("{{ bos_token }}" if self.prefix_ids == [self.bos_token_id] else "") + PLAIN_TEMPLATE

    def _prefix(self) -> list[int]:
        """What the tokenizer's own pipeline puts before a text, as bos."""
        whole, bare = self.backend.encode("a").ids, self.backend.encode("a", add_special_tokens=False).ids
        return next((whole[:n] for n in range(len(whole)) if whole[n : n + len(bare)] == bare), [])

    def _special(self, name: str) -> int:
        """The id of a special token that the config names; eos stands in for one that it does not."""
        token = _content(self.config.get(name) or self.config["eos_token"])
        index = self.backend.token_to_id(token)
        if index is None:
            raise LabError(f"This tokenizer's tokenizer_config.json names {token!r} as {name}, which it does not have.")
        return index

    def token_to_id(self, token: str) -> int:
        """The id of a token by its spelling. Raises LabError where there is none."""
        index = self.backend.token_to_id(token)
        if index is None:
            raise LabError(f"This tokenizer has no token {token!r}.")
        return index

    def _spelling(self, index: int) -> str:
        token = self.backend.id_to_token(index)
        if token is None:
            raise LabError(f"This checkpoint ends texts with the token {index}, which its tokenizer does not have.")
        return token

    @classmethod
    def train(cls, texts: Iterable[str], vocabulary: int | None = None) -> Tokenizer:
        """Learn the merges from texts.

        `vocabulary` counts all tokens: 6 special ones, 256 bytes, and the merges. None takes the rule
        above. Raises LabError when it is too small to hold every byte, or larger than the pairs in the text
        can fill. Memory grows with the words that differ: 10 MB for a megabyte of prose, up to 300 MB for one of
        Chinese, so pass a long text through `labkit.text.pieces.sample_evenly_spaced_pieces`.
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
                f"The text cannot give a vocabulary of {vocabulary}: its BPE merges end at {possible}. Ask for at most "
                f"{possible}, leave the size unset, or give more text."
            )
        return cls(backend)

    def encode(self, text: str) -> list[int]:
        """'Tom ran' -> [352, 417]. Special tokens are never parsed out of the text.

        A long text is encoded in pieces (see `encode_blocks`), which bounds the memory that it takes.
        """
        return [index for ids in self.encode_blocks([_encodable(text)]) for index in ids]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The same as [encode(text) for text in texts], with one call for all that are short."""
        found: list[list[int]] = []
        for group in _groups(texts):
            found += self._encode_together(group) if len(group) > 1 else [self.encode(group[0])]
        return found

    def encode_blocks(self, blocks: Iterable[str]) -> Iterator[list[int]]:
        """One text, given in blocks of any length -> its ids, some tens of thousands at a time.

        They are those of one call for the whole text: it is cut only where this tokenizer makes the same of the two
        sides apart as together (see `labkit.text.pieces`, and there what is done where no such place is found).
        """
        for number, piece in enumerate(split_into_pieces(blocks, self._same_apart)):
            yield self._encode_inside(piece) if number else self._encode_together([piece])[0]

    def _encode_together(self, texts: Sequence[str]) -> list[list[int]]:
        checked = [_encodable(text) for text in texts]
        return [encoding.ids for encoding in self.backend.encode_batch_fast(checked, add_special_tokens=False)]

    def _same_apart(self, left: str, right: str) -> bool:
        one, other, whole = map(self._encode_inside, (left, right, left + right))
        return one + other == whole

    def _encode_inside(self, text: str) -> list[int]:
        """The ids of a text that stands after others."""
        if self.template is not None and self._begins_with_blank:
            return self.template.encode_continuation(_encodable(text))
        return self._encode_together([text])[0]

    @cached_property
    def _begins_with_blank(self) -> bool:
        """Whether a blank is put before a text, as SentencePiece does."""
        return self.template is not None and self._encode_together(["a"])[0] != self.template.encode_continuation("a")

    def decode(self, ids: Sequence[int], keep_special_tokens: bool = False) -> str:
        """[352, 417] -> 'Tom ran'. Special tokens are left out, unless `keep_special_tokens`. A cut character becomes
        U+FFFD.
        """
        return self.backend.decode(list(ids), skip_special_tokens=not keep_special_tokens)

    def decode_continuation(self, prefix_ids: Sequence[int], ids: Sequence[int]) -> str:
        """What `ids` add to the text of `prefix_ids`. SentencePiece leaves out the blank before the first word of a
        text, so this is more than `decode(ids)`.
        """
        return self.decode([*prefix_ids, *ids]).removeprefix(self.decode(prefix_ids))

    def token_text(self, token_id: int) -> str:
        """The text of one token, special ones included, for tables and figures; bytes that are no whole character as
        <E4>, and an id that no token has as <51200>.
        """
        spelling = self.backend.id_to_token(token_id)
        if spelling is None:
            return f"<{token_id}>"
        if byte := re.fullmatch("<0x([0-9A-F]{2})>", spelling):  # SentencePiece's byte, which is a character below 128
            return chr(int(byte[1], 16)) if int(byte[1], 16) < 128 else f"<{byte[1]}>"
        text = self.decode([self._anchor, token_id], keep_special_tokens=True).removeprefix(
            self.decode([self._anchor], keep_special_tokens=True)
        )
        if "\ufffd" not in text:
            return text
        return "".join(f"<{BYTES[sign]:02X}>" if sign in BYTES else sign for sign in spelling)

    @cached_property
    def _anchor(self) -> int:
        """A token to decode another after: SentencePiece leaves out the blank before the first."""
        return next((i for i in self.encode("a.") if self.decode([i]).strip() and "\ufffd" not in self.decode([i])), 0)

    def save(self, path: str | Path) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json` into a folder (or beside the named tokenizer.json).

        The folder opens with transformers' AutoTokenizer, chat template included.
        """
        file = _json_file(Path(path))
        write_text(file.with_name("tokenizer_config.json"), json.dumps(self.config, indent=2))
        write_text(file, self.backend.to_str(pretty=True))  # last: a tokenizer never stands without its config

    @property
    def generation_config(self) -> dict[str, Any]:
        """Which ids begin, end and fill what is generated, as transformers keeps it in a file of this name."""
        several = self.template is not None and len(self.stop_ids) > 1
        ends = self.stop_ids if several else self.eos_token_id
        return {"bos_token_id": self.bos_token_id, "eos_token_id": ends, "pad_token_id": self.pad_token_id}

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """Read what `save` wrote, from the folder or the file. Raises LabError when it is missing or is no
        tokenizer.
        """
        file = _json_file(Path(path))
        if not file.is_file():
            raise LabError(f"There is no tokenizer at {file}.")
        with explain_read_errors(file):
            data = file.read_bytes()
        refuse_lfs_pointer(data, file)
        try:
            backend = tokenizers.Tokenizer.from_str(data.decode("utf-8"))
        except Exception as error:  # the binding raises bare Exception for any malformed file
            raise LabError(f"{file} is not a tokenizer file: {error}") from error
        beside = {name: file.with_name(f"{name}.json") for name in ("tokenizer_config", "generation_config")}
        found = {name: read_object(other) for name, other in beside.items() if other.is_file()}
        config = found.get("tokenizer_config")
        ends = eos_token_ids(found.get("generation_config", {}))
        return cls(backend, config and config | read_chat_template_config(file.parent), ends)


def read_chat_template_config(folder: Path) -> dict[str, Any]:
    """{"chat_template": …} from the files that may hold it: chat_template.jinja, additional_chat_templates/*.jinja."""
    files = {"default": folder / "chat_template.jinja"}
    files |= {file.stem: file for file in sorted((folder / "additional_chat_templates").glob("*.jinja"))}
    found = {name: file.read_text(encoding="utf-8") for name, file in files.items() if file.is_file()}
    return {"chat_template": [{"name": name, "template": text} for name, text in found.items()]} if found else {}


def select_chat_template(templates: Any, name: str = "default") -> str | None:
    """A template, or one of several by its name; None where there is none. templates: a text, a list of {"name",
    "template"}, or nothing. Raises LabError where none has the name.
    """
    if not templates or isinstance(templates, str):
        return templates or None
    named = {one["name"]: one["template"] for one in templates}
    if name not in named:
        raise LabError(
            f"This tokenizer's chat templates are {', '.join(named)}, none of them {name}. Choose one: "
            f"`labkit import … --chat-template {next(iter(named))}`, or plain."
        )
    return named[name]


def eos_token_ids(generation: Mapping[str, Any]) -> list[int]:
    """The ids that end a text by a generation_config.json, which may name one, several or none."""
    ends = generation.get("eos_token_id")
    return [int(end) for end in ([ends] if isinstance(ends, int) else ends or [])]


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
    backend.train_from_iterator((piece for text in whole for piece in split_long_pretokens([text])), trainer)
    return backend


def _groups(texts: Sequence[str]) -> Iterator[list[str]]:
    """Texts, in order, in groups that one call can take: a few pieces long; a longer text by itself."""
    group: list[str] = []
    size = 0
    for text in texts:
        if group and size + len(text) > 4 * PIECE_CHARACTERS:
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
            raise LabError(f"The text has a broken character (a lone surrogate) at position {where}.") from error
    return text


def _json_file(path: Path) -> Path:
    return path if path.suffix == ".json" else path / "tokenizer.json"
