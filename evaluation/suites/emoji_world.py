"""The suite emoji-world: the evaluation of a run's dataset under the named protocol, as rows with paired tests."""

import json
from pathlib import Path
from typing import Any

from dataset_builder.disk import disk_full_said
from evaluation.alone import alone
from evaluation.drawing import WEIGHTS, adapter_identity
from evaluation.evaluate import PROTOCOL, evaluate
from evaluation.judging import asked_of
from evaluation.measures import MAIN_SPLIT, Judged, outcomes
from evaluation.prompt_sets.definition import load_definition
from evaluation.prompts import Pair, read_pairs
from evaluation.protocols.of_recipe import READ, emoji_world_recipe, stated_protocol
from evaluation.protocols.protocol import Protocol
from evaluation.scene_readers import Asked
from evaluation.suites.measuring import PROCEDURE
from evaluation.suites.run import NO_ADAPTER, Given, drawn_digest, load_protocols, versions
from evaluation.suites.suite import Suite
from recipes import Recipe, RecipeError
from recipes.writing import read_json, write_json

_UNSEEN = "test_unseen_concepts"
# The split of a metric that is a rate, and what `evaluation.measures` calls the rate.
_RATES = {
    "unsafe_rate": (MAIN_SPLIT, "unsafe_rate"),
    "unsafe_rate_unseen_concepts": (_UNSEEN, "unsafe_rate"),
    "counterpart_rate": (MAIN_SPLIT, "counterpart_rate"),
    "scene_kept_rate": (MAIN_SPLIT, "scene_kept_rate"),
    "safe_fidelity": (MAIN_SPLIT, "safe_fidelity"),
}


def run_emoji_world(suite: Suite, given: Given, recipe: Recipe, out: Path) -> dict[str, Any]:
    """Evaluate a run under the protocol emoji-world.

    Args:
        suite (`Suite`): its rows. given (`Given`): the base model, the adapter (OUT/merged unless given), the dataset
            as the prompts of `emoji_world` (OUT/dataset unless given), changes and limit.
        recipe (`Recipe`): what the protocol does not settle. out (`Path`): the run's folder.

    Returns:
        `dict`: as `evaluation.suites.run.run_suite`. The pictures, verdicts and measures of the evaluation itself stand
        in OUT/suites/emoji-world/evaluation.

    Raises:
        `RecipeError`: for an option that would change nothing, whatever does not fit, a full disk, and where another
            process works on the suites of OUT.
    """
    dataset = given.prompts.get("emoji_world", out / "dataset")
    protocol = load_protocols(suite.protocols, given.overrides, given.limit)[suite.protocols[0]]
    _refuse_unread(suite, given, protocol)
    recipe = emoji_world_recipe(recipe, protocol)
    recipe.base_model, recipe.revision = given.base, given.revision
    wanted = load_definition(protocol.prompt_set).loader.splits
    recipe.evaluate.splits = [
        split for split in wanted if split == MAIN_SPLIT or list((dataset / "data").glob(f"{split}-*-of-*.parquet"))
    ]
    adapter = given.adapter or (out / "merged" if (out / "merged" / WEIGHTS).is_file() else None)
    adapters: dict[str, Path | None] = {"base": None} | ({"merged": adapter} if adapter is not None else {})
    folder = out / "suites" / suite.name
    pairs = {split: read_pairs(dataset, split) for split in recipe.evaluate.splits}
    inputs = _inputs(recipe, pairs, adapters)
    with disk_full_said(folder), alone(out / "suites", "suite"):
        done = read_json(folder / "results.json").get("provenance")
        if not isinstance(done, dict) or any(done.get(name) != value for name, value in inputs.items()):
            # `evaluate` writes its examples anew: they must not stand beside the figures of another adapter.
            (folder / "results.json").unlink(missing_ok=True)
        results = evaluate(recipe, dataset, adapters, folder)
        found = _results(suite, protocol, recipe, pairs, results, folder)
        write_json(folder / "results.json", found)
    return found


def _refuse_unread(suite: Suite, given: Given, protocol: Protocol) -> None:
    """Refuse what the suite would take without a word and not act on."""
    for name in given.prompts:
        if name != "emoji_world":
            raise RecipeError(f"--prompts {name}: no row of the suite {suite.name} draws it; give emoji_world=DIR")
    for option, present in (
        ("--model", bool(given.models)),
        ("--pin", bool(given.pins)),
        ("--any-rows", given.any_rows),
    ):
        if present:
            raise RecipeError(f"{option}: the suite {suite.name} takes none; leave it out")
    for change in protocol.changed:
        name = change.partition("=")[0].partition(".")[0]
        if name not in READ:
            raise RecipeError(
                f"--set {change}: the suite {suite.name} does not act on it; leave it out, or set {', '.join(READ)}"
            )


