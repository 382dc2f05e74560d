"""Xorbs that clients have sent, and where the chunks of earlier ones lie in the LFS store.

A xorb is kept until its chunks are in LFS objects; from then on a row says which object holds which chunks where. Both
are needed because a client remembers what it has sent: weeks later it names a chunk by a xorb that it sent for another
file, and does not send it again. What is remembered belongs to the user who sent it, so that nobody gets at another
user's bytes by naming their xorb.

A client keeps such memories by CAS URL. `place` gives a user's; when bytes that it may have counted on are dropped, the
user's generation goes up, and with it the URL, so that the client starts with an empty memory.
"""

import hashlib
import os
import secrets
import shutil
import struct
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO

from hub.local.errors import Refusal
from hub.local.lfs_store import LFSStore
from hub.local.records import Records
from hub.local.xet_format import Chunk, Segment, XetFormatError, read_index, unpack

# Seconds after a user's last xorb during which those that no file uses are kept.
UNUSED_SECONDS = 3600.0
_SWEEP_SECONDS = 300.0
_OPEN = 16  # xorbs that one upload keeps open
_PIECE = 1 << 20  # bytes read from an LFS object at a time

TABLES = """
CREATE TABLE IF NOT EXISTS xet_users (user TEXT PRIMARY KEY, generation INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS xet_xorbs (
    user TEXT NOT NULL, xorb TEXT NOT NULL, lengths BLOB NOT NULL, PRIMARY KEY (user, xorb)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS xet_ranges (
    user TEXT NOT NULL, xorb TEXT NOT NULL, start INTEGER NOT NULL, stop INTEGER NOT NULL,
    oid TEXT NOT NULL, position INTEGER NOT NULL, PRIMARY KEY (user, xorb, start, stop)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS xet_ranges_of_object ON xet_ranges (oid);
"""


class UnknownXorb(Exception):
    """A segment names chunks that this user has not sent, or that are dropped; carries the xorb's hash."""


@dataclass(frozen=True)
class _Range:
    start: int
    stop: int
    oid: str
    position: int


