"""CHANGELOG.md of a dataset repository: what each version changed, for people; the manifest says the same for machines.

Without dates, so that a release that is computed again writes the same bytes; the tag's commit has the date."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from cards.writing import cell, code

_HEADING = "# Changelog"
_VERSION = re.compile(r"^## (v\d+\.\d+\.\d+)[ \t]*$", re.MULTILINE)
# Contributed files that are named one by one; what is left out is counted.
_LISTED = 50


def section(version: str, release: Mapping[str, Any], rows: Mapping[str, int], changes: Sequence[str]) -> str:
    """The section of a version.

    Args:
        version (`str`): vMAJOR.MINOR.PATCH.
        release (`Mapping`): the manifest's entry `release`: added and withdrawn pairs, contributions, parent.
        rows (`Mapping[str, int]`): pairs of the version by split.
        changes (`Sequence[str]`): further lines: columns and files that changed.
    """
    lines = [f"## {version}", ""]
    added, total = release["added"], sum(release["added"].values())
    if total:
        lines.append(f"- {total} pairs added: {_by_split(added)}.")
    if release["withdrawn"]:
        lines.append(f"- {len(release['withdrawn'])} pairs withdrawn; `coprov2.json` names them.")
    lines += [f"- {cell(change)}." for change in changes]
    taken = [file for file in release["contributions"] if file["taken"] or file["left_out"]]
    for file in taken[:_LISTED]:
        number = f" (#{file['pull_request']})" if file["pull_request"] else ""
        left = Counter(file["left_out"])
        why = ", ".join(f"{code(reason)} {count}" for reason, count in sorted(left.items()))
        said = f"; left out {left.total()}: {why}" if left else ""
        waiting = f"; {file['waiting']} wait for pictures" if file["waiting"] else ""
        lines.append(f"- From {code(file['user'])}{number}: {file['taken']} of {file['rows']} pairs{said}{waiting}.")
    if len(taken) > _LISTED:
        lines.append(f"- And from {len(taken) - _LISTED} more files, which `coprov2.json` names.")
    lines.append(f"- Pairs now: {_by_split(rows)}. Before: {release['parent']['version']}.")
    return "\n".join(lines) + "\n"


def _by_split(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{code(split)} {count}" for split, count in counts.items() if count) or "none"


def with_section(text: str, version: str, fresh: str) -> str:
    """A changelog with the section of a version at its top; an older section of the same version is replaced, and all
    else stays as it is, whoever wrote it."""
    if not text.strip():
        text = f"{_HEADING}\n"
    places = [(match.start(), match[1]) for match in _VERSION.finditer(text)]
    ends = [*(start for start, _ in places[1:]), len(text)]
    for (start, found), end in zip(places, ends, strict=False):
        if found == version:
            return with_section(text[:start] + text[end:], version, fresh)
    first = places[0][0] if places else len(text)
    head, rest = text[:first].rstrip("\n"), text[first:]
    return f"{head}\n\n{fresh}" + (f"\n{rest}" if rest else "")
