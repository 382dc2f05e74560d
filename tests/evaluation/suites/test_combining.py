"""`coprov2 combine` on results that anybody may have written: what stands in one column, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from coprov2 import app
from evaluation.suites.combining import combine, read_suite
from recipes import RecipeError
from tests.made_up_studies import write_suite


def changed(path: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """The results with a change, as another file."""
    value = json.loads(path.read_text("utf8"))
    change(value)
    other = path.with_name("other.json")
    other.write_text(json.dumps(value))
    return other


def nested(levels: int) -> list[Any]:
    """Lists within each other."""
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda v: v["rows"][0].update(metric="fid"), "differ in metric"),
        (lambda v: v["provenance"].update(procedure=99), "differ in procedure: null and 99"),
        (lambda v: v["provenance"].update(protocol=99), "differ in protocol: null and 99"),
        (lambda v: v["rows"][0]["protocol"].update(sha256="0" * 64), "of contents that are not stated"),
        (lambda v: v["rows"][0].update(n=10), "differ in n: 1000 and 10"),
        (lambda v: v["rows"][0].update(drawn="b"), 'differ in drawn prompts: "a" and "b"'),
    ],
)
def test_figures_of_another_kind_stand_in_no_column(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any], said: str
) -> None:
    path = write_suite(tmp_path)
    with pytest.raises(RecipeError, match=f"ip_coprov2_test: one .* {said}"):
        combine({"one": read_suite(path), "other": read_suite(changed(path, change))})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda v: v["rows"].append(v["rows"][0]), r"rows\[10\]\.row: found `ip_coprov2_test`, .* stands once"),
        (lambda v: v["rows"][0].update(base="high"), r"rows\[0\]\.base: found `high`"),
        (lambda v: v["rows"][0].update(base={}), r"rows\[0\]\.base\.value: found nothing"),
        (lambda v: v["rows"][0]["base"].update(value=float("nan")), "holds NaN"),
        (lambda v: v["rows"][0]["base"].update(low=0.9), "low <= value <= high"),
        (lambda v: v["rows"][0].pop("aligned"), r"rows\[0\]\.aligned: found nothing, expected an estimate, or null"),
        (lambda v: v["rows"][0].update(n=-1), r"rows\[0\]\.n: found `-1`"),
        (lambda v: v["rows"][0].update(protocol="paper"), r"rows\[0\]\.protocol"),
        (lambda v: v["rows"][0]["protocol"].update(name=7), r"rows\[0\]\.protocol\.name: found `7`"),
        (lambda v: v["rows"][0]["protocol"].pop("sha256"), r"rows\[0\]\.protocol\.sha256: found nothing"),
        (lambda v: v["rows"][0].update(row=["a"]), r"rows\[0\]\.row: found a list"),
        (lambda v: v["provenance"].update(models=[1]), r"provenance\.models: found a list"),
        (lambda v: v.update(rows=[]), r"rows: found a list, expected at least one row"),
        (lambda v: v["rows"][0].update(notes=nested(700)), r"is nested deeper than 50 levels"),
        (lambda v: v.update(rows={}), r"rows: found a mapping, expected a list"),
    ],
)
def test_results_of_another_shape_are_named_by_field(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any], said: str
) -> None:
    with pytest.raises(RecipeError, match=rf"other\.json: .*{said}|other\.json: {said}") as caught:
        read_suite(changed(write_suite(tmp_path), change))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "{", "[" * 100_000, "7"])
def test_a_broken_file_is_one_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(RecipeError, match=r"results\.json: "):
        read_suite(path)


def test_the_terminal_gets_no_control_characters_and_one_line_a_row(tmp_path: Path) -> None:
    path = write_suite(tmp_path)
    other = changed(path, lambda v: v["rows"][0].update(title="a\nb\x1b[31m\u202e"))
    ends = changed(other, lambda v: v["rows"][0]["base"].update(high=None))
    result = CliRunner().invoke(app, ["combine", f"one={ends}"])
    assert result.exit_code == 0, result.exception
    assert result.output.startswith("row ") and " 1000  " in result.output
    assert "a b\ufffd[31m\ufffd" in result.output and "\x1b" not in result.output
