"""A server that fails now and then: what the client does about it, and that nothing is done twice or by half."""

import os
from pathlib import Path

import pytest
from huggingface_hub.errors import HfHubHTTPError

from tests.integration.hub_local.checks.check import Checks
from tests.integration.hub_local.checks.commits import read
from tests.integration.hub_local.world import World

CHECKS = Checks()


@CHECKS.add
def a_download_that_breaks_off_goes_on_where_it_was(world: World) -> None:
    # The client writes pieces of 10 MiB: what broke off before the first of them starts anew.
    name, data = world.make(), os.urandom(34_000_000)
    world.api().upload_file(path_or_fileobj=data, path_in_repo="x.bin", repo_id=name, repo_type="dataset")
    path = r"/resolve/main/x\.bin$|^/lfs/"
    with world.faults({"method": "GET", "path": path, "truncate": 11_000_000, "times": 2}) as log:
        found = world.api().hf_hub_download(name, "x.bin", repo_type="dataset", cache_dir=world.cache("maker"))
    assert Path(found).read_bytes() == data
    ranges = [line["range"] for line in log() if line["method"] == "GET" and "range" in line]
    assert len(set(ranges)) >= 2 and all(one.startswith("bytes=") for one in ranges)


@CHECKS.add
def an_upload_is_tried_again(world: World) -> None:
    if world.mode == "xet":
        fault = {"method": "POST", "path": "^/v1/xorbs/|/v1/xorbs/", "status": 503, "times": 2}
    else:
        fault = {"method": "PUT", "path": "^/lfs/", "status": 503, "times": 2}
    name, data = world.make(), os.urandom(300_000)
    with world.faults(fault) as log:
        world.api().upload_file(path_or_fileobj=data, path_in_repo="x.bin", repo_id=name, repo_type="dataset")
    assert read(world, name, "x.bin") == data
    assert [line["status"] for line in log()].count(503) == 2
    assert len(world.api().list_repo_commits(name, repo_type="dataset")) == 2


@CHECKS.add
def a_commit_that_is_refused_leaves_nothing_behind(world: World) -> None:
    name, api = world.make(), world.api()
    before = api.dataset_info(name).sha
    for status in (409, 412, 500):
        with world.faults({"method": "POST", "path": "/commit/", "status": status}), pytest.raises(HfHubHTTPError):
            api.upload_file(path_or_fileobj=b"x" * 9999, path_in_repo="x.bin", repo_id=name, repo_type="dataset")
    assert api.dataset_info(name).sha == before and not api.file_exists(name, "x.bin", repo_type="dataset")
    api.upload_file(path_or_fileobj=b"x" * 9999, path_in_repo="x.bin", repo_id=name, repo_type="dataset")
    assert read(world, name, "x.bin") == b"x" * 9999


@CHECKS.add
def rows_stream_over_breaks(world: World) -> None:
    from tests.integration.hub_local.checks.tables import fill, load

    name = fill(world, 3000)
    with world.faults({"method": "GET", "path": r"/resolve/[^/]+/data/train.*parquet$", "status": 503, "times": 2}):
        assert sum(1 for _ in load(world, name, split="train", streaming=True)) == 3000
