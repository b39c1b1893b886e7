"""What the flags cannot say is refused in one line that names the flag, before anything is written."""

import pytest

from labkit.commands.main import main
from labkit.runs.flags import format_tyro_error


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("run --model.width abc", "--model.width must be a whole number, not 'abc'."),
        ("run --model.key-value-heads x", "--model.key-value-heads must be None or a whole number, not 'x'."),
        ("run --ppo.kl 0.1", "--ppo.kl is now called --ppo.kl-coef."),
        ("run --world-size tiny", "--world-size is now called --tinyworld-size."),
        ("run --model.key-heads 2", "--model.key-heads is now called --model.key-value-heads."),
        (
            "run --evaluation.answer-tokens 9",
            "--evaluation.answer-tokens is now called --evaluation.answer-max-new-tokens.",
        ),
        ("run --evaluation.loss-rows 9", "--evaluation.loss-rows is now called --evaluation.loss-batch-size."),
        ("run --annotation.answer_tokens=9", "--annotation.answer-tokens is now called --annotation.max-new-tokens."),
        ("run --annotation.ties", "--annotation.ties is now called --annotation.keep-ties."),
        ("run --annotation.no-ties", "--annotation.no-ties is now called --annotation.no-keep-ties."),
        (
            "run --model.feed-forward.hidden 9",
            "--model.feed-forward.hidden is now called --model.feed-forward.intermediate-size.",
        ),
        ("run --pretrain.train.muon-lr x", "--pretrain.train.muon-lr must be a number, not 'x'."),
        ("run --model.width 0", "--model.width must be at least 1 and at most 1,048,576, not 0."),
        ("run --model.norm x", "--model.norm can be rms, layer, not 'x'."),
        (
            "run --model.width",
            "--model.width needs a value; one that begins with a dash stands behind =: --model.width=-1",
        ),
        ("run --model.wdith 3", "There is no option --model.wdith. Did you mean --model.width or --model.depth?"),
        ("read a", "labkit read needs --as {text,instructions,preferences}. labkit read --help says more."),
        ("compare a", "labkit compare needs RUN_B. labkit compare --help says more."),
        ("export r --out x", "--out is not an option: FOLDER stands without one, as in labkit export RUN FOLDER."),
        ("export --run=r x", "--run is not an option: RUN stands without one, as in labkit export RUN FOLDER."),
        ("plan --recipe smoke", "--recipe is not an option: [RECIPE] stands without one, as in labkit plan [RECIPE]."),
        ("run --dpo.beta＝0.5", "--dpo.beta＝0.5 is not typed with the ASCII signs - and =. Type --dpo.beta=0.5"),
        ("run －－preset＝smoke", "－－preset＝smoke is not typed with the ASCII signs - and =. Type --preset=smoke"),
        ("chat r —temperature 0.5", "—temperature is not typed with the ASCII signs - and =. Type --temperature"),
        ("plan --flops inf", "--flops must be finite and above 0, not inf."),
        ("run --dpo.beta inf", "--dpo.beta must be finite and above 0, not inf."),
    ],
)
def test_what_a_flag_does_not_take_is_one_line(arguments, line, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LABKIT_PRESET", "smoke")
    assert main(arguments.split()) == 2
    assert capsys.readouterr().err == f"labkit: {line}\n" and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("prompt", ["—Where", "－－preset＝smoke", "a＝b"])
def test_a_value_may_hold_any_sign(prompt, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["generate", "nowhere", "--prompt", prompt]) == 2
    assert "nowhere contains no run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("--model.width 257", ("width / heads", "must be even, not 257")),
        ("--model.heads 3", ("--model: a width of 64 cannot be split into 3 heads",)),
        ("--model.no-causal", ("model.causal True and model.encoder_depth 0",)),
    ],
)
def test_a_model_that_does_not_fit_is_refused_before_the_run_begins(settings, words, capsys, tmp_path):
    assert main(["run", "--preset", "smoke", "--out", str(tmp_path / "new"), *settings.split()]) == 2
    said = capsys.readouterr().err
    assert said.startswith("labkit: ") and said.count("\n") == 1 and all(word in said for word in words)
    assert list(tmp_path.iterdir()) == []


def test_a_box_is_read_on_a_console_of_any_kind():
    for box in ("╭─ Value error ──╮\n│ All is lost.    │\n╰────────────────╯", "Value error\n------\n All is lost. \n"):
        assert format_tyro_error(box, "labkit run", "Options") == "All is lost."
    assert format_tyro_error("it broke\n", "labkit run", "Options") == "it broke"
