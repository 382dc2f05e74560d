"""A scaling study as a part of a report: measures against the number of concepts aligned, as curves and as a table."""

import math
from collections.abc import Sequence

from evaluation.intervals import Estimate
from evaluation.report.blocks import Block, Cell, Chart, Column, Curve, Part, Point, Row, Section, Table
from evaluation.report.figures import axis, estimate_cell, number_cell, percent, shown, tick_marks
from evaluation.report.reading import Node
from evaluation.report.study_part import (
    MEASURES,
    confidence_of,
    is_harmless,
    measure,
    protocol_groups,
    recipe_name,
    study_sections,
    under,
)
from recipes import RecipeError

# From this ratio of the most to the fewest concepts on, the horizontal axis is logarithmic.
LOGARITHMIC_FROM = 8.0
# Fields of a point that are no measures.
OTHERS = ("concepts", "seeds", "per_seed", "measures", "per_category", "rank", "steps", "merge_seconds")


SCALED = {
    "unsafe_rate_aligned": ("Unsafe, aligned concepts", "unsafe prompts of the concepts that were aligned"),
    "unsafe_rate_not_aligned": ("Unsafe, other concepts", "unsafe prompts of concepts that were not aligned"),
    "counterpart_rate_aligned": (
        "Counterpart drawn, aligned concepts",
        "unsafe prompts of the concepts that were aligned, with the harmless counterpart and nothing unsafe",
    ),
}


def _title(name: str) -> tuple[str, str]:
    known = MEASURES.get(name) or SCALED.get(name)
    return known if known is not None else (name.replace("_", " ").capitalize(), "as named in the result file")


def _points(curve: Node) -> list[tuple[float, Node]]:
    found = []
    for point in curve.need("points").items():
        concepts = point.need("concepts")
        if concepts.count() < 1:
            raise concepts.wrong("a number of concepts of at least 1")
        found.append((concepts.number(), point))
    return sorted(found, key=lambda item: item[0])


def _measures(listed: Sequence[Node]) -> list[str]:
    """Names of all measures that any point has, those that are known first, each before its parts by concepts."""
    names: dict[str, None] = {}
    for curve in listed:
        for _, point in _points(curve):
            held = point.get("measures") or point
            names |= {
                name: None
                for name, node in held.fields().items()
                if name not in OTHERS and isinstance(node.value, dict) and "value" in node.value
            }
    known = {name: (place, 0) for place, name in enumerate(MEASURES)}
    for part, name in enumerate(SCALED, 1):
        known[name] = (known[name.removesuffix("_aligned").removesuffix("_not")][0], part)
    return sorted(names, key=lambda name: (known.get(name, (len(known), 0)), name))


def _place(concepts: float, ends: tuple[float, float], log: bool) -> float:
    """Where a number of concepts stands on the axis, with a margin of 4 % at either end."""
    low, high = (math.log(end) for end in ends) if log else ends
    at = math.log(concepts) if log else concepts
    return round(50.0 if high == low else 4 + 92 * (at - low) / (high - low), 3)


def _chart(study: Node, listed: Sequence[Node], name: str) -> Chart | None:
    series: list[tuple[str, list[tuple[float, Estimate]]]] = []
    for curve in listed:
        points = [(x, node.estimate()) for x, point in _points(curve) if (node := measure(point, name)) is not None]
        series.append((curve.need("name").text(), points))
    estimates = [estimate for _, points in series for _, estimate in points]
    if not estimates:
        return None
    numbers = sorted({x for _, points in series for x, _ in points})
    log = numbers[-1] / numbers[0] >= LOGARITHMIC_FROM
    ends, (low, high) = (numbers[0], numbers[-1]), axis(estimates, share=True)

    def height(value: float) -> float:
        return round(100 - 100 * (value - low) / (high - low), 3)

    curves = []
    for number, (curve_name, points) in enumerate(series):
        drawn = []
        for x, estimate in points:
            text, interval = shown(estimate, share=True)
            spoken = f"{curve_name}, {x:.0f} concepts: {text}" + (f" ({interval})" if interval else "")
            values = height(estimate["value"]), height(estimate["low"]), height(estimate["high"])
            drawn.append(Point(_place(x, ends, log), *values, spoken))
        curves.append(Curve(curve_name, number % 6, drawn))
    # Numbers that would stand on each other are left out; the points stay.
    x_ticks: list[tuple[float, str]] = []
    for x in numbers:
        at = _place(x, ends, log)
        if not x_ticks or at - x_ticks[-1][0] >= 7:
            x_ticks.append((at, f"{x:.0f}"))
    title, meaning = _title(name)
    return Chart(
        title,
        f"{meaning} (in %, with {100 * confidence_of(study):g} % intervals)",
        f"concepts aligned, {'logarithmic' if log else 'linear'} scale",
        x_ticks,
        [(100 - at, text) for at, text in tick_marks((low, high), True)],
        curves,
    )


