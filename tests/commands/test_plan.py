"""`labkit plan`: what it prints, and what it refuses."""

import json

import pytest

from labkit.commands.main import main
from labkit.training.processes import parallel_config
from labkit.training.speed import DeviceSpeed
from tests.tiny_recipe import tiny_recipe


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """A tiny recipe for a preset, and speeds that are not measured."""
    monkeypatch.setattr("labkit.runs.presets.make_recipe", lambda preset, **sources: tiny_recipe())
    monkeypatch.setattr("labkit.training.distributed.set_mmap_threshold", lambda size: None)
    for measure in ("measure_speed", "measure_generation_speed"):
        monkeypatch.setattr(f"labkit.training.speed.{measure}", lambda *given: DeviceSpeed(1e9, 1e9, 1e-6))
    for variable in ("LABKIT_PARALLEL", "LABKIT_ACTIVATION_CHECKPOINTING", "LABKIT_CPU_OFFLOAD"):
        monkeypatch.setenv(variable, "")  # so that what a command sets is undone
    parallel_config.cache_clear()
    yield
    parallel_config.cache_clear()


def test_each_stage_has_a_line_and_says_whether_it_fits(capsys):
    assert main(["plan", "smoke", "--plan", "pretrain,sft", "--memory", "0.003"]) == 0
    said = capsys.readouterr().out
    header, pretrain, sft, _, *notes = said.splitlines()
    assert header.split() == [
        *("stage", "weights", "gradients", "optimizer", "frozen", "activations", "other", "peak"),
        *("per", "step", "total", "fits"),
    ]
    assert pretrain.startswith("pretrain ") and sft.startswith("sft ")
    assert pretrain.endswith("NO") and "MB" in pretrain
    assert "Memory is per device (1 device)" in notes[0] and "Not in the time: evaluation" in said


def test_fields_of_the_recipe_count_and_json_is_in_bytes(capsys):
    assert main(["plan", "smoke", "--plan", "pretrain", "--json", "--memory", "1"]) == 0
    one = json.loads(capsys.readouterr().out)["stages"][0]
    assert main(["plan", "smoke", "--plan", "pretrain", "--json", "--model.depth", "3"]) == 0
    three = json.loads(capsys.readouterr().out)["stages"][0]
    assert one["stage"] == "pretrain" and one["fits"] is True and "fits" not in three
    block = 4 * (32 * 96 + 32 * 32 + 32 * 128 + 64 * 32 + 4 * 32)  # qkv, out, gate and up, down, two norms of 32 and 32
    assert three["parameter_count"] - one["parameter_count"] == 2 * block / 4
    assert (
        three["parameter_bytes"] - one["parameter_bytes"]
        == three["gradient_bytes"] - one["gradient_bytes"]
        == 2 * block
    )
    assert three["peak_bytes"] > one["peak_bytes"] and three["seconds"] > one["seconds"]


def test_devices_share_by_the_strategy_of_training(capsys):
    arguments = ["plan", "smoke", "--plan", "pretrain", "--devices", "2", "--json"]
    assert main(arguments) == 0
    ddp = json.loads(capsys.readouterr().out)
    parallel_config.cache_clear()
    assert main([*arguments, "--parallel", "fsdp"]) == 0
    fsdp = json.loads(capsys.readouterr().out)
    assert (ddp["parallel"], fsdp["parallel"]) == ("ddp", "fsdp")
    share = fsdp["stages"][0]["optimizer_state_bytes"] / ddp["stages"][0]["optimizer_state_bytes"]
    assert share == pytest.approx(0.5, abs=0.02)


def test_another_devices_peak_shortens_the_time_alike(capsys):
    times = []
    for more in ([], ["--flops", "1e10"]):
        assert main(["plan", "smoke", "--plan", "pretrain", "--json", *more]) == 0
        times.append(json.loads(capsys.readouterr().out)["stages"][0]["step_seconds"])
    assert times[1] == pytest.approx(times[0] / 10)


def test_notes_say_what_is_counted_otherwise(capsys, monkeypatch):
    """For another device than this CPU, and where no measurement told what memory takes."""
    assert main(["plan", "smoke", "--plan", "pretrain"]) == 0
    said = capsys.readouterr().out
    assert "fused attention" not in said and "memory access" not in said
    monkeypatch.setattr("labkit.training.speed.measure_speed", lambda *given: DeviceSpeed(1e9, None, 1e-6))
    assert main(["plan", "smoke", "--plan", "pretrain", "--flops", "1e12"]) == 0
    said = capsys.readouterr().out
    assert "Fused attention on a GPU does not store the" in said and "memory access in training steps, whose" in said


def test_the_speed_of_sampling_is_measured_where_a_stage_samples(capsys, monkeypatch):
    measured = []

    def measure_generation_speed(bf16):
        measured.append(bf16)
        return DeviceSpeed(1e9, None, 1e-6)

    monkeypatch.setattr("labkit.training.speed.measure_generation_speed", measure_generation_speed)
    assert main(["plan", "smoke", "--plan", "pretrain,sft", "--json"]) == 0
    assert "generation_speed" not in json.loads(capsys.readouterr().out) and measured == []
    assert main(["plan", "smoke", "--json", "--flops", "1e10"]) == 0
    found = json.loads(capsys.readouterr().out)["generation_speed"]
    assert found == {"flops": 1e10, "bandwidth": None, "kernel_seconds": pytest.approx(1e-7)} and len(measured) == 1
    assert main(["plan", "smoke"]) == 0
    assert "Not in the time: memory access in sampling, whose share" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "huge"], "There is no preset 'huge' and no run in huge; the presets are smoke, lab, full"),
        (["plan", "smoke", "--devices", "0"], "labkit: --devices must be at least 1, not 0"),
        (["plan", "smoke", "--memory", "-1"], "labkit: --memory must be above 0, not -1"),
        (["plan", "smoke", "--memory", "much"], "--memory must be None or a number, not 'much'"),
        (["plan", "smoke", "--flops", "0"], "--flops must be above 0"),
        (
            ["plan", "smoke", "--flops", "989"],
            "--flops 989 is 989 FLOP/s, which no device is so slow to have. In TFLOP/s",
        ),
        (["plan", "smoke", "--devices", "8"], "A batch of 4 rows cannot be split over 8 processes"),
        (["plan", "smoke", "--cpu-offload"], "does not estimate --cpu-offload"),
        (["plan", "smoke", "--device", "8"], "labkit plan --devices 8"),
        (["plan", "smoke", "--parallel", "tensor"], "--parallel can be ddp or fsdp, not 'tensor'"),
        (["plan", "smoke", "--model.depht", "3"], "There is no option --model.depht"),
        (["plan", "smoke", "--plan", "pretrain,fly"], "There is no stage 'fly'"),
    ],
)
def test_what_cannot_be_planned_is_refused_in_words(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said
