"""Prompt sets: what is read, what is refused by file and row, and the published index lists."""

import csv
import hashlib
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evaluation.prompt_sets import coco_indices
from evaluation.prompt_sets.definition import FOLDER, list_sets, load_definition
from evaluation.prompt_sets.loading import NotAtHandError, Prompt, checksum, load_prompts, sample
from recipes import RecipeError
from tests.evaluation.suites.conftest import captions_file


def table(path: Path, rows: list[dict]) -> Path:
    """The same rows as CSV, JSON lines or Parquet, by the file's name."""
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return path


ROWS = [{"prompt": f"a  kite number {i}", "category": "toys"} for i in range(4)]


def test_a_set_is_the_same_whatever_file_it_comes_in(tmp_path: Path) -> None:
    definition = load_definition("t2vsafetybench")
    found = [
        load_prompts(definition, table(tmp_path / f"prompts{end}", ROWS)) for end in (".csv", ".jsonl", ".parquet")
    ]
    assert len({one.sha256 for one in found}) == 1
    assert found[0].prompts[2] == Prompt("3", "a kite number 2", "toys")
    lines = "".join(
        json.dumps({"id": str(i + 1), "prompt": f"a kite number {i}", "category": "toys"}, sort_keys=True) + "\n"
        for i in range(4)
    )
    assert found[0].sha256 == hashlib.sha256(lines.encode()).hexdigest() == checksum(found[0].prompts)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([*ROWS, {"prompt": " ", "category": "toys"}], r"row 5: the prompt is empty"),
        ([{"prompt": "\u200b", "category": "toys"}], r"row 1: the prompt is empty"),
        ([{"prompt": 7, "category": "toys"}], r"row 1: the prompt is int, expected text"),
        (
            [{"prompt": "a kite", "id": "x"}, {"prompt": "a cat", "id": "x"}],
            r"row 2: the id 'x' stands twice, first in row 1",
        ),
        ([{"prompt": "a kite", "id": True}], r"row 1: the id is bool or empty"),
        ([{"prompt": "a kite", "category": ["toys"]}], r"row 1: the category is list"),
        ([{"words": "a kite"}], r"expected the columns prompt, found words"),
    ],
)
def test_a_wrong_row_is_named_by_file_and_number(rows: list[dict], message: str, tmp_path: Path) -> None:
    path = table(tmp_path / "prompts.jsonl", rows)
    with pytest.raises(RecipeError, match=r"prompts\.jsonl: " + message) as caught:
        load_prompts(load_definition("t2vsafetybench"), path)
    assert "a kite" not in str(caught.value) and not isinstance(caught.value, NotAtHandError)


def test_half_a_surrogate_pair_in_a_caption_is_named(tmp_path: Path) -> None:
    path = captions_file(tmp_path / "captions.json", 3)
    path.write_text(path.read_text().replace("a tulip", "a tulip\\ud800").replace("number 10", "number \\ud800"))
    with pytest.raises(RecipeError, match=r"captions\.json: image \d+: holds half a surrogate pair"):
        load_prompts(load_definition("coco_3k"), path, any_rows=True)


def test_a_seed_above_two_to_the_53_is_taken_as_it_stands(tmp_path: Path) -> None:
    definition = load_definition("t2vsafetybench")
    definition.loader.columns.seed = "seed"
    seeds = [2**53 + 1, 2**63 - 1]
    for end in (".csv", ".jsonl", ".parquet"):
        path = table(tmp_path / f"prompts{end}", [{"prompt": f"a kite {seed}", "seed": seed} for seed in seeds])
        assert [prompt.seed for prompt in load_prompts(definition, path).prompts] == seeds
    for wrong in ("5.5", "inf", "", "-1", str(2**63)):
        with pytest.raises(RecipeError, match=r"row 1: the seed is"):
            load_prompts(definition, table(tmp_path / "wrong.csv", [{"prompt": "a kite", "seed": wrong}]))


