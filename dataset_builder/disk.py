"""What is said of a folder that cannot be written to, of a full disk and of a damaged file: one line, whichever library
met it."""

import errno
import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recipes.loading import RecipeError


def make_folder(folder: Path) -> None:
    """Make a folder, or see that one is there.

    Raises:
        `RecipeError`: where a file stands in its place, or it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecipeError(f"{folder}: cannot be made a folder ({error.strerror}); give another one") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise RecipeError(f"{folder}: cannot be written to; give another folder, or mend its permissions")


@contextmanager
def disk_full_said(folder: Path) -> Iterator[None]:
    """Turns the errors of a full disk, whichever library met it, into a `RecipeError` that names `folder`.

    What was written before is whole: transactions that do not end are undone, and files are moved into their places
    when they are written."""
    try:
        yield
    except RecipeError:
        raise
    except Exception as error:
        if not any(_is_full(met, folder) for met in _chain(error)):
            raise
        raise RecipeError(
            f"{folder}: the disk is full; free some space and run the same command again, which goes on from here"
        ) from error


@contextmanager
def damage_said(path: Path) -> Iterator[None]:
    """Turns what reading a damaged SQLite file of JSON gives into a `RecipeError` that names `path`, and quotes nothing
    of what stands in the file."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", None)
        # Without a code: the text of a column is no UTF-8, or of another type; Python's words would quote it.
        if code is not None and code & 0xFF not in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise
        raise _damaged(path) from None
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError):
        raise _damaged(path) from None


def _damaged(path: Path) -> RecipeError:
    return RecipeError(
        f"{path}: the file is damaged; delete it and run the same command again, which does its work anew"
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and those that it came from: libraries wrap what the system says."""
    seen: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in seen:
        seen.append(current)
        yield current
        current = current.__cause__ or current.__context__


def _is_full(error: BaseException, folder: Path) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    if isinstance(error, sqlite3.OperationalError):
        return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
    # What is written in Rust has the system's words, and not its number; torch.save has neither.
    return os.strerror(errno.ENOSPC) in str(error) or (isinstance(error, RuntimeError) and not _space(folder))


def _space(folder: Path) -> int:
    """Bytes that are free on the disk of a folder, in whole MiB."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free >> 20
