"""The prompts that an evaluation draws, read from a dataset folder's Parquet files.

Reads prompts, seeds and, apart from them, pictures; the columns are those of `dataset_builder.schema`. The folder may
come from anyone: what is wrong in it is named by file, row and field."""

import hashlib
import json
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from dataset_builder.schema import MANIFEST
from recipes import RecipeError

_COLUMNS = ["pair_id", "category", "unsafe_prompt", "safe_prompt", "seed", "t2i"]
# Thousands of them would hide the results that they stand in.
REFUSED_SHOWN = 200


@dataclass(frozen=True)
class Pair:
    """One row of a split, without its verdicts.

    Args:
        pair_id, split, category (`str`): which row.
        unsafe_prompt, safe_prompt (`str`): its prompts.
        seed (`int`): of both pictures.
        t2i (`str`): identity of the model that drew the row's pictures.
    """

    pair_id: str
    split: str
    category: str
    unsafe_prompt: str
    safe_prompt: str
    seed: int
    t2i: str


@dataclass(frozen=True)
class Request:
    """One picture to draw: a side of a pair."""

    pair: Pair
    side: str

    @property
    def prompt(self) -> str:
        """The prompt of this side."""
        return self.pair.unsafe_prompt if self.side == "unsafe" else self.pair.safe_prompt

    @property
    def wanted(self) -> tuple[str, int]:
        """Prompt and seed, all that a model is told."""
        return self.prompt, self.pair.seed


