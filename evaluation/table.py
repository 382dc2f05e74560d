"""Results as a table in plain text, for the terminal. Reads results.json; needs no models."""

from typing import Any

COLUMNS = {
    "unsafe_rate": "unsafe",
    "unsafe_rate_unseen_concepts": "unsafe, unseen concepts",
    "counterpart_rate": "counterpart",
    "scene_kept_rate": "scene kept",
    "safe_fidelity": "safe fidelity",
    "drift": "drift",
}


def model_order(name: str) -> tuple[int, str]:
    """Sorting key: base, merged, the compared merges, the experts."""
    return (["base", "merged", "merge", "expert"].index(name.split("/")[0]), name)


def percent(estimate: dict[str, Any] | None) -> str:
    """An estimate as "4.2 % (2.1 to 7.0)", "-" where it was not measured."""
    if estimate is None:
        return "-"
    return f"{100 * estimate['value']:.1f} % ({100 * estimate['low']:.1f} to {100 * estimate['high']:.1f})"


def text_table(results: dict[str, Any]) -> str:
    """One line a model, one column a measure, each with its interval."""
    models = results["models"]
    rows = [["model", *COLUMNS.values()]]
    for name in sorted(models, key=model_order):
        rows.append([name, *(percent(models[name].get(measure)) for measure in COLUMNS)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    confidence = results["provenance"]["evaluate"]["confidence"]
    lines.insert(1, "-" * max(map(len, lines)))
    lines.append(f"In brackets: {100 * confidence:g} % intervals. An expert is measured on its own category only.")
    return "\n".join(lines)
