"""A hub without a port: requests go straight into the application, so that a test sees every byte of the answer."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio

from hub.local.hub import LocalHub, Repository
from hub.local.server import Application
from hub.local.users import write_users
from tests.hub.local.serving import ORGS, USERS

CDN_PORT = 9


@dataclass(frozen=True)
class Answer:
    """A response: headers by lower-case name."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def code(self) -> str | None:
        """The Hub's name for an error."""
        return self.headers.get("x-error-code")


class Site:
    """A hub in a folder, and requests to it."""

    def __init__(self, root: Path, cdn: bool = False) -> None:
        root.mkdir()
        write_users(root / "users.yaml", USERS, ORGS)
        self.hub = LocalHub(root, "http://hub.test", "http://cdn.test" if cdn else None)

    def ask(
        self,
        method: str,
        target: str,
        who: str | None = None,
        body: bytes | Any = b"",
        headers: dict[str, str] | None = None,
        read_only: bool = False,
        cdn: bool = False,
        chunks: list[bytes] | None = None,
    ) -> Answer:
        """One request.

        Args:
            target: raw path and query.
            who: the user whose token it brings; `read_only` takes the one that may only read.
            body: bytes, or a value that is sent as JSON.
            chunks: the body in pieces, in place of `body`, without a length.
        """
        sent = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = {
            "host": "hub.test",
            **({"content-length": str(len(sent))} if chunks is None else {}),
            **(headers or {}),
        }
        if who:
            lines["authorization"] = f"Bearer hf_{who}_{'read_only' if read_only else 'token'}"
        path, _, query = target.partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode("latin-1"),
            "query_string": query.encode("latin-1"),
            "headers": [(name.encode(), value.encode()) for name, value in lines.items()],
            "server": ("hub.test", CDN_PORT if cdn else 80),
            "client": ("127.0.0.1", 1),
        }
        return anyio.run(self._run, scope, chunks if chunks is not None else [sent])

    async def _run(self, scope: dict[str, Any], chunks: list[bytes]) -> Answer:
        waiting = list(chunks)
        got: dict[str, Any] = {"status": 0, "headers": {}, "body": b""}

        async def receive() -> dict[str, Any]:
            if waiting:
                chunk = waiting.pop(0)
                return {"type": "http.request", "body": chunk, "more_body": bool(waiting)}
            await anyio.sleep_forever()
            raise AssertionError

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                got["status"] = message["status"]
                got["headers"] = {name.decode().lower(): value.decode("latin-1") for name, value in message["headers"]}
            else:
                got["body"] += message.get("body", b"")

        # uvicorn gives what ASGI's server would; the application is made anew because each request has its own loop.
        await Application(self.hub, CDN_PORT)(scope, receive, send)
        return Answer(got["status"], got["headers"], got["body"])

    def make(self, name: str = "team/data", private: bool = False, gated: str = "") -> Repository:
        """A dataset repository."""
        namespace, name = name.split("/")
        owner = self.hub.users.get("owner")
        assert owner is not None
        repository = self.hub.add("dataset", namespace, name, private, owner, {".gitattributes": b"*.bin filter=lfs\n"})
        self.hub.change(repository, private, gated)
        found = self.hub.get(repository.id)
        assert found is not None
        return found

    def commit(self, operations: list[tuple[str, Any]], who: str = "owner", **options: Any) -> Answer:
        """A commit to a branch (`at`, main unless given) of team/data (`name`); `header` adds to the header."""
        header = {"summary": "a change", "description": "", **options.get("header", {})}
        lines = [{"key": "header", "value": header}, *({"key": key, "value": value} for key, value in operations)]
        body = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
        name, at = options.get("name", "team/data"), options.get("at", "main")
        target = f"/api/datasets/{name}/commit/{at}{options.get('query', '')}"
        return self.ask("POST", target, who, body, read_only=options.get("read_only", False))

    def upload(self, data: bytes, who: str = "owner", name: str = "team/data") -> str:
        """Upload an LFS object to a repository; its oid."""
        import hashlib

        oid = hashlib.sha256(data).hexdigest()
        asked = {"operation": "upload", "objects": [{"oid": oid, "size": len(data)}]}
        batch = self.ask("POST", f"/datasets/{name}.git/info/lfs/objects/batch", who, asked)
        actions = batch.json["objects"][0].get("actions")
        if actions:
            href = actions["upload"]["href"].removeprefix("http://hub.test")
            assert self.ask("PUT", href, body=data).status == 200
        return oid

    def tree(self, at: str = "main", name: str = "team/data") -> dict[str, Any]:
        """The files of a revision by path, as the tree's endpoint writes them."""
        answer = self.ask("GET", f"/api/datasets/{name}/tree/{at}?recursive=true", "owner")
        return {entry["path"]: entry for entry in answer.json if entry["type"] == "file"}

    def head(self, at: str = "main", name: str = "team/data") -> str:
        """The commit that a revision names."""
        return str(self.ask("GET", f"/api/datasets/{name}/revision/{at}", "owner").json["sha"])


def text_file(path: str, text: str) -> tuple[str, dict[str, str]]:
    """The operation that adds a file outside LFS."""
    return "file", {"path": path, "content": text, "encoding": "utf-8"}
