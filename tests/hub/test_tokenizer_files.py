"""Tokenizers of published checkpoints: imported they give transformers' ids, and exported they still do."""

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import transformers
from huggingface_hub.utils import filter_repo_objects
from transformers import AutoTokenizer

from labkit.commands.main import main
from labkit.errors import LabError
from labkit.hub import resolve_checkpoint
from labkit.hub.export import export
from labkit.hub.importing import import_checkpoint
from labkit.hub.tokenizer_files import load_tokenizer
from labkit.runs.folder import Run
from labkit.runs.presets import make_recipe
from labkit.text.chat import (
    decode_reply,
    encode_answer_prefix,
    encode_document,
    encode_messages,
    encode_prompt,
    encode_text_prompt,
)
from labkit.text.tokenizer import Tokenizer
from labkit.world import Document, Message
from tests.published import byte_level, llama, sentencepiece

CHATML = ["<|im_start|>", "<|im_end|>"]
CHAT = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
OTHER = CHAT.replace("'\n' + m", "': ' + m").replace("assistant\n", "assistant: ")
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)
TALK = (Message("user", "Where is Tom?"), Message("assistant", "In the park: ä."), Message("user", "Why?"))
ROWS = [message._asdict() for message in TALK]


def loaded(folder: Path, *more: Any) -> tuple[Tokenizer, Any]:
    """As labkit and as transformers read it."""
    size = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size() + 9
    return load_tokenizer(folder, size, *more), AutoTokenizer.from_pretrained(folder)


def chat_ids(theirs: Any, **options: Any) -> list[int]:
    return theirs.apply_chat_template(ROWS, return_dict=False, **options)


@pytest.fixture(params=[(True, "LlamaTokenizer"), (False, "LlamaTokenizer"), (True, "PreTrainedTokenizerFast")])
def llama2(request, tmp_path) -> Path:
    """Llama 2's kind of tokenizer, of which transformers reads the first two by rules of its own."""
    legacy, kind = request.param
    return llama(sentencepiece(tmp_path / "llama2", legacy, tokenizer_class=kind, chat_template=INST))


def test_sentencepiece_goes_in_and_out_with_the_ids_of_transformers(llama2, tmp_path):
    theirs = AutoTokenizer.from_pretrained(llama2)
    run = import_checkpoint(llama2, tmp_path / "run", make_recipe("smoke"))
    away = AutoTokenizer.from_pretrained(export(run, tmp_path / "away", "sft"))
    ours = Run.open(run.path).tokenizer()
    assert encode_messages(ours, TALK) == chat_ids(theirs) == chat_ids(away)
    assert encode_prompt(ours, TALK) == chat_ids(theirs, add_generation_prompt=True)
    for text in ("Tom is in the park.", " Tom", "ä\nb", "  two"):
        assert encode_text_prompt(ours, text) == theirs(text)["input_ids"] == away(text)["input_ids"]
    assert away.chat_template == theirs.chat_template == INST
    assert (away.bos_token, away.eos_token, away.unk_token) == ("<s>", "</s>", "<unk>")


def test_a_token_of_sentencepiece_is_shown_as_it_stands_in_the_text(tmp_path):
    ours, _ = loaded(sentencepiece(tmp_path, True, chat_template=INST))
    shown = [ours.token_text(index) for index in ours.encode("Tom is in ä\nb")]
    assert shown == [" Tom", " is", " in", " ", "<C3>", "<A4>", "\n", "b"]
    assert ours.decode(ours.encode("Tom is in ä\nb")) == "Tom is in ä\nb"
    assert ours.token_text(1) == "<s>" and ours.token_text(9999) == "<9999>"
    before, after = encode_text_prompt(ours, "Tom is"), [ours.token_to_id("▁in")]
    assert ours.decode_continuation(before, after) == " in" and ours.decode(after) == "in"
    words = encode_answer_prefix(ours, "Tom is")
    assert [ours.token_text(index) for index in words] == [" Tom", " is"] and decode_reply(ours, words) == "Tom is"


@pytest.mark.parametrize("bos,config", [(True, {}), (False, {}), (True, {"add_bos_token": False})])
def test_a_text_begins_as_the_tokenizer_begins_it(bos, config, tmp_path):
    """A tokenizer.json says it by itself: transformers too passes over add_bos_token then."""
    ours, theirs = loaded(byte_level(tmp_path, ["<s>", "</s>"], bos=bos, **config))
    assert encode_text_prompt(ours, "Tom is") == theirs("Tom is")["input_ids"]
    assert ours.prefix_ids == ([ours.bos_token_id] if bos else [])
    assert encode_text_prompt(ours, "") == [ours.bos_token_id]


