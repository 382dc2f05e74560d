"""The shards of a new version: those of the published one byte for byte wherever they can stay, and new ones behind.

A shard is written anew only where a pair in it is withdrawn, where it is the last of its split and holds less than one
row group while rows come behind it, or where the columns change. The order of published pairs never changes."""

import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Set
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dataset_builder.schema import (
    CONFIGS,
    FOLDERS,
    IMAGE_COLUMNS,
    ROWS_PER_GROUP,
    SPLITS,
    Row,
    configs_of,
    features,
    shard_name,
    shards_by_split,
)
from dataset_builder.shards import Files, Shards
from hub.client import HubError

_SCRATCH = ".compact"


def label_names(path: Path) -> list[str]:
    """The categories behind the class labels of a shard.

    Raises:
        `HubError`: where the column `category` has no class labels.
    """
    from datasets import ClassLabel, Features

    label = Features.from_arrow_schema(pq.read_schema(path)).get("category")
    if not isinstance(label, ClassLabel):
        raise HubError(f"{path}: its column category has no class labels; build the dataset again and push it")
    return list(label.names)


def column_changes(path: Path, config: str, categories: list[str]) -> list[str]:
    """In which columns a published shard differs from those that a version has today, in words; empty where it does
    not. The order of columns counts, for files of one config must have the same."""
    from datasets import Features

    found = Features.from_arrow_schema(pq.read_schema(path))
    wanted = features(categories, images=config == "default")
    changes = [f"{name} is new" for name in wanted if name not in found]
    changes += [f"{name} is gone" for name in found if name not in wanted]
    changes += [f"{name} has another type" for name in wanted if name in found and found[name] != wanted[name]]
    return changes or ([] if list(found) == list(wanted) else ["the order is another"])


def compact(
    published: Path,
    out: Path,
    entries: dict[str, dict[str, Any]],
    new_rows: Iterable[Row],
    new_counts: dict[str, int],
    withdrawn: Set[str],
    categories: list[str],
    rewrite_all: bool = False,
) -> Files:
    """Write the Parquet files of a new version into `out`; the same input gives the same bytes.

    Args:
        published (`Path`): folder of the published version.
        out (`Path`): the new version's folder, whose `data/` and `prompts/` are made anew.
        entries (`dict`): rows, bytes and sha256 of each published file, as its manifest states them.
        new_rows (`Iterable[dict]`): columns of the schema and `split`, all rows of a split one after the other in the
            order of `SPLITS`; `category` is a name, pictures are `{"bytes", "path"}`. Read once.
        new_counts (`dict[str, int]`): how many rows of each split will come.
        withdrawn (`Set[str]`): pair ids that the new version does not hold.
        categories (`list[str]`): names behind the class labels.
        rewrite_all (`bool`, *optional*, defaults to `False`): write every shard anew, with today's columns.

    Returns:
        Rows, bytes and sha256 of each file by its path in `out`, in the order of config, split and shard.
    """
    configs = configs_of(entries)
    for folder in (*FOLDERS.values(), _SCRATCH):
        shutil.rmtree(out / folder, ignore_errors=True)
    held = {config: shards_by_split(published, config) for config in configs}
    coming = groupby(new_rows, key=lambda row: row["split"])
    group = next(coming, None)
    files: dict[str, Files] = {config: {} for config in CONFIGS}
    for split in SPLITS:
        sequences = []
        for config in configs:
            sequence = _Sequence(out, config, split, categories)
            paths = held[config].get(split, [])
            for place, path in enumerate(paths):
                entry = entries[path.relative_to(published).as_posix()]
                short = place == len(paths) - 1 and new_counts.get(split, 0) and entry["rows"] < ROWS_PER_GROUP
                if rewrite_all or short or _holds(path, withdrawn):
                    sequence.rewrite(path, withdrawn)
                else:
                    sequence.keep(path, entry)
            sequences.append(sequence)
        if group is not None and group[0] == split:
            for row in group[1]:
                record = {**row, "category": categories.index(row["category"])}
                for sequence in sequences:
                    sequence.add(record)
            group = next(coming, None)
        for sequence in sequences:
            files[sequence.config] |= sequence.finish()
    shutil.rmtree(out / _SCRATCH, ignore_errors=True)
    return {name: entry for config in CONFIGS for name, entry in files[config].items()}


