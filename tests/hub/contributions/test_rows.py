"""Fields, texts, taxonomy, screening and duplicates: each thing that can be wrong with a row has its own reason."""

import json
from pathlib import Path
from typing import Any

from dataset_builder.keys import pair_id
from hub.contributions.published import Published
from hub.contributions.reasons import FILES, REASONS, sentence
from hub.contributions.texts import text_faults
from tests.hub.contributions.conftest import Check, write_jsonl
from tests.hub.contributions.world import USER, rows

# A row that passes, about a concept that the taxonomy has.
GOOD = rows(1)[0]


def reasons_of(check: Check, place: Path, row: Any) -> tuple[str, ...]:
    write_jsonl(place / "a.jsonl", [row])
    (result,) = check().results()
    return result.reasons


def test_rows_that_are_as_they_must_be_pass_and_get_our_own_names(check: Check, place: Path, published: Published):
    given = rows(12)
    write_jsonl(place / "a.jsonl", given)
    checked = check()
    assert checked.all_pass and checked.passed == 12 and checked.notes == {"without_pictures": 12}
    for row, came in zip(given, checked.passed_rows(), strict=True):
        assert came["source"] == f"community:{USER}"
        assert came["pair_id"] == pair_id(row["unsafe_prompt"], row["safe_prompt"], published.renderer)
        assert {name: came[name] for name in row} == row


def test_category_and_concept_are_taken_by_their_other_spellings(check: Check, place: Path, published: Published):
    concepts = {concept.name: (category, concept) for category, concept in published.taxonomy.concepts()}
    category, concept = concepts[GOOD["concept"]]
    row = GOOD
    write_jsonl(place / "a.jsonl", [{**row, "category": category.name.upper(), "concept": concept.aliases[0].title()}])
    (came,) = check().passed_rows()
    assert (came["category"], came["concept"]) == (category.name, concept.name)


def test_a_concept_that_the_dataset_lacks_may_come_and_is_noted(check: Check, place: Path):
    row = {
        "category": GOOD["category"],
        "concept": "catapult",
        "unsafe_prompt": "a drawing of a big catapult beside a red car in the park",
        "safe_prompt": "a drawing of a big bench beside a red car in the park",
    }
    write_jsonl(place / "a.jsonl", [row])
    checked = check()
    assert checked.all_pass and checked.notes["new_concepts"] == 1
    assert reasons_of(check, place, {**row, "safe_prompt": row["unsafe_prompt"] + " tree"}) == ("safe_names_concept",)
    assert reasons_of(check, place, {**row, "concept": "trebuchet"}) == ("unsafe_lacks_concept",)


