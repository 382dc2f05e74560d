"""`--jobs 2`: seeds in processes of their own come out as those of one process, and one that dies is said."""

import os
from functools import partial
from typing import Any

import pytest

import dataset_builder.build
import dataset_builder.judges
import evaluation.study.running
from evaluation.study.plan import Group, Plan, Unit, Variant
from evaluation.study.results import read_results, write_results
from evaluation.study.running import Study, _take, run_study
from recipes import Recipe
from tests.evaluation.conftest import StandInJudge
from tests.evaluation.study.conftest import NewStudy, build_made_up
from tests.evaluation.study.test_study import timeless

_in_process = evaluation.study.running._in_process
PLAN = Plan("tiny", "merge", "sum", [Group("main", [Variant("sum", merge={"method": "sum"})])])


def with_stand_ins(recipe: Recipe, *rest: Any) -> None:
    """What a seed's process runs, after the stand-ins of the tests were put in place there too."""
    dataset_builder.build.build = build_made_up  # type: ignore[assignment]
    dataset_builder.judges.JUDGES["emoji_world"] = lambda config: StandInJudge()  # type: ignore[assignment]
    _in_process(recipe, *rest)


def second_seed_dies(recipe: Recipe, out: Any, units: Any, sender: Any) -> None:
    """The same, but for the process of seed 1."""
    if units[0].seed == 1:
        os._exit(3)
    with_stand_ins(recipe, out, units, sender)


def run(study: Study) -> tuple[dict[str, str], Any]:
    failed = run_study(study, partial(write_results, study), lambda line: None)
    return failed, timeless(read_results(study.out))


@pytest.mark.slow
def test_seeds_side_by_side_are_the_same_and_a_dead_process_is_said(
    new_study: NewStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = run(new_study("straight", PLAN, limit=2))
    monkeypatch.setattr(evaluation.study.running, "_in_process", second_seed_dies)
    failed, results = run(new_study("out", PLAN, limit=2, jobs=2))
    assert failed == {f"{name}, seed 1": "its process ended with exit code 3" for name in ("base", "sum")}
    assert [row["seeds"] for row in results["rows"]] == [[0], [0]] and len(results["missing"]) == 2
    monkeypatch.setattr(evaluation.study.running, "_in_process", with_stand_ins)
    assert run(new_study("out", PLAN, limit=2, jobs=2)) == straight
    assert straight[0] == {} and straight[1]["rows"][1]["seeds"] == [0, 1]
    assert os.environ["OMP_NUM_THREADS"] == "1"


def test_a_group_begins_before_the_one_before_has_ended_but_never_on_a_busy_seed() -> None:
    batches = [[Unit(seed, group, None, None)] for group in ("main", "controls") for seed in (0, 1, 2)]
    waiting = list(batches)
    assert [_take(waiting, busy) for busy in (set(), {0}, {0, 1}, {0, 1, 2}, {1, 2})] == [
        *batches[:3],
        None,
        batches[3],
    ]
    assert waiting == batches[4:]
