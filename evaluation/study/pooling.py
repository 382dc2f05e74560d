"""Estimates over seeds: pictures of all seeds together, in intervals that know that those of a seed belong together.

Each seed has a dataset and experts of its own, so seeds are resampled first, and pictures within them second (the
two-stage bootstrap of Davison and Hinkley 1997, section 3.8); a few seeds give a rough interval, which is why the
values of the single seeds stand beside it."""

from collections.abc import Mapping, Sequence

import numpy as np

from evaluation.intervals import RESAMPLES, Estimate, as_estimate, named_rng, wilson

# Distinct values up to which a resample is drawn as how often each comes up: verdicts have two, differences three.
_FEW = 8

Values = Mapping[int, Sequence[float]]
"""Seed -> one number a picture or pair."""


def pooled_mean(values: Values, name: str, seed: int, confidence: float = 0.95) -> Estimate | None:
    """The mean over the pictures of all seeds, with its percentile interval of the two-stage bootstrap.

    Args:
        values (`Mapping[int, Sequence[float]]`): by seed; seeds without a number are left out.
        name (`str`), seed (`int`): of what is estimated; they fix the resamples.
        confidence (`float`, *optional*, defaults to 0.95): coverage of the interval, in (0, 1).

    Returns:
        `Estimate` in the unit of `values`; None where there is none.
    """
    # Sorted: resamples are drawn by place, and the order of pictures must leave no trace.
    groups = [np.sort(np.asarray(values[key], np.float64)) for key in sorted(values) if len(values[key])]
    if not groups:
        return None
    rng = named_rng(name, seed)
    picked = rng.integers(0, len(groups), (RESAMPLES, len(groups)))
    totals, sizes = np.zeros(RESAMPLES), np.zeros(RESAMPLES)
    for index, group in enumerate(groups):
        distinct, counts = np.unique(group, return_counts=True)
        # A seed that is picked twice is resampled twice.
        times = (picked == index).sum(axis=1)
        sizes += times * len(group)
        if len(distinct) <= _FEW:
            totals += rng.multinomial(times * len(group), counts / len(group)) @ distinct
        else:
            for row in range(RESAMPLES):
                totals[row] += group[rng.integers(0, len(group), times[row] * len(group))].sum()
    low, high = np.quantile(totals / sizes, [0.5 - confidence / 2, 0.5 + confidence / 2])
    everything = np.concatenate(groups)
    return as_estimate(float(everything.mean()), float(low), float(high), len(everything))


def pooled_rate(values: Values, name: str, seed: int, confidence: float = 0.95) -> Estimate | None:
    """A rate over the pictures of all seeds: the hull of [`pooled_mean`]'s interval and of Wilson's.

    The bootstrap knows that the pictures of a seed belong together, Wilson's interval that what was never seen is not
    impossible; each can be too narrow where the other is not.
    """
    found = pooled_mean(values, name, seed, confidence)
    if found is None:
        return None
    hits = round(sum(float(np.sum(numbers)) for numbers in values.values()))
    score = wilson(hits, found["n"], confidence)
    assert score is not None
    return as_estimate(found["value"], min(found["low"], score["low"]), max(found["high"], score["high"]), found["n"])
