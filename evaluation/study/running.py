"""A study over its seeds: which units there are, in which order, in how many processes, and what is left to do.

The work of one seed is `seed_run.py`'s. Results are written after every seed of a group, so that a study that is cut
short is useful."""

import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from dataset_builder.disk import disk_full_said
from evaluation.alone import alone
from evaluation.study.estimate import Times, spoken
from evaluation.study.plan import BASE, Group, Plan, Unit, Variant, merge_config
from evaluation.study.records import RECORD
from evaluation.study.seed_run import SeedRun, TooFewConcepts
from recipes import Recipe, RecipeError
from recipes.loading import unknown_name

Say = Callable[[str], None]
# Seed, unit, seconds, whether anything was done, and what went wrong.
Told = Callable[[Unit, float, bool, str | None], None]


@dataclass
class Study:
    """A study that can be run, or looked at.

    Args:
        plan (`Plan`), recipe (`Recipe`), out (`Path`): what, with what, and where.
        seeds (`list[int]`): of the runs.
        only (`list[str]`): names of variants or groups; empty means all.
        limit (`int`, *optional*): prompts a split at most, whatever the plan says.
        jobs (`int`, *optional*, defaults to 1): seeds side by side, each in a process with one torch thread.
    """

    plan: Plan
    recipe: Recipe
    out: Path
    seeds: list[int]
    only: list[str] = field(default_factory=list)
    limit: int | None = None
    jobs: int = 1

    def __post_init__(self) -> None:
        if not self.seeds:
            raise RecipeError("--seeds: expected 1 or more")
        for name, value in (("--limit", self.limit), ("--jobs", self.jobs)):
            if value is not None and value < 1:
                raise RecipeError(f"{name}: found {value}, expected 1 or more")
        known = [*(group.name for group in self.plan.groups), *(variant.name for variant in self.plan.variants)]
        for name in self.only:
            if name not in known:
                raise unknown_name("--only", name, known)
        for _, variant in self.variants():
            config = merge_config(self.recipe, variant)
            if variant.merge is None and not variant.single_expert and config.rank is None:
                raise RecipeError(
                    f"variant {variant.name}: merge.rank is null; set it, for one LoRA on all needs a rank"
                )

    def variants(self) -> list[tuple[str, Variant]]:
        """Group and variant of all that is asked for, in the plan's order."""
        return [
            (group.name, variant)
            for group in self.plan.groups
            for variant in group.variants
            if not self.only or group.name in self.only or variant.name in self.only
        ]

    def reference(self) -> str:
        """What all else is tested against: the plan's reference, or the base model where the reference is not asked
        for."""
        asked = [variant.name for _, variant in self.variants()]
        return self.plan.reference if self.plan.reference in asked else BASE

    def batches(self) -> list[tuple[str, list[list[Unit]]]]:
        """Group -> for each of its seeds, what is to be done: the base model first, all in the order of work."""
        asked = self.variants()
        batches = []
        for group in self.plan.groups:
            seeds = self.seeds[: group.seeds] if group.seeds else self.seeds
            variants = [variant for name, variant in asked if name == group.name]
            points: list[int | str | None] = list(self.plan.concepts) or [None]
            if variants:
                units = [
                    [
                        Unit(seed, group.name, variant, self._prompts(group), point)
                        for point in points
                        for variant in variants
                    ]
                    for seed in seeds
                ]
                batches.append((group.name, units))
        # The base model is judged once a seed, on the most prompts that any group of the plan has, so that another part
        # of the plan finds it done.
        limits = [self._prompts(group) for group in self.plan.groups]
        most = None if None in limits else max(filter(None, limits), default=None)
        for seed in dict.fromkeys(unit.seed for _, units in batches for listed in units for unit in listed):
            first = next(listed for _, units in batches for listed in units if listed[0].seed == seed)
            first.insert(0, Unit(seed, first[0].group, None, most))
        return batches

    def _prompts(self, group: Group) -> int | None:
        """Prompts a split at most in a group; None for all."""
        return min(filter(None, (group.prompts, self.limit, self.recipe.evaluate.max_prompts)), default=None)

    def units(self) -> list[Unit]:
        """All units, in the order of work."""
        return [unit for _, seeds in self.batches() for units in seeds for unit in units]

    def undone(self) -> list[Unit]:
        """Units whose record does not stand, by the datasets and experts that stand now."""
        runs = {seed: SeedRun(self.recipe, self.out, seed) for seed in self.seeds}
        return [unit for unit in self.units() if not runs[unit.seed].is_done(unit)]


