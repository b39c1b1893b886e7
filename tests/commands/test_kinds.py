"""Whatever kind a flag names for a field, `labkit run` and `labkit STAGE` make it, at its own defaults; and what the
README shows is taken.
"""

import dataclasses
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from labkit.commands import device, imported, launched
from labkit.commands.main import main
from labkit.configs import required_fields, union_field_choices
from labkit.errors import LabError
from labkit.evaluation.judges import Worst
from labkit.model.feedforward import Gated, MoE, Plain
from labkit.model.positions import Rotary, Shaw, T5Buckets
from labkit.model.rotary_scaling import LinearScaling, Llama3Scaling, YaRN
from labkit.model.transformer import ModelConfig
from labkit.paths import demo_folder
from labkit.runs.arguments import parse_run_arguments
from labkit.runs.settings import override_config
from labkit.stages import PPO, STAGES
from labkit.stages.clipping import ClipRatio, ClipWeight
from labkit.stages.credit import GroupMean, KLInLoss, KLInReward, NoKL
from labkit.stages.gspo import GSPO
from labkit.stages.reward import PlackettLuce
from labkit.stages.rewards import Custom, Ensemble, Verifier

ROOT = Path(__file__).resolve().parents[2]


def kind_choices(config: Any, path: str = "") -> list[tuple[dict[str, type], Any]]:
    """({path: kind} of the kinds to name, what is at the last path now) for each field, at any depth, that can be one
    of several kinds, and each kind.
    """
    found: list[tuple[dict[str, type], Any]] = []
    for field, kinds in union_field_choices(type(config)).items():
        for kind in kinds.values():
            named = {f"{path}{field}": kind}
            found.append((named, getattr(config, field)))
            if dataclasses.is_dataclass(kind) and not required_fields(kind):
                found += [(named | more, now) for more, now in kind_choices(kind(), f"{path}{field}.")]
    return found


CASES = [
    pytest.param(
        STAGES[name], named, now, id=f"{name} {' '.join(f'{at} {kind.__name__}' for at, kind in named.items())}"
    )
    for name in STAGES
    for named, now in kind_choices(STAGES[name]())
]


def value_at(config: Any, path: str) -> Any:
    for name in path.split("."):
        config = getattr(config, name)
    return config


def halved(kind: Any) -> dict[str, float]:
    """Other values than the defaults for the numbers of a kind, by their fields."""
    return {field.name: field.default / 2 for field in dataclasses.fields(kind) if isinstance(field.default, float)}


def test_the_walk_reaches_what_a_stage_is_made_of():
    cases: list[Any] = [case.values for case in CASES]
    chosen = [(stage.kind, *named.values()) for stage, named, _ in cases]
    wanted = [("grpo", ClipWeight), ("reinforce", KLInLoss), ("dapo", Custom), ("reward", PlackettLuce)]
    assert {*wanted, ("gspo", Ensemble, Worst)} <= set(chosen) and len(chosen) > 100


@pytest.mark.parametrize(("stage", "named", "now"), CASES)
def test_a_kind_begins_at_its_own_defaults_and_takes_its_numbers(stage, named, now):
    """Also one that needs other settings than the stage's defaults, here four answers to a prompt: all are given
    together.
    """
    path, kind = list(named.items())[-1]
    needed = dict.fromkeys(required_fields(kind), "brief")
    given = [word for at, one in named.items() for word in (f"--{at}", one.__name__)]
    given += [f"--{path}.{field}={value}" for field, value in needed.items()]
    given += ["--num-generations=4"] if hasattr(stage(), "num_generations") else []
    made = override_config(stage(), given, stage.kind)
    assert value_at(made, path) == (now if type(now) is kind else kind(**needed))
    numbers = [f"--{path}.{field}={value}" for field, value in halved(kind).items()]
    made = value_at(override_config(stage(), [*numbers, *given], stage.kind), path)
    assert type(made) is kind and {field: getattr(made, field) for field in halved(kind)} == halved(kind)


