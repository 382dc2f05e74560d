"""The hub: its folder, users, records, store and locks, and those who listen to what happens in it."""

import fcntl
import os
import secrets
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hub.local import intents
from hub.local.access import ACCESS_REQUESTS
from hub.local.discussion_records import DISCUSSIONS
from hub.local.errors import LocalHubError, repository_not_found
from hub.local.git_store import GitStore
from hub.local.lfs_store import LFSStore
from hub.local.names import PREFIX
from hub.local.records import Records, timestamp
from hub.local.signing import Signer
from hub.local.users import User, Users, make_users
from hub.local.xet_store import XetStore

REPOSITORIES = """CREATE TABLE IF NOT EXISTS repositories (
    id TEXT PRIMARY KEY, type TEXT NOT NULL, namespace TEXT NOT NULL COLLATE NOCASE, name TEXT NOT NULL COLLATE NOCASE,
    private INTEGER NOT NULL, gated TEXT NOT NULL, creator TEXT NOT NULL, created TEXT NOT NULL,
    UNIQUE (type, namespace, name));
CREATE TABLE IF NOT EXISTS old_names (
    type TEXT NOT NULL, namespace TEXT NOT NULL COLLATE NOCASE, name TEXT NOT NULL COLLATE NOCASE,
    repository TEXT NOT NULL REFERENCES repositories(id) ON DELETE CASCADE, PRIMARY KEY (type, namespace, name))"""

Event = dict[str, Any]


@dataclass(frozen=True)
class Repository:
    """A repository's record.

    Args:
        id (`str`): 24 hexadecimal digits; its folder's name, which stays when the repository moves.
        type (`str`): model, dataset or space.
        namespace, name (`str`): as its maker wrote them.
        private (`bool`): whether only those who belong to the namespace know of it.
        gated (`str`): "" (open), "auto" or "manual".
        creator (`str`): the user who made it.
        created (`str`): `2026-01-31T12:00:00.000Z`.
    """

    id: str
    type: str
    namespace: str
    name: str
    private: bool
    gated: str
    creator: str
    created: str

    @property
    def full_name(self) -> str:
        """namespace/name."""
        return f"{self.namespace}/{self.name}"

    @property
    def page(self) -> str:
        """The path of its page, without a leading slash: `datasets/namespace/name`."""
        return PREFIX[self.type] + self.full_name


