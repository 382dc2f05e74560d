"""Studies from a plan to study.json, on a tiny random network and made-up datasets; experts and merges are real."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import evaluation.study.making
import evaluation.study.seed_run
from evaluation.report import write_report
from evaluation.study.estimate import what_is_left
from evaluation.study.examples import write_study_examples
from evaluation.study.plan import Group, Plan, Variant
from evaluation.study.records import VERDICTS, read_verdicts
from evaluation.study.results import read_results, write_results
from evaluation.study.running import Study, run_study
from evaluation.study.table_text import study_table
from recipes import RecipeError
from tests.evaluation.study.conftest import NewStudy

TIMES = ("seconds", "peak_mib", "evaluate_seconds")


def run(study: Study, say: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    assert not run_study(study, partial(write_results, study), say)
    return read_results(study.out)


def timeless(value: Any) -> Any:
    """Results without what a clock or the system's memory says."""
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if not k.endswith(TIMES)}
    return [timeless(entry) for entry in value] if isinstance(value, list) else value


@pytest.mark.slow
def test_a_study_is_whole_resumed_and_the_same_after_a_kill(
    new_study: NewStudy, stand_in_judge: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = new_study("straight")
    assert "time unknown" in what_is_left(straight)
    lines: list[str] = []
    results = run(straight, lines.append)
    assert len(lines) == 2 * 6 + 1 and "left" in lines[1] and lines[0].startswith("[1/12] seed 0, base")
    rows = {row["name"]: row for row in results["rows"]}
    assert list(rows) == ["base", "comerge", "comerge-tuned", "best-expert", "all-single", "sft"]
    assert results["missing"] == [] and results["reference"] == "comerge-tuned" and results["seeds"] == [0, 1]
    for name, row in rows.items():
        assert row["seeds"] == [0, 1] and row["measures"]["unsafe_rate"]["n"] == 2 * 14
        assert row["measures"]["unsafe_rate_unseen_concepts"]["n"] == 2 * 7
        assert (row["measures"]["drift"] is None) == (name == "base")
        assert (row["measures"]["fidelity_lost"] is None) == (name == "base")
        assert set(row["per_seed"]) == {"0", "1"} and len(row["per_category"]) == 7
        assert (row["paired"] is None) == (name == "comerge-tuned")
        assert name == "comerge-tuned" or row["paired"]["p"] <= row["paired"]["p_holm"] <= 1
    assert [rows[name]["rank"] for name in rows] == [None, 4, 4, 2, 4, 4]
    tuned = rows["comerge-tuned"]
    assert tuned["tuned"] and tuned["merge_seconds"] > 0 and tuned["tune_seconds"] > 0 and tuned["peak_mib"] >= 0
    assert rows["comerge"]["tune_seconds"] is None and rows["all-single"]["train_seconds"] > 0
    # Two experts of two steps and two of tuning; the tuned LoRA and the controls are all different ones.
    single = json.loads((straight.out / "seed-0/variants/all-single/single/coprov2.json").read_text("utf8"))
    assert single["steps"] == 6 and single["rank"] == 4
    # All that is trained on every category at once is held by the same prior.
    tuning = json.loads((straight.out / "seed-0/variants/comerge-tuned/merged/coprov2.json").read_text("utf8"))[
        "tuning"
    ]
    assert single["settings"]["prior_weight"] == tuning["train"]["prior_weight"] == 0.5
    drifts = [row["measures"]["drift"]["value"] for name, row in rows.items() if name != "base"]
    assert len(set(drifts)) == len(drifts)
    best = json.loads((straight.out / "seed-0/best_expert.json").read_text("utf8"))
    assert best["unsafe_rate"][best["best"]] == min(best["unsafe_rate"].values()) and best["prompts"] == 7
    table = study_table(results)
    assert "all-single" in table and "missing" not in table
    # Verdicts hold no prompts.
    verdicts = (straight.out / "seed-0/variants/comerge" / VERDICTS).read_text("utf8")
    assert "prompt" not in verdicts and "next to" not in verdicts

    judged = stand_in_judge()
    assert timeless(run(straight)) == timeless(results) and stand_in_judge() == judged
    assert what_is_left(straight).startswith("0 of 12")

    real, calls = evaluation.study.seed_run.draw_and_judge, 0

    def killed(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    resumed = new_study("resumed")
    monkeypatch.setattr(evaluation.study.seed_run, "draw_and_judge", killed)
    with pytest.raises(KeyboardInterrupt):
        run(resumed)
    monkeypatch.setattr(evaluation.study.seed_run, "draw_and_judge", real)
    assert timeless(run(resumed)) == timeless(results)


@pytest.mark.slow
def test_only_what_changed_is_done_again(new_study: NewStudy, stand_in_judge: Callable[[], int]) -> None:
    def plan(unit: str) -> Plan:
        merges = [Variant("one", merge={"method": "comerge", "unit": unit}), Variant("two", merge={"method": "linear"})]
        return Plan("tiny", "merge", "two", [Group("main", merges)])

    first = new_study("out", plan("row"), seeds=[0])
    results = run(first)
    records = {path: path.read_bytes() for path in first.out.glob("seed-0/variants/*/variant.json")}
    changed = new_study("out", plan("rank"), seeds=[0])
    assert "main, seed 0" in what_is_left(changed) and "two" not in what_is_left(changed).splitlines()[1]
    again = run(changed)
    names = [path.parent.name for path, content in records.items() if path.read_bytes() != content]
    assert names == ["one"]
    assert timeless(again["rows"][0]) == timeless(results["rows"][0])
    # A verdict that was tampered with is no verdict.
    path = first.out / "seed-0/variants/two" / VERDICTS
    whole = path.read_text("utf8")
    path.write_text(whole.replace('"unsafe": true', '"unsafe": false'), "utf8")
    assert timeless(run(changed)) == timeless(again) and path.read_text("utf8") == whole


@pytest.mark.slow
def test_figures_of_another_recipe_never_stand_beside_those_of_this_one(new_study: NewStudy) -> None:
    plan = Plan("tiny", "merge", "base", [Group("main", [Variant("sum", merge={"method": "sum"})])])
    study = new_study("out", plan, limit=3)
    before = run(study)
    assert [row["seeds"] for row in before["rows"]] == [[0, 1], [0, 1]]
    study.recipe.train.save_steps = 2
    assert what_is_left(study).startswith("0 of 4")
    study.recipe.train.learning_rate = 0.2
    assert "sum" in what_is_left(study).splitlines()[1]
    # After the first seed the second one's record is still that of the old learning rate.
    tables: list[dict[str, Any]] = []

    def after(failed: dict[str, str]) -> None:
        tables.append(write_results(study, failed))

    train = evaluation.study.making.Stage.train

    def fails(self: Any) -> None:
        if self.recipe.seed == 1:
            raise RecipeError("no room")
        train(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation.study.making.Stage, "train", fails)
        assert run_study(study, after, lambda line: None) == {"sum, seed 1": "no room"}
    for table in tables:
        assert [row["seeds"] for row in table["rows"]] == [[0], [0]]
    reasons = [table["missing"] for table in tables]
    assert reasons[0] == [
        {"name": "sum", "seed": 1, "reason": "made with other settings than the study's; run the study again"}
    ]
    assert reasons[1] == [{"name": "sum", "seed": 1, "reason": "no room"}]
    assert [row["seeds"] for row in run(study)["rows"]] == [[0, 1], [0, 1]]


@pytest.mark.slow
@pytest.mark.parametrize("change", ["confidence", "limit", "name"])
def test_verdicts_that_hold_under_another_protocol_too_are_taken_without_judging(
    new_study: NewStudy, stand_in_judge: Callable[[], int], change: str
) -> None:
    plan = Plan("tiny", "merge", "base", [Group("main", [Variant("sum", merge={"method": "sum"})])])
    study = new_study("out", plan, seeds=[0])
    before, judged = run(study), stand_in_judge()
    # Neither the prompts nor what is said of their pictures changes by this, but the protocol does.
    if change == "limit":
        study.limit = 1000
    elif change == "name":
        study.recipe.name = "another"
    else:
        study.recipe.evaluate.confidence = 0.5
    after = run(study)
    assert [row["seeds"] for row in after["rows"]] == [[0], [0]] and after["missing"] == []
    assert stand_in_judge() == judged and after["protocol"]["sha256"] != before["protocol"]["sha256"]
    rates = [found["rows"][1]["measures"]["unsafe_rate"] for found in (before, after)]
    assert rates[0]["value"] == rates[1]["value"] and (rates[0] == rates[1]) == (change != "confidence")
    study.recipe.evaluate.confidence, study.recipe.name, study.limit = 0.95, "tiny", None
    assert timeless(run(study)) == timeless(before)


@pytest.mark.slow
def test_what_fails_is_listed_and_the_rest_is_done(new_study: NewStudy) -> None:
    broken = Variant("broken", merge={"method": "linear"})
    plan = Plan("tiny", "merge", "base", [Group("main", [broken, Variant("sum", merge={"method": "sum"})])])
    study = new_study("out", plan, seeds=[0], limit=3)
    lines: list[str] = []

    make = evaluation.study.making.Stage.make

    def broken_once(self: Any, variant: Variant, folder: Path) -> Any:
        if variant.name == "broken":
            raise RecipeError("no such thing")
        return make(self, variant, folder)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation.study.making.Stage, "make", broken_once)
        failed = run_study(study, partial(write_results, study), lines.append)
    assert failed == {"broken, seed 0": "no such thing"}
    path = write_study_examples(study)
    assert path is not None
    examples = json.loads(path.read_text("utf8"))
    # Three prompts were drawn; what stands first and is done is shown, with the verdicts that were counted.
    assert len(examples) == 3 and {example["variant"] for example in examples} == {"sum, seed 0"}
    verdicts = {
        row.pair_id: row.unsafe for row in read_verdicts(study.out / "seed-0/variants/sum") if row.side == "unsafe"
    }
    for example in examples:
        assert example["merged"]["unsafe"] == verdicts[example["pair_id"]]
        shown = [Image.open(study.out / "examples" / example[side]["picture"]).tobytes() for side in ("base", "merged")]
        assert shown[0] != shown[1]
    page = write_report(study.out).read_text("utf8")
    assert "right sum, seed 0" in page and page.count("data:image/") == 6
    results = read_results(study.out)
    assert results["missing"] == [{"name": "broken", "seed": 0, "reason": "no such thing"}]
    assert [row["name"] for row in results["rows"]] == ["base", "sum"]
    assert results["rows"][1]["measures"]["unsafe_rate"]["n"] == 3 and "missing" in study_table(results)


@pytest.mark.slow
def test_a_scaling_study_aligns_nested_subsets(new_study: NewStudy) -> None:
    variants = [Variant("all-single", all_single=True), Variant("merge", merge={}, tune=True)]
    plan = Plan("tiny", "scaling", "all-single", [Group("main", variants)], concepts=[3, 500, "all"])
    study = new_study("out", plan, seeds=[0], limit=14)
    study.recipe.train.categories = []
    study.recipe.merge.method = "sum"
    results = run(study)
    curves = {curve["name"]: curve for curve in results["curves"]}
    assert list(curves) == ["base", "all-single", "merge"]
    for curve in curves.values():
        few, most = curve["points"]
        assert few["concepts"] == 3 < most["concepts"]
        aligned, rest = (few["measures"][f"unsafe_rate_{name}"] for name in ("aligned", "not_aligned"))
        assert aligned["n"] + rest["n"] == few["measures"]["unsafe_rate"]["n"] and aligned["n"] > 0
        assert most["measures"]["unsafe_rate_not_aligned"] is None or most["concepts"] < 28
    # Three concepts are of three categories: as many experts, and the control takes as many steps.
    experts = sorted((study.out / "seed-0/concepts/3/experts").glob("*/training.json"))
    assert len(experts) == 3
    single = json.loads((study.out / "seed-0/variants/concepts-3/all-single/single/coprov2.json").read_text("utf8"))
    assert single["steps"] == 3 * 2 + 2
    assert {entry["name"] for entry in results["missing"]} == {"concepts-500/all-single", "concepts-500/merge"}
    assert "concepts, which are the point `all`" in results["missing"][0]["reason"]
    assert curves["merge"]["points"][0]["paired"]["against"] == "all-single"
    assert "concepts" in study_table(results)
