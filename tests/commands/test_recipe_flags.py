"""The fields of a recipe as flags: what `labkit recipe` prints, `labkit run` takes, and what is refused."""

import json
import random
import shlex

import pytest

from labkit.commands.main import main
from labkit.errors import LabError
from labkit.model.rwkv import RWKV
from labkit.runs.arguments import parse_run_arguments
from labkit.runs.folder import Run
from labkit.runs.presets import make_recipe
from labkit.runs.settings import override_recipe
from tests.commands.test_main import SMALL


def test_an_unknown_flag_is_refused(capsys, tmp_path):
    assert main(["run", "--out", str(tmp_path / "new"), "--sed", "3"]) == 2
    assert "There is no option --sed." in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_shape_that_makes_no_sense_is_refused_in_words(capsys, tmp_path):
    assert main(["run", "--preset", "smoke", "--out", str(tmp_path / "new"), "--model.heads", "3"]) == 2
    assert "--model: a width of 64 cannot be split into 3" in capsys.readouterr().err


def test_the_environment_names_the_preset(monkeypatch, capsys):
    monkeypatch.setenv("LABKIT_PRESET", "full")
    assert main(["recipe"]) == 0
    assert "--tinyworld-size full" in capsys.readouterr().out
    monkeypatch.setenv("LABKIT_PRESET", "huge")
    assert main(["recipe"]) == 2
    assert "LABKIT_PRESET is 'huge'; the presets are smoke, lab, full." in capsys.readouterr().err


def test_a_learning_rate_that_nothing_reads_is_refused():
    recipe = make_recipe("smoke")
    with pytest.raises(
        LabError, match="--dpo.train.muon-lr is Muon's learning rate; this stage trains by AdamW. Set --dpo"
    ):
        override_recipe(recipe, ["--dpo.train.muon-lr", "0.1"], "run")
    assert override_recipe(recipe, ["--sft.train.muon-lr", "0.1"], "run").stages["sft"].train.muon_lr == 0.1
    assert override_recipe(recipe, ["--dpo.train.adamw-lr", "0.1"], "run").stages["dpo"].train.adamw_lr == 0.1


@pytest.mark.parametrize("preset", ["smoke", "lab", "full"])
def test_the_flags_that_recipe_prints_make_the_recipe(preset, capsys, tmp_path):
    """Printed, read back and applied to another preset, the flags give the first one's recipe."""
    assert main(["recipe", "--preset", preset]) == 0
    other = "lab" if preset == "smoke" else "smoke"
    _, made = parse_run_arguments(
        ["--preset", other, "--out", str(tmp_path / "new"), *shlex.split(capsys.readouterr().out)]
    )
    assert made.parts == make_recipe(preset).parts and made.plan == make_recipe(preset).plan


@pytest.mark.parametrize(
    "parts",
    [
        "--model.position Shaw --annotation.keep-ties",
        "--model.position.scaling YaRN --model.position.scaling.factor 4 "
        "--model.position.scaling.original-max-position-embeddings 96 --model.no-tied",
        "--model.mixer RWKV --model.position NoPosition --model.token-shift --plan pretrain,sft,dpo,dpo-strict@sft",
        "--model.feed-forward MoE --model.feed-forward.expert Plain --model.norm layer --pretrain.train.compile",
    ],
)
def test_the_flags_of_a_runs_recipe_make_it_too(parts, capsys, tmp_path):
    """Whatever kinds its parts are of, from a preset that has others."""
    given = parts.split()
    _, recipe = parse_run_arguments(["--preset", "smoke", "--out", str(tmp_path / "new"), *given])
    run = Run.create(tmp_path / "run", recipe)
    assert main(["recipe", str(run.path)]) == 0
    _, made = parse_run_arguments(
        ["--preset", "lab", "--out", str(tmp_path / "new"), *shlex.split(capsys.readouterr().out)]
    )
    assert made.parts == recipe.parts and made.plan == recipe.plan


