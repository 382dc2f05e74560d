"""The verb `evaluate`."""

from pathlib import Path
from typing import Annotated

import typer

from evaluation import report_cli
from evaluation.drawing import WEIGHTS
from recipes import Recipe, RecipeError, load_recipe
from recipes.options import Config, RunFolder, Set


def find_adapters(recipe: Recipe, out: Path) -> dict[str, Path | None]:
    """The adapters of a run's folder by model name, and `base`.

    Experts are left out where the recipe's `evaluate.experts` says so."""
    found: dict[str, Path | None] = {"base": None}
    if recipe.evaluate.experts:
        for path in sorted((out / "experts").glob(f"*/{WEIGHTS}")):
            found[f"expert/{path.parent.name}"] = path.parent
    if (out / "merged" / WEIGHTS).is_file():
        found["merged"] = out / "merged"
    for path in sorted((out / "merges").glob(f"*/{WEIGHTS}")):
        found[f"merge/{path.parent.name}"] = path.parent
    return found


def _given(options: list[str]) -> dict[str, Path | None]:
    adapters: dict[str, Path | None] = {"base": None}
    for option in options:
        name, sign, folder = option.partition("=")
        if not sign or not name or not folder:
            raise RecipeError(f"--adapter: found {option!r}, expected NAME=DIR, for example merged=runs/mine/merged")
        adapters[name] = Path(folder)
    return adapters


def register(app: typer.Typer) -> None:
    """Add the verbs `evaluate` and `report` to the command."""
    report_cli.register(app)

    @app.command()
    def evaluate(
        out: RunFolder,
        config: Config = "emoji-world",
        set_: Set = None,
        data: Annotated[Path | None, typer.Option(help="The dataset folder; OUT/dataset unless given.")] = None,
        adapter: Annotated[list[str], typer.Option(help="NAME=DIR; repeatable. All of OUT's unless given.")] = [],  # noqa: B006
    ) -> None:
        """Measure base, experts and merged adapters on the same prompts and seeds, and write the report."""
        from evaluation.evaluate import evaluate as run
        from evaluation.report import write_report
        from evaluation.table import text_table

        recipe = load_recipe(config, set_ or [])
        adapters = _given(adapter) if adapter else find_adapters(recipe, out)
        results = run(recipe, data or out / "dataset", adapters, out)
        print(text_table(results))
        print(f"report: {write_report(out)}")
