"""`coprov2 evaluate --suite features` on tiny random checkpoints: KID and drift against written-out versions."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from evaluation.metrics.distance import GaussianStatistics
from evaluation.report import write_report
from evaluation.suites import distances, measuring
from evaluation.suites.run import Given, run_suite
from evaluation.suites.suite import load_suite
from evaluation.suites.table import suite_table
from tests.evaluation.suites.conftest import Machine

pytestmark = pytest.mark.slow
ROWS = ("kid_coco_3k", "feature_drift_coco_3k")


def given(machine: Machine, folder: Path, **changes: Any) -> Given:
    """As many real pictures as are drawn, so that every subset is all of them."""
    if not (folder / "real").is_dir():
        (folder / "real").mkdir()
        for number in range(8):
            shutil.copy(machine.models["fid_reference"] / f"{number}.png", folder / "real")
    models = {"inception": machine.models["inception"], "fid_reference": folder / "real"}
    return machine.given(**{"prompts": {"coco_3k": machine.prompts["coco_3k"]}, "models": models, **changes})


def rows_of(results: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    found = {row["row"]: row for row in results["rows"]}
    return found[ROWS[0]], found[ROWS[1]]


def written_out_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """The unbiased squared maximum mean discrepancy, term by term."""

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return (sum(p * q for p, q in zip(a, b, strict=True)) / len(a) + 1) ** 3

    m, n = len(x), len(y)
    own = sum(k(x[i], x[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    other = sum(k(y[i], y[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    return own + other - 2 * sum(k(a, b) for a in x for b in y) / (m * n)


def test_kid_and_drift_are_the_written_out_ones(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def spied(bench: Any, protocol: Any, drawn: Any, label: str) -> Any:
        seen.append((bench, drawn))
        return distances.kid(bench, protocol, drawn, label)

    monkeypatch.setitem(measuring.METRICS, "kid", spied)
    suite, options = load_suite("features"), given(machine, tmp_path)
    results = run_suite(suite, options, tmp_path / "out")
    bench, drawn = seen[0]
    network = bench.models.features

    def features(keys: list[str]) -> np.ndarray:
        return network.features([bench.pictures.get(key) for key in keys]).astype(np.float64)

    real = network.features([Image.open(path).convert("RGB") for path in sorted((tmp_path / "real").iterdir())])
    base, aligned = features(drawn.base), features(drawn.aligned)
    kid, drift = rows_of(results)
    for side, own in (("base", base), ("aligned", aligned)):
        assert kid[side]["value"] == pytest.approx(written_out_mmd(own, real.astype(np.float64)), abs=2e-6)
        assert kid[side]["n"] == 8 and kid[side]["low"] <= kid[side]["value"] <= kid[side]["high"]
    assert kid["difference"]["value"] == pytest.approx(kid["aligned"]["value"] - kid["base"]["value"], abs=2e-6)
    assert "100 subsets of 8 pictures" in kid["notes"][0] and "8 real pictures" in kid["notes"]
    cosines = [a @ b / np.sqrt((a @ a) * (b @ b)) for a, b in zip(base, aligned, strict=True)]
    assert drift["aligned"]["value"] == pytest.approx(1 - np.mean(cosines), abs=2e-6) and drift["aligned"]["value"] > 0
    assert drift["aligned"]["low"] < drift["aligned"]["value"] < drift["aligned"]["high"]
    assert drift["base"] is None and drift["empty"].startswith("base: ") and drift["n"] == 8
    # What is kept gives the same results again, and what a damaged disk left of it is made anew.
    (tmp_path / "out" / "suites" / "features" / "results.json").unlink()
    path = min((tmp_path / "out" / "suites" / "portions").glob("*.f32"))
    path.write_bytes(path.read_bytes()[:40])
    assert run_suite(suite, options, tmp_path / "out") == results
    text, page = suite_table(results), write_report(tmp_path / "out").read_text("utf8")
    assert f"{drift['aligned']['value']:.4f}" in text and "KID, COCO 3K" in text and "%" not in text.splitlines()[2]
    assert "Drift of features, COCO 3K" in page and "KID, COCO 3K" in page


def test_what_is_not_at_hand_leaves_a_row_empty(machine: Machine, tmp_path: Path) -> None:
    statistics = GaussianStatistics(6)
    statistics.add(np.random.default_rng(0).normal(size=(20, 6)))
    statistics.save(tmp_path / "real.safetensors")
    models = {"inception": machine.models["inception"], "fid_reference": tmp_path / "real.safetensors"}
    options = given(machine, tmp_path, models=models)
    kid, drift = rows_of(run_suite(load_suite("features"), options, tmp_path / "out"))
    assert kid["base"] is None and "a file of their statistics" in kid["empty"] and drift["aligned"] is not None
    only = given(machine, tmp_path, models={"inception": machine.models["inception"]}, adapter=None)
    kid, drift = rows_of(run_suite(load_suite("features"), only, tmp_path / "other"))
    assert "--model fid_reference=PATH" in kid["empty"] and "--adapter" in drift["empty"]
