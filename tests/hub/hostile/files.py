"""Hostile folders: links, devices, names, and files that belong into no contribution."""

import os
import pickle
from pathlib import Path

from tests.hub.hostile.kinds import SECRET, kind, row, write_rows


@kind("link", pushable=False)
def table_that_is_a_link(folder: Path) -> None:
    (folder / "rows.jsonl").symlink_to("/etc/hostname")


@kind("link", pushable=False)
def folder_that_is_a_link(folder: Path) -> None:
    write_rows(folder, row())
    (folder / "more").symlink_to("/etc", target_is_directory=True)


@kind("link", pushable=False)
def link_to_itself(folder: Path) -> None:
    write_rows(folder, row())
    (folder / "more").symlink_to(".", target_is_directory=True)


@kind("not_a_file", pushable=False)
def table_that_is_a_pipe(folder: Path) -> None:
    os.mkfifo(folder / "rows.jsonl")


@kind("name_characters", pushable=False)
def name_turned_around(folder: Path) -> None:
    write_rows(folder, row(), name="rows\u202elnosj.jsonl")


@kind("name_characters", pushable=False)
def name_with_a_line_break_and_colours(folder: Path) -> None:
    write_rows(folder, row(), name="rows\n\x1b[31m.jsonl")


@kind("name_outside", pushable=False)
def name_with_a_backslash(folder: Path) -> None:
    write_rows(folder, row(), name="..\\..\\rows.jsonl")


@kind("too_deep", pushable=False)
def file_below_40_folders(folder: Path) -> None:
    place = folder.joinpath(*"abcdefgh" * 5)
    place.mkdir(parents=True)
    write_rows(place, row())


@kind("too_many_files", pushable=False, seconds=30.0)
def folder_of_21000_files(folder: Path) -> None:
    for number in range(21_000):
        (folder / f"{number}.jsonl").touch()


@kind("unknown_file")
def script_beside_the_rows(folder: Path) -> None:
    write_rows(folder, row())
    (folder / "data.py").write_text(f"print('{SECRET}')\n")


@kind("unknown_file")
def pickle_beside_the_rows(folder: Path) -> None:
    write_rows(folder, row())
    (folder / "rows.pkl").write_bytes(pickle.dumps(SECRET))


@kind("unknown_file")
def page_beside_the_rows(folder: Path) -> None:
    write_rows(folder, row())
    (folder / "index.html").write_text(f"<script>{SECRET}</script>")


@kind("unknown_file")
def archive_beside_the_rows(folder: Path) -> None:
    write_rows(folder, row())
    (folder / "rows.zip").write_bytes(b"PK\x03\x04")
