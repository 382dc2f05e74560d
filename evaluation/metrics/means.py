"""Means of numbers that come in portions (drift, CLIPScore and its change), with a streamed bootstrap."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from evaluation.intervals import RESAMPLES, Estimate, as_estimate
from evaluation.metrics.distance import checked_features
from evaluation.metrics.values import numbers_of
from recipes import RecipeError
from recipes.writing import whole_file

_KIND = "streamed mean"
# Values are summed as whole multiples of this: sums of whole numbers are the same in any order, to the last bit.
_UNIT = 2.0**-30
_LARGEST = 1000.0
# With weights of 1 on the average, more pictures of the largest value would overflow 64 bits.
_MOST = 4_000_000


class StreamedMean:
    """A mean with its bootstrap interval, in portions of any size: the state is 2 x 2,000 numbers.

    The Poisson bootstrap (Hanley and MacGibbon 2006, Computer Methods and Programs in Biomedicine 83, 57-62): in each
    of 2,000 resamples a picture counts as often as a Poisson variable of mean 1 says, which its key and the seed fix.
    So neither the order of pictures nor the portions change a digit. A key that is added twice counts twice.

    Args:
        name (`str`): what is averaged; it and `seed` fix the resamples.
        seed (`int`, *optional*, defaults to 0): the recipe's seed.
    """

    def __init__(self, name: str, seed: int = 0) -> None:
        self.name, self.seed, self.count = name, seed, 0
        self._total = 0
        self._weights = np.zeros(RESAMPLES, np.int64)
        self._sums = np.zeros(RESAMPLES, np.int64)

    def add(self, keys: Sequence[str], values: Sequence[float]) -> None:
        """Count numbers.

        Args:
            keys (`Sequence[str]`): what each belongs to, for example a pair id; pictures of one key (of one prompt)
                are drawn together, so that what hangs together is kept together.
            values (`Sequence[float]`): -1000..1000, kept to a thousandth of a millionth.

        Raises:
            `RecipeError`: for lists of different lengths, or a number that is not finite or beyond that range; nothing
                of the portion is counted then.
        """
        numbers = numbers_of(values, self.name)
        if len(keys) != len(numbers):
            raise RecipeError(f"{self.name}: found {len(keys)} keys and {len(numbers)} values, expected as many")
        wrong = np.flatnonzero(np.abs(numbers) > _LARGEST)
        if len(wrong):
            raise RecipeError(f"{self.name}: row {wrong[0]}: found {numbers[wrong[0]]}, expected -1000..1000")
        self._room_for(len(numbers))
        for key, whole in zip(keys, np.rint(numbers / _UNIT).astype(np.int64).tolist(), strict=True):
            digest = hashlib.sha256(json.dumps([self.name, self.seed, str(key)]).encode()).digest()
            weights = np.random.default_rng(int.from_bytes(digest[:16], "big")).poisson(1.0, RESAMPLES)
            self._weights += weights
            self._sums += weights * whole
            self._total += whole
        self.count += len(numbers)

    def _room_for(self, more: int) -> None:
        if self.count + more > _MOST:
            raise RecipeError(f"{self.name}: found {self.count + more} values, at most {_MOST} can be averaged")

    def merge(self, other: "StreamedMean") -> None:
        """Add what another one of the same name and seed has counted."""
        if (other.name, other.seed) != (self.name, self.seed):
            raise RecipeError(
                f"{_KIND}: found {other.name!r} with seed {other.seed}, expected {self.name!r} with seed {self.seed}"
            )
        self._room_for(other.count)
        self.count += other.count
        self._total += other._total
        self._weights = self._weights + other._weights
        self._sums = self._sums + other._sums

    def save(self, path: Path) -> None:
        """Write the state to a safetensors file."""
        from safetensors.numpy import save_file

        state = {"name": self.name, "seed": self.seed, "count": self.count, "total": self._total}
        with whole_file(path) as part:
            save_file(
                {"weights": self._weights, "sums": self._sums},
                part,
                metadata={"kind": _KIND, "state": json.dumps(state)},
            )

    @classmethod
    def load(cls, path: Path) -> "StreamedMean":
        """Read what [`save`] wrote.

        Raises:
            `RecipeError`: where the file is missing or holds anything else.
        """
        from safetensors import SafetensorError, safe_open

        if not path.is_file():
            raise RecipeError(f"{path}: no such file; expected the saved state of a {_KIND}")
        try:
            with safe_open(path, "np") as file:
                held = file.metadata() or {}
                if held.get("kind") != _KIND:
                    raise ValueError("found another kind of file")
                state = json.loads(held["state"])
                made = cls(str(state["name"]), int(state["seed"]))
                made.count, made._total = int(state["count"]), int(state["total"])
                for name in ("weights", "sums"):
                    tensor = file.get_tensor(name)
                    if tensor.shape != (RESAMPLES,) or tensor.dtype != np.int64:
                        raise ValueError(f"{name}: found {tensor.dtype} of shape {tensor.shape}")
                    setattr(made, f"_{name}", tensor)
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise RecipeError(f"{path}: not a state of a {_KIND}: {str(error).splitlines()[0][:160]}") from None
        return made

    def estimate(self, confidence: float = 0.95) -> Estimate | None:
        """The mean with its percentile interval, or None where nothing was counted."""
        if not self.count:
            return None
        value = self._total * _UNIT / self.count
        # With few pictures a resample may hold none of them; it says nothing then.
        drawn = self._weights > 0
        means = self._sums[drawn] * _UNIT / self._weights[drawn]
        low, high = np.quantile(means, [0.5 - confidence / 2, 0.5 + confidence / 2]) if drawn.any() else (value, value)
        return as_estimate(value, float(low), float(high), self.count)


def feature_drift(base: np.ndarray, aligned: np.ndarray) -> np.ndarray:
    """How far each aligned picture lies from the base model's of the same prompt and seed: 1 - cosine of their
    features, float64 (N,), 0 (the same direction) to 2. [`StreamedMean`] takes its mean.

    Args:
        base, aligned (`np.ndarray`): (N, D) features of one network, in one order.

    Raises:
        `RecipeError`: for different shapes, a row that is not finite, or one that is all 0 and has no direction.
    """
    if np.ndim(base) != 2 or np.shape(base) != np.shape(aligned):
        raise RecipeError(f"drift: found features of shapes {np.shape(base)} and {np.shape(aligned)}, expected one")
    dimension = np.shape(base)[1]
    a, b = checked_features(base, dimension, "drift: base"), checked_features(aligned, dimension, "drift: aligned")
    lengths = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
    wrong = np.flatnonzero((lengths[0] == 0) | (lengths[1] == 0))
    if len(wrong):
        raise RecipeError(f"drift: row {wrong[0]}: found features that are all 0 and have no direction")
    return np.clip(1 - (a * b).sum(axis=1) / (lengths[0] * lengths[1]), 0.0, 2.0)
