"""Hostile Parquet files: bombs, lies in the footer, types that are more than data."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.hub.hostile.kinds import SECRET, kind, picture, png, row


def _table(count: int = 1, **columns: Any) -> pa.Table:
    values = {name: [text] * count for name, text in row().items()}
    return pa.table({**values, **columns})


def _write(folder: Path, table: pa.Table, **options: Any) -> Path:
    path = folder / "rows.parquet"
    pq.write_table(table, path, **options)
    return path


def varint(number: int) -> bytes:
    """A number as Thrift's compact protocol writes it: zigzag, seven bits a byte."""
    number <<= 1
    found = b""
    while number > 0x7F:
        found += bytes([number & 0x7F | 0x80])
        number >>= 7
    return found + bytes([number])


def _lie(path: Path, old: int, new: int) -> None:
    """Replace the first `old` in the footer by `new`, which is written in as many bytes."""
    data = path.read_bytes()
    start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    was, becomes = varint(old), varint(new)
    assert len(was) == len(becomes) and was in data[start:]
    path.write_bytes(data[:start] + data[start:].replace(was, becomes, 1))


@kind("not_parquet")
def parquet_that_is_text(folder: Path) -> None:
    (folder / "rows.parquet").write_text(f"PAR1 {SECRET} PAR")


@kind("not_parquet")
def parquet_that_is_a_pickle(folder: Path) -> None:
    (folder / "rows.parquet").write_bytes(pickle.dumps(_Canary(folder)))


@kind("not_parquet")
def parquet_cut_off(folder: Path) -> None:
    path = _write(folder, _table(100))
    path.write_bytes(path.read_bytes()[:-100])


@kind("damaged_parquet")
def parquet_with_noise_for_pages(folder: Path) -> None:
    path = _write(folder, _table(100, llm=[f"org/{i}" for i in range(100)]), compression="zstd")
    data = bytearray(path.read_bytes())
    length = int.from_bytes(data[-8:-4], "little") + 8
    data[4 : len(data) - length] = bytes(np.random.default_rng(0).integers(0, 256, len(data) - length - 4, np.uint8))
    path.write_bytes(bytes(data))


@kind("encrypted_parquet")
def parquet_encrypted(folder: Path) -> None:
    path = _write(folder, _table())
    path.write_bytes(path.read_bytes()[:-4] + b"PARE")


@kind("footer_too_large")
def parquet_footer_longer_than_the_file(folder: Path) -> None:
    path = _write(folder, _table())
    path.write_bytes(path.read_bytes()[:-8] + (1 << 30).to_bytes(4, "little") + b"PAR1")


@kind("footer_too_large")
def parquet_footer_of_20_megabytes(folder: Path) -> None:
    _write(folder, _table().replace_schema_metadata({SECRET: "x" * 20_000_000}))


@kind("too_many_row_groups")
def parquet_of_5000_row_groups(folder: Path) -> None:
    _write(folder, _table(5_000), row_group_size=1)


@kind("row_count_differs")
def parquet_that_states_fewer_rows(folder: Path) -> None:
    _lie(_write(folder, _table(777)), 777, 70)


@kind("chunks_outside")
def parquet_chunk_beyond_the_end(folder: Path) -> None:
    noise = np.random.default_rng(0).bytes(200_000)
    table = _table(100, unsafe_image=[noise[i * 2_000 : i * 2_000 + 2_000] for i in range(100)])
    table = table.select(["unsafe_image", *row()])
    path = _write(folder, table, compression="none", use_dictionary=False, write_statistics=False)
    _lie(path, pq.read_metadata(path).row_group(0).column(1).data_page_offset, (1 << 20) - 1)


@kind("decompression_bomb")
def parquet_bomb_of_a_text(folder: Path) -> None:
    table = _table(1, unsafe_prompt=["a" * 200_000_000])
    _write(folder, table, compression="zstd", use_dictionary=False, write_statistics=False)


@kind("decompression_bomb")
def parquet_bomb_that_states_it_is_small(folder: Path) -> None:
    table = _table(1, unsafe_prompt=["a" * 40_000_000])
    path = _write(folder, table, compression="zstd", use_dictionary=False, write_statistics=False)
    _lie(path, pq.read_metadata(path).row_group(0).column(2).total_uncompressed_size, 1 << 21)


@kind("decompression_bomb")
def parquet_dictionary_of_one_large_value(folder: Path) -> None:
    """100,000 rows that point to one megabyte: 100 GB once decoded."""
    indices = pa.array(np.zeros(100_000, np.int32))
    noise = np.random.default_rng(0).bytes(1_000_000)
    column = pa.DictionaryArray.from_arrays(indices, pa.array([noise], pa.binary()))
    _write(folder, _table(100_000, unsafe_image=column), write_statistics=False, dictionary_pagesize_limit=1 << 24)


@kind("too_many_rows", seconds=30.0)
def parquet_of_a_million_rows(folder: Path) -> None:
    one = pa.DictionaryArray.from_arrays(pa.array(np.zeros(1_000_000, np.int32)), pa.array(["lamp"]))
    _write(folder, pa.table(dict.fromkeys(row(), one)), row_group_size=1_000)


@kind("too_many_columns")
def parquet_of_10000_columns(folder: Path) -> None:
    _write(folder, _table(1, **{f"c{i}": ["x"] for i in range(10_000)}))


@kind("unknown_column")
def parquet_with_an_unknown_column(folder: Path) -> None:
    _write(folder, _table(1, __reduce__=[SECRET]))


@kind("duplicate_column")
def parquet_with_a_column_twice(folder: Path) -> None:
    _write(folder, _table().append_column("concept", pa.array([SECRET])))


@kind("missing_column")
def parquet_without_a_column(folder: Path) -> None:
    _write(folder, _table().drop_columns(["safe_prompt"]))


@kind("column_type")
def parquet_with_a_date_for_a_prompt(folder: Path) -> None:
    _write(folder, _table(1, unsafe_prompt=pa.array([0], pa.timestamp("ns"))))


@kind("nested_column")
def parquet_with_a_struct_for_a_prompt(folder: Path) -> None:
    _write(folder, _table(1, unsafe_prompt=[{"text": SECRET}]))


@kind("nested_column")
def parquet_with_lists_of_lists(folder: Path) -> None:
    value: Any = SECRET
    for _ in range(2):
        value = [value]
    _write(folder, _table(1, unsafe_prompt=[value]))


class _Canary:
    """Writes a file when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.path = folder.parent / f"{folder.name}.executed"

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@kind("extension_type")
def parquet_with_a_pickled_extension_type(folder: Path) -> None:
    names = {b"ARROW:extension:name": b"arrow.py_extension_type"}
    names[b"ARROW:extension:metadata"] = pickle.dumps(_Canary(folder))
    field = pa.field("concept", pa.string(), metadata=names)
    table = _table()
    place = table.schema.get_field_index("concept")
    _write(folder, table.cast(table.schema.set(place, field)))


@kind("extension_type")
def parquet_with_a_uuid(folder: Path) -> None:
    column = pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"0" * 16], pa.binary(16)))
    _write(folder, _table(1, pair_id=column))


@kind("picture_not_embedded")
def parquet_that_names_a_picture(folder: Path) -> None:
    images = {f"{side}_image": [{"bytes": None, "path": f"../{SECRET}.png"}] for side in ("unsafe", "safe")}
    kinds = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    _write(folder, _table(1, **{name: pa.array(value, kinds) for name, value in images.items()}))


@kind("one_picture")
def parquet_with_one_picture(folder: Path) -> None:
    _write(folder, _table(1, unsafe_image=[png(picture())]))
