"""The Noto pictures of the emoji world's things: one array of 128x128 RGBA sprites, shipped beside this file.

`python -m dataset_builder.emoji_world.sprites NOTO.json NOTO_V1.json` draws it anew from the icon files of the npm
packages `@iconify-json/noto` and `@iconify-json/noto-v1`; nothing else needs those packages. The licence of the
pictures is in `sprites.LICENSE`."""

import argparse
import functools
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from dataset_builder.emoji_world.things import THINGS

HERE = Path(__file__).parent
SIZE = 128


@functools.lru_cache(maxsize=1)
def sheet() -> dict[str, Image.Image]:
    """Every thing's name -> its sprite, RGBA, cropped to its visible part, the longer side 128 pixels."""
    picture = Image.open(HERE / "sprites.png").convert("RGBA")
    columns = picture.width // SIZE
    out = {}
    for index, name in enumerate(THINGS):
        x, y = (index % columns) * SIZE, (index // columns) * SIZE
        tile = picture.crop((x, y, x + SIZE, y + SIZE))
        out[name] = tile.crop(tile.getchannel("A").getbbox())
    return out


@functools.lru_cache(maxsize=8192)
def sprite(name: str, size: int) -> Image.Image:
    """The sprite of thing `name`, its longer side `size` pixels, RGBA."""
    full = sheet()[name]
    scale = size / max(full.size)
    shape = (max(1, round(full.width * scale)), max(1, round(full.height * scale)))
    return full.resize(shape, Image.Resampling.BOX if scale < 0.34 else Image.Resampling.LANCZOS)


def draw(body: str, width: int, height: int, defs: str = "") -> Image.Image:
    """Rasterise an icon's SVG body and crop it to its visible part."""
    import resvg_py

    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {width} {height}" width="{SIZE * 2}" height="{SIZE * 2}">{defs}{body}</svg>'
    )
    data = resvg_py.svg_to_bytes(svg_string=svg)
    picture = Image.open(io.BytesIO(bytes(data))).convert("RGBA")
    picture = picture.crop(picture.getchannel("A").getbbox())
    scale = SIZE / max(picture.size)
    return picture.resize(
        (max(1, round(picture.width * scale)), max(1, round(picture.height * scale))), Image.Resampling.LANCZOS
    )


def make_sheet(icon_files: dict[str, Path], columns: int = 10) -> Image.Image:
    """Draw every thing from the icon files (`{"noto": ..., "noto-v1": ...}`) into one sheet."""
    sets = {name: json.loads(path.read_text("utf8")) for name, path in icon_files.items()}
    rows = -(-len(THINGS) // columns)
    out = Image.new("RGBA", (columns * SIZE, rows * SIZE))
    for index, thing in enumerate(THINGS.values()):
        set_name, icon = thing.sprite.split(":")
        icons = sets[set_name]
        if icon not in icons["icons"]:
            raise KeyError(f"things.yaml: {thing.name}: no icon {icon!r} in set {set_name!r}")
        entry = icons["icons"][icon]
        width = entry.get("width", icons.get("width", icons.get("height", 16)))
        height = entry.get("height", icons.get("height", 16))
        tile = draw(entry["body"], width, height)
        x = (index % columns) * SIZE + (SIZE - tile.width) // 2
        y = (index // columns) * SIZE + (SIZE - tile.height) // 2
        out.paste(tile, (x, y))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("noto", type=Path)
    parser.add_argument("noto_v1", type=Path)
    args = parser.parse_args()
    picture = make_sheet({"noto": args.noto, "noto-v1": args.noto_v1})
    alpha = np.asarray(picture)[..., 3:] > 0
    picture = Image.fromarray(np.where(alpha, np.asarray(picture), 0).astype(np.uint8), "RGBA")
    picture.save(HERE / "sprites.png", optimize=True)
    print(f"{HERE / 'sprites.png'}: {len(THINGS)} things, {picture.width}x{picture.height}")


if __name__ == "__main__":
    main()
