"""A stated number holds when it lies in the new interval, and no figure is stated without a measurement."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from evaluation.claims import Claim, all_stated, read_claims, stated, unclaimed
from evaluation.evidence import check_evidence, look_up, weigh
from recipes import RecipeError

RATE = {"value": 0.016, "low": 0.007, "high": 0.037, "n": 308}


def claim(**changes: Any) -> Claim:
    return Claim(
        **{"file": "README.md", "text": "{} % unsafe", "source": "study", "at": "rate", "unit": 0.01, **changes}
    )


@pytest.mark.parametrize(
    ("text", "measured", "changes", "holds"),
    [
        ("1.6", RATE, {}, True),
        ("3.7", RATE, {}, True),
        ("3.8", RATE, {}, False),
        ("0.6", RATE, {}, False),
        # Rounds to what the interval holds.
        ("4", RATE, {}, True),
        ("12", 0.12, {}, True),
        ("12", 0.126, {}, False),
        # 288 of 300 is 93.1 to 97.7 %.
        ("97", 0.96, {"of": 300}, True),
        ("99", 0.96, {"of": 300}, False),
        ("2.0", 3.9, {"unit": 1.0, "within": 2.0}, True),
        ("2.0", 4.2, {"unit": 1.0, "within": 2.0}, False),
        ("3", RATE, {"rule": "at_most"}, True),
        ("1", RATE, {"rule": "at_most"}, False),
        ("1", RATE, {"rule": "at_least"}, True),
        ("4", RATE, {"rule": "at_least"}, False),
        ("1,434", 1434, {"unit": 1.0}, True),
    ],
)
def test_a_number_holds_inside_of_the_interval(text: str, measured: Any, changes: dict[str, Any], holds: bool) -> None:
    assert weigh(claim(**changes), text, measured).holds is holds


def test_a_measurement_that_is_none_is_refused() -> None:
    for measured in ("1.6", None, True, {"value": 1}):
        with pytest.raises(RecipeError, match="expected a number or an estimate"):
            weigh(claim(), "1.6", measured)


@pytest.mark.parametrize(
    ("measured", "changes", "said"),
    [
        ({"value": None, "low": None, "high": None}, {}, "expected finite numbers in this order"),
        ({"value": 0.9, "low": float("-inf"), "high": float("inf")}, {}, "expected finite numbers in this order"),
        ({"value": 0.9, "low": 0.0, "high": 0.1}, {}, "expected finite numbers in this order"),
        (float("nan"), {}, "found nan"),
        (3.0, {"of": 100}, "expected a share from 0 to 1"),
    ],
)
def test_an_interval_that_is_none_holds_nothing(measured: Any, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=f"^rate: .*{said}"):
        weigh(claim(**changes), "1.6", measured)


@pytest.mark.parametrize("words", ["about 1{} % of", "about {}.5 % of", "about 12.{} % of", "about 1{}.5 % of"])
def test_a_part_of_a_number_is_no_number(tmp_path: Path, words: str) -> None:
    (tmp_path / "README.md").write_text("It draws about 12.5 % of them.\n", "utf8")
    with pytest.raises(RecipeError, match="found 0 places like"):
        stated(claim(text=words), tmp_path)


@pytest.mark.parametrize("written", ["\N{MINUS SIGN}1.6", "1e6", "1e-6", "1.6e5"])
def test_another_number_with_the_same_digits_is_no_number(tmp_path: Path, written: str) -> None:
    (tmp_path / "README.md").write_text(f"It changes by {written}, they say.\n", "utf8")
    for words in ("{}, they", "by {}", "{}"):
        with pytest.raises(RecipeError, match="found 0 places like"):
            stated(claim(text=words), tmp_path)


def test_a_number_is_found_by_its_words_across_lines(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("It draws\nan unsafe picture for 1.6 % of\nprompts (base 98.1 %).\n", "utf8")
    found = stated(claim(text="picture for {} % of prompts"), tmp_path)
    assert found.text == "1.6" and (tmp_path / "README.md").read_text("utf8")[slice(*found.span)] == "1.6"
    assert stated(claim(text="(base {} %)"), tmp_path).text == "98.1"
    for words in ("picture for {} points", "{} %"):
        with pytest.raises(RecipeError, match=r"found \d places like"):
            stated(claim(text=words), tmp_path)


def test_a_result_is_read_by_keys_and_entries() -> None:
    result = {"rows": [{"name": "base"}, {"name": "merge/least_squares+tuned", "measures": {"unsafe_rate": RATE}}]}
    assert look_up(result, "rows[name=merge/least_squares+tuned].measures.unsafe_rate") == RATE
    for at in ("rows[name=other].measures", "rows[name=base].measures", "columns"):
        with pytest.raises(RecipeError, match="the result has nothing at"):
            look_up(result, at)
    # A study of two protocols has a row of the base model under each.
    with pytest.raises(RecipeError, match=r"rows\[name=base\].x: the result has 2 entries rows\[name=base\]"):
        look_up({"rows": [{"name": "base", "x": 1}, {"name": "base", "x": 2}]}, "rows[name=base].x")
    # A step that is not understood is not passed over: the rest would be looked up in another place.
    for at in ("", "rows[0].rows", "rows[name=base", "rows..name", "rows."):
        with pytest.raises(RecipeError, match="expected keys joined by dots"):
            look_up(result, at)


def test_figures_nobody_claimed_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text(
        "98.1 % of 3 things\n`50 %` and\n```\n7 %\n```\n2.5 points, 1.6 times, SD1.5 x 2, 512 x 512\n", "utf8"
    )
    assert unclaimed(path, [(0, 4)]) == ["line 6: 2.5 points", "line 6: 1.6 times"]
    assert unclaimed(path, []) == ["line 1: 98.1 %", "line 6: 2.5 points", "line 6: 1.6 times"]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("5 percentage points, 98 percent", ["5 percentage points", "98 percent"]),
        ("3× as many, a 2-fold rise, 16 × 16", ["3×", "2-fold"]),
        ("**98.1** %, .5 %, 1.5e-3 %, 98&nbsp;%", ["98.1** %", ".5 %", "1.5e-3 %", "98&nbsp;%"]),
        ("from 98.1 to 99.4 %, 3–4 points", ["98.1", "99.4 %", "3", "4 points"]),
        ("1.3 % (0.6 to 2.0) of (1 to 5)", ["1.3 %", "0.6"]),
    ],
)
def test_a_figure_is_one_however_it_is_written(tmp_path: Path, words: str, found: list[str]) -> None:
    (tmp_path / "README.md").write_text(words, "utf8")
    assert unclaimed(tmp_path / "README.md", []) == [f"line 1: {figure}" for figure in found]


@pytest.mark.parametrize(("text", "rule", "holds"), [("5", "at_most", False), ("5", "at_least", True)])
def test_a_bound_with_a_negative_unit_is_that_of_the_text(text: str, rule: str, holds: bool) -> None:
    # "falls by at most 5 points", and it fell by 10.
    assert weigh(claim(unit=-0.01, rule=rule), text, -0.10).holds is holds
    assert weigh(claim(unit=-0.01, rule=rule), text, -0.01).holds is not holds
    assert weigh(claim(unit=-0.01), "10", -0.104).holds


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("Merged: 1.6 % unsafe.\n", "utf8")
    words = ["python", "-c", "import json, sys; json.dump({'rate': 0.016}, open(sys.argv[1], 'w'))", "{out}/study.json"]
    claims = {
        "sources": {"study": {"command": words, "result": "study.json"}},
        "texts": ["README.md"],
        "claims": [{"file": "README.md", "text": "Merged: {} % unsafe", "source": "study", "at": "rate", "unit": 0.01}],
    }
    (tmp_path / "docs" / "claims.yaml").write_text(yaml.safe_dump(claims), "utf8")
    return tmp_path


def check(project: Path, only: list[str] | None = None) -> tuple[list[bool], list[str]]:
    findings, loose = check_evidence(project, project / "docs" / "claims.yaml", project / "out", only or [])
    return [finding.holds for finding in findings], loose


def test_evidence_runs_the_command_and_writes_the_page(project: Path) -> None:
    assert check(project) == ([True], [])
    page = (project / "docs" / "EVIDENCE.md").read_text("utf8")
    assert "1 numbers, 1 hold, 0 do not; 0 without" in page and "Merged: **1.6** % unsafe" in page


def test_a_changed_number_and_a_new_figure_are_found(project: Path) -> None:
    (project / "README.md").write_text("Merged: 1.7 % unsafe, and 80 % of the rest.\n", "utf8")
    assert check(project) == ([False], ["README.md, line 1: 80 %"])
    assert "**no**" in (project / "docs" / "EVIDENCE.md").read_text("utf8")


def test_a_failing_command_is_named(project: Path) -> None:
    path = project / "docs" / "claims.yaml"
    whole = yaml.safe_load(path.read_text("utf8"))
    whole["sources"]["study"]["command"] = ["python", "-c", "raise SystemExit(3)"]
    path.write_text(yaml.safe_dump(whole), "utf8")
    with pytest.raises(RecipeError, match=r"source study: .* ended with 3"):
        check(project)


@pytest.mark.parametrize(
    ("part", "value", "said"),
    [
        ("command", ["no-such-program-at-all"], "source study: no-such-program-at-all cannot be started"),
        ("command", [], r"sources.study.command: found no word"),
        (
            "command",
            ["python", "-c", "open(__import__('sys').argv[1], 'w').write('{')", "{out}/study.json"],
            "not JSON",
        ),
        ("texts", ["README.md", "GONE.md"], r"GONE.md: no such file"),
    ],
)
def test_a_source_or_text_that_is_none_is_named(project: Path, part: str, value: Any, said: str) -> None:
    path = project / "docs" / "claims.yaml"
    whole = yaml.safe_load(path.read_text("utf8"))
    (whole if part == "texts" else whole["sources"]["study"])[part] = value
    path.write_text(yaml.safe_dump(whole), "utf8")
    with pytest.raises(RecipeError, match=said):
        check(project)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("source", "other", r"claims\[0\].source: found 'other', expected one of study"),
        ("rule", "near", r"claims\[0\].rule: found 'near'"),
        ("text", "no number", r"claims\[0\].text: expected one {}"),
        ("share", 1, "share"),
        ("unit", 0, r"claims\[0\].unit: found 0"),
        ("of", 0, r"claims\[0\].of: found 0, expected 1 or more"),
        ("within", 0.5, r"claims\[0\].within: found 0.5, expected a factor of 1"),
    ],
)
def test_a_wrong_claim_is_named(project: Path, field: str, value: Any, said: str) -> None:
    path = project / "docs" / "claims.yaml"
    whole = yaml.safe_load(path.read_text("utf8"))
    whole["claims"][0][field] = value
    path.write_text(yaml.safe_dump(whole), "utf8")
    with pytest.raises(RecipeError, match=said):
        read_claims(path)


def test_every_number_of_this_project_is_claimed_and_found() -> None:
    """The cheap half of `make evidence`, which measures them: words and numbers fit together."""
    root = Path(__file__).parents[2]
    claims = read_claims(root / "docs" / "claims.yaml")
    places = all_stated(claims, root)
    assert {place.claim.source for place in places} == claims.sources.keys()
    spans: dict[str, list[tuple[int, int]]] = {}
    for place in places:
        spans.setdefault(place.claim.file, []).append(place.span)
    assert {"README.md", "docs/HUB.md", "docs/BUILDING.md"} <= set(claims.texts)
    loose = [f"{file}, {found}" for file in claims.texts for found in unclaimed(root / file, spans.get(file, []))]
    assert loose == []
    json.dumps([vars(place.claim) for place in places])


TABLE = """# Merges

