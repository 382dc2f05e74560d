"""Discussions and pull requests, from opening to merging."""

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete
from huggingface_hub.community import DiscussionComment, DiscussionCommit, DiscussionStatusChange, DiscussionTitleChange
from huggingface_hub.errors import HfHubHTTPError

from tests.integration.hub_local.checks.check import Checks
from tests.integration.hub_local.checks.commits import read
from tests.integration.hub_local.world import World, status_of

CHECKS = Checks()


def start(world: World, content: bytes = b"one\n", **settings: Any) -> str:
    """A dataset repository with the file x.txt."""
    name = world.make(**settings)
    world.api().upload_file(path_or_fileobj=content, path_in_repo="x.txt", repo_id=name, repo_type="dataset")
    return name


def propose(world: World, name: str, files: dict[str, bytes], who: str = "guest", title: str = "A change") -> int:
    """An open pull request that adds files; its number."""
    operations = [CommitOperationAdd(path, data) for path, data in files.items()]
    done = world.api(who).create_commit(
        name, operations, commit_message=title, commit_description="Why.", repo_type="dataset", create_pr=True
    )
    assert done.pr_num is not None and done.pr_revision == f"refs/pr/{done.pr_num}"
    assert done.pr_url == f"{world.url}/datasets/{name}/discussions/{done.pr_num}"
    if world.api(who).get_discussion_details(name, done.pr_num, repo_type="dataset").status == "draft":
        world.api(who).change_discussion_status(name, done.pr_num, "open", repo_type="dataset")
    return done.pr_num


def details(world: World, name: str, number: int) -> Any:
    """The discussion as maker sees it."""
    return world.api().get_discussion_details(name, number, repo_type="dataset")


@CHECKS.add
def a_discussion_runs_its_course(world: World) -> None:
    name = world.make()
    guest, maker = world.api("guest"), world.api()
    opened = guest.create_discussion(name, "A question", description="What is it?", repo_type="dataset")
    assert (opened.num, opened.status, opened.author, opened.title) == (1, "open", "guest", "A question")
    assert not opened.is_pull_request and opened.diff is None and opened.events[0].content == "What is it?"
    assert opened.url == f"{world.url}/datasets/{name}/discussions/1"
    comment = maker.comment_discussion(name, 1, "An *answer* <b>here</b>", repo_type="dataset")
    assert isinstance(comment, DiscussionComment) and comment.author == "maker" and not comment.edited
    edited = maker.edit_discussion_comment(name, 1, comment.id, "A better answer", repo_type="dataset")
    assert edited.edited and edited.content == "A better answer" and edited.number_of_edits == 1
    renamed = guest.rename_discussion(name, 1, "A good question", repo_type="dataset")
    assert isinstance(renamed, DiscussionTitleChange)
    assert (renamed.old_title, renamed.new_title) == ("A question", "A good question")
    closed = maker.change_discussion_status(name, 1, "closed", comment="Answered", repo_type="dataset")
    assert isinstance(closed, DiscussionStatusChange) and closed.new_status == "closed"
    assert details(world, name, 1).status == "closed"
    guest.change_discussion_status(name, 1, "open", repo_type="dataset")
    hidden = maker.hide_discussion_comment(name, 1, comment.id, repo_type="dataset")
    assert hidden.hidden
    found = details(world, name, 1)
    assert (found.title, found.status) == ("A good question", "open")
    kinds = [event.type for event in found.events]
    assert kinds[0] == "comment" and sorted(set(kinds)) == ["comment", "status-change", "title-change"]
    assert "A better answer" not in [event.content for event in found.events if isinstance(event, DiscussionComment)]


