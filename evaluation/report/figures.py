"""Numbers as text, cells and marks: one way to write a rate, an interval, a p-value, a time."""

import math
from collections.abc import Sequence

from evaluation.intervals import Estimate
from evaluation.report.blocks import Cell, Mark
from evaluation.report.reading import Node

NOT_MEASURED = "not measured"


def percent(value: float, digits: int = 1) -> str:
    """A share of 1 as a percentage."""
    return f"{100 * value:.{digits}f} %"


def duration(seconds: float) -> str:
    """A time as "42 s" or "3 min 05 s"."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def plain(value: float) -> str:
    """A number with four significant digits, written out."""
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:.2e}"


def p_value(value: float) -> str:
    """A p-value with three digits; "< 0.001" below that."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def shown(estimate: Estimate, share: bool) -> tuple[str, str]:
    """The value and its interval as text; the interval is empty where none was measured."""
    if share:
        text, ends = percent(estimate["value"]), [f"{100 * estimate[end]:.1f}" for end in ("low", "high")]
    else:
        text, ends = plain(estimate["value"]), [plain(estimate["low"]), plain(estimate["high"])]
    return text, f"{ends[0]} to {ends[1]}" if estimate["n"] else ""


def estimate_cell(node: Node | None, share: bool = True, why: str = NOT_MEASURED) -> Cell:
    """The cell of an estimate, or an empty one that says why it is."""
    if node is None:
        return Cell(why=why)
    estimate = node.estimate()
    text, small = shown(estimate, share)
    return Cell(text, small, estimate["value"])


def number_cell(node: Node | None, text: str = "plain", why: str = NOT_MEASURED) -> Cell:
    """The cell of a number, written as `plain`, `duration` or `p_value`."""
    if node is None:
        return Cell(why=why)
    value = node.p() if text == "p_value" else node.number()
    return Cell({"plain": plain, "duration": duration, "p_value": p_value}[text](value), sort=value)


def heat_cell(node: Node | None, why: str) -> Cell:
    """The cell of a rate, 0..1, with its shade."""
    if node is None:
        return Cell(why=why)
    estimate = node.estimate()
    if not 0 <= estimate["value"] <= 1:
        raise node.wrong("a rate from 0 to 1")
    small = shown(estimate, share=True)[1]
    return Cell(f"{100 * estimate['value']:.0f}", small, estimate["value"], heat=round(10 * estimate["value"]))


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers from `low` to `high`, at most about `most` (steps of 1, 2 or 5 times a power of ten)."""
    if high <= low:
        return [low]
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(step * i, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def axis(estimates: Sequence[Estimate], share: bool) -> tuple[float, float]:
    """The ends of an axis: 0 to 1 for shares that fill more than a fifth of it, else as much as the intervals need."""
    low = min((estimate["low"] for estimate in estimates), default=0.0)
    high = max((estimate["high"] for estimate in estimates), default=1.0)
    if share and low >= 0 and 0.2 < high <= 1:
        return 0.0, 1.0
    if share:
        low, high = min(low, 0.0), max(high, 0.0)
    # An interval that is narrower than the last digits of its ends has no ticks of its own.
    if high - low <= 1e-9 * max(1.0, abs(low), abs(high)):
        wider = max(1.0, 1e-6 * abs(low), 1e-6 * abs(high))
        low, high = (low, low + 0.01) if share else (low - wider, high + wider)
    marks = ticks(low, high)
    step = marks[1] - marks[0] if len(marks) > 1 else high - low
    return step * math.floor(low / step + 1e-9), step * math.ceil(high / step - 1e-9)


def mark(label: str, kind: str, estimate: Estimate, ends: tuple[float, float], share: bool) -> Mark:
    """An estimate on an axis with these ends."""

    def place(value: float) -> float:
        return round(100 * (value - ends[0]) / (ends[1] - ends[0]), 3)

    text, interval = shown(estimate, share)
    count = f", n = {estimate['n']:,}" if estimate["n"] > 1 else ""
    spoken = f"{label}: {text}" + (f" ({interval}){count}" if interval else "")
    return Mark(label, kind, text, spoken, place(estimate["value"]), place(estimate["low"]), place(estimate["high"]))


def tick_marks(ends: tuple[float, float], share: bool) -> list[tuple[float, str]]:
    """Where an axis has its marks, in percent of its length, and what they say."""
    marks = ticks(*ends)
    scale = 100.0 if share else 1.0
    return [(round(100 * (at - ends[0]) / (ends[1] - ends[0]), 3), f"{scale * at:.4g}") for at in marks]
