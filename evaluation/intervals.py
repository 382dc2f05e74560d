"""Estimates with intervals: rates, means and relative reductions.

Pure arithmetic on lists; what is counted is decided in `evaluation.measures`."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from statistics import NormalDist
from typing import TypedDict

import numpy as np

RESAMPLES = 2000
# Digits kept in results: far below any interval's width, and the same on every machine.
DIGITS = 6
_DRAWN_AT_ONCE = 1_000_000


class Estimate(TypedDict):
    """A value with its interval: `value`, `low`, `high`, and `n`, the number of pictures or pairs it rests on."""

    value: float
    low: float
    high: float
    n: int


def as_estimate(value: float, low: float, high: float, n: int) -> Estimate:
    """An [`Estimate`] with its numbers rounded to `DIGITS`."""
    return Estimate(value=round(value, DIGITS), low=round(low, DIGITS), high=round(high, DIGITS), n=n)


def wilson_bounds(rate: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a rate, unrounded.

    Args:
        rate (`float`): what was seen, 0..1.
        n (`float`): how many independent outcomes it rests on, above 0; a fraction where outcomes hang together and
            count for fewer than they are (an effective sample size).
        confidence (`float`, *optional*, defaults to 0.95): coverage of the interval, in (0, 1).
    """
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    # Rounding must not push an end past the rate itself at 0 and 1.
    return max(0.0, min(rate, centre - half)), min(1.0, max(rate, centre + half))


def wilson(successes: int, n: int, confidence: float = 0.95) -> Estimate | None:
    """A rate with Wilson's score interval (Wilson 1927, eq. for the roots of the score test, no continuity correction).

    Args:
        successes (`int`): how often it happened, 0..n.
        n (`int`): how often it could have happened.
        confidence (`float`, *optional*, defaults to 0.95): coverage of the interval, in (0, 1).

    Returns:
        `Estimate` in 0..1, or None where n is 0: nothing was seen, so nothing is claimed.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"successes is {successes}, expected a number from 0 to n = {n}")
    if n == 0:
        return None
    low, high = wilson_bounds(successes / n, n, confidence)
    return as_estimate(successes / n, low, high, n)


def named_rng(name: str, seed: int) -> np.random.Generator:
    """A generator that depends on what is estimated and on the recipe's seed, never on the order of work."""
    digest = hashlib.sha256(name.encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "big")])


def _resamples(rng: np.random.Generator, n: int) -> Iterator[tuple[slice, np.ndarray]]:
    """Which of `n` values each of `RESAMPLES` resamples holds, a few resamples at a time: all of 30,000 pictures at
    once would take a gigabyte. The numbers drawn are the same."""
    step = max(1, _DRAWN_AT_ONCE // n)
    for start in range(0, RESAMPLES, step):
        part = slice(start, min(start + step, RESAMPLES))
        yield part, rng.integers(0, n, size=(part.stop - start, n))


def bootstrap_mean(values: Sequence[float], name: str, seed: int, confidence: float = 0.95) -> Estimate | None:
    """A mean with its percentile bootstrap interval (Efron 1979; 2,000 resamples).

    Args:
        values (`Sequence[float]`): one number a picture.
        name (`str`): what is estimated; it and `seed` fix the resamples.
        seed (`int`): the recipe's seed.
        confidence (`float`, *optional*, defaults to 0.95): coverage of the interval.

    Returns:
        `Estimate` in the unit of `values`, or None where there are none.
    """
    if not values:
        return None
    # Sorted: a resample is drawn by place, and the order of pictures must leave no trace.
    data = np.sort(np.asarray(values, np.float64))
    rng, means = named_rng(name, seed), np.empty(RESAMPLES)
    for part, picks in _resamples(rng, len(data)):
        means[part] = data[picks].mean(axis=1)
    low, high = np.quantile(means, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return as_estimate(float(data.mean()), float(low), float(high), len(data))


def relative_reduction(
    before: Sequence[bool], after: Sequence[bool], name: str, seed: int, confidence: float = 0.95
) -> Estimate | None:
    """By how much a rate fell, as a share of what it was: 1 - rate(after) / rate(before), paired by position.

    The interval is a percentile bootstrap over pairs, so prompts that are hard for both models do not widen it.
    Resamples in which nothing happened before are left out; None where that is so of the data itself.
    """
    if len(before) != len(after):
        raise ValueError(f"{len(before)} outcomes before and {len(after)} after: they must be of the same prompts")
    if not any(before):
        return None
    # Sorted, as in `bootstrap_mean`; the two stay side by side.
    old, new = np.asarray(sorted(zip(before, after, strict=True)), np.float64).T.copy()
    was, now = (np.empty(RESAMPLES) for _ in range(2))
    for part, picks in _resamples(named_rng(name, seed), len(old)):
        was[part], now[part] = old[picks].mean(axis=1), new[picks].mean(axis=1)
    reductions = 1 - now[was > 0] / was[was > 0]
    low, high = np.quantile(reductions, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return as_estimate(float(1 - new.mean() / old.mean()), float(low), float(high), len(old))
