"""Two models on the same prompts and seeds: McNemar's test, differences with intervals, many comparisons at once.

A positive difference says that the value is higher after than before. What is compared (verdicts, scores) and which
pairs belong together is the caller's."""

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np

from evaluation.intervals import RESAMPLES, Estimate, as_estimate, named_rng, wilson_bounds
from evaluation.metrics.state import counts, damaged, load_state, save_state
from evaluation.metrics.values import numbers_of, verdicts_of
from recipes import RecipeError

# Discordant pairs up to which the binomial distribution is summed. Beyond it the chi-squared form is within a twentieth
# of the exact p wherever that is above 1e-6 (tests/evaluation/metrics/test_paired.py measures it).
EXACT_UP_TO = 1000
# Distinct differences up to which a resample is drawn as how often each comes up: verdicts have three. For more of them
# drawing single units is the quicker way (30,000 distinct numbers: 2 s instead of 8 s).
_FEW = 64
_KIND = "paired counts"


class Paired(TypedDict):
    """A comparison of two models on the same pairs.

    Args:
        n (`int`): pairs.
        fell (`int`), rose (`int`): the discordant pairs: true before and not after, and the other way round. For
            numbers: how many are lower, and how many higher, after than before.
        difference (`Estimate`): mean after minus mean before, with its interval; of rates in shares of 1.
        p (`float`): two-sided, of the hypothesis that nothing changed.
        test (`str`): which test gave p.
    """

    n: int
    fell: int
    rose: int
    difference: Estimate
    p: float
    test: str


def _same_length(before: np.ndarray, after: np.ndarray) -> None:
    if len(before) != len(after):
        raise RecipeError(
            f"paired comparison: found {len(before)} values before and {len(after)} after; expected those of the same "
            "prompts and seeds, in one order"
        )


def mcnemar_p(fell: int, rose: int, exact: bool | None = None) -> tuple[float, str]:
    """McNemar's test (McNemar 1947): whether as many pairs fell as rose.

    Args:
        fell, rose (`int`): the two counts of discordant pairs.
        exact (`bool`, *optional*): sum the binomial distribution (True), or take chi-squared with Edwards' correction,
            (|fell - rose| - 1)^2 / (fell + rose) on one degree of freedom (False). By default exact up to
            `EXACT_UP_TO` discordant pairs.

    Returns:
        `tuple[float, str]`: p, two-sided, and the test's name. Without a discordant pair p is 1.
    """
    from scipy.stats import binomtest, chi2

    discordant = fell + rose
    if exact is None:
        exact = discordant <= EXACT_UP_TO
    if exact:
        return (float(binomtest(fell, discordant).pvalue) if discordant else 1.0), "McNemar, exact"
    if not discordant:
        return 1.0, "McNemar, continuity corrected"
    # max: without it fell == rose would square -1, and p would be below 1 for no difference at all.
    statistic = max(0, abs(fell - rose) - 1) ** 2 / discordant
    return float(chi2.sf(statistic, 1)), "McNemar, continuity corrected"


def newcombe(both: int, fell: int, rose: int, neither: int, confidence: float = 0.95) -> Estimate:
    """The difference of two paired rates, after minus before, with Newcombe's hybrid score interval.

    Source: Newcombe 1998, Statistics in Medicine 17, 2635-2650, method 10: Wilson's intervals of the two rates,
    combined with the correlation of the pairs, n/2 taken from a positive numerator of it. Unlike a bootstrap it does
    not shrink to a point where no pair changed.

    Args:
        both, fell, rose, neither (`int`): pairs that are true before and after, before only, after only, never.
        confidence (`float`, *optional*, defaults to 0.95): coverage of the interval.

    Raises:
        `RecipeError`: without any pair.
    """
    n = both + fell + rose + neither
    if not n:
        raise RecipeError("paired comparison: found no pair; nothing can be said of a difference")
    before, after = (both + fell) / n, (both + rose) / n
    low_before, high_before = wilson_bounds(before, n, confidence)
    low_after, high_after = wilson_bounds(after, n, confidence)
    margins = (both + fell) * (rose + neither) * (both + rose) * (fell + neither)
    cross = float(both * neither - fell * rose)
    if cross > 0:
        cross = max(cross - n / 2, 0.0)
    correlation = cross / float(margins) ** 0.5 if margins else 0.0

    def reach(up: float, down: float) -> float:
        return float(np.sqrt(max(0.0, up * up - 2 * correlation * up * down + down * down)))

    difference = after - before
    low = difference - reach(after - low_after, high_before - before)
    high = difference + reach(high_after - after, before - low_before)
    return as_estimate(difference, max(-1.0, low), min(1.0, high), n)


