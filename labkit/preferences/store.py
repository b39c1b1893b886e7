"""Where people's choices between two answers are kept: a vote that was acknowledged is on the disk.

    store = PreferenceStore("runs/votes.db")
    pair = store.add_pair(prompt, left, right)  # two answers, and where each comes from
    store.add_vote(pair, annotator="ada", choice="left")

SQLite by default, any database by its URL (PostgreSQL: `pip install psycopg`, then "postgresql+psycopg://…"). Each call
is one short transaction; several processes may use one store. A read waits for no writer. What a vote costs does not
grow with the votes that are there: what standings and counts are made of is kept beside them, in the same transaction.
"""

from __future__ import annotations

import json
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import sqlalchemy as sql
from sqlalchemy.exc import DBAPIError, IntegrityError

from labkit.errors import LabError
from labkit.world import Message

if TYPE_CHECKING:
    from labkit.text.pairs import PreferencePair

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
LAST_OF_ANNOTATOR = sql.Index(
    "votes_of_annotator", VOTES.c.annotator, VOTES.c.id, sqlite_where=STANDS, postgresql_where=STANDS
)
COUNTS = sql.Table(
    "counts",
    TABLES,
    sql.Column("annotator", sql.String, primary_key=True),
    sql.Column("votes", sql.Integer, nullable=False),
)
"""How many votes of each annotator stand."""
TALLIES = sql.Table(
    "tallies",
    TABLES,
    sql.Column("source", sql.String, primary_key=True),
    sql.Column("votes", sql.Integer, nullable=False),
    sql.Column("halves", sql.Integer, nullable=False),
)
"""Of each source, the standing votes that compare it with another, and its wins: two halves, and a tie one."""
SCHEMA = sql.Table("labkit_schema", TABLES, sql.Column("version", sql.Integer, nullable=False))

UPGRADES: dict[int, Callable[[sql.Connection], None]] = {
    1: lambda connection: TABLES.create_all(connection, tables=[PAIRS, VOTES]),
    2: lambda connection: _count_all(connection),
}
"""What brings a database from the version before to each version. A database without a number is new, or was made by
the first version, which kept none.
"""
VERSION = max(UPGRADES)


class SourcedAnswer(NamedTuple):
    """What was said, and by what: `source` names run, stage and settings, in whatever words its maker likes."""

    text: str
    source: str


class ShownPair(NamedTuple):
    """Two answers to a prompt, side by side."""

    prompt: tuple[Message, ...]
    left: SourcedAnswer
    right: SourcedAnswer


class Vote(NamedTuple):
    """A vote that stands, with the pair that it is about. `voted_at`: when, in UTC, as ISO 8601."""

    pair_id: str
    annotator: str
    choice: str
    voted_at: str
    prompt: tuple[Message, ...]
    left: SourcedAnswer
    right: SourcedAnswer

    @property
    def chosen(self) -> SourcedAnswer | None:
        """The answer that was preferred; None for a tie, both bad and skip."""
        return {"left": self.left, "right": self.right}.get(self.choice)


class SourcePair(NamedTuple):
    """What the two answers of a shown pair are from."""

    left: str
    right: str


