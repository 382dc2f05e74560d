"""Who may do what: the one place that decides, and gives the Hub's error table exactly.

| right | means |
|---|---|
| read | know of the repository: info, tree, references, discussions |
| content | read files: resolve, raw, LFS, git, preupload; what gating restricts |
| write | commit, branch, tag, merge, decide on access requests |
| admin | settings, move, delete |

A repository that the caller may not know of and one that is not there give the same answer after the same work."""

from typing import TYPE_CHECKING, Literal

from hub.local.errors import gated, no_write, repository_not_found
from hub.local.names import is_name
from hub.local.users import User, belongs, may_write

if TYPE_CHECKING:
    from hub.local.hub import LocalHub, Repository
    from hub.local.routing import Call

Right = Literal["read", "content", "write", "admin"]

# gating.py writes it; it stands here because every request for content reads it.
ACCESS_REQUESTS = """CREATE TABLE IF NOT EXISTS access_requests (
    id TEXT PRIMARY KEY, repository TEXT NOT NULL REFERENCES repositories(id) ON DELETE CASCADE,
    user TEXT NOT NULL COLLATE NOCASE, status TEXT NOT NULL CHECK (status IN ('pending', 'accepted', 'rejected')),
    created TEXT NOT NULL, fields TEXT NOT NULL, granted INTEGER NOT NULL DEFAULT 0, reason TEXT,
    UNIQUE (repository, user))"""


def find_repository(call: "Call", right: Right) -> "Repository":
    """The repository that a request's path names, if the caller has the right.

    Raises:
        `Refusal`: as the Hub's error table says.
    """
    kind, namespace, name = call.params["type"], call.params["namespace"], call.params["name"]
    found = call.hub.find(kind, namespace, name) if is_name(namespace) and is_name(name) else None
    if found is None or not may_know(found, call.user):
        raise repository_not_found(call.user)
    check(call.hub, found, call.user, right)
    return found


def check(hub: "LocalHub", repository: "Repository", user: User | None, right: Right) -> None:
    """Refuse unless `user` (None: anonymous) has the right to the repository.

    Raises:
        `Refusal`: as the Hub's error table says.
    """
    if not may_know(repository, user):
        raise repository_not_found(user)
    if right == "content" and not may_read_content(hub, repository, user):
        raise gated(user, repository.full_name)
    if right in ("write", "admin") and not (user and may_write(user, repository.namespace)):
        raise no_write(user)


def may_know(repository: "Repository", user: User | None) -> bool:
    """Whether `user` may know of the repository at all."""
    return not repository.private or (user is not None and belongs(user, repository.namespace))


def may_read_content(hub: "LocalHub", repository: "Repository", user: User | None) -> bool:
    """Whether gating and privacy let `user` read the repository's files."""
    if user and belongs(user, repository.namespace):
        return True
    if repository.private:
        return False
    if not repository.gated:
        return True
    sql = "SELECT 1 FROM access_requests WHERE repository = ? AND user = ? AND status = 'accepted'"
    return user is not None and hub.records.one(sql, repository.id, user.name) is not None


def may_read_object(hub: "LocalHub", oid: str, user: User | None) -> bool:
    """Whether `user` may read an LFS object through any repository that holds it."""
    found = (hub.get(holder) for holder in hub.lfs.holders(oid))
    return any(repository and may_read_content(hub, repository, user) for repository in found)
