"""The verb `review`: exit status 0 where the pull request passes, 1 where it does not, 2 for an error."""

from pathlib import Path
from typing import Annotated

import typer

from recipes import JudgeConfig, RecipeError, load_recipe
from recipes.options import Config, Set


def review(
    repository: Annotated[str | None, typer.Argument(help="org/name of the dataset.", show_default=False)] = None,
    pr: Annotated[int | None, typer.Option(min=1, help="The N of refs/pr/N.", show_default=False)] = None,
    merge: Annotated[bool, typer.Option("--merge", help="Merge it if every row passes and nobody pushes.")] = False,
    comment: Annotated[bool, typer.Option("--comment", help="Post the report on the pull request.")] = False,
    render: Annotated[bool, typer.Option("--render", help="Draw missing pictures and add them to it.")] = False,
    judge: Annotated[bool, typer.Option("--judge", help="Let the recipe's judges look at the pictures.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder for report.json, report.md and report.html.", show_default=False)
    ] = None,
    serve: Annotated[bool, typer.Option("--serve", help="Listen to the Hub's webhook, and comment.")] = False,
    repo: Annotated[
        list[str] | None, typer.Option(help="A dataset to serve; can be given again.", show_default=False)
    ] = None,
    secret_file: Annotated[
        Path | None, typer.Option(help="Holds the webhook's secret; for --serve.", show_default=False)
    ] = None,
    host: Annotated[str, typer.Option(help="For --serve.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="For --serve.")] = 8765,
    config: Config = "emoji-world",
    set_: Set = None,
) -> None:
    """Check a pull request that contributes pairs, as hostile data, at one commit; report, comment, merge."""
    judges = load_recipe(config, set_ or []).judge if judge else None
    if serve:
        if repository or pr or merge or render or comment or out:
            raise RecipeError("review --serve: takes --repo, --secret-file, --host, --port and --judge only")
        if not repo or secret_file is None:
            raise RecipeError("review --serve: needs --repo org/name and --secret-file")
        from hub.review_server import serve as run_server

        run_server(repo, secret_file, host, port, judges)
        return
    if repository is None or pr is None:
        raise RecipeError("review: needs org/name and --pr N, or --serve")
    if repo or secret_file:
        raise RecipeError("review: --repo and --secret-file go with --serve")
    _review(repository, pr, merge, comment, render, judges, out)


def _review(
    repository: str, pr: int, merge: bool, comment: bool, render: bool, judges: JudgeConfig | None, out: Path | None
) -> None:
    from huggingface_hub import HfApi

    from hub.review import comment as post
    from hub.review import merge_reviewed
    from hub.review import review as run
    from hub.review_report import terminal, write_report

    api = HfApi()
    result = run(repository, pr, judges, render, with_pairs=out is not None, api=api)
    typer.echo(terminal(result.report), nl=False)
    if out is not None:
        typer.echo(f"report: {write_report(result.report, result.pairs, out)[-1]}")
    if comment:
        typer.echo("comment: posted" if post(result, api) else "comment: there already")
    if merge:
        if not result.report.passes:
            typer.echo("not merged", err=True)
            raise typer.Exit(1)
        merged = merge_reviewed(result, api)
        typer.echo(f"merged as {merged.commit}; main holds the {merged.files} reviewed files and is else unchanged")
    raise typer.Exit(0 if result.report.passes else 1)


def register(app: typer.Typer) -> None:
    """Mount the verb on the command."""
    app.command("review")(review)
