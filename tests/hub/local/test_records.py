"""Transactions: all or nothing, and none that failed swallows what comes after it."""

import sqlite3
import threading
from pathlib import Path

import pytest

from hub.local.records import Records


def test_a_transaction_that_fails_to_commit_takes_nothing_along(tmp_path: Path) -> None:
    records = Records(tmp_path / "hub.sqlite")
    records.create("CREATE TABLE a (id INTEGER PRIMARY KEY); CREATE TABLE b (a INTEGER NOT NULL REFERENCES a(id))")
    # A foreign key that is looked at last makes COMMIT itself fail, as a full disk does.
    with pytest.raises(sqlite3.IntegrityError), records.transaction() as connection:
        connection.execute("PRAGMA defer_foreign_keys = ON")
        connection.execute("INSERT INTO b VALUES (1)")
    with records.transaction() as connection:
        connection.execute("INSERT INTO a VALUES (2)")
    other = Records(tmp_path / "hub.sqlite")
    assert [row["id"] for row in other.all("SELECT id FROM a")] == [2]
    assert other.all("SELECT a FROM b") == []


def test_a_transaction_that_sqlite_has_ended_raises_what_went_wrong(tmp_path: Path) -> None:
    records = Records(tmp_path / "hub.sqlite")
    with pytest.raises(ValueError, match="first"), records.transaction() as connection:
        connection.execute("ROLLBACK")
        raise ValueError("first")


def test_a_hub_that_is_closed_leaves_no_working_file(tmp_path: Path) -> None:
    records = Records(tmp_path / "hub.sqlite")
    asked, closed = threading.Event(), threading.Event()

    def other() -> None:
        records.all("SELECT * FROM settings")
        asked.set()
        closed.wait(10)

    thread = threading.Thread(target=other)
    thread.start()
    assert asked.wait(10)
    assert (tmp_path / "hub.sqlite-wal").exists()
    records.close()
    assert [path.name for path in tmp_path.iterdir()] == ["hub.sqlite"]
    closed.set()
    thread.join()
