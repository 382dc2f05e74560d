"""Draw, judge and measure: base model, experts and merged adapters on the same prompts and seeds.

Writes OUT/evaluation/results.json, the verdict on each picture (verdicts.jsonl, without prompts) and the pictures that
the report shows; the counting is in `evaluation.measures`, the report in `evaluation.report`."""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dataset_builder.disk import disk_full_said
from evaluation.alone import alone
from evaluation.drawing import Drawer, adapter_identity
from evaluation.examples import write_examples
from evaluation.judging import Pictures, asked_of, draw_and_judge, requests_of
from evaluation.measures import MAIN_SPLIT, Judged, summarise
from evaluation.prompts import Pair, prompts_sha256, read_manifest, read_pairs, refused_record, select
from evaluation.protocols.of_recipe import stated_protocol
from evaluation.protocols.protocol import ProtocolRecord
from evaluation.scene_readers import is_harmless
from evaluation.stored import take_stored
from evaluation.verdict_store import VerdictStore
from recipes import Recipe, RecipeError
from recipes.writing import read_json, whole_file, write_json

# Part of the fingerprint: raised when the same inputs would give other figures.
PROTOCOL = 2


def _provenance(
    recipe: Recipe,
    dataset: Path,
    adapters: dict[str, Path | None],
    pairs: dict[str, list[Pair]],
    protocol: ProtocolRecord,
) -> dict[str, Any]:
    from dataset_builder.judges import judge_identity
    from dataset_builder.models import identity

    manifest = read_manifest(dataset)
    return {
        "protocol": PROTOCOL,
        "evaluation_protocol": protocol,
        "recipe": recipe.name,
        "seed": recipe.seed,
        "base_model": identity(recipe.base_model, recipe.revision),
        "adapters": {name: adapter_identity(folder) for name, folder in sorted(adapters.items()) if folder is not None},
        "judge": judge_identity(recipe.judge),
        "render": asdict(recipe.render),
        "evaluate": asdict(recipe.evaluate),
        "merge": asdict(recipe.merge),
        "dataset": {"version": manifest.get("version"), "prompts_sha256": prompts_sha256(pairs)},
        "prompts": {split: len(pairs[split]) for split in pairs},
        "harmless_world": is_harmless(recipe, manifest),
    }


def _check(recipe: Recipe, dataset: Path, adapters: dict[str, Path | None], pairs: dict[str, list[Pair]]) -> None:
    if adapters.get("base", ...) is not None:
        raise RecipeError("adapters: expected `base` with no folder, because every measure is a comparison with it")
    if MAIN_SPLIT not in recipe.evaluate.splits:
        raise RecipeError(f"evaluate.splits: found {recipe.evaluate.splits}, expected `{MAIN_SPLIT}` among them")
    if not pairs[MAIN_SPLIT]:
        raise RecipeError(
            f"{dataset}: its split {MAIN_SPLIT} holds no pair that could be drawn; give a dataset with some"
        )
    categories = {pair.category for rows in pairs.values() for pair in rows}
    for name in adapters:
        if name not in ("base", "merged") and not name.startswith(("expert/", "merge/")):
            raise RecipeError(
                f"adapters: found the name {name!r}, expected merged, expert/<category> or merge/<method>"
            )
        if name.startswith("expert/") and name.removeprefix("expert/") not in categories:
            raise RecipeError(f"{name}: the dataset has no such category; found {', '.join(sorted(categories))}")


