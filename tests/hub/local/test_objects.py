"""LFS objects: what is stored is what was announced, and a checksum opens nothing. Downloads: ranges and caches."""

import hashlib
import time
from pathlib import Path
from typing import Any

import pytest

from hub.local.errors import Refusal
from hub.local.files import PIECE
from hub.local.pointers import pointer_text, read_pointer
from hub.local.signing import Signer
from tests.hub.local.in_process import Answer, Site, text_file

DATA = bytes(range(256)) * 4
OID = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    site = Site(tmp_path / "hub")
    site.make()
    site.make("team/hidden", private=True)
    site.make("team/gated", gated="manual")
    stranger = site.hub.users.get("stranger")
    assert stranger is not None
    site.hub.add("dataset", "stranger", "own", False, stranger, {})
    return site


def batch(site: Site, who: str | None, operation: str, name: str = "team/data", size: int = len(DATA)) -> Answer:
    asked = {"operation": operation, "transfers": ["basic"], "objects": [{"oid": OID, "size": size}]}
    return site.ask("POST", f"/datasets/{name}.git/info/lfs/objects/batch", who, asked)


def put(site: Site, answer: Answer, data: bytes) -> Answer:
    href = answer.json["objects"][0]["actions"]["upload"]["href"]
    return site.ask("PUT", href.removeprefix("http://hub.test"), body=data)


def store(site: Site, name: str = "team/data", who: str = "owner") -> None:
    site.upload(DATA, who, name)
    operation = ("lfsFile", {"path": "x.bin", "algo": "sha256", "oid": OID, "size": len(DATA)})
    assert site.commit([operation], who, name=name).status == 200


def leftovers(site: Site) -> list[Path]:
    return [path for folder in ("lfs", "tmp") for path in (site.hub.root / folder).rglob("*") if path.is_file()]


def test_an_upload_is_verified_and_then_known(site: Site) -> None:
    answer = batch(site, "owner", "upload")
    verify = answer.json["objects"][0]["actions"]["verify"]["href"].removeprefix("http://hub.test")
    told = {"oid": OID, "size": len(DATA)}
    assert site.ask("POST", verify, "owner", told).status == 404
    assert put(site, answer, DATA).status == 200
    assert site.ask("POST", verify, "owner", told).status == 200
    assert site.ask("POST", verify, "owner", {**told, "size": 3}).status == 404
    assert "actions" not in batch(site, "owner", "upload").json["objects"][0]
    assert leftovers(site) == [site.hub.lfs.path(OID)]


WRONG = {"too short": DATA[:-1], "too long": DATA + b"x", "other bytes": b"\1" * len(DATA), "nothing": b""}


@pytest.mark.parametrize("kind", WRONG)
def test_other_bytes_than_announced_leave_nothing_behind(site: Site, kind: str) -> None:
    answer = put(site, batch(site, "owner", "upload"), WRONG[kind])
    assert answer.status in (400, 413)
    assert leftovers(site) == []


def test_an_upload_that_breaks_off_leaves_nothing_behind(site: Site) -> None:
    def broken() -> Any:
        yield DATA[:10]
        raise ConnectionError

    with pytest.raises(ConnectionError):
        site.hub.lfs.receive(OID, len(DATA), broken())
    assert leftovers(site) == []


