"""What people contributed and a maintainer merged: found on main, fetched, checked once more, and kept on disk.

A review has looked at each file already; main may hold others all the same, so nothing is trusted here either. What
becomes of a row is told by file and number, never by its text."""

import glob
import json
import re
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from dataset_builder.keys import content_key, normalise, seed_from
from dataset_builder.near_duplicates import NearDuplicates, Standing
from dataset_builder.rows import batched
from dataset_builder.schema import IMAGE_COLUMNS, SPLITS, VERDICT_COLUMNS, Row
from hub.client import HubError, is_same, status_of
from hub.contributed_splits import SplitChooser
from hub.contributions.checks import Checked, Options, check_rows
from hub.contributions.limits import LIMITS, Limits
from hub.contributions.published import Published
from hub.contributions.reading import Reading, name_fault, shown
from hub.contributions.schema import RawRow, source_of
from hub.folders import CONTRIBUTIONS, read_file
from hub.new_concepts import settle_new_concepts
from recipes import JudgeConfig

# What a squash merge of pull request 7 is titled: "Add pairs (#7)".
_MERGED = re.compile(r"\(#(\d{1,9})\)$")
_ROWS_A_BATCH = 8_192
_PICTURES = (".png", ".jpg", ".jpeg", ".webp")
_SIDES = ("unsafe_prompt", "safe_prompt")
# Reasons that a row is left out for beside those of `hub.contributions.reasons`.
WITHDRAWN = "withdrawn"
NO_USER = "no_user"


@dataclass
class ContributedFile:
    """A file below contributions/ and what became of its rows: taken, waiting for pictures, in the version without them
    (taken before, or by another file), or left out with a reason. `refused` is why the file as a whole was;
    `goes_along` is for a picture whose tables go."""

    name: str
    user: str
    size: int
    pull_request: int | None = None
    rows: int = 0
    taken: int = 0
    waiting: int = 0
    before: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    refused: str = ""
    goes_along: bool = False

    @property
    def is_done(self) -> bool:
        """Whether nothing in it is of use to a later release: it goes when its pairs come in."""
        if self.waiting or self.refused:
            return False
        return self.goes_along or self.taken > 0 or (self.before > 0 and not self.left_out)

    def facts(self) -> dict[str, Any]:
        """What a manifest says of it."""
        return {
            "file": self.name,
            "user": self.user,
            "pull_request": self.pull_request,
            "rows": self.rows,
            "taken": self.taken,
            "waiting": self.waiting,
            "left_out": dict(sorted(self.left_out.items())),
        }


def list_contributions(api: Any, name: str, tree: dict[str, Any], commit: str) -> list[ContributedFile]:
    """The contributed files of a commit, in the order of their names, with the pull request that brought each."""
    paths = sorted(path for path in tree if path.startswith(CONTRIBUTIONS))
    numbers = _pull_requests(api, name, paths, commit)
    authors: dict[int, str] = {}
    files = []
    for path in paths:
        number = numbers.get(path)
        parts = path.removeprefix(CONTRIBUTIONS).split("/")
        file = ContributedFile(path, parts[0] if len(parts) > 1 else "", tree[path].size, number)
        if not file.user and number is not None:
            # Sent by a plain client, without a folder of one's own.
            if number not in authors:
                authors[number] = _author(api, name, number)
            file.user = authors[number]
        file.refused = name_fault(path.removeprefix(CONTRIBUTIONS)) or _user_fault(file.user)
        files.append(file)
    return files


def _author(api: Any, name: str, number: int) -> str:
    """Who opened a pull request; empty where there is none of that number, for a commit's title may say anything."""
    try:
        details = api.get_discussion_details(name, number, repo_type="dataset")
    except Exception as error:
        if status_of(error) != 404:
            raise
        return ""
    return str(details.author) if details.is_pull_request and details.status == "merged" else ""


def _user_fault(user: str) -> str:
    try:
        source_of(user)
    except ValueError:
        return NO_USER
    return ""


