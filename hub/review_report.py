"""What a review says: on the terminal, as a comment on the pull request, as a page with pictures, as JSON.

Of a row that fails nothing is shown but its file, number and name, and the codes of what is wrong. The comment and the
terminal show no text of any row. The page shows pairs that pass, behind blurs, for the eyes of a reviewer alone."""

import json
import re
import unicodedata
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hub.pull_requests import Refusal, shown
from recipes.writing import write_whole

# Rows that fail, as they are listed; the rest is counted.
MOST_LISTED = 200
MOST_LISTED_IN_COMMENT = 30
# Pairs on the page: 500 pictures of 512 x 512 pixels, scaled down, make a page of about 20 MB at most.
MOST_PAIRS = 250
# Pixels of the longer side of a picture on the page.
LONGEST = 320
_MARKER = "<!-- coprov2-review sha={sha} -->"
_MARKED = re.compile(r"<!-- coprov2-review sha=([0-9a-f]{40}) -->")


@dataclass(frozen=True)
class FailingRow:
    """A row that fails: its file within the contribution, its number there from 1, its pair_id if one could be
    computed, and the codes of why."""

    file: str
    row: int
    pair_id: str | None
    reasons: list[str]


@dataclass(frozen=True)
class RefusedFile:
    """A file that is refused as a whole: its name in the contribution, a code, what that means, and a detail that holds
    no text of a row."""

    file: str
    reason: str
    sentence: str
    detail: str


@dataclass(frozen=True)
class ShownPair:
    """A pair that passes, for the page: its texts, and its pictures as data URIs, or None where it has none."""

    file: str
    row: int
    pair_id: str
    category: str
    concept: str
    unsafe_prompt: str
    safe_prompt: str
    unsafe_image: str | None
    safe_image: str | None


