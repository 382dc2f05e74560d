"""Commits: every operation, and everything that is refused before anything moves."""

import base64
import hashlib
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest

from hub.local import commits, names
from hub.local.attributes import MAX_ATTRIBUTES
from hub.local.pointers import pointer_text
from tests.hub.local.in_process import Site, text_file

DATA = b"\0binary" * 100
OID = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    site = Site(tmp_path / "hub")
    site.make()
    return site


def lfs_file(path: str, oid: str = OID, **more: Any) -> tuple[str, dict[str, Any]]:
    return "lfsFile", {"path": path, "algo": "sha256", "oid": oid, **more}


def test_all_operations_land_in_one_commit(site: Site) -> None:
    site.upload(DATA)
    first = [text_file("a/x.txt", "x"), text_file("a/y.txt", "y"), text_file("b/z.txt", "z"), text_file("c.txt", "c")]
    assert site.commit(first).status == 200
    encoded = base64.b64encode(b"\xff\x00").decode()
    second = [
        ("file", {"path": "new/raw", "content": encoded, "encoding": "base64"}),
        lfs_file("d.bin", size=len(DATA)),
        lfs_file("copy.bin"),
        ("deletedFile", {"path": "c.txt"}),
        ("deletedFolder", {"path": "a/"}),
        ("deletedFile", {"path": "b"}),
    ]
    before = site.head()
    answer = site.commit(second, header={"parentCommit": before, "description": "why"})
    assert answer.status == 200, answer.body
    tree = site.tree()
    assert set(tree) == {".gitattributes", "new/raw", "d.bin", "copy.bin"}
    assert tree["d.bin"]["lfs"] == {"oid": OID, "size": len(DATA), "pointerSize": len(pointer_text(OID, len(DATA)))}
    assert tree["d.bin"]["size"] == len(DATA) and tree["new/raw"]["size"] == 2
    assert answer.json["commitOid"] == site.head()
    assert answer.json["commitUrl"] == f"http://hub.test/datasets/team/data/commit/{site.head()}"
    log = site.ask("GET", "/api/datasets/team/data/commits/main").json
    assert [commit["title"] for commit in log] == ["a change", "a change", "initial commit"]
    assert (log[0]["message"], log[0]["authors"]) == ("why", [{"user": "owner"}])


def test_an_empty_commit_is_one(site: Site) -> None:
    before = site.head()
    assert site.commit([]).status == 200
    assert site.head() != before and set(site.tree()) == {".gitattributes"}


def test_later_operations_on_a_path_count(site: Site) -> None:
    site.upload(DATA)
    other = site.upload(b"other")
    done = site.commit(
        [
            lfs_file("x.bin"),
            text_file("x.bin", "text"),
            text_file("y.bin", "text"),
            lfs_file("y.bin"),
            lfs_file("z.bin"),
            lfs_file("z.bin", other),
            lfs_file("gone.bin"),
            ("deletedFile", {"path": "gone.bin"}),
        ]
    )
    assert done.status == 200, done.body
    tree = site.tree()
    assert "lfs" not in tree["x.bin"] and tree["y.bin"]["lfs"]["oid"] == OID and tree["z.bin"]["lfs"]["oid"] == other
    assert "gone.bin" not in tree


def test_a_stale_parent_is_412_with_the_hubs_message_and_changes_nothing(site: Site) -> None:
    old = site.head()
    assert site.commit([text_file("a", "1")], header={"parentCommit": old[:12]}).status == 200
    head = site.head()
    for parent in (old, "0" * 40, "1234567"):
        answer = site.commit([text_file("a", "2")], header={"parentCommit": parent})
        assert (answer.status, site.head()) == (412, head)
        assert answer.headers["x-error-message"].startswith("The branch was updated since you opened this page.")


def test_of_commits_at_once_on_one_parent_one_lands(site: Site) -> None:
    parent = site.head()

    def push(number: int) -> int:
        return site.commit([text_file(f"f{number}", "x")], header={"parentCommit": parent}).status

    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(push, range(8)))
    assert sorted(statuses) == [200] + [412] * 7
    assert len(site.tree()) == 2


def test_commits_at_once_without_a_parent_all_land(site: Site) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda n: site.commit([text_file(f"f{n}", "x")]).status, range(16))) == {200}
    assert len(site.tree()) == 17
    assert len(site.ask("GET", "/api/datasets/team/data/commits/main").json) == 17


