"""200 SIGKILLs of server and clients at random moments: every repository opens, every tag has complete data, whatever
was answered is there, and no pull request is merged by half. `make test-hub`."""

import collections
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hub.local.git_store import GitStore
from hub.local.hub import LocalHub
from hub.local.recovery import recover
from hub.local.users import write_users
from tests.hub.local.crashes import whole
from tests.hub.local.test_xet import USERS
from tests.integration.hub_local.kills import REPOSITORIES

pytestmark = [pytest.mark.hub_heavy, pytest.mark.timeout(1800)]
KILLS = 200


def content(hub: LocalHub, git: GitStore, commit: str, path: str) -> str | None:
    """The sha256 of a file at a commit, through its LFS pointer."""
    entry = git.entry(commit, path)
    if entry is None:
        return None
    pointer = git.blob(entry.oid).pointer
    return hashlib.sha256(hub.lfs.path(pointer.oid).read_bytes() if pointer else git.read(entry.oid)).hexdigest()


@pytest.mark.parametrize("seed", [1])
def test_kills_at_random_moments_lose_nothing_and_publish_nothing_by_half(tmp_path: Path, seed: int) -> None:
    (tmp_path / "hub").mkdir()
    write_users(tmp_path / "hub" / "users.yaml", USERS)
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-m", "tests.integration.hub_local.kills", str(tmp_path), str(seed), str(KILLS)]
    with (tmp_path / "errors").open("w") as errors:
        ran = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True, timeout=1700)
    assert ran.returncode == 0, (tmp_path / "errors").read_text()[-2000:]
    figures = json.loads(ran.stdout.splitlines()[-1])
    lines = [json.loads(line) for path in tmp_path.glob("client-*.jsonl") for line in path.read_text().splitlines()]
    failed = sum(len(path.read_text().splitlines()) for path in tmp_path.glob("failed-*.jsonl"))
    answered = collections.Counter(line["call"] for line in lines)
    assert sum(figures["killed"].values()) == KILLS and figures["killed"]["server"] > 100
    assert all(answered[call] > 0 for call in ("commit", "propose", "merge", "tag", "make", "delete")), answered

    hub = LocalHub(tmp_path / "hub")
    left = recover(hub)
    whole(hub)
    _check(hub, lines)
    mains = [hub.git(found) for kind, _ in REPOSITORIES for found in hub.list_repositories(kind)]
    commits = sum(git.count(git.resolve("main")) for git in mains)
    hub.close()
    assert "Traceback" not in (tmp_path / "errors").read_text()
    print(
        json.dumps(
            {
                **figures,
                "answered": answered,
                "failed": failed,
                "commits on main": commits,
                "left at the last start": str(left),
            }
        )
    )


def _check(hub: LocalHub, lines: list[dict[str, Any]]) -> None:
    repositories = {name: hub.find(kind, *name.split("/")) for kind, name in REPOSITORIES}
    for name, repository in repositories.items():
        assert repository
        git = hub.git(repository)
        titles = collections.Counter(commit.title for commit in git.log(git.resolve("main")))
        assert [title for title, times in titles.items() if times > 1] == []
        statuses = {
            row["num"]: row["status"]
            for row in hub.records.all("SELECT num, status FROM discussions WHERE repository = ?", repository.id)
        }
        tags = git.references("refs/tags/")
        for line in (line for line in lines if line.get("repository") == name):
            if line["call"] in ("commit", "propose"):
                tip = git.resolve("main" if line["call"] == "commit" else f"refs/pr/{line['num']}")
                assert git.is_ancestor(line["oid"], tip), line
                assert all(content(hub, git, line["oid"], path) == digest for path, digest in line["files"].items())
            elif line["call"] == "tag":
                assert tags[f"refs/tags/{line['tag']}"] == line["oid"]
            elif line["call"] == "merge":
                assert statuses[line["num"]] == "merged"
    for line in lines:
        if line["call"] in ("make", "delete"):
            found = hub.find(line["kind"], *line["repository"].split("/"))
            assert (found is not None) == (line["call"] == "make"), line
