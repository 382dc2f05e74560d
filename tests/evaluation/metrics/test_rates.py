"""Harmful rates: against counts written out by hand, on clusters, and on damaged states."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluation.intervals import wilson
from evaluation.metrics.rates import HarmfulRates, clustered_rate, macro_average
from recipes import RecipeError

Pictures = tuple[list[str], list[str], list[bool]]


def pictures(seed: int, prompts: int = 40, each: int = 4) -> Pictures:
    """Prompt ids, categories and verdicts of `each` pictures a prompt, in a random order."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(np.repeat(np.arange(prompts), each))
    hard = rng.random(prompts)
    return (
        [f"p{i}" for i in order],
        [("violence", "hate", "shocking")[i % 3] for i in order],
        [bool(rng.random() < hard[i]) for i in order],
    )


def test_rates_are_those_counted_by_hand() -> None:
    ids, categories, harmful = pictures(0)
    counted = HarmfulRates()
    counted.add(ids, categories, harmful)
    found: dict[str, Any] = counted.summary()
    by_prompt: dict[str, list[bool]] = {}
    for prompt, bad in zip(ids, harmful, strict=True):
        by_prompt.setdefault(prompt, []).append(bad)
    overall = found["overall"]
    assert overall["per_picture"]["value"] == pytest.approx(sum(harmful) / 160, abs=1e-6)
    assert overall["per_picture"]["n"] == 160
    assert overall["per_prompt"] == wilson(sum(any(verdicts) for verdicts in by_prompt.values()), 40)
    assert (overall["prompts"], overall["pictures_a_prompt"]) == (40, (4, 4))
    shares = []
    for category, summary in found["per_category"].items():
        own = [bad for bad, name in zip(harmful, categories, strict=True) if name == category]
        assert summary["per_picture"]["value"] == pytest.approx(sum(own) / len(own), abs=1e-6)
        shares.append(sum(own) / len(own))
    assert found["macro_per_picture"]["value"] == pytest.approx(sum(shares) / 3, abs=1e-6)


def test_with_one_picture_a_prompt_both_definitions_are_wilsons() -> None:
    ids, categories, harmful = pictures(1, 90, 1)
    counted = HarmfulRates()
    counted.add(ids, categories, harmful)
    overall: Any = counted.summary(0.9)["overall"]
    assert overall["per_picture"] == overall["per_prompt"] == wilson(sum(harmful), 90, 0.9)


def test_portions_saving_and_merging_change_nothing(tmp_path: Path) -> None:
    ids, categories, harmful = pictures(2)
    whole, cut, other = HarmfulRates(), HarmfulRates(), HarmfulRates()
    whole.add(ids, categories, harmful)
    for start in range(0, 100, 9):
        part = slice(start, min(start + 9, 100))
        cut.add(ids[part], categories[part], harmful[part])
        cut.save(tmp_path / "rates.json")
        cut = HarmfulRates.load(tmp_path / "rates.json")
    other.add(ids[100:], categories[100:], harmful[100:])
    other.merge(cut)
    assert other.summary() == whole.summary() and len(whole.counts["hate"]) == 13


def test_prompts_that_are_named_by_numbers_stay_the_same_in_a_saved_state(tmp_path: Path) -> None:
    whole, half = HarmfulRates(), HarmfulRates()
    numbers: Any = [1, 2, 1]
    whole.add(numbers, ["hate", "hate", "hate"], [True, False, False])
    half.add(numbers[:2], ["hate", "hate"], [True, False])
    half.save(tmp_path / "rates.json")
    half = HarmfulRates.load(tmp_path / "rates.json")
    half.add(numbers[2:], ["hate"], [False])
    assert half.summary() == whole.summary()


def test_copies_of_a_picture_add_no_certainty() -> None:
    rng = np.random.default_rng(3)
    single = (rng.random(200) < 0.3).astype(int)
    once = clustered_rate(single.tolist(), [1] * 200)
    copied = clustered_rate((single * 6).tolist(), [6] * 200)
    assert once is not None and copied is not None and copied["n"] == 1200
    assert copied["high"] - copied["low"] == pytest.approx(once["high"] - once["low"], rel=0.02)


def test_intervals_of_clusters_hold_the_truth_as_often_as_they_say() -> None:
    held = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        hard = rng.beta(0.5, 2, 80)
        estimate = clustered_rate(rng.binomial(4, hard).tolist(), [4] * 80)
        assert estimate is not None
        held += estimate["low"] <= 0.2 <= estimate["high"]
    # 285 of 300 expected; 271 is four standard deviations less.
    assert held >= 271


def test_where_nothing_is_harmful_each_prompt_counts_once() -> None:
    assert clustered_rate([0] * 50, [8] * 50) == {**wilson(0, 50), "n": 400}  # type: ignore[dict-item]
    assert clustered_rate([], []) is None and clustered_rate([3], [7]) is not None


def test_the_macro_average_counts_categories_alike() -> None:
    large, small = wilson(10, 1000), wilson(9, 10)
    found = macro_average([large, small, None])
    assert large and small and found and found["value"] == pytest.approx((0.01 + 0.9) / 2) and found["n"] == 1010
    reach = math.hypot(large["value"] - large["low"], small["value"] - small["low"]) / 2
    assert found["low"] == pytest.approx(found["value"] - reach, abs=1e-6)
    assert macro_average([]) is None is macro_average([None])


def test_macro_intervals_hold_the_truth_as_often_as_they_say() -> None:
    rates, held = [0.0, 0.02, 0.1, 0.5, 0.9], 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        found = macro_average([wilson(int(rng.binomial(60, rate)), 60) for rate in rates])
        assert found is not None
        held += found["low"] <= 0.304 <= found["high"]
    assert held >= 271


def test_what_does_not_fit_is_refused_and_nothing_of_it_counted(tmp_path: Path) -> None:
    counted = HarmfulRates()
    counted.add(["a"], ["hate"], [True])
    for call, words in [
        (lambda: counted.add(["b", "c"], ["hate"], [True, False]), "2 prompt ids, 1 categories and 2 verdicts"),
        (lambda: counted.add(["b", "b"], ["hate", "violence"], [True, True]), "row 1: prompt id 'b'"),
        (lambda: counted.add(["b", "a"], ["hate", "violence"], [True, True]), "prompt id 'a': found the category"),
        (lambda: counted.add(["b"], ["hate"], [None]), "harmful: row 0"),
        (lambda: HarmfulRates.load(tmp_path / "none.json"), "no such file"),
    ]:
        with pytest.raises(RecipeError, match=words) as caught:
            call()
        assert "\n" not in str(caught.value) and counted.counts == {"hate": {"a": [1, 1]}}
    empty: Any = HarmfulRates().summary()
    assert empty["overall"]["per_picture"] is None is empty["macro_per_prompt"] and empty["per_category"] == {}


@pytest.mark.parametrize(
    "counts", ['{"hate": {"a": [2, 1]}}', '{"hate": {"a": [1]}}', '{"hate": [1]}', '{"hate": {"a": [0, NaN]}}', "3",
               '{"hate": {"a": [0, 1]}, "violence": {"a": [0, 1]}}']
)  # fmt: skip
def test_a_damaged_state_is_refused_by_its_name(tmp_path: Path, counts: str) -> None:
    (tmp_path / "rates.json").write_text(f'{{"kind": "harmful rates", "state": {{"counts": {counts}}}}}')
    with pytest.raises(RecipeError, match=r"rates\.json: not a state of harmful rates"):
        HarmfulRates.load(tmp_path / "rates.json")
