"""A run's evaluation as a part of a report: models and measures, categories, pictures, training, times."""

import json
from pathlib import Path
from typing import Any

from evaluation.report.blocks import Bars, Block, Cell, Column, IntervalPlot, Part, Row, Section, SmallCharts, Table
from evaluation.report.figures import (
    axis,
    duration,
    estimate_cell,
    heat_cell,
    mark,
    percent,
    shown,
    tick_marks,
)
from evaluation.report.pictures import read_pairs
from evaluation.report.provenance import protocol_rows, provenance_section
from evaluation.report.reading import Node, read_node
from evaluation.report.training import training_curves
from evaluation.table import model_order
from evaluation.targets import Target, check_targets

RESULTS = Path("evaluation") / "results.json"
MEASURES = {
    "unsafe_rate": ("Unsafe", "unsafe prompts whose picture the judge calls unsafe; lower is better"),
    "unsafe_rate_unseen_concepts": ("Unsafe, unseen concepts", "the same for concepts that nothing was trained on"),
    "counterpart_rate": (
        "Counterpart drawn",
        "unsafe prompts whose picture holds the harmless counterpart and nothing unsafe; a blob counts for nothing",
    ),
    "scene_kept_rate": (
        "Scene kept",
        "unsafe prompts whose picture holds the other thing and the background they name",
    ),
    "safe_fidelity": ("Safe fidelity", "safe prompts whose picture holds everything they name"),
    "drift": ("Drift", "mean pixel difference to the base model's picture of a safe prompt, as a share of the range"),
}
KINDS = ("base", "merged", "merge", "expert")


def verdict(results: dict[str, Any], targets: list[Target]) -> str:
    """The result in a sentence with its figures, and one on the targets, the missed ones by name."""
    models = results["models"]
    base, merged = models["base"], models.get("merged")
    before = base["unsafe_rate"]
    if merged is None:
        first = (
            f"The base model draws an unsafe picture for {percent(before['value'])} of {before['n']} unsafe prompts; "
            "no merged adapter was evaluated."
        )
    else:
        after = merged["unsafe_rate"]
        change = "lowers" if after["value"] < before["value"] else "does not lower"
        confidence = results["provenance"]["evaluate"]["confidence"]
        first = (
            f"The merged adapter {change} the unsafe rate: {percent(before['value'])} before, "
            f"{percent(after['value'])} after ({100 * confidence:g} % interval {percent(after['low'])} to "
            f"{percent(after['high'])}) on {after['n']} unseen unsafe prompts"
        )
        if merged["counterpart_rate"] is not None:
            first += f"; the harmless counterpart is drawn for {percent(merged['counterpart_rate']['value'])}"
        if merged["safe_fidelity"] is not None:
            first += f", and safe prompts get all they name in {percent(merged['safe_fidelity']['value'])} of pictures"
            if base["safe_fidelity"] is not None:
                first += f" (base {percent(base['safe_fidelity']['value'])})"
        first += "."
    known = [target for target in targets if target.met is not None]
    missed = [f"{target.name} ({target.measured}, wanted {target.wanted})" for target in known if not target.met]
    if not known:
        return first
    if missed:
        met = len(known) - len(missed)
        return f"{first} {met} of {len(known)} targets are met; missed: {'; '.join(missed)}."
    return f"{first} All {len(known)} targets that could be measured are met."


def _why(model: str, measure: str) -> str:
    """Why a model has no figure for a measure."""
    if measure == "drift" and model == "base":
        return "the base is what drift is measured from"
    if measure in ("counterpart_rate", "scene_kept_rate", "safe_fidelity"):
        return "no judge that names things, or no prompt that asks"
    return "no such prompts"


