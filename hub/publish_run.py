"""Publish a run to a Hub: push, one contribution, its review and merge, and the release that takes it in.

Run in a process of its own, for huggingface_hub reads HF_ENDPOINT when it is imported. The pairs that are contributed
are scenes of the emoji world that the run did not draw; a run with another text-to-image model has none to give."""

import argparse
import json
import shutil
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from dataset_builder.schema import MANIFEST
from hub.client import HubError
from recipes import Recipe
from recipes.loading import fill
from recipes.writing import write_json

# Of every category so many scenes are proposed; the checks of `contribute` leave some of them.
_SCENES = 3
ADAPTER_TAG = "v1.0.0"


def scenes(dataset: Path, seed: int) -> list[dict[str, str]]:
    """New prompt pairs for a dataset of the emoji world: by category, concepts that it knows and can be drawn."""
    from dataset_builder.emoji_world.scenes import random_scene
    from dataset_builder.emoji_world.things import NEUTRAL, UNSAFE

    concepts = json.loads((dataset / MANIFEST).read_text("utf8"))["taxonomy"]["concepts"]
    rng = np.random.default_rng([seed, 5])
    found = []
    for category, names in concepts.items():
        known = [name for name in names["seen"] if name in UNSAFE]
        for _ in range(_SCENES if known else 0):
            thing = str(rng.choice(known))
            scene = random_scene(rng, (thing, str(rng.choice(NEUTRAL))))
            safe = scene.swap(thing, str(UNSAFE[thing].counterpart))
            prompts = {"unsafe_prompt": scene.caption(), "safe_prompt": safe.caption()}
            found.append({"category": category, "concept": thing, **prompts})
    return found


def draw(rows: list[dict[str, str]], recipe: Recipe, folder: Path) -> Path:
    """Draw pairs with the run's own model into an imagefolder: `metadata.jsonl` and the pictures; returns `folder`."""
    from dataset_builder import models
    from dataset_builder.pair_rendering import PairToDraw, PairWorker, seed_of_attempt

    folder.mkdir(parents=True)
    t2i = models.identity(recipe.base_model, recipe.revision)
    worker = PairWorker(recipe.base_model, recipe.revision, recipe.render, t2i)
    names = [f"pair-{number:02d}" for number in range(len(rows))]
    seeds = [
        tuple(seed_of_attempt(name, recipe.seed, attempt) for attempt in range(recipe.render.max_attempts))
        for name in names
    ]
    worker.load()
    try:
        drawn = worker.answer(
            [
                PairToDraw(name, row["unsafe_prompt"], row["safe_prompt"], of_pair)
                for name, row, of_pair in zip(names, rows, seeds, strict=True)
            ]
        )
    finally:
        worker.close()
    with (folder / "metadata.jsonl").open("w", encoding="utf8") as file:
        for name, row, pair in zip(names, rows, drawn, strict=True):
            if pair.pngs is None:
                continue
            pictures = {f"{side}_image_file_name": f"{name}-{side}.png" for side in ("unsafe", "safe")}
            for picture, png in zip(pictures.values(), pair.pngs, strict=True):
                (folder / picture).write_bytes(png)
            file.write(json.dumps({**row, **pictures, "seed": pair.seed, "t2i": t2i}) + "\n")
    return folder


def publish(recipe: Recipe, out: Path, owner: Any, contributor: Any) -> dict[str, Any]:
    """Publish the dataset and the merged adapter of the run in `out`.

    Args:
        recipe (`Recipe`): of the run.
        out (`Path`): its folder.
        owner, contributor (`huggingface_hub.HfApi`): the clients of who publishes and of who gives pairs.

    Returns:
        `dict`: names, tags and commits, the pull request, and how many pairs came in.

    Raises:
        `HubError`: where a step does not end as it must.
    """
    from cards import write_adapter_card
    from hub.contribute import contribute
    from hub.push import push
    from hub.quickstart import read_results
    from hub.release import release
    from hub.review import comment, merge_reviewed, review
    from hub.review_report import write_report

    name = f"{recipe.publish.namespace}/{recipe.publish.dataset}"
    data = push("data", out / "dataset", name, recipe.publish.private, recipe.publish.gated, api=owner)
    adapter_name = f"{recipe.publish.namespace}/{recipe.publish.adapter}"
    with tempfile.TemporaryDirectory(prefix="coprov2-adapter-") as place:
        # A copy, for its card names the commit of the dataset, which every publishing makes anew.
        folder = Path(shutil.copytree(out / "merged", Path(place) / "merged"))
        results, picture = read_results(out), out / "report" / "picture.png"
        write_adapter_card(
            recipe, folder, results, picture=picture, examples=out / "evaluation", dataset_revision=data.revision
        )
        adapter = push(
            "adapter", folder, adapter_name, recipe.publish.private, recipe.publish.gated, ADAPTER_TAG, api=owner
        )
    done: dict[str, Any] = {
        "dataset": {"name": name, "versions": {str(data.tag): data.revision}},
        "adapter": {"name": adapter_name, "versions": {str(adapter.tag): adapter.revision}},
    }
    rows = scenes(out / "dataset", recipe.seed) if recipe.base_model == "emoji-world" else []
    if not rows:
        return done
    with tempfile.TemporaryDirectory(prefix="coprov2-contribution-") as place:
        folder = draw(rows, recipe, Path(place) / "pairs")
        given = contribute(folder, name, lambda licence: True, judge=recipe.judge, api=contributor, say=_say)
    if given.number is None:
        raise HubError(f"{name}: no pair of the {len(rows)} that were proposed passed; the table above says why")
    result = review(name, given.number, judge=recipe.judge, api=owner)
    write_report(result.report, result.pairs, out / "review")
    comment(result, owner)
    merged = merge_reviewed(result, owner)
    released = release(name, "minor", recipe=recipe, judge=recipe.judge, api=owner, say=_say)
    if not released.made:
        raise HubError(f"{name}: {released.said}")
    done["dataset"]["versions"][released.version] = released.revision
    done["contribution"] = {
        "proposed": len(rows),
        "pull_request": given.number,
        "passed": given.passed,
        "merged": merged.commit,
        "added": released.added,
    }
    return done


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def main() -> None:
    """Read the recipe from RUN/work/publish.json, publish to HF_ENDPOINT, and write RUN/hub.json."""
    from huggingface_hub import HfApi

    from recipes import RecipeError

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("run", type=Path)
    run: Path = parser.parse_args().run
    given = json.loads((run / "work" / "publish.json").read_text("utf8"))
    recipe = fill(Recipe, given["recipe"], "publish.json")
    try:
        done = publish(recipe, run, HfApi(token=given["owner"]), HfApi(token=given["contributor"]))
    except RecipeError as error:
        sys.exit(str(error))
    write_json(run / "work" / "published.json", done)


def order(recipe: Recipe, run: Path, owner: str, contributor: str) -> None:
    """Write what `main` reads; the tokens are of a Hub that lives as long as the run's stage."""
    write_json(run / "work" / "publish.json", {"recipe": asdict(recipe), "owner": owner, "contributor": contributor})


if __name__ == "__main__":
    main()
