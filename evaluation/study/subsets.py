"""Subsets of a dataset's concepts for the scaling study: which ones, and their training pairs as a dataset folder.

Everything downstream (experts, calibration, tuning) reads the folder, so nothing sees a concept that is not aligned."""

import hashlib
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dataset_builder.schema import FOLDERS
from recipes import RecipeError
from recipes.writing import whole_file, write_json

_RECORD = "subset.json"


def _files(dataset: Path, config: str, split: str) -> list[Path]:
    files = sorted((dataset / FOLDERS[config]).glob(f"{split}-*.parquet"))
    if not files:
        raise RecipeError(f"{dataset / FOLDERS[config]}: no {split}-*.parquet; build the dataset first")
    return files


def concepts_of(dataset: Path, split: str) -> dict[str, tuple[str, str]]:
    """Pair id -> (category, concept) of a split; the categories as their labels are stored.

    Raises:
        `RecipeError`: where the split has no file or no column `concept`.
    """
    found = {}
    for path in _files(dataset, "default", split):
        names = pq.read_schema(path).names
        if "concept" not in names:
            raise RecipeError(f"{path}: no column concept; a scaling study needs it, found {', '.join(names)}")
        table = pq.read_table(path, columns=["pair_id", "category", "concept"]).to_pydict()
        for pair_id, category, concept in zip(table["pair_id"], table["category"], table["concept"], strict=True):
            found[pair_id] = (str(category), concept)
    return found


def nested_order(concepts: dict[str, tuple[str, str]], seed: int) -> list[tuple[str, str]]:
    """(category, concept) in the order in which they are aligned: the first k are the subset of k.

    A turn takes one concept of each category; who comes first in a turn, and the order within a category, go by a hash
    of `seed` and name. So a subset holds about as many of each category, and a larger one holds the smaller ones.
    """

    def rank(*words: object) -> bytes:
        return hashlib.sha256(json.dumps(words).encode()).digest()

    by_category: dict[str, list[str]] = {}
    for category, concept in set(concepts.values()):
        by_category.setdefault(category, []).append(concept)
    turns = []
    for category, names in by_category.items():
        ordered = sorted(names, key=lambda name: rank(seed, category, name))
        turns += [(turn, rank(seed, turn, category), category, name) for turn, name in enumerate(ordered)]
    return [(category, name) for *_, category, name in sorted(turns)]


def write_subset(dataset: Path, folder: Path, kept: list[tuple[str, str]]) -> Path:
    """Write the training pairs of some concepts as a dataset folder; left alone where it stands already.

    Args:
        dataset (`Path`): the whole dataset. folder (`Path`): of the subset, read by training and calibration only.
        kept (`list[tuple[str, str]]`): (category, concept).
    """
    sources = [path for config in FOLDERS for path in _files(dataset, config, "train")]
    sums = {f"{path.parent.name}/{path.name}": _sha256(path) for path in sources}
    record = {"kind": "concept subset", "concepts": sorted(map(list, kept)), "sources": sums}
    path = folder / _RECORD
    if path.is_file() and json.loads(path.read_text("utf8")) == record:
        return folder
    path.unlink(missing_ok=True)
    for old in folder.glob("*/*.parquet"):
        old.unlink()
    ids = {pair_id for pair_id, key in concepts_of(dataset, "train").items() if key in set(kept)}
    for config in FOLDERS:
        files = _files(dataset, config, "train")
        schema = pq.read_schema(files[0])
        target = folder / FOLDERS[config] / "train-00000-of-00001.parquet"
        with whole_file(target) as part, pq.ParquetWriter(part, schema) as writer:
            for source in files:
                # A batch at a time: the pictures of a whole dataset may not fit into memory.
                for batch in pq.ParquetFile(source).iter_batches(batch_size=256):
                    chosen = pa.array([pair_id in ids for pair_id in batch["pair_id"].to_pylist()])
                    writer.write_table(pa.Table.from_batches([batch.filter(chosen)], schema=schema))
    write_json(path, record)
    return folder


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
