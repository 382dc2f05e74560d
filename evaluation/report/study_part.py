"""A merge study as a part of a report: every variant's measures, and each merge without and with the joint tuning."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from evaluation.intervals import Estimate
from evaluation.report.blocks import Block, Cell, Column, IntervalPlot, Part, Row, Section, Table
from evaluation.report.figures import (
    axis,
    estimate_cell,
    heat_cell,
    mark,
    number_cell,
    p_value,
    percent,
    shown,
    tick_marks,
)
from evaluation.report.pictures import read_pairs, variant_of
from evaluation.report.provenance import protocol_label, protocol_rows, provenance_section
from evaluation.report.reading import Node
from recipes import RecipeError

MEASURES = {
    "unsafe_rate": ("Unsafe", "unsafe prompts whose picture the judge calls unsafe; lower is better"),
    "unsafe_rate_unseen_concepts": ("Unsafe, unseen concepts", "the same for concepts that nothing was trained on"),
    "counterpart_rate": ("Counterpart drawn", "unsafe prompts that get the harmless counterpart and nothing unsafe"),
    "scene_kept_rate": ("Scene kept", "unsafe prompts whose picture holds the rest of what they name"),
    "safe_fidelity": ("Safe fidelity", "safe prompts whose picture holds everything they name"),
    "fidelity_lost": ("Fidelity lost", "safe fidelity of the base less that of the variant, same prompts and seeds"),
    "drift": ("Drift", "mean difference to the base model's picture of a safe prompt"),
}
COSTS = {
    "rank": ("Rank", "plain", "the base has no adapter"),
    "merge_seconds": ("Merge", "duration", "nothing is merged"),
    "tune_seconds": ("Tuning", "duration", "not tuned"),
    "peak_mib": ("Memory, MiB", "plain", "not measured"),
}
# Costs of some variants only; a column each where any has one.
MORE_COSTS = {
    "calibrate_seconds": ("Calibration", "duration", "no activations were collected"),
    "train_seconds": ("Training", "duration", "made of the experts"),
    "tune_peak_mib": ("Memory of tuning, MiB", "plain", "not tuned"),
}
# What the measures of a part of the concepts begin with.
_SHARES = ("unsafe_rate", "counterpart_rate")
# What names put before or after a method to say whether it was tuned.
_TUNED = re.compile(r"[\s_+,/-]*\(?(?<![a-z])(?:un|not?[ _-]?)?tun(?:ed|e|ing)(?![a-z])\)?", re.IGNORECASE)


def confidence_of(study: Node) -> float:
    """The coverage of the study's intervals, 0.95 where it does not say."""
    node = study.get("confidence")
    if node is None:
        return 0.95
    if not 0 < node.number() < 1:
        raise node.wrong("a number between 0 and 1")
    return node.number()


def measure(row: Node, name: str) -> Node | None:
    """A measure of a row or of a point; one that is known lies where a share, or a difference of two, can lie."""
    measures = row.get("measures")
    # The points of a scaling study hold theirs beside the number of concepts.
    found = row.get(name) if measures is None else measures.get(name)
    if found is not None and (name in MEASURES or name.startswith(_SHARES)):
        lowest, estimate = -1 if name == "fidelity_lost" else 0, found.estimate()
        if not lowest <= estimate["low"] <= estimate["high"] <= 1:
            raise found.wrong(f"a share from {lowest} to 1, not {estimate['low']:g} to {estimate['high']:g}")
    return found


def _missing(study: Node) -> dict[str, str]:
    """Why a variant or a measure is not there, by name, where the study says so."""
    found: dict[str, str] = {}
    node = study.get("missing")
    if node is None:
        return found
    if isinstance(node.value, dict):
        return {name: reason.text() for name, reason in node.fields().items()}
    for entry in node.items():
        if isinstance(entry.value, dict):
            name, reason = entry.get("name") or entry.get("variant"), entry.get("reason") or entry.get("why")
            seed = entry.get("seed")
            key = (name.text() if name is not None else "?") + (f", seed {seed.text()}" if seed is not None else "")
            found[key] = reason.text() if reason is not None else "not made yet"
        else:
            found[entry.text()] = "not made yet"
    return found


