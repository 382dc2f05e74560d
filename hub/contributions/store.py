"""Where rows wait while they are checked: one SQLite file, which goes away with the check.

Of a row that fails only its place and the reasons stay: nothing harmful lies on the disk for longer than it must."""

import json
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from hub.contributions.schema import IMAGES, Picture

_TABLES = """
CREATE TABLE rows (id INTEGER PRIMARY KEY, file INTEGER, number INTEGER, pair_id TEXT, reasons TEXT, fields TEXT,
    unsafe_image BLOB, safe_image BLOB);
CREATE TABLE stated (pair_id TEXT PRIMARY KEY) WITHOUT ROWID;
"""


class Store:
    """The file. Rows are numbered from 1 in the order in which they are added.

    Args:
        folder (`Path`, *optional*): where the file goes; the system's folder for temporary files by default.
    """

    def __init__(self, folder: Path | None) -> None:
        self._place = tempfile.TemporaryDirectory(prefix="contribution-", dir=folder)
        self.folder = Path(self._place.name)
        self._db = sqlite3.connect(self.folder / "rows.sqlite", isolation_level=None)
        # What is here is never taken over by a later run, so it need not outlive this one.
        for pragma in ("journal_mode=OFF", "synchronous=OFF", "cache_size=-32768", "temp_store=FILE"):
            self._db.execute(f"PRAGMA {pragma}")
        self._db.executescript(_TABLES)
        self._db.execute("BEGIN")
        self._files: dict[str, int] = {}

    def close(self) -> None:
        """Remove the file; a second call does nothing."""
        self._db.close()
        self._place.cleanup()

    def add(self, file: str, number: int, pair_id: str | None, reasons: list[str], fields: dict[str, Any]) -> int:
        """Add a row; its fields and pictures are kept only where nothing is wrong with it. Returns its number."""
        place = self._files.setdefault(file, len(self._files))
        if reasons:
            values: tuple[Any, ...] = (None, None, None)
        else:
            pictures = [fields[name] for name in IMAGES]
            rest = {name: value for name, value in fields.items() if name not in IMAGES}
            rest["sizes"] = [(picture.width, picture.height, picture.content) for picture in pictures if picture]
            values = (
                json.dumps(rest, ensure_ascii=False),
                *(picture.png if picture else None for picture in pictures),
            )
        cursor = self._db.execute(
            "INSERT INTO rows (file, number, pair_id, reasons, fields, unsafe_image, safe_image) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (place, number, pair_id, " ".join(reasons), *values),
        )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def without_pictures(self) -> int:
        """How many rows that pass have no pictures."""
        found = self._db.execute("SELECT count(*) FROM rows WHERE reasons = '' AND unsafe_image IS NULL").fetchone()
        return int(found[0])

    def is_new(self, pair_id: str) -> bool:
        """Whether a pair_id is asked about for the first time."""
        return self._db.execute("INSERT OR IGNORE INTO stated VALUES (?)", (pair_id,)).rowcount == 1

    def fail(self, rows: Iterable[tuple[int, str]]) -> None:
        """Note a reason for each of some rows that passed so far, and forget their fields. Not while `passing` is
        read."""
        self._db.executemany(
            "UPDATE rows SET reasons = ?2, fields = NULL, unsafe_image = NULL, safe_image = NULL WHERE id = ?1", rows
        )

    def fail_file(self, file: str, reason: str) -> None:
        """As `fail`, for the rows of a file that would pass, or of all files where the name is empty."""
        where = "" if not file else " AND file = ?"
        self._db.execute(
            "UPDATE rows SET reasons = ?, fields = NULL, unsafe_image = NULL, safe_image = NULL WHERE reasons = ''"
            + where,
            (reason, *([self._files.get(file, -1)] if file else [])),
        )

    def set_fields(self, row: int, **changed: Any) -> None:
        """Change fields of a row that passes so far. Not while `passing` is read."""
        (text,) = self._db.execute("SELECT fields FROM rows WHERE id = ?", (row,)).fetchone()
        self._db.execute("UPDATE rows SET fields = ? WHERE id = ?", (json.dumps({**json.loads(text), **changed}), row))

    def rows(self) -> Iterator[tuple[str, int, str | None, list[str]]]:
        """File, number, pair_id and reasons of each row."""
        names = list(self._files)
        for file, number, pair_id, reasons in self._db.execute("SELECT file, number, pair_id, reasons FROM rows"):
            yield names[file], number, pair_id, reasons.split()

    def with_reason(self, reason: str, most: int) -> list[tuple[str, int]]:
        """File and number of the first rows that have a reason."""
        names = list(self._files)
        found = self._db.execute(
            "SELECT file, number FROM rows WHERE instr(' ' || reasons || ' ', ' ' || ? || ' ') ORDER BY id LIMIT ?",
            (reason, most),
        )
        return [(names[file], number) for file, number in found]

    def passing(
        self, pictures: bool = True, file: str | None = None, order: str = "id"
    ) -> Iterator[tuple[int, str, int, dict[str, Any]]]:
        """Number, file, number in the file and fields of each row that passes.

        Args:
            pictures (`bool`, *optional*, defaults to `True`): whether the fields hold the pictures, as `Picture`.
            file (`str`, *optional*): only rows of this file.
            order (`str`, *optional*, defaults to `"id"`): or `pair_id`.
        """
        names = list(self._files)
        images = "unsafe_image, safe_image" if pictures else "NULL, NULL"
        where = "" if file is None else " AND file = ?"
        found = self._db.execute(
            f"SELECT id, file, number, fields, {images} FROM rows WHERE reasons = ''{where} ORDER BY {order}",
            () if file is None else (self._files.get(file, -1),),
        )
        for row, place, number, text, *data in found:
            fields = json.loads(text)
            sizes = fields.pop("sizes")
            if pictures:
                for at, name in enumerate(IMAGES):
                    fields[name] = Picture(data[at], *sizes[at]) if data[at] is not None else None
            else:
                fields["contents"] = [content for _, _, content in sizes]
            yield row, names[place], number, fields

    def counts(self) -> tuple[int, int, dict[str, int]]:
        """Rows, rows that pass, and rows by each reason that they have."""
        ((rows, passed),) = self._db.execute("SELECT count(*), coalesce(sum(reasons = ''), 0) FROM rows")
        by_reason: dict[str, int] = {}
        found = self._db.execute("SELECT reasons, count(*) FROM rows WHERE reasons != '' GROUP BY reasons")
        for reasons, count in found:
            for reason in reasons.split():
                by_reason[reason] = by_reason.get(reason, 0) + count
        return rows, passed, dict(sorted(by_reason.items()))