def test_lines_that_recipe_prints_are_accepted_without_the_others(capsys):
    """Any of them, in any order: what changes nothing is no change."""
    assert main(["recipe", "--preset", "smoke"]) == 0
    recipe = make_recipe("smoke")
    plan, *lines = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) > 100 and plan == ["--plan", "pretrain,sft,reward,ppo,dpo"]
    for seed in range(3):
        random.Random(seed).shuffle(lines)
        for some in (lines[::2], lines[1::2]):
            assert override_recipe(recipe, [word for line in some for word in line], "run") == recipe


def test_another_architecture_is_one_value(tmp_path, capsys):
    out = tmp_path / "alibi"
    parts = (
        "--model.position ALiBi --model.feed-forward MoE --model.feed-forward.num-experts 3 --model.norm layer".split()
    )
    assert main(["run", "--out", str(out), "--stages", "pretrain", *SMALL, *parts]) == 0
    model = json.loads((out / "recipe.json").read_text())["recipe"]["model"]
    assert model["position"] == {"kind": "ALiBi"} and model["norm"] == "layer"
    assert model["feed_forward"]["kind"] == "MoE" and model["feed_forward"]["num_experts"] == 3
    assert model["feed_forward"]["expert"] == {"kind": "Gated", "intermediate_size": 192, "activation": "silu"}
    recurrent = "--model.mixer RWKV --model.position NoPosition --model.token-shift".split()
    assert main(["run", "--out", str(tmp_path / "rwkv"), "--stages", "pretrain", "sft", *SMALL, *recurrent]) == 0
    assert Run.open(tmp_path / "rwkv").model("sft").config.mixer == RWKV()
    assert main(["run", "--out", str(tmp_path / "x"), "--model.mixer", "RWKV"]) == 2
    assert "set position=NoPosition()" in capsys.readouterr().err
    assert main(["run", "--out", str(tmp_path / "x"), "--model.position", "Alibi"]) == 2
    assert "--model.position can be Rotary, NoPosition, Learned" in capsys.readouterr().err


def test_a_kind_is_named_in_either_form_and_at_any_depth(capsys):
    from labkit.model.feedforward import Gated, MoE, Plain
    from labkit.model.positions import ALiBi, Rotary
    from labkit.model.rotary_scaling import LinearScaling, YaRN

    def model(*flags: str):
        return override_recipe(make_recipe("smoke"), list(flags), "run").model

    assert model("--model.position=ALiBi").position == ALiBi()
    far = [
        "--model.position.scaling",
        "YaRN",
        "--model.position.scaling.factor=4",
        "--model.position.scaling.original-max-position-embeddings",
    ]
    assert model(*far, "96").position == Rotary(100.0, YaRN(4.0, 96))
    linear = ["--model.position.scaling=LinearScaling", "--model.position.scaling.factor", "2.5"]
    assert model(*linear).position == Rotary(100.0, LinearScaling(2.5))
    assert model("--model.position.scaling=None").position == Rotary(100.0)
    experts = ["--model.feed-forward.expert=Plain", "--model.feed-forward.num-experts=3"]
    mixture = model("--model.feed_forward", "MoE", *experts)
    assert mixture.feed_forward == MoE(Plain(192, "silu"), num_experts=3)
    assert model("--model.feed-forward.intermediate-size=64").feed_forward == Gated(64)
    for flags, words in {
        ("--model.position=Alibi",): "--model.position can be Rotary, .* not 'Alibi'",
        (
            "--model.position.scaling",
            "YaRN",
        ): "YaRN needs --model.position.scaling.factor and .*original-max-position-embeddings too",
        (
            "--model.position.scaling=LinearScaling",
            "--model.position.scaling.factor=x",
        ): "scaling.factor must be a number, not 'x'",
    }.items():
        with pytest.raises(LabError, match=words):
            model(*flags)


def test_more_heads_are_no_grouped_queries():
    made = override_recipe(make_recipe("lab"), ["--model.heads", "8"], "run").model
    assert made.attention_config.query_heads == made.attention_config.key_value_heads == 8
    shared = override_recipe(make_recipe("lab"), ["--model.heads=8", "--model.key-value-heads=2"], "run").model
    assert shared.attention_config.key_value_heads == 2
