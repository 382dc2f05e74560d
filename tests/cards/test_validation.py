"""A card's metadata are checked without a Hub: what it would not take, or would show wrongly, is said by field."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from cards.validation import card_problems, check_card, read_metadata
from recipes import RecipeError

DATA: dict[str, Any] = {
    "license": "apache-2.0",
    "language": ["en"],
    "pretty_name": "A name",
    "tags": ["safety"],
    "task_categories": ["text-to-image"],
    "size_categories": ["n<1K"],
    "annotations_creators": ["machine-generated"],
    "source_datasets": ["original"],
    "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*.parquet"}]}],
    "dataset_info": {
        "config_name": "default",
        "features": [{"name": "a", "dtype": "string"}],
        "splits": [{"name": "train", "num_bytes": 1, "num_examples": 1}],
    },
    "extra_gated_prompt": "Agree.",
    "extra_gated_fields": {
        "Country": "country",
        "Use": {"type": "select", "options": ["a", {"label": "B", "value": "b"}]},
        "I agree": "checkbox",
    },
}
METRIC = {"type": "unsafe_rate", "value": 0.5, "name": "x"}
RESULT = {
    "task": {"type": "text-to-image"},
    "dataset": {"type": "org/data", "name": "Data"},
    "metrics": [METRIC],
}
ADAPTER: dict[str, Any] = {
    "license": "creativeml-openrail-m",
    "base_model": "org/model",
    "base_model_relation": "adapter",
    "library_name": "diffusers",
    "pipeline_tag": "text-to-image",
    "datasets": ["org/data"],
    "new_version": "org/next",
    "widget": [{"text": "a dog", "output": {"url": "images/a.png"}}],
    "model-index": [{"name": "adapter", "results": [RESULT]}],
}


def changed(metadata: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Metadata with other fields; None takes one out."""
    return {name: value for name, value in {**metadata, **fields}.items() if value is not None}


