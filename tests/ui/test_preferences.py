"""The Preferences tab, without a browser: pairs, votes, and training on them."""

import json
import os
import shutil
from pathlib import Path

import pytest

from labkit.errors import LabError
from labkit.paths import demo_folder
from labkit.preferences.store import PreferenceStore, SourcedAnswer
from labkit.runs.folder import Run
from labkit.runs.jobs import Jobs
from labkit.runs.pipeline import run
from labkit.ui import manage, preferences
from labkit.ui.lab import Lab
from labkit.world import Message


def test_pairs_are_blind_and_sides_are_drawn(lab, tmp_path):
    store = PreferenceStore(tmp_path / "votes.db")
    both = [preferences.AnswerSource("tiny", "sft", 1.0), preferences.AnswerSource("tiny", "pretrain", 1.5)]
    shown = [store.get_pair(preferences.generate_and_store_pair(lab, store, both)) for _ in range(12)]
    for pair in shown:
        assert {pair.left.source, pair.right.source} == set(map(str, both)) and pair.left.text != pair.right.text
    assert {pair.left.source for pair in shown} == set(map(str, both))  # by chance alone: 1 in 2,048
    own = store.get_pair(preferences.generate_and_store_pair(lab, store, both, "Who are you? <b>"))
    assert own.prompt[0].content == "Who are you? <b>"


def test_two_that_always_say_the_same_are_no_pair(lab, tmp_path):
    same = preferences.AnswerSource("tiny", "sft", 0.0)
    with pytest.raises(LabError, match="Both models gave the same answer"):
        preferences.generate_and_store_pair(lab, PreferenceStore(tmp_path / "votes.db"), [same, same], "Where is Tom?")


def voted(lab: Lab, store: PreferenceStore, count: int) -> None:
    both = [preferences.AnswerSource("tiny", "sft", 1.0), preferences.AnswerSource("tiny", "ppo", 1.5)]
    for number in range(count):  # short prompts, each another, so that one can be held out and all fit in a row
        store.add_vote(preferences.generate_and_store_pair(lab, store, both, f"Where is Tom? {number}"), "ada", "left")


def test_votes_are_exported_and_counted(lab, tmp_path):
    store = PreferenceStore(tmp_path / "votes.db")
    with pytest.raises(LabError, match="nothing to train on"):
        preferences.export_preferences(store, tmp_path)
    voted(lab, store, 3)
    lines = preferences.export_preferences(store, tmp_path).read_text().splitlines()
    assert len(lines) == 3 and set(json.loads(lines[0])) == {"prompt", "chosen", "rejected"}
    assert sum(int(row[1]) for row in preferences.ratings_table(store)) == 6  # each vote is about two sources


class Started(Jobs):
    """Starts nothing, and remembers what it was asked to."""

    def __init__(self, folder):
        super().__init__(folder)
        self.asked: list[tuple] = []

    def start(self, name, arguments):
        self.asked.append((name, list(arguments)))


def test_dpo_on_votes_is_a_run_of_its_own(lab, tmp_path):
    store, jobs = PreferenceStore(tmp_path / "votes.db"), Started(lab.folder)
    with pytest.raises(LabError, match="nothing to train on"):
        manage.train_on_votes(lab, jobs, store, "tiny")
    voted(lab, store, 4)
    new, note = manage.train_on_votes(lab, jobs, store, "tiny")
    assert note.startswith(
        "tiny-votes-1 is trained on the votes that prefer an answer: 4. Too few votes: it will overfit"
    )
    assert new == "tiny-votes-1" and jobs.asked[-1][1][-2:] == ["--stages", "dpo"]
    branched = Run.open(lab.folder / new)
    assert (
        branched.recipe.stages["dpo"].train.max_length == branched.recipe.model.context
    )  # people's prompts may be long
    assert branched.stage("sft").finished and not branched.stage("dpo").exists
    for _ in run(branched.recipe, branched.path, ["dpo"], resume=True):
        pass
    assert branched.stage("dpo").finished
    assert lab.language_model_stages(new) == ["pretrain", "sft", "dpo"]
    votes = branched.recipe.preferences
    assert votes is not None
    before = Path(votes).read_bytes()
    (lab.folder / new).rename(lab.folder / "renamed")  # what it reads stays its own
    voted(lab, store, 1)
    assert manage.train_on_votes(lab, jobs, store, "tiny")[0] == "tiny-votes-2" and Path(votes).read_bytes() == before
    for name in ("renamed", "tiny-votes-2"):
        shutil.rmtree(lab.folder / name)


