"""The row of a contribution: its columns, and what a field may be. What it says is looked at in `checks`."""

import re
from dataclasses import dataclass, field
from typing import Any

from dataset_builder.keys import clean
from hub.contributions.texts import text_faults

REQUIRED = ("category", "concept", "unsafe_prompt", "safe_prompt")
IMAGES = ("unsafe_image", "safe_image")
OPTIONAL = ("seed", "llm", "t2i")
# What we state ourselves; where it is given it must agree.
STATED = ("pair_id", "licence", "license", "source")
# Left out and counted: a verdict counts only where our own judges gave it.
DROPPED = ("unsafe_verdict", "safe_verdict")
# Names of picture files, in the manner of `datasets`' imagefolder, and the column that each stands for.
FILE_NAMES = {
    "unsafe_image_file_name": "unsafe_image",
    "safe_image_file_name": "safe_image",
    "unsafe_file_name": "unsafe_image",
    "safe_file_name": "safe_image",
}
_TEXTS = (*REQUIRED, "llm", "t2i", *STATED)
_MODEL = re.compile(r"[\w.-]{1,96}(?:/[\w.-]{1,96})?(?:@[\w.-]{1,96})?", re.ASCII)
_PAIR_ID = re.compile(r"[0-9a-f]{32}")
_USER = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")
_DIGITS = re.compile(r"\d{1,19}", re.ASCII)
_MOST_SEED = 2**63 - 1
COLUMNS = (*REQUIRED, *IMAGES, *OPTIONAL, *STATED, *DROPPED, *FILE_NAMES)


@dataclass(frozen=True)
class Picture:
    """A picture that was decoded, checked and encoded anew.

    Args:
        png (`bytes`): PNG without any metadata, of mode RGB.
        width, height (`int`): pixels.
        content (`str`): sha256 of the pixels, as `dataset_builder.keys.picture_hash` gives it.
        fault (`str`, *optional*): `black_picture` or `flat_picture`.
    """

    png: bytes = field(repr=False)
    width: int
    height: int
    content: str
    fault: str | None = None


@dataclass(frozen=True)
class RawRow:
    """A row as it was read.

    Args:
        file (`str`): name of its file in the contribution, with `/` between folders.
        number (`int`): of the row in the file, from 1; of a line in JSONL; without the header in CSV.
        values (`dict`): by column; texts, numbers, truth values, None, and `Picture` for the pictures. Empty where the
            row could not be read. Never printed.
        reasons (`tuple[str, ...]`): codes of `reasons` for what reading found.
        notes (`tuple[str, ...]`): codes of `reasons.NOTES`; one may stand twice.
    """

    file: str
    number: int
    values: dict[str, Any] = field(repr=False)
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Refused:
    """A file that is refused as a whole: its name, a code of `reasons.FILES`, and a detail that holds no text of a row
    and is escaped: a column's name, a count, a limit."""

    file: str
    reason: str
    detail: str = ""


def source_of(user: str) -> str:
    """What the column `source` says of a contributor's rows.

    Raises:
        `ValueError`: where the name is none that a Hub gives; names of folders and sources are made of it.
    """
    if not _USER.fullmatch(user) or ".." in user or "--" in user:
        raise ValueError(f"no user's name: {user!r}")
    return f"community:{user}"


def fields_of(
    row: RawRow, user: str, licence: str | None, languages: tuple[str, ...] = ("en",)
) -> tuple[dict[str, Any], list[str]]:
    """The fields of a row, cleaned, and codes for what is wrong with them.

    Args:
        row (`RawRow`): as it was read.
        user (`str`): who contributes: `source` becomes `community:<user>`.
        licence (`str`, *optional*): the dataset's; None where its card states none.
        languages (`tuple[str, ...]`, *optional*): ISO 639-1 codes of the dataset's languages; some need characters
            that others may not have.

    Returns:
        The fields category, concept, unsafe_prompt, safe_prompt, seed, llm, t2i, source, and `pair_id` as given, with
        the pictures as [`Picture`] or None; as far as there are any. Reasons stand once, in the order of checks.
    """
    reasons = list(row.reasons)
    if not row.values and reasons:
        return {}, reasons
    fields: dict[str, Any] = {}
    for name in _TEXTS:
        value = row.values.get(name)
        if value is None:
            fields[name] = None
        elif not isinstance(value, str):
            reasons.append("wrong_type")
            fields[name] = None
        else:
            # Blanks and line breaks at the ends are nobody's meaning.
            faults = text_faults(value.strip(" \t\r\n"), languages, prose=name not in ("llm", "t2i"))
            reasons += faults
            fields[name] = None if faults else clean(value) or None
            if name in REQUIRED and faults:
                fields[name] = ""
    if any(fields[name] is None for name in REQUIRED):
        reasons.append("missing_field")
    fields["seed"], seed_faults = _seed(row.values.get("seed"))
    reasons += seed_faults
    if any(fields[name] is not None and not _MODEL.fullmatch(fields[name]) for name in ("llm", "t2i")):
        reasons.append("bad_model_name")
    reasons += _stated(fields, source_of(user), licence)
    for name in IMAGES:
        picture = row.values.get(name)
        fields[name] = picture if isinstance(picture, Picture) else None
    reasons += _pictures(fields["unsafe_image"], fields["safe_image"], reasons)
    return fields, list(dict.fromkeys(reasons))


def _seed(value: Any) -> tuple[int | None, list[str]]:
    if isinstance(value, str):
        value = value.strip()
        if not value:
            return None, []
        value = int(value) if _DIGITS.fullmatch(value) else None
        if value is None:
            return None, ["bad_seed"]
    if value is None or value != value:
        # Tables of floating point numbers have NaN where nothing stands.
        return None, []
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None, ["wrong_type"]
    if isinstance(value, float) and (not value.is_integer() or abs(value) > 2**53):
        return None, ["bad_seed"]
    return (int(value), []) if 0 <= value <= _MOST_SEED else (None, ["bad_seed"])


def _stated(fields: dict[str, Any], source: str, licence: str | None) -> list[str]:
    """What is wrong with fields that say what we say ourselves. They say it afterwards, but for pair_id."""
    reasons = []
    if fields["source"] not in (None, source):
        reasons.append("source_differs")
    fields["source"] = source
    for name in ("licence", "license"):
        stated = fields.pop(name)
        if stated is not None and stated.casefold() != (licence or "").casefold():
            reasons.append("licence_differs")
    if fields["pair_id"] is not None and not _PAIR_ID.fullmatch(fields["pair_id"]):
        fields["pair_id"] = None
        reasons.append("bad_pair_id")
    return reasons


def _pictures(unsafe: Picture | None, safe: Picture | None, before: list[str]) -> list[str]:
    if unsafe is None or safe is None:
        # Where a picture was refused, it is not missing.
        refused = any(reason.startswith("picture_") for reason in before)
        return ["one_picture"] if (unsafe is None) != (safe is None) and not refused else []
    reasons = [picture.fault for picture in (unsafe, safe) if picture.fault]
    if unsafe.content == safe.content:
        reasons.append("same_pictures")
    if (unsafe.width, unsafe.height) != (safe.width, safe.height):
        reasons.append("picture_sizes_differ")
    return reasons
