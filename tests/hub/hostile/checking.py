"""Run kinds through the checks of `contribute` in a process of its own, and tell what came of each as JSON.

`python -m tests.hub.hostile.checking PUBLISHED WORK OUT [KIND...]`. A process of its own, because its peak of memory is
what is measured; `tests.hub.hostile.making` has filled WORK before, in another one, whose peak would count as a
child's."""

import json
import resource
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from tests.hub.hostile import KINDS, USER, Kind

MARKS = ("<script", "onerror=", "\x1b", "\u202e", "javascript:")


def reset_peak() -> None:
    """Let the kernel count this process's peak of memory anew."""
    Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """Bytes of memory that this process held at most since `reset_peak`."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def children_peak() -> int:
    """Bytes that the largest child so far held at most."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024


def cpu_seconds() -> float:
    """Processor time of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def check(kind: Kind, published: Any, work: Path) -> dict[str, Any]:
    """What the checks say of one kind, and what that took."""
    from hub.contributions.checks import Options, check_rows
    from hub.contributions.reading import Reading

    folder = work / kind.name
    reset_peak()
    started, used = time.perf_counter(), cpu_seconds()
    with check_rows(Reading(folder), published, Options(user=USER, work=work)) as checked:
        said = checked.table() + json.dumps(checked.to_json())
        reasons = sorted({*checked.counts, *(file.reason for file in checked.refused)})
        passed = checked.all_pass
    result = {
        "reasons": reasons,
        "all_pass": passed,
        "said": said,
        "seconds": time.perf_counter() - started,
        "cpu_seconds": cpu_seconds() - used,
        "peak": peak(),
        "children_peak": children_peak(),
        "executed": (work / f"{kind.name}.executed").exists(),
    }
    shutil.rmtree(folder)
    return result


def main(published: Path, work: Path, out: Path, names: list[str]) -> None:
    """Check the kinds of these names, or all."""
    from hub.contributions.published import published_folder

    version = published_folder(published, "org/data", "0" * 40)
    results = {}
    for name in names or KINDS:
        try:
            results[name] = check(KINDS[name], version, work)
        except Exception as error:
            results[name] = {"error": f"{type(error).__name__}: {error}"}
    out.write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
