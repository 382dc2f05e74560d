"""Downloads: resolve, metadata, ETag and Range, caches, snapshots, checksums."""

import hashlib
import io
import os
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from huggingface_hub import CommitOperationAdd, hf_hub_url
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from huggingface_hub.file_download import http_get, try_to_load_from_cache

from tests.integration.hub_local.checks.check import Checks
from tests.integration.hub_local.world import TOKENS, World

CHECKS = Checks()
SMALL, LARGE = b"a small text\n", bytes(range(256)) * 4000


def fill(world: World, **settings: object) -> str:
    """A dataset repository with a small and a large file, tagged v1.0.0."""
    name = world.make(**settings)
    operations = [CommitOperationAdd("a.txt", SMALL), CommitOperationAdd("data/b.bin", LARGE)]
    world.api().create_commit(name, operations, commit_message="Fill", repo_type="dataset")
    world.api().create_tag(name, tag="v1.0.0", repo_type="dataset")
    return name


@CHECKS.add
def a_file_is_downloaded_once(world: World) -> None:
    name, api = fill(world), world.api()
    for path, data in (("a.txt", SMALL), ("data/b.bin", LARGE)):
        first = api.hf_hub_download(name, path, repo_type="dataset", cache_dir=world.cache("maker"))
        assert Path(first).read_bytes() == data
        gets = len(world.sent("GET", "/resolve/"))
        again = api.hf_hub_download(name, path, repo_type="dataset", cache_dir=world.cache("maker"))
        assert first == again and len(world.sent("GET", "/resolve/")) == gets
    # In the cache, files are named by their ETag: git's blob id, or the sha256 of an LFS file.
    blobs = {path.name for path in world.cache("maker").glob("datasets--*/blobs/*")}
    blob = hashlib.sha1(b"blob %d\0" % len(SMALL) + SMALL).hexdigest()
    assert blobs == {blob, hashlib.sha256(LARGE).hexdigest()}


@CHECKS.add
def metadata_comes_without_the_file(world: World) -> None:
    name, api = fill(world), world.api()
    sha = api.dataset_info(name).sha
    for path, data in (("a.txt", SMALL), ("data/b.bin", LARGE)):
        found = api.get_hf_file_metadata(url=hf_hub_url(name, path, repo_type="dataset", endpoint=world.url))
        assert (found.commit_hash, found.size, found.xet_file_data) == (sha, len(data), None)
    assert found.etag == hashlib.sha256(LARGE).hexdigest()


@CHECKS.add
def a_large_file_comes_from_where_the_mode_says(world: World) -> None:
    name = fill(world)
    head = world.raw("HEAD", f"/datasets/{name}/resolve/main/data/b.bin")
    assert head.headers["x-repo-commit"] == world.api().dataset_info(name).sha
    if world.mode != "redirect":
        assert head.status_code == 200 and head.headers["content-length"] == str(len(LARGE))
        assert head.headers["accept-ranges"] == "bytes" and head.headers["etag"] == f'"{sha256(LARGE)}"'
        return
    assert head.status_code == 302
    assert head.headers["x-linked-etag"] == f'"{sha256(LARGE)}"' and head.headers["x-linked-size"] == str(len(LARGE))
    location = head.headers["location"]
    assert urlsplit(location).hostname == urlsplit(world.cdn).hostname != urlsplit(world.url).hostname
    # Whoever has the signed address reads the file, and no other by it.
    assert world.raw("GET", location, "nobody").content == LARGE
    for changed in (location[:-1] + ("0" if location[-1] != "0" else "1"), location.split("?")[0]):
        assert world.raw("GET", changed, "maker").status_code in (400, 401, 403, 404)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@CHECKS.add
def a_range_is_a_part(world: World) -> None:
    name = fill(world)
    for path, data in (("a.txt", SMALL), ("data/b.bin", LARGE)):
        url = f"/datasets/{name}/resolve/main/{path}"
        size = len(data)
        for wanted, part in (
            ("bytes=0-3", data[:4]),
            ("bytes=5-", data[5:]),
            ("bytes=-4", data[-4:]),
            (f"bytes=2-{size * 9}", data[2:]),
        ):
            answer = world.raw("GET", url, headers={"Range": wanted}, follow_redirects=True)
            assert (answer.status_code, answer.content) == (206, part), (path, wanted)
            start = size - len(part) if wanted != "bytes=0-3" else 0
            assert answer.headers["content-range"] == f"bytes {start}-{start + len(part) - 1}/{size}"
        answer = world.raw("GET", url, headers={"Range": f"bytes={size}-"}, follow_redirects=True)
        assert answer.status_code == 416 and answer.headers["content-range"] == f"bytes */{size}"
        for odd in ("bytes=9-2", "bytes=x-y", "lines=1-2", "bytes=--5", "bytes=0-1,4-5"):
            answer = world.raw("GET", url, headers={"Range": odd}, follow_redirects=True)
            assert answer.status_code in (200, 206, 400, 416), odd
            assert answer.status_code != 200 or answer.content == data


