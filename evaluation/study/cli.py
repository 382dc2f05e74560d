"""The verbs `coprov2 study merge`, `study scaling` and `study table`."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from recipes import RecipeError, load_recipe
from recipes.options import Out, Set

RecipeOption = Annotated[str, typer.Option("--recipe", help="A recipe: the name of a shipped one, or a path.")]
Seeds = Annotated[int, typer.Option(help="How many seeds: the recipe's, and those that follow it.")]
PlanOption = Annotated[str | None, typer.Option("--plan", help="A plan: the name of a shipped one, or a path.")]
Only = Annotated[list[str], typer.Option(help="A variant or a group of the plan; can be given again.")]
Limit = Annotated[int | None, typer.Option(help="Prompts a split at most, whatever the plan says.")]
Jobs = Annotated[int, typer.Option(help="Seeds side by side, each in a process with one thread.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what is to be done and how long it takes; do nothing.")]

app = typer.Typer(no_args_is_help=True, help="Compare merges, and numbers of aligned concepts, over seeds.")


def register(main: typer.Typer) -> None:
    """Add the verbs to the command."""
    main.add_typer(app, name="study")


@app.command()
def merge(
    out: Out,
    recipe: RecipeOption = "emoji-world",
    seeds: Seeds = 5,
    plan: PlanOption = None,
    only: Only = [],  # noqa: B006
    set_: Set = None,
    limit: Limit = None,
    jobs: Jobs = 1,
    dry_run: DryRun = False,
) -> None:
    """Train experts for each seed, merge them in every way of the plan, and compare: OUT/study.json."""
    _study("merge", out, recipe, seeds, plan, only, set_, limit, jobs, dry_run)


@app.command()
def scaling(
    out: Out,
    recipe: RecipeOption = "emoji-world",
    seeds: Seeds = 5,
    plan: PlanOption = None,
    only: Only = [],  # noqa: B006
    set_: Set = None,
    limit: Limit = None,
    jobs: Jobs = 1,
    dry_run: DryRun = False,
) -> None:
    """Align more and more concepts, by one LoRA and by experts that are merged, and compare: OUT/study.json."""
    _study("scaling", out, recipe, seeds, plan, only, set_, limit, jobs, dry_run)


@app.command()
def table(
    folder: Annotated[Path, typer.Argument(help="The study's folder.")],
    markdown: Annotated[bool, typer.Option("--markdown", help="Tables in Markdown, to paste into a text.")] = False,
) -> None:
    """Print a study's results again."""
    from evaluation.study.results import RESULTS, read_results
    from evaluation.study.table_text import study_table

    print(study_table(read_results(folder), markdown, folder / RESULTS))


def _study(
    kind: str,
    out: Path,
    recipe_name: str,
    seeds: int,
    plan: str | None,
    only: list[str],
    overrides: list[str] | None,
    limit: int | None,
    jobs: int,
    dry_run: bool,
) -> None:
    from evaluation.study.examples import write_study_examples
    from evaluation.study.plan import load_plan
    from evaluation.study.results import read_results, write_results
    from evaluation.study.running import Study, run_study
    from evaluation.study.table_text import study_table

    recipe = load_recipe(recipe_name, overrides or [])
    numbers = list(range(recipe.seed, recipe.seed + max(seeds, 0)))
    study = Study(load_plan(plan or kind, kind), recipe, out, numbers, only, limit, jobs)
    if dry_run:
        from evaluation.study.estimate import what_is_left

        print(what_is_left(study))
        return
    failed = run_study(study, partial(write_results, study))
    write_study_examples(study)
    print(study_table(read_results(out)))
    print(f"results: {out / 'study.json'}")
    if failed:
        first = next(iter(failed))
        raise RecipeError(f"{len(failed)} variants could not be made, the first: {first}: {failed[first]}")
