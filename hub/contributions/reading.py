"""Hostile files read bounded: JSONL, CSV, Parquet and pictures, as a stream of rows.

Nothing is decoded in this process. A child of its own (`hub.contributions.child`), without credentials and held to
limits of memory and time, decodes; what it sends is read as plain data, and where it dies the file it was at is
refused."""

import io
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from hub.contributions.child import OUT_OF_MEMORY, read_messages
from hub.contributions.limits import LIMITS, Limits
from hub.contributions.listing import PICTURES, TABLES, list_files
from hub.contributions.names import name_fault, shown
from hub.contributions.reasons import FILES, NOTES, REASONS
from hub.contributions.schema import COLUMNS, IMAGES, Picture, RawRow, Refused

__all__ = ["PICTURES", "TABLES", "Reading", "name_fault", "shown"]

_ROOT = Path(__file__).resolve().parents[2]
_CHILD = "hub.contributions.child"


class Reading:
    """The rows of a contribution, read once, in the order of files and rows.

    `refused` and `rows_read` are whole when the iteration has ended. A file may be refused after some of its rows came:
    none of them counts then (`checks.check_rows` sees to it).

    Args:
        root (`Path`): the folder, or a single table, beside which its pictures may lie.
        files (`Sequence[str]`, *optional*): names below `root` that make up the contribution; all by default.
        limits (`Limits`, *optional*): bounds.
    """

    def __init__(self, root: Path, files: Sequence[str] | None = None, limits: Limits = LIMITS) -> None:
        self.limits = limits
        single = not root.is_dir()
        self.root = root.parent if single else root
        listed = list_files(self.root, [root.name] if single else files, limits)
        self.refused: list[Refused] = listed.refused
        self.tables: list[str] = listed.tables
        self._pictures = set(listed.pictures)
        self.rows_read = 0

    def __iter__(self) -> Iterator[RawRow]:
        waiting, starts = list(self.tables), 0
        while waiting and starts <= self.limits.restarts:
            read = yield from self._read(waiting)
            waiting, starts = waiting[read:], starts + 1
        self.refused += [Refused(name, "not_reached") for name in waiting]
        self.refused += [Refused(shown(name), "picture_without_row") for name in sorted(self._pictures)]
        self._pictures.clear()

    def _read(self, names: list[str]) -> Generator[RawRow, None, int]:
        """Read files in one child; returns how many it got through, the one that it died at included."""
        job = {"root": str(self.root.absolute()), "files": names, "limits": asdict(self.limits)}
        child = subprocess.Popen(
            [sys.executable, "-s", "-P", "-m", _CHILD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment(),
        )
        assert child.stdin is not None and child.stdout is not None
        at, done = 0, False
        try:
            child.stdin.write(json.dumps(job).encode("ascii") + b"\n")
            child.stdin.close()
            pipe = io.BufferedReader(_Patient(child.stdout, self.limits.silence_seconds), 1 << 20)
            most = 4 * self.limits.pixels + (1 << 20)
            for message, parts in read_messages(pipe, most):
                if "file" in message:
                    at, done = int(message["file"]), False
                elif "row" in message:
                    self.rows_read += 1
                    if self.rows_read > self.limits.rows:
                        self.refused.append(Refused("", "too_many_rows", f"at most {self.limits.rows} in all files"))
                        return len(names)
                    yield _row(names[at], message, parts)
                elif "refused" in message:
                    self._refuse(names[at], str(message["refused"]), str(message["detail"]))
                elif "done" in message:
                    done = True
                    self._pictures.difference_update(map(str, message["named"]))
            if done and at == len(names) - 1:
                return len(names)
            child.wait()
            self._refuse(names[at], _why(child.returncode), "")
        except _TooSlow:
            self._refuse(names[at], "out_of_time", f"no row for {self.limits.silence_seconds:g} seconds")
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError, EOFError, BrokenPipeError):
            child.kill()
            child.wait()
            self._refuse(names[min(at, len(names) - 1)], _why(child.returncode), "")
        finally:
            child.kill()
            child.stdout.close()
            child.wait()
        return at + 1

    def _refuse(self, name: str, reason: str, detail: str) -> None:
        known = reason if reason in FILES else "reader_died"
        # The name has passed `name_fault`.
        self.refused.append(Refused(name, known, shown(detail, 200)))


def _environment() -> dict[str, str]:
    """Nothing of this process's own but the way to Python's packages: no token, no proxy, no endpoint."""
    paths = [str(_ROOT), *(path for path in sys.path if path and os.path.isdir(path))]
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT") if name in os.environ}
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
        "PYTHONHASHSEED": "0",
        "LC_ALL": "C.UTF-8",
        # Arrow's own pools reserve gigabytes of addresses, and threads some megabytes each: the limit counts them.
        "ARROW_DEFAULT_MEMORY_POOL": "system",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "1",
    }


def _why(status: int) -> str:
    """What the end of a child says."""
    if status == -signal.SIGXCPU:
        return "out_of_time"
    # C++ ends a process that has no memory left for an exception.
    return "out_of_memory" if status in (OUT_OF_MEMORY, -signal.SIGABRT) else "reader_died"


class _TooSlow(Exception):
    """The child sent nothing for too long."""


class _Patient(io.RawIOBase):
    """The child's output, with a limit on how long to wait for the next piece. The time during which nobody reads does
    not count."""

    def __init__(self, pipe: IO[bytes], seconds: float) -> None:
        self._pipe, self._seconds = pipe, seconds
        self._selector = selectors.DefaultSelector()
        self._selector.register(pipe, selectors.EVENT_READ)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        deadline = time.monotonic() + self._seconds
        if not self._selector.select(max(deadline - time.monotonic(), 0)):
            raise _TooSlow
        data = os.read(self._pipe.fileno(), len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _row(file: str, message: dict[str, Any], parts: list[bytes]) -> RawRow:
    values = {str(name): value for name, value in message["values"].items() if name in COLUMNS}
    if not all(value is None or isinstance(value, str | int | float) for value in values.values()):
        raise ValueError("a value")
    for (name, found), png in zip(message["pictures"].items(), parts, strict=True):
        if name in IMAGES:
            fault = found["fault"] if found["fault"] in REASONS else None
            values[name] = Picture(png, int(found["width"]), int(found["height"]), str(found["content"]), fault)
    reasons = tuple(dict.fromkeys(code for code in message["reasons"] if code in REASONS))
    notes = tuple(code for code in message["notes"] if code in NOTES)
    return RawRow(file, int(message["row"]), values, reasons, notes)