class PairedCounts:
    """Counts of paired verdicts, in portions of any size: all that McNemar's test needs.

    The state is four counts a stratum, so it does not grow with the pairs, and neither their order nor the portions
    matter.
    """

    def __init__(self) -> None:
        self.cells: dict[str, list[int]] = {}

    def add(self, before: Sequence[bool], after: Sequence[bool], stratum: str = "") -> None:
        """Count pairs.

        Args:
            before, after (`Sequence[bool]`): verdicts on the same prompts and seeds, in one order.
            stratum (`str`, *optional*): what they belong to, for example a seed or a category; a number counts as
                the text that a saved state makes of it.

        Raises:
            `RecipeError`: where the two differ in length, or hold anything but true and false.
        """
        old, new = verdicts_of(before, "before"), verdicts_of(after, "after")
        _same_length(old, new)
        cell = self.cells.setdefault(str(stratum), [0, 0, 0, 0])
        for index, found in enumerate((old & new, old & ~new, ~old & new, ~old & ~new)):
            cell[index] += int(found.sum())

    def merge(self, other: "PairedCounts") -> None:
        """Add what another one has counted."""
        for stratum, cell in other.cells.items():
            own = self.cells.setdefault(stratum, [0, 0, 0, 0])
            self.cells[stratum] = [a + b for a, b in zip(own, cell, strict=True)]

    def save(self, path: Path) -> None:
        """Write the counts to a JSON file."""
        save_state(path, _KIND, {"cells": self.cells})

    @classmethod
    def load(cls, path: Path) -> "PairedCounts":
        """Read what [`save`] wrote.

        Raises:
            `RecipeError`: where the file is missing or holds anything else.
        """
        made, state = cls(), load_state(path, _KIND)
        try:
            made.cells = {str(name): counts(cell, 4) for name, cell in state["cells"].items()}
        except (KeyError, AttributeError, ValueError) as error:
            raise damaged(path, _KIND, str(error)) from None
        return made

    def result(self, confidence: float = 0.95, stratum: str | None = None, exact: bool | None = None) -> Paired:
        """McNemar's test on what was counted.

        Args:
            confidence (`float`, *optional*, defaults to 0.95): of the interval of [`newcombe`].
            stratum (`str`, *optional*): this one only; unless given all of them pooled, which keeps the test exact:
                where nothing changed, each discordant pair is as likely to fall as to rise in every stratum.
            exact (`bool`, *optional*): as in [`mcnemar_p`].

        Raises:
            `RecipeError`: where nothing was counted, or nothing of that stratum.
        """
        if stratum is not None and str(stratum) not in self.cells:
            raise RecipeError(f"paired comparison: found no pair of {stratum!r}")
        cells = list(self.cells.values()) if stratum is None else [self.cells[str(stratum)]]
        both, fell, rose, neither = (sum(cell[index] for cell in cells) for index in range(4))
        difference = newcombe(both, fell, rose, neither, confidence)
        p, test = mcnemar_p(fell, rose, exact)
        return Paired(n=difference["n"], fell=fell, rose=rose, difference=difference, p=p, test=test)


def mcnemar(
    before: Sequence[bool], after: Sequence[bool], confidence: float = 0.95, exact: bool | None = None
) -> Paired:
    """Compare verdicts on the same prompts and seeds: [`PairedCounts`] on one portion."""
    counted = PairedCounts()
    counted.add(before, after)
    return counted.result(confidence, exact=exact)


def _units(
    differences: np.ndarray, strata: Sequence[Hashable], clusters: Sequence[Hashable] | None
) -> dict[Hashable, list[tuple[float, int]]]:
    """(sum of differences, pairs) of each cluster, by stratum; sorted, so that the order of pairs does not matter."""
    if len(strata) != len(differences) or (clusters is not None and len(clusters) != len(differences)):
        raise RecipeError(
            f"paired comparison: found {len(differences)} pairs, {len(strata)} strata"
            + ("" if clusters is None else f" and {len(clusters)} clusters")
            + "; expected one of each a pair"
        )
    units: dict[Hashable, dict[Hashable, list[float]]] = {}
    for row, (stratum, value) in enumerate(zip(strata, differences.tolist(), strict=True)):
        units.setdefault(stratum, {}).setdefault(row if clusters is None else clusters[row], []).append(value)
    return {
        stratum: sorted((float(sum(sorted(values))), len(values)) for values in found.values())
        for stratum, found in sorted(units.items(), key=lambda item: repr(item[0]))
    }


