"""Hostile tables of text: JSON lines and CSV, a bounded line at a time. Runs in the reading process only."""

import csv
import json
import math
from collections.abc import Iterator
from typing import Any, BinaryIO

from hub.contributions.limits import Limits
from hub.contributions.names import is_column_name, shown_column
from hub.contributions.schema import COLUMNS, FILE_NAMES, REQUIRED

_PIECE = 1 << 20
_DELIMITERS = ",;\t|"
# Number, fields by column, reasons.
Record = tuple[int, dict[str, Any], list[str]]


class BadTable(Exception):
    """A table that is refused; `reason` is a code of `hub.contributions.reasons.FILES`."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason, self.detail = reason, detail


class _NotANumber(ValueError):
    """NaN or Infinity, which Python's reader takes though they are no JSON."""


class _Repeated(ValueError):
    """A key that stands twice in an object."""


def check_columns(names: list[str], limits: Limits) -> None:
    """Refuse columns that a contribution cannot have.

    Args:
        names (`list[str]`): in lower case and without blanks at their ends, as they stand in the file.

    Raises:
        `BadTable`: too_many_columns, column_name, duplicate_column, unknown_column, missing_column.
    """
    if len(names) > limits.columns:
        raise BadTable("too_many_columns", f"{len(names)}, at most {limits.columns}")
    check_names(names, limits)
    twice = [name for place, name in enumerate(names) if name in names[:place]]
    pictures = [FILE_NAMES.get(name, name) for name in names if name.endswith(("_image", "_file_name"))]
    if twice or len(pictures) != len(set(pictures)):
        raise BadTable("duplicate_column", twice[0] if twice else "of a picture")
    missing = [name for name in REQUIRED if name not in names]
    if missing:
        raise BadTable("missing_column", missing[0])


def check_names(names: list[str], limits: Limits) -> None:
    """The part of `check_columns` that holds for every row of JSON lines too."""
    for name in names:
        if not is_column_name(name, limits):
            raise BadTable("column_name", shown_column(name, limits))
        if name not in COLUMNS:
            raise BadTable("unknown_column", shown_column(name, limits))


def _lines(file: BinaryIO) -> int:
    """The number of lines, from their ends alone, at the speed of the disk; the file is at its start again."""
    count = 0
    while piece := file.read(_PIECE):
        count += piece.count(b"\n")
    file.seek(0)
    return count


def read_jsonl(file: BinaryIO, limits: Limits) -> Iterator[Record]:
    """The rows of JSON lines, by line; empty lines are none."""
    # Before the first row is looked at: a row costs a thousand times as much as its line.
    if _lines(file) > limits.rows:
        raise BadTable("too_many_rows", f"more than {limits.rows} lines")
    number = 0
    while line := file.readline(limits.row_bytes + 1):
        number += 1
        if len(line) > limits.row_bytes:
            raise BadTable("record_too_long", f"line {number}, at most {limits.row_bytes} bytes")
        text = _decode(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line, number)
        if not text.strip():
            continue
        try:
            value = json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant, parse_float=_finite)
        except _NotANumber:
            yield number, {}, ["not_a_number"]
        except _Repeated:
            yield number, {}, ["repeated_field"]
        except RecursionError:
            yield number, {}, ["nested_too_deep"]
        except ValueError:
            yield number, {}, ["not_json"]
        else:
            if not isinstance(value, dict):
                yield number, {}, ["not_an_object"]
                continue
            check_names(list(value), limits)
            yield number, value, []


def _decode(line: bytes, number: int) -> str:
    try:
        return line.decode("utf8")
    except UnicodeDecodeError:
        raise BadTable("not_utf8", f"line {number}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _Repeated
    return found


def _no_constant(name: str) -> Any:
    raise _NotANumber


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _NotANumber
    return value


class _Lines:
    """The lines of a file as text, with a bound on the bytes between two calls of `record`."""

    def __init__(self, file: BinaryIO, most: int) -> None:
        self._file, self._most = file, most
        self._taken, self._number = 0, 0

    def record(self) -> None:
        """A record ends here."""
        self._taken = 0

    def __iter__(self) -> Iterator[str]:
        while line := self._file.readline(self._most + 1):
            self._taken += len(line)
            self._number += 1
            if self._taken > self._most:
                raise BadTable("record_too_long", f"line {self._number}, at most {self._most} bytes")
            yield _decode(line.removeprefix(b"\xef\xbb\xbf") if self._number == 1 else line, self._number)


def read_csv(file: BinaryIO, limits: Limits) -> Iterator[Record]:
    """The rows of a CSV file with column names, by record; its delimiter is a comma, semicolon, tab or bar."""
    head = file.readline(limits.row_bytes + 1)
    file.seek(0)
    text = _decode(head.removeprefix(b"\xef\xbb\xbf"), 1) if len(head) <= limits.row_bytes else ""
    if "\0" in text:
        raise BadTable("no_column_names")
    delimiter = max(_DELIMITERS, key=text.count)
    csv.field_size_limit(limits.row_bytes)
    if _lines(file) > limits.rows:
        # A record may have several lines, so they are counted as the reader parts them.
        if sum(1 for _ in _records(file, delimiter, limits)) > limits.rows + 1:
            raise BadTable("too_many_rows", f"more than {limits.rows} records")
        file.seek(0)
    yield from _read_csv(_records(file, delimiter, limits), limits)


def _records(file: BinaryIO, delimiter: str, limits: Limits) -> Iterator[list[str]]:
    lines = _Lines(file, limits.row_bytes)
    number = 0
    try:
        for fields in csv.reader(iter(lines), delimiter=delimiter, strict=True):
            number += 1
            lines.record()
            yield fields
    except csv.Error:
        raise BadTable("not_csv", f"after record {max(number - 1, 0)}") from None


def _read_csv(records: Iterator[list[str]], limits: Limits) -> Iterator[Record]:
    names = [name.strip().casefold() for name in next(records, [])]
    if not any(names):
        raise BadTable("no_column_names")
    check_columns(names, limits)
    for number, fields in enumerate(records, 1):
        if len(fields) != len(names):
            if fields:
                yield number, {}, ["field_count"]
            continue
        yield number, {name: field or None for name, field in zip(names, fields, strict=True)}, []