def _pull_requests(api: Any, name: str, paths: list[str], commit: str) -> dict[str, int]:
    """The number in the title of the commit that last changed each path, where it is a merge's."""
    found: dict[str, int] = {}
    for batch in batched(paths, 100):
        for entry in api.get_paths_info(name, batch, expand=True, revision=commit, repo_type="dataset"):
            merged = _MERGED.search(entry.last_commit.title) if getattr(entry, "last_commit", None) else None
            if merged:
                found[entry.path] = int(merged[1])
    return found


def fetch_contributions(
    api: Any, name: str, tree: dict[str, Any], commit: str, files: list[ContributedFile], out: Path
) -> Path:
    """Fetch the files that are not refused into a fresh folder; returns the folder that their names lie below.

    Raises:
        `HubError`: where one is not what the Hub lists.
    """
    shutil.rmtree(out, ignore_errors=True)
    for user, own in _by_user(files).items():
        total = 0
        for place, file in enumerate(own):
            total += file.size
            if total > LIMITS.bytes or place >= LIMITS.files:
                file.refused = "too_many_bytes" if total > LIMITS.bytes else "too_many_files"
        del user
    wanted = [file.name for file in files if not file.refused]
    if wanted:
        api.snapshot_download(
            name,
            repo_type="dataset",
            revision=commit,
            local_dir=out,
            allow_patterns=[glob.escape(path) for path in wanted],
        )
    for path in wanted:
        if not is_same(read_file(out / path), tree[path]):
            raise HubError(f"{name}: {shown(path)} differs from its checksum on the Hub; try again")
    return out / CONTRIBUTIONS


def _by_user(files: list[ContributedFile]) -> dict[str, list[ContributedFile]]:
    users: dict[str, list[ContributedFile]] = {}
    for file in files:
        if not file.refused:
            users.setdefault(file.user, []).append(file)
    return dict(sorted(users.items()))


class _Part(Reading):
    """The rows of a reading that have pictures, or those that have none."""

    def __init__(self, root: Path, files: list[str], limits: Limits, pictured: bool) -> None:
        super().__init__(root, files, limits)
        self._pictured = pictured
        self.passed_over = 0

    def __iter__(self) -> Iterator[RawRow]:
        for row in super().__iter__():
            if any(row.values.get(column) is not None for column in IMAGE_COLUMNS) == self._pictured:
                yield row
            else:
                self.passed_over += 1


def _prompts(row: Row) -> str:
    return content_key(normalise(row["unsafe_prompt"]), normalise(row["safe_prompt"]))