def _holds(path: Path, withdrawn: Set[str]) -> bool:
    if not withdrawn:
        return False
    ids = pq.read_table(path, columns=["pair_id"])["pair_id"]
    return bool(pc.any(pc.is_in(ids, value_set=pa.array(sorted(withdrawn), pa.string()))).as_py())


class _Sequence:
    """The files of one config and split in their order: kept ones, and runs of rows that are written."""

    def __init__(self, out: Path, config: str, split: str, categories: list[str]) -> None:
        self.config = config
        self._out, self._split, self._categories = out, split, categories
        self._schema = features(categories, images=config == "default").arrow_schema
        self._pieces: list[tuple[Path, dict[str, Any], bool]] = []
        self._runs = 0
        self._writer: Shards | None = None
        self._written = 0

    def keep(self, path: Path, entry: dict[str, Any]) -> None:
        """Take over a file as it is."""
        self._end_run()
        self._pieces.append((path, entry, True))

    def rewrite(self, path: Path, withdrawn: Set[str]) -> None:
        """Write the rows of a file anew but for those that are withdrawn."""
        names = label_names(path)
        for row in _read(path):
            if row["pair_id"] not in withdrawn:
                label = row["category"]
                self.add({**row, "category": -1 if label is None else self._categories.index(names[label])})

    def add(self, record: Row) -> None:
        """Write a row, with its category's number."""
        if self._writer is None:
            place = self._out / _SCRATCH / f"{self.config}-{self._split}-{self._runs}"
            self._writer, self._place = Shards(place, self.config, self._split, self._schema), place
            self._runs += 1
        record = {name: record.get(name) for name in self._schema.names}
        pictures = (record[column] for column in IMAGE_COLUMNS if column in record)
        self._writer.add(record, sum(len((picture or {}).get("bytes") or b"") for picture in pictures))
        self._written += 1

    def finish(self) -> Files:
        """Name all files by their number, and put them into their places."""
        self._end_run()
        files: Files = {}
        for index, (path, entry, kept) in enumerate(self._pieces):
            name = shard_name(self.config, self._split, index, len(self._pieces))
            target = self._out / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if kept:
                _link(path, target)
            else:
                os.replace(path, target)
            files[name] = {key: entry[key] for key in ("rows", "bytes", "sha256") if key in entry}
        return files

    def _end_run(self) -> None:
        if self._writer is not None:
            self._pieces += [(self._place / name, entry, False) for name, entry in self._writer.finish()]
            self._writer = None


def _read(path: Path) -> Iterator[Row]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(ROWS_PER_GROUP):
            yield from batch.to_pylist()


def _link(path: Path, target: Path) -> None:
    """The same file under another name, without a copy where the disk can."""
    try:
        os.link(path, target)
    except OSError:
        shutil.copyfile(path, target)


def count_rows(folder: Path, config: str) -> dict[str, Counter[str]]:
    """Pairs by split and category of a version's folder, read from its files; every split has an entry."""
    counts: dict[str, Counter[str]] = {split: Counter() for split in SPLITS}
    for split, paths in shards_by_split(folder, config).items():
        for path in paths:
            names = label_names(path)
            values = pq.read_table(path, columns=["category"])["category"]
            for entry in pc.value_counts(values).to_pylist():
                counts[split][names[entry["values"]]] += entry["counts"]
    return counts


def published_concepts(folder: Path) -> Iterator[tuple[str, str]]:
    """(split, concept) of the pairs of a version's folder, each once."""
    for split, paths in shards_by_split(folder, "prompts").items():
        found: set[str] = set()
        for path in paths:
            found |= set(pc.unique(pq.read_table(path, columns=["concept"])["concept"]).to_pylist())
        yield from ((split, concept or "") for concept in sorted(found, key=str))