@pytest.mark.parametrize("first", [True, False])
def test_a_vocabulary_and_merges_without_a_tokenizer_json(first, tmp_path):
    byte_level(tmp_path, ["<|endoftext|>", "x"], tokenizer_class="GPT2Tokenizer", add_bos_token=first, eos_token=None)
    model = json.loads((tmp_path / "tokenizer.json").read_text())["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in model["merges"]))
    (tmp_path / "tokenizer.json").unlink()
    ours, theirs = load_tokenizer(tmp_path, 400), AutoTokenizer.from_pretrained(tmp_path)
    assert encode_text_prompt(ours, "Tom is") == theirs("Tom is")["input_ids"]
    assert ours.prefix_ids == ([ours.bos_token_id] if first else [])


def test_gpt2_as_it_was_published(tmp_path):
    byte_level(tmp_path, ["<|endoftext|>", "x"], bos_token=None, eos_token=None, tokenizer_class=None)
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 1024}')
    transformers.GPT2Config(bos_token_id=0, eos_token_id=0).save_pretrained(tmp_path)
    ours, theirs = loaded(tmp_path)
    assert ours.eos_token_id == ours.bos_token_id == theirs.eos_token_id and ours.stop_ids == [ours.eos_token_id]
    assert encode_text_prompt(ours, "Tom is") == theirs("Tom is")["input_ids"]


@pytest.mark.parametrize("file", ["generation_config.json", "config.json"])
def test_all_ends_that_the_checkpoint_names_stop_generation(file, tmp_path):
    folder = byte_level(tmp_path, [*CHATML, "<|end|>"], ("<think>",), chat_template=CHAT, eos_token=None)
    (folder / file).write_text(json.dumps({"eos_token_id": [2, 1], "model_type": "llama"}))
    ours, _ = loaded(folder)
    assert ours.stop_ids == [1, 2] and ours.eos_token_id == 2 and ours.turn_end_id == 1
    ours.save(tmp_path / "again")
    assert Tokenizer.load(tmp_path / "again").stop_ids == [1, 2]
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == ["tokenizer.json", "tokenizer_config.json"]


def test_templates_beside_are_read_and_kept(tmp_path):
    folder = byte_level(tmp_path / "a", CHATML)
    (folder / "chat_template.jinja").write_text(CHAT)
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "other.jinja").write_text(OTHER)
    named = [{"name": "default", "template": CHAT}, {"name": "other", "template": OTHER}]
    for source in (folder, byte_level(tmp_path / "b", CHATML, chat_template=named)):
        ours, theirs = loaded(source)
        assert encode_messages(ours, TALK) == chat_ids(theirs)
        chosen, _ = loaded(source, "other")
        assert encode_messages(chosen, TALK) == chat_ids(theirs, chat_template="other") != chat_ids(theirs)
        ours.save(tmp_path / "kept")
        again = AutoTokenizer.from_pretrained(tmp_path / "kept")
        assert again.chat_template == theirs.chat_template and chat_ids(again) == chat_ids(theirs)


def test_where_no_template_is_the_default_one_is_asked_for(tmp_path):
    named = [{"name": name, "template": CHAT} for name in ("rag", "tool_use")]
    folder = byte_level(tmp_path, CHATML, chat_template=named)
    with pytest.raises(LabError, match="chat templates are rag, tool_use, none of them default.*--chat-template rag"):
        loaded(folder)
    assert loaded(folder, "rag")[0].turn_end_id == 1
    with pytest.raises(LabError, match="none of them some"):
        loaded(folder, "some")


def test_the_plain_form_is_taken_when_asked_for_or_said(tmp_path, capsys):
    broken = llama(byte_level(tmp_path / "broken", CHATML, chat_template="{{ raise_exception('No.') }}", bos=True))
    run = tmp_path / "run"
    assert main(["import", str(broken), str(run)]) == 2
    assert "cannot be rendered: No. With `labkit import … --chat-template plain`" in capsys.readouterr().err
    assert not run.exists()
    assert main(["import", str(broken), str(run), "--chat-template", "plain"]) == 0
    assert "without a chat template" not in capsys.readouterr().out
    ours = Run.open(run).tokenizer()
    plain = "<|im_start|>user: Where is Tom?<|im_end|>assistant: In the park: ä.<|im_end|>"
    assert ours.decode(encode_messages(ours, TALK[:2]), keep_special_tokens=True) == plain
    row = encode_document(ours, Document("chat", "", TALK[:2]), 200)
    counted = [token for token, counts in zip(*row, strict=True) if counts]
    assert ours.decode(counted, keep_special_tokens=True) == " In the park: ä.<|im_end|>"
    base = byte_level(tmp_path / "base", ["<s>", "</s>"])
    said: list[str] = []
    loaded(base, None, said.append)
    assert said == ["It comes without a chat template, so turns are formatted as 'user: …', 'assistant: …'."]
    with pytest.raises(LabError, match="no chat template. Leave it out, or use plain"):
        loaded(base, "other")