class TakenRows:
    """The rows that a release takes in, on disk, pictures and all. A context manager, which removes the file."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        self._path = path
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode=OFF")
        self._connection.execute("PRAGMA synchronous=OFF")
        self._connection.execute(
            "CREATE TABLE rows (place INTEGER PRIMARY KEY, pair_id TEXT UNIQUE, prompts TEXT, split INTEGER, "
            "category INTEGER, concept TEXT, row TEXT, unsafe_image BLOB, safe_image BLOB)"
        )
        self._connection.execute("CREATE INDEX by_prompts ON rows (prompts)")

    def __enter__(self) -> "TakenRows":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()
        self._path.unlink(missing_ok=True)

    def add(self, row: Row, split: str, category: int) -> bool:
        """Keep a row; False where one of the same pair id is kept already."""
        images = [row.pop(column) for column in IMAGE_COLUMNS]
        values = (
            row["pair_id"],
            _prompts(row),
            SPLITS.index(split),
            category,
            row["concept"],
            json.dumps(row),
            *images,
        )
        done = self._connection.execute(
            "INSERT OR IGNORE INTO rows (pair_id, prompts, split, category, concept, row, unsafe_image, safe_image) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            values,
        )
        return done.rowcount == 1

    def has(self, row: Row) -> bool:
        """Whether a pair of the same two prompts is kept, whatever drew its pictures."""
        found = self._connection.execute("SELECT 1 FROM rows WHERE prompts = ?", (_prompts(row),))
        return found.fetchone() is not None

    def in_order(self) -> Iterator[tuple[int, Row]]:
        """(place, row without its pictures) in the order in which rows came."""
        for place, row in self._connection.execute("SELECT place, row FROM rows ORDER BY place"):
            yield place, json.loads(row)

    def rename(self, place: int, concept: str) -> None:
        """Give a row's concept another spelling."""
        ((text,),) = self._connection.execute("SELECT row FROM rows WHERE place = ?", (place,)).fetchall()
        row = json.dumps({**json.loads(text), "concept": concept})
        self._connection.execute("UPDATE rows SET concept = ?, row = ? WHERE place = ?", (concept, row, place))

    def remove(self, places: list[int]) -> None:
        """Let go of rows."""
        self._connection.executemany("DELETE FROM rows WHERE place = ?", [(place,) for place in places])

    def counts(self) -> dict[str, int]:
        """Rows by split; a split without rows is left out."""
        found = self._connection.execute("SELECT split, count(*) FROM rows GROUP BY split ORDER BY split")
        return {SPLITS[split]: count for split, count in found}

    def __len__(self) -> int:
        return sum(self.counts().values())

    def concepts(self, split: str) -> list[tuple[int, str]]:
        """(category's number, concept) of the rows of a split, each once, in order."""
        query = "SELECT DISTINCT category, concept FROM rows WHERE split = ? ORDER BY category, concept"
        return list(self._connection.execute(query, (SPLITS.index(split),)))

    def by_split(self) -> Iterator[Row]:
        """The rows in the order of split, category, concept and pair id, as `compact.compact` takes them."""
        query = "SELECT split, row, unsafe_image, safe_image FROM rows ORDER BY split, category, concept, pair_id"
        for split, text, *images in self._connection.execute(query):
            row = {**json.loads(text), "split": SPLITS[split]}
            for column, png in zip(IMAGE_COLUMNS, images, strict=True):
                name = f"{row['pair_id']}_{column.removesuffix('_image')}.png"
                row[column] = None if png is None else {"bytes": png, "path": name}
            yield row


@dataclass(frozen=True)
class Conditions:
    """On what rows are taken in.

    Args:
        published (`Published`): the version that they are checked against.
        pictures (`bool`): whether a row needs pictures; data that was imported without has none.
        chooser (`SplitChooser`): says each row's split.
        categories (`list[str]`): of the new version.
        withdrawn (`Set[str]`): pair ids that were withdrawn, now or by an earlier release.
        judge (`JudgeConfig`, *optional*): judges that look at the pictures.
        work (`Path`): folder for temporary files.
        list_left (`Callable`): told of each row that is left out: file, row's number, pair id if any, reasons.
    """

    published: Published
    pictures: bool
    chooser: SplitChooser
    categories: list[str]
    withdrawn: Set[str]
    judge: JudgeConfig | None
    work: Path
    list_left: Callable[[str, int, str | None, tuple[str, ...]], None]


def take_rows(root: Path, files: list[ContributedFile], conditions: Conditions, taken: TakenRows) -> None:
    """Check what was contributed and keep the rows that pass; each file of `files` comes to say what became of it.

    Rows with pictures are looked at before those without, so that a pair that waits does not stand in the way of the
    same pair with its pictures.
    """
    whole: set[str] = set()
    for pictured in (True, False) if conditions.pictures else (None,):
        for user, own in _by_user(files).items():
            if user in whole:
                continue
            names = {file.name.removeprefix(CONTRIBUTIONS): file for file in own}
            reading = Reading(root, list(names)) if pictured is None else _Part(root, list(names), LIMITS, pictured)
            options = Options(user, conditions.work, conditions.judge if pictured else None)
            with check_rows(reading, conditions.published, options) as checked:
                _take(checked, names, conditions, taken, waits=pictured is False)
            if isinstance(reading, _Part) and not reading.passed_over:
                whole.add(user)
            for refused in reading.refused:
                if refused.file in names:
                    names[refused.file].refused = refused.reason
    by_name = {file.name: file for file in files}
    _leave_out_repeated(taken, by_name, conditions)
    _settle_new_concepts(taken, by_name, conditions)
    for own in _by_user(files).values():
        _let_pictures_go(own)