@dataclass(frozen=True)
class Report:
    """The result of a review.

    Args:
        repository (`str`), number (`int`), author (`str`), status (`str`): of the pull request.
        sha (`str`): the reviewed commit. base (`str`): the newest commit of main that it contains.
        published (`str`): the commit of main whose rows it was compared with. tool (`str`): name and version of what
            reviewed.
        files (`int`), size (`int`): added, and their bytes.
        refusals (`list[Refusal]`): what speaks against the pull request as a whole; with any, no file was read.
        refused (`list[RefusedFile]`): files of which nothing passes, the first `MOST_LISTED`.
        rows (`int`), passed (`int`): read, and without a fault. waiting (`int`): passed, without pictures.
        reasons (`dict`): code to (how many rows, the code's sentence).
        failing (`list[FailingRow]`): the first `MOST_LISTED`.
        notes (`list[str]`): what else was done or counted, in sentences of ours.
        rendered (`str`, *optional*): the commit before the one that this review added with the missing pictures.
    """

    repository: str
    number: int
    author: str
    status: str
    sha: str
    base: str
    published: str
    tool: str
    files: int
    size: int
    refusals: list[Refusal]
    refused: list[RefusedFile] = field(default_factory=list)
    rows: int = 0
    passed: int = 0
    waiting: int = 0
    reasons: dict[str, tuple[int, str]] = field(default_factory=dict)
    failing: list[FailingRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    rendered: str | None = None

    @property
    def passes(self) -> bool:
        """Whether nothing is refused and every row is without a fault, and there is one."""
        return not self.refusals and not self.refused and not self.reasons and self.rows == self.passed > 0

    @property
    def verdict(self) -> str:
        """The result in a sentence."""
        if self.refusals:
            return "Refused without reading its files."
        if self.passes:
            return f"Passes: all {self.rows:,} rows."
        files = f"; files refused: {len(self.refused)}" if self.refused else ""
        if not self.rows:
            return f"Fails: no rows could be read{files}."
        return f"Fails: {self.rows - self.passed:,} of {self.rows:,} rows{files}."


def terminal(report: Report) -> str:
    """The report as plain ASCII lines."""
    lines = [
        f"{report.repository} pull request {report.number} of {shown(report.author)} at {report.sha}",
        f"{report.files:,} files, {report.size:,} bytes; compared with {report.published}",
        report.verdict,
    ]
    lines += [f"  {r.code:<18} {r.count:>9,}  {r.sentence}{_named(r.paths, r.count)}" for r in report.refusals]
    lines += [f"  {shown(f.file)}: {f.reason}: {f.sentence}{_detail(f.detail)}" for f in report.refused]
    if report.reasons:
        lines += [f"  {code:<28} {count:>9,}  {sentence}" for code, (count, sentence) in report.reasons.items()]
        lines += [
            f"  {shown(row.file)} row {row.row}: {row.pair_id or 'no pair_id'}: {', '.join(row.reasons)}"
            for row in report.failing
        ]
        if (more := report.rows - report.passed - len(report.failing)) > 0:
            lines.append(f"  and {more:,} more rows")
    return "\n".join(lines + report.notes) + "\n"


def markdown(report: Report) -> str:
    """The report as a comment on the pull request: no HTML but the marker, no mention, no link, no text of a row."""
    lines = [
        _MARKER.format(sha=report.sha),
        f"### Review of {_code(report.sha)}",
        "",
        f"**{_plain(report.verdict)}** {report.files:,} files, {report.size:,} bytes, compared with "
        f"{_code(report.published)} by {_plain(report.tool)}.",
        "",
    ]
    if report.refusals:
        lines += ["| reason | times | meaning | paths |", "|---|---:|---|---|"]
        for refusal in report.refusals:
            paths = " ".join(_code(path, escaped=True) for path in refusal.paths)
            lines.append(f"| {_code(refusal.code)} | {refusal.count:,} | {_plain(refusal.sentence)} | {paths} |")
        lines.append("")
    if report.refused:
        lines += ["| file | reason | meaning |", "|---|---|---|"]
        for file in report.refused[:MOST_LISTED_IN_COMMENT]:
            meaning = _plain(file.sentence + _detail(file.detail))
            lines.append(f"| {_code(file.file)} | {_code(file.reason)} | {meaning} |")
        lines.append("")
    if report.reasons:
        lines += ["| reason | rows | meaning |", "|---|---:|---|"]
        lines += [f"| {_code(code)} | {count:,} | {_plain(text)} |" for code, (count, text) in report.reasons.items()]
        lines += ["", "| file | row | pair | reasons |", "|---|---:|---|---|"]
        for row in report.failing[:MOST_LISTED_IN_COMMENT]:
            reasons = " ".join(map(_code, row.reasons))
            lines.append(f"| {_code(row.file)} | {row.row:,} | {_code(row.pair_id or '-')} | {reasons} |")
        if (more := report.rows - report.passed - MOST_LISTED_IN_COMMENT) > 0:
            lines += ["", f"and {more:,} more rows."]
        lines.append("")
    lines += [f"- {_plain(note)}" for note in report.notes]
    return "\n".join(lines).rstrip() + "\n"


def marked_sha(comment: str) -> str | None:
    """The reviewed commit that a comment of ours names in its first line, or None."""
    match = _MARKED.match(comment)
    return match[1] if match else None


def to_json(report: Report) -> str:
    """The report as JSON in ASCII, with `passes` and `verdict`."""
    refusals = [{**asdict(refusal), "sentence": refusal.sentence} for refusal in report.refusals]
    reasons = {code: {"rows": count, "sentence": text} for code, (count, text) in report.reasons.items()}
    value = {**asdict(report), "refusals": refusals, "reasons": reasons}
    value |= {"passes": report.passes, "verdict": report.verdict}
    return json.dumps(value, indent=2, sort_keys=True) + "\n"


def page(report: Report, pairs: list[ShownPair]) -> str:
    """The report as an HTML page that needs nothing else, runs no script and loads nothing."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("hub"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["visible"] = visible
    environment.filters["shown"] = shown
    return environment.get_template("review.html.j2").render(report=report, pairs=pairs)


def visible(text: str) -> str:
    """A text with every control, format, surrogate and unassigned character as `⟨U+202E⟩`, so that none turns the page
    around or hides."""
    return "".join(f"⟨U+{ord(c):04X}⟩" if unicodedata.category(c) in _UNSEEN else c for c in text)


_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def write_report(report: Report, pairs: list[ShownPair], out: Path) -> list[Path]:
    """Write report.json, report.md and report.html into a folder, for the eyes of its owner; returns the paths."""
    out.mkdir(parents=True, exist_ok=True, mode=0o700)
    files = {"report.json": to_json(report), "report.md": markdown(report), "report.html": page(report, pairs)}
    for name, text in files.items():
        write_whole(out / name, text)
    return [out / name for name in files]


def thumbnail(image: Any) -> str:
    """A decoded picture as a data URI, made anew, so that nothing of the given file but its pixels reaches the page."""
    import base64
    import io

    small = image.convert("RGB")
    small.thumbnail((LONGEST, LONGEST))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _named(paths: list[str], count: int) -> str:
    if not paths:
        return ""
    more = f" and {count - len(paths):,} more" if count > len(paths) else ""
    return f": {', '.join(paths)}{more}"


def _detail(text: str) -> str:
    return f" ({visible(text)})" if text else ""


def _code(text: str, escaped: bool = False) -> str:
    return f"`{text if escaped else shown(text)}`"


def _plain(text: str) -> str:
    """A sentence of ours with every sign that Markdown or HTML could read escaped; it may hold a foreign name."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("@", "&#64;")
    return re.sub(r"([\\`*_{}\[\]()#+!|~])", r"\\\1", text).replace("://", ":&#47;&#47;").replace("\n", " ")
