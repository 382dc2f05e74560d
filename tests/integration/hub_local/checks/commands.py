"""The stock `hf` command."""

from tests.integration.hub_local.checks.check import Checks
from tests.integration.hub_local.world import ORGANISATION, World

CHECKS = Checks()
KIND = ("--repo-type", "dataset")


@CHECKS.add
def the_command_says_who_it_is(world: World) -> None:
    who = world.command("auth", "whoami", json_=True)
    assert who["user"] == "maker" and ORGANISATION in str(who["orgs"]) and who["endpoint"] == world.url


@CHECKS.add
def the_command_makes_and_sets_repositories(world: World) -> None:
    name = world.name()
    world.command("repos", "create", name, *KIND, "--private")
    world.command("repos", "create", name, *KIND, "--exist-ok")
    world.command("repos", "create", name, *KIND, fails=True)
    world.command("repos", "settings", name, *KIND, "--gated", "manual", "--public")
    info = world.command("datasets", "info", name, json_=True)
    assert (info["id"], info["private"], info["gated"]) == (name, False, "manual")
    assert name in [
        found["id"] for found in world.command("datasets", "list", "--author", "maker", "--limit", "1000", json_=True)
    ]
    world.command("repos", "branch", "create", name, "dev", *KIND)
    world.command("repos", "tag", "create", name, "v1.0.0", "-m", "The first", *KIND)
    tags = world.command("repos", "tag", "list", name, *KIND, json_=True)
    assert [tag["name"] for tag in tags] == ["v1.0.0"]
    world.command("repos", "tag", "delete", name, "v1.0.0", "--yes", *KIND, fails=True)
    world.command("repos", "branch", "delete", name, "dev", *KIND)
    world.command("repos", "move", name, f"{name}-new", *KIND)
    world.command("repos", "delete", f"{name}-new", "--yes", *KIND)
    world.command("datasets", "info", f"{name}-new", fails=True)


@CHECKS.add
def the_command_uploads_and_downloads(world: World) -> None:
    name = world.make()
    for path, data in (("a.txt", b"a"), ("sub/b.bin", b"b" * 5000), ("skip.log", b"log")):
        world.path(f"up/{path}").write_bytes(data)
    world.command("upload", name, "up", ".", *KIND, "--exclude", "*.log", "--commit-message", "By command")
    world.command("upload", name, "up/a.txt", "in/a.txt", *KIND)
    world.command("download", name, *KIND, "--local-dir", "down")
    found = {
        p.relative_to(world.folder / "down").as_posix() for p in (world.folder / "down").rglob("*.*") if p.is_file()
    }
    assert {"a.txt", "sub/b.bin", "in/a.txt"} <= found and "skip.log" not in found
    assert (world.folder / "down/sub/b.bin").read_bytes() == b"b" * 5000
    world.command("repos", "delete-files", name, "*.txt", *KIND)
    assert sorted(world.api().list_repo_files(name, repo_type="dataset")) == [".gitattributes", "sub/b.bin"]
    listed = world.command("datasets", "list", name, "--recursive", json_=True)
    assert "sub/b.bin" in str(listed)
    world.command("download", name, "missing.txt", *KIND, fails=True)


@CHECKS.add
def the_command_proposes_discusses_and_merges(world: World) -> None:
    name = world.make()
    world.path("more/x.bin").write_bytes(b"x" * 5000)
    world.command("upload", name, "more", ".", *KIND, "--create-pr", "--commit-message", "More", who="guest")
    (found,) = world.command("discussions", "list", name, *KIND, "--kind", "pull_request", json_=True)
    assert found["num"] == 1 and found["title"].startswith("More")
    world.command("discussions", "comment", name, "1", "--body", "Looks good", *KIND)
    info = world.command("discussions", "info", name, "1", *KIND, json_=True)
    assert info["is_pull_request"] and "Looks good" in str(info["events"])
    comment = next(event["id"] for event in info["events"] if event.get("content") == "Looks good")
    world.command("discussions", "edit", name, "1", comment, "--body", "Looks better", *KIND)
    world.command("discussions", "rename", name, "1", "More pairs", *KIND, who="guest")
    assert "x.bin" in world.command("discussions", "diff", name, "1", *KIND)
    world.command("discussions", "merge", name, "1", "--yes", *KIND, who="guest", fails=True)
    if info["status"] == "draft":
        world.command("discussions", "reopen", name, "1", "--yes", *KIND, who="guest")
    world.command("discussions", "merge", name, "1", "--yes", *KIND)
    assert world.api().file_exists(name, "x.bin", repo_type="dataset")
    world.command("discussions", "create", name, "--title", "A question", "--body", "Why?", *KIND, who="guest")
    world.command("discussions", "close", name, "2", "--yes", "--comment", "Because", *KIND)
    closed = world.command("discussions", "list", name, *KIND, "--status", "closed", json_=True)
    assert 2 in [one["num"] for one in closed]


@CHECKS.add
def the_command_keeps_webhooks(world: World) -> None:
    name = world.make()
    made = world.command(
        "webhooks", "create", "--watch", f"dataset:{name}", "--url", "http://127.0.0.1:9/hook", json_=True
    )
    assert made["id"] in [hook["id"] for hook in world.command("webhooks", "list", json_=True)]
    world.command("webhooks", "disable", made["id"])
    assert world.command("webhooks", "info", made["id"], json_=True)["disabled"] is True
    world.command("webhooks", "delete", made["id"], "--yes")
    assert made["id"] not in [hook["id"] for hook in world.command("webhooks", "list", json_=True)]


@CHECKS.add
def the_command_copies_between_repository_and_disk(world: World) -> None:
    name = world.make()
    world.path("a.txt").write_text("a")
    world.command("cp", "a.txt", f"hf://datasets/{name}/a.txt")
    world.command("cp", f"hf://datasets/{name}/a.txt", "back.txt")
    assert world.path("back.txt").read_text() == "a"