@pytest.mark.parametrize(
    ("before", "flags", "after"),
    [
        (dict(feed_forward=Gated(64, "relu")), "--feed-forward Plain", dict(feed_forward=Plain(64, "relu"))),
        (dict(feed_forward=Plain(64)), "--feed-forward MoE", dict(feed_forward=MoE(Plain(64)))),
        (dict(feed_forward=MoE(Gated(64), 3)), "--feed-forward Plain", dict(feed_forward=Plain(64))),
        (
            dict(feed_forward=MoE(Gated(64), 3)),
            "--feed-forward.expert Plain",
            dict(feed_forward=MoE(Plain(64, "silu"), 3)),
        ),
        (dict(position=Shaw(9)), "--position T5Buckets --position.num-buckets 8", dict(position=T5Buckets(8, 9))),
        (dict(position=Rotary(50.0)), "--position Shaw", dict(position=Shaw())),
        (dict(position=Shaw(9)), "--position Rotary", dict(position=Rotary())),
        (
            dict(position=Rotary(50.0, YaRN(3.0, 77, 30.0))),
            "--position.scaling Llama3Scaling",
            dict(position=Rotary(50.0, Llama3Scaling(3.0, original_max_position_embeddings=77))),
        ),
        (
            dict(position=Rotary(50.0, LinearScaling(3.0))),
            "--position.scaling YaRN --position.scaling.original-max-position-embeddings 70",
            dict(position=Rotary(50.0, YaRN(3.0, 70))),
        ),
    ],
)
def test_a_part_of_the_model_takes_over_what_means_the_same_in_the_kind_before(before, flags, after):
    assert override_config(ModelConfig(9, **before), flags.split(), "run") == ModelConfig(9, **after)


def run_arguments(text: str) -> Any:
    return parse_run_arguments(["--preset", "smoke", "--out", "nowhere", *text.split()])[1]


def test_what_a_stage_needs_is_asked_of_the_recipe_that_all_flags_make():
    plan = "--plan pretrain,sft,grpo"
    assert run_arguments(f"{plan} --grpo.reward Verifier").stages["grpo"].reward == Verifier()
    with pytest.raises(LabError, match="grpo needs a reward model: put reward before it"):
        run_arguments(plan)
    with pytest.raises(LabError, match="grpo needs the reward model reward-2"):
        run_arguments("--plan pretrain,sft,reward,grpo --grpo.reward Ensemble")
    with pytest.raises(LabError, match="grpo needs a reward model"):
        run_arguments(f"{plan},reward --grpo.reward Verifier --grpo.reward RewardModelScore")


def test_kinds_do_not_hand_numbers_of_another_meaning_on():
    stages = run_arguments(
        "--plan pretrain,sft,reward,reinforce,grpo,gspo,reinforcepp --reinforce.kl KLInLoss --grpo.kl KLInReward "
        "--gspo.clipping ClipWeight --grpo.clipping=ClipWeight --reinforcepp.baseline GroupMean "
        "--reinforcepp.num-generations 4 --gspo.kl KLInReward --gspo.kl.coef 0.5"
    ).stages
    assert (stages["reinforce"].kl, stages["grpo"].kl, stages["gspo"].kl) == (KLInLoss(), KLInReward(), KLInReward(0.5))
    assert stages["gspo"].clipping == stages["grpo"].clipping == ClipWeight()
    assert stages["reinforcepp"].baseline == GroupMean()
    same = run_arguments("--plan pretrain,sft,reward,gspo --gspo.clipping ClipRatio").stages["gspo"]
    assert same.clipping == GSPO().clipping != ClipRatio(), "the kind that it has already changes nothing"


