"""Listing what a revision holds."""

import pytest
from huggingface_hub import CommitOperationAdd
from huggingface_hub.errors import EntryNotFoundError
from huggingface_hub.hf_api import RepoFile, RepoFolder

from tests.integration.hub_local.checks.check import Checks
from tests.integration.hub_local.world import World

CHECKS = Checks()


def fill(world: World, paths: list[str]) -> str:
    """A dataset repository that holds a small file at each path."""
    name = world.make()
    operations = [CommitOperationAdd(path, path.encode()) for path in paths]
    world.api().create_commit(name, operations, commit_message="Fill", repo_type="dataset")
    return name


@CHECKS.add
def a_tree_of_thousands_has_pages(world: World) -> None:
    paths = [f"data/{number:05d}.txt" for number in range(2300)]
    name = fill(world, paths)
    entries = list(world.api().list_repo_tree(name, recursive=True, repo_type="dataset"))
    assert sorted(e.path for e in entries if isinstance(e, RepoFile)) == sorted([".gitattributes", *paths])
    assert [e.path for e in entries if isinstance(e, RepoFolder)] == ["data"]
    assert len(world.sent("GET", "/tree/")) == 3
    assert len(list(world.api().list_repo_tree(name, "data", repo_type="dataset"))) == 2300
    first = world.raw("GET", f"/api/datasets/{name}/tree/main/data")
    assert len(first.json()) <= 1000 and 'rel="next"' in first.headers["link"]


@CHECKS.add
def a_tree_shows_one_level_or_all(world: World) -> None:
    name = fill(world, ["a.txt", "sub/b.bin", "sub/deep/c.txt"])
    api = world.api()
    top = {entry.path: type(entry) for entry in api.list_repo_tree(name, repo_type="dataset")}
    assert top == {".gitattributes": RepoFile, "a.txt": RepoFile, "sub": RepoFolder}
    below = {entry.path: type(entry) for entry in api.list_repo_tree(name, "sub", repo_type="dataset")}
    assert below == {"sub/b.bin": RepoFile, "sub/deep": RepoFolder}
    everything = {entry.path: entry for entry in api.list_repo_tree(name, recursive=True, repo_type="dataset")}
    assert set(everything) == {".gitattributes", "a.txt", "sub", "sub/b.bin", "sub/deep", "sub/deep/c.txt"}
    assert everything["sub/b.bin"].lfs.sha256 and everything["sub/b.bin"].size == len("sub/b.bin")
    assert len(everything["sub"].tree_id) == 40
    for path in ("missing", "sub/missing"):
        with pytest.raises(EntryNotFoundError):
            list(api.list_repo_tree(name, path, repo_type="dataset"))


@CHECKS.add
def a_tree_says_who_changed_what_last(world: World) -> None:
    name, api = fill(world, ["a.txt", "sub/b.txt"]), world.api()
    changed = api.upload_file(
        path_or_fileobj=b"new", path_in_repo="sub/b.txt", repo_id=name, repo_type="dataset", commit_message="Change b"
    )
    last = {e.path: e.last_commit for e in api.list_repo_tree(name, recursive=True, expand=True, repo_type="dataset")}
    assert (last["sub/b.txt"].oid, last["sub/b.txt"].title) == (changed.oid, "Change b")
    assert last["sub"].oid == changed.oid
    assert last["a.txt"].title == "Fill" and last["a.txt"].date is not None
    assert last[".gitattributes"].title == "initial commit"


@CHECKS.add
def paths_are_described(world: World) -> None:
    name, api = fill(world, ["a.txt", "sub/b.bin"]), world.api()
    found = {e.path: e for e in api.get_paths_info(name, ["a.txt", "sub", "missing", "sub/b.bin"], repo_type="dataset")}
    assert set(found) == {"a.txt", "sub", "sub/b.bin"} and isinstance(found["sub"], RepoFolder)
    assert found["sub/b.bin"].lfs.size == len("sub/b.bin") and found["a.txt"].last_commit is None
    (entry,) = api.get_paths_info(name, "a.txt", expand=True, repo_type="dataset")
    assert entry.last_commit.title == "Fill"
    assert api.get_paths_info(name, [], repo_type="dataset") == []


@CHECKS.add
def an_empty_looking_path_is_not_another(world: World) -> None:
    name = fill(world, ["a.txt"])
    for path in ("%2e%2e", "a.txt%2f%2e%2e", "..%2f..%2fetc", "a%00b", "/etc/hostname", "%2Fetc"):
        for route in (f"/api/datasets/{name}/tree/main/{path}", f"/datasets/{name}/resolve/main/{path}"):
            answer = world.raw("GET", route)
            assert answer.status_code in (400, 401, 404, 405, 422), (route, answer.status_code)
