"""The store of votes: one vote a pair and annotator, none lost, none made up."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sql
from sqlalchemy.dialects import postgresql

from labkit.errors import LabError
from labkit.preferences.store import (
    CHOICES,
    TURN,
    PreferenceStore,
    SourcedAnswer,
    WinRate,
    pairs_from_votes,
    win_rates,
)
from labkit.text.pairs import pair_to_row
from labkit.text.reading import read_preferences
from labkit.world import Message

PROMPT = (Message("user", "Where is Tom?"),)
LEFT, RIGHT = SourcedAnswer("Tom is here.", "a"), SourcedAnswer("Sure! Tom is here.", "b")


@pytest.fixture
def store(tmp_path) -> PreferenceStore:
    return PreferenceStore(tmp_path / "votes" / "votes.db")


def test_a_vote_comes_back_with_its_pair(store):
    pair = store.add_pair(PROMPT, LEFT, RIGHT)
    store.add_vote(pair, "ada", "right")
    (vote,) = store.votes()
    assert (vote.pair_id, vote.annotator, vote.choice) == (pair, "ada", "right")
    assert (vote.prompt, vote.left, vote.right, vote.chosen) == (PROMPT, LEFT, RIGHT, RIGHT)
    assert vote.voted_at.endswith("+00:00")
    assert store.get_pair(pair) == (PROMPT, LEFT, RIGHT)


def test_text_of_any_script_comes_back_as_it_was(store):
    prompt = (Message("user", "汤姆在哪里？ <b>'; DROP TABLE votes; --"),)
    store.add_vote(store.add_pair(prompt, SourcedAnswer("\u202e🙂", "x"), RIGHT), "ädä", "left")
    (vote,) = store.votes("ädä")
    assert vote.prompt == prompt and vote.left.text == "\u202e🙂"


def test_a_second_vote_is_refused_and_another_annotator_may(store):
    pair = store.add_pair(PROMPT, LEFT, RIGHT)
    store.add_vote(pair, "ada", "left")
    with pytest.raises(LabError, match="ada has voted on this pair already. Undo that vote to change it"):
        store.add_vote(pair, "ada", "right")
    store.add_vote(pair, "bob", "tie")
    assert [vote.choice for vote in store.votes()] == ["left", "tie"]


def test_undo_takes_back_the_last_vote_of_that_annotator(store):
    pairs = [store.add_pair(PROMPT, LEFT, RIGHT) for _ in range(2)]
    for pair in pairs:
        store.add_vote(pair, "ada", "left")
    store.add_vote(pairs[0], "bob", "right")
    assert store.undo_last_vote("ada") == pairs[1]
    assert [(vote.pair_id, vote.annotator) for vote in store.votes()] == [(pairs[0], "ada"), (pairs[0], "bob")]
    store.add_vote(pairs[1], "ada", "both_bad")  # the pair is free again
    assert store.votes("ada")[-1].choice == "both_bad"
    assert store.undo_last_vote("nobody") is None


@pytest.mark.parametrize(
    ("annotator", "choice", "message"),
    [("ada", "up", "'up' is not a valid vote; choose left, right"), (" ", "left", "A vote needs a name")],
)
def test_bad_votes_are_refused_in_words(store, annotator, choice, message):
    pair = store.add_pair(PROMPT, LEFT, RIGHT)
    with pytest.raises(LabError, match=message):
        store.add_vote(pair, annotator, choice)
    assert store.votes() == []


def test_a_pair_that_was_never_shown(store):
    with pytest.raises(LabError, match="never shown"):
        store.add_vote("made up", "ada", "left")
    with pytest.raises(LabError, match="never shown"):
        store.get_pair("made up")


def test_a_file_that_is_no_database(tmp_path):
    (tmp_path / "votes.db").write_text("not a database, and long enough to be looked at " * 40)
    with pytest.raises(LabError, match="votes.db cannot be used to store votes"):
        PreferenceStore(tmp_path / "votes.db")


def test_what_is_preferred_becomes_pairs_that_can_be_trained_on(store, tmp_path):
    same = SourcedAnswer(LEFT.text + " ", "b")
    for choice, left, right in [
        ("left", LEFT, RIGHT), ("right", LEFT, RIGHT), ("tie", LEFT, RIGHT), ("both_bad", LEFT, RIGHT),
        ("skip", LEFT, RIGHT), ("left", LEFT, same),
    ]:  # fmt: skip
        store.add_vote(store.add_pair(PROMPT, left, right), "ada", choice)
    pairs = pairs_from_votes(store.votes())
    assert [(pair.chosen, pair.rejected) for pair in pairs] == [(LEFT.text, RIGHT.text), (RIGHT.text, LEFT.text)]
    file = tmp_path / "votes.jsonl"
    rows = [pair_to_row(pair._replace(prompt=(Message("user", f"{i}?"),))) for i, pair in enumerate(pairs * 20)]
    file.write_text("\n".join(map(json.dumps, rows)))
    read = read_preferences(str(file))
    assert len(read.train) + len(read.validation) == 40


def test_standings_by_hand(store):
    """a against b: won, lost, tied: 1.5 of 3. c beat a: a has 1.5 of 4. Skips and both bad do not count."""
    other = SourcedAnswer("No.", "c")
    for choice in ("left", "right", "tie", "skip", "both_bad"):
        store.add_vote(store.add_pair(PROMPT, LEFT, RIGHT), "ada", choice)
    store.add_vote(store.add_pair(PROMPT, other, LEFT), "ada", "left")
    store.add_vote(store.add_pair(PROMPT, LEFT, LEFT), "ada", "left")  # of one source: says nothing
    found = win_rates(store.votes())
    assert found == {"c": WinRate(1, 1.0), "b": WinRate(3, 0.5), "a": WinRate(4, 0.375)}
    assert list(found) == ["c", "b", "a"]


def test_many_at_once_lose_nothing_and_count_nothing_twice(store):
    pairs = [store.add_pair(PROMPT, LEFT, RIGHT) for _ in range(8)]
    refused = []

    def vote_on_all(annotator: str) -> None:
        for pair in pairs:
            try:
                store.add_vote(pair, annotator, "left")
            except LabError:
                refused.append(annotator)

    voters = [threading.Thread(target=vote_on_all, args=(name,)) for name in ("ada", "ada", "bob", "cleo")]
    for voter in voters:
        voter.start()
    for voter in voters:
        voter.join()
    assert refused == ["ada"] * 8 and len(store.votes()) == 24
    assert len({(vote.pair_id, vote.annotator) for vote in store.votes()}) == 24


def test_a_vote_survives_a_kill_straight_after_it_was_acknowledged(tmp_path):
    code = """
