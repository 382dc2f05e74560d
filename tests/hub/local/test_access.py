"""Every right of every kind of user to every kind of repository, and that a hidden one cannot be told from none."""

import re
from pathlib import Path
from typing import Any

import pytest

from hub.local import commits
from hub.local.access import Right, check
from hub.local.errors import Refusal
from hub.local.git_trees import Edit
from hub.local.hub import Repository
from hub.local.server import ENDPOINTS as ALL
from hub.local.users import User
from tests.hub.local.in_process import Site, text_file

# Who asks: the token's user and whether the token may only read. "granted" was given access to what is gated.
WHO = {
    "anonymous": (None, False),
    "stranger": ("stranger", False),
    "granted": ("author", False),
    "reader": ("reader", False),
    "writer": ("writer", False),
    "owner": ("owner", False),
    "owner, read token": ("owner", True),
}
STATES = {"public": (False, ""), "gated": (False, "manual"), "private": (True, ""), "private and gated": (True, "auto")}
YES = (200, None)
UNKNOWN, UNKNOWN_401 = (404, "RepoNotFound"), (401, "RepoNotFound")
MEMBERS = ("reader", "writer", "owner", "owner, read token")


def expected(who: str, state: str, right: Right) -> tuple[int, str | None]:
    """The error table, written as rules."""
    private, gated = STATES[state]
    if private and who not in MEMBERS:
        return UNKNOWN_401 if who == "anonymous" else UNKNOWN
    if right == "read":
        return YES
    if right == "content":
        if gated and who not in (*MEMBERS, "granted"):
            return (401 if who == "anonymous" else 403), "GatedRepo"
        return YES
    if who in ("writer", "owner"):
        return YES
    return (401 if who == "anonymous" else 403), None


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("access") / "hub")


@pytest.fixture(scope="module")
def repositories(site: Site) -> dict[str, Repository]:
    found = {}
    for number, (state, (private, gated)) in enumerate(STATES.items()):
        found[state] = site.make(f"team/data-{number}", private, gated)
        with site.hub.records.transaction() as connection:
            values = (f"{number}", found[state].id, "author", "accepted", "2026-01-01T00:00:00.000Z", "{}")
            columns = "id, repository, user, status, created, fields"
            connection.execute(f"INSERT INTO access_requests ({columns}) VALUES (?, ?, ?, ?, ?, ?)", values)
    return found


def user(site: Site, who: str) -> User | None:
    name, read_only = WHO[who]
    return site.hub.users.by_token(f"hf_{name}_{'read_only' if read_only else 'token'}") if name else None


@pytest.mark.parametrize("right", ["read", "content", "write", "admin"])
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("who", WHO)
def test_the_error_table_holds(
    site: Site, repositories: dict[str, Repository], who: str, state: str, right: Right
) -> None:
    try:
        check(site.hub, repositories[state], user(site, who), right)
        found: tuple[int, str | None] = YES
    except Refusal as refused:
        found = (refused.status, refused.code)
    assert found == expected(who, state, right)


ENDPOINTS = [
    ("GET", "/api/datasets/{}", b""),
    ("HEAD", "/api/datasets/{}", b""),
    ("GET", "/api/datasets/{}/revision/main", b""),
    ("GET", "/api/datasets/{}/tree/main", b""),
    ("GET", "/api/datasets/{}/refs", b""),
    ("GET", "/api/datasets/{}/commits/main", b""),
    ("GET", "/api/datasets/{}/discussions", b""),
    ("GET", "/api/datasets/{}/discussions/1", b""),
    ("POST", "/api/datasets/{}/discussions", b"{}"),
    ("GET", "/api/datasets/{}/auth-check", b""),
    ("GET", "/api/datasets/{}/auth-check/write", b""),
    ("GET", "/datasets/{}/resolve/main/.gitattributes", b""),
    ("GET", "/datasets/{}/raw/main/nothing", b""),
    ("GET", "/datasets/{}/resolve/nothing/x", b""),
    ("GET", "/datasets/{}.git/info/refs?service=git-upload-pack", b""),
    ("POST", "/datasets/{}.git/info/lfs/objects/batch", b'{"operation": "download", "objects": []}'),
    ("POST", "/datasets/{}.git/info/lfs/objects/batch", b"not json"),
    ("POST", "/datasets/{}.git/info/lfs/verify", b"{}"),
    ("POST", "/datasets/{}/ask-access", b""),
    ("POST", "/api/datasets/{}/paths-info/main", b"paths=x"),
    ("POST", "/api/datasets/{}/preupload/main", b"{}"),
    ("POST", "/api/datasets/{}/commit/main", b"{}"),
    ("POST", "/api/datasets/{}/commit/main?create_pr=1", b"{}"),
    ("POST", "/api/datasets/{}/commit/refs%2Fpr%2F1", b"{}"),
    ("POST", "/api/datasets/{}/branch/b", b"{}"),
    ("DELETE", "/api/datasets/{}/branch/b", b""),
    ("POST", "/api/datasets/{}/tag/main", b'{"tag": "x"}'),
    ("DELETE", "/api/datasets/{}/tag/x", b""),
    ("POST", "/api/datasets/{}/super-squash/main", b"{}"),
    ("PUT", "/api/datasets/{}/settings", b'{"gated": false}'),
    ("GET", "/api/datasets/{}/user-access-request/pending", b""),
    ("POST", "/api/datasets/{}/user-access-request/handle", b"{}"),
    ("GET", "/api/datasets/{}/xet-write-token/main", b""),
]


