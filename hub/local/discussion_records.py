"""Discussions and pull requests as records: two tables and what may be done to them. References, rights and HTTP are
left to `pull_requests.py` and `discussions.py`."""

import html
import json
import secrets
import sqlite3
from dataclasses import dataclass
from typing import Any, Literal

from hub.local.records import timestamp

Status = Literal["draft", "open", "closed", "merged"]
EventType = Literal["comment", "status-change", "title-change"]

DISCUSSIONS = """
CREATE TABLE IF NOT EXISTS discussions (
    repository TEXT NOT NULL REFERENCES repositories(id) ON DELETE CASCADE, num INTEGER NOT NULL,
    id TEXT NOT NULL UNIQUE, title TEXT NOT NULL, author TEXT NOT NULL, status TEXT NOT NULL,
    is_pull_request INTEGER NOT NULL, base TEXT, base_oid TEXT, merge_commit TEXT, created TEXT NOT NULL,
    PRIMARY KEY (repository, num)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS discussion_events (
    position INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, repository TEXT NOT NULL, num INTEGER NOT NULL,
    type TEXT NOT NULL, author TEXT NOT NULL, created TEXT NOT NULL, data TEXT NOT NULL,
    FOREIGN KEY (repository, num) REFERENCES discussions(repository, num) ON DELETE CASCADE
);
CREATE INDEX IF NOT EXISTS events_of_discussions ON discussion_events (repository, num);
"""
_COLUMNS = "repository, num, id, title, author, status, is_pull_request, base, base_oid, merge_commit, created"
_EVENT = "id, type, author, created, data"


@dataclass(frozen=True)
class Discussion:
    """A discussion, or a pull request where `base` is set.

    Attributes:
        repository (`str`): the repository record's own id.
        num (`int`): 1, 2, ... in its repository; never used twice.
        id (`str`): 24 hexadecimal digits.
        author (`str`): the user's name.
        created (`str`): UTC as `2026-01-31T12:00:00.000Z`.
        base (`str`): the full name of the branch that it is to be merged into.
        base_oid (`str`): the commit of that branch that its first commit builds on.
        merge_commit (`str`): the commit of the base branch that it became.
    """

    repository: str
    num: int
    id: str
    title: str
    author: str
    status: Status
    is_pull_request: bool
    base: str | None
    base_oid: str | None
    merge_commit: str | None
    created: str

    @property
    def ref(self) -> str:
        """The full name of a pull request's ref."""
        return f"refs/pr/{self.num}"


@dataclass(frozen=True)
class Event:
    """Something that happened in a discussion: `data` as in HUB.md's row 26, but a comment's text as it was typed:
    `{"raw", "edited", "hidden", "updated", "updated_by", "history": [{"raw", "updated", "updated_by"}]}`."""

    id: str
    type: EventType
    author: str
    created: str
    data: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """The event as the client reads it. `html` is the text, escaped and nothing else."""
        head = {"id": self.id, "type": self.type, "createdAt": self.created, "author": {"name": self.author}}
        if self.type != "comment":
            return {**head, "data": self.data}
        hidden = self.data["hidden"]
        history = [] if hidden else [_version(entry) for entry in self.data["history"]]
        data = {"edited": self.data["edited"], "hidden": hidden, "latest": _version(self.data), "history": history}
        return {**head, "data": data}


def _version(version: dict[str, Any]) -> dict[str, Any]:
    return {
        "raw": version["raw"],
        "html": html.escape(version["raw"]),
        "updatedAt": version["updated"],
        "author": {"name": version["updated_by"]},
    }


def new_id() -> str:
    """24 random hexadecimal digits."""
    return secrets.token_hex(12)


def next_number(connection: sqlite3.Connection, repository: str) -> int:
    """The number of a repository's next discussion."""
    (last,) = connection.execute("SELECT max(num) FROM discussions WHERE repository = ?", (repository,)).fetchone()
    return (last or 0) + 1


