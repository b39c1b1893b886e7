"""The tokenizer in a GGUF file, both ways: byte-level BPE, and SentencePiece's with scores (read alone).

llama.cpp names how a text is cut before its bytes are merged (src/llama-vocab.cpp); a tokenizer that cuts otherwise is
not written under another's name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors

from labkit.errors import LabError
from labkit.hub.gguf_file import open_gguf
from labkit.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from gguf import GGUFWriter

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 1, 2, 3, 4, 5
"""Types of tokens: those that text spells, those that it never does, those added whole, and places without one."""
ENDS = (("bos_token", "bos"), ("eos_token", "eos"), ("pad_token", "padding"), ("unk_token", "unknown"))
SPACE = "▁"

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
WORD = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
LLAMA3 = WORD + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace("{1,3}", "")


def _split(*patterns: str) -> list[Any]:
    cuts = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
    return [*cuts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]


def _gpt2(*before: Any) -> list[Any]:
    return [*before, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]


CUTS: dict[str, Callable[[], list[Any]]] = {
    "gpt-2": _gpt2,
    "smollm": lambda: _gpt2(pre_tokenizers.Digits(individual_digits=True)),
    "llama-bpe": lambda: _split(LLAMA3),
    "smaug-bpe": lambda: _split(LLAMA3),
    "qwen2": lambda: _split(QWEN2),
    "default": lambda: _split(r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"),
}
"""How a text is cut before its bytes are merged, by llama.cpp's names."""
WHOLE_WORDS = ("llama-bpe",)
"""Where a word that is a token is never built of its merges (ignore_merges)."""
SAME = {
    "gpt-2": "phi-2 exaone4 mpt olmo jais trillion granite-docling mellum modern-bert",
    "smollm": "starcoder refact command-r codeshell exaone minerva-7b",
    "llama-bpe": "llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2",
    "smaug-bpe": "dbrx",
    "qwen2": "stablelm2 deepseek-r1-qwen kormo megrez hunyuan",
}
"""Other names of the same."""
NAMES = {other: name for name, others in SAME.items() for other in others.split()} | {name: name for name in CUTS}


def read_gguf_tokenizer(path: Path) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    """The tokenizer of a GGUF file, and what tokenizer_config.json would say of it. Raises LabError for one that is
    neither byte-level BPE nor SentencePiece's, that cuts text in a way that is not known, or that is damaged.
    """
    reader = open_gguf(path)
    try:
        fields = {n.removeprefix("tokenizer."): f.contents() for n, f in reader.fields.items() if "tokenizer." in n}
        kind = fields.get("ggml.model")
        if kind == "gpt2":
            backend, adds_bos = _byte_level(fields, path)
        elif kind == "llama":
            backend, adds_bos = _sentencepiece(fields), True
        else:
            raise LabError(f"{path} has a tokenizer of the type {kind!r}; supported are gpt2 and llama.")
        tokens, types = fields["ggml.tokens"], fields["ggml.token_type"]
        for index, (token, type_) in enumerate(zip(tokens, types, strict=True)):
            if backend.token_to_id(token) != index and type_ != UNUSED:
                raise LabError(f"{path}: the token {token!r} occurs twice in its vocabulary.")
        _add_tokens(backend, tokens, types)
        ids = {name: fields.get(f"ggml.{key}_token_id") for name, key in ENDS}
        config = {name: tokens[index] for name, index in ids.items() if index is not None}
    except LabError:
        raise
    except Exception as error:  # of the package, for a damaged file, and of tokenizers, for merges of no tokens
        raise LabError(f"{path}: its tokenizer is damaged or incomplete: {error!r}") from error
    if fields.get("ggml.add_bos_token", adds_bos) and "bos_token" in config:
        bos = config["bos_token"]
        backend.post_processor = processors.TemplateProcessing(
            single=[bos, "$A"], pair=[bos, "$A", bos, "$B"], special_tokens=[(bos, ids["bos_token"])]
        )
    template = fields.get("chat_template")
    return backend, {**config, "chat_template": template, "tokenizer_class": "PreTrainedTokenizerFast"}


def _byte_level(fields: dict[str, Any], path: Path) -> tuple[tokenizers.Tokenizer, bool]:
    """The tokenizer, and whether its kind puts bos before a text unless the file says otherwise."""
    given = fields.get("ggml.pre") or "default"  # as llama.cpp reads a file that names none
    if given not in NAMES:
        raise LabError(
            f"{path} has the pre-tokenizer {given!r} (tokenizer.ggml.pre), which is not supported; supported are "
            f"{', '.join(CUTS)}. Import the model in transformers' format, with its tokenizer.json, instead."
        )
    name = NAMES[given]
    vocabulary = {token: index for index, token in enumerate(fields["ggml.tokens"])}
    merges = [tuple(pair.split(" ", 1)) for pair in fields["ggml.merges"]]
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, merges, ignore_merges=name in WHOLE_WORDS))
    backend.pre_tokenizer = pre_tokenizers.Sequence(CUTS[name]())
    backend.decoder = decoders.ByteLevel()
    return backend, name == "llama-bpe"


