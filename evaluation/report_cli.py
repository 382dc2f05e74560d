"""The verbs `report build` and `report serve`."""

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Mount `report` on the command."""
    report = typer.Typer(no_args_is_help=True, help="Build reports, and look at a folder of runs.")

    @report.command()
    def build(
        folder: Annotated[Path, typer.Argument(help="A folder with results of evaluate, a suite or a study.")],
    ) -> None:
        """Write FOLDER/report/index.html, one file that needs nothing else, from the results that stand there."""
        from evaluation.report import write_report

        typer.echo(f"report: {write_report(folder)}")

    @report.command()
    def serve(
        folder: Annotated[Path, typer.Argument(help="The folder that holds the runs.")],
        port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free one.")] = 8089,
    ) -> None:
        """Show all runs below a folder on the loopback address; reads, and writes nothing."""
        from evaluation.report.serve import serve as run

        run(folder, port)

    app.add_typer(report, name="report")
