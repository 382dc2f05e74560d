"""Edits of a git tree: only the folders that an edit touches are read and written, however big the tree is."""

import stat
from dataclasses import dataclass
from typing import Any

from hub.local.errors import Refusal

_TREE, _FILE = stat.S_IFDIR, stat.S_IFREG | 0o644


@dataclass(frozen=True)
class Edit:
    """One edit: a blob's id put at a path; or, without one, what stands there deleted, file or folder."""

    path: str
    blob: str | None = None


class _Folder:
    """A tree that is being edited: its entries by name, read once, and the folders that were opened."""

    def __init__(self, git: Any, tree: Any | None) -> None:
        self.git = git
        self.entries: dict[str, tuple[int, Any]] = {}
        for item in tree if tree is not None else ():
            self.entries[item.name] = (item.filemode, item.id)
        self.open: dict[str, _Folder] = {}
        self.changed = tree is None

    def folder(self, name: str, make: bool) -> "_Folder | None":
        if name in self.open:
            return self.open[name]
        mode, oid = self.entries.get(name, (0, None))
        if mode == _TREE:
            self.open[name] = _Folder(self.git, self.git[oid])
        elif oid is not None or not make:
            return None
        else:
            self.open[name] = _Folder(self.git, None)
        return self.open[name]

    def is_empty(self) -> bool:
        return not self.entries and all(folder.is_empty() for folder in self.open.values())

    def write(self) -> Any:
        """Write this folder and what changed below; its tree's id."""
        for name, folder in self.open.items():
            if folder.is_empty():
                self.changed |= self.entries.pop(name, None) is not None
                continue
            entry = (_TREE, folder.write())
            self.changed |= self.entries.get(name) != entry
            self.entries[name] = entry
        builder = self.git.TreeBuilder()
        for name, (mode, oid) in self.entries.items():
            builder.insert(name, oid, mode)
        return builder.write()


class TreeEditor:
    """Applies edits to a tree (its id; None for the empty one) and writes what came of it."""

    def __init__(self, git: Any, tree: str | None) -> None:
        self._root = _Folder(git, git[tree] if tree else None)

    def apply(self, edit: Edit) -> None:
        """Apply one edit.

        Raises:
            `Refusal`: 404 for a path to delete that is not there, 400 where a file would stand in a folder's place or
            a folder in a file's.
        """
        import pygit2

        *folders, name = edit.path.split("/")
        at: _Folder | None = self._root
        for folder in folders:
            at = at.folder(folder, make=edit.blob is not None) if at else None
        if at is None and edit.blob is not None:
            raise Refusal(400, f"{edit.path}: a part of this path is a file")
        if edit.blob is None:
            self._delete(at, name, edit.path)
        elif at is not None:
            opened = at.open.get(name)
            if (opened and not opened.is_empty()) or (not opened and at.entries.get(name, (0, None))[0] == _TREE):
                raise Refusal(400, f"{edit.path}: a folder of this name is there")
            at.open.pop(name, None)
            at.entries[name] = (_FILE, pygit2.Oid(hex=edit.blob))

    def _delete(self, at: _Folder | None, name: str, path: str) -> None:
        opened = at.open.get(name) if at else None
        if at is None or (name not in at.entries and (opened is None or opened.is_empty())):
            raise Refusal(404, "A file with this name doesn't exist", "EntryNotFound")
        if opened is not None and opened.is_empty():
            raise Refusal(404, "A file with this name doesn't exist", "EntryNotFound")
        at.open.pop(name, None)
        at.entries.pop(name, None)

    def write(self) -> str:
        """Write the trees that changed; the root's id."""
        return str(self._root.write())