@CHECKS.add
def who_may_do_what_to_a_discussion(world: World) -> None:
    name = world.make()
    world.api().create_discussion(name, "A question", repo_type="dataset")
    guest, nobody = world.api("guest"), world.api("nobody")
    comment = world.api().comment_discussion(name, 1, "mine", repo_type="dataset")
    for call in (
        lambda: guest.rename_discussion(name, 1, "taken", repo_type="dataset"),
        lambda: guest.change_discussion_status(name, 1, "closed", repo_type="dataset"),
        lambda: guest.edit_discussion_comment(name, 1, comment.id, "taken", repo_type="dataset"),
        lambda: guest.hide_discussion_comment(name, 1, comment.id, repo_type="dataset"),
    ):
        assert status_of(call) == 403
    assert status_of(lambda: nobody.comment_discussion(name, 1, "x", repo_type="dataset")) == 401
    assert nobody.get_discussion_details(name, 1, repo_type="dataset").title == "A question"
    assert guest.comment_discussion(name, 1, "a guest's word", repo_type="dataset").author == "guest"
    assert status_of(lambda: guest.get_discussion_details(name, 7, repo_type="dataset")) == 404
    assert status_of(lambda: guest.comment_discussion(name, 7, "x", repo_type="dataset")) == 404
    for title in ("", "ab", "x" * 10_000):
        answer = world.raw("POST", f"/api/datasets/{name}/discussions", json={"title": title, "description": "x"})
        assert 400 <= answer.status_code < 500
    assert details(world, name, 1).title == "A question"


@CHECKS.add
def discussions_are_listed_in_pages_and_by_filter(world: World) -> None:
    name, api = world.make(), world.api()
    for number in range(32):
        (api if number % 2 else world.api("guest")).create_discussion(name, f"Number {number}", repo_type="dataset")
    api.create_pull_request(name, "A change", repo_type="dataset")
    api.change_discussion_status(name, 3, "closed", repo_type="dataset")

    def found(**filters: Any) -> list[int]:
        return [one.num for one in api.get_repo_discussions(name, repo_type="dataset", **filters)]

    assert found() == list(range(33, 0, -1))
    assert found(discussion_type="pull_request") == [33] and len(found(discussion_type="discussion")) == 32
    assert found(discussion_status="closed") == [3]
    # Drafts count as open.
    assert found(discussion_status="open") == [n for n in range(33, 0, -1) if n != 3]
    assert found(author="guest") == list(range(31, 0, -2))
    first = next(iter(api.get_repo_discussions(name, repo_type="dataset")))
    assert (first.is_pull_request, first.status, first.git_reference) == (True, "draft", "refs/pr/33")


@CHECKS.add
def a_pull_request_from_draft_to_merge(world: World) -> None:
    name, maker, guest = start(world), world.api(), world.api("guest")
    opened = guest.create_pull_request(name, "Add pairs", description="Two of them", repo_type="dataset")
    assert (opened.status, opened.git_reference, opened.target_branch) == ("draft", "refs/pr/1", "refs/heads/main")
    for path, data in (("pairs/a.txt", b"a"), ("pairs/b.bin", b"b" * 5000)):
        guest.upload_file(
            path_or_fileobj=data, path_in_repo=path, repo_id=name, repo_type="dataset", revision="refs/pr/1"
        )
    assert read(world, name, "pairs/b.bin", "refs/pr/1") == b"b" * 5000
    assert maker.list_repo_files(name, repo_type="dataset") == [".gitattributes", "x.txt"]
    # A draft cannot be merged, and what is open is no draft again.
    assert 400 <= status_of(lambda: maker.merge_pull_request(name, 1, repo_type="dataset")) < 500
    guest.change_discussion_status(name, 1, "open", repo_type="dataset")
    back = world.raw("POST", f"/api/datasets/{name}/discussions/1/status", "guest", json={"status": "draft"})
    assert 400 <= back.status_code < 500 and details(world, name, 1).status == "open"
    assert status_of(lambda: guest.merge_pull_request(name, 1, repo_type="dataset")) == 403
    found = details(world, name, 1)
    assert len([event for event in found.events if isinstance(event, DiscussionCommit)]) == 2
    assert found.conflicting_files in ([], None, False) and "pairs/a.txt" in found.diff
    head = maker.dataset_info(name, revision="refs/pr/1").sha
    maker.merge_pull_request(name, 1, comment="Thank you", repo_type="dataset")
    merged = details(world, name, 1)
    assert merged.status == "merged" and merged.merge_commit_oid == maker.dataset_info(name).sha
    assert sorted(maker.list_repo_files(name, repo_type="dataset")) == sorted(
        [".gitattributes", "x.txt", "pairs/a.txt", "pairs/b.bin"]
    )
    newest = maker.list_repo_commits(name, repo_type="dataset")[0]
    assert newest.title == "Add pairs (#1)" and newest.commit_id == merged.merge_commit_oid
    assert maker.dataset_info(name, revision="refs/pr/1").sha == head
    assert "Thank you" in [event.content for event in merged.events if isinstance(event, DiscussionComment)]


