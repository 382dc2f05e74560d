"""Clone and fetch by git itself: requests of its smart HTTP protocol, handed to `git http-backend`.

Access is decided here as for every other file content; nothing can be pushed, because a push would go past the checks
that a commit by the API gets. LFS objects come by the LFS batch request (`lfs.py`), with the same Basic credentials.
"""

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from starlette.responses import Response, StreamingResponse

from hub.local.access import find_repository
from hub.local.call import Call
from hub.local.errors import Refusal
from hub.local.routing import page_endpoints

# Bytes of a fetch request: "want" and "have" lines of 50 bytes each. Git's own bound is 10 MiB.
MAX_REQUEST = 10 << 20
_PIECE = 1 << 16
_NO_PUSH = "This Hub takes no git push: commit by its API (hf upload, create_commit, coprov2 push)"


def info_refs(call: Call) -> Response:
    """GET info/refs?service=git-upload-pack: which references there are."""
    service = call.first("service")
    if service == "git-receive-pack":
        _allowed(call)
        raise Refusal(403, _NO_PUSH)
    if service != "git-upload-pack":
        raise Refusal(400, "Only git's smart protocol is served: a git of 1.6.6 or later")
    return _backend(call, "info/refs", "service=git-upload-pack")


def upload_pack(call: Call) -> Response:
    """POST git-upload-pack: the objects that a clone or fetch asks for."""
    return _backend(call, "git-upload-pack", "")


def receive_pack(call: Call) -> Response:
    """POST git-receive-pack: refused."""
    _allowed(call)
    raise Refusal(403, _NO_PUSH)


def _allowed(call: Call) -> Path:
    """The repository's folder, if the caller may read its content."""
    repository = find_repository(call, "content")
    return call.hub.git_path(repository)


def _backend(call: Call, path: str, query: str) -> Response:
    folder = _allowed(call)
    git = shutil.which("git")
    if git is None:
        raise Refusal(501, "This Hub's machine has no git, so nothing can be cloned from it; use the API")
    body = call.body(MAX_REQUEST) if call.method == "POST" else b""
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_HTTP_EXPORT_ALL": "1",
        "GIT_PROJECT_ROOT": str(folder.parent),
        "PATH_INFO": f"/{folder.name}/{path}",
        "REQUEST_METHOD": call.method,
        "QUERY_STRING": query,
        "CONTENT_TYPE": "application/x-git-upload-pack-request" if call.method == "POST" else "",
        "CONTENT_LENGTH": str(len(body)),
        # The server may run as another user than the one who owns the folder; what is in it was written by the server.
        "GIT_CONFIG_COUNT": "2",
        "GIT_CONFIG_KEY_0": "safe.directory",
        "GIT_CONFIG_VALUE_0": "*",
        "GIT_CONFIG_KEY_1": "uploadpack.allowFilter",
        "GIT_CONFIG_VALUE_1": "true",
    }
    if call.headers.get("content-encoding") == "gzip":
        environment["HTTP_CONTENT_ENCODING"] = "gzip"
    if call.headers.get("git-protocol") == "version=2":
        environment["GIT_PROTOCOL"] = "version=2"
    process = subprocess.Popen(
        [git, "http-backend"],
        env=environment,
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdin is not None and process.stdout is not None
    # Written beside the reading: upload-pack answers before it has read everything.
    threading.Thread(target=_feed, args=(process.stdin, body), daemon=True).start()
    try:
        status, headers = _read_headers(process.stdout)
    except Refusal:
        process.kill()
        process.wait()
        raise
    return StreamingResponse(_pieces(process), status, headers)


def _feed(pipe: IO[bytes], body: bytes) -> None:
    # A git that has ended early says so in its answer.
    try:
        with pipe:
            pipe.write(body)
    except BrokenPipeError:
        pass


def _read_headers(pipe: IO[bytes]) -> tuple[int, dict[str, str]]:
    status, headers = 200, {}
    while line := pipe.readline(_PIECE).strip():
        name, _, value = line.decode("latin1").partition(":")
        if name.lower() == "status":
            status = int(value.split()[0])
        elif name.lower() in ("content-type", "cache-control", "expires", "pragma"):
            headers[name] = value.strip()
    if "Content-Type" not in headers and status == 200:
        raise Refusal(500, "git http-backend gave no answer")
    return status, headers


def _pieces(process: "subprocess.Popen[bytes]") -> Iterator[bytes]:
    assert process.stdout is not None
    try:
        while piece := process.stdout.read1(_PIECE):  # type: ignore[attr-defined]
            yield piece
    finally:
        # Also when the client has gone away.
        process.kill()
        process.stdout.close()
        process.wait()


ENDPOINTS = [
    endpoint
    for suffix in (".git", "")
    for method, tail, handler in (
        ("GET", "info/refs", info_refs),
        ("POST", "git-upload-pack", upload_pack),
        ("POST", "git-receive-pack", receive_pack),
    )
    for endpoint in page_endpoints(method, f"{suffix}/{tail}", handler)
]
