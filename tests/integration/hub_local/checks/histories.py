"""Tags, branches, refs, lists of commits, squashing."""

import itertools
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd
from huggingface_hub.errors import HfHubHTTPError, RevisionNotFoundError

from tests.integration.hub_local.checks.check import Checks
from tests.integration.hub_local.checks.commits import read
from tests.integration.hub_local.world import World, status_of

CHECKS = Checks()


def put(world: World, name: str, path: str, data: bytes, **options: object) -> str:
    """Upload a file of a dataset repository; the commit's id."""
    done = world.api().upload_file(
        path_or_fileobj=data, path_in_repo=path, repo_id=name, repo_type="dataset", **options
    )
    return str(done.oid)


@CHECKS.add
def a_tag_keeps_a_state(world: World) -> None:
    name, api = world.make(), world.api()
    put(world, name, "x.txt", b"one")
    put(world, name, "x.bin", b"one" * 999)
    first = api.dataset_info(name).sha
    api.create_tag(name, tag="v1.0.0", tag_message="The first", repo_type="dataset")
    put(world, name, "x.txt", b"two")
    put(world, name, "x.bin", b"two" * 999)
    assert read(world, name, "x.txt", "v1.0.0") == b"one" and read(world, name, "x.txt") == b"two"
    assert read(world, name, "x.bin", "v1.0.0") == b"one" * 999
    (tag,) = api.list_repo_refs(name, repo_type="dataset").tags
    assert (tag.name, tag.ref, tag.target_commit) == ("v1.0.0", "refs/tags/v1.0.0", first)
    api.create_tag(name, tag="v0.9.0", revision=first, repo_type="dataset")
    assert api.dataset_info(name, revision="v0.9.0").sha == first


@CHECKS.add
def a_version_tag_never_moves(world: World) -> None:
    name, api = world.make(), world.api()
    api.create_tag(name, tag="v1.0.0", repo_type="dataset")
    first = api.dataset_info(name).sha
    put(world, name, "x.txt", b"x")
    assert status_of(lambda: api.create_tag(name, tag="v1.0.0", repo_type="dataset")) == 409
    api.create_tag(name, tag="v1.0.0", repo_type="dataset", exist_ok=True)
    assert status_of(lambda: api.delete_tag(name, tag="v1.0.0", repo_type="dataset")) in (403, 409)
    assert api.dataset_info(name, revision="v1.0.0").sha == first


@CHECKS.add
def another_tag_can_be_taken_away(world: World) -> None:
    name, api = world.make(), world.api()
    api.create_tag(name, tag="draft", repo_type="dataset")
    api.delete_tag(name, tag="draft", repo_type="dataset")
    assert not api.list_repo_refs(name, repo_type="dataset").tags
    with pytest.raises(RevisionNotFoundError):
        api.delete_tag(name, tag="draft", repo_type="dataset")
    with pytest.raises(RevisionNotFoundError):
        api.create_tag(name, tag="v1.0.0", revision="missing", repo_type="dataset")
    for bad in ("a..b", "a b", "-x", "x.lock", "a~1", "@{x", "refs/heads/main\n", "x" * 300):
        answer = world.raw("POST", f"/api/datasets/{name}/tag/main", json={"tag": bad})
        assert answer.status_code in (400, 422), bad


