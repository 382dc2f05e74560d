"""Bytes as responses: ETag, If-None-Match, Range, and a stream that never holds more than a piece."""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import quote

from hub.local.call import Call
from hub.local.errors import Refusal

if TYPE_CHECKING:
    from starlette.responses import Response

PIECE = 1 << 20  # bytes read and sent at a time; a smaller file goes out in one
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)
# What a browser may show as it is; everything else is text or bytes to it, whatever it holds.
_SHOWN = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp", ".gif": "image/gif"}
_TEXT = (".txt", ".md", ".json", ".jsonl", ".yaml", ".yml", ".csv", ".tsv", ".py", ".toml", ".gitattributes", ".html")


@dataclass(frozen=True)
class Content:
    """A file to give: its bytes, or the path they are at, with its size and its checksum as ETag."""

    size: int
    etag: str
    name: str
    data: bytes | None = None
    path: Path | None = None
    headers: dict[str, str] = field(default_factory=dict)


def give(call: Call, content: Content) -> "Response":
    """The response: 200, 206 for a range, 304 where the client has it.

    Raises:
        `Refusal`: 416 for a range that the file does not have.
    """
    from starlette.responses import Response, StreamingResponse

    etag = f'"{content.etag}"'
    headers = {**_headers(content), "ETag": etag}
    if _matches(call.headers.get("if-none-match", ""), etag):
        return Response(status_code=304, headers=headers)
    start, end, status = 0, content.size, 200
    found = None
    if not call.head and call.headers.get("if-range", etag) == etag:
        found = _range(call.headers.get("range", ""), content.size)
    if found is not None:
        start, end = found
        status, headers["Content-Range"] = 206, f"bytes {start}-{end - 1}/{content.size}"
    headers["Content-Length"] = str(end - start)
    if call.head:
        return Response(status_code=status, headers=headers)
    if content.data is not None:
        return Response(content.data[start:end], status, headers)
    if content.path is None:
        raise ValueError("content without data and without a path")
    # Opened here, so that a deletion meanwhile changes nothing for who has begun to read.
    file = content.path.open("rb")
    file.seek(start)
    if end - start <= PIECE:
        with file:
            return Response(file.read(end - start), status, headers)
    return StreamingResponse(_pieces(file, end - start), status, headers)


async def _pieces(file: BinaryIO, size: int) -> AsyncIterator[bytes]:
    import anyio.to_thread

    with file:
        while size > 0:
            piece = await anyio.to_thread.run_sync(file.read, min(PIECE, size))
            if not piece:
                # The length is promised: a short answer must break off, not look whole.
                raise OSError("the stored file is shorter than it was")
            size -= len(piece)
            yield piece


def _matches(header: str, etag: str) -> bool:
    given = [item.strip().removeprefix("W/") for item in header.split(",")]
    return etag in given or given == ["*"]


def _range(header: str, size: int) -> tuple[int, int] | None:
    """Start and end of the one range asked for; None for none, several, or another unit, which is to be ignored."""
    match = _RANGE.fullmatch(header.strip().replace(" ", ""))
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if first and last and int(last) < int(first):
        return None
    start = int(first) if first else max(size - int(last), 0)
    end = min(int(last) + 1, size) if first and last else size
    if start >= size or (not first and int(last) == 0):
        raise Refusal(416, "Range not satisfiable", headers={"Content-Range": f"bytes */{size}"})
    return start, end


def _headers(content: Content) -> dict[str, str]:
    name = content.name.rpartition("/")[2]
    suffix = Path(name).suffix.lower() or name
    kind = _SHOWN.get(suffix) or ("text/plain; charset=utf-8" if suffix in _TEXT else "application/octet-stream")
    return {
        "Content-Type": kind,
        "Content-Disposition": f"inline; filename*=UTF-8''{quote(name, safe='')}",
        # A file may be anything: it runs nothing and loads nothing when a browser is pointed at it.
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-cache",
        **content.headers,
    }
