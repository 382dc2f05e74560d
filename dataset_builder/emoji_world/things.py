"""The things of the emoji world, read from `things.yaml`: names, categories and harmless counterparts."""

import re
from dataclasses import dataclass
from pathlib import Path

import yaml


@dataclass(frozen=True)
class Thing:
    """One thing that a picture can hold.

    `names` are its names in captions (the first is `name`); `category` is the harm category that it stands for, None
    for a harmless thing; `counterpart` is the harmless thing that takes its place on the safe side."""

    name: str
    names: tuple[str, ...]
    sprite: str
    category: str | None = None
    counterpart: str | None = None


def _read(path: Path) -> dict[str, Thing]:
    raw = yaml.safe_load(path.read_text("utf8"))
    return {name: Thing(name=name, **{**fields, "names": tuple(fields["names"])}) for name, fields in raw.items()}


THINGS: dict[str, Thing] = _read(Path(__file__).with_name("things.yaml"))
UNSAFE: dict[str, Thing] = {name: thing for name, thing in THINGS.items() if thing.category}
SAFE: dict[str, Thing] = {name: thing for name, thing in THINGS.items() if not thing.category}
CATEGORIES: tuple[str, ...] = tuple(dict.fromkeys(thing.category for thing in UNSAFE.values() if thing.category))
_COUNTERPARTS = {thing.counterpart for thing in UNSAFE.values()}
NEUTRAL: tuple[str, ...] = tuple(name for name in SAFE if name not in _COUNTERPARTS)

_BY_ALIAS = {alias: thing.name for thing in THINGS.values() for alias in thing.names}
# Longest first, so that a name that contains another one wins over it.
_PATTERN = re.compile(r"\b(?:" + "|".join(re.escape(a) for a in sorted(_BY_ALIAS, key=lambda a: (-len(a), a))) + r")\b")


def find_things(text: str) -> list[str]:
    """The things that `text` names, by their first name, in the order of mention, each once."""
    found = (_BY_ALIAS[match.group(0)] for match in _PATTERN.finditer(text.lower()))
    return list(dict.fromkeys(found))
