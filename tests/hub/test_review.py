"""Review of pull requests on a real server, by the stock client: pinned, bounded, nothing merged but what was read."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete, HfApi
from typer.testing import CliRunner

from coprov2 import app
from hub.client import HubError
from hub.local.process import Running
from hub.merging import merge
from hub.pull_requests import Refused, read_pull_request
from hub.review import Review, comment, merge_reviewed, own_comments, review
from hub.review_report import markdown, page, terminal, to_json, visible, write_report
from tests.hub.contributions.world import publish, rows
from tests.hub.review_world import AUTHOR, NAME, OWNER, client, honest, jsonl, open_pull_request, place, serving

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        patch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        published = publish(tmp_path_factory.mktemp("published"))
        with serving(tmp_path_factory.mktemp("hub") / "root", published) as running:
            yield running


@pytest.fixture
def author(server: Running) -> HfApi:
    return client(server, AUTHOR)


@pytest.fixture
def owner(server: Running) -> HfApi:
    return client(server, OWNER)


def main_files(api: HfApi) -> dict[str, str]:
    return {
        e.path: e.blob_id
        for e in api.list_repo_tree(NAME, recursive=True, repo_type="dataset")
        if hasattr(e, "blob_id")
    }


def codes(result: Review) -> set[str]:
    report = result.report
    return {*(one.code for one in report.refusals), *(one.reason for one in report.refused), *report.reasons}


def test_what_passes_is_merged_and_nothing_else_changes(author: HfApi, owner: HfApi) -> None:
    before = main_files(owner)
    number = open_pull_request(author, {place("first/rows.jsonl"): honest()})
    result = review(NAME, number, api=owner)
    assert result.report.passes and result.report.rows == result.report.waiting == 3
    merged = merge_reviewed(result, owner)
    after = main_files(owner)
    assert set(after) - set(before) == {place("first/rows.jsonl")} and before.items() <= after.items()
    details = owner.get_discussion_details(NAME, number, repo_type="dataset")
    assert details.status == "merged" and details.merge_commit_oid == merged.commit
    with pytest.raises(Refused, match="closed or merged"):
        review(NAME, number, api=owner)


def test_a_draft_is_reviewed_as_it_is_and_opened_for_the_merge(author: HfApi, owner: HfApi) -> None:
    draft = author.create_pull_request(NAME, "Add pairs", repo_type="dataset")
    author.upload_file(
        path_or_fileobj=honest(1),
        path_in_repo=place("draft.jsonl"),
        repo_id=NAME,
        repo_type="dataset",
        revision=f"refs/pr/{draft.num}",
    )
    assert owner.get_discussion_details(NAME, draft.num, repo_type="dataset").status == "draft"
    result = review(NAME, draft.num, api=owner)
    assert result.report.passes and result.report.status == "draft"
    assert owner.get_discussion_details(NAME, draft.num, repo_type="dataset").status == "draft"
    assert merge_reviewed(result, owner).files == 1


def add(path: str, content: bytes = b"x\n") -> CommitOperationAdd:
    return CommitOperationAdd(path, content)


def manifest_moved() -> list[Any]:
    return [CommitOperationDelete("coprov2.json"), CommitOperationCopy("coprov2.json", "other.json")]


@pytest.mark.parametrize(
    ("code", "operations"),
    [
        ("added_outside", lambda: [add("setup.py")]),
        ("added_outside", lambda: [add("Contributions/visitor/rows.jsonl", honest())]),
        ("added_outside", lambda: [add("data/train-00001-of-00002.parquet")]),
        ("changed_outside", lambda: [add("README.md", b"---\nlicense: mit\n---\nowned\n")]),
        ("changed_outside", lambda: [add("coprov2.json", b"{}\n")]),
        ("deleted_outside", lambda: [CommitOperationDelete("coprov2.json")]),
        ("attributes", lambda: [add(".gitattributes", b"* -diff\n")]),
        ("attributes", lambda: [CommitOperationDelete(".gitattributes")]),
        ("others_folder", lambda: [add(place("rows.jsonl", "stranger"), honest())]),
        ("others_folder", lambda: [add("contributions/rows.jsonl", honest())]),
        ("file_type", lambda: [add(place("loader.py"))]),
        ("file_type", lambda: [add(place("README.md"), b"---\nlicense: mit\n---\n")]),
        ("name_characters", lambda: [add(place("rows\u202elnosj.jsonl"), honest())]),
        ("name_too_long", lambda: [add(place("a" * 150 + "/" + "b" * 150 + ".jsonl"), honest())]),
        ("too_deep", lambda: [add(place("/".join("abcdefghijk") + "/rows.jsonl"), honest())]),
        ("name_characters", lambda: [add(place("CON.jsonl"), honest())]),
        ("reserved_name", lambda: [add(place(".hidden.jsonl"), honest())]),
        ("same_name", lambda: [add(place("Rows.jsonl"), honest(1)), add(place("rows.jsonl"), honest(1))]),
        ("no_bytes", lambda: [add(place("rows.jsonl"), b"")]),
        ("pictures_alone", lambda: [add(place("a.png"), b"\x89PNG")]),
    ],
)
def test_what_a_contribution_may_not_change_is_refused_before_any_download(
    author: HfApi, owner: HfApi, monkeypatch: pytest.MonkeyPatch, code: str, operations: Callable[[], list[Any]]
) -> None:
    number = open_pull_request(
        author, {place("also.jsonl"): honest(1)} if code != "pictures_alone" else {}, *operations()
    )
    monkeypatch.setattr("hub.review.download", lambda *args: pytest.fail("downloaded"))
    result = review(NAME, number, api=owner)
    assert code in codes(result) and not result.report.passes and not result.pairs
    for text in (terminal(result.report), to_json(result.report)):
        assert text.isascii() and "\x1b" not in text
    assert "\u202e" not in markdown(result.report) + page(result.report, [])
    with pytest.raises(HubError, match="not merged"):
        merge_reviewed(result, owner)
    author.change_discussion_status(NAME, number, "closed", repo_type="dataset")


def test_a_published_contribution_is_not_changed_deleted_or_moved(author: HfApi, owner: HfApi) -> None:
    path = place("kept/rows.jsonl")
    owner.upload_file(path_or_fileobj=honest(2), path_in_repo=path, repo_id=NAME, repo_type="dataset")
    for code, files, operations in (
        ("changed", {path: honest(1)}, []),
        ("deleted", {place("more.jsonl"): honest(1)}, [CommitOperationDelete(path)]),
        ("renamed", {place("moved.jsonl"): honest(2)}, [CommitOperationDelete(path)]),
    ):
        number = open_pull_request(author, files, *operations)
        assert code in codes(review(NAME, number, api=owner))


def test_a_pull_request_without_changes_and_a_discussion_are_told_apart(author: HfApi, owner: HfApi) -> None:
    empty = author.create_pull_request(NAME, "Nothing at all", repo_type="dataset")
    assert codes(review(NAME, empty.num, api=owner)) == {"empty"}
    talk = author.create_discussion(NAME, "A question", repo_type="dataset")
    with pytest.raises(Refused, match="not a pull request"):
        review(NAME, talk.num, api=owner)


def test_too_much_is_refused_by_the_tree_alone(author: HfApi, owner: HfApi, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from hub.contributions.limits import LIMITS

    number = open_pull_request(author, {place(f"{n}.jsonl"): honest(1) for n in range(3)})
    monkeypatch.setattr("hub.pull_requests.LIMITS", replace(LIMITS, files=2, bytes=100))
    assert codes(review(NAME, number, api=owner)) == {"too_many_files", "too_many_bytes"}
    monkeypatch.setattr("hub.pull_requests.MOST_ENTRIES", 3)
    assert "too_many_entries" in codes(review(NAME, number, api=owner))
    monkeypatch.setattr("hub.pull_requests.MOST_COMMITS", 1)
    assert "too_many_commits" in codes(review(NAME, number, api=owner))


def test_work_on_main_meanwhile_is_not_taken_for_the_pull_requests(author: HfApi, owner: HfApi) -> None:
    number = open_pull_request(author, {place("beside.jsonl"): jsonl(rows(6)[4:])})
    owner.upload_file(path_or_fileobj=b"notes\n", path_in_repo="LICENSE", repo_id=NAME, repo_type="dataset")
    result = review(NAME, number, api=owner)
    assert result.report.passes and result.report.base != result.report.published
    merge_reviewed(result, owner)
    assert "LICENSE" in main_files(owner)


def test_a_head_that_moves_before_the_merge_is_not_merged(author: HfApi, owner: HfApi) -> None:
    number = open_pull_request(author, {place("moving.jsonl"): honest()})
    result = review(NAME, number, api=owner)
    author.upload_file(
        path_or_fileobj=b"x", path_in_repo="setup.py", repo_id=NAME, repo_type="dataset", revision=f"refs/pr/{number}"
    )
    with pytest.raises(Refused, match="pushed to it during the review"):
        merge_reviewed(result, owner)
    assert "setup.py" not in main_files(owner)


def test_a_head_that_moves_during_the_download_changes_nothing(
    author: HfApi, owner: HfApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = open_pull_request(author, {place("racing.jsonl"): honest()})
    reviewed = read_pull_request(owner, NAME, number).sha

    def push(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.undo()
        author.upload_file(
            path_or_fileobj=b"{",
            path_in_repo=place("racing.jsonl"),
            repo_id=NAME,
            repo_type="dataset",
            revision=f"refs/pr/{number}",
        )
        return fetch(*args, **kwargs)

    from hub.contributions.published import fetch_published as fetch

    monkeypatch.setattr("hub.review.fetch_published", push)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    result = review(NAME, number, api=owner)
    assert result.report.passes and result.report.sha == reviewed
    with pytest.raises(Refused, match="pushed to it"):
        merge_reviewed(result, owner)


def test_a_push_at_the_last_moment_is_told_loudly(author: HfApi, owner: HfApi, monkeypatch: pytest.MonkeyPatch) -> None:
    number = open_pull_request(author, {place("late.jsonl"): honest()})
    result = review(NAME, number, api=owner)
    merge_now = owner.merge_pull_request

    def late(*args: Any, **kwargs: Any) -> None:
        author.upload_file(
            path_or_fileobj=b"x",
            path_in_repo="late.py",
            repo_id=NAME,
            repo_type="dataset",
            revision=f"refs/pr/{number}",
        )
        merge_now(*args, **kwargs)

    monkeypatch.setattr(owner, "merge_pull_request", late)
    with pytest.raises(HubError, match=r"IS NOT WHAT WAS REVIEWED: late\.py;.*Restore these paths"):
        merge_reviewed(result, owner)
    owner.delete_file("late.py", NAME, repo_type="dataset")


def test_a_conflict_is_refused(author: HfApi, owner: HfApi) -> None:
    path = place("both.jsonl")
    number = open_pull_request(author, {path: honest(1)})
    owner.upload_file(path_or_fileobj=honest(2), path_in_repo=path, repo_id=NAME, repo_type="dataset")
    assert "conflict" in codes(review(NAME, number, api=owner))


def test_rows_that_fail_are_listed_and_not_merged(author: HfApi, owner: HfApi) -> None:
    bad = {**rows(1)[0], "source": "community:stranger"}
    number = open_pull_request(author, {place("mixed.jsonl"): jsonl([*rows(2), bad])})
    result = review(NAME, number, api=owner)
    report = result.report
    assert not report.passes and report.reasons["source_differs"][0] == 1 and report.rows == 3
    assert [(one.file, one.row) for one in report.failing] == [("mixed.jsonl", 3)]
    for text in (terminal(report), markdown(report), to_json(report)):
        assert bad["unsafe_prompt"] not in text and bad["concept"] not in text
    with pytest.raises(HubError, match=r"1 of 3 rows.*not merged"):
        merge_reviewed(result, owner)


def test_one_comment_a_commit_and_a_forged_one_does_not_count(server: Running, author: HfApi, owner: HfApi) -> None:
    number = open_pull_request(author, {place("said.jsonl"): honest()})
    bot = client(server, "bot")
    result = review(NAME, number, api=bot)
    author.comment_discussion(NAME, number, markdown(result.report), repo_type="dataset")
    assert not own_comments(bot, NAME, number)
    assert comment(result, bot) and not comment(result, bot)
    assert list(own_comments(bot, NAME, number)) == [result.report.sha]
    author.upload_file(
        path_or_fileobj=honest(2),
        path_in_repo=place("said.jsonl"),
        repo_id=NAME,
        repo_type="dataset",
        revision=f"refs/pr/{number}",
    )
    again = review(NAME, number, api=bot)
    assert comment(again, bot) and set(own_comments(bot, NAME, number)) == {result.report.sha, again.report.sha}


def test_the_command_tells_by_its_exit_status(
    server: Running, author: HfApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: client(server, OWNER))
    good = open_pull_request(author, {place("command.jsonl"): honest()})
    bad = open_pull_request(author, {place("command.jsonl"): b"{\n"})
    run = CliRunner().invoke
    passed = run(app, ["review", NAME, "--pr", str(good), "--comment", "--merge", "--out", str(tmp_path / "out")])
    assert passed.exit_code == 0 and "merged as" in passed.output
    assert json.loads((tmp_path / "out" / "report.json").read_text())["passes"] is True
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"report.json", "report.md", "report.html"}
    failed = run(app, ["review", NAME, "--pr", str(bad), "--merge"])
    assert failed.exit_code == 1 and "not merged" in failed.output
    nothing = run(app, ["review", NAME, "--pr", "9999"])
    assert isinstance(nothing.exception, HubError) and "answered 404" in str(nothing.exception)


def test_the_page_shows_pairs_behind_veils_and_escapes_them(tmp_path: Path, author: HfApi, owner: HfApi) -> None:
    number = open_pull_request(author, {place("seen.jsonl"): honest(2)})
    result = review(NAME, number, api=owner)
    assert [pair.file for pair in result.pairs] == ["seen.jsonl"] * 2
    text = page(result.report, [*result.pairs, hostile := _spoilt(result)])
    assert hostile.concept not in text and "&lt;b&gt;" in text and visible("\u202e") == "⟨U+202E⟩" in text
    assert "default-src 'none'" in text and "<script" not in text
    written = write_report(result.report, result.pairs, tmp_path / "out")
    assert [path.name for path in written] == ["report.json", "report.md", "report.html"]


def _spoilt(result: Review) -> Any:
    from dataclasses import replace

    return replace(result.pairs[0], concept="<b>\u202e</b>", unsafe_prompt="{{ 7 * 7 }}")


def test_the_line_that_the_hub_adds_for_a_large_file_is_allowed_and_no_other(author: HfApi, owner: HfApi) -> None:
    large = place("large.jsonl")
    number = open_pull_request(author, {large: b"{}\n" * 4_000_000})
    pull_request = read_pull_request(owner, NAME, number)
    assert not pull_request.refusals and pull_request.attributes and list(pull_request.added) == [large]
    merge(owner, pull_request)
    assert large in Path(owner.hf_hub_download(NAME, ".gitattributes", repo_type="dataset")).read_text()
    line = f"{place('none.jsonl')} filter=lfs diff=lfs merge=lfs -text\n".encode()
    text = Path(owner.hf_hub_download(NAME, ".gitattributes", repo_type="dataset")).read_bytes()
    number = open_pull_request(author, {place("x.jsonl"): honest(1), ".gitattributes": text + line})
    assert [one.code for one in read_pull_request(owner, NAME, number).refusals] == ["attributes"]