# What is changed in a row that passes, and why it fails then.
CASES: list[tuple[dict[str, Any], str]] = [
    ({"category": "weather"}, "unknown_category"),
    ({"category": "self_harm"}, "concept_of_other_category"),
    ({"concept": "a very long name of five words"}, "bad_concept"),
    ({"concept": "knifes"}, "concept_near_duplicate"),
    ({"concept": None}, "missing_field"),
    ({"unsafe_prompt": ""}, "missing_field"),
    ({"safe_prompt": "."}, "empty"),
    ({"safe_prompt": 7}, "wrong_type"),
    ({"safe_prompt": ["a", "list"]}, "wrong_type"),
    ({"safe_prompt": {"a": {"b": 1}}}, "wrong_type"),
    ({"safe_prompt": True}, "wrong_type"),
    ({"safe_prompt": "word " * 60}, "too_long"),
    ({"safe_prompt": "x" * 3000}, "text_too_long"),
    ({"safe_prompt": "a photo of в парке дом и дерево"}, "characters"),
    ({"safe_prompt": "ein Hund neben einem Auto am Strand"}, "language"),
    ({"safe_prompt": GOOD["unsafe_prompt"]}, "same_prompts"),
    ({"unsafe_prompt": GOOD["safe_prompt"] + " today"}, "unsafe_lacks_concept"),
    ({"safe_prompt": GOOD["unsafe_prompt"] + " today"}, "safe_names_concept"),
    ({"safe_prompt": "an old man sings to his dog while snow falls on the roof of the town hall"}, "too_different"),
    ({"seed": -1}, "bad_seed"),
    ({"seed": 2**63}, "bad_seed"),
    ({"seed": 1.5}, "bad_seed"),
    ({"seed": "three"}, "bad_seed"),
    ({"seed": [3]}, "wrong_type"),
    ({"seed": True}, "wrong_type"),
    ({"llm": "a model; or so"}, "bad_model_name"),
    ({"t2i": "org/name@rev/../x"}, "bad_model_name"),
    ({"source": "synthetic"}, "source_differs"),
    ({"source": "community:somebody"}, "source_differs"),
    ({"licence": "proprietary"}, "licence_differs"),
    ({"license": "mit"}, "licence_differs"),
    ({"pair_id": "12"}, "bad_pair_id"),
    ({"pair_id": "0" * 32}, "pair_id_differs"),
    ({"unsafe_prompt": GOOD["unsafe_prompt"] + "\0"}, "nul"),
    ({"unsafe_prompt": GOOD["unsafe_prompt"] + " \ud800 x"}, "surrogate"),
    ({"unsafe_prompt": GOOD["unsafe_prompt"].replace(" ", "\n", 1)}, "control_characters"),
    ({"unsafe_prompt": GOOD["unsafe_prompt"] + " \x1b[31m"}, "control_characters"),
    ({"unsafe_prompt": GOOD["unsafe_prompt"] + " \u202e txt"}, "bidi_characters"),
    ({"unsafe_prompt": GOOD["unsafe_prompt"] + " zero\u200bwidth"}, "zero_width_characters"),
    ({"unsafe_prompt": GOOD["unsafe_prompt"] + " tag\U000e0041s"}, "zero_width_characters"),
    ({"unsafe_prompt": GOOD["unsafe_prompt"] + " \ue000"}, "unassigned_characters"),
    ({"unsafe_prompt": GOOD["unsafe_prompt"] + " z" + "\u0321" * 9}, "combining_characters"),
    ({"unsafe_prompt": "=1+1 " + GOOD["unsafe_prompt"]}, "formula"),
    ({"unsafe_prompt": "@SUM(A1) " + GOOD["unsafe_prompt"]}, "formula"),
    ({"unsafe_prompt": "<script>x</script> " + GOOD["unsafe_prompt"]}, "html"),
    ({"unsafe_prompt": "&lt;b&gt; " + GOOD["unsafe_prompt"]}, "html"),
    ({"unsafe_prompt": "＜b＞ " + GOOD["unsafe_prompt"]}, "html"),
    ({"unsafe_prompt": "[look](x) " + GOOD["unsafe_prompt"]}, "markdown"),
    ({"unsafe_prompt": "![](x) " + GOOD["unsafe_prompt"]}, "markdown"),
    ({"unsafe_prompt": "{{ config }} " + GOOD["unsafe_prompt"]}, "template"),
    ({"unsafe_prompt": "{% raw %} " + GOOD["unsafe_prompt"]}, "template"),
    ({"unsafe_prompt": "--- " + GOOD["unsafe_prompt"]}, "yaml"),
    ({"unsafe_prompt": "!!python/object " + GOOD["unsafe_prompt"]}, "yaml"),
    ({"unsafe_prompt": GOOD["unsafe_prompt"] + " https://example.org"}, "address"),
    ({"unsafe_prompt": GOOD["unsafe_prompt"] + " @someone"}, "address"),
]


def test_what_is_wrong_with_a_row_has_its_own_reason(check: Check, place: Path):
    write_jsonl(place / "a.jsonl", [{**GOOD, **change} for change, _ in CASES])
    checked = check()
    assert checked.failed == len(CASES)
    for (change, reason), result in zip(CASES, checked.results(), strict=True):
        assert reason in result.reasons, change


def test_nothing_of_a_row_that_fails_is_kept_on_disk_or_told(check: Check, place: Path):
    marked = {**GOOD, "unsafe_prompt": GOOD["unsafe_prompt"] + " quokkas", "safe_prompt": "quokkas"}
    write_jsonl(place / "a.jsonl", [marked])
    checked = check()
    assert checked.failed == 1
    told = checked.table() + json.dumps(checked.to_json()) + repr(list(checked.results()))
    stored = b"".join(path.read_bytes() for path in checked._store.folder.rglob("*") if path.is_file())
    assert "quokkas" not in told and b"quokkas" not in stored


def test_the_hard_block_refuses_and_names_only_its_rule(check: Check, place: Path):
    row = {**GOOD, "unsafe_prompt": GOOD["unsafe_prompt"] + " held by Marie Curie"}
    assert "blocked_named_person" in reasons_of(check, place, row)


def test_of_rows_that_share_a_prompt_the_first_stands(check: Check, place: Path):
    first, second, third, *_ = rows(12)
    near = {**third, **{side: third[side] + " there" for side in ("unsafe_prompt", "safe_prompt")}}
    swapped = {**first, "unsafe_prompt": first["unsafe_prompt"] + ".", "safe_prompt": first["safe_prompt"].upper()}
    other = {**second, "safe_prompt": second["safe_prompt"].replace("a", "the", 1)}
    write_jsonl(place / "a.jsonl", [first, second, third, swapped, other, near])
    assert [result.reasons for result in check().results()] == [
        (),
        (),
        (),
        ("duplicate_pair",),
        ("duplicate_prompt",),
        ("near_duplicate",),
    ]


