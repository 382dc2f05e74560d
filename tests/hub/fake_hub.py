"""A small Hub on loopback, in memory: just the endpoints that push and pull use, and faults on demand.

Written from HUB's protocol as the stock client speaks it; LFS for *.parquet and *.safetensors, everything else as git
blobs. Tests only."""

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LFS = (".parquet", ".safetensors", ".png")


@dataclass
class Commit:
    oid: str
    files: dict[str, bytes]
    parent: str | None
    title: str = ""


@dataclass
class Repository:
    private: bool
    gated: str | bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    head: str = ""
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], title: str = "") -> str:
        """Put a commit on top of main."""
        content = repr(
            (self.head, len(self.commits), sorted((n, hashlib.sha256(d).hexdigest()) for n, d in files.items()))
        )
        oid = hashlib.sha1(content.encode()).hexdigest()
        self.commits[oid] = Commit(oid, files, self.head or None, title)
        self.head = oid
        return oid

    def resolve(self, revision: str) -> Commit | None:
        """The commit of a branch, tag or oid."""
        oid = self.head if revision == "main" else self.tags.get(revision, revision)
        return self.commits.get(oid)


class FakeHub:
    """The server: `url`, the repositories by `(type, name)`, the requests it saw, and faults to answer with.

    `faults` holds (method, pattern of the path, status); each is used once. `before_commit` is called once, just before
    a commit is looked at: the moment for somebody else to be faster."""

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.store: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.faults: list[tuple[str, str, int]] = []
        self.before_commit: Any = None
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def seen(self, method: str, pattern: str) -> list[str]:
        """Paths of the requests of a method that match a pattern."""
        return [path for seen, path in self.requests if seen == method and re.search(pattern, path)]


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def _send(self, status: int, body: Any = b"", headers: dict[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _error(self, status: int, message: str, code: str = "") -> None:
        headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})}
        self._send(status, {"error": message}, headers)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            data = b""
            while size := int(self.rfile.readline().strip(), 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return data
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _handle(self) -> None:
        url = urlsplit(self.path)
        self.query = parse_qs(url.query)
        self.hub.requests.append((self.command, url.path))
        body = self._body()
        for fault in self.hub.faults:
            if fault[0] == self.command and re.search(fault[1], url.path):
                self.hub.faults.remove(fault)
                self._error(fault[2], "a fault that the test asked for")
                return
        parts = [unquote(part) for part in url.path.strip("/").split("/")]
        if parts[0] == "api":
            self._api(parts[1:], body)
        elif parts[0] == "lfs" and self.command == "PUT":
            assert hashlib.sha256(body).hexdigest() == parts[1]
            self.hub.store[parts[1]] = body
            self._send(200)
        elif "resolve" in parts:
            at = parts.index("resolve")
            kind = "dataset" if parts[0] == "datasets" else "model"
            self._resolve(kind, "/".join(parts[at - 2 : at]), parts[at + 1], "/".join(parts[at + 2 :]))
        elif url.path.endswith("/info/lfs/objects/batch"):
            self._lfs_batch(json.loads(body))
        else:
            self._error(404, f"no such endpoint: {url.path}")

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _handle

    def _api(self, parts: list[str], body: bytes) -> None:
        if parts == ["repos", "create"]:
            self._create(json.loads(body))
        elif parts == ["validate-yaml"]:
            self._send(200, {"errors": [], "warnings": []})
        elif len(parts) >= 3 and parts[0] in ("datasets", "models"):
            repository = self.hub.repositories.get((parts[0][:-1], f"{parts[1]}/{parts[2]}"))
            if repository is None:
                self._error(404, "Repository not found", "RepoNotFound")
            else:
                self._repository(repository, f"{parts[1]}/{parts[2]}", parts[3:], body)
        else:
            self._error(404, "no such endpoint")

    def _create(self, asked: dict[str, Any]) -> None:
        kind = asked.get("type") or "model"
        name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
        prefix = "datasets/" if kind == "dataset" else ""
        answer = {"url": f"{self.hub.url}/{prefix}{name}", "name": name, "id": name}
        if (kind, name) in self.hub.repositories:
            self._send(409, {"error": "You already created this repo", **answer})
            return
        repository = Repository(private=asked.get("visibility") == "private" or bool(asked.get("private")))
        repository.commit({".gitattributes": b"*.parquet filter=lfs\n"})
        self.hub.repositories[(kind, name)] = repository
        self._send(200, answer)

    def _repository(self, repository: Repository, name: str, parts: list[str], body: bytes) -> None:
        verb = parts[0] if parts else ""
        if verb in ("", "revision"):
            commit = repository.resolve(parts[1] if parts else "main")
            if commit is None:
                self._error(404, "Invalid rev id", "RevisionNotFound")
                return
            siblings = [{"rfilename": path} for path in sorted(commit.files)]
            state = {"private": repository.private, "gated": repository.gated, "disabled": False}
            extra = {"tags": [], "downloads": 0, "likes": 0, "siblings": siblings}
            self._send(
                200, {"_id": "0" * 24, "id": name, "author": name.split("/")[0], "sha": commit.oid, **state, **extra}
            )
        elif verb == "settings":
            repository.gated = json.loads(body).get("gated", repository.gated)
            self._send(200, {})
        elif verb == "refs":
            tags = [
                {"name": tag, "ref": f"refs/tags/{tag}", "targetCommit": oid} for tag, oid in repository.tags.items()
            ]
            main = {"name": "main", "ref": "refs/heads/main", "targetCommit": repository.head}
            self._send(200, {"branches": [main], "tags": tags, "converts": []})
        elif verb == "tag":
            self._tag(repository, parts[1], json.loads(body)["tag"])
        elif verb == "tree":
            self._tree(repository, parts[1])
        elif verb == "paths-info":
            self._paths_info(repository, parts[1], body)
        elif verb == "commits":
            self._commits(repository, parts[1])
        elif verb == "preupload":
            files = json.loads(body)["files"]
            mode = {True: "lfs", False: "regular"}
            plan = [
                {"path": f["path"], "uploadMode": mode[f["path"].endswith(LFS)], "shouldIgnore": False} for f in files
            ]
            self._send(200, {"files": plan})
        elif verb == "commit":
            self._commit(repository, name, body)
        else:
            self._error(404, f"no such endpoint: {verb}")

    def _tag(self, repository: Repository, revision: str, tag: str) -> None:
        commit = repository.resolve(revision)
        if commit is None:
            self._error(404, "Invalid rev id", "RevisionNotFound")
        elif tag in repository.tags:
            self._error(409, f"Tag reference exists already: {tag}")
        else:
            repository.tags[tag] = commit.oid
            self._send(200, {})

    def _entry(self, path: str, data: bytes) -> dict[str, Any]:
        entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data)}
        if path.endswith(LFS):
            sha256 = hashlib.sha256(data).hexdigest()
            entry["lfs"] = {"oid": sha256, "size": len(data), "pointerSize": 130}
            data = f"pointer to {sha256}".encode()
        return {**entry, "oid": blob_id(data)}

    def _tree(self, repository: Repository, revision: str) -> None:
        commit = repository.resolve(revision)
        if commit is None:
            self._error(404, "Invalid rev id", "RevisionNotFound")
            return
        files = [self._entry(path, data) for path, data in sorted(commit.files.items())]
        folders = sorted({path.rsplit("/", 1)[0] for path in commit.files if "/" in path})
        self._send(200, [{"type": "directory", "path": f, "oid": "0" * 40, "size": 0} for f in folders] + files)

    def _paths_info(self, repository: Repository, revision: str, body: bytes) -> None:
        commit = repository.resolve(revision)
        if commit is None:
            self._error(404, "Invalid rev id", "RevisionNotFound")
            return
        asked = json.loads(body) if body.startswith(b"{") else parse_qs(body.decode())
        found = []
        for path in asked["paths"]:
            if path in commit.files:
                entry, last = self._entry(path, commit.files[path]), commit
                while last.parent and repository.commits[last.parent].files.get(path) == commit.files[path]:
                    last = repository.commits[last.parent]
                date = "2026-01-01T00:00:00.000Z"
                found.append({**entry, "lastCommit": {"id": last.oid, "title": last.title, "date": date}})
        self._send(200, found)

    def _commits(self, repository: Repository, revision: str) -> None:
        listed, commit = [], repository.resolve(revision)
        while commit is not None:
            date = "2026-01-01T00:00:00.000Z"
            listed.append({"id": commit.oid, "title": commit.title, "message": "", "authors": [], "date": date})
            commit = repository.commits.get(commit.parent or "")
        self._send(200, listed)

    def _lfs_batch(self, asked: dict[str, Any]) -> None:
        objects = []
        for wanted in asked["objects"]:
            entry = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.hub.store:
                entry["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{wanted['oid']}", "header": {}}}
            objects.append(entry)
        self._send(200, {"transfer": "basic", "objects": objects}, {"Content-Type": "application/vnd.git-lfs+json"})

    def _commit(self, repository: Repository, name: str, body: bytes) -> None:
        hook, self.hub.before_commit = self.hub.before_commit, None
        if hook is not None:
            hook(repository)
        files, title = dict(repository.commits[repository.head].files), ""
        for line in body.splitlines():
            operation = json.loads(line)
            key, value = operation["key"], operation["value"]
            if key == "header" and value.get("parentCommit") not in (None, repository.head):
                self._error(412, "The branch was updated since you opened this page. Please refresh and try again.")
                return
            title = value["summary"] if key == "header" else title
            if key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.hub.store[value["oid"]]
            elif key == "deletedFile":
                del files[value["path"]]
        oid = repository.commit(files, title)
        self._send(
            200,
            {"success": True, "commitOid": oid, "commitUrl": f"{self.hub.url}/{name}/commit/{oid}", "hookOutput": ""},
        )

    def _resolve(self, kind: str, name: str, revision: str, path: str) -> None:
        repository = self.hub.repositories.get((kind, name))
        if repository is None:
            self._error(404, "Repository not found", "RepoNotFound")
            return
        commit = repository.resolve(revision)
        if commit is None or path not in commit.files:
            headers_code = "RevisionNotFound" if commit is None else "EntryNotFound"
            self._error(404, "not found", headers_code)
            return
        data = commit.files[path]
        etag = hashlib.sha256(data).hexdigest() if path.endswith(LFS) else blob_id(data)
        self._send(200, data, {"ETag": f'"{etag}"', "X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"})


def blob_id(data: bytes) -> str:
    """git's SHA-1 of a blob."""
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