@CHECKS.add
def a_commit_can_open_its_pull_request(world: World) -> None:
    name = start(world)
    number = propose(world, name, {"a.txt": b"a", "b.bin": b"b" * 9999})
    found = details(world, name, number)
    assert (found.status, found.author, found.title) == ("open", "guest", "A change")
    assert read(world, name, "b.bin", f"refs/pr/{number}") == b"b" * 9999
    assert not world.api().file_exists(name, "a.txt", repo_type="dataset")
    world.api().merge_pull_request(name, number, repo_type="dataset")
    assert read(world, name, "b.bin") == b"b" * 9999


@CHECKS.add
def a_folder_can_open_its_pull_request(world: World) -> None:
    name = start(world)
    for path, data in (("a.txt", b"a"), ("b.bin", b"b" * 9999)):
        world.path(f"up/{path}").write_bytes(data)
    done = world.api("guest").upload_folder(
        repo_id=name, folder_path=world.folder / "up", repo_type="dataset", create_pr=True
    )
    found = details(world, name, done.pr_num)
    # With Xet the client opens a draft first and then sends its commits there; without, one commit opens it.
    assert found.status == ("draft" if world.mode == "xet" else "open")
    if found.status == "draft":
        world.api("guest").change_discussion_status(name, done.pr_num, "open", repo_type="dataset")
    world.api().merge_pull_request(name, done.pr_num, repo_type="dataset")
    assert read(world, name, "a.txt") == b"a" and read(world, name, "b.bin") == b"b" * 9999


@CHECKS.add
def a_pull_request_is_its_authors_and_the_owners(world: World) -> None:
    name = start(world)
    number = propose(world, name, {"a.txt": b"a"}, who="maker")

    def add(who: str) -> None:
        world.api(who).upload_file(
            path_or_fileobj=who.encode(),
            path_in_repo=f"{who}.txt",
            repo_id=name,
            repo_type="dataset",
            revision=f"refs/pr/{number}",
        )

    assert status_of(lambda: add("guest")) == 403
    assert status_of(lambda: add("nobody")) == 401
    add("maker")
    other = propose(world, name, {"b.txt": b"b"}, who="guest")
    assert other == number + 1
    world.api().upload_file(
        path_or_fileobj=b"mended", path_in_repo="b.txt", repo_id=name, repo_type="dataset", revision=f"refs/pr/{other}"
    )
    assert read(world, name, "b.txt", f"refs/pr/{other}") == b"mended"


@CHECKS.add
def what_is_closed_or_merged_takes_no_commits(world: World) -> None:
    name, maker = start(world), world.api()
    merged, closed = (propose(world, name, {f"{letter}.txt": b"x"}) for letter in "ab")
    maker.merge_pull_request(name, merged, repo_type="dataset")
    maker.change_discussion_status(name, closed, "closed", repo_type="dataset")
    for number in (merged, closed):
        heads = maker.dataset_info(name, revision=f"refs/pr/{number}").sha
        status = status_of(
            lambda number=number: maker.upload_file(
                path_or_fileobj=b"late",
                path_in_repo="late.txt",
                repo_id=name,
                repo_type="dataset",
                revision=f"refs/pr/{number}",
            )
        )
        assert 400 <= status < 500
        assert maker.dataset_info(name, revision=f"refs/pr/{number}").sha == heads
        assert 400 <= status_of(lambda number=number: maker.merge_pull_request(name, number, repo_type="dataset")) < 500
    maker.change_discussion_status(name, closed, "open", repo_type="dataset")
    maker.merge_pull_request(name, closed, repo_type="dataset")
    assert {"a.txt", "b.txt"} < set(maker.list_repo_files(name, repo_type="dataset"))


@CHECKS.add
def changes_beside_each_other_are_both_kept(world: World) -> None:
    name, maker = start(world, b"1\n2\n3\n4\n5\n6\n7\n8\n9\n"), world.api()
    number = propose(world, name, {"x.txt": b"1\n2\n3\n4\n5\n6\n7\n8\nnine\n", "new.txt": b"new"})
    maker.create_commit(
        name,
        [CommitOperationAdd("x.txt", b"one\n2\n3\n4\n5\n6\n7\n8\n9\n"), CommitOperationAdd("other.txt", b"other")],
        commit_message="Meanwhile",
        repo_type="dataset",
    )
    maker.merge_pull_request(name, number, repo_type="dataset")
    assert read(world, name, "x.txt") == b"one\n2\n3\n4\n5\n6\n7\n8\nnine\n"
    assert {"new.txt", "other.txt"} < set(maker.list_repo_files(name, repo_type="dataset"))


