"""What was begun and must be finished: a row that is written before a reference moves and taken away with the records.

Whatever changes a reference AND records (a merge, a pull request with its first commit) writes an intent first. A
process that is killed in between leaves the row; `recovery.py` gives it to the kind's function at the next start, which
looks whether the reference has moved and finishes or undoes the rest. Such a function must do no harm when it is run
twice."""

import json
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hub.local.hub import LocalHub
    from hub.local.records import Records

TABLE = """CREATE TABLE IF NOT EXISTS intents (
    id INTEGER PRIMARY KEY, kind TEXT NOT NULL, repository TEXT NOT NULL, payload TEXT NOT NULL)"""


@dataclass(frozen=True)
class Intent:
    """A row: `payload` is what the kind's function needs (old and new shas, numbers)."""

    id: int
    kind: str
    repository: str
    payload: dict[str, Any]


Finish = Callable[["LocalHub", Intent], None]
FINISH: dict[str, Finish] = {}


def finishes(kind: str) -> Callable[[Finish], Finish]:
    """Register the function that finishes or undoes intents of a kind."""

    def register(function: Finish) -> Finish:
        FINISH[kind] = function
        return function

    return register


def begin(records: "Records", kind: str, repository: str, payload: dict[str, Any]) -> int:
    """Write an intent down (in the caller's transaction where there is one); its id."""
    with records.transaction() as connection:
        sql = "INSERT INTO intents (kind, repository, payload) VALUES (?, ?, ?)"
        return int(connection.execute(sql, (kind, repository, json.dumps(payload))).lastrowid or 0)


def done(connection: sqlite3.Connection, intent: int) -> None:
    """Take an intent away, in the transaction that writes the records it promised."""
    connection.execute("DELETE FROM intents WHERE id = ?", (intent,))


def pending(records: "Records") -> list[Intent]:
    """The intents of processes that were killed, oldest first."""
    rows = records.all("SELECT * FROM intents ORDER BY id")
    return [Intent(row["id"], row["kind"], row["repository"], json.loads(row["payload"])) for row in rows]
