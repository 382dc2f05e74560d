"""The verb `coprov2 train`."""

import os
from pathlib import Path
from typing import Annotated

import typer

from recipes import Recipe, load_recipe
from recipes.options import Config, Out, Set

# As `coprov2 merge` takes them too.
Data = Annotated[Path | None, typer.Option(help="the dataset's folder; OUT/dataset by default")]


def register(app: typer.Typer) -> None:
    """Add the verb to the command."""
    app.command("train")(train)


def train(
    out: Out,
    config: Config = "emoji-world",
    set_: Set = None,
    data: Data = None,
    category: Annotated[list[str] | None, typer.Option(help="train this expert only; may be repeated")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="time a few steps, print the estimate, keep nothing")
    ] = False,
) -> None:
    """Train one safety expert per category into OUT/experts; what is finished already is left alone.

    Under accelerate launch (accelerate launch -m coprov2 train ...) all processes train each expert together, every one
    with a batch of train.batch_size.
    """
    # Imported here, because it takes seconds that --help need not spend.
    from dataset_builder.disk import disk_full_said
    from training.config import ConfigError
    from training.expert import launched_processes
    from training.experts import train_experts

    recipe = load_recipe(config, set_ or [])
    if category:
        recipe.train.categories = list(category)
    if dry_run:
        if launched_processes() > 1:
            raise ConfigError(f"--dry-run: under a launcher with {launched_processes()} processes; run it without one")
        _print_plan(recipe, data or out / "dataset")
        return
    with disk_full_said(out):
        trained = train_experts(recipe, data or out / "dataset", out)
    for name, folder in trained.items():
        if os.environ.get("RANK", "0") == "0":
            typer.echo(f"{name}: {folder}")


def _print_plan(recipe: Recipe, dataset: Path) -> None:
    from training.dry_run import dry_run

    plan = dry_run(recipe, dataset)
    pairs = ", ".join(f"{category} {count}" for category, count in plan.pairs.items())
    typer.echo(f"experts: {len(plan.pairs)}, {plan.workers} at a time, {plan.steps} steps each")
    typer.echo(f"pairs: {pairs}; {recipe.train.batch_size} a step, {plan.rows} pictures through the denoiser")
    typer.echo(f"memory: {plan.peak_bytes / 2**20:.0f} MiB a process at the peak of a few steps")
    typer.echo(f"cache on disk: {plan.cache_bytes / 2**20:.1f} MiB of encoded pictures and prompts")
    typer.echo(f"time: {plan.seconds_a_step:.3f} s a step, at most {plan.seconds_encoding:.0f} s of encoding")
    typer.echo(f"in all: {plan.seconds / 60:.1f} minutes, if experts at a time do not slow each other down")
