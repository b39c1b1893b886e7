"""Every stage, decoding, evaluation and interpretation on a GPU: the CPU's numbers, and no tensor in the wrong place.

Simulated devices (see simulated_device.py) run these on every machine; with `-m gpu` a real one does.
"""

import os
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch

from labkit.bench import generate as bench_generate
from labkit.bench import train as bench_train
from labkit.commands.main import main
from labkit.decoding import best_of_n, generate, trace_generation
from labkit.decoding.compiled import CompiledGenerator
from labkit.decoding.filters import Filter, Temperature, TopK
from labkit.decoding.strategies import DecodingResources, parse_strategy
from labkit.decoding.stream import trace_given_tokens
from labkit.errors import LabError
from labkit.evaluation.judges import reward_judge
from labkit.hub.export import export
from labkit.interpret import Inspection, activation_patching, find_heads, winograd_examples
from labkit.machine import default_device, has_bf16
from labkit.model import Gated, ModelConfig, Transformer
from labkit.model.feedforward import MoE
from labkit.model.gru import GRU
from labkit.model.positions import ALiBi, Learned, NoPosition, Shaw, Sinusoidal, T5Buckets
from labkit.model.rwkv import RWKV
from labkit.paths import demo_folder
from labkit.preferences.annotate import AnnotatedPair, AnnotationConfig, generate_annotated_pairs
from labkit.runs import pipeline
from labkit.runs.decoding import decoding_resources, world_and_prompts
from labkit.runs.folder import Run
from labkit.runs.pipeline import evaluate_finished_stage, run
from labkit.runs.prepare import prepare_inputs
from labkit.training.loop import fit
from labkit.training.processes import accelerator
from labkit.world import World
from tests.devices import DEVICES, forget_device, use_device
from tests.engines import stages
from tests.simulated_device import simulated_device
from tests.tiny_alignment import tiny_materials
from tests.tiny_recipe import TRAIN, tiny_recipe

SHAPES: dict[str, dict[str, Any]] = {
    "grouped queries": {"key_value_heads": 2},
    "window": {"window": 3},
    "bidirectional": {"causal": False},
    "encoder-decoder": {"encoder_depth": 1},
    "alibi": {"position": ALiBi()},
    "t5": {"position": T5Buckets(8, 16)},
    "shaw": {"position": Shaw(3)},
    "learned": {"position": Learned(), "norm": "layer", "norm_placement": "post", "bias": True},
    "sinusoidal": {"position": Sinusoidal()},
    "rwkv": {"mixer": RWKV(), "position": NoPosition(), "token_shift": True},
    "gru": {"mixer": GRU(), "position": NoPosition()},
    "experts": {"feed_forward": MoE(Gated(16), num_experts=4, capacity_factor=1.0)},
}


def built(**changes: Any) -> Transformer:
    torch.manual_seed(0)
    shape: dict[str, Any] = {"width": 32, "depth": 2, "heads": 4, "feed_forward": Gated(64)}
    model = Transformer(ModelConfig(29, 32, **shape | changes)).eval()
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return model


CUDA = [DEVICES[0], DEVICES[2]]
"""For what mps does as a CPU does it."""


@pytest.fixture(params=DEVICES)
def device(request) -> str:
    return request.param


