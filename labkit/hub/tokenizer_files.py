"""The tokenizer of a published checkpoint, read as transformers reads it.

Which class a folder's files make, whether bos is put before a text, where SentencePiece puts its blanks: transformers
decides that from several files and from its own tables, so it is asked, once, when a checkpoint is imported. What it
made is kept as one tokenizer.json, which says everything by itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import tokenizers

from labkit.errors import LabError
from labkit.files import check_not_lfs_pointer, explain_read_errors, read_object
from labkit.text.tokenizer import SPECIAL_TOKENS, Tokenizer, eos_token_ids, select_chat_template

FILES = ("*.json", "*.jinja", "tokenizer.model", "merges.txt", "vocab.txt")
"""What belongs to a tokenizer, in a folder or on the hub; templates may lie in a folder of their own."""
PLAIN = "plain"
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
KEPT = ("model_max_length", "padding_side", "clean_up_tokenization_spaces")


def load_tokenizer(
    folder: Path, vocabulary: int, chat_template_name: str | None = None, say: Callable[[str], None] = print
) -> Tokenizer:
    """The tokenizer of a checkpoint's folder.

    vocabulary: rows of the model's embedding. chat_template_name: "plain", or the name of one of several; None takes
    the default. say: is told what had to be decided. Raises LabError for files that cannot be read, for tokens that
    have no row in the embedding, and for a chat template that cannot be followed.
    """
    if not any((folder / name).is_file() for name in VOCABULARIES):
        raise LabError(f"There is no tokenizer at {folder}: it contains none of {', '.join(VOCABULARIES)}.")
    for file in sorted({file for pattern in FILES for file in folder.glob(pattern) if file.is_file()}):
        with explain_read_errors(file):
            check_not_lfs_pointer(file)
    if _is_own(folder / "tokenizer.json"):
        return Tokenizer.load(folder)
    backend, config = _by_transformers(folder)
    backend = _fitted(backend, config, vocabulary, folder, say)
    return Tokenizer(backend, choose_chat_template(config, chat_template_name, say), _ends(folder))


def choose_chat_template(
    tokenizer_config: dict[str, Any], chat_template_name: str | None, say: Callable[[str], None]
) -> dict[str, Any]:
    """The tokenizer's config with the chat template that was chosen; None in it stands for the plain form.

    chat_template_name: "plain", a name of several templates, or None for the default. Raises LabError for a name that
    none has.
    """
    given = tokenizer_config.get("chat_template") or None
    if chat_template_name == PLAIN:
        return tokenizer_config | {"chat_template": None}
    if chat_template_name is not None and (given is None or isinstance(given, str)):
        had = "no chat template" if given is None else "one chat template, which has no name"
        raise LabError(f"--chat-template {chat_template_name}: this tokenizer has {had}. Leave it out, or use plain.")
    if given is None:
        say("It comes without a chat template, so turns are formatted as 'user: …', 'assistant: …'.")
    return tokenizer_config | {
        "chat_template": given if chat_template_name is None else select_chat_template(given, chat_template_name)
    }


def _is_own(file: Path) -> bool:
    """Whether labkit trained it."""
    if not file.is_file():
        return False
    text = file.read_text(encoding="utf-8")
    return all(f'"{token}"' in text for token in SPECIAL_TOKENS)


def _by_transformers(folder: Path) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    """What transformers makes of the files: the tokenizer, and what tokenizer_config.json has to say of it."""
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        words = "Reading the tokenizer of a published checkpoint needs transformers: pip install 'labkit[hub]'."
        raise LabError(words) from error
    alone = not (folder / "tokenizer.json").is_file() and (folder / "tokenizer.model").is_file()
    if alone and not (find_spec("sentencepiece") and find_spec("google.protobuf")):
        raise LabError(
            f"{folder} has its tokenizer as tokenizer.model alone, without tokenizer.json. To read it: pip install "
            "sentencepiece protobuf."
        )
    try:
        theirs: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        backend = tokenizers.Tokenizer.from_str(theirs.backend_tokenizer.to_str())
    except Exception as error:  # whatever a library raises for files of any kind
        raise LabError(f"The tokenizer in {folder} cannot be read by transformers: {error}") from error
    config: dict[str, Any] = {name: str(token) for name, token in theirs.special_tokens_map.items()}
    config |= {name: getattr(theirs, name) for name in KEPT}
    if theirs.extra_special_tokens:
        config["extra_special_tokens"] = [str(token) for token in theirs.extra_special_tokens]
    given = theirs.chat_template
    if isinstance(given, Mapping):
        given = [{"name": name, "template": template} for name, template in given.items()]
    return backend, config | {"chat_template": given, "tokenizer_class": "PreTrainedTokenizerFast"}


def _fitted(
    backend: tokenizers.Tokenizer, config: dict[str, Any], vocabulary: int, folder: Path, say: Callable[[str], None]
) -> tokenizers.Tokenizer:
    """The tokenizer without a pad token that has no row in the embedding; eos takes its place. Raises LabError for
    other tokens without one.
    """
    beyond = {token for token, index in backend.get_vocab(with_added_tokens=True).items() if index >= vocabulary}
    if not beyond:
        return backend
    if beyond != {config.get("pad_token")}:
        names = ", ".join(sorted(beyond)[:5])
        raise LabError(
            f"{folder}: {len(beyond)} tokens of its tokenizer ({names}) have no row in its embedding of {vocabulary}. "
            "With transformers, model.resize_token_embeddings(len(tokenizer)) and save_pretrained add them."
        )
    say(f"Its pad token {config.pop('pad_token')} has no row in the embedding: its end token is used instead.")
    kept = json.loads(backend.to_str())
    kept["added_tokens"] = [token for token in kept["added_tokens"] if token["content"] not in beyond]
    return tokenizers.Tokenizer.from_str(json.dumps(kept))


def _ends(folder: Path) -> list[int]:
    """The ids that end a text: of generation_config.json, or else of config.json, as in transformers."""
    for name in ("generation_config.json", "config.json"):
        file = folder / name
        if file.is_file():
            return eos_token_ids(read_object(file))
    return []
