"""Servers and real clients that are killed at random moments; run as a process of its own, it prints figures as JSON.

    python -m tests.integration.hub_local.kills FOLDER SEED KILLS

It forks the servers and clients, so that a killed one is back within milliseconds. Clients write a line for every call
that the server has answered; what is in these lines must be there in the end.
"""

import ctypes
import hashlib
import json
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ |= {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_EXPERIMENTAL_WARNING": "1",
}
os.environ |= {"HF_XET_CLIENT_RETRY_BASE_DELAY": "200ms", "HF_XET_CLIENT_RETRY_MAX_ATTEMPTS": "4"}

REPOSITORIES = [("dataset", "alice/one"), ("model", "alice/two")]
CLIENTS = 6


def child(task: Callable[[], Any]) -> int:
    """Forks a process for `task`; it dies with this one."""
    pid = os.fork()
    if pid == 0:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        try:
            task()
        finally:
            os._exit(0)
    return pid


def end(pid: int) -> None:
    """Kills a child and waits for it."""
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


class Worker:
    """One client: calls of its own choice until it is killed; a line in `log` for each answered one."""

    def __init__(self, url: str, log: Path, seed: int, xet: bool) -> None:
        from huggingface_hub import HfApi, constants

        constants.HF_HUB_DISABLE_XET = not xet
        self.api = HfApi(endpoint=url, token="hf_alice_write")
        self.log, self.random, self.name, self.count = log, random.Random(seed), f"{seed}", 0
        self.open: list[tuple[str, str, int]] = []
        # The client waits seconds before it tries again; less of that, and more calls meet a kill.
        wait = time.sleep
        time.sleep = lambda seconds: wait(min(seconds, 0.1))

    def run(self) -> None:
        calls = [self.commit, self.commit, self.tag, self.propose, self.merge, self.merge, self.make]
        while True:
            self.count += 1
            call, log = self.random.choice(calls), self.log
            try:
                done = call(*self.random.choice(REPOSITORIES), f"{self.name}-{self.count}")
            except Exception as error:
                # Killed in between, or refused: nothing is known of it.
                done = {"call": call.__name__, "error": f"{type(error).__name__}: {error}"[:300]}
                log = self.log.with_name(self.log.name.replace("client", "failed"))
                time.sleep(0.05)
            if done:
                with log.open("a") as file:
                    file.write(json.dumps(done) + "\n")

    def _operations(self, title: str) -> tuple[list[Any], dict[str, str]]:
        from huggingface_hub import CommitOperationAdd

        data = {f"{title}.txt": title.encode(), f"{title}.bin": self.random.randbytes(self.random.randint(1, 200_000))}
        return [CommitOperationAdd(path, content) for path, content in data.items()], {
            path: hashlib.sha256(content).hexdigest() for path, content in data.items()
        }

    def commit(self, kind: str, name: str, title: str) -> dict[str, Any]:
        operations, files = self._operations(title)
        info = self.api.create_commit(name, operations, commit_message=title, repo_type=kind)
        return {"call": "commit", "repository": name, "title": title, "oid": info.oid, "files": files}

    def propose(self, kind: str, name: str, title: str) -> dict[str, Any]:
        operations, files = self._operations(title)
        info = self.api.create_commit(name, operations, commit_message=title, repo_type=kind, create_pr=True)
        assert info.pr_num is not None
        self.open.append((kind, name, info.pr_num))
        found = {"call": "propose", "repository": name, "num": info.pr_num, "title": title, "oid": info.oid}
        return {**found, "files": files}

    def merge(self, kind: str, name: str, title: str) -> dict[str, Any] | None:
        if not self.open:
            return None
        kind, name, num = self.open.pop()
        self.api.merge_pull_request(name, num, repo_type=kind)
        return {"call": "merge", "repository": name, "num": num}

    def tag(self, kind: str, name: str, title: str) -> dict[str, Any]:
        tag = f"v1.0.{title}"
        sha = self.api.repo_info(name, repo_type=kind).sha
        self.api.create_tag(name, tag=tag, revision=sha, repo_type=kind, tag_message=self.random.choice([None, "said"]))
        return {"call": "tag", "repository": name, "tag": tag, "oid": sha}

    def make(self, kind: str, name: str, title: str) -> dict[str, Any]:
        made = f"alice/made-{title}"
        self.api.create_repo(made, repo_type=kind)
        if self.random.random() < 0.5:
            self.api.delete_repo(made, repo_type=kind)
            return {"call": "delete", "repository": made, "kind": kind}
        return {"call": "make", "repository": made, "kind": kind}


def main(folder: Path, seed: int, kills: int) -> dict[str, Any]:
    """Runs it; how many were killed and how long it took."""
    import hf_xet  # noqa: F401
    import huggingface_hub.hf_api  # noqa: F401
    import pygit2  # noqa: F401
    import uvicorn  # noqa: F401

    from hub.local.server import serve

    choose, root = random.Random(seed), folder / "hub"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    started = time.monotonic()

    def start_server() -> int:
        return child(lambda: serve(root, port=port))

    def start_client(index: int, life: int) -> int:
        log = folder / f"client-{index}-{life}.jsonl"
        return child(lambda: Worker(url, log, seed * 1_000_000 + index * 10_000 + life, index % 2 == 0).run())

    server = start_server()
    maker = child(lambda: _make(url, folder))
    os.waitpid(maker, 0)
    assert (folder / "made").exists()
    clients = {index: start_client(index, 0) for index in range(CLIENTS)}
    killed = {"server": 0, "client": 0}
    try:
        for number in range(1, kills + 1):
            _progress(folder)
            time.sleep(choose.choice([0.02, 0.1, 0.4]) * choose.random())
            if choose.random() < 0.7:
                end(server)
                server = start_server()
                killed["server"] += 1
            else:
                index = choose.randrange(CLIENTS)
                end(clients[index])
                clients[index] = start_client(index, number)
                killed["client"] += 1
        time.sleep(2)
    finally:
        for pid in (*clients.values(), server):
            end(pid)
    return {"killed": killed, "seconds": round(time.monotonic() - started, 1)}


def _progress(folder: Path) -> None:
    """Waits until some call was answered, so that kills meet work and not each other; three seconds at most."""
    before, until = _answered(folder), time.monotonic() + 3
    while _answered(folder) == before and time.monotonic() < until:
        time.sleep(0.01)


def _answered(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("client-*.jsonl"))


def _make(url: str, folder: Path) -> None:
    from huggingface_hub import HfApi

    for _ in range(100):
        try:
            for kind, name in REPOSITORIES:
                HfApi(endpoint=url, token="hf_alice_write").create_repo(name, repo_type=kind, exist_ok=True)
            (folder / "made").touch()
            return
        except OSError:
            time.sleep(0.1)


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
