"""Send a dataset or adapter folder to the Hub: one commit, nothing that is there already, verified, tagged.

`hub.folders` checks the folder; the card in it is sent as it is."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hub.client import HubError, check_name, content_id, is_same, one_line, read_tree, status_of
from hub.folders import OWNED, REPO_TYPES, VERSION, Kind, LocalFile, check_folder, version_of

ATTEMPTS = 5


@dataclass(frozen=True)
class Pushed:
    """What a push did: the repository and its commit, the files by what became of them, and the tag, if any."""

    repository: str
    revision: str
    created: bool
    uploaded: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    tag: str | None = None


def push(
    kind: Kind,
    folder: Path,
    to: str,
    private: bool = True,
    gated: bool = True,
    tag: str | None = None,
    api: Any = None,
) -> Pushed:
    """Push a folder to a repository of the Hub, which is made where there is none.

    Args:
        kind (`str`): `data` or `adapter`.
        folder (`Path`): a dataset or adapter folder with its card.
        to (`str`): org/name.
        private (`bool`, *optional*, defaults to `True`): make a new repository private; an existing one that is public
            is refused, so that nothing is published by mistake.
        gated (`bool`, *optional*, defaults to `True`): make sure that the repository asks for access, before anything
            is sent.
        tag (`str`, *optional*): vMAJOR.MINOR.PATCH; the version in the folder's manifest unless given.
        api (`huggingface_hub.HfApi`, *optional*): the client; by default one for `HF_ENDPOINT`.

    Returns:
        `Pushed`: pushing the same folder again uploads nothing and gives the same revision.

    Raises:
        `FolderError`: where the folder is not fit to be sent.
        `HubError`: where the Hub refuses, the tag stands at other content (a tag never moves), or somebody else changed
            the same files meanwhile.
    """
    from huggingface_hub import HfApi

    check_name(to)
    version = version_of(folder)
    if tag is not None and version not in (None, tag):
        raise HubError(f"--tag {tag}: the manifest of {folder} says {version}; build that version, or leave --tag out")
    tag = tag or version
    if tag is not None and not VERSION.fullmatch(tag):
        raise HubError(f"--tag {tag}: expected vMAJOR.MINOR.PATCH such as v1.0.0")
    files = check_folder(kind, folder)
    api, repo_type = api or HfApi(), REPO_TYPES[kind]
    with one_line(to):
        created = _make_repository(api, to, repo_type, private, gated)
        tagged = _tags(api, to, repo_type)
        if tag in tagged:
            _check_tag(api, to, repo_type, tag, tagged[tag], files)
            unchanged = sorted(files)
            return Pushed(to, tagged[tag], created, unchanged=unchanged, tag=tag)
        pushed = _commit(api, to, repo_type, files, created, f"Publish {tag or folder.name}")
        _verify(read_tree(api, to, repo_type, pushed.revision), files, f"{to} at {pushed.revision}")
        if tag is None:
            return pushed
        try:
            api.create_tag(to, tag=tag, revision=pushed.revision, repo_type=repo_type)
        except Exception as error:
            if status_of(error) != 409:
                raise
            # Somebody was faster; right only if the tag names the same content.
            _check_tag(api, to, repo_type, tag, _tags(api, to, repo_type)[tag], files)
        return Pushed(to, pushed.revision, created, pushed.uploaded, pushed.unchanged, pushed.deleted, tag)


def _make_repository(api: Any, to: str, repo_type: str, private: bool, gated: bool) -> bool:
    """Make the repository as asked, or check that the one that is there is; returns whether it was made."""
    created = True
    try:
        api.create_repo(to, private=private, repo_type=repo_type)
    except Exception as error:
        if status_of(error) != 409:
            raise
        created = False
    info = api.repo_info(to, repo_type=repo_type)
    if private and not info.private:
        raise HubError(f"{to}: exists and is public; make it private in its settings, or push with --public")
    # Before any file is sent, and also where a push was killed between making and gating.
    if gated and not info.gated:
        api.update_repo_settings(to, gated="manual", repo_type=repo_type)
    return created


def _tags(api: Any, to: str, repo_type: str) -> dict[str, str]:
    return {ref.name: ref.target_commit for ref in api.list_repo_refs(to, repo_type=repo_type).tags}


def _check_tag(api: Any, to: str, repo_type: str, tag: str, commit: str, files: dict[str, LocalFile]) -> None:
    tree = read_tree(api, to, repo_type, commit)
    differing = _differing(tree, files)
    if differing:
        raise HubError(
            f"{to}: the tag {tag} stands at other content ({differing[0]} differs); a tag never moves, "
            "so build the change as a new version (build.version)"
        )


def _differing(tree: dict[str, Any], files: dict[str, LocalFile]) -> list[str]:
    """Names of files that are not the same in a repository's tree and here; `.gitattributes` and what others
    contributed do not count."""
    changed = [name for name, file in files.items() if name not in tree or not is_same(file, tree[name])]
    return sorted(changed) + sorted(name for name in tree if name.startswith(OWNED) and name not in files)


def _verify(tree: dict[str, Any], files: dict[str, LocalFile], where: str) -> None:
    differing = _differing(tree, files)
    if differing:
        raise HubError(f"{where}: {differing[0]} is not what was sent, by its checksum; push again")


def _commit(api: Any, to: str, repo_type: str, files: dict[str, LocalFile], created: bool, message: str) -> Pushed:
    """One commit on top of the head; tried again where the head moved or the Hub asks for it."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    seen: dict[str, str] | None = None
    for attempt in range(ATTEMPTS):
        head = api.repo_info(to, repo_type=repo_type).sha
        tree = read_tree(api, to, repo_type, head)
        differing = _differing(tree, files)
        uploads = [name for name in differing if name in files]
        deletions = [name for name in differing if name not in files]
        ids = {name: content_id(remote) for name, remote in tree.items()}
        if seen is not None:
            others = [name for name in differing if ids.get(name) != seen.get(name)]
            if others:
                raise HubError(
                    f"{to}: somebody else changed {others[0]} during this push; pull it, look, and push again"
                )
        seen = ids
        unchanged = sorted(set(files) - set(uploads))
        if not differing:
            return Pushed(to, head, created, unchanged=unchanged)
        operations = [
            *(CommitOperationAdd(name, files[name].path) for name in uploads),
            *(CommitOperationDelete(name) for name in deletions),
        ]
        try:
            info = api.create_commit(
                to, operations, commit_message=message, repo_type=repo_type, revision="main", parent_commit=head
            )
        except Exception as error:
            if status_of(error) not in (409, 412) or attempt == ATTEMPTS - 1:
                raise
            continue
        return Pushed(to, info.oid, created, uploads, unchanged, deletions)
    raise AssertionError("the last attempt returns or raises")