def _filled(pattern: str) -> str:
    """An endpoint's pattern as a target, with `{}` where the repository's name stands."""
    found = pattern.replace("{namespace}/{name}", "{}").replace("{type}", "datasets").replace("{revision}", "main")
    target = "/" + re.sub(r"\{[a-z_]+\*?\}", "1", found)
    # Any other service is refused before anybody looks for a repository.
    return target + ("?service=git-upload-pack" if target.endswith("/info/refs") else "")


# Those above with what they need to come far; and every one that there is, so that none is forgotten.
_OF_DATASETS = [e for e in ALL if "{namespace}" in e.pattern and e.fixed.get("type", "dataset") == "dataset"]
EVERY = [*ENDPOINTS, *((e.method, _filled(e.pattern), b"{}") for e in _OF_DATASETS)]


@pytest.mark.parametrize("who", [None, "stranger", "author"])
@pytest.mark.parametrize(("method", "target", "body"), EVERY)
def test_a_hidden_repository_answers_as_none_does(
    site: Site, repositories: dict[str, Repository], method: str, target: str, body: bytes, who: str | None
) -> None:
    hidden, missing = (
        site.ask(method, target.format(name), who, body) for name in (repositories["private"].full_name, "team/nothing")
    )
    assert (hidden.status, hidden.code) == (UNKNOWN if who else UNKNOWN_401)
    assert (missing.status, missing.body) == (hidden.status, hidden.body)
    own = ("x-request-id", "date")
    assert {k: v for k, v in missing.headers.items() if k not in own} == {
        k: v for k, v in hidden.headers.items() if k not in own
    }


def test_bodies_that_name_a_hidden_repository_answer_as_for_none(
    site: Site, repositories: dict[str, Repository]
) -> None:
    name = repositories["private"].name
    for method, target, body in [
        ("DELETE", "/api/repos/delete", {"name": "{}", "organization": "team", "type": "dataset"}),
        ("POST", "/api/repos/move", {"fromRepo": "team/{}", "toRepo": "stranger/x", "type": "dataset"}),
        ("POST", "/api/repos/move", {"fromRepo": "stranger/y", "toRepo": "team/{}", "type": "dataset"}),
        ("POST", "/api/repos/create", {"name": "{}", "organization": "team", "type": "dataset"}),
    ]:
        hidden, missing = (
            site.ask(method, target, "stranger", {key: value.format(n) for key, value in body.items()})
            for n in (name, "nothing")
        )
        assert hidden.status in (403, 404)
        assert (hidden.status, hidden.body) == (missing.status, missing.body)


def test_lists_leave_out_what_is_hidden(site: Site, repositories: dict[str, Repository]) -> None:
    def names(who: str | None) -> set[str]:
        return {item["id"] for item in site.ask("GET", "/api/datasets", who).json}

    private = {repository.full_name for repository in repositories.values() if repository.private}
    assert not names(None) & private and not names("stranger") & private
    assert private <= names("reader")


def test_no_card_keeps_a_list_from_being_given(tmp_path: Path) -> None:
    site = Site(tmp_path / "hub")
    site.make()
    store = site.hub.git(site.make("team/odd"))
    # Past the check of a commit: a merge of two texts can write such a card, too.
    head = store.resolve("main")
    blob = store.write_blob(b"---\nlicense: mit\nnumber: 0x" + b"f" * 4_500 + b"\n---\n")
    tree = store.edit(store.tree(head), [Edit("README.md", blob)])
    store.swap("refs/heads/main", head, store.commit(tree, [head], "owner", "a card"))
    assert {item["id"] for item in site.ask("GET", "/api/datasets").json} == {"team/odd", "team/data"}
    assert "cardData" not in site.ask("GET", "/api/datasets/team/odd").json


