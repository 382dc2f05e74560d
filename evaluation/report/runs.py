"""The runs below a folder: which there are, and what each one's results say in short.

Links are not followed, so nothing outside of the folder is found or read."""

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from evaluation.report.blocks import Part
from evaluation.report.build import PAGE, PICTURE, read_parts, result_files
from evaluation.report.reading import clean
from recipes import RecipeError

# Folders of a run that hold no further runs, and may hold very many files.
INSIDE = {"dataset", "evaluation", "experts", "merged", "merges", "report", "review", "suites", "variants", "work"}
# Folders of a run that a report reads.
READ = {"evaluation", "examples", "experts", "suites"}
DEEPEST = 8
MOST_RUNS = 2_000
MOST_BYTES = 200_000_000


@dataclass(frozen=True)
class Run:
    """A folder with results.

    Args:
        key (`str`): sixteen hex digits of the hash of its path below the folder that is served; its address.
        name (`str`): that path.
        folder (`Path`): the folder.
        results (`list[Path]`): its result files.
    """

    key: str
    name: str
    folder: Path
    results: list[Path]

    @property
    def changed(self) -> float:
        """When its newest result file was written, in seconds since 1970."""
        return max((path.stat().st_mtime for path in self.results if path.is_file()), default=0.0)

    @property
    def date(self) -> str:
        """That moment, to the minute, in UTC."""
        return datetime.fromtimestamp(self.changed, UTC).strftime("%Y-%m-%d %H:%M UTC")

    @property
    def outdated(self) -> bool:
        """Whether the report on disk is older than the results."""
        page = self.folder / PAGE
        return page.is_file() and page.stat().st_mtime < self.changed


@dataclass(frozen=True)
class Shown:
    """A run as the index shows it: its parts, or what is wrong with its results."""

    run: Run
    parts: list[Part]
    wrong: str
    picture: bool


def holds_link(root: Path, path: Path) -> bool:
    """Whether `path`, or a folder on the way to it from `root`, is a symbolic link."""
    below = path.relative_to(root)
    return any((root / part).is_symlink() for part in [below, *below.parents][:-1])


def read_plain(root: Path, path: Path) -> bytes | None:
    """The content of a plain file below `root`, None where it is none, is a link, or is above 200 MB."""
    if holds_link(root, path):
        return None
    try:
        # A link put in its place since is not followed either, and a pipe does not keep anybody waiting.
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    with open(file, "rb") as stream:
        state = os.fstat(file)
        if not stat.S_ISREG(state.st_mode) or state.st_size > MOST_BYTES:
            return None
        return stream.read(MOST_BYTES)


def find_runs(root: Path) -> Iterator[Run]:
    """All folders with results at or below `root`, by their path; at most 2,000, eight folders deep.

    Raises:
        `RecipeError`: for more of them, because an index that leaves some out would mislead.
    """
    count = 0
    for place, folders, _ in os.walk(root):
        folder = Path(place)
        depth = len(folder.relative_to(root).parts)
        kept = [name for name in folders if name not in INSIDE and not name.startswith(".")]
        folders[:] = sorted(kept) if depth < DEEPEST else []
        results = [path for path in result_files(folder) if not holds_link(root, path)]
        if not results:
            continue
        count += 1
        if count > MOST_RUNS:
            raise RecipeError(f"{root}: holds more than {MOST_RUNS:,} runs; serve a folder below it")
        name = folder.relative_to(root).as_posix()
        key = hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
        yield Run(key, clean(root.resolve().name if name == "." else name), folder, results)


def has_picture(root: Path, run: Run) -> bool:
    """Whether a run has its before/after picture, as a plain file."""
    path = run.folder / PICTURE
    return path.is_file() and not holds_link(root, path)


def show(root: Path, run: Run) -> Shown:
    """What the index says of a run."""
    picture = has_picture(root, run)
    try:
        # A link anywhere inside a run would make its report read what lies elsewhere.
        return Shown(run, readable_parts(root, run), "", picture)
    except (RecipeError, OSError) as error:
        return Shown(run, [], clean(str(error).replace(str(root), "")), picture)


def readable_parts(root: Path, run: Run) -> list[Part]:
    """The parts of a run, once it is sure that nothing they are read from is a link.

    Raises:
        `RecipeError`: where one is.
    """
    for place, folders, files in os.walk(run.folder):
        folders[:] = [name for name in folders if name in READ or Path(place) != run.folder]
        for name in [*folders, *files]:
            path = Path(place) / name
            if path.is_symlink() and path.suffix != ".safetensors":
                raise RecipeError(f"{path}: a link; a report is served of plain files only")
    return read_parts(run.folder)