def run_study(study: Study, after: Callable[[dict[str, str]], object], say: Say = print) -> dict[str, str]:
    """Do what is not done yet.

    Args:
        study (`Study`): what to do.
        after (`Callable`): called whenever a seed of a group has ended, to write the results so far; takes
            `NAME, seed N` -> why it could not be done.
        say (`Callable`): takes the lines of progress.

    Returns:
        `dict[str, str]`: the same for what failed, without what the dataset is too small for; the rest is done all the
        same.

    Raises:
        `RecipeError`: where another process works on the folder.
    """
    reasons: dict[str, str] = {}
    failed: dict[str, str] = {}
    pending, started = study.units(), time.perf_counter()
    total, times = len(pending), Times(study.out)

    def told(unit: Unit, seconds: float, done: bool, problem: str | None) -> None:
        pending.remove(unit)
        if problem is not None:
            reasons[f"{unit.name}, seed {unit.seed}"] = problem
            if done:
                failed[f"{unit.name}, seed {unit.seed}"] = problem
        times.refresh()
        # Those that have a record will most likely be found done.
        left = [other for other in pending if not (other.folder(study.out) / RECORD).is_file()]
        what = problem or (f"{seconds:.1f} s" if done else "done already")
        rest = times.of(left, study.jobs) if left else None
        more = f"; about {spoken(rest)} left" if rest else ""
        say(f"[{total - len(pending)}/{total}] seed {unit.seed}, {unit.name}: {what}{more}")

    with alone(study.out, "study"), disk_full_said(study.out):
        batches = [units for _, seeds in study.batches() for units in seeds]
        if study.jobs == 1 or len(study.seeds) == 1:
            for units in batches:
                work(study.recipe, study.out, units, told)
                after(reasons)
        else:
            _side_by_side(study, batches, told, lambda: after(reasons))
    say(f"{total - len(reasons)} of {total} variants are judged, after {spoken(time.perf_counter() - started)}")
    return failed


def work(recipe: Recipe, out: Path, units: list[Unit], told: Told) -> None:
    """The units of one seed, one after the other; one that fails does not stop the others."""
    run = SeedRun(recipe, out, units[0].seed)
    try:
        for unit in units:
            started = time.perf_counter()
            try:
                with disk_full_said(out):
                    done, problem = run.run(unit), None
            except TooFewConcepts as error:
                done, problem = False, str(error)
            except RecipeError as error:
                done, problem = True, str(error)
            told(unit, time.perf_counter() - started, done, problem)
    finally:
        run.close()


def _side_by_side(study: Study, batches: list[list[Unit]], told: Told, after: Callable[[], object]) -> None:
    """Batches, each of one seed, in processes of their own, `study.jobs` at a time; two of one seed never at once."""
    context = multiprocessing.get_context("spawn")
    # A process that trains workers of its own would start more threads than there are cores.
    recipe = replace(study.recipe, train=replace(study.recipe.train, workers=1))
    waiting = list(batches)
    # The parent's end of a pipe -> process, what it has not told yet, and its first unit.
    running: dict[Any, tuple[Any, list[Unit | None], Unit]] = {}
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        while waiting or running:
            while len(running) < study.jobs:
                units = _take(waiting, {unit.seed for _, _, unit in running.values()})
                if units is None:
                    break
                receiver, sender = context.Pipe(duplex=False)
                process = context.Process(target=_in_process, args=(recipe, study.out, units, sender), daemon=True)
                process.start()
                sender.close()
                running[receiver] = (process, list(units), units[0])
            for end in wait(list(running)):
                process, untold, _ = running[end]
                try:
                    message: Any = end.recv()  # type: ignore[union-attr, call-arg]
                    index, seconds, done, problem = message
                    unit = untold[index]
                    assert unit is not None
                    told(unit, seconds, done, problem)
                    untold[index] = None
                except EOFError:
                    process.join()
                    del running[end]
                    for unit in filter(None, untold):
                        told(unit, 0.0, True, f"its process ended with exit code {process.exitcode}")
                    after()
    finally:
        for process, *_ in running.values():
            process.terminate()
            process.join()
        os.environ.pop("OMP_NUM_THREADS")
        if before is not None:
            os.environ["OMP_NUM_THREADS"] = before


def _take(waiting: list[list[Unit]], busy: set[int]) -> list[Unit] | None:
    """Take the first batch off the list whose seed nobody works on: a seed's folder is one process's. So a group may
    begin before the last seed of the one before has ended, and no job is idle meanwhile."""
    for index, units in enumerate(waiting):
        if units[0].seed not in busy:
            return waiting.pop(index)
    return None


def _in_process(recipe: Recipe, out: Path, units: list[Unit], sender: Connection) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import torch

    torch.set_num_threads(1)

    def told(unit: Unit, seconds: float, done: bool, problem: str | None) -> None:
        sender.send((units.index(unit), seconds, done, problem))

    work(recipe, out, units, told)


def _end_with_parent() -> None:
    """Die when the parent does, even by SIGKILL: two processes must never write one seed's folder."""
    parent: Any = multiprocessing.parent_process()
    wait([parent.sentinel])
    os._exit(1)
