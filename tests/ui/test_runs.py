"""The Runs tab, without a browser: runs shown, compared and begun."""

import shlex
import shutil
from dataclasses import replace

import pytest

from labkit.errors import LabError
from labkit.paths import demo_folder
from labkit.preferences.store import PreferenceStore
from labkit.runs.arguments import parse_run_arguments
from labkit.runs.folder import Run
from labkit.runs.jobs import Jobs
from labkit.runs.presets import make_recipe, plan_templates
from labkit.ui import chinese, manage, methods, preferences, runs, shell
from labkit.ui.lab import Lab
from labkit.ui.run_figures import curve_figures, metrics_table, run_comparison_table
from tests.tiny_recipe import tiny_recipe
from tests.ui.test_preferences import Started


def test_curves_are_drawn_beside_lines_that_are_no_records(lab, tmp_path):
    shutil.copytree(lab.folder / "tiny", tmp_path / "tiny")
    (tmp_path / "tiny" / "dpo" / "metrics.jsonl").write_text('[1]\n{"step": "x"}\n{"step": 3}\nnull\n')
    with pytest.warns(UserWarning, match="3 of its lines are not step records"):
        shown = runs.RunTabUpdates(Lab(tmp_path), Jobs(tmp_path)).component_updates("tiny", None, "dpo", "loss")
    assert "3 / " in str(shown[1])


def test_progress_and_card_of_a_run(lab):
    made, jobs = lab.open("tiny"), Jobs(lab.folder)
    rows = runs.stage_progress_rows(made, runs.run_status(jobs, made))
    assert [row[:3] for row in rows] == [[s, "Finished", "6 / 6"] for s in ("pretrain", "sft", "reward", "ppo", "dpo")]
    table = metrics_table(made)
    assert table["headers"] == ["metric", "pretrain", "sft", "reward", "ppo", "dpo"]
    assert all(len(row) == 6 for row in table["data"])
    assert list(curve_figures(made.stage("ppo")))[0] == "reward"


def test_losses_of_tokens_of_pairs_and_of_a_reward_model_stand_apart(lab):
    rows = {row[0]: row[1:] for row in metrics_table(lab.open("tiny"))["data"]}
    token = rows["validation loss before this stage (nats per token)"]
    pair = rows["loss on held-out pairs before this stage (nats per pair)"]
    assert [bool(value) for value in token] == [True, True, False, False, False]
    reward = rows["loss on held-out preferences before this stage (nats per choice, or squared error)"]
    assert [bool(value) for value in pair] == [False, False, False, False, True]
    assert [bool(value) for value in reward] == [False, False, True, False, False]


def test_a_run_is_begun_with_flags_and_never_through_a_shell(lab, tmp_path, monkeypatch):
    jobs = Started(lab.folder)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a; rm -rf b").write_text("One day.")
    assert manage.start_run(lab, jobs, " new ", "smoke", (), 3, "--model.width 32 --text 'a; rm -rf b'") == "new"
    (name, arguments) = jobs.asked[0]
    assert name == "new" and arguments[:7] == [
        "run",
        "--out",
        str(lab.folder / "new"),
        "--preset",
        "smoke",
        "--seed",
        "3",
    ]
    assert arguments[-4:] == ["--model.width", "32", "--text", "a; rm -rf b"]
    for bad, message in (
        ("../x", "not a valid name for a run"),
        ("", "not a valid name"),
        ("tiny", "a run tiny already"),
    ):
        with pytest.raises(LabError, match=message):
            manage.start_run(lab, jobs, bad, "smoke")
    with pytest.raises(LabError, match="cannot be read"):
        manage.start_run(lab, jobs, "other", "smoke", extra_flags="'open")
    with pytest.raises(LabError, match="--out=/tmp/x is set by the fields above"):
        manage.start_run(lab, jobs, "other", "smoke", extra_flags="--model.width 32 --out=/tmp/x")


def test_a_stage_is_made_anew_beside_the_run_it_builds_on(lab):
    jobs = Started(lab.folder)
    with pytest.raises(LabError, match="Choose the stages"):
        manage.start_run(lab, jobs, "other", "tiny")
    manage.start_run(lab, jobs, "other", "tiny", ["dpo"], extra_flags="--dpo.beta 0.5")
    assert jobs.asked[0][1][3:] == ["--build-on", str(lab.folder / "tiny"), "--stages", "dpo", "--dpo.beta", "0.5"]


def test_what_is_finished_is_not_gone_on_with(lab):
    with pytest.raises(LabError, match="tiny is finished"):
        manage.resume_run(lab, Started(lab.folder), "tiny")


