"""What a merge of seven experts costs at the size of real models, beside peft's svd and ties.

    python -m benchmarks.merging --size sd15

Experts of rank 4 on to_q, to_k, to_v and to_out.0 of every attention layer; shapes come from diffusers' own network,
weights and Co-Merge's counts are random, so what is left out is the collection of activations and nothing else. A merge
reads the experts' files and writes the merged one. Each runs in a process of its own: seconds of wall and CPU time are
without imports and without making up the counts; memory is the process's peak (VmHWM) less that of a process that
has imported and made up the same and stopped. `exact` says whether the merge is what its definition says, or cut to a
rank. A section is added to benchmarks/RESULTS.md."""

import argparse
import datetime
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.results import add_section

# Name of a row, and the settings of its merge. Calibration inputs are not at hand, so truncation is by the plain SVD.
MERGES: dict[str, dict[str, Any]] = {
    "comerge row": {"method": "comerge"},
    "comerge row, rank 4": {"method": "comerge", "rank": 4},
    "comerge rank": {"method": "comerge", "unit": "rank"},
    "comerge rank, rank 4": {"method": "comerge", "unit": "rank", "rank": 4},
    "comerge weight": {"method": "comerge", "unit": "weight"},
    "comerge weight, rank 28": {"method": "comerge", "unit": "weight", "rank": 28},
    "sum": {"method": "sum"},
    "sum, rank 4": {"method": "sum", "rank": 4},
    "peft cat": {"method": "cat"},
    "peft linear": {"method": "linear"},
    "peft ties": {"method": "ties"},
    "peft svd, rank 28": {"method": "svd", "rank": 28},
    "peft svd, rank 4": {"method": "svd", "rank": 4},
}
MODULES = ("to_q", "to_k", "to_v", "to_out.0")
# Inputs that the made-up counts add up to: 56 prompts of each of seven categories at three timesteps.
INPUTS = 56 * 7 * 3


def shapes(size: str) -> dict[str, tuple[int, int]]:
    """Attention layer of the denoiser -> its input and output width."""
    import torch

    from benchmarks.sizes import SIZES, new_unet

    with torch.device("meta"):
        unet = new_unet(SIZES[size])
    return {
        name: (module.in_features, module.out_features)
        for name, module in unet.named_modules()
        if isinstance(module, torch.nn.Linear) and name.endswith(MODULES)
    }


def make_experts(size: str, count: int, rank: int, folder: Path) -> None:
    """`count` random experts, each in a folder of its own."""
    import torch

    from training.adapters import write_adapter

    known = shapes(size)
    for number in range(count):
        generator = torch.Generator().manual_seed(number)
        layers = {
            name: (torch.randn(rank, inputs, generator=generator), torch.randn(outputs, rank, generator=generator))
            for name, (inputs, outputs) in known.items()
        }
        write_adapter(folder / f"expert-{number}", layers)


def measure(name: str | None, folder: Path, threads: int) -> dict[str, Any]:
    """One merge in this process; None imports what a merge imports, makes up the counts of rows, and stops."""
    import torch

    from recipes import MergeConfig
    from training import merge

    torch.set_num_threads(threads)
    config = MergeConfig(weighted_svd=False, **MERGES[name or "comerge row"])
    experts = {path.name: path for path in sorted(folder.glob("expert-*"))}
    calibration = _calibration(experts, config.unit) if config.method == "comerge" else None
    start, cpu = time.perf_counter(), time.process_time()
    rank = 0
    if name is not None:
        adapters = merge.load_alike(experts)
        layers = merge.merged_layers(adapters, config, lambda: calibration)  # type: ignore[arg-type, return-value]
        rank = merge.write_merge(folder / "merged", layers, {})
    return {"wall": time.perf_counter() - start, "cpu": time.process_time() - cpu, "peak": _peak(), "rank": rank}


class _NoGrams(dict[str, Any]):
    """Gram matrices of any layer and group; a merge that truncates without them only asks for their sum."""

    def __missing__(self, key: str) -> Any:
        import torch

        return torch.zeros(1, 1) if key.startswith(("unsafe/", "safe", "empty")) else self


def _calibration(experts: dict[str, Path], unit: str) -> Any:
    import torch

    from training.adapters import open_lora
    from training.calibration import Calibration
    from training.comerge import Statistics, WeightSums

    generator = torch.Generator().manual_seed(0)
    statistics: dict[str, Statistics | WeightSums] = {}
    adapter = open_lora(next(iter(experts.values())))
    for layer, (a, b) in adapter.layers.items():
        if unit == "weight":
            active = torch.full((a.shape[1],), float(INPUTS), dtype=torch.float64)
            statistics[layer] = WeightSums(active, torch.rand(a.shape[1], generator=generator).double(), INPUTS)
            continue
        units = len(b) if unit == "row" else len(a)
        wins = torch.rand(len(experts), units, generator=generator, dtype=torch.float64)
        statistics[layer] = Statistics(wins * INPUTS / wins.sum(0), wins, INPUTS)
    return Calibration(statistics, _NoGrams())


def _peak() -> int:
    """The most memory that this process ever held, in bytes."""
    status = Path("/proc/self/status").read_text("utf8")
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def _in_process(given: argparse.Namespace, what: str, folder: Path) -> dict[str, Any]:
    options = ["--size", given.size, "--experts", str(given.experts), "--rank", str(given.rank)]
    command = [sys.executable, "-m", "benchmarks.merging", *options, "--threads", str(given.threads)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(given.threads), "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(
        [*command, "--in-process", what, str(folder)], check=True, capture_output=True, text=True, env=environment
    )
    return json.loads(done.stdout.splitlines()[-1])


def table(rows: dict[str, dict[str, Any]], experts: int, bare: int) -> str:
    """The figures as Markdown; `experts` is the size of their files and `bare` the memory of imports, in bytes."""
    lines = [
        "| merge | wall s | CPU s | peak memory, MiB | x experts | rank | exact |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        peak = row["peak"] - bare
        exact = "no" if "rank" in MERGES[name] else "yes"
        lines.append(
            f"| {name} | {row['wall']:.2f} | {row['cpu']:.2f} | {peak / 2**20:.0f} | {peak / experts:.1f} "
            f"| {row['rank']} | {exact} |"
        )
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", default="sd15", help="of benchmarks/sizes.py: tiny, sd15, sdxl, ...")
    parser.add_argument("--experts", type=int, default=7)
    parser.add_argument("--rank", type=int, default=4, help="of each expert")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=list(MERGES), default=list(MERGES), metavar="MERGE")
    parser.add_argument("--in-process", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.in_process:
        what, folder = given.in_process
        if what == "make":
            make_experts(given.size, given.experts, given.rank, Path(folder))
        print(
            json.dumps({} if what == "make" else measure(None if what == "none" else what, Path(folder), given.threads))
        )
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _in_process(given, "make", folder)
        experts = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
        bare = _in_process(given, "none", folder)["peak"]
        rows = {}
        for merge in given.only:
            rows[merge] = _in_process(given, merge, folder)
            print(merge, rows[merge], flush=True)
    load = os.getloadavg()[0]
    text = table(rows, experts, bare)
    section = (
        f"## Merging, {given.size}, {datetime.date.today()}\n\n"
        f"`python -m benchmarks.merging {shlex.join(sys.argv[1:])}`: {given.threads} threads, {os.cpu_count()} CPU "
        f"cores, load {load:.1f} at the end. {given.experts} experts of rank {given.rank}, {experts / 2**20:.1f} MiB "
        f"in all.\n\n"
        f"{text}\n"
    )
    print(section)
    add_section(section)


if __name__ == "__main__":
    main()