@CHECKS.add
def an_etag_that_is_known_saves_the_file(world: World) -> None:
    name = fill(world)
    for path in ("a.txt", "data/b.bin"):
        url = f"/datasets/{name}/resolve/main/{path}"
        first = world.raw("GET", url, follow_redirects=True)
        again = world.raw("GET", url, headers={"If-None-Match": first.headers["etag"]}, follow_redirects=True)
        assert again.status_code == 304 and not again.content
        other = world.raw("GET", url, headers={"If-None-Match": '"another"'}, follow_redirects=True)
        assert other.status_code == 200 and other.content == first.content


@CHECKS.add
def a_partial_download_is_resumed(world: World) -> None:
    name, file = fill(world), io.BytesIO()
    file.write(LARGE[:300_000])
    url = hf_hub_url(name, "data/b.bin", repo_type="dataset", endpoint=world.url)
    headers = {"Authorization": f"Bearer {TOKENS['maker']}"}
    http_get(url, file, resume_size=300_000, headers=headers, expected_size=len(LARGE))
    assert file.getvalue() == LARGE
    assert {r.headers["range"] for r in world.requests if "range" in r.headers} == {"bytes=300000-"}


@CHECKS.add
def a_snapshot_is_a_revision(world: World) -> None:
    name, api = fill(world), world.api()
    api.upload_file(path_or_fileobj=b"later", path_in_repo="later.txt", repo_id=name, repo_type="dataset")
    for revision in ("v1.0.0", api.dataset_info(name, revision="v1.0.0").sha):
        folder = Path(
            api.snapshot_download(name, revision=revision, repo_type="dataset", cache_dir=world.cache("maker"))
        )
        found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        assert found == {".gitattributes", "a.txt", "data/b.bin"}
        assert (folder / "data/b.bin").read_bytes() == LARGE
    newest = Path(
        api.snapshot_download(name, repo_type="dataset", cache_dir=world.cache("new"), allow_patterns="*.txt")
    )
    assert {path.name for path in newest.rglob("*") if path.is_file()} == {"a.txt", "later.txt"}


@CHECKS.add
def a_local_folder_is_filled_and_kept_up(world: World) -> None:
    name, api = fill(world), world.api()
    folder = world.folder / "here"
    api.snapshot_download(name, repo_type="dataset", local_dir=folder)
    assert (folder / "data/b.bin").read_bytes() == LARGE
    gets = len(world.sent("GET", "/resolve/"))
    api.snapshot_download(name, repo_type="dataset", local_dir=folder)
    assert len(world.sent("GET", "/resolve/")) == gets
    api.upload_file(path_or_fileobj=b"new", path_in_repo="a.txt", repo_id=name, repo_type="dataset")
    path = api.hf_hub_download(name, "a.txt", repo_type="dataset", local_dir=folder)
    assert Path(path) == folder / "a.txt" and Path(path).read_bytes() == b"new"


@CHECKS.add
def checksums_agree_until_a_file_changes(world: World) -> None:
    name, api = fill(world), world.api()
    folder = world.folder / "here"
    api.snapshot_download(name, repo_type="dataset", local_dir=folder)
    assert api.verify_repo_checksums(name, repo_type="dataset", local_dir=folder).checked_count == 3
    (folder / "a.txt").write_bytes(b"a SMALL text\n")
    (folder / "data/b.bin").write_bytes(LARGE[::-1])
    (folder / "more.txt").write_bytes(b"more")
    found = api.verify_repo_checksums(name, repo_type="dataset", local_dir=folder)
    assert sorted(mismatch["path"] for mismatch in found.mismatches) == ["a.txt", "data/b.bin"]
    assert found.extra_paths == ["more.txt"] and found.missing_paths == []


@CHECKS.add
def a_file_that_is_missing_is_remembered(world: World) -> None:
    name, api = fill(world), world.api()
    for _ in range(2):
        with pytest.raises(EntryNotFoundError) as caught:
            api.hf_hub_download(name, "missing.txt", repo_type="dataset", cache_dir=world.cache("maker"))
        assert not isinstance(caught.value, LocalEntryNotFoundError)
    sha = api.dataset_info(name).sha
    assert list(world.cache("maker").glob(f"datasets--*/.no_exist/{sha}/missing.txt"))


