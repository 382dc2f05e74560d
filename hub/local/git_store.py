"""Bare git repositories: revisions, trees, blobs, commits, references. The only module that knows pygit2.

Content comes first and is harmless; the one switch is [`GitStore.swap`], which moves a reference from where it was
known to be. Callers hold the repository's lock from reading a reference to swapping it."""

import functools
import os
import stat
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hub.local.errors import Refusal, entry_not_found, revision_not_found
from hub.local.git_trees import Edit, TreeEditor
from hub.local.names import MAX_REVISION, is_sha
from hub.local.pointers import MAX_POINTER, Pointer, read_pointer

_TREE, _FILE = stat.S_IFDIR, stat.S_IFREG


class Stale(Exception):
    """A reference is not where it was when the caller read it."""


class ReferenceExists(Exception):
    """A reference of that name, or of one that cannot stand beside it, is there already."""


@dataclass(frozen=True)
class Entry:
    """What stands at a path: `folder` or a file, and the git object's id."""

    path: str
    oid: str
    folder: bool


@dataclass(frozen=True)
class Blob:
    """A file's content: its id, its size in bytes (an LFS object's own), and the pointer where it is one."""

    oid: str
    size: int
    pointer: Pointer | None


@dataclass(frozen=True)
class Commit:
    """A commit: `authors` are the author and those of the Co-authored-by lines; `created` in UTC."""

    oid: str
    title: str
    message: str
    authors: list[str]
    created: datetime
    parents: list[str]


def address(user: str) -> str:
    """The address that stands for a user in commits; nothing is ever sent there."""
    return f"{user}@users.noreply.localhost"


def _library() -> Any:
    import pygit2

    return pygit2


# Blobs never change, so what is known of one stays true; the size is that of some hundred thousand files.
_BLOBS: dict[tuple[str, str], Blob] = {}
_BLOBS_LOCK = threading.Lock()
_MAX_BLOBS = 200_000