def _paired(row: Node, reference: str) -> tuple[Cell, Cell, Cell]:
    """Difference against the reference, p, and p after Holm's correction."""
    node = row.get("paired")
    if node is None:
        name = row.need("name").text()
        why = "the reference itself" if name == reference else "not compared"
        return Cell(why=why), Cell(why=why), Cell(why=why)
    difference = node.get("difference")
    cell = Cell(why="not compared")
    if difference is not None:
        found = difference.estimate()
        low, high = node.get("low"), node.get("high")
        if low is not None and high is not None:
            found = Estimate(value=found["value"], low=low.number(), high=high.number(), n=1)
            if not -1 <= found["low"] <= found["value"] <= found["high"] <= 1:
                raise node.wrong("low <= difference <= high from -1 to 1")
        ends = f"{100 * found['low']:+.1f} to {100 * found['high']:+.1f}" if found["n"] else ""
        cell = Cell(f"{100 * found['value']:+.1f} points", ends, found["value"])
    return cell, number_cell(node.get("p"), "p_value"), number_cell(node.get("p_holm"), "p_value")


def _seeds(row: Node) -> Cell:
    node = row.get("seeds")
    if node is None:
        return Cell(why="not stated")
    if not isinstance(node.value, list):
        return number_cell(node)
    names = [seed.text() for seed in node.items()]
    if not names:
        return Cell(why="none yet")
    return Cell(str(len(names)), ", ".join(names[:8]) + (" …" if len(names) > 8 else ""), len(names))


def _spread(row: Node, name: str) -> str:
    """The least and the most of a measure over the seeds, as text."""
    per_seed = row.get("per_seed")
    values = []
    for found in per_seed.fields().values() if per_seed is not None else ():
        if (node := found.get(name)) is not None:
            values.append(node.estimate()["value"])
    return f"seeds {100 * min(values):.1f} to {100 * max(values):.1f}" if len(values) > 1 else ""


def _measure_cell(row: Node, name: str) -> Cell:
    found = measure(row, name)
    if found is None:
        why = "the base is what it is measured from" if row.need("name").text() == "base" else "not measured"
        return Cell(why=why if name in ("drift", "fidelity_lost") else "not measured")
    cell, spread = estimate_cell(found), _spread(row, name)
    if name == "fidelity_lost":
        cell = replace(cell, text=cell.text.replace("%", "points"))
    return replace(cell, lines=[spread] if spread else ())


def protocol_groups(study: Node, entries: Sequence[Node]) -> list[tuple[Node | None, list[Node]]]:
    """Rows or curves by the protocol that they name, the study's own first: two protocols share no table and no plot.

    Those that name none are of the study's."""
    own = study.get("protocol")
    groups: dict[str, tuple[Node | None, list[Node]]] = {}
    for entry in entries:
        protocol = entry.get("protocol") or own
        groups.setdefault(_hash_of(protocol), (protocol, []))[1].append(entry)
    return [groups[key] for key in sorted(groups, key=lambda key: key != _hash_of(own))]


def _hash_of(protocol: Node | None) -> str:
    if protocol is None or not isinstance(protocol.value, dict):
        return protocol_label(protocol)
    return protocol.need("sha256").text()


def under(title: str, protocol: Node | None, alone: bool) -> str:
    """A section's title, with the protocol where there are several."""
    return title if alone else f"{title}, under {protocol_label(protocol)}"


