"""What may be called how."""

import pytest

from hub.local.errors import Refusal
from hub.local.names import check_branch, check_name, check_oid, check_path, check_size, header_text

GOOD_PATHS = ["a", "a/b.txt", ".gitattributes", ".github/x", "a b/ü.parquet", "git/x", "x.git/y", "...", "-", "a" * 255]
BAD_PATHS = [
    "",
    "/",
    "/a",
    "a/",
    "a//b",
    ".",
    "..",
    "a/../b",
    "./a",
    "a/.",
    ".git",
    ".git/hooks/x",
    "a/.GIT/config",
    "a/.Git ",
    ".git.",
    "git~1/x",
    ".git::$INDEX_ALLOCATION/x",
    ".g\u200cit/x",
    "a\\b",
    "..\\x",
    "a\0b",
    "a\nb",
    "a\x7f",
    "\ud800",
    "a" * 256,
    "/".join("a" * 41),
    "ab/" * 400 + "c",
]


@pytest.mark.parametrize("path", GOOD_PATHS)
def test_a_plain_path_is_taken(path: str) -> None:
    assert check_path(path) == path


@pytest.mark.parametrize("path", [*BAD_PATHS, None, 3, ["a"]])
def test_a_path_that_leaves_its_place_or_is_no_text_is_refused_by_422(path: object) -> None:
    with pytest.raises(Refusal) as refused:
        check_path(path)
    assert refused.value.status == 422


def test_one_slash_at_the_end_of_a_folder_is_taken_off_and_no_more() -> None:
    assert check_path("a/b/", folder=True) == "a/b"
    for path in ("a//", "/", ""):
        with pytest.raises(Refusal):
            check_path(path, folder=True)


@pytest.mark.parametrize("name", ["a", "A-1", "data_2.0", "x" * 96])
def test_a_plain_name_is_taken(name: str) -> None:
    assert check_name(name, "name") == name


BAD_NAMES = [
    "",
    ".",
    "..",
    "-a",
    ".a",
    "_a",
    "a--b",
    "a..b",
    "a.git",
    "a.",
    "x" * 97,
    "a/b",
    "a b",
    "ä",
    "a\n",
    "a%2F",
    None,
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_is_none_is_refused(name: object) -> None:
    with pytest.raises(Refusal):
        check_name(name, "name")


@pytest.mark.parametrize("name", ["v1.0.0", "a/b", "dev-2", "None-such"])
def test_a_plain_branch_is_taken(name: str) -> None:
    assert check_branch(name) == name


BAD_BRANCHES = [
    *("", "a..b", "a b", "-a", "a~1", "a^", "a:b", "a?", "a*", "a[", "a\\b", "a@{1}", "@", "/a", "a/", "a//b"),
    *(
        ".a",
        "a/.b",
        "a.lock",
        "a.lock/b",
        "a.",
        "HEAD",
        "None",
        "refs/heads/a",
        "refs",
        "0" * 40,
        "a\nb",
        "ä",
        "x" * 251,
    ),
]


@pytest.mark.parametrize("name", [*BAD_BRANCHES, None])
def test_a_branch_that_git_refuses_or_that_reads_as_something_else_is_refused(name: object) -> None:
    with pytest.raises(Refusal):
        check_branch(name)


@pytest.mark.parametrize("oid", ["", "0" * 63, "0" * 65, "A" * 64, "../" + "0" * 61, "0" * 63 + "\n", None])
def test_an_oid_that_is_no_sha256_is_refused(oid: object) -> None:
    with pytest.raises(Refusal):
        check_oid(oid)


@pytest.mark.parametrize("size", [-1, 1.0, True, "1", None, 11])
def test_a_size_that_is_none_or_too_big_is_refused(size: object) -> None:
    with pytest.raises(Refusal):
        check_size(size, 10)


def test_a_header_never_holds_more_than_printable_ascii() -> None:
    assert header_text("a\r\nSet-Cookie: b\0ü") == "a??Set-Cookie: b??"
    assert len(header_text("x" * 5000)) == 1000
