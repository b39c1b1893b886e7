"""Where people's choices between two answers are kept: a vote that was acknowledged is on the disk.

    store = Store("runs/votes.db")
    pair = store.show(prompt, left, right)      # two answers, and where each comes from
    store.vote(pair, annotator="ada", choice="left")

SQLite by default, any database by its URL (PostgreSQL: `pip install psycopg`, then "postgresql+psycopg://…"). Each call
is one short transaction; several processes may use one store.
"""

from __future__ import annotations

import json
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import sqlalchemy as sql
from sqlalchemy.exc import IntegrityError, OperationalError

from labkit.errors import LabError
from labkit.text.pairs import Pair
from labkit.world import Message

Choice = Literal["left", "right", "tie", "both_bad", "skip"]
CHOICES: tuple[str, ...] = get_args(Choice)

TABLES = sql.MetaData()
PAIRS = sql.Table(
    "pairs",
    TABLES,
    sql.Column("id", sql.String, primary_key=True),
    sql.Column("shown", sql.String, nullable=False),
    sql.Column("prompt", sql.Text, nullable=False),
    *(
        sql.Column(f"{side}_{name}", sql.Text, nullable=False)
        for side in ("left", "right")
        for name in ("text", "source")
    ),
)
VOTES = sql.Table(
    "votes",
    TABLES,
    sql.Column("id", sql.Integer, primary_key=True),
    sql.Column("pair", sql.String, sql.ForeignKey("pairs.id"), nullable=False),
    sql.Column("annotator", sql.String, nullable=False),
    sql.Column("choice", sql.String, nullable=False),
    sql.Column("given", sql.String, nullable=False),
    sql.Column("taken_back", sql.String),
)
STANDS = VOTES.c.taken_back.is_(None)
sql.Index(
    "one_vote_a_pair_and_annotator",
    VOTES.c.pair,
    VOTES.c.annotator,
    unique=True,
    sqlite_where=STANDS,
    postgresql_where=STANDS,
)


class Answer(NamedTuple):
    """What was said, and by what: `source` names run, stage and settings, in whatever words its maker likes."""

    text: str
    source: str


class Shown(NamedTuple):
    """Two answers to a prompt, side by side."""

    prompt: tuple[Message, ...]
    left: Answer
    right: Answer


class Vote(NamedTuple):
    """A vote that stands, with the pair that it is about. `given`: when, in UTC, as ISO 8601."""

    pair: str
    annotator: str
    choice: str
    given: str
    prompt: tuple[Message, ...]
    left: Answer
    right: Answer

    @property
    def chosen(self) -> Answer | None:
        """The answer that was preferred; None for a tie, both bad and skip."""
        return {"left": self.left, "right": self.right}.get(self.choice)


