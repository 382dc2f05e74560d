"""How long the rest of a study takes, by what its finished parts took. Reads records; runs nothing."""

import json
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

from evaluation.study.plan import BASE, Unit, kind_of
from evaluation.study.records import RECORD, read_seconds

if TYPE_CHECKING:
    from evaluation.study.running import Study


def spoken(seconds: float) -> str:
    """Seconds in words: "48 s", "12 min", "3 h 05 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


class Times:
    """What the finished units below a folder took.

    Args:
        out (`Path`): the study's folder.

    A unit of a kind that was never measured counts as the mean of those that were, the base model aside, for which
    nothing is made; with no measurement to go by nothing is estimated.
    """

    def __init__(self, out: Path) -> None:
        self._out = out
        self.refresh()

    def refresh(self) -> None:
        """Read the records again."""
        self._units: dict[str, list[float]] = {}
        self._seeds: list[float] = []
        for path in sorted(self._out.glob(f"seed-*/variants/**/{RECORD}")):
            try:
                record = json.loads(path.read_text("utf8"))
                seconds = sum(record["costs"].get("seconds", {}).values()) + record["evaluate_seconds"]
                self._units.setdefault(record["kind"], []).append(seconds)
            except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
                continue
        for path in sorted(self._out.glob("seed-*/seconds.json")):
            self._seeds.append(sum(read_seconds(path).values()))

    def of(self, units: list[Unit], jobs: int = 1) -> float | None:
        """Seconds that `units` take; the datasets and experts of seeds that have none yet are in it."""
        made = [seconds for kind, listed in self._units.items() if kind != BASE for seconds in listed]
        listed = [self._units.get(kind := kind_of(unit.variant), made if kind != BASE else []) for unit in units]
        if not all(listed):
            return None
        total = sum(map(mean, listed))
        new = {unit.seed for unit in units if not (self._out / f"seed-{unit.seed}" / "seconds.json").is_file()}
        if new and self._seeds:
            total += len(new) * mean(self._seeds)
        return total / max(1, min(jobs, len({unit.seed for unit in units})))

    def unknown(self, units: list[Unit]) -> list[str]:
        """Kinds among `units` that were never measured."""
        return sorted({kind_of(unit.variant) for unit in units} - set(self._units))


def what_is_left(study: "Study") -> str:
    """What a study has to do, and how long that takes as far as it is known: one line a group and seed."""
    times, undone = Times(study.out), study.undone()
    lines = [f"{len(undone)} of {len(study.units())} variants are to be made and judged:"]
    by_part: dict[tuple[str, int], list[Unit]] = {}
    for unit in undone:
        by_part.setdefault((unit.group, unit.seed), []).append(unit)
    for (group, seed), units in by_part.items():
        seconds = times.of(units)
        known = "time unknown" if seconds is None else f"about {spoken(seconds)}"
        lines.append(f"  {group}, seed {seed}: {known}: {', '.join(unit.name for unit in units)}")
    total = times.of(undone, study.jobs)
    if undone:
        lines.append(
            f"all of it: {'time unknown' if total is None else 'about ' + spoken(total)}, {study.jobs} at a time"
        )
    unknown = times.unknown(undone)
    if unknown and total is not None:
        lines.append(f"never measured here, counted as the mean of the others: {', '.join(unknown)}")
    return "\n".join(lines)