class LocalHub:
    """A hub at `root`, made where there is none.

    One process at a time: the file `lock` is held (flock) as long as the object lives.

    Args:
        root (`Path`): the folder.
        origin (`str`, *optional*): what URLs that the hub gives out begin with, as `http://127.0.0.1:8080`.
        cdn_origin (`str`, *optional*): the origin that files of the LFS store are given from, by redirect; without it
            they are given directly.
        open_readme (`bool`, *optional*, defaults to `False`): whether gating leaves README.md readable.

    Raises:
        `LocalHubError`: where another process serves the folder, or `users.yaml` is not as it should be.
    """

    def __init__(
        self, root: Path, origin: str = "http://127.0.0.1", cdn_origin: str | None = None, open_readme: bool = False
    ) -> None:
        self.root = root
        self.origin = origin
        self.cdn_origin = cdn_origin
        self.open_readme = open_readme
        self.listeners: list[Callable[[Event], None]] = []
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock_file = (root / "lock").open("a")
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock_file.close()
            raise LocalHubError(f"{root}: another process serves this folder") from None
        self.first_token = None if (root / "users.yaml").exists() else make_users(root / "users.yaml")
        self.users = Users(root / "users.yaml")
        self.records = Records(root / "hub.sqlite")
        self.records.create(REPOSITORIES)
        self.records.create(intents.TABLE)
        self.records.create(ACCESS_REQUESTS)
        self.records.create(DISCUSSIONS)
        self.lfs = LFSStore(root, self.records)
        self.xet = XetStore(root / "xet", self.records, self.lfs)
        self.signer = Signer(self.records.setting("signing_key", secrets.token_bytes(32)))
        self._locks: dict[str, threading.RLock] = {}
        self._locks_lock = threading.Lock()

    def close(self) -> None:
        """Let the folder go; another hub may open it, or copy it, at once."""
        self.records.close()
        self._lock_file.close()

    # Repositories.

    def find(self, kind: str, namespace: str, name: str) -> Repository | None:
        """A repository's record by its name, or by one it had before it was moved, whoever asks."""
        sql = "SELECT * FROM repositories WHERE type = ?1 AND namespace = ?2 AND name = ?3"
        row = self.records.one(sql, kind, namespace, name)
        if row is None:
            old = "SELECT repository FROM old_names WHERE type = ?1 AND namespace = ?2 AND name = ?3"
            row = self.records.one(f"SELECT * FROM repositories WHERE id = ({old})", kind, namespace, name)
        return _record(row) if row else None

    def get(self, repository_id: str) -> Repository | None:
        """A repository's record by its id."""
        row = self.records.one("SELECT * FROM repositories WHERE id = ?", repository_id)
        return _record(row) if row else None

    def list_repositories(self, kind: str) -> list[Repository]:
        """All records of a type, newest first."""
        rows = self.records.all("SELECT * FROM repositories WHERE type = ? ORDER BY created DESC, id", kind)
        return [_record(row) for row in rows]

    def git_path(self, repository: Repository) -> Path:
        """The folder of a repository's git objects."""
        return self.root / "repos" / repository.type / f"{repository.id}.git"

    def git(self, repository: Repository) -> GitStore:
        """A repository's git objects; cheap, and for one thread only."""
        return GitStore(self.git_path(repository))

    def add(
        self, kind: str, namespace: str, name: str, private: bool, user: User, files: dict[str, bytes]
    ) -> Repository:
        """Make a repository whose main holds `files`. The record is the switch: without it the folder is nothing.

        Raises:
            `FileExistsError`: where there is one of that name, in any case of letters.
        """
        record = Repository(secrets.token_hex(12), kind, namespace, name, private, "", user.name, timestamp())
        path = self.git_path(record)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = self.lfs.temporary()
        GitStore.make(part, files, user.name, "initial commit")
        os.replace(part, path)
        try:
            with self.records.transaction() as connection:
                self._take_name(kind, namespace, name)
                values = (record.id, kind, namespace, name, int(private), "", user.name, record.created)
                connection.execute(f"INSERT INTO repositories VALUES ({','.join('?' * len(values))})", values)
        except BaseException:
            shutil.rmtree(path, ignore_errors=True)
            raise
        return record

    def _take_name(self, kind: str, namespace: str, name: str) -> None:
        """Make a name free for a new repository; an old name leads to its repository until another takes it."""
        values = (kind, namespace, name)
        sql = "SELECT 1 FROM repositories WHERE type = ? AND namespace = ? AND name = ?"
        if self.records.one(sql, *values):
            raise FileExistsError(f"{namespace}/{name}")
        with self.records.transaction() as connection:
            connection.execute("DELETE FROM old_names WHERE type = ? AND namespace = ? AND name = ?", values)

    def move(self, repository: Repository, namespace: str, name: str) -> None:
        """Give a repository another name; the old one still leads to it.

        Raises:
            `FileExistsError`: where there is a repository of that name.
        """
        with self.lock(repository), self.records.transaction() as connection:
            self._take_name(repository.type, namespace, name)
            sql = "UPDATE repositories SET namespace = ?, name = ? WHERE id = ?"
            connection.execute(sql, (namespace, name, repository.id))
            old = (repository.type, repository.namespace, repository.name, repository.id)
            connection.execute("INSERT OR REPLACE INTO old_names VALUES (?, ?, ?, ?)", old)

    def change(self, repository: Repository, private: bool | None = None, gated: str | None = None) -> None:
        """Change who may see and read a repository; None leaves what is there, whatever the caller read before."""
        with self.records.transaction() as connection:
            sql = "UPDATE repositories SET private = coalesce(?, private), gated = coalesce(?, gated) WHERE id = ?"
            connection.execute(sql, (private, gated, repository.id))

    def remove(self, repository: Repository) -> None:
        """Delete a repository: its record first, then its folder."""
        with self.lock(repository):
            with self.records.transaction() as connection:
                connection.execute("DELETE FROM repositories WHERE id = ?", (repository.id,))
            shutil.rmtree(self.git_path(repository), ignore_errors=True)

    # Locks and events.

    def lock(self, repository: Repository) -> threading.RLock:
        """The repository's lock, held from reading a reference to swapping it."""
        with self._locks_lock:
            return self._locks.setdefault(repository.id, threading.RLock())

    @contextmanager
    def writing(self, repository: Repository, user: User | None) -> Iterator[GitStore]:
        """Hold the repository's lock and give its git objects.

        Raises:
            `Refusal`: where it was deleted meanwhile.
        """
        with self.lock(repository):
            if self.get(repository.id) is None:
                raise repository_not_found(user)
            yield self.git(repository)

    def emit(self, event: Event) -> None:
        """Tell the listeners what has happened, after it has.

        An event holds `action` and `scope` as in the Hub's webhooks, `repository` ([`Repository`]), `user` ([`User`]),
        and what the scope needs (`updatedRefs`: list of `{ref, oldSha, newSha}`; `discussion`; `comment`). A listener
        must return at once; its errors are printed and change nothing."""
        for listener in self.listeners:
            try:
                listener(event)
            except Exception as error:
                print(f"hub: a listener failed: {type(error).__name__}", file=sys.stderr)


def _record(row: Any) -> Repository:
    values = dict(row)
    return Repository(**{**values, "private": bool(values["private"])})
