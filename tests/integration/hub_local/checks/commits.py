"""Commits: every operation, uploads of files and folders, and what is refused."""

import base64
import hashlib
import io
import json
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    CommitScheduler,
    DatasetCard,
    metadata_update,
)
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RevisionNotFoundError

from tests.integration.hub_local.checks.check import Checks
from tests.integration.hub_local.world import TOKENS, World, status_of

CHECKS = Checks()


def read(world: World, name: str, path: str, revision: str | None = None) -> bytes:
    """A file of a dataset repository."""
    found = world.api().hf_hub_download(
        name, path, revision=revision, repo_type="dataset", cache_dir=world.folder / "read"
    )
    with open(found, "rb") as file:
        return file.read()


def commit(world: World, name: str, lines: list[dict[str, Any]], revision: str = "main", who: str = "maker") -> Any:
    """A commit as raw lines, for what the client would not send."""
    body = "\n".join(json.dumps(line) for line in lines).encode()
    headers = {"Content-Type": "application/x-ndjson"}
    return world.raw("POST", f"/api/datasets/{name}/commit/{revision}", who, content=body, headers=headers)


def header(summary: str = "a commit") -> dict[str, Any]:
    return {"key": "header", "value": {"summary": summary, "description": ""}}


def file_line(path: str, data: bytes = b"x") -> dict[str, Any]:
    content = base64.b64encode(data).decode()
    return {"key": "file", "value": {"path": path, "content": content, "encoding": "base64"}}


@CHECKS.add
def a_small_file_goes_up_and_comes_back(world: World) -> None:
    name = world.make()
    done = world.api().upload_file(
        path_or_fileobj=b"text", path_in_repo="folder/x.txt", repo_id=name, repo_type="dataset", commit_message="Add it"
    )
    assert done.commit_url == f"{world.url}/datasets/{name}/commit/{done.oid}"
    assert read(world, name, "folder/x.txt") == b"text"
    (entry,) = world.api().get_paths_info(name, "folder/x.txt", repo_type="dataset")
    assert entry.lfs is None and entry.size == 4


@CHECKS.add
def a_large_file_goes_up_by_lfs(world: World) -> None:
    name, data = world.make(), os.urandom(3_000_000)
    world.path("big.bin").write_bytes(data)
    world.api().upload_file(
        path_or_fileobj=world.path("big.bin"), path_in_repo="big.bin", repo_id=name, repo_type="dataset"
    )
    (entry,) = world.api().get_paths_info(name, "big.bin", repo_type="dataset")
    assert entry.size == entry.lfs.size == len(data) and entry.lfs.pointer_size < 200
    assert read(world, name, "big.bin") == data
    # The way it took is the mode's: Xet, or plain LFS.
    assert bool(world.sent("POST", "info/lfs/objects/batch")) == (world.mode != "xet")


