"""What making an adapter costs: seconds and memory of its phases, measured in the process that does the work."""

import ctypes
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def _status(field: str) -> float | None:
    """A field of the process's status in MiB; None where the system has none."""
    try:
        lines = _STATUS.read_text("ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:")), None)


def _give_back() -> None:
    """Give freed memory back to the system, as far as the C library can; else it would be taken again unseen."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _forget_peak() -> bool:
    if not _CLEAR.exists():
        return False
    _give_back()
    try:
        # 5 resets the peak of the resident set (proc(5), since Linux 4.0).
        _CLEAR.write_text("5", "ascii")
    except OSError:
        return False
    return True


class Costs:
    """Seconds and peak memory by phase.

    Attributes:
        seconds (`dict[str, float]`): of each phase, without the phases inside it.
        peak_mib (`dict[str, float]`): resident memory at the highest, less what was there when the phase began, freed
            memory not counted. Only on Linux; with another C library than glibc the figure can be too low.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.peak_mib: dict[str, float] = {}
        self._open: list[tuple[str, float, float | None]] = []

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure what happens inside as `name`; a phase inside another one is not part of it."""
        self._pause()
        self._start(name)
        try:
            yield
        finally:
            self._pause()
            self._open.pop()
            if self._open:
                self._start(self._open.pop()[0])

    def _start(self, name: str) -> None:
        before = _status("VmRSS") if _forget_peak() else None
        self._open.append((name, time.perf_counter(), before))

    def _pause(self) -> None:
        if not self._open:
            return
        name, started, before = self._open[-1]
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started
        peak = _status("VmHWM")
        if before is not None and peak is not None:
            self.peak_mib[name] = max(self.peak_mib.get(name, 0.0), peak - before)

    def record(self) -> dict[str, dict[str, float]]:
        """Both, rounded, as JSON."""
        return {
            "seconds": {name: round(value, 4) for name, value in self.seconds.items()},
            "peak_mib": {name: round(value, 2) for name, value in self.peak_mib.items()},
        }