import sys
from labkit.preferences.store import PreferenceStore, SourcedAnswer
from labkit.world import Message
store = PreferenceStore(sys.argv[1])
for number in range(1000):
    pair = store.add_pair((Message("user", str(number)),), SourcedAnswer("a", "x"), SourcedAnswer("b", "y"))
    store.add_vote(pair, "ada", "left")
    print(number, flush=True)
"""
    file, root = tmp_path / "votes.db", Path(__file__).resolve().parents[2]
    for kill in range(3):
        before = len(PreferenceStore(file).votes())
        child = subprocess.Popen(
            [sys.executable, "-c", code, str(file)], stdout=subprocess.PIPE, text=True, cwd=root, env={**os.environ}
        )
        assert child.stdout is not None
        acknowledged = 0
        while acknowledged < 5 + 3 * kill:
            acknowledged = int(child.stdout.readline()) + 1
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert len(PreferenceStore(file).votes()) >= before + acknowledged


def test_every_choice_can_be_made(store):
    for choice in CHOICES:
        store.add_vote(store.add_pair(PROMPT, LEFT, RIGHT), "ada", choice)
    assert [vote.choice for vote in store.votes()] == list(CHOICES)


def test_a_reader_waits_for_no_writer_and_a_vote_for_no_reader(store):
    pair = store.add_pair(PROMPT, LEFT, RIGHT)
    with store._reading() as reader:
        assert reader.scalar(sql.text("SELECT count(*) FROM votes")) == 0
        store.add_vote(pair, "ada", "left")  # while somebody reads
        assert reader.scalar(sql.text("SELECT count(*) FROM votes")) == 0  # who still sees what was there
    with store._writing():
        assert [vote.choice for vote in store.votes()] == ["left"]  # while somebody writes


def test_what_was_acknowledged_is_on_the_disk(store):
    with store._reading() as connection:
        pragmas = [connection.scalar(sql.text(f"PRAGMA {name}")) for name in ("journal_mode", "synchronous")]
    assert pragmas == ["wal", 2]  # 2 is FULL


def test_counts_and_standings_are_those_of_the_votes(store):
    """Whatever is voted and taken back: what is kept beside the votes says what they say."""
    draw = random.Random(0)
    for _ in range(120):
        annotator = draw.choice(["ada", "bob", "cleo"])
        if draw.random() < 0.3:
            store.undo_last_vote(annotator)
        else:
            left, right = (SourcedAnswer("x", draw.choice("abc")) for _ in range(2))
            store.add_vote(store.add_pair(PROMPT, left, right), annotator, draw.choice(CHOICES))
    assert store.win_rates() == win_rates(store.votes())
    for annotator in ("ada", "bob", "cleo", "nobody"):
        assert store.count_votes(annotator) == len(store.votes(annotator))


def test_what_a_vote_costs_does_not_grow_with_the_votes(store):
    """Counted in steps of SQLite's machine, which no other program on this computer changes."""

    def cost() -> int:
        steps = 0

        def step() -> None:
            nonlocal steps
            steps += 1

        pair = store.add_pair(PROMPT, LEFT, RIGHT)
        raw: Any = store.engine.raw_connection()
        raw.driver_connection.set_progress_handler(step, 1)
        raw.close()  # back into the pool, from which the next calls take it
        store.add_vote(pair, "ada", "left")
        store.get_pair(pair)
        assert store.count_votes("ada") and store.win_rates()
        assert store.undo_last_vote("ada") == pair
        return steps

    def fill(count: int) -> None:
        for _ in range(count):
            store.add_vote(store.add_pair(PROMPT, LEFT, RIGHT), "ada", "left")

    fill(5)
    few = cost()
    fill(300)
    assert 100 < few and cost() < 1.3 * few


