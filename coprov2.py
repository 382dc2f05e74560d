"""The command `coprov2`: mounts each package's verbs, and nothing else."""

import os
import sys

# Read when torch is imported. A thread that waits for the others sleeps instead of spinning: beside other work on the
# same cores that is ten times faster (docs/LOG.md).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import typer

import cards.cli
import dataset_builder.cli
import evaluation.cli
import evaluation.evidence_cli
import hub.cli
import training.cli
import training.merge_cli
from recipes import RecipeError

app = typer.Typer(
    name="coprov2",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Build preference data, train safety experts, merge, evaluate and publish them.",
)
for package in (
    hub.cli,
    dataset_builder.cli,
    training.cli,
    training.merge_cli,
    evaluation.cli,
    evaluation.evidence_cli,
    cards.cli,
):
    package.register(app)


def main() -> None:
    """Run the command; a mistake in a recipe, a file or an option is one line on standard error, exit status 2."""
    try:
        app()
    except RecipeError as error:
        print(f"coprov2: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
