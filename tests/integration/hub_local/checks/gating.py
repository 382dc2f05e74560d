"""Gated repositories: what is closed, and how access is asked for and given."""

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.errors import GatedRepoError

from tests.integration.hub_local.checks.check import Checks
from tests.integration.hub_local.world import World, status_of

CHECKS = Checks()


def gate(world: World, gated: str = "manual", **settings: Any) -> str:
    """A gated dataset repository with a small and a large file."""
    name = world.make(**settings)
    for path, data in (("x.txt", b"text"), ("x.bin", b"large" * 999)):
        world.api().upload_file(path_or_fileobj=data, path_in_repo=path, repo_id=name, repo_type="dataset")
    world.api().update_repo_settings(name, gated=gated, repo_type="dataset")
    return name


def ask(world: World, name: str, who: str = "guest") -> int:
    """Ask for access as the form in the browser does; the status of the answer."""
    return int(world.raw("POST", f"/datasets/{name}/ask-access", who, data={"affiliation": "a lab"}).status_code)


def fetch(world: World, name: str, who: str, path: str = "x.bin") -> bytes:
    """A file as somebody gets it, past every cache."""
    found = world.api(who).hf_hub_download(
        name, path, repo_type="dataset", cache_dir=world.cache(f"{who}-{len(world.requests)}")
    )
    return Path(found).read_bytes()


@CHECKS.add
def a_gated_file_is_closed_and_its_description_open(world: World) -> None:
    name = gate(world)
    for who, status in (("nobody", 401), ("guest", 403)):
        api = world.api(who)
        for path in ("x.txt", "x.bin"):
            with pytest.raises(GatedRepoError) as caught:
                fetch(world, name, who, path)
            assert caught.value.response.status_code == status
            for route in ("resolve", "raw"):
                answer = world.raw("GET", f"/datasets/{name}/{route}/main/{path}", who)
                assert answer.status_code == status, route
        with pytest.raises(GatedRepoError):
            api.auth_check(name, repo_type="dataset")
        with pytest.raises(GatedRepoError):
            api.snapshot_download(name, repo_type="dataset", cache_dir=world.cache(who))
        assert api.dataset_info(name).gated == "manual" and api.repo_exists(name, repo_type="dataset")
        assert "x.bin" in api.list_repo_files(name, repo_type="dataset")
        assert api.list_repo_refs(name, repo_type="dataset").branches
        assert list(api.get_repo_discussions(name, repo_type="dataset")) == []
    assert fetch(world, name, "maker") == fetch(world, name, "reader") == b"large" * 999


@CHECKS.add
def access_is_asked_for_and_given(world: World) -> None:
    name, maker = gate(world), world.api()
    assert ask(world, name) in (200, 201, 302, 303)
    (request,) = maker.list_pending_access_requests(name, repo_type="dataset")
    assert (request.username, request.status) == ("guest", "pending")
    assert request.fields == {"affiliation": "a lab"} and request.request_id and request.timestamp
    with pytest.raises(GatedRepoError):
        fetch(world, name, "guest")
    maker.accept_access_request(name, "guest", repo_type="dataset")
    assert not list(maker.list_pending_access_requests(name, repo_type="dataset"))
    assert [one.username for one in maker.list_accepted_access_requests(name, repo_type="dataset")] == ["guest"]
    assert fetch(world, name, "guest") == b"large" * 999
    world.api("guest").auth_check(name, repo_type="dataset")


@CHECKS.add
def access_is_refused_and_taken_back(world: World) -> None:
    name, maker = gate(world), world.api()
    ask(world, name)
    maker.reject_access_request(name, "guest", repo_type="dataset", rejection_reason="not now")
    assert [one.username for one in maker.list_rejected_access_requests(name, repo_type="dataset")] == ["guest"]
    with pytest.raises(GatedRepoError):
        fetch(world, name, "guest")
    maker.accept_access_request(name, "guest", repo_type="dataset")
    assert fetch(world, name, "guest")
    maker.cancel_access_request(name, "guest", repo_type="dataset")
    assert [one.username for one in maker.list_pending_access_requests(name, repo_type="dataset")] == ["guest"]
    with pytest.raises(GatedRepoError):
        fetch(world, name, "guest")


@CHECKS.add
def access_can_be_given_unasked(world: World) -> None:
    name, maker = gate(world), world.api()
    maker.grant_access(name, "guest", repo_type="dataset")
    assert fetch(world, name, "guest") == b"large" * 999
    assert status_of(lambda: maker.grant_access(name, "guest", repo_type="dataset")) == 400
    assert status_of(lambda: maker.grant_access(name, "no-such-user", repo_type="dataset")) == 404
    assert status_of(lambda: maker.accept_access_request(name, "no-such-user", repo_type="dataset")) == 404
    assert status_of(lambda: maker.accept_access_request(name, "guest", repo_type="dataset")) == 404
    open_ = world.make(suffix="-open")
    assert status_of(lambda: maker.grant_access(open_, "guest", repo_type="dataset")) == 400
    assert status_of(lambda: list(maker.list_pending_access_requests(open_, repo_type="dataset"))) == 400


@CHECKS.add
def access_is_given_at_once_where_it_is_automatic(world: World) -> None:
    name = gate(world, "auto")
    with pytest.raises(GatedRepoError):
        fetch(world, name, "guest")
    ask(world, name)
    assert fetch(world, name, "guest") == b"large" * 999
    assert [one.username for one in world.api().list_accepted_access_requests(name, repo_type="dataset")] == ["guest"]


@CHECKS.add
def only_writers_decide_on_access(world: World) -> None:
    name = gate(world)
    ask(world, name)
    guest, nobody = world.api("guest"), world.api("nobody")
    assert status_of(lambda: list(guest.list_pending_access_requests(name, repo_type="dataset"))) == 403
    assert status_of(lambda: guest.accept_access_request(name, "guest", repo_type="dataset")) == 403
    assert status_of(lambda: guest.grant_access(name, "guest", repo_type="dataset")) == 403
    assert status_of(lambda: nobody.accept_access_request(name, "guest", repo_type="dataset")) == 401
    assert ask(world, name, "nobody") == 401
    with pytest.raises(GatedRepoError):
        fetch(world, name, "guest")


@CHECKS.add
def a_proposal_needs_access_to_what_it_changes(world: World) -> None:
    name = gate(world)

    def propose() -> Any:
        return world.api("guest").upload_file(
            path_or_fileobj=b"more", path_in_repo="more.txt", repo_id=name, repo_type="dataset", create_pr=True
        )

    assert status_of(propose) == 403
    world.api().grant_access(name, "guest", repo_type="dataset")
    assert propose().pr_num == 1
    world.api().merge_pull_request(name, 1, repo_type="dataset")
    assert world.api().file_exists(name, "more.txt", repo_type="dataset")


@CHECKS.add
def a_private_gated_repository_is_still_private(world: World) -> None:
    name = gate(world, private=True)
    assert status_of(lambda: world.api("guest").dataset_info(name)) == 404
    assert ask(world, name) == 404 and ask(world, name, "nobody") == 401
    answer = world.raw("GET", f"/datasets/{name}/resolve/main/x.bin", "guest")
    assert (answer.status_code, answer.headers["x-error-code"]) == (404, "RepoNotFound")
