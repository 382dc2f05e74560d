"""Rows of a study from planted verdicts: intervals over seeds, and what the paired test finds."""

import copy
import hashlib
import json
import mmap
import random
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from coprov2 import app
from evaluation.measures import Judged
from evaluation.prompts import read_pairs
from evaluation.protocols.of_recipe import stated_protocol
from evaluation.study.costs import Costs
from evaluation.study.estimate import Times
from evaluation.study.plan import BASE, Group, Plan, Unit, Variant
from evaluation.study.pooling import pooled_mean, pooled_rate
from evaluation.study.protocol import Protocols
from evaluation.study.records import RECORD, VERDICTS, read_seconds, read_verdicts, write_record
from evaluation.study.results import read_results, write_results
from evaluation.study.running import Study
from evaluation.study.seed_run import noted_seconds
from evaluation.study.table_text import study_table
from recipes import Recipe, RecipeError
from tests.made_up_run import write_dataset

ROWS = {"train": 1, "test": 20, "test_unseen_concepts": 1}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Verdicts in which `better` is unsafe in half as many pictures as `usual`, and `same` in as many."""
    out, recipe, rng = tmp_path_factory.mktemp("study"), Recipe(), random.Random(3)
    names = {"usual": 0.3, "better": 0.15, "same": 0.3}
    plan = Plan("p", "merge", "usual", [Group("main", [Variant(name, merge={"method": "sum"}) for name in names])])
    study, protocols = Study(plan, recipe, out, [0, 1]), Protocols(recipe, out)
    for seed in (0, 1):
        dataset = write_dataset(out / f"seed-{seed}" / "dataset", recipe, rows=ROWS)
        found = [pair for split in recipe.evaluate.splits for pair in read_pairs(dataset, split)]
        # The made-up scenes of a category repeat after a while, and with them the ids.
        pairs = list({pair.pair_id: pair for pair in found}.values())
        for name, rate in {"base": 0.9, **names}.items():
            rows = []
            for pair in pairs:
                draw = rng.random() < rate
                drift = None if name == "base" else 0.1
                rows.append(Judged(pair.pair_id, pair.split, pair.category, "unsafe", draw, 0.5, frozenset(), drift))
                if pair.split == "test":
                    rows.append(Judged(pair.pair_id, pair.split, pair.category, "safe", False, 0.5, frozenset(), drift))
            protocol = protocols.sha256(seed, None)
            record = {
                "seed": seed,
                "fingerprint": name,
                "protocol": protocol,
                "rank": 4,
                "method": "sum",
                "costs": {},
                "steps": 3,
            }
            write_record(out / f"seed-{seed}" / "variants" / name, {**record, "evaluate_seconds": 1.0}, rows)
    return study


@pytest.fixture(scope="module")
def planted(study: Study) -> dict[str, Any]:
    """The results of these verdicts."""
    return write_results(study, {})


def test_a_planted_better_variant_is_found_and_an_equal_one_is_not(planted: dict[str, Any]) -> None:
    rows = {row["name"]: row for row in planted["rows"]}
    better, same = rows["better"]["paired"], rows["same"]["paired"]
    assert better["difference"] < 0 and better["high"] < 0 and better["p_holm"] < 0.01
    assert better["n"] == rows["usual"]["measures"]["unsafe_rate"]["n"] > 200 and better["fell"] > better["rose"]
    assert same["low"] < 0 < same["high"] and same["p_holm"] > 0.05
    assert rows["base"]["paired"]["difference"] > 0.4 and rows["usual"]["paired"] is None
    usual = rows["usual"]["measures"]["unsafe_rate"]
    assert better["difference"] == pytest.approx(
        rows["better"]["measures"]["unsafe_rate"]["value"] - usual["value"], abs=2e-6
    )


def test_a_row_states_seeds_spread_and_categories(planted: dict[str, Any]) -> None:
    row = next(row for row in planted["rows"] if row["name"] == "usual")
    seeds = [row["per_seed"][seed]["unsafe_rate"] for seed in ("0", "1")]
    assert row["measures"]["unsafe_rate"]["value"] == pytest.approx(sum(seeds) / 2, abs=1e-6)
    spread = row["spread"]["unsafe_rate"]
    assert (spread["low"], spread["high"]) == (min(seeds), max(seeds))
    assert len(row["per_category"]) == 7 and row["per_category"]["violence"]["unsafe_rate"]["n"] == 32
    assert row["measures"]["drift"] == {"value": 0.1, "low": 0.1, "high": 0.1, "n": 224}
    assert row["measures"]["fidelity_lost"]["value"] == 0 and row["measures"]["safe_fidelity"]["value"] == 0
    assert planted["missing"] == [] and "better" in study_table(planted)


def test_figures_of_other_seeds_stand_under_a_protocol_of_their_own(study: Study, planted: dict[str, Any]) -> None:
    whole = planted["protocol"]
    assert {row["protocol"]["sha256"] for row in planted["rows"]} == {whole["sha256"]}
    assert whole["name"].startswith("emoji-world") and whole["name"].endswith(", seeds 0, 1")
    both = [evaluated(study, seed) for seed in (0, 1)]
    assert whole["seeds"] == {"0": both[0], "1": both[1]} and both[0] != both[1]
    assert whole["sha256"] == hashlib.sha256("\n".join(sorted(both)).encode()).hexdigest()
    fewer = [replace(study.plan.groups[0], variants=study.plan.variants[:2])]
    fewer.append(Group("less", [study.plan.variants[2]], seeds=1))
    results = write_results(replace(study, plan=replace(study.plan, groups=fewer)), {})
    rows = [(row["name"], row["protocol"]["sha256"]) for row in results["rows"]]
    assert rows == [
        *((name, whole["sha256"]) for name in ("base", "usual", "better")),
        *((name, both[0]) for name in ("base", "same")),
    ]
    measured = {row["protocol"]["sha256"]: row["measures"] for row in results["rows"] if row["name"] == "base"}
    assert 2 * measured[both[0]]["unsafe_rate"]["n"] == measured[whole["sha256"]]["unsafe_rate"]["n"]
    assert all(found["fidelity_lost"] is None for found in measured.values())
    # Without the plan's reference the base model is what the rest is tested against.
    alone = write_results(replace(study, only=["better"]), {})
    assert alone["reference"] == "base" and alone["rows"][0]["paired"] is None
    assert alone["rows"][1]["paired"]["against"] == "base" and alone["rows"][1]["paired"]["p_holm"] < 0.01
    text = study_table(results)
    assert text.count("Protocol ") == 2 and "not comparable" in text


def test_every_protocol_of_a_recipe_of_ones_own_is_explained(study: Study) -> None:
    protocols = Protocols(replace(study.recipe, name="mine"), study.out)
    found = [protocols.over([0, 1], limit) for limit in (10, 20, None, 10)]
    assert len({record["sha256"] for record in found}) == 3 and {record["name"] for record in found} == {
        "recipe mine, seeds 0, 1"
    }
    written = {entry["sha256"]: entry["settings"]["limit"] for entry in protocols.written.values()}
    assert written == {record["sha256"]: limit for record, limit in zip(found, (10, 20, None, 10), strict=True)}
    assert next(iter(protocols.written)) == "recipe mine, seeds 0, 1" and len(protocols.written) == 3


def test_where_no_picture_changed_the_loss_is_no_point(planted: dict[str, Any]) -> None:
    lost = next(row for row in planted["rows"] if row["name"] == "usual")["measures"]["fidelity_lost"]
    # 1.7 % is Wilson's end for none of 224.
    assert lost["value"] == 0 and lost["n"] == 224 and lost["low"] == -lost["high"] == pytest.approx(-0.0169, abs=1e-3)


def test_pictures_of_another_run_do_not_stand_beside_new_figures(study: Study, tmp_path: Path) -> None:
    shutil.copytree(study.out, tmp_path, dirs_exist_ok=True)
    (tmp_path / "examples.json").write_text("[]", "utf8")
    write_results(replace(study, out=tmp_path, only=["better"]), {})
    assert not (tmp_path / "examples.json").exists()


def test_in_markdown_the_table_says_the_same(planted: dict[str, Any]) -> None:
    lines = study_table(planted, markdown=True).splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 2 + len(planted["rows"]) and {line.count("|") for line in table} == {15}
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    for row in (cells[0], *cells[2:]):
        assert all(cell in study_table(planted) for cell in row)
    assert set(cells[1]) == {"---"} and lines[lines.index(table[0]) - 1] == ""


def test_a_p_below_the_smallest_number_is_not_called_0(planted: dict[str, Any]) -> None:
    found = copy.deepcopy(planted)
    row = next(row for row in found["rows"] if row["paired"])
    row["paired"]["p_holm"] = 0.0
    assert "< 1e-300" in study_table(found) and "< 1e-300" not in study_table(planted)


def test_a_scaling_study_is_tested_against_the_base_model_where_the_plan_says_so(study: Study, tmp_path: Path) -> None:
    shutil.copytree(study.out, tmp_path, dirs_exist_ok=True)
    for seed in (0, 1):
        variants = tmp_path / f"seed-{seed}" / "variants"
        shutil.copytree(variants / "better", variants / "concepts-all" / "better")
    plan = Plan("s", "scaling", BASE, [Group("main", [study.plan.variants[1]])], concepts=["all"])
    base, better = write_results(replace(study, plan=plan, out=tmp_path), {})["curves"]
    assert base["points"][0]["paired"] is None and better["name"] == "better"
    paired = better["points"][0]["paired"]
    assert paired["against"] == BASE and paired["difference"] < -0.5 and paired["p_holm"] < 0.01


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rows": None}, "study.json: rows: found nothing, expected a value"),
        ({"rows": [{"name": "x"}]}, r"study.json: rows\[0\]..*: found nothing, expected"),
        ({"rows": [7]}, r"rows\[0\]: found `7`, expected a mapping"),
        ({"confidence": "all"}, "confidence: found `all`, expected a number"),
        ({"kind": "scaling", "curves": [{"name": "x", "points": [1]}]}, r"points\[0\].*expected a mapping"),
        ({"kind": "other"}, "kind: found `other`, expected merge or scaling"),
        ({"rows": float("nan")}, "holds NaN"),
    ],
)
def test_results_that_no_study_writes_are_named_in_a_line(
    planted: dict[str, Any], tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    (tmp_path / "study.json").write_text(json.dumps({**planted, **change}), "utf8")
    found = CliRunner().invoke(app, ["study", "table", str(tmp_path)])
    assert isinstance(found.exception, RecipeError) and re.search(said, str(found.exception))


@pytest.mark.parametrize(
    ("record", "verdict"),
    [
        *(({"costs": costs}, {}) for costs in (None, [], {"seconds": {"merge": "long"}})),
        *(({"rank": rank}, {}) for rank in ("high", float("nan"), 10**400)),
        *(({}, {name: value}) for name, value in (("unsafe", "yes"), ("drift", float("nan")), ("labels", None))),
        *(({}, {name: 3}) for name in ("category", "pair_id", "new")),
    ],
)
def test_a_record_that_no_study_writes_is_none(
    study: Study, tmp_path: Path, record: dict[str, Any], verdict: dict[str, Any]
) -> None:
    shutil.copytree(study.out, tmp_path, dirs_exist_ok=True)
    folder = tmp_path / "seed-1" / "variants" / "better"
    lines = [json.loads(line) for line in (folder / VERDICTS).read_text("utf8").splitlines()]
    text = "".join(json.dumps(line) + "\n" for line in [lines[0] | verdict, *lines[1:]])
    found = json.loads((folder / RECORD).read_text("utf8")) | record
    (folder / VERDICTS).write_text(text, "utf8")
    found["verdicts_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    (folder / RECORD).write_text(json.dumps(found), "utf8")
    results = write_results(replace(study, out=tmp_path), {})
    assert results["missing"] == [{"name": "better", "seed": 1, "reason": "not made yet"}]


@pytest.mark.parametrize(
    "content", ["", "[]", '{"costs": {"seconds": {"a": "b"}}, "evaluate_seconds": 1, "kind": "x"}']
)
def test_times_are_none_where_records_are_damaged(tmp_path: Path, content: str) -> None:
    folder = tmp_path / "seed-0" / "variants" / "x"
    folder.mkdir(parents=True)
    for path in (folder / RECORD, tmp_path / "seed-0" / "seconds.json"):
        path.write_text(content, "utf8")
    assert Times(tmp_path).of([Unit(1, "main", None, None)]) is None
    with noted_seconds(tmp_path / "seed-0" / "seconds.json", "build"):
        pass
    assert "build" in read_seconds(tmp_path / "seed-0" / "seconds.json")


@pytest.mark.parametrize("content", ["", "{", "[]", "[" * 100_000])
def test_a_damaged_file_of_results_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "study.json").write_text(content, "utf8")
    with pytest.raises(RecipeError, match=r"study\.json: "):
        read_results(tmp_path)


def test_names_of_other_peoples_results_do_nothing_to_a_terminal(planted: dict[str, Any]) -> None:
    found = copy.deepcopy(planted)
    found["rows"][1]["name"] = "a\x1b[2Jb\nc"
    found["missing"] = [{"name": "d", "seed": 0, "reason": "e\x1b]0;f\x07"}]
    text = study_table(found)
    assert "\x1b" not in text and "\x07" not in text and "b c " in text


def evaluated(study: Study, seed: int) -> str:
    """The hash that the evaluation of a seed's run states."""
    recipe = replace(study.recipe, seed=seed)
    dataset = study.out / f"seed-{seed}" / "dataset"
    pairs = {split: read_pairs(dataset, split) for split in recipe.evaluate.splits}
    return stated_protocol(recipe, pairs)[0]["sha256"]


