"""Distances between two sets of pictures by their features: FID from streamed Gaussian statistics, and KID.

Features come from `evaluation.metrics.features`; nothing here knows pictures."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.intervals import Estimate, as_estimate, named_rng
from recipes import RecipeError
from recipes.writing import whole_file

_KIND = "gaussian statistics"
# How far below 0 an eigenvalue of a covariance may lie, as a share of the largest: rounding of sums in float64.
_ROUNDING = 1e-6
# Features are computed in float32; in float64 nothing made of such numbers overflows, squares and cubes included.
_LARGEST = float(np.finfo(np.float32).max)
# Of the squares of so large features over a million million pictures.
_LARGEST_SUM = 1e12 * _LARGEST**2
# Bytes that an array of an .npz may unpack to: 16,384 numbers a feature, eight times those of FID.
_LARGEST_ARRAY = 8 * 16384**2 + 4096


def checked_features(features: np.ndarray, dimension: int, name: str) -> np.ndarray:
    """`features` as float64 (N, dimension).

    Raises:
        `RecipeError`: for another shape, or NaN, infinity and what float32 cannot hold, which are named by row.
    """
    try:
        found = np.asarray(features, np.float64)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{name}: expected features of numbers: {str(error).splitlines()[0][:120]}") from None
    if found.ndim != 2 or found.shape[1] != dimension:
        raise RecipeError(f"{name}: found features of shape {found.shape}, expected (N, {dimension})")
    wrong = np.flatnonzero(~(np.abs(found) <= _LARGEST).all(axis=1))
    if len(wrong):
        raise RecipeError(
            f"{name}: row {wrong[0]}: found a feature that is no finite number of float32 "
            f"({len(wrong)} of {len(found)} rows)"
        )
    return found


class GaussianStatistics:
    """Mean and covariance of features, in portions of any size: the state is dimension^2 numbers.

    Sums are taken around the mean and joined as in Chan, Golub and LeVeque 1983 (American Statistician 37, 242-247), so
    that a large mean costs no digits; portions change the last bits only.

    Args:
        dimension (`int`): numbers a feature, from 1.
        network (`str`, *optional*): identity of the network that gave them. Statistics of two networks are neither
            merged nor compared; where one is unknown (`""`), it is taken on trust.

    Attributes:
        count (`int`, *optional*): pictures so far; None for statistics of a file that does not say.
    """

    def __init__(self, dimension: int, network: str = "") -> None:
        if dimension < 1:
            raise RecipeError(f"{_KIND}: found the dimension {dimension}, expected at least 1")
        self.dimension, self.network = dimension, network
        self.count: int | None = 0
        self._mean = np.zeros(dimension)
        # Sum over pictures of the outer product of what lies around the mean.
        self._scatter = np.zeros((dimension, dimension))

    def add(self, features: np.ndarray) -> None:
        """Count features of shape (N, dimension); nothing of a portion with an error is counted.

        Raises:
            `RecipeError`: for another shape, or a row that is not finite.
        """
        portion = GaussianStatistics(self.dimension, self.network)
        values = checked_features(features, self.dimension, _KIND)
        if len(values):
            portion.count, portion._mean = len(values), values.mean(axis=0)
            around = values - portion._mean
            portion._scatter = around.T @ around
        self.merge(portion)

    def merge(self, other: "GaussianStatistics") -> None:
        """Add what another one has counted.

        Raises:
            `RecipeError`: for another dimension or network, or where one does not say how many pictures it counts.
        """
        same_network(self.network, other.network)
        if other.dimension != self.dimension:
            raise RecipeError(f"{_KIND}: found the dimensions {self.dimension} and {other.dimension}, expected one")
        if self.count is None or other.count is None:
            raise RecipeError(f"{_KIND}: the number of pictures is not known, so they cannot be added to others")
        self.network = self.network or other.network
        if not other.count:
            return
        total = self.count + other.count
        apart = other._mean - self._mean
        self._mean = self._mean + apart * (other.count / total)
        self._scatter = self._scatter + other._scatter + np.outer(apart, apart) * (self.count * other.count / total)
        self.count = total

    @property
    def mean(self) -> np.ndarray:
        """float64 (dimension,).

        Raises:
            `RecipeError`: where nothing was counted.
        """
        if self.count == 0:
            raise RecipeError(f"{_KIND}: found no picture; a mean needs one")
        return self._mean.copy()

    @property
    def covariance(self) -> np.ndarray:
        """float64 (dimension, dimension), the sums divided by count - 1.

        Raises:
            `RecipeError`: with fewer than two pictures.
        """
        if self.count is None:
            return self._scatter.copy()
        if self.count < 2:
            raise RecipeError(f"{_KIND}: found {self.count} pictures; a covariance needs at least 2")
        return self._scatter / (self.count - 1)

    def save(self, path: Path) -> None:
        """Write mean, sums, count and network to a safetensors file.

        Raises:
            `RecipeError`: where the number of pictures is not known.
        """
        from safetensors.numpy import save_file

        if self.count is None:
            raise RecipeError(f"{path}: the number of pictures is not known; keep the file that they came from")
        tensors = {"mean": self._mean, "scatter": np.ascontiguousarray(self._scatter)}
        metadata = {"kind": _KIND, "count": str(self.count), "network": self.network}
        with whole_file(path) as part:
            save_file(tensors, part, metadata=metadata)

    @classmethod
    def load(cls, path: Path) -> "GaussianStatistics":
        """Read what [`save`] wrote, or an `.npz` of FID tools: `mu` and `sigma`, of an unknown number of pictures and
        an unknown network.

        Raises:
            `RecipeError`: where the file is missing, damaged, or holds anything else.
        """
        mean, scatter, count, network = _read_npz(path) if path.suffix == ".npz" else _read_safetensors(path)
        if mean.ndim != 1 or not len(mean) or scatter.shape != (len(mean), len(mean)):
            raise RecipeError(
                f"{path}: found a mean of shape {mean.shape} and a covariance of shape {scatter.shape}, expected (D,) "
                "and (D, D)"
            )
        if mean.dtype.kind != "f" or scatter.dtype.kind != "f":
            raise RecipeError(f"{path}: found {mean.dtype} and {scatter.dtype}, expected real numbers")
        if not (np.isfinite(mean).all() and np.isfinite(scatter).all()):
            raise RecipeError(f"{path}: found values that are no finite numbers")
        if float(np.abs(mean).max()) > 2 * _LARGEST or float(np.abs(scatter).max()) > _LARGEST_SUM:
            # No features have them, and distances would overflow.
            raise RecipeError(f"{path}: found values that no features in float32 have; compute the statistics again")
        if np.abs(scatter - scatter.T).max() > _ROUNDING * max(np.abs(scatter).max(), 1e-300):
            raise RecipeError(f"{path}: found a covariance that is not symmetric")
        made = cls(len(mean), network)
        made._mean, made._scatter, made.count = mean.astype(np.float64), scatter.astype(np.float64), count
        # Now, not where a distance is taken: pictures may be drawn in between, for days.
        _require_covariance(np.linalg.eigvalsh((made._scatter + made._scatter.T) / 2), f"{path}: the covariance")
        return made


def _read_npz(path: Path) -> tuple[np.ndarray, np.ndarray, int | None, str]:
    try:
        # allow_pickle=False: a pickle can run code.
        with np.load(path, allow_pickle=False) as arrays:
            if any(entry.file_size > _LARGEST_ARRAY for entry in arrays.zip.infolist()):
                raise ValueError("found an array of more than 2 GiB")
            return np.asarray(arrays["mu"]), np.asarray(arrays["sigma"]), None, ""
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such file; expected statistics of features") from None
    except Exception as error:
        # A damaged zip raises a dozen kinds of errors.
        first = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise RecipeError(f"{path}: expected an .npz with `mu` and `sigma`: {first[0][:160]}") from None


def _read_safetensors(path: Path) -> tuple[np.ndarray, np.ndarray, int | None, str]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise RecipeError(f"{path}: no such file; expected statistics of features")
    try:
        with safe_open(path, "np") as file:
            held = file.metadata() or {}
            if held.get("kind") != _KIND or not held.get("count", "").isdecimal():
                raise RecipeError(f"{path}: found no {_KIND} in it; count the features again")
            if set(file.keys()) != {"mean", "scatter"}:
                raise RecipeError(f"{path}: found {sorted(file.keys())[:5]}, expected `mean` and `scatter`")
            return file.get_tensor("mean"), file.get_tensor("scatter"), int(held["count"]), held.get("network", "")
    except (OSError, SafetensorError, ValueError, TypeError) as error:
        if isinstance(error, RecipeError):
            raise
        raise RecipeError(f"{path}: not a file of {_KIND}: {str(error).splitlines()[0][:160]}") from None


def same_network(a: str, b: str) -> None:
    """Raise a `RecipeError` where features come from two networks that are both known."""
    if a and b and a != b:
        raise RecipeError(f"features of two networks do not compare: found {a} and {b}")


@dataclass(frozen=True)
class Distance:
    """An FID.

    Args:
        value (`float`): 0 or more.
        pictures (`tuple[int | None, int | None]`): of the two sets; None where a statistics file does not say.
        warnings (`list[str]`): why the value should not be trusted, `rank-deficient` first among them.
    """

    value: float
    pictures: tuple[int | None, int | None]
    warnings: list[str] = field(default_factory=list)


def _require_covariance(eigenvalues: np.ndarray, what: str) -> None:
    lowest = eigenvalues.min()
    if lowest < -_ROUNDING * max(eigenvalues.max(), 1e-300):
        raise RecipeError(f"{what} has the eigenvalue {lowest:.3g}; it is none")


def _root(covariance: np.ndarray, name: str) -> np.ndarray:
    """The symmetric root of a covariance."""
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    _require_covariance(values, f"FID: the {name} covariance")
    return (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T


def frechet_distance(a: GaussianStatistics, b: GaussianStatistics) -> Distance:
    """The squared Fréchet distance of two Gaussians (Dowson and Landau 1982), as FID takes it (Heusel et al. 2017,
    arXiv 1706.08500): |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)).

    The trace of that root is the sum of the singular values of C_a^(1/2) C_b^(1/2), which needs no root of a matrix
    that is not symmetric and loses no digits where a covariance is singular. FID falls with the number of pictures:
    compare values of equally many only.

    Returns:
        `Distance`, with a warning `rank-deficient: ...` for each set that has no more pictures than its features have
        numbers: its covariance is singular then, and the value far too high.

    Raises:
        `RecipeError`: for two networks or dimensions, fewer than two pictures, or what is no covariance.
    """
    same_network(a.network, b.network)
    if a.dimension != b.dimension:
        raise RecipeError(f"FID: found features of {a.dimension} and of {b.dimension} numbers, expected one network's")
    covariances = a.covariance, b.covariance
    roots = _root(covariances[0], "first"), _root(covariances[1], "second")
    shared = np.linalg.svd(roots[0] @ roots[1], compute_uv=False).sum()
    apart = a.mean - b.mean
    value = float(apart @ apart + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * shared)
    warnings = []
    for name, one in (("first", a), ("second", b)):
        if one.count is None:
            warnings.append(f"unknown count: the {name} set's file does not say of how many pictures it is")
        elif one.count <= one.dimension:
            warnings.append(
                f"rank-deficient: the {name} set has {one.count} pictures, features have {one.dimension} numbers; the "
                "value is too high, and more so the fewer pictures there are"
            )
    return Distance(max(0.0, value), (a.count, b.count), sorted(warnings))


def fid(a: GaussianStatistics, b: GaussianStatistics) -> float:
    """The value of [`frechet_distance`] alone."""
    return frechet_distance(a, b).value


def kid(
    features_a: np.ndarray,
    features_b: np.ndarray,
    subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Estimate:
    """Kernel Inception Distance (Bińkowski et al. 2018, arXiv 1801.01401): the unbiased estimate of the squared maximum
    mean discrepancy under k(x, y) = (x.y / D + 1)^3, averaged over subsets of each set.

    Args:
        features_a, features_b (`np.ndarray`): (N, D) each; a memory-mapped file serves, a subset is read at a time
            ([`evaluation.metrics.feature_file.FeatureFile`]).
        subsets (`int`, *optional*, defaults to 100), subset_size (`int`, *optional*, defaults to 1000): how many, and
            of how many pictures each, drawn without replacement.
        seed (`int`, *optional*, defaults to 0): fixes which pictures.
        confidence (`float`, *optional*, defaults to 0.95): share of the subsets' values between `low` and `high`.

    Returns:
        `Estimate`: `value` may be below 0, the estimate being unbiased; `low` and `high` are quantiles over subsets:
        how far the value of one subset lies from another's, which is more than the mean's own uncertainty where there
        are many more pictures than a subset holds. `n` is the smaller number of pictures.

    Raises:
        `RecipeError`: for two dimensions, fewer pictures than a subset holds, or a row that is not finite.
    """
    shapes = np.shape(features_a), np.shape(features_b)
    if len(shapes[0]) != 2 or len(shapes[1]) != 2 or shapes[0][1] != shapes[1][1]:
        raise RecipeError(f"KID: found features of shapes {shapes[0]} and {shapes[1]}, expected (N, D) of one D")
    if subsets < 1 or subset_size < 2:
        raise RecipeError(f"KID: found {subsets} subsets of {subset_size}, expected at least 1 of at least 2")
    fewest, dimension = min(shapes[0][0], shapes[1][0]), shapes[0][1]
    if fewest < subset_size:
        raise RecipeError(
            f"KID: found {shapes[0][0]} and {shapes[1][0]} pictures, expected at least a subset of {subset_size}; give "
            f"more pictures or a smaller subset_size, and state it: KID's spread depends on it"
        )
    rng, values = named_rng("kid", seed), []
    for _ in range(subsets):
        x, y = (
            # Sorted, because rows of a file are read faster in their order.
            checked_features(some[np.sort(rng.choice(len(some), subset_size, replace=False))], dimension, "KID")
            for some in (features_a, features_b)
        )
        values.append(_squared_mmd(x, y))
    low, high = np.quantile(values, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return as_estimate(float(np.mean(values)), float(low), float(high), fewest)


def _squared_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """The unbiased estimate for two samples of one size (Gretton et al. 2012, JMLR 13, lemma 6)."""

    def kernel(a: np.ndarray, b: np.ndarray) -> Any:
        return (a @ b.T / a.shape[1] + 1) ** 3

    m = len(x)
    own = 0.0
    for one in (x, y):
        similar = kernel(one, one)
        own += (similar.sum() - np.trace(similar)) / (m * (m - 1))
    return float(own - 2 * kernel(x, y).mean())
