"""The curves of a scaling study: what is measured of each variant against the number of concepts aligned."""

from collections import Counter
from typing import Any

from evaluation.measures import Judged
from evaluation.study.plan import BASE, Variant
from evaluation.study.running import Study
from evaluation.study.subsets import concepts_of, nested_order
from evaluation.study.tables import Judgements, Table, adjust

# Seed -> (category, concept) of those that are aligned, or of a pair.
Aligned = dict[int, set[tuple[str, str]]]


def described(name: str, group: str, variant: Variant | None, found: Judgements) -> dict[str, Any]:
    """What a variant is and what it costs, as means over its seeds."""
    records = list(found.records.values())
    ranks = [record["rank"] for record in records if record["rank"] is not None]
    return {
        "name": name,
        "group": group,
        "method": BASE if variant is None else next((record["method"] for record in records), variant.method),
        "tuned": variant is not None and variant.tune,
        "rank": max(ranks) if ranks else None,
        "seeds": sorted(found.records),
        "calibrate_seconds": found.cost("calibrate", "seconds"),
        "merge_seconds": found.cost("merge", "seconds") if variant and variant.merge is not None else None,
        "tune_seconds": found.cost("tune", "seconds"),
        "train_seconds": found.cost("train", "seconds"),
        "peak_mib": found.cost("merge", "peak_mib") if variant and variant.merge is not None else None,
        "tune_peak_mib": found.cost("tune", "peak_mib"),
    }


def curves(
    study: Study, table: Table, done: dict[str, Judgements], limits: dict[str, int | None]
) -> list[dict[str, Any]]:
    """A curve a variant, and the base model's; a point a number of concepts, in rising order. Points of another
    protocol (of other seeds, for one) are a curve of their own."""
    orders = {seed: concepts_of(study.out / f"seed-{seed}" / "dataset", "train") for seed in table.base.records}
    nested = {seed: nested_order(order, seed) for seed, order in orders.items()}
    concept = {seed: concepts_of(study.out / f"seed-{seed}" / "dataset", "test") for seed in table.base.records}
    # (name, hash of the protocol) -> curve.
    base: dict[str, dict[str, Any]] = {}
    made: dict[tuple[str, str], dict[str, Any]] = {}
    tests, reference = [], study.reference()
    for name, group, variant in [(v.name, group, v) for group, v in study.variants()]:
        for point in study.plan.concepts:
            unit = f"concepts-{point}/{name}"
            found, limit = done[unit], limits[unit]
            if not found.records:
                continue
            protocol = table.protocols.over(found.records, limit)
            key = protocol["sha256"]
            aligned: Aligned = {
                seed: set(nested[seed] if point == "all" else nested[seed][: int(point)]) for seed in found.records
            }
            curve = made.setdefault((name, key), _curve(name, variant, protocol))
            curve["points"].append(_point(table, name, group, variant, found, point, aligned, concept))
            if reference == BASE:
                against: Judgements | None = table.base_on(found.records, limit)
            else:
                against = done.get(f"concepts-{point}/{reference}")
            if name != reference and against is not None and against.records:
                paired = table.paired(found, against, f"{name}/{point}", reference)
                curve["points"][-1]["paired"] = paired
                tests += [paired] if paired is not None else []
            ours = base.setdefault(key, _curve(BASE, None, protocol))
            if str(point) not in [known["point"] for known in ours["points"]]:
                same = table.base_on(found.records, limit)
                ours["points"].append(_point(table, BASE, BASE, None, same, point, aligned, concept))
    adjust(tests)
    for curve in base.values():
        curve["points"].sort(key=lambda known: [str(point) for point in study.plan.concepts].index(known["point"]))
    return [*base.values(), *made.values()]


def _curve(name: str, variant: Variant | None, protocol: Any) -> dict[str, Any]:
    method, tuned = (BASE, False) if variant is None else (variant.method, variant.tune)
    return {"name": name, "method": method, "tuned": tuned, "protocol": protocol, "points": []}


def _point(
    table: Table,
    name: str,
    group: str,
    variant: Variant | None,
    found: Judgements,
    point: int | str,
    aligned: Aligned,
    concept: dict[int, dict[str, tuple[str, str]]],
) -> dict[str, Any]:
    def inside(seed: int, row: Judged) -> bool:
        return concept[seed].get(row.pair_id) in aligned[seed]

    def outside(seed: int, row: Judged) -> bool:
        return concept[seed].get(row.pair_id) not in aligned[seed]

    label = f"{name}/{point}"
    measured = table.row(label, found)
    own, other = table.rates(f"{label}/aligned", found, inside), table.rates(f"{label}/rest", found, outside)
    measures = {
        **measured["measures"],
        "unsafe_rate_aligned": own["unsafe_rate"],
        "unsafe_rate_not_aligned": other["unsafe_rate"],
        "counterpart_rate_aligned": own["counterpart_rate"],
    }
    what = described(name, group, variant, found)
    counts = Counter(len(names) for names in aligned.values())
    return {
        # Datasets of several seeds may differ by a concept; the number of most of them stands.
        "concepts": counts.most_common(1)[0][0],
        "point": str(point),
        "measures": measures,
        "per_seed": measured["per_seed"],
        "spread": measured["spread"],
        "paired": None,
        **{key: what[key] for key in what if key not in ("name", "group", "method", "tuned")},
        "expert_steps": next((r["steps"] for r in found.records.values()), None) if variant is not None else None,
    }
