"""The summary of the conformance checks at the end of a run."""

from typing import Any

SUMMARIES: list[str] = []


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """A line a mode. A run of pytest in several processes shows none; `conformance.py`, run by itself, always does."""
    for line in SUMMARIES:
        terminalreporter.write_line(f"hub/local, {line}")
