"""A study's results in plain text, for the terminal, or in Markdown. Reads study.json, which may be anyone's; needs no
models."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evaluation.report.reading import Node
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
    # Over aligned concepts and others alike, as the difference is.
    "unsafe_rate": "unsafe",
    "unsafe_rate_aligned": "unsafe, aligned",
    "unsafe_rate_not_aligned": "unsafe, not aligned",
    "unsafe_rate_unseen_concepts": "unsafe, unseen",
    "counterpart_rate_aligned": "counterpart, aligned",
    "fidelity_lost": "fidelity lost",
}


def study_table(results: dict[str, Any], markdown: bool = False, file: Path = Path("study.json")) -> str:
    """A table a protocol: one line a variant, and of a scaling study one a variant and number of concepts; then what
    is missing.

    Args:
        results (`dict`): study.json.
        markdown (`bool`, *optional*, defaults to `False`): tables in Markdown in place of columns of one width.
        file (`Path`, *optional*): where they stand, for errors.

    Raises:
        `RecipeError`: for results that no study writes; it names the field.
    """
    study = Node(file, "", results)
    merges = study.need("kind").text() == "merge"
    tables: dict[str, list[Node]] = {}
    names: dict[str, str] = {}
    for entry in study.need("rows" if merges else "curves").items():
        # Results of before protocols were named are of one.
        protocol = entry.get("protocol") or study.get("protocol")
        sha256, name = ("", "not named") if protocol is None else _named(protocol)
        tables.setdefault(sha256, []).append(entry)
        names[sha256] = name
    own = study.get("protocol")
    main = None if own is None else _named(own)[0]
    lines = []
    for sha256 in sorted(tables, key=lambda known: known != main):
        # A name of several lines would look like rows.
        made = (_merge_rows if merges else _scaling_rows)(tables[sha256])
        rows = [[" ".join(cell.split()) for cell in row] for row in made]
        said = f"Protocol {names[sha256]} ({sha256[:12]}):"
        lines += [said, "", *_markdown(rows), ""] if markdown else [said, *_aligned(rows), ""]
    tail = [
        f"In brackets: {100 * study.need('confidence').number():g} % intervals over seeds and pictures. "
        f"Difference: unsafe rate less that of {study.need('reference').text()} in points, p after Holm."
    ]
    if len(tables) > 1:
        tail.append("Figures of several protocols (other seeds or prompts) are not comparable with each other.")
    missing = list(study.need("missing").items())
    tail += [f"{len(missing)} of the study are missing:"] if missing else []
    tail += [
        "  {}, seed {}: {}".format(*(entry.need(key).text() for key in ("name", "seed", "reason")))
        for entry in missing[:10]
    ]
    tail += ["  ..."] if len(missing) > 10 else []
    return "\n".join([*lines, *tail])


def _named(protocol: Node) -> tuple[str, str]:
    return protocol.need("sha256").text(), protocol.need("name").text()


def _merge_rows(listed: Sequence[Node]) -> list[list[str]]:
    rows = [["variant", "rank", "seeds", *MERGE.values(), "difference", "p", "merge", "tuning", "memory"]]
    for row in listed:
        rows.append(
            [
                row.need("name").text(),
                _rank(row),
                str(len(list(row.need("seeds").items()))),
                *_measures(row, MERGE),
                *_paired(row.get("paired")),
                _number(row.get("merge_seconds"), "s"),
                _number(row.get("tune_seconds"), "s"),
                _number(row.get("peak_mib"), "MiB"),
            ]
        )
    return rows


def _scaling_rows(listed: Sequence[Node]) -> list[list[str]]:
    rows = [["variant", "concepts", "rank", "seeds", *SCALING.values(), "difference", "p"]]
    for curve in listed:
        for point in curve.need("points").items():
            rows.append(
                [
                    curve.need("name").text(),
                    point.need("concepts").text(),
                    _rank(point),
                    str(len(list(point.need("seeds").items()))),
                    *_measures(point, SCALING),
                    *_paired(point.get("paired")),
                ]
            )
    return rows


def _rank(row: Node) -> str:
    rank = row.get("rank")
    return "-" if rank is None else rank.text()


def _measures(row: Node, names: dict[str, str]) -> list[str]:
    measures = row.need("measures")
    return [percent(None if (found := measures.get(name)) is None else {**found.estimate()}) for name in names]


def _paired(paired: Node | None) -> list[str]:
    if paired is None:
        return ["-", "-"]
    difference, low, high = (paired.need(key).number() for key in ("difference", "low", "high"))
    p = paired.need("p_holm").p()
    # Below the smallest number it is 0, which no test's p is.
    return [
        f"{100 * difference:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})",
        f"{p:.2g}" if p > 0 else "< 1e-300",
    ]


def _number(value: Node | None, unit: str) -> str:
    return "-" if value is None else f"{value.number():.1f} {unit}"


def _markdown(rows: list[list[str]]) -> list[str]:
    lines = ["| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows]
    return [lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]