class PreferenceStore:
    """Pairs that were shown, and the votes on them."""

    def __init__(self, url_or_path: str | Path):
        """url_or_path: a file, made when it is not there, or a database's URL.

        Raises LabError when it cannot be opened, or was made by a later labkit.
        """
        try:
            if "://" not in str(url_or_path):
                Path(url_or_path).parent.mkdir(parents=True, exist_ok=True)
            url = str(url_or_path) if "://" in str(url_or_path) else f"sqlite:///{Path(url_or_path).absolute()}"
            self.engine = sql.create_engine(url)
        except (OSError, sql.exc.ArgumentError, ImportError) as error:
            raise LabError(f"{url_or_path} cannot be used to store votes: {error}. Choose another: --votes") from error
        if self.engine.dialect.name == "sqlite":
            sql.event.listen(self.engine, "connect", _durable)
            sql.event.listen(self.engine, "begin", _begin)
        self.writer = self.engine.execution_options(writes=True)
        try:
            with self.engine.begin() as connection:
                known = _version(connection)
            if known != VERSION:
                with self.writer.begin() as connection:
                    _upgrade(connection, str(url_or_path))
        except DBAPIError as error:
            text = f"{url_or_path} cannot be used to store votes: {error.orig}. Choose another: --votes"
            raise LabError(text) from error

    def add_pair(self, prompt: tuple[Message, ...], left: SourcedAnswer, right: SourcedAnswer) -> str:
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
        with self._writing() as connection:
            connection.execute(PAIRS.insert().values(row))
        return pair

    def add_vote(self, pair_id: str, annotator: str, choice: str) -> None:
        """Keep a vote: on the disk when this returns.

        Raises LabError for an empty annotator, another choice than those of `CHOICES`, a pair that was never shown,
        and a second vote of the same annotator on it.
        """
        if not annotator.strip():
            raise LabError("A vote needs a name: any name, as long as you always use the same one.")
        if choice not in CHOICES:
            raise LabError(f"{choice!r} is not a valid vote; choose {', '.join(CHOICES)}.")
        row = {"pair": pair_id, "annotator": annotator, "choice": choice, "given": _now()}
        try:
            with self._writing() as connection:
                sources = _sources(connection, pair_id)
                if sources is None:
                    raise LabError("This pair was never shown, so it cannot be voted on. Ask for a new one.")
                connection.execute(VOTES.insert().values(row))
                _count(connection, annotator, 1)
                _tally(connection, *sources, choice, 1)
        except IntegrityError:
            raise LabError(f"{annotator} has voted on this pair already. Undo that vote to change it.") from None

    def get_pair(self, pair_id: str) -> ShownPair:
        """A pair as it was shown. Raises LabError for one that never was."""
        with self._reading() as connection:
            row = connection.execute(sql.select(PAIRS).where(PAIRS.c.id == pair_id)).first()
        if row is None:
            raise LabError("This pair was never shown. Ask for a new one.")
        return _shown(row)

    def undo_last_vote(self, annotator: str) -> str | None:
        """Take an annotator's last standing vote back; its pair, or None when there is none."""
        last = sql.select(VOTES).where(VOTES.c.annotator == annotator, STANDS).order_by(VOTES.c.id.desc()).limit(1)
        with self._writing() as connection:
            found = connection.execute(last).first()
            if found is None:
                return None
            connection.execute(VOTES.update().where(VOTES.c.id == found.id).values(taken_back=_now()))
            _count(connection, annotator, -1)
            sources = _sources(connection, found.pair)
            assert sources is not None
            _tally(connection, *sources, found.choice, -1)
        return found.pair

    def votes(self, annotator: str | None = None) -> list[Vote]:
        """All votes that stand, of one annotator or of all, in the order in which they were given."""
        asked = sql.select(VOTES, PAIRS).join(PAIRS, VOTES.c.pair == PAIRS.c.id).where(STANDS).order_by(VOTES.c.id)
        if annotator is not None:
            asked = asked.where(VOTES.c.annotator == annotator)
        with self._reading() as connection:
            return [_vote(row) for row in connection.execute(asked)]

    def count_votes(self, annotator: str) -> int:
        """How many votes of an annotator stand."""
        with self._reading() as connection:
            return connection.scalar(sql.select(COUNTS.c.votes).where(COUNTS.c.annotator == annotator)) or 0

    def decisive_votes_by_source_pair(self) -> Counter[SourcePair]:
        """How many standing votes prefer an answer, by the two sources that they compare."""
        sources = (PAIRS.c.left_source, PAIRS.c.right_source)
        asked = sql.select(*sources, sql.func.count()).join(VOTES, VOTES.c.pair == PAIRS.c.id)
        asked = asked.where(STANDS, VOTES.c.choice.in_(("left", "right"))).group_by(*sources)
        with self._reading() as connection:
            return Counter({SourcePair(left, right): count for left, right, count in connection.execute(asked)})

    def win_rates(self) -> dict[str, WinRate]:
        """What `win_rates` says of all votes that stand."""
        with self._reading() as connection:
            rows = connection.execute(sql.select(TALLIES).where(TALLIES.c.votes > 0).order_by(TALLIES.c.source)).all()
        return _ranked({row.source: WinRate(row.votes, row.halves / 2 / row.votes) for row in rows})

    def _reading(self) -> AbstractContextManager[sql.Connection]:
        return self._transaction(self.engine)

    @contextmanager
    def _writing(self) -> Iterator[sql.Connection]:
        """Writers take turns: two first votes for one source are both counted, and none waits for another in a ring."""
        with self._transaction(self.writer) as connection:
            connection.execute(TURN)
            yield connection

    @contextmanager
    def _transaction(self, engine: sql.Engine) -> Iterator[sql.Connection]:
        try:
            with engine.begin() as connection:
                yield connection
        except IntegrityError:
            raise
        except DBAPIError as error:
            raise LabError(f"The votes in {self.engine.url.database} could not be reached: {error.orig}") from error
        except UnicodeEncodeError:
            raise LabError(
                "This text has a broken character (a lone surrogate), which cannot be stored. Type it again."
            ) from None


TURN = sql.select(SCHEMA.c.version).with_for_update()
"""Takes the one lock of all writers; SQLite, which has its own, reads a number."""


def _begin(connection: sql.Connection) -> None:
    """SQLite: who will write says so at the beginning, so that it waits for the writer before it instead of failing;
    who reads sees what was there when it began, and waits for nobody.
    """
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("writes") else "BEGIN")


