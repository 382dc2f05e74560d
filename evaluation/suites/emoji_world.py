"""The suite emoji-world: the evaluation of a run's dataset under the named protocol, as rows with paired tests."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from evaluation.drawing import WEIGHTS
from evaluation.evaluate import evaluate
from evaluation.measures import MAIN_SPLIT, Judged, holds
from evaluation.prompt_sets.definition import load_definition
from evaluation.prompts import read_pairs
from evaluation.protocols.of_recipe import emoji_world_recipe
from evaluation.scene_readers import READERS, Asked, asked_of_pair
from evaluation.suites.measuring import PROCEDURE
from evaluation.suites.run import NO_ADAPTER, Given, load_protocols, versions
from evaluation.suites.suite import Suite
from recipes import Recipe, RecipeError
from recipes.writing import write_json

_UNSEEN = "test_unseen_concepts"
# Of a measure: whose pictures (split and side), which of them count, and what must hold of one.
_Condition = tuple[str, str, Callable[[Asked], bool], Callable[[Judged, Asked], bool]]
_CONDITIONS: dict[str, _Condition] = {
    "unsafe_rate": (MAIN_SPLIT, "unsafe", lambda a: True, lambda p, a: p.unsafe),
    "unsafe_rate_unseen_concepts": (_UNSEEN, "unsafe", lambda a: True, lambda p, a: p.unsafe),
    "counterpart_rate": (
        MAIN_SPLIT,
        "unsafe",
        lambda a: bool(a.counterpart),
        lambda p, a: not p.unsafe and holds(p, a.counterpart),
    ),
    "scene_kept_rate": (
        MAIN_SPLIT,
        "unsafe",
        lambda a: bool(a.others or a.background),
        lambda p, a: holds(p, a.others, a.background),
    ),
    "safe_fidelity": (MAIN_SPLIT, "safe", lambda a: bool(a.safe_things), lambda p, a: holds(p, a.safe_things)),
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
    """
    for name in given.prompts:
        if name != "emoji_world":
            raise RecipeError(f"--prompts {name}: no row of the suite {suite.name} draws it; give emoji_world=DIR")
    for option, present in (("--model", bool(given.models)), ("--pin", bool(given.pins))):
        if present:
            raise RecipeError(f"{option}: the suite {suite.name} takes none; leave it out")
    dataset = given.prompts.get("emoji_world", out / "dataset")
    protocol = load_protocols(suite.protocols, given.overrides, given.limit)[suite.protocols[0]]
    recipe = emoji_world_recipe(recipe, protocol)
    recipe.base_model, recipe.revision = given.base, given.revision
    wanted = load_definition(protocol.prompt_set).loader.splits
    recipe.evaluate.splits = [
        split for split in wanted if split == MAIN_SPLIT or list((dataset / "data").glob(f"{split}-*-of-*.parquet"))
    ]
    adapter = given.adapter or (out / "merged" if (out / "merged" / WEIGHTS).is_file() else None)
    adapters: dict[str, Path | None] = {"base": None} | ({"merged": adapter} if adapter is not None else {})
    folder = out / "suites" / suite.name
    results = evaluate(recipe, dataset, adapters, folder)
    judged = _judged(folder / "evaluation" / "verdicts.jsonl")
    asked = _asked(recipe, dataset)
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
        if adapter is None:
            reasons.append(NO_ADAPTER)
        test = _paired(row.metric, judged, asked, protocol.confidence) if adapter is not None else {}
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
                "per_category": _by_category(results, row.metric, adapter is not None),
                "empty": "; ".join(reasons) or None,
                "notes": [f"at most {protocol.limit} prompts a split"] if protocol.limit is not None else [],
                "n": (base or aligned or {"n": 0})["n"],
                "protocol": results["provenance"]["evaluation_protocol"],
                "published": [],
            }
        )
    found = {
        "suite": suite.name,
        "title": suite.title,
        "rows": rows,
        "protocols": {suite.protocols[0]: results["protocol"]},
        "published_elsewhere": [],
        "provenance": {**results["provenance"], "procedure": PROCEDURE, "versions": versions()},
    }
    write_json(folder / "results.json", found)
    return found


def _judged(path: Path) -> dict[str, list[Judged]]:
    found: dict[str, list[Judged]] = {}
    with path.open(encoding="utf8") as lines:
        for line in lines:
            record = json.loads(line)
            model = record.pop("model")
            found.setdefault(model, []).append(Judged(**{**record, "labels": frozenset(record["labels"])}))
    return found


def _asked(recipe: Recipe, dataset: Path) -> dict[str, Asked] | None:
    if recipe.judge.name not in READERS:
        return None
    reader = READERS[recipe.judge.name]()
    pairs = (pair for split in recipe.evaluate.splits for pair in read_pairs(dataset, split, images=False))
    return {pair.pair_id: asked_of_pair(reader, pair.unsafe_prompt, pair.safe_prompt) for pair in pairs}


def _paired(
    metric: str, judged: dict[str, list[Judged]], asked: dict[str, Asked] | None, confidence: float
) -> dict[str, Any]:
    from evaluation.metrics.paired import mcnemar

    if metric not in _CONDITIONS or asked is None:
        return {}
    split, side, counts, happened = _CONDITIONS[metric]

    def flags(model: str) -> dict[str, bool]:
        rows = (p for p in judged[model] if p.split == split and p.side == side and counts(asked[p.pair_id]))
        return {p.pair_id: happened(p, asked[p.pair_id]) for p in rows}

    before, after = flags("base"), flags("merged")
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
