"""What a release begins with: main at one commit, the version that stands there, and whether a release before this one
was cut short between its commit and its tag."""

import re
from dataclasses import dataclass, replace
from typing import Any

from dataset_builder.schema import MANIFEST
from hub.client import HubError, content_id, read_tree
from hub.folders import CARD, CONTRIBUTIONS, OWNED, is_allowed, version_numbers
from hub.published import parse_manifest, read_remote_text, version_in
from hub.publishing import put_tag_at, read_tags

_BY_HAND = re.compile(r"<!-- by hand: [\w -]+ -->\n.*?<!-- end by hand -->", re.DOTALL)
BUMPS = ("major", "minor", "patch")


@dataclass(frozen=True)
class State:
    """Main of a dataset repository at the commit `head`: its files, its manifest and the text of it, the version that
    it states, and the commit of every tag."""

    name: str
    head: str
    tree: dict[str, Any]
    manifest: dict[str, Any]
    text: str
    version: str
    tags: dict[str, str]

    @property
    def waiting_files(self) -> list[str]:
        """Files below contributions/."""
        return sorted(path for path in self.tree if path.startswith(CONTRIBUTIONS))

    @property
    def foreign_files(self) -> list[str]:
        """Files that neither a version nor a contribution consists of; a release leaves them alone."""
        known = (".gitattributes", *self.waiting_files)
        return sorted(path for path in self.tree if not is_allowed("data", path) and path not in known)


def read_state(api: Any, name: str) -> State:
    """Read main once.

    Raises:
        `HubError`: where there is no dataset of CoProV2 on it.
    """
    head = str(api.repo_info(name, repo_type="dataset", revision="main").sha)
    tree = read_tree(api, name, "dataset", head)
    if MANIFEST not in tree:
        raise HubError(
            f"{name}: holds no {MANIFEST} on main; push a dataset first: `coprov2 push data DIR --to {name}`"
        )
    text = read_remote_text(api, name, tree, MANIFEST, head)
    manifest = parse_manifest(text, name)
    check_whole(name, manifest, tree, head)
    return State(name, head, tree, manifest, text, version_in(manifest, name), read_tags(api, name, "dataset"))


def check_whole(name: str, manifest: dict[str, Any], tree: dict[str, Any], commit: str) -> None:
    """Check that a tree holds the files of its manifest, by their checksums, and no others in their folders.

    Raises:
        `HubError`: where it does not.
    """
    where = f"{name} at {commit[:12]}"
    for path, entry in manifest["files"].items():
        if path not in tree:
            raise HubError(
                f"{where}: {path} is missing, which {MANIFEST} lists; put it back, or push the dataset again"
            )
        lfs = tree[path].lfs
        # Parquet is LFS on every Hub; what is not is compared when it has been fetched.
        if lfs is not None and lfs.sha256 != entry["sha256"]:
            raise HubError(f"{where}: {path} is not what {MANIFEST} states; put it back, or push the dataset again")
    for path in sorted(tree):
        if path.startswith(OWNED) and path.endswith(".parquet") and path not in manifest["files"]:
            raise HubError(f"{where}: {path} is not in {MANIFEST}; take it away, pairs go into {CONTRIBUTIONS}")


def finish(api: Any, state: State) -> State:
    """Tag the version that stands on main where its release, or its push, was cut short before the tag.

    The commit to tag is the one that brought the manifest: others may have merged something since."""
    commit = _commit_of_manifest(api, state)
    tree = state.tree if commit == state.head else read_tree(api, state.name, "dataset", commit)
    check_whole(state.name, state.manifest, tree, commit)
    put_tag_at(api, state.name, "dataset", state.version, commit)
    return replace(state, tags={**state.tags, state.version: commit})


def _commit_of_manifest(api: Any, state: State) -> str:
    wanted, found = state.tree[MANIFEST].blob_id, state.head
    for commit in api.list_repo_commits(state.name, repo_type="dataset", revision=state.head):
        entries = api.get_paths_info(state.name, [MANIFEST], revision=commit.commit_id, repo_type="dataset")
        if not entries or entries[0].blob_id != wanted:
            return found
        found = commit.commit_id
    return found


@dataclass(frozen=True)
class SinceTag:
    """What changed on main since the version that stands there was tagged: names of files that are no data, whether the
    taxonomy did, and whether the card did outside of its sections by hand."""

    files: list[str]
    taxonomy: bool
    card: bool = False


def since_tag(api: Any, state: State) -> SinceTag:
    """Compare main with the tag of its version.

    Raises:
        `HubError`: where the manifest was changed in anything but the taxonomy.
    """
    tree = read_tree(api, state.name, "dataset", state.tags[state.version])
    taxonomy = False
    if MANIFEST not in tree or content_id(tree[MANIFEST]) != content_id(state.tree[MANIFEST]):
        text = read_remote_text(api, state.name, tree, MANIFEST, state.tags[state.version])
        tagged = parse_manifest(text, f"{state.name}@{state.version}")
        if {**tagged, "taxonomy": None} != {**state.manifest, "taxonomy": None}:
            raise HubError(
                f"{state.name}: {MANIFEST} on main states {state.version}, and is another than at the tag "
                f"{state.version}; a version never changes, so put the tag's back"
            )
        taxonomy = True
    compared = {path for path in {*tree, *state.tree} if is_allowed("data", path) and path != ".gitattributes"}
    compared -= {MANIFEST, *(path for path in compared if path.endswith(".parquet"))}
    changed = [
        path
        for path in sorted(compared)
        if path not in tree or path not in state.tree or content_id(tree[path]) != content_id(state.tree[path])
    ]
    card = False
    if CARD in changed:
        places = ((tree, state.tags[state.version]), (state.tree, state.head))
        texts = [read_remote_text(api, state.name, files, CARD, commit) for files, commit in places]
        card = len({_BY_HAND.sub("", text) for text in texts}) == 2
    return SinceTag(changed, taxonomy, card)


def next_version(version: str, bump: str) -> str:
    """The version after `version`: v1.4.2 -> v2.0.0, v1.5.0 or v1.4.3."""
    major, minor, patch = version_numbers(version)
    numbers = {"major": (major + 1, 0, 0), "minor": (major, minor + 1, 0), "patch": (major, minor, patch + 1)}
    return "v" + ".".join(map(str, numbers[bump]))
