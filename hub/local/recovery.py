"""What a hub does at start, before its port opens: finish or undo what a killed process left between two writes.

| left behind | by what | done |
|---|---|---|
| files under `tmp/` | an upload, a repository that was being made | removed |
| a repository's folder without record | creating (no record yet) or deleting (no record any more) | removed |
| `*.lock` in a git folder | a reference that was being moved | removed: the reference has its old value |
| an intent | a change of a reference and records | its kind's function finishes or undoes it (`intents.py`) |
| an LFS object that no repository claims | an upload that was not answered, a deleted repository | removed |

All of it can be done twice, and a kill in the middle of it leaves work for the next start only.
"""

import shutil
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from hub.local import intents
from hub.local.git_store import remove_stale_locks

if TYPE_CHECKING:
    from hub.local.hub import LocalHub


@dataclass
class Recovered:
    """How many of each were found."""

    temporary: int = 0
    folders: int = 0
    locks: int = 0
    intents: int = 0
    objects: int = 0

    def __str__(self) -> str:
        """One line for the terminal, empty where nothing was found."""
        return ", ".join(f"{number} {name}" for name, number in asdict(self).items() if number)


def recover(hub: "LocalHub") -> Recovered:
    """Brings a hub's folder into a whole state; says what it found.

    An intent of a kind that no module finishes was left by another version of this package; it is named on the
    terminal and stays.
    """
    found = Recovered()
    _clear_temporary(hub, found)
    # Locks before intents: what finishes an intent moves references.
    _clear_folders(hub, found)
    for intent in intents.pending(hub.records):
        finish = intents.FINISH.get(intent.kind)
        if finish is None:
            print(f"hub: intent {intent.id} of the unknown kind {intent.kind!r} is left as it is", file=sys.stderr)
            continue
        finish(hub, intent)
        with hub.records.transaction() as connection:
            intents.done(connection, intent.id)
        found.intents += 1
    _clear_objects(hub, found)
    return found


def _clear_temporary(hub: "LocalHub", found: Recovered) -> None:
    for path in (hub.root / "tmp").iterdir():
        found.temporary += 1
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    for path in (hub.root / "xet").glob("*/.*.part"):
        found.temporary += 1
        path.unlink()


def _clear_folders(hub: "LocalHub", found: Recovered) -> None:
    known = {row["id"] for row in hub.records.all("SELECT id FROM repositories")}
    for path in sorted((hub.root / "repos").glob("*/*.git")):
        if path.name.removesuffix(".git") in known:
            found.locks += remove_stale_locks(path)
        else:
            shutil.rmtree(path)
            found.folders += 1


def _clear_objects(hub: "LocalHub", found: Recovered) -> None:
    claimed = {row["oid"] for row in hub.records.all("SELECT DISTINCT oid FROM lfs_claims")}
    lost = [path for path in (hub.root / "lfs").glob("??/??/*") if path.name not in claimed]
    # First what points to them, then they themselves.
    hub.xet.forget_objects(path.name for path in lost)
    for path in lost:
        path.unlink()
        found.objects += 1