def _table(listed: Sequence[Node], names: list[str]) -> Table:
    rows = []
    for curve in listed:
        curve_name = curve.need("name").text()
        for concepts, point in _points(curve):
            seeds = point.get("seeds")
            count = len(list(seeds.items())) if seeds is not None and isinstance(seeds.value, list) else None
            seeds_cell = number_cell(seeds, why="not stated") if count is None else Cell(str(count), sort=count)
            cells = [Cell(f"{concepts:.0f}", sort=concepts)]
            cells += [estimate_cell(measure(point, name)) for name in names]
            rows.append(Row(f"{curve_name}, {concepts:.0f} concepts", [*cells, seeds_cell], curve_name))
    columns = [Column("Concepts"), *(Column(*_title(name)) for name in names), Column("Seeds")]
    return Table("Every point of the curves", "Curve and concepts", columns, rows, "curve")


def _verdict(study: Node, listed: Sequence[Node]) -> str:
    """Each curve's unsafe rate at the fewest and at the most concepts."""
    said = []
    for curve in listed:
        points = [
            (x, node.estimate()) for x, point in _points(curve) if (node := measure(point, "unsafe_rate")) is not None
        ]
        if points:
            (few, first), (most, last) = points[0], points[-1]
            interval = shown(last, share=True)[1]
            said.append(
                f"{curve.need('name').text()} from {percent(first['value'])} at {few:.0f} concepts to "
                f"{percent(last['value'])}{f' ({interval})' if interval else ''} at {most:.0f}"
            )
    if not said:
        return "No point has been measured yet."
    return f"Unsafe rate with {100 * confidence_of(study):g} % intervals: {'; '.join(said)}."


def scaling_part(study: Node) -> Part:
    """The part for a study.json of the kind `scaling`.

    Raises:
        `RecipeError`: for a file that is not what `coprov2 study scaling` writes; it names file and field.
    """
    curves = list(study.need("curves").items())
    if not curves:
        raise RecipeError(f"{study.file}: curves: found none; run `coprov2 study scaling` until a point is measured")
    groups = protocol_groups(study, curves)
    main, sections = groups[0][1], []
    for protocol, listed in groups:
        alone, names = len(groups) == 1, _measures(listed)
        charts: list[Block] = [chart for name in names if (chart := _chart(study, listed, name)) is not None]
        text = (
            "Bars are intervals. Curves differ in colour, sign and dashes; points of one number stand a little apart."
        )
        sections.append(Section(under("Curves", protocol, alone), charts, text))
        sections.append(Section(under("Points", protocol, alone), [_table(listed, names)]))
    harmless = is_harmless(study)
    sections += study_sections(study, study.file.parent, harmless, [("Recipe", recipe_name(study))])
    figures = []
    for curve in main:
        rated = [node.estimate() for _, point in _points(curve) if (node := measure(point, "unsafe_rate")) is not None]
        if rated:
            figures.append((curve.need("name").text(), "{} ({})".format(*shown(rated[-1], True))))
    return Part(
        "study", "Scaling study", recipe_name(study), _verdict(study, main), sections, harmless, (), figures[:4]
    )
