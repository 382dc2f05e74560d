"""Result files as nodes that know where they stand, so that a wrong field is named by file and place.

Whoever made a result file is not trusted: texts are cleaned of control characters and cut, numbers must be finite."""

import json
import math
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.intervals import Estimate
from recipes import RecipeError

MOST_BYTES = 64_000_000
MOST_CHARACTERS = 400
# Of lists and mappings within each other: ours have less than ten. Python's stack ends at some hundreds.
MOST_LEVELS = 50
# No figure is further from 0: drawings and intervals of such numbers would be lost to rounding.
MOST_NUMBER = 1e15
# Control characters but for the newline, marks that turn the direction of writing, and lone surrogates.
_UNPRINTABLE = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


def clean(text: str) -> str:
    """The text with what cannot be shown, or would turn other text around, as U+FFFD."""
    return _UNPRINTABLE.sub("\ufffd", text)


@dataclass(frozen=True)
class Node:
    """A value in a JSON file.

    Args:
        file (`Path`): the file.
        place (`str`): where the value stands in it, such as `rows[3].name`; empty for the whole.
        value: what `json` made of it.
    """

    file: Path
    place: str
    value: Any

    def wrong(self, expected: str) -> RecipeError:
        """The error that names file, place, what was found and what was expected."""
        found = f"`{clean(str(self.value))[:60]}`" if isinstance(self.value, str | int | float) else _kind(self.value)
        place = clean(self.place)[:MOST_CHARACTERS]
        return RecipeError(f"{self.file}: {place or 'the whole'}: found {found}, expected {expected}")

    def fields(self) -> "dict[str, Node]":
        """The fields of a mapping that are not null; their names are cleaned as texts are."""
        if not isinstance(self.value, dict):
            raise self.wrong("a mapping")
        return {
            clean(key)[:MOST_CHARACTERS]: self._below(key, value)
            for key, value in self.value.items()
            if value is not None
        }

    def get(self, key: str) -> "Node | None":
        """A field of a mapping; None where it is missing or null."""
        if not isinstance(self.value, dict):
            raise self.wrong("a mapping")
        value = self.value.get(key)
        return None if value is None else self._below(key, value)

    def need(self, key: str) -> "Node":
        """A field of a mapping that must be there."""
        found = self.get(key)
        if found is None:
            raise self._below(key, None).wrong("a value")
        return found

    def items(self) -> "Iterator[Node]":
        """The members of a list."""
        if not isinstance(self.value, list):
            raise self.wrong("a list")
        for i, value in enumerate(self.value):
            yield Node(self.file, f"{self.place}[{i}]", value)

    def text(self) -> str:
        """A string (or a number, as it is written), cleaned and cut to 400 characters."""
        if isinstance(self.value, bool) or not isinstance(self.value, str | int | float):
            raise self.wrong("text")
        text = clean(str(self.value))
        return text if len(text) <= MOST_CHARACTERS else text[: MOST_CHARACTERS - 1] + "…"

    def number(self) -> float:
        """A finite number, from -1e15 to 1e15."""
        if isinstance(self.value, bool) or not isinstance(self.value, int | float):
            raise self.wrong("a number")
        try:
            number = float(self.value)
        except OverflowError:
            raise self.wrong("a finite number") from None
        if not math.isfinite(number):
            raise self.wrong("a finite number")
        if abs(number) > MOST_NUMBER:
            raise self.wrong(f"a number from {-MOST_NUMBER:g} to {MOST_NUMBER:g}")
        return number

    def p(self) -> float:
        """A p-value: a number from 0 to 1."""
        number = self.number()
        if not 0 <= number <= 1:
            raise self.wrong("a p-value from 0 to 1")
        return number

    def count(self) -> int:
        """A whole number of at least 0."""
        number = self.number()
        if number < 0 or number != int(number):
            raise self.wrong("a whole number of at least 0")
        return int(number)

    def flag(self) -> bool:
        """True or false."""
        if not isinstance(self.value, bool):
            raise self.wrong("true or false")
        return self.value

    def estimate(self) -> Estimate:
        """A value with its interval; a bare number is one whose interval was not measured (n is 0)."""
        if not isinstance(self.value, dict):
            number = self.number()
            return Estimate(value=number, low=number, high=number, n=0)
        value = self.need("value").number()
        low, high, n = self.get("low"), self.get("high"), self.get("n")
        if low is None or high is None:
            return Estimate(value=value, low=value, high=value, n=0)
        ends = low.number(), high.number()
        if not ends[0] <= value <= ends[1]:
            raise self.wrong(f"low <= value <= high, not {ends[0]:g}, {value:g}, {ends[1]:g}")
        return Estimate(value=value, low=ends[0], high=ends[1], n=1 if n is None else n.count())

    def _below(self, key: str, value: Any) -> "Node":
        return Node(self.file, f"{self.place}.{key}" if self.place else key, value)


def _kind(value: Any) -> str:
    return {dict: "a mapping", list: "a list", type(None): "nothing"}.get(type(value), type(value).__name__)


def _deeper(value: Any, levels: int) -> bool:
    """Whether lists and mappings within each other go deeper than `levels`; level by level, for a stack would end."""
    level = [value]
    for _ in range(levels + 1):
        level = [
            below
            for one in level
            if isinstance(one, list | dict)
            for below in (one.values() if isinstance(one, dict) else one)
        ]
    return bool(level)


def read_node(path: Path) -> Node:
    """The content of a JSON file.

    Raises:
        `RecipeError`: where the file cannot be read, is above 64 MB, is nested deeper than 50 levels or is no JSON; NaN
            is none.
    """

    def refuse(word: str) -> float:
        raise RecipeError(f"{path}: holds {word}, which is no JSON; write null where nothing was measured")

    try:
        state = path.stat()
        # A pipe would keep its reader waiting.
        if not stat.S_ISREG(state.st_mode):
            raise RecipeError(f"{path}: is no file; expected JSON")
        if state.st_size > MOST_BYTES:
            raise RecipeError(f"{path}: {state.st_size:,} bytes, expected at most {MOST_BYTES:,}")
        value = json.loads(path.read_text("utf8"), parse_constant=refuse)
        if _deeper(value, MOST_LEVELS):
            raise RecipeError(f"{path}: is nested deeper than {MOST_LEVELS} levels, as no result file is")
        return Node(path, "", value)
    except RecipeError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        # Arrow's and json's own texts may hold a part of the file.
        said = error.strerror if isinstance(error, OSError) else type(error).__name__
        raise RecipeError(f"{path}: cannot be read as JSON ({said}); make it again") from None