def read_manifest(dataset: Path) -> dict[str, Any]:
    """The manifest `coprov2.json` of a dataset or adapter folder.

    Raises:
        `RecipeError`: where it is missing or is no JSON object.
    """
    path = dataset / MANIFEST
    if not path.is_file():
        raise RecipeError(f"{path}: no such file; expected a folder written by `coprov2 build` or `coprov2 merge`")
    try:
        manifest = json.loads(path.read_text("utf8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RecipeError(f"{path}: not JSON ({type(error).__name__}); build or merge again") from None
    if not isinstance(manifest, dict):
        raise RecipeError(f"{path}: found {type(manifest).__name__}, expected a JSON object; build or merge again")
    return manifest


def split_files(dataset: Path, split: str) -> list[Path]:
    """The Parquet files of one split of a dataset folder, in their order.

    Raises:
        `RecipeError`: where there is none.
    """
    files = sorted((dataset / "data").glob(f"{split}-*-of-*.parquet"))
    if not files:
        # The main split cannot be left out.
        or_less = "" if split == "test" else f", or take {split} out of evaluate.splits"
        raise RecipeError(
            f"{dataset / 'data'}: no file {split}-*.parquet; build the dataset, or give the folder of one that has "
            f"this split{or_less}"
        )
    return files


@contextmanager
def _file_said(path: Path) -> Iterator[None]:
    """Turns what reading a damaged Parquet file gives into a `RecipeError`; Arrow's own words may quote a row."""
    try:
        yield
    except RecipeError:
        raise
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecipeError(
            f"{path}: cannot be read as a Parquet file ({type(error).__name__}); fetch or build the dataset again"
        ) from None


def _batches(path: Path, columns: Sequence[str]) -> Iterator[tuple[pa.Schema, pa.RecordBatch]]:
    """The batches of a file's columns, with the schema of the file.

    Raises:
        `RecipeError`: where the file is damaged or lacks a column.
    """
    with _file_said(path):
        file = pq.ParquetFile(path)
        schema = file.schema_arrow
        missing = [column for column in columns if column not in schema.names]
        if missing:
            raise RecipeError(f"{path}: no column {', '.join(missing)}; found {', '.join(schema.names)}")
        for batch in file.iter_batches(batch_size=256, columns=list(columns)):
            yield schema, batch


def scan_pairs(dataset: Path, split: str) -> Iterator[tuple[Pair, str | None]]:
    """The rows of one split of a dataset folder, in the files' order, each with the hard block's rule that refuses it:
    the folder may come from elsewhere, and no such row may be drawn.

    Args:
        dataset (`Path`): folder with `data/<split>-*.parquet`.
        split (`str`): name of the split.

    Raises:
        `RecipeError`: where the split has no file, and for a file that is damaged, lacks a column or holds a value of
            another kind.
    """
    from dataset_builder.block_list import blocked_by

    for path in split_files(dataset, split):
        number = 0
        names: list[str] | None = None
        for schema, batch in _batches(path, _COLUMNS):
            with _file_said(path):
                names = _category_names(schema) if number == 0 else names
                rows = batch.to_pylist()
            for row in rows:
                number += 1
                pair = _pair(row, split, names, f"{path}: row {number}")
                yield pair, blocked_by(pair.category, pair.unsafe_prompt, pair.safe_prompt)


def read_pairs(dataset: Path, split: str, refused: list[str] | None = None) -> list[Pair]:
    """The rows of one split that may be drawn, as [`scan_pairs`] finds them. The others are listed on standard error.

    Args:
        dataset (`Path`), split (`str`): as for [`scan_pairs`].
        refused (`list[str]`, *optional*): takes the ids that the hard block refuses, each as `ID (RULE)`.
    """
    pairs: list[Pair] = []
    blocked: list[str] = []
    for pair, rule in scan_pairs(dataset, split):
        if rule:
            blocked.append(f"{pair.pair_id[:80]} ({rule})")
        else:
            pairs.append(pair)
    if blocked:
        found = ", ".join(blocked[:10]) + (", ..." if len(blocked) > 10 else "")
        tqdm.write(f"{split}: {len(blocked)} pairs are refused by the hard block: {found}", file=sys.stderr)
    if refused is not None:
        refused += blocked
    return pairs


def refused_record(refused: Sequence[str]) -> dict[str, Any]:
    """What results say of rows or prompts that the hard block refuses: how many, and the first 200 as `ID (RULE)`."""
    return {
        "refused": len(refused),
        "refused_ids": list(refused[:REFUSED_SHOWN]),
        "refused_ids_left_out": max(0, len(refused) - REFUSED_SHOWN),
    }


def _category_names(schema: pa.Schema) -> list[str] | None:
    """What the labels of the column `category` mean; None where it holds names itself."""
    from datasets import ClassLabel, Features

    label = Features.from_arrow_schema(schema)["category"]
    return list(label.names) if isinstance(label, ClassLabel) else None


def _pair(row: dict[str, Any], split: str, names: list[str] | None, where: str) -> Pair:
    """A row of `_COLUMNS`, each looked at for its type."""

    def wrong(field: str, expected: str) -> RecipeError:
        # Only the type: a prompt does not belong into an error.
        found = "nothing" if row[field] is None else type(row[field]).__name__
        return RecipeError(f"{where}: {field}: found {found}, expected {expected}; mend the row or take it out")

    if names is not None:
        label = row["category"]
        if not isinstance(label, int) or not 0 <= label < len(names):
            raise wrong("category", f"a label from 0 to {len(names) - 1}")
        row["category"] = names[label]
    for field in ("pair_id", "category", "unsafe_prompt", "safe_prompt"):
        if not isinstance(row[field], str):
            raise wrong(field, "text")
    if isinstance(row["seed"], bool) or not isinstance(row["seed"], int) or not 0 <= row["seed"] < 2**63:
        raise wrong("seed", "a whole number from 0 to 2^63 - 1")
    if not isinstance(row["t2i"], str | None):
        raise wrong("t2i", "text")
    # Nobody has said who drew it.
    row["t2i"] = row["t2i"] or ""
    return Pair(split=split, **row)


def read_pictures(dataset: Path, split: str, only: Collection[str]) -> Iterator[dict[tuple[str, str], bytes | None]]:
    """The encoded pictures of some pairs of a split, by (pair id, side), the rows of a batch at a time; None for one
    that does not stand in the file itself.

    Args:
        dataset (`Path`), split (`str`): as for [`read_pairs`].
        only (`Collection[str]`): ids of the pairs.

    Raises:
        `RecipeError`: where the split has no file, and for a file that is damaged or lacks a column.
    """
    for path in split_files(dataset, split):
        for _, batch in _batches(path, ["pair_id", "unsafe_image", "safe_image"]):
            with _file_said(path):
                # Before rows are made of them: the pictures of the others are not wanted in memory.
                wanted = [name in only for name in batch["pair_id"].to_pylist()]
                rows = batch.filter(pa.array(wanted, pa.bool_())).to_pylist()
            found: dict[tuple[str, str], bytes | None] = {}
            for row in rows:
                for side in ("unsafe", "safe"):
                    image = row[f"{side}_image"]
                    png = image.get("bytes") if isinstance(image, dict) else None
                    found[row["pair_id"], side] = png if isinstance(png, bytes) else None
            yield found


def select(pairs: list[Pair], limit: int | None) -> list[Pair]:
    """At most `limit` pairs, spread evenly over the categories; which ones depends on the pair ids alone."""
    if limit is None or limit >= len(pairs):
        return pairs
    order = sorted(pairs, key=lambda pair: hashlib.sha256(pair.pair_id.encode()).digest())
    seen: dict[str, int] = {}
    ranked = []
    for pair in order:
        seen[pair.category] = seen.get(pair.category, 0) + 1
        ranked.append((seen[pair.category], pair.category, pair.pair_id))
    kept = {pair_id for *_, pair_id in sorted(ranked)[:limit]}
    return [pair for pair in pairs if pair.pair_id in kept]


def prompts_sha256(pairs: dict[str, list[Pair]]) -> str:
    """Hash of what a model is asked to draw: rows, prompts and seeds of each split, and who drew the dataset."""
    digest = hashlib.sha256()
    for split in pairs:
        for pair in pairs[split]:
            line = [split, pair.pair_id, pair.category, pair.unsafe_prompt, pair.safe_prompt, pair.seed, pair.t2i]
            digest.update(json.dumps(line, ensure_ascii=False).encode())
    return digest.hexdigest()
