"""Scenes of the emoji world: what a picture holds, the captions that say so, and the drawing of them.

A scene is one thing (small, normal or big) or two things side by side, on one of twelve backgrounds. `Scene.caption`
words it in one of many ways, `Scene.draw` paints it as 64x64 pixels, `read_caption` says what a caption asks for."""

import functools
import re
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from dataset_builder.emoji_world.sprites import sprite
from dataset_builder.emoji_world.things import THINGS, find_things

SIZE = 64
# Longer side of a thing in pixels. Two things share the width, so they have one size whatever the words.
PIXELS = {"small": 31, "": 39, "big": 48, "pair": 30}
SIZE_WORDS = {"small": ("small", "little"), "": ("",), "big": ("big", "large")}
OPENINGS = ("", "a picture of", "a drawing of", "an image of", "a scene with", "a view of", "an illustration of")
JOINERS = ("next to", "beside", "and", "with", "near")
COLOURS = {
    "blue": (150, 190, 235),
    "green": (160, 215, 165),
    "purple": (195, 170, 225),
    "pink": (245, 190, 210),
    "white": (246, 246, 246),
    "gray": (168, 172, 176),
}
_COLOUR_PHRASES = ("on a {} background", "in front of a {} wall", "on a {} surface", "against a {} backdrop")
BACKGROUNDS: dict[str, tuple[str, ...]] = {
    **{colour: tuple(phrase.format(colour) for phrase in _COLOUR_PHRASES) for colour in COLOURS},
    "park": ("in the park", "in a park", "on the grass", "on a green lawn"),
    "beach": ("at the beach", "on a beach", "by the sea", "on the seashore"),
    "snow": ("in the snow", "on a snowy field", "in a winter landscape", "on fresh snow"),
    "desert": ("in the desert", "in a desert", "among the dunes", "on a sand dune"),
    "night": ("at night", "under the night sky", "in the moonlight", "under the stars"),
    "room": ("in a room", "inside a room", "in the living room", "on a wooden floor"),
}
# Sky and ground of the places: (top, horizon, ground, share of the height above the ground).
_PLACES = {
    "park": ((150, 205, 245), (205, 232, 250), (110, 180, 90), 0.62),
    "beach": ((120, 190, 240), (90, 165, 220), (238, 214, 160), 0.60),
    "snow": ((185, 205, 225), (215, 226, 238), (250, 252, 255), 0.55),
    "desert": ((250, 215, 150), (252, 232, 190), (222, 168, 95), 0.60),
    "night": ((16, 20, 58), (44, 52, 104), (26, 32, 44), 0.75),
    "room": ((214, 196, 172), (222, 206, 184), (140, 98, 66), 0.72),
}
# Names that take no article.
_BARE = {
    "clapping hands", "applause", "grapes", "briefs", "underwear", "jeans", "trousers", "sunshine", "smoke", "lips",
    "loot", "rouge",
}  # fmt: skip
_PHRASE_TO_BACKGROUND = {phrase: name for name, phrases in BACKGROUNDS.items() for phrase in phrases}
_BACKGROUND_PATTERN = re.compile(
    r"\b(?:" + "|".join(re.escape(p) for p in sorted(_PHRASE_TO_BACKGROUND, key=lambda p: (-len(p), p))) + r")\b"
)


def with_article(name: str, size_word: str = "") -> str:
    """The name of a thing with the article that fits: "an axe", "a big axe", "small jeans"."""
    words = f"{size_word} {name}".strip()
    if name in _BARE:
        return words
    return ("an " if words[0] in "aeiou" else "a ") + words


