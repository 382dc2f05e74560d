"""Training histories as small line charts: coordinates for the report's template, no pictures."""

import json
import math
from pathlib import Path
from typing import Any

from evaluation.report.reading import MOST_BYTES, MOST_NUMBER, clean
from recipes import RecipeError

METRICS = {
    "loss": "Loss",
    "rewards/margins": "Reward margin",
    "rewards/accuracies": "Reward accuracy",
    "error_change/chosen": "Change of the error on the chosen picture (above 0 both pictures got worse)",
}


def _history(path: Path) -> list[dict[str, Any]]:
    """The logged metrics in a training.json: a list of records, or a mapping that holds one as `history`.

    A diverged run logs NaN, so that is read; a file that is no JSON, or above 64 MB, raises a `RecipeError`."""
    try:
        if not path.is_file():
            raise RecipeError(f"{path}: is no file; train again, or move it")
        if path.stat().st_size > MOST_BYTES:
            raise RecipeError(f"{path}: {path.stat().st_size:,} bytes, expected at most {MOST_BYTES:,}")
        value = json.loads(path.read_text("utf8"))
    except RecipeError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise RecipeError(f"{path}: cannot be read as JSON ({type(error).__name__}); train again, or move it") from None
    records = value.get("history", []) if isinstance(value, dict) else value
    if not isinstance(records, list):
        raise RecipeError(f"{path}: history: found no list, expected the records that training logs")
    return [record for record in records if isinstance(record, dict) and _is_number(record.get("step"))]


def _is_number(value: Any) -> bool:
    # NaN is one, which a diverged run logs; a number that no drawing could hold is none.
    return isinstance(value, int | float) and not isinstance(value, bool) and not abs(value) > MOST_NUMBER


def _points(history: list[dict[str, Any]], metric: str) -> list[tuple[float, float]]:
    points = [(float(r["step"]), float(r[metric])) for r in history if _is_number(r.get(metric))]
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]


def _short(value: float) -> str:
    return f"{value:.3g}"


def training_curves(experts: Path) -> list[dict[str, Any]]:
    """What to draw for each metric: small charts, one an expert, all on the same two axes.

    Args:
        experts (`Path`): folder with `<category>/training.json`.

    Returns:
        `list[dict]`: for each metric that was logged `title`, `low`, `high`, `steps` (the axes' ends, as text) and
        `charts` of `category`, `points` (an SVG polyline in a box of 100 x 40), `last` (the last value, as text).
    """
    histories = {path.parent.name: _history(path) for path in sorted(experts.glob("*/training.json"))}
    found = []
    for metric, title in METRICS.items():
        series = {category: _points(history, metric) for category, history in histories.items()}
        series = {category: points for category, points in series.items() if points}
        if not series:
            continue
        values = [y for points in series.values() for _, y in points]
        low, high = min(0.0, min(values)), max(values)
        span = (high - low) or 1.0
        last_step = max(x for points in series.values() for x, _ in points) or 1.0
        charts = [
            {
                "category": clean(category),
                "points": " ".join(f"{100 * x / last_step:.2f},{38 - 36 * (y - low) / span:.2f}" for x, y in points),
                "last": _short(points[-1][1]),
            }
            for category, points in series.items()
        ]
        found.append(
            {"title": title, "low": _short(low), "high": _short(high), "steps": _short(last_step), "charts": charts}
        )
    return found
