"""LFS objects in parts, by the real client and by hand: whole and checked, or not there."""

import hashlib
import http.client
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from huggingface_hub import HfApi

from hub.local import multipart
from hub.local.hub import LocalHub
from hub.local.process import start
from tests.hub.local.in_process import Site
from tests.hub.local.test_xet import USERS, Hub

SIZE = multipart.PART_BYTES + 5000
DATA = random.Random(9).randbytes(1 << 20) * 64 + random.Random(8).randbytes(5000)
OID = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with start(tmp_path / "hub", users=USERS) as running:
        found = Hub(tmp_path / "hub", running)
        found.make("data")
        yield found


def batch(hub: Hub) -> dict[str, Any]:
    asked = {"operation": "upload", "transfers": ["basic", "multipart"], "objects": [{"oid": OID, "size": SIZE}]}
    status, said = hub.ask("POST", "/datasets/alice/data.git/info/lfs/objects/batch", "hf_alice_write", asked)
    assert status == 200
    return dict(said["objects"][0])


def put(hub: Hub, upload: dict[str, Any], number: int, data: bytes) -> tuple[int, str]:
    parts = urlsplit(upload["header"][f"{number:05d}"])
    connection = http.client.HTTPConnection(parts.netloc, timeout=60)
    connection.request("PUT", parts.path, data)
    response = connection.getresponse()
    response.read()
    connection.close()
    return response.status, response.headers.get("ETag", "")


def finish(hub: Hub, upload: dict[str, Any], etags: dict[int, str]) -> int:
    body = {"oid": OID, "parts": [{"partNumber": number, "etag": etag} for number, etag in etags.items()]}
    return hub.ask("POST", upload["href"], None, body)[0]


