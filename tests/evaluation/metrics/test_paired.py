"""Paired comparisons: against sums written out by hand, and on planted differences."""

import itertools
import json
import math
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from evaluation.metrics.paired import (
    PairedCounts,
    holm,
    mcnemar,
    mcnemar_p,
    newcombe,
    paired_difference,
    paired_values,
)
from recipes import RecipeError


def verdicts(seed: int, n: int, changed: float, rate: float = 0.4) -> tuple[np.ndarray, np.ndarray]:
    """Verdicts before, and after a share `changed` of all pairs has fallen from true to false."""
    rng = np.random.default_rng(seed)
    before = rng.random(n) < rate
    after = before.copy()
    after[rng.choice(np.flatnonzero(before), round(changed * n), replace=False)] = False
    return before, after


@pytest.mark.parametrize(("fell", "rose"), itertools.product((0, 1, 4, 9), repeat=2))
def test_the_exact_p_is_the_binomial_sum_written_out(fell: int, rose: int) -> None:
    discordant = fell + rose
    chances = [math.comb(discordant, k) / 2**discordant for k in range(discordant + 1)]
    expected = sum(chance for chance in chances if chance <= chances[fell] * (1 + 1e-9))
    assert mcnemar_p(fell, rose)[0] == pytest.approx(min(1.0, expected), rel=1e-9)
    assert mcnemar_p(fell, rose) == mcnemar_p(rose, fell)


def test_the_corrected_p_is_that_of_a_normal_square() -> None:
    p, test = mcnemar_p(60, 90, exact=False)
    assert p == pytest.approx(math.erfc(math.sqrt((30 - 1) ** 2 / 150 / 2)), rel=1e-9)
    assert test == "McNemar, continuity corrected"
    assert mcnemar_p(50, 50, exact=False)[0] == mcnemar_p(0, 0, exact=False)[0] == 1.0


def test_beyond_the_limit_the_corrected_p_is_within_a_twentieth_of_the_exact_one() -> None:
    for fell in range(424, 501, 4):
        exact = mcnemar_p(fell, 1001 - fell, exact=True)[0]
        assert exact > 1e-6
        assert mcnemar_p(fell, 1001 - fell)[0] == pytest.approx(exact, rel=0.05)


def test_a_change_of_five_percent_is_found_and_its_size_too() -> None:
    found = mcnemar(*verdicts(0, 2000, 0.05))
    assert (found["n"], found["fell"], found["rose"]) == (2000, 100, 0)
    assert found["difference"]["value"] == pytest.approx(-0.05)
    assert found["difference"]["high"] < 0 and found["p"] < 1e-20 and found["test"] == "McNemar, exact"


def test_no_change_is_found_no_more_often_than_the_level_allows() -> None:
    finds, covered = 0, 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        before, after = rng.random(2000) < 0.4, rng.random(2000) < 0.4
        found = mcnemar(before.tolist(), after.tolist())
        finds += found["p"] < 0.05
        covered += found["difference"]["low"] <= 0 <= found["difference"]["high"]
    # 400 draws at 5 %: 20 expected, 33 is the 99.9 % point. The test is conservative, so few are no fault.
    assert 4 <= finds <= 33
    assert 367 <= covered <= 396


def test_nothing_changed_gives_p_of_one_and_an_interval_that_is_no_point() -> None:
    found = mcnemar(*verdicts(1, 2000, 0.0))
    assert (found["fell"], found["rose"], found["p"], found["difference"]["value"]) == (0, 0, 1.0, 0.0)
    assert -0.005 < found["difference"]["low"] < 0 < found["difference"]["high"] < 0.005