def evaluate(recipe: Recipe, dataset: Path, adapters: dict[str, Path | None], out: Path) -> dict[str, Any]:
    """Evaluate models on a dataset's test prompts, each with the row's own seed.

    Args:
        recipe (`Recipe`): its sections `render`, `judge` and `evaluate`, its base model and its seed.
        dataset (`Path`): the dataset folder.
        adapters (`dict[str, Path | None]`): adapter folder by model name: `base` (None), `expert/<category>` (drawn on
            its own category only), `merged`, `merge/<method>`.
        out (`Path`): the run's folder; results go to OUT/evaluation.

    Returns:
        `dict`: `models` (measures of [`evaluation.measures.summarise`] by model name), `seconds`, `protocol` (what its
        hash was taken of) and `provenance`, with the protocol's name and hash as `evaluation_protocol` and, where the
        hard block refuses rows, these by split as `refused`; as in OUT/evaluation/results.json. All but `seconds` is
        the same for the same inputs. If the file is already there for the same inputs it is returned as it is.

    Raises:
        `RecipeError`: for a dataset, an adapter or a setting that does not fit.
    """
    refused: dict[str, list[str]] = {split: [] for split in recipe.evaluate.splits}
    every = {split: read_pairs(dataset, split, refused[split]) for split in recipe.evaluate.splits}
    protocol, stated = stated_protocol(recipe, every)
    pairs = {split: select(rows, recipe.evaluate.max_prompts) for split, rows in every.items()}
    del every
    _check(recipe, dataset, adapters, pairs)
    provenance = _provenance(recipe, dataset, adapters, pairs, protocol)
    if any(refused.values()):
        provenance["refused"] = {split: refused_record(ids) for split, ids in refused.items() if ids}
    folder = out / "evaluation"
    path = folder / "results.json"
    done = read_json(path)
    whole = isinstance(done.get("models"), dict) and (folder / "examples.json").is_file()
    if done.get("provenance") == provenance and whole:
        return done
    with disk_full_said(folder), alone(folder, "evaluation"):
        return _measure(recipe, dataset, adapters, pairs, folder, {"protocol": stated, "provenance": provenance})


def _measure(
    recipe: Recipe,
    dataset: Path,
    adapters: dict[str, Path | None],
    pairs: dict[str, list[Pair]],
    folder: Path,
    stated: dict[str, Any],
) -> dict[str, Any]:
    """Draw, judge, count, and write FOLDER; `stated` is what the results say of how."""
    provenance = stated["provenance"]
    asked = asked_of(recipe, pairs)
    drawer = Drawer(recipe, provenance["base_model"], folder / "pictures")
    verdicts = VerdictStore(folder / "verdicts.sqlite")
    judged: dict[str, list[Judged]] = {}
    pictures, merged = Pictures(), Pictures()
    seconds: dict[str, float] = {}
    order = ["base", *sorted(name for name in adapters if name != "base")]
    requests = {
        name: requests_of(pairs, name.removeprefix("expert/") if name.startswith("expert/") else None) for name in order
    }
    for name, adapter in adapters.items():
        if adapter is not None:
            drawer.require_fit([request.wanted for request in requests[name]], adapter)
    for name in order:
        started = time.perf_counter()
        if name == "base":
            take_stored(drawer, dataset, requests[name])
        before = None if name == "base" else pictures
        judged[name], images = draw_and_judge(drawer, verdicts, requests[name], adapters[name], name, before)
        if name == "base":
            pictures = images
        elif name == "merged":
            merged = images
        seconds[f"evaluate/{name}"] = round(time.perf_counter() - started, 3)
    verdicts.close()

    splits, confidence = list(pairs), recipe.evaluate.confidence
    models = {n: summarise(n, judged[n], judged["base"], asked, splits, recipe.seed, confidence) for n in order}
    # Those of another evaluation must not stand beside the verdicts and pictures of this one.
    (folder / "results.json").unlink(missing_ok=True)
    _write_verdicts(folder / "verdicts.jsonl", judged)
    write_examples(folder, pairs[MAIN_SPLIT], pictures, merged, judged, provenance["harmless_world"])
    results = {"models": models, "seconds": seconds, **stated}
    # Last, because its presence says that all the rest is there.
    write_json(folder / "results.json", results)
    return results


def _write_verdicts(path: Path, judged: dict[str, list[Judged]]) -> None:
    """One line a picture, for whoever wants other measures or paired tests: ids and verdicts, no prompts."""
    with whole_file(path) as part, part.open("w", encoding="utf8") as file:
        for name, rows in judged.items():
            for row in rows:
                record = {"model": name, **asdict(row), "labels": sorted(row.labels)}
                file.write(json.dumps(record, sort_keys=True, ensure_ascii=False) + "\n")