def read(model: Transformer, at: torch.device) -> list[torch.Tensor]:
    """The logits of rows, of padded rows, of packed documents and of a row in two parts; and a gradient."""
    tokens = torch.arange(24).view(2, 12).to(at)
    mask = torch.arange(12).to(at) >= torch.tensor([[0], [4]]).to(at)
    memory = model.encode(tokens, mask) if model.encoder else None
    found = [model(tokens, memory=memory), model(tokens, mask=mask, memory=memory)[mask]]
    found[0].square().mean().backward()
    assert model.embedding.weight.grad is not None
    found.append(model.embedding.weight.grad)
    if model.causal:
        found.append(model(tokens, documents=(torch.arange(12) // 5).expand(2, -1).to(at), memory=memory))
        state = model.new_state(2, 12)
        found += [model(part, state=state, memory=memory) for part in tokens.split((8, 4), 1)]
    return [tensor.detach().cpu() for tensor in found]


@pytest.mark.parametrize("device", CUDA)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_architecture_computes_the_same(device, shape):
    expected = read(built(**SHAPES[shape]), torch.device("cpu"))
    with use_device(device) as at:
        found = read(built(**SHAPES[shape]).to(at), at)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", stages(1, "adamw"))
def test_every_stage_learns_the_same(device, kind):
    def records(at: torch.device) -> list[dict[str, Any]]:
        materials = tiny_materials()
        stage = stages(3, "muon" if kind == "pretrain" else "adamw")[kind]
        model = materials.model("") if kind == "pretrain" else stage.initial_model(materials)
        source = stage.source(materials, model.to(at))
        found = [record.to_dict() for record in fit(model, source, stage.objective, stage.train)]
        assert {parameter.device.type for parameter in model.parameters()} == {at.type}
        return found

    expected = records(torch.device("cpu"))
    with use_device(device) as at:
        found = records(at)
    # DPO begins with policy = reference: the sign of a margin that is 0 up to rounding says nothing.
    unsettled = {"seconds", "accuracy"} if kind == "dpo" else {"seconds"}
    for ours, theirs in zip(found, expected, strict=True):
        kept = {name: value for name, value in theirs.items() if name not in unsettled}
        assert {name: ours[name] for name in kept} == pytest.approx(kept, rel=1e-3, abs=1e-4)


@pytest.mark.gpu
def test_in_bf16_and_compiled_a_stage_learns_nearly_the_same():
    def losses(**changes: Any) -> list[float]:
        materials, stage = tiny_materials(), stages(20, "muon")["sft"]
        train, model = replace(stage.train, **changes), materials.model("")
        return [r.loss for r in fit(model, stage.source(materials, model), stage.objective, train)]

    expected = losses()
    with use_device("cuda"):
        assert has_bf16()
        assert losses(precision="bf16", compile=True) == pytest.approx(expected, rel=0.03)
    assert expected[-1] < 0.96 * expected[0]


LINES = (
    "greedy",
    "temperature=0.8 top-k=9 top-p=0.9 min-p=0.01 typical=0.95 epsilon=0.001",
    "repetition=1.2 presence=0.1 frequency=0.1 no-repeat=3 ban=dog",
    "beam beams=3 length-penalty=0.8 no-repeat=3",
    "beam beams=4 groups=2 diversity=0.5",
    "contrastive k=3 alpha=0.6",
    "best n=3 temperature=0.9",
    "speculative ahead=3 temperature=0.9",
)


def decoded() -> dict[str, Any]:
    """What the demo run's model writes by every strategy, and what is scored and traced of it."""
    demo = Run.open(demo_folder())
    model, tokenizer = demo.model(), demo.tokenizer()
    resources = decoding_resources(demo, ("Luke",), demo_folder())
    assert isinstance(resources, DecodingResources) and resources.draft is not None
    world, [prompt] = world_and_prompts(demo, "", 1)
    found: dict[str, Any] = {
        line: parse_strategy(line).generate(
            model, prompt.ids, seeds=[1, 2], max_new_tokens=6, stop_ids=tokenizer.stop_ids, resources=resources
        )
        for line in LINES
    }

    def seeded() -> torch.Generator:
        return torch.Generator().manual_seed(3)

    steps: list[Filter] = [Temperature(1.1), TopK(20)]
    prompts = [prompt.ids, prompt.ids[:5], prompt.ids[:9]]
    found["rows"] = generate(model, prompts, filters=steps, max_new_tokens=8, stop_ids=[5], generator=seeded())
    found["traced"] = [step.token for step in trace_generation(model, prompt.ids, max_new_tokens=4, generator=seeded())]
    found["forced"] = [step.candidates[0].token for step in trace_given_tokens(model, prompt.ids, found["traced"])]
    judge = reward_judge(demo.stage("reward").reward_model(), tokenizer)
    found["best"] = best_of_n(model, prompt.ids, judge, n=2, max_new_tokens=8, generator=seeded()).best_index
    return found


def test_every_strategy_writes_the_same(device):
    expected = decoded()
    with use_device(device):
        assert decoded() == expected


def uncompiled(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler reads no simulated tensors."""
    if device.startswith("simulated"):
        monkeypatch.setattr("labkit.decoding.compiled.compile_or_eager", lambda step, *given, **options: step)
        monkeypatch.setattr(torch._dynamo, "mark_static_address", lambda tensor: None)


def test_annotators_choose_the_same_between_answers_of_a_compiled_step(device, monkeypatch):
    demo = Run.open(demo_folder())
    config = AnnotationConfig(num_generations=4, max_new_tokens=12, precision="fp32")

    def chosen() -> list[AnnotatedPair]:
        return generate_annotated_pairs(demo.model("sft"), demo.tokenizer(), World("tiny"), config, "train", 8, seed=1)

    expected = chosen()
    uncompiled(device, monkeypatch)
    monkeypatch.setattr("labkit.preferences.annotate.COMPILED_FROM", 1)
    if device.endswith("cuda"):
        monkeypatch.setattr("labkit.preferences.annotate.generate", None)
    with use_device(device):
        assert chosen() == expected


def test_the_static_step_writes_the_same(device, monkeypatch):
    prompts = [[1, 2, 3], [4], [5, 6]]

    def written(at: torch.device) -> list[list[int]]:
        writer = CompiledGenerator(built().to(at), batch_size=2, filters=[Temperature(0.9), TopK(9)])
        return writer.generate(prompts, max_new_tokens=20, generator=torch.Generator().manual_seed(0))

    generator = torch.Generator().manual_seed(0)
    expected = generate(built(), prompts, filters=[Temperature(0.9), TopK(9)], max_new_tokens=20, generator=generator)
    uncompiled(device, monkeypatch)
    with use_device(device) as at:
        assert written(at) == expected


def interpreted() -> dict[str, Any]:
    demo = Run.open(demo_folder())
    model, tokenizer = demo.model(), demo.tokenizer()
    ids = tokenizer.encode("Adam was at the zoo. Luke ran.")
    other = [*ids[:-3], ids[0], *ids[-2:]]
    look = Inspection(model, tokenizer, ids)
    patched = activation_patching(model, ids, other)
    with pytest.raises(LabError, match="same prediction"):
        activation_patching(model, ids, ids)
    examples = winograd_examples(tokenizer, 2)
    report = find_heads(model, tokenizer, examples, num_ablated=2)
    return {
        "cell": look.score_breakdown(0, 1, 0, 3, 2)[:5],
        "without": look.ablate(0, 1, 0, "mean").kl_nats,
        "effects": look.ablation_effects(0).flatten().tolist(),
        "lens": [p for layer in look.logit_lens(top_n=2) for row in layer for _, p in row],
        "patched": patched.heads_recovered.flatten().tolist(),
        "log_odds": report.mean_log_odds,
        "view": len(look.attention_viewer_data()["maps"][0]["weights"]),
    }


def test_interpretation_finds_the_same(device):
    expected = interpreted()
    with use_device(device):
        found = interpreted()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-2, abs=1e-3), name


@pytest.mark.parametrize("device", CUDA)
def test_what_a_whole_run_made_on_a_gpu_measures_the_same_on_a_cpu(device, tmp_path, monkeypatch):
    """From the tokenizer to the report, with every stage's evaluation; then loaded and evaluated again."""
    monkeypatch.setattr(pipeline, "_peak", lambda: 1e12)  # a GPU's matrices are too large for a simulation
    with use_device(device) as at:
        for _ in run(tiny_recipe(), tmp_path / "run"):
            pass
        made = Run.open(tmp_path / "run")
        assert made.report()["machine"]["device"].startswith(at.type)
        assert made.model("dpo").embedding.weight.device == at
    inputs = prepare_inputs(made)
    for name in ("sft", "reward", "dpo"):
        result, metrics = made.stage(name).result, evaluate_finished_stage(made, name, inputs)["metrics"]
        assert result is not None and metrics == pytest.approx(result["metrics"], abs=0.02), name
    export(made, tmp_path / "exported", "dpo")


def test_what_will_be_sharded_is_given_to_the_engine_on_the_cpu(tmp_path, monkeypatch):
    """Never whole to the device, but afterwards to be measured, where that has room. (Here one process trains it.)"""
    given, measured = [], []
    trained, measure = pipeline.fit, pipeline._measure

    def fit_on_device(model, *rest, **options):
        given.append({p.device.type for p in model.parameters()})
        yield from trained(model, *rest, **options)
        model.cpu()  # as `Sharded.gather_full_weights_to_main_process` leaves it

    def measure_there(run, stage, model):
        measured.append(
            (next(model.parameters()).device.type, stage.inputs.model("pretrain").embedding.weight.device.type)
        )
        return measure(run, stage, model)

    recipe = tiny_recipe(replace(TRAIN, steps=2))
    with use_device("simulated cuda"):
        monkeypatch.setattr("labkit.training.processes.shards_models", lambda: True)
        monkeypatch.setattr(pipeline, "shards_models", lambda: True)
        monkeypatch.setattr(pipeline, "fit", fit_on_device)
        monkeypatch.setattr(pipeline, "_measure", measure_there)
        for free, stage_names in ((10**9, ["pretrain", "sft", "reward"]), (0, ["ppo", "dpo"])):
            monkeypatch.setattr("labkit.machine.free_memory_bytes", lambda device, free=free: free)
            with pytest.warns(match="no room for the whole models") if not free else nullcontext():
                for _ in run(recipe, tmp_path / "run", stage_names, resume=True):
                    pass
    assert given == 5 * [{"cpu"}] and measured == 3 * [("cuda", "cuda")] + 2 * [("cpu", "cpu")]


def test_a_run_that_began_on_one_device_goes_on_on_another(device, tmp_path):
    materials, train = tiny_materials(), replace(TRAIN, steps=4, optimizer="muon")
    stage = stages(4, "muon")["sft"]

    def go_on(steps: int) -> list[float]:
        model = materials.model("")
        losses = []
        for record in fit(model, stage.source(materials, model), stage.objective, train, folder=tmp_path / "run"):
            losses.append(record.loss)
            if record.step == steps:
                break
        return losses

    model = materials.model("")
    expected = [r.loss for r in fit(model, stage.source(materials, model), stage.objective, train)]
    begun = go_on(2)
    with use_device(device), pytest.warns(UserWarning, match="changed: .*device"):
        assert [*begun, *go_on(4)] == pytest.approx(expected, rel=1e-3)


def test_the_benchmarks_sides_of_our_own_work_there(device, monkeypatch):
    small = bench_train.ModelShape("tiny", 16, 1, 1, 1, 16, vocabulary=29, sequence_length=8)
    ours = bench_train.StepVariant("labkit", "bf16", "own", "fused", compiled=False)
    uncompiled(device, monkeypatch)
    with use_device(device) as at:
        step = bench_train._step(ours, small, rows=2)
        assert step() > 0 and step() > 0
        config = bench_generate.GenerateBench(prompt_tokens=3, new_tokens=4)
        bench_generate._ours(built().to(at), torch.ones(2, 3, dtype=torch.int64), "sampled", False, config)()


# Which device


def test_it_is_the_best_that_there_is_unless_another_is_named(monkeypatch):
    monkeypatch.delenv("LABKIT_DEVICE", raising=False)
    with simulated_device("cuda") as cuda:
        forget_device()
        with pytest.warns(UserWarning, match=r"Computing on cuda:0 \(Simulated GPU\), which has no bf16."):
            assert default_device() == cuda == accelerator().device
        for name, expected in (("cpu", "cpu"), ("cuda", "cuda:0"), ("cuda:0", "cuda:0")):
            forget_device()
            monkeypatch.setenv("LABKIT_DEVICE", name)
            assert str(default_device()) == expected == str(accelerator().device)
    forget_device()


def test_one_that_is_not_there_is_refused_in_words(monkeypatch, capsys):
    monkeypatch.delenv("LABKIT_DEVICE", raising=False)
    for name in ("cuda", "cuda:3", "mps", "gpu", "cuda:x"):
        with simulated_device("cuda") if ":" in name else nullcontext():
            forget_device()
            assert main(["chat", "nowhere", "--device", name]) == 2
            there = "cpu and cuda:0" if ":" in name else "cpu"
            assert f"There is no device '{name}' on this machine: there is {there}" in capsys.readouterr().err
            assert "LABKIT_DEVICE" not in os.environ
    assert main(["run", "--device"]) == 2 and "--device needs a value" in capsys.readouterr().err
    forget_device()


def test_each_process_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setenv("LABKIT_DEVICE", "cuda")
    with simulated_device("cuda"):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
        forget_device()
        assert str(default_device()) == "cuda:3"
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        forget_device()
        with pytest.raises(
            LabError, match="Process 3 of this machine has no GPU of its own: there are 2. Start as many"
        ):
            default_device()
        monkeypatch.setenv("LABKIT_DEVICE", "cuda:1")
        with pytest.raises(LabError, match="each has a GPU of its own, so --device can be cuda or cpu, not cuda:1"):
            default_device()
    forget_device()


def test_the_simulated_device_refuses_what_a_gpu_refuses():
    with simulated_device("cuda") as at:
        there, here = torch.ones(2, 2, device=at), torch.ones(2, 2)
        assert there.device == at and (there @ there).device == at and (there * torch.tensor(2.0)).sum().item() == 8
        assert (there.cpu() + here).device.type == "cpu" and there[here > 0].device == at
        for refused in (
            lambda: there + here,
            lambda: torch.stack((there.sum(), here.sum())),
            lambda: here * there,
            lambda: torch.rand(2, generator=torch.Generator(), device=at),
        ):
            with pytest.raises(RuntimeError, match="cpu"):
                refused()
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()
    with simulated_device("mps") as at, pytest.raises(TypeError, match="float64"):
        torch.ones(2, device=at).double()
