"""A small run of the whole quickstart, made once a session, and the means to start one in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALL = (
    "build.train_pairs=4",
    "build.validation_pairs=1",
    "build.test_pairs=4",
    "build.unseen_concept_pairs=1",
    "render.steps=3",
    "render.batch_size=8",
    "train.max_steps=4",
    "train.batch_size=2",
    "train.prior_batch_size=2",
    "train.save_steps=2",
    "merge.calibration_prompts=2",
    "merge.tune_steps=4",
)

# Put on PYTHONPATH: every attempt to leave this machine fails and is written down. The run's own Hub is on it.
SITECUSTOMIZE = """
import os, socket
_connect = socket.socket.connect
def connect(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1"):
        with open(os.environ["ATTEMPTS_FILE"], "a") as file:
            file.write(repr(address) + "\\n")
        raise OSError("the network is refused in this test")
    return _connect(self, address)
socket.socket.connect = connect
_getaddrinfo = socket.getaddrinfo
def getaddrinfo(host, *args, **kwargs):
    if host in ("127.0.0.1", b"127.0.0.1", "localhost"):
        return _getaddrinfo(host, *args, **kwargs)
    with open(os.environ["ATTEMPTS_FILE"], "a") as file:
        file.write(repr(host) + "\\n")
    raise OSError("the network is refused in this test")
socket.getaddrinfo = getaddrinfo
"""


def start_quickstart(out: Path, scratch: Path, *settings: str) -> subprocess.Popen[bytes]:
    """Start the small quickstart with the network refused; `scratch` gets its output and its attempts to connect."""
    scratch.mkdir(parents=True, exist_ok=True)
    (scratch / "sitecustomize.py").write_text(SITECUSTOMIZE, "utf8")
    options = [word for setting in (*SMALL, *settings) for word in ("--set", setting)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {
        "HF_HOME": str(scratch / "huggingface"),
        "PYTHONPATH": f"{scratch}{os.pathsep}{ROOT}",
        "ATTEMPTS_FILE": str(scratch / "attempts"),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "coprov2", "quickstart", "--out", str(out), "--seed", "3", *options],
        cwd=scratch,
        env=environment,
        stdout=(scratch / "stdout").open("ab"),
        stderr=(scratch / "stderr").open("ab"),
    )


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished small quickstart; beside it, in `scratch`, what it printed. Read only."""
    base = tmp_path_factory.mktemp("quickstart")
    process = start_quickstart(base / "out", base / "scratch")
    assert process.wait(timeout=540) == 0, (base / "scratch" / "stderr").read_text("utf8")[-3000:]
    return base / "out"