class GitStore:
    """One bare repository at `path`.

    Raises:
        `Refusal`: 404 where it has been deleted meanwhile.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._git = _library().Repository(str(path))
        except (_library().GitError, KeyError):
            raise Refusal(404, "Repository not found", "RepoNotFound") from None

    @classmethod
    def make(cls, path: Path, files: dict[str, bytes], author: str, message: str) -> "GitStore":
        """A new repository whose main holds `files` in one commit."""
        _library().init_repository(str(path), bare=True, initial_head="main")
        store = cls(path)
        tree = store.edit(None, [Edit(name, store.write_blob(data)) for name, data in files.items()])
        store.swap("refs/heads/main", None, store.commit(tree, [], author, message))
        return store

    # References.

    def resolve(self, revision: str) -> str:
        """The commit that a revision names: a branch, else a tag, else a full reference, else a commit's id.

        Raises:
            `Refusal`: 404 RevisionNotFound.
        """
        revision = "main" if revision == "HEAD" else revision
        for name in (f"refs/heads/{revision}", f"refs/tags/{revision}", revision):
            if name.startswith("refs/") and (found := self.reference(name)):
                return found
        if self.find_commit(revision):
            return revision
        raise revision_not_found(revision)

    def reference(self, name: str) -> str | None:
        """The commit a full reference (`refs/...`) points to, through an annotated tag too, or None."""
        # A name longer than a path can be is an error to the library, not a name of nothing.
        if len(name) > MAX_REVISION + len("refs/heads/") or not _library().reference_is_valid_name(name):
            return None
        found = self._git.references.get(name)
        return str(found.peel(_library().Commit).id) if found else None

    def references(self, prefix: str) -> dict[str, str]:
        """The commits by the full names of the references that begin with `prefix`, sorted."""
        names = sorted(name for name in self._git.listall_references() if name.startswith(prefix))
        found = {name: self.reference(name) for name in names}
        return {name: oid for name, oid in found.items() if oid}

    def swap(self, name: str, old: str | None, new: str | None) -> None:
        """Move a reference from `old` to `new` in one step; None stands for no reference.

        Raises:
            `Stale`: where it is not at `old`.
            `ReferenceExists`: where it is to be made and cannot be.
        """
        library = _library()
        if old is None:
            self._check_free(name)
            self._git.create_reference_direct(name, library.Oid(hex=str(new)), False)
            return
        reference = self._git.references.get(name)
        if reference is None or str(reference.peel(library.Commit).id) != old:
            raise Stale(name)
        if new is None:
            reference.delete()
            return
        try:
            reference.set_target(library.Oid(hex=new))
        except library.GitError:
            raise Stale(name) from None

    def annotate(self, name: str, commit: str, author: str, message: str) -> None:
        """Make the annotated tag `refs/tags/NAME`.

        Raises:
            `ReferenceExists`: where there is one.
        """
        library = _library()
        self._check_free(f"refs/tags/{name}")
        kind = library.enums.ObjectType.COMMIT
        self._git.create_tag(name, library.Oid(hex=commit), kind, self._signature(author), message)

    def _check_free(self, name: str) -> None:
        """Raise `ReferenceExists` unless a reference can be made: `a` and `a/b` cannot stand beside each other."""
        segments = name.split("/")
        above = ("/".join(segments[:end]) for end in range(3, len(segments) + 1))
        below = (self.path / name).rglob("*")
        if any(self._git.references.get(other) for other in above) or any(path.is_file() for path in below):
            raise ReferenceExists(name)

    # Trees and files.

    def entry(self, commit: str, path: str) -> Entry | None:
        """What stands at a path of a commit, or None."""
        tree = self._commit(commit).tree
        if not path:
            return Entry("", str(tree.id), True)
        try:
            found = tree[path]
        except (KeyError, ValueError):
            return None
        return Entry(path, str(found.id), found.filemode == _TREE)

    def entries(self, commit: str, folder: str = "", recursive: bool = False, after: str = "") -> Iterator[Entry]:
        """The entries of a folder in git's order, a folder before what is in it.

        Args:
            commit (`str`): its id.
            folder (`str`, *optional*): path of the folder; the whole tree unless given.
            recursive (`bool`, *optional*, defaults to `False`): whether to go into folders.
            after (`str`, *optional*): path of an entry; those after it are listed.

        Raises:
            `Refusal`: 404 EntryNotFound for a folder that is not there; 400 for an `after` that is not.
        """
        tree = self._commit(commit).tree
        if folder:
            try:
                tree = tree[folder]
            except (KeyError, ValueError):
                raise entry_not_found(folder, commit) from None
            if tree.filemode != _TREE:
                raise entry_not_found(folder, commit)
        start = folder + "/" if folder else ""
        if after and not after.startswith(start):
            raise Refusal(400, "Invalid cursor")
        yield from _walk(tree, start, recursive, after[len(start) :].split("/") if after else [])

    def blob(self, oid: str) -> Blob:
        """What is known of a file by its blob's id, without reading a big one."""
        key = (str(self.path), oid)
        known = _BLOBS.get(key)
        if known is None:
            header = self._git.odb.read_header(_library().Oid(hex=oid))
            size = header[1] if isinstance(header, tuple) else header.size
            pointer = read_pointer(self.read(oid)) if size <= MAX_POINTER else None
            known = Blob(oid, pointer.size if pointer else size, pointer)
            with _BLOBS_LOCK:
                if len(_BLOBS) >= _MAX_BLOBS:
                    _BLOBS.clear()
                _BLOBS[key] = known
        return known

    def read(self, oid: str) -> bytes:
        """The bytes of a blob."""
        return bytes(self._git[oid].data)

    def read_path(self, commit: str, path: str, limit: int) -> bytes | None:
        """The bytes of a file; None where it is missing, a folder, an LFS pointer, or over `limit` bytes."""
        found = self.entry(commit, path)
        if found is None or found.folder:
            return None
        blob = self.blob(found.oid)
        return None if blob.pointer or blob.size > limit else self.read(found.oid)

    def write_blob(self, data: bytes) -> str:
        """Store the bytes of a file; the blob's id."""
        return str(self._git.create_blob(data))

    def edit(self, tree: str | None, edits: Iterable[Edit]) -> str:
        """The tree (its id) that edits, applied in their order, make of another (None: the empty one).

        Raises:
            `Refusal`: 404 for a path to delete that is not there, 400 where a file would stand in a folder's place.
        """
        editor = TreeEditor(self._git, tree)
        for edit in edits:
            editor.apply(edit)
        return editor.write()

    def tree(self, commit: str) -> str:
        """The id of a commit's tree."""
        return str(self._commit(commit).tree.id)

    def attribute(self, commit: str, path: str, name: str) -> str | bool | None:
        """The value that the commit's .gitattributes give a path for an attribute."""
        check = _library().enums.AttrCheck
        flags = check.INCLUDE_COMMIT | check.NO_SYSTEM | check.INDEX_ONLY
        found: str | bool | None = self._git.get_attr(path, name, flags, _library().Oid(hex=commit))
        return found

    # Commits.

    def commit(self, tree: str, parents: list[str], author: str, message: str) -> str:
        """Write a commit without moving any reference; its id."""
        signature = self._signature(author)
        return str(self._git.create_commit(None, signature, signature, message, tree, parents))

    def read_commit(self, oid: str) -> Commit:
        """A commit by its id."""
        return _read_commit(self._commit(oid))

    def find_commit(self, oid: str) -> str | None:
        """`oid` if it is a commit of this repository."""
        found = self._git.get(oid) if is_sha(oid) else None
        return oid if isinstance(found, _library().Commit) else None

    def log(self, commit: str, skip: int = 0, limit: int | None = None) -> Iterator[Commit]:
        """The commits that `commit` has behind it, itself first."""
        walker = self._git.walk(commit, _library().enums.SortMode.TOPOLOGICAL)
        for number, found in enumerate(walker):
            if limit is not None and number >= skip + limit:
                return
            if number >= skip:
                yield _read_commit(found)

    def count(self, commit: str) -> int:
        """How many commits `commit` has behind it, itself counted."""
        return sum(1 for _ in self._git.walk(commit))

    def is_ancestor(self, old: str, new: str) -> bool:
        """Whether `old` is `new` or one of the commits behind it."""
        return old == new or bool(self._git.descendant_of(new, old))

    def merge_base(self, one: str, other: str) -> str | None:
        """The newest commit that both have behind them, or None."""
        found = self._git.merge_base(one, other)
        return str(found) if found else None

    def merge(self, ours: str, theirs: str, base: str) -> tuple[str | None, list[str]]:
        """Merge two commits three-way, without following renames.

        Args:
            base (`str`): the commit to compare both with where they have none in common, as after a squash.

        Returns:
            `tuple`: the merged tree's id, or None and the sorted paths that conflict.
        """
        # Following renames could put a pull request's file where it never stood in it.
        no_flags = _library().enums.MergeFlag(0)
        trees = [self._commit(oid).tree for oid in (self.merge_base(ours, theirs) or base, ours, theirs)]
        index = self._git.merge_trees(*trees, flags=no_flags)
        if index.conflicts is None:
            return str(index.write_tree(self._git)), []
        paths = {side.path for sides in index.conflicts for side in sides if side is not None}
        return None, sorted(paths)

    def diff(self, old: str, new: str, limit: int) -> str:
        """The patch from one commit to another as text, cut off after `limit` characters."""
        patch = self._git.diff(self._git[old].tree, self._git[new].tree)
        parts: list[str] = []
        size = 0
        for delta in patch:
            text = (delta.data or b"").decode("utf8", "replace") if delta is not None else ""
            parts.append(text[: limit - size])
            size += len(text)
            if size >= limit:
                break
        return "".join(parts)

    def changed(self, old: str, new: str) -> list[str]:
        """The paths that differ between two commits, sorted."""
        deltas = self._git.diff(self._git[old].tree, self._git[new].tree).deltas
        return sorted({path for delta in deltas for path in (delta.old_file.path, delta.new_file.path)})

    def last_commits(self, commit: str, paths: Iterable[str]) -> dict[str, Commit]:
        """For each path of a commit, the newest commit on the first-parent line that gave it what it holds."""
        left = {path: entry.oid for path in paths if (entry := self.entry(commit, path))}
        found: dict[str, Commit] = {}
        current = self._commit(commit)
        while left:
            parent = current.parents[0] if current.parents else None
            lookup = functools.partial(_oid_at, parent.tree if parent is not None else None, {})
            for path in [path for path, oid in left.items() if lookup(path) != oid]:
                found[path] = _read_commit(current)
                del left[path]
            if parent is None:
                break
            current = parent
        return found

    def _commit(self, oid: str) -> Any:
        found = self._git.get(oid)
        if not isinstance(found, _library().Commit):
            raise revision_not_found(oid)
        return found

    def _signature(self, author: str) -> Any:
        return _library().Signature(author, address(author))


