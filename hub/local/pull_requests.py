"""Pull requests: a discussion's record and the reference `refs/pr/N`, which come, move and merge together.

What concerns both writes an intent first (`intents.py`), so that a killed server finishes or undoes it; readers take
the repository's lock, so that they see neither without the other."""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from hub.local import discussion_records, intents
from hub.local.access import check
from hub.local.discussion_records import Discussion, Event
from hub.local.errors import Refusal, no_write, revision_not_found
from hub.local.git_store import Commit, GitStore, ReferenceExists, Stale, address
from hub.local.names import MAX_DIFF, MAX_DISCUSSION_TITLE, MAX_DISCUSSIONS, MAX_PULL_REQUEST_COMMITS, MAX_TEXT
from hub.local.users import User, may_write

if TYPE_CHECKING:
    from hub.local.hub import LocalHub, Repository

OPEN, MERGE = "open_pull_request", "merge_pull_request"
_CONTROL = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]+")


@contextmanager
def locked(hub: "LocalHub", repository: "Repository", user: User | None) -> Iterator[GitStore]:
    """Hold the repository's lock, with nothing of its pull requests half done.

    Raises:
        `Refusal`: where the repository was deleted meanwhile.
    """
    with hub.writing(repository, user) as git:
        # Empty but for an operation that failed halfway in this process, by a full disk for example.
        for intent in intents.pending(hub.records):
            if intent.repository == repository.id and intent.kind in (OPEN, MERGE):
                intents.FINISH[intent.kind](hub, intent)
        yield git


def open_pull_request(
    hub: "LocalHub",
    repository: "Repository",
    user: User,
    title: str,
    description: str,
    base: str,
    head: str,
    draft: bool,
) -> tuple[int, str]:
    """Open a pull request: record and `refs/pr/N`, all or nothing; the caller holds the repository's lock.

    Args:
        title, description (`str`): those of a commit, too; control characters in the title become blanks, and both
            are cut at the Hub's bounds.
        base (`str`): full name of the branch it is to be merged into, `refs/heads/main`.
        head (`str`): the commit that refs/pr/N is to point to (the commit of create_pr=1, or base's own for a draft).
        draft (`bool`): whether it is a draft (opened empty) or open (came with its commit).

    Returns:
        `tuple`: its number and its reference, `refs/pr/N`.

    Raises:
        `Refusal`: 404 where there is no such branch.
    """
    title = _CONTROL.sub(" ", title).strip()[:MAX_DISCUSSION_TITLE] or "Pull request"
    with locked(hub, repository, user) as git:
        tip = git.reference(base)
        if tip is None:
            raise revision_not_found(base)
        base_oid = git.merge_base(tip, head) or tip
        num = free_number(hub, repository)
        ref = f"refs/pr/{num}"
        intent = intents.begin(hub.records, OPEN, repository.id, {"num": num, "head": head})
        try:
            git.swap(ref, None, head)
            with hub.records.transaction() as connection:
                discussion = discussion_records.add(
                    connection,
                    repository.id,
                    num,
                    user.name,
                    title,
                    description[:MAX_TEXT],
                    "draft" if draft else "open",
                    base,
                    base_oid,
                )
                intents.done(connection, intent)
        except BaseException:
            with suppress(Exception):
                _undo_opening(hub, intents.Intent(intent, OPEN, repository.id, {"num": num, "head": head}))
            raise
    hub.emit(
        {
            "action": "create",
            "scope": "discussion",
            "repository": repository,
            "user": user,
            "discussion": discussion,
            "comment": discussion_records.events(hub.records.connection(), repository.id, num)[0],
        }
    )
    _tell_moved(hub, repository, user, ref, None, head)
    return num, ref


def free_number(hub: "LocalHub", repository: "Repository") -> int:
    """The number of the next discussion; the caller holds the repository's lock.

    Raises:
        `Refusal`: 403 where the repository has as many as may be.
    """
    num = discussion_records.next_number(hub.records.connection(), repository.id)
    if num > MAX_DISCUSSIONS:
        raise Refusal(403, f"This repository has {MAX_DISCUSSIONS} discussions, which is as many as may be")
    return num


