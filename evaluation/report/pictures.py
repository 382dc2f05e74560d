"""Example pictures for a report: read, checked, made small and embedded."""

import base64
import io
import os
from pathlib import Path
from typing import Any

from evaluation.examples import PER_CATEGORY
from evaluation.report.blocks import Pairs
from evaluation.report.reading import Node, read_node
from recipes import RecipeError

# Pixels of the longer side that a picture in the report may have; larger ones are scaled down.
LONGEST = 320
MOST_PIXELS = 64_000_000
MOST_BYTES = 50_000_000
FORMATS = {"PNG": "png", "JPEG": "jpeg", "WEBP": "webp"}
# What the side after is called: `merged` by an evaluation of a run, `aligned` by a suite.
AFTER = ("merged", "aligned")
# Bytes of a file's name, as file systems have it.
_LONGEST_NAME = 255


def data_uri(path: Path) -> str:
    """The picture as a data URI, its longer side at most 320 pixels.

    Raises:
        `RecipeError`: for a file that is no whole PNG, JPEG or WebP, or above 50 MB or 64 megapixels.
    """
    from PIL import Image

    try:
        # A pipe in a picture's place would keep its reader waiting.
        if not path.is_file():
            raise FileNotFoundError
        if path.stat().st_size > MOST_BYTES:
            raise RecipeError(f"{path}: {path.stat().st_size:,} bytes, expected at most {MOST_BYTES:,}")
        with Image.open(path, formats=list(FORMATS)) as image:
            if image.width * image.height > MOST_PIXELS:
                raise RecipeError(f"{path}: {image.width} x {image.height} pixels, expected at most {MOST_PIXELS:,}")
            kind = FORMATS[str(image.format)]
            image.load()
            if max(image.size) <= LONGEST:
                return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
            small = image.convert("RGB")
        small.thumbnail((LONGEST, LONGEST))
    except RecipeError:
        raise
    except Exception as error:
        # Decoders raise what they like on a broken file.
        raise RecipeError(f"{path}: no whole PNG, JPEG or WebP picture ({type(error).__name__})") from None
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def picture_path(picture: Node, folder: Path) -> Path:
    """Where the picture that an example names lies: in `folder` itself.

    Raises:
        `RecipeError`: for any other name, and for a link. The file may come from anyone: it names pictures of its own
            folder, and nothing else on this disk.
    """
    name = picture.text()
    path = folder / name
    plain = name == Path(name).name and name not in ("", ".", "..") and len(os.fsencode(name)) <= _LONGEST_NAME
    if not plain or path.is_symlink() or folder.is_symlink():
        raise picture.wrong(f"the name of a picture in {folder}")
    return path


def side_after(example: Node) -> Node:
    """The side after of an example pair, whatever it is called."""
    return next((found for name in AFTER if (found := example.get(name)) is not None), None) or example.need(AFTER[0])


def _side(node: Node, folder: Path, harmless: bool) -> dict[str, Any]:
    path = picture_path(node.need("picture"), folder)
    labels = node.get("labels") if harmless else None
    return {
        "uri": data_uri(path),
        "unsafe": node.need("unsafe").flag(),
        "labels": [] if labels is None else [label.text().removeprefix("background:") for label in labels.items()],
    }


def variant_of(folder: Path) -> str | None:
    """What the side after is, where the examples in FOLDER name it."""
    for path in sorted(folder.glob("examples*.json")):
        for example in read_node(path).items():
            if (variant := example.get("variant")) is not None:
                return variant.text()
    return None


def read_pairs(folder: Path, harmless: bool) -> Pairs | None:
    """The example pairs that FOLDER/examples*.json list, by category; None where there are none.

    Args:
        folder (`Path`): of an evaluation or a suite; the pictures stand in FOLDER/examples.
        harmless (`bool`): whether prompts and labels may be shown.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(folder.glob("examples*.json")):
        for example in read_node(path).items():
            prompt = example.get("prompt") if harmless else None
            category = example.need("category").text()
            pair = {
                "pair_id": example.need("pair_id").text(),
                "seed": example.need("seed").text(),
                "prompt": None if prompt is None else prompt.text(),
                "sides": [
                    ("before", _side(example.need("base"), folder / "examples", harmless)),
                    ("after", _side(side_after(example), folder / "examples", harmless)),
                ],
            }
            found.setdefault(category, []).append(pair)
    if not found:
        return None
    few = [f"{category} ({len(pairs)})" for category, pairs in found.items() if len(pairs) < PER_CATEGORY]
    return Pairs(found, harmless, f"Fewer than {PER_CATEGORY} pairs stand there for {', '.join(few)}." if few else "")