@pytest.mark.parametrize(
    "command", ["run --plan pretrain,sft,grpo --grpo.reward Custom", "grpo nowhere --reward Custom"]
)
def test_a_kind_that_needs_a_name_says_its_flag(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LABKIT_PRESET", "smoke")
    recipe = run_arguments("--plan pretrain,sft,reward,grpo")
    monkeypatch.setattr("labkit.runs.presets.make_recipe", lambda preset, **options: recipe)
    prefix = "--grpo.reward" if command.startswith("run") else "--reward"
    assert main(command.split()) == 2
    assert capsys.readouterr().err == f"labkit: Custom needs {prefix}.function too.\n"
    with pytest.raises(LabError, match="Custom: function must be text, not 3"):
        Custom(3)  # type: ignore[arg-type]
    assert not any(tmp_path.iterdir())


def test_a_stages_own_command_takes_every_kind_and_number(tmp_path, monkeypatch, capsys):
    """As `labkit run` does, and refuses what does not go together before anything is written."""
    from labkit.runs import pipeline
    from labkit.runs.folder import Run

    Run.create(tmp_path / "run", run_arguments("--plan pretrain,sft,grpo --grpo.reward Verifier"))
    (tmp_path / "run" / "grpo").mkdir()
    asked: list[Any] = []
    monkeypatch.setattr(pipeline, "rerun_stage", lambda path, name, config: asked.append(config))
    monkeypatch.setattr("labkit.reporting.terminal.run_with_progress", lambda events, *given: 0)
    grpo = ["grpo", str(tmp_path / "run")]
    assert main([*grpo, "--again", "--reward", "Custom", "--reward.function", "brief", "--kl", "NoKL"]) == 0
    assert (asked[-1].reward, asked[-1].kl) == (Custom("brief"), NoKL())
    assert main([*grpo, "--again", "--clipping=ClipWeight", "--train.steps", "3"]) == 0
    assert asked[-1].clipping == ClipWeight() and asked[-1].train.steps == 3 and asked[-1].reward == Verifier()
    assert main([*grpo, "--again", "--reward", "RewardModelScore"]) == 2
    assert "grpo needs a reward model: put reward before it in the plan" in capsys.readouterr().err
    assert main([*grpo, "--again", "--kl.coef", "-1"]) == 2
    assert capsys.readouterr().err == "labkit: --kl.coef must be at least 0, not -1.\n"
    assert main([*grpo, "--again", "--num-generations", "1"]) == 2
    assert "labkit: GroupMean compares" in capsys.readouterr().err
    assert len(asked) == 2 and override_config(PPO(), ["--target-kl", "5"], "ppo") == PPO(target_kl=5.0)


def readme_commands() -> list[str]:
    """Every command of the README that begins with `labkit run`, in its blocks and in its sentences, but for help."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    inline = [re.sub(r"\s+", " ", found) for found in re.findall(r"(?<!`)`(labkit run[^`]*)`", text)]
    runs = [line for line in [*lines, *inline] if line.startswith("labkit run ") and "…" not in line.partition("#")[0]]
    return [line for line in runs if "--help" not in line]


@pytest.mark.parametrize("line", readme_commands())
def test_every_run_that_the_readme_shows_is_a_recipe(line, tmp_path, monkeypatch):
    """runs/lab is there, as after the first command."""
    shutil.copytree(demo_folder(), tmp_path / "runs" / "lab")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(device, "use_device", lambda name: None)
    words = shlex.split(line, comments=True)[2:]
    monkeypatch.setattr(imported, "import_file", lambda path: None)
    words = device.take_device_option(launched.move_launch_options_to_environment(words))
    _, recipe = parse_run_arguments(imported.take_import_options(words))
    named = [word for word in words if word.startswith("--plan=") or words[words.index(word) - 1] == "--plan"]
    assert not named or [one.name for one in recipe.plan] == [part.partition("@")[0] for part in named[0].split(",")]


def test_the_readme_shows_runs():
    assert len(readme_commands()) > 12
