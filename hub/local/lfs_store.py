"""The LFS store: files by the sha256 of their content, each there whole or not at all; and who holds which.

An object is given only through a repository that holds it (table `lfs_claims`): one that received its bytes, or whose
committer could read it elsewhere. That somebody knows a sha256 gives him nothing."""

import hashlib
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path

from hub.local.errors import Refusal
from hub.local.records import Records

TABLE = """CREATE TABLE IF NOT EXISTS lfs_claims (
    repository TEXT NOT NULL REFERENCES repositories(id) ON DELETE CASCADE, oid TEXT NOT NULL,
    PRIMARY KEY (repository, oid)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS lfs_claims_of_object ON lfs_claims (oid);"""


class LFSStore:
    """The store at `root` (the hub's folder): files at `lfs/ab/cd/SHA256`, unfinished ones under `tmp/`."""

    def __init__(self, root: Path, records: Records) -> None:
        self.root = root
        self._records = records
        records.create(TABLE)
        (root / "lfs").mkdir(exist_ok=True)
        (root / "tmp").mkdir(exist_ok=True)

    def path(self, oid: str) -> Path:
        """Where an object stands, or would; `oid` has been checked by `names.check_oid`."""
        return self.root / "lfs" / oid[:2] / oid[2:4] / oid

    def has(self, oid: str, size: int | None = None) -> bool:
        """Whether an object is stored (and has that size)."""
        found = self.size(oid)
        return found is not None and (size is None or size == found)

    def size(self, oid: str) -> int | None:
        """An object's size in bytes, or None where it is not stored."""
        try:
            return self.path(oid).stat().st_size
        except FileNotFoundError:
            return None

    def temporary(self) -> Path:
        """A path under tmp/ for a file being written; what a killed process leaves is cleared at start."""
        return self.root / "tmp" / f"{os.getpid()}-{secrets.token_hex(8)}"

    def receive(self, oid: str, size: int, chunks: Iterable[bytes]) -> None:
        """Store an object from its bytes, streamed.

        Args:
            oid (`str`): the sha256 that they must have.
            size (`int`): how many there must be; reading stops at the first one too many.
            chunks: the bytes in order.

        Raises:
            `Refusal`: 400 where size or checksum differ; nothing is kept then.
        """
        part, digest, count = self.temporary(), hashlib.sha256(), 0
        try:
            with part.open("xb") as file:
                for chunk in chunks:
                    count += len(chunk)
                    if count > size:
                        raise Refusal(400, f"LFS object {oid}: more than the {size} bytes that were announced")
                    digest.update(chunk)
                    file.write(chunk)
            if count != size:
                raise Refusal(400, f"LFS object {oid}: {count} bytes came, {size} were announced")
            if digest.hexdigest() != oid:
                raise Refusal(400, f"LFS object {oid}: the content has another checksum")
            self.keep(oid, part)
        finally:
            part.unlink(missing_ok=True)

    def keep(self, oid: str, part: Path) -> None:
        """Move a whole file, whose sha256 the caller has verified to be `oid`, into its place."""
        path = self.path(oid)
        path.parent.mkdir(parents=True, exist_ok=True)
        os.replace(part, path)

    def claim(self, repository: str, oids: Iterable[str]) -> None:
        """Note that a repository (its record's id) holds objects."""
        with self._records.transaction() as connection:
            sql = "INSERT OR IGNORE INTO lfs_claims VALUES (?, ?)"
            connection.executemany(sql, [(repository, oid) for oid in oids])

    def claimed(self, repository: str, oids: Iterable[str]) -> set[str]:
        """Those of the objects that a repository holds."""
        found: set[str] = set()
        for batch in _batches(oids):
            marks = ",".join("?" * len(batch))
            sql = f"SELECT oid FROM lfs_claims WHERE repository = ? AND oid IN ({marks})"
            found.update(row["oid"] for row in self._records.all(sql, repository, *batch))
        return found

    def holders(self, oid: str) -> list[str]:
        """The repositories (their records' ids) that hold an object."""
        return [row["repository"] for row in self._records.all("SELECT repository FROM lfs_claims WHERE oid = ?", oid)]


def _batches(oids: Iterable[str], size: int = 500) -> Iterator[list[str]]:
    wanted = list(oids)
    for start in range(0, len(wanted), size):
        yield wanted[start : start + size]
