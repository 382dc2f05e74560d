"""Twenty processes push to one repository at once: nothing is lost, nothing doubled. `make test-hub`."""

import collections
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hub.local.hub import LocalHub
from hub.local.process import start
from tests.hub.local.crashes import whole
from tests.hub.local.test_xet import USERS, Hub
from tests.integration.hub_local.pushers import COMMITS, PROCESSES

pytestmark = [pytest.mark.hub_heavy, pytest.mark.timeout(900)]


def test_twenty_processes_at_once_lose_and_double_nothing(tmp_path: Path) -> None:
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    environment |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    with start(tmp_path / "hub", users=USERS) as running:
        Hub(tmp_path / "hub", running).make("data")
        command = [sys.executable, "-m", "tests.integration.hub_local.pushers", running.url, str(tmp_path)]
        begun = time.monotonic()
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=800)
        seconds = time.monotonic() - begun
    assert ran.returncode == 0, ran.stderr[-3000:]
    told = [json.loads(path.read_text()) for path in tmp_path.glob("pushed-*.json")]
    done = {title: oid for one in told for title, oid in one["done"].items()}
    conflicts = sum(one["conflicts"] for one in told)
    assert len(told) == PROCESSES and len(done) == PROCESSES * COMMITS
    # Half of the commits name their parent: without a conflict the processes were not at it together.
    assert conflicts > 0

    hub = LocalHub(tmp_path / "hub")
    whole(hub)
    repository = hub.find("dataset", "alice", "data")
    assert repository
    git = hub.git(repository)
    log = list(git.log(git.resolve("main")))
    titles = collections.Counter(commit.title for commit in log)
    assert titles == {"initial commit": 1, **dict.fromkeys(done, 1)}
    assert {commit.oid for commit in log[:-1]} == set(done.values())
    assert all(len(commit.parents) == 1 for commit in log[:-1])
    last = git.resolve("main")
    files = {entry.path for entry in git.entries(last, recursive=True) if not entry.folder}
    assert files == {f"rows/{title}.{kind}" for title in done for kind in ("txt", "bin")} | {
        ".gitattributes",
        "last.txt",
    }
    assert all(git.read_path(last, f"rows/{title}.txt", 100) == title.encode() for title in done)
    assert git.read_path(last, "last.txt", 100) == log[0].title.encode()
    hub.close()
    print(json.dumps({"commits": len(done), "conflicts": conflicts, "seconds": round(seconds, 1)}))