def _whole(listed: Sequence[Node], reference: str) -> Table:
    costs = {**COSTS, **{key: cost for key, cost in MORE_COSTS.items() if any(row.get(key) for row in listed)}}
    rows = []
    for row in listed:
        name, tuned, group = row.need("name").text(), row.get("tuned"), row.get("group")
        merged = tuned is not None and name != "base"
        cells = [
            Cell("yes" if tuned.flag() else "no") if tuned is not None and merged else Cell(why="not a merge"),
            *(_measure_cell(row, key) for key in MEASURES),
            *_paired(row, reference),
            *(number_cell(row.get(key), text, why) for key, (_, text, why) in costs.items()),
            _seeds(row),
        ]
        rows.append(Row(name, cells, group.text() if group is not None else "", name == reference))
    columns = [
        Column("Tuned", "whether the joint tuning followed"),
        *(Column(title, meaning) for title, meaning in MEASURES.values()),
        Column("Difference", "unsafe rate less the reference's, same prompts and seeds"),
        Column("p", "McNemar's test against the reference"),
        Column("p, Holm", "corrected for the number of comparisons"),
        *(Column(title) for title, _, _ in costs.values()),
        Column("Seeds"),
    ]
    return Table("All variants", "Variant", columns, rows, "group")


def stem(name: str) -> str:
    """A variant's name without what says that it was tuned, so that both kinds of one merge meet."""
    return _TUNED.sub("", name).strip() or name


def _both_kinds(rows: Sequence[Node]) -> list[tuple[str, str, dict[bool, Node]]]:
    """Variants but the base as (name, group, row by whether it was tuned); two that share a stem stand together.

    Where a stem has several rows of one kind, each stands alone under its whole name."""
    found: dict[str, list[tuple[bool, Node]]] = {}
    for row in rows:
        name, tuned = row.need("name").text(), row.get("tuned")
        if tuned is not None and name != "base":
            found.setdefault(stem(name), []).append((tuned.flag(), row))
    listed = []
    for name, kinds in found.items():
        groups = [group.text() if (group := row.get("group")) else "" for _, row in kinds]
        if len({tuned for tuned, _ in kinds}) == len(kinds):
            listed.append((name, groups[0], dict(kinds)))
        else:
            listed += [
                (row.need("name").text(), group, {tuned: row})
                for (tuned, row), group in zip(kinds, groups, strict=True)
            ]
    return listed


def _side_by_side(listed: Sequence[Node], reference: str) -> Table | None:
    """Each variant without and with tuning in one row; None where no variant was made in both ways."""
    found = _both_kinds(listed)
    if not any(len(kinds) == 2 for _, _, kinds in found):
        return None
    names = ("unsafe_rate", "unsafe_rate_unseen_concepts", "counterpart_rate", "fidelity_lost")
    absent = {False: Cell(why="not made without tuning"), True: Cell(why="not made with tuning")}
    rows = []
    for name, group, kinds in found:
        cells = [
            _measure_cell(kinds[tuned], key) if tuned in kinds else absent[tuned]
            for key in names
            for tuned in (False, True)
        ]
        for tuned in (False, True):
            _, p, p_holm = _paired(kinds[tuned], reference) if tuned in kinds else (absent[tuned],) * 3
            cells.append(p_holm if p_holm.text else p)
        first, tuning = kinds.get(False) or kinds[True], kinds.get(True)
        cells += [
            number_cell(first.get("rank"), why="not stated"),
            number_cell(first.get("merge_seconds"), "duration", "nothing is merged"),
            number_cell(tuning.get("tune_seconds"), "duration") if tuning else absent[True],
            number_cell(first.get("peak_mib")),
        ]
        marked = any(row.need("name").text() == reference for row in kinds.values())
        rows.append(Row(name, cells, group, marked))
    ways = ("without tuning", "with tuning")
    p_title = "p against the reference (Holm)"
    columns = [Column(way, MEASURES[key][1], MEASURES[key][0]) for key in names for way in ways]
    columns += [Column(way, p_title, p_title) for way in ways]
    columns += [Column(title) for title, _, _ in COSTS.values()]
    return Table("Merges without and with the same joint tuning", "Merge", columns, rows, "group")


