"""What a release did, and what `--withdraw` names: for the terminal, without a text of any row."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from hub.client import HubError
from hub.contributions.names import shown
from hub.merged_contributions import ContributedFile

# Beside the new folder: each row that was left out, by file, number and pair id, with every reason.
LEFT_OUT = "left_out.jsonl"


@dataclass(frozen=True)
class Released:
    """What a release did.

    Args:
        repository (`str`): org/name.
        version (`str`): of what stands on main now; in a dry run, of what would.
        revision (`str`): its commit; in a dry run, the parent's.
        made (`bool`): whether this call made the version, or finished one that had been cut short.
        said (`str`): why there was nothing to release, where there was not.
        added (`dict`): pairs that came in, by split.
        withdrawn (`list[str]`): pair ids that went.
        files (`list[ContributedFile]`): what became of each contributed file.
        uploaded, copied, kept (`int`): files that were sent, that were only named anew, that stayed as they were.
        foreign (`list[str]`): files on main that belong to nothing; they stay.
    """

    repository: str
    version: str
    revision: str
    made: bool
    said: str = ""
    added: dict[str, int] = field(default_factory=dict)
    withdrawn: list[str] = field(default_factory=list)
    files: list[ContributedFile] = field(default_factory=list)
    uploaded: int = 0
    copied: int = 0
    kept: int = 0
    foreign: list[str] = field(default_factory=list)


def pair_ids(given: str) -> list[str]:
    """The pair ids that `--withdraw` names: one, several with commas between them, or those of a file, one a line.

    Raises:
        `HubError`: for a file that is no text, and a line that is no pair id.
    """
    path = Path(given)
    try:
        text = path.read_text("utf8") if path.is_file() else given.replace(",", "\n")
    except (OSError, UnicodeDecodeError) as error:
        raise HubError(f"{path}: cannot be read ({type(error).__name__}); expected pair ids, one a line") from None
    found = [line.strip() for line in text.splitlines() if line.strip()]
    for number, line in enumerate(found, 1):
        if not re.fullmatch(r"[0-9a-f]{32}", line):
            raise HubError(
                f"--withdraw: entry {number} is no pair id (32 hexadecimal digits), nor the name of a file of them"
            )
    return list(dict.fromkeys(found))


def released_table(released: Released, dry_run: bool, out: Path | None) -> str:
    """What a release did, for the terminal: no text of any row."""
    lines = []
    for file in released.files:
        said = f"{file.taken:,} of {file.rows:,} pairs taken"
        if file.waiting:
            said += f", {file.waiting:,} wait for pictures"
        if file.before:
            said += f", {file.before:,} in already"
        said += "".join(f", {count:,} {reason}" for reason, count in sorted(file.left_out.items()))
        lines.append(f"{shown(file.name)}: {f'refused: {file.refused}' if file.refused else said}")
    if any(file.left_out for file in released.files):
        lines.append(f"rows that were left out: {out / LEFT_OUT}" if out else "give --out to have the rows listed")
    if released.foreign:
        lines.append(f"{len(released.foreign)} other files stay on main: {', '.join(map(shown, released.foreign[:5]))}")
    if released.said:
        return "\n".join([*lines, released.said])
    come = ", ".join(f"{split} {count:,}" for split, count in released.added.items()) or "none"
    lines.append(f"pairs that come in: {come}; pairs that go: {len(released.withdrawn):,}")
    if dry_run:
        lines.append(f"{released.repository} would become {released.version}; nothing was changed there")
    else:
        lines.append(f"{released.repository} {released.version} at {released.revision}: tagged, all checksums agree")
    lines.append(f"files: {released.uploaded} to send, {released.copied} only renamed, {released.kept} as they were")
    return "\n".join(lines)
