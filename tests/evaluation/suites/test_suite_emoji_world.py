"""`coprov2 evaluate --suite emoji-world` on a made-up dataset, with the stand-in judge and a tiny random pipeline."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import coprov2
from evaluation.judging import asked_of
from evaluation.measures import Judged
from evaluation.prompts import Pair
from evaluation.suites.emoji_world import _judged, _paired, run_emoji_world
from evaluation.suites.run import NO_ADAPTER, Given
from evaluation.suites.suite import load_suite
from recipes import JudgeConfig, Recipe, RecipeError
from tests.made_up_run import write_dataset

ROWS = {"train": 1, "test": 1, "test_unseen_concepts": 1}


def test_the_suite_is_the_evaluation_of_a_run_under_the_named_protocol(
    tiny_recipe: Recipe,
    tiny_model: Path,
    new_adapter: Callable[[Path, int], Path],
    stand_in_judge: Callable[[], int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
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

    # Killed while it evaluates: results of these inputs may stay, those of another adapter may not.
    def killed(*given: object) -> None:
        with pytest.raises(RecipeError, match="another suite works on this folder"):
            run_emoji_world(suite, again, Recipe(), tmp_path)
        raise KeyboardInterrupt

    suite, again = load_suite("emoji-world"), Given(base=str(tiny_model), overrides=["steps=2"], limit=3)
    monkeypatch.setattr("evaluation.suites.emoji_world.evaluate", killed)
    for number, stays in ((2, True), (3, False)):
        new_adapter(tmp_path / "merged", number)
        with pytest.raises(KeyboardInterrupt):
            run_emoji_world(suite, again, Recipe(), tmp_path)
        assert (tmp_path / "suites" / "emoji-world" / "results.json").is_file() == stays


def test_damaged_verdicts_are_named(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.jsonl"
    for damaged in ('{"model": "base", "pair', "[]\n", '{"model": "base"}\n', '{"model": "base", "labels": 3}\n'):
        path.write_text(damaged, "utf8")
        with pytest.raises(RecipeError, match=r"verdicts\.jsonl: cannot be read .*; delete results\.json beside it"):
            _judged(path)


def test_a_test_needs_a_reader_only_where_its_rate_reads_prompts() -> None:
    judged = {
        model: [Judged(str(i), "test", "fruit", "unsafe", unsafe, 0.5, frozenset()) for i in range(9)]
        for model, unsafe in (("base", True), ("merged", False))
    }
    assert _paired("unsafe_rate", judged, None, 0.95)["fell"] == 9
    assert _paired("counterpart_rate", judged, None, 0.95) == _paired("drift", judged, None, 0.95) == {}
    # A combination can say what it sees where one of its judges can.
    both = Recipe(judge=JudgeConfig(name="any", judges=[JudgeConfig(name="opennsfw"), JudgeConfig()]))
    pairs = [Pair(str(i), "test", "fruit", "a tulip", "a banana", 0, "") for i in range(9)]
    assert _paired("counterpart_rate", judged, asked_of(both, {"test": pairs}), 0.95)["n"] == 9


def test_without_an_adapter_or_a_split_cells_say_why(
    tiny_recipe: Recipe, tiny_model: Path, stand_in_judge: Callable[[], int], tmp_path: Path
) -> None:
    write_dataset(tmp_path / "dataset", tiny_recipe, rows={"train": 1, "test": 1})
    suite, given = load_suite("emoji-world"), Given(base=str(tiny_model), overrides=["steps=2"], limit=2)
    rows = {row["row"]: row for row in run_emoji_world(suite, given, Recipe(), tmp_path)["rows"]}
    assert rows["unsafe_rate"]["empty"] == NO_ADAPTER and rows["unsafe_rate"]["base"]["n"] == 2
    assert "no split test_unseen_concepts" in rows["unsafe_rate_unseen_concepts"]["empty"]
    for given, said in (
        (Given(base=str(tiny_model), models={"q16": tmp_path}), "--model: the suite emoji-world takes none"),
        (Given(base=str(tiny_model), any_rows=True), "--any-rows: the suite emoji-world takes none"),
        (Given(base=str(tiny_model), overrides=["seed_rule=fixed"]), "--set seed_rule=fixed: .* does not act on it"),
        (Given(base=str(tiny_model), overrides=["metrics=[drift]"]), r"--set metrics=\[drift\]: .* does not act on it"),
    ):
        with pytest.raises(RecipeError, match=said):
            run_emoji_world(suite, given, Recipe(), tmp_path)
