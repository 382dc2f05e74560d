"""How fast hub/local takes and gives files, and what memory the server and the stock client need for it.

    python -m benchmarks.hub

Many small files (500 of 20 kB) by upload_folder and snapshot_download; one large Parquet file (2 GB) by upload_file,
hf_hub_download, and load_dataset(streaming=True) read to its end, with Arrow's reading ahead and without it
(`load_dataset_bounded`). In three modes: `direct` (LFS), `redirect` (LFS, downloads from another host name), `xet`
(uploads by hf_xet). Every step is a client process of its own with a fresh HF_HOME; seconds are those of the call,
without imports. Memory is the peak of samples taken every 20 ms: `RssAnon`, so that pages of mapped files, which the
system can take back, do not count. A section is added to benchmarks/RESULTS.md."""

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.results import add_section
from hub.local.process import start

MODES = ("direct", "redirect", "xet")
FILES, FILE_BYTES = 500, 20_000
# Rows as large as a small picture, in row groups as the published data has them: 100 rows.
ROW_BYTES, GROUP_ROWS = 50_000, 100
TOKEN = "hf_benchmark_of_the_hub"
USERS = [{"name": "maker", "tokens": [{"name": "all", "token": TOKEN, "role": "write"}]}]
SMALL, LARGE = "maker/small-files", "maker/large-file"
PARQUET = "data/train-00000-of-00001.parquet"


@dataclass(frozen=True)
class Step:
    """What a client process did.

    Args:
        name (`str`): the client's call.
        bytes (`int`): what it sent or got.
        seconds (`float`): how long the call took.
        client, server (`int`): peaks of own memory in bytes, of the client's process and of the server's.
    """

    name: str
    bytes: int
    seconds: float
    client: int
    server: int


def make_files(folder: Path, count: int = FILES) -> None:
    """`count` files of 20 kB of noise."""
    folder.mkdir(parents=True)
    for number in range(count):
        (folder / f"{number:04d}.bin").write_bytes(os.urandom(FILE_BYTES))


