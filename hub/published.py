"""The small files of a published version, fetched bounded: its manifest, its card, its changelog.

Whoever may write to a repository may have put anything there, so sizes are looked at first and JSON is checked."""

import json
import tempfile
from pathlib import Path
from typing import Any

from dataset_builder.schema import MANIFEST
from hub.client import HubError, read_tree
from hub.folders import VERSION

# Bytes of a text file at most; a manifest with the drops of 10,000 steps, or 300,000 withdrawn pairs, is smaller.
LARGEST_TEXT = 16 << 20


def read_remote_text(
    api: Any, name: str, tree: dict[str, Any], path: str, commit: str, repo_type: str = "dataset"
) -> str:
    """A text file of a repository at a commit; empty where there is none.

    Args:
        api (`huggingface_hub.HfApi`): the client.
        name (`str`): org/name.
        tree (`dict`): the files at that commit, as `client.read_tree` gives them.
        path (`str`): of the file in the repository.
        commit (`str`): 40 hex digits.
        repo_type (`str`, *optional*, defaults to `"dataset"`).

    Raises:
        `HubError`: for a file that is larger than 16 MiB, no UTF-8, or a link.
    """
    if path not in tree:
        return ""
    if tree[path].size > LARGEST_TEXT:
        raise HubError(
            f"{name}: {path} has {tree[path].size:,} bytes, expected {LARGEST_TEXT:,} at most; mend it there"
        )
    with tempfile.TemporaryDirectory(prefix="coprov2-published-") as folder:
        # A folder of its own, so that what comes is what the Hub holds now, and no other version's file.
        fetched = Path(api.hf_hub_download(name, path, repo_type=repo_type, revision=commit, local_dir=folder))
        if fetched.is_symlink() or fetched.stat().st_size > LARGEST_TEXT:
            raise HubError(f"{name}: {path} is not what the Hub lists; try again")
        try:
            return fetched.read_text("utf8")
        except UnicodeDecodeError:
            raise HubError(f"{name}: {path} is no UTF-8; mend it there") from None


def parse_manifest(text: str, where: str) -> dict[str, Any]:
    """A dataset's manifest from its text.

    Raises:
        `HubError`: where it is no JSON object, or states no files as a dataset's manifest does.
    """
    try:
        manifest = json.loads(text)
        files = manifest["files"]
        for entry in files.values():
            if not isinstance(entry["rows"], int) or not isinstance(entry["sha256"], str):
                raise TypeError("rows and sha256 of a file are missing")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise HubError(
            f"{where}: {MANIFEST} is not a dataset's manifest ({type(error).__name__}); push the dataset again"
        ) from None
    return dict(manifest)


def read_published_manifest(api: Any, name: str, revision: str) -> dict[str, Any]:
    """The manifest of a published dataset at a revision; empty where the repository has none yet.

    Raises:
        `HubError`: where what is there is no manifest.
    """
    commit = api.repo_info(name, repo_type="dataset", revision=revision).sha
    tree = read_tree(api, name, "dataset", commit)
    text = read_remote_text(api, name, tree, MANIFEST, commit)
    return parse_manifest(text, f"{name}@{revision}") if text else {}


def version_in(manifest: dict[str, Any], where: str) -> str:
    """The version that a manifest states.

    Raises:
        `HubError`: where it states none.
    """
    version = manifest.get("version")
    if not isinstance(version, str) or not VERSION.fullmatch(version):
        raise HubError(f"{where}: {MANIFEST} states no version vMAJOR.MINOR.PATCH; push the dataset again")
    return version


def contributed_pairs(manifest: dict[str, Any]) -> int:
    """Pairs in a version that people contributed, as its manifest states them."""
    count = manifest.get("contributed", 0)
    return count if isinstance(count, int) else 0
