"""Cards' metadata: what is read, what is refused, and that nothing small grows big."""

import time

import pytest

from hub.local.metadata import MAX_DEPTH, NotMetadata, faults, read_metadata
from hub.local.names import MAX_CARD


def card(head: str) -> str:
    return f"---\n{head}\n---\n# Title\n"


def test_the_head_is_read_as_json_values() -> None:
    found = read_metadata(card("license: mit\ntags: [a, b]\nwhen: 2026-01-02\nvalue: .nan\n1: x"))
    assert found == {"license": "mit", "tags": ["a", "b"], "when": "2026-01-02", "value": "nan", "1": "x"}


@pytest.mark.parametrize("text", ["", "# Title", "text\n---\na: 1\n---", "---\na: 1\n", "--- a\n---\n"])
def test_a_card_without_a_head_has_none(text: str) -> None:
    assert read_metadata(text) is None
    assert faults(text, "model") == ([], ["empty or missing yaml metadata in repo card"])


@pytest.mark.parametrize("text", ["---\n---\n", "---\r\nlicense: mit\r\n---\r\ntext", "\ufeff---\nlicense: mit\n---"])
def test_line_ends_and_marks_at_the_beginning_do_not_matter(text: str) -> None:
    assert read_metadata(text) in ({}, {"license": "mit"})


BOMBS = {
    "aliases": "a: &a [x, x, x]\nb: &b [*a, *a, *a]\nc: [*b, *b, *b]",
    "depth": "a: " + "[" * (MAX_DEPTH + 5) + "]" * (MAX_DEPTH + 5),
    "depth past libyaml": "a: " + "[" * 100_000,
    "values": "a: [" + "1," * 60_000 + "1]",
    "a tag": "a: !!python/object/apply:os.getcwd []",
    "no mapping": "- a\n- b",
    "broken": "a: [1",
    "tab": "a:\n\t- 1",
    "unhashable": "? [a]\n: b",
    "control": "a: '\x01'",
    "number": "a: " + "9" * 10_000,
    "number that is not written out": "a: [0x" + "f" * 4_500 + "]",
    "key that is not written out": "? 0x" + "f" * 4_500 + "\n: b",
    "empty number": "a: !!int ''",
    "no yes or no": "a: !!bool b",
    "no moment": "a: !!timestamp b",
    "base 60": "a: 1" + ":1" * 400 + ".5",
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_head_that_is_a_trap_is_refused_in_a_moment(kind: str) -> None:
    began = time.monotonic()
    with pytest.raises(NotMetadata):
        read_metadata(card(BOMBS[kind]))
    assert time.monotonic() - began < 5


def test_a_head_that_is_too_long_is_not_read() -> None:
    for text in (card("a: " + "x" * MAX_CARD), card("a: " + "x" * 2 * MAX_CARD), card("ü" * (MAX_CARD // 2 + 4))):
        with pytest.raises(NotMetadata, match="more than"):
            read_metadata(text)
    assert read_metadata("x" * 2 * MAX_CARD) is None


GOOD = [
    ("license: apache-2.0", "model"),
    ("license: [mit, other]\nlicense_name: own", "model"),
    ("language: en", "dataset"),
    ("language: [en, de]\ntags: [image, not-for-all-audiences]\ntask_categories: [text-to-image]", "dataset"),
    ("configs:\n- config_name: default\n  default: true\n  data_files:\n  - {split: train, path: data/*}", "dataset"),
    ("configs:\n- config_name: a\n  data_files: x.parquet\n- config_name: b\n  data_files: [x, y]", "dataset"),
    ("configs:\n- config_name: a\n  data_files: {train: x, test: [y, z]}", "dataset"),
    ("dataset_info: {features: []}", "dataset"),
    ("extra_gated_prompt: p\nextra_gated_fields:\n  Name: text\n  I agree: checkbox\n  Day: date_picker", "dataset"),
    ("extra_gated_fields:\n  Use: {type: select, options: [a, {label: b, value: c}]}\n  From: country", "dataset"),
    ("base_model: org/x\nbase_model_relation: adapter\npipeline_tag: text-to-image\nlibrary_name: diffusers", "model"),
    ("model-index:\n- name: x\n  results: []\nwidget:\n- text: a\n  output: {url: images/x.png}", "model"),
    ("anything: {else: [1, 2.5, true, null]}", "space"),
]
BAD = [
    ("license: nothing-known", "license"),
    ("license: {a: b}", "license"),
    ("tags: image", "tags"),
    ("tags: [1]", "tags"),
    ("language: {en: 1}", "language"),
    ("pretty_name: [x]", "pretty_name"),
    ("extra_gated_fields: [Name]", "extra_gated_fields"),
    ("extra_gated_fields:\n  Name: essay", "extra_gated_fields"),
    ("extra_gated_fields:\n  Use: {type: select}", "extra_gated_fields"),
    ("extra_gated_prompt: [x]", "extra_gated_prompt"),
    ("configs: {default: x}", "configs"),
    ("configs:\n- data_files: x", "config_name"),
    ("configs:\n- config_name: a\n- config_name: a", "config_name"),
    ("configs:\n- config_name: a\n  data_files: [{path: x}]", "data_files"),
    ("configs:\n- config_name: a\n  data_files: 3", "data_files"),
    ("dataset_info: x", "dataset_info"),
]
BAD_MODELS = [
    ("base_model_relation: cousin", "base_model_relation"),
    ("model-index: x", "model-index"),
    ("model-index:\n- name: x", "results"),
    ("widget: x", "widget"),
]


@pytest.mark.parametrize(("head", "kind"), GOOD)
def test_what_the_hub_documents_is_taken(head: str, kind: str) -> None:
    assert faults(card(head), kind) == ([], [])


@pytest.mark.parametrize(
    ("head", "key", "kind"), [*((h, k, "dataset") for h, k in BAD), *((h, k, "model") for h, k in BAD_MODELS)]
)
def test_what_it_does_not_is_refused_by_its_key(head: str, key: str, kind: str) -> None:
    errors, _ = faults(card(head), kind)
    assert len(errors) == 1 and key in errors[0]


def test_an_error_names_the_line_and_shows_none_of_the_text() -> None:
    errors, _ = faults(card("a: 1\nsecret: 'word' 'word'\nb: 2"), "dataset")
    assert "line 2" in errors[0] and "word" not in errors[0] and "secret" not in errors[0]