@CHECKS.add
def branches_come_and_go(world: World) -> None:
    name, api = world.make(), world.api()
    first = api.dataset_info(name).sha
    put(world, name, "x.txt", b"x")
    api.create_branch(name, branch="dev", repo_type="dataset")
    api.create_branch(name, branch="old/start", revision=first, repo_type="dataset")
    branches = {b.name: b for b in api.list_repo_refs(name, repo_type="dataset").branches}
    assert set(branches) == {"main", "dev", "old/start"}
    assert branches["old/start"].target_commit == first and branches["dev"].ref == "refs/heads/dev"
    with pytest.raises(HfHubHTTPError, match="already exists") as caught:
        api.create_branch(name, branch="dev", repo_type="dataset")
    assert caught.value.response.status_code == 409
    api.create_branch(name, branch="dev", repo_type="dataset", exist_ok=True)
    put(world, name, "dev.txt", b"dev", revision="old/start")
    assert sorted(api.list_repo_files(name, revision="old/start", repo_type="dataset")) == [".gitattributes", "dev.txt"]
    assert not api.file_exists(name, "dev.txt", repo_type="dataset")
    assert read(world, name, "dev.txt", "old/start") == b"dev"
    api.delete_branch(name, branch="dev", repo_type="dataset")
    assert not api.revision_exists(name, "dev", repo_type="dataset")
    assert status_of(lambda: api.delete_branch(name, branch="main", repo_type="dataset")) == 403
    assert 400 <= status_of(lambda: api.delete_branch(name, branch="dev", repo_type="dataset")) < 500
    assert status_of(lambda: api.create_branch(name, branch="x", revision="missing", repo_type="dataset")) == 404


@CHECKS.add
def refs_list_pull_requests_when_asked(world: World) -> None:
    name, api = world.make(), world.api()
    api.create_pull_request(name, "a change", repo_type="dataset")
    assert api.list_repo_refs(name, repo_type="dataset").pull_requests is None
    refs = api.list_repo_refs(name, repo_type="dataset", include_pull_requests=True)
    assert [(ref.name, ref.ref) for ref in refs.pull_requests] == [("1", "refs/pr/1")] or [
        ref.ref for ref in refs.pull_requests
    ] == ["refs/pr/1"]
    assert refs.converts == []


@CHECKS.add
def the_list_of_commits_has_pages(world: World) -> None:
    name, api = world.make(), world.api()
    for number in range(120):
        body = CommitOperationAdd("x.txt", str(number).encode())
        api.create_commit(name, [body], commit_message=f"Step {number}", commit_description="Why", repo_type="dataset")
    commits = api.list_repo_commits(name, repo_type="dataset", formatted=True)
    assert [c.title for c in commits] == [*(f"Step {number}" for number in reversed(range(120))), "initial commit"]
    assert len({c.commit_id for c in commits}) == 121 and commits[0].formatted_title
    assert all(one.created_at >= two.created_at for one, two in itertools.pairwise(commits))
    assert len(world.sent("GET", "/commits/")) > 1
    answer = world.raw("GET", f"/api/datasets/{name}/commits/main")
    assert answer.headers["x-total-count"] == "121"
    older = api.list_repo_commits(name, revision=commits[100].commit_id, repo_type="dataset")
    assert [c.commit_id for c in older] == [c.commit_id for c in commits[100:]]


@CHECKS.add
def a_history_is_squashed_and_its_tags_stay(world: World) -> None:
    name, api = world.make(), world.api()
    for number in range(3):
        put(world, name, "x.bin", str(number).encode() * 5000)
    api.create_tag(name, tag="v1.0.0", repo_type="dataset")
    tagged = api.dataset_info(name).sha
    put(world, name, "x.bin", b"last" * 5000)
    api.super_squash_history(name, commit_message="All in one", repo_type="dataset")
    (only,) = api.list_repo_commits(name, repo_type="dataset")
    assert only.title == "All in one"
    assert read(world, name, "x.bin") == b"last" * 5000
    assert len(api.list_repo_commits(name, revision="v1.0.0", repo_type="dataset")) == 4
    assert api.dataset_info(name, revision="v1.0.0").sha == tagged
    assert read(world, name, "x.bin", "v1.0.0") == b"2" * 5000


@CHECKS.add
def a_revision_is_resolved_once(world: World) -> None:
    name, api = world.make(), world.api()
    first = put(world, name, "x.txt", b"one")
    revision = api.resolve_revision(name, repo_type="dataset")
    assert revision.resolved == first and revision == "main"
    put(world, name, "x.txt", b"two")
    path = api.hf_hub_download(name, "x.txt", revision=revision, repo_type="dataset")
    assert Path(path).read_text() == "one"
    assert api.resolve_revision(name, repo_type="dataset").resolved != first
    with pytest.raises(RevisionNotFoundError):
        api.resolve_revision(name, revision="missing", repo_type="dataset")