def add(
    connection: sqlite3.Connection,
    repository: str,
    num: int,
    author: str,
    title: str,
    description: str,
    status: Status = "open",
    base: str | None = None,
    base_oid: str | None = None,
) -> Discussion:
    """Add a discussion with its first comment."""
    pull_request = base is not None
    row = (repository, num, new_id(), title, author, status, pull_request, base, base_oid, None, timestamp())
    connection.execute(f"INSERT INTO discussions ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
    add_comment(connection, repository, num, author, description)
    return _discussion(row)


def find(connection: sqlite3.Connection, repository: str, num: int) -> Discussion | None:
    """A discussion by its number, or None."""
    sql = f"SELECT {_COLUMNS} FROM discussions WHERE repository = ? AND num = ?"
    row = connection.execute(sql, (repository, num)).fetchone()
    return _discussion(row) if row else None


def page(
    connection: sqlite3.Connection,
    repository: str,
    start: int,
    size: int,
    kind: str = "all",
    status: str = "all",
    author: str | None = None,
) -> tuple[list[Discussion], int]:
    """Discussions of a repository, newest first, and how many there are in all.

    Args:
        kind (`str`): `all`, `discussion` or `pull_request`.
        status (`str`): `all`, `open` (drafts too), `closed` (merged ones too).
    """
    where, values = "repository = ?", [repository]
    if kind != "all":
        where += " AND is_pull_request" if kind == "pull_request" else " AND NOT is_pull_request"
    if status != "all":
        where += " AND status IN ('open', 'draft')" if status == "open" else " AND status IN ('closed', 'merged')"
    if author is not None:
        where += " AND author = ?"
        values.append(author)
    (count,) = connection.execute(f"SELECT count(*) FROM discussions WHERE {where}", values).fetchone()
    sql = f"SELECT {_COLUMNS} FROM discussions WHERE {where} ORDER BY num DESC LIMIT ? OFFSET ?"
    return [_discussion(row) for row in connection.execute(sql, [*values, size, start])], count


def _discussion(row: Any) -> Discussion:
    values = dict(zip(_COLUMNS.split(", "), row, strict=True))
    return Discussion(**{**values, "is_pull_request": bool(values["is_pull_request"])})


def set_merged(connection: sqlite3.Connection, discussion: Discussion, author: str, commit: str, comment: str) -> Event:
    """Write down that a pull request became `commit` of its base branch."""
    if comment:
        add_comment(connection, discussion.repository, discussion.num, author, comment)
    _update(connection, discussion, "merge_commit = ?", commit)
    return set_status(connection, discussion, author, "merged")


def set_status(connection: sqlite3.Connection, discussion: Discussion, author: str, status: Status) -> Event:
    """Change the status; whether that may be is asked before."""
    _update(connection, discussion, "status = ?", status)
    return _add_event(connection, discussion.repository, discussion.num, "status-change", author, {"status": status})


def set_title(connection: sqlite3.Connection, discussion: Discussion, author: str, title: str) -> Event:
    """Change the title."""
    _update(connection, discussion, "title = ?", title)
    data = {"from": discussion.title, "to": title}
    return _add_event(connection, discussion.repository, discussion.num, "title-change", author, data)


def _update(connection: sqlite3.Connection, discussion: Discussion, changes: str, *values: str) -> None:
    sql = f"UPDATE discussions SET {changes} WHERE repository = ? AND num = ?"
    connection.execute(sql, (*values, discussion.repository, discussion.num))


def add_comment(connection: sqlite3.Connection, repository: str, num: int, author: str, raw: str) -> Event:
    """Add a comment, its text as it was typed."""
    data = {"raw": raw, "edited": False, "hidden": False, "updated": timestamp(), "updated_by": author, "history": []}
    return _add_event(connection, repository, num, "comment", author, data)


def edit_comment(connection: sqlite3.Connection, event: Event, author: str, raw: str) -> Event:
    """Give a comment another text; the one that it had goes into the history."""
    before = {name: event.data[name] for name in ("raw", "updated", "updated_by")}
    history = [*event.data["history"], before]
    data = {**event.data, "raw": raw, "edited": True, "updated": timestamp(), "updated_by": author, "history": history}
    return _set_data(connection, event, data)


def hide_comment(connection: sqlite3.Connection, event: Event, author: str) -> Event:
    """Hide a comment for good: its text and its history are deleted."""
    data = {**event.data, "raw": "", "hidden": True, "updated": timestamp(), "updated_by": author, "history": []}
    return _set_data(connection, event, data)


def _set_data(connection: sqlite3.Connection, event: Event, data: dict[str, Any]) -> Event:
    connection.execute("UPDATE discussion_events SET data = ? WHERE id = ?", (json.dumps(data), event.id))
    return Event(event.id, event.type, event.author, event.created, data)


def _add_event(
    connection: sqlite3.Connection, repository: str, num: int, type_: EventType, author: str, data: dict[str, Any]
) -> Event:
    event = Event(new_id(), type_, author, timestamp(), data)
    connection.execute(
        "INSERT INTO discussion_events (id, repository, num, type, author, created, data) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (event.id, repository, num, type_, author, event.created, json.dumps(data)),
    )
    return event


def events(connection: sqlite3.Connection, repository: str, num: int) -> list[Event]:
    """The events of a discussion, oldest first; the first is the comment that opened it."""
    sql = f"SELECT {_EVENT} FROM discussion_events WHERE repository = ? AND num = ? ORDER BY position"
    return [_event(row) for row in connection.execute(sql, (repository, num)).fetchall()]


def find_comment(connection: sqlite3.Connection, repository: str, num: int, id_: str) -> Event | None:
    """A comment of a discussion by its id."""
    sql = f"SELECT {_EVENT} FROM discussion_events WHERE repository = ? AND num = ? AND id = ? AND type = 'comment'"
    row = connection.execute(sql, (repository, num, id_)).fetchone()
    return _event(row) if row else None


def _event(row: Any) -> Event:
    id_, type_, author, created, data = row
    return Event(id_, type_, author, created, json.loads(data))


def room(connection: sqlite3.Connection, repository: str, num: int) -> tuple[int, int]:
    """How many events a discussion has, and how many characters they take."""
    sql = "SELECT count(*), coalesce(sum(length(data)), 0) FROM discussion_events WHERE repository = ? AND num = ?"
    count, size = connection.execute(sql, (repository, num)).fetchone()
    return int(count), int(size)
