"""A hub in this process that ends at its n-th write: before a file, a statement of SQL or an object of git is written.

`Crash` counts what would change the disk: audit events of Python (files opened for writing, renames, removals,
folders), statements that write as SQLite begins them, and the functions of `GitStore` through which pygit2 writes,
before and after. At the n-th one the process ends by `os._exit`, as SIGKILL would end it. `snapshot` is what clients
can see.
"""

import asyncio
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hub.local import server, webhooks
from hub.local.deliveries import Deliveries
from hub.local.git_store import GitStore
from hub.local.hub import LocalHub
from hub.local.records import Records
from hub.local.recovery import recover

CRASHED = 77
_FILE_EVENTS = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate"}
_SQL = ("INSERT", "UPDATE", "DELETE", "BEGIN", "COMMIT", "CREATE")


class Crash:
    """Ends the process at the write of number `at` (from 1); `seen` names those that were passed."""

    def __init__(self, root: Path, at: int) -> None:
        self.at, self.seen, self.on = at, list[str](), False
        place = str(root)

        def audited(event: str, arguments: tuple[Any, ...]) -> None:
            if not self.on or not (event in _FILE_EVENTS or event == "open"):
                return
            if event == "open":
                path, _, flags = arguments
                if not isinstance(flags, int) or not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                    return
            else:
                path = arguments[0]
            # A name relative to an open folder is what removing a whole folder asks for.
            within = event in ("os.remove", "os.rmdir") and arguments[-1] != -1
            if within or (isinstance(path, str | os.PathLike) and os.fspath(path).startswith(place)):
                self.write(event)

        sys.addaudithook(audited)
        connection = Records.connection

        def traced(records: Records) -> Any:
            found = connection(records)
            found.set_trace_callback(lambda sql: self.write(sql[:6]) if sql.lstrip().startswith(_SQL) else None)
            return found

        Records.connection = traced  # type: ignore[method-assign]
        for name in ("swap", "annotate", "write_blob", "edit", "commit"):
            setattr(GitStore, name, self._around(name, getattr(GitStore, name)))

    def _around(self, name: str, function: Any) -> Any:
        def around(*arguments: Any, **options: Any) -> Any:
            self.write(f"before {name}")
            found = function(*arguments, **options)
            self.write(f"after {name}")
            return found

        return around

    def write(self, name: str) -> None:
        """Count one."""
        if self.on:
            self.seen.append(name)
            if len(self.seen) == self.at:
                os._exit(CRASHED)