class XetStore:
    """The xorbs of a hub.

    Args:
        root (`Path`): folder for xorbs, one folder a user in it.
        records (`Records`): for generations and ranges.
        lfs (`LFSStore`): where the bytes of used xorbs are.
    """

    def __init__(self, root: Path, records: Records, lfs: LFSStore) -> None:
        self._root = root
        self._records = records
        self._lfs = lfs
        self._swept = 0.0
        records.create(TABLES)
        self._key = records.setting("xet", secrets.token_bytes(32))

    def place(self, user: str) -> str:
        """The last part of a user's CAS URL: 32 hexadecimal digits that change with the user's generation."""
        row = self._records.one("SELECT generation FROM xet_users WHERE user = ?", user)
        return hashlib.blake2b(f"{row[0] if row else 0} {user}".encode(), key=self._key, digest_size=16).hexdigest()

    def forget(self, user: str) -> None:
        """Raises a user's generation: what the client remembers is no longer counted on."""
        with self._records.transaction() as connection:
            sql = "INSERT INTO xet_users VALUES (?, 1) ON CONFLICT (user) DO UPDATE SET generation = generation + 1"
            connection.execute(sql, (user,))

    def receive(self, user: str, xorb: str, chunks: Iterable[bytes]) -> bool:
        """Keeps a xorb; whether it is new.

        Args:
            user (`str`): who sends it.
            xorb (`str`): its hash as text; checked by the caller to be 64 hexadecimal digits.
            chunks: the body, bounded by the caller.

        Raises:
            `Refusal`: 400 where the bytes are no xorb.
        """
        path = self._path(user, xorb)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{secrets.token_hex(8)}.part")
        try:
            with part.open("w+b") as file:
                for chunk in chunks:
                    file.write(chunk)
                try:
                    read_index(file)
                except XetFormatError as error:
                    raise Refusal(400, f"Xorb {xorb}: {error}") from None
            new = not path.exists()
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
        return new

    @contextmanager
    def reader(self, user: str) -> Iterator[Callable[[Segment], Iterator[bytes]]]:
        """Gives a function that yields a segment's bytes; it keeps a few xorbs open until the block ends.

        The function raises:
            `UnknownXorb`: neither sent and kept, nor in the LFS store.
            `XetFormatError`: the chunks are not what the segment states.
        """
        opened: OrderedDict[str, tuple[BinaryIO, list[Chunk]]] = OrderedDict()

        def read(segment: Segment) -> Iterator[bytes]:
            if segment.xorb not in opened:
                try:
                    found = self._path(user, segment.xorb).open("rb")
                except FileNotFoundError:
                    yield from self._read_ranges(user, segment)
                    return
                opened[segment.xorb] = found, read_index(found)
                if len(opened) > _OPEN:
                    opened.popitem(last=False)[1][0].close()
            opened.move_to_end(segment.xorb)
            file, index = opened[segment.xorb]
            chunks = index[segment.start : segment.end]
            if len(chunks) != segment.end - segment.start or sum(chunk.length for chunk in chunks) != segment.length:
                raise XetFormatError(f"a segment of {segment.length} bytes is not what its xorb holds there")
            yield from unpack(file, chunks)

        try:
            yield read
        finally:
            for file, _ in opened.values():
                file.close()

    def _read_ranges(self, user: str, segment: Segment) -> Iterator[bytes]:
        offsets = self._offsets(user, segment.xorb)
        if segment.end >= len(offsets):
            raise UnknownXorb(segment.xorb)
        if offsets[segment.end] - offsets[segment.start] != segment.length:
            raise XetFormatError(f"a segment of {segment.length} bytes is not what its xorb holds there")
        at = segment.start
        for found in self._ranges(user, segment.xorb):
            if not found.start <= at < found.stop:
                continue
            stop = min(found.stop, segment.end)
            begin = found.position + offsets[at] - offsets[found.start]
            yield from self._read_object(segment.xorb, found.oid, begin, offsets[stop] - offsets[at])
            at = stop
            if at == segment.end:
                return
        raise UnknownXorb(segment.xorb)

    def _read_object(self, xorb: str, oid: str, begin: int, left: int) -> Iterator[bytes]:
        try:
            with self._lfs.path(oid).open("rb") as file:
                file.seek(begin)
                while left:
                    piece = file.read(min(left, _PIECE))
                    if not piece:
                        raise UnknownXorb(xorb)
                    left -= len(piece)
                    yield piece
        except FileNotFoundError:
            raise UnknownXorb(xorb) from None

    def note(self, files: list[tuple[str, list[Segment]]], user: str) -> None:
        """Notes where the chunks of files lie that are in the LFS store now, and drops xorbs of which nothing is left.

        Args:
            files: sha256 and segments of each file.
            user (`str`): who sent them.
        """
        used: dict[str, list[_Range]] = {}
        for oid, segments in files:
            positions = accumulate((segment.length for segment in segments), initial=0)
            for segment, position in zip(segments, positions, strict=False):
                used.setdefault(segment.xorb, []).append(_Range(segment.start, segment.end, oid, position))
        lengths = {xorb: self._lengths(user, xorb) for xorb in used}
        with self._records.transaction() as connection:
            for xorb, ranges in used.items():
                if lengths[xorb]:
                    packed = struct.pack(f"<{len(lengths[xorb])}I", *lengths[xorb])
                    connection.execute("INSERT OR REPLACE INTO xet_xorbs VALUES (?, ?, ?)", (user, xorb, packed))
                rows = [(user, xorb, r.start, r.stop, r.oid, r.position) for r in ranges]
                connection.executemany("INSERT OR REPLACE INTO xet_ranges VALUES (?, ?, ?, ?, ?, ?)", rows)
        for xorb, chunks in lengths.items():
            if chunks and self._covered(user, xorb) >= len(chunks):
                self._path(user, xorb).unlink(missing_ok=True)

    def drop_unused(self, now: float | None = None) -> int:
        """Drops xorbs that no file used, of users who have sent none for an hour; how many.

        It may be called at every request: it looks at most once in five minutes (of `now`, seconds since 1970)."""
        now = time.time() if now is None else now
        if now - self._swept < _SWEEP_SECONDS:
            return 0
        self._swept = now
        dropped = 0
        for folder in self._root.iterdir() if self._root.is_dir() else ():
            # A folder's time is that of the last xorb that came in or went.
            if now - folder.stat().st_mtime < UNUSED_SECONDS:
                continue
            xorbs = list(folder.iterdir())
            if xorbs:
                self.forget(bytes.fromhex(folder.name).decode())
            dropped += len(xorbs)
            shutil.rmtree(folder, ignore_errors=True)
        return dropped

    def forget_objects(self, oids: Iterable[str]) -> None:
        """Drops what was noted of LFS objects that are about to go, and lets the clients of their users start anew."""
        with self._records.transaction() as connection:
            for oid in oids:
                for row in self._records.all("SELECT DISTINCT user FROM xet_ranges WHERE oid = ?", oid):
                    self.forget(row["user"])
                connection.execute("DELETE FROM xet_ranges WHERE oid = ?", (oid,))

    def _path(self, user: str, xorb: str) -> Path:
        return self._root / user.encode().hex() / xorb

    def _lengths(self, user: str, xorb: str) -> list[int]:
        """Unpacked lengths of the chunks of a kept xorb; none where it is not kept."""
        try:
            with self._path(user, xorb).open("rb") as file:
                return [chunk.length for chunk in read_index(file)]
        except FileNotFoundError:
            return []

    def _offsets(self, user: str, xorb: str) -> list[int]:
        row = self._records.one("SELECT lengths FROM xet_xorbs WHERE user = ? AND xorb = ?", user, xorb)
        if row is None:
            return []
        return list(accumulate(struct.unpack(f"<{len(row[0]) // 4}I", row[0]), initial=0))

    def _ranges(self, user: str, xorb: str) -> list[_Range]:
        sql = "SELECT start, stop, oid, position FROM xet_ranges WHERE user = ? AND xorb = ? ORDER BY start, stop"
        return [_Range(*row) for row in self._records.all(sql, user, xorb)]

    def _covered(self, user: str, xorb: str) -> int:
        """How many chunks from the first on lie in LFS objects without a gap."""
        covered = 0
        for found in self._ranges(user, xorb):
            if found.start > covered:
                break
            covered = max(covered, found.stop)
        return covered
