"""Discussions and pull requests by the stock client: every call, and who may make it."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils import get_session, httpx

from hub.local.process import Running
from tests.hub.local.serving import client, status_of

KIND: Any = {"repo_type": "dataset"}
New = Callable[..., str]


def _add(path: str, text: str = "x\n") -> CommitOperationAdd:
    return CommitOperationAdd(path, text.encode())


def _pull_request(api: HfApi, name: str, *operations: Any, title: str = "Add a pistol") -> int:
    operations = operations or (_add("pistol.txt"),)
    info = api.create_commit(name, list(operations), commit_message=title, create_pr=True, **KIND)
    assert info.pr_num is not None
    return info.pr_num


def _post(server: Running, who: str, path: str, body: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer hf_{who}_token"}
    return get_session().post(f"{server.url}/api/datasets/{path}", headers=headers, json=body)


# Discussions.


def test_a_discussion_is_opened_read_and_listed(server: Running, new_repository: New) -> None:
    name, api = new_repository(), client(server, "stranger")
    made = api.create_discussion(name, " A question ", description="What is a *skull*?", **KIND)
    assert (made.num, made.title, made.status, made.author) == (1, "A question", "open", "stranger")
    assert not made.is_pull_request and made.conflicting_files is None and made.diff is None
    (event,) = made.events
    assert event.type == "comment" and event.content == "What is a *skull*?" and not event.edited
    (listed,) = client(server, None).get_repo_discussions(name, **KIND)
    assert (listed.num, listed.repo_id, listed.repo_type) == (1, name, "dataset")
    assert made.url == f"{server.url}/datasets/{name}/discussions/1"


def test_lists_have_pages_and_filters(server: Running, new_repository: New) -> None:
    name, api, other = new_repository(), client(server, "author"), client(server, "stranger")
    for number in range(52):
        _post(server, "author", f"{name}/discussions", {"title": f"Talk {number}", "description": "x"})
    draft = other.create_pull_request(name, "A draft", **KIND).num
    api.change_discussion_status(name, 1, "closed", **KIND)

    def nums(**filters: Any) -> list[int]:
        return [d.num for d in api.get_repo_discussions(name, **filters, **KIND)]

    assert nums() == list(range(53, 0, -1))
    assert nums(discussion_type="pull_request") == [draft] == nums(author="stranger")
    assert nums(discussion_status="closed") == [1]
    assert nums(discussion_type="discussion", discussion_status="open", author="author") == list(range(52, 1, -1))


def test_comments_are_added_edited_and_hidden(server: Running, new_repository: New) -> None:
    name, api, writer = new_repository(), client(server, "author"), client(server, "writer")
    api.create_discussion(name, "A question", description="x", **KIND)
    comment = api.comment_discussion(name, 1, comment="<b>first</b>", **KIND)
    assert comment.rendered == "&lt;b&gt;first&lt;/b&gt;" and comment.author == "author"
    edited = api.edit_discussion_comment(name, 1, comment.id, "second", **KIND)
    assert edited.edited and edited.content == "second" and edited.number_of_edits == 1
    assert edited.last_edited_by == "author" and edited.last_edited_at >= edited.created_at
    with pytest.warns(UserWarning, match="irreversible"):
        hidden = writer.hide_discussion_comment(name, 1, comment.id, **KIND)
    assert hidden.hidden and hidden.content == "" and hidden.edit_history == []
    with pytest.raises(HfHubHTTPError, match="hidden comment cannot be edited"):
        api.edit_discussion_comment(name, 1, comment.id, "third", **KIND)
    assert [event.content for event in api.get_discussion_details(name, 1, **KIND).events] == ["x", ""]


def test_a_title_and_a_status_change_are_events(server: Running, new_repository: New) -> None:
    name, api = new_repository(), client(server, "author")
    api.create_discussion(name, "A question", description="x", **KIND)
    renamed = api.rename_discussion(name, 1, "Another question", **KIND)
    assert (renamed.old_title, renamed.new_title) == ("A question", "Another question")
    closed = api.change_discussion_status(name, 1, "closed", comment="Done.", **KIND)
    assert closed.new_status == "closed"
    assert api.change_discussion_status(name, 1, "open", **KIND).new_status == "open"
    found = api.get_discussion_details(name, 1, **KIND)
    types = [event.type for event in found.events]
    assert types == ["comment", "title-change", "comment", "status-change", "status-change"]
    assert (found.title, found.status) == ("Another question", "open")


@pytest.mark.parametrize(
    "title", ["ab", "  ab  ", "x" * 201, "two\nlines", "a\x00b", "a\x1b[31mb", "a\u2028b", None, 7, ["abc"]]
)
def test_a_title_that_is_none_is_refused(server: Running, new_repository: New, title: object) -> None:
    path = f"{new_repository()}/discussions"
    assert _post(server, "author", path, {"title": title, "description": "x"}).status_code == 400
    assert _post(server, "author", path, {"title": "A question", "description": "x"}).status_code == 200
    assert _post(server, "author", f"{path}/1/title", {"title": title}).status_code == 400


@pytest.mark.parametrize("text", ["", "  \n", "x" * 65_537, "\x00", None, 7, {"a": 1}])
def test_a_comment_that_is_none_is_refused(server: Running, new_repository: New, text: object) -> None:
    path = f"{new_repository()}/discussions"
    _post(server, "author", path, {"title": "A question", "description": "x"})
    assert _post(server, "author", f"{path}/1/comment", {"comment": text}).status_code == 400


@pytest.mark.parametrize("number", ["0", "-1", "01", "x", "1e3", "%F0%9F%92%A3", "9" * 30, "2", "١"])
def test_a_number_that_is_none_is_refused(server: Running, new_repository: New, number: str) -> None:
    url = f"{server.url}/api/datasets/{new_repository()}/discussions/{number}"
    assert get_session().get(url).status_code in (400, 404)


@pytest.mark.parametrize("query", ["p=-1", "p=x", "p=" + "9" * 40, "type=x", "status=merged"])
def test_a_filter_that_is_none_is_refused(server: Running, new_repository: New, query: str) -> None:
    url = f"{server.url}/api/datasets/{new_repository()}/discussions?{query}"
    assert get_session().get(url).status_code == 400


# Pull requests.


def test_a_draft_is_opened_filled_opened_and_merged(server: Running, new_repository: New) -> None:
    name, author, writer = new_repository(), client(server, "author"), client(server, "writer")
    draft = author.create_pull_request(name, "Add a pistol", description="It is a toy.", **KIND)
    assert (draft.status, draft.target_branch, draft.conflicting_files) == ("draft", "refs/heads/main", [])
    assert draft.git_reference == "refs/pr/1" and not draft.diff
    author.create_commit(name, [_add("pistol.txt")], commit_message="Draw it", revision="refs/pr/1", **KIND)
    with pytest.raises(HfHubHTTPError, match="is draft: only an open one") as refused:
        writer.merge_pull_request(name, 1, **KIND)
    assert status_of(refused.value) == 400
    assert not writer.file_exists(name, "pistol.txt", **KIND)
    author.change_discussion_status(name, 1, "open", **KIND)
    writer.merge_pull_request(name, 1, comment="Thanks.", **KIND)
    merged = author.get_discussion_details(name, 1, **KIND)
    assert merged.status == "merged" and merged.merge_commit_oid == writer.repo_info(name, **KIND).sha
    assert "+x" in str(merged.diff)
    commits = [event for event in merged.events if event.type == "commit"]
    assert [(c.summary, c.author) for c in commits] == [("Draw it", "author")]
    assert writer.file_exists(name, "pistol.txt", **KIND)
    assert author.file_exists(name, "pistol.txt", revision="refs/pr/1", **KIND)
    commit = writer.list_repo_commits(name, **KIND)[0]
    assert commit.title == "Add a pistol (#1)" and commit.authors == ["writer", "author"]


def test_a_commit_opens_a_pull_request(server: Running, new_repository: New) -> None:
    name, api = new_repository(), client(server, "stranger")
    info = api.create_commit(
        name, [_add("pistol.txt")], commit_message="Add", commit_description="It is a toy.", create_pr=True, **KIND
    )
    assert info.pr_url == f"{server.url}/datasets/{name}/discussions/1" and info.pr_revision == "refs/pr/1"
    found = api.get_discussion_details(name, 1, **KIND)
    assert (found.status, found.author, found.title) == ("open", "stranger", "Add")
    assert [event.type for event in found.events] == ["comment", "commit"]
    assert "pistol.txt" in str(found.diff) and found.events[0].content == "It is a toy."
    refs = api.list_repo_refs(name, include_pull_requests=True, **KIND)
    assert [ref.ref for ref in refs.pull_requests or []] == ["refs/pr/1"]
    assert not api.file_exists(name, "pistol.txt", **KIND)


def test_a_conflict_is_listed_and_not_merged(server: Running, new_repository: New) -> None:
    name, author, writer = new_repository(), client(server, "author"), client(server, "writer")
    writer.create_commit(name, [_add("a.txt", "1\n"), _add("b.txt")], commit_message="Start", **KIND)
    num = _pull_request(author, name, _add("a.txt", "2\n"), CommitOperationDelete("b.txt"), _add("c.txt"))
    head = writer.create_commit(name, [_add("a.txt", "3\n"), _add("b.txt", "y")], commit_message="Go on", **KIND).oid
    assert author.get_discussion_details(name, num, **KIND).conflicting_files == ["a.txt", "b.txt"]
    with pytest.raises(HfHubHTTPError, match=r"conflicts with refs/heads/main in: a.txt, b.txt") as refused:
        writer.merge_pull_request(name, num, **KIND)
    assert status_of(refused.value) == 409
    assert writer.repo_info(name, **KIND).sha == head
    assert author.get_discussion_details(name, num, **KIND).status == "open"


def test_a_merged_pull_request_is_done(server: Running, new_repository: New) -> None:
    name, author, writer = new_repository(), client(server, "author"), client(server, "writer")
    num = _pull_request(author, name)
    writer.merge_pull_request(name, num, **KIND)
    for action in (
        lambda: writer.merge_pull_request(name, num, **KIND),
        lambda: writer.change_discussion_status(name, num, "closed", **KIND),
        lambda: author.change_discussion_status(name, num, "open", **KIND),
    ):
        with pytest.raises(HfHubHTTPError, match="is merged") as refused:
            action()
        assert status_of(refused.value) == 400
    with pytest.raises(HfHubHTTPError, match="is merged: nothing can be committed") as refused:
        author.create_commit(name, [_add("b.txt")], commit_message="x", revision=f"refs/pr/{num}", **KIND)
    assert status_of(refused.value) == 403
    author.comment_discussion(name, num, comment="Thank you.", **KIND)


def test_a_draft_that_was_opened_is_never_a_draft_again(server: Running, new_repository: New) -> None:
    name, api = new_repository(), client(server, "author")
    api.create_pull_request(name, "Add a pistol", **KIND)
    api.change_discussion_status(name, 1, "closed", **KIND)
    with pytest.raises(HfHubHTTPError, match="is closed"):
        api.create_commit(name, [_add("b.txt")], commit_message="x", revision="refs/pr/1", **KIND)
    api.change_discussion_status(name, 1, "open", **KIND)
    assert api.get_discussion_details(name, 1, **KIND).status == "open"
    assert _post(server, "author", f"{name}/discussions/1/status", {"status": "draft"}).status_code == 400
    with pytest.raises(HfHubHTTPError, match="open already"):
        api.change_discussion_status(name, 1, "open", **KIND)


def test_a_discussion_cannot_be_merged(server: Running, new_repository: New) -> None:
    name, api = new_repository(), client(server, "writer")
    api.create_discussion(name, "A question", description="x", **KIND)
    with pytest.raises(HfHubHTTPError, match="not a pull request"):
        api.merge_pull_request(name, 1, **KIND)
    with pytest.raises(RevisionNotFoundError):
        api.create_commit(name, [_add("b.txt")], commit_message="x", revision="refs/pr/1", **KIND)


def test_two_merges_at_once_are_one(server: Running, new_repository: New) -> None:
    name, writer = new_repository(), client(server, "writer")
    num = _pull_request(client(server, "author"), name)
    outcomes: list[int] = []

    def merge() -> None:
        outcomes.append(_post(server, "writer", f"{name}/discussions/{num}/merge", {}).status_code)

    threads = [threading.Thread(target=merge) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [200] + [400] * 5
    titles = [commit.title for commit in writer.list_repo_commits(name, **KIND)]
    assert titles == [f"Add a pistol (#{num})", "initial commit"]


def test_pull_requests_opened_at_once_have_numbers_of_their_own(server: Running, new_repository: New) -> None:
    name = new_repository()
    nums: list[int] = []

    def open_one(number: int) -> None:
        nums.append(_pull_request(client(server, "author"), name, _add(f"{number}.txt"), title=f"Add {number}"))

    threads = [threading.Thread(target=open_one, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(nums) == list(range(1, 9))
    api = client(server, "author")
    for found in api.get_repo_discussions(name, **KIND):
        number = found.title.removeprefix("Add ")
        assert api.list_repo_files(name, revision=f"refs/pr/{found.num}", **KIND) == [".gitattributes", f"{number}.txt"]


def test_the_hf_command_does_it_all(server: Running, new_repository: New, tmp_path: Path) -> None:
    name, other = new_repository(), new_repository()
    _pull_request(client(server, "author"), other)
    comment = client(server, "author").get_discussion_details(other, 1, **KIND).events[0].id

    def hf(*arguments: str) -> str:
        environment = {**os.environ, "HF_ENDPOINT": server.url, "HF_TOKEN": "hf_writer_token", "HF_HUB_OFFLINE": "0"}
        environment["HF_HOME"] = str(tmp_path)
        command = [sys.executable, "-c", "from huggingface_hub.cli.hf import main; main()", "discussions", *arguments]
        run = subprocess.run(
            [*command, "--type", "dataset"], env=environment, capture_output=True, text=True, timeout=60
        )
        assert run.returncode == 0, run.stderr
        return run.stdout

    assert "#1" in hf("create", name, "--title", "A question", "--body", "What is it?")
    hf("comment", name, "1", "--body", "A skull.")
    hf("rename", name, "1", "Another question")
    hf("close", name, "1", "--yes")
    hf("reopen", name, "1", "--yes")
    assert "Another question" in hf("list", name) and "A skull." in hf("info", name, "1", "--format", "json")
    assert "pistol.txt" in hf("diff", other, "1")
    hf("merge", other, "1", "--yes")
    assert client(server, None).get_discussion_details(other, 1, **KIND).status == "merged"
    with pytest.raises(AssertionError, match="only its author may edit"):
        hf("edit", other, "1", comment, "--body", "y")


# Who may do what. None: it is done.

_WHO = {
    "anonymous": (None, False),
    "stranger": ("stranger", False),
    "reader": ("reader", False),
    "author": ("author", False),
    "author's read token": ("author", True),
    "writer": ("writer", False),
    "owner's read token": ("owner", True),
}
_ACTIONS: dict[str, tuple[Callable[[HfApi, str, str], object], dict[str, int]]] = {
    "read": (lambda api, name, comment: api.get_discussion_details(name, 1, **KIND), {}),
    "list": (lambda api, name, comment: list(api.get_repo_discussions(name, **KIND)), {}),
    "open a discussion": (
        lambda api, name, comment: api.create_discussion(name, "A question", description="x", **KIND),
        {"anonymous": 401},
    ),
    "open a draft": (
        lambda api, name, comment: api.create_pull_request(name, "A draft", **KIND),
        {"anonymous": 401},
    ),
    "comment": (
        lambda api, name, comment: api.comment_discussion(name, 1, comment="x", **KIND),
        {"anonymous": 401},
    ),
    "edit the author's comment": (
        lambda api, name, comment: api.edit_discussion_comment(name, 1, comment, "y", **KIND),
        {"anonymous": 401, "stranger": 403, "reader": 403, "writer": 403},
    ),
    "hide the author's comment": (
        lambda api, name, comment: _post_as(api, f"{name}/discussions/1/comment/{comment}/hide", {}),
        {"anonymous": 401, "stranger": 403, "reader": 403},
    ),
    "rename": (
        lambda api, name, comment: api.rename_discussion(name, 1, "Another title", **KIND),
        {"anonymous": 401, "stranger": 403, "reader": 403},
    ),
    "close": (
        lambda api, name, comment: api.change_discussion_status(name, 1, "closed", **KIND),
        {"anonymous": 401, "stranger": 403, "reader": 403},
    ),
    "commit": (
        lambda api, name, comment: api.create_commit(
            name, [_add("skull.txt")], commit_message="x", revision="refs/pr/1", **KIND
        ),
        {"anonymous": 401, "stranger": 403, "reader": 403},
    ),
    "merge": (
        lambda api, name, comment: api.merge_pull_request(name, 1, **KIND),
        {"anonymous": 401, "stranger": 403, "reader": 403, "author": 403},
    ),
}


def _post_as(api: HfApi, path: str, body: Any) -> None:
    headers = api._build_hf_headers()
    response = get_session().post(f"{api.endpoint}/api/datasets/{path}", headers=headers, json=body)
    response.raise_for_status()


@pytest.mark.parametrize("who", _WHO)
@pytest.mark.parametrize("action", _ACTIONS)
def test_who_may(server: Running, new_repository: New, action: str, who: str) -> None:
    name = new_repository()
    author = client(server, "author")
    _pull_request(author, name)
    (comment, _) = author.get_discussion_details(name, 1, **KIND).events
    do, refused_with = _ACTIONS[action]
    expected = dict(refused_with)
    if "anonymous" in expected:
        expected |= {"author's read token": 403, "owner's read token": 403}
    user, read_only = _WHO[who]
    try:
        do(client(server, user, read_only), name, comment.id)
        outcome = None
    except (HfHubHTTPError, httpx.HTTPStatusError) as error:
        outcome = status_of(error)
    assert outcome == expected.get(who)
    after = author.get_discussion_details(name, 1, **KIND)
    if outcome is not None:
        assert (after.status, after.title, len(after.events)) == ("open", "Add a pistol", 2)
        assert after.events[0].content == comment.content


@pytest.mark.parametrize("who", ["anonymous", "stranger"])
@pytest.mark.parametrize("action", _ACTIONS)
def test_a_private_repository_is_as_one_that_is_not_there(
    server: Running, new_repository: New, action: str, who: str
) -> None:
    name = new_repository(private=True)
    writer = client(server, "writer")
    _pull_request(writer, name)
    comment = writer.get_discussion_details(name, 1, **KIND).events[0]
    api, answers = client(server, _WHO[who][0]), []
    for asked in (name, "team/not-there"):
        with pytest.raises((RepositoryNotFoundError, httpx.HTTPStatusError)) as refused:
            _ACTIONS[action][0](api, asked, comment.id)
        response = refused.value.response
        headers = {key: value for key, value in response.headers.items() if key not in ("date", "x-request-id")}
        answers.append((response.status_code, headers, response.json()))
    assert answers[0] == answers[1] and answers[0][0] == (401 if who == "anonymous" else 404)


def test_only_who_has_access_sees_the_diff_of_a_gated_repository(server: Running, new_repository: New) -> None:
    name = new_repository(gated="manual")
    num = _pull_request(client(server, "writer"), name)
    for who, sees in ((None, False), ("stranger", False), ("reader", True), ("writer", True)):
        found = client(server, who).get_discussion_details(name, num, **KIND)
        assert (found.diff is not None) == sees
    with pytest.raises(HfHubHTTPError) as refused:
        client(server, "stranger").create_pull_request(name, "A draft", **KIND)
    assert status_of(refused.value) == 403 and refused.value.response.headers["X-Error-Code"] == "GatedRepo"