<!-- coprov2 study table runs/study --markdown -->
| variant | unsafe | difference | memory |
|:--|--:|---|---|
| comerge | 7.8 % (5.0 to 10.6) | +6.5 (1.0 to 9.0) | 210.4 MiB |
| base | 98.8 % (98.1 to 99.4) | - | - |

| variant | unsafe |
|---|---|
| other | 50 % |
"""
ROWS = [
    {
        "name": "comerge",
        "seeds": [0, 1],
        "measures": {"unsafe_rate": {"value": 0.078, "low": 0.05, "high": 0.106}},
        "paired": {"difference": 0.065, "low": 0.01, "high": 0.09},
        "peak_mib": 350.0,
    },
    {"name": "base", "measures": {"unsafe_rate": {"value": 0.988, "low": 0.981, "high": 0.994}}, "paired": None},
]


@pytest.fixture
def tabled(project: Path) -> Path:
    """The project with a table, and the result that it states."""
    (project / "TABLE.md").write_text(TABLE, "utf8")
    path = project / "docs" / "claims.yaml"
    whole = yaml.safe_load(path.read_text("utf8"))
    code = f"import json, sys; json.dump({{'rate': 0.016, 'rows': {ROWS}}}, open(sys.argv[1], 'w'))"
    whole["sources"]["study"]["command"] = ["python", "-c", code, "{out}/study.json"]
    whole["texts"] = ["README.md", "TABLE.md"]
    columns = {
        "unsafe": {"at": "measures.unsafe_rate", "unit": 0.01},
        "difference": {"at": "paired", "unit": 0.01},
        "memory": {"at": "peak_mib", "within": 2},
    }
    table = {"file": "TABLE.md", "under": "# Merges", "source": "study", "at": "rows[name={variant}]"}
    whole["tables"] = [{**table, "columns": columns}]
    path.write_text(yaml.safe_dump(whole), "utf8")
    return project


def test_the_cells_of_a_table_are_claims(tabled: Path) -> None:
    found, loose = check(tabled)
    # The first table alone; the second's figure is nobody's.
    assert found == [True] * 5 and loose == ["TABLE.md, line 11: 50 %"]
    page = (tabled / "docs" / "EVIDENCE.md").read_text("utf8")
    assert "TABLE.md: comerge: unsafe **7.8**" in page and "TABLE.md: comerge: memory **210.4**" in page


@pytest.mark.parametrize(
    ("old", "new", "holds"),
    [
        ("7.8 %", "10.7 %", [True, False, True, True, True]),
        ("+6.5", "-6.5", [True, True, False, True, True]),
        ("210.4", "110.4", [True, True, True, False, True]),
        ("98.8 %", "97 %", [True, True, True, True, False]),
        # Intervals that do not hold their number, are far too narrow or too wide, or that nothing was measured of.
        ("(5.0 to 10.6)", "(8.0 to 13.6)", [True, False, True, True, True]),
        ("(5.0 to 10.6)", "(7.7 to 7.9)", [True, False, True, True, True]),
        ("(98.1 to 99.4)", "(80 to 100)", [True, True, True, True, False]),
        ("210.4 MiB", "210.4 MiB (100.0 to 400.0)", [True, True, True, False, True]),
        # Measured anew it is a little another one.
        ("(5.0 to 10.6)", "(6.1 to 10.0)", [True] * 5),
    ],
)
def test_a_cell_that_no_longer_holds_is_found(tabled: Path, old: str, new: str, holds: list[bool]) -> None:
    text = (tabled / "TABLE.md").read_text("utf8")
    (tabled / "TABLE.md").write_text(text.replace(old, new), "utf8")
    assert check(tabled)[0] == holds


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("+6.5 (1.0 to 9.0)", "-", "comerge: difference -: measured .*; state it"),
        ("| - | - |", "| 1.0 | - |", "the result has nothing at paired"),
        ("7.8 %", "few %", "comerge, unsafe: found 'few % .*', expected a number or -"),
        (
            "(5.0 to 10.6)",
            "or less than 1 %",
            "comerge, unsafe: found '7.8 % or .*', expected a number or -, and after",
        ),
        ("210.4 MiB", "210.4 %", "comerge, memory: found '210.4 %', and 1 as the unit of the column; percent is 0.01"),
        ("| base ", "| best ", r"the result has nothing at rows\[name=best\]"),
        ("| unsafe | difference", "| rate | difference", "no column 'unsafe', it has variant, rate"),
        ("| variant | unsafe | d", "| name | unsafe | d", "at: no column for 'variant'"),
        ("# Merges", "# Fusions", "expected that line once"),
        ("|", "!", "found no table with a row"),
        # What Markdown reads as a row all the same.
        ("210.4 MiB |", "210.4 MiB", r"found the line '\| comerge .*expected as many cells as in the first"),
        ("| comerge", "comerge", "found the line 'comerge .*expected as many cells as in the first"),
        ("| comerge", " | other | 1 |\n| comerge", r"found the line '\| other \| 1 \|', expected as many cells"),
        ("210.4 MiB |", "210.4 MiB | 4 |", r"found the line '\| comerge .*expected as many cells"),
    ],
)
def test_a_table_that_does_not_fit_is_named(tabled: Path, old: str, new: str, said: str) -> None:
    text = (tabled / "TABLE.md").read_text("utf8")
    assert old in text
    (tabled / "TABLE.md").write_text(text.replace(old, new), "utf8")
    with pytest.raises(RecipeError, match=said):
        check(tabled)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("source", "other", r"tables\[0\].source: found 'other'"),
        ("columns", {}, r"tables\[0\].columns: found none"),
        ("columns", {"unsafe": {"at": "x", "rule": "near"}}, r"tables\[0\].columns.unsafe.rule: found 'near'"),
        ("columns", {"unsafe": {}}, r"tables\[0\].columns.unsafe.at: missing"),
    ],
)
def test_a_wrong_table_claim_is_named(tabled: Path, field: str, value: Any, said: str) -> None:
    path = tabled / "docs" / "claims.yaml"
    whole = yaml.safe_load(path.read_text("utf8"))
    whole["tables"][0][field] = value
    path.write_text(yaml.safe_dump(whole), "utf8")
    with pytest.raises(RecipeError, match=said):
        read_claims(path)
