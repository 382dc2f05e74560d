"""Webhooks: settings and deliveries."""

import threading
import time
from typing import Any

from huggingface_hub import WebhookPayload

from tests.integration.hub_local.checks.check import Checks
from tests.integration.hub_local.world import Received, World, listener, status_of

CHECKS = Checks()
WAIT = 20.0


def wait_for(arrived: threading.Condition, received: list[Received], wanted: Any) -> Received:
    """The first delivery for which `wanted` is true, waited for at most `WAIT` seconds."""
    with arrived:
        arrived.wait_for(lambda: any(wanted(one.payload) for one in received), WAIT)
        found = [one for one in received if wanted(one.payload)]
    assert found, [one.payload.get("event") for one in received]
    return found[0]


@CHECKS.add
def a_webhook_is_made_changed_and_deleted(world: World) -> None:
    name, api = world.make(), world.api()
    watched = [{"type": "dataset", "name": name}]
    hook = api.create_webhook(url="http://127.0.0.1:9/hook", watched=watched, domains=["repo"], secret="a secret")
    assert (hook.url, hook.domains, hook.secret, hook.disabled) == (
        "http://127.0.0.1:9/hook",
        ["repo"],
        "a secret",
        False,
    )
    assert [(item.type, item.name) for item in hook.watched] == [("dataset", name)]
    assert api.get_webhook(hook.id).id == hook.id and hook.id in [one.id for one in api.list_webhooks()]
    changed = api.update_webhook(hook.id, url="http://127.0.0.1:9/other", domains=["repo", "discussion"])
    assert changed.url == "http://127.0.0.1:9/other" and sorted(changed.domains) == ["discussion", "repo"]
    assert api.disable_webhook(hook.id).disabled and not api.enable_webhook(hook.id).disabled
    # Nobody else sees or touches it.
    guest = world.api("guest")
    assert hook.id not in [one.id for one in guest.list_webhooks()]
    for call in (lambda: guest.get_webhook(hook.id), lambda: guest.delete_webhook(hook.id)):
        assert status_of(call) in (403, 404)
    assert status_of(world.api("nobody").list_webhooks) == 401
    api.delete_webhook(hook.id)
    assert hook.id not in [one.id for one in api.list_webhooks()]
    assert status_of(lambda: api.get_webhook(hook.id)) == 404
    for url in ("file:///etc/hostname", "no url", "gopher://127.0.0.1/"):
        assert 400 <= status_of(lambda url=url: api.create_webhook(url=url, watched=watched)) < 500


@CHECKS.add
def changes_are_delivered_with_the_secret(world: World) -> None:
    name, api = world.make(), world.api()
    with listener() as (url, received, arrived):
        hook = api.create_webhook(url=url, watched=[{"type": "dataset", "name": name}], secret="a secret")
        done = api.upload_file(path_or_fileobj=b"x", path_in_repo="x.txt", repo_id=name, repo_type="dataset")
        pushed = wait_for(arrived, received, lambda p: p["event"]["scope"].startswith("repo.content"))
        assert pushed.headers["x-webhook-secret"] == "a secret"
        payload = WebhookPayload(**pushed.payload)
        assert (payload.event.action, payload.repo.name, payload.repo.type) == ("update", name, "dataset")
        assert pushed.payload["repo"]["headSha"] == done.oid and payload.webhook.version == 3
        (ref,) = pushed.payload["updatedRefs"]
        assert (ref["ref"], ref["newSha"]) == ("refs/heads/main", done.oid)
        opened = world.api("guest").create_pull_request(name, "A change", repo_type="dataset")
        told = wait_for(arrived, received, lambda p: p["event"] == {"action": "create", "scope": "discussion"})
        payload = WebhookPayload(**told.payload)
        assert (payload.discussion.num, payload.discussion.isPullRequest) == (opened.num, True)
        assert payload.discussion.status == "draft" and payload.discussion.changes.base == "refs/heads/main"
        api.comment_discussion(name, 1, "a word", repo_type="dataset")
        told = wait_for(arrived, received, lambda p: p["event"]["scope"] == "discussion.comment")
        assert told.payload["comment"]["content"] == "a word" and WebhookPayload(**told.payload).comment
        api.change_discussion_status(name, 1, "closed", repo_type="dataset")
        wait_for(arrived, received, lambda p: p.get("discussion", {}).get("status") == "closed")
        # What is disabled hears nothing; a second webhook shows when the change has been told of.
        api.disable_webhook(hook.id)
        before = len(received)
        with listener() as (other, heard, told_of):
            api.create_webhook(url=other, watched=[{"type": "user", "name": "maker"}])
            api.upload_file(path_or_fileobj=b"y", path_in_repo="y.txt", repo_id=name, repo_type="dataset")
            wait_for(told_of, heard, lambda p: p["repo"]["name"] == name)
        assert len(received) == before


@CHECKS.add
def a_dead_receiver_holds_nobody_up(world: World) -> None:
    name, api = world.make(), world.api()
    watched = [{"type": "dataset", "name": name}]
    with listener() as (url, received, arrived):
        # More than the server has threads for deliveries.
        dead = [api.create_webhook(url="http://127.0.0.1:9/dead", watched=watched).id for _ in range(8)]
        started = time.monotonic()
        for number in range(5):
            api.upload_file(path_or_fileobj=b"x", path_in_repo=f"{number}.txt", repo_id=name, repo_type="dataset")
        assert time.monotonic() - started < 15
        assert len(api.list_repo_files(name, repo_type="dataset")) == 6
        for _ in range(4):
            api.create_webhook(url=url, watched=watched)
        api.create_discussion(name, "A question", repo_type="dataset")
        with arrived:
            arrived.wait_for(lambda: len(received) >= 4, WAIT)
        for hook in dead:
            api.delete_webhook(hook)
        assert len(received) == 4, f"{len(received)} of 4 heard within {WAIT} s"


@CHECKS.add
def a_private_repository_tells_only_its_readers(world: World) -> None:
    name = world.make(private=True)
    with listener() as (url, received, _), listener() as (own, heard, arrived):
        world.api("guest").create_webhook(url=url, watched=[{"type": "user", "name": "maker"}])
        world.api().create_webhook(url=own, watched=[{"type": "dataset", "name": name}])
        world.api().upload_file(path_or_fileobj=b"x", path_in_repo="x.txt", repo_id=name, repo_type="dataset")
        wait_for(arrived, heard, lambda p: p["repo"]["name"] == name)
        assert name not in str([one.payload for one in received])
