"""Fetch a dataset or adapter repository into a folder, and check by checksums that it is what was published.

Only files that such a repository should hold are fetched; everything else in it is counted, and left there. What was
fetched before, by a pull that was killed too, is not fetched again: the client keeps parts beside the files."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataset_builder.disk import disk_full_said
from dataset_builder.schema import MANIFEST
from evaluation.drawing import WEIGHTS
from evaluation.prompts import read_manifest
from hub.client import HubError, check_name, is_same, one_line, read_tree
from hub.folders import (
    CARD,
    OWNED,
    REPO_TYPES,
    VERSION,
    FolderError,
    Kind,
    LocalFile,
    check_manifest,
    is_allowed,
    read_file,
    version_of,
)
from hub.published import LARGEST_TEXT, read_remote_text

# Bytes that stay free on the disk, and a repository's files at most: the Hub advises fewer than 100,000.
_SPARE = 64 << 20
_MOST_FILES = 100_000


@dataclass(frozen=True)
class Pulled:
    """What a pull gave: where from, its commit and version, how many files and bytes, how many checksums of the
    manifest held, and which files of the repository were left there."""

    repository: str
    revision: str
    version: str | None
    folder: Path
    files: int
    size: int
    checked: int
    left: list[str]


def split_name(source: str) -> tuple[str, str | None]:
    """org/name and the version of `org/name[@version]`."""
    name, _, version = source.partition("@")
    return check_name(name), version or None


def pull(kind: Kind, source: str, out: Path, api: Any = None) -> Pulled:
    """Fetch a repository at a version into a folder.

    Args:
        kind (`str`): `data` or `adapter`.
        source (`str`): org/name or org/name@version, where the version is a tag, a branch or a commit.
        out (`Path`): the folder. Files in it that are the same are not fetched again.
        api (`huggingface_hub.HfApi`, *optional*): the client; by default one for `HF_ENDPOINT`.

    Returns:
        `Pulled`: what came.

    Raises:
        `HubError`: where the Hub refuses, a file differs from its checksum on the Hub, the repository is larger than
            the disk, or a tag has been moved: it stands at another version than its name says, or at other content than
            what the folder holds of the same version.
        `FolderError`: where a file differs from the manifest, or `out` holds files of another version.
    """
    from huggingface_hub import HfApi

    name, version = split_name(source)
    api, repo_type = api or HfApi(), REPO_TYPES[kind]
    with one_line(source):
        revision = api.repo_info(name, repo_type=repo_type, revision=version).sha
        tree = read_tree(api, name, repo_type, revision)
        # .gitattributes is the Hub's own note of what it stores as LFS.
        tree.pop(".gitattributes", None)
        wanted = sorted(path for path in tree if is_allowed(kind, path))
        _check_sizes(out, {path: tree[path].size for path in wanted}, source)
        _check_version(api, name, repo_type, version, tree, revision, out)
        _check_place(kind, out, set(wanted), source)
        # Pinned to the commit, so that a head that moves meanwhile cannot mix two versions.
        with disk_full_said(out):
            api.snapshot_download(
                name, repo_type=repo_type, revision=revision, local_dir=out, allow_patterns=wanted or [CARD]
            )
    files = {path: read_file(out / path) for path in wanted}
    for path, file in files.items():
        if not is_same(file, tree[path]):
            raise HubError(f"{out / path}: differs from its checksum on the Hub; delete it and pull again")
    _check_whole(kind, files, source)
    checked = check_manifest(kind, out, files)
    size = sum(file.size for file in files.values())
    left = sorted(path for path in tree if path not in files)
    return Pulled(name, revision, version_of(out), out, len(files), size, checked, left)


def _check_sizes(out: Path, sizes: dict[str, int], source: str) -> None:
    """Refuse before anything is fetched what no dataset or adapter of ours is like, or the disk has no room for."""
    if len(sizes) > _MOST_FILES:
        raise HubError(f"{source}: has {len(sizes):,} files, expected {_MOST_FILES:,} at most")
    for path, size in sizes.items():
        if size > LARGEST_TEXT and not path.endswith((".parquet", ".safetensors")):
            raise HubError(f"{source}: {path} has {size:,} bytes, expected {LARGEST_TEXT:,} at most")
    held = {path: (out / path).stat().st_size for path in sizes if (out / path).is_file()}
    needed = sum(size for path, size in sizes.items() if held.get(path) != size)
    place = next(folder for folder in (out, *out.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(place).free
    if needed and needed + _SPARE > free:
        raise HubError(f"{source}: needs {needed:,} bytes, and {place} has {free:,} free; pull to another disk")


def _check_version(
    api: Any, name: str, repo_type: str, version: str | None, tree: dict[str, Any], revision: str, out: Path
) -> None:
    """Refuse a tag that was moved, as far as the manifests tell."""
    text = read_remote_text(api, name, tree, MANIFEST, revision, repo_type)
    try:
        found = json.loads(text).get("version") if text else None
    except (ValueError, AttributeError, RecursionError):
        raise HubError(f"{name}: {MANIFEST} is no JSON object; push it again") from None
    if found is None:
        return
    if version is not None and VERSION.fullmatch(version) and found != version:
        raise HubError(
            f"{name}: the tag {version} stands at {revision}, whose manifest says {found!r}: the tag was moved or set "
            f"by hand; pull {name} at the commit that you trust"
        )
    if (out / MANIFEST).is_file():
        held = read_manifest(out)
        if held.get("version") == found and held != json.loads(text):
            raise HubError(
                f"{out}: holds {found} with another manifest than {name} has now: the version was changed, which never "
                f"should happen; keep this copy, and pull what is there now into an empty folder"
            )


def _check_whole(kind: str, files: dict[str, LocalFile], source: str) -> None:
    needed = WEIGHTS if kind == "adapter" else MANIFEST
    if needed not in files:
        raise HubError(f"{source}: holds no {needed}, so it is no {kind} repository of CoProV2")


def _check_place(kind: str, out: Path, wanted: set[str], source: str) -> None:
    """Refuse a folder in which files of another version would mix with the ones that come."""
    for folder in OWNED:
        for path in sorted((out / folder).glob("*")):
            held = path.relative_to(out).as_posix()
            if held not in wanted:
                raise FolderError(f"{path}: not part of {source}; pull into an empty folder, or take it away")
