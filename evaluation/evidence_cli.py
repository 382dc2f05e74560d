"""The verb `coprov2 evidence`."""

from pathlib import Path
from typing import Annotated

import typer

ROOT = Path(__file__).resolve().parent.parent


def register(app: typer.Typer) -> None:
    """Add the verb to the command."""
    app.command("evidence")(evidence)


def evidence(
    out: Annotated[Path, typer.Option(help="folder of what is measured; kept, so that a killed run goes on")] = Path(
        "runs/evidence"
    ),
    claims: Annotated[Path, typer.Option(help="which numbers stand where, and what measures them")] = ROOT
    / "docs"
    / "claims.yaml",
    source: Annotated[
        list[str] | None,
        typer.Option(help="measure this source alone; repeatable; writes no docs/EVIDENCE.md"),
    ] = None,
) -> None:
    """Measure again every number that README, docs and cards state, and fail where one no longer holds."""
    from evaluation.evidence import check_evidence

    findings, loose = check_evidence(ROOT, claims, out, source or [])
    for finding in findings:
        if not finding.holds:
            claim = finding.claim
            typer.echo(
                f"DOES NOT HOLD: {claim.file}: {claim.text!r} states {finding.shown}, measured "
                f"{finding.value / claim.unit:.4g} ({finding.low / claim.unit:.4g} to {finding.high / claim.unit:.4g})"
            )
    for place in loose:
        typer.echo(f"WITHOUT A MEASUREMENT: {place}; claim it in {claims.name}, or take it out")
    held = sum(finding.holds for finding in findings)
    typer.echo(f"{held} of {len(findings)} numbers hold, {len(loose)} figures are without a measurement")
    if held < len(findings) or loose:
        raise typer.Exit(1)
