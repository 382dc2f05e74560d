"""A kill between any two writes: afterwards a request has happened or it has not, and it can be made again.

Each scenario is one request. It is first run to its end, which counts its writes; then once for every write, in a
process that ends right before it. The hub is opened again, put right, and compared with the states before and after.
"""

import hashlib
import os
import shutil
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hub.local import multipart, recovery
from hub.local.hub import LocalHub
from hub.local.users import write_users
from hub.local.xet_format import hash_text
from tests.hub.local.crashes import CRASHED, Client, Crash, snapshot, whole
from tests.hub.local.test_xet import USERS, raw
from tests.hub.local.test_xet_format import chunk, shard

API = "/api/datasets/alice/data"
SKULL = "skull " * 500
OID = hashlib.sha256(SKULL.encode()).hexdigest()


def file(path: str, text: str) -> tuple[str, dict[str, Any]]:
    return "file", {"path": path, "content": text, "encoding": "utf-8"}


def prepare(client: Client) -> None:
    """A repository with everything: LFS files, tags, branches, discussions, open, draft and merged pull requests."""
    client.done("POST", "/api/repos/create", {"name": "data", "type": "dataset"})
    oid = client.upload(b"pistol " * 300)
    client.commit("main", file("a.txt", "a"), ("lfsFile", {"path": "p.bin", "algo": "sha256", "oid": oid}))
    client.done("POST", f"{API}/tag/main", {"tag": "v1.0.0", "message": "the first"})
    client.done("POST", f"{API}/branch/side", {})
    client.commit("main", file("b.txt", "pull request 1"), title="to be merged", query="?create_pr=1")
    client.done("POST", f"{API}/discussions", {"title": "a draft", "description": "", "pullRequest": True})
    client.done("POST", f"{API}/discussions", {"title": "words", "description": "said", "pullRequest": False})
    client.commit("main", file("c.txt", "pull request 4"), title="merged before", query="?create_pr=1")
    client.done("POST", f"{API}/discussions/4/merge", {})
    client.done("PUT", f"{API}/settings", {"gated": "manual"})
    client.done(
        "POST",
        "/api/settings/webhooks",
        {"url": "http://127.0.0.1:9/", "watched": [{"type": "user", "name": "bob"}], "domains": ["repo"]},
    )


def commit(client: Client) -> int:
    return client.ask(
        "POST",
        f"{API}/commit/main",
        b'{"key":"header","value":{"summary":"more"}}\n'
        b'{"key":"file","value":{"path":"d/e.txt","content":"e","encoding":"utf-8"}}\n'
        b'{"key":"deletedFile","value":{"path":"a.txt"}}\n'
        b'{"key":"lfsFile","value":{"path":"q.dat","algo":"sha256","oid":"%s"}}' % OID.encode(),
    )[0]


def ask(method: str, path: str, body: Any = None, token: str | None = "hf_alice_write") -> Callable[[Client], int]:
    return lambda client: client.ask(method, path, body, token)[0]


def opening(client: Client) -> int:
    line = b'{"key":"file","value":{"path":"x","content":"","encoding":"utf-8"}}'
    head = b'{"key":"header","value":{"summary":"one more"}}\n'
    return client.ask("POST", f"{API}/commit/main?create_pr=1", head + line)[0]


def to_pull_request(client: Client) -> int:
    line = b'{"key":"file","value":{"path":"y","content":"y","encoding":"utf-8"}}'
    head = b'{"key":"header","value":{"summary":"onto 1"}}\n'
    return client.ask("POST", f"{API}/commit/refs%2Fpr%2F1", head + line)[0]


def put(client: Client) -> int:
    client.upload(b"pill " * 100)
    return 200


def xet(client: Client) -> int:
    token = client.done("GET", f"{API}/xet-write-token/main")
    place, bearer, key = token["casUrl"].removeprefix(client.hub.origin), token["accessToken"], b"\7" * 32
    xorb = chunk(b"one of two") + chunk(b"two of two", 1)
    client.done("POST", f"{place}/v1/xorbs/default/{hash_text(key)}", xorb, token=bearer)
    body = shard((raw(b"one of two"), [(key, 0, 1, 10)]), (raw(b"two of two"), [(key, 1, 2, 10)]))
    return client.ask("POST", f"{place}/v1/shards", body, bearer)[0]


def parts(client: Client) -> int:
    multipart.PART_BYTES = 1000
    data = b"pill " * 500
    oid = hashlib.sha256(data).hexdigest()
    repository = client.hub.find("dataset", "alice", "data")
    assert repository
    upload = multipart.upload_action(client.hub, repository, oid, len(data))
    etags = []
    for number in range(1, 4):
        path = upload["header"][f"{number:05d}"].removeprefix(client.hub.origin)
        piece = data[(number - 1) * 1000 : number * 1000]
        assert client.ask("PUT", path, piece, None)[0] == 200
        etags.append({"partNumber": number, "etag": hashlib.sha256(piece).hexdigest()})
    return client.ask("POST", upload["href"].removeprefix(client.hub.origin), {"oid": oid, "parts": etags}, None)[0]


