"""Send a dataset or adapter folder to the Hub: one commit, nothing that is there already, verified, tagged.

`hub.folders` checks the folder; what push and release share stands in `hub.publishing`."""

import tempfile
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cards.sections import merge_remote_sections
from evaluation.prompts import read_manifest
from hub.client import HubError, check_name, is_same, one_line, read_tree, status_of
from hub.folders import CARD, REPO_TYPES, VERSION, Kind, LocalFile, check_folder, read_file, version_numbers, version_of
from hub.published import contributed_pairs, read_published_manifest, read_remote_text
from hub.publishing import (
    ATTEMPTS,
    HeadMoved,
    check_tag,
    content_ids,
    differing,
    operations_for,
    pause,
    put_tag,
    read_tags,
    send_commit,
    verify,
)
from recipes import RecipeError
from recipes.writing import write_whole


@dataclass(frozen=True)
class Pushed:
    """What a push did: the repository and its commit, the files by what became of them, the tag, if any, and whether
    the card keeps text by hand that only the one on the Hub had."""

    repository: str
    revision: str
    created: bool
    uploaded: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    tag: str | None = None
    kept: bool = False


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
    with one_line(to), tempfile.TemporaryDirectory(prefix="coprov2-push-") as place:
        created = _make_repository(api, to, repo_type, private, gated)
        tagged = read_tags(api, to, repo_type)
        card = _Card(api, to, repo_type, Path(place))
        if tag in tagged:
            with suppress(RecipeError):
                files = card.merge(files, read_tree(api, to, repo_type, tagged[tag]), tagged[tag])
            check_tag(api, to, repo_type, tag, tagged[tag], files)
            return Pushed(to, tagged[tag], created, unchanged=sorted(files), tag=tag)
        if kind == "data" and not created:
            _check_succession(api, to, folder, tag)
        pushed, files = _commit(api, to, repo_type, files, created, f"Publish {tag or folder.name}", card)
        verify(read_tree(api, to, repo_type, pushed.revision), files, f"{to} at {pushed.revision}")
        if tag is None:
            return pushed
        commit = put_tag(api, to, repo_type, tag, pushed.revision, files)
        return replace(pushed, revision=commit, tag=tag)


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


def _check_succession(api: Any, to: str, folder: Path, tag: str | None) -> None:
    """Refuse to put an older version on top of a newer one, or one without the pairs that people contributed.

    Raises:
        `HubError`: where `folder` would take away what a release has taken in. A new major version may."""
    published, own = read_published_manifest(api, to, "main"), read_manifest(folder)
    found = published.get("version")
    if tag is None or not isinstance(found, str) or not VERSION.fullmatch(found):
        return
    if version_numbers(tag) < version_numbers(found):
        raise HubError(f"{to}: holds {found} already, and {tag} is not after it; build it as a later version")
    lost = contributed_pairs(published) - contributed_pairs(own)
    if lost > 0 and version_numbers(tag)[0] == version_numbers(found)[0]:
        raise HubError(
            f"{to}: its {found} holds {lost} contributed pairs that {folder} lacks; add to it by `coprov2 contribute` "
            f"and `coprov2 release {to}`, or build a new major version (build.version)"
        )


class _Card:
    """The card to be sent, which keeps what people wrote by hand into the one on the Hub."""

    def __init__(self, api: Any, to: str, repo_type: str, place: Path) -> None:
        self._api, self._to, self._repo_type, self._place = api, to, repo_type, place

    def merge(self, files: dict[str, LocalFile], tree: dict[str, Any], commit: str) -> dict[str, LocalFile]:
        """`files` with the card that is to be sent on top of a commit.

        Raises:
            `RecipeError`: where a section was written by hand both here and there, and neither text holds the other.
        """
        if CARD not in tree or is_same(files[CARD], tree[CARD]):
            return files
        theirs = read_remote_text(self._api, self._to, tree, CARD, commit, self._repo_type)
        ours = files[CARD].path.read_text("utf8")
        merged = merge_remote_sections(ours, theirs)
        if merged == ours:
            return files
        write_whole(self._place / CARD, merged)
        return {**files, CARD: read_file(self._place / CARD)}


def _commit(
    api: Any, to: str, repo_type: str, given: dict[str, LocalFile], created: bool, message: str, card: _Card
) -> tuple[Pushed, dict[str, LocalFile]]:
    """One commit on top of the head; tried again where the head moved or the Hub asks for it. Beside what it did, the
    files as they were sent."""
    seen: dict[str, str] | None = None
    for attempt in range(ATTEMPTS):
        head = api.repo_info(to, repo_type=repo_type).sha
        tree = read_tree(api, to, repo_type, head)
        files = card.merge(given, tree, head)
        wrong = differing(tree, files)
        uploads = [name for name in wrong if name in files]
        deletions = [name for name in wrong if name not in files]
        ids = content_ids(tree)
        if seen is not None:
            others = [name for name in wrong if ids.get(name) != seen.get(name)]
            if others:
                raise HubError(
                    f"{to}: somebody else changed {others[0]} during this push; pull it, look, and push again"
                )
        seen = ids
        unchanged = sorted(set(files) - set(uploads))
        if not wrong:
            return Pushed(to, head, created, unchanged=unchanged), files
        operations = operations_for(tree, head, files, uploads, deletions)
        try:
            commit = send_commit(api, to, repo_type, operations, message, head)
        except HeadMoved:
            pause(attempt)
            continue
        return Pushed(to, commit, created, uploads, unchanged, deletions, kept=files[CARD] != given[CARD]), files
    raise HubError(f"{to}: somebody else was faster {ATTEMPTS} times; push again")