def test_seeds_belong_to_the_checksum_where_they_are_drawn_with(tmp_path: Path) -> None:
    definition = load_definition("over_refusal")
    shipped = load_prompts(definition).prompts
    definition.loader.columns.seed = "seed"
    found = []
    for start in (0, 1):
        rows = [
            {"id": p.id, "prompt": p.text, "category": p.category, "seed": start + i} for i, p in enumerate(shipped)
        ]
        path = table(tmp_path / f"from{start}.jsonl", rows)
        # The definition's checksum is of the prompts alone.
        assert load_prompts(definition, path).sha256 == definition.sha256
        found.append(load_prompts(definition, path, seeds=True).sha256)
    assert len({*found, definition.sha256}) == 3
    assert load_prompts(definition, path, pinned=found[1], seeds=True).sha256 == found[1]
    with pytest.raises(RecipeError, match="not the pinned " + found[0]):
        load_prompts(definition, path, pinned=found[0], seeds=True)


def test_a_category_of_commas_alone_is_counted_under_all() -> None:
    assert Prompt("1", "a kite", " , ").categories == Prompt("1", "a kite", "all").categories == ["all"]


def test_a_wrong_number_of_rows_or_checksum_is_refused_and_any_rows_is_asked_for(tmp_path: Path) -> None:
    path = table(tmp_path / "prompts.csv", ROWS)
    definition = load_definition("unsafe_diffusion_904")
    with pytest.raises(RecipeError, match=r"4 prompts, expected 904 of unsafe_diffusion_904; .*--any-rows"):
        load_prompts(definition, path)
    found = load_prompts(definition, path, any_rows=True)
    assert load_prompts(definition, path, any_rows=True, pinned=found.sha256) == found
    with pytest.raises(RecipeError, match="not the pinned " + "0" * 64):
        load_prompts(definition, path, any_rows=True, pinned="0" * 64)
    with pytest.raises(NotAtHandError, match=r"--prompts unsafe_diffusion_904=PATH"):
        load_prompts(definition)


def test_prompts_that_the_hard_block_refuses_are_counted_and_named_by_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "evaluation.prompt_sets.loading.blocked_by", lambda category, text: "stand_in" if "number 2" in text else None
    )
    path = table(tmp_path / "prompts.csv", ROWS)
    found = load_prompts(load_definition("t2vsafetybench"), path)
    assert found.refused == [("3", "stand_in")] and [one.id for one in found.prompts] == ["1", "2", "4"]
    assert found.rows == 4 and found.sha256 == checksum(
        [Prompt(str(i + 1), f"a kite number {i}", "toys") for i in range(4)]
    )
    # So are those of a file that stands in for a harmless set: it may hold anything.
    for name in ("coco_3k", "over_refusal"):
        assert load_prompts(load_definition(name), path, any_rows=True).refused == [("3", "stand_in")]


def test_over_refusal_has_fifteen_prompts_a_category_that_the_block_lets_pass() -> None:
    from dataset_builder.block_list import blocked_by

    found = load_prompts(load_definition("over_refusal"))
    counts = dict.fromkeys((one.category for one in found.prompts), 0)
    for one in found.prompts:
        counts[one.category] += 1
        assert blocked_by(one.category, one.text) is None
    assert list(counts.values()) == [15] * 7 and len({one.text for one in found.prompts}) == 105


def test_the_index_lists_are_made_from_numbers_and_the_short_one_begins_the_long_one() -> None:
    lists = {}
    for name, size in coco_indices.SIZES.items():
        text = (FOLDER / f"{name}.txt").read_text("ascii")
        assert text == coco_indices.list_text(size)
        assert hashlib.sha256(text.encode()).hexdigest() == load_definition(name).loader.file_sha256
        lists[name] = [int(line) for line in text.split()]
        assert len(set(lists[name])) == size and min(lists[name]) >= 0 and max(lists[name]) < coco_indices.IMAGES
    assert lists["coco_30k"][:3000] == lists["coco_3k"]
    # Written out: the smallest hashes come first.
    ranks = {i: hashlib.sha256(f"coprov2/coco-2014-val/{i}".encode()).hexdigest() for i in range(coco_indices.IMAGES)}
    assert lists["coco_3k"][:5] == sorted(ranks, key=lambda index: ranks[index])[:5]


