"""Discussions as records: numbers, lists, comments, and what a killed merge leaves."""

import sqlite3
from collections.abc import Iterator

import pytest

from hub.local import discussion_records as records
from hub.local.discussion_records import Discussion


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:")
    connection.executescript(f"CREATE TABLE repositories (id TEXT PRIMARY KEY); {records.DISCUSSIONS}")
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute("INSERT INTO repositories VALUES ('r1'), ('r2')")
    yield connection
    connection.close()


def _add(connection: sqlite3.Connection, repository: str = "r1", author: str = "ada", text: str = "x") -> Discussion:
    return records.add(connection, repository, records.next_number(connection, repository), author, "A title", text)


def _pull_request(connection: sqlite3.Connection) -> Discussion:
    num = records.next_number(connection, "r1")
    return records.add(connection, "r1", num, "ada", "A pistol", "Adds one.", "draft", "refs/heads/main", "a" * 40)


def test_numbers_count_up_in_each_repository(connection: sqlite3.Connection) -> None:
    assert [_add(connection, name).num for name in ("r1", "r1", "r2", "r1")] == [1, 2, 1, 3]


def test_what_is_added_is_what_is_found(connection: sqlite3.Connection) -> None:
    added = _pull_request(connection)
    assert records.find(connection, "r1", 1) == added
    assert records.find(connection, "r1", 2) is None and records.find(connection, "r2", 1) is None


def test_the_first_event_is_the_comment_that_opened_it(connection: sqlite3.Connection) -> None:
    discussion = _pull_request(connection)
    (event,) = records.events(connection, "r1", discussion.num)
    assert event.as_json()["data"]["latest"]["raw"] == "Adds one."
    assert discussion.ref == "refs/pr/1" and discussion.status == "draft" and discussion.is_pull_request


def test_pages_go_from_the_newest_and_count_all(connection: sqlite3.Connection) -> None:
    for _ in range(5):
        _add(connection)
    first, count = records.page(connection, "r1", 0, 2)
    last, _ = records.page(connection, "r1", 4, 2)
    assert ([d.num for d in first], [d.num for d in last], count) == ([5, 4], [1], 5)


def test_filters_take_drafts_as_open_and_merged_ones_as_closed(connection: sqlite3.Connection) -> None:
    draft, talk, merged = _pull_request(connection), _add(connection, author="bob"), _pull_request(connection)
    records.set_status(connection, merged, "ada", "merged")

    def nums(**filters: str) -> list[int]:
        return [d.num for d in records.page(connection, "r1", 0, 10, **filters)[0]]

    assert nums(status="open") == [talk.num, draft.num]
    assert nums(status="closed") == [merged.num]
    assert nums(kind="discussion") == [talk.num]
    assert nums(kind="pull_request", author="bob") == []
    assert nums(kind="pull_request", author="ada") == [merged.num, draft.num]


def test_a_merge_names_its_commit_and_comes_after_its_comment(connection: sqlite3.Connection) -> None:
    records.set_merged(connection, _pull_request(connection), "bob", "c" * 40, "Thanks")
    after = records.find(connection, "r1", 1)
    assert after is not None and (after.status, after.merge_commit) == ("merged", "c" * 40)
    assert [event.type for event in records.events(connection, "r1", 1)] == ["comment", "comment", "status-change"]


def test_an_edit_keeps_what_was_there_and_hiding_deletes_it(connection: sqlite3.Connection) -> None:
    discussion = _add(connection, text="first")
    (event,) = records.events(connection, "r1", discussion.num)
    edited = records.edit_comment(connection, event, "ada", "second")
    data = edited.as_json()["data"]
    assert data["edited"] and data["latest"]["raw"] == "second" and [v["raw"] for v in data["history"]] == ["first"]
    records.hide_comment(connection, edited, "bob")
    found = records.find_comment(connection, "r1", discussion.num, event.id)
    assert found is not None and found.as_json()["data"]["hidden"]
    text = " ".join(row[0] for row in connection.execute("SELECT data FROM discussion_events"))
    assert "first" not in text and "second" not in text


def test_html_is_the_escaped_text_and_nothing_else(connection: sqlite3.Connection) -> None:
    raw = '<script>alert("x")</script> & **bold**'
    discussion = _add(connection, text=raw)
    (event,) = records.events(connection, "r1", discussion.num)
    latest = event.as_json()["data"]["latest"]
    assert latest["raw"] == raw
    assert latest["html"] == "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt; &amp; **bold**"


def test_a_comment_is_found_in_its_own_discussion_only(connection: sqlite3.Connection) -> None:
    first, other = (_add(connection) for _ in range(2))
    (event,) = records.events(connection, "r1", first.num)
    assert records.find_comment(connection, "r1", first.num, event.id) == event
    assert records.find_comment(connection, "r1", other.num, event.id) is None
    assert records.find_comment(connection, "r2", first.num, event.id) is None


def test_a_deleted_repository_takes_its_discussions_along(connection: sqlite3.Connection) -> None:
    _add(connection, "r1")
    _add(connection, "r2")
    connection.execute("DELETE FROM repositories WHERE id = 'r1'")
    assert records.page(connection, "r1", 0, 10)[1] == 0 and records.page(connection, "r2", 0, 10)[1] == 1
    assert connection.execute("SELECT count(*) FROM discussion_events").fetchone() == (1,)