def paired_difference(
    before: Sequence[float],
    after: Sequence[float],
    confidence: float = 0.95,
    seed: int = 0,
    strata: Sequence[Hashable] | None = None,
    clusters: Sequence[Hashable] | None = None,
    name: str = "paired_difference",
) -> Estimate:
    """The mean of after - before with its percentile bootstrap interval (Efron 1979; 2,000 resamples of pairs).

    Args:
        before, after (`Sequence[float]`): one number (or verdict) a pair, of the same prompts and seeds, in one order.
        confidence (`float`, *optional*, defaults to 0.95): coverage of the interval.
        seed (`int`, *optional*, defaults to 0): fixes the resamples, together with `name`.
        strata (`Sequence`, *optional*): what each pair belongs to, for example the seed that a model was trained with.
            Pairs are drawn within their stratum, so that every resample holds as many of each as the data.
        clusters (`Sequence`, *optional*): pairs that hang together, for example by their prompt; they are drawn
            together, within a stratum. The mean is then the sum over the resample by its number of pairs.
        name (`str`, *optional*): what is estimated.

    Returns:
        `Estimate`, positive where the mean rose; `n` is the number of pairs.

    Raises:
        `RecipeError`: for lists of different lengths, without a pair, or for NaN and infinity, which are named by row.
    """
    old, new = numbers_of(before, "before"), numbers_of(after, "after")
    _same_length(old, new)
    if not len(old):
        raise RecipeError("paired comparison: found no pair; nothing can be said of a difference")
    rng = named_rng(name, seed)
    totals, sizes = np.zeros(RESAMPLES), np.zeros(RESAMPLES)
    for units in _units(new - old, [""] * len(old) if strata is None else strata, clusters).values():
        rows = np.asarray(units)
        distinct, repeats = np.unique(rows, axis=0, return_counts=True)
        share = repeats / len(rows)
        sums, pairs = rows.T.copy()
        # One resample at a time: all of them at once would hold an array of resamples times pairs.
        for resample in range(RESAMPLES):
            if len(distinct) <= _FEW:
                total, size = rng.multinomial(len(rows), share) @ distinct
            else:
                picks = rng.integers(0, len(rows), len(rows))
                total, size = sums.take(picks).sum(), pairs.take(picks).sum()
            totals[resample] += total
            sizes[resample] += size
    low, high = np.quantile(totals / sizes, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return as_estimate(float((new - old).mean()), float(low), float(high), len(old))


def paired_values(
    before: Sequence[float],
    after: Sequence[float],
    confidence: float = 0.95,
    seed: int = 0,
    strata: Sequence[Hashable] | None = None,
    clusters: Sequence[Hashable] | None = None,
    name: str = "paired_difference",
) -> Paired:
    """Compare numbers (CLIPScore, a share of things drawn): [`paired_difference`] and Student's paired t-test.

    Arguments and errors are those of [`paired_difference`]. With `clusters` the test is of the clusters' mean
    differences, each counting once. p is 1 where no pair differs, and where there is nothing to compare it with: a
    single pair or cluster.
    """
    from scipy.stats import ttest_1samp

    difference = paired_difference(before, after, confidence, seed, strata, clusters, name)
    old, new = np.asarray(before, np.float64), np.asarray(after, np.float64)
    fell, rose = int((new < old).sum()), int((new > old).sum())
    changes = new - old
    if clusters is not None:
        units = _units(changes, [""] * len(old), clusters)[""]
        changes = np.asarray([total / size for total, size in units])
    if len(changes) < 2 or not changes.any():
        p = 1.0
    elif np.ptp(changes) == 0:
        # The same change everywhere: the t statistic is infinite.
        p = 0.0
    else:
        p = float(ttest_1samp(changes, 0.0).pvalue)
    return Paired(n=len(old), fell=fell, rose=rose, difference=difference, p=p, test="paired t")


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for many comparisons (Holm 1979): the chance of any false find stays at the level chosen.

    The i-th smallest of m is multiplied by m - i + 1, and none falls below a smaller one's. In the order given.

    Raises:
        `RecipeError`: for a number outside 0..1, by its row.
    """
    for row, p in enumerate(p_values):
        if not 0 <= p <= 1:
            raise RecipeError(f"holm: row {row}: found {p}, expected a p-value from 0 to 1")
    adjusted, floor = [0.0] * len(p_values), 0.0
    for rank, row in enumerate(sorted(range(len(p_values)), key=lambda row: p_values[row])):
        floor = max(floor, min(1.0, p_values[row] * (len(p_values) - rank)))
        adjusted[row] = floor
    return adjusted
