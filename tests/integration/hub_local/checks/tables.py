"""`datasets`: loading by every revision, streaming, configs, pictures, and pushing."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import CommitOperationAdd
from huggingface_hub.errors import HfHubHTTPError
from PIL import Image

from tests.integration.hub_local.checks.check import Checks
from tests.integration.hub_local.world import TOKENS, World

CHECKS = Checks()
TOKEN = TOKENS["maker"]


def parquet(path: Path, rows: int, first: int = 0) -> Path:
    """A Parquet file of numbers and captions, in row groups of 50."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    numbers = list(range(first, first + rows))
    table = pa.table({"number": numbers, "caption": [f"a pistol and {n} pills" for n in numbers]})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=50)
    return path


def fill(world: World, rows: int = 120, **settings: Any) -> str:
    """A dataset repository with the splits train and test."""
    name = world.make(**settings)
    files = {
        "data/train-00000-of-00001.parquet": parquet(world.path("train.parquet"), rows),
        "data/test-00000-of-00001.parquet": parquet(world.path("test.parquet"), 7, 1000),
    }
    operations = [CommitOperationAdd(path, str(file)) for path, file in files.items()]
    world.api().create_commit(name, operations, commit_message="Rows", repo_type="dataset")
    return name


def load(world: World, name: str, *words: str, **options: Any) -> Any:
    """`load_dataset` into a cache of its own."""
    from datasets import load_dataset

    options.setdefault("token", TOKEN)
    # datasets takes what it finds in its cache where a repository is not to be had.
    return load_dataset(name, *words, cache_dir=str(world.cache(f"rows-{options['token']}")), **options)


@CHECKS.add
def rows_load_by_branch_tag_and_commit(world: World) -> None:
    name, api = fill(world), world.api()
    api.create_tag(name, tag="v1.0.0", repo_type="dataset")
    sha = api.dataset_info(name).sha
    api.upload_file(
        path_or_fileobj=parquet(world.path("new.parquet"), 10),
        path_in_repo="data/train-00000-of-00001.parquet",
        repo_id=name,
        repo_type="dataset",
    )
    assert load(world, name)["train"].num_rows == 10
    for revision in ("v1.0.0", sha):
        rows = load(world, name, revision=revision)
        assert {split: part.num_rows for split, part in rows.items()} == {"train": 120, "test": 7}
        assert rows["train"][119] == {"number": 119, "caption": "a pistol and 119 pills"}


@CHECKS.add
def rows_load_from_a_pull_request(world: World) -> None:
    name = fill(world)
    done = world.api("guest").upload_file(
        path_or_fileobj=parquet(world.path("more.parquet"), 30, 500),
        path_in_repo="contributions/more.parquet",
        repo_id=name,
        repo_type="dataset",
        create_pr=True,
    )
    rows = load(world, name, data_files="contributions/*.parquet", split="train", revision=done.pr_revision)
    assert rows["number"][0] == 500 and rows.num_rows == 30
    with pytest.raises(FileNotFoundError):
        load(world, name, data_files="contributions/*.parquet", split="train", token=TOKENS["reader"])


@CHECKS.add
def rows_stream(world: World) -> None:
    name = fill(world, 1000)
    world.api().create_tag(name, tag="v1.0.0", repo_type="dataset")
    stream = load(world, name, split="train", streaming=True, revision="v1.0.0")
    assert [row["number"] for row in stream.take(3)] == [0, 1, 2]
    assert sum(1 for _ in stream) == 1000
    assert next(iter(stream.skip(999)))["caption"] == "a pistol and 999 pills"


@CHECKS.add
def rows_of_a_private_and_gated_repository_need_a_token(world: World) -> None:
    from datasets.exceptions import DatasetNotFoundError

    name = fill(world, private=True)
    assert load(world, name, split="train").num_rows == 120
    assert next(iter(load(world, name, split="train", streaming=True)))["number"] == 0
    for who in ("guest", "nobody"):
        with pytest.raises(DatasetNotFoundError):
            load(world, name, split="train", token=TOKENS[who], streaming=True)
    world.api().update_repo_settings(name, private=False, gated="manual", repo_type="dataset")
    with pytest.raises(DatasetNotFoundError, match="gated"):
        load(world, name, split="test", token=TOKENS["guest"], streaming=True)
    world.api().grant_access(name, "guest", repo_type="dataset")
    assert next(iter(load(world, name, split="test", token=TOKENS["guest"], streaming=True)))["number"] == 1000


@CHECKS.add
def configs_and_splits_come_from_the_card(world: World) -> None:
    from datasets import get_dataset_config_names, get_dataset_split_names

    name = world.make()
    card = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/train-*.parquet\n"
    card += "- config_name: prompts\n  data_files:\n  - split: train\n    path: prompts/train-*.parquet\n---\n# Rows\n"
    operations = [
        CommitOperationAdd("README.md", card.encode()),
        CommitOperationAdd("data/train-0.parquet", str(parquet(world.path("one.parquet"), 5))),
        CommitOperationAdd("prompts/train-0.parquet", str(parquet(world.path("two.parquet"), 9))),
        CommitOperationAdd("contributions/odd.parquet", str(parquet(world.path("odd.parquet"), 3))),
    ]
    world.api().create_commit(name, operations, commit_message="Rows", repo_type="dataset")
    assert get_dataset_config_names(name, token=TOKEN) == ["default", "prompts"]
    assert get_dataset_split_names(name, "prompts", token=TOKEN) == ["train"]
    assert load(world, name, split="train").num_rows == 5
    assert load(world, name, "prompts", split="train").num_rows == 9