def test_the_run_that_comes_with_labkit_is_one_more_run(lab, tmp_path):
    with_demo = Lab(tmp_path / "mine", demo=lab.folder / "tiny")
    assert with_demo.runs_with_model() == ["demo"] and with_demo.language_model_stages(
        "demo"
    ) == lab.language_model_stages("tiny")
    assert with_demo.path("demo") == lab.folder / "tiny"
    with pytest.raises(LabError, match="a run demo already"):
        manage.start_run(with_demo, Started(with_demo.folder), "demo", "smoke")
    store = PreferenceStore(tmp_path / "votes.db")
    both = [preferences.AnswerSource("demo", "sft", 1.0), preferences.AnswerSource("demo", "ppo", 1.5)]
    for number in range(4):
        store.add_vote(
            preferences.generate_and_store_pair(with_demo, store, both, f"Where is Tom? {number}"), "ada", "right"
        )
    assert manage.train_on_votes(with_demo, Started(with_demo.folder), store, "demo")[0] == "demo-votes-1"
    assert with_demo.runs_with_model() == ["demo-votes-1", "demo"]


def test_a_branch_needs_what_it_begins_with(lab, tmp_path):
    made = lab.open("tiny")
    unfinished = Run.create(tmp_path / "fresh", made.recipe)
    with pytest.raises(LabError, match="has not finished pretrain, sft"):
        unfinished.branch(tmp_path / "other", replace(made.recipe, seed=1), ["pretrain", "sft"])
    assert not (tmp_path / "other").exists()


def test_two_runs_side_by_side(lab):
    with_demo = Lab(lab.folder, demo_folder())
    told, table = run_comparison_table(with_demo, "tiny", "demo")
    heads = ["stage", "metric", "tiny", "demo", "difference", "beyond chance"]
    assert not told["visible"] and table["headers"] == heads
    assert table["data"] and all(len(row) == 6 for row in table["data"])
    said = {(row[0], row[1]): row[5] for row in table["data"]}
    assert said["sft", "accuracy"] in ("better", "worse", "within chance") and said["sft", "validation loss"] == ""


def test_why_two_runs_are_not_compared_is_said_above_an_empty_table(lab):
    """In words, without the place of a file on this machine."""
    Run.create(lab.folder / "fresh", tiny_recipe())
    try:
        for other, words in [
            ("fresh", "fresh cannot be compared yet: no stage of it is finished."),
            ("tiny", "tiny is compared with itself. Choose another run."),
            ("other", "There is no run 'other' in "),
            (None, "Choose another run"),
        ]:
            told, table = run_comparison_table(lab, "tiny", other)
            assert told["visible"] and told["value"].startswith(words) and table["data"] == []
            assert str(lab.folder) not in told["value"]
    finally:
        shutil.rmtree(lab.folder / "fresh")


def test_flags_of_stages_that_are_added_are_known(lab):
    """Any plan of the command line: a method that the preset has not, two of a kind, and what each comes after."""
    jobs = Started(lab.folder)
    manage.start_run(lab, jobs, "a", "smoke", (), 0, "--plan pretrain,sft,reward,grpo --grpo.reward Verifier")
    assert jobs.asked[-1][1][-4:] == ["--plan", "pretrain,sft,reward,grpo", "--grpo.reward", "Verifier"]
    manage.start_run(lab, jobs, "b", "tiny", ["grpo"], extra_flags="--grpo.reward Verifier --grpo.train.max-length 64")
    assert jobs.asked[-1][1][3:] == [
        *["--build-on", str(lab.folder / "tiny"), "--stages", "grpo", "--plan", "pretrain,sft,reward,ppo,dpo,grpo"],
        *["--grpo.reward", "Verifier", "--grpo.train.max-length", "64"],
    ]
    manage.start_run(lab, jobs, "c", "tiny", ["dpo-strict"], extra_flags="--dpo-strict.beta 0.5")
    assert "pretrain,sft,reward,ppo,dpo,dpo-strict" in jobs.asked[-1][1]
    manage.start_run(lab, jobs, "d", "tiny", ["ipo@dpo"], extra_flags="--ipo.beta=0.5 --ipo.train.max-length=64")
    assert jobs.asked[-1][1][6:] == [
        "ipo",
        "--plan",
        "pretrain,sft,reward,ppo,dpo,ipo@dpo",
        "--ipo.beta=0.5",
        "--ipo.train.max-length=64",
    ]
    manage.start_run(
        lab, jobs, "e", "smoke", ["pretrain", "sft", "dpo-b"], extra_flags="--plan=pretrain,sft,dpo --dpo-b.beta 1"
    )
    for stages, flags, message in (
        (["grpo@nowhere"], "", "grpo cannot come after nowhere"),
        (["grpo"], "--grpo.reward Praise", "--grpo.reward can be .*Verifier.*, not 'Praise'"),
        (["sing"], "", "are not stages; the stages are pretrain"),
    ):
        with pytest.raises(LabError, match=message):
            manage.start_run(lab, jobs, "f", "tiny", stages, extra_flags=flags)


