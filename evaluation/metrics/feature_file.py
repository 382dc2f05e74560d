"""Features on disk, row by row: what KID draws its subsets from, read as a memory-mapped array.

A file of float32 and a JSON file beside it that says how many rows count; what a killed run wrote beyond them is
written over."""

import json
import os
from pathlib import Path

import numpy as np

from evaluation.metrics.distance import checked_features, same_network
from evaluation.metrics.state import counts
from recipes import RecipeError
from recipes.writing import write_json

_KIND = "features"
_ITEM = np.dtype("<f4")


class FeatureFile:
    """Features in a file, in portions of any size.

    Args:
        path (`Path`): of the file; `PATH.json` stands beside it. What is there already is kept and added to.
        dimension (`int`): numbers a feature.
        network (`str`, *optional*): identity of the network that gave them; see
            [`evaluation.metrics.distance.GaussianStatistics`].

    Features are kept in float32, which is what networks compute in.

    Raises:
        `RecipeError`: where the files there are damaged, of another dimension, or of another network.
    """

    def __init__(self, path: Path, dimension: int, network: str = "") -> None:
        self.path, self.dimension, self.network = path, dimension, network
        self._notes = path.with_name(path.name + ".json")
        self.count = self._read_count() if self._notes.is_file() else 0

    def _read_count(self) -> int:
        try:
            notes = json.loads(self._notes.read_text("utf8"))
            (dimension, count), network = counts([notes["dimension"], notes["count"]], 2), str(notes["network"])
            if notes["kind"] != _KIND:
                raise ValueError(f"found the kind {str(notes['kind'])[:40]!r}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RecipeError(
                f"{self._notes}: not the notes of a feature file: {str(error).splitlines()[0][:120]}; delete it and "
                f"{self.path.name}, and compute the features again"
            ) from None
        same_network(network, self.network)
        if dimension != self.dimension:
            raise RecipeError(f"{self.path}: found features of {dimension} numbers, expected {self.dimension}")
        self.network = self.network or network
        size = self.path.stat().st_size if self.path.is_file() else 0
        if size < count * dimension * _ITEM.itemsize:
            raise RecipeError(
                f"{self.path}: found {size} bytes, too few for the {count} rows that {self._notes.name} names; delete "
                "both and compute the features again"
            )
        return count

    def add(self, features: np.ndarray) -> None:
        """Append features (N, dimension); nothing of a portion with an error is kept.

        Raises:
            `RecipeError`: for another shape, or a row that is not finite or too large for float32.
        """
        rows = checked_features(features, self.dimension, str(self.path)).astype(_ITEM)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("r+b" if self.path.exists() else "w+b") as file:
            file.seek(self.count * self.dimension * _ITEM.itemsize)
            file.write(rows.tobytes())
            file.truncate()
            file.flush()
            # The rows must be on disk before the notes count them.
            os.fsync(file.fileno())
        count = self.count + len(rows)
        notes = {"kind": _KIND, "dimension": self.dimension, "count": count, "network": self.network}
        write_json(self._notes, notes)
        self.count = count

    def merge(self, other: "FeatureFile") -> None:
        """Append another file's features, a thousand rows at a time."""
        same_network(self.network, other.network)
        rows = other.array()
        self.network = self.network or other.network
        for start in range(0, len(rows), 1000):
            self.add(rows[start : start + 1000])

    def array(self) -> np.ndarray:
        """float32 (count, dimension), memory-mapped and read-only; empty where nothing was added."""
        if not self.count:
            return np.empty((0, self.dimension), _ITEM)
        return np.memmap(self.path, _ITEM, "r", shape=(self.count, self.dimension))
