"""What is taken away says the same where it is taken to."""

from typing import Any

import pytest
import torch
import transformers

from labkit.commands.main import main
from labkit.decoding import Temperature, generate
from labkit.errors import LabError
from labkit.hub.export import export
from labkit.hub.gguf import load_gguf, save_gguf
from labkit.model.feedforward import Gated, Plain
from labkit.model.positions import ALiBi
from labkit.model.transformer import ModelConfig, Transformer
from labkit.paths import demo_folder
from labkit.runs.folder import Run
from labkit.text.chat import encode_prompt
from labkit.text.tokenizer import Tokenizer
from labkit.world import Message

ASKED = ["Where is Tom?", "Adam had a red key. Adam gave the key to Mia.\nWho has the key now?", "Tell a story."]


@pytest.fixture(scope="module")
def run() -> Run:
    return Run.open(demo_folder())


def greedy(model: Transformer, tokenizer: Tokenizer, asked: str) -> list[int]:
    prompt = encode_prompt(tokenizer, [Message("user", asked)])
    return generate(model, [prompt], filters=[Temperature(0)], max_new_tokens=40, stop_ids=[tokenizer.eos_token_id])[0]


def test_transformers_says_the_same_words(run, tmp_path):
    export(run, tmp_path / "out", "dpo")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    for asked in ASKED:
        turns = [{"role": "user", "content": asked}]
        options: dict[str, Any] = {"add_generation_prompt": True, "return_tensors": "pt", "return_dict": True}
        ids: Any = tokenizer.apply_chat_template(turns, **options)
        written = model.generate(**ids, max_new_tokens=40, do_sample=False)[0, ids["input_ids"].shape[1] :].tolist()
        ours = greedy(run.model("dpo"), run.tokenizer(), asked)
        assert [token for token in written if token != run.tokenizer().eos_token_id] == ours and ours


@pytest.mark.parametrize("kind,apart", [("f32", 0.0), ("f16", 2e-3), ("q8_0", 0.1)])
def test_gguf_comes_back(run, tmp_path, kind, apart):
    file = export(run, tmp_path / kind, "sft", "gguf", kind)
    assert file.name == f"demo-sft.{kind.upper()}.gguf"
    before, after = run.model("sft"), load_gguf(file)
    assert after.config.previous_token_init == 0 and after.config.position == before.config.position
    ids = torch.tensor([encode_prompt(run.tokenizer(), [Message("user", ASKED[1])])])
    with torch.no_grad():
        one, other = before(ids), after(ids)
    assert (one - other).norm() / one.norm() <= apart + 1e-7
    if kind != "q8_0":
        assert greedy(after, run.tokenizer(), ASKED[1]) == greedy(before, run.tokenizer(), ASKED[1])


@pytest.mark.parametrize("kind", ["f32", "f16"])
def test_llama_cpp_says_the_same_words(run, tmp_path, kind):
    """llama.cpp itself, given our tokens and, by the template in the file, given our turns."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(export(run, tmp_path / kind, "dpo", "gguf", kind))
    params.n_ctx, params.cpuparams.n_threads, params.warmup = 256, 1, False  # a thread that waits for another spins
    params.cpuparams_batch.n_threads = 1
    server, tokenizer, model = xllamacpp.Server(params), run.tokenizer(), run.model("dpo")
    options = {"max_tokens": 40, "temperature": 0}
    for asked in ASKED:
        ours = tokenizer.decode(greedy(model, tokenizer, asked))
        prompt = encode_prompt(tokenizer, [Message("user", asked)])
        theirs = server.handle_completions({"prompt": prompt, **options})
        assert theirs["choices"][0]["text"] == ours and ours
        chatted = server.handle_chat_completions({"messages": [{"role": "user", "content": asked}], **options})
        assert chatted["choices"][0]["message"]["content"] == ours
        assert chatted["usage"]["prompt_tokens"] == len(prompt)


@pytest.fixture(scope="module")
def llama(run) -> Transformer:
    """Of Llama's shape, whose queries and keys lie otherwise in the file."""
    config = ModelConfig(run.tokenizer().vocab_size, 64, 64, 2, 4, 2, feed_forward=Gated(96), qk_norm=False, tied=False)
    torch.manual_seed(0)
    model = Transformer(config).eval()
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model


@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0", "Q4_0", "Q4_1"])
def test_transformers_reads_the_file_as_we_do(llama, run, tmp_path, kind):
    file = tmp_path / "model.gguf"
    save_gguf(llama, run.tokenizer(), file, "f32")
    if kind != "F32":
        requantize(file, kind)
    ids = torch.randint(llama.config.vocabulary, (2, 20), generator=torch.Generator().manual_seed(0))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=file.name, dtype=torch.float32)
    with torch.no_grad():
        ours, expected, exact = load_gguf(file)(ids), theirs(ids).logits, llama(ids)
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-3)
    assert (ours - exact).norm() / exact.norm() < {"F32": 1e-6, "F16": 2e-3, "Q8_0": 0.02}.get(kind, 0.3)


def requantize(file, kind: str) -> None:
    """Keep the matrices of a GGUF file in another type, by the package's own writer."""
    import gguf

    reader, chosen = gguf.GGUFReader(file), gguf.GGMLQuantizationType[kind]
    writer = gguf.GGUFWriter(file.with_suffix(".other"), reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "llama.vocab_size"):  # which not all files say
            continue
        kinds = field.types
        writer.add_key_value(name, field.contents(), kinds[0], kinds[-1] if len(kinds) > 1 else None)
    for tensor in reader.tensors:
        matrix = len(tensor.shape) > 1
        data = gguf.dequantize(tensor.data, tensor.tensor_type)
        data = gguf.quantize(data, chosen) if matrix else data
        writer.add_tensor(tensor.name, data, raw_dtype=chosen if matrix else tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file.with_suffix(".other").replace(file)


def test_on_the_command_line(run, tmp_path, capsys):
    folder = str(tmp_path / "away")
    assert main(["export", str(run.path), folder, "--stage", "ppo"]) == 0
    assert capsys.readouterr().out == f"Written: {folder}\n"
    assert main(["export", str(run.path), folder]) == 2 and "is not empty" in capsys.readouterr().err
    assert main(["export", str(run.path), folder + "2", "--stage", "reward"]) == 2
    assert "reward model" in capsys.readouterr().err


def test_what_cannot_be_written_or_read_is_said(run, llama, tmp_path):
    (tmp_path / "no.gguf").write_bytes(b"GGUG" + bytes(60))
    with pytest.raises(LabError, match="not a GGUF file"):
        load_gguf(tmp_path / "no.gguf")
    other = Transformer(ModelConfig(9, position=ALiBi(), feed_forward=Plain(8)))
    with pytest.raises(LabError, match="Only the architectures of Llama, Qwen2 and Qwen3"):
        save_gguf(other, run.tokenizer(), tmp_path / "other.gguf")
    odd = Transformer(ModelConfig(run.tokenizer().vocab_size, width=40, feed_forward=Gated(96)))
    with pytest.raises(LabError, match="not a multiple of 32, as Q8_0 needs"):
        save_gguf(odd, run.tokenizer(), tmp_path / "odd.gguf", "q8_0")
    assert not (tmp_path / "odd.gguf").exists() and not list(tmp_path.glob("*partial*"))
