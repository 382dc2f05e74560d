"""COCO's captions by an index list: one caption an image, that of the lowest annotation id."""

import json
from pathlib import Path
from typing import Any

from evaluation.prompt_sets.coco_indices import hash_order
from evaluation.prompt_sets.definition import FOLDER, Loader
from recipes import RecipeError


def captions(path: Path, loader: Loader, rows: int | None, any_rows: bool) -> list[tuple[str, Any]]:
    """Image id and caption, in the order of the index list.

    Args:
        path (`Path`): COCO's captions JSON (`images` with `id`, `annotations` with `id`, `image_id`, `caption`).
        loader (`Loader`): its index list and the number of images.
        rows (`int`, *optional*): how many are asked for.
        any_rows (`bool`): whether a file of another number of images is taken; its indices are then ordered by the
            same rule, and the first `rows` taken.

    Raises:
        `RecipeError`: for a file of another shape or number of images, and for an image without a caption.
    """
    from evaluation.prompt_sets.loading import check_file

    images, lowest = _read(path)
    list_file = FOLDER / str(loader.file)
    check_file(list_file, loader.file_sha256)
    if len(images) == loader.images:
        order = [int(line) for line in list_file.read_text("ascii").split()]
    elif any_rows:
        order = hash_order(len(images))[:rows]
    else:
        raise RecipeError(
            f"{path}: {len(images)} images, expected {loader.images}, those of COCO 2014 val; give its "
            "captions_val2014.json, or --any-rows, and the result's protocol says so"
        )
    ordered = sorted(images)
    chosen = []
    for index in order:
        image = ordered[index]
        if image not in lowest:
            raise RecipeError(f"{path}: image {image}: has no caption; fetch the file again")
        chosen.append((str(image), lowest[image][1]))
    return chosen


def _read(path: Path) -> tuple[set[int], dict[int, tuple[int, Any]]]:
    """The ids of the images, and by image the lowest annotation's id and caption."""
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise RecipeError(f"{path}: is no JSON; expected COCO's captions_val2014.json") from None
    for name in ("images", "annotations"):
        if not isinstance(value, dict) or not isinstance(value.get(name), list):
            raise RecipeError(f"{path}: no list `{name}`; expected COCO's captions_val2014.json")
    images: set[int] = set()
    for number, image in enumerate(value["images"], 1):
        key = _number(image, "id", f"{path}: images, row {number}")
        if key in images:
            raise RecipeError(f"{path}: images, row {number}: the id {key} stands twice; fetch the file again")
        images.add(key)
    lowest: dict[int, tuple[int, Any]] = {}
    for number, annotation in enumerate(value["annotations"], 1):
        where = f"{path}: annotations, row {number}"
        key, image = _number(annotation, "id", where), _number(annotation, "image_id", where)
        if image not in images:
            raise RecipeError(f"{where}: image_id {image} is none of the images; fetch the file again")
        if image not in lowest or key < lowest[image][0]:
            lowest[image] = (key, annotation.get("caption"))
    return images, lowest


def _number(record: Any, name: str, where: str) -> int:
    value = record.get(name) if isinstance(record, dict) else None
    if not isinstance(value, int) or isinstance(value, bool):
        raise RecipeError(f"{where}: no whole number `{name}`; expected COCO's captions_val2014.json")
    return value