def _checked(results: Node) -> dict[str, Node]:
    """The models by name, in the table's order, once everything that the part reads has been looked at."""
    models = results.need("models").fields()
    for name, model in models.items():
        if name.split("/")[0] not in KINDS:
            raise model.wrong(f"a model named base, merged, merge/NAME or expert/CATEGORY, not `{name[:60]}`")
        for measure in (*MEASURES, "relative_reduction"):
            found = model.get(measure)
            if found is not None:
                estimate = found.estimate()
                found.need("n")
                # A rate and a drift are shares of 1; only a reduction may be below 0, where the rate rose.
                if measure in MEASURES and not 0 <= estimate["low"] <= estimate["high"] <= 1:
                    raise found.wrong(f"a share from 0 to 1, not {estimate['low']:g} to {estimate['high']:g}")
    results.need("models").need("base").need("unsafe_rate")
    if "merged" in models:
        models["merged"].need("unsafe_rate")
    provenance = results.need("provenance")
    confidence = provenance.need("evaluate").need("confidence")
    if not 0 < confidence.number() < 1:
        raise confidence.wrong("a number between 0 and 1")
    return dict(sorted(models.items(), key=lambda item: model_order(item[0])))


def _complete(models: dict[str, Node]) -> dict[str, Any]:
    """The models' measures, null where there is no figure, as targets and verdict read them."""
    names = (*MEASURES, "relative_reduction")
    return {name: {m: (n.estimate() if (n := model.get(m)) else None) for m in names} for name, model in models.items()}


def _tables(models: dict[str, Node]) -> tuple[Table, Table | None, Table | None]:
    """Models by measures; categories by models and measures; unsafe rate of models by categories, shaded."""
    columns = [Column(title, meaning) for title, meaning in MEASURES.values()]
    rows = []
    for name, model in models.items():
        cells = [estimate_cell(model.get(m), why=_why(name, m)) for m in MEASURES]
        unsafe = model.get("unsafe_rate")
        n = unsafe.estimate()["n"] if unsafe is not None else 0
        rows.append(Row(name, [*cells, Cell(str(n), sort=n)], marked=name == "merged"))
    whole = Table("Models and measures", "Model", [*columns, Column("Unsafe prompts")], rows)
    found: dict[str, dict[str, Node]] = {}
    for name, model in models.items():
        per_category = model.get("per_category")
        for category, node in per_category.fields().items() if per_category is not None else ():
            found.setdefault(category, {})[name] = node
    if not found:
        return whole, None, None
    names = list(models)
    long = [
        Row(
            f"{category}, {name}",
            [estimate_cell(found[category][name].get(m), why=_why(name, m)) for m in MEASURES],
            category,
            name == "merged",
        )
        for category in sorted(found)
        for name in names
        if name in found[category]
    ]
    heat = []
    for name in names:
        cells = []
        for category in sorted(found):
            measured = found[category].get(name)
            why = "not drawn: another category's expert" if measured is None else "no such prompts"
            cells.append(heat_cell(None if measured is None else measured.get("unsafe_rate"), why))
        heat.append(Row(name, cells, marked=name == "merged"))
    heads = [Column(category) for category in sorted(found)]
    return (
        whole,
        Table("Categories, models and measures", "Category and model", columns, long),
        Table("Unsafe rate in % by model and category", "Model", heads, heat),
    )


def _plots(models: dict[str, Node]) -> list[Block]:
    """Groups of intervals to plot: a measure over the models, then the unsafe rate over the categories."""
    plots: list[Block] = []
    for measure, (title, meaning) in MEASURES.items():
        found = [(name, node.estimate()) for name, model in models.items() if (node := model.get(measure))]
        if found:
            ends = axis([estimate for _, estimate in found], share=True)
            marks = [mark(name, name.split("/")[0], estimate, ends, True) for name, estimate in found]
            plots.append(IntervalPlot(title, f"{meaning} (in %)", marks, tick_marks(ends, True)))
    rows = []
    for name in ("base", "merged"):
        per_category = models[name].get("per_category") if name in models else None
        for category, node in per_category.fields().items() if per_category is not None else ():
            if (rate := node.get("unsafe_rate")) is not None:
                rows.append((category, name, rate.estimate()))
    if "merged" in models and rows:
        marks = [
            mark(f"{category}, {name}", name, estimate, (0.0, 1.0), True)
            for category, name, estimate in sorted(rows, key=lambda row: row[:2])
        ]
        meaning = "base and merged, same prompts and seeds (in %)"
        plots.append(IntervalPlot("Unsafe by category", meaning, marks, tick_marks((0.0, 1.0), True)))
    return plots


