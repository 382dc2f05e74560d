"""hub/local tried by the stock clients in three ways of moving large files:

    python -m tests.integration.hub_local.conformance [--mode direct] [--check NAME ...]

`direct`: LFS, files given by the API itself; `redirect`: LFS, files given by another host name; `xet`: uploads by
hf_xet, which the client does unless told otherwise. The clients read their settings when they are
imported, so every mode runs in a Python process of its own (`child.py`), with a fresh HF_HOME, beside a server of its
own."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hub.local.process import Running, start
from tests.integration.hub_local.checks import CHECKS
from tests.integration.hub_local.world import MODES, ORGANISATION, TOKENS

ROOT = Path(__file__).parents[3]
TIMEOUT = 900.0
USERS: list[dict[str, Any]] = [
    {
        "name": "maker",
        "fullname": "The maker",
        "email": "maker@example.org",
        "tokens": [
            {"name": "writing", "token": TOKENS["maker"], "role": "write"},
            {"name": "reading", "token": TOKENS["reader"], "role": "read"},
        ],
    },
    {"name": "guest", "fullname": "A guest", "tokens": [{"name": "all", "token": TOKENS["guest"], "role": "write"}]},
]
ORGANISATIONS = [{"name": ORGANISATION, "fullname": "A lab", "members": {"maker": "write"}}]


@dataclass(frozen=True)
class Outcome:
    """What came of a check: `error` is empty where it passed, else a traceback."""

    check: str
    seconds: float
    error: str


def checks_of(mode: str) -> list[str]:
    """The names of the checks that say something in a mode."""
    return [name for name, check in CHECKS.items() if mode in check.modes]


def start_server(root: Path, mode: str) -> Running:
    """A server for a mode; beside its folder, the faults that a check may order, and the log of requests."""
    faults, log = root.with_name("faults.json"), root.with_name("requests.jsonl")
    faults.write_text("[]")
    options = ["--faults", str(faults), "--request-log", str(log)]
    return start(root, cdn_port=0 if mode == "redirect" else None, users=USERS, orgs=ORGANISATIONS, options=options)


def client_environment(url: str, mode: str, home: Path) -> dict[str, str]:
    """The environment of a client process for a server and a mode: nothing of the caller's own Hub settings."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    environment |= {
        "HF_ENDPOINT": url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    if mode != "xet":
        environment["HF_HUB_DISABLE_XET"] = "1"
    return environment


def run_mode(mode: str, names: list[str], folder: Path) -> dict[str, Outcome]:
    """Run checks of a mode against a fresh server.

    Args:
        mode (`str`): one of `MODES`.
        names (`list[str]`): of the checks.
        folder (`Path`): an empty folder, for the hub and for what the checks write.

    Returns:
        `dict[str, Outcome]`: by check; a check that the child did not come to says so as its error.
    """
    with start_server(folder / "hub", mode) as server:
        command = [sys.executable, "-m", "tests.integration.hub_local.child", "--mode", mode, "--url", server.url]
        command += ["--cdn", server.cdn_url or server.url, "--folder", str(folder / "client"), *names]
        environment = client_environment(server.url, mode, folder / "huggingface")
        with (folder / "outcomes").open("w") as out, (folder / "stderr").open("w") as err:
            try:
                done = subprocess.run(command, env=environment, cwd=folder, stdout=out, stderr=err, timeout=TIMEOUT)
                how = f"exit status {done.returncode}"
            except subprocess.TimeoutExpired:
                how = f"killed after {TIMEOUT:.0f} s"
    lines = [json.loads(line) for line in (folder / "outcomes").read_text("utf8").splitlines() if line.startswith("{")]
    outcomes = {line["check"]: Outcome(**line) for line in lines}
    said = (folder / "stderr").read_text("utf8")[-2000:]
    for name in names:
        outcomes.setdefault(name, Outcome(name, 0.0, f"the client process did not come to it ({how})\n{said}"))
    return outcomes


def summary(mode: str, outcomes: dict[str, Outcome]) -> str:
    """One line: how many checks of a mode passed, failed, and failed by a client's own fault."""
    counts = Counter(CHECKS[name].judge(outcome.error) for name, outcome in outcomes.items())
    told = ", ".join(f"{count} {what}" for what, count in counts.items())
    return f"{mode}: {len(outcomes)} checks, {told}, {sum(o.seconds for o in outcomes.values()):.0f} s"


def main() -> int:
    """The command; exit status 1 where a check failed that should not."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--mode", choices=MODES, nargs="+", default=list(MODES))
    parser.add_argument("--check", nargs="+", help="names, or parts of names; all unless given")
    given = parser.parse_args()
    failed = 0
    for mode in given.mode:
        names = [n for n in checks_of(mode) if not given.check or any(part in n for part in given.check)]
        if not names:
            continue
        with tempfile.TemporaryDirectory() as folder:
            outcomes = run_mode(mode, names, Path(folder))
        for name, outcome in outcomes.items():
            if CHECKS[name].judge(outcome.error) == "failed":
                failed += 1
                print(f"--- {mode}: {name}\n{outcome.error or 'passed, though a client bug is noted for it'}")
        print(summary(mode, outcomes), flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