def _let_pictures_go(files: list[ContributedFile]) -> None:
    """A picture that is a file of its own goes when all tables go that may name it: those beside it or above it."""
    tables = [file for file in files if not file.name.lower().endswith(_PICTURES)]
    for file in files:
        if file.name.lower().endswith(_PICTURES):
            naming = [table for table in tables if file.name.startswith(f"{table.name.rpartition('/')[0]}/")]
            file.goes_along = bool(naming) and all(table.is_done for table in naming)


def _take(
    checked: Checked, names: dict[str, ContributedFile], conditions: Conditions, taken: TakenRows, waits: bool
) -> None:
    for result in checked.results():
        file = names[result.file]
        file.rows += 1
        if "published_pair" in result.reasons:
            file.before += 1
        elif result.reasons:
            file.left_out[result.reasons[0]] += 1
            conditions.list_left(file.name, result.number, result.pair_id, result.reasons)
    for row in checked.passed_rows():
        file = names[row["file"]]
        if row["pair_id"] in conditions.withdrawn:
            file.left_out[WITHDRAWN] += 1
            conditions.list_left(file.name, row["number"], row["pair_id"], (WITHDRAWN,))
        elif waits:
            # Where the same pair has come with its pictures, nothing waits for them.
            comes = taken.has(row)
            file.before += comes
            file.waiting += not comes
        else:
            kept = {name: value for name, value in row.items() if name != "contents"}
            kept["file"] = file.name
            kept["seed"] = seed_from(row["pair_id"], 0) if row.get("seed") is None else row["seed"]
            for column in ("llm", "t2i"):
                kept[column] = row.get(column) or "unknown"
            for column in VERDICT_COLUMNS:
                kept[column] = row.get(column) or []
            for column in IMAGE_COLUMNS:
                kept[column] = row.get(column) if conditions.pictures else None
            split = conditions.chooser.choose(row)
            if taken.add(kept, split, conditions.categories.index(row["category"])):
                file.taken += 1
            else:
                file.left_out["duplicate_pair"] += 1
                conditions.list_left(file.name, row["number"], row["pair_id"], ("duplicate_pair",))


def _leave_out_repeated(taken: TakenRows, files: dict[str, ContributedFile], conditions: Conditions) -> None:
    """Let go of rows that repeat, or nearly repeat, a prompt of a row that came before: people's contributions are
    checked one by one, and not against each other."""
    repeated: list[int] = []
    with NearDuplicates(conditions.published.build.near_duplicate, conditions.work) as index:
        for batch in batched(taken.in_order(), _ROWS_A_BATCH):
            index.add([row[side] for _, row in batch for side in _SIDES])
        if not index.count:
            return
        duplicates = index.find()
        standing = Standing(duplicates)
        for number, (place, row) in enumerate(taken.in_order()):
            pair = (2 * number, 2 * number + 1)
            if any(map(standing.has, pair)):
                reason = "duplicate_prompt"
            elif any(map(standing.has_near, pair)):
                reason = "near_duplicate"
            else:
                for prompt in pair:
                    standing.add(prompt)
                continue
            repeated.append(place)
            files[row["file"]].taken -= 1
            files[row["file"]].left_out[reason] += 1
            conditions.list_left(row["file"], row["number"], row["pair_id"], (reason,))
    taken.remove(repeated)


def _settle_new_concepts(taken: TakenRows, files: dict[str, ContributedFile], conditions: Conditions) -> None:
    """Give a new concept one spelling, and let go of rows that its category, its name or their prompts speak against:
    people's contributions know nothing of each other's concepts."""
    changed = {
        place: (concept, reason) for place, concept, reason in settle_new_concepts(taken.in_order, conditions.published)
    }
    gone: list[int] = []
    for place, row in taken.in_order() if changed else ():
        reason = changed[place][1] if place in changed else None
        if reason is not None:
            gone.append(place)
            files[row["file"]].taken -= 1
            files[row["file"]].left_out[reason] += 1
            conditions.list_left(row["file"], row["number"], row["pair_id"], (reason,))
    taken.remove(gone)
    for place, (concept, reason) in changed.items():
        if reason is None:
            taken.rename(place, concept)
