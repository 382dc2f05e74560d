"""Names of files and columns that others chose: which are refused, how the rest is shown, and how a file is opened
without following a link."""

import os
import re
import stat
import unicodedata
from pathlib import Path

from hub.contributions.limits import LIMITS, Limits

_DRIVE = re.compile(r"[A-Za-z]:")
_COLUMN = re.compile(r"[A-Za-z_][A-Za-z0-9_ .-]*")
# Characters that Windows, HTML, Markdown or a template read as something else than a part of a name.
_MEANT_OTHERWISE = frozenset('\\<>:"|?*`${}[]')
_FORMULA = ("=", "+", "-", "@")
_DEVICE = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)(?:\..*)?", re.IGNORECASE)


class NotInside(Exception):
    """A name that leads to no ordinary file of the folder; `reason` is a code of `hub.contributions.reasons`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def name_fault(name: str, limits: Limits = LIMITS) -> str | None:
    """What is wrong with a file's name inside a contribution: `name_outside`, `name_characters`, `name_too_long`,
    `too_deep`, or None.

    Args:
        name (`str`): with `/` between folders, as a Hub or `Path.as_posix` gives it.
        limits (`Limits`, *optional*): its `name_bytes` and `depth`.
    """
    if not name or name.startswith(("/", "\\", "~")) or _DRIVE.match(name):
        return "name_outside"
    parts = name.replace("\\", "/").split("/")
    if any(part in ("", ".", "..") for part in parts):
        return "name_outside"
    if not all(map(_is_plain, name)) or any(map(_is_odd, parts)):
        return "name_characters"
    if len(name.encode("utf8", "surrogatepass")) > limits.name_bytes:
        return "name_too_long"
    return "too_deep" if len(parts) - 1 > limits.depth else None


def _is_plain(letter: str) -> bool:
    return letter not in _MEANT_OTHERWISE and (letter == " " or unicodedata.category(letter)[0] not in "CZ")


def _is_odd(part: str) -> bool:
    # Windows drops full stops and blanks at the end, and takes some names for devices.
    return part[-1] in " ." or part[0] in (" ", *_FORMULA) or _DEVICE.fullmatch(part) is not None


def shown(text: str, most: int = 80) -> str:
    """A name for the terminal, a log or a report: one line, unprintable characters escaped, cut. It is still no HTML
    and no Markdown: whoever writes those escapes it for them."""
    plain = "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in text[:most]
    )
    return plain if len(text) <= most else f"{plain}... ({len(text)} characters)"


def shown_column(name: str, limits: Limits = LIMITS) -> str:
    """A column's name for a report. Where a file lacks its header, what looks like a name is a prompt: only what is
    short and plain is shown."""
    if len(name) <= limits.column_name and _COLUMN.fullmatch(name) and len(name.split()) <= 3:
        return name
    return f"(text of {len(name)} characters)"


def is_column_name(name: str, limits: Limits = LIMITS) -> bool:
    """Whether a text can be a column's name here."""
    return len(name) <= limits.column_name and _COLUMN.fullmatch(name) is not None


def open_inside(root: Path, name: str) -> int:
    """A descriptor, for reading, of an ordinary file below `root`, whose name `name_fault` has passed.

    No link is followed on the way, whatever is put there meanwhile, and nothing blocks on a pipe.

    Raises:
        `NotInside`: `link`, `not_a_file` or `missing`.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    *folders, last = name.split("/")
    place = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for folder in folders:
            if stat.S_ISLNK(os.stat(folder, dir_fd=place, follow_symlinks=False).st_mode):
                raise NotInside("link")
            inner = os.open(folder, flags | os.O_DIRECTORY, dir_fd=place)
            os.close(place)
            place = inner
        found = os.stat(last, dir_fd=place, follow_symlinks=False)
        if stat.S_ISLNK(found.st_mode):
            raise NotInside("link")
        # Before it is opened: opening a device can already do something.
        if not stat.S_ISREG(found.st_mode):
            raise NotInside("not_a_file")
        file = os.open(last, flags, dir_fd=place)
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            raise NotInside("not_a_file")
        return file
    except (OSError, ValueError):
        raise NotInside("missing") from None
    finally:
        os.close(place)
