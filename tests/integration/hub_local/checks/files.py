"""A repository as a file system (fsspec)."""

import pytest
from huggingface_hub import CommitOperationAdd, HfFileSystem

from tests.integration.hub_local.checks.check import Checks
from tests.integration.hub_local.world import TOKENS, World

CHECKS = Checks()


def open_system(world: World, who: str = "maker") -> HfFileSystem:
    """A file system without a cache of listings or of instances."""
    return HfFileSystem(
        endpoint=world.url, token=TOKENS[who], use_listings_cache=False, skip_instance_cache=True, expand_info=False
    )


def fill(world: World) -> str:
    """The root of a dataset repository with three files."""
    name = world.make()
    paths = ("a.txt", "sub/b.bin", "sub/deep/c.csv")
    world.api().create_commit(
        name, [CommitOperationAdd(p, p.encode() * 100) for p in paths], commit_message="Fill", repo_type="dataset"
    )
    return f"datasets/{name}"


@CHECKS.add
def a_repository_lists_like_a_folder(world: World) -> None:
    system, root = open_system(world), fill(world)
    assert system.ls(root, detail=False) == [f"{root}/.gitattributes", f"{root}/a.txt", f"{root}/sub"]
    assert set(system.find(root)) == {f"{root}/{p}" for p in (".gitattributes", "a.txt", "sub/b.bin", "sub/deep/c.csv")}
    assert system.glob(f"{root}/**/*.csv") == [f"{root}/sub/deep/c.csv"]
    assert system.isdir(f"{root}/sub") and system.isfile(f"{root}/a.txt") and not system.exists(f"{root}/missing")
    info = system.info(f"{root}/sub/b.bin")
    assert info["size"] == 900 and info["lfs"].size == 900
    with pytest.raises(FileNotFoundError):
        system.ls(f"{root}/missing")


@CHECKS.add
def files_open_for_reading_in_parts(world: World) -> None:
    system, root = open_system(world), fill(world)
    with system.open(f"{root}/sub/b.bin", "rb", block_size=100) as file:
        file.seek(450)
        assert file.read(9) == b"sub/b.bin"
    assert system.cat_file(f"{root}/sub/b.bin", start=9, end=18) == b"sub/b.bin"
    with system.open(f"{root}/a.txt", "r") as file:
        assert file.read() == "a.txt" * 100
    assert system.read_text(f"{root}@main/a.txt").startswith("a.txt")


@CHECKS.add
def files_are_written_copied_and_removed(world: World) -> None:
    system, root = open_system(world), fill(world)
    with system.open(f"{root}/new.txt", "w") as file:
        file.write("new")
    with system.open(f"{root}/new.bin", "wb") as file:
        file.write(b"n" * 50_000)
    system.cp_file(f"{root}/sub/b.bin", f"{root}/copy.bin")
    system.rm(f"{root}/a.txt")
    system.rm(f"{root}/sub/deep", recursive=True)
    names = {path.removeprefix(f"{root}/") for path in system.find(root)}
    assert names == {".gitattributes", "new.txt", "new.bin", "sub/b.bin", "copy.bin"}
    assert system.cat_file(f"{root}/copy.bin") == b"sub/b.bin" * 100
    assert system.read_text(f"{root}/new.txt") == "new"


@CHECKS.add
def revisions_are_part_of_the_path(world: World) -> None:
    system, root = open_system(world), fill(world)
    name = root.removeprefix("datasets/")
    world.api().create_tag(name, tag="v1.0.0", repo_type="dataset")
    world.api().create_pull_request(name, "a change", repo_type="dataset")
    with system.open(f"{root}@refs/pr/1/added.txt", "w") as file:
        file.write("proposed")
    assert system.read_text(f"{root}@refs/pr/1/added.txt") == "proposed"
    assert not system.exists(f"{root}/added.txt") and not system.exists(f"{root}@v1.0.0/added.txt")
    assert system.exists(f"{root}@v1.0.0/a.txt")


@CHECKS.add
def a_private_repository_is_no_folder_for_others(world: World) -> None:
    name = world.make(private=True)
    assert open_system(world, "maker").exists(f"datasets/{name}/.gitattributes")
    for who in ("guest", "nobody"):
        system = open_system(world, who)
        assert not system.exists(f"datasets/{name}/.gitattributes")
        with pytest.raises(FileNotFoundError):
            system.ls(f"datasets/{name}")
