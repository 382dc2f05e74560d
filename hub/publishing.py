"""What push and release share: one commit of what is not there yet, a tag that never moves, and the check after both.

Works on trees (`RepoFile` by path) and on `LocalFile`s; what belongs into a version is left to the callers."""

import random
import time
from collections.abc import Iterable
from typing import Any

from hub.client import HubError, content_id, is_same, one_line, read_tree, status_of
from hub.folders import OWNED, LocalFile

# Tries of a commit while others commit too. Each time at least one of them succeeds, so 20 at once need 20 at most.
ATTEMPTS = 20
_LONGEST_PAUSE = 2.0


class HeadMoved(Exception):
    """Somebody else's commit came first: the branch must be read again."""


def pause(attempt: int) -> None:
    """Wait before the try after `attempt` (0, 1, ...): a random time below 0.1 s, doubled with each try, 2 s at most,
    so that those who collided do not collide again."""
    time.sleep(random.uniform(0, min(_LONGEST_PAUSE, 0.1 * 2**attempt)))


def read_tags(api: Any, name: str, repo_type: str) -> dict[str, str]:
    """The commit of each tag of a repository."""
    return {ref.name: ref.target_commit for ref in api.list_repo_refs(name, repo_type=repo_type).tags}


def commit_of(name: str, version: str, repo_type: str = "dataset", api: Any = None) -> str:
    """The commit (40 hex digits) that a version of a repository is: what a card states beside the tag, for a tag can be
    moved by hand and a commit cannot.

    Args:
        name (`str`): org/name.
        version (`str`): a tag, a branch or a commit.
        repo_type (`str`, *optional*, defaults to `"dataset"`): or `model`.
        api (`huggingface_hub.HfApi`, *optional*): the client; by default one for `HF_ENDPOINT`.

    Raises:
        `HubError`: where there is no such version, or the Hub refuses.
    """
    from huggingface_hub import HfApi

    with one_line(f"{name}@{version}"):
        return str((api or HfApi()).repo_info(name, repo_type=repo_type, revision=version).sha)


def differing(tree: dict[str, Any], files: dict[str, LocalFile]) -> list[str]:
    """Names of files that are not the same in a repository's tree and here; `.gitattributes` and what others
    contributed do not count."""
    changed = [name for name, file in files.items() if name not in tree or not is_same(file, tree[name])]
    return sorted(changed) + sorted(name for name in tree if name.startswith(OWNED) and name not in files)


def operations_for(
    tree: dict[str, Any], head: str, files: dict[str, LocalFile], uploads: Iterable[str], deletions: Iterable[str]
) -> list[Any]:
    """The operations of a commit on top of `head`. A file whose content lies in the repository under another name is
    copied there by the Hub, so that a shard that is only numbered anew is not sent again."""
    from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete

    known = {remote.lfs.sha256: name for name, remote in tree.items() if remote.lfs}
    operations: list[Any] = []
    for name in uploads:
        source = known.get(files[name].sha256)
        if source is not None:
            operations.append(CommitOperationCopy(source, name, src_revision=head))
        else:
            operations.append(CommitOperationAdd(name, files[name].path))
    return operations + [CommitOperationDelete(name, is_folder=False) for name in deletions]


def send_commit(
    api: Any, name: str, repo_type: str, operations: list[Any], message: str, head: str, description: str = ""
) -> str:
    """Make one commit on top of `head`; returns its id.

    Raises:
        `HeadMoved`: where `head` is main's head no more, or the Hub asks to try again.
        `HubError`: where the Hub finds fault with the card's metadata.
    """
    try:
        info = api.create_commit(
            name,
            operations,
            commit_message=message,
            commit_description=description,
            repo_type=repo_type,
            revision="main",
            parent_commit=head,
        )
    except ValueError as error:
        if status_of(error) is None and "metadata" in str(error):
            raise HubError(f"{name}: the Hub refuses the card: {' '.join(str(error).split())}") from None
        raise _moved_or(error) from error
    except Exception as error:
        raise _moved_or(error) from error
    return str(info.oid)


def _moved_or(error: Exception) -> Exception:
    return HeadMoved() if status_of(error) in (409, 412) else error


def verify(tree: dict[str, Any], files: dict[str, LocalFile], where: str) -> None:
    """Check that a repository's tree holds the files as they are here, by their checksums.

    Raises:
        `HubError`: where it does not.
    """
    wrong = differing(tree, files)
    if wrong:
        raise HubError(f"{where}: {wrong[0]} is not what was sent, by its checksum; push again")


def check_tag(api: Any, name: str, repo_type: str, tag: str, commit: str, files: dict[str, LocalFile]) -> None:
    """Check that a tag that is there already stands at the same content.

    Raises:
        `HubError`: where it does not.
    """
    wrong = differing(read_tree(api, name, repo_type, commit), files)
    if wrong:
        raise HubError(
            f"{name}: the tag {tag} stands at other content ({wrong[0]} differs); a tag never moves, "
            "so build the change as a new version (build.version)"
        )


def put_tag(api: Any, name: str, repo_type: str, tag: str, commit: str, files: dict[str, LocalFile]) -> str:
    """Tag a commit, unless somebody has tagged the same content meanwhile; returns the commit that the tag stands at.

    Raises:
        `HubError`: where the tag stands at other content.
    """
    try:
        api.create_tag(name, tag=tag, revision=commit, repo_type=repo_type)
        return commit
    except Exception as error:
        if status_of(error) != 409:
            raise
    # Somebody was faster; right only if the tag names the same content.
    found = read_tags(api, name, repo_type)[tag]
    if found != commit:
        check_tag(api, name, repo_type, tag, found, files)
    return found


def put_tag_at(api: Any, name: str, repo_type: str, tag: str, commit: str) -> None:
    """Tag exactly this commit.

    Raises:
        `HubError`: where the tag stands at another one; a tag never moves.
    """
    try:
        api.create_tag(name, tag=tag, revision=commit, repo_type=repo_type)
    except Exception as error:
        if status_of(error) != 409:
            raise
        found = read_tags(api, name, repo_type).get(tag)
        if found != commit:
            raise HubError(
                f"{name}: the tag {tag} stands at {found}, and not at the commit {commit} of this version; a tag never "
                "moves, so take away the one that was set by hand"
            ) from None


def content_ids(tree: dict[str, Any]) -> dict[str, str]:
    """The checksum of each file of a tree, as `content_id` gives it."""
    return {name: content_id(remote) for name, remote in tree.items()}
