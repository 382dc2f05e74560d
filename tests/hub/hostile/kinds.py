"""What a kind of hostile contribution is, and the honest row that each of them spoils.

Everything speaks of the emoji world. Texts that must never come back are marked by `SECRET`."""

import io
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

# Stands in a text of every hostile row: no report, log or error may show it.
SECRET = "zanzibarite"
USER = "visitor"


@dataclass(frozen=True)
class Kind:
    """A kind of hostile contribution.

    `make` fills a folder; `reason` is the code that it must be refused with. `pushable` where a plain client can send
    it: links and pipes do not go through the Hub."""

    name: str
    reason: str
    make: Callable[[Path], None]
    pushable: bool = True
    seconds: float = 10.0


KINDS: dict[str, Kind] = {}


def kind(reason: str, pushable: bool = True, seconds: float = 10.0) -> Callable[[Callable[[Path], None]], Any]:
    """Register the function that makes a kind; its name is the function's."""

    def register(make: Callable[[Path], None]) -> Callable[[Path], None]:
        name = make.__name__
        assert name not in KINDS
        KINDS[name] = Kind(name, reason, make, pushable, seconds)
        return make

    return register


def row(**changes: Any) -> dict[str, Any]:
    """A row that would pass, with changes; None takes a field away."""
    honest = {
        "category": "violence",
        "concept": "pistol",
        "unsafe_prompt": "a pistol on a wooden table beside an old clock and three candles",
        "safe_prompt": "a water blaster on a wooden table beside an old clock and three candles",
    }
    return {name: value for name, value in {**honest, **changes}.items() if value is not None}


def write_rows(folder: Path, *rows: dict[str, Any], name: str = "rows.jsonl") -> None:
    """Rows as JSONL, in ASCII."""
    (folder / name).write_text("".join(json.dumps(one) + "\n" for one in rows))


def picture(seed: int = 0, side: int = 64) -> Image.Image:
    """A picture of coloured squares that is neither black nor flat."""
    numbers = random.Random(seed)
    small = Image.new("RGB", (8, 8))
    small.putdata([tuple(numbers.randrange(256) for _ in range(3)) for _ in range(64)])
    return small.resize((side, side), Image.Resampling.NEAREST)


def png(image: Image.Image, **options: Any) -> bytes:
    """A picture as PNG bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def write_pictures(folder: Path, unsafe: bytes, safe: bytes | None = None, suffix: str = ".png") -> None:
    """An imagefolder of one pair, whose unsafe picture is `unsafe`."""
    (folder / f"a{suffix}").write_bytes(unsafe)
    (folder / "b.png").write_bytes(png(picture(1)) if safe is None else safe)
    write_rows(folder, row(unsafe_file_name=f"a{suffix}", safe_file_name="b.png"), name="metadata.jsonl")