@pytest.mark.parametrize(("private", "gated", "status"), [(False, "", 200), (True, "", 404), (False, "manual", 403)])
@pytest.mark.parametrize("opens", [True, False])
def test_who_is_shut_out_during_a_commit_commits_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, private: bool, gated: str, status: int, opens: bool
) -> None:
    site = Site(tmp_path / "hub")
    repository = site.make()
    assert site.commit([text_file("a.txt", "a")], "stranger", query="?create_pr=1").status == 200
    read = commits.read_changes

    def read_for_long(*arguments: Any) -> commits.Changes:
        changes = read(*arguments)
        site.hub.change(repository, private, gated)
        return changes

    monkeypatch.setattr(commits, "read_changes", read_for_long)
    before = site.hub.git(repository).references("refs/")
    where = {"query": "?create_pr=1"} if opens else {"at": "refs%2Fpr%2F1"}
    assert site.commit([text_file("b.txt", "b")], "stranger", **where).status == status
    assert (site.hub.git(repository).references("refs/") != before) == (status == 200)


def test_a_list_goes_on_where_a_page_ends(tmp_path: Path) -> None:
    site = Site(tmp_path / "hub")
    names = {site.make(f"team/data-{number}").full_name for number in range(3)}
    target, found = "/api/datasets?limit=2", set()
    for count in (2, 1):
        page = site.ask("GET", target)
        assert len(page.json) == count
        found |= {item["id"] for item in page.json}
        target = page.headers.get("link", "").partition(">")[0].removeprefix("<http://hub.test")
    assert (found, target) == (names, "")


def test_settings_change_only_what_they_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(tmp_path / "hub")
    site.make()
    change = site.hub.change

    def beside_another(repository: Repository, private: bool | None = None, gated: str | None = None) -> None:
        # Another request has come in between: this one has read the record already.
        change(repository, private=True)
        change(repository, private, gated)

    monkeypatch.setattr(site.hub, "change", beside_another)
    assert site.ask("PUT", "/api/datasets/team/data/settings", "owner", {"gated": "manual"}).status == 200
    found = site.ask("GET", "/api/datasets/team/data", "owner").json
    assert (found["private"], found["gated"]) == (True, "manual")
    assert site.ask("GET", "/api/datasets/team/data").status == 401


BATCH = {"operation": "upload", "objects": []}
ODD: list[tuple[str, str, Any, int]] = [
    ("GET", "/api/datasets/team/data/discussions?p=000000000" + "9" * 30, b"", 400),
    ("GET", "/api/datasets/team/data/discussions?p=" + "0" * 5000, b"", 400),
    ("GET", "/api/datasets/team/data/revision/" + "a%2F" * 1500 + "a", b"", 404),
    ("GET", "/api/datasets/team/data/revision/" + "a" * 8000, b"", 404),
    ("POST", "/api/datasets/team/data/paths-info/main", {"paths": [".gitattributes"], "expand": []}, 200),
    ("POST", "/api/repos/create", {"name": "other", "type": ["model"]}, 400),
    ("DELETE", "/api/repos/delete", {"name": "data", "type": {"a": 1}}, 400),
    ("POST", "/datasets/team/data.git/info/lfs/objects/batch", {**BATCH, "transfers": 5}, 400),
    ("POST", "/api/validate-yaml", {"content": "---\na: !!int ''\n---\n"}, 400),
]


@pytest.mark.parametrize(("method", "target", "body", "status"), ODD)
def test_an_odd_request_is_answered_and_never_an_internal_error(
    tmp_path: Path, method: str, target: str, body: Any, status: int
) -> None:
    site = Site(tmp_path / "hub")
    site.make()
    assert site.ask(method, target, "owner", body, {"content-type": "application/json"}).status == status


def test_a_token_of_nobody_is_told_so_and_nothing_else(site: Site, repositories: dict[str, Repository]) -> None:
    for header in ("Bearer hf_nobody_token", "Bearer ", "Basic !!!", "Basic bm9ib2R5OngK", "Digest x"):
        answer = site.ask("GET", "/api/datasets/team/data-0", headers={"authorization": header})
        assert (answer.status, answer.code) == (401, None)
        assert answer.headers["x-error-message"] == "Invalid credentials in Authorization header"


def test_an_old_name_leads_to_a_moved_repository_until_another_takes_it(tmp_path: Path) -> None:
    site = Site(tmp_path / "hub")
    site.make("team/first")
    moved = {"fromRepo": "team/first", "toRepo": "team/second", "type": "dataset"}
    assert site.ask("POST", "/api/repos/move", "owner", moved).status == 200
    assert site.ask("GET", "/api/datasets/team/first").json["id"] == "team/second"
    site.make("team/third")
    taken = {"fromRepo": "team/second", "toRepo": "team/third", "type": "dataset"}
    assert site.ask("POST", "/api/repos/move", "owner", taken).status == 409
    site.make("team/first")
    assert site.ask("GET", "/api/datasets/team/first").json["id"] == "team/first"
    assert site.ask("GET", "/api/datasets/team/second").json["id"] == "team/second"