def test_verdicts_of_another_protocol_are_not_counted_but_listed(study: Study) -> None:
    recipe = replace(study.recipe, render=replace(study.recipe.render, steps=study.recipe.render.steps + 1))
    results = write_results(replace(study, recipe=recipe), {})
    assert results["rows"] == [] and results["protocol"] is None and len(results["missing"]) == 8
    assert results["missing"][0]["reason"].startswith("measured under another protocol")
    study_table(results)


def test_verdicts_of_prompts_that_the_dataset_has_not_are_not_counted_but_listed(study: Study, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(study.out, out)
    folder = out / "seed-0" / "variants" / "better"
    record = json.loads((folder / RECORD).read_text("utf8"))
    strange = Judged("0" * 64, "test", "hate", "unsafe", True, 0.5, frozenset(), 0.1)
    write_record(folder, record, [*read_verdicts(folder), strange])
    results = write_results(replace(study, out=out), {})
    assert [row["seeds"] for row in results["rows"] if row["name"] == "better"] == [[1]]
    (missing,) = results["missing"]
    assert (missing["name"], missing["seed"]) == ("better", 0) and str(folder) in missing["reason"]


def test_a_curve_without_the_reference_is_tested_against_the_base_model(study: Study, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(study.out, out)
    for seed in (0, 1):
        variants = out / f"seed-{seed}" / "variants"
        shutil.copytree(variants / "better", variants / "concepts-all" / "better")
    plan = Plan("s", "scaling", "usual", [Group("main", study.plan.variants[:2])], concepts=["all"])
    results = write_results(replace(study, plan=plan, out=out, only=["better"]), {})
    (point,) = (curve["points"][0] for curve in results["curves"] if curve["name"] == "better")
    assert results["reference"] == "base" == point["paired"]["against"] and point["paired"]["difference"] < -0.5


def test_a_curve_can_be_looked_at_while_a_seed_is_not_judged(study: Study, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(study.out, out)
    shutil.copytree(out / "seed-0" / "variants" / "usual", out / "seed-0" / "variants" / "concepts-3" / "usual")
    plan = Plan("p", "scaling", "usual", [Group("main", study.plan.variants[:1])], concepts=[3])
    results = write_results(replace(study, plan=plan, out=out), {})
    assert [curve["name"] for curve in results["curves"]] == ["base", "usual"]
    for curve in results["curves"]:
        (point,) = curve["points"]
        aligned, rest = (point["measures"][f"unsafe_rate_{name}"] for name in ("aligned", "not_aligned"))
        assert point["seeds"] == [0] and aligned["n"] > 0 < rest["n"]
        assert aligned["n"] + rest["n"] == point["measures"]["unsafe_rate"]["n"]
    assert [(entry["name"], entry["seed"]) for entry in results["missing"]] == [("concepts-3/usual", 1)]
    (line,) = (line for line in study_table(results, markdown=True).splitlines() if line.startswith("| usual"))
    rates = [point["measures"][f"unsafe_rate{part}"] for part in ("", "_aligned", "_not_aligned")]
    assert [cell.split(" %")[0].strip() for cell in line.split("|")[5:8]] == [f"{100 * r['value']:.1f}" for r in rates]


def test_pooled_intervals_widen_with_the_spread_over_seeds_and_cover_what_was_never_seen() -> None:
    alike = {seed: [1.0] * 20 + [0.0] * 80 for seed in range(5)}
    apart = {seed: [1.0] * (10 * seed) + [0.0] * (100 - 10 * seed) for seed in range(5)}
    one, other = pooled_mean(alike, "a", 0), pooled_mean(apart, "a", 0)
    assert one is not None and other is not None and one["value"] == other["value"] == 0.2
    assert other["high"] - other["low"] > 1.5 * (one["high"] - one["low"])
    never = pooled_rate({0: [0.0] * 50, 1: [0.0] * 50}, "never", 0)
    assert never is not None and never["low"] == 0 and 0.03 < never["high"] < 0.04
    assert pooled_mean({}, "none", 0) is None and pooled_mean({0: []}, "none", 0) is None


def test_the_pooled_bootstrap_is_the_written_out_one() -> None:
    rng = np.random.default_rng(0)
    for discrete in (True, False):
        values = {
            seed: (rng.integers(-1, 2, 60) if discrete else rng.normal(seed, 1, 60)).tolist() for seed in range(4)
        }
        found = pooled_mean(values, "x", 1)
        means = []
        for _ in range(4000):
            picked = rng.integers(0, 4, 4)
            means.append(np.mean(np.concatenate([rng.choice(values[seed], 60) for seed in picked])))
        low, high = np.quantile(means, [0.025, 0.975])
        assert found is not None and found["low"] == pytest.approx(low, abs=0.1 * (high - low))
        assert found["high"] == pytest.approx(high, abs=0.1 * (high - low))


def test_a_phase_inside_another_is_not_part_of_it_and_memory_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("evaluation.study.costs.time.perf_counter", lambda: clock[0])
    costs = Costs()
    with costs.phase("merge"):
        clock[0] += 1
        with costs.phase("calibrate"):
            clock[0] += 10
        clock[0] += 2
        # Pages of its own: an array could be given memory that an earlier test has freed and the process still holds.
        held = mmap.mmap(-1, 30 * 2**20)
        for page in range(0, len(held), mmap.PAGESIZE):
            held[page] = 1
    assert costs.seconds == {"merge": 3.0, "calibrate": 10.0} and len(held)
    assert 25 < costs.peak_mib["merge"] < 60 and costs.peak_mib["calibrate"] < 10


def test_memory_that_was_freed_before_is_seen_when_it_is_taken_again() -> None:
    # Small blocks below one that is kept: the C library holds what is freed of them, until it is told to give it back.
    blocks = [bytearray(2000) for _ in range(20_000)]
    last = bytearray(2000)
    del blocks
    costs = Costs()
    with costs.phase("merge"):
        blocks = [bytearray(2000) for _ in range(20_000)]
    assert last and blocks and costs.peak_mib["merge"] > 25


def test_the_base_model_alone_says_nothing_of_what_making_an_adapter_takes(tmp_path: Path) -> None:
    def measured(name: str, kind: str, made: float) -> None:
        record = {"kind": kind, "costs": {"seconds": {"tune": made}}, "evaluate_seconds": 10.0}
        folder = tmp_path / "seed-0" / "variants" / name
        folder.mkdir(parents=True)
        (folder / RECORD).write_text(json.dumps(record), "utf8")

    base = Unit(1, "main", None, None)
    single = Unit(1, "main", Variant("all-single", all_single=True), None)
    measured("base", BASE, 0.0)
    assert Times(tmp_path).of([base]) == 10.0 and Times(tmp_path).of([base, single]) is None
    measured("merge", "comerge, tuned", 290.0)
    assert Times(tmp_path).of([base, single]) == 310.0 and Times(tmp_path).unknown([single]) == ["all_single"]
