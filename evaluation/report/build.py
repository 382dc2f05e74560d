"""Which results stand in a folder, and the report on all of them: one HTML file that needs nothing else.

Reads what the stages have written (results, example pictures, training histories, times) and draws nothing anew."""

from pathlib import Path

from dataset_builder.disk import disk_full_said, make_folder
from evaluation.picture import write_picture
from evaluation.report.blocks import Part
from evaluation.report.evaluation_part import RESULTS, evaluation_part
from evaluation.report.page import render_page
from evaluation.report.reading import read_node
from evaluation.report.scaling_part import scaling_part
from evaluation.report.study_part import merge_study_part
from evaluation.report.suite_part import suite_part
from recipes import RecipeError
from recipes.writing import write_whole

STUDY = "study.json"
PAGE = Path("report") / "index.html"
PICTURE = Path("report") / "picture.png"


def result_files(out: Path) -> list[Path]:
    """The result files of a folder: of its evaluation, its study and its suites, or of the suite that it is."""
    found = [path for path in (out / RESULTS, out / STUDY) if path.is_file()]
    found += sorted(path for path in out.glob("suites/*/results.json") if path.is_file())
    own = out / "results.json"
    # The folder of an evaluation holds a file of that name too, but with `models`.
    if own.is_file() and out.resolve().parent.name == "suites":
        found.append(own)
    return found


def read_parts(out: Path) -> list[Part]:
    """A part for each result file of a folder.

    Raises:
        `RecipeError`: where there is none, or one is not what its stage writes.
    """
    parts = []
    for path in result_files(out):
        if path == out / RESULTS:
            parts.append(evaluation_part(out))
        elif path == out / STUDY:
            study = read_node(path)
            kind = study.need("kind")
            if kind.text() not in ("merge", "scaling"):
                raise kind.wrong("merge or scaling")
            parts.append(merge_study_part(study) if kind.text() == "merge" else scaling_part(study))
        else:
            parts.append(suite_part(path))
    if not parts:
        raise RecipeError(
            f"{out}: holds no results (looked for {RESULTS}, suites/*/results.json and {STUDY}); "
            f"run `coprov2 evaluate --out {out}` first"
        )
    return parts


def write_report(out: Path) -> Path:
    """Write OUT/report/index.html from what stands in OUT, and OUT/report/picture.png where an evaluation has examples.

    Args:
        out (`Path`): a folder with evaluation/results.json, suites/*/results.json or study.json, or several of them;
            experts/*/training.json and seconds.json are shown where they are.

    Returns:
        `Path`: of index.html. The file holds all it needs, and says so in its content security policy.

    Raises:
        `RecipeError`: where there are no results, one of the files is not what its stage writes, OUT cannot be written
            to, or the disk is full.
    """
    path = out / PAGE
    page = render_page(read_parts(out))
    make_folder(path.parent)
    with disk_full_said(path.parent):
        write_whole(path, page)
        if (out / RESULTS).is_file():
            write_picture(out)
    return path
