"""Lists of verdicts and of numbers as arrays; whatever else stands in one is named by its row."""

from collections.abc import Sequence

import numpy as np

from recipes import RecipeError


def verdicts_of(values: Sequence[bool], name: str) -> np.ndarray:
    """`values` as an array of booleans.

    Raises:
        `RecipeError`: for anything but true, false, 1 and 0, by the row of `name`.
    """
    if isinstance(values, np.ndarray) and values.dtype == bool and values.ndim == 1:
        return values
    rows = list(values)
    wrong = [row for row, value in enumerate(rows) if not np.isscalar(value) or value not in (0, 1)]
    if wrong:
        raise RecipeError(
            f"{name}: row {wrong[0]}: found {str(rows[wrong[0]])[:40]!r}, expected true or false "
            f"({len(wrong)} of {len(rows)} rows are neither)"
        )
    return np.asarray(rows, bool)


def numbers_of(values: Sequence[float], name: str) -> np.ndarray:
    """`values` as an array of float64.

    Raises:
        `RecipeError`: for anything but finite numbers, by the row of `name`.
    """
    try:
        found = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{name}: expected a list of numbers: {str(error).splitlines()[0][:120]}") from None
    if found.ndim != 1:
        raise RecipeError(f"{name}: found values of shape {found.shape}, expected a list of numbers")
    wrong = np.flatnonzero(~np.isfinite(found))
    if len(wrong):
        raise RecipeError(f"{name}: row {wrong[0]}: found {found[wrong[0]]}, expected a finite number")
    return found
