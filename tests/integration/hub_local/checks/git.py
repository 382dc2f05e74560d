"""git itself: clone, fetch, and what is refused."""

import hashlib

from huggingface_hub import CommitOperationAdd

from tests.integration.hub_local.checks.check import Checks
from tests.integration.hub_local.world import TOKENS, World

CHECKS = Checks()


def fill(world: World, **settings: object) -> str:
    """A dataset repository with a small and a large file, tagged v1.0.0."""
    name = world.make(**settings)
    operations = [CommitOperationAdd("a.txt", b"a\n"), CommitOperationAdd("b.bin", b"b" * 5000)]
    world.api().create_commit(name, operations, commit_message="Fill", repo_type="dataset")
    world.api().create_tag(name, tag="v1.0.0", tag_message="The first", repo_type="dataset")
    return name


@CHECKS.add
def a_public_repository_is_cloned(world: World) -> None:
    name = fill(world)
    for suffix in ("", ".git"):
        world.git("clone", "--quiet", world.git_url(name) + suffix, f"clone{suffix}")
    clone = world.folder / "clone"
    assert world.git("rev-parse", "HEAD", cwd=clone).strip() == world.api().dataset_info(name).sha
    assert world.git("log", "--format=%s", cwd=clone).split("\n")[:2] == ["Fill", "initial commit"]
    assert world.git("tag", cwd=clone).strip() == "v1.0.0" and (clone / "a.txt").read_bytes() == b"a\n"
    pointer = (clone / "b.bin").read_text()
    assert pointer == (
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{hashlib.sha256(b'b' * 5000).hexdigest()}\nsize 5000\n"
    )
    assert not world.git("status", "--porcelain", cwd=clone).strip()
    assert world.git("fsck", "--strict", cwd=clone) is not None


@CHECKS.add
def a_pull_request_is_fetched(world: World) -> None:
    name = fill(world)
    world.git("clone", "--quiet", world.git_url(name), "clone")
    done = world.api("guest").upload_file(
        path_or_fileobj=b"new\n", path_in_repo="new.txt", repo_id=name, repo_type="dataset", create_pr=True
    )
    clone = world.folder / "clone"
    world.git("fetch", "--quiet", "origin", f"{done.pr_revision}:pr/{done.pr_num}", cwd=clone)
    world.git("checkout", "--quiet", f"pr/{done.pr_num}", cwd=clone)
    assert (clone / "new.txt").read_text() == "new\n"
    assert world.git("rev-parse", "HEAD", cwd=clone).strip() == done.oid


@CHECKS.add
def a_shallow_clone_of_a_tag_works(world: World) -> None:
    name = fill(world)
    world.git("clone", "--quiet", "--depth", "1", "--branch", "v1.0.0", world.git_url(name), "clone")
    assert (world.folder / "clone/a.txt").is_file()
    assert world.git("rev-list", "--count", "HEAD", cwd=world.folder / "clone").strip() == "1"


@CHECKS.add
def a_model_is_cloned(world: World) -> None:
    name = world.make("model")
    world.git("clone", "--quiet", world.git_url(name, "model"), "clone")
    assert (world.folder / "clone/.gitattributes").is_file()


@CHECKS.add
def a_private_repository_is_cloned_with_a_token_alone(world: World) -> None:
    name = fill(world, private=True)
    for who in ("maker", "reader"):
        world.git("clone", "--quiet", world.git_url(name, who=who), who)
        assert (world.folder / who / "a.txt").is_file()
    for who in ("guest", "nobody"):
        world.git("clone", "--quiet", world.git_url(name, who=who), who, fails=True)


@CHECKS.add
def a_gated_repository_is_cloned_with_access_alone(world: World) -> None:
    name = fill(world)
    world.api().update_repo_settings(name, gated="manual", repo_type="dataset")
    for who in ("guest", "nobody"):
        world.git("clone", "--quiet", world.git_url(name, who=who), who, fails=True)
    world.api().grant_access(name, "guest", repo_type="dataset")
    world.git("clone", "--quiet", world.git_url(name, who="guest"), "granted")
    assert (world.folder / "granted/a.txt").is_file()


@CHECKS.add
def a_push_is_refused_in_words(world: World) -> None:
    name = fill(world)
    world.git("clone", "--quiet", world.git_url(name, who="maker"), "clone")
    clone = world.folder / "clone"
    (clone / "pushed.txt").write_text("pushed")
    world.git("add", ".", cwd=clone)
    world.git("-c", "user.name=m", "-c", "user.email=m@example.org", "commit", "--quiet", "-m", "Push", cwd=clone)
    world.git("push", "origin", "HEAD:main", cwd=clone, fails=True)
    assert not world.api().file_exists(name, "pushed.txt", repo_type="dataset")


@CHECKS.add
def large_files_are_had_as_git_lfs_asks_for_them(world: World) -> None:
    name, data = fill(world, private=True), b"b" * 5000
    wanted = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data)}
    body = {"operation": "download", "transfers": ["basic"], "ref": {"name": "refs/heads/main"}, "objects": [wanted]}
    headers = {"Accept": "application/vnd.git-lfs+json", "Content-Type": "application/vnd.git-lfs+json"}
    route = f"/datasets/{name}.git/info/lfs/objects/batch"
    answer = world.raw("POST", route, "nobody", json=body, headers=headers, auth=("user", str(TOKENS["reader"])))
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("application/vnd.git-lfs+json")
    (found,) = answer.json()["objects"]
    action = found["actions"]["download"]
    got = world.raw("GET", action["href"], "nobody", headers=action.get("header", {}), follow_redirects=True)
    assert got.status_code == 200 and got.content == data
    for who, status in (("guest", 404), ("nobody", 401)):
        assert world.raw("POST", route, who, json=body, headers=headers).status_code == status
    unknown = {**body, "objects": [{"oid": "0" * 64, "size": 3}]}
    (missing,) = world.raw("POST", route, json=unknown, headers=headers).json()["objects"]
    assert missing["error"]["code"] == 404 and "actions" not in missing