def _durable(connection: Any, record: Any) -> None:
    """SQLite: transactions are ours to begin, a commit is on the disk, and readers do not wait for a writer."""
    connection.isolation_level = None
    for pragma in ("busy_timeout=10000", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _version(connection: sql.Connection) -> int:
    """The version of the tables in a database; 0 for an empty one."""
    names = sql.inspect(connection).get_table_names()
    if SCHEMA.name in names:
        return connection.scalar(sql.select(SCHEMA.c.version)) or 0
    return 1 if VOTES.name in names else 0


def _upgrade(connection: sql.Connection, place: str) -> None:
    """Bring a database to the newest version: all of it, or nothing."""
    known = _version(connection)  # another process may have been faster
    if known > VERSION:
        raise LabError(f"{place} was made by a newer labkit (votes of version {known}). Update labkit to read it.")
    for version in range(known + 1, VERSION + 1):
        UPGRADES[version](connection)
    TABLES.create_all(connection, tables=[SCHEMA])
    connection.execute(SCHEMA.delete())
    connection.execute(SCHEMA.insert().values(version=VERSION))


def _count_all(connection: sql.Connection) -> None:
    """Make the tables of counts, and fill them from the votes that stand."""
    TABLES.create_all(connection, tables=[COUNTS, TALLIES])
    if LAST_OF_ANNOTATOR.name not in {index["name"] for index in sql.inspect(connection).get_indexes(VOTES.name)}:
        LAST_OF_ANNOTATOR.create(connection)
    asked = sql.select(VOTES.c.annotator, VOTES.c.choice, PAIRS.c.left_source, PAIRS.c.right_source)
    for row in connection.execute(asked.join(PAIRS, VOTES.c.pair == PAIRS.c.id).where(STANDS)).all():
        _count(connection, row.annotator, 1)
        _tally(connection, row.left_source, row.right_source, row.choice, 1)


def _sources(connection: sql.Connection, pair: str) -> tuple[str, str] | None:
    """Where the two answers of a pair are from; None for one that was never shown."""
    row = connection.execute(sql.select(PAIRS.c.left_source, PAIRS.c.right_source).where(PAIRS.c.id == pair)).first()
    return None if row is None else (row.left_source, row.right_source)


def _count(connection: sql.Connection, annotator: str, by: int) -> None:
    _add(connection, COUNTS, COUNTS.c.annotator == annotator, {"annotator": annotator}, {"votes": by})


def _tally(connection: sql.Connection, left: str, right: str, choice: str, by: int) -> None:
    """Add a vote to what its two sources won, or with by=-1 take it away; nothing for one that compares nothing."""
    for source, share in _shares(left, right, choice):
        added = {"votes": by, "halves": by * round(2 * share)}
        _add(connection, TALLIES, TALLIES.c.source == source, {"source": source}, added)


def _add(connection: sql.Connection, table: sql.Table, where: Any, key: dict[str, str], by: dict[str, int]) -> None:
    """Add to the numbers of a row, which is made when it is not there."""
    summed = {name: table.c[name] + number for name, number in by.items()}
    if not connection.execute(table.update().where(where).values(summed)).rowcount:
        connection.execute(table.insert().values(key | by))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _shown(row: Any) -> ShownPair:
    prompt = tuple(Message(**turn) for turn in json.loads(row.prompt))
    return ShownPair(
        prompt, SourcedAnswer(row.left_text, row.left_source), SourcedAnswer(row.right_text, row.right_source)
    )


def _vote(row: Any) -> Vote:
    return Vote(row.pair, row.annotator, row.choice, row.given, *_shown(row))


def pairs_from_votes(votes: list[Vote]) -> list[PreferencePair]:
    """The votes that prefer one of two different answers, as pairs to train on."""
    from labkit.text.pairs import PreferencePair  # imports torch, which counting votes does not need

    pairs = []
    for vote in votes:
        if vote.chosen is not None and vote.left.text.strip() != vote.right.text.strip():
            other = vote.right if vote.chosen is vote.left else vote.left
            pairs.append(PreferencePair(vote.prompt, vote.chosen.text, other.text))
    return pairs


class WinRate(NamedTuple):
    """How a source did: `votes` that compare it with another, and its share of wins; a tie is half a win."""

    votes: int
    win_rate: float


def win_rates(votes: Iterable[Vote]) -> dict[str, WinRate]:
    """Every source against all others, best first. Both bad and skip compare nothing."""
    won: defaultdict[str, float] = defaultdict(float)
    met: Counter[str] = Counter()
    for vote in votes:
        for source, share in _shares(vote.left.source, vote.right.source, vote.choice):
            met[source] += 1
            won[source] += share
    return _ranked({source: WinRate(count, won[source] / count) for source, count in met.items()})


def _shares(left: str, right: str, choice: str) -> list[tuple[str, float]]:
    """What a vote gives each of its two sources; nothing where it does not compare two."""
    won = {"left": 1.0, "tie": 0.5, "right": 0.0}.get(choice)
    return [] if won is None or left == right else [(left, won), (right, 1 - won)]


def _ranked(found: dict[str, WinRate]) -> dict[str, WinRate]:
    return dict(sorted(found.items(), key=lambda item: -item[1].win_rate))
