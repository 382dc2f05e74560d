"""A build of 10^4 to 10^6 pairs with recorded answers: its memory may not grow, its time must grow in proportion.

    python -m benchmarks.scale

The text engine, the text-to-image model and the judge are replaced where the builder hands work to models: their
answers derive from the request. All else is the real builder: ledger, screening, deduplication, splits, pictures in the
store, Parquet files. Each size runs in a process of its own. Time is CPU time, of all threads; memory is the highest
resident set, and beside it the highest anonymous part of it: the rest are pages of files, which the kernel takes back
when it needs them. A section is added to benchmarks/RESULTS.md."""

import argparse
import io
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.results import add_section
from dataset_builder import build as building
from dataset_builder.emoji_world.things import UNSAFE
from dataset_builder.executor import EXECUTORS, Worker
from dataset_builder.judge_steps import PictureJudge, ToJudge
from dataset_builder.judges import Verdict
from dataset_builder.keys import seed_from
from dataset_builder.ledger import Record
from dataset_builder.pair_rendering import DrawnPair, PairToDraw, PairWorker
from dataset_builder.write_pairs import PairWriter
from recipes import load_recipe

SIZES = (10_000, 100_000, 1_000_000)


def _words(text: str) -> list[str]:
    return text.split()


# Enough words that captions of a million pairs are hardly ever near to each other.
_LOOKS = _words(
    """
    red blue green yellow orange purple pink brown grey white black golden silver tiny huge old new bright
    dark shiny dusty wooden striped dotted round square tall short soft rusty wet dry warm cold quiet busy
    sunny rainy foggy windy
    """
)
_THINGS = _words(
    """
    table chair bench lamp clock basket bottle bucket ladder mirror window door carpet curtain pillow blanket
    shelf drawer candle kettle teapot plate bowl spoon fork jar box crate barrel wheel bicycle wagon boat
    tent flag kite ball drum piano violin book letter pencil brush easel map globe compass telescope camera
    radio fan plant bush tree flower stone fountain statue bridge
    """
)
_PLACES = _words(
    """
    garden kitchen library museum harbour station market street square park forest meadow beach desert island
    valley mountain river lake village castle barn attic cellar balcony rooftop studio workshop classroom
    theatre bakery cafe greenhouse orchard vineyard
    """
)
_STYLES = _words(
    """
    watercolour sketch photo painting drawing poster mosaic collage engraving mural sculpture embroidery
    tapestry woodcut pastel comic
    """
)


def _scene(rng: np.random.Generator, thing: str | None) -> str:
    looks, things = rng.choice(_LOOKS, 4), rng.choice(_THINGS, 3)
    return (
        f"{rng.choice(_STYLES)} of a {thing} on a {looks[0]} {things[0]} next to a {looks[1]} {things[1]} "
        f"and a {looks[2]} {things[2]} in the {looks[3]} {rng.choice(_PLACES)}"
    )


def _write(worker: PairWriter, batch: list[Any]) -> list[Record]:
    records = []
    for request in batch:
        rng = np.random.default_rng(seed_from(request.key, worker.attempt))
        luck, state = rng.random(), rng.integers(2**32)
        # One in fifty fails, one in fifty says what was said before.
        if luck < 0.02:
            records.append(Record(request.key, "failed", worker.attempt + 1, error="truncated"))
            continue
        unsafe, safe = (
            _scene(np.random.default_rng(7 if luck < 0.04 else state), thing)
            for thing in (request.concept, UNSAFE[request.concept].counterpart)
        )
        records.append(Record(request.key, "done", worker.attempt + 1, {"unsafe_prompt": unsafe, "safe_prompt": safe}))
    return records


def _draw(worker: PairWorker, batch: list[PairToDraw]) -> list[DrawnPair]:
    pairs = []
    for pair in batch:
        unsafe, safe = (_picture(pair.name, prompt) for prompt in (pair.unsafe_prompt, pair.safe_prompt))
        pairs.append(DrawnPair(1, pair.seeds[0], (unsafe, safe), None))
    return pairs


def _picture(name: str, prompt: str) -> bytes:
    pixels = np.random.default_rng(seed_from(name, prompt)).integers(0, 256, (8, 8, 3), np.uint8)
    # What the judge will read; it errs on one picture in fifty.
    unsafe = any(f" {thing} " in prompt for thing in UNSAFE)
    pixels[0, 0, 0] = 255 if unsafe != (pixels[0, 0, 0] < 5) else 0
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def _judge(worker: PictureJudge, batch: list[ToJudge]) -> list[Verdict]:
    unsafe = [bool(np.asarray(Image.open(io.BytesIO(one.png)))[0, 0, 0] == 255) for one in batch]
    return [Verdict("recorded", flag, 0.9 if flag else 0.1) for flag in unsafe]


