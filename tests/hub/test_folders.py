"""What may be sent: whole repositories, and nothing else."""

import hashlib
import json
import subprocess
from pathlib import Path

import pytest

from hub.folders import FolderError, check_folder, is_allowed, read_file, version_of


def test_a_whole_folder_passes_with_true_checksums(dataset: Path, adapter: Path) -> None:
    files = check_folder("data", dataset)
    assert set(files) == {
        *("README.md", "coprov2.json", "images/splits.png"),
        *(f"{folder}/{split}-00000-of-00001.parquet" for folder in ("data", "prompts") for split in ("train", "test")),
    }
    for name, file in files.items():
        assert file.sha256 == hashlib.sha256((dataset / name).read_bytes()).hexdigest()
    assert set(check_folder("adapter", adapter)) == {"README.md", "coprov2.json", "pytorch_lora_weights.safetensors"}


def test_blob_ids_are_gits(dataset: Path) -> None:
    told = subprocess.run(["git", "hash-object", dataset / "README.md"], capture_output=True, text=True, check=True)
    assert read_file(dataset / "README.md").blob == told.stdout.strip()


@pytest.mark.parametrize(
    "name",
    [
        "model.pkl",
        "model.bin",
        "load.py",
        "data/x.pickle",
        "data/deep/x.parquet",
        "work/ledger.sqlite",
        ".x.part",
        "images/a.svg",
    ],
)
def test_anything_else_in_the_folder_is_refused(dataset: Path, name: str) -> None:
    (dataset / name).parent.mkdir(parents=True, exist_ok=True)
    (dataset / name).write_bytes(b"x")
    with pytest.raises(FolderError, match="does not belong") as caught:
        check_folder("data", dataset)
    assert name in str(caught.value)


def test_a_link_is_refused_wherever_it_leads(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    card = dataset / "README.md"
    for name, target in (("LICENSE", tmp_path / "secret"), ("images/a.png", tmp_path), ("LICENSE", card)):
        (dataset / name).symlink_to(target)
        with pytest.raises(FolderError, match="is a link"):
            check_folder("data", dataset)
        (dataset / name).unlink()


def test_the_clients_own_cache_is_passed_over(dataset: Path) -> None:
    (dataset / ".cache" / "huggingface").mkdir(parents=True)
    (dataset / ".cache" / "huggingface" / "x.lock").write_text("")
    check_folder("data", dataset)
    (dataset / ".cache" / "other").write_text("")
    with pytest.raises(FolderError, match="does not belong"):
        check_folder("data", dataset)


@pytest.mark.parametrize("name", ["README.md", "coprov2.json", "data/test-00000-of-00001.parquet"])
def test_a_missing_file_is_named(dataset: Path, name: str) -> None:
    (dataset / name).unlink()
    with pytest.raises((FolderError, ValueError), match=name.split("/")[-1]):
        check_folder("data", dataset)


def test_a_changed_file_is_named(dataset: Path, adapter: Path) -> None:
    path = dataset / "data" / "test-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(FolderError, match=r"test-00000.*states"):
        check_folder("data", dataset)
    (adapter / "coprov2.json").write_text(json.dumps({"weights": "0" * 64}))
    with pytest.raises(FolderError, match=r"pytorch_lora_weights.*states"):
        check_folder("adapter", adapter)


def test_content_must_be_what_the_name_says(adapter: Path) -> None:
    (adapter / "images").mkdir()
    (adapter / "images" / "a.png").write_bytes(b"<svg/>")
    with pytest.raises(FolderError, match=r"a\.png: cannot be read"):
        check_folder("adapter", adapter)
    (adapter / "images" / "a.png").unlink()
    (adapter / "coprov2.json").unlink()
    (adapter / "pytorch_lora_weights.safetensors").write_bytes(b"\x80\x04pickle")
    with pytest.raises(FolderError, match="safetensors: cannot be read"):
        check_folder("adapter", adapter)


def test_a_card_needs_metadata(dataset: Path) -> None:
    for text in ("# No metadata\n", "---\n- a\n---\n", "---\na: [\n---\n"):
        (dataset / "README.md").write_text(text)
        with pytest.raises(FolderError, match=r"README\.md"):
            check_folder("data", dataset)


def test_a_version_has_three_numbers(dataset: Path) -> None:
    assert version_of(dataset) == "v1.0.0"
    for version in ("1.0.0", "v1.0", "v01.0.0", "latest", 1):
        (dataset / "coprov2.json").write_text(json.dumps({"version": version}))
        with pytest.raises(FolderError, match="vMAJOR"):
            version_of(dataset)


def test_names_are_matched_folder_by_folder() -> None:
    assert is_allowed("data", "data/train-00000-of-00001.parquet") and is_allowed("adapter", "images/a.png")
    assert not is_allowed("data", "contributions/a.parquet") and not is_allowed("data", "data/../x.parquet")
    assert not is_allowed("adapter", "data/train.parquet") and not is_allowed("data", "README.md/x")