@CHECKS.add
def a_cached_file_is_found_offline(world: World) -> None:
    name = fill(world)
    world.api().hf_hub_download(name, "a.txt", repo_type="dataset", cache_dir=world.cache("maker"))
    found = try_to_load_from_cache(name, "a.txt", repo_type="dataset", cache_dir=world.cache("maker"))
    assert Path(str(found)).read_bytes() == SMALL
    with pytest.raises(LocalEntryNotFoundError):
        world.api().hf_hub_download(
            name, "data/b.bin", repo_type="dataset", cache_dir=world.cache("maker"), local_files_only=True
        )


@CHECKS.add
def a_dry_run_says_what_would_come(world: World) -> None:
    name, api = fill(world), world.api()
    found = api.hf_hub_download(name, "data/b.bin", repo_type="dataset", cache_dir=world.cache("maker"), dry_run=True)
    assert found.file_size == len(LARGE) and found.will_download
    plan = api.snapshot_download(name, repo_type="dataset", cache_dir=world.cache("maker"), dry_run=True)
    assert sorted(item.filename for item in plan) == [".gitattributes", "a.txt", "data/b.bin"]


@CHECKS.add
def a_private_file_needs_its_token(world: World) -> None:
    name = fill(world, private=True)
    for path, data in (("a.txt", SMALL), ("data/b.bin", LARGE)):
        for who in ("maker", "reader"):
            found = world.api(who).hf_hub_download(name, path, repo_type="dataset", cache_dir=world.cache(who))
            assert Path(found).read_bytes() == data
        for who, status in (("guest", 404), ("nobody", 401)):
            for method in ("GET", "HEAD"):
                answer = world.raw(method, f"/datasets/{name}/resolve/main/{path}", who)
                assert answer.status_code == status and answer.headers["x-error-code"] == "RepoNotFound"


@CHECKS.add
def anothers_file_is_not_had_by_its_hash(world: World) -> None:
    secret = os.urandom(70_000)
    private, mine = world.make(private=True), "guest/" + world.name().split("/")[1]
    world.api().upload_file(path_or_fileobj=secret, path_in_repo="s.bin", repo_id=private, repo_type="dataset")
    world.api("guest").create_repo(mine, repo_type="dataset")
    oid, size = sha256(secret), len(secret)
    batch = {"operation": "download", "transfers": ["basic"], "objects": [{"oid": oid, "size": size}]}
    headers = {"Accept": "application/vnd.git-lfs+json", "Content-Type": "application/vnd.git-lfs+json"}
    answer = world.raw("POST", f"/datasets/{mine}.git/info/lfs/objects/batch", "guest", json=batch, headers=headers)
    assert answer.status_code in (200, 404, 422)
    if answer.status_code == 200:
        assert all("actions" not in found for found in answer.json()["objects"])
    # A commit that names the object without having sent it does not open it either.
    line = f'{{"key":"lfsFile","value":{{"path":"s.bin","algo":"sha256","oid":"{oid}","size":{size}}}}}'
    body = f'{{"key":"header","value":{{"summary":"take"}}}}\n{line}\n'
    answer = world.raw(
        "POST",
        f"/api/datasets/{mine}/commit/main",
        "guest",
        content=body.encode(),
        headers={"Content-Type": "application/x-ndjson"},
    )
    got = world.raw("GET", f"/datasets/{mine}/resolve/main/s.bin", "guest", follow_redirects=True)
    assert got.content != secret, "a private file was had by its hash"


@CHECKS.add
def the_header_of_weights_is_read_alone(world: World) -> None:
    from safetensors.numpy import save

    name = world.make("model")
    weights = save({"layer": np.zeros((200, 300), np.float32)})
    world.api().upload_file(path_or_fileobj=weights, path_in_repo="model.safetensors", repo_id=name)
    found = world.api().get_safetensors_metadata(name)
    assert found.parameter_count == {"F32": 60_000}
    assert any("range" in request.headers for request in world.requests)


@CHECKS.add
def many_files_come_at_once(world: World) -> None:
    name = world.make()
    data = {f"{number}.bin": os.urandom(20_000) for number in range(60)}
    operations = [CommitOperationAdd(path, content) for path, content in data.items()]
    world.api().create_commit(name, operations, commit_message="Fill", repo_type="dataset")
    folder = Path(world.api().snapshot_download(name, repo_type="dataset", max_workers=8, cache_dir=world.cache("m")))
    assert {path: (folder / path).read_bytes() for path in data} == data
