"""From verdicts on disk to rows of a study: measures of one variant over its seeds, and tests against the reference.

No models: what is read are records, verdicts and the datasets' prompts (for what they ask)."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.intervals import Estimate
from evaluation.judging import asked_of
from evaluation.measures import MAIN_SPLIT, Judged, outcomes, suffix
from evaluation.metrics.paired import holm, mcnemar
from evaluation.scene_readers import Asked
from evaluation.study.plan import Unit
from evaluation.study.pooling import pooled_mean, pooled_rate
from evaluation.study.protocol import Protocols
from evaluation.study.records import read_judged
from recipes import Recipe

UNSEEN = "test_unseen_concepts"
Keep = Callable[[int, Judged], bool]


@dataclass
class Judgements:
    """What was judged of one variant (at one point of a scaling study).

    Args:
        records (`dict[int, dict]`), verdicts (`dict[int, list[Judged]]`): by seed.
        base (`bool`, *optional*, defaults to `False`): whether this is the base model, which loses nothing to itself.
    """

    records: dict[int, dict[str, Any]]
    verdicts: dict[int, list[Judged]]
    base: bool = False

    def narrowed(self, ids: Mapping[int, set[str]]) -> "Judgements":
        """The same of some seeds, and of some pairs in each."""
        seeds = [seed for seed in self.records if seed in ids]
        verdicts = {seed: [row for row in self.verdicts[seed] if row.pair_id in ids[seed]] for seed in seeds}
        return Judgements({seed: self.records[seed] for seed in seeds}, verdicts, self.base)

    def cost(self, phase: str, kind: str) -> float | None:
        """A phase's mean `seconds` over seeds, or its largest `peak_mib`, of those measured from beginning to end."""
        found = [
            record["costs"][kind][phase]
            for record in self.records.values()
            if phase in record["costs"].get(kind, {}) and not record["costs"].get("resumed")
        ]
        over = np.mean if kind == "seconds" else np.max
        return round(float(over(found)), 4) if found else None


def judgements(out: Path, units: list[Unit], holds: Callable[[Unit, dict[str, Any], list[Judged]], bool]) -> Judgements:
    """Records and verdicts of a variant's units, of those that are done and of which `holds` is true."""
    found = Judgements({}, {}, base=units[0].variant is None)
    for unit in units:
        known = read_judged(unit.folder(out))
        if known is not None and holds(unit, *known):
            found.records[unit.seed], found.verdicts[unit.seed] = known
    return found


