"""Hostile JSONL and CSV files as a whole."""

import csv
from pathlib import Path

from tests.hub.hostile.kinds import SECRET, kind, row, write_rows

MILLION = 1_000_000


def _csv(folder: Path, *records: list[str]) -> None:
    with (folder / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows(records)


@kind("not_utf8")
def jsonl_in_latin_1(folder: Path) -> None:
    (folder / "rows.jsonl").write_bytes(b'{"category": "caf\xe9 ' + SECRET.encode() + b'"}\n')


@kind("not_utf8")
def csv_in_utf_16(folder: Path) -> None:
    (folder / "rows.csv").write_bytes(",".join(row()).encode("utf-16"))


@kind("empty_file")
def empty_csv(folder: Path) -> None:
    write_rows(folder, row())
    (folder / "empty.csv").touch()


@kind("no_rows")
def csv_of_column_names_alone(folder: Path) -> None:
    _csv(folder, list(row()))


@kind("not_csv")
def csv_with_an_open_quote(folder: Path) -> None:
    (folder / "rows.csv").write_text(",".join(row()) + f'\nviolence,"{SECRET},x,y\n')


@kind("field_count")
def csv_with_a_field_too_many(folder: Path) -> None:
    _csv(folder, list(row()), [*row().values(), SECRET])


@kind("record_too_long")
def csv_record_of_a_megabyte(folder: Path) -> None:
    (folder / "rows.csv").write_text(",".join(row()) + '\nviolence,pistol,"' + "lamp\n" * 200_000 + '",x\n')


@kind("too_many_columns")
def csv_of_5000_columns(folder: Path) -> None:
    _csv(folder, [*row(), *(f"c{i}" for i in range(5_000))], [*row().values(), *["x"] * 5_000])


@kind("column_name")
def csv_with_html_in_a_column_name(folder: Path) -> None:
    _csv(folder, [*row(), f"<script>{SECRET}</script>"], [*row().values(), "x"])


@kind("unknown_column")
def csv_with_an_unknown_column(folder: Path) -> None:
    _csv(folder, [*row(), "trust_remote_code"], [*row().values(), "1"])


@kind("duplicate_column")
def csv_with_a_column_twice(folder: Path) -> None:
    _csv(folder, [*row(), "concept"], [*row().values(), SECRET])


@kind("missing_column")
def csv_without_a_column(folder: Path) -> None:
    _csv(folder, list(row())[:3], list(row().values())[:3])


@kind("too_many_rows", seconds=30.0)
def csv_of_a_million_rows(folder: Path) -> None:
    with (folder / "rows.csv").open("w") as file:
        file.write(",".join(row()) + "\n")
        line = "violence,pistol,a pistol by lamp {0},a water blaster by lamp {0}\n"
        file.writelines(line.format(number) for number in range(MILLION))


@kind("too_many_rows", seconds=30.0)
def jsonl_of_a_million_empty_objects(folder: Path) -> None:
    (folder / "rows.jsonl").write_bytes(b"{}\n" * MILLION)


@kind("table_too_large", pushable=False)
def jsonl_of_two_sparse_gigabytes(folder: Path) -> None:
    with (folder / "rows.jsonl").open("wb") as file:
        file.truncate(2 << 30)
