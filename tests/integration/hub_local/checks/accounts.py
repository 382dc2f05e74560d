"""Who somebody is, and what a token may do."""

import functools

import pytest
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

from tests.integration.hub_local.checks.check import Checks
from tests.integration.hub_local.world import ORGANISATION, World, status_of

CHECKS = Checks()


@CHECKS.add
def whoami_names_the_user_and_its_organisations(world: World) -> None:
    who = world.api().whoami()
    assert (who["type"], who["name"]) == ("user", "maker")
    assert who["id"] and who["fullname"] and "email" in who
    assert [org["name"] for org in who["orgs"]] == [ORGANISATION]
    assert who["auth"]["accessToken"]["role"] == "write"


@CHECKS.add
def whoami_of_a_read_token_says_so(world: World) -> None:
    who = world.api("reader").whoami()
    assert (who["name"], who["auth"]["accessToken"]["role"]) == ("maker", "read")


@CHECKS.add
def a_token_that_is_unknown_is_refused_everywhere(world: World) -> None:
    name = world.make()
    forged = world.api("forged")
    with pytest.raises(HfHubHTTPError) as caught:
        forged.whoami()
    assert caught.value.response.status_code == 401
    assert status_of(lambda: forged.dataset_info(name)) == 401
    assert status_of(lambda: forged.create_repo(world.name("-other"))) == 401


@CHECKS.add
def without_a_token_there_is_no_whoami(world: World) -> None:
    answer = world.raw("GET", "/api/whoami-v2", "nobody")
    assert answer.status_code == 401 and answer.json()["error"]
    assert answer.headers["x-error-message"] and answer.headers["x-request-id"]


@CHECKS.add
def a_read_token_reads_and_does_not_write(world: World) -> None:
    name = world.make(private=True)
    reader = world.api("reader")
    assert reader.dataset_info(name).private is True
    assert status_of(lambda: reader.create_repo(world.name("-other"))) == 403
    for call in (
        lambda: reader.upload_file(path_or_fileobj=b"x", path_in_repo="x.txt", repo_id=name, repo_type="dataset"),
        lambda: reader.create_tag(name, tag="v1.0.0", repo_type="dataset"),
        lambda: reader.create_branch(name, branch="dev", repo_type="dataset"),
        lambda: reader.update_repo_settings(name, private=False, repo_type="dataset"),
        lambda: reader.create_discussion(name, "a title", repo_type="dataset"),
        lambda: reader.delete_repo(name, repo_type="dataset"),
    ):
        assert status_of(call) == 403
    assert world.api().dataset_info(name).private is True


@CHECKS.add
def nobody_writes_without_a_token(world: World) -> None:
    name = world.make()
    nobody = world.api("nobody")
    for call in (
        lambda: nobody.create_repo(world.name("-other")),
        lambda: nobody.upload_file(path_or_fileobj=b"x", path_in_repo="x.txt", repo_id=name, repo_type="dataset"),
        lambda: nobody.create_tag(name, tag="v1.0.0", repo_type="dataset"),
        lambda: nobody.create_pull_request(name, "a title", repo_type="dataset"),
        lambda: nobody.delete_repo(name, repo_type="dataset"),
    ):
        assert status_of(call) == 401


@CHECKS.add
def another_user_reads_public_things_and_writes_none(world: World) -> None:
    name = world.make()
    guest = world.api("guest")
    assert guest.dataset_info(name).id == name
    for call in (
        lambda: guest.upload_file(path_or_fileobj=b"x", path_in_repo="x.txt", repo_id=name, repo_type="dataset"),
        lambda: guest.create_tag(name, tag="v1.0.0", repo_type="dataset"),
        lambda: guest.create_branch(name, branch="dev", repo_type="dataset"),
        lambda: guest.update_repo_settings(name, gated="auto", repo_type="dataset"),
        lambda: guest.super_squash_history(name, repo_type="dataset"),
        lambda: guest.move_repo(name, "guest/taken-away", repo_type="dataset"),
        lambda: guest.delete_repo(name, repo_type="dataset"),
        lambda: guest.create_repo("maker/not-mine"),
        lambda: guest.create_repo(f"{ORGANISATION}/not-mine"),
    ):
        assert status_of(call) == 403


@CHECKS.add
def a_private_repository_is_not_there_for_others(world: World) -> None:
    name, missing = world.make(private=True), world.name("-missing")
    world.api().upload_file(path_or_fileobj=b"x", path_in_repo="x.txt", repo_id=name, repo_type="dataset")
    for who, status in (("nobody", 401), ("guest", 404)):
        api = world.api(who)
        for call in (api.dataset_info, functools.partial(api.list_repo_refs, repo_type="dataset")):
            with pytest.raises(RepositoryNotFoundError) as caught:
                call(name)
            assert caught.value.response.status_code == status
        assert not api.repo_exists(name, repo_type="dataset")
        assert name not in [found.id for found in api.list_datasets(author="maker")]
        for path in (
            "/api/datasets/{}",
            "/api/datasets/{}/refs",
            "/api/datasets/{}/tree/main",
            "/api/datasets/{}/discussions",
            "/datasets/{}/resolve/main/x.txt",
            "/datasets/{}/info/refs?service=git-upload-pack",
        ):
            there, not_there = (world.raw("GET", path.format(n), who) for n in (name, missing))
            assert there.status_code == not_there.status_code == status, path
            assert there.text.replace(name, missing) == not_there.text, path
            volatile = {"x-request-id", "date"}
            assert {k: v for k, v in there.headers.items() if k not in volatile} == {
                k: v for k, v in not_there.headers.items() if k not in volatile
            }, path
