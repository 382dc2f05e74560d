"""Files that are whole or not there at all: written beside their place, under a temporary name, and moved into it.

What stands in a file is the callers' concern. This is here because every other package may import it."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def whole_file(path: Path, many_writers: bool = False) -> Iterator[Path]:
    """The temporary path to write to; once the block has ended without an error, the file stands at `path`.

    Args:
        path (`Path`): of the file; its folder is made where there is none.
        many_writers (`bool`, *optional*, defaults to `False`): whether other processes may be writing the same file.
            The process id then keeps their temporary files apart, and whoever owns the folder has to clear those that
            a killed process left (`.*.part`); otherwise the next writing of the file takes them over.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = f".{os.getpid()}" if many_writers else ""
    part = path.with_name(f".{path.name}{writer}.part")
    yield part
    os.replace(part, path)


def write_whole(path: Path, content: bytes | str, many_writers: bool = False) -> None:
    """Write bytes, or text as UTF-8, so that at any moment the file is there whole or not at all.

    Args:
        path, many_writers: as for [`whole_file`].
        content (`bytes` or `str`): all of the file.
    """
    with whole_file(path, many_writers) as part:
        part.write_bytes(content.encode("utf8") if isinstance(content, str) else content)


def clear_parts(folder: Path) -> None:
    """Remove the temporary files that killed processes of this machine left in `folder` (`many_writers` of
    [`whole_file`]); those of processes that run are theirs."""
    for part in folder.glob(".*.part"):
        writer = re.search(r"\.(\d+)(\.data)?\.part$", part.name)
        if writer is not None and not _runs(int(writer[1])):
            part.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys, whole or not at all."""
    write_whole(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """What [`write_json`] left of a mapping; empty where there is none or it is damaged: then its work is done anew."""
    try:
        value = json.loads(path.read_text("utf8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