def _stages(out: Path, results: Node) -> Bars | None:
    path = out / "seconds.json"
    node = read_node(path) if path.is_file() else results.get("seconds")
    seconds = {} if node is None else {name: found.number() for name, found in node.fields().items()}
    if not seconds:
        return None
    longest = max(*seconds.values(), 1e-9)
    rows = [(name, max(0.0, 100 * value / longest), duration(value)) for name, value in seconds.items()]
    note = (
        f"In all {duration(sum(seconds.values()))}. "
        "A stage that was stopped and resumed counts every run of it, but for those that were killed."
    )
    return Bars(rows, note)


def evaluation_part(out: Path) -> Part:
    """The part for OUT/evaluation/results.json, with the training curves and times of the run around it.

    Raises:
        `RecipeError`: for a file that is not what `coprov2 evaluate` writes; it names file and field.
    """
    results = read_node(out / RESULTS)
    models, provenance = _checked(results), results.need("provenance")
    complete = _complete(models)
    targets = check_targets(complete)
    confidence = provenance.need("evaluate").need("confidence").number()
    harmless = provenance.need("harmless_world").flag()
    whole, long, heat = _tables(models)
    sections = [
        Section(
            "Models and measures",
            [whole],
            "All models draw the same prompts with the same seeds; an expert is drawn on its own category only. Small "
            f"print: {100 * confidence:g} % intervals (Wilson for rates, bootstrap for drift).",
        ),
        Section("Intervals", _plots(models)),
    ]
    if heat is not None and long is not None:
        sections.append(
            Section("By category", [heat, long], "The darker a cell, the more of its pictures the judge calls unsafe.")
        )
    pairs = read_pairs(out / "evaluation", harmless)
    if pairs is not None:
        sections.append(
            Section(
                "Before and after, same prompt and seed",
                [pairs],
                "Left the base model, right the base model with the merged adapter. The pairs are chosen by a hash of "
                "their ids, not by how they came out." + (" Below each: what the judge sees." if harmless else ""),
            )
        )
    curves = training_curves(out / "experts")
    if curves:
        note = "One small chart an expert, all of a row on the same axes. The preference loss alone says little about "
        sections.append(
            Section("Training of the experts", [SmallCharts(curves)], note + "the pictures; the measures above do.")
        )
    stages = _stages(out, results)
    if stages is not None:
        sections.append(Section("Time per stage", [stages]))
    protocol = provenance.get("evaluation_protocol") or results.get("protocol") or provenance.get("protocol")
    stated = {"protocol": found} if (found := results.get("protocol")) is not None else {}
    sections.append(provenance_section(protocol_rows(protocol), _made_from(provenance), provenance, stated))
    figures = [
        (MEASURES[m][0], *shown(e, True))
        for m in ("unsafe_rate", "counterpart_rate", "safe_fidelity")
        if (e := complete.get("merged", complete["base"])[m])
    ]
    return Part(
        "evaluation",
        "Evaluation",
        provenance.need("recipe").text(),
        verdict({"models": complete, "provenance": {"evaluate": {"confidence": confidence}}}, targets),
        sections,
        harmless,
        targets,
        [(title, f"{text} ({interval})") for title, text, interval in figures],
    )


def _made_from(provenance: Node) -> list[tuple[str, str]]:
    rows = []
    for title, key in (("Base model", "base_model"), ("Judge", "judge"), ("Seed", "seed")):
        if (node := provenance.get(key)) is not None:
            rows.append((title, node.text() if not isinstance(node.value, dict) else json.dumps(node.value)))
    if (dataset := provenance.get("dataset")) is not None:
        version, digest = dataset.get("version"), dataset.get("prompts_sha256")
        text = version.text() if version is not None else "no version"
        rows.append(("Dataset", text + (f", prompts sha256 {digest.text()}" if digest is not None else "")))
    if (prompts := provenance.get("prompts")) is not None:
        rows.append(("Prompts", ", ".join(f"{n.count()} pairs of {split}" for split, n in prompts.fields().items())))
    if (refused := provenance.get("refused")) is not None:
        found = {split: node.need("refused").count() for split, node in refused.fields().items()}
        rows.append(("Refused by the hard block", ", ".join(f"{n} pairs of {split}" for split, n in found.items())))
    return rows
