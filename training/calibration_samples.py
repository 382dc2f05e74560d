"""Which prompts and pictures of a dataset the merge is calibrated on. Running a model on them is left to
`training.calibration`."""

import hashlib
import io
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from dataset_builder.picture_files import embedded
from dataset_builder.schema import FOLDERS
from recipes import RecipeError
from training.pairs import picture_bytes

SIDES = ("unsafe", "safe")
EMPTY = "empty"
# What a picture's place or its decoder may raise.
_UNREADABLE = (
    *(OSError, SyntaxError, ValueError, ImportError, EOFError, struct.error, zlib.error),
    Image.DecompressionBombError,
)


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
        `RecipeError`: no train split, a category without a pair in it, or rows that cannot be calibrated on: they are
            named, and what is wrong with which of their fields.
    """
    files = train_files(dataset, images)
    known: dict[str, list[str]] = {}
    owners: dict[str, str] = {}
    for file in files:
        table = _read(file, ["pair_id", "category"])
        name_of = _category_names(table.schema)
        rows = zip(table["pair_id"].to_pylist(), table["category"].to_pylist(), strict=True)
        for number, (pair_id, value) in enumerate(rows):
            where = f"{file}: row {number}"
            if pair_id is None:
                raise RecipeError(f"{where}: pair_id is null; every pair needs one of its own")
            category = name_of(value)
            if category is None:
                raise RecipeError(f"{where}: pair {pair_id}: category: found {value!r}, expected one of the dataset's")
            if owners.setdefault(pair_id, category) != category:
                raise RecipeError(
                    f"{where}: pair {pair_id}: pair_id stands in category {owners[pair_id]!r} and in {category!r}; "
                    "give each pair its own"
                )
            known.setdefault(category, []).append(pair_id)
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
        for row in _read(file, columns, filters=[("pair_id", "in", list(chosen))]).to_pylist():
            pair_id = row["pair_id"]
            for side in SIDES:
                prompt = row[f"{side}_prompt"]
                if not isinstance(prompt, str):
                    kind = "null" if prompt is None else type(prompt).__name__
                    raise RecipeError(f"{file}: pair {pair_id}: {side}_prompt: found {kind}, expected text")
                image = _picture(row, f"{side}_image", file) if images else None
                samples.append(Sample(f"{pair_id}/{side}", side, chosen[pair_id], prompt, image))
            samples.append(Sample(f"{pair_id}/{EMPTY}", EMPTY, chosen[pair_id], "", image))
    return sorted(samples, key=lambda sample: (sample.group, sample.key))


def _read(file: Path, columns: list[str], **options: Any) -> pa.Table:
    """Columns of a Parquet file; `RecipeError` for one that it lacks, or a damaged file."""
    try:
        missing = sorted(set(columns) - set(pq.read_schema(file).names))
        if not missing:
            return pq.read_table(file, columns=columns, **options)
    except (pa.ArrowException, OSError) as error:
        raise RecipeError(
            f"{file}: cannot be read as Parquet ({_first_line(error)}); build the dataset or fetch it again"
        ) from None
    raise RecipeError(f"{file}: no column {missing[0]!r} to calibrate on; expected {', '.join(columns)}")


def _picture(row: dict[str, Any], name: str, file: Path) -> Image.Image:
    """A row's picture, not decoded yet but found to be whole."""
    where = f"{file}: pair {row['pair_id']}: {name}"
    data, path = embedded(row[name])
    if not data and not path:
        raise RecipeError(f"{where}: no picture to calibrate on; set merge.calibration_latents=noise")
    try:
        found = picture_bytes({"pair_id": row["pair_id"], name: {"bytes": data or None, "path": path}}, name)
        Image.open(io.BytesIO(found)).load()
        return Image.open(io.BytesIO(found))
    except _UNREADABLE as error:
        raise RecipeError(
            f"{where} cannot be read ({_first_line(error)}); mend the row, or set merge.calibration_latents=noise"
        ) from None


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:160]}"


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


def _category_names(schema: pa.Schema) -> Callable[[Any], str | None]:
    """A category's name of what stands in its column; None for what is none."""
    from datasets import Features

    label = Features.from_arrow_schema(schema)["category"]

    def name(value: Any) -> str | None:
        try:
            return None if value is None else label.int2str(value) if hasattr(label, "int2str") else str(value)
        except (ValueError, IndexError):
            return None

    return name
