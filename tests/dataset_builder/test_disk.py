"""A full disk is said in one line, whichever library met it; no other error is taken for one."""

import errno
import os
import shutil
from pathlib import Path

import pytest
import torch
from datasets.exceptions import DatasetGenerationError
from safetensors import SafetensorError

from dataset_builder.disk import disk_full_said
from recipes import RecipeError

FULL = Path("/dev/full")


def in_rust() -> None:
    # As safetensors says it; its writer would put a file in the place of /dev/full.
    raise SafetensorError(f"Error while serializing: I/O error: {os.strerror(errno.ENOSPC)} (os error 28)")


def wrapped() -> None:
    try:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        raise DatasetGenerationError("An error occurred while generating the dataset") from error


def met_while_cleaning_up() -> None:
    try:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        raise ValueError("the file is not there")


@pytest.mark.parametrize(
    "fails",
    [
        lambda: FULL.write_bytes(b"x"),
        in_rust,
        wrapped,
        met_while_cleaning_up,
    ],
)
def test_a_full_disk_is_said_whichever_library_met_it(fails, tmp_path):
    said = f"^{tmp_path}: the disk is full; free some space and run"
    with pytest.raises(RecipeError, match=said) as raised, disk_full_said(tmp_path):
        fails()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("free", [0, 2**30])
def test_what_torch_says_of_a_full_disk_is_known_by_the_space_that_is_left(free, tmp_path, monkeypatch):
    usage = shutil._ntuple_diskusage(2**30, 2**30 - free, free)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    expected, words = (RuntimeError, "iostream error") if free else (RecipeError, "the disk is full")
    with pytest.raises(expected, match=words), disk_full_said(tmp_path / "not" / "made"):
        torch.save(torch.zeros(9), FULL)


@pytest.mark.parametrize(
    "error",
    [OSError(errno.EACCES, "no"), ValueError("full"), RecipeError("train.rank: found 0"), KeyboardInterrupt()],
)
def test_other_errors_are_left_as_they_are(error, tmp_path):
    with pytest.raises(type(error)) as raised, disk_full_said(tmp_path):
        raise error
    assert raised.value is error
