"""Files that were made to hurt: each is refused for its own reason, and nothing of it passes."""

import io
import json
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hub.contributions.names import name_fault, shown
from hub.contributions.reading import Reading
from tests.hub.contributions.conftest import Check, write_jsonl
from tests.hub.contributions.world import rows

GOOD = rows(3)
Make = Callable[[Path], Any]


def line(**changed: Any) -> str:
    return json.dumps({**GOOD[0], **changed}) + "\n"


def table(given: list[dict[str, Any]] = GOOD, **columns: Any) -> pa.Table:
    made = pa.Table.from_pylist(given)
    for name, values in columns.items():
        made = made.append_column(name, values)
    return made


def parquet(path: Path, made: pa.Table | None = None, **options: Any) -> None:
    pq.write_table(table() if made is None else made, path, **options)


def damaged(path: Path, change: Callable[[bytearray], Any]) -> None:
    parquet(path)
    data = bytearray(path.read_bytes())
    path.write_bytes(change(data) or data)


def flip_pages(data: bytearray) -> None:
    for at in range(4, 200):
        data[at] ^= 0xFF


def bomb(path: Path, letters: int) -> None:
    """Few bytes of a dictionary, and many rows that name its one long text."""
    text = pa.DictionaryArray.from_arrays(pa.array([0] * 4_000, pa.int32()), pa.array(["a" * letters]))
    few = pa.array(["violence"] * 4_000)
    made = pa.table({"category": few, "concept": few, "unsafe_prompt": text, "safe_prompt": text})
    parquet(path, made, compression="zstd")


def too_large_a_group(path: Path) -> None:
    images = ("unsafe_image", "safe_image")
    made = [{**row, **{name: {"bytes": os.urandom(1 << 16), "path": None} for name in images}} for row in GOOD * 6]
    parquet(path, table(made))


def nested(depth: int) -> Any:
    kind, value = pa.string(), "a"
    for _ in range(depth):
        kind, value = pa.list_(kind), [value]
    return pa.array([value] * 3, kind)


def extension() -> pa.Array:
    return pa.ExtensionArray.from_storage(pa.json_(), pa.array(["{}"] * 3))


def with_field_metadata() -> pa.Table:
    made = table()
    kind = made.schema.field("concept").with_metadata({"ARROW:extension:name": "made.up"})
    return made.cast(made.schema.set(made.schema.get_field_index("concept"), kind))


def encrypted(path: Path) -> None:
    parquet(path)
    data = path.read_bytes()
    path.write_bytes(data[:-4] + b"PARE")


def numbers_without_names() -> pa.Table:
    made = table()
    place = made.schema.get_field_index("category")
    return made.set_column(place, "category", pa.array([0, 1, 2]))


def link(path: Path) -> None:
    target = path.parent.parent / "elsewhere.jsonl"
    target.write_text(line())
    path.symlink_to(target)


def linked_folder(path: Path) -> None:
    outside = path.parent.parent / "outside"
    outside.mkdir()
    (outside / "a.jsonl").write_text(line())
    (path.parent / "inner").symlink_to(outside)


