"""Numbers computed from pictures, portion by portion, kept so that a run that is killed goes on where it was.

A portion is cut from the whole ordered list, never from what is missing: so a network sees the same batches however
often a run was stopped, and its numbers are the same to the last bit."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from dataset_builder.keys import content_key
from evaluation.metrics.feature_file import FeatureFile
from recipes import RecipeError
from recipes.writing import whole_file

if TYPE_CHECKING:
    from PIL.Image import Image

    from dataset_builder.pictures import PictureStore

# Pictures in memory at a time: 50 MB of them at 512 x 512 pixels.
PORTION = 64
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
# Of more than 8 bits: the conversion would cut them off at 255, and leave a white picture.
_DEEP_MODES = ("I", "F")


class PortionStore:
    """Arrays by what they were computed from: one `.npy` file each.

    Args:
        folder (`Path`): of the files; made where there is none.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, parts: Sequence[object], compute: Callable[[], np.ndarray]) -> np.ndarray:
        """The float32 array that belongs to `parts`, which JSON can hold; computed where it is not kept, or damaged."""
        path = self._folder / f"{content_key('portion', *parts)}.npy"
        if path.is_file():
            try:
                return np.load(path, allow_pickle=False)
            except (ValueError, OSError, EOFError):
                path.unlink()
        # What is given is what was kept, rounded in the same way, whether or not it was kept before.
        array = np.asarray(compute(), np.float32)
        with whole_file(path) as part, part.open("wb") as file:
            np.save(file, array, allow_pickle=False)
        return array

    def feature_file(self, parts: Sequence[object], dimension: int, network: str) -> FeatureFile:
        """The file of features, row by row, that belongs to `parts`; empty where there is none, or a damaged one."""
        path = self._folder / f"{content_key('features', *parts)}.f32"
        try:
            return FeatureFile(path, dimension, network)
        except RecipeError:
            for damaged in (path, path.with_name(f"{path.name}.json")):
                damaged.unlink(missing_ok=True)
            return FeatureFile(path, dimension, network)


def over_pictures(
    store: "PictureStore", keys: Sequence[str], desc: str
) -> Iterator[tuple[slice, list[str], Callable[[], "list[Image]"]]]:
    """Portions of pictures: their place in the list, their keys, and what reads them, which a kept portion need not."""
    with tqdm(total=len(keys), desc=desc, unit="picture") as bar:
        for start in range(0, len(keys), PORTION):
            names = list(keys[start : start + PORTION])
            yield slice(start, start + len(names)), names, lambda names=names: [store.get(name) for name in names]  # type: ignore[misc]
            bar.update(len(names))


def picture_files(folder: Path) -> list[Path]:
    """The pictures in a folder and below it, sorted by name.

    Raises:
        `RecipeError`: where there are none.
    """
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES and path.is_file())
    if not files:
        raise RecipeError(f"{folder}: holds no picture; expected files of {', '.join(_SUFFIXES)}")
    return files


def over_files(files: Sequence[Path], desc: str) -> Iterator[tuple[list[str], Callable[[], "list[Image]"]]]:
    """Portions of picture files: the SHA-256 of each, and what decodes them.

    Raises:
        `RecipeError`: for a file that is no picture, by name.
    """
    with tqdm(total=len(files), desc=desc, unit="picture") as bar:
        for start in range(0, len(files), PORTION):
            part = files[start : start + PORTION]
            hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in part]
            yield hashes, lambda part=part: [_decoded(path) for path in part]  # type: ignore[misc]
            bar.update(len(part))


def _decoded(path: Path) -> "Image":
    from PIL import Image

    try:
        with Image.open(path) as image:
            mode, pixels = image.mode, image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise RecipeError(f"{path}: is no picture, or a damaged one; take it out, or fetch it again") from None
    if mode.partition(";")[0] in _DEEP_MODES:
        raise RecipeError(f"{path}: of mode {mode}, expected 8 bits a channel; convert it, or take it out")
    return pixels