def make_parquet(path: Path, size: int) -> None:
    """A Parquet file of about `size` bytes: a number and noise a row."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    schema = pa.schema({"number": pa.int64(), "noise": pa.binary()})
    offsets = pa.array(np.arange(GROUP_ROWS + 1, dtype=np.int32) * ROW_BYTES)
    random = np.random.default_rng(0)
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
        for group in range(size // (ROW_BYTES * GROUP_ROWS)):
            noise = pa.py_buffer(random.bytes(ROW_BYTES * GROUP_ROWS))
            column = pa.BinaryArray.from_buffers(pa.binary(), GROUP_ROWS, [None, offsets.buffers()[1], noise])
            numbers = pa.array(range(group * GROUP_ROWS, (group + 1) * GROUP_ROWS))
            writer.write_table(pa.table([numbers, column], schema=schema), row_group_size=GROUP_ROWS)


def upload_folder(folder: Path) -> int:
    """Send the small files; bytes sent."""
    from huggingface_hub import HfApi

    HfApi().upload_folder(repo_id=SMALL, folder_path=folder / "files", repo_type="dataset")
    return _size(folder / "files")


def snapshot_download(folder: Path) -> int:
    """Fetch the small files; bytes that came."""
    from huggingface_hub import HfApi

    found = Path(HfApi().snapshot_download(SMALL, repo_type="dataset", allow_patterns="*.bin"))
    assert _size(found) == _size(folder / "files")
    return _size(found)


def upload_file(folder: Path) -> int:
    """Send the large file; bytes sent."""
    from huggingface_hub import HfApi

    path = folder / "large.parquet"
    HfApi().upload_file(path_or_fileobj=path, path_in_repo=PARQUET, repo_id=LARGE, repo_type="dataset")
    return path.stat().st_size


def hf_hub_download(folder: Path) -> int:
    """Fetch the large file; bytes that came."""
    from huggingface_hub import HfApi

    size = Path(HfApi().hf_hub_download(LARGE, PARQUET, repo_type="dataset")).stat().st_size
    assert size == (folder / "large.parquet").stat().st_size
    return size


def load_dataset(folder: Path, **options: Any) -> int:
    """Stream every row of the large file; bytes of noise that came."""
    import pyarrow.parquet as pq
    from datasets import load_dataset

    rows, read = 0, 0
    for row in load_dataset(LARGE, split="train", streaming=True, **options):
        assert row["number"] == rows
        rows, read = rows + 1, read + len(row["noise"])
    assert rows == pq.read_metadata(folder / "large.parquet").num_rows
    return read


def load_dataset_bounded(folder: Path) -> int:
    """The same without Arrow's reading ahead: by default it asks for all row groups of a file at once and keeps what
    came until the file has been read to its end."""
    from pyarrow.dataset import ParquetFragmentScanOptions

    return load_dataset(folder, fragment_scan_options=ParquetFragmentScanOptions(pre_buffer=False))


SMALL_STEPS = (upload_folder, snapshot_download)
LARGE_STEPS = (upload_file, hf_hub_download, load_dataset_bounded, load_dataset)
STEPS: dict[str, Callable[[Path], int]] = {step.__name__: step for step in (*SMALL_STEPS, *LARGE_STEPS)}


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


class Memory:
    """The peak of the own memory of processes, sampled by a thread while the context is open."""

    def __init__(self, *pids: int) -> None:
        self.peaks = dict.fromkeys(pids, 0)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def _sample(self) -> None:
        while not self._stop.wait(0.02):
            for pid in self.peaks:
                try:
                    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
                except OSError:
                    continue
                found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")]
                self.peaks[pid] = max(self.peaks[pid], *found, 0)

    def __enter__(self) -> "Memory":
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._stop.set()
        self._thread.join()


def run_step(name: str, url: str, server: int, mode: str, folder: Path) -> Step:
    """Run one of `STEPS` in a process of its own.

    Raises:
        `RuntimeError`: where it fails, with what it said.
    """
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {"HF_ENDPOINT": url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_PROGRESS_BARS": "1", "OMP_NUM_THREADS": "1"}
    environment |= {} if mode == "xet" else {"HF_HUB_DISABLE_XET": "1"}
    with tempfile.TemporaryDirectory(dir=folder) as home:
        environment["HF_HOME"] = home
        command = [sys.executable, "-m", "benchmarks.hub", "--step", name, "--folder", str(folder)]
        client = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
        )
        with Memory(client.pid, server) as memory:
            out, err = client.communicate()
    if client.returncode:
        raise RuntimeError(f"{name}: exit status {client.returncode}\n{err[-2000:]}")
    found = json.loads(out.splitlines()[-1])
    return Step(name, found["bytes"], found["seconds"], memory.peaks[client.pid], memory.peaks[server])


def measure(mode: str, folder: Path, names: list[str]) -> list[Step]:
    """Run steps in a mode against a fresh server.

    Args:
        mode (`str`): one of `MODES`.
        folder (`Path`): holds `files/` and `large.parquet`, as far as the steps need them.
        names (`list[str]`): of the steps, in an order that can be.
    """
    with (
        tempfile.TemporaryDirectory(dir=folder) as root,
        start(Path(root) / "hub", cdn_port=0 if mode == "redirect" else None, users=USERS) as server,
    ):
        return [run_step(name, server.url, server.pid, mode, folder) for name in names]


def table(found: dict[str, list[Step]]) -> str:
    """The figures as Markdown."""
    lines = [
        "| mode | call | MB | s | MB / s | client's memory, MiB | server's memory, MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for mode, steps in found.items():
        for step in steps:
            rate = step.bytes / step.seconds / 1e6
            lines.append(
                f"| {mode} | `{step.name}` | {step.bytes / 1e6:,.0f} | {step.seconds:.1f} | {rate:.0f} "
                f"| {step.client / 2**20:.0f} | {step.server / 2**20:.0f} |"
            )
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--files", type=int, default=FILES, help="small files")
    parser.add_argument("--megabytes", type=int, default=2000, help="of the large file")
    parser.add_argument("--no-results", action="store_true", help="print only, add no section")
    parser.add_argument("--step", choices=list(STEPS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step:
        if given.step.startswith("load_dataset"):
            import datasets  # noqa: F401  (its import is not what is measured)
        from huggingface_hub import HfApi

        for repository in (SMALL, LARGE):
            HfApi().create_repo(repository, repo_type="dataset", exist_ok=True)
        started = time.monotonic()
        moved = STEPS[given.step](given.folder)
        print(json.dumps({"bytes": moved, "seconds": time.monotonic() - started}))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_files(folder / "files", given.files)
        make_parquet(folder / "large.parquet", given.megabytes * 1_000_000)
        found = {mode: measure(mode, folder, list(STEPS)) for mode in given.modes}
    text = table(found)
    print(text)
    if not given.no_results:
        load = os.getloadavg()[0]
        add_section(
            f"## hub/local, {datetime.date.today()}\n\n`python -m benchmarks.hub --files {given.files} --megabytes "
            f"{given.megabytes}`, {os.cpu_count()} CPU cores, load {load:.1f} at the end. Memory: peak of RssAnon.\n\n"
            f"{text}\n"
        )


if __name__ == "__main__":
    main()