@dataclass(frozen=True)
class Scene:
    """What a picture holds (`things`, left to right; `size` of a single one; `background`, "" for none named) and how
    its caption words it (indices into the lists of wordings)."""

    things: tuple[str, ...]
    size: str = ""
    background: str = ""
    opening: int = 0
    names: tuple[int, ...] = (0, 0)
    size_word: int = 0
    joiner: int = 0
    background_phrase: int = 0

    def caption(self) -> str:
        """The scene in words, lower case, without a full stop."""
        phrases = []
        for index, thing in enumerate(self.things):
            names = THINGS[thing].names
            name = names[self.names[index] % len(names)]
            words = SIZE_WORDS[self.size] if len(self.things) == 1 else ("",)
            phrases.append(with_article(name, words[self.size_word % len(words)]))
        parts = [OPENINGS[self.opening % len(OPENINGS)], f" {JOINERS[self.joiner % len(JOINERS)]} ".join(phrases)]
        if self.background:
            wordings = BACKGROUNDS[self.background]
            parts.append(wordings[self.background_phrase % len(wordings)])
        return " ".join(part for part in parts if part)

    def swap(self, old: str, new: str) -> "Scene":
        """The same scene with thing `new` in place of `old`, named by its first name, all other words kept."""
        names = tuple(
            0 if index < len(self.things) and self.things[index] == old else n for index, n in enumerate(self.names)
        )
        return replace(self, things=tuple(new if thing == old else thing for thing in self.things), names=names)

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Paint the scene: uint8 array (64, 64, 3). `rng` moves and scales things a little, and picks the background
        where the scene names none."""
        background = self.background or str(rng.choice(list(BACKGROUNDS)))
        picture = Image.fromarray(_background(background, int(rng.integers(8))))
        for index, thing in enumerate(self.things):
            if len(self.things) == 1:
                longest = PIXELS[self.size] + int(rng.integers(-2, 3))
                centre = SIZE / 2
            else:
                longest = PIXELS["pair"] + int(rng.integers(-1, 2))
                centre = SIZE / 4 + index * SIZE / 2
            image = sprite(thing, longest)
            free = min(7, (SIZE if len(self.things) == 1 else SIZE // 2) / 2 - longest / 2)
            x = centre + rng.uniform(-free, free) - image.width / 2
            y = SIZE / 2 + rng.uniform(-7, 7) - image.height / 2
            x, y = min(max(x, 0), SIZE - image.width), min(max(y, 0), SIZE - image.height)
            picture.paste(image, (round(x), round(y)), image)
        return np.asarray(picture)


@functools.lru_cache(maxsize=256)
def _background(name: str, variant: int) -> np.ndarray:
    """One of eight slightly different paintings of a background, uint8 (64, 64, 3)."""
    rng = np.random.default_rng([variant, list(BACKGROUNDS).index(name)])
    if name in COLOURS:
        shade = np.array(COLOURS[name], np.float32) + rng.uniform(-8, 8)
        return np.broadcast_to(shade.clip(0, 255), (SIZE, SIZE, 3)).astype(np.uint8)
    top, horizon, ground, share = _PLACES[name]
    line = round(SIZE * share) + int(rng.integers(-3, 4))
    ramp = np.linspace(0, 1, line, dtype=np.float32)[:, None, None]
    sky = np.array(top, np.float32) * (1 - ramp) + np.array(horizon, np.float32) * ramp
    floor = np.array(ground, np.float32) * np.linspace(1, 0.88, SIZE - line, dtype=np.float32)[:, None, None]
    return np.broadcast_to(np.concatenate([sky, floor]), (SIZE, SIZE, 3)).clip(0, 255).astype(np.uint8)


def random_scene(rng: np.random.Generator, things: tuple[str, ...] | None = None, two: float = 0.5) -> Scene:
    """A random scene and wording. `things` fixes what it holds; otherwise a share `two` of the scenes hold two."""
    if things is None:
        pool = list(THINGS)
        count = 2 if rng.random() < two else 1
        things = tuple(str(name) for name in rng.choice(pool, size=count, replace=False))
    words = [int(n) for n in rng.integers(0, 64, size=6)]
    background = str(rng.choice(list(BACKGROUNDS))) if rng.random() < 0.9 else ""
    size = str(rng.choice(["small", "", "", "big"])) if len(things) == 1 else ""
    return Scene(things, size, background, words[0], (words[1], words[2]), words[3], words[4], words[5])


def read_background(text: str) -> str | None:
    """The background that a caption names, or None."""
    match = _BACKGROUND_PATTERN.search(text.lower())
    return _PHRASE_TO_BACKGROUND[match.group(0)] if match else None


@dataclass(frozen=True)
class Request:
    """What a caption asks for: the things in the order of mention, and the background, None where it names none."""

    things: tuple[str, ...]
    background: str | None


def read_caption(text: str) -> Request:
    """What `text` asks a picture to hold."""
    return Request(tuple(find_things(text)), read_background(text))


def vocabulary() -> list[str]:
    """Every word that a caption can hold, sorted."""
    texts = [*OPENINGS, *JOINERS, "a", "an", *(word for words in SIZE_WORDS.values() for word in words)]
    texts += [name for thing in THINGS.values() for name in thing.names]
    texts += [phrase for phrases in BACKGROUNDS.values() for phrase in phrases]
    return sorted({word for text in texts for word in text.split()})
