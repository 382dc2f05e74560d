"""What a merge of seven experts costs at the size of real models, beside peft's svd and ties.

    python -m benchmarks.merging --size sd15
    python -m benchmarks.merging --size sdxl

Experts of rank 4 on to_q, to_k, to_v and to_out.0 of every attention layer; shapes come from diffusers' own network,
weights and Co-Merge's counts are random, so what is left out is the collection of activations and nothing else. A merge
reads the experts' files and writes the merged one. Each runs in a process of its own: seconds of wall and CPU time are
without imports and without making up the counts; memory is the process's peak (VmHWM) less that of a process that
has imported and made up the same and stopped. `exact` says whether the merge is what its definition says, or cut to a
rank. A row that takes longer than `--limit`, fails or is killed says so instead of a figure, and the others go on.

The rows named calibration are what calibration holds besides activations: the second moments of the inputs of every
layer, summed up over one made-up token for each category, safe and empty prompts.

A section is added to benchmarks/RESULTS.md."""

import argparse
import datetime
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from benchmarks.results import add_section

if TYPE_CHECKING:
    from recipes import MergeConfig
    from training.adapters import Adapter
    from training.calibration import Calibration

# Name of a row, and the settings of its merge. "By inputs": the truncation is weighted by what the layers see.
_BY_INPUTS = {"weighted_svd": True}
MERGES: dict[str, dict[str, Any]] = {
    "comerge row": {"method": "comerge"},
    "comerge row, rank 4": {"method": "comerge", "rank": 4},
    "comerge row, rank 4 by inputs": {"method": "comerge", "rank": 4, **_BY_INPUTS},
    "comerge rank": {"method": "comerge", "unit": "rank"},
    "comerge rank, rank 4": {"method": "comerge", "unit": "rank", "rank": 4},
    "comerge rank, rank 4 by inputs": {"method": "comerge", "unit": "rank", "rank": 4, **_BY_INPUTS},
    "comerge weight": {"method": "comerge", "unit": "weight"},
    "comerge weight, rank 28": {"method": "comerge", "unit": "weight", "rank": 28},
    "comerge weight, rank 28 by inputs": {"method": "comerge", "unit": "weight", "rank": 28, **_BY_INPUTS},
    "sum": {"method": "sum"},
    "sum, rank 4": {"method": "sum", "rank": 4},
    "peft cat": {"method": "cat"},
    "peft linear": {"method": "linear"},
    "peft ties": {"method": "ties"},
    "peft svd, rank 28": {"method": "svd", "rank": 28},
    "peft svd, rank 4": {"method": "svd", "rank": 4},
}
# What is collected of the inputs, for which merges.
CALIBRATIONS: dict[str, tuple[str, ...]] = {
    "calibration, nothing (comerge)": (),
    "calibration, projected (comerge by inputs)": ("projected",),
    "calibration, Gram matrices (least_squares)": ("grams",),
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


def measure(name: str, folder: Path, threads: int, bare: bool) -> dict[str, Any]:
    """One row in this process; `bare` imports what it imports, makes up the counts, and stops.

    Returns:
        `dict`: `wall` and `cpu` in seconds, `peak` in bytes and the highest `rank` of the merge.
    """
    import torch

    from recipes import MergeConfig
    from training import merge

    torch.set_num_threads(threads)
    experts = {path.name: path for path in sorted(folder.glob("expert-*"))}
    rank = 0
    if name in CALIBRATIONS:
        start, cpu = time.perf_counter(), time.process_time()
        if not bare:
            _collect(merge.load_alike(experts), CALIBRATIONS[name])
    else:
        config = MergeConfig(**{"weighted_svd": False, **MERGES[name]})
        calibration = _calibration(experts, config) if config.method == "comerge" else None
        start, cpu = time.perf_counter(), time.process_time()
        if not bare:
            adapters = merge.load_alike(experts)
            layers = merge.merged_layers(adapters, config, lambda: calibration)  # type: ignore[arg-type, return-value]
            count = len(next(iter(adapters.values())).layers)
            with tqdm(layers, total=count, desc=name, unit="layer", leave=False) as watched:
                rank = merge.write_merge(folder / "merged", watched, {})
    return {"wall": time.perf_counter() - start, "cpu": time.process_time() - cpu, "peak": _peak(), "rank": rank}


def _collect(adapters: "dict[str, Adapter]", kinds: tuple[str, ...]) -> None:
    """Sum up second moments as calibration does; layers that the network feeds one tensor share theirs."""
    import torch

    from training.calibration import EMPTY, GramSums
    from training.low_rank import stack

    layers = {name: a.shape[1] for name, (a, _) in next(iter(adapters.values())).layers.items()}
    projections = {name: stack([each.layers[name] for each in adapters.values()])[0].double() for name in layers}
    sums = [GramSums(list(layers), projections if kind == "projected" else None) for kind in kinds]
    groups = [*(f"unsafe/{name}" for name in adapters), "safe", EMPTY]
    for group in tqdm(groups, desc="calibration", unit="group", leave=False):
        fed: dict[str, torch.Tensor] = {}
        inputs = {
            name: fed.setdefault(_feeder(name), torch.randn(1, 1, width, generator=torch.Generator().manual_seed(0)))
            for name, width in layers.items()
        }
        for kept in sums:
            kept.add(group, inputs)
    # All of them are held until the merge is made.
    means = [kept.means() for kept in sums]
    del means


def _feeder(layer: str) -> str:
    """What feeds an attention layer: the prompt, the block's normed states, or a tensor of its own."""
    block, module = layer.rsplit(".", 1)
    if block.endswith("attn2"):
        return "prompt" if module in ("to_k", "to_v") else layer
    return block if module in ("to_q", "to_k", "to_v") else layer


def _moments(sides: dict[str, int], groups: list[str]) -> dict[str, dict[str, Any]]:
    """Second moments of made-up inputs: layer -> group -> matrix, one and the same for each width."""
    import torch

    generator = torch.Generator().manual_seed(0)
    made: dict[int, torch.Tensor] = {}
    for side in sorted(set(sides.values())):
        x = torch.randn(64, side, generator=generator, dtype=torch.float64)
        made[side] = x.T @ x / len(x)
    return {layer: dict.fromkeys(groups, made[side]) for layer, side in sides.items()}


def _calibration(experts: dict[str, Path], config: "MergeConfig") -> "Calibration":
    """Made-up counts, and the second moments that the merge reads."""
    import torch

    from training.adapters import open_lora
    from training.calibration import EMPTY, Calibration
    from training.comerge import Statistics, WeightSums
    from training.merge import second_moments

    generator = torch.Generator().manual_seed(0)
    statistics: dict[str, Statistics | WeightSums] = {}
    adapter = open_lora(next(iter(experts.values())))
    sides: dict[str, dict[str, int]] = {"grams": {}, "projected": {}}
    for layer, (a, b) in adapter.layers.items():
        sides["grams"][layer], sides["projected"][layer] = a.shape[1], len(experts) * len(a)
        if config.unit == "weight":
            active = torch.full((a.shape[1],), float(INPUTS), dtype=torch.float64)
            statistics[layer] = WeightSums(active, torch.rand(a.shape[1], generator=generator).double(), INPUTS)
            continue
        units = len(b) if config.unit == "row" else len(a)
        wins = torch.rand(len(experts), units, generator=generator, dtype=torch.float64)
        statistics[layer] = Statistics(wins * INPUTS / wins.sum(0), wins, INPUTS)
    groups = [*(f"unsafe/{name}" for name in experts), "safe", EMPTY]
    # Every layer has more components than any rank here, or is left alone by the truncation.
    kinds = second_moments(config, max(sides["projected"].values()) if config.unit != "weight" else 2**31)
    return Calibration(statistics, **{kind: _moments(sides[kind], groups) for kind in kinds})


def _peak() -> int:
    """The most memory that this process ever held, in bytes."""
    status = Path("/proc/self/status").read_text("utf8")
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def _in_process(given: argparse.Namespace, what: str, name: str, folder: Path, limit: float | None) -> dict[str, Any]:
    """`what` of row `name` in a process of its own, whose bars show; `missing` says why there are no figures."""
    options = ["--size", given.size, "--experts", str(given.experts), "--rank", str(given.rank)]
    command = [sys.executable, "-m", "benchmarks.merging", *options, "--threads", str(given.threads)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(given.threads), "OMP_WAIT_POLICY": "PASSIVE"}
    try:
        done = subprocess.run(
            [*command, "--in-process", what, name, str(folder)],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            timeout=limit,
        )
    except subprocess.TimeoutExpired:
        return {"missing": f"over {limit:g} s"}
    finally:
        shutil.rmtree(folder / "merged", ignore_errors=True)
    if done.returncode < 0:
        return {"missing": f"killed by signal {-done.returncode}"}
    if done.returncode and what == "row":
        return {"missing": f"failed with exit status {done.returncode}"}
    if done.returncode:
        raise SystemExit(f"{what} {name} ended with {done.returncode}; its error stands above")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def table(rows: dict[str, dict[str, Any]], experts: int) -> str:
    """The figures as Markdown; `experts` is the size of their files in bytes, `bare` of a row what is taken off."""
    lines = [
        "| merge | wall s | CPU s | peak memory, MiB | x experts | rank | exact |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        exact = "" if name in CALIBRATIONS else "no" if "rank" in MERGES[name] else "yes"
        if "missing" in row:
            lines.append(f"| {name} | {row['missing']} | | | | | {exact} |")
            continue
        peak = row["peak"] - row["bare"]
        lines.append(
            f"| {name} | {row['wall']:.2f} | {row['cpu']:.2f} | {peak / 2**20:.0f} | {peak / experts:.1f} "
            f"| {row['rank'] or ''} | {exact} |"
        )
    return "\n".join(lines)


def main() -> None:
    """The command."""
    rows = [*MERGES, *CALIBRATIONS]
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", default="sd15", help="of benchmarks/sizes.py: tiny, sd15, sdxl, ...")
    parser.add_argument("--experts", type=int, default=7)
    parser.add_argument("--rank", type=int, default=4, help="of each expert")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=float, default=900, help="seconds that one row may take, imports included")
    parser.add_argument("--only", nargs="+", choices=rows, default=rows, metavar="ROW")
    parser.add_argument("--in-process", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.in_process:
        what, name, folder = given.in_process
        if what == "make":
            make_experts(given.size, given.experts, given.rank, Path(folder))
        print(json.dumps({} if what == "make" else measure(name, Path(folder), given.threads, what == "bare")))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        _in_process(given, "make", "", folder, None)
        experts = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
        measured: dict[str, dict[str, Any]] = {}
        for name in tqdm(given.only, desc="rows", unit="row"):
            row = _in_process(given, "row", name, folder, given.limit)
            if "missing" not in row:
                row["bare"] = _in_process(given, "bare", name, folder, None)["peak"]
            measured[name] = row
            tqdm.write(f"{name}: {row}")
    load = os.getloadavg()[0]
    section = (
        f"## Merging, {given.size}, {datetime.date.today()}\n\n"
        f"`python -m benchmarks.merging {shlex.join(sys.argv[1:])}`: {given.threads} threads, {os.cpu_count()} CPU "
        f"cores, load {load:.1f} at the end. {given.experts} experts of rank {given.rank}, {experts / 2**20:.1f} MiB "
        f"in all. A row may take {given.limit:g} s.\n\n"
        f"{table(measured, experts)}\n"
    )
    print(section)
    add_section(section)


if __name__ == "__main__":
    main()
