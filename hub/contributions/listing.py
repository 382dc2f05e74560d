"""What lies in a contribution's folder: names, kinds and sizes, before anything is opened."""

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hub.contributions.limits import Limits
from hub.contributions.names import name_fault, shown
from hub.contributions.schema import Refused

TABLES = (".jsonl", ".csv", ".parquet")
PICTURES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass
class Listed:
    """Names below the folder, sorted: tables, pictures, and what is refused. Nothing is read where the contribution as
    a whole is too large."""

    tables: list[str] = field(default_factory=list)
    pictures: list[str] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)


def list_files(root: Path, names: Sequence[str] | None, limits: Limits) -> Listed:
    """List the files of a contribution.

    Args:
        root (`Path`): the folder.
        names (`Sequence[str]`, *optional*): the files that belong to it; all below `root` by default. Links are not
            followed, and are refused.
        limits (`Limits`): files, bytes, depth, name_bytes, picture_bytes, table_bytes.
    """
    listed = Listed()
    sizes = 0
    for count, name in enumerate(_walk(root, limits) if names is None else names, 1):
        if count > limits.files:
            return Listed(refused=[Refused("", "too_many_files", f"more than {limits.files}")])
        kind = os.path.splitext(name)[1].lower()
        reason = name_fault(name, limits)
        if reason is None:
            try:
                found = os.stat(root / name, follow_symlinks=False)
            except (OSError, ValueError):
                reason = "not_a_file"
            else:
                reason = _fault(found, kind)
                sizes += found.st_size
        if sizes > limits.bytes:
            return Listed(refused=[Refused("", "too_many_bytes", f"more than {limits.bytes}")])
        if reason:
            listed.refused.append(Refused(shown(name), reason))
        else:
            (listed.tables if kind in TABLES else listed.pictures).append(name)
    listed.tables.sort()
    listed.pictures.sort()
    if not listed.tables and not listed.refused:
        listed.refused.append(Refused("", "no_rows", "no table among the files"))
    return listed


def _fault(found: os.stat_result, kind: str) -> str | None:
    if stat.S_ISLNK(found.st_mode):
        return "link"
    if not stat.S_ISREG(found.st_mode):
        return "not_a_file"
    return None if kind in (*TABLES, *PICTURES) else "unknown_file"


def _walk(root: Path, limits: Limits) -> list[str]:
    """Names of all that is no folder, sorted; not below the depth where names are refused anyway, and no more of them
    than it takes to see that there are too many."""
    found: list[str] = []
    folders = [""]
    while folders and len(found) <= limits.files:
        folder = folders.pop()
        with os.scandir(root / folder) as entries:
            for entry in entries:
                name = f"{folder}/{entry.name}" if folder else entry.name
                if entry.is_dir(follow_symlinks=False) and name.count("/") <= limits.depth:
                    folders.append(name)
                else:
                    found.append(name)
                if len(found) + len(folders) > limits.files:
                    break
    return sorted(found) if len(found) + len(folders) <= limits.files else found + folders
