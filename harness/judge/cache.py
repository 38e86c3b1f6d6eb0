"""Replies of judges on disk, so that none is paid for twice, whatever run asks."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from harness.errors import UserError

TABLE = "CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, reply TEXT NOT NULL)"
BUSY_SECONDS = 30.0


def default_cache() -> Path:
    """The file in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "esft-bench" / "judge.sqlite"


class ReplyCache:
    """A SQLite file from key to reply; safe for threads and processes that share it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._open() as database:
                database.execute(TABLE)
        except (OSError, sqlite3.Error) as error:
            raise UserError(
                f"The judge's cache {path} cannot be used ({error}); name another, or remove it."
            ) from error

    def get(self, key: str) -> str | None:
        """The stored reply, or None."""
        with self._open() as database:
            row = database.execute("SELECT reply FROM replies WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def put(self, key: str, reply: str) -> None:
        """Store a reply."""
        with self._open() as database:
            database.execute("INSERT OR REPLACE INTO replies VALUES (?, ?)", (key, reply))

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A connection of this thread's own, committed at the end."""
        with closing(sqlite3.connect(self.path, timeout=BUSY_SECONDS)) as database, database:
            yield database
