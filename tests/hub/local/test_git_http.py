"""Clone and fetch by git itself; push is refused; access is what it is for every other file."""

import base64
import hashlib
import http.client
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from hub.local.process import start
from tests.hub.local.test_xet import USERS, Hub


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    root = tmp_path_factory.mktemp("hub")
    with start(root, users=USERS) as running:
        found = Hub(root, running)
        found.make("data")
        found.make("hidden", visibility="private")
        found.make("asked")
        yield found


def git(*arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "GIT_CONFIG_GLOBAL": os.devnull, "GIT_ASKPASS": "true"}
    return subprocess.run(["git", *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=60)


def url(hub: Hub, name: str, user: str = "", suffix: str = "") -> str:
    credentials = f"alice:{user}@" if user else ""
    return hub.running.url.replace("://", f"://{credentials}") + f"/datasets/alice/{name}{suffix}"


@pytest.mark.parametrize("suffix", ["", ".git"])
@pytest.mark.parametrize("version", ["0", "2"])
def test_a_clone_is_the_repository(hub: Hub, tmp_path: Path, suffix: str, version: str) -> None:
    done = git("-c", f"protocol.version={version}", "clone", url(hub, "data", suffix=suffix), "copy", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "filter=lfs" in (tmp_path / "copy" / ".gitattributes").read_text()
    assert git("fsck", cwd=tmp_path / "copy").returncode == 0
    assert git("fetch", "origin", cwd=tmp_path / "copy").returncode == 0


def test_a_partial_and_a_shallow_clone_work(hub: Hub, tmp_path: Path) -> None:
    assert git("clone", "--depth", "1", "--filter=blob:none", url(hub, "data"), "copy", cwd=tmp_path).returncode == 0


def test_references_of_pull_requests_can_be_fetched(hub: Hub, tmp_path: Path) -> None:
    for path in (hub.root / "repos" / "dataset").glob("*.git"):
        subprocess.run(["git", "update-ref", "refs/pr/1", "refs/heads/main"], cwd=path, check=True)
    assert git("clone", url(hub, "data"), "copy", cwd=tmp_path).returncode == 0
    assert git("fetch", "origin", "refs/pr/1:pr/1", cwd=tmp_path / "copy").returncode == 0
    one, other = git("rev-parse", "pr/1", "main", cwd=tmp_path / "copy").stdout.split()
    assert one == other


def test_private_repositories_want_credentials_and_look_like_none(hub: Hub, tmp_path: Path) -> None:
    answers = {
        (name, user): git("clone", url(hub, name, user), "never", cwd=tmp_path).stderr.replace(name, "NAME")
        for name in ("hidden", "missing")
        for user in ("", "hf_bob_write", "hf_wrong_token")
    }
    for user in ("", "hf_bob_write", "hf_wrong_token"):
        assert answers["hidden", user] == answers["missing", user]
    assert not (tmp_path / "never").exists()
    assert git("clone", url(hub, "hidden", "hf_alice_read"), "mine", cwd=tmp_path).returncode == 0


def test_a_push_is_refused_with_the_way_out(hub: Hub, tmp_path: Path) -> None:
    assert git("clone", url(hub, "data", "hf_alice_write"), "copy", cwd=tmp_path).returncode == 0
    copy = tmp_path / "copy"
    git("-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "--allow-empty", "-m", "more", cwd=copy)
    before = hub.ask("GET", "/api/datasets/alice/data")[1]["sha"]
    pushed = git("push", "origin", "HEAD:main", cwd=copy)
    assert pushed.returncode != 0 and "403" in pushed.stderr
    assert hub.ask("GET", "/api/datasets/alice/data")[1]["sha"] == before
    for method, path in (("GET", "info/refs?service=git-receive-pack"), ("POST", "git-receive-pack")):
        status, said = hub.ask(method, f"/datasets/alice/data.git/{path}", "hf_alice_write")
        assert status == 403 and "hf upload" in said["error"]
    assert hub.ask("GET", "/datasets/alice/data.git/info/refs")[0] == 400


def test_files_of_the_git_folder_are_not_served(hub: Hub) -> None:
    for path in ("HEAD", "config", "objects/info/packs", "..%2F..%2F..%2Fusers.yaml"):
        assert hub.ask("GET", f"/datasets/alice/data.git/{path}", "hf_alice_write")[0] in (404, 405)


def test_a_hostile_request_ends_in_an_answer(hub: Hub) -> None:
    path = "/datasets/alice/data.git/git-upload-pack"
    kind = {"Content-Type": "application/x-git-upload-pack-request"}
    for body, headers in ((b"no pack lines", {}), (b"\x1f\x8b broken", {"Content-Encoding": "gzip"}), (b"", {})):
        parts = hub.running.url.removeprefix("http://")
        connection = http.client.HTTPConnection(parts, timeout=30)
        connection.request("POST", path, body, {**kind, **headers})
        assert connection.getresponse().status in (200, 400, 500)
        connection.close()
    status, _ = hub.ask("POST", path, None, b"", {**kind, "Content-Length": str(11 << 20)})
    assert status == 413


def test_no_git_process_stays_behind(hub: Hub) -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("reads /proc")
    threads = list(Path(f"/proc/{hub.running.pid}/task").glob("*/children"))
    assert threads and not [pid for path in threads for pid in path.read_text().split()]


def test_git_lfs_gets_objects_with_the_credentials_of_git(hub: Hub) -> None:
    """The batch request and download that git-lfs makes after a clone, with Basic credentials, in a private one."""
    data = b"a pistol is no pill " * 100
    oid = hashlib.sha256(data).hexdigest()
    batch = "/datasets/alice/hidden.git/info/lfs/objects/batch"
    objects = [{"oid": oid, "size": len(data)}]
    wanted: dict[str, Any] = {"operation": "upload", "objects": objects}
    upload = hub.ask("POST", batch, "hf_alice_write", wanted)[1]["objects"][0]["actions"]["upload"]
    assert hub.ask("PUT", upload["href"], None, data)[0] == 200

    def credentials(token: str) -> dict[str, str]:
        return {"Authorization": "Basic " + base64.b64encode(f"alice:{token}".encode()).decode()}

    wanted = {"operation": "download", "transfers": ["basic"], "objects": objects}
    for headers in ({}, credentials("hf_wrong_token")):
        assert hub.ask("POST", batch, None, wanted, headers)[0] == 401
    status, said = hub.ask("POST", batch, None, wanted, credentials("hf_alice_read"))
    assert status == 200
    href = urlsplit(said["objects"][0]["actions"]["download"]["href"])
    connection = http.client.HTTPConnection(href.netloc, timeout=30)
    connection.request("GET", f"{href.path}?{href.query}")
    assert connection.getresponse().read() == data
    connection.close()
    wanted["objects"] = [{"oid": "0" * 64, "size": 3}]
    assert hub.ask("POST", batch, None, wanted, credentials("hf_alice_read"))[1]["objects"][0]["error"]["code"] == 404
