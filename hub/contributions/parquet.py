"""Hostile Parquet files: the footer is held against the file and the limits, and only then rows are decoded.

What the footer states may be lies. Whatever decoding does with them is bounded by the process that it runs in, which
alone bounds what a page may claim: Arrow allocates what a page's header says. Runs in the reading process only."""

import json
import os
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, BinaryIO

from hub.contributions.limits import Limits
from hub.contributions.schema import DROPPED, IMAGES
from hub.contributions.tables import BadTable, Record, check_columns

_MAGIC, _ENCRYPTED = b"PAR1", b"PARE"
# Levels below a column: a picture is a struct of bytes and path.
_SCHEMA_DEPTH = 8
# Rows in memory at a time. Small, because a dictionary of one long text makes every row long.
_ROWS, _ROWS_WITH_PICTURES = 32, 4
_BUFFER = 1 << 20
# Longest JSON of the class names that `datasets` puts beside a table.
_CLASS_NAMES = 64 << 10


def read_parquet(file: BinaryIO, limits: Limits) -> Iterator[Record]:
    """The rows of a Parquet file. Pictures come as bytes; verdicts come as True, undecoded.

    Raises:
        `BadTable`: with the reason.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    size = os.fstat(file.fileno()).st_size
    footer = _check_ends(file, size, limits)
    try:
        parquet = pq.ParquetFile(
            file,
            # Page by page, whatever a column chunk's size.
            pre_buffer=False,
            buffer_size=_BUFFER,
            thrift_string_size_limit=limits.footer_bytes,
            thrift_container_size_limit=limits.footer_items,
            schema_depth_limit=_SCHEMA_DEPTH,
            page_checksum_verification=True,
            # An extension type may run code of its own when it is read.
            arrow_extensions_enabled=False,
        )
    except MemoryError:
        raise BadTable("out_of_memory") from None
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise BadTable("encrypted_parquet" if "crypt" in str(error).lower() else "not_parquet") from None
    with parquet:
        rows = _check_groups(parquet.metadata, size - footer, limits)
        wanted, classes = _check_schema(parquet.schema_arrow, limits)
        verdicts = [name for name in parquet.schema_arrow.names if _plain(name) in DROPPED]
        found = 0
        try:
            for record in _rows(parquet, wanted, size, limits):
                found += 1
                fields = {_plain(name): value for name, value in record.items()} | {
                    _plain(name): True for name in verdicts
                }
                yield found, _named(fields, classes), []
        except MemoryError:
            raise BadTable("out_of_memory", f"after row {found}") from None
        except UnicodeDecodeError:
            raise BadTable("not_utf8", f"after row {found}") from None
        except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
            reason = "encrypted_parquet" if "crypt" in str(error).lower() else "damaged_parquet"
            raise BadTable(reason, f"after row {found}") from None
    if found != rows:
        raise BadTable("row_count_differs", f"{found} rows, {rows} stated")


def _plain(name: str) -> str:
    return name.strip().casefold()


def _check_ends(file: BinaryIO, size: int, limits: Limits) -> int:
    """The size of the footer with its length and magic number, bytes."""
    if size < 12:
        raise BadTable("not_parquet")
    head = file.read(4)
    file.seek(size - 8)
    tail = file.read(8)
    file.seek(0)
    if tail[4:] == _ENCRYPTED or head == _ENCRYPTED:
        raise BadTable("encrypted_parquet")
    if head != _MAGIC or tail[4:] != _MAGIC:
        raise BadTable("not_parquet")
    footer = int.from_bytes(tail[:4], "little")
    if footer > min(limits.footer_bytes, size - 12):
        raise BadTable("footer_too_large", f"{footer} bytes")
    return footer + 8


def _check_groups(metadata: Any, end: int, limits: Limits) -> int:
    """The number of rows that the footer states, after a look at every row group and column chunk."""
    if metadata.num_row_groups > limits.row_groups:
        raise BadTable("too_many_row_groups", f"{metadata.num_row_groups}, at most {limits.row_groups}")
    if metadata.num_columns > 4 * limits.columns:
        raise BadTable("too_many_columns", f"{metadata.num_columns} leaves")
    rows = 0
    chunks: list[tuple[int, int]] = []
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        if group.num_rows < 0:
            raise BadTable("row_count_differs")
        rows += group.num_rows
        declared = 0
        for place in range(group.num_columns):
            chunk = group.column(place)
            if chunk.file_path:
                raise BadTable("external_data")
            start = chunk.data_page_offset
            if group.num_rows == 0:
                # Writers state no place for it.
                continue
            if chunk.dictionary_page_offset is not None and chunk.dictionary_page_offset > 0:
                start = min(start, chunk.dictionary_page_offset)
            packed, unpacked = chunk.total_compressed_size, chunk.total_uncompressed_size
            if packed < 0 or unpacked < 0 or start < 4 or start + packed > end:
                raise BadTable("chunks_outside", f"row group {index}")
            if unpacked > limits.ratio_from and unpacked > limits.ratio * packed:
                raise BadTable("decompression_bomb", f"row group {index}: {packed} bytes state {unpacked}")
            declared += unpacked
            chunks.append((start, start + packed))
        if max(declared, group.total_byte_size) > limits.group_bytes:
            raise BadTable("row_group_too_large", f"row group {index}: {max(declared, group.total_byte_size)} bytes")
    chunks.sort()
    if any(start < former for (_, former), (start, _) in pairwise(chunks)):
        raise BadTable("chunks_outside", "two column chunks overlap")
    if rows != metadata.num_rows:
        raise BadTable("row_count_differs", f"{rows} rows in groups, {metadata.num_rows} stated")
    if rows > limits.rows:
        raise BadTable("too_many_rows", f"{rows}, at most {limits.rows}")
    return rows


def _check_schema(schema: Any, limits: Limits) -> tuple[list[str], list[str] | None]:
    """The columns to decode, as spelled in the file, and the class names of the category where it is stored as
    numbers."""
    import pyarrow as pa

    check_columns([_plain(name) for name in schema.names], limits)
    classes, wanted = None, []
    for column in schema:
        name = _plain(column.name)
        if isinstance(column.type, pa.BaseExtensionType) or b"ARROW:extension:name" in (column.metadata or {}):
            raise BadTable("extension_type", name)
        if name in DROPPED:
            continue
        wanted.append(column.name)
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        if name in IMAGES and pa.types.is_struct(kind):
            leaves = {kind.field(at).name: kind.field(at).type for at in range(kind.num_fields)}
            path = leaves.get("path", pa.null())
            held = leaves.keys() <= {"bytes", "path"} and _is_bytes(leaves.get("bytes", pa.null()))
            if held and (_is_text(path) or pa.types.is_null(path)):
                continue
        elif pa.types.is_null(kind) or (_is_bytes(kind) if name in IMAGES else _is_text(kind)):
            continue
        elif name in IMAGES and _is_text(kind):
            raise BadTable("column_type", f"{name}: pictures are bytes, or bytes and path")
        elif name == "seed" and (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            continue
        elif name == "category" and pa.types.is_integer(kind):
            classes = _class_names(schema.metadata or {})
            continue
        nested = "nested_column" if pa.types.is_nested(kind) else "column_type"
        raise BadTable(nested, name)
    return wanted, classes


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_bytes(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _class_names(metadata: dict[bytes, bytes]) -> list[str]:
    """The names behind a category that is stored as numbers, as `datasets` notes them."""
    text = metadata.get(b"huggingface", b"")
    try:
        names = json.loads(text)["info"]["features"]["category"]["names"] if len(text) <= _CLASS_NAMES else None
    except (ValueError, KeyError, TypeError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise BadTable("column_type", "category: numbers without the names of the classes")
    return names


def _named(fields: dict[str, Any], classes: list[str] | None) -> dict[str, Any]:
    """`fields` with the category by its name; one that names no class stays a number, and is refused as such."""
    number = fields.get("category")
    if classes is not None and isinstance(number, int) and 0 <= number < len(classes):
        fields["category"] = classes[number]
    return fields


def _rows(parquet: Any, wanted: list[str], size: int, limits: Limits) -> Iterator[dict[str, Any]]:
    """Row by row, with pictures as bytes; ends with an error when the file has grown beyond measure."""
    most = max(limits.ratio_from, limits.ratio * size)
    images = [name for name in wanted if _plain(name) in IMAGES]
    taken = 0
    for batch in parquet.iter_batches(_ROWS_WITH_PICTURES if images else _ROWS, columns=wanted, use_threads=False):
        taken += batch.nbytes
        if taken > most:
            raise BadTable("decompression_bomb", f"{size} bytes hold more than {most}")
        yield from batch.to_pylist()