@intents.finishes(OPEN)
def _undo_opening(hub: "LocalHub", intent: intents.Intent) -> None:
    """A pull request without its record was never answered for: take its reference away."""
    with hub.records.transaction() as connection:
        repository, num = hub.get(intent.repository), intent.payload["num"]
        if repository is not None and discussion_records.find(connection, repository.id, num) is None:
            git = hub.git(repository)
            if git.reference(f"refs/pr/{num}") == intent.payload["head"]:
                git.swap(f"refs/pr/{num}", intent.payload["head"], None)
        intents.done(connection, intent.id)


def check_push(hub: "LocalHub", repository: "Repository", user: User | None, number: int) -> None:
    """Refuse unless `user` may commit to a pull request: its author and those who may write to the repository.

    Raises:
        `Refusal`: 404 RevisionNotFound where there is none, 401 or 403 for who may not, 403 for a merged or closed one.
    """
    discussion = discussion_records.find(hub.records.connection(), repository.id, number)
    if discussion is None or not discussion.is_pull_request:
        raise revision_not_found(f"refs/pr/{number}")
    require_hand(repository, discussion, user)
    if discussion.status not in ("draft", "open"):
        raise Refusal(403, f"Pull request {number} is {discussion.status}: nothing can be committed to it")


def require_hand(repository: "Repository", discussion: Discussion, user: User | None) -> User:
    """The user, where he may change a discussion: its author, and those who may write to the repository.

    Raises:
        `Refusal`: 401 or 403.
    """
    may = user is not None and user.role == "write"
    if user is None or not may or (user.name != discussion.author and not may_write(user, repository.namespace)):
        raise no_write(user)
    return user


def merge(hub: "LocalHub", repository: "Repository", user: User, num: int, comment: str) -> Event:
    """Merge an open pull request into its base branch: three-way, as one commit "title (#num)".

    The commit's author is the one who merges; the authors of the pull request's commits are its co-authors.

    Returns:
        `Event`: the change of the status.

    Raises:
        `Refusal`: 404 for none of that number, 400 for one that is not open, 409 with the paths that conflict.
    """
    check(hub, repository, user, "write")
    with locked(hub, repository, user) as git:
        discussion = find(hub, repository, num)
        if discussion.base is None:
            raise Refusal(400, f"Discussion {num} is not a pull request")
        if discussion.status != "open":
            raise Refusal(400, f"Pull request {num} is {discussion.status}: only an open one can be merged")
        old, head = git.reference(discussion.base), git.reference(discussion.ref)
        if old is None or head is None:
            raise Refusal(400, f"Pull request {num}: {discussion.base if old is None else discussion.ref} is gone")
        tree, conflicts = git.merge(old, head, str(discussion.base_oid))
        if tree is None:
            shown = ", ".join(conflicts[:10]) + (", ..." if len(conflicts) > 10 else "")
            body: dict[str, object] = {"filesWithConflicts": conflicts}
            raise Refusal(409, f"Pull request {num} conflicts with {discussion.base} in: {shown}", body=body)
        authors = dict.fromkeys(commit.authors[0] for commit in _commits(git, discussion, head))
        others = [f"Co-authored-by: {name} <{address(name)}>" for name in authors if name != user.name]
        message = "\n".join([f"{discussion.title} (#{num})", *([""] if others else []), *others])
        new = git.commit(tree, [old], user.name, message)
        payload = {"num": num, "old": old, "new": new, "author": user.name, "comment": comment}
        intent = intents.begin(hub.records, MERGE, repository.id, payload)
        try:
            git.swap(discussion.base, old, new)
        except (Stale, ReferenceExists):
            with hub.records.transaction() as connection:
                intents.done(connection, intent)
            raise Refusal(409, f"{discussion.base} moved meanwhile; try again") from None
        _finish_merge(hub, intents.Intent(intent, MERGE, repository.id, payload))
        merged = find(hub, repository, num)
        event = discussion_records.events(hub.records.connection(), repository.id, num)[-1]
    hub.emit({"action": "update", "scope": "discussion", "repository": repository, "user": user, "discussion": merged})
    _tell_moved(hub, repository, user, discussion.base, old, new)
    return event