@pytest.mark.parametrize("cells", [(30, 12, 2, 6), (0, 0, 0, 50), (50, 0, 0, 0), (0, 5, 45, 0), (3, 1, 0, 0)])
def test_newcombes_interval_is_the_formula_written_out(cells: tuple[int, int, int, int]) -> None:
    both, fell, rose, neither = cells
    n, z = sum(cells), 1.959963984540054
    lows, highs, rates = [], [], []
    for successes in (both + rose, both + fell):
        a, b, c = 2 * successes + z * z, z * math.sqrt(z * z + 4 * successes * (1 - successes / n)), 2 * (n + z * z)
        lows, highs, rates = [*lows, (a - b) / c], [*highs, (a + b) / c], [*rates, successes / n]
    product = (both + fell) * (rose + neither) * (both + rose) * (fell + neither)
    cross = both * neither - fell * rose
    phi = 0.0 if product == 0 else (max(cross - n / 2, 0) if cross > 0 else cross) / math.sqrt(product)
    d1, d2, u1, u2 = rates[0] - lows[0], highs[1] - rates[1], highs[0] - rates[0], rates[1] - lows[1]
    low = rates[0] - rates[1] - math.sqrt(d1 * d1 - 2 * phi * d1 * d2 + d2 * d2)
    high = rates[0] - rates[1] + math.sqrt(u1 * u1 - 2 * phi * u1 * u2 + u2 * u2)
    found = newcombe(*cells)
    assert (found["low"], found["high"]) == pytest.approx((max(-1, low), min(1, high)), abs=2e-6)
    assert found["low"] <= found["value"] <= found["high"]


def test_portions_order_saving_and_merging_change_nothing(tmp_path: Path) -> None:
    before, after = verdicts(2, 500, 0.1)
    whole = PairedCounts()
    whole.add(before, after, "seed 0")
    whole.add(after, before, "seed 1")
    cut, other = PairedCounts(), PairedCounts()
    for start in range(0, 500, 7):
        cut.add(before[start : start + 7], after[start : start + 7], "seed 0")
        cut.save(tmp_path / "state.json")
        cut = PairedCounts.load(tmp_path / "state.json")
    other.add(after[::-1], before[::-1], "seed 1")
    cut.merge(other)
    assert cut.cells == whole.cells and cut.result() == whole.result()
    assert whole.result(stratum="seed 0") == mcnemar(before, after)
    assert whole.result()["difference"]["value"] == 0 and whole.result()["n"] == 1000


def test_a_stratum_that_is_a_number_stays_the_same_in_a_saved_state(tmp_path: Path) -> None:
    counted, seed = PairedCounts(), cast(Any, 7)
    counted.add([True, True], [False, True], seed)
    counted.save(tmp_path / "state.json")
    counted = PairedCounts.load(tmp_path / "state.json")
    counted.add([True], [False], seed)
    assert counted.result(stratum=seed) == counted.result() and counted.result()["n"] == 3


def by_hand(differences: np.ndarray, strata: np.ndarray, seed: int) -> tuple[float, float]:
    """A stratified bootstrap as a loop over resamples and strata."""
    rng, means = np.random.default_rng(seed), []
    for _ in range(4000):
        drawn = [rng.choice(differences[strata == s], (strata == s).sum()) for s in np.unique(strata)]
        means.append(np.concatenate(drawn).mean())
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


@pytest.mark.parametrize("kind", ["verdicts", "numbers"])
def test_the_bootstrap_is_that_of_a_loop_over_strata(kind: str) -> None:
    rng = np.random.default_rng(3)
    strata = np.repeat([0, 1, 2], [50, 100, 150])
    before = rng.normal(strata * 2, 1)
    after = before + rng.normal(strata, 1)
    if kind == "verdicts":
        before, after = before > 1, after > 1
    change = after.astype(float) - before.astype(float)
    found = paired_difference(before, after, seed=1, strata=strata.tolist())
    low, high = by_hand(change, strata, 5)
    assert found["value"] == pytest.approx(change.mean(), abs=1e-6) and found["n"] == 300
    # Quantiles of 2,000 and of 4,000 resamples: within a twelfth of the interval's width.
    assert (found["low"], found["high"]) == pytest.approx((low, high), abs=(high - low) / 12)
    if kind == "numbers":
        # The strata differ by their means, which resamples within them leave alone.
        pooled = paired_difference(before, after, seed=1)
        assert pooled["high"] - pooled["low"] > 1.1 * (found["high"] - found["low"])


def test_pairs_of_one_prompt_are_kept_together() -> None:
    rng = np.random.default_rng(4)
    prompt = np.repeat(np.arange(60), 5)
    change = np.repeat(rng.normal(0.1, 1, 60), 5)
    single = paired_difference(np.zeros(300), change)
    together = paired_difference(np.zeros(300), change, clusters=prompt.tolist())
    # Five copies of 60 numbers are 60 numbers: the interval is that of 60, sqrt(5) times that of 300.
    ratio = (together["high"] - together["low"]) / (single["high"] - single["low"])
    assert ratio == pytest.approx(math.sqrt(5), rel=0.1)
    assert paired_values(np.zeros(300), change, clusters=prompt.tolist())["p"] == pytest.approx(
        paired_values(np.zeros(60), change[::5])["p"], rel=1e-9
    )


