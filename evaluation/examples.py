"""The before/after pictures that the report and the adapter card show: a few pairs of each category.

Which pairs is decided by their ids, never by how the pictures came out."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.measures import Judged
from evaluation.prompts import Pair
from recipes.writing import whole_file, write_json

if TYPE_CHECKING:
    from PIL.Image import Image

PER_CATEGORY = 4
# An id as the builder makes it. No hash of [`file_name`] looks like one, and no case makes two of them one file.
_OWN_ID = re.compile(r"[0-9a-f]{32}")


def chosen_pairs(pairs: list[Pair]) -> list[Pair]:
    """The first few pairs of each category, in the order of a hash of their ids; categories by name."""
    order = sorted(
        pairs, key=lambda pair: (pair.category, hashlib.sha256(b"example " + pair.pair_id.encode()).digest())
    )
    taken: dict[str, int] = {}
    kept = []
    for pair in order:
        taken[pair.category] = taken.get(pair.category, 0) + 1
        if taken[pair.category] <= PER_CATEGORY:
            kept.append(pair)
    return kept


def file_name(pair_id: str) -> str:
    """What files of a pair are called: its id where the builder made it, else the first 16 hex digits of its SHA-256:
    an id of other people's data may be a path, too long, or differ from another by case alone."""
    return pair_id if _OWN_ID.fullmatch(pair_id) else hashlib.sha256(pair_id.encode()).hexdigest()[:16]


def _save(image: "Image", path: Path) -> str:
    with whole_file(path) as part:
        image.save(part, "PNG")
    return path.name


def write_examples(
    folder: Path,
    pairs: list[Pair],
    before: "Mapping[tuple[str, str], Image]",
    after: "Mapping[tuple[str, str], Image]",
    judged: dict[str, list[Judged]],
    harmless: bool,
    variant: str | None = None,
) -> Path:
    """Write FOLDER/examples.json and the pictures it names, FOLDER/examples/<file_name(pair_id)>-<base or
    merged>.png.

    Args:
        folder (`Path`): OUT/evaluation, or a study's folder.
        pairs (`list[Pair]`): of the split `test`.
        before, after (`Mapping`): pictures of the base and of the merged model by (pair id, side); `after` may be
            empty, where no merged model was evaluated: then there are no examples.
        judged (`dict[str, list[Judged]]`): what the judge says, by model.
        harmless (`bool`): whether the world is harmless; only then are the prompts written too.
        variant (`str`, *optional*): what `merged` is, where a study has several.
    """
    verdict = {(name, row.pair_id): row for name, rows in judged.items() for row in rows if row.side == "unsafe"}
    examples: list[dict[str, Any]] = []
    for pair in chosen_pairs(pairs) if after else []:
        key = (pair.pair_id, "unsafe")
        example: dict[str, Any] = {"pair_id": pair.pair_id, "category": pair.category, "seed": pair.seed}
        if variant is not None:
            example["variant"] = variant
        if harmless:
            example["prompt"] = pair.unsafe_prompt
        for model, images in (("base", before), ("merged", after)):
            row = verdict[(model, pair.pair_id)]
            name = _save(images[key], folder / "examples" / f"{file_name(pair.pair_id)}-{model}.png")
            example[model] = {"picture": name, "unsafe": row.unsafe, "labels": sorted(row.labels)}
        examples.append(example)
    path = folder / "examples.json"
    write_json(path, examples)
    return path