class Store:
    """Pairs that were shown, and the votes on them."""

    def __init__(self, place: str | Path):
        """place: a file, made when it is not there, or a database's URL. Raises LabError when it cannot be opened."""
        url = str(place) if "://" in str(place) else f"sqlite:///{Path(place).absolute()}"
        if "://" not in str(place):
            Path(place).parent.mkdir(parents=True, exist_ok=True)
        self.engine = sql.create_engine(url)
        if self.engine.dialect.name == "sqlite":
            sql.event.listen(self.engine, "connect", _durable)
            sql.event.listen(self.engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
        try:
            TABLES.create_all(self.engine)
        except sql.exc.DBAPIError as error:
            raise LabError(f"{place} cannot be used to keep votes: {error.orig}") from error

    def show(self, prompt: tuple[Message, ...], left: Answer, right: Answer) -> str:
        """Keep a pair as it is shown, side by side; its id. Whoever shows it has drawn the sides."""
        pair = uuid.uuid4().hex
        row = {
            "id": pair,
            "shown": _now(),
            "prompt": json.dumps([message.to_dict() for message in prompt], ensure_ascii=False),
            "left_text": left.text,
            "left_source": left.source,
            "right_text": right.text,
            "right_source": right.source,
        }
        with self._transaction() as connection:
            connection.execute(PAIRS.insert().values(row))
        return pair

    def vote(self, pair: str, annotator: str, choice: str) -> None:
        """Keep a vote: on the disk when this returns.

        Raises LabError for an empty annotator, another choice than those of `CHOICES`, a pair that was never shown,
        and a second vote of the same annotator on it.
        """
        if not annotator.strip():
            raise LabError("A vote needs an annotator: any name that is always yours.")
        if choice not in CHOICES:
            raise LabError(f"{choice!r} is no choice; choose {', '.join(CHOICES)}.")
        row = {"pair": pair, "annotator": annotator, "choice": choice, "given": _now()}
        try:
            with self._transaction() as connection:
                if connection.scalar(sql.select(PAIRS.c.id).where(PAIRS.c.id == pair)) is None:
                    raise LabError("This pair was never shown, so it cannot be voted on. Ask for a new one.")
                connection.execute(VOTES.insert().values(row))
        except IntegrityError:
            raise LabError(f"{annotator} has voted on this pair already. Undo that vote to change it.") from None

    def pair(self, pair: str) -> Shown:
        """A pair as it was shown. Raises LabError for one that never was."""
        with self._transaction() as connection:
            row = connection.execute(sql.select(PAIRS).where(PAIRS.c.id == pair)).first()
        if row is None:
            raise LabError("This pair was never shown. Ask for a new one.")
        return _shown(row)

    def undo(self, annotator: str) -> str | None:
        """Take an annotator's last standing vote back; its pair, or None when there is none."""
        last = sql.select(VOTES.c.id, VOTES.c.pair).where(VOTES.c.annotator == annotator, STANDS)
        with self._transaction() as connection:
            found = connection.execute(last.order_by(VOTES.c.id.desc()).limit(1)).first()
            if found is None:
                return None
            connection.execute(VOTES.update().where(VOTES.c.id == found.id).values(taken_back=_now()))
        return found.pair

    def votes(self, annotator: str | None = None) -> list[Vote]:
        """All votes that stand, of one annotator or of all, in the order in which they were given."""
        asked = sql.select(VOTES, PAIRS).join(PAIRS, VOTES.c.pair == PAIRS.c.id).where(STANDS).order_by(VOTES.c.id)
        if annotator is not None:
            asked = asked.where(VOTES.c.annotator == annotator)
        with self._transaction() as connection:
            return [_vote(row) for row in connection.execute(asked)]

    @contextmanager
    def _transaction(self) -> Iterator[sql.Connection]:
        try:
            with self.engine.begin() as connection:
                yield connection
        except OperationalError as error:
            raise LabError(f"The votes in {self.engine.url.database} could not be reached: {error.orig}") from error


def _durable(connection: Any, record: Any) -> None:
    """SQLite: transactions are ours to begin, a commit is on the disk, and readers do not wait for a writer."""
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=10000"):
        connection.execute(f"PRAGMA {pragma}")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _shown(row: Any) -> Shown:
    prompt = tuple(Message(**turn) for turn in json.loads(row.prompt))
    return Shown(prompt, Answer(row.left_text, row.left_source), Answer(row.right_text, row.right_source))


def _vote(row: Any) -> Vote:
    return Vote(row.pair, row.annotator, row.choice, row.given, *_shown(row))


def preference_pairs(votes: list[Vote]) -> list[Pair]:
    """The votes that prefer one of two different answers, as pairs to train on."""
    pairs = []
    for vote in votes:
        if vote.chosen is not None and vote.left.text.strip() != vote.right.text.strip():
            other = vote.right if vote.chosen is vote.left else vote.left
            pairs.append(Pair(vote.prompt, vote.chosen.text, other.text))
    return pairs


class Standing(NamedTuple):
    """How a source did: `votes` that compare it with another, and its share of wins; a tie is half a win."""

    votes: int
    win_rate: float


def standings(votes: list[Vote]) -> dict[str, Standing]:
    """Every source against all others, best first. Both bad and skip compare nothing."""
    won: defaultdict[str, float] = defaultdict(float)
    met: Counter[str] = Counter()
    for vote in votes:
        if vote.left.source == vote.right.source or vote.choice not in ("left", "right", "tie"):
            continue
        left = {"left": 1.0, "tie": 0.5, "right": 0.0}[vote.choice]
        for answer, share in ((vote.left, left), (vote.right, 1 - left)):
            met[answer.source] += 1
            won[answer.source] += share
    found = {source: Standing(count, won[source] / count) for source, count in met.items()}
    return dict(sorted(found.items(), key=lambda item: -item[1].win_rate))