@intents.finishes(MERGE)
def _finish_merge(hub: "LocalHub", intent: intents.Intent) -> None:
    """Write the records of a merge whose commit is on the base branch; forget one whose commit never came there."""
    with hub.records.transaction() as connection:
        repository, payload = hub.get(intent.repository), intent.payload
        discussion = discussion_records.find(connection, intent.repository, payload["num"])
        if repository is not None and discussion is not None and discussion.base and discussion.status != "merged":
            git = hub.git(repository)
            tip = git.reference(discussion.base)
            if tip is not None and git.is_ancestor(payload["new"], tip):
                discussion_records.set_merged(
                    connection, discussion, payload["author"], payload["new"], payload["comment"]
                )
        intents.done(connection, intent.id)


def find(hub: "LocalHub", repository: "Repository", num: int) -> Discussion:
    """A discussion by its number.

    Raises:
        `Refusal`: 404.
    """
    discussion = discussion_records.find(hub.records.connection(), repository.id, num)
    if discussion is None:
        raise Refusal(404, f"Discussion {num} not found")
    return discussion


def changes(git: GitStore, discussion: Discussion, tip: str | None, head: str | None, diff: bool) -> dict[str, Any]:
    """What a pull request changes, as row 24 gives it: `changes`, `filesWithConflicts`, and `diff` where asked for.

    Args:
        tip, head (`str`, *optional*): the commits of its base branch and of its own reference, where they are there.
    """
    base: dict[str, Any] = {"base": discussion.base}
    if discussion.merge_commit:
        base["mergeCommitId"] = discussion.merge_commit
        old, new = git.read_commit(discussion.merge_commit).parents[0], discussion.merge_commit
    else:
        old = (tip and head and git.merge_base(tip, head)) or str(discussion.base_oid)
        new = head or old
    conflicts: list[str] = []
    if head and tip and discussion.status in ("draft", "open"):
        conflicts = git.merge(tip, head, str(discussion.base_oid))[1]
    found: dict[str, Any] = {"changes": base, "filesWithConflicts": conflicts}
    if diff:
        text = git.diff(old, new, MAX_DIFF + 1)
        left_out = f"\n(left out: what comes after the first {MAX_DIFF} characters of this diff)\n"
        found["diff"] = text if len(text) <= MAX_DIFF else text[:MAX_DIFF] + left_out
    return found


def commit_events(git: GitStore, discussion: Discussion, head: str) -> list[dict[str, Any]]:
    """The newest commits of a pull request as events, oldest first. They are read from its reference: what is there is
    what happened."""
    return [
        {
            "id": commit.oid[:24],
            "type": "commit",
            "createdAt": f"{commit.created:%Y-%m-%dT%H:%M:%S}.000Z",
            "author": {"name": commit.authors[0]},
            "data": {"subject": commit.title, "oid": commit.oid},
        }
        for commit in reversed(_commits(git, discussion, head))
    ]


def _commits(git: GitStore, discussion: Discussion, head: str) -> list[Commit]:
    commits: list[Commit] = []
    for commit in git.log(head, limit=MAX_PULL_REQUEST_COMMITS):
        if commit.oid == discussion.base_oid:
            break
        commits.append(commit)
    return commits


def _tell_moved(
    hub: "LocalHub", repository: "Repository", user: User, ref: str, old: str | None, new: str | None
) -> None:
    updated = [{"ref": ref, "oldSha": old, "newSha": new}]
    event = {"action": "update", "scope": "repo.content", "repository": repository, "user": user}
    hub.emit({**event, "updatedRefs": updated})