@CHECKS.add
def noise_of_many_megabytes_goes_up(world: World) -> None:
    # Noise does not shrink, so hf_xet's parts of 64 MiB come full, with their headers on top.
    name, data = world.make(), os.urandom(150_000_000)
    world.api().upload_file(path_or_fileobj=data, path_in_repo="noise.bin", repo_id=name, repo_type="dataset")
    (entry,) = world.api().get_paths_info(name, "noise.bin", repo_type="dataset")
    assert (entry.size, entry.lfs.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    world.api().delete_repo(name, repo_type="dataset")


@CHECKS.add
def a_file_above_10_mib_goes_up_by_lfs_whatever_its_name(world: World) -> None:
    name, data = world.make(), b"0123456789abcdef" * (11 * 65536)
    world.api().upload_file(path_or_fileobj=data, path_in_repo="big.txt", repo_id=name, repo_type="dataset")
    (entry,) = world.api().get_paths_info(name, "big.txt", repo_type="dataset")
    assert entry.lfs is not None and entry.size == len(data)
    assert "big.txt filter=lfs" in read(world, name, ".gitattributes").decode()
    assert read(world, name, "big.txt") == data


@CHECKS.add
def files_of_every_source_go_up(world: World) -> None:
    name = world.make()
    world.path("here.txt").write_text("path")
    with world.path("here.txt").open("rb") as handle:
        operations = [
            CommitOperationAdd("path.txt", str(world.path("here.txt"))),
            CommitOperationAdd("bytes.txt", b"bytes"),
            CommitOperationAdd("handle.txt", handle),
            CommitOperationAdd("stream.bin", io.BytesIO(b"stream")),
            CommitOperationAdd("empty.txt", b""),
        ]
        world.api().create_commit(name, operations, commit_message="All", repo_type="dataset")
    contents = {path: read(world, name, path) for path in ("path.txt", "bytes.txt", "handle.txt", "stream.bin")}
    assert contents == {"path.txt": b"path", "bytes.txt": b"bytes", "handle.txt": b"path", "stream.bin": b"stream"}
    assert read(world, name, "empty.txt") == b""


@CHECKS.add
def names_with_unusual_characters_survive(world: World) -> None:
    name = world.make()
    paths = ["with space.txt", "größe/日本.txt", "a%20b.txt", "a#b?c.txt", "a+b&c=d.txt", "semi;colon.txt", "100%.txt"]
    operations = [CommitOperationAdd(path, path.encode()) for path in paths]
    world.api().create_commit(name, operations, commit_message="Names", repo_type="dataset")
    assert set(world.api().list_repo_files(name, repo_type="dataset")) == {".gitattributes", *paths}
    assert [read(world, name, path).decode() for path in paths] == paths
    assert {entry.path for entry in world.api().get_paths_info(name, paths, repo_type="dataset")} == set(paths)


@CHECKS.add
def a_folder_goes_up_by_patterns(world: World) -> None:
    name = world.make()
    for path in ("a.txt", "b.bin", "sub/c.txt", "sub/skip.log", ".git/config"):
        world.path(f"up/{path}").write_text(path)
    world.api().upload_folder(
        repo_id=name, folder_path=world.folder / "up", path_in_repo="in", ignore_patterns="*.log", repo_type="dataset"
    )
    files = world.api().list_repo_files(name, repo_type="dataset")
    assert sorted(files) == [".gitattributes", "in/a.txt", "in/b.bin", "in/sub/c.txt"]
    # What is gone from the folder goes by a pattern, in the same commit.
    world.path("up/a.txt").unlink()
    world.path("up/d.txt").write_text("new")
    world.api().upload_folder(
        repo_id=name,
        folder_path=world.folder / "up",
        path_in_repo="in",
        allow_patterns="*.txt",
        delete_patterns="*.txt",
        repo_type="dataset",
    )
    files = world.api().list_repo_files(name, repo_type="dataset")
    assert sorted(files) == [".gitattributes", "in/b.bin", "in/d.txt", "in/sub/c.txt"]


@CHECKS.add
def what_is_there_already_makes_no_commit(world: World) -> None:
    name = world.make()
    for path, data in (("a.txt", b"a"), ("b.bin", b"b" * 5000)):
        world.path(f"up/{path}").write_bytes(data)
    first = world.api().upload_folder(repo_id=name, folder_path=world.folder / "up", repo_type="dataset")
    again = world.api().upload_folder(repo_id=name, folder_path=world.folder / "up", repo_type="dataset")
    single = world.api().upload_file(path_or_fileobj=b"a", path_in_repo="a.txt", repo_id=name, repo_type="dataset")
    assert first.oid == again.oid == single.oid == world.api().dataset_info(name).sha
    assert len(world.api().list_repo_commits(name, repo_type="dataset")) == 2


@CHECKS.add
def an_ignored_file_stays_away(world: World) -> None:
    name = world.make()
    for path in (".gitignore", "keep.txt", "drop.tmp"):
        world.path(f"up/{path}").write_text("*.tmp\n")
    world.api().upload_folder(repo_id=name, folder_path=world.folder / "up", repo_type="dataset")
    assert sorted(world.api().list_repo_files(name, repo_type="dataset")) == [
        ".gitattributes",
        ".gitignore",
        "keep.txt",
    ]


@CHECKS.add
def one_commit_holds_every_operation(world: World) -> None:
    name, api = world.make(), world.api()
    start = [
        CommitOperationAdd(path, path.encode() * 300)
        for path in ("old.txt", "small.txt", "large.bin", "gone/a.txt", "gone/b/c.bin", "stays/x.txt")
    ]
    api.create_commit(name, start, commit_message="Start", repo_type="dataset")
    done = api.create_commit(
        name,
        [
            CommitOperationAdd("new.txt", b"new"),
            CommitOperationAdd("new.bin", b"new" * 1000),
            CommitOperationAdd("stays/x.txt", b"changed"),
            CommitOperationDelete("old.txt"),
            CommitOperationDelete("gone/"),
            CommitOperationCopy("large.bin", "copied/large.bin"),
            CommitOperationCopy("small.txt", "copied/small.txt"),
        ],
        commit_message="All of it",
        commit_description="In one commit.",
        repo_type="dataset",
    )
    files = [".gitattributes", "copied/large.bin", "copied/small.txt", "large.bin", "new.bin", "new.txt", "small.txt"]
    assert sorted(api.list_repo_files(name, repo_type="dataset")) == [*files, "stays/x.txt"]
    assert read(world, name, "copied/large.bin") == b"large.bin" * 300
    assert read(world, name, "copied/small.txt") == b"small.txt" * 300
    assert read(world, name, "stays/x.txt") == b"changed"
    newest = api.list_repo_commits(name, repo_type="dataset")[0]
    assert (newest.commit_id, newest.title, newest.message) == (done.oid, "All of it", "In one commit.")
    assert newest.authors == ["maker"]


@CHECKS.add
def files_and_folders_are_deleted(world: World) -> None:
    name, api = world.make(), world.api()
    paths = ("a.txt", "b.txt", "c.bin", "sub/d.txt", "sub/deep/e.txt")
    api.create_commit(
        name, [CommitOperationAdd(path, b"x") for path in paths], commit_message="Start", repo_type="dataset"
    )
    api.delete_file("a.txt", name, repo_type="dataset")
    api.delete_folder("sub", name, repo_type="dataset")
    api.delete_files(name, ["*.bin"], repo_type="dataset")
    assert api.list_repo_files(name, repo_type="dataset") == [".gitattributes", "b.txt"]
    with pytest.raises(EntryNotFoundError, match="A file with this name doesn't exist"):
        api.delete_file("a.txt", name, repo_type="dataset")
    with pytest.raises(EntryNotFoundError):
        api.delete_folder("sub", name, repo_type="dataset")


@CHECKS.add
def a_stale_parent_is_412(world: World) -> None:
    name, api = world.make(), world.api()
    parent = api.dataset_info(name).sha
    first = api.upload_file(
        path_or_fileobj=b"1", path_in_repo="x.txt", repo_id=name, repo_type="dataset", parent_commit=parent
    )
    with pytest.raises(HfHubHTTPError, match="updated since you opened this page") as caught:
        api.upload_file(
            path_or_fileobj=b"2", path_in_repo="y.txt", repo_id=name, repo_type="dataset", parent_commit=parent
        )
    assert caught.value.response.status_code == 412
    second = api.upload_file(
        path_or_fileobj=b"2", path_in_repo="y.txt", repo_id=name, repo_type="dataset", parent_commit=first.oid
    )
    assert api.dataset_info(name).sha == second.oid


@CHECKS.add
def a_card_with_bad_metadata_is_refused(world: World) -> None:
    name = world.make()
    for card in ("---\nlicense: no-such-licence\n---\n", "---\ntags: {\n---\n", "---\nlanguage: 7\n---\n"):
        with pytest.raises(ValueError, match="Invalid metadata"):
            world.api().upload_file(
                path_or_fileobj=card.encode(), path_in_repo="README.md", repo_id=name, repo_type="dataset"
            )
    # Nor does it get in without being asked about beforehand.
    answer = commit(world, name, [header(), file_line("README.md", b"---\nlicense: no-such-licence\n---\n")])
    assert answer.status_code == 400 and answer.json()["error"]
    assert world.api().list_repo_files(name, repo_type="dataset") == [".gitattributes"]


@CHECKS.add
def a_card_is_validated_pushed_and_updated(world: World) -> None:
    name, token = world.make(), TOKENS["maker"]
    card = DatasetCard("---\nlicense: mit\ntags:\n- pairs\n---\n# Pairs\n\nText.\n")
    card.validate(repo_type="dataset")
    card.push_to_hub(name, token=token, repo_type="dataset")
    metadata_update(name, {"language": "en"}, repo_type="dataset", token=token)
    loaded = DatasetCard.load(name, token=token)
    assert loaded.data.to_dict() == {"license": "mit", "tags": ["pairs"], "language": "en"}
    assert loaded.text.strip() == "# Pairs\n\nText."
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        world.api().upload_file(
            path_or_fileobj=b"no metadata", path_in_repo="README.md", repo_id=name, repo_type="dataset"
        )
    assert any("metadata" in str(warning.message) for warning in caught)


@CHECKS.add
def paths_that_lead_elsewhere_are_refused(world: World) -> None:
    name = world.make()
    bad = [
        "../x",
        "/x",
        "a/../b",
        "a//b",
        "./x",
        "a/./b",
        ".git/config",
        "a/.git/hooks/x",
        "a\\b",
        "a\0b",
        "",
        "a/",
        "..",
    ]
    for path in bad:
        answer = commit(world, name, [header(), file_line(path)])
        assert answer.status_code in (400, 422) and answer.json()["error"], path
        answer = commit(world, name, [header(), {"key": "deletedFile", "value": {"path": path}}])
        assert answer.status_code in (400, 404, 422), path
    assert world.api().list_repo_files(name, repo_type="dataset") == [".gitattributes"]
    assert len(world.api().list_repo_commits(name, repo_type="dataset")) == 1


@CHECKS.add
def commits_that_make_no_sense_are_refused(world: World) -> None:
    name = world.make()
    lfs = {"path": "x.bin", "algo": "sha256", "oid": "0" * 64, "size": 4}
    for lines in (
        [file_line("x.txt")],
        [header(), header(), file_line("x.txt")],
        [header(), {"key": "lfsFile", "value": lfs}],
        [header(), {"key": "unknown", "value": {}}],
        [header(), {"key": "file", "value": {"path": "x.txt", "content": "no base64!", "encoding": "base64"}}],
        [header(), {"key": "file", "value": {"path": "x.txt"}}],
        [header(), file_line("x.txt"), file_line("x.txt/y.txt")],
        [{"key": "header", "value": {"summary": "x", "parentCommit": "no oid"}}, file_line("x.txt")],
    ):
        answer = commit(world, name, lines)
        assert 400 <= answer.status_code < 500 and answer.json()["error"], lines
    headers = {"Content-Type": "application/x-ndjson"}
    for body in (b"", b"not json\n", b"[]\n", b'"text"\n', b"\xff\xfe\n", b"[" * 5000):
        answer = world.raw("POST", f"/api/datasets/{name}/commit/main", content=body, headers=headers)
        assert 400 <= answer.status_code < 500, body[:20]
    assert len(world.api().list_repo_commits(name, repo_type="dataset")) == 1


@CHECKS.add
def a_commit_needs_a_branch(world: World) -> None:
    name, api = world.make(), world.api()
    api.create_tag(name, tag="v1.0.0", repo_type="dataset")
    sha = api.dataset_info(name).sha
    with pytest.raises(RevisionNotFoundError):
        api.upload_file(
            path_or_fileobj=b"x", path_in_repo="x.txt", repo_id=name, repo_type="dataset", revision="missing"
        )
    for revision in ("v1.0.0", sha):
        status = status_of(
            lambda revision=revision: api.upload_file(
                path_or_fileobj=b"x", path_in_repo="x.txt", repo_id=name, repo_type="dataset", revision=revision
            )
        )
        assert 400 <= status < 500
    assert api.dataset_info(name, revision="v1.0.0").sha == api.dataset_info(name).sha == sha


@CHECKS.add
def lfs_files_can_go_up_before_their_commit(world: World) -> None:
    name, api = world.make(), world.api()
    operations = [CommitOperationAdd(f"{number}.bin", os.urandom(50_000)) for number in range(3)]
    api.preupload_lfs_files(name, operations, repo_type="dataset")
    assert len(api.list_repo_commits(name, repo_type="dataset")) == 1
    api.create_commit(name, operations, commit_message="Add them", repo_type="dataset")
    assert len(api.list_repo_files(name, repo_type="dataset")) == 4


@CHECKS.add
def the_same_content_twice_is_stored_once_and_found_twice(world: World) -> None:
    one, two, data = world.make(suffix="-one"), world.make(suffix="-two"), os.urandom(200_000)
    for name, path in ((one, "a.bin"), (one, "b.bin"), (two, "c.bin")):
        world.api().upload_file(path_or_fileobj=data, path_in_repo=path, repo_id=name, repo_type="dataset")
    assert read(world, one, "a.bin") == read(world, one, "b.bin") == read(world, two, "c.bin") == data


@CHECKS.add
def many_threads_commit_and_nothing_is_lost(world: World) -> None:
    name, api = world.make(), world.api()

    def push(number: int) -> None:
        for _ in range(50):
            try:
                api.upload_file(
                    path_or_fileobj=str(number).encode(),
                    path_in_repo=f"{number}.txt",
                    repo_id=name,
                    repo_type="dataset",
                    commit_message=f"Add {number}",
                )
                return
            except HfHubHTTPError as error:
                assert error.response.status_code in (409, 412), error
        raise AssertionError("never got through")

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(push, range(18)))
    files = world.api().list_repo_files(name, repo_type="dataset")
    assert sorted(files) == sorted([".gitattributes", *(f"{number}.txt" for number in range(18))])
    titles = [commit.title for commit in api.list_repo_commits(name, repo_type="dataset")]
    assert sorted(titles) == sorted(["initial commit", *(f"Add {number}" for number in range(18))])


@CHECKS.add
def a_future_commits_in_the_background(world: World) -> None:
    name = world.make()
    future = world.api().upload_file(
        path_or_fileobj=b"x", path_in_repo="x.txt", repo_id=name, repo_type="dataset", run_as_future=True
    )
    assert future.result(60).oid == world.api().dataset_info(name).sha


@CHECKS.add
def a_scheduler_commits_a_growing_folder(world: World) -> None:
    folder = world.folder / "watched"
    with CommitScheduler(
        repo_id=world.name(), folder_path=folder, every=10, repo_type="dataset", hf_api=world.api()
    ) as scheduler:
        with scheduler.lock:
            (folder / "log.jsonl").write_text("1\n")
        scheduler.trigger().result(60)
        with scheduler.lock, (folder / "log.jsonl").open("a") as file:
            file.write("2\n")
    assert read(world, world.name(), "log.jsonl") == b"1\n2\n"
