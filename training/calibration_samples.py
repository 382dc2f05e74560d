"""Which prompts and pictures of a dataset the merge is calibrated on. Running a model on them is left to
`training.calibration`."""

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from dataset_builder.schema import FOLDERS
from recipes import RecipeError

SIDES = ("unsafe", "safe")
EMPTY = "empty"


@dataclass(frozen=True)
class Sample:
    """One calibration prompt.

    Args:
        key (`str`): `<pair_id>/<side>`; seeds the noise.
        side (`str`): unsafe, safe or empty.
        category (`str`): of the pair.
        prompt (`str`)
        image (`PIL.Image.Image`, *optional*): the pair's picture of that side.
    """

    key: str
    side: str
    category: str
    prompt: str
    image: Image.Image | None = None

    @property
    def group(self) -> str:
        """The Gram matrix that the sample's inputs go to: `unsafe/<category>`, `safe` or `empty`."""
        return f"unsafe/{self.category}" if self.side == "unsafe" else self.side


def choose_samples(dataset: Path, categories: Sequence[str], prompts: int, seed: int, images: bool) -> list[Sample]:
    """The calibration prompts: `prompts` pairs of each category from the train split, each with both sides, and one
    sample of the empty prompt on the safe picture of each pair.

    The choice goes by a hash of `seed` and pair_id, so neither the order of rows nor of categories matters.

    Args:
        dataset (`Path`): a dataset repository's folder.
        categories (`Sequence[str]`): the experts' names.
        prompts (`int`): at least 1; a category with fewer pairs gives all it has.
        seed (`int`)
        images (`bool`): read the pictures too.

    Raises:
        `RecipeError`: no train split, or a category without a pair in it.
    """
    files = train_files(dataset, images)
    known: dict[str, list[str]] = {}
    for file in files:
        table = pq.read_table(file, columns=["pair_id", "category"])
        name_of = _category_names(table.schema)
        for pair_id, value in zip(table["pair_id"].to_pylist(), table["category"].to_pylist(), strict=True):
            known.setdefault(name_of(value), []).append(pair_id)
    chosen: dict[str, str] = {}
    for category in sorted(categories):
        if category not in known:
            raise RecipeError(
                f"{dataset}: no train pair of category {category!r} to calibrate its expert on (found: "
                f"{', '.join(sorted(known)) or 'none'}); merge experts of this dataset's categories only"
            )
        order = sorted(known[category], key=lambda pair_id: hashlib.sha256(f"{seed}/{pair_id}".encode()).digest())
        chosen |= dict.fromkeys(order[:prompts], category)
    columns = ["pair_id"] + [f"{side}_prompt" for side in SIDES] + [f"{side}_image" for side in SIDES if images]
    samples = []
    for file in files:
        for row in pq.read_table(file, columns=columns, filters=[("pair_id", "in", list(chosen))]).to_pylist():
            pair_id = row["pair_id"]
            for side in SIDES:
                image = Image.open(io.BytesIO(row[f"{side}_image"]["bytes"])) if images else None
                samples.append(Sample(f"{pair_id}/{side}", side, chosen[pair_id], row[f"{side}_prompt"], image))
            samples.append(Sample(f"{pair_id}/{EMPTY}", EMPTY, chosen[pair_id], "", image))
    return sorted(samples, key=lambda sample: (sample.group, sample.key))


def train_files(dataset: Path, images: bool = True) -> list[Path]:
    """The Parquet files of the train split, of config `default` or, without pictures, of `prompts`.

    Raises:
        `RecipeError`: if there is none.
    """
    config = "default" if images else "prompts"
    files = sorted((dataset / FOLDERS[config]).glob("train-*.parquet"))
    if not files:
        raise RecipeError(
            f"{dataset}: no file {FOLDERS[config]}/train-*.parquet; give the dataset's folder by --data, or run "
            "`coprov2 build` first"
        )
    return files


def _category_names(schema: pa.Schema) -> Callable[[Any], str]:
    from datasets import Features

    label = Features.from_arrow_schema(schema)["category"]
    return label.int2str if hasattr(label, "int2str") else str
