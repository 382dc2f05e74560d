"""One process a folder: two that write the same verdicts and results would take each other's files away."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dataset_builder.disk import make_folder
from recipes import RecipeError


@contextmanager
def alone(out: Path, work: str) -> Iterator[None]:
    """Hold a folder for this process; the system lets go of it however the process ends.

    Args:
        out (`Path`): the folder, made where there is none.
        work (`str`): what is done in it, for the error: `study` or `evaluation`.

    Raises:
        `RecipeError`: where another process holds it, or it cannot be written to.
    """
    make_folder(out)
    path = out / ".lock"
    try:
        lock = path.open("w")
    except PermissionError:
        raise RecipeError(f"{path}: cannot be written to; give another --out, or mend its permissions") from None
    with lock as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RecipeError(
                f"{out}: another {work} works on this folder; wait for it, or give another --out"
            ) from None
        yield