def test_the_client_sends_parts_and_gets_its_file_back(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    api = HfApi(endpoint=hub.running.url, token="hf_alice_write")
    (tmp_path / "big.bin").write_bytes(DATA)
    api.upload_file(
        path_or_fileobj=tmp_path / "big.bin", path_in_repo="big.bin", repo_id="alice/data", repo_type="dataset"
    )
    path = api.hf_hub_download("alice/data", "big.bin", repo_type="dataset", cache_dir=tmp_path / "cache")
    assert Path(path).read_bytes() == DATA
    assert list((hub.root / "tmp").iterdir()) == []
    assert "actions" not in batch(hub)


def test_parts_in_any_order_and_once_more_make_the_object(hub: Hub) -> None:
    upload = batch(hub)["actions"]["upload"]
    assert int(upload["header"]["chunk_size"]) == multipart.PART_BYTES and len(upload["header"]) == 3
    second = put(hub, upload, 2, DATA[multipart.PART_BYTES :])
    wrong = put(hub, upload, 1, bytes(multipart.PART_BYTES))
    assert finish(hub, upload, {1: second[1], 2: second[1]}) == 400
    first = put(hub, upload, 1, DATA[: multipart.PART_BYTES])
    assert wrong[1] != first[1] and first[0] == second[0] == 200
    assert finish(hub, upload, {1: first[1]}) == 400
    assert not hub.stored(DATA)
    assert finish(hub, upload, {1: first[1], 2: second[1]}) == 200
    assert hub.stored(DATA) and hub.claims(DATA) == 1
    assert finish(hub, upload, {1: first[1], 2: second[1]}) == 200
    assert put(hub, upload, 1, bytes(multipart.PART_BYTES))[0] == 200
    assert hub.stored(DATA)


def test_a_wrong_checksum_stores_nothing(hub: Hub) -> None:
    upload = batch(hub)["actions"]["upload"]
    first = put(hub, upload, 1, bytes(multipart.PART_BYTES))
    second = put(hub, upload, 2, DATA[multipart.PART_BYTES :])
    assert finish(hub, upload, {1: first[1], 2: second[1]}) == 400
    assert list((hub.root / "lfs").glob("??/??/*")) == []
    assert list((hub.root / "tmp").iterdir()) == []


def test_missing_short_long_and_unknown_parts_are_refused(hub: Hub) -> None:
    upload = batch(hub)["actions"]["upload"]
    assert finish(hub, upload, {}) == 400
    assert put(hub, upload, 2, DATA[multipart.PART_BYTES : -1])[0] == 400
    assert put(hub, upload, 2, DATA[multipart.PART_BYTES :] + b"x")[0] == 413
    second = put(hub, upload, 2, DATA[multipart.PART_BYTES :])
    assert finish(hub, upload, {2: second[1]}) == 400
    for number in ("0", "3", "-1", "1x", "%D9%A1", "..%2F1"):
        href = {"header": {"00001": upload["header"]["00001"][:-1] + number}}
        assert put(hub, href, 1, b"x")[0] in (404, 400)
    href = {"header": {"00001": upload["header"]["00001"].replace("lfs-parts/", "lfs-parts/x")}}
    assert put(hub, href, 1, b"x")[0] == 403
    for body in (
        [],
        {"oid": OID},
        {"oid": "0" * 64, "parts": []},
        {"oid": OID, "parts": [1]},
        {"oid": OID, "parts": [{}]},
    ):
        assert hub.ask("POST", upload["href"], None, body)[0] == 400


def test_a_server_that_was_killed_meanwhile_says_that_parts_are_missing(tmp_path: Path) -> None:
    with start(tmp_path / "hub", users=USERS) as running:
        hub = Hub(tmp_path / "hub", running)
        hub.make("data")
        upload = batch(hub)["actions"]["upload"]
        first = put(hub, upload, 1, DATA[: multipart.PART_BYTES])
        port = int(running.url.rpartition(":")[2])
        running.kill()
    with start(tmp_path / "hub", port=port) as running:
        hub = Hub(tmp_path / "hub", running)
        assert list((hub.root / "tmp").iterdir()) == []
        second = put(hub, upload, 2, DATA[multipart.PART_BYTES :])
        assert finish(hub, upload, {1: first[1], 2: second[1]}) == 400
        first = put(hub, upload, 1, DATA[: multipart.PART_BYTES])
        assert finish(hub, upload, {1: first[1], 2: second[1]}) == 200
        assert hub.stored(DATA)


def test_an_object_of_the_greatest_size_has_at_most_a_thousand_parts(tmp_path: Path) -> None:
    hub = LocalHub(tmp_path)
    repository = hub.add("dataset", "admin", "data", False, hub.users.get("admin"), {".gitattributes": b""})  # type: ignore[arg-type]
    header = multipart.upload_action(hub, repository, OID, 200 << 30)["header"]
    assert len(header) == 1001 and int(header["chunk_size"]) * 1000 >= 200 << 30
    hub.close()


def ask_for_parts(site: Site, oids: list[str], size: int) -> list[dict[str, Any]]:
    objects = [{"oid": oid, "size": size} for oid in oids]
    asked = {"operation": "upload", "transfers": ["multipart"], "objects": objects}
    answer = site.ask("POST", "/datasets/team/data.git/info/lfs/objects/batch", "owner", asked)
    assert answer.status == 200 and len(answer.body) < 10_000_000
    return [entry["actions"]["upload"] for entry in answer.json["objects"]]


def test_an_answer_holds_so_many_urls_and_the_other_files_go_in_one_request(tmp_path: Path) -> None:
    site = Site(tmp_path / "hub")
    site.make()
    uploads = ask_for_parts(site, [f"{number:064x}" for number in range(1000)], 200 << 30)
    assert sum(len(upload["header"]) for upload in uploads) <= multipart.MAX_URLS
    assert {bool(upload["header"]) for upload in uploads} == {True, False}
    assert all(upload["header"] or "/lfs/" in upload["href"] for upload in uploads)


def test_an_upload_that_nobody_completes_is_removed_when_its_time_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hub.local.lfs.PART_BYTES", 10)
    monkeypatch.setattr("hub.local.multipart.PART_BYTES", 10)
    site = Site(tmp_path / "hub")
    site.make()
    for number in range(2):
        (upload,) = ask_for_parts(site, [f"{number:064x}"], 25)
        href = upload["header"]["00001"].removeprefix("http://hub.test")
        assert site.ask("PUT", href, body=b"0123456789").status == 200
        folders = {path.name.removeprefix("parts-") for path in (site.hub.root / "tmp").glob("parts-*")}
        assert len(folders) == 1
        for name in folders:
            multipart._uploads[name].until = 0.0
