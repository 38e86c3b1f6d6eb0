"""Replies of judges on disk, so that none is paid for twice, whatever run asks.

SQLite and not diskcache: a budget is a sum over replies, and batches are rows of their own; both are one query here.
diskcache also stores what it cannot map as pickles, which whoever can write the file could use to run code.
"""

import fcntl
import os
import secrets
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import astuple, dataclass
from pathlib import Path

from esft_bench.harness.judge.base import Usage
from esft_bench.spec.errors import NoSpaceError, UserError

TABLES = """
CREATE TABLE IF NOT EXISTS said (
    key TEXT, attempt INTEGER, text TEXT NOT NULL, tokens_in INTEGER, tokens_out INTEGER, dollars REAL, account TEXT,
    PRIMARY KEY (key, attempt));
CREATE TABLE IF NOT EXISTS pending (
    id TEXT PRIMARY KEY, key TEXT NOT NULL, attempt INTEGER, most REAL, account TEXT, batch TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS fetched (batch TEXT PRIMARY KEY);
"""
BUSY_SECONDS = 60.0


def default_cache() -> Path:
    """The file in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "esft-bench" / "judge.sqlite"


@dataclass(frozen=True)
class Reply:
    """A reply as it came, and what it took."""

    text: str
    usage: Usage


@dataclass(frozen=True)
class Pending:
    """A request that waits in a batch.

    `key` is the judgement it is for, `attempt` which one at it (0: first, 1: asked again), `max_cost` the dollars
    it may cost at most and `account` who pays.
    """

    id: str
    key: str
    attempt: int
    max_cost: float
    account: str


class ReplyCache:
    """A SQLite file of replies as they came, readable or not; safe for threads and processes that share it.

    A judgement has a key, and at most two replies: the second where the first could not be read. `account` says which
    run paid. `pending` holds the requests that wait in a batch.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._locks = path.with_name(f"{path.name}.locks")
        try:
            self._locks.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
            with suppress(PermissionError):  # one that belongs to somebody else
                path.chmod(0o600)  # an older one; it holds what a model was asked and what it said
        except OSError as error:
            raise UserError(f"The judge's cache {path} cannot be made ({error}); name another.") from error
        with self._open() as database:
            database.executescript(TABLES)

    def replies(self, key: str) -> list[Reply]:
        """The stored replies to a judgement's question, in order."""
        query = "SELECT text, tokens_in, tokens_out, dollars FROM said WHERE key = ? ORDER BY attempt"
        with self._open() as database:
            rows = database.execute(query, (key,)).fetchall()
        return [Reply(text, Usage(1, into, out, dollars)) for text, into, out, dollars in rows]

    def put(self, key: str, attempt: int, reply: Reply, account: str) -> bool:
        """Store a reply; it is on the disk when this returns. One that is there already stays, and this is False."""
        used = reply.usage
        row = (key, attempt, reply.text, used.tokens_in, used.tokens_out, used.dollars, account)
        with self._open() as database:
            return database.execute("INSERT OR IGNORE INTO said VALUES (?, ?, ?, ?, ?, ?, ?)", row).rowcount == 1

    def put_lost(self, dollars: float, account: str) -> None:
        """Note what an answer may have cost that did not arrive as one."""
        self.put(f"lost {secrets.token_hex(16)}", 0, Reply("", Usage(1, 0, 0, dollars)), account)

    def spent(self, account: str) -> float:
        """Dollars that an account has paid so far."""
        with self._open() as database:
            query = "SELECT coalesce(sum(max(dollars, 0)), 0) FROM said WHERE account = ?"
            return float(database.execute(query, (account,)).fetchone()[0])

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Keep every other thread and process from asking the same; the lock dies with its holder.

        `name` is a key or another word; those that begin with the same two letters share a lock.
        """
        with (self._locks / name[:2]).open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def add_pending(self, batch: str, requests: Iterable[Pending]) -> None:
        """Note that requests wait in a batch."""
        rows = [(*astuple(request), batch) for request in requests]
        with self._open() as database:
            database.executemany("INSERT OR REPLACE INTO pending VALUES (?, ?, ?, ?, ?, ?)", rows)

    def pending(self) -> dict[str, list[Pending]]:
        """The requests that wait, by batch."""
        with self._open() as database:
            rows = database.execute("SELECT batch, id, key, attempt, most, account FROM pending").fetchall()
        found: dict[str, list[Pending]] = {}
        for batch, *request in rows:
            found.setdefault(str(batch), []).append(Pending(*request))
        return found

    def forget(self, batch: str) -> None:
        """Note that nothing waits in a batch any more."""
        with self._open() as database:
            database.execute("DELETE FROM pending WHERE batch = ?", (batch,))
            database.execute("INSERT OR IGNORE INTO fetched VALUES (?)", (batch,))

    def forgotten(self, batch: str) -> bool:
        """Whether a batch has been fetched before."""
        with self._open() as database:
            return database.execute("SELECT 1 FROM fetched WHERE batch = ?", (batch,)).fetchone() is not None

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A connection of this thread's own, committed at the end. What cannot be stored must not be paid for."""
        try:
            with closing(sqlite3.connect(self.path, timeout=BUSY_SECONDS)) as database, database:
                yield database
        except sqlite3.Error as error:
            kind = NoSpaceError if "full" in str(error) else UserError
            raise kind(
                f"The judge's cache {self.path} cannot be used ({error}); name another, or remove it."
            ) from error
