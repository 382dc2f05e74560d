"""The process that decodes: reads one job from standard input, and sends rows to standard output as plain data.

It holds no credentials, writes no file, and is held to limits of memory and processor time: Arrow and Pillow are large,
written in C and C++, and allocate what a file's headers tell them to, which no look beforehand can rule out. Whatever
comes of that ends here, and the parent goes on with the next file.

A message is its length (4 bytes), JSON, and the pictures that the JSON tells the sizes of. Messages: `{"file": i}`;
`{"row": n, "values": {...}, "reasons": [...], "notes": [...], "pictures": {column: {...}}}`; `{"refused": code,
"detail": text}`; `{"done": rows, "named": [names of pictures]}`, with which each file ends."""

import json
import os
import resource
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from hub.contributions.limits import Limits
from hub.contributions.names import NotInside, name_fault, open_inside
from hub.contributions.parquet import read_parquet
from hub.contributions.picture_check import BadPicture, check_picture
from hub.contributions.schema import DROPPED, FILE_NAMES, IMAGES, Picture
from hub.contributions.tables import BadTable, Record, read_csv, read_jsonl

# Exit status.
OUT_OF_MEMORY = 77
_READERS = {".jsonl": read_jsonl, ".csv": read_csv, ".parquet": read_parquet}


def main() -> None:
    """Read the files that the job names: `{"root": folder, "files": [...], "limits": {...}}`."""
    job = json.loads(sys.stdin.buffer.readline())
    limits = Limits(**job["limits"])
    _confine(limits)
    out = sys.stdout.buffer
    try:
        for place, name in enumerate(job["files"]):
            _send(out, {"file": place})
            _read_file(out, Path(job["root"]), name, limits)
        out.flush()
    except MemoryError:
        os._exit(OUT_OF_MEMORY)


def _confine(limits: Limits) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (limits.memory, limits.memory))
    resource.setrlimit(resource.RLIMIT_CPU, (limits.cpu_seconds, limits.cpu_seconds + 1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _send(out: BinaryIO, message: dict[str, Any], parts: list[bytes] | None = None) -> None:
    head = json.dumps(message).encode("ascii")
    out.write(struct.pack("<I", len(head)) + head)
    for part in parts or ():
        out.write(part)


def _read_file(out: BinaryIO, root: Path, name: str, limits: Limits) -> None:
    folder = name.rpartition("/")[0]
    rows, named = 0, set[str]()
    try:
        with os.fdopen(open_inside(root, name), "rb") as file:
            size, changed = os.fstat(file.fileno()).st_size, os.fstat(file.fileno()).st_mtime_ns
            if size == 0:
                raise BadTable("empty_file")
            if size > limits.table_bytes:
                raise BadTable("table_too_large", f"{size} bytes, at most {limits.table_bytes}")
            reader = _READERS[os.path.splitext(name)[1].lower()]
            for record in reader(file, limits):
                rows += 1
                if rows > limits.rows:
                    raise BadTable("too_many_rows", f"at most {limits.rows}")
                message, parts = _message(record, root, folder, named, limits)
                _send(out, message, parts)
            after = os.fstat(file.fileno())
            if (after.st_size, after.st_mtime_ns) != (size, changed):
                raise BadTable("changed_while_read")
        if rows == 0:
            raise BadTable("no_rows")
    except BadTable as bad:
        _send(out, {"refused": bad.reason, "detail": bad.detail})
    except NotInside as bad:
        _send(out, {"refused": {"missing": "changed_while_read"}.get(bad.reason, bad.reason), "detail": ""})
    except MemoryError:
        _send(out, {"refused": "out_of_memory", "detail": f"after row {rows}"})
    _send(out, {"done": rows, "named": sorted(named)})
    out.flush()


def _message(
    record: Record, root: Path, folder: str, named: set[str], limits: Limits
) -> tuple[dict[str, Any], list[bytes]]:
    number, fields, reasons = record
    values: dict[str, Any] = {}
    notes: list[str] = []
    pictures: dict[str, Any] = {}
    parts: list[bytes] = []
    for name, value in fields.items():
        if name in DROPPED:
            if value is not None and "verdicts_dropped" not in notes:
                notes.append("verdicts_dropped")
        elif name in IMAGES or name in FILE_NAMES:
            column = FILE_NAMES.get(name, name)
            try:
                picture, found = _picture(value, root, folder, named, limits)
            except BadPicture as bad:
                reasons.append(bad.reason)
                continue
            notes += found
            if picture is not None and column in pictures:
                # Two names of one column. What is sent must be what is announced, or pixels are read as messages.
                reasons.append("repeated_field")
            elif picture is not None:
                pictures[column] = {
                    "size": len(picture.png),
                    "width": picture.width,
                    "height": picture.height,
                    "content": picture.content,
                    "fault": picture.fault,
                }
                parts.append(picture.png)
        elif isinstance(value, str):
            if len(value) > limits.text:
                reasons.append("text_too_long")
            else:
                values[name] = value
        elif value is None or isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < 1 << 64):
            values[name] = value
        else:
            reasons.append("wrong_type")
    message = {"row": number, "values": values, "reasons": reasons, "notes": notes, "pictures": pictures}
    return message, parts


def _picture(value: Any, root: Path, folder: str, named: set[str], limits: Limits) -> tuple[Picture | None, list[str]]:
    """The picture behind a field: bytes, a struct of bytes and path, or the name of a file beside the table."""
    if isinstance(value, dict):
        if value.get("bytes") is None and value.get("path") is not None:
            raise BadPicture("picture_not_embedded")
        value = value.get("bytes")
    if value is None or value == "":
        return None, []
    if isinstance(value, bytes):
        return check_picture(value, limits)
    if not isinstance(value, str):
        raise BadPicture("wrong_type")
    if name_fault(value, limits):
        raise BadPicture("picture_outside")
    name = f"{folder}/{value}" if folder else value
    if len(named) < limits.files:
        named.add(name)
    try:
        with os.fdopen(open_inside(root, name), "rb") as file:
            data = file.read(limits.picture_bytes + 1)
    except NotInside as bad:
        raise BadPicture(f"picture_{bad.reason}" if bad.reason in ("link", "missing") else "picture_missing") from None
    return check_picture(data, limits)


def read_messages(file: BinaryIO, most: int) -> Iterator[tuple[dict[str, Any], list[bytes]]]:
    """The messages that `main` sends, read back; the sender is not trusted.

    Args:
        file (`BinaryIO`): the other end.
        most (`int`): bytes that a message's JSON, and each of its pictures, may have.

    Raises:
        `ValueError`: for what is no message.
        `EOFError`: where one breaks off.
    """
    while head := file.read(4):
        length = int.from_bytes(head, "little")
        if len(head) < 4:
            raise EOFError
        if length > most:
            raise ValueError(length)
        text = _read(file, length)
        message = json.loads(text)
        if not isinstance(message, dict):
            raise ValueError("no object")
        sizes = [picture["size"] for picture in message.get("pictures", {}).values()]
        if not all(isinstance(size, int) and 0 < size <= most for size in sizes):
            raise ValueError("sizes")
        yield message, [_read(file, size) for size in sizes]


def _read(file: BinaryIO, length: int) -> bytes:
    data = file.read(length)
    if len(data) < length:
        raise EOFError
    return data


if __name__ == "__main__":
    main()