FILES: list[tuple[str, Make, str]] = [
    ("a.jsonl", lambda path: path.write_bytes(b""), "empty_file"),
    ("a.jsonl", lambda path: path.write_text("\n\n"), "no_rows"),
    ("a.csv", lambda path: path.write_text("category,concept,unsafe_prompt,safe_prompt\n"), "no_rows"),
    ("a.jsonl", lambda path: path.write_bytes(b'{"category": "\xff\xfe"}\n'), "not_utf8"),
    ("a.jsonl", lambda path: path.write_text(line(comment="mine")), "unknown_column"),
    ("a.jsonl", lambda path: path.write_text(line(**{"x" * 200: "mine"})), "column_name"),
    ("a.jsonl", lambda path: path.write_text(line(safe_prompt="x" * 70_000)), "record_too_long"),
    ("a.jsonl", lambda path: path.write_text(line() * 30), "too_many_rows"),
    ("a.csv", lambda path: path.write_text("\n"), "no_column_names"),
    ("a.csv", lambda path: path.write_text("category,concept\na,b\n"), "missing_column"),
    ("a.csv", lambda path: path.write_text("category,category,concept\na,b,c\n"), "duplicate_column"),
    ("a.csv", lambda path: path.write_text(",".join(f"c{i}" for i in range(99)) + "\n"), "too_many_columns"),
    (
        "a.csv",
        lambda path: path.write_text('category,concept,unsafe_prompt,safe_prompt\na,b,"open,d\n' + "x,y\n" * 9),
        "not_csv",
    ),
    (
        "a.csv",
        lambda path: path.write_text('category,concept,unsafe_prompt,safe_prompt\na,b,"' + "x,y\n" * 30_000),
        "record_too_long",
    ),
    ("a.parquet", lambda path: path.write_bytes(b"PAR1" + bytes(50)), "not_parquet"),
    ("a.parquet", lambda path: damaged(path, lambda data: data[: len(data) // 2]), "not_parquet"),
    ("a.parquet", lambda path: damaged(path, lambda data: data[:-8] + b"\xff\xff\xff\x7fPAR1"), "footer_too_large"),
    ("a.parquet", lambda path: damaged(path, lambda data: data[:-60] + bytes(52) + data[-8:]), "not_parquet"),
    ("a.parquet", lambda path: damaged(path, flip_pages), "damaged_parquet"),
    ("a.parquet", encrypted, "encrypted_parquet"),
    ("a.parquet", lambda path: parquet(path, table(GOOD * 30)), "too_many_rows"),
    ("a.parquet", lambda path: parquet(path, table(GOOD * 4), row_group_size=1), "too_many_row_groups"),
    ("a.parquet", lambda path: parquet(path, table(comment=pa.array(["a"] * 3))), "unknown_column"),
    ("a.parquet", lambda path: parquet(path, table(llm=nested(2))), "nested_column"),
    ("a.parquet", lambda path: parquet(path, table(llm=nested(30))), "not_parquet"),
    ("a.parquet", lambda path: parquet(path, table(llm=pa.array([b"a"] * 3))), "column_type"),
    ("a.parquet", lambda path: parquet(path, table(unsafe_image=pa.array(["a.png"] * 3))), "column_type"),
    ("a.parquet", lambda path: parquet(path, numbers_without_names()), "column_type"),
    ("a.parquet", lambda path: parquet(path, table(llm=extension())), "extension_type"),
    ("a.parquet", lambda path: parquet(path, with_field_metadata()), "extension_type"),
    ("a.parquet", lambda path: parquet(path, table().select(["concept", "safe_prompt"])), "missing_column"),
    ("a.parquet", lambda path: parquet(path, table().slice(0, 0)), "no_rows"),
    ("a.parquet", too_large_a_group, "row_group_too_large"),
    ("a.jsonl", link, "link"),
    ("inner", linked_folder, "link"),
    ("a.jsonl", os.mkfifo, "not_a_file"),
    ("run.py", lambda path: path.write_text("print(1)"), "unknown_file"),
    ("a.jsonl.gz", lambda path: path.write_bytes(b"\x1f\x8b"), "unknown_file"),
    ("a b\u202e.jsonl", lambda path: path.write_text(line()), "name_characters"),
    ("=cmd.jsonl", lambda path: path.write_text(line()), "name_characters"),
    ("alone.png", lambda path: path.write_bytes(b"no picture"), "picture_without_row"),
]


@pytest.mark.parametrize(("name", "make", "reason"), FILES, ids=[f"{r}-{n}" for n, (_, _, r) in enumerate(FILES)])
def test_a_file_that_is_none_is_refused_for_its_own_reason(
    check: Check, place: Path, name: str, make: Make, reason: str
):
    make(place / name)
    checked = check(rows=20, row_groups=8, group_bytes=1 << 20)
    assert reason in [refused.reason for refused in checked.refused]
    assert checked.passed == 0 and not checked.all_pass
    told = checked.table() + json.dumps(checked.to_json(), ensure_ascii=False)
    assert GOOD[0]["unsafe_prompt"] not in told and "\u202e" not in told


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not_json"),
        ("[1]", "not_an_object"),
        ("[" * 50_000, "nested_too_deep"),
        ('{"a": ' * 9_000, "nested_too_deep"),
        ('{"category": NaN}', "not_a_number"),
        ('{"seed": 1e999}', "not_a_number"),
        ('{"seed": -Infinity}', "not_a_number"),
        ('{"category": "a", "category": "b"}', "repeated_field"),
        ('{"seed": ' + "9" * 5_000 + "}", "not_json"),
        ('{"seed": 99999999999999999999999}', "wrong_type"),
    ],
)
def test_a_line_that_is_no_row_is_refused_and_the_next_one_is_read(check: Check, place: Path, text: str, reason: str):
    (place / "a.jsonl").write_text(text + "\n" + line())
    first, second = check().results()
    assert reason in first.reasons and second.passes


def test_a_file_that_breaks_off_takes_its_rows_with_it_and_leaves_the_others(check: Check, place: Path):
    (place / "a.jsonl").write_bytes(line().encode() + b"\xff\n")
    write_jsonl(place / "b.jsonl", GOOD[1:])
    checked = check()
    assert [result.reasons for result in checked.results()] == [("file_refused",), (), ()]
    assert checked.passed == 2 and [refused.reason for refused in checked.refused] == ["not_utf8"]


def test_csv_jsonl_and_parquet_hold_the_same_rows(check: Check, place: Path):
    import csv

    for kind in ("jsonl", "csv", "parquet"):
        path = place / f"a.{kind}"
        if kind == "jsonl":
            write_jsonl(path, GOOD)
        elif kind == "parquet":
            parquet(path)
        else:
            with path.open("w", newline="", encoding="utf-8-sig") as file:
                writer = csv.DictWriter(file, list(GOOD[0]), delimiter=";")
                writer.writeheader()
                writer.writerows(GOOD)
        checked = check()
        assert checked.all_pass, (kind, checked.table())
        path.unlink()


def test_a_row_of_datasets_with_class_labels_and_pictures_is_read(check: Check, place: Path, published: Any):
    given = rows(2, pictures=True)
    from datasets import ClassLabel, Dataset, Features, Image, Value

    names = [category.name for category in published.taxonomy.categories]
    kinds = {name: Value("string") for name in ("concept", "unsafe_prompt", "safe_prompt")}
    features = Features({"category": ClassLabel(names=names), **kinds, "unsafe_image": Image(), "safe_image": Image()})
    records = [
        {
            **{name: row[name] for name in kinds},
            "category": names.index(row["category"]),
            **{name: {"bytes": row[name], "path": None} for name in ("unsafe_image", "safe_image")},
        }
        for row in given
    ]
    Dataset.from_list(records, features=features).to_parquet(place / "a.parquet")
    checked = check()
    assert checked.all_pass, checked.table()
    assert [row["category"] for row in checked.passed_rows()] == [row["category"] for row in given]


@pytest.mark.parametrize("kind", ["footer", "overlap", "count"])
def test_a_footer_that_lies_is_refused(place: Path, kind: str, monkeypatch: pytest.MonkeyPatch):
    """Through stand-ins for Arrow's metadata, because Arrow writes no such footer."""
    from types import SimpleNamespace

    from hub.contributions.limits import LIMITS
    from hub.contributions.parquet import _check_groups
    from hub.contributions.tables import BadTable

    def chunk(start: int, packed: int = 10, unpacked: int = 10, file_path: str = "") -> Any:
        return SimpleNamespace(
            data_page_offset=start,
            dictionary_page_offset=None,
            total_compressed_size=packed,
            total_uncompressed_size=unpacked,
            file_path=file_path,
        )

    def metadata(chunks: list[Any], rows: int = 1) -> Any:
        group = SimpleNamespace(num_rows=1, num_columns=len(chunks), column=chunks.__getitem__, total_byte_size=10)
        return SimpleNamespace(num_row_groups=1, num_columns=len(chunks), num_rows=rows, row_group=lambda index: group)

    cases = {
        "footer": [(metadata([chunk(95)]), "chunks_outside"), (metadata([chunk(4, -1)]), "chunks_outside")],
        "overlap": [
            (metadata([chunk(4), chunk(4)]), "chunks_outside"),
            (metadata([chunk(4, file_path="b.parquet")]), "external_data"),
        ],
        "count": [
            (metadata([chunk(4)], rows=2), "row_count_differs"),
            (metadata([chunk(4, 10, 1 << 40)]), "decompression_bomb"),
        ],
    }
    for given, reason in cases[kind]:
        with pytest.raises(BadTable) as found:
            _check_groups(given, 100, LIMITS)
        assert found.value.reason == reason
    assert _check_groups(metadata([chunk(4), chunk(14)]), 100, LIMITS) == 1


def test_few_bytes_that_become_very_many_are_refused_while_they_are_decoded(check: Check, place: Path):
    bomb(place / "a.parquet", 1 << 20)
    assert (place / "a.parquet").stat().st_size < 10_000
    checked = check()
    assert [one.reason for one in checked.refused] == ["decompression_bomb"]
    assert checked.rows < 1_000 and checked.passed == 0


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_a_million_rows_are_refused_before_the_first_is_looked_at(check: Check, place: Path, kind: str):
    path, count = place / f"a.{kind}", 1_000_000
    if kind == "parquet":
        parquet(path, pa.table({name: pa.array(["a"] * count) for name in GOOD[0]}))
    else:
        short = dict.fromkeys(GOOD[0], "a")
        head, one = ("", json.dumps(short)) if kind == "jsonl" else (",".join(short) + "\n", ",".join(short.values()))
        path.write_text(head + f"{one}\n" * count)
    checked = check()
    assert checked.rows == 0 and [one.reason for one in checked.refused] == ["too_many_rows"]


def test_too_many_files_bytes_and_folders_are_refused_before_anything_is_read(check: Check, place: Path):
    for name in "abc":
        write_jsonl(place / f"{name}.jsonl", GOOD)
    assert [one.reason for one in check(files=2).refused] == ["too_many_files"]
    assert [one.reason for one in check(bytes=500).refused] == ["too_many_bytes"]
    deep = place.joinpath(*"123456789")
    deep.mkdir(parents=True)
    write_jsonl(deep / "d.jsonl", GOOD)
    assert [one.reason for one in check().refused] == ["too_deep"]


def test_a_reader_that_hangs_or_eats_all_memory_or_dies_costs_one_file(check: Check, place: Path):
    """A file of one page that states gigabytes, as a tool for compression makes it: decoding fails by the limit."""
    bomb(place / "a.parquet", 40 << 20)
    write_jsonl(place / "b.jsonl", GOOD)
    checked = check(memory=600 << 20)
    assert checked.passed == 3
    (refused,) = checked.refused
    assert refused.file == "a.parquet" and refused.reason in ("out_of_memory", "decompression_bomb")


def test_a_reader_that_is_killed_is_told_from_one_that_is_slow(place: Path, monkeypatch: pytest.MonkeyPatch):
    import subprocess
    import sys

    write_jsonl(place / "a.jsonl", GOOD)
    real = subprocess.Popen
    for code, reason in (
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "reader_died"),
        ("import time; time.sleep(60)", "out_of_time"),
        ("print('no message at all')", "reader_died"),
        ("while True: pass", "out_of_time"),
    ):
        monkeypatch.setattr(
            "hub.contributions.reading.subprocess.Popen",
            lambda command, code=code, **options: real([sys.executable, "-c", code], **options),
        )
        reading = Reading(place)
        reading.limits = type(reading.limits)(silence_seconds=0.5)
        assert list(reading) == [] and [one.reason for one in reading.refused] == [reason]