def test_an_end_that_is_an_ordinary_word_stops_nothing(tmp_path):
    """A config keeps its family's numbers, which may be words of another tokenizer."""
    folder = llama(byte_level(tmp_path, CHATML, chat_template=CHAT))
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == 2
    assert loaded(folder)[0].stop_ids == [1]


@pytest.mark.parametrize("extra", [["<|more|>"], {"image_token": "<|more|>"}])
def test_special_tokens_in_all_their_spellings(extra, tmp_path):
    folder = byte_level(
        tmp_path,
        CHATML,
        chat_template=CHAT.replace("{% if add", "{{ image_token }}{% if add"),
        eos_token={"__type": "AddedToken", "content": "<|im_end|>", "special": True},
        pad_token=None,
        extra_special_tokens=extra,
    )
    ours, theirs = loaded(folder)
    assert ours.eos_token_id == ours.pad_token_id == theirs.eos_token_id
    assert encode_messages(ours, TALK) == chat_ids(theirs)
    more = ours.token_to_id("<|more|>")
    assert more in ours.special_token_ids and more not in ours.encode("<|more|>") and more not in ours.stop_ids
    ours.save(tmp_path / "kept")
    again = AutoTokenizer.from_pretrained(tmp_path / "kept")
    assert chat_ids(again) == chat_ids(theirs) and len(again) == len(theirs)


def test_tokens_without_a_row_in_the_embedding(tmp_path):
    folder = byte_level(tmp_path, ["<s>", "</s>"], pad_token="[PAD]")
    size = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size()
    said: list[str] = []
    ours = load_tokenizer(folder, size, "plain", said.append)
    assert ours.pad_token_id == ours.eos_token_id and ours.vocab_size == size
    assert said == ["Its pad token [PAD] has no row in the embedding: its end token is used instead."]
    with pytest.raises(LabError, match=r"3 tokens of its tokenizer \(.*\[PAD\].*resize_token_embeddings"):
        load_tokenizer(folder, size - 2)


def test_an_embedding_with_more_rows_than_tokens(tmp_path):
    folder = llama(byte_level(tmp_path / "padded", CHATML, chat_template=CHAT), vocabulary=400)
    run = import_checkpoint(folder, tmp_path / "run", make_recipe("smoke"))
    ours = run.tokenizer()
    assert run.model().config.vocabulary == 400 > ours.vocab_size
    assert ours.token_text(399) == "<399>" and ours.decode([399]) == ""


def test_truncation_and_padding_in_the_file_cut_and_fill_nothing(tmp_path):
    folder = byte_level(tmp_path, CHATML, chat_template=CHAT)
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    whole = backend.encode("Tom is in the park.").ids
    backend.enable_truncation(3)
    backend.enable_padding(length=64)
    (folder / "tokenizer.json").write_text(backend.to_str())
    assert Tokenizer.load(folder).encode("Tom is in the park.") == whole


def test_what_cannot_be_read_is_said(tmp_path):
    with pytest.raises(LabError, match="There is no tokenizer at .*tokenizer.model"):
        load_tokenizer(tmp_path, 10)
    (tmp_path / "tokenizer.model").write_bytes(b"\x0a\x0e")
    with pytest.raises(LabError, match="tokenizer.model alone.*sentencepiece|cannot be read by transformers"):
        load_tokenizer(tmp_path, 10)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(LabError, match="cannot be read by transformers"):
        load_tokenizer(tmp_path, 10)
    nameless = byte_level(tmp_path / "nameless", ["<s>", "</s>"], eos_token=None)
    with pytest.raises(LabError, match="names the token that ends a text"):
        loaded(nameless)


def test_all_files_of_a_tokenizer_are_fetched_from_the_hub(tmp_path, monkeypatch):
    asked: list[str] = []

    def fetch(name: str, allow_patterns: list[str]) -> str:
        asked.extend(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    assert resolve_checkpoint("owner/name") == tmp_path
    files = ["tokenizer.json", "chat_template.jinja", "additional_chat_templates/rag.jinja", "tokenizer.model"]
    files += ["merges.txt", "vocab.txt", "generation_config.json", "model-00001-of-00002.safetensors"]
    others = ["pytorch_model.bin", "README.md", "model.gguf", "training_args.bin", "modeling_own.py"]
    assert list(filter_repo_objects([*files, *others], allow_patterns=asked)) == files


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "tokenizer.model", "chat_template.jinja"])
def test_a_pointer_of_git_lfs_is_said(tmp_path, name):
    Tokenizer.train(["Tom is in the park."]).save(tmp_path)
    (tmp_path / name).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12\n")
    with pytest.raises(LabError, match=f"{name} is a Git LFS pointer, .* git lfs pull"):
        load_tokenizer(tmp_path, 400)