def test_the_run_that_was_voted_on_is_the_one_to_train(lab, tmp_path):
    """Counted are votes that prefer an answer: a tie or a skip teaches nothing. A pair of two runs counts for both."""
    store = PreferenceStore(tmp_path / "votes.db")
    with_demo = Lab(lab.folder, demo_folder())
    assert manage.voted_runs(with_demo, store) == [("tiny", 0), ("demo", 0)]
    prompt = (Message("user", "Where is Tom?"),)

    def vote(one: str, other: str, choice: str) -> None:
        left, right = (SourcedAnswer(name, str(preferences.AnswerSource(name, "sft", 1.0))) for name in (one, other))
        store.add_vote(store.add_pair(prompt, left, right), "ada", choice)

    for one, other, choice in [("demo", "demo", "left"), ("demo", "tiny", "right"), ("tiny", "tiny", "skip"),
                               ("tiny", "tiny", "tie"), ("gone", "gone", "left")]:  # fmt: skip
        vote(one, other, choice)
    assert manage.voted_runs(with_demo, store) == [("demo", 2), ("tiny", 1)]
    store.undo_last_vote("ada")
    store.undo_last_vote("ada")
    assert sum(store.decisive_votes_by_source_pair().values()) == 2


def test_training_on_votes_that_cannot_begin_leaves_nothing(lab, tmp_path, monkeypatch):
    store, jobs = PreferenceStore(tmp_path / "votes.db"), Started(lab.folder)
    voted(lab, store, 4)

    def there():
        return {path for path in lab.folder.rglob("*") if path.name != ".votes"}

    before = there()
    full = LabError("4 runs are running: a, b, c, d. Stop one of them, or wait.")
    for broken, what in ((jobs, "start"), (Run, "branch"), (manage, "export_preferences")):
        with monkeypatch.context() as patch:
            patch.setattr(broken, what, raising(full))
            with pytest.raises(LabError, match="4 runs are running"):
                manage.train_on_votes(lab, jobs, store, "tiny")
        assert there() == before


def raising(error):
    def call(*args, **options):
        raise error

    return call


def test_the_two_models_at_first_are_two(lab, tmp_path):
    """Of a run with one model, and another run: the newest of each. Of one model alone there is no other."""
    for name, stages in (("new", ["pretrain"]), ("old", ["pretrain", "sft"])):
        shutil.copytree(lab.folder / "tiny", tmp_path / name)
        for stage in {"pretrain", "sft", "reward", "ppo", "dpo"} - set(stages):
            shutil.rmtree(tmp_path / name / stage)
    os.utime(tmp_path / "old", (0, 0))
    assert preferences.default_model_pair(Lab(tmp_path)) == [("new", "pretrain"), ("old", "sft")]
    shutil.rmtree(tmp_path / "old")
    assert preferences.default_model_pair(Lab(tmp_path)) == [("new", "pretrain")] * 2
    assert preferences.default_model_pair(Lab(tmp_path / "nowhere")) == []


def test_a_dialogue_is_shown_whole():
    one = (Message("user", "Where is Tom?"),)
    assert preferences.format_dialogue(one) == "Where is Tom?"
    more = (*one, Message("assistant", "At home."), Message("user", "And Ann?"))
    assert preferences.format_dialogue(more) == "user: Where is Tom?\n\nassistant: At home.\n\nuser: And Ann?"


@pytest.mark.parametrize("hot", [-0.1, 2.1, float("nan"), float("inf"), "warm", None, True])
def test_what_is_no_temperature_is_said(hot):
    if hot is True:
        assert preferences.checked_answer_source("a", "b", hot).temperature == 1
        return
    with pytest.raises(LabError, match="The temperature must be a number from 0 to 2"):
        preferences.checked_answer_source("a", "b", hot)


def test_prompts_and_names_have_an_end(lab, tmp_path):
    two = [preferences.AnswerSource("tiny", "sft", 1.0), preferences.AnswerSource("tiny", "ppo", 1.0)]
    with pytest.raises(LabError, match="at most 20,000 characters, not 20,001"):
        preferences.generate_and_store_pair(lab, PreferenceStore(tmp_path / "votes.db"), two, "x" * 20_001)
    with pytest.raises(LabError, match="at most 100 characters"):
        preferences.checked_annotator_name("x" * 101)
    for name in (None, 3):
        with pytest.raises(LabError, match=f"The voter's name must be text, not {name}"):
            preferences.checked_annotator_name(name)
    assert [preferences.checked_annotator_name(name) for name in ("", "  ", "ada")] == ["anonymous", "anonymous", "ada"]


def test_an_export_says_which_votes_are_in_it(lab, tmp_path):
    """Fewer than were counted after each vote."""
    store = PreferenceStore(tmp_path / "votes.db")
    voted(lab, store, 2)
    both = [preferences.AnswerSource("tiny", "sft", 1.0), preferences.AnswerSource("tiny", "ppo", 1.5)]
    store.add_vote(preferences.generate_and_store_pair(lab, store, both, "Where is Tom?"), "ada", "skip")
    file, told = preferences._save(store)
    assert (
        told["value"] == "Votes that prefer an answer: 2 of 3. Ties, both bad and skips are left out."
        and file["visible"]
    )