def test_the_reader_has_no_token_and_writes_no_file(place: Path, monkeypatch: pytest.MonkeyPatch):
    from hub.contributions.reading import _environment

    monkeypatch.setenv("HF_TOKEN", "hf_made_up")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    assert not [name for name in _environment() if name.startswith("HF_")]
    assert "hf_made_up" not in "".join(_environment().values())


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("a.jsonl", None),
        ("in ner/b (1).csv", None),
        ("../a.jsonl", "name_outside"),
        ("/etc/a.jsonl", "name_outside"),
        ("C:/a.jsonl", "name_outside"),
        ("C:\\a.jsonl", "name_outside"),
        ("\\\\server\\a.jsonl", "name_outside"),
        ("a/./b", "name_outside"),
        ("a//b", "name_outside"),
        ("~/a", "name_outside"),
        ("", "name_outside"),
        ("a\\b", "name_characters"),
        ("a\0b", "name_characters"),
        ("a\nb", "name_characters"),
        ("a\u202eb", "name_characters"),
        ("a\u200bb", "name_characters"),
        ("a\udc80b", "name_characters"),
        ("a<b>", "name_characters"),
        ("a`b", "name_characters"),
        ("[a](b)", "name_characters"),
        ("{{a}}", "name_characters"),
        ("a ", "name_characters"),
        ("nul.csv", "name_characters"),
        ("-rf", "name_characters"),
        ("x" * 300, "name_too_long"),
        ("/".join("abcdefghijk"), "too_deep"),
    ],
)
def test_names_that_lead_elsewhere_or_cannot_be_read_are_refused(name: str, fault: str | None):
    assert name_fault(name) == fault


