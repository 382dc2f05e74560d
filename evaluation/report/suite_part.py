"""A suite's results as a part of a report: one row a benchmark, with published figures beside it, never in it."""

from pathlib import Path

from evaluation.report.blocks import Block, Cell, Column, IntervalPlot, Part, Row, Section, Table
from evaluation.report.figures import axis, estimate_cell, heat_cell, mark, p_value, percent, plain, shown, tick_marks
from evaluation.report.pictures import read_pairs
from evaluation.report.provenance import protocol_label, provenance_section
from evaluation.report.reading import Node, clean, read_node

# Measures that are numbers, not shares of 1.
NUMBERS = ("fid", "kid", "clip")


def is_share(metric: str) -> bool:
    """Whether a metric is a share of 1 that is shown in percent; FID, KID and CLIPScore are not."""
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
        return cell, Cell(p_value(test.number()), sort=test.number())
    p, name = test.get("p"), test.get("name") or test.get("test")
    if p is None:
        return cell, Cell(why="the test gave no p-value")
    return cell, Cell(p_value(p.number()), "" if name is None else name.text(), p.number())


def _published(row: Node, share: bool) -> list[tuple[Node, str]]:
    """The published figures of a row with their text."""
    found = row.get("published")
    texts = []
    for entry in found.items() if found is not None else ():
        value, base = entry.get("value") or entry.get("aligned"), entry.get("base")
        parts = [_figure(node, share) for node in (base, value) if node is not None]
        texts.append((entry, " → ".join(parts) or "no figure"))
    return texts


def _figure(node: Node, share: bool) -> str:
    """A published figure as it was printed: rates in percent already, so nothing is scaled."""
    if isinstance(node.value, str):
        return node.text()
    return f"{node.number():g}{' %' if share else ''}"


def _source(entry: Node) -> str:
    source, model = entry.get("source"), entry.get("base_model")
    return ", ".join(node.text() for node in (source, model) if node is not None) or "source not named"


def _note(entry: Node) -> str:
    node = entry.get("protocol") or entry.get("note") or entry.get("protocol_note")
    if node is None:
        return "protocol not stated"
    return protocol_label(node) if isinstance(node.value, dict) else node.text()


def _tables(results: Node) -> tuple[Table, Table | None]:
    rows, published = [], []
    for row in results.need("rows").items():
        name, metric = row.need("row").text(), row.need("metric").text()
        share, empty = is_share(metric), row.get("empty")
        why = empty.text() if empty is not None and not isinstance(empty.value, bool) else "not measured"
        prompt_set = row.get("prompt_set")
        theirs = _published(row, share)
        lines = [f"{text} ({_source(entry)}; {_note(entry)})" for entry, text in theirs]
        published += [
            Row(name, [Cell(_source(e)), Cell(text), Cell(_note(e)), Cell(metric)], metric) for e, text in theirs
        ]
        cells = [
            Cell(prompt_set.text()) if prompt_set is not None else Cell(why="no prompts"),
            Cell(metric),
            estimate_cell(row.get("base"), share, why),
            estimate_cell(row.get("aligned"), share, why),
            *_paired(row, share),
            Cell(lines[0], lines=lines[1:]) if lines else Cell(why="no published figure known"),
            Cell(protocol_label(row.get("protocol"))),
        ]
        rows.append(Row(name, cells, metric))
    columns = [
        Column("Prompt set"),
        Column("Metric"),
        Column("Base"),
        Column("Aligned"),
        Column("Difference", "aligned less base, same prompts and seeds"),
        Column("p", "paired test of no difference"),
        Column("Published, by others' protocols", "figures of other papers, base → aligned; not measured here"),
        Column("Our protocol", "name and the first digits of its hash"),
    ]
    own = Table("Rows of the suite", "Row", columns, rows, "metric")
    if not published:
        return own, None
    heads = [Column("Source"), Column("Base → aligned"), Column("Their protocol"), Column("Metric")]
    return own, Table("Published figures, each under its own protocol", "Row", heads, published, "metric")


def _plots(results: Node) -> list[Block]:
    """One plot for each metric, because different metrics share no axis."""
    by_metric: dict[str, list[tuple[str, str, Node]]] = {}
    for row in results.need("rows").items():
        metric = row.need("metric").text()
        for side, kind in (("base", "base"), ("aligned", "merged")):
            if (node := row.get(side)) is not None:
                by_metric.setdefault(metric, []).append((f"{row.need('row').text()}, {side}", kind, node))
    plots: list[Block] = []
    for metric, found in by_metric.items():
        share = is_share(metric)
        ends = axis([node.estimate() for _, _, node in found], share)
        marks = [mark(label, kind, node.estimate(), ends, share) for label, kind, node in found]
        meaning = "base and aligned" + (" (in %)" if share else "")
        plots.append(IntervalPlot(metric, meaning, marks, tick_marks(ends, share)))
    return plots


def _verdict(results: Node, name: str) -> str:
    """What was measured of the suite, and the first row that has two values, with its interval."""
    rows = list(results.need("rows").items())
    full = [row for row in rows if row.get("base") is not None and row.get("aligned") is not None]
    said = f"{len(full)} of {len(rows)} rows of the suite {name} have figures for base and aligned"
    if not full:
        only = sum(row.get("base") is not None or row.get("aligned") is not None for row in rows)
        return f"{said}; {only} have one of the two. Why the others are empty stands in the table."
    first = full[0]
    share = is_share(first.need("metric").text())
    before, after = first.need("base").estimate(), first.need("aligned").estimate()
    interval = shown(after, share)[1]
    figure = percent if share else plain
    said += (
        f"; {first.need('row').text()}: {figure(before['value'])} before, {figure(after['value'])} after"
        f"{f' ({interval})' if interval else ''}"
    )
    return f"{said}{'.' if len(full) == len(rows) else '; the empty rows say why.'}"


def suite_part(path: Path) -> Part:
    """The part for a suite's results.json.

    Raises:
        `RecipeError`: for a file that is not what `coprov2 evaluate --suite` writes; it names file and field.
    """
    results = read_node(path)
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
    pairs = read_pairs(path.parent, harmless)
    if pairs is not None:
        text = "Left the base model, right the aligned one. The pairs are chosen by a hash of their ids."
        sections.append(Section("Before and after, same prompt and seed", [pairs], text))
    if published is not None:
        sections.append(Section("Published figures", [published]))
    protocols = {row.need("row").text(): protocol_label(row.get("protocol")) for row in results.need("rows").items()}
    made_from = [] if provenance is None else _made_from(provenance)
    sections.append(provenance_section(list(protocols.items()), made_from, provenance))
    figures = []
    for row in results.need("rows").items():
        if (aligned := row.get("aligned")) is not None and len(figures) < 3:
            text, interval = shown(aligned.estimate(), is_share(row.need("metric").text()))
            figures.append((row.need("row").text(), text + (f" ({interval})" if interval else "")))
    return Part(f"suite-{name}", "Suite", name, _verdict(results, name), sections, harmless, (), figures)


def _heat(results: Node) -> Table | None:
    """Rates by row and category, where a row's `per_category` holds them for base or aligned."""
    found: dict[str, dict[str, Node]] = {}
    for row in results.need("rows").items():
        if not is_share(row.need("metric").text()) or (per_category := row.get("per_category")) is None:
            continue
        for category, sides in per_category.fields().items():
            for side, node in sides.fields().items():
                if side in ("base", "aligned"):
                    found.setdefault(f"{row.need('row').text()}, {side}", {})[category] = node
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
