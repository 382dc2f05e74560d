"""The before/after pictures of a study: the base model beside the plan's first variant, same prompts and seeds."""

from collections.abc import Iterator
from pathlib import Path

from evaluation.drawing import WEIGHTS, Drawer
from evaluation.examples import chosen_pairs, write_examples
from evaluation.judging import Pictures, requests_of
from evaluation.measures import MAIN_SPLIT
from evaluation.scene_readers import is_harmless
from evaluation.stored import take_stored
from evaluation.study.plan import BASE, Unit
from evaluation.study.records import read_verdicts
from evaluation.study.running import Study
from evaluation.study.seed_run import SeedRun


def write_study_examples(study: Study) -> Path | None:
    """Write OUT/examples.json and the pictures it names, from kept pictures and verdicts.

    Shown is the first variant of the plan (of those asked for) that is done, on the most concepts of a scaling study,
    and the first seed in which it and the base model are. A picture that is not kept any more is drawn again, in the
    batches in which it was drawn first.

    Returns:
        `Path`, *optional*: the file; None where no variant is done, or its adapter is gone.
    """
    for unit, base in _candidates(study):
        run, adapter = SeedRun(study.recipe, study.out, unit.seed), unit.folder(study.out) / "merged"
        if not (adapter / WEIGHTS).is_file() or not run.is_done(base) or not run.is_done(unit):
            continue
        pairs = run.pairs(unit.prompts)
        chosen = chosen_pairs(pairs[MAIN_SPLIT])
        before, after = _drawn(run, None, base.prompts), _drawn(run, adapter, unit.prompts)
        judged = {"base": read_verdicts(base.folder(study.out)), "merged": read_verdicts(unit.folder(study.out))}
        shown = f"{unit.name}, seed {unit.seed}"
        return write_examples(study.out, chosen, before, after, judged, is_harmless(study.recipe), shown)
    return None


def _drawn(run: SeedRun, adapter: Path | None, limit: int | None) -> Pictures:
    """The pictures of a unit, by (pair id, side)."""
    drawer, requests = Drawer(run.recipe, run.base, run.folder / "pictures"), requests_of(run.pairs(limit))
    if adapter is None:
        take_stored(drawer, run.dataset, requests)
    # The whole list, because another cut into batches would change last bits.
    return Pictures(requests, drawer.draw(requests, adapter, "examples"))


def _candidates(study: Study) -> Iterator[tuple[Unit, Unit]]:
    """Units to show with the base's unit of their seed, the best first."""
    units = study.units()
    base = {unit.seed: unit for unit in units if unit.name == BASE}
    points = [str(point) for point in study.plan.concepts]
    for _, variant in study.variants():
        own = [unit for unit in units if unit.variant == variant]
        own.sort(key=lambda unit: (-points.index(str(unit.concepts)) if points else 0, study.seeds.index(unit.seed)))
        for unit in own:
            yield unit, base[unit.seed]