def test_what_is_shown_of_a_name_is_one_printable_line():
    assert shown("a\nb\x1b[31m\u202e\udc80") == r"a\nb\x1b[31m\u202e\udc80"
    assert len(shown("x" * 10_000)) < 120


def png(*chunks: tuple[bytes, bytes], head: bytes = b"\x89PNG\r\n\x1a\n", tail: bytes = b"") -> bytes:
    parts = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    ]
    return head + b"".join(parts) + tail


def header(width: int = 64, height: int = 64, depth: int = 8, colour: int = 2) -> tuple[bytes, bytes]:
    return b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)


def encoded(kind: str, mode: str = "RGB", size: tuple[int, int] = (64, 64), **options: Any) -> bytes:
    from PIL import Image

    image = Image.effect_noise(size, 80).convert(mode)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def animated(kind: str) -> bytes:
    from PIL import Image

    frames = [Image.effect_noise((64, 64), 80).convert("RGB") for _ in range(3)]
    file = io.BytesIO()
    frames[0].save(file, kind, save_all=True, append_images=frames[1:])
    return file.getvalue()


def plain(colour: tuple[int, int, int]) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(file, "PNG")
    return file.getvalue()


def transparent() -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGBA", (64, 64), (200, 100, 50, 0)).save(file, "PNG")
    return file.getvalue()


