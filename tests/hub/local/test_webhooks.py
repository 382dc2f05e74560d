"""Webhooks by the stock client: settings, payloads, and who is told of what."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import get_session

from hub.local.process import Running
from tests.hub.local.receiver import Receiver
from tests.hub.local.serving import client, status_of

KIND: Any = {"repo_type": "dataset"}
New = Callable[..., str]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture
def watch(server: Running, receiver: Receiver) -> Iterator[Callable[..., str]]:
    """Makes webhooks of a user for a repository; they are deleted after the test."""
    made: list[tuple[HfApi, str]] = []

    def make(who: str, name: str, kind: str = "dataset", **more: Any) -> str:
        api = client(server, who)
        made.append((api, api.create_webhook(url=receiver.url, watched=[{"type": kind, "name": name}], **more).id))
        return made[-1][1]

    yield make
    for api, id_ in made:
        api.delete_webhook(id_)


def _payloads(receiver: Receiver, count: int) -> list[Any]:
    return [receiver.next()[2] for _ in range(count)]


def _scopes(payloads: list[Any]) -> list[tuple[str, str]]:
    return [(payload["event"]["action"], payload["event"]["scope"]) for payload in payloads]


def test_a_webhook_is_made_read_changed_switched_and_deleted(server: Running) -> None:
    api = client(server, "author")
    watched: Any = [{"type": "dataset", "name": "team/data"}, {"type": "org", "name": "team"}]
    made = api.create_webhook(url="http://127.0.0.1:1/hook?a=b", watched=watched, domains=["repo"], secret="s3cret")
    assert (made.url, made.domains, made.secret, made.disabled) == (
        "http://127.0.0.1:1/hook?a=b",
        ["repo"],
        "s3cret",
        False,
    )
    assert [(item.type, item.name) for item in made.watched] == [("dataset", "team/data"), ("org", "team")]
    assert api.get_webhook(made.id) == made and api.list_webhooks() == [made]
    changed = api.update_webhook(made.id, url="https://example.org/", domains=["discussion"])
    assert (changed.url, changed.domains, changed.secret) == ("https://example.org/", ["discussion"], "s3cret")
    assert changed.watched == made.watched
    assert api.disable_webhook(made.id).disabled and not api.enable_webhook(made.id).disabled
    api.delete_webhook(made.id)
    assert api.list_webhooks() == []
    with pytest.raises(HfHubHTTPError) as refused:
        api.get_webhook(made.id)
    assert status_of(refused.value) == 404


def test_a_webhook_is_its_owners_alone(server: Running, watch: Callable[..., str]) -> None:
    id_ = watch("author", "team/data")
    calls: list[Callable[[HfApi], object]] = [
        lambda api: api.get_webhook(id_),
        lambda api: api.update_webhook(id_, url="http://127.0.0.1:1/"),
        lambda api: api.disable_webhook(id_),
        lambda api: api.delete_webhook(id_),
    ]
    for call in calls:
        for who, read_only, status in (("stranger", False, 404), ("author", True, 403), (None, False, 401)):
            with pytest.raises(HfHubHTTPError) as refused:
                call(client(server, who, read_only))
            assert status_of(refused.value) == status
    assert client(server, "stranger").list_webhooks() == []
    for who, read_only, status in (("author", True, 403), (None, False, 401)):
        with pytest.raises(HfHubHTTPError) as refused:
            client(server, who, read_only).list_webhooks()
        assert status_of(refused.value) == status


@pytest.mark.parametrize(
    "change",
    [
        {"url": "ftp://example.org/"},
        {"url": "file:///x"},
        {"url": "http:///x"},
        {"url": "http://user:word@example.org/"},
        {"url": "http://example.org/\r\nX-Other: 1"},
        {"url": "http://example.org/a b"},
        {"url": "http://example.org:99999/"},
        {"url": "http://example.org:0/"},
        {"url": "http://[::1/"},
        {"url": "http://ex\u00e4mple.org/"},
        {"url": "http://example.org/" + "x" * 2000},
        {"url": None},
        {"url": 7},
        {"watched": []},
        {"watched": "team/data"},
        {"watched": [{"type": "bucket", "name": "x"}]},
        {"watched": [{"type": "dataset"}]},
        {"watched": [{"type": ["dataset"], "name": "x"}]},
        {"watched": [{"type": "dataset", "name": "team/data"}] * 51},
        {"domains": []},
        {"domains": ["repo", "other"]},
        {"domains": "repo"},
        {"domains": [["repo"]]},
        {"secret": "a\r\nX-Other: 1"},
        {"secret": "\u00e4"},
        {"secret": "x" * 201},
        {"jobSourceId": "1"},
    ],
    ids=str,
)
def test_a_webhook_that_is_none_is_refused(server: Running, change: dict[str, Any]) -> None:
    body = {"url": "http://127.0.0.1:1/", "watched": [{"type": "dataset", "name": "team/data"}], **change}
    response = get_session().post(
        f"{server.url}/api/settings/webhooks", headers={"authorization": "Bearer hf_stranger_token"}, json=body
    )
    assert response.status_code == 400 and response.json()["error"]
    assert client(server, "stranger").list_webhooks() == []


def test_a_user_has_a_bounded_number_of_webhooks(server: Running, watch: Callable[..., str]) -> None:
    for _ in range(20):
        watch("reader", "team/none")
    with pytest.raises(HfHubHTTPError, match="at most 20") as refused:
        client(server, "reader").create_webhook(
            url="http://127.0.0.1:1/", watched=[{"type": "dataset", "name": "team/none"}]
        )
    assert status_of(refused.value) == 403


def test_a_pull_request_is_told_as_the_hub_documents(
    server: Running, new_repository: New, receiver: Receiver, watch: Callable[..., str]
) -> None:
    name, author, writer = new_repository(), client(server, "author"), client(server, "writer")
    id_ = watch("stranger", name, secret="s3cret")
    commit = author.create_commit(
        name, [CommitOperationAdd("pistol.txt", b"x")], commit_message="Add", create_pr=True, **KIND
    )
    path, headers, opened = receiver.next()
    assert (path, headers["X-Webhook-Secret"]) == ("/", "s3cret")
    moved = receiver.next()[2]
    user = author.whoami()["id"]
    page, api = f"{server.url}/datasets/{name}", f"{server.url}/api/datasets/{name}"
    assert opened["event"] == {"action": "create", "scope": "discussion"}
    assert opened["webhook"] == {"id": id_, "version": 3}
    repo = opened["repo"]
    assert (repo["type"], repo["name"], repo["private"]) == ("dataset", name, False)
    assert repo["url"] == {"web": page, "api": api} and set(repo["owner"]) == {"id"} and "headSha" not in repo
    discussion = opened["discussion"]
    assert discussion == {
        "id": discussion["id"],
        "title": "Add",
        "url": {"web": f"{page}/discussions/1", "api": f"{api}/discussions/1"},
        "status": "open",
        "author": {"id": user},
        "num": 1,
        "isPullRequest": True,
        "changes": {"base": "refs/heads/main"},
    }
    comment = opened["comment"]
    assert comment["author"] == {"id": user} and comment["hidden"] is False
    assert comment["url"] == {"web": f"{page}/discussions/1#{comment['id']}"}
    assert moved["event"] == {"action": "update", "scope": "repo.content"}
    assert moved["updatedRefs"] == [{"ref": "refs/pr/1", "oldSha": None, "newSha": commit.oid}]
    head = writer.repo_info(name, **KIND).sha
    assert moved["repo"]["headSha"] == head

    writer.merge_pull_request(name, 1, **KIND)
    merged, moved = _payloads(receiver, 2)
    new = writer.repo_info(name, **KIND).sha
    assert merged["event"] == {"action": "update", "scope": "discussion"} and "comment" not in merged
    assert merged["discussion"]["status"] == "merged"
    assert merged["discussion"]["changes"] == {"base": "refs/heads/main", "mergeCommitId": new}
    assert moved["updatedRefs"] == [{"ref": "refs/heads/main", "oldSha": head, "newSha": new}]


def test_the_clients_own_model_reads_every_payload(
    server: Running, new_repository: New, receiver: Receiver, watch: Callable[..., str]
) -> None:
    from huggingface_hub._webhooks_payload import WebhookPayload

    name, owner = new_repository(), client(server, "owner")
    watch("owner", "team", "org")
    owner.create_discussion(name, "A question", description="x", **KIND)
    comment = owner.comment_discussion(name, 1, comment="y", **KIND)
    owner.edit_discussion_comment(name, 1, comment.id, "z", **KIND)
    with pytest.warns(UserWarning, match="irreversible"):
        owner.hide_discussion_comment(name, 1, comment.id, **KIND)
    owner.rename_discussion(name, 1, "Another question", **KIND)
    owner.change_discussion_status(name, 1, "closed", comment="Done", **KIND)
    owner.create_commit(name, [CommitOperationAdd("a.txt", b"x")], commit_message="Add", **KIND)
    owner.create_tag(name, tag="v1.0.0", **KIND)
    owner.update_repo_settings(name, gated="auto", private=True, **KIND)
    owner.move_repo(name, f"{name}-moved", **KIND)
    owner.delete_repo(f"{name}-moved", **KIND)
    payloads = _payloads(receiver, 12)
    assert _scopes(payloads) == [
        ("create", "discussion"),
        ("create", "discussion.comment"),
        ("update", "discussion.comment"),
        ("update", "discussion.comment"),
        ("update", "discussion"),
        ("create", "discussion.comment"),
        ("update", "discussion"),
        ("update", "repo.content"),
        ("update", "repo.content"),
        ("update", "repo.config"),
        ("move", "repo"),
        ("delete", "repo"),
    ]
    read = [WebhookPayload(**payload) for payload in payloads]
    assert [payload.comment.content for payload in read if payload.comment] == ["x", "y", "z", "", "Done"]
    assert payloads[3]["comment"]["hidden"] is True
    assert payloads[8]["updatedRefs"][0]["ref"] == "refs/tags/v1.0.0"
    assert payloads[9]["updatedConfig"] == {"private": True} and payloads[9]["repo"]["private"] is True
    assert payloads[10]["repo"]["name"] == name and payloads[10]["movedTo"]["name"] == f"{name}-moved"
    assert read[11].repo.name == f"{name}-moved"


def test_domains_and_switches_are_obeyed(
    server: Running, new_repository: New, receiver: Receiver, watch: Callable[..., str]
) -> None:
    name, other, owner = new_repository(), new_repository(), client(server, "owner")
    watch("owner", name, domains=["discussion"])
    switched = watch("stranger", name)
    client(server, "stranger").disable_webhook(switched)
    owner.create_commit(name, [CommitOperationAdd("a.txt", b"x")], commit_message="Add", **KIND)
    owner.create_discussion(other, "Elsewhere", description="x", **KIND)
    owner.create_discussion(name, "A question", description="x", **KIND)
    assert receiver.next()[2]["discussion"]["title"] == "A question"
    client(server, "stranger").enable_webhook(switched)
    owner.rename_discussion(name, 1, "Another question", **KIND)
    assert {payload["webhook"]["id"] == switched for payload in _payloads(receiver, 2)} == {True, False}
    assert receiver.received.empty()


def test_nobody_is_told_of_a_repository_that_he_may_not_know(
    server: Running, new_repository: New, receiver: Receiver, watch: Callable[..., str]
) -> None:
    name, owner = new_repository(), client(server, "owner")
    watch("stranger", "team", "org")
    told = watch("reader", "team", "org")
    owner.update_repo_settings(name, private=True, **KIND)
    owner.create_discussion(name, "A question", description="x", **KIND)
    owner.create_commit(name, [CommitOperationAdd("a.txt", b"x")], commit_message="Add", **KIND)
    owner.update_repo_settings(name, private=False, **KIND)
    payloads = _payloads(receiver, 5)
    assert [p["event"]["scope"] for p in payloads if p["webhook"]["id"] == told] == [
        "repo.config",
        "discussion",
        "repo.content",
        "repo.config",
    ]
    (public,) = [p for p in payloads if p["webhook"]["id"] != told]
    assert public["event"]["scope"] == "repo.config" and public["updatedConfig"] == {"private": False}


def test_no_request_waits_for_a_receiver(server: Running, new_repository: New, watch: Callable[..., str]) -> None:
    import socket

    name, owner = new_repository(), client(server, "owner")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hook = owner.create_webhook(
            url=f"http://127.0.0.1:{silent.getsockname()[1]}/", watched=[{"type": "dataset", "name": name}]
        )
        begun = time.monotonic()
        for number in range(5):
            owner.create_discussion(name, f"Question {number}", description="x", **KIND)
        assert time.monotonic() - begun < 30, "requests waited for the receiver, 10 seconds each"
        owner.delete_webhook(hook.id)


def test_webhooks_are_there_after_a_restart(online: None, tmp_path: Any) -> None:
    from hub.local.process import start
    from tests.hub.local.serving import ORGS, USERS

    receiver = Receiver()
    with start(tmp_path / "root", users=USERS, orgs=ORGS) as server:
        client(server, "author").create_webhook(url=receiver.url, watched=[{"type": "user", "name": "author"}])
        server.kill()
    with start(tmp_path / "root") as server:
        client(server, "author").create_repo("author/data", repo_type="dataset")
        assert receiver.next()[2]["event"] == {"action": "create", "scope": "repo"}
    receiver.close()