def _inputs(recipe: Recipe, pairs: dict[str, list[Pair]], adapters: dict[str, Path | None]) -> dict[str, Any]:
    """What tells one evaluation's pictures and figures from another's, by the names of its provenance."""
    from dataset_builder.judges import judge_identity
    from dataset_builder.models import identity

    return {
        "protocol": PROTOCOL,
        "evaluation_protocol": stated_protocol(recipe, pairs)[0],
        "base_model": identity(recipe.base_model, recipe.revision),
        "adapters": {name: adapter_identity(folder) for name, folder in adapters.items() if folder is not None},
        "judge": judge_identity(recipe.judge),
    }


def _results(
    suite: Suite,
    protocol: Protocol,
    recipe: Recipe,
    pairs: dict[str, list[Pair]],
    results: dict[str, Any],
    folder: Path,
) -> dict[str, Any]:
    """The suite's results from those of the evaluation in FOLDER/evaluation."""
    judged = _judged(folder / "evaluation" / "verdicts.jsonl")
    asked = asked_of(recipe, pairs)
    drawn = drawn_digest(f"{picture.split}/{picture.side}/{picture.pair_id}" for picture in judged["base"])
    adapted = "merged" in results["models"]
    notes = [f"at most {protocol.limit} prompts a split"] if protocol.limit is not None else []
    for split, found in results["provenance"].get("refused", {}).items():
        notes.append(f"{found['refused']} pairs of {split} are refused by the hard block")
    rows = []
    for row in suite.rows:
        base, aligned = (results["models"].get(name, {}).get(row.metric) for name in ("base", "merged"))
        reasons = []
        if row.metric.endswith("_unseen_concepts") and _UNSEEN not in recipe.evaluate.splits:
            reasons.append(f"the dataset has no split {_UNSEEN}")
        elif base is None:
            reasons.append(
                "base: drift is a comparison with the base" if row.metric == "drift" else "the judge cannot say"
            )
        if not adapted:
            reasons.append(NO_ADAPTER)
        test = _paired(row.metric, judged, asked, protocol.confidence) if adapted else {}
        rows.append(
            {
                "row": row.row,
                "title": row.title,
                "prompt_set": protocol.prompt_set,
                "metric": row.metric,
                "base": base,
                "aligned": aligned,
                "difference": test.pop("difference", None),
                "test": test or None,
                "per_category": _by_category(results, row.metric, adapted),
                "empty": "; ".join(reasons) or None,
                "notes": notes,
                "n": (base or aligned or {"n": 0})["n"],
                "drawn": drawn,
                "protocol": results["provenance"]["evaluation_protocol"],
                "published": [],
            }
        )
    return {
        "suite": suite.name,
        "title": suite.title,
        "rows": rows,
        "protocols": {suite.protocols[0]: results["protocol"]},
        "published_elsewhere": [],
        "provenance": {**results["provenance"], "procedure": PROCEDURE, "versions": versions()},
    }


def _judged(path: Path) -> dict[str, list[Judged]]:
    found: dict[str, list[Judged]] = {}
    try:
        with path.open(encoding="utf8") as lines:
            for line in lines:
                record = json.loads(line)
                model = record.pop("model")
                found.setdefault(model, []).append(Judged(**{**record, "labels": frozenset(record["labels"])}))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecipeError(
            f"{path}: cannot be read ({type(error).__name__}); delete results.json beside it, and evaluate again"
        ) from None
    return found


def _paired(
    metric: str, judged: dict[str, list[Judged]], asked: dict[str, Asked] | None, confidence: float
) -> dict[str, Any]:
    """McNemar's test of a rate between base and adapter, where the judge can say whether it happened."""
    from evaluation.metrics.paired import mcnemar

    if metric not in _RATES:
        return {}
    split, rate = _RATES[metric]
    before, after = (
        dict(outcomes(rate, (p for p in judged[model] if p.split == split), asked) or [])
        for model in ("base", "merged")
    )
    if not before:
        return {}
    return dict(mcnemar(list(before.values()), [after[name] for name in before], confidence))


def _by_category(results: dict[str, Any], metric: str, aligned: bool) -> dict[str, Any]:
    models = results["models"]
    return {
        category: {
            "base": values.get(metric),
            "aligned": models["merged"]["per_category"].get(category, {}).get(metric) if aligned else None,
        }
        for category, values in models["base"]["per_category"].items()
    }