class Table:
    """Computes rows.

    Args:
        recipe (`Recipe`): of the study.
        protocols (`Protocols`): of its figures; it has the prompts.
        base (`Judgements`): of the base model.
    """

    def __init__(self, recipe: Recipe, protocols: Protocols, base: Judgements) -> None:
        self.recipe, self.protocols, self.base = recipe, protocols, base
        self.confidence = recipe.evaluate.confidence
        self.asked: dict[int, dict[str, Asked] | None] = {
            seed: asked_of(recipe, protocols.pairs(seed)) for seed in base.verdicts
        }

    def base_on(self, seeds: Iterable[int], limit: int | None) -> Judgements:
        """The base model on the seeds and prompts of something else."""
        return self.base.narrowed({seed: self.protocols.ids(seed, limit) for seed in seeds})

    def values(
        self, measure: str, verdicts: Mapping[int, list[Judged]], split: str = MAIN_SPLIT, keep: Keep | None = None
    ) -> dict[int, dict[str, float]]:
        """Seed -> pair id -> 0 or 1, of the pictures that a rate counts."""
        found = {}
        for seed, rows in verdicts.items():
            part = [row for row in rows if row.split == split and (keep is None or keep(seed, row))]
            counted = outcomes(measure, part, self.asked.get(seed))
            if counted is not None:
                found[seed] = {pair_id: float(happened) for pair_id, happened in counted}
        return found

    def rates(self, name: str, variant: Judgements, keep: Keep | None = None) -> dict[str, Estimate | None]:
        """The measures of a row; those that were not measured are None.

        `unsafe_rate`, `counterpart_rate`, `scene_kept_rate`, `safe_fidelity` and `drift` are those of
        [`evaluation.measures`] on `test`, `unsafe_rate_unseen_concepts` the first on the concepts that nothing was
        trained on; `fidelity_lost` is the base's fidelity less the variant's on the same prompts, in shares of 1.

        Args:
            name (`str`): of the row.
            variant (`Judgements`): what was judged.
            keep (`Callable`, *optional*): takes seed and picture; which pictures count, all unless given.
        """
        found, _ = self._measured(name, variant, keep)
        return found

    def row(self, name: str, variant: Judgements) -> dict[str, Any]:
        """Measures, their values by seed and their spread, and the figures by category."""
        measures, per_seed = self._measured(name, variant, None)
        spread = {}
        for measure in measures:
            numbers = [number for values in per_seed.values() if (number := values[measure]) is not None]
            if len(numbers) > 1:
                spread[measure] = {
                    "low": round(min(numbers), 6),
                    "high": round(max(numbers), 6),
                    "sd": round(float(np.std(numbers, ddof=1)), 6),
                }
        categories = sorted({row.category for rows in variant.verdicts.values() for row in rows})
        per_category = {
            category: {
                measure: self._rate(measure, f"{name}/{category}", variant.verdicts, _of_category(category))
                for measure in ("unsafe_rate", "counterpart_rate")
            }
            for category in categories
        }
        return {"measures": measures, "per_seed": per_seed, "spread": spread, "per_category": per_category}

    def paired(self, variant: Judgements, reference: Judgements, name: str, against: str) -> dict[str, Any] | None:
        """The unsafe rate less the reference's on the same prompts and seeds, with McNemar's test; below 0 the variant
        is safer. None where the two have no prompt in common."""
        own, other = self.values("unsafe_rate", variant.verdicts), self.values("unsafe_rate", reference.verdicts)
        common = {seed: sorted(own[seed].keys() & other[seed].keys()) for seed in sorted(own.keys() & other.keys())}
        before = [bool(other[seed][key]) for seed in common for key in common[seed]]
        after = [bool(own[seed][key]) for seed in common for key in common[seed]]
        if not before:
            return None
        test = mcnemar(before, after, self.confidence)
        changes = {seed: [own[seed][key] - other[seed][key] for key in common[seed]] for seed in common}
        pooled = pooled_mean(changes, f"{name} - {against}", self.recipe.seed, self.confidence)
        assert pooled is not None
        return {
            "against": against,
            "difference": pooled["value"],
            # As for a rate: where nothing changed, the bootstrap's interval is a point, Newcombe's is not.
            "low": min(pooled["low"], test["difference"]["low"]),
            "high": max(pooled["high"], test["difference"]["high"]),
            "n": test["n"],
            "fell": test["fell"],
            "rose": test["rose"],
            "p": test["p"],
            "test": test["test"],
        }

    def _measured(
        self, name: str, variant: Judgements, keep: Keep | None
    ) -> tuple[dict[str, Estimate | None], dict[str, dict[str, float | None]]]:
        rates = {
            "unsafe_rate": ("unsafe_rate", MAIN_SPLIT),
            "unsafe_rate" + suffix(UNSEEN): ("unsafe_rate", UNSEEN),
            "counterpart_rate": ("counterpart_rate", MAIN_SPLIT),
            "scene_kept_rate": ("scene_kept_rate", MAIN_SPLIT),
            "safe_fidelity": ("safe_fidelity", MAIN_SPLIT),
        }
        values: dict[str, dict[int, list[float]]] = {}
        for measure, (rate, split) in rates.items():
            found = self.values(rate, variant.verdicts, split, keep)
            values[measure] = {seed: list(numbers.values()) for seed, numbers in found.items()}
        kept = self._kept(variant, keep)
        values["fidelity_lost"] = {seed: [old - new for old, new in pairs] for seed, pairs in kept.items()}
        values["drift"] = {
            seed: [
                row.drift
                for row in rows
                if row.side == "safe" and row.drift is not None and (keep is None or keep(seed, row))
            ]
            for seed, rows in variant.verdicts.items()
        }
        measures, seeds = {}, {str(seed): {} for seed in sorted(variant.verdicts)}  # type: ignore[var-annotated]
        for measure, by_seed in values.items():
            pool = pooled_rate if measure in rates else pooled_mean
            measures[measure] = pool(by_seed, f"{name}/{measure}", self.recipe.seed, self.confidence)
            for key in seeds:
                numbers = by_seed.get(int(key)) or []
                seeds[key][measure] = round(float(np.mean(numbers)), 6) if numbers else None
        lost = measures["fidelity_lost"]
        if lost is not None and lost["low"] == lost["high"]:
            # Where no picture changed, the bootstrap's interval is a point; that nothing ever would is not known.
            old, new = zip(*((bool(a), bool(b)) for pairs in kept.values() for a, b in pairs), strict=True)
            wider = mcnemar(new, old, self.confidence)["difference"]
            lost["low"], lost["high"] = min(lost["low"], wider["low"]), max(lost["high"], wider["high"])
        return measures, seeds

    def _rate(
        self, measure: str, name: str, verdicts: Mapping[int, list[Judged]], keep: Keep | None
    ) -> Estimate | None:
        found = {seed: list(v.values()) for seed, v in self.values(measure, verdicts, MAIN_SPLIT, keep).items()}
        return pooled_rate(found, f"{name}/{measure}", self.recipe.seed, self.confidence)

    def _kept(self, variant: Judgements, keep: Keep | None) -> dict[int, list[tuple[float, float]]]:
        """Whether the base model's picture of a safe prompt holds what it names, and the variant's does, by seed."""
        if variant.base:
            return {}
        # On the variant's seeds alone: `keep` need not know the others, as while a study is part-way.
        base = {seed: rows for seed, rows in self.base.verdicts.items() if seed in variant.verdicts}
        before, after = (self.values("safe_fidelity", of, MAIN_SPLIT, keep) for of in (base, variant.verdicts))
        return {
            seed: [(before[seed][key], after[seed][key]) for key in sorted(before[seed].keys() & after[seed].keys())]
            for seed in sorted(before.keys() & after.keys())
        }


def _of_category(category: str) -> Keep:
    return lambda _, picture: picture.category == category


def adjust(paired: list[dict[str, Any]]) -> None:
    """Put `p_holm` beside each `p`: all comparisons of a study together (Holm 1979)."""
    for entry, p in zip(paired, holm([entry["p"] for entry in paired]), strict=True):
        entry["p_holm"] = p
