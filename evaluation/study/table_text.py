"""A study's results in plain text, for the terminal, or in Markdown. Reads study.json; needs no models."""

from typing import Any

from evaluation.table import percent

MERGE = {
    "unsafe_rate": "unsafe",
    "unsafe_rate_unseen_concepts": "unsafe, unseen",
    "counterpart_rate": "counterpart",
    "safe_fidelity": "safe fidelity",
    "fidelity_lost": "fidelity lost",
    "drift": "drift",
}
SCALING = {
    "unsafe_rate_aligned": "unsafe, aligned",
    "unsafe_rate_not_aligned": "unsafe, not aligned",
    "unsafe_rate_unseen_concepts": "unsafe, unseen",
    "counterpart_rate_aligned": "counterpart, aligned",
    "fidelity_lost": "fidelity lost",
}


def study_table(results: dict[str, Any], markdown: bool = False) -> str:
    """A table a protocol: one line a variant, and of a scaling study one a variant and number of concepts; then what
    is missing.

    Args:
        results (`dict`): study.json.
        markdown (`bool`, *optional*, defaults to `False`): tables in Markdown in place of columns of one width.
    """
    key, rows_of = ("rows", _merge_rows) if results["kind"] == "merge" else ("curves", _scaling_rows)
    tables: dict[str, list[dict[str, Any]]] = {}
    names: dict[str, str] = {}
    for entry in results[key]:
        # Results of before protocols were named are of one.
        protocol = entry.get("protocol") or results.get("protocol") or {"name": "not named", "sha256": ""}
        tables.setdefault(protocol["sha256"], []).append(entry)
        names[protocol["sha256"]] = protocol["name"]
    main = (results.get("protocol") or {}).get("sha256")
    lines = []
    for sha256 in sorted(tables, key=lambda known: known != main):
        rows = rows_of(tables[sha256])
        said = f"Protocol {names[sha256]} ({sha256[:12]}):"
        lines += [said, "", *_markdown(rows), ""] if markdown else [said, *_aligned(rows), ""]
    tail = [
        f"In brackets: {100 * results['confidence']:g} % intervals over seeds and pictures. "
        f"Difference: unsafe rate less that of {results['reference']} in points, p after Holm."
    ]
    if len(tables) > 1:
        tail.append("Figures of several protocols (other seeds or prompts) are not comparable with each other.")
    missing = results["missing"]
    tail += [f"{len(missing)} of the study are missing:"] if missing else []
    tail += [f"  {entry['name']}, seed {entry['seed']}: {entry['reason']}" for entry in missing[:10]]
    tail += ["  ..."] if len(missing) > 10 else []
    return "\n".join([*lines, *tail])


def _merge_rows(listed: list[dict[str, Any]]) -> list[list[str]]:
    rows = [["variant", "rank", "seeds", *MERGE.values(), "difference", "p", "merge", "tuning", "memory"]]
    for row in listed:
        rows.append(
            [
                row["name"],
                "-" if row["rank"] is None else str(row["rank"]),
                str(len(row["seeds"])),
                *(percent(row["measures"][measure]) for measure in MERGE),
                *_paired(row["paired"]),
                _number(row["merge_seconds"], "s"),
                _number(row["tune_seconds"], "s"),
                _number(row["peak_mib"], "MiB"),
            ]
        )
    return rows


def _scaling_rows(listed: list[dict[str, Any]]) -> list[list[str]]:
    rows = [["variant", "concepts", "rank", "seeds", *SCALING.values(), "difference", "p"]]
    for curve in listed:
        for point in curve["points"]:
            rows.append(
                [
                    curve["name"],
                    str(point["concepts"]),
                    "-" if point["rank"] is None else str(point["rank"]),
                    str(len(point["seeds"])),
                    *(percent(point["measures"][measure]) for measure in SCALING),
                    *_paired(point["paired"]),
                ]
            )
    return rows


def _paired(paired: dict[str, Any] | None) -> list[str]:
    if paired is None:
        return ["-", "-"]
    ends = f"({100 * paired['low']:+.1f} to {100 * paired['high']:+.1f})"
    # Below the smallest number it is 0, which no test's p is.
    p = f"{paired['p_holm']:.2g}" if paired["p_holm"] > 0 else "< 1e-300"
    return [f"{100 * paired['difference']:+.1f} {ends}", p]


def _number(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{value:.1f} {unit}"


def _markdown(rows: list[list[str]]) -> list[str]:
    lines = ["| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows]
    return [lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]
