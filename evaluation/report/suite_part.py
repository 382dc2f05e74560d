"""A suite's results as a part of a report: one row a benchmark, with published figures beside it, never in it."""

from pathlib import Path

from evaluation.report.blocks import Block, Cell, Column, IntervalPlot, Part, Row, Section, Table
from evaluation.report.figures import axis, estimate_cell, heat_cell, mark, p_value, shown, tick_marks
from evaluation.report.pictures import read_pairs
from evaluation.report.provenance import protocol_label, provenance_section
from evaluation.report.reading import Node, clean, read_node

# Measures that are numbers, not shares of 1.
NUMBERS = ("fid", "kid", "clip", "featuredrift")
# Published figures that stand in a row itself; the others stand in a table of their own.
SHOWN = 3


def is_share(metric: str) -> bool:
    """Whether a metric is a share of 1 that is shown in percent; FID, KID, drift of features and CLIPScore are not."""
    return not metric.lower().replace("_", "").startswith(NUMBERS)


def _paired(row: Node, share: bool) -> tuple[Cell, Cell]:
    """The difference and the p-value of the paired test."""
    difference, test = row.get("difference"), row.get("test")
    cell = estimate_cell(difference, share, why="no two values to compare")
    if difference is not None and share:
        found = difference.estimate()
        ends = f"{100 * found['low']:+.1f} to {100 * found['high']:+.1f}" if found["n"] else ""
        cell = Cell(f"{100 * found['value']:+.1f} points", ends, found["value"])
    if test is None:
        return cell, Cell(why="no paired test for this metric" if difference is not None else "nothing to test")
    if not isinstance(test.value, dict):
        return cell, Cell(p_value(test.p()), sort=test.p())
    p, name = test.get("p"), test.get("name") or test.get("test")
    if p is None:
        return cell, Cell(why="the test gave no p-value")
    return cell, Cell(p_value(p.p()), "" if name is None else name.text(), p.p())


def _published_text(entry: Node, share: bool) -> str:
    value, base = entry.get("value") or entry.get("aligned"), entry.get("base")
    return " → ".join(_figure(node, share) for node in (base, value) if node is not None) or "no figure"


def _published(row: Node, share: bool) -> list[tuple[Node, str]]:
    """The published figures of a row with their text."""
    found = row.get("published")
    return [(entry, _published_text(entry, share)) for entry in (found.items() if found is not None else ())]


def _figure(node: Node, share: bool) -> str:
    """A published figure as it was printed: rates in percent already, so nothing is scaled."""
    if isinstance(node.value, str):
        return node.text()
    return f"{node.number():g}{' %' if share else ''}"


def _source(entry: Node) -> str:
    """Method, paper and base model of a published figure."""
    found = [entry.get(key) for key in ("method", "source", "base_model")]
    return ", ".join(node.text() for node in found if node is not None) or "source not named"


def title_of(row: Node) -> str:
    """What a row is called: its title, or its key."""
    return (row.get("title") or row.need("row")).text()


def _note(entry: Node) -> str:
    node = entry.get("protocol") or entry.get("note") or entry.get("protocol_note")
    if node is None:
        return "protocol not stated"
    return protocol_label(node) if isinstance(node.value, dict) else node.text()


def _notes(row: Node) -> str:
    notes = row.get("notes")
    return "; ".join(note.text() for note in notes.items()) if notes is not None else ""


def _tables(results: Node) -> tuple[Table, Table | None]:
    rows, published = [], []
    for row in results.need("rows").items():
        name, metric = title_of(row), row.need("metric").text()
        share, empty = is_share(metric), row.get("empty")
        why = empty.text() if empty is not None and not isinstance(empty.value, bool) else "not measured"
        prompt_set = row.get("prompt_set")
        theirs = _published(row, share)
        lines = [f"{text}: {_source(entry)}" for entry, text in theirs]
        if len(lines) > SHOWN:
            lines[SHOWN:] = [f"and {len(lines) - SHOWN} more below"]
        published += [Row(name, [Cell(text), Cell(_source(e)), Cell(_note(e))], metric) for e, text in theirs]
        cells = [
            Cell(prompt_set.text(), _notes(row)) if prompt_set is not None else Cell(why="no prompts"),
            Cell(metric.replace("_", " ")),
            estimate_cell(row.get("base"), share, why),
            estimate_cell(row.get("aligned"), share, why),
            *_paired(row, share),
            Cell(lines=lines) if lines else Cell(why="no published figure known"),
            Cell(protocol_label(row.get("protocol"))),
        ]
        rows.append(Row(name, cells, metric))
    columns = [
        Column("Prompt set", words=True),
        Column("Metric", words=True),
        Column("Base"),
        Column("Aligned"),
        Column("Difference", "aligned less base, same prompts and seeds"),
        Column("p", "paired test of no difference"),
        Column(
            "Published, by others' protocols", "figures of other papers, base → aligned; not measured here", words=True
        ),
        Column("Our protocol", "name and the first digits of its hash", words=True),
    ]
    own = Table("Rows of the suite", "Row", columns, rows, "metric")
    elsewhere = results.get("published_elsewhere")
    for entry in elsewhere.items() if elsewhere is not None else ():
        text = _published_text(entry, share=False)
        published.append(
            Row("No row of this suite", [Cell(text), Cell(_source(entry)), Cell(_note(entry))], "elsewhere")
        )
    if not published:
        return own, None
    heads = [Column("Base → aligned"), Column("Source", words=True), Column("Their protocol", words=True)]
    return own, Table("Published figures, each under its own protocol", "Row", heads, published, "metric")


