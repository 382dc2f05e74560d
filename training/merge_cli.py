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
    """Merge the safety experts into one LoRA, OUT/merged, and by the compared methods into OUT/merges.

    An expert is a folder with diffusers' file, peft's two, or one other LoRA in safetensors; the folder's name is its
    category."""
    from dataset_builder.disk import disk_full_said
    from training.merge import merge_experts

    overrides = [*(set_ or []), *([f"merge.method={method}"] if method else [])]
    recipe = load_recipe(config, overrides)
    folder = experts or out / "experts"
    found = find_experts(folder)
    typer.echo(_told(folder, found))
    with disk_full_said(out):
        merged = merge_experts(recipe, found, data or out / "dataset", out)
    for name, folder in merged.items():
        typer.echo(f"{name}: {folder}")


def find_experts(folder: Path) -> dict[str, Path]:
    """The adapter folders below `folder`, by name: those whose weights `training.lora_formats.weights_file` finds.

    Raises:
        `RecipeError`: if there is none.
    """
    from training.lora_formats import PEFT_WEIGHTS, WEIGHTS_NAME, weights_file

    experts = {path.name: path for path in _categories(folder) if weights_file(path)}
    if not experts:
        raise RecipeError(
            f"{folder}: found no expert (<category>/{WEIGHTS_NAME} or {PEFT_WEIGHTS}); run `coprov2 train` first, or "
            "give --experts"
        )
    return experts


def _categories(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("[!.]*") if path.is_dir())


def _told(folder: Path, experts: dict[str, Path]) -> str:
    """Which experts are taken, and which folders are not."""
    from training.lora_formats import WEIGHTS_NAME, weights_file

    names = {name: file.name for name, path in experts.items() if (file := weights_file(path))}
    taken = [name if file == WEIGHTS_NAME else f"{name} ({file})" for name, file in names.items()]
    left = [path.name for path in _categories(folder) if path.name not in experts]
    return f"experts: {', '.join(taken)}" + (f"; no adapter in {', '.join(left)}" if left else "")
