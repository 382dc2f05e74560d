"""The verb `evaluate`."""

from pathlib import Path
from typing import Annotated

import typer

import evaluation.study.cli
from evaluation import report_cli
from evaluation.drawing import WEIGHTS
from evaluation.suites import suite_cli
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
        if name in adapters and name != "base":
            raise RecipeError(f"--adapter {name}: is given twice; give it once, or give the other a name of its own")
        adapters[name] = Path(folder)
    return adapters


def register(app: typer.Typer) -> None:
    """Add the verbs `evaluate`, `report` and `study`, and those of suites, to the command."""
    evaluation.study.cli.register(app)
    report_cli.register(app)
    suite_cli.register(app)

    @app.command()
    def evaluate(
        out: RunFolder,
        config: Config = "emoji-world",
        set_: Set = None,
        data: Annotated[Path | None, typer.Option(help="The dataset folder; OUT/dataset unless given.")] = None,
        adapter: Annotated[
            list[str], typer.Option(help="NAME=DIR; repeatable. All of OUT's unless given. Of a suite: DIR, once.")
        ] = [],  # noqa: B006
        suite: Annotated[
            str | None, typer.Option(help="paper, features or emoji-world: rows under named protocols.")
        ] = None,
        base: Annotated[str | None, typer.Option(help="Of a suite: the base model, a Hub id or folder.")] = None,
        revision: Annotated[str | None, typer.Option(help="Of a suite: commit, tag or branch of --base.")] = None,
        prompts: Annotated[list[str], typer.Option(help="Of a suite: SET=PATH, the prompts of a set.")] = [],  # noqa: B006
        pin: Annotated[list[str], typer.Option(help="Of a suite: SET=SHA256, which its prompts must have.")] = [],  # noqa: B006
        model: Annotated[
            list[str],
            typer.Option(help="Of a suite: ROLE=PATH, of q16, q16_prompts, clip_score, inception or fid_reference."),
        ] = [],  # noqa: B006
        limit: Annotated[
            int | None, typer.Option(min=1, help="Of a suite: prompts a set, a seeded sample; of emoji-world a split.")
        ] = None,
        any_rows: Annotated[
            bool, typer.Option("--any-rows", help="Of a suite: take sets of another number of rows, and say so.")
        ] = False,
    ) -> None:
        """Measure base, experts and merged adapters on the same prompts and seeds, and write the report.

        With --suite: measure a base model and one adapter under named protocols, into OUT/suites/SUITE/results.json;
        --set then changes fields of the protocols (`coprov2 protocols`), and the results say which."""
        suite_options = {
            "--base": base,
            "--revision": revision,
            "--prompts": prompts,
            "--pin": pin,
            "--model": model,
            "--limit": limit,
            "--any-rows": any_rows,
        }
        if suite is not None:
            suite_cli.evaluate_suite(suite, config, set_ or [], data, adapter, suite_options, out)
            return
        for name, value in suite_options.items():
            if value:
                raise RecipeError(f"{name}: belongs to a suite; give --suite too, or leave it out")
        from evaluation.evaluate import evaluate as run
        from evaluation.report import write_report
        from evaluation.table import text_table

        recipe = load_recipe(config, set_ or [])
        adapters = _given(adapter) if adapter else find_adapters(recipe, out)
        results = run(recipe, data or out / "dataset", adapters, out)
        print(text_table(results))
        print(f"report: {write_report(out)}")
