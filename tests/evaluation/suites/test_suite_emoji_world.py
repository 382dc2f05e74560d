"""`coprov2 evaluate --suite emoji-world` on a made-up dataset, with the stand-in judge and a tiny random pipeline."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import coprov2
from evaluation.suites.emoji_world import run_emoji_world
from evaluation.suites.run import NO_ADAPTER, Given
from evaluation.suites.suite import load_suite
from recipes import Recipe, RecipeError
from tests.made_up_run import write_dataset

ROWS = {"train": 1, "test": 1, "test_unseen_concepts": 1}


def test_the_suite_is_the_evaluation_of_a_run_under_the_named_protocol(
    tiny_recipe: Recipe,
    tiny_model: Path,
    new_adapter: Callable[[Path, int], Path],
    stand_in_judge: Callable[[], int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_dataset(tmp_path / "dataset", tiny_recipe, rows=ROWS)
    new_adapter(tmp_path / "merged", 2)
    options = ["--suite", "emoji-world", "--base", str(tiny_model), "--out", str(tmp_path), "--limit", "3"]
    with pytest.raises(SystemExit) as ended:
        coprov2.app(["evaluate", *options, "--set", "steps=2"])
    assert ended.value.code == 0
    results = json.loads((tmp_path / "suites" / "emoji-world" / "results.json").read_text("utf8"))
    inner = json.loads((tmp_path / "suites" / "emoji-world" / "evaluation" / "results.json").read_text("utf8"))
    rows = {row["row"]: row for row in results["rows"]}
    for name, row in rows.items():
        assert row["base"] == inner["models"]["base"][name] and row["aligned"] == inner["models"]["merged"][name]
        assert row["protocol"] == inner["provenance"]["evaluation_protocol"]
        assert row["protocol"]["name"] == "emoji-world (changed: steps=2, limit=3)"
    unsafe = rows["unsafe_rate"]
    assert unsafe["difference"]["value"] == pytest.approx(
        unsafe["aligned"]["value"] - unsafe["base"]["value"], abs=2e-6
    )
    assert unsafe["test"]["n"] == 3 and rows["drift"]["base"] is None and rows["drift"]["empty"].startswith("base: ")
    printed = capsys.readouterr().out
    assert "emoji-world (changed: steps=2, limit=3)" in printed and "Counterpart drawn" in printed


def test_without_an_adapter_or_a_split_cells_say_why(
    tiny_recipe: Recipe, tiny_model: Path, stand_in_judge: Callable[[], int], tmp_path: Path
) -> None:
    write_dataset(tmp_path / "dataset", tiny_recipe, rows={"train": 1, "test": 1})
    suite, given = load_suite("emoji-world"), Given(base=str(tiny_model), overrides=["steps=2"], limit=2)
    rows = {row["row"]: row for row in run_emoji_world(suite, given, Recipe(), tmp_path)["rows"]}
    assert rows["unsafe_rate"]["empty"] == NO_ADAPTER and rows["unsafe_rate"]["base"]["n"] == 2
    assert "no split test_unseen_concepts" in rows["unsafe_rate_unseen_concepts"]["empty"]
    with pytest.raises(RecipeError, match="--model: the suite emoji-world takes none"):
        run_emoji_world(suite, Given(base=str(tiny_model), models={"q16": tmp_path}), Recipe(), tmp_path)