REFUSED: dict[str, tuple[list[tuple[str, Any]], int]] = {
    "a missing file": ([("deletedFile", {"path": "nothing"})], 404),
    "a missing folder": ([("deletedFolder", {"path": "nothing/"})], 404),
    "a file below a file": ([text_file(".gitattributes/x", "x")], 400),
    "climbing out": ([text_file("../x", "x")], 422),
    "git's own folder": ([text_file("a/.git/hooks/post-commit", "x")], 422),
    "an absolute path": ([text_file("/etc/x", "x")], 422),
    "no path": ([("file", {"content": "x"})], 422),
    "the whole repository": ([("deletedFolder", {"path": "/"})], 422),
    "no content": ([("file", {"path": "x"})], 400),
    "content that is a list": ([("file", {"path": "x", "content": ["x"]})], 400),
    "an unknown encoding": ([("file", {"path": "x", "content": "x", "encoding": "rot13"})], 400),
    "broken base64": ([("file", {"path": "x", "content": "a", "encoding": "base64"})], 400),
    "base64 with other letters": ([("file", {"path": "x", "content": "YW!Jj", "encoding": "base64"})], 400),
    "an unknown key": ([("symlink", {"path": "x", "content": "/etc"})], 400),
    "a second header": ([("header", {"summary": "again"})], 400),
    "no object of a value": ([("file", "x")], 400),
    "an LFS file that was not uploaded": ([lfs_file("x.bin", "0" * 64)], 400),
    "an oid that is none": ([lfs_file("x.bin", "../../users.yaml")], 422),
    "another algorithm": ([("lfsFile", {"path": "x", "algo": "md5", "oid": OID})], 400),
    "another size": ([lfs_file("x.bin", size=3)], 400),
    "a size that is none": ([lfs_file("x.bin", size=-1)], 422),
    "a pointer to what is not there": ([text_file("x", pointer_text("0" * 64, 3).decode())], 400),
    "a pointer with another size": ([text_file("x", pointer_text(OID, 3).decode())], 400),
    "a card that is not YAML": ([text_file("README.md", "---\na: [\n---\n")], 400),
    "a card with a licence of nobody": ([text_file("README.md", "---\nlicense: nobody\n---\n")], 400),
    "half a surrogate": ([text_file("x", "\ud800")], 400),
    "too long attributes": ([text_file("a/.gitattributes", "#" * (MAX_ATTRIBUTES + 1))], 400),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_committed_is_refused_and_nothing_moves(site: Site, kind: str) -> None:
    operations, status = REFUSED[kind]
    site.upload(DATA)
    before = site.head()
    answer = site.commit([text_file("good", "x"), *operations])
    assert (answer.status, site.head()) == (status, before), answer.body
    assert answer.json["error"] == answer.headers["x-error-message"]


def test_errors_of_a_card_come_one_by_one(site: Site) -> None:
    answer = site.commit([text_file("README.md", "---\nlicense: nobody\ntags: x\n---\n")])
    assert len(answer.json["errors"]) == 2 and all(set(error) == {"message"} for error in answer.json["errors"])


BODIES: dict[str, tuple[bytes, int]] = {
    "nothing": (b"", 400),
    "no JSON": (b"{", 400),
    "no object": (b"[1]\n", 400),
    "no header": (b'{"key": "file", "value": {"path": "x", "content": "x"}}\n', 400),
    "no summary": (b'{"key": "header", "value": {}}\n', 400),
    "an empty summary": (b'{"key": "header", "value": {"summary": ""}}\n', 400),
    "two lines of summary": (b'{"key": "header", "value": {"summary": "a\\nb"}}\n', 400),
    "a long summary": (b'{"key": "header", "value": {"summary": "' + b"x" * 600 + b'"}}\n', 400),
    "a NUL": (b'{"key": "header", "value": {"summary": "a\\u0000"}}\n', 400),
    "a parent that is none": (b'{"key": "header", "value": {"summary": "a", "parentCommit": "../../x"}}\n', 400),
    "a NaN": (b'{"key": "header", "value": {"summary": "a", "n": NaN}}\n', 400),
    "a deep one": (b'{"key": "header", "value": {"summary": "a", "n": ' + b"[" * 90 + b"]" * 90 + b"}}\n", 400),
    "a bottomless one": (b"[" * 200_000 + b"\n", 400),
    "a long number": (b'{"key": "header", "value": {"summary": "a", "n": ' + b"9" * 5000 + b"}}\n", 400),
    "no UTF-8": (b'{"key": "header", "value": {"summary": "\xff"}}\n', 400),
}


@pytest.mark.parametrize("kind", BODIES)
def test_a_body_that_is_no_commit_is_refused(site: Site, kind: str) -> None:
    body, status = BODIES[kind]
    before = site.head()
    answer = site.ask("POST", "/api/datasets/team/data/commit/main", "owner", body)
    assert (answer.status, site.head()) == (status, before), answer.body


def test_lines_may_be_cut_anywhere(site: Site) -> None:
    lines = [
        {"key": "header", "value": {"summary": "s"}},
        *({"key": k, "value": v} for k, v in [text_file("x", "é" * 9)]),
    ]
    body = "\n".join(["", *(json.dumps(line, ensure_ascii=False) for line in lines), ""]).encode()
    chunks = [body[i : i + 1] for i in range(len(body))]
    assert site.ask("POST", "/api/datasets/team/data/commit/main", "owner", chunks=chunks).status == 200
    assert site.tree()["x"]["size"] == 18


def test_a_line_and_a_body_are_bounded_while_they_come(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hub.local.commits.MAX_NDJSON_LINE", 100)
    monkeypatch.setattr("hub.local.commits.MAX_COMMIT_BODY", 1000)
    header = b'{"key": "header", "value": {"summary": "s"}}\n'
    target = "/api/datasets/team/data/commit/main"
    assert site.ask("POST", target, "owner", chunks=[header, b"x" * 60, b"x" * 60]).status == 413
    assert site.ask("POST", target, "owner", chunks=[header, b"x" * 101 + b"\n" + header]).status == 413
    assert site.ask("POST", target, "owner", chunks=[b"\n" * 600, b"\n" * 600]).status == 413
    assert site.ask("POST", target, "owner", header, headers={"content-length": "1001"}).status == 413


def test_a_file_outside_lfs_is_bounded(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hub.local.commits.MAX_REGULAR", 10)
    assert site.commit([text_file("x", "1" * 10)]).status == 200
    answer = site.commit([text_file("x", "1" * 11)])
    assert answer.status == 400 and "11 bytes are more than the 10" in answer.json["error"]


def test_the_number_of_operations_is_bounded(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hub.local.commits.MAX_OPERATIONS", 2)
    assert site.commit([text_file("x", "1"), text_file("y", "1")]).status == 200
    assert site.commit([text_file("x", "1")] * 3).status == 413


def test_only_branches_and_pull_requests_take_commits(site: Site) -> None:
    head = site.head()
    assert site.ask("POST", "/api/datasets/team/data/tag/main", "owner", {"tag": "v1.0.0"}).status == 200
    for at in ("v1.0.0", head, "refs%2Ftags%2Fv1.0.0", "nothing", "refs%2Fpr%2F7", "refs%2Fpr%2F-1", "refs"):
        answer = site.commit([text_file("x", "1")], at=at)
        assert (answer.status, answer.code) == (404, "RevisionNotFound"), at
    assert site.commit([text_file("x", "1")], at="refs%2Fheads%2Fmain").status == 200


def test_who_may_not_write_may_not_commit(site: Site) -> None:
    for who, read_only, status in [("stranger", False, 403), ("reader", False, 403), ("owner", True, 403)]:
        assert site.commit([text_file("x", "1")], who, read_only=read_only).status == status
    body = b'{"key": "header", "value": {"summary": "s"}}\n'
    assert site.ask("POST", "/api/datasets/team/data/commit/main", None, body).status == 401


def test_an_lfs_file_that_no_line_covers_gets_one_in_the_same_commit(site: Site) -> None:
    site.upload(DATA)
    paths = ["x.bin", "big.csv", "data/a b.csv", "odd[1]*.csv", "#x", "ü.csv"]
    assert site.commit([lfs_file(path) for path in paths]).status == 200
    text = site.ask("GET", "/datasets/team/data/raw/main/.gitattributes").body.decode()
    assert text.startswith("*.bin filter=lfs\n") and len(text.splitlines()) == len(paths)
    files = [{"path": path, "size": 3, "sample": ""} for path in [*paths, "small.csv", "data/big.csv"]]
    plan = site.ask("POST", "/api/datasets/team/data/preupload/main", "owner", {"files": files}).json["files"]
    assert [item["uploadMode"] for item in plan] == ["lfs"] * len(paths) + ["regular"] * 2
    assert plan[0]["oid"] == OID
    # Nothing is added twice.
    assert site.commit([lfs_file(path) for path in paths]).status == 200
    assert site.ask("GET", "/datasets/team/data/raw/main/.gitattributes").body.decode() == text


def test_new_attributes_of_the_same_commit_count(site: Site) -> None:
    site.upload(DATA)
    attributes = "*.csv filter=lfs diff=lfs merge=lfs -text\n"
    assert site.commit([lfs_file("a.csv"), text_file(".gitattributes", attributes)]).status == 200
    assert site.ask("GET", "/datasets/team/data/raw/main/.gitattributes").body.decode() == attributes
    assert site.commit([("deletedFile", {"path": ".gitattributes"}), lfs_file("b.csv")]).status == 200
    assert site.ask("GET", "/datasets/team/data/raw/main/.gitattributes").body.decode().startswith("/b.csv filter=lfs")


def test_attributes_grow_to_a_bound(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hub.local.attributes.MAX_ATTRIBUTES", 200)
    site.upload(DATA)
    answer = site.commit([lfs_file(f"file-{number}.csv") for number in range(9)])
    assert answer.status == 400 and "add a pattern" in answer.json["error"]


def preupload(site: Site, files: Any, **more: Any) -> Any:
    return site.ask("POST", "/api/datasets/team/data/preupload/main", "owner", {"files": files, **more})


def test_large_files_go_to_lfs_and_known_ones_are_named(site: Site) -> None:
    site.commit([text_file("x.txt", "hello")])
    sizes = {"x.txt": 5, "big.txt": names.MAX_REGULAR + 1, "edge.txt": names.MAX_REGULAR, "y.bin": 0}
    plan = preupload(site, [{"path": path, "size": size, "sample": ""} for path, size in sizes.items()]).json["files"]
    assert [item["uploadMode"] for item in plan] == ["regular", "lfs", "regular", "lfs"]
    assert plan[0]["oid"] == hashlib.sha1(b"blob 5\0hello").hexdigest()
    assert "oid" not in plan[1] and not any(item["shouldIgnore"] for item in plan)


IGNORED = ["a.log", "tmp/x", "deep/tmp/y"]
KEPT = ["keep.log", "a.txt", "tmpx"]


@pytest.mark.parametrize("stored", [False, True])
def test_ignored_files_are_told_as_git_would(site: Site, stored: bool) -> None:
    rules = "# comment\n*.log\n!keep.log\ntmp/\n"
    if stored:
        site.commit([text_file(".gitignore", rules)])
    more = {} if stored else {"gitIgnore": rules}
    plan = preupload(site, [{"path": path, "size": 1, "sample": ""} for path in IGNORED + KEPT], **more).json["files"]
    assert [item["path"] for item in plan if item["shouldIgnore"]] == IGNORED


BAD_PREUPLOADS = [
    (None, 400),
    ("x", 400),
    (["x"], 400),
    ([{"path": "../x", "size": 1}], 422),
    ([{"path": "x"}], 422),
    ([{"path": "x", "size": -1}], 422),
    ([{"path": "x", "size": 1}] * (names.MAX_PREUPLOAD + 1), 400),
]


@pytest.mark.parametrize(("files", "status"), BAD_PREUPLOADS)
def test_a_preupload_that_is_none_is_refused(site: Site, files: Any, status: int) -> None:
    assert preupload(site, files).status == status
    assert preupload(site, [], gitIgnore=["x"]).status == 400


TAGS = [("v1.0.0", 403), ("v2", 403), ("latest", 200), ("video", 200)]


@pytest.mark.parametrize(("tag", "status"), TAGS)
def test_the_tag_of_a_version_is_never_moved_nor_deleted(site: Site, tag: str, status: int) -> None:
    base = "/api/datasets/team/data"
    assert site.ask("POST", f"{base}/tag/main", "owner", {"tag": tag, "message": "m"}).status == 200
    tagged = site.head(tag)
    site.commit([text_file("x", "1")])
    assert site.ask("POST", f"{base}/tag/main", "owner", {"tag": tag}).status == 409
    assert site.ask("DELETE", f"{base}/tag/{tag}", "owner").status == status
    if status == 403:
        # A branch of that name would be found before the tag.
        assert site.ask("POST", f"{base}/branch/{tag}", "owner", {}).status == 409
        assert site.ask("POST", f"{base}/super-squash/main", "owner", {}).status == 200
        assert site.head(tag) == tagged != site.head()


def test_branches_come_and_go_but_for_main(site: Site) -> None:
    base = "/api/datasets/team/data"
    first = site.head()
    site.commit([text_file("x", "1")])
    assert site.ask("POST", f"{base}/branch/dev%2F1", "owner", {"startingPoint": first}).status == 200
    assert site.head("dev%2F1") == first
    assert site.ask("POST", f"{base}/branch/dev%2F1", "owner", {}).status == 409
    assert site.ask("POST", f"{base}/branch/dev", "owner", {}).status == 409
    assert site.ask("POST", f"{base}/tag/main", "owner", {"tag": "dev/1"}).status == 409
    assert site.ask("POST", f"{base}/branch/other", "owner", {"startingPoint": "nothing"}).code == "RevisionNotFound"
    assert site.ask("DELETE", f"{base}/branch/main", "owner").status == 403
    assert site.ask("DELETE", f"{base}/branch/dev%2F1", "owner").status == 200
    assert site.ask("DELETE", f"{base}/branch/dev%2F1", "owner").status == 404
    assert site.ask("POST", f"{base}/branch/dev", "owner", {}).status == 200


def test_the_list_of_commits_comes_in_pages(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hub.local.revisions.COMMITS_PAGE", 2)
    for number in range(4):
        site.commit([text_file("x", str(number))])
    target, seen, pages = "/api/datasets/team/data/commits/main?expand[]=formatted", [], 0
    while target:
        answer = site.ask("GET", target)
        assert answer.headers["x-total-count"] == "5"
        seen += [commit["id"] for commit in answer.json]
        assert all("formatted" in commit for commit in answer.json)
        link = answer.headers.get("link", "")
        target, pages = link[1 : link.find(">")].removeprefix("http://hub.test"), pages + 1
    assert (len(set(seen)), pages) == (5, 3)
    for page in ("-1", "x", "1e9", "99999999"):
        assert site.ask("GET", f"/api/datasets/team/data/commits/main?p={page}").status == 400


def test_a_tree_comes_in_pages_of_one_commit(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hub.local.trees.TREE_PAGE", 3)
    paths = [f"a b/{n}.txt" for n in range(4)] + ["c.txt"]
    site.commit([text_file(path, "x") for path in paths])
    target, seen = "/api/datasets/team/data/tree/main?recursive=True&expand=False", []
    while target:
        answer = site.ask("GET", target)
        seen += [entry["path"] for entry in answer.json if entry["type"] == "file"]
        link = answer.headers.get("link", "")
        target = link[1 : link.find(">")].removeprefix("http://hub.test")
        # Who lists it sees the commit he began with.
        site.commit([text_file("later", str(len(seen)))])
    assert seen == [".gitattributes", *paths]
    for cursor in ("!", "Li4=", "YQ==", "%00"):
        assert site.ask("GET", f"/api/datasets/team/data/tree/main?cursor={cursor}").status == 400


def test_paths_info_leaves_out_what_is_not_there(site: Site) -> None:
    site.commit([text_file("a/x.txt", "x")])
    body = b"paths=a&paths=a%2Fx.txt&paths=nothing&paths=..%2Fx&paths=a&expand=True"
    found = site.ask("POST", "/api/datasets/team/data/paths-info/main", None, body).json
    assert [(entry["path"], entry["type"]) for entry in found] == [("a", "directory"), ("a/x.txt", "file")]
    assert all(entry["lastCommit"]["title"] == "a change" for entry in found)
    as_json = {"content-type": "application/json"}
    asked = {"paths": ["a"], "expand": False}
    assert len(site.ask("POST", "/api/datasets/team/data/paths-info/main", None, asked, as_json).json) == 1
    many = b"&".join(b"paths=x" for _ in range(names.MAX_PATHS_INFO + 1))
    assert site.ask("POST", "/api/datasets/team/data/paths-info/main", None, many).status == 413


def test_files_that_were_put_and_deleted_again_get_no_line_in_gitattributes(site: Site) -> None:
    site.upload(DATA)
    put = [lfs_file(path) for path in ("a/b/x.csv", "a/y.csv", "ab/z.csv", "c.csv", "d/e/f.csv")]
    gone = [("deletedFolder", {"path": "a/"}), ("deletedFile", {"path": "c.csv"}), ("deletedFile", {"path": "d/e"})]
    assert site.commit([*put, *gone, lfs_file("a/w.csv")]).status == 200
    text = site.ask("GET", "/datasets/team/data/raw/main/.gitattributes").body.decode()
    assert [line.split()[0] for line in text.splitlines() if ".csv" in line] == ["ab/z.csv", "a/w.csv"]


def test_thousands_of_deletions_beside_thousands_of_files_take_seconds(site: Site) -> None:
    changes, unused = commits.Changes(), cast(Any, None)
    began = time.monotonic()
    for number in range(15_000):
        key, value = lfs_file(f"data/new/{number}.bin")
        commits._read_operation(unused, unused, unused, changes, key, value)
    for number in range(15_000):
        commits._read_operation(unused, unused, unused, changes, "deletedFile", {"path": f"data/old/{number}.bin"})
    # A look through all files at each deletion took a minute and more.
    assert time.monotonic() - began < 20
    assert len(changes.lfs_paths) == 15_000