def _walk(tree: Any, start: str, recursive: bool, after: list[str]) -> Iterator[Entry]:
    waiting = bool(after)
    for item in tree:
        if waiting:
            if item.name != after[0]:
                continue
            waiting = False
            if item.filemode == _TREE and recursive:
                yield from _walk(item, f"{start}{item.name}/", True, after[1:])
            elif after[1:]:
                raise Refusal(400, "Invalid cursor")
            continue
        yield Entry(start + item.name, str(item.id), item.filemode == _TREE)
        if item.filemode == _TREE and recursive:
            yield from _walk(item, f"{start}{item.name}/", True, [])
    if waiting:
        raise Refusal(400, "Invalid cursor")


def _oid_at(root: Any, folders: dict[str, Any], path: str) -> str | None:
    """The id at a path under a tree; folders that were looked up are kept in `folders`."""
    folder, _, name = path.rpartition("/")
    if folder not in folders:
        try:
            folders[folder] = (root[folder] if folder else root) if root is not None else None
        except KeyError:
            folders[folder] = None
    tree = folders[folder]
    if not isinstance(tree, _library().Tree) or name not in tree:
        return None
    return str(tree[name].id)


def _read_commit(found: Any) -> Commit:
    title, _, rest = found.message.partition("\n")
    marker = "co-authored-by:"
    others = [
        line[len(marker) :].split("<")[0].strip() for line in rest.splitlines() if line.lower().startswith(marker)
    ]
    created = datetime.fromtimestamp(found.commit_time, UTC)
    authors = list(dict.fromkeys([found.author.name, *others]))
    parents = [str(parent) for parent in found.parent_ids]
    return Commit(str(found.id), title, rest.strip("\n"), authors, created, parents)


def remove_stale_locks(path: Path) -> int:
    """Take away the lock files that a killed process left in a repository; how many there were."""
    count = 0
    for folder, _, files in os.walk(path):
        for name in files:
            # Objects have no such names; references and HEAD are written as NAME.lock and moved.
            if name.endswith(".lock"):
                os.unlink(os.path.join(folder, name))
                count += 1
    return count