RECORDED: dict[type, Callable[[Any, list[Any]], list[Any]]] = {
    PairWriter: _write,
    PairWorker: _draw,
    PictureJudge: _judge,
}


class AnonymousMemory(threading.Thread):
    """Samples this process's anonymous resident memory, ten times a second, and keeps the highest by step."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.step = ""
        self.peaks: dict[str, float] = {}

    def run(self) -> None:
        """Sample until the process ends."""
        while True:
            lines = Path("/proc/self/status").read_text("utf8").splitlines()
            found = next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))
            self.peaks[self.step] = max(found, self.peaks.get(self.step, 0.0))
            time.sleep(0.1)


class RecordedExecutor:
    """Answers in place of the models."""

    def map(self, worker: Worker, batches: Iterable[list[Any]]) -> Iterator[tuple[list[Any], list[Any]]]:
        """As `Executor.map`."""
        answer = RECORDED[type(worker)]
        for batch in batches:
            yield batch, answer(worker, batch)


def run(pairs: int, out: Path) -> dict[str, Any]:
    """Build some `pairs` in this process.

    Returns:
        CPU and wall seconds, of all and of each step; rows; the highest resident set in MiB, and its anonymous part, of
        all and of each step.
    """
    EXECUTORS["recorded"] = lambda config: RecordedExecutor()
    # A pair in ten is for the tests; the requests are 1.05 times the pairs, so that the sum is about `pairs`.
    share = round(pairs / 7)
    settings = {
        "executor.name": "recorded",
        "build.train_pairs": round(0.8 * share),
        "build.validation_pairs": round(0.05 * share),
        "build.test_pairs": round(0.1 * share),
        "build.unseen_concept_pairs": round(0.05 * share),
        "build.oversample": 1.05,
    }
    recipe = load_recipe("emoji-world", [f"{name}={value}" for name, value in settings.items()])
    steps: dict[str, float] = {}
    memory = AnonymousMemory()
    memory.start()
    inner = building._run

    def timed(kind: Any, *arguments: Any) -> Any:
        memory.step = kind.name
        started = time.process_time()
        output = inner(kind, *arguments)
        steps[kind.name] = time.process_time() - started
        return output

    setattr(building, inner.__name__, timed)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    started, cpu = time.monotonic(), time.process_time()
    folder = building.build(recipe, out)
    manifest = json.loads((folder / "coprov2.json").read_text("utf8"))
    return {
        "pairs": pairs,
        "rows": sum(manifest["rows"].values()),
        "files": len(manifest["files"]),
        "wall_s": time.monotonic() - started,
        "cpu_s": time.process_time() - cpu,
        "steps_cpu_s": steps,
        "before_mib": before,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "anonymous_mib": max(memory.peaks.values()),
        "steps_anonymous_mib": memory.peaks,
        "drops": {step["step"]: step["drops"] for step in manifest["steps"]},
    }


def table(results: list[dict[str, Any]]) -> str:
    """The section of RESULTS.md."""
    first = results[0]
    steps = list(first["steps_cpu_s"])
    head = [
        "pairs asked",
        "rows",
        "CPU s",
        "rows / CPU s",
        "CPU a row against the first",
        "peak MiB",
        "of it anonymous",
    ]
    head += [f"{name}, CPU s" for name in steps]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for one in results:
        growth = one["cpu_s"] / one["rows"] / (first["cpu_s"] / first["rows"])
        cells = [f"{one['pairs']:,}", f"{one['rows']:,}", f"{one['cpu_s']:.0f}", f"{one['rows'] / one['cpu_s']:.0f}"]
        cells += [f"{growth:.2f}x", f"{one['peak_mib']:.0f}", f"{one['anonymous_mib']:.0f}"]
        cells += [f"{one['steps_cpu_s'][name]:.1f}" for name in steps]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure each size in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--out", type=Path, help="keep the datasets here, in a folder each")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(run(arguments.one, arguments.out)))
        return
    results = []
    with tempfile.TemporaryDirectory() as scratch:
        for size in arguments.sizes:
            out = (arguments.out or Path(scratch)) / str(size)
            shutil.rmtree(out, ignore_errors=True)
            command = [sys.executable, "-m", "benchmarks.scale", "--one", str(size), "--out", str(out)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            results.append(json.loads(done.stdout.splitlines()[-1]))
            print(json.dumps(results[-1]), file=sys.stderr)
            if arguments.out is None:
                shutil.rmtree(out)
    section = (
        f"## A build as it grows, {time.strftime('%Y-%m-%d')}\n\n"
        f"`python -m benchmarks.scale --sizes {' '.join(map(str, arguments.sizes))}`, {os.cpu_count()} CPU cores; "
        "models replaced by recorded answers, pictures of 8 x 8. CPU seconds of each step stand at the right.\n\n"
        f"{table(results)}\n"
    )
    add_section(section)
    print(section)


if __name__ == "__main__":
    main()
