"""Every row of a contribution against the dataset that it is for: fields, taxonomy, screening, duplicates, pictures,
and the judges when asked.

Rows that pass wait in a file on disk, and memory does not grow with them. No text of a row is ever printed."""

import hashlib
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any

from dataset_builder.schema import VERDICT_COLUMNS, Row
from hub.contributions.duplicates import fail_duplicates
from hub.contributions.judging import fail_misjudged
from hub.contributions.limits import LIMITS, Limits
from hub.contributions.names import shown
from hub.contributions.published import Published
from hub.contributions.reading import Reading
from hub.contributions.reasons import sentence
from hub.contributions.row_checks import RowChecks
from hub.contributions.schema import IMAGES, RawRow, Refused
from hub.contributions.store import Store
from recipes import JudgeConfig


@dataclass(frozen=True)
class Options:
    """How a contribution is checked.

    Args:
        user (`str`): who contributes; review passes the author of the pull request.
        work (`Path`, *optional*): folder for temporary files; the system's by default.
        judge (`JudgeConfig`, *optional*): judges that look at the pictures; none by default.
        limits (`Limits`, *optional*): bounds.
    """

    user: str
    work: Path | None = None
    judge: JudgeConfig | None = None
    limits: Limits = LIMITS


@dataclass(frozen=True)
class RowResult:
    """What became of a row: its place, its name where it has one, and why it fails; it passes where nothing stands in
    `reasons`."""

    file: str
    number: int
    pair_id: str | None
    reasons: tuple[str, ...]

    @property
    def passes(self) -> bool:
        """Whether nothing is wrong with the row."""
        return not self.reasons


class Checked:
    """What came of a check. A context manager, which removes the rows that wait on disk.

    `rows`, `passed`, `failed` count rows; `counts` rows by reason; `notes` by `reasons.NOTES`; `refused` lists files.
    """

    def __init__(self, store: Store, notes: dict[str, int], refused: list[Refused], limits: Limits) -> None:
        self._store, self._limits = store, limits
        self.rows, self.passed, self.counts = store.counts()
        self.failed = self.rows - self.passed
        self.notes, self.refused = notes, refused

    def __enter__(self) -> "Checked":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._store.close()

    @property
    def all_pass(self) -> bool:
        """Whether there are rows, all of them pass, and no file is refused: what review asks for before a merge."""
        return self.passed > 0 and not self.failed and not self.refused

    def results(self) -> Iterator[RowResult]:
        """Every row, in the order in which they came."""
        for file, number, pair_id, reasons in self._store.rows():
            yield RowResult(file, number, pair_id, tuple(reasons))

    def passed_rows(self, file: str | None = None, by_name: bool = False) -> Iterator[Row]:
        """The rows that pass, in the order in which they came, of one file where it is named.

        Each has the columns of `dataset_builder.schema` with `category` by name and verdicts only where judges were
        asked; `unsafe_image` and `safe_image` are PNG bytes, or None. Beside them `file` and `number` say where from,
        and `contents` holds the hashes of the pictures' pixels (`dataset_builder.keys.picture_hash`).

        Args:
            file (`str`, *optional*): name of a file.
            by_name (`bool`, *optional*, defaults to `False`): in the order of pair_id instead.
        """
        for _, name, number, fields in self._store.passing(file=file, order="pair_id" if by_name else "id"):
            pictures = [fields[image] for image in IMAGES]
            for image, picture in zip(IMAGES, pictures, strict=True):
                fields[image] = picture.png if picture else None
            for column in VERDICT_COLUMNS:
                fields.setdefault(column, [])
            contents = [picture.content for picture in pictures if picture]
            yield {**fields, "contents": contents, "file": name, "number": number}

    def table(self, most: int = 20) -> str:
        """For the terminal: what passes and why others fail, `most` rows of each reason by file and number."""
        lines = [f"{self.passed:>9,}  of {self.rows:,} rows pass"]
        for reason, count in sorted(self.counts.items(), key=lambda item: (-item[1], item[0])):
            lines.append(f"{count:>9,}  {reason}: {sentence(reason)}")
            places = [f"{shown(file)} {number}" for file, number in self._store.with_reason(reason, most)]
            more = f" and {count - len(places):,} more" if count > len(places) else ""
            lines.append(f"{'':9}  rows {', '.join(places)}{more}")
        for refused in self.refused[:most]:
            detail = f" ({refused.detail})" if refused.detail else ""
            lines.append(
                f"  refused  {refused.file or 'all files'}: {refused.reason}: {sentence(refused.reason)}{detail}"
            )
        if len(self.refused) > most:
            lines.append(f"  refused  and {len(self.refused) - most:,} more files")
        lines += [f"{count:>9,}  noted, {note}: {sentence(note)}" for note, count in self.notes.items()]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Counts, reasons with their sentences, refused files and failing rows, for a machine."""
        failing = (result for result in self.results() if not result.passes)
        listed = [
            {"file": shown(one.file), "row": one.number, "pair_id": one.pair_id, "reasons": list(one.reasons)}
            for one in islice(failing, self._limits.listed)
        ]
        return {
            "rows": self.rows,
            "passed": self.passed,
            "failed": self.failed,
            "reasons": {code: {"rows": count, "why": sentence(code)} for code, count in self.counts.items()},
            "notes": {code: {"count": count, "what": sentence(code)} for code, count in self.notes.items()},
            "refused": [
                {"file": one.file, "reason": one.reason, "why": sentence(one.reason), "detail": one.detail}
                for one in self.refused[: self._limits.listed]
            ],
            "refused_not_listed": max(len(self.refused) - self._limits.listed, 0),
            "failing": listed,
            "failing_not_listed": self.failed - len(listed),
        }


def check_rows(rows: Iterable[RawRow], against: Published, options: Options) -> Checked:
    """Check rows against a published version.

    Args:
        rows (`Iterable[RawRow]`): a [`reading.Reading`], whose refused files count too, or rows from elsewhere.
        against (`Published`): the version.
        options (`Options`): who contributes, and what is asked for.

    Returns:
        `Checked`: to be used in a `with`.

    Raises:
        `HubError`: where the published version cannot be read. What is wrong with rows is never an error.
        `ValueError`: where `options.user` is no name that a Hub gives.
    """
    store = Store(options.work)
    try:
        notes = Counter[str]()
        checks = RowChecks(against, options.user, options.limits)
        started = time.process_time()
        for raw in rows:
            if time.process_time() - started > options.limits.check_seconds:
                store.add(raw.file, raw.number, None, ["not_checked"], {})
                continue
            fields, reasons, noted = checks.check(raw)
            stated = raw.values.get("pair_id")
            if isinstance(stated, str) and not store.is_new(_digest(stated)):
                reasons.append("duplicate_pair_id")
            notes.update(noted)
            store.add(raw.file, raw.number, fields.get("pair_id"), reasons, fields)
        refused = list(rows.refused) if isinstance(rows, Reading) else []
        for one in refused:
            # Also of rows that came before the file was refused.
            store.fail_file(one.file, "file_refused")
        fail_duplicates(store, against)
        if options.judge is not None:
            fail_misjudged(store, options.judge)
        if waiting := store.without_pictures():
            notes["without_pictures"] = waiting
        return Checked(store, dict(sorted(notes.items())), refused, options.limits)
    except BaseException:
        store.close()
        raise


def _digest(stated: str) -> str:
    return hashlib.blake2b(stated.strip().encode("utf8", "surrogatepass"), digest_size=16).hexdigest()
