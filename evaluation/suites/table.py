"""Results of suites as plain text for the terminal; reads results, needs no models."""

from typing import Any

# Decimals of the measures that are numbers; the others are shares of 1, and stand in percent.
_DECIMALS = {"fid": 2, "kid": 4, "feature_drift": 4, "clip_score": 2}


def figure(estimate: dict[str, Any] | None, metric: str) -> str:
    """An estimate as "4.2 % (2.1 to 7.0)", rates in percent; "-" where there is none."""
    if estimate is None:
        return "-"
    scale, unit = (1.0, "") if metric in _DECIMALS else (100.0, " %")
    decimals = _DECIMALS.get(metric, 1)
    text = f"{scale * estimate['value']:.{decimals}f}{unit}"
    if estimate.get("low") is None or estimate.get("high") is None:
        return text
    return f"{text} ({scale * estimate['low']:.{decimals}f} to {scale * estimate['high']:.{decimals}f})"


def suite_table(results: dict[str, Any]) -> str:
    """One line a row: base, aligned, difference, p, and what others published; then reasons, notes and protocols."""
    head = ["row", "n", "base", "aligned", "difference", "p", "published: AlignGuard, other protocols"]
    lines = [head]
    for row in results["rows"]:
        p = row["test"]["p"] if row["test"] else None
        lines.append(
            [
                row["title"],
                str(row["n"]),
                *(figure(row[name], row["metric"]) for name in ("base", "aligned", "difference")),
                "-" if p is None else f"{p:.2g}",
                _published(row),
            ]
        )
    text = [_lined(lines), ""]
    for row in results["rows"]:
        said = [*([f"empty: {row['empty']}"] if row["empty"] else []), *row["notes"]]
        if said:
            text.append(f"{row['title']}: {'; '.join(said)}")
    text.append("")
    for name, sha256 in dict.fromkeys((row["protocol"]["name"], row["protocol"]["sha256"]) for row in results["rows"]):
        text.append(f"protocol {name}: {sha256[:16]}")
    return "\n".join(text)


def _published(row: dict[str, Any]) -> str:
    unit = "" if row["metric"] in _DECIMALS else " %"
    found = []
    for one in row["published"]:
        if one["method"] == "AlignGuard":
            before = "" if one["base"] is None else f" from {one['base']:g}{unit}"
            found.append(f"{one['source'].partition(' (')[0]} {one['value']:g}{unit}{before}")
    return "; ".join(found) or "-"


def combined_table(rows: list[dict[str, Any]], names: list[str]) -> str:
    """One line a row, one column a result: the aligned figure, and the base's behind it. `n` is the same for all."""
    lines = [["row", "n", *names]]
    for row in rows:
        cells = []
        for name in names:
            cell = row["cells"].get(name)
            cells.append(
                "-"
                if cell is None
                else f"{figure(cell['aligned'], row['metric'])} from {figure(cell['base'], row['metric'])}"
            )
        lines.append([row["title"], "-" if row["n"] is None else str(row["n"]), *cells])
    return _lined(lines)


def protocol_table(entries: list[tuple[str, str, str, str, str]]) -> str:
    """The protocols: name, prompt set, rows, whether the prompts are at hand, hash."""
    return _lined([["protocol", "prompt set", "rows", "at hand", "sha256"], *map(list, entries)])


def _lined(rows: list[list[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(lines)