FIRST_VERSION = """
CREATE TABLE pairs (id VARCHAR NOT NULL PRIMARY KEY, shown VARCHAR NOT NULL, prompt TEXT NOT NULL, left_text TEXT NOT
    NULL, left_source TEXT NOT NULL, right_text TEXT NOT NULL, right_source TEXT NOT NULL);
CREATE TABLE votes (id INTEGER NOT NULL PRIMARY KEY, pair VARCHAR NOT NULL REFERENCES pairs (id), annotator VARCHAR NOT
    NULL, choice VARCHAR NOT NULL, given VARCHAR NOT NULL, taken_back VARCHAR);
CREATE UNIQUE INDEX one_vote_a_pair_and_annotator ON votes (pair, annotator) WHERE taken_back IS NULL;
INSERT INTO pairs VALUES ('p', 'then', '[{"role": "user", "content": "Hi?"}]', 'one', 'a', 'two', 'b');
INSERT INTO votes VALUES (1, 'p', 'ada', 'left', 'then', NULL), (2, 'p', 'bob', 'tie', 'then', NULL),
    (3, 'p', 'cleo', 'right', 'then', 'later');
"""


def test_votes_of_the_first_version_are_read_and_counted(tmp_path):
    with sqlite3.connect(tmp_path / "votes.db") as old:
        old.executescript(FIRST_VERSION)
    store = PreferenceStore(tmp_path / "votes.db")
    assert store.win_rates() == {"a": WinRate(2, 0.75), "b": WinRate(2, 0.25)} == win_rates(store.votes())
    assert [store.count_votes(name) for name in ("ada", "bob", "cleo")] == [1, 1, 0]
    store.add_vote("p", "cleo", "left")
    assert PreferenceStore(tmp_path / "votes.db").win_rates()["a"] == pytest.approx(WinRate(3, 2.5 / 3))


def test_votes_of_a_later_version_are_left_alone(tmp_path):
    PreferenceStore(tmp_path / "votes.db")
    with sqlite3.connect(tmp_path / "votes.db") as later:
        later.execute("UPDATE labkit_schema SET version = 99")
    with pytest.raises(LabError, match="made by a newer labkit"):
        PreferenceStore(tmp_path / "votes.db")


def test_half_a_character_is_no_vote(store):
    with pytest.raises(LabError, match="a broken character"):
        store.add_pair((Message("user", "x"),), SourcedAnswer("\ud83d", "a"), RIGHT)
    with pytest.raises(LabError, match="a broken character"):
        store.add_vote(store.add_pair(PROMPT, LEFT, RIGHT), "\ud83d", "left")
    assert store.votes() == []


def test_a_place_that_cannot_be_written_to_is_said(tmp_path):
    (tmp_path / "file").write_text("no folder")
    for place in (tmp_path / "file" / "votes.db", "nosuch://database"):
        with pytest.raises(LabError, match="cannot be used to store votes"):
            PreferenceStore(place)


def test_writers_of_a_server_take_turns(store):
    """On PostgreSQL each writing transaction begins with a row lock (SQLite has its own); so no first vote is lost."""
    assert str(TURN.compile(dialect=postgresql.dialect())).endswith("FOR UPDATE")
    said: list[str] = []
    sql.event.listen(store.writer, "before_cursor_execute", lambda c, cursor, text, *rest: said.append(text))
    pair = store.add_pair(PROMPT, SourcedAnswer("a", "x"), SourcedAnswer("b", "y"))
    store.add_vote(pair, "ada", "left")
    store.undo_last_vote("ada")
    begins = [number for number, text in enumerate(said) if text.startswith("BEGIN")]
    assert len(begins) == 3 and all("SELECT" in said[number + 1] and "version" in said[number + 1] for number in begins)