def test_every_method_of_the_form_begins_a_run_and_shows_its_command(lab):
    jobs = Started(lab.folder)
    for _, kind in methods.method_choices():
        asked, flags = methods.with_method(lab, "smoke", [], kind, ""), methods.main_settings(lab, "smoke", kind)
        manage.start_run(lab, jobs, f"new-{kind}", "smoke", asked, 0, flags)
        command = methods.command_line(lab, f"new-{kind}", "smoke", asked, 0, flags)
        assert shlex.split(command)[:2] == ["labkit", "run"] and kind in shlex.split(command)
        assert methods.about_method(kind) and shlex.split(flags)[0].startswith(f"--{kind}.")
    assert methods.with_method(lab, "smoke", [], "ipo", "dpo")[-1] == "ipo@dpo"
    assert methods.with_method(lab, "tiny", ["dpo"], "ipo", None) == ["dpo", "ipo"]
    assert methods.predecessor_choices(lab, "tiny") == ["pretrain", "sft", "ppo", "dpo"]
    assert methods.about_method("sing") == [] and methods.main_settings(lab, "smoke", None) == ""
    assert methods.about_method("dpo")[1] == "train.batch_size counts pairs of answers."
    for kind in ("dpo", "grpo", "kto", "reward"):
        told = [chinese.translate_message_to_chinese(text) for text in methods.about_method(kind)]
        assert not any("英文原文" in text for text in told) and told[1].startswith("train.batch_size 的计数单位：")
    with pytest.raises(LabError, match="'sing' is not a method"):
        methods.with_method(lab, "smoke", [], "sing", None)


def test_the_settings_of_a_method_are_those_that_it_is_trained_with(lab):
    jobs = Started(lab.folder)
    smoke = make_recipe("smoke")
    for kind in ("ppo", "dpo", "grpo"):
        asked, flags = methods.with_method(lab, "smoke", [], kind, ""), methods.main_settings(lab, "smoke", kind)
        plain, filled = (manage.run_arguments(lab, f"as-{kind}", "smoke", asked, 0, more) for more in ("", flags))
        assert parse_run_arguments(plain)[1] == parse_run_arguments(filled)[1]
        template = next(one.stage for one in plan_templates(smoke) if one.name == kind)
        assert f"--{kind}.train.steps {template.train.steps} " in flags
    assert "--ppo.kl-coef 0.05" in methods.main_settings(lab, "smoke", "ppo")
    assert "--dpo.train.steps 6 " in methods.main_settings(lab, "tiny", "dpo")  # of a run, the run's own
    assert methods.main_settings(lab, "nowhere", "dpo") == "" and not jobs.asked


def test_what_a_person_typed_is_kept_when_a_method_is_chosen():
    assert methods.settings_to_fill_in("", "", "--dpo.beta 0.1") == "--dpo.beta 0.1"
    assert methods.settings_to_fill_in("--dpo.beta 0.1", "--dpo.beta 0.1", "") == ""
    assert methods.settings_to_fill_in("--dpo.beta 0.5", "--dpo.beta 0.1", "--ipo.beta 0.1") == "--dpo.beta 0.5"


def test_the_command_does_not_say_where_the_runs_lie(lab, monkeypatch):
    def command():
        return shlex.split(methods.command_line(lab, "new", "tiny", ["dpo"], 0, "--dpo.beta 0.5"))

    name = lab.folder.name
    assert command()[:6] == ["labkit", "run", "--out", f"{name}/new", "--build-on", f"{name}/tiny"]
    monkeypatch.chdir(lab.folder)
    assert command()[:6] == ["labkit", "run", "--out", "new", "--build-on", "tiny"]


def test_the_command_is_not_parsed_at_each_letter(lab):
    """What is typed is read when the box is left, or Enter is pressed."""
    jobs, store = Started(lab.folder), PreferenceStore(lab.folder / "letters.db")
    blocks = shell.build_page(lab, {"runs": lambda lab: runs.build(lab, jobs, store)})
    shown = [one for one in blocks.config["dependencies"] if str(one["api_name"]).startswith("show_command")]
    heard = {(number, event) for one in shown for number, event in one["targets"]}
    boxes = {one["props"].get("elem_id"): one["id"] for one in blocks.config["components"]}
    for box in ("new-name", "new-seed", "new-more"):
        assert {(boxes[box], "blur"), (boxes[box], "submit")} <= heard and (boxes[box], "change") not in heard
    assert {(boxes["new-stages"], "change"), (boxes["new-after"], "change")} <= heard
