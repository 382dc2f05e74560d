"""The verb `coprov2 merge`."""

from pathlib import Path
from typing import Annotated

import typer

from recipes import RecipeError, load_recipe
from recipes.options import Config, Out, Set
from training.cli import Data


def register(app: typer.Typer) -> None:
    """Add the verb to the command."""
    app.command("merge")(merge)


def merge(
    out: Out,
    config: Config = "emoji-world",
    set_: Set = None,
    data: Data = None,
    experts: Annotated[Path | None, typer.Option(help="folder of one adapter folder per category; OUT/experts")] = None,
    method: Annotated[str | None, typer.Option(help="in place of the recipe's merge.method")] = None,
) -> None:
    """Merge the safety experts into one LoRA, OUT/merged, and by the compared methods into OUT/merges."""
    from dataset_builder.disk import disk_full_said
    from training.merge import merge_experts

    overrides = [*(set_ or []), *([f"merge.method={method}"] if method else [])]
    recipe = load_recipe(config, overrides)
    found = find_experts(experts or out / "experts")
    with disk_full_said(out):
        merged = merge_experts(recipe, found, data or out / "dataset", out)
    for name, folder in merged.items():
        typer.echo(f"{name}: {folder}")


def find_experts(folder: Path) -> dict[str, Path]:
    """The adapter folders below `folder`, by name.

    Raises:
        `RecipeError`: if there is none.
    """
    from training.adapters import WEIGHTS_NAME

    experts = {path.parent.name: path.parent for path in sorted(folder.glob(f"*/{WEIGHTS_NAME}"))}
    if not experts:
        raise RecipeError(
            f"{folder}: found no expert (<category>/{WEIGHTS_NAME}); run `coprov2 train` first, or give --experts"
        )
    return experts
