"""The base model's pictures that a dataset brings along, taken where they are what would be drawn.

The manifest says who drew them; it may come from anyone, so files, pictures and a sample drawn again have to agree with
it. Otherwise all are drawn anew."""

import hashlib
import io
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.drawing import Drawer, pixel_drift
from evaluation.prompts import Request, read_manifest, read_pictures, split_files
from recipes import RecipeError

if TYPE_CHECKING:
    from PIL.Image import Image

# Pictures that are drawn again, and how far one may be from the stored one: another batch or machine changes last bits,
# another model or seed far more.
SAMPLE, MOST_DRIFT = 4, 0.02


def take_stored(drawer: Drawer, dataset: Path, requests: Sequence[Request]) -> None:
    """Put the dataset's own pictures of `requests` into the drawer's store, where its manifest says that they are the
    base model's under these settings and nothing speaks against it.

    What speaks against it is said in a line, and nothing is taken then. A picture that the store has already stays.

    Args:
        drawer (`Drawer`): whose base model and settings count.
        dataset (`Path`): its folder.
        requests (`Sequence[Request]`): the pictures that are wanted.
    """
    from dataset_builder.pictures import PictureStore
    from dataset_builder.pipeline_setup import say

    manifest = read_manifest(dataset)
    models = manifest.get("models")
    claimed = isinstance(models, dict) and models.get("renderer") == drawer.drawn_by(None)
    if not claimed or any(request.pair.t2i != drawer.base for request in requests):
        return
    store = PictureStore(drawer.pictures)
    keys = dict(zip(map(_name, requests), drawer.keys([request.wanted for request in requests], None), strict=True))
    if not store.missing(list(keys.values())):
        return
    try:
        wrong = _files_wrong(dataset, manifest, requests) or _pictures_wrong(drawer, dataset, requests)
    except RecipeError as error:
        wrong = str(error)
    if wrong is not None:
        say(f"{dataset}: its pictures are not taken for the base model's, all are drawn anew: {wrong}")
        return
    for portion in _portions(dataset, requests):
        store.put({keys[name]: png for name, png in portion.items() if png is not None})


def _name(request: Request) -> tuple[str, str]:
    return request.pair.pair_id, request.side


def _portions(dataset: Path, requests: Sequence[Request]) -> Iterator[dict[tuple[str, str], bytes | None]]:
    """The wanted pictures of a batch of rows at a time, by pair id and side; None where there is none."""
    wanted = {_name(request) for request in requests}
    for split in dict.fromkeys(request.pair.split for request in requests):
        for rows in read_pictures(dataset, split, {pair_id for pair_id, _ in wanted}):
            yield {name: png for name, png in rows.items() if name in wanted}


def _files_wrong(dataset: Path, manifest: dict[str, Any], requests: Sequence[Request]) -> str | None:
    stated = manifest.get("files")
    for split in dict.fromkeys(request.pair.split for request in requests):
        for path in split_files(dataset, split):
            record = stated.get(path.relative_to(dataset).as_posix()) if isinstance(stated, dict) else None
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if not isinstance(record, dict) or record.get("sha256") != found:
                return f"{path.name} is not the file that its manifest states"
    return None


def _pictures_wrong(drawer: Drawer, dataset: Path, requests: Sequence[Request]) -> str | None:
    # By a hash, so that a run that was killed comes to the same answer.
    order = sorted(requests, key=lambda request: hashlib.sha256(f"sample {_name(request)}".encode()).digest())
    sample = {_name(request): request for request in order[:SAMPLE]}
    found: dict[tuple[str, str], Image] = {}
    size = (drawer.recipe.render.width, drawer.recipe.render.height)
    for portion in _portions(dataset, requests):
        for name, png in portion.items():
            image = None if png is None else _opened(png)
            if image is None or image.size != size:
                return f"pair {name[0]}: its {name[1]}_image is no whole PNG of {size[0]} x {size[1]} pixels"
            if name in sample:
                found[name] = image
    again = drawer.draw_again([request.wanted for request in sample.values()])
    for name, image in zip(sample, again, strict=True):
        if pixel_drift(image, found[name]) > MOST_DRIFT:
            return f"pair {name[0]}: its {name[1]} prompt, drawn again, gives another picture than the stored one"
    return None


def _opened(png: bytes) -> "Image | None":
    """The picture in a whole PNG file, as RGB; None for anything else."""
    from PIL import Image

    from dataset_builder.pictures import is_whole_png

    try:
        return Image.open(io.BytesIO(png), formats=("PNG",)).convert("RGB") if is_whole_png(png) else None
    # A damaged picture meets its decoder anywhere.
    except (OSError, SyntaxError, ValueError, struct.error, zlib.error, Image.DecompressionBombError):
        return None
