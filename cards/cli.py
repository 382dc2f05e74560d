"""The verb `cards`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from recipes import RecipeError, load_recipe
from recipes.options import Config, RunFolder, Set


def cards(
    out: RunFolder,
    config: Config = "emoji-world",
    set_: Set = None,
    dataset_commit: Annotated[
        str | None, typer.Option(help="Commit of the dataset on the Hub that the adapter was trained on.")
    ] = None,
    superseded_by: Annotated[
        str | None, typer.Option(help="org/name of the adapter that takes this one's place.")
    ] = None,
) -> None:
    """Write the cards of what a run holds: OUT/dataset/README.md and OUT/merged/README.md; sections by hand stay."""
    from cards.adapter_card import write_adapter_card
    from cards.dataset_card import write_dataset_card
    from dataset_builder.schema import MANIFEST
    from evaluation.drawing import WEIGHTS
    from evaluation.picture import write_picture

    recipe = load_recipe(config, set_ or [])
    dataset, merged = out / "dataset", out / "merged"
    here = [(dataset / MANIFEST).is_file(), (merged / WEIGHTS).is_file()]
    if not any(here):
        raise RecipeError(f"{out}: holds neither dataset/ nor merged/; run `coprov2 build` first, or give --out")
    if here[0]:
        typer.echo(f"dataset card: {write_dataset_card(recipe, dataset)}")
    if here[1]:
        found = out / "evaluation" / "results.json"
        results = _results(found)
        picture = write_picture(out) if results else None
        card = write_adapter_card(
            recipe,
            merged,
            results,
            picture=picture,
            examples=out / "evaluation" if results else None,
            dataset_revision=dataset_commit,
            new_version=superseded_by,
        )
        typer.echo(f"adapter card: {card}{'' if results else ', without results: `coprov2 evaluate` was not run'}")


def _results(path: Path) -> dict[str, Any] | None:
    """What was evaluated; None where nothing was.

    Raises:
        `RecipeError`: for a file that is cut off, or no evaluation's.
    """
    if not path.is_file():
        return None
    try:
        results = json.loads(path.read_text("utf8"))
    except (ValueError, RecursionError):
        results = None
    if not _whole(results):
        raise RecipeError(f"{path}: not an evaluation's results; run `coprov2 evaluate` again, or remove it")
    return dict(results)


def _whole(results: Any) -> bool:
    """Whether results hold the mappings that a card reads: models by name, and what they follow from."""
    if not isinstance(results, dict):
        return False
    models, provenance = results.get("models"), results.get("provenance")
    read = [models, provenance]
    read += list(models.values()) if isinstance(models, dict) else []
    read += [provenance.get(name) for name in ("adapters", "dataset")] if isinstance(provenance, dict) else []
    return all(isinstance(value, dict) for value in read) and "base" in results["models"]


def register(app: typer.Typer) -> None:
    """Mount this package's verb on the command."""
    app.command("cards")(cards)
