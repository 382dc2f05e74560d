"""Streamed means and feature drift: against loops, in portions, and on what has no mean."""

import math
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from evaluation.intervals import bootstrap_mean
from evaluation.metrics.means import StreamedMean, feature_drift
from recipes import RecipeError


def counted(keys: list[str], values: list[float], seed: int = 0) -> StreamedMean:
    mean = StreamedMean("drift", seed)
    mean.add(keys, values)
    return mean


KEYS = [f"pair{i}" for i in range(300)]
VALUES = np.random.default_rng(0).exponential(0.2, 300).tolist()


def test_the_mean_is_exact_and_its_interval_that_of_the_plain_bootstrap() -> None:
    found, plain = counted(KEYS, VALUES).estimate(), bootstrap_mean(VALUES, "drift", 0)
    assert found is not None and plain is not None
    assert found["value"] == plain["value"] and found["n"] == 300
    width = plain["high"] - plain["low"]
    assert (found["low"], found["high"]) == pytest.approx((plain["low"], plain["high"]), abs=width / 10)


def test_portions_order_saving_and_merging_change_no_digit(tmp_path: Path) -> None:
    whole = counted(KEYS, VALUES)
    cut, other = StreamedMean("drift"), counted(KEYS[:99:-1], VALUES[:99:-1])
    for start in range(0, 100, 9):
        part = slice(start, min(start + 9, 100))
        cut.add(KEYS[part], VALUES[part])
        cut.save(tmp_path / "mean.safetensors")
        cut = StreamedMean.load(tmp_path / "mean.safetensors")
    other.merge(cut)
    assert other.estimate() == whole.estimate() and (other._sums == whole._sums).all()
    assert counted(KEYS, VALUES, seed=1).estimate() != whole.estimate()


def test_pictures_of_one_key_are_drawn_together() -> None:
    few, values = [f"p{i}" for i in range(100)], VALUES[:100]
    once, copied = counted(few, values).estimate(), counted(few * 5, values * 5).estimate()
    assert once is not None and copied is not None and copied["n"] == 500
    assert (copied["low"], copied["high"]) == (once["low"], once["high"])


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    held = 0
    for seed in range(100):
        values = np.random.default_rng(seed).normal(1.0, 1.0, 60).tolist()
        found = counted([f"{seed}/{i}" for i in range(60)], values).estimate()
        assert found is not None
        held += found["low"] <= 1.0 <= found["high"]
    # 95 expected of 100; 86 is four standard deviations less.
    assert held >= 86


def test_none_and_one() -> None:
    assert StreamedMean("drift").estimate() is None
    assert counted(["a"], [0.25]).estimate() == {"value": 0.25, "low": 0.25, "high": 0.25, "n": 1}


def test_what_has_no_mean_is_refused_and_not_counted(tmp_path: Path) -> None:
    mean = counted(["a"], [1.0])
    for call, words in [
        (lambda: mean.add(["b"], [float("nan")]), "drift: row 0: found nan"),
        (lambda: mean.add(["b", "c"], [1.0, -1001.0]), "drift: row 1: found -1001.0, expected -1000..1000"),
        (lambda: mean.add(["b", "c"], [1.0]), "2 keys and 1 values"),
        (lambda: mean.merge(StreamedMean("drift", 4)), "'drift' with seed 4, expected 'drift' with seed 0"),
        (lambda: StreamedMean.load(tmp_path / "none"), "no such file"),
    ]:
        with pytest.raises(RecipeError, match=words):
            call()
    assert mean.count == 1
    mean.save(tmp_path / "good.safetensors")
    data = (tmp_path / "good.safetensors").read_bytes()
    (tmp_path / "short.safetensors").write_bytes(data[:-9])
    save_file({"weights": np.zeros(3)}, tmp_path / "kind.safetensors", metadata={"kind": "else"})
    state = '{"name": "a", "seed": 0, "count": 1, "total": 1}'
    save_file({"weights": np.zeros(3)}, tmp_path / "w.safetensors", metadata={"kind": "streamed mean", "state": state})
    save_file({"weights": np.zeros(3)}, tmp_path / "s.safetensors", metadata={"kind": "streamed mean", "state": "[]"})
    for name in ("short", "kind", "w", "s"):
        with pytest.raises(RecipeError, match=rf"{name}\.safetensors: not a state of a streamed mean"):
            StreamedMean.load(tmp_path / f"{name}.safetensors")


def test_drift_is_one_minus_the_cosine_written_out() -> None:
    rng = np.random.default_rng(1)
    base, aligned = rng.normal(size=(20, 8)), rng.normal(size=(20, 8))
    for one, other, found in zip(base, aligned, feature_drift(base, aligned), strict=True):
        dot = sum(float(x) * float(y) for x, y in zip(one, other, strict=True))
        assert found == pytest.approx(1 - dot / math.sqrt(sum(x * x for x in one) * sum(y * y for y in other)))
    assert feature_drift(base, 3 * base) == pytest.approx(np.zeros(20), abs=1e-12)
    assert feature_drift(base, -base) == pytest.approx(np.full(20, 2.0))
    assert feature_drift(base[:0], base[:0]).shape == (0,)


def test_drift_refuses_what_has_no_direction() -> None:
    base = np.ones((3, 4))
    hole, nothing = base.copy(), base.copy()
    hole[1, 2], nothing[2] = np.nan, 0
    for aligned, words in [
        (hole, "drift: aligned: row 1"),
        (nothing, "row 2: found features that are all 0"),
        (base[:2], "shapes"),
        (base[0], "shapes"),
    ]:
        with pytest.raises(RecipeError, match=words):
            feature_drift(base, aligned)
