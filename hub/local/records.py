"""The records: one SQLite file in WAL mode, a connection a thread, short transactions.

Each module keeps its own tables; it names them by `records.create(...)` when it is set up."""

import sqlite3
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


def timestamp(moment: datetime | None = None) -> str:
    """A moment (now, unless given) as the Hub writes it: `2026-01-31T12:00:00.000Z`."""
    moment = (moment or datetime.now(UTC)).astimezone(UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


class _Connection(sqlite3.Connection):
    """One that can be referred to weakly, so that a thread that ends lets its connection go."""


class Records:
    """The SQLite file of a hub.

    A process that is killed loses nothing that a transaction has committed: SQLite's WAL is in the kernel's hands by
    then. Against a loss of power the file stays whole, and the last transactions may be gone.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._local = threading.local()
        self._open: weakref.WeakSet[sqlite3.Connection] = weakref.WeakSet()
        self.create("CREATE TABLE IF NOT EXISTS settings (key TEXT PRIMARY KEY, value BLOB NOT NULL)")

    def connection(self) -> sqlite3.Connection:
        """This thread's connection, for reading; inside a transaction of this thread it sees what that has written."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = sqlite3.connect(
                self.path, timeout=60, isolation_level=None, check_same_thread=False, factory=_Connection
            )
            self._open.add(connection)
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute("PRAGMA foreign_keys=ON")
            self._local.connection = connection
        return connection

    def close(self) -> None:
        """Close every thread's connection; the last one takes SQLite's working files away.

        Left to the collector they would vanish at any later moment, from under whoever copies the folder.
        """
        for connection in list(self._open):
            connection.close()

    def create(self, sql: str) -> None:
        """Run statements of the form CREATE ... IF NOT EXISTS."""
        self.connection().executescript(sql)

    def all(self, sql: str, *values: Any) -> list[sqlite3.Row]:
        """The rows of a query; inside a transaction of this thread, as that transaction sees them."""
        return self.connection().execute(sql, values).fetchall()

    def one(self, sql: str, *values: Any) -> sqlite3.Row | None:
        """The first row of a query."""
        row: sqlite3.Row | None = self.connection().execute(sql, values).fetchone()
        return row

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A transaction that writes: all of it or, where the block raises, nothing. A nested one joins the outer."""
        connection = self.connection()
        if connection.in_transaction:
            yield connection
            return
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            # A full disk may have ended it already. One that failed to commit must not stay open: what this thread
            # writes next would join it and be lost.
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def setting(self, key: str, default: bytes) -> bytes:
        """A value of the settings' table; `default` is kept where there is none yet."""
        with self.transaction() as connection:
            connection.execute("INSERT OR IGNORE INTO settings VALUES (?, ?)", (key, default))
            value: bytes = connection.execute("SELECT value FROM settings WHERE key = ?", (key,)).fetchone()[0]
        return value
