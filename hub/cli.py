"""The verbs `quickstart`, `push`, `pull`, `contribute`, `release`, `doctor` and `hub serve`."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

import hub.review_cli
from hub.client import HubError
from recipes import RecipeError, load_recipe
from recipes.options import Config, Out, Set

Kinds = Literal["data", "adapter"]


def quickstart(
    out: Out,
    seed: Annotated[int | None, typer.Option(help="In place of the recipe's seed.", show_default=False)] = None,
    config: Config = "emoji-world",
    set_: Set = None,
) -> None:
    """Build, train, merge, evaluate, write the cards and the report: all of CoProV2 in one run."""
    from hub.quickstart import quickstart as run

    run(load_recipe(config, set_ or []), out, seed)


def push(
    kind: Annotated[Kinds, typer.Argument(help="data or adapter")],
    folder: Annotated[Path, typer.Argument(help="A dataset or adapter folder.")],
    to: Annotated[str | None, typer.Option(help="org/name; the recipe's unless given.", show_default=False)] = None,
    public: Annotated[bool, typer.Option("--public", help="Do not make the repository private.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before a repository is made public.")] = False,
    open_: Annotated[bool, typer.Option("--open", help="Do not gate the repository.")] = False,
    tag: Annotated[str | None, typer.Option(help="vMAJOR.MINOR.PATCH; the manifest's unless given.")] = None,
    config: Config = "emoji-world",
    set_: Set = None,
) -> None:
    """Send a folder to the Hub at HF_ENDPOINT: private and gated, in one commit, verified, tagged."""
    from hub.push import push as run

    publish = load_recipe(config, set_ or []).publish
    if public and not yes and not (sys.stdin.isatty() and typer.confirm("Let everybody see this repository?")):
        raise RecipeError("--public: say yes when you are asked, or give --yes; without it the repository is private")
    name = to or f"{publish.namespace}/{publish.dataset if kind == 'data' else publish.adapter}"
    pushed = run(kind, folder, name, publish.private and not public, publish.gated and not open_, tag)
    typer.echo(f"{pushed.repository} at {pushed.revision}{f', tag {pushed.tag}' if pushed.tag else ''}")
    typer.echo(
        f"{'new repository, ' if pushed.created else ''}{len(pushed.uploaded)} files sent, {len(pushed.unchanged)} "
        f"there already, {len(pushed.deleted)} taken away; all checksums agree"
    )
    if pushed.kept:
        typer.echo("the card keeps what was written by hand into the one on the Hub")


def pull(
    kind: Annotated[Kinds, typer.Argument(help="data or adapter")],
    source: Annotated[str, typer.Argument(help="org/name or org/name@version")],
    out: Annotated[Path, typer.Option(help="The folder to fetch into.")],
) -> None:
    """Fetch a repository from the Hub at HF_ENDPOINT and check it by its checksums."""
    from hub.pull import pull as run

    pulled = run(kind, source, out)
    typer.echo(f"{pulled.repository} at {pulled.revision}, version {pulled.version or 'not stated'}: {pulled.folder}")
    typer.echo(
        f"{pulled.files} files, {pulled.size:,} bytes; all agree with the Hub's checksums, "
        f"{pulled.checked} with those of coprov2.json"
    )
    if pulled.left:
        typer.echo(f"{len(pulled.left)} other files were left there: {', '.join(pulled.left[:5])}")


def contribute(
    source: Annotated[Path, typer.Argument(help="A JSONL, CSV or Parquet file, or a folder with pictures.")],
    to: Annotated[str, typer.Option(help="org/name of the dataset.")],
    licence_agreed: Annotated[
        bool, typer.Option("--licence-agreed", help="Give the pairs under the dataset's licence.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check, and send nothing.")] = False,
    judge: Annotated[bool, typer.Option("--judge", help="Ask the recipe's judges about the pictures too.")] = False,
    report: Annotated[Path | None, typer.Option(help="A JSON file for what passes and why others fail.")] = None,
    config: Config = "emoji-world",
    set_: Set = None,
) -> None:
    """Check pairs against a published dataset and open a pull request with those that pass; exit status 1 where none
    does."""
    from hub.contribute import contribute as run
    from hub.contribute import write_report

    def agree(licence: str) -> bool:
        return licence_agreed or (
            sys.stdin.isatty() and typer.confirm(f"Give these pairs under the dataset's licence, {licence}?")
        )

    judges = load_recipe(config, set_ or []).judge if judge else None
    contributed = run(source, to, agree, dry_run, judges, say=typer.echo)
    if report is not None:
        write_report(report, contributed)
    where = f", pull request {contributed.number}: {contributed.url}" if contributed.number is not None else ""
    typer.echo(f"{contributed.state}{where}")
    if not contributed.passed:
        raise typer.Exit(1)


def release(
    name: Annotated[str, typer.Argument(help="org/name of the dataset.")],
    bump: Annotated[
        str, typer.Option(help="minor: pairs come in; patch: pairs go, or the card changed; major: columns.")
    ],
    out: Annotated[Path | None, typer.Option(help="A folder to work in; the next release goes on in it.")] = None,
    withdraw: Annotated[
        str | None, typer.Option(help="Pair ids that go: one, several with commas, or a file with one a line.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Make the folder, and change nothing on the Hub.")] = False,
    judge: Annotated[bool, typer.Option("--judge", help="Ask the recipe's judges about contributed pictures.")] = False,
    check_load: Annotated[
        bool, typer.Option("--check-load", help="Load the version by its tag with datasets, and count its rows.")
    ] = False,
    config: Config = "emoji-world",
    set_: Set = None,
) -> None:
    """Take merged contributions into a dataset's splits: one commit, one tag, verified; run it again after a kill."""
    from hub.release import release as run
    from hub.release_report import pair_ids, released_table

    recipe = load_recipe(config, set_ or [])
    ids = pair_ids(withdraw) if withdraw else []
    judges = recipe.judge if judge else None
    released = run(name, bump, out, dry_run, ids, recipe, judges, check_load, say=typer.echo)
    typer.echo(released_table(released, dry_run, out))