def _heat(rows: Sequence[Node]) -> Table | None:
    categories = sorted({c for row in rows if (node := row.get("per_category")) for c in node.fields()})
    if not categories:
        return None
    shaded = []
    for row in rows:
        per_category, group = row.get("per_category"), row.get("group")
        found = per_category.fields() if per_category is not None else {}
        cells = [
            heat_cell(found[c].get("unsafe_rate") if c in found else None, "not drawn for this category")
            for c in categories
        ]
        shaded.append(Row(row.need("name").text(), cells, group.text() if group is not None else ""))
    heads = [Column(category) for category in categories]
    return Table("Unsafe rate in % by variant and category", "Variant", heads, shaded, "group")


def _kind(row: Node, reference: str) -> str:
    name = row.need("name").text()
    if name == "base":
        return "base"
    if name == reference:
        return "merged"
    group = row.get("group")
    return "expert" if group is not None and "control" in group.text() else "merge"


def _plots(rows: Sequence[Node], reference: str) -> list[Block]:
    plots: list[Block] = []
    for key, (title, meaning) in MEASURES.items():
        found = [
            (row.need("name").text(), _kind(row, reference), node.estimate())
            for row in rows
            if (node := measure(row, key)) is not None
        ]
        if found:
            ends = axis([estimate for _, _, estimate in found], share=True)
            found.sort(key=lambda item: item[2]["value"])
            marks = [mark(name, kind, estimate, ends, True) for name, kind, estimate in found]
            unit = "%"
            if key == "fidelity_lost":
                unit = "points"
                marks = [replace(m, text=m.text.replace("%", unit), spoken=m.spoken.replace("%", unit)) for m in marks]
            plots.append(IntervalPlot(title, f"{meaning} (in {unit})", marks, tick_marks(ends, True)))
    return plots


def _verdict(study: Node, listed: Sequence[Node], reference: str) -> str:
    """The variant with the lowest unsafe rate against base and reference, of those under one protocol."""
    rows = {row.need("name").text(): row for row in listed}
    rates = {name: node.estimate() for name, row in rows.items() if (node := measure(row, "unsafe_rate")) is not None}
    ranked = sorted((name for name in rates if name != "base"), key=lambda name: rates[name]["value"])
    if not ranked:
        return "No variant has been measured yet."
    best = ranked[0]
    text, interval = shown(rates[best], share=True)
    whole = f"has the lowest unsafe rate of {len(ranked)} variants" if len(ranked) > 1 else "has the unsafe rate"
    said = f"{best} {whole}{':' if len(ranked) > 1 else ''} {text}"
    if interval:
        said += f" ({100 * confidence_of(study):g} % interval {interval.replace(' to ', ' % to ')} %)"
    if "base" in rates:
        said += f", base {percent(rates['base']['value'])}"
        said += _tested(rows[best]) if reference == "base" else ""
    if (unseen := measure(rows[best], "unsafe_rate_unseen_concepts")) is not None:
        said += f"; on concepts that nothing was trained on {percent(unseen.estimate()['value'])}"
    if (counterpart := measure(rows[best], "counterpart_rate")) is not None:
        said += f"; it draws the harmless counterpart for {percent(counterpart.estimate()['value'])}"
    if (lost := measure(rows[best], "fidelity_lost")) is not None:
        said += f" and loses {100 * lost.estimate()['value']:.1f} points of safe fidelity"
    said += "."
    if reference in rates and reference not in (best, "base"):
        said += f" The reference {reference} has {percent(rates[reference]['value'])}{_tested(rows[best])}."
    return said


def _tested(row: Node) -> str:
    """The p-value against the reference, in brackets; empty where there is none."""
    paired = row.get("paired")
    p = None if paired is None else paired.get("p_holm") or paired.get("p")
    if p is None:
        return ""
    value = p_value(p.p())
    return f" (paired p {value if value.startswith('<') else '= ' + value})"