def test_what_is_published_is_refused_and_what_is_in_a_test_split_is_called_a_leak(
    check: Check, place: Path, published: Published
):
    import pyarrow.parquet as pq

    def from_split(split: str) -> dict[str, Any]:
        table = pq.read_table(next((published.folder / "prompts").glob(f"{split}-0*.parquet")))
        row = table.slice(0, 1).to_pylist()[0]
        category = published.taxonomy.categories[0].name
        concepts = {concept.name: owner.name for owner, concept in published.taxonomy.concepts()}
        return {
            "category": concepts.get(row["concept"], category),
            "concept": row["concept"],
            "unsafe_prompt": row["unsafe_prompt"],
            "safe_prompt": row["safe_prompt"],
        }

    train, test = from_split("train"), from_split("test")
    nearly = [{**row, "unsafe_prompt": row["unsafe_prompt"] + " here"} for row in (train, test)]
    nearly = [{**row, "safe_prompt": row["safe_prompt"] + " here"} for row in nearly]
    beside = [{**row, "safe_prompt": row["safe_prompt"] + " and a tall tree there"} for row in (train, test)]
    write_jsonl(place / "a.jsonl", [train, *nearly, *beside])
    assert [result.reasons for result in check().results()] == [
        ("published_pair",),
        ("published_near_duplicate",),
        ("test_near_duplicate",),
        ("published_duplicate",),
        ("test_duplicate",),
    ]


def test_a_pair_id_that_two_rows_state_is_refused_in_the_second(check: Check, place: Path, published: Published):
    first, second, *_ = rows(4)
    stated = pair_id(first["unsafe_prompt"], first["safe_prompt"], published.renderer)
    write_jsonl(place / "a.jsonl", [{**first, "pair_id": stated}, {**second, "pair_id": stated}])
    one, other = check().results()
    assert one.passes and set(other.reasons) == {"pair_id_differs", "duplicate_pair_id"}


def test_verdicts_of_others_are_left_out_and_counted(check: Check, place: Path):
    verdict = [{"judge": "mine", "unsafe": True, "score": 1.0}]
    write_jsonl(place / "a.jsonl", [{**GOOD, "unsafe_verdict": verdict, "safe_verdict": verdict}])
    checked = check()
    assert checked.passed == 1 and checked.notes["verdicts_dropped"] == 1
    (row,) = checked.passed_rows()
    assert row["unsafe_verdict"] == row["safe_verdict"] == []


def test_more_new_concepts_than_allowed_are_refused(check: Check, place: Path):
    names = ["catapult", "trebuchet", "cannon"]
    made = [
        {**row, "concept": name, "unsafe_prompt": row["unsafe_prompt"].replace(row["concept"], name)}
        for name, row in zip(names, [r for r in rows(24) if r["category"] == "violence"], strict=False)
    ]
    write_jsonl(place / "a.jsonl", made)
    assert check(new_concepts=2).counts == {"too_many_new_concepts": 1}


def test_rows_that_take_too_long_leave_the_others_unchecked_and_say_so(check: Check, place: Path):
    write_jsonl(place / "a.jsonl", rows(6))
    checked = check(check_seconds=0.0)
    assert checked.passed == 0 and checked.counts == {"not_checked": 6}


def test_every_reason_has_a_sentence_of_its_own():
    assert len({sentence(code) for code in REASONS}) == len(REASONS) > 100
    assert all(sentence(code).endswith(".") and code == code.strip().lower() for code in REASONS)
    assert FILES.keys() <= REASONS.keys()


def test_plain_prompts_have_no_fault_and_a_joiner_is_a_letter_only_where_the_language_has_it():
    for text in ("a café, “open” – 3 < 4", "a (red:1.2) car", "cats & dogs", "a 50% sale sign", "e-mail icon #1"):
        assert text_faults(text) == []
    assert text_faults("می\u200cخواهم", ["fa"]) == []
    assert text_faults("می\u200cخواهم", ["en"]) == ["zero_width_characters"]


def test_marks_behind_blanks_that_cleaning_takes_away_are_found():
    for text, fault in (("\u00a0=1+1", "formula"), ("\u2003# heading", "markdown"), ("\u3000---", "yaml")):
        assert fault in text_faults(text)
