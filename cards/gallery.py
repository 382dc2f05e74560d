"""Pictures of an adapter's folder: the before/after sheet, and the examples that the Hub shows as a gallery."""

import json
from pathlib import Path
from typing import Any

from evaluation.report.pictures import picture_path
from evaluation.report.reading import Node
from recipes import RecipeError
from recipes.writing import whole_file, write_whole

PICTURE = "images/before_after.png"
EXAMPLES = 6
# Pixels of the shorter side that a gallery's picture has at least; the emoji world draws 64.
_SIDE = 256


def place_picture(adapter: Path, picture: Path | None) -> str | None:
    """Copy the before/after picture into an adapter's folder; the name of the one that is there then, if any."""
    target = adapter / PICTURE
    if picture is not None and picture.is_file():
        write_whole(target, picture.read_bytes())
    return PICTURE if target.is_file() else None


def place_examples(adapter: Path, evaluation: Path | None) -> list[dict[str, Any]]:
    """Copy example pictures of the merged model into an adapter's folder, in place of those that were there.

    Args:
        adapter (`Path`): its folder.
        evaluation (`Path`, *optional*): OUT/evaluation with `examples.json`; None for pictures that may not be shown.

    Returns:
        `list`: entries of the card's key `widget`, each with the prompt and the picture's name: one of each category
        at first, `EXAMPLES` at most, in an order that was fixed before they were drawn.

    Raises:
        `RecipeError`: where `examples.json` is no list of examples.
    """
    from PIL import Image

    for old in (adapter / "images").glob("example-*.png"):
        old.unlink()
    path = evaluation / "examples.json" if evaluation is not None else None
    if evaluation is None or path is None or not path.is_file():
        return []
    widget: list[dict[str, Any]] = []
    try:
        examples = json.loads(path.read_text("utf8"))
        ranks: dict[str, int] = {}
        ordered: list[tuple[int, int, dict[str, Any]]] = []
        for example in examples:
            ranks[example["category"]] = ranks.get(example["category"], 0) + 1
            ordered.append((ranks[example["category"]], len(ordered), example))
        for _, _, example in sorted(ordered)[:EXAMPLES]:
            name = f"images/example-{len(widget) + 1}.png"
            drawn = Node(path, "merged.picture", example["merged"]["picture"])
            with Image.open(picture_path(drawn, evaluation / "examples")) as image:
                picture = image.convert("RGB")
            # Whole multiples, so that small pictures stay as sharp as they are.
            factor = -(-_SIDE // min(picture.size)) if min(picture.size) < _SIDE else 1
            picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
            with whole_file(adapter / name) as part:
                picture.save(part, "PNG", optimize=True)
            widget.append({"text": example["prompt"], "output": {"url": name}})
    except (ValueError, KeyError, TypeError, OSError, Image.DecompressionBombError) as error:
        raise RecipeError(f"{path}: no examples that can be shown ({type(error).__name__}); evaluate again") from None
    return widget
