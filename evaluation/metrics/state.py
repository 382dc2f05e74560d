"""The state of a metric as a JSON file: what kind it is, and its counts.

Whole or not there (`recipes.writing`); what a damaged or foreign file holds is refused in one line."""

import json
from pathlib import Path
from typing import Any

from recipes import RecipeError
from recipes.writing import write_json


def save_state(path: Path, kind: str, state: dict[str, Any]) -> None:
    """Write a metric's state.

    Args:
        path (`Path`): of the JSON file.
        kind (`str`): which metric it belongs to, for example `paired counts`.
        state (`dict`): of JSON's types.
    """
    write_json(path, {"kind": kind, "state": state})


def load_state(path: Path, kind: str) -> dict[str, Any]:
    """Read what [`save_state`] wrote.

    Raises:
        `RecipeError`: where the file is missing, is no JSON, or holds another metric's state.
    """
    try:
        held = json.loads(path.read_text("utf8"))
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such file; expected the saved state of {kind}") from None
    except (OSError, ValueError) as error:
        raise damaged(path, kind, str(error).splitlines()[0]) from None
    if not isinstance(held, dict) or not isinstance(held.get("state"), dict):
        raise damaged(path, kind, "found no object with `kind` and `state`")
    if held.get("kind") != kind:
        raise RecipeError(f"{path}: found the state of {str(held.get('kind'))[:60]!r}, expected that of {kind!r}")
    return dict(held["state"])


def damaged(path: Path, kind: str, found: str) -> RecipeError:
    """The error for a state that cannot be what its metric wrote."""
    return RecipeError(f"{path}: not a state of {kind}: {found}; delete the file and count again")


def counts(value: Any, length: int | None = None) -> list[int]:
    """`value`, if it is a list of counts (whole numbers from 0), `length` of them where that is given.

    Raises:
        `ValueError`: for anything else, NaN and booleans among them.
    """
    whole = isinstance(value, list) and all(type(count) is int and count >= 0 for count in value)
    if not whole or (length is not None and len(value) != length):
        raise ValueError(f"found {str(value)[:60]}, expected {length or 'some'} counts from 0")
    return list(value)
