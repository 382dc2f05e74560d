"""Pull requests as record and reference: merges, conflicts, and every point at which the process can be killed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hub.local import discussion_records, intents, pull_requests
from hub.local.errors import Refusal
from hub.local.git_store import GitStore
from hub.local.git_trees import Edit
from hub.local.hub import LocalHub, Repository
from hub.local.recovery import recover
from hub.local.users import User, write_users

MAIN = "refs/heads/main"
OWNER = User("owner", role="write")
AUTHOR = User("author", role="write")
OTHER = User("other", role="write")


class Killed(BaseException):
    """Stands for the end of the process: nothing after it runs."""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LocalHub]:
    (tmp_path / "root").mkdir()
    write_users(tmp_path / "root" / "users.yaml", [{"name": user.name} for user in (OWNER, AUTHOR, OTHER)])
    hub = LocalHub(tmp_path / "root")
    yield hub
    hub.close()


@pytest.fixture
def repository(hub: LocalHub) -> Repository:
    return hub.add("dataset", "owner", "data", False, OWNER, {"a.txt": b"1\n2\n3\n", "b.txt": b"b\n"})


def _commit(git: GitStore, ref: str, files: dict[str, bytes | None], author: str, parent: str | None = None) -> str:
    """Commit to a reference, or only make the commit where a parent is given."""
    tip = parent or git.resolve(ref)
    edits = [Edit(path, None if data is None else git.write_blob(data)) for path, data in files.items()]
    new = git.commit(git.edit(git.tree(tip), edits), [tip], author, f"Change {', '.join(files)}")
    if parent is None:
        git.swap(ref, tip, new)
    return new


def _open(hub: LocalHub, repository: Repository, files: dict[str, bytes | None], draft: bool = False) -> int:
    git = hub.git(repository)
    head = _commit(git, MAIN, files, AUTHOR.name, git.resolve(MAIN))
    return pull_requests.open_pull_request(hub, repository, AUTHOR, "A pistol", "Adds one.", MAIN, head, draft)[0]


def _content(git: GitStore, revision: str) -> dict[str, bytes]:
    commit = git.resolve(revision)
    return {entry.path: git.read(entry.oid) for entry in git.entries(commit, recursive=True) if not entry.folder}


def _status(hub: LocalHub, repository: Repository, num: int) -> str | None:
    found = discussion_records.find(hub.records.connection(), repository.id, num)
    return found.status if found else None


def test_a_merge_is_one_commit_with_the_authors_of_the_pull_request(hub: LocalHub, repository: Repository) -> None:
    git = hub.git(repository)
    num = _open(hub, repository, {"c.txt": b"c\n"})
    _commit(git, f"refs/pr/{num}", {"d.txt": b"d\n"}, OTHER.name)
    old = _commit(git, MAIN, {"e.txt": b"e\n"}, OWNER.name)
    event = pull_requests.merge(hub, repository, OWNER, num, "Thanks")
    commit = git.read_commit(git.resolve(MAIN))
    assert event.data == {"status": "merged"}
    assert (commit.title, commit.parents) == (f"A pistol (#{num})", [old])
    assert commit.authors[0] == "owner" and set(commit.authors) == {"owner", "author", "other"}
    assert sorted(_content(git, "main")) == ["a.txt", "b.txt", "c.txt", "d.txt", "e.txt"]
    assert sorted(_content(git, f"refs/pr/{num}")) == ["a.txt", "b.txt", "c.txt", "d.txt"]
    assert pull_requests.find(hub, repository, num).merge_commit == commit.oid


def test_a_commit_message_of_the_pull_request_forges_no_author(hub: LocalHub, repository: Repository) -> None:
    git = hub.git(repository)
    head = git.resolve(MAIN)
    new = git.commit(git.tree(head), [head], AUTHOR.name, "x\n\nCo-authored-by: victim <victim@example.org>")
    title = "T\r\n\r\nCo-authored-by: victim <victim@example.org>"
    num, _ = pull_requests.open_pull_request(hub, repository, AUTHOR, title, "", MAIN, new, False)
    pull_requests.merge(hub, repository, OWNER, num, "")
    assert git.read_commit(git.resolve(MAIN)).authors == ["owner", "author"]


def test_both_sides_of_a_file_are_merged(hub: LocalHub, repository: Repository) -> None:
    git = hub.git(repository)
    num = _open(hub, repository, {"a.txt": b"one\n2\n3\n"})
    _commit(git, MAIN, {"a.txt": b"1\n2\nthree\n"}, OWNER.name)
    pull_requests.merge(hub, repository, OWNER, num, "")
    assert _content(git, "main")["a.txt"] == b"one\n2\nthree\n"


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({"a.txt": b"x\n2\n3\n"}, {"a.txt": b"y\n2\n3\n"}),
        ({"a.txt": None}, {"a.txt": b"y\n2\n3\n"}),
        ({"a.txt": b"x\n2\n3\n"}, {"a.txt": None}),
        ({"new.txt": b"x"}, {"new.txt": b"y"}),
        ({"new": b"x"}, {"new/file.txt": b"y"}),
        ({"a.txt": b"\0one"}, {"a.txt": b"\0two"}),
    ],
)
def test_a_conflict_is_told_and_changes_nothing(
    hub: LocalHub, repository: Repository, theirs: dict[str, bytes | None], ours: dict[str, bytes | None]
) -> None:
    git = hub.git(repository)
    num = _open(hub, repository, {**theirs, "b.txt": b"other\n"})
    tip = _commit(git, MAIN, ours, OWNER.name)
    head = git.reference(f"refs/pr/{num}")
    discussion = pull_requests.find(hub, repository, num)
    shown = pull_requests.changes(git, discussion, tip, head, diff=True)
    conflicting = list(theirs)
    assert shown["filesWithConflicts"] == conflicting
    with pytest.raises(Refusal) as refused:
        pull_requests.merge(hub, repository, OWNER, num, "")
    assert refused.value.status == 409 and refused.value.body == {"filesWithConflicts": conflicting}
    assert conflicting[0] in refused.value.message
    assert git.resolve(MAIN) == tip and _status(hub, repository, num) == "open"


def test_a_squash_of_the_base_loses_no_deletion(hub: LocalHub, repository: Repository) -> None:
    git = hub.git(repository)
    num = _open(hub, repository, {"b.txt": None, "a.txt": b"one\n2\n3\n"})
    tip = _commit(git, MAIN, {"e.txt": b"e\n"}, OWNER.name)
    git.swap(MAIN, tip, git.commit(git.tree(tip), [], OWNER.name, "Squash"))
    discussion = pull_requests.find(hub, repository, num)
    found = pull_requests.changes(git, discussion, git.reference(MAIN), git.reference(discussion.ref), diff=True)
    assert found["filesWithConflicts"] == [] and "e.txt" not in found["diff"]
    pull_requests.merge(hub, repository, OWNER, num, "")
    assert _content(git, "main") == {"a.txt": b"one\n2\n3\n", "e.txt": b"e\n"}


def test_a_pull_request_whose_base_is_gone_is_read_and_not_merged(hub: LocalHub, repository: Repository) -> None:
    git = hub.git(repository)
    head = git.resolve(MAIN)
    git.swap("refs/heads/side", None, head)
    new = _commit(git, MAIN, {"c.txt": b"c\n"}, AUTHOR.name, head)
    num, _ = pull_requests.open_pull_request(hub, repository, AUTHOR, "A pistol", "", "refs/heads/side", new, False)
    git.swap("refs/heads/side", head, None)
    found = pull_requests.changes(git, pull_requests.find(hub, repository, num), None, new, diff=True)
    assert "c.txt" in found["diff"] and found["filesWithConflicts"] == []
    with pytest.raises(Refusal, match="refs/heads/side is gone") as refused:
        pull_requests.merge(hub, repository, OWNER, num, "")
    assert refused.value.status == 400


def test_a_pull_request_without_changes_can_be_merged(hub: LocalHub, repository: Repository) -> None:
    git = hub.git(repository)
    tip = git.resolve(MAIN)
    num, _ = pull_requests.open_pull_request(hub, repository, AUTHOR, "Nothing", "", MAIN, tip, False)
    pull_requests.merge(hub, repository, OWNER, num, "")
    commit = git.read_commit(git.resolve(MAIN))
    assert commit.parents == [tip] and git.tree(commit.oid) == git.tree(tip)


def test_the_diff_stays_that_of_the_pull_request(hub: LocalHub, repository: Repository) -> None:
    git = hub.git(repository)
    num = _open(hub, repository, {"c.txt": b"new line\n"})
    _commit(git, MAIN, {"e.txt": b"elsewhere\n"}, OWNER.name)

    def diff() -> str:
        discussion = pull_requests.find(hub, repository, num)
        found = pull_requests.changes(git, discussion, git.reference(MAIN), git.reference(discussion.ref), diff=True)
        return str(found["diff"])

    before = diff()
    assert "+new line" in before and "elsewhere" not in before
    pull_requests.merge(hub, repository, OWNER, num, "")
    _commit(git, MAIN, {"c.txt": b"later\n"}, OWNER.name)
    assert diff() == before


def test_a_long_diff_is_cut_and_says_so(hub: LocalHub, repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pull_requests, "MAX_DIFF", 300)
    git = hub.git(repository)
    num = _open(hub, repository, {"c.txt": b"line\n" * 1000})
    discussion = pull_requests.find(hub, repository, num)
    text = pull_requests.changes(git, discussion, git.reference(MAIN), git.reference(discussion.ref), True)["diff"]
    assert len(text) < 400 and "left out: what comes after the first 300 characters" in text


def test_commits_are_events_in_their_order(hub: LocalHub, repository: Repository) -> None:
    git = hub.git(repository)
    num = _open(hub, repository, {"c.txt": b"c\n"})
    second = _commit(git, f"refs/pr/{num}", {"d.txt": b"d\n"}, OTHER.name)
    events = pull_requests.commit_events(git, pull_requests.find(hub, repository, num), second)
    assert [(e["author"]["name"], e["data"]["subject"]) for e in events] == [
        ("author", "Change c.txt"),
        ("other", "Change d.txt"),
    ]
    assert events[1]["data"]["oid"] == second


@pytest.mark.parametrize("status", ["draft", "closed", "merged"])
def test_only_an_open_pull_request_is_merged(hub: LocalHub, repository: Repository, status: Any) -> None:
    num = _open(hub, repository, {"c.txt": b"c\n"})
    tip = hub.git(repository).resolve(MAIN)
    discussion = pull_requests.find(hub, repository, num)
    discussion_records.set_status(hub.records.connection(), discussion, "author", status)
    with pytest.raises(Refusal, match=f"is {status}: only an open one") as refused:
        pull_requests.merge(hub, repository, OWNER, num, "")
    assert refused.value.status == 400 and hub.git(repository).resolve(MAIN) == tip


@pytest.mark.parametrize(
    ("user", "status"),
    [(None, 401), (User("author", role="read"), 403), (OTHER, 403), (AUTHOR, None), (OWNER, None)],
)
def test_who_may_commit_to_a_pull_request(
    hub: LocalHub, repository: Repository, user: User | None, status: int | None
) -> None:
    num = _open(hub, repository, {"c.txt": b"c\n"})
    if status is None:
        pull_requests.check_push(hub, repository, user, num)
        return
    with pytest.raises(Refusal) as refused:
        pull_requests.check_push(hub, repository, user, num)
    assert refused.value.status == status


@pytest.mark.parametrize("status", ["closed", "merged"])
def test_nobody_commits_to_one_that_is_done(hub: LocalHub, repository: Repository, status: Any) -> None:
    num = _open(hub, repository, {"c.txt": b"c\n"})
    discussion_records.set_status(hub.records.connection(), pull_requests.find(hub, repository, num), "author", status)
    for user in (AUTHOR, OWNER):
        with pytest.raises(Refusal, match=f"is {status}") as refused:
            pull_requests.check_push(hub, repository, user, num)
        assert refused.value.status == 403


def test_there_is_no_reference_without_a_pull_request(hub: LocalHub, repository: Repository) -> None:
    discussion_records.add(hub.records.connection(), repository.id, 1, "author", "Talk", "x")
    for num in (1, 2):
        with pytest.raises(Refusal) as refused:
            pull_requests.check_push(hub, repository, OWNER, num)
        assert (refused.value.status, refused.value.code) == (404, "RevisionNotFound")


# Kills. `points` are the calls that write, in their order; the process ends before or after each.


def _kill_at(monkeypatch: pytest.MonkeyPatch, point: tuple[Any, str], after: bool) -> None:
    owner, name = point
    function = getattr(owner, name)

    def killed(*args: Any, **kwargs: Any) -> Any:
        if after:
            function(*args, **kwargs)
        raise Killed

    monkeypatch.setattr(owner, name, killed)
    # A killed process undoes nothing either.
    monkeypatch.setattr(pull_requests, "_undo_opening", lambda *args: None)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(
    "point", [(intents, "begin"), (GitStore, "swap"), (discussion_records, "add"), (intents, "done")], ids=str
)
def test_a_killed_opening_leaves_both_or_nothing(
    hub: LocalHub, repository: Repository, monkeypatch: pytest.MonkeyPatch, point: tuple[Any, str], after: bool
) -> None:
    with monkeypatch.context() as patch:
        _kill_at(patch, point, after)
        with pytest.raises(Killed):
            _open(hub, repository, {"c.txt": b"c\n"})
    recover(hub)
    assert intents.pending(hub.records) == []
    there = discussion_records.find(hub.records.connection(), repository.id, 1) is not None
    assert (hub.git(repository).reference("refs/pr/1") is not None) == there
    assert not there  # nothing was answered, and none of these points is past the records' commit
    assert _open(hub, repository, {"c.txt": b"c\n"}) == 1


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(
    "point",
    [(intents, "begin"), (GitStore, "swap"), (discussion_records, "set_merged"), (intents, "done")],
    ids=str,
)
def test_a_killed_merge_is_finished_or_never_was(
    hub: LocalHub, repository: Repository, monkeypatch: pytest.MonkeyPatch, point: tuple[Any, str], after: bool
) -> None:
    git = hub.git(repository)
    num, tip = _open(hub, repository, {"c.txt": b"c\n"}), git.resolve(MAIN)
    with monkeypatch.context() as patch:
        _kill_at(patch, point, after)
        with pytest.raises(Killed):
            pull_requests.merge(hub, repository, OWNER, num, "Thanks")
    recover(hub)
    recover(hub)
    assert intents.pending(hub.records) == []
    moved = git.resolve(MAIN) != tip
    assert moved == (point[1] not in ("begin", "swap") or (point[1] == "swap" and after))
    discussion = pull_requests.find(hub, repository, num)
    assert (discussion.status, discussion.merge_commit) == (("merged", git.resolve(MAIN)) if moved else ("open", None))
    comments = [
        event.data["raw"]
        for event in discussion_records.events(hub.records.connection(), repository.id, num)
        if event.type == "comment"
    ]
    assert comments == (["Adds one.", "Thanks"] if moved else ["Adds one."])


def test_a_merge_that_failed_halfway_is_finished_by_the_next_look(
    hub: LocalHub, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    num = _open(hub, repository, {"c.txt": b"c\n"})

    def fail(*args: Any) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(discussion_records, "set_merged", fail)
        with pytest.raises(OSError, match="no space"):
            pull_requests.merge(hub, repository, OWNER, num, "")
    with pull_requests.locked(hub, repository, OWNER):
        assert _status(hub, repository, num) == "merged"


def test_an_opening_that_failed_halfway_leaves_nothing(
    hub: LocalHub, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(discussion_records, "add", fail)
        with pytest.raises(OSError, match="no space"):
            _open(hub, repository, {"c.txt": b"c\n"})
    assert hub.git(repository).reference("refs/pr/1") is None and intents.pending(hub.records) == []


def test_a_deleted_repository_takes_its_pull_requests_along(hub: LocalHub, repository: Repository) -> None:
    _open(hub, repository, {"c.txt": b"c\n"})
    hub.remove(repository)
    assert hub.records.all("SELECT * FROM discussions") == []
    assert hub.records.all("SELECT * FROM discussion_events") == []
