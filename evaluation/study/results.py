"""A study's results, OUT/study.json, computed from what stands in the folder; `tables.py` has the arithmetic."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from evaluation.measures import Judged
from evaluation.prompts import read_manifest
from evaluation.report.reading import read_node
from evaluation.study.curves import curves, described
from evaluation.study.plan import BASE, KINDS, Unit, Variant, kind_of
from evaluation.study.protocol import Protocols
from evaluation.study.running import Study
from evaluation.study.seed_run import SeedRun
from evaluation.study.tables import Judgements, Table, adjust, judgements
from recipes import RecipeError
from recipes.writing import write_json

RESULTS = "study.json"
_COUNTING = {
    "intervals": "two-stage bootstrap over seeds and pictures; for rates the hull with Wilson's",
    "paired_test": "McNemar on the unsafe rate of `test`, Holm over all comparisons",
}


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
    protocols = Protocols(study.recipe, study.out)
    stale: dict[tuple[str, int], str] = {}
    runs = {seed: SeedRun(study.recipe, study.out, seed) for seed in study.seeds}

    def holds(unit: Unit, record: dict[str, Any], verdicts: list[Judged]) -> bool:
        """Whether a record is of the study's present protocol and settings, and its verdicts of the dataset's prompts;
        older records do not name the protocol, their fingerprint knows."""
        named = record.get("protocol")
        if not runs[unit.seed].built():
            current = False
        elif named is None:
            current = runs[unit.seed].is_done(unit)
        else:
            current = named == protocols.sha256(unit.seed, unit.prompts)
        if not current:
            stale[unit.name, unit.seed] = "measured under another protocol than the study's; run the study again"
        elif not runs[unit.seed].asks_for(unit, record):
            stale[unit.name, unit.seed] = "made with other settings than the study's; run the study again"
        elif not {row.pair_id for row in verdicts} <= protocols.ids(unit.seed, None):
            stale[unit.name, unit.seed] = (
                f"judged on prompts that its dataset does not have; delete {unit.folder(study.out)}, and run the study "
                "again"
            )
        return (unit.name, unit.seed) not in stale

    done = {name: judgements(study.out, listed, holds) for name, listed in by_name.items()}
    base = done.get(BASE, Judgements({}, {}, base=True))
    # Everything is compared with the base on its own seeds; without it there is nothing to say.
    for found in done.values():
        for seed in [seed for seed in found.records if seed not in base.records]:
            del found.records[seed], found.verdicts[seed]
    table = Table(study.recipe, protocols, base)
    limits = {name: listed[0].prompts for name, listed in by_name.items()}
    measured: dict[str, Any]
    if study.plan.kind == "merge":
        measured = {"rows": _rows(study, table, done, limits)}
    else:
        measured = {"curves": curves(study, table, done, limits)}
    results: dict[str, Any] = {
        "kind": study.plan.kind,
        "recipe": study.recipe.name,
        "protocol": _main(measured, study.reference()),
        "protocols": protocols.written,
        "counting": _COUNTING,
        "seeds": study.seeds,
        "confidence": table.confidence,
        "reference": study.reference(),
        "missing": [
            {"name": unit.name, "seed": unit.seed, "reason": _reason(unit, failed, stale)}
            for unit in units
            if unit.seed not in done[unit.name].records
        ],
        "provenance": _provenance(study, done),
        **measured,
    }
    # Pictures of before, of another variant or other settings, must not stand beside these figures; they come last.
    (study.out / "examples.json").unlink(missing_ok=True)
    write_json(study.out / RESULTS, results)
    return results


def read_results(out: Path) -> dict[str, Any]:
    """OUT/study.json.

    Raises:
        `RecipeError`: where it is missing or damaged.
    """
    path = out / RESULTS
    if not path.exists():
        raise RecipeError(f"{path}: no such file; run `coprov2 study merge` or `coprov2 study scaling` first")
    results = read_node(path)
    kind = results.need("kind")
    if kind.text() not in KINDS:
        raise kind.wrong("merge or scaling, as in a study's results")
    return dict(results.value)


def _reason(unit: Unit, failed: dict[str, str], stale: dict[tuple[str, int], str]) -> str:
    otherwise = stale.get((unit.name, unit.seed), "not made yet")
    return failed.get(f"{unit.name}, seed {unit.seed}", otherwise)


def _main(measured: dict[str, Any], reference: str) -> dict[str, Any] | None:
    """The protocol of the reference, or where it is not measured yet that of the first that is."""
    listed = measured.get("rows") or measured.get("curves") or []
    found = [entry["protocol"] for entry in sorted(listed, key=lambda entry: entry["name"] != reference)]
    return found[0] if found else None


def _rows(
    study: Study, table: Table, done: dict[str, Judgements], limits: dict[str, int | None]
) -> list[dict[str, Any]]:
    """A row a variant, and before those of one protocol a row of the base model on the same seeds and prompts."""
    rows: list[dict[str, Any]] = []
    tests = []
    against = study.reference()
    listed: list[tuple[str, str, Variant | None]] = [(v.name, group, v) for group, v in study.variants()]
    if not any(done[name].records for name, _, _ in listed) and done.get(BASE):
        listed = [(BASE, BASE, None)]
    known: set[str] = set()
    for name, group, variant in listed:
        found, limit = done[name], limits[name]
        if not found.records:
            continue
        protocol = table.protocols.over(found.records, limit)
        variants = [(name, group, variant, found)]
        if variant is not None and protocol["sha256"] not in known:
            variants.insert(0, (BASE, BASE, None, table.base_on(found.records, limit)))
        known.add(protocol["sha256"])
        for label, part, made, measured in variants:
            paired = None
            if done[against].records and label != against:
                paired = table.paired(measured, done[against], label, against)
            if paired is not None:
                tests.append(paired)
            row = described(label, part, made, measured)
            rows.append({**row, "protocol": protocol, **table.row(label, measured), "paired": paired})
    adjust(tests)
    return rows


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
