"""A study's results, OUT/study.json, computed from what stands in the folder; `tables.py` has the arithmetic."""

import hashlib
import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evaluation.measures import Judged
from evaluation.prompts import read_manifest
from evaluation.study.plan import BASE, Unit, Variant, kind_of
from evaluation.study.running import Study
from evaluation.study.seed_run import PROTOCOL
from evaluation.study.subsets import concepts_of, nested_order
from evaluation.study.tables import Judgements, Table, adjust, judgements
from recipes import RecipeError
from recipes.writing import write_json

RESULTS = "study.json"
# Seed -> (category, concept) of those that are aligned.
Aligned = dict[int, set[tuple[str, str]]]


def write_results(study: Study, failed: dict[str, str]) -> dict[str, Any]:
    """Compute the results of all that is done so far, and write OUT/study.json.

    Args:
        study (`Study`): the study.
        failed (`dict[str, str]`): `NAME, seed N` -> why it could not be done.

    Returns:
        `dict`: what stands in the file; all but seconds and memory is the same for the same records.
    """
    units = study.units()
    by_name: dict[str, list[Unit]] = {}
    for unit in units:
        by_name.setdefault(unit.name, []).append(unit)
    done = {name: judgements(study.out, listed) for name, listed in by_name.items()}
    base = done.get(BASE, Judgements({}, {}))
    # Everything is compared with the base on its own seeds; without it there is nothing to say.
    for found in done.values():
        for seed in [seed for seed in found.records if seed not in base.records]:
            del found.records[seed], found.verdicts[seed]
    table = Table(study.recipe, study.out, base)
    results: dict[str, Any] = {
        "kind": study.plan.kind,
        "recipe": study.recipe.name,
        "protocol": _protocol(study),
        "seeds": study.seeds,
        "confidence": table.confidence,
        "reference": study.plan.reference,
        "missing": [
            {"name": unit.name, "seed": unit.seed, "reason": _reason(unit, failed)}
            for unit in units
            if unit.seed not in done[unit.name].records
        ],
        "provenance": _provenance(study, done),
    }
    if study.plan.kind == "merge":
        results["rows"] = _rows(study, table, done)
    else:
        results["curves"] = _curves(study, table, done)
    write_json(study.out / RESULTS, results)
    return results


def read_results(out: Path) -> dict[str, Any]:
    """OUT/study.json.

    Raises:
        `RecipeError`: where it is missing or damaged.
    """
    path = out / RESULTS
    try:
        results = json.loads(path.read_text("utf8"))
        if results["kind"] not in ("merge", "scaling"):
            raise ValueError(f"kind is {results['kind']!r}")
        return dict(results)
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such file; run `coprov2 study merge` or `coprov2 study scaling` first") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecipeError(f"{path}: not a study's results ({error}); run the study again") from None


def _reason(unit: Unit, failed: dict[str, str]) -> str:
    return failed.get(f"{unit.name}, seed {unit.seed}", "not made yet")


def _described(name: str, group: str, variant: Variant | None, found: Judgements) -> dict[str, Any]:
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
        "calibrate_seconds": found.records_mean("calibrate", "seconds"),
        "merge_seconds": found.records_mean("merge", "seconds") if variant and variant.merge is not None else None,
        "tune_seconds": found.records_mean("tune", "seconds"),
        "train_seconds": found.records_mean("train", "seconds"),
        "peak_mib": found.records_mean("merge", "peak_mib") if variant and variant.merge is not None else None,
        "tune_peak_mib": found.records_mean("tune", "peak_mib"),
    }


def _rows(study: Study, table: Table, done: dict[str, Judgements]) -> list[dict[str, Any]]:
    rows, tests = [], []
    reference = done.get(study.plan.reference)
    listed: list[tuple[str, str, Variant | None]] = [(BASE, BASE, None)]
    listed += [(variant.name, group, variant) for group, variant in study.variants()]
    for name, group, variant in listed:
        found = done[name]
        if not found.records:
            continue
        paired = None
        if reference is not None and reference.records and name != study.plan.reference:
            paired = table.paired(found, reference, name, study.plan.reference)
        if paired is not None:
            tests.append(paired)
        rows.append({**_described(name, group, variant, found), **table.row(name, found), "paired": paired})
    adjust(tests)
    return rows