class Client:
    """Requests to a hub without a network."""

    def __init__(self, root: Path) -> None:
        self.hub = LocalHub(root)
        webhooks.attach(self.hub, Deliveries())
        recover(self.hub)

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        token: str | None = "hf_alice_write",
        headers: dict[str, str] | None = None,
    ) -> tuple[int, Any]:
        """Status and JSON of an answer."""
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        parts = urlsplit(path)
        sent = {"content-length": str(len(data)), **(headers or {})} | (
            {"authorization": f"Bearer {token}"} if token else {}
        )
        scope = {
            "type": "http",
            "method": method,
            "path": parts.path,
            "raw_path": parts.path.encode(),
            "query_string": parts.query.encode(),
            "headers": [(key.encode(), value.encode()) for key, value in sent.items()],
            "server": ("127.0.0.1", 80),
        }
        incoming = [{"type": "http.request", "body": data, "more_body": False}]
        outgoing: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return incoming.pop(0) if incoming else {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            outgoing.append(message)

        asyncio.run(server.Application(self.hub)(scope, receive, send))
        raw = b"".join(message.get("body", b"") for message in outgoing[1:])
        return outgoing[0]["status"], json.loads(raw) if raw else None

    def done(self, method: str, path: str, body: Any = None, **options: Any) -> Any:
        """The JSON of an answer that must be a success."""
        status, said = self.ask(method, path, body, **options)
        assert status == 200, (method, path, status, said)
        return said

    def commit(
        self, revision: str, *lines: tuple[str, dict[str, Any]], title: str = "a commit", query: str = ""
    ) -> Any:
        """Commit by the API."""
        whole = [("header", {"summary": title, "description": ""}), *lines]
        body = b"\n".join(json.dumps({"key": key, "value": value}).encode() for key, value in whole)
        return self.done("POST", f"/api/datasets/alice/data/commit/{revision}{query}", body)

    def upload(self, data: bytes, name: str = "data") -> str:
        """Puts an LFS object; its sha256."""
        oid = hashlib.sha256(data).hexdigest()
        asked = {"operation": "upload", "objects": [{"oid": oid, "size": len(data)}]}
        found = self.done("POST", f"/datasets/alice/{name}.git/info/lfs/objects/batch", asked)["objects"][0]
        if "actions" in found:
            href = urlsplit(found["actions"]["upload"]["href"])
            self.done("PUT", f"{href.path}?{href.query}", data, token=None)
        return oid


def whole(hub: LocalHub) -> None:
    """Asserts that nothing is half there: folders, references, LFS objects, pull requests."""
    for path in (hub.root / "lfs").glob("??/??/*"):
        with path.open("rb") as file:
            assert hashlib.file_digest(file, "sha256").hexdigest() == path.name
    assert list((hub.root / "tmp").iterdir()) == []
    assert hub.records.all("SELECT * FROM intents") == []
    assert not list((hub.root / "repos").glob("**/*.lock"))
    records = [repository for kind in ("model", "dataset", "space") for repository in hub.list_repositories(kind)]
    folders = {path.name for path in (hub.root / "repos").glob("*/*.git")}
    assert folders == {f"{repository.id}.git" for repository in records}
    for repository in records:
        path, git = hub.git_path(repository), hub.git(repository)
        checked = subprocess.run(["git", "fsck", "--strict"], cwd=path, capture_output=True, text=True, timeout=60)
        assert checked.returncode == 0, checked.stderr
        references = git.references("refs/")
        for commit in set(references.values()):
            for entry in git.entries(commit, recursive=True):
                pointer = None if entry.folder else git.blob(entry.oid).pointer
                if pointer:
                    assert hub.lfs.has(pointer.oid, pointer.size)
                    assert hub.lfs.claimed(repository.id, [pointer.oid])
        sql = "SELECT num, status, title, base, merge_commit FROM discussions WHERE repository = ? AND is_pull_request"
        requests = hub.records.all(sql, repository.id)
        assert {f"refs/pr/{row['num']}" for row in requests} == {
            name for name in references if name.startswith("refs/pr/")
        }
        for row in requests:
            merged = [c for c in git.log(references["refs/heads/main"]) if c.title == f"{row['title']} (#{row['num']})"]
            assert (row["status"] == "merged") == bool(row["merge_commit"]) == bool(merged)
            assert [commit.oid for commit in merged] == ([row["merge_commit"]] if merged else [])


def snapshot(hub: LocalHub) -> dict[str, Any]:
    """What clients can see, without what depends on the time: names, settings, references, discussions, requests."""
    seen: dict[str, Any] = {}
    for kind in ("model", "dataset", "space"):
        for repository in hub.list_repositories(kind):
            git = hub.git(repository)
            references = {
                name: [(c.title, git.tree(c.oid)) for c in git.log(commit)]
                for name, commit in git.references("refs/").items()
            }
            sql = (
                "SELECT num, title, author, status, is_pull_request FROM discussions WHERE repository = ? ORDER BY num"
            )
            events = "SELECT num, type, author FROM discussion_events WHERE repository = ? ORDER BY position"
            access = "SELECT user, status FROM access_requests WHERE repository = ? ORDER BY user"
            tables = [[list(row) for row in hub.records.all(query, repository.id)] for query in (sql, events, access)]
            seen[f"{kind} {repository.full_name}"] = [repository.private, repository.gated, references, *tables]
    seen["webhooks"] = [
        list(row) for row in hub.records.all("SELECT owner, url, disabled FROM webhooks ORDER BY rowid")
    ]
    return json.loads(json.dumps(seen))  # type: ignore[no-any-return]
