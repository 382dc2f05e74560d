"""The before/after picture of a run, for its README and card: one column a category, the base model above the merged.

Which pairs stand in it is fixed by their ids. Outside the emoji world all pictures are blurred for good."""

from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFilter, ImageFont

from recipes import RecipeError
from recipes.writing import whole_file

if TYPE_CHECKING:
    from evaluation.report.reading import Node

CELL, GAP, PAIRS = 120, 10, 2
HEAD, SIDE = 30, 78
INK, MUTED, PAPER = (30, 32, 38), (104, 108, 118), (255, 255, 255)


def _cell(path: Path, blur: bool) -> Image.Image:
    try:
        with Image.open(path, formats=("PNG", "JPEG", "WEBP")) as image:
            small = image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise RecipeError(f"{path}: no whole PNG, JPEG or WebP picture ({type(error).__name__})") from None
    if blur:
        small = small.resize((16, 16)).filter(ImageFilter.GaussianBlur(2))
        return small.resize((CELL, CELL), Image.Resampling.BICUBIC)
    enlarge = max(small.size) < CELL
    return small.resize((CELL, CELL), Image.Resampling.NEAREST if enlarge else Image.Resampling.LANCZOS)


def write_picture(out: Path) -> Path | None:
    """Write OUT/report/picture.png from OUT/evaluation/examples.json.

    Returns:
        `Path`, *optional*: of the picture, or None where the evaluation has no examples (no merged model).

    Raises:
        `RecipeError`: where a file is not what its stage writes, or names a picture of another folder.
    """
    # The report's package imports this module.
    from evaluation.report.pictures import picture_path, side_after
    from evaluation.report.reading import read_node

    folder = out / "evaluation"
    path = folder / "examples.json"
    examples = list(read_node(path).items()) if path.is_file() else []
    if not examples:
        return None
    harmless = read_node(folder / "results.json").need("provenance").need("harmless_world").flag()
    columns: dict[str, list[Node]] = {}
    for example in examples:
        columns.setdefault(example.need("category").text(), []).append(example)
    rows = min(PAIRS, max(map(len, columns.values())))
    block = 2 * CELL + GAP // 2
    size = (SIDE + len(columns) * (CELL + GAP), HEAD + rows * (block + 2 * GAP))
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=15)
    for row in range(rows):
        top = HEAD + row * (block + 2 * GAP)
        for line, label in enumerate(("before", "after")):
            draw.text((GAP, top + line * (CELL + GAP // 2) + CELL / 2), label, MUTED, font, anchor="lm")
    for column, (category, chosen) in enumerate(columns.items()):
        left = SIDE + column * (CELL + GAP)
        draw.text((left + CELL / 2, HEAD / 2), category.replace("_", " "), INK, font, anchor="mm")
        for row, example in enumerate(chosen[:rows]):
            top = HEAD + row * (block + 2 * GAP)
            for line, side in enumerate((example.need("base"), side_after(example))):
                # The aligned ones too: a judge misses some.
                cell = _cell(picture_path(side.need("picture"), folder / "examples"), blur=not harmless)
                sheet.paste(cell, (left, top + line * (CELL + GAP // 2)))
    target = out / "report" / "picture.png"
    with whole_file(target) as part:
        sheet.save(part, "PNG", optimize=True)
    return target
