"""Faults on order and a log of requests, for tests of clients; only a server started with the options has them.

`faults` is a JSON file with a list; a change of the file is seen by the next request, and counting starts anew:

    [{"method": "POST", "path": "/commit/", "status": 503, "times": 1},
     {"method": "GET", "path": "\\.parquet$", "truncate": 1000, "times": 2}]

`path` is a regular expression that is searched in the raw path (no query). A fault with `status` answers instead of the
server; one with `truncate` breaks the connection off after so many bytes of the true answer's body. `requests` is a
JSONL file with one line a request: method, path, status and Range.
"""

import json
import os
import re
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hub.local.errors import LocalHubError

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]


@dataclass
class Fault:
    """What goes wrong.

    Args:
        path (`str`): regular expression for the raw path.
        method (`str`, *optional*): HTTP method; any where it is left out.
        status (`int`, *optional*): 400 to 599, the answer.
        truncate (`int`, *optional*): bytes of the body after which the connection breaks off, 0 or more.
        times (`int`, *optional*, defaults to `1`): how many requests it meets; it counts down.
    """

    path: str
    method: str | None = None
    status: int | None = None
    truncate: int | None = None
    times: int = 1


class _BrokenOff(Exception):
    pass


def read_faults(path: Path) -> list[Fault]:
    """Reads a list of faults.

    Raises:
        `LocalHubError`: names the file, the entry and what is wrong with it.
    """
    try:
        entries = json.loads(path.read_text("utf8"))
    except (OSError, ValueError) as error:
        raise LocalHubError(f"{path}: no JSON list of faults ({type(error).__name__})") from None
    if not isinstance(entries, list):
        raise LocalHubError(f"{path}: expected a list of faults")
    faults = []
    for index, entry in enumerate(entries):
        try:
            fault = Fault(**entry)
            re.compile(fault.path)
        except (TypeError, re.error) as error:
            raise LocalHubError(f"{path}: fault {index}: {error}") from None
        numbers = (fault.status, fault.truncate, fault.times)
        if not all(n is None or (isinstance(n, int) and not isinstance(n, bool)) for n in numbers):
            raise LocalHubError(f"{path}: fault {index}: status, truncate and times are whole numbers")
        if (fault.status is None) == (fault.truncate is None):
            raise LocalHubError(f"{path}: fault {index}: give one of status and truncate")
        if fault.status is not None and not 400 <= fault.status <= 599:
            raise LocalHubError(f"{path}: fault {index}: status {fault.status} is not within 400 to 599")
        if fault.truncate is not None and fault.truncate < 0:
            raise LocalHubError(f"{path}: fault {index}: truncate {fault.truncate} is below 0")
        faults.append(fault)
    return faults


class Faults:
    """ASGI middleware that plays the faults and writes the log.

    Args:
        application (`Application`): the server.
        faults (`Path`, *optional*): file with the list; read anew whenever it changes.
        requests (`Path`, *optional*): file that a line is appended to when a request is over.
    """

    def __init__(self, application: Application, faults: Path | None = None, requests: Path | None = None) -> None:
        self._application = application
        self._path = faults
        self._stamp: tuple[int, int, int] | None = None
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        if faults is not None:
            read_faults(faults)
        self._log = os.open(requests, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600) if requests else None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        fault = self._due(scope)
        status, left = 0, fault.truncate if fault else None

        async def watched(message: Message) -> None:
            nonlocal status, left
            if message["type"] == "http.response.start":
                status = message["status"]
            elif left is not None and message["type"] == "http.response.body":
                body = message.get("body", b"")
                if len(body) >= left:
                    await send({"type": "http.response.body", "body": body[:left], "more_body": True})
                    raise _BrokenOff
                left -= len(body)
            await send(message)

        try:
            if fault is not None and fault.status is not None:
                await _refuse(fault.status, watched)
            else:
                await self._application(scope, receive, watched)
        except _BrokenOff:
            pass  # uvicorn closes the connection of a response that does not come to its end
        finally:
            self._write(scope, status)

    def _due(self, scope: Message) -> Fault | None:
        with self._lock:
            if self._path is not None:
                found = self._path.stat()
                stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
                if stamp != self._stamp:
                    self._faults, self._stamp = read_faults(self._path), stamp
            for fault in self._faults:
                meets = fault.method in (None, scope["method"]) and re.search(fault.path, _raw_path(scope))
                if fault.times > 0 and meets:
                    fault.times -= 1
                    return fault
        return None

    def _write(self, scope: Message, status: int) -> None:
        if self._log is None:
            return
        ranges = [value.decode("latin1") for name, value in scope["headers"] if name == b"range"]
        line = {"method": scope["method"], "path": _raw_path(scope), "status": status}
        if ranges:
            line["range"] = ranges[0]
        os.write(self._log, (json.dumps(line) + "\n").encode())


def _raw_path(scope: Message) -> str:
    return str((scope.get("raw_path") or scope["path"].encode()).split(b"?")[0].decode("latin1"))


async def _refuse(status: int, send: Send) -> None:
    body = json.dumps({"error": "a fault on order"}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers.append((b"x-error-message", b"a fault on order"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
