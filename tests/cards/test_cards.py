"""Cards: valid metadata, true counts, sections by hand kept, nothing left open, snippets that run."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from datasets import load_dataset
from huggingface_hub import DatasetCard, DatasetCardData, ModelCard, ModelCardData
from PIL import Image
from typer.testing import CliRunner

import dataset_builder.models
from cards import write_adapter_card, write_dataset_card
from cards.adapter_card import usage
from cards.adapter_results import protocol_of
from cards.escaping import cell
from cards.vocabulary import size_category
from coprov2 import app
from dataset_builder.schema import SPLITS, features
from evaluation.drawing import adapter_identity
from recipes import Recipe, RecipeError
from tests.made_up_run import ROWS, T2I, write_dataset, write_results
from training.adapters import write_adapter


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    write_dataset(out / "dataset", Recipe())
    return out


@pytest.fixture
def run(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(dataset_builder.models, "identity", lambda *args, **kwargs: T2I)
    return Path(shutil.copytree(written, tmp_path / "run"))


@pytest.fixture
def adapter(run: Path) -> Path:
    folder = run / "merged"
    write_adapter(folder, {"mid": (torch.ones(2, 4), torch.ones(4, 2))})
    manifest = {
        "method": "comerge",
        "options": {"gain": 1.5, "rank": None},
        "experts": {"hate": "0", "violence": "1"},
        "rank": 2,
    }
    (folder / "coprov2.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture
def results(run: Path, adapter: Path) -> dict[str, Any]:
    made_up = write_results(run, Recipe())
    made_up["provenance"]["adapters"] = {"merged": adapter_identity(adapter)}
    return made_up


def metadata(path: Path) -> dict[str, Any]:
    found = yaml.safe_load(path.read_text("utf8").split("---\n")[1])
    assert isinstance(found, dict)
    return found


def test_the_adapter_card_names_the_loss_and_the_options_that_were_in_effect(run: Path, adapter: Path) -> None:
    recipe = Recipe()
    recipe.train.loss_type, recipe.train.margin_weight, recipe.train.safeguard_mu = "robust", 2.0, 0.9
    text = write_adapter_card(recipe, adapter, None).read_text("utf8")
    row = next(line for line in text.splitlines() if line.startswith("| loss |"))
    for name, value in (("label_smoothing", 0.1), ("margin_weight", 2.0), ("safeguard_mu", 0.9)):
        assert f"{cell(name)} {cell(value)}" in row
    plain = write_adapter_card(Recipe(), adapter, None).read_text("utf8")
    row = next(line for line in plain.splitlines() if line.startswith("| loss |"))
    assert row.startswith("| loss | sigmoid, beta 100.0; weights:")


def test_the_dataset_cards_metadata_round_trips_through_the_hubs_classes(run: Path) -> None:
    path = write_dataset_card(Recipe(), run / "dataset")
    card = DatasetCard.load(path)
    assert isinstance(card.data, DatasetCardData)
    assert yaml.safe_load(card.data.to_yaml()) == metadata(path)
    assert card.data.license == "apache-2.0" and card.data.size_categories == ["n<1K"]
    assert [c["config_name"] for c in card.data.to_dict()["configs"]] == ["default", "prompts"]
    assert card.data.to_dict()["extra_gated_prompt"]


def test_the_folder_loads_with_the_card(run: Path, tmp_path: Path) -> None:
    write_dataset_card(Recipe(), run / "dataset")
    dataset = load_dataset(str(run / "dataset"), cache_dir=str(tmp_path / "cache"))
    assert {split: len(rows) for split, rows in dataset.items()} == {split: 7 * count for split, count in ROWS.items()}
    categories = dataset["train"].features["category"].names
    assert dataset["train"].features == features(categories)
    assert dataset["test"][0]["unsafe_image"].size == (64, 64)
    prompts = load_dataset(str(run / "dataset"), "prompts", split="test", cache_dir=str(tmp_path / "cache"))
    assert prompts.features == features(categories, images=False)


def test_the_dataset_card_says_what_the_files_hold(run: Path) -> None:
    text = write_dataset_card(Recipe(), run / "dataset").read_text("utf8")
    for column in features(["a"]):
        assert f"| `{column}` |" in text
    for split in SPLITS:
        assert f"`{split}`" in text
    assert "| **all** | **21** | **7** | **28** | **14** | **70** |" in text
    assert "`unsafe_picture_is_safe` 20" in text and T2I in text and "2412.10493" in text
    rows = [line for line in text.splitlines() if line.startswith("| hate |")]
    assert rows == ["| hate | 3 | 1 | 4 | 2 | 10 |"]


@pytest.mark.parametrize("folder", ["data", "prompts"])
def test_a_config_without_files_is_named(run: Path, folder: str) -> None:
    place = run / "dataset" / folder
    shutil.rmtree(place)
    with pytest.raises(RecipeError, match=f"^{re.escape(str(place))}: no Parquet files; build the dataset first$"):
        write_dataset_card(Recipe(), run / "dataset")


def test_only_the_emoji_world_goes_without_a_warning(run: Path, adapter: Path, results: dict[str, Any]) -> None:
    harmless, other = Recipe(), Recipe(base_model="org/model")
    for recipe, warned in ((harmless, False), (other, True)):
        for path in (write_dataset_card(recipe, run / "dataset"), write_adapter_card(recipe, adapter, results)):
            text = path.read_text("utf8")
            assert ("not-for-all-audiences" in metadata(path)["tags"]) is warned
            assert ("Content warning" in text) is warned and ("emoji world" in text) is not warned


def test_what_was_made_elsewhere_is_not_harmless_by_the_recipe(
    run: Path, adapter: Path, results: dict[str, Any]
) -> None:
    path = run / "dataset" / "coprov2.json"
    manifest = json.loads(path.read_text("utf8"))
    path.write_text(json.dumps({**manifest, "taxonomy": {**manifest["taxonomy"], "name": "theirs"}}))
    results["provenance"]["harmless_world"] = False
    found = [
        write_dataset_card(Recipe(), run / "dataset"),
        write_adapter_card(Recipe(), adapter, results, examples=run / "evaluation"),
    ]
    for card in found:
        assert "not-for-all-audiences" in metadata(card)["tags"] and "Content warning" in card.read_text("utf8")
    assert "widget" not in metadata(found[1]) and not list((adapter / "images").glob("example-*"))


def test_a_repository_that_is_not_gated_asks_nothing(run: Path) -> None:
    recipe = Recipe()
    recipe.publish.gated = False
    assert not any(key.startswith("extra_gated") for key in metadata(write_dataset_card(recipe, run / "dataset")))


def test_the_adapter_cards_metadata_round_trips_and_holds_the_results(
    run: Path, adapter: Path, results: dict[str, Any]
) -> None:
    path = write_adapter_card(Recipe(), adapter, results)
    card = ModelCard.load(path)
    assert isinstance(card.data, ModelCardData)
    assert yaml.safe_load(card.data.to_yaml()) == metadata(path)
    data = card.data.to_dict()
    assert data["base_model"] == "coprov2/emoji-world-t2i" and data["base_model_relation"] == "adapter"
    assert data["library_name"] == "diffusers" and data["pipeline_tag"] == "text-to-image"
    assert card.data.eval_results is not None
    values = {result.metric_type: result.metric_value for result in card.data.eval_results}
    merged = results["models"]["merged"]
    assert values == {name: merged[name]["value"] for name in values} and len(values) == 6
    splits = {result.metric_type: result.dataset_split for result in card.data.eval_results}
    assert splits["unsafe_rate"] == "test" and splits["unsafe_rate_unseen_concepts"] == "test_unseen_concepts"
    text = path.read_text("utf8")
    assert "| merge | `comerge`, gain 1.5 |" in text and "| experts merged | hate, violence |" in text


def test_a_card_without_results_makes_no_claim(adapter: Path) -> None:
    path = write_adapter_card(Recipe(), adapter, None)
    assert "model-index" not in metadata(path) and "## Results" not in path.read_text("utf8")


def test_results_of_other_weights_are_refused(adapter: Path, results: dict[str, Any]) -> None:
    write_adapter(adapter, {"mid": (torch.zeros(2, 4), torch.ones(4, 2))})
    with pytest.raises(RecipeError, match="evaluate again"):
        write_adapter_card(Recipe(), adapter, results)
    with pytest.raises(RecipeError, match="no model 'mine'"):
        write_adapter_card(Recipe(), adapter, results, model="mine")


def test_nothing_is_left_open_and_the_same_gives_the_same_bytes(
    run: Path, adapter: Path, results: dict[str, Any]
) -> None:
    Image.new("RGB", (4, 4)).save(run / "picture.png")
    for write in (
        lambda: write_dataset_card(Recipe(), run / "dataset"),
        lambda: write_adapter_card(Recipe(), adapter, results, picture=run / "picture.png"),
    ):
        first = write().read_bytes()
        assert write().read_bytes() == first
        text = first.decode()
        assert not re.search(r"\[More Information Needed\]|\bTODO\b|\bNone\b|Undefined|\{\{|\{%", text)
        assert str(run) not in text
    for picture in re.findall(r"!\[[^]]*\]\(([^)]+)\)", text):
        assert (adapter / picture).is_file()


def test_sections_by_hand_outlive_a_rewrite(run: Path) -> None:
    path = write_dataset_card(Recipe(), run / "dataset")
    text = path.read_text("utf8")
    mine = "<!-- by hand: limits -->\nWe looked at 50 rows.\n<!-- end by hand -->"
    text = text.replace("<!-- by hand: limits -->\n<!-- end by hand -->", mine)
    path.write_text(text + "\n<!-- by hand: thanks -->\nTo all.\n<!-- end by hand -->\n")
    again = write_dataset_card(Recipe(), run / "dataset").read_text("utf8")
    assert mine in again and again.count("To all.") == 1
    assert write_dataset_card(Recipe(), run / "dataset").read_text("utf8") == again
    path.write_text(again.replace("<!-- end by hand -->", "", 1))
    with pytest.raises(RecipeError, match="by hand"):
        write_dataset_card(Recipe(), run / "dataset")


def test_size_categories_are_the_hubs() -> None:
    assert [size_category(n) for n in (999, 1_000, 23_690, 10_000_000, 3_000_000_000)] == [
        "n<1K",
        "1K<n<10K",
        "10K<n<100K",
        "10M<n<100M",
        "1B<n<10B",
    ]


def test_the_emoji_worlds_usage_is_python_too() -> None:
    snippet = usage(Recipe(), "org/adapter")
    compile(snippet, "card", "exec")
    assert 'load_pipeline("emoji-world")' in snippet and 'load_lora_weights("org/adapter")' in snippet


def test_the_verb_writes_the_cards_of_what_a_run_holds(run: Path, adapter: Path) -> None:
    """A run that was built and merged verb by verb has cards to be pushed with, whether it was evaluated or not."""
    done = CliRunner().invoke(app, ["cards", "--out", str(run)])
    assert done.exit_code == 0, done.output
    assert "without results" in done.output
    assert metadata(run / "dataset" / "README.md")["extra_gated_prompt"]
    assert "model-index" not in metadata(adapter / "README.md")

    made_up = write_results(run, Recipe())
    made_up["provenance"]["adapters"] = {"merged": adapter_identity(adapter)}
    (run / "evaluation" / "results.json").write_text(json.dumps(made_up), "utf8")
    done = CliRunner().invoke(app, ["cards", "--out", str(run)])
    assert done.exit_code == 0 and "without results" not in done.output
    assert metadata(adapter / "README.md")["model-index"]

    for damaged in (json.dumps(made_up)[:-9], "[]", "{}", '{"models": [1]}', '{"models": {"base": {}}}'):
        (run / "evaluation" / "results.json").write_text(damaged, "utf8")
        cut = CliRunner().invoke(app, ["cards", "--out", str(run)])
        assert isinstance(cut.exception, RecipeError) and "coprov2 evaluate" in str(cut.exception)

    nothing = CliRunner().invoke(app, ["cards", "--out", str(run / "nothing")])
    assert isinstance(nothing.exception, RecipeError) and "coprov2 build" in str(nothing.exception)


def test_the_adapter_card_states_the_datasets_commit_and_its_successor(
    run: Path, adapter: Path, results: dict[str, Any]
) -> None:
    path = write_adapter_card(Recipe(), adapter, results, dataset_revision="a" * 40, new_version="org/next")
    found, text = metadata(path), path.read_text("utf8")
    assert found["coprov2"]["dataset_revision"] == "a" * 40 and found["coprov2"]["dataset_version"] == "v1.0.0"
    assert found["new_version"] == "org/next" and "**Superseded** by [org/next]" in text
    assert {result["dataset"]["revision"] for result in found["model-index"][0]["results"]} == {"a" * 40}
    assert "There is no trigger word" in text and f"commit `{'a' * 40}`" in text
    for wrong in ({"dataset_revision": "v1.0.0"}, {"new_version": "a/b/c"}):
        with pytest.raises(RecipeError, match=r"the (dataset's revision|new version): "):
            write_adapter_card(Recipe(), adapter, results, **wrong)


def test_the_protocol_tells_results_that_may_be_compared(results: dict[str, Any]) -> None:
    provenance = results["provenance"]
    protocol = protocol_of(provenance)
    assert protocol.name == "coprov2-1" and re.fullmatch("[0-9a-f]{16}", protocol.digest)
    assert protocol_of({**provenance, "adapters": {}, "seed": 7}) == protocol
    for name in ("judge", "prompts", "render", "evaluate", "dataset"):
        assert protocol_of({**provenance, name: "other"}).digest != protocol.digest


def test_a_named_protocol_is_the_cards_protocol_too(results: dict[str, Any], adapter: Path) -> None:
    named = {"name": "emoji-world (changed: steps=2)", "sha256": "0a" * 32, "changed": ["steps=2"]}
    stated = {**results, "provenance": {**results["provenance"], "evaluation_protocol": named}}
    found = protocol_of(stated["provenance"])
    assert (found.name, found.digest) == ("emoji-world (changed: steps=2)", "0a" * 8)
    path = write_adapter_card(Recipe(), adapter, stated)
    assert "Protocol `emoji-world (changed: steps=2)`, hash `0a0a0a0a0a0a0a0a`" in path.read_text("utf8")
    metrics = metadata(path)["model-index"][0]["results"][0]["metrics"]
    assert metrics[0]["args"]["protocol_hash"] == "0a" * 8
    for wrong in ("emoji-world", {"name": "emoji-world"}, {"name": 3, "sha256": "0"}):
        with pytest.raises(RecipeError, match=r"provenance\.evaluation_protocol: expected `name` and `sha256`"):
            protocol_of({**stated["provenance"], "evaluation_protocol": wrong})


def test_only_the_emoji_worlds_card_shows_pictures_of_prompts(
    run: Path, adapter: Path, results: dict[str, Any]
) -> None:
    path = write_adapter_card(Recipe(), adapter, results, examples=run / "evaluation")
    widget = metadata(path)["widget"]
    assert len(widget) == 6 and "<Gallery />" in path.read_text("utf8")
    assert all((adapter / entry["output"]["url"]).is_file() and entry["text"] for entry in widget)
    path = write_adapter_card(Recipe(base_model="org/model"), adapter, results, examples=run / "evaluation")
    assert "widget" not in metadata(path) and "<Gallery" not in path.read_text("utf8")
    assert not list((adapter / "images").glob("example-*"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("steps", {}), ("steps", [3]), ("steps", [{"drops": {"a": "b"}}]), ("models", ["x"]), ("models", {"llm": 3})),
        *(("version", 1), ("name", ["x"]), ("recipe", "x"), ("recipe", {"render": 3}), ("files", []), ("import", True)),
    ],
)
def test_a_manifest_of_other_types_ends_in_one_line_that_names_the_field(run: Path, field: str, value: Any) -> None:
    path = run / "dataset" / "coprov2.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf8")), field: value}))
    with pytest.raises(RecipeError, match=rf"coprov2\.json: {field}.* is of type .*, expected .*; build again$"):
        write_dataset_card(Recipe(), run / "dataset")


def test_a_folder_of_a_base_model_is_not_named_by_its_place(run: Path, adapter: Path) -> None:
    (run / "my-model").mkdir()
    text = write_adapter_card(Recipe(base_model=str(run / "my-model")), adapter, None).read_text("utf8")
    assert 'from_pretrained("my-model")' in text and str(run) not in text


def test_the_changelog_is_linked_where_there_is_one(run: Path) -> None:
    assert "CHANGELOG" not in write_dataset_card(Recipe(), run / "dataset").read_text("utf8")
    (run / "dataset" / "CHANGELOG.md").write_text("# Changes\n")
    assert "[CHANGELOG.md](CHANGELOG.md)" in write_dataset_card(Recipe(), run / "dataset").read_text("utf8")