def deep() -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.new("I;16", (64, 64), 4_000).save(file, "PNG")
    return file.getvalue()


def behind_the_stream() -> bytes:
    raw = os.urandom(64 * (1 + 3 * 64))
    rows_ = b"".join(b"\0" + raw[at : at + 192] for at in range(0, 64 * 192, 192))
    return png(header(), (b"IDAT", zlib.compress(rows_) + b"hidden text"), (b"IEND", b""))


END = (b"IEND", b"")
PICTURES: list[tuple[str, Callable[[], bytes]]] = [
    ("picture_format", lambda: b"GIF89a" + bytes(50)),
    ("picture_format", lambda: encoded("GIF", "P")),
    ("picture_format", lambda: encoded("BMP")),
    ("picture_format", lambda: encoded("TIFF")),
    ("picture_format", lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
    ("picture_format", lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n"),
    ("picture_format", lambda: b"\x80\x04\x95cos\nsystem\n."),
    ("picture_pixels", lambda: png(header(60_000, 60_000), (b"IDAT", zlib.compress(bytes(1000))), END)),
    ("picture_pixels", lambda: png(header(1 << 30, 1), (b"IDAT", b""), END)),
    ("picture_too_small", lambda: encoded("PNG", size=(64, 1))),
    ("picture_too_large", lambda: os.urandom(17 << 20)),
    ("picture_animated", lambda: animated("PNG")),
    ("picture_animated", lambda: animated("WEBP")),
    ("picture_trailing_data", lambda: encoded("PNG") + b"PK\x03\x04 an archive"),
    ("picture_trailing_data", lambda: encoded("JPEG") + b"<html>"),
    ("picture_trailing_data", lambda: encoded("WEBP") + b"#!/bin/sh"),
    ("picture_trailing_data", behind_the_stream),
    ("picture_trailing_data", lambda: encoded("PNG")[:-12] + png((b"IEND", b"hidden text"))[8:]),
    ("picture_broken", lambda: encoded("PNG")[:-40]),
    ("picture_broken", lambda: encoded("JPEG")[:-40]),
    ("picture_broken", lambda: encoded("WEBP")[:-40]),
    ("picture_broken", lambda: png(header(), (b"IDAT", zlib.compress(bytes(50))), END)),
    ("picture_broken", lambda: png((b"IDAT", b""), header(), END)),
    ("picture_broken", lambda: b"\xff\xd8\xff\xe0" + bytes(9)),
    ("picture_mode", deep),
    ("picture_mode", lambda: encoded("JPEG", "CMYK")),
    ("picture_transparent", transparent),
    ("black_picture", lambda: plain((2, 2, 2))),
    ("flat_picture", lambda: plain((90, 140, 30))),
    ("picture_sizes_differ", lambda: encoded("PNG", size=(128, 64))),
]


def test_a_picture_that_was_made_to_hurt_is_refused_for_its_own_reason(check: Check, place: Path):
    (good,) = rows(1, pictures=True)
    made = [{**good, "unsafe_image": make()} for _, make in PICTURES]
    parquet(place / "a.parquet", pa.Table.from_pylist(made))
    checked = check()
    assert [
        (reason, reason in result.reasons) for (reason, _), result in zip(PICTURES, checked.results(), strict=True)
    ] == [(reason, True) for reason, _ in PICTURES]
    assert checked.passed == 0 and not checked.refused


def test_same_pictures_one_picture_and_pictures_that_are_not_held_are_refused(check: Check, place: Path):
    (good,) = rows(1, pictures=True)
    held = {name: {"bytes": good[name], "path": "x.png"} for name in ("unsafe_image", "safe_image")}
    made = [
        {**good, **held, "safe_image": held["unsafe_image"]},
        {**good, **held, "safe_image": None},
        {**good, **held, "safe_image": {"bytes": None, "path": "/etc/hostname"}},
    ]
    parquet(place / "a.parquet", pa.Table.from_pylist(made))
    found = [result.reasons for result in check().results()]
    assert found == [("same_pictures",), ("one_picture",), ("picture_not_embedded",)]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_what_passes_holds_pixels_and_nothing_else(check: Check, place: Path, kind: str):
    from PIL import Image, PngImagePlugin

    (good,) = rows(1, pictures=True)
    options: dict[str, Any] = {"exif": b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0 secret place"}
    if kind == "PNG":
        text = PngImagePlugin.PngInfo()
        text.add_text("comment", "secret place")
        options = {"pnginfo": text}
    file = io.BytesIO()
    image = Image.effect_noise((64, 64), 80).convert("RGB")
    image.save(file, kind, **options)
    assert b"secret place" in file.getvalue()
    parquet(place / "a.parquet", pa.Table.from_pylist([{**good, "unsafe_image": file.getvalue()}]))
    checked = check()
    assert checked.notes["metadata_stripped"] == 1
    (row,) = checked.passed_rows()
    assert b"secret" not in row["unsafe_image"]
    # The safe side is a plain PNG already, and stays as it is.
    assert row["safe_image"] == good["safe_image"]
    decoded = Image.open(io.BytesIO(row["unsafe_image"]))
    assert decoded.format == "PNG" and not decoded.info
    assert decoded.tobytes() == Image.open(io.BytesIO(file.getvalue())).convert("RGB").tobytes()


def test_an_imagefolder_is_read_and_its_names_lead_nowhere_else(check: Check, place: Path):
    first, second, third, fourth, fifth = rows(5, pictures=True)
    (place / "in").mkdir()
    for number, row in enumerate((first, second, third, fourth, fifth)):
        for side in ("unsafe", "safe"):
            (place / "in" / f"{number}_{side}.png").write_bytes(row[f"{side}_image"])
    (place.parent / "secret.png").write_bytes(third["unsafe_image"])
    (place / "in" / "2_unsafe.png").unlink()
    (place / "in" / "3_unsafe.png").unlink()
    (place / "in" / "3_unsafe.png").symlink_to(place.parent / "secret.png")

    def named(row: dict[str, Any], unsafe: str, safe: str) -> dict[str, Any]:
        text = {name: value for name, value in row.items() if not name.endswith("_image")}
        return {**text, "unsafe_image_file_name": unsafe, "safe_image_file_name": safe}

    lines = [
        named(first, "0_unsafe.png", "0_safe.png"),
        named(second, "../../secret.png", "1_safe.png"),
        named(third, "2_unsafe.png", "2_safe.png"),
        named(fourth, "3_unsafe.png", "3_safe.png"),
        named(fifth, "/etc/hostname", "4_safe.png"),
    ]
    write_jsonl(place / "in" / "metadata.jsonl", lines)
    checked = check()
    assert [result.reasons for result in checked.results()] == [
        (),
        ("picture_outside",),
        ("picture_missing",),
        ("picture_link",),
        ("picture_outside",),
    ]
    refused = {one.file: one.reason for one in checked.refused}
    assert refused.pop("in/3_unsafe.png") == "link"
    assert set(refused.values()) == {"picture_without_row"} and "in/1_unsafe.png" in refused


def test_two_names_of_one_picture_are_refused_and_its_bytes_are_never_read_as_rows(check: Check, place: Path):
    first, second = rows(2, pictures=True)
    (place / "long.png").write_bytes(first["unsafe_image"])
    (place / "short.png").write_bytes(encoded("PNG", size=(16, 16)))
    (place / "safe.png").write_bytes(first["safe_image"])
    text = {name: value for name, value in first.items() if not name.endswith("_image")}
    names = {"unsafe_file_name": "long.png", "unsafe_image_file_name": "short.png", "safe_file_name": "safe.png"}
    after = {name: value for name, value in second.items() if not name.endswith("_image")}
    write_jsonl(place / "a.jsonl", [{**text, **names}, after])
    checked = check()
    assert [(result.number, result.reasons) for result in checked.results()] == [(1, ("repeated_field",)), (2, ())]
    assert not checked.refused


def test_files_that_end_the_reader_again_and_again_do_not_keep_it_busy(place: Path, monkeypatch: pytest.MonkeyPatch):
    import subprocess
    import sys

    for name in "abcdef":
        write_jsonl(place / f"{name}.jsonl", GOOD)
    real, starts = subprocess.Popen, []

    def dying(command: list[str], **options: Any) -> Any:
        starts.append(command)
        return real([sys.executable, "-c", "import os; os.abort()"], **options)

    monkeypatch.setattr("hub.contributions.reading.subprocess.Popen", dying)
    reading = Reading(place)
    assert list(reading) == [] and len(starts) == reading.limits.restarts + 1
    assert [one.reason for one in reading.refused] == ["out_of_memory"] * len(starts) + ["not_reached"]