SCENARIOS: dict[str, Callable[[Client], int]] = {
    "create": ask("POST", "/api/repos/create", {"name": "new", "type": "dataset"}),
    "delete": ask("DELETE", "/api/repos/delete", {"name": "data", "type": "dataset"}),
    "move": ask("POST", "/api/repos/move", {"fromRepo": "alice/data", "toRepo": "alice/moved", "type": "dataset"}),
    "settings": ask("PUT", f"{API}/settings", {"visibility": "private", "gated": "auto"}),
    "commit": commit,
    "commit that opens a pull request": opening,
    "commit to a pull request": to_pull_request,
    "draft": ask("POST", f"{API}/discussions", {"title": "a second", "description": "", "pullRequest": True}),
    "discussion": ask("POST", f"{API}/discussions", {"title": "a talk", "description": "", "pullRequest": False}),
    "comment": ask("POST", f"{API}/discussions/3/comment", {"comment": "well"}),
    "title": ask("POST", f"{API}/discussions/1/title", {"title": "another title"}),
    "status": ask("POST", f"{API}/discussions/2/status", {"status": "open"}),
    "merge": ask("POST", f"{API}/discussions/1/merge", {"comment": "thanks"}),
    "tag": ask("POST", f"{API}/tag/main", {"tag": "v2.0.0", "message": "the second"}),
    "light tag": ask("POST", f"{API}/tag/main", {"tag": "now"}),
    "branch": ask("POST", f"{API}/branch/more", {}),
    "delete a branch": ask("DELETE", f"{API}/branch/side"),
    "squash": ask("POST", f"{API}/super-squash/side", {}),
    "grant": ask("POST", f"{API}/user-access-request/grant", {"user": "bob"}),
    "webhook": ask(
        "POST",
        "/api/settings/webhooks",
        {"url": "http://127.0.0.1:9/x", "watched": [{"type": "user", "name": "bob"}], "domains": ["repo"]},
    ),
    "LFS upload": put,
    "LFS upload in parts": parts,
    "Xet upload": xet,
}
# Statuses that say that it has been done before.
AGAIN = {200, 400, 403, 404, 409, 412}


def forked(task: Callable[[], None]) -> int:
    """Runs in a process of its own; its exit status."""
    pid = os.fork()
    if pid == 0:
        try:
            task()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("prepared") / "hub"
    root.mkdir()
    write_users(root / "users.yaml", USERS)

    def make() -> None:
        client = Client(root)
        prepare(client)
        client.upload(SKULL.encode())

    assert forked(make) == 0
    return root


def opened(root: Path) -> LocalHub:
    hub = LocalHub(root)
    recovery.recover(hub)
    return hub


def state(root: Path) -> dict[str, Any]:
    hub = opened(root)
    whole(hub)
    found = snapshot(hub)
    hub.close()
    return found


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_kill_before_any_write_leaves_all_or_nothing(prepared: Path, tmp_path: Path, name: str) -> None:
    act, before = SCENARIOS[name], state(prepared)

    def run(root: Path, at: int, expect: set[int]) -> int:
        def task() -> None:
            crash = Crash(root, at)
            client = Client(root)
            crash.on = True
            status = act(client)
            crash.on = False
            (root.parent / "writes").write_text(str(len(crash.seen)))
            assert status in expect, status

        return forked(task)

    straight = Path(shutil.copytree(prepared, tmp_path / "straight"))
    assert run(straight, 0, {200}) == 0
    after, writes = state(straight), int((tmp_path / "writes").read_text())
    assert writes > 0 and (after != before or "upload" in name)
    seen = {"before": 0, "after": 0}
    for at in range(1, writes + 1):
        root = Path(shutil.copytree(prepared, tmp_path / "hub"))
        assert run(root, at, {200}) == CRASHED, at
        found = state(root)
        assert found in (before, after), at
        seen["after" if found == after else "before"] += 1
        assert run(root, 0, AGAIN if found == after else {200}) == 0, at
        assert state(root) == after or found == after
        shutil.rmtree(root)
    assert seen["before"] + seen["after"] == writes
    print(f"{name}: {writes} points, {seen['before']} before, {seen['after']} after")


def test_a_kill_while_putting_right_leaves_it_to_the_next_start(prepared: Path, tmp_path: Path) -> None:
    """Leftovers of every kind, then a kill before each write of `recover`."""

    def litter(root: Path) -> None:
        merging = SCENARIOS["merge"]

        def task() -> None:
            crash = Crash(root, 10**9)
            client = Client(root)
            crash.on = True
            original = crash.write

            def stop(name: str) -> None:
                original(name)
                if name == "after swap":
                    os._exit(CRASHED)

            crash.write = stop  # type: ignore[method-assign]
            merging(client)

        assert forked(task) == CRASHED
        (root / "tmp" / "folder").mkdir()
        (root / "tmp" / "folder" / "content").write_bytes(b"half")
        (root / "tmp" / "file").write_bytes(b"half")
        (root / "xet" / "61").mkdir(parents=True, exist_ok=True)
        (root / "xet" / "61" / ".x.part").write_bytes(b"half")
        repository = next((root / "repos" / "dataset").glob("*.git"))
        (repository / "refs" / "heads" / "main.lock").touch()
        shutil.copytree(repository, repository.with_name("0" * 24 + ".git"))
        lost = root / "lfs" / "00" / "11" / ("0011" + "0" * 60)
        lost.parent.mkdir(parents=True)
        lost.write_bytes(b"lost")

    start = Path(shutil.copytree(prepared, tmp_path / "start"))
    litter(start)
    straight = Path(shutil.copytree(start, tmp_path / "straight"))
    hub = LocalHub(straight)
    found = recovery.recover(hub)
    assert str(found) == "3 temporary, 1 folders, 1 locks, 1 intents, 1 objects"
    assert str(recovery.recover(hub)) == ""
    hub.close()
    after, at = state(straight), 0
    assert after != state(Path(shutil.copytree(prepared, tmp_path / "untouched")))
    while True:
        at += 1
        root = Path(shutil.copytree(start, tmp_path / "hub"))

        def task(root: Path = root, at: int = at) -> None:
            crash = Crash(root, at)
            hub = LocalHub(root)
            crash.on = True
            recovery.recover(hub)

        status = forked(task)
        assert state(root) == after
        shutil.rmtree(root)
        if status == 0:
            break
        assert status == CRASHED
    assert at > 15