@CHECKS.add
def a_folder_of_pictures_loads_with_its_table(world: World) -> None:
    name = world.make()
    for number in range(4):
        Image.new("RGB", (8 + number, 8), (number, 0, 0)).save(world.path(f"up/train/{number}.png"))
    lines = ["file_name,caption", *(f"{number}.png,picture {number}" for number in range(4))]
    world.path("up/train/metadata.csv").write_text("\n".join(lines) + "\n")
    world.api().upload_folder(repo_id=name, folder_path=world.folder / "up", repo_type="dataset")
    rows = load(world, name, split="train")
    assert rows.num_rows == 4
    assert sorted((row["image"].size[0], row["caption"]) for row in rows) == [
        (8 + number, f"picture {number}") for number in range(4)
    ]


@CHECKS.add
def pushed_rows_come_back(world: World) -> None:
    from datasets import ClassLabel, Dataset, Features, Value

    features = Features({"number": Value("int64"), "kind": ClassLabel(names=["pistol", "pill"])})
    rows = Dataset.from_dict({"number": list(range(50)), "kind": [n % 2 for n in range(50)]}, features=features)
    name = world.name()
    rows.push_to_hub(name, token=TOKEN, private=True)
    rows.select(range(10)).push_to_hub(name, token=TOKEN, split="test")
    rows.select(range(20)).push_to_hub(name, "small", token=TOKEN)
    assert world.api().dataset_info(name).private
    back = load(world, name)
    assert back["train"].to_dict() == rows.to_dict() and back["train"].features == features
    assert back["test"].num_rows == 10
    assert load(world, name, "small", split="train").num_rows == 20


@CHECKS.add
def pushed_pictures_come_back(world: World) -> None:
    from datasets import Dataset, DatasetDict, Features, Value
    from datasets import Image as ImageFeature

    pictures = [Image.new("RGB", (16, 16), (n * 9, 0, 255)) for n in range(12)]
    features = Features({"caption": Value("string"), "image": ImageFeature()})
    rows = Dataset.from_dict({"caption": [f"number {n}" for n in range(12)], "image": pictures}, features=features)
    name = world.name()
    DatasetDict({"train": rows, "test": rows.select(range(3))}).push_to_hub(
        name, token=TOKEN, num_shards={"train": 3, "test": 1}
    )
    assert len([path for path in world.api().list_repo_files(name, repo_type="dataset") if "train" in path]) == 3
    back = load(world, name, split="train")
    assert [row["image"].getpixel((0, 0)) for row in back] == [(n * 9, 0, 255) for n in range(12)]
    streamed = list(load(world, name, split="test", streaming=True))
    assert len(streamed) == 3 and streamed[0]["image"].size == (16, 16)


@CHECKS.add
def rows_are_pushed_into_a_pull_request(world: World) -> None:
    from datasets import Dataset

    name = fill(world)
    rows = Dataset.from_dict({"number": [1, 2, 3], "caption": ["a", "b", "c"]})
    before = world.api().dataset_info(name).sha
    done = rows.push_to_hub(name, "more", token=TOKENS["guest"], create_pr=True)
    assert done.pr_num and world.api().dataset_info(name).sha == before
    assert load(world, name, "more", split="train", revision=f"refs/pr/{done.pr_num}").num_rows == 3


@CHECKS.add
def a_stream_is_pushed(world: World) -> None:
    from datasets import Dataset

    rows = Dataset.from_dict({"number": list(range(30))}).to_iterable_dataset(num_shards=3)
    rows.push_to_hub(world.name(), token=TOKEN)
    assert sorted(load(world, world.name(), split="train")["number"]) == list(range(30))


@CHECKS.add
def parallel_pushers_lose_nothing(world: World) -> None:
    from datasets import Dataset, load_dataset_builder

    name = world.make()

    # datasets 5.2 does not retry on 412 by itself: it looks for the client's error in the wrong place of the chain.
    def push(number: int) -> int:
        rows = Dataset.from_dict({"number": [number] * (number + 1)})
        for tries in range(40):
            try:
                rows.push_to_hub(name, f"part{number}", token=TOKEN)
                return tries
            except HfHubHTTPError as error:
                assert error.response.status_code in (409, 412), error
        raise AssertionError("never got through")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(push, range(4)))
    for number in range(4):
        assert load(world, name, f"part{number}", split="train")["number"][:] == [number] * (number + 1)
    assert load_dataset_builder(name, "part3", token=TOKEN).info.splits["train"].num_examples == 4


@CHECKS.add_client_bug(
    cause="datasets 5.2 tests __context__ of the 412 for HfHubHTTPError, where httpx' own error stands: no retry",
    error="The branch was updated since you opened this page",
)
def a_push_that_is_overtaken_tries_again_by_itself(world: World) -> None:
    from datasets import Dataset
    from huggingface_hub import HfApi

    name = world.make()
    Dataset.from_dict({"number": [1]}).push_to_hub(name, token=TOKEN)
    create, overtaken = HfApi.create_commit, []

    def overtake(self: HfApi, *args: Any, **kwargs: Any) -> Any:
        if not overtaken:
            overtaken.append(1)
            world.raw(
                "POST",
                f"/api/datasets/{name}/commit/main",
                content=b'{"key":"header","value":{"summary":"first"}}\n'
                b'{"key":"file","value":{"path":"x.txt","content":"eA==","encoding":"base64"}}\n',
                headers={"Content-Type": "application/x-ndjson"},
            ).raise_for_status()
        return create(self, *args, **kwargs)

    HfApi.create_commit = overtake  # type: ignore[method-assign]
    try:
        Dataset.from_dict({"number": [2]}).push_to_hub(name, split="test", token=TOKEN)
    finally:
        HfApi.create_commit = create  # type: ignore[method-assign]
    assert load(world, name)["test"].num_rows == 1