def test_the_order_of_pairs_does_not_matter_and_the_seed_does() -> None:
    rng = np.random.default_rng(5)
    before, after = rng.normal(size=300), rng.normal(size=300)
    turned = paired_difference(before[::-1], after[::-1], seed=1)
    assert paired_difference(before, after, seed=1) == turned
    assert paired_difference(before, after, seed=2) != turned


def test_numbers_get_students_p_written_out() -> None:
    before, after = np.array([30.0, 31, 29, 33, 30]), np.array([31.0, 33, 29, 36, 34])
    found = paired_values(before, after)
    # Differences 1, 2, 0, 3, 4: mean 2, s 1.581, t = 2 / (1.581 / sqrt 5) = 2.8284 on 4 degrees: p 0.04742.
    assert (found["n"], found["fell"], found["rose"], found["test"]) == (5, 0, 4, "paired t")
    assert found["difference"]["value"] == 2 and found["p"] == pytest.approx(0.04742, abs=1e-5)
    assert paired_values(before, before)["p"] == 1.0 == paired_values([1.0], [2.0])["p"]
    assert paired_values(before, before + 1)["p"] == 0.0


def test_holm_is_the_published_step_down() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9, 1.0]) == [1.0, 1.0, 1.0] and holm([]) == [] and holm([0.04]) == [0.04]
    with pytest.raises(RecipeError, match="row 1: found nan"):
        holm([0.1, float("nan")])


def test_what_cannot_be_compared_is_refused_in_one_line(tmp_path: Path) -> None:
    for call, words in [
        (lambda: mcnemar([], []), "found no pair"),
        (lambda: mcnemar([True], [True, False]), "1 values before and 2 after"),
        (lambda: mcnemar([True, None], [True, False]), "before: row 1: found 'None'"),
        (lambda: mcnemar([True, True], [0, float("nan")]), "after: row 1: found 'nan'"),
        (lambda: mcnemar([[True]], [[True]]), r"before: row 0: found '\[True\]'"),
        (lambda: mcnemar(["yes"], ["no"]), "before: row 0"),
        (lambda: paired_difference([], []), "found no pair"),
        (lambda: paired_difference([1.0, float("inf")], [1.0, 2.0]), "before: row 1: found inf"),
        (lambda: paired_difference(["a"], [1.0]), "before: expected a list of numbers"),
        (lambda: paired_difference([[1.0]], [[1.0]]), r"shape \(1, 1\)"),
        (lambda: paired_difference([1.0], [1.0], strata=[1, 2]), "1 pairs, 2 strata"),
        (lambda: PairedCounts().result(), "found no pair"),
        (lambda: PairedCounts().result(stratum="seed 9"), "no pair of 'seed 9'"),
        (lambda: PairedCounts.load(tmp_path / "none.json"), "no such file"),
    ]:
        with pytest.raises(RecipeError, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "{", "[]", '{"kind": "paired counts"}', '{"kind": "paired counts", "state": {}}', "\x00", "",
        '{"kind": "paired counts", "state": {"cells": {"": [1, 2, 3]}}}',
        '{"kind": "paired counts", "state": {"cells": {"": [1, 2, 3, -4]}}}',
        '{"kind": "paired counts", "state": {"cells": {"": [1, 2, 3, NaN]}}}',
        '{"kind": "paired counts", "state": {"cells": {"": [1, 2, 3, true]}}}',
        '{"kind": "paired counts", "state": {"cells": [1]}}',
        '{"kind": "harmful rates", "state": {"cells": {"": [1, 2, 3, 4]}}}',
        '{"kind": 7, "state": {}}',
    ],
)  # fmt: skip
def test_a_damaged_state_is_refused_by_its_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(RecipeError, match=r"state\.json: ") as caught:
        PairedCounts.load(tmp_path / "state.json")
    assert "\n" not in str(caught.value)


def test_a_result_is_plain_json() -> None:
    assert json.loads(json.dumps(mcnemar([True, False], [False, False])))["fell"] == 1