def test_cards_in_order_have_no_problems() -> None:
    assert card_problems(DATA, "data") == []
    assert card_problems(ADAPTER, "adapter", ["images/a.png"]) == []
    assert card_problems(changed(DATA, license="other", license_name="mine-1.0", license_link="LICENSE"), "data") == []


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"license": None}, "license: missing"),
        ({"configs": None, "dataset_info": None}, "configs: missing"),
        ({"license": "apache"}, "license: found 'apache'"),
        ({"license": ["mit", 3]}, "license: found 3 of type int"),
        ({"license": "other"}, "license_name: found None"),
        ({"license": "other", "license_name": "x"}, "license_link: found None"),
        # What YAML makes of `language: no`.
        ({"language": False}, "language: found False of type bool"),
        ({"language": "english"}, "language: found 'english'"),
        ({"tags": ["a", "a"]}, "tags: one stands twice"),
        ({"tags": [1.5]}, "tags: found 1.5 of type float"),
        ({"pretty_name": ["a"]}, "pretty_name: "),
        ({"task_categories": ["text2image"]}, "task_categories: found 'text2image', expected a task of the Hub"),
        ({"size_categories": "small"}, "size_categories: found 'small', expected one of n<1K"),
        ({"annotations_creators": "me"}, "annotations_creators: found 'me'"),
        ({"source_datasets": "from here"}, "source_datasets: found 'from here'"),
        ({"configs": {"a": 1}}, "configs: of type dict"),
        ({"configs": [{"data_files": []}]}, "configs[0]: expected a config_name"),
        ({"configs": [DATA["configs"][0]] * 2}, "configs[1]: expected a config_name of its own"),
        ({"configs": [{"config_name": "default", "data_files": "../x"}]}, "configs[0].data_files: the path of train"),
        ({"configs": [{"config_name": "default", "data_files": [{"split": "a b", "path": "x"}]}]}, "the split 'a b'"),
        ({"dataset_info": "x"}, "dataset_info: of type str"),
        ({"dataset_info": {"config_name": "b"}}, "dataset_info.b: no such config"),
        ({"dataset_info": {"splits": [{"name": "test"}]}}, "'test' has no data_files"),
        ({"dataset_info": {"splits": [{"name": "train", "num_examples": -1}]}}, "no whole numbers"),
        ({"dataset_info": {"splits": 1}}, "expected a list of names and counts"),
        ({"extra_gated_prompt": ["a"]}, "extra_gated_prompt: found"),
        ({"extra_gated_heading": ""}, "extra_gated_heading: found ''"),
        ({"extra_gated_eu_disallowed": "yes"}, "extra_gated_eu_disallowed: expected true or false"),
        ({"extra_gated_fields": [{"Country": "country"}]}, "extra_gated_fields: of type list"),
        ({"extra_gated_fields": {"Country": "land"}}, "extra_gated_fields.Country: found 'land'"),
        ({"extra_gated_fields": {"Use": "select"}}, "extra_gated_fields.Use: expected options"),
        ({"extra_gated_fields": {"Use": {"type": "select", "options": [{"label": "x"}]}}}, "expected options"),
        ({"extra_gated_fields": {"Agree": True}}, "extra_gated_fields.Agree: found True of type bool"),
    ],
)
def test_what_a_dataset_card_may_not_say_is_named_by_field(fields: dict[str, Any], said: str) -> None:
    problems = card_problems(changed(DATA, **fields), "data")
    assert any(said in problem for problem in problems), problems
    assert not any("\n" in problem for problem in problems)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        *[({name: None}, f"{name}: missing") for name in ("base_model", "library_name", "pipeline_tag")],
        ({"base_model": "a folder/of mine/model"}, "base_model: found 'a folder/of mine/model'"),
        ({"base_model_relation": "lora"}, "base_model_relation: found 'lora', expected one of adapter"),
        ({"pipeline_tag": ["text-to-image"]}, "pipeline_tag: found"),
        ({"datasets": "a/b/c"}, "datasets: found 'a/b/c'"),
        ({"new_version": ["org/next"]}, "new_version: a list"),
        ({"instance_prompt": 3}, "instance_prompt: found 3 of type int"),
        ({"widget": {"text": "x"}}, "widget: of type dict"),
        ({"widget": [{"text": "x", "output": {"url": "../a.png"}}]}, "widget[0].output.url: expected a file"),
        ({"widget": [{"text": "x", "output": {"url": "javascript:x"}}]}, "widget[0].output.url: expected a file"),
        ({"widget": [{"text": "x", "output": {"url": "images/b.png"}}]}, "'images/b.png' is no file"),
        ({"widget": ["x"]}, "widget[0]: expected a text"),
        ({"model-index": []}, "model-index: cannot be read (ValueError"),
        ({"model-index": [{"name": "x"}]}, "model-index: cannot be read (KeyError"),
        ({"model-index": [{"name": "x", "results": [{**RESULT, "dataset": {"type": "a"}}]}]}, "model-index: "),
        (
            {"model-index": [{"name": "x", "results": [{**RESULT, "metrics": [{**METRIC, "value": float("nan")}]}]}]},
            "is no finite number",
        ),
        (
            {"model-index": [{"name": "x", "results": [{**RESULT, "metrics": [{**METRIC, "value": None}]}]}]},
            "expected a figure",
        ),
        ({"model-index": [{"name": "x", "results": [{**RESULT, "task": {"type": 3}}]}]}, "must be texts"),
    ],
)
def test_what_an_adapter_card_may_not_say_is_named_by_field(fields: dict[str, Any], said: str) -> None:
    problems = card_problems(changed(ADAPTER, **fields), "adapter", ["images/a.png"])
    assert any(said in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("front", "said"),
    [
        ("a: 1\na: 2", "line 3: the key 'a' twice"),
        ("a: [1", "is not YAML (line "),
        ("a: !!python/object:os.system x", "is not YAML (line 2: could not determine a constructor"),
        ("- a\n- b", "of type list, expected keys with values"),
        ("[" * 5000, "is not YAML"),
        ("? [a]\n: b", "is not YAML (line 2: a key that is no text"),
        ("a: " + "x" * 1_000_000, "characters, expected 1,000,000 at most"),
    ],
)
def test_metadata_that_cannot_be_read_end_in_one_line(front: str, said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read_metadata(f"---\n{front}\n---\n# x\n", "card")
    assert said in str(caught.value) and str(caught.value).startswith("card: ") and "\n" not in str(caught.value)


def test_a_card_without_metadata_says_what_writes_it() -> None:
    for text in ("", "# Title\n", "# x\n---\na: 1\n---\n"):
        with pytest.raises(RecipeError, match=r"no metadata at its top .*`coprov2 cards` writes it"):
            read_metadata(text, "card")


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    text = f"---\n{yaml.safe_dump(changed(DATA, license='x', language='english'))}---\n"
    with pytest.raises(RecipeError) as caught:
        check_card(text, "data", "README.md")
    assert "license: found 'x'" in str(caught.value) and "language: found 'english'" in str(caught.value)
    check_card(f"---\r\n{yaml.safe_dump(DATA)}---\r\n".replace("\n", "\r\n").replace("\r\r", "\r"), "data", "README.md")


def test_a_bomb_of_aliases_is_refused_before_it_grows() -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "\n".join(
        f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]" for level in range(1, 40)
    )
    with pytest.raises(RecipeError, match=r"line 3: an alias \(\*\), write it out"):
        read_metadata(f"---\n{bomb}\ntags: *a39\n---\n", "card")


def test_values_of_any_type_in_any_field_end_in_problems_not_in_errors() -> None:
    values: list[Any] = [None, True, 3, 0.5, float("inf"), "", "x", [], [[]], ["x"], [None], {}, {"a": 1}, "x" * 999]
    for metadata, kind in ((DATA, "data"), (ADAPTER, "adapter")):
        for name in metadata:
            for value in values:
                for problem in card_problems({**metadata, name: value}, kind, ["images/a.png"]):  # type: ignore[arg-type]
                    assert "\n" not in problem and len(problem) < 600


def test_values_of_any_type_deep_in_the_metadata_end_in_problems_not_in_errors() -> None:
    def variants(value: Any) -> Any:
        yield from (None, True, 3, "", "x", [], {}, [[]], {"a": 1})
        if isinstance(value, dict):
            for key in value:
                for other in variants(value[key]):
                    yield {**value, key: other}
        elif isinstance(value, list):
            for index in range(len(value)):
                for other in variants(value[index]):
                    yield [*value[:index], other, *value[index + 1 :]]

    for metadata, kind in ((DATA, "data"), (ADAPTER, "adapter")):
        count = 0
        for changed_metadata in variants(metadata):
            if isinstance(changed_metadata, dict):
                card_problems(changed_metadata, kind, ["images/a.png"])  # type: ignore[arg-type]
                count += 1
        assert count > 100
