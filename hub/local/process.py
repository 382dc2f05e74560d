"""A server in a process of its own, for tests and the quickstart: ready when `start` returns, dead with its parent."""

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from hub.local.errors import LocalHubError
from hub.local.users import write_users

PACKAGE_ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Running:
    """A running server.

    Args:
        url (`str`): its origin, for HF_ENDPOINT.
        cdn_url (`str`, *optional*): where it gives LFS files from, if not there.
        pid (`int`): its process.
        token (`str`, *optional*): the first token, where the hub's folder had no users.
    """

    url: str
    cdn_url: str | None
    pid: int
    token: str | None
    _process: subprocess.Popen[str]

    def stop(self) -> None:
        """End it in order and wait for it; one that was ended already is fine."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it by SIGKILL, as a loss of power would."""
        self._end(signal.SIGKILL)

    def _end(self, number: int) -> None:
        if self._process.poll() is None:
            self._process.send_signal(number)
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def __enter__(self) -> "Running":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()


def start(
    root: Path,
    port: int = 0,
    cdn_port: int | None = None,
    users: list[dict[str, Any]] | None = None,
    orgs: list[dict[str, Any]] | None = None,
    options: list[str] | None = None,
    environment: dict[str, str] | None = None,
) -> Running:
    """Start a server for the folder `root` and wait until it takes connections.

    Args:
        root (`Path`): the hub's folder, made where there is none.
        port (`int`, *optional*, defaults to `0`): the port on 127.0.0.1; 0 takes a free one.
        cdn_port (`int`, *optional*): the port LFS files are given from (0: a free one); without it, directly.
        users, orgs (*optional*): written to `users.yaml` first, as `users.py` shows it.
        options (`list[str]`, *optional*): further options of `python -m hub.local`.
        environment (`dict`, *optional*): further environment variables.

    Raises:
        `LocalHubError`: where it does not start; its own line says why.
    """
    if users is not None:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_users(root / "users.yaml", users, orgs)
    command = [sys.executable, "-m", "hub.local", "--root", str(root), "--port", str(port), "--child"]
    command += ["--cdn-port", str(cdn_port)] if cdn_port is not None else []
    paths = [str(PACKAGE_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **(environment or {})}
    process = subprocess.Popen(
        [*command, *(options or [])], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=variables
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        process.wait()
        raise LocalHubError(f"{root}: the server did not start (exit status {process.returncode})")
    said = json.loads(line)
    return Running(said["url"], said["cdn_url"], process.pid, said["token"], process)


def end_with_parent() -> None:
    """End this process, in order, when its standard input closes: its parent has gone."""

    def watch() -> None:
        # Not through `sys.stdin`, whose lock an ending interpreter must not find held.
        while os.read(0, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