@CHECKS.add
def changes_against_each_other_conflict(world: World) -> None:
    name, maker = start(world), world.api()
    one, two = (propose(world, name, {"x.txt": word, "keep.bin": b"k" * 99}) for word in (b"two\n", b"three\n"))
    maker.merge_pull_request(name, one, repo_type="dataset")
    assert details(world, name, two).conflicting_files == ["x.txt"]
    head = maker.dataset_info(name).sha
    with pytest.raises(HfHubHTTPError) as caught:
        maker.merge_pull_request(name, two, repo_type="dataset")
    assert caught.value.response.status_code == 409
    assert maker.dataset_info(name).sha == head and details(world, name, two).status == "open"
    assert read(world, name, "x.txt") == b"two\n"


@CHECKS.add
def a_pull_request_can_take_files_away(world: World) -> None:
    name, maker = start(world), world.api()
    done = world.api("guest").create_commit(
        name, [CommitOperationDelete("x.txt")], commit_message="Less", repo_type="dataset", create_pr=True
    )
    assert "x.txt" in details(world, name, done.pr_num).diff
    maker.merge_pull_request(name, done.pr_num, repo_type="dataset")
    assert maker.list_repo_files(name, repo_type="dataset") == [".gitattributes"]


@CHECKS.add
def a_proposal_loads_before_it_is_merged(world: World) -> None:
    name, maker = start(world), world.api()
    number = propose(world, name, {"data/new.bin": b"n" * 5000})
    revision = f"refs/pr/{number}"
    maker.create_tag(name, tag="candidate", revision=revision, repo_type="dataset")
    for which in (revision, "candidate"):
        folder = Path(maker.snapshot_download(name, revision=which, repo_type="dataset", cache_dir=world.cache("m")))
        assert (folder / "data/new.bin").read_bytes() == b"n" * 5000
    entries = {entry.path for entry in maker.list_repo_tree(name, revision=revision, repo_type="dataset")}
    assert entries == {".gitattributes", "data", "x.txt"}
    assert maker.list_repo_commits(name, revision=revision, repo_type="dataset")[0].title == "A change"
    assert maker.dataset_info(name, revision=revision).sha == maker.dataset_info(name, revision="candidate").sha


@CHECKS.add
def a_proposal_with_a_stale_parent_starts_there(world: World) -> None:
    name, maker = start(world), world.api()
    parent = maker.dataset_info(name).sha
    maker.upload_file(path_or_fileobj=b"later", path_in_repo="later.txt", repo_id=name, repo_type="dataset")
    done = world.api("guest").create_commit(
        name,
        [CommitOperationAdd("a.txt", b"a")],
        commit_message="From before",
        parent_commit=parent,
        repo_type="dataset",
        create_pr=True,
    )
    files = maker.list_repo_files(name, revision=done.pr_revision, repo_type="dataset")
    assert sorted(files) == [".gitattributes", "a.txt", "x.txt"]
    for revision in ("missing", parent):
        assert (
            400
            <= status_of(
                lambda revision=revision: maker.create_commit(
                    name,
                    [CommitOperationAdd("b.txt", b"b")],
                    commit_message="Nowhere",
                    revision=revision,
                    repo_type="dataset",
                    create_pr=True,
                )
            )
            < 500
        )


@CHECKS.add
def a_private_repositorys_proposals_are_private(world: World) -> None:
    name = start(world, private=True)
    world.api().create_pull_request(name, "Secret plans", repo_type="dataset")
    for who, status in (("guest", 404), ("nobody", 401)):
        api = world.api(who)
        for call in (
            lambda api=api: list(api.get_repo_discussions(name, repo_type="dataset")),
            lambda api=api: api.get_discussion_details(name, 1, repo_type="dataset"),
            lambda api=api: api.comment_discussion(name, 1, "hello", repo_type="dataset"),
            lambda api=api: api.create_pull_request(name, "Let me in", repo_type="dataset"),
            lambda api=api: api.merge_pull_request(name, 1, repo_type="dataset"),
        ):
            assert status_of(call) == status
