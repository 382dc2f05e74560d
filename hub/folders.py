"""Repository folders on disk: what one may hold, checked before anything is sent and after anything is fetched.

Nothing here talks to a Hub."""

import fnmatch
import hashlib
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cards.validation import check_card
from dataset_builder.schema import MANIFEST
from evaluation.drawing import WEIGHTS
from evaluation.prompts import read_manifest
from recipes import RecipeError

Kind = Literal["data", "adapter"]
REPO_TYPES: dict[str, str] = {"data": "dataset", "adapter": "model"}
CARD, CHANGELOG = "README.md", "CHANGELOG.md"
# Where people's pairs lie until a release takes them in; no part of a version, so never pulled and never pushed over.
CONTRIBUTIONS = "contributions/"
_PICTURES = tuple(f"images/*.{suffix}" for suffix in ("png", "jpg", "jpeg", "webp"))
_COMMON = (CARD, MANIFEST, "LICENSE", "LICENSE.*", "*.LICENSE", ".gitattributes", *_PICTURES)
ALLOWED: dict[str, tuple[str, ...]] = {
    "data": (*_COMMON, CHANGELOG, "data/*.parquet", "prompts/*.parquet"),
    "adapter": (*_COMMON, WEIGHTS, "training.json"),
}
# Folders whose files belong to the published version alone: what a new version lacks there goes away.
OWNED = ("data/", "prompts/", "images/")
VERSION = re.compile(r"v(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")


class FolderError(RecipeError):
    """A folder is not what its repository should hold."""


@dataclass(frozen=True)
class LocalFile:
    """A file and its two checksums: `sha256` as LFS names it, `blob` (SHA-1) as git does."""

    path: Path
    size: int
    sha256: str
    blob: str


def read_file(path: Path) -> LocalFile:
    """The checksums of a file, read in pieces."""
    size = path.stat().st_size
    sha256, blob = hashlib.sha256(), hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            sha256.update(piece)
            blob.update(piece)
    return LocalFile(path, size, sha256.hexdigest(), blob.hexdigest())


def is_allowed(kind: str, name: str) -> bool:
    """Whether a repository of this kind may hold a file of this name (with `/` between folders)."""
    depth = name.count("/")
    return any(depth == pattern.count("/") and fnmatch.fnmatchcase(name, pattern) for pattern in ALLOWED[kind])


def _walk(folder: Path) -> Iterator[tuple[str, Path]]:
    """All files and links below `folder` by name, but for the download client's own `.cache/huggingface`."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name.split("/")[:2] == [".cache", "huggingface"]:
            continue
        if path.is_symlink() or not path.is_dir():
            yield name, path


def check_folder(kind: Kind, folder: Path) -> dict[str, LocalFile]:
    """Check that `folder` is a whole repository of its kind and holds nothing else.

    Args:
        kind (`str`): `data` or `adapter`.
        folder (`Path`): the folder.

    Returns:
        `dict[str, LocalFile]`: its files by name.

    Raises:
        `FolderError`: for a link, a file that such a repository does not hold (pickles, scripts and leftovers among
            them), a missing or unreadable file, a card without metadata, or a checksum that is not the manifest's.
    """
    if not folder.is_dir():
        raise FolderError(f"{folder}: no such folder")
    files: dict[str, LocalFile] = {}
    for name, path in _walk(folder):
        if path.is_symlink():
            raise FolderError(f"{path}: is a link; a repository holds files only, put a copy of the file there")
        if not path.is_file() or not is_allowed(kind, name):
            raise FolderError(
                f"{path}: does not belong into a repository of kind {kind}, which holds {', '.join(ALLOWED[kind])}; "
                "move it elsewhere"
            )
        files[name] = read_file(path)
    needed = (CARD, MANIFEST) if kind == "data" else (CARD, WEIGHTS)
    for name in needed:
        if name not in files:
            raise FolderError(f"{folder / name}: missing; a repository of kind {kind} needs {', '.join(needed)}")
    # Data that was imported without pictures has the config `prompts` alone.
    if kind == "data" and not any(name.endswith(".parquet") for name in files):
        raise FolderError(f"{folder}: neither data/ nor prompts/ holds a Parquet file; build the dataset first")
    check_manifest(kind, folder, files)
    _check_card(kind, folder / CARD, files)
    for name, file in files.items():
        _check_readable(name, file.path)
    return files


def checksums(kind: str, folder: Path) -> dict[str, str]:
    """sha256 by file name, as the folder's manifest states them; empty where an adapter has no manifest."""
    if not (folder / MANIFEST).is_file() and kind == "adapter":
        return {}
    manifest = read_manifest(folder)
    try:
        if kind == "data":
            return {name: str(entry["sha256"]) for name, entry in manifest["files"].items()}
        return {WEIGHTS: str(manifest["weights"])}
    except (KeyError, TypeError, AttributeError) as error:
        raise FolderError(f"{folder / MANIFEST}: states no checksums ({error}); build or merge again") from None


def check_manifest(kind: str, folder: Path, files: dict[str, LocalFile]) -> int:
    """Compare files with the manifest's checksums; returns how many were compared.

    Raises:
        `FolderError`: where a file is missing or differs, or a Parquet file is not in the manifest.
    """
    stated = checksums(kind, folder)
    for name, sha256 in stated.items():
        if name not in files:
            raise FolderError(f"{folder / name}: missing; {MANIFEST} lists it")
        if files[name].sha256 != sha256:
            raise FolderError(
                f"{folder / name}: sha256 {files[name].sha256}, but {MANIFEST} states {sha256}; make it again"
            )
    unlisted = [name for name in files if name.endswith(".parquet") and name not in stated]
    if unlisted:
        raise FolderError(
            f"{folder / unlisted[0]}: not in {MANIFEST}; it is not part of this version, move it elsewhere"
        )
    return len(stated)


def version_numbers(version: str) -> tuple[int, int, int]:
    """(major, minor, patch) of a version that `VERSION` matches."""
    major, minor, patch = version[1:].split(".")
    return int(major), int(minor), int(patch)


def version_of(folder: Path) -> str | None:
    """The version that the folder's manifest states, or None.

    Raises:
        `FolderError`: where it is not of the form vMAJOR.MINOR.PATCH.
    """
    version = read_manifest(folder).get("version") if (folder / MANIFEST).is_file() else None
    if version is not None and not (isinstance(version, str) and VERSION.fullmatch(version)):
        raise FolderError(f"{folder / MANIFEST}: version is {version!r}, expected vMAJOR.MINOR.PATCH such as v1.0.0")
    return version


def _check_card(kind: Kind, path: Path, names: Collection[str]) -> None:
    try:
        check_card(path.read_text("utf8"), kind, str(path), names)
    except UnicodeDecodeError:
        raise FolderError(f"{path}: is not UTF-8; `coprov2 cards` writes it anew") from None
    except RecipeError as error:
        raise FolderError(str(error)) from None


def _check_readable(name: str, path: Path) -> None:
    """That the content is what the name says, as far as its head and foot tell."""
    try:
        if name.endswith(".parquet"):
            import pyarrow.parquet as pq

            pq.read_metadata(path)
        elif name.endswith(".safetensors"):
            from safetensors import safe_open

            with safe_open(path, framework="np") as file:
                file.keys()
        elif name.startswith("images/"):
            from PIL import Image

            with Image.open(path) as image:
                image.verify()
    except Exception as error:
        raise FolderError(f"{path}: cannot be read as what its name says ({str(error).splitlines()[0]})") from None
