"""Tokenizers and small models as people publish them, for tests: a folder each."""

import json
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers

WORDS = ["Tom is in the park. Where is Tom? user assistant system INST Why is the sky blue?", "Be brief. Be kind."] * 9


def byte_level(
    folder: Path, specials: list[str], added: tuple[str, ...] = (), bos: bool = False, **config: Any
) -> Path:
    """Byte-level BPE, as of GPT-2, Llama 3, Qwen. specials: bos, eos and more. added: tokens that are not special.
    bos: whether the post-processor puts it before a text. config: of tokenizer_config.json; None leaves a name out.
    """
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(WORDS, trainer)
    backend.add_tokens([AddedToken(token, normalized=False) for token in added])
    if bos:
        backend.post_processor = _bos_first(specials[0], 0)
    known = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": specials[0], "eos_token": specials[1]}
    return _write(folder, backend, known | config)


def sentencepiece(folder: Path, legacy: bool, specials: tuple[str, ...] = (), **config: Any) -> Path:
    """SentencePiece's BPE with bytes for unknown signs, as of Llama 2. legacy: the blank before a text is put there by
    the normalizer, before each part between special tokens; else by the pre-tokenizer, before the first alone.
    """
    learner = tokenizers.Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Metaspace()
    learner.train_from_iterator(WORDS, trainers.BpeTrainer(vocab_size=120, show_progress=False))
    kept = json.loads(learner.to_str())["model"]
    first = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    pieces = [*first, *(token for token in sorted(kept["vocab"], key=kept["vocab"].__getitem__) if token not in first)]
    merges = [tuple(pair) for pair in kept["merges"]]
    vocabulary = {token: index for index, token in enumerate(pieces)}
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if legacy:
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in ("<unk>", "<s>", "</s>", *specials)])
    backend.post_processor = _bos_first("<s>", 1)
    known = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return _write(folder, backend, known | {"legacy": legacy} | config)


def llama(folder: Path, vocabulary: int | None = None, **config: Any) -> Path:
    """A small Llama beside a folder's tokenizer. vocabulary: rows of its embedding; None for as many as tokens."""
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    torch.manual_seed(0)
    shape = transformers.LlamaConfig(
        vocab_size=vocabulary or tokenizer.get_vocab_size(),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        **config,
    )
    transformers.LlamaForCausalLM(shape).save_pretrained(folder)
    return folder


def _bos_first(token: str, index: int) -> Any:
    return processors.TemplateProcessing(
        single=f"{token} $A", pair=f"{token} $A {token}:1 $B:1", special_tokens=[(token, index)]
    )


def _write(folder: Path, backend: tokenizers.Tokenizer, config: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(backend.to_str())
    given = {name: value for name, value in config.items() if value is not None}
    (folder / "tokenizer_config.json").write_text(json.dumps(given))
    return folder