def doctor(
    config: Config = "emoji-world",
    set_: Set = None,
    out: Annotated[Path, typer.Option(help="The folder of the run that is planned.")] = Path("."),
    push: Annotated[bool, typer.Option("--push", help="Check too that what is built can be pushed.")] = False,
) -> None:
    """Check what a long run needs before it starts; exit status 1 where something is missing."""
    from dataset_builder.doctor import examine, exit_status, say
    from hub.doctor import examine_hub
    from training.denoisers import DENOISERS

    recipe = load_recipe(config, set_ or [])
    findings = [*examine(recipe, out, DENOISERS), *examine_hub(recipe, push)]
    say(findings)
    raise typer.Exit(exit_status(findings))


def serve(
    root: Annotated[Path, typer.Option(help="The hub's folder; made where there is none.")],
    port: Annotated[int, typer.Option(help="0 takes a free one.", min=0, max=65535)] = 8080,
    host: Annotated[
        str, typer.Option(help="The address to listen at; the default is this machine's alone.")
    ] = "127.0.0.1",
    cdn_port: Annotated[
        int | None, typer.Option(help="Give LFS files from this port, by redirect to signed URLs.", min=0, max=65535)
    ] = None,
    origin: Annotated[str | None, typer.Option(help="What URLs begin with, if clients use another name.")] = None,
    open_readme: Annotated[bool, typer.Option("--open-readme", help="Leave README.md readable under gating.")] = False,
) -> None:
    """Serve a Hub from a folder: repositories, pull requests, gating and LFS, for the stock clients.

    Users, organizations and tokens stand in ROOT/users.yaml. The first start writes it, with the user admin and one
    token that it prints; it is read again whenever it changes. Clients need no more than

        export HF_ENDPOINT=http://127.0.0.1:8080 HF_TOKEN=hf_...
    """
    from hub.local.__main__ import announce
    from hub.local.errors import LocalHubError
    from hub.local.server import serve as run

    try:
        run(root, host, port, cdn_port, origin, announce, open_readme)
    except LocalHubError as error:
        raise HubError(str(error)) from None


def register(app: typer.Typer) -> None:
    """Mount this package's verbs on the command."""
    app.command("quickstart")(quickstart)
    app.command("push")(push)
    app.command("pull")(pull)
    app.command("contribute")(contribute)
    app.command("release")(release)
    app.command("doctor")(doctor)
    hub.review_cli.register(app)
    server = typer.Typer(no_args_is_help=True, help="A Hub of one's own, for tests and for data that may not leave.")
    server.callback()(lambda: None)
    server.command("serve")(serve)
    app.add_typer(server, name="hub")