def test_a_signed_url_is_for_one_object_one_way_and_a_while(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    href = batch(site, "owner", "upload").json["objects"][0]["actions"]["upload"]["href"]
    target = href.removeprefix("http://hub.test")
    path, _, token = target.partition("?token=")
    text, _, mac = token.partition(".")
    other = hashlib.sha256(b"other").hexdigest()
    assert site.ask("PUT", f"/lfs/{other}?token={token}", body=b"other").status == 403
    assert site.ask("GET", target).status == 403
    forged = [f"{text}.{'0' * 64}", f"{text}x.{mac}", text, "", ".", "x.ü", f"{text}.{mac.upper()}"]
    for token in forged:
        assert site.ask("PUT", f"{path}?token={token}", body=DATA).status in (400, 403)
    assert site.ask("PUT", path, body=DATA).status == 403
    now = time.time()
    monkeypatch.setattr("hub.local.signing.time.time", lambda: now + 25 * 3600)
    assert site.ask("PUT", target, body=DATA).status == 403
    assert leftovers(site) == []


def test_another_hubs_signature_opens_nothing() -> None:
    token = Signer(b"1" * 32).sign("lfs-get", {"oid": OID}, 60)
    assert Signer(b"1" * 32).open("lfs-get", token)["oid"] == OID
    for signer, purpose in ((Signer(b"2" * 32), "lfs-get"), (Signer(b"1" * 32), "lfs-put")):
        with pytest.raises(Refusal):
            signer.open(purpose, token)


@pytest.mark.parametrize("name", ["team/hidden", "team/gated"])
def test_knowing_a_checksum_opens_nothing(site: Site, name: str) -> None:
    store(site, name)
    before = batch(site, "stranger", "upload", "stranger/own").json["objects"][0]
    assert "upload" in before["actions"], "the store's having it must not show"
    answer = batch(site, "stranger", "download", "stranger/own")
    assert answer.json["objects"][0]["error"]["code"] == 404
    lfs = [("lfsFile", {"path": "x.bin", "algo": "sha256", "oid": OID, "size": len(DATA)})]
    pointer = [text_file("x.bin", pointer_text(OID, len(DATA)).decode())]
    missing = [("lfsFile", {"path": "x.bin", "algo": "sha256", "oid": "1" * 64, "size": len(DATA)})]
    for operations in (lfs, pointer):
        refused = site.commit(operations, "stranger", name="stranger/own")
        assert refused.status == 400
        unknown = site.commit(missing, "stranger", name="stranger/own")
        assert refused.json["error"].replace(OID, "") == unknown.json["error"].replace("1" * 64, "")
    assert site.ask("GET", f"/lfs/{OID}").status == 403
    # Who has the bytes may have the object.
    assert put(site, batch(site, "stranger", "upload", "stranger/own"), DATA).status == 200
    assert site.commit(lfs, "stranger", name="stranger/own").status == 200


@pytest.mark.parametrize("name", ["team/hidden", "team/gated"])
def test_a_pointer_that_merges_made_opens_nothing(site: Site, name: str) -> None:
    store(site, name)
    pointer, own = pointer_text(OID, len(DATA)).decode(), "stranger/own"
    texts = [f"first\n{pointer}last\n", f"{pointer}last\n", f"first\n{pointer}"]
    assert site.commit([text_file("x.bin", texts[0])], "stranger", name=own).status == 200
    start = {"parentCommit": site.head(name=own)}
    for number, text in enumerate(texts[1:], 1):
        opened = site.commit([text_file("x.bin", text)], "stranger", name=own, query="?create_pr=1", header=start)
        assert opened.status == 200
        merge = f"/api/datasets/{own}/discussions/{number}/merge"
        assert site.ask("POST", merge, "stranger", {}).status == 200
    assert site.tree(name=own)["x.bin"]["lfs"]["oid"] == OID
    answer = site.ask("GET", f"/datasets/{own}/resolve/main/x.bin", "stranger")
    assert (answer.status, answer.code) == (404, "EntryNotFound")
    assert batch(site, "stranger", "download", own).json["objects"][0]["error"]["code"] == 404
    assert site.ask("GET", f"/datasets/{name}/resolve/main/x.bin", "owner").body == DATA


def test_who_can_read_an_object_need_not_upload_it_again(site: Site) -> None:
    store(site)
    assert "actions" not in batch(site, "stranger", "upload", "stranger/own").json["objects"][0]
    operation = ("lfsFile", {"path": "x.bin", "algo": "sha256", "oid": OID})
    assert site.commit([operation], "stranger", name="stranger/own").status == 200
    assert site.ask("GET", "/datasets/stranger/own/resolve/main/x.bin").body == DATA


def test_a_repositorys_end_takes_its_claims_along(site: Site) -> None:
    store(site, "team/hidden")
    gone = {"name": "hidden", "organization": "team", "type": "dataset"}
    assert site.ask("DELETE", "/api/repos/delete", "owner", gone).status == 200
    assert site.hub.lfs.holders(OID) == []
    assert "actions" in batch(site, "owner", "upload").json["objects"][0]


BAD_BATCHES: list[dict[str, Any]] = [
    {},
    {"operation": "delete", "objects": []},
    {"operation": "upload", "objects": {"oid": OID}},
    {"operation": "upload", "objects": ["x"]},
    {"operation": "upload", "objects": [{"oid": "x", "size": 1}]},
    {"operation": "upload", "objects": [{"oid": OID}]},
    {"operation": "upload", "objects": [{"oid": OID, "size": True}]},
    {"operation": "upload", "objects": [{"oid": OID, "size": 1 << 60}]},
    {"operation": "upload", "objects": [], "hash_algo": "md5"},
    {"operation": "upload", "objects": [{"oid": OID, "size": 1}] * 1001},
]


@pytest.mark.parametrize("asked", BAD_BATCHES)
def test_a_batch_that_is_none_is_refused(site: Site, asked: dict[str, Any]) -> None:
    answer = site.ask("POST", "/datasets/team/data.git/info/lfs/objects/batch", "owner", asked)
    assert 400 <= answer.status < 500


def test_an_anonymous_or_reading_token_uploads_nothing(site: Site) -> None:
    asked = {"operation": "upload", "objects": [{"oid": OID, "size": 1}]}
    target = "/datasets/team/data.git/info/lfs/objects/batch"
    assert site.ask("POST", target, None, asked).status == 401
    assert site.ask("POST", target, "owner", asked, read_only=True).status == 403


def test_a_pointer_is_read_as_git_lfs_writes_it_and_nothing_else_is() -> None:
    text = pointer_text(OID, 7)
    found = read_pointer(text)
    assert found and (found.oid, found.size, found.length) == (OID, 7, len(text))
    for other in (b"", text + b"x", b" " + text, text.replace(b"7", b"-7"), text.upper(), text + b"\n" * 2000):
        assert read_pointer(other) is None


# Downloads.

REGULAR = "0123456789" * 10


@pytest.fixture
def full(site: Site) -> Site:
    store(site)
    assert site.commit([text_file("dir/a b.txt", REGULAR), text_file("empty", "")]).status == 200
    return site


FILES = {"dir/a%20b.txt": REGULAR.encode(), "x.bin": DATA}


def get(site: Site, path: str, method: str = "GET", **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return site.ask(method, f"/datasets/team/data/resolve/main/{path}", None, headers=named)


@pytest.mark.parametrize("path", FILES)
def test_a_whole_file(full: Site, path: str) -> None:
    data, answer = FILES[path], get(full, path)
    assert (answer.status, answer.body) == (200, data)
    sha = hashlib.sha256(data) if path == "x.bin" else hashlib.sha1(f"blob {len(data)}\0".encode() + data)
    assert answer.headers["etag"] == f'"{sha.hexdigest()}"'
    assert answer.headers["content-length"] == str(len(data))
    assert answer.headers["x-repo-commit"] == full.head()
    assert answer.headers["accept-ranges"] == "bytes" and "content-encoding" not in answer.headers
    assert "sandbox" in answer.headers["content-security-policy"]
    head = get(full, path, "HEAD", range="bytes=0-3")
    kept = {name: value for name, value in answer.headers.items() if name != "x-request-id"}
    assert (head.status, head.body) == (200, b"") or head.body == data  # uvicorn drops what a HEAD would hold
    assert {name: value for name, value in head.headers.items() if name != "x-request-id"} == kept


RANGES = {
    "bytes=0-0": (206, slice(0, 1)),
    "bytes=5-9": (206, slice(5, 10)),
    "bytes=90-": (206, slice(90, None)),
    "bytes=90-99999999": (206, slice(90, None)),
    "bytes=-5": (206, slice(-5, None)),
    "bytes=-99999999": (206, slice(None)),
    "bytes=0-": (206, slice(None)),
    "bytes=9-5": (200, slice(None)),
    "bytes=": (200, slice(None)),
    "bytes=-": (200, slice(None)),
    "bytes=a-b": (200, slice(None)),
    "bytes=0-1,4-5": (200, slice(None)),
    "lines=0-1": (200, slice(None)),
    "bytes=0-" + "9" * 30: (200, slice(None)),
    "bytes=٣-٤".encode().decode("latin-1"): (200, slice(None)),
    "bytes=5000-": (416, slice(0, 0)),
    "bytes=5000-6000": (416, slice(0, 0)),
    "bytes=-0": (416, slice(0, 0)),
}


@pytest.mark.parametrize("path", FILES)
@pytest.mark.parametrize("asked", RANGES)
def test_a_range(full: Site, path: str, asked: str) -> None:
    status, part = RANGES[asked]
    data, answer = FILES[path], get(full, path, range=asked.encode().decode())
    assert answer.status == status
    if status == 416:
        assert answer.headers["content-range"] == f"bytes */{len(data)}"
        return
    assert answer.body == data[part]
    assert answer.headers["content-length"] == str(len(data[part]))
    if status == 206:
        start = part.indices(len(data))[0]
        assert answer.headers["content-range"] == f"bytes {start}-{start + len(data[part]) - 1}/{len(data)}"


def test_a_range_of_another_version_is_the_whole_file(full: Site) -> None:
    etag = get(full, "x.bin").headers["etag"]
    assert get(full, "x.bin", range="bytes=0-3", if_range=etag).body == DATA[:4]
    assert get(full, "x.bin", range="bytes=0-3", if_range='"other"').body == DATA


def test_what_the_client_has_is_not_sent_again(full: Site) -> None:
    etag = get(full, "x.bin").headers["etag"]
    for known in (etag, f'"a", W/{etag}', "*"):
        answer = get(full, "x.bin", if_none_match=known)
        assert (answer.status, answer.body, answer.headers["etag"]) == (304, b"", etag)
    assert get(full, "x.bin", if_none_match='"other"').status == 200


def test_an_empty_file_is_one(full: Site) -> None:
    assert (get(full, "empty").status, get(full, "empty").headers["content-length"]) == (200, "0")
    assert get(full, "empty", range="bytes=0-").status == 416


def test_raw_gives_the_pointer(full: Site) -> None:
    answer = full.ask("GET", "/datasets/team/data/raw/main/x.bin")
    assert answer.body == pointer_text(OID, len(DATA))


@pytest.mark.parametrize("path", ["nothing", "dir", "", "dir/", "../x", "a%00", ".git/config"])
def test_a_path_without_a_file_is_not_found_and_names_the_commit(full: Site, path: str) -> None:
    answer = get(full, path)
    if path == "a%00":
        assert answer.status == 400
        return
    assert (answer.status, answer.code) == (404, "EntryNotFound")
    assert answer.headers["x-repo-commit"] == full.head()


def test_a_large_object_comes_in_pieces_from_any_place(site: Site) -> None:
    data = bytes(range(251)) * (3 * PIECE // 251)
    oid = site.upload(data)
    site.commit([("lfsFile", {"path": "big.bin", "algo": "sha256", "oid": oid})])
    assert get(site, "big.bin").body == data
    assert get(site, "big.bin", range=f"bytes=1000-{2 * PIECE}").body == data[1000 : 2 * PIECE + 1]


def test_by_redirect_an_object_comes_from_the_other_origin_alone(tmp_path: Path) -> None:
    site = Site(tmp_path / "cdn", cdn=True)
    site.make(private=True)
    store(site)
    answer = site.ask("GET", "/datasets/team/data/resolve/main/x.bin", "owner")
    assert (answer.status, answer.body) == (302, b"")
    assert answer.headers["x-linked-etag"] == f'"{OID}"'
    assert answer.headers["x-linked-size"] == str(len(DATA))
    assert answer.headers["x-repo-commit"] == site.head()
    location = answer.headers["location"]
    assert location.startswith("http://cdn.test/lfs/")
    target = location.removeprefix("http://cdn.test")
    assert site.ask("GET", target, cdn=True).body == DATA
    part = site.ask("GET", target, headers={"range": "bytes=3-5"}, cdn=True)
    assert (part.status, part.body) == (206, DATA[3:6])
    assert site.ask("GET", target.partition("?")[0], cdn=True).status == 403
    for other in ("/api/whoami-v2", "/datasets/team/data/resolve/main/x.bin", "/api/datasets/team/data"):
        assert site.ask("GET", other, "owner", cdn=True).status == 404
    assert site.ask("GET", "/datasets/team/data/resolve/main/.gitattributes", "owner").status == 200


def test_a_gated_readme_is_readable_only_where_the_hub_says_so(site: Site) -> None:
    assert site.commit([text_file("README.md", "# x")], name="team/gated").status == 200
    readme = "/datasets/team/gated/resolve/main/README.md"
    assert (site.ask("GET", readme, "stranger").status, site.ask("GET", readme).status) == (403, 401)
    site.hub.open_readme = True
    assert site.ask("GET", readme).status == 200
    assert site.ask("GET", "/datasets/team/gated/resolve/main/.gitattributes", "stranger").code == "GatedRepo"