def _sentencepiece(fields: dict[str, Any]) -> tokenizers.Tokenizer:
    """BPE whose merges are in the order of its tokens' scores; what no token spells is written as bytes."""
    tokens, scores = fields["ggml.tokens"], fields["ggml.scores"]
    types = fields["ggml.token_type"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    unknown = tokens[fields.get("ggml.unknown_token_id", 0)]
    model = models.BPE(
        vocabulary, _merges(tokens, scores, types, vocabulary), unk_token=unknown, fuse_unk=True, byte_fallback=True
    )
    backend = tokenizers.Tokenizer(model)
    prefix = fields.get("ggml.add_space_prefix", True)
    before = [normalizers.Prepend(SPACE)] if prefix else []
    backend.normalizer = normalizers.Sequence([*before, normalizers.Replace(" ", SPACE)])
    after = [decoders.Strip(" ", 1, 0)] if prefix else []
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *after]
    backend.decoder = decoders.Sequence(steps)
    return backend


def _merges(
    tokens: Sequence[str], scores: Sequence[float], types: Sequence[int], vocabulary: dict[str, int]
) -> list[tuple[str, str]]:
    """All pairs of tokens that make a token, the best token first: SentencePiece joins the pair whose token scores
    highest, the leftmost of equals.
    """
    order = sorted((i for i in range(len(tokens)) if types[i] == NORMAL), key=lambda i: -scores[i])
    return [
        (tokens[i][:cut], tokens[i][cut:])
        for i in order
        for cut in range(1, len(tokens[i]))
        if tokens[i][:cut] in vocabulary and tokens[i][cut:] in vocabulary
    ]


def _add_tokens(backend: tokenizers.Tokenizer, tokens: Sequence[str], types: Sequence[int]) -> None:
    added = [
        tokenizers.AddedToken(token, special=kind != USER_DEFINED, normalized=False)
        for token, kind in zip(tokens, types, strict=True)
        if kind in (CONTROL, UNKNOWN, USER_DEFINED)
    ]
    backend.add_tokens(added)


def write_gguf_tokenizer(writer: GGUFWriter, tokenizer: Tokenizer, vocabulary: int) -> None:
    """Write the tokenizer into a file for a model of `vocabulary` rows.

    Raises LabError for one that is no byte-level BPE, that cuts text as llama.cpp has no name for, or that has tokens
    beyond the model's rows.
    """
    kept = json.loads(tokenizer.backend.to_str())
    name = gguf_pre_tokenizer_name(kept)
    ids = tokenizer.backend.get_vocab(with_added_tokens=True)
    if max(ids.values()) >= vocabulary:
        raise LabError(
            f"The tokenizer has {1 + max(ids.values())} tokens, but the model's embedding has rows for {vocabulary} "
            "only."
        )
    by_id = {index: token for token, index in ids.items()}
    types = {token["id"]: CONTROL if token["special"] else USER_DEFINED for token in kept["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(name)
    writer.add_token_list([by_id.get(i, f"[PAD{i}]") for i in range(vocabulary)])
    writer.add_token_types([types.get(i, NORMAL) if i in by_id else UNUSED for i in range(vocabulary)])
    writer.add_token_merges([" ".join(pair) for pair in kept["model"]["merges"]])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(False)  # the chat template begins with it
    writer.add_chat_template(tokenizer.config["chat_template"])


def gguf_pre_tokenizer_name(tokenizer_json: dict[str, Any]) -> str:
    """llama.cpp's name for how a tokenizer, as its JSON, cuts text. Raises LabError where it has none."""
    model, given = tokenizer_json["model"], _steps(tokenizer_json["pre_tokenizer"])
    if model["type"] == "BPE" and (tokenizer_json["normalizer"] or {"type": "NFC"})["type"] == "NFC":
        for name, cuts in CUTS.items():
            whole_words = bool(model.get("ignore_merges")) == (name in WHOLE_WORDS)
            if whole_words and given == _as_json(cuts()):
                return name
    steps = ", ".join(step["type"] for step in given) or "not at all"
    raise LabError(
        f"llama.cpp has no name for this tokenizer's pre-tokenizer ({model['type']}, cut by {steps}), so it cannot be "
        f"exported as GGUF: supported are {', '.join(CUTS)}. Export it for transformers."
    )


def _as_json(cuts: list[Any]) -> list[dict[str, Any]]:
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(cuts)
    return _steps(json.loads(backend.to_str())["pre_tokenizer"])


def _steps(pre_tokenizer: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The steps one after the other, without what tells places in the text alone."""
    if pre_tokenizer is None:
        return []
    if pre_tokenizer["type"] == "Sequence":
        return [step for one in pre_tokenizer["pretokenizers"] for step in _steps(one)]
    step = {name: value for name, value in pre_tokenizer.items() if name != "trim_offsets"}
    return [step | ({"use_regex": step.get("use_regex", True)} if step["type"] == "ByteLevel" else {})]
