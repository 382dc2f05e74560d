"""Intervals: against published values, and against what must hold of them."""

import tracemalloc

import numpy as np
import pytest

from evaluation.intervals import bootstrap_mean, named_rng, relative_reduction, wilson
from evaluation.study.pooling import pooled_mean


# Newcombe (1998), Statistics in Medicine 17, table I, method 3.
@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_the_published_intervals(successes: int, n: int, low: float, high: float) -> None:
    estimate = wilson(successes, n)
    assert estimate is not None
    assert estimate["value"] == pytest.approx(successes / n, abs=1e-6)
    assert (estimate["low"], estimate["high"]) == pytest.approx((low, high), abs=5e-5)


def test_wilson_solves_the_score_equation() -> None:
    estimate = wilson(7, 40, confidence=0.9)
    assert estimate is not None
    for end in (estimate["low"], estimate["high"]):
        assert abs(7 / 40 - end) / np.sqrt(end * (1 - end) / 40) == pytest.approx(1.6448536, abs=1e-3)


def test_wilson_says_nothing_of_nothing_and_refuses_what_cannot_be() -> None:
    assert wilson(0, 0) is None
    with pytest.raises(ValueError, match="successes is 3"):
        wilson(3, 2)


def test_resamples_drawn_a_few_at_a_time_are_those_drawn_at_once() -> None:
    values = np.sort(np.random.default_rng(0).normal(3, 1, 1237))
    picks = named_rng("drift", 1).integers(0, 1237, size=(2000, 1237))
    low, high = np.quantile(values[picks].mean(axis=1), [0.025, 0.975])
    found = bootstrap_mean(values.tolist(), "drift", 1)
    assert found is not None and (found["low"], found["high"]) == (round(float(low), 6), round(float(high), 6))


def test_a_relative_reduction_of_many_prompts_needs_little_memory() -> None:
    rng = np.random.default_rng(0)
    before, after = rng.random(9000) < 0.4, rng.random(9000) < 0.1
    tracemalloc.start()
    found = relative_reduction(before.tolist(), after.tolist(), "many", 1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # All resamples at once would hold three arrays of 144 MB.
    assert peak < 60e6
    picks = named_rng("many", 1).integers(0, 9000, size=(2000, 9000))
    before, after = np.asarray(sorted(zip(before, after, strict=True))).T
    reductions = 1 - after[picks].mean(axis=1) / before[picks].mean(axis=1)
    low, high = np.quantile(reductions, [0.025, 0.975])
    assert found is not None and (found["low"], found["high"]) == (round(float(low), 6), round(float(high), 6))


def test_the_order_of_pictures_leaves_no_trace() -> None:
    rng = np.random.default_rng(4)
    values, before, after = rng.normal(size=60), rng.random(60) < 0.5, rng.random(60) < 0.3
    found = []
    for order in (np.arange(60), rng.permutation(60), np.arange(60)[::-1]):
        old, new = before[order].tolist(), after[order].tolist()
        reduction = relative_reduction(old, new, "order", 0)
        pooled = pooled_mean({1: values[order].tolist(), 0: old}, "order", 0)
        found.append((bootstrap_mean(values[order].tolist(), "order", 0), reduction, pooled))
    assert found[0] == found[1] == found[2]


def test_bootstrap_is_fixed_by_name_and_seed_and_covers_the_mean() -> None:
    values = np.random.default_rng(0).normal(3, 1, 200).tolist()
    first = bootstrap_mean(values, "drift", 1)
    assert first is not None and first == bootstrap_mean(values, "drift", 1)
    assert first != bootstrap_mean(values, "drift", 2) and first != bootstrap_mean(values, "other", 1)
    assert first["value"] == pytest.approx(np.mean(values), abs=1e-6)
    # The normal approximation: 1.96 standard errors each way.
    half = 1.96 * np.std(values) / np.sqrt(200)
    assert first["high"] - first["low"] == pytest.approx(2 * half, rel=0.15)
    assert bootstrap_mean([], "drift", 1) is None


def test_relative_reduction_is_paired() -> None:
    before = [True] * 90 + [False] * 10
    same = relative_reduction(before, before, "same", 0)
    assert same == {"value": 0.0, "low": 0.0, "high": 0.0, "n": 100}
    gone = relative_reduction(before, [False] * 100, "gone", 0)
    assert gone is not None and gone["value"] == gone["low"] == 1.0
    half = relative_reduction(before, [i % 2 == 0 and b for i, b in enumerate(before)], "half", 0)
    assert half is not None and half["value"] == 0.5 and half["low"] < 0.5 < half["high"]
    assert relative_reduction([False], [True], "none before", 0) is None
    with pytest.raises(ValueError, match="same prompts"):
        relative_reduction([True], [True, False], "unequal", 0)
