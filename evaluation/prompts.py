"""The prompts that an evaluation draws, read from a dataset folder's Parquet files.

Reads prompts, seeds and the base model's pictures; the columns are those of `dataset_builder.schema`."""

import hashlib
import json
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from dataset_builder.schema import MANIFEST
from recipes import RecipeError

_COLUMNS = ["pair_id", "category", "unsafe_prompt", "safe_prompt", "seed", "t2i"]


@dataclass(frozen=True)
class Pair:
    """One row of a split, without its verdicts.

    Args:
        pair_id, split, category (`str`): which row.
        unsafe_prompt, safe_prompt (`str`): its prompts.
        seed (`int`): of both pictures.
        t2i (`str`): identity of the model that drew the row's pictures.
        unsafe_image, safe_image (`bytes`, *optional*): the row's encoded pictures, where they were read.
    """

    pair_id: str
    split: str
    category: str
    unsafe_prompt: str
    safe_prompt: str
    seed: int
    t2i: str
    unsafe_image: bytes | None = None
    safe_image: bytes | None = None


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

    @property
    def stored(self) -> bytes | None:
        """The dataset's own picture of this side, encoded."""
        return self.pair.unsafe_image if self.side == "unsafe" else self.pair.safe_image


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
    except ValueError as error:
        raise RecipeError(f"{path}: not JSON ({error}); build or merge again") from None
    if not isinstance(manifest, dict):
        raise RecipeError(f"{path}: found {type(manifest).__name__}, expected a JSON object; build or merge again")
    return manifest


def read_pairs(dataset: Path, split: str, images: bool = True, only: Collection[str] | None = None) -> list[Pair]:
    """The rows of one split of a dataset folder, in the files' order.

    Rows that the hard block refuses are left out and listed by name on standard error: the folder may come from
    elsewhere, and what is read here is drawn.

    Args:
        dataset (`Path`): folder with `data/<split>-*.parquet`.
        split (`str`): name of the split.
        images (`bool`, *optional*, defaults to `True`): whether to read the pictures as well.
        only (`Collection[str]`, *optional*): ids of the pairs to read; all unless given.

    Raises:
        `RecipeError`: where the split has no file or a file lacks a column.
    """
    from datasets import ClassLabel, Features

    from dataset_builder.block_list import blocked_by

    files = sorted((dataset / "data").glob(f"{split}-*-of-*.parquet"))
    if not files:
        raise RecipeError(
            f"{dataset / 'data'}: no file {split}-*.parquet; build the dataset or take {split} out of evaluate.splits"
        )
    pairs = []
    blocked: list[str] = []
    for path in files:
        file = pq.ParquetFile(path)
        wanted = [*_COLUMNS, *(("unsafe_image", "safe_image") if images else ())]
        missing = [column for column in wanted if column not in file.schema_arrow.names]
        if missing:
            raise RecipeError(f"{path}: no column {', '.join(missing)}; found {', '.join(file.schema_arrow.names)}")
        label = Features.from_arrow_schema(file.schema_arrow)["category"]
        for batch in file.iter_batches(batch_size=256, columns=wanted):
            if only is not None:
                # Before rows are made of them: the pictures of the others are not wanted in memory.
                batch = batch.filter(pa.array([name in only for name in batch["pair_id"].to_pylist()], pa.bool_()))
            for row in batch.to_pylist():
                category = row["category"]
                for side in ("unsafe_image", "safe_image"):
                    if row.get(side) is not None:
                        row[side] = row[side]["bytes"]
                row["category"] = label.int2str(category) if isinstance(label, ClassLabel) else category
                rule = blocked_by(row["category"], row["unsafe_prompt"], row["safe_prompt"])
                if rule:
                    blocked.append(f"{row['pair_id']} ({rule})")
                else:
                    pairs.append(Pair(split=split, **row))
    if blocked:
        found = ", ".join(blocked[:10]) + (", ..." if len(blocked) > 10 else "")
        tqdm.write(f"{split}: {len(blocked)} pairs are refused by the hard block: {found}", file=sys.stderr)
    return pairs


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