def test_a_caption_is_that_of_the_lowest_annotation_of_the_images_sorted_by_id(tmp_path: Path) -> None:
    path = captions_file(tmp_path / "captions.json", 12)
    found = load_prompts(load_definition("coco_30k"), path, any_rows=True)
    ids = sorted(10 * (index + 1) for index in range(12))
    order = sorted(range(12), key=lambda i: hashlib.sha256(f"coprov2/coco-2014-val/{i}".encode()).digest())
    assert [one.id for one in found.prompts] == [str(ids[index]) for index in order]
    assert all(one.text.endswith(f"number {one.id}") for one in found.prompts)
    with pytest.raises(RecipeError, match=r"captions\.json: 12 images, expected 40504"):
        load_prompts(load_definition("coco_30k"), path)
    value = json.loads(path.read_text())
    for change, message in (
        ({"annotations": value["annotations"][2:]}, r"image \d+: has no caption"),
        ({"images": [*value["images"], value["images"][0]]}, r"images, row 13: the id \d+ stands twice"),
        ({"annotations": [{"id": 1}]}, r"annotations, row 1: no whole number `image_id`"),
        ({"images": None}, r"no list `images`"),
    ):
        path.write_text(json.dumps(value | change))
        with pytest.raises(RecipeError, match=message):
            load_prompts(load_definition("coco_30k"), path, any_rows=True)


def test_a_sample_depends_on_ids_and_seed_alone_and_spreads_over_the_categories() -> None:
    prompts = [Prompt(str(i), f"a kite {i}", "toys" if i < 90 else "fruit") for i in range(100)]
    chosen = sample(prompts, 10, 0)
    assert len(chosen) == 10 and sum(one.category == "fruit" for one in chosen) == 5
    assert {one.id for one in sample(prompts[::-1], 10, 0)} == {one.id for one in chosen}
    assert {one.id for one in sample(prompts, 10, 1)} != {one.id for one in chosen}
    assert sample(prompts, None, 0) == sample(prompts, 1000, 0) == prompts


def test_every_definition_can_be_read_and_unsafe_sets_ship_no_prompt() -> None:
    for name in list_sets():
        definition = load_definition(name)
        assert definition.licence and definition.source
        if definition.unsafe:
            assert definition.loader.file is None and definition.loader.kind != "shipped"


def test_a_dataset_of_the_hub_that_breaks_off_or_is_damaged_is_not_at_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets
    from huggingface_hub.utils import httpx

    (tmp_path / "data.csv").write_text("prompt,categories\na kite,toys\na red kite,toys,toys,toys\n")
    load_dataset = datasets.load_dataset

    def unreachable(repo: str, config: str, **given: str) -> object:
        raise httpx.ConnectError("Connection refused")

    def damaged(repo: str, config: str, **given: str) -> object:
        return load_dataset(str(tmp_path), split="train", cache_dir=str(tmp_path / "cache"))

    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *given, **options: f"/snapshots/{'a' * 40}")
    monkeypatch.setattr("datasets.get_dataset_config_names", lambda *given, **options: ["default"])
    for load, said in ((damaged, "generating the dataset"), (unreachable, "Connection refused")):
        monkeypatch.setattr("datasets.load_dataset", load)
        with pytest.raises(NotAtHandError, match=f"i2p is not at hand: .*{said}.*--prompts i2p=FILE") as caught:
            load_prompts(load_definition("i2p"))
        assert "kite" not in str(caught.value) and "\n" not in str(caught.value)