def _plots(results: Node) -> list[Block]:
    """One plot for each metric, because different metrics share no axis."""
    by_metric: dict[str, list[tuple[str, str, Node]]] = {}
    for row in results.need("rows").items():
        metric = row.need("metric").text()
        for side, kind in (("base", "base"), ("aligned", "merged")):
            if (node := row.get(side)) is not None:
                by_metric.setdefault(metric, []).append((f"{title_of(row)}, {side}", kind, node))
    plots: list[Block] = []
    for metric, found in by_metric.items():
        share = is_share(metric)
        ends = axis([node.estimate() for _, _, node in found], share)
        marks = [mark(label, kind, node.estimate(), ends, share) for label, kind, node in found]
        meaning = "base and aligned" + (" (in %)" if share else "; the axis need not begin at 0")
        plots.append(IntervalPlot(metric.replace("_", " ").capitalize(), meaning, marks, tick_marks(ends, share)))
    return plots


def _verdict(results: Node, name: str) -> str:
    """How many rows have figures, on how many rates the aligned model is lower, and the first of them."""
    rows = list(results.need("rows").items())
    full = [row for row in rows if row.get("base") is not None and row.get("aligned") is not None]
    said = f"{len(full)} of {len(rows)} rows of the suite {name} have figures for base and aligned"
    empty = "" if len(full) == len(rows) else " The other rows say why they are empty."
    if not full:
        return f"{said}.{empty}"
    first = full[0]
    share = is_share(first.need("metric").text())
    before, after = first.need("base").estimate(), first.need("aligned").estimate()
    text, interval = shown(after, share)
    unit = " %" if share else ""
    interval = f" (interval {interval.replace(' to ', f'{unit} to ')}{unit})" if interval else ""
    return f"{said}; {title_of(first)}: {shown(before, share)[0]} before, {text} after{interval}.{empty}"


def suite_part(path: Path) -> Part:
    """The part for a suite's results.json.

    Raises:
        `RecipeError`: for a file that is not what `coprov2 evaluate --suite` writes; it names file and field.
    """
    results = read_node(path)
    _check_names(results)
    named, provenance = results.get("suite"), results.get("provenance")
    name = clean(path.parent.name) if named is None or not isinstance(named.value, str) else named.text()
    own, published = _tables(results)
    harmless_node = provenance.get("harmless_world") if provenance is not None else None
    harmless = harmless_node.flag() if harmless_node is not None else False
    note = (
        "A published figure stands beside ours under its own protocol and is never merged with it. A row without a "
        "figure says why."
    )
    sections = [Section("Rows", [own], note)]
    if plots := _plots(results):
        sections.append(Section("Intervals", plots))
    if heat := _heat(results):
        sections.append(Section("By category", [heat], "The darker a cell, the higher the rate."))
    # The suite of a run's own dataset is an evaluation in a folder of its own.
    places = (path.parent, path.parent / "evaluation")
    pairs = next((shot for place in places if (shot := read_pairs(place, harmless)) is not None), None)
    if pairs is not None:
        text = "Left the base model, right the aligned one. The pairs are chosen by a hash of their ids."
        sections.append(Section("Before and after, same prompt and seed", [pairs], text))
    if published is not None:
        sections.append(Section("Published figures", [published]))
    protocols = {title_of(row): protocol_label(row.get("protocol")) for row in results.need("rows").items()}
    made_from = [] if provenance is None else _made_from(provenance)
    stated = found.fields() if (found := results.get("protocols")) is not None else {}
    sections.append(provenance_section(list(protocols.items()), made_from, provenance, stated))
    figures: list[tuple[str, str]] = []
    for row in results.need("rows").items():
        if (aligned := row.get("aligned")) is not None and len(figures) < 3:
            text, interval = shown(aligned.estimate(), is_share(row.need("metric").text()))
            figures.append((title_of(row), text + (f" ({interval})" if interval else "")))
    return Part(f"suite-{name}", "Suite", name, _verdict(results, name), sections, harmless, (), figures)


def _check_names(results: Node) -> None:
    """That no two rows are called alike: in tables by name one would stand for both."""
    seen: set[str] = set()
    for row in results.need("rows").items():
        name = title_of(row)
        if name in seen:
            raise (row.get("title") or row.need("row")).wrong("a title that no other row has")
        seen.add(name)


def _heat(results: Node) -> Table | None:
    """Rates by row and category, where a row's `per_category` holds them for base or aligned."""
    found: dict[str, dict[str, Node]] = {}
    for row in results.need("rows").items():
        if not is_share(row.need("metric").text()) or (per_category := row.get("per_category")) is None:
            continue
        for category, sides in per_category.fields().items():
            for side, node in sides.fields().items():
                if side in ("base", "aligned"):
                    found.setdefault(f"{title_of(row)}, {side}", {})[category] = node
    if not found:
        return None
    categories = sorted({category for cells in found.values() for category in cells})
    rows = [
        Row(name, [heat_cell(cells.get(c), "no such prompts") for c in categories]) for name, cells in found.items()
    ]
    return Table("Rate in % by row and category", "Row", [Column(clean(c)) for c in categories], rows)


def _made_from(provenance: Node) -> list[tuple[str, str]]:
    rows = []
    for key, node in provenance.fields().items():
        if isinstance(node.value, str | int | float) and not isinstance(node.value, bool):
            rows.append((clean(key)[:60].replace("_", " ").capitalize(), node.text()))
    return rows
