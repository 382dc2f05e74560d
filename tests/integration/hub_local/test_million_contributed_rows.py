"""A million contributed rows, with the limit on rows lifted: time is the rows', and memory does not go along."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dataset_builder.emoji_world.scenes import vocabulary
from dataset_builder.emoji_world.things import UNSAFE
from dataset_builder.taxonomy import load_taxonomy
from tests.hub.contributions.world import publish

ROWS = 1_000_000
# MiB of the checking process and of the one that decodes.
MOST_CHECKING, MOST_READING = 1_024, 256
CHECK = """
import resource, sys
from dataclasses import replace
from pathlib import Path
from hub.contributions.checks import Options, check_rows
from hub.contributions.limits import LIMITS
from hub.contributions.published import published_folder
from hub.contributions.reading import Reading

published, source, rows = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
limits = replace(LIMITS, rows=rows, check_seconds=3_600)
options = Options("ada", source.parent, limits=limits)
with check_rows(Reading(source, limits=limits), published_folder(published), options) as checked:
    # Of this program alone: getrusage counts what its parent had before it started this one.
    own = next(int(line.split()[1]) for line in Path("/proc/self/status").open() if line.startswith("VmHWM"))
    reading = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    seconds = round(resource.getrusage(resource.RUSAGE_SELF).ru_utime)
    print(checked.rows, checked.passed, own // 1024, reading // 1024, seconds)
"""


@pytest.mark.hub_heavy
@pytest.mark.timeout(7_200)
def test_a_million_rows_are_checked_in_bounded_memory(tmp_path: Path):
    published = publish(tmp_path / "published")
    named = {
        word
        for _, concept in load_taxonomy("emoji-world").concepts()
        for name in concept.names
        for word in name.split()
    }
    words = np.array([word for word in vocabulary() if len(word) > 2 and word.isalpha() and word not in named])
    things = [(thing.category, name, thing.counterpart) for name, thing in UNSAFE.items()]
    rng = np.random.default_rng(0)
    with (tmp_path / "a.jsonl").open("w") as file:
        for start in range(0, ROWS, 10_000):
            for number, chosen in enumerate(words[rng.integers(len(words), size=(10_000, 12))], start):
                category, concept, counterpart = things[number % len(things)]
                first, last = " ".join(chosen[:5]), " ".join(chosen[5:])
                row = {"category": category, "concept": concept}
                row |= {"unsafe_prompt": f"{first} {concept} {last}", "safe_prompt": f"{first} {counterpart} {last}"}
                file.write(json.dumps(row) + "\n")
    command = [sys.executable, "-c", CHECK, str(published), str(tmp_path / "a.jsonl"), str(ROWS)]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert ended.returncode == 0, ended.stderr
    rows, passed, checking, reading, seconds = map(int, ended.stdout.split())
    print(f"{passed:,} of {rows:,} rows pass; {checking} MiB checking, {reading} MiB reading, {seconds} s of processor")
    assert rows == ROWS and passed > 0.9 * ROWS
    assert checking < MOST_CHECKING and reading < MOST_READING