def study_sections(study: Node, folder: Path, harmless: bool, rows: Sequence[tuple[str, str]]) -> list[Section]:
    """What stands at the end of both kinds of study: pictures, what is missing, protocol and provenance."""
    sections = []
    # Not those of an evaluation in the same folder, which may be of another model and of other data.
    pairs = read_pairs(folder, harmless)
    if pairs is not None:
        after = variant_of(folder) or "the aligned one"
        text = f"Left the base model, right {after}. The pairs are chosen by a hash of their ids."
        sections.append(Section("Before and after, same prompt and seed", [pairs], text))
    if missing := _missing(study):
        lines = [Row(name, [Cell(reason)]) for name, reason in missing.items()]
        sections.append(Section("Not measured", [Table("What is missing, and why", "What", [Column("Why")], lines)]))
    protocol = protocol_rows(study.get("protocol"))
    if (counting := study.get("counting")) is not None:
        protocol += [(name.replace("_", " ").capitalize(), node.text()) for name, node in counting.fields().items()]
    seeds = study.get("seeds")
    if seeds is not None and isinstance(seeds.value, list):
        protocol.append(("Seeds", ", ".join(seed.text() for seed in seeds.items())))
    protocol.append(("Confidence of the intervals", f"{100 * confidence_of(study):g} %"))
    stated = node.fields() if (node := study.get("protocols")) is not None else {}
    return [*sections, provenance_section(protocol, rows, study.get("provenance"), stated)]


def is_harmless(study: Node) -> bool:
    """Whether harmless things play the unsafe ones; a file that does not say so is taken for one where none do."""
    for node in (study, study.get("provenance")):
        if node is not None and (found := node.get("harmless_world")) is not None:
            return found.flag()
    return False


def recipe_name(study: Node) -> str:
    """The recipe's name."""
    node = study.get("recipe")
    if node is None:
        return "no recipe named"
    return node.need("name").text() if isinstance(node.value, dict) else node.text()


def merge_study_part(study: Node) -> Part:
    """The part for a study.json of the kind `merge`.

    Raises:
        `RecipeError`: for a file that is not what `coprov2 study merge` writes; it names file and field.
    """
    reference_node = study.get("reference")
    reference = "" if reference_node is None else reference_node.text()
    rows = list(study.need("rows").items())
    if not rows:
        raise RecipeError(f"{study.file}: rows: found none; run `coprov2 study merge` until one variant is measured")
    groups = protocol_groups(study, rows)
    main = groups[0][1]
    note = f"p-values compare with {reference}, on the same prompts and seeds." if reference else ""
    sections = []
    for protocol, listed in groups:
        alone = len(groups) == 1
        blocks = [t for t in (_side_by_side(listed, reference), _whole(listed, reference)) if t is not None]
        text = f"Intervals pool the pictures of all seeds; the spread over seeds stands below. {note}"
        sections.append(Section(under("Merges", protocol, alone), blocks, text))
        if heat := _heat(listed):
            text = "The darker a cell, the more of its pictures are unsafe."
            sections.append(Section(under("By category", protocol, alone), [heat], text))
        text = "Each plot from the lowest to the highest value; the reference stands out."
        sections.append(Section(under("Intervals", protocol, alone), _plots(listed, reference), text))
    made_from = [("Recipe", recipe_name(study)), ("Reference", reference or "none")]
    harmless = is_harmless(study)
    sections += study_sections(study, study.file.parent, harmless, made_from)
    rates = [(row.need("name").text(), node.estimate()) for row in main if (node := measure(row, "unsafe_rate"))]
    best = sorted((item for item in rates if item[0] != "base"), key=lambda item: item[1]["value"])[:2]
    base = [item for item in rates if item[0] == "base"]
    figures = [(name, "{} ({})".format(*shown(estimate, True))) for name, estimate in [*base, *best]]
    return Part(
        "study", "Merge study", recipe_name(study), _verdict(study, main, reference), sections, harmless, (), figures
    )
