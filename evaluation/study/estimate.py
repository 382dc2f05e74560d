"""How long the rest of a study takes, by what its finished parts took. Reads records; runs nothing."""

import json
from pathlib import Path
from statistics import mean

from evaluation.study.plan import Unit, kind_of
from evaluation.study.records import RECORD


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

    A unit of a kind that was never measured counts as the mean of those that were; with no measurement at all nothing
    is estimated.
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
            except (OSError, ValueError, KeyError, AttributeError):
                continue
        for path in sorted(self._out.glob("seed-*/seconds.json")):
            self._seeds.append(sum(json.loads(path.read_text("utf8")).values()))

    def of(self, units: list[Unit], jobs: int = 1) -> float | None:
        """Seconds that `units` take; the datasets and experts of seeds that have none yet are in it."""
        known = [seconds for listed in self._units.values() for seconds in listed]
        if not known:
            return None
        total = sum(mean(self._units.get(kind_of(unit.variant), known)) for unit in units)
        new = {unit.seed for unit in units if not (self._out / f"seed-{unit.seed}" / "seconds.json").is_file()}
        if new and self._seeds:
            total += len(new) * mean(self._seeds)
        return total / max(1, min(jobs, len({unit.seed for unit in units})))

    def unknown(self, units: list[Unit]) -> list[str]:
        """Kinds among `units` that were never measured."""
        return sorted({kind_of(unit.variant) for unit in units} - set(self._units))
