"""Files are whole or not there, whatever happens while they are written."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from recipes.writing import clear_parts, read_json, whole_file, write_json, write_whole


def test_text_is_utf8_bytes_are_as_given_and_the_folder_is_made(tmp_path: Path) -> None:
    write_whole(tmp_path / "new" / "text", "a\r\nü\n")
    write_whole(tmp_path / "new" / "bytes", b"\x00\xff")
    assert (tmp_path / "new" / "text").read_bytes() == "a\r\nü\n".encode()
    assert (tmp_path / "new" / "bytes").read_bytes() == b"\x00\xff"
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["bytes", "text"]


def test_the_old_file_stands_until_the_new_one_is_written(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, "old")
    with pytest.raises(ZeroDivisionError), whole_file(path) as part:
        part.write_text("half of the n")
        assert path.read_text() == "old"
        raise ZeroDivisionError
    assert path.read_text() == "old"


def test_what_a_killed_writer_left_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(ZeroDivisionError), whole_file(path) as part:
        part.write_text("more than the file will hold")
        raise ZeroDivisionError
    write_whole(path, "new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_many_writers_do_not_write_to_one_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    with whole_file(path, many_writers=True) as mine:
        mine.write_text("mine")
        own = os.getpid()
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: own + 1)
            write_whole(path, "theirs", many_writers=True)
        assert path.read_text() == "theirs"
        # By this pattern the trainer clears what a killed process left.
        assert list(tmp_path.glob(".*.part")) == [mine]
    assert path.read_text() == "mine"


def test_json_is_sorted_and_keeps_its_letters(tmp_path: Path) -> None:
    write_json(tmp_path / "file", {"b": 1, "a": "ü"})
    assert (tmp_path / "file").read_text("utf8") == '{\n  "a": "ü",\n  "b": 1\n}\n'
    assert json.loads((tmp_path / "file").read_text("utf8")) == {"a": "ü", "b": 1}


@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff", b"[" * 100_000, None])
def test_json_that_is_missing_or_damaged_is_read_as_nothing(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "file").write_bytes(content)
    assert read_json(tmp_path / "file") == {}
    write_json(tmp_path / "file", {"a": 1})
    assert read_json(tmp_path / "file") == {"a": 1}


def test_leftovers_of_killed_writers_are_cleared_and_no_others(tmp_path: Path) -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    gone, alive = child.pid, os.getpid()
    parts = [f".a.bin.{gone}.part", f".a.bin.{gone}.data.part"]
    others = [f".a.bin.{alive}.part", ".a.bin.part", "a.part", "a.bin"]
    for name in [*parts, *others]:
        (tmp_path / name).write_text("")
    clear_parts(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(others)