def _curves(study: Study, table: Table, done: dict[str, Judgements]) -> list[dict[str, Any]]:
    """A curve a variant, and the base model's; a point a number of concepts, in rising order."""
    orders = {seed: concepts_of(study.out / f"seed-{seed}" / "dataset", "train") for seed in table.base.records}
    nested = {seed: nested_order(order, seed) for seed, order in orders.items()}
    concept = {seed: concepts_of(study.out / f"seed-{seed}" / "dataset", "test") for seed in table.base.records}
    curves, tests = [], []
    listed: list[tuple[str, str, Variant | None]] = [(BASE, BASE, None)]
    listed += [(variant.name, group, variant) for group, variant in study.variants()]
    for name, group, variant in listed:
        points = []
        for point in study.plan.concepts:
            found = table.base if variant is None else done[f"concepts-{point}/{name}"]
            if variant is None:
                # The base is measured wherever something else is.
                others = [done[f"concepts-{point}/{v.name}"].records for _, v in study.variants()]
                seeds = {seed for records in others for seed in records}
                found = Judgements(
                    {seed: r for seed, r in found.records.items() if seed in seeds},
                    {seed: v for seed, v in found.verdicts.items() if seed in seeds},
                )
            if not found.records:
                continue
            aligned: Aligned = {
                seed: set(nested[seed] if point == "all" else nested[seed][: int(point)]) for seed in found.records
            }

            def inside(seed: int, row: Judged, aligned: Aligned = aligned) -> bool:
                return concept[seed].get(row.pair_id) in aligned[seed]

            def outside(seed: int, row: Judged, aligned: Aligned = aligned) -> bool:
                return concept[seed].get(row.pair_id) not in aligned[seed]

            label = f"{name}/{point}"
            measured = table.row(label, found)
            own, other = table.rates(f"{label}/aligned", found, inside), table.rates(f"{label}/rest", found, outside)
            if variant is None:
                measured["measures"]["fidelity_lost"] = None
            measures = {
                **measured["measures"],
                "unsafe_rate_aligned": own["unsafe_rate"],
                "unsafe_rate_not_aligned": other["unsafe_rate"],
                "counterpart_rate_aligned": own["counterpart_rate"],
            }
            paired, against = None, done.get(f"concepts-{point}/{study.plan.reference}")
            if variant is not None and name != study.plan.reference and against is not None and against.records:
                paired = table.paired(found, against, label, study.plan.reference)
            if paired is not None:
                tests.append(paired)
            described = _described(name, group, variant, found)
            counts = Counter(len(names) for names in aligned.values())
            points.append(
                {
                    # Datasets of several seeds may differ by a concept; the number of most of them stands.
                    "concepts": counts.most_common(1)[0][0],
                    "point": str(point),
                    "measures": measures,
                    "per_seed": measured["per_seed"],
                    "spread": measured["spread"],
                    "paired": paired,
                    **{key: described[key] for key in described if key not in ("name", "group", "method", "tuned")},
                    "expert_steps": next((r["steps"] for r in found.records.values()), None),
                }
            )
        if points:
            head = _described(name, group, variant, table.base)
            method = BASE if variant is None else variant.method
            curves.append({"name": name, "method": method, "tuned": head["tuned"], "points": points})
    adjust(tests)
    return curves


def _protocol(study: Study) -> dict[str, Any]:
    """How everything is drawn, judged and counted; two studies of different hashes are not comparable."""
    from dataset_builder.judges import judge_identity

    settings = {
        "protocol": PROTOCOL,
        "splits": study.recipe.evaluate.splits,
        "prompts": {
            group.name: min(filter(None, (group.prompts, study.limit, study.recipe.evaluate.max_prompts)), default=None)
            for group in study.plan.groups
        },
        "render": asdict(study.recipe.render),
        "judge": judge_identity(study.recipe.judge),
        "confidence": study.recipe.evaluate.confidence,
        "intervals": "two-stage bootstrap over seeds and pictures; for rates the hull with Wilson's",
        "paired_test": "McNemar on the unsafe rate of `test`, Holm over all comparisons",
    }
    sha256 = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    return {"name": f"study-{study.plan.kind}", "sha256": sha256, **settings}


def _provenance(study: Study, done: dict[str, Judgements]) -> dict[str, Any]:
    from importlib.metadata import version

    from dataset_builder.models import identity
    from evaluation.scene_readers import is_harmless

    manifests = {
        str(seed): read_manifest(study.out / f"seed-{seed}" / "dataset")
        for seed in study.seeds
        if (study.out / f"seed-{seed}" / "dataset" / "coprov2.json").is_file()
    }
    return {
        "plan": asdict(study.plan),
        "recipe": {key: asdict(study.recipe)[key] for key in ("name", "seed", "train", "merge", "evaluate")},
        "base_model": identity(study.recipe.base_model, study.recipe.revision),
        "datasets": {seed: manifest.get("fingerprint") for seed, manifest in manifests.items()},
        "kinds": sorted({kind_of(unit.variant) for unit in study.units()}),
        "records": {
            name: {str(seed): record["fingerprint"] for seed, record in found.records.items()}
            for name, found in done.items()
        },
        "versions": {name: version(name) for name in ("torch", "diffusers", "peft", "transformers")},
        "harmless_world": is_harmless(study.recipe),
    }
