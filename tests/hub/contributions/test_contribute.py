"""Contributing through the stock client to a Hub of our own: one pull request, however often it is run."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from huggingface_hub import HfApi

from hub.client import HubError
from hub.contribute import Contributed, contribute
from hub.contributions.checks import Options, check_rows
from hub.contributions.published import Published, fetch_published, licence_of
from hub.contributions.reading import Reading
from hub.contributions.writing import METADATA, read_provenance, write_contribution
from hub.local.process import Running, start
from hub.push import push
from recipes import RecipeError
from tests.hub.contributions.conftest import write_jsonl
from tests.hub.contributions.world import publish, rows
from tests.hub.local.serving import ORGS, USERS, client

NAME = "team/pairs"
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with (
        pytest.MonkeyPatch.context() as patched,
        start(tmp_path_factory.mktemp("hub"), users=USERS, orgs=ORGS) as running,
    ):
        patched.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        patched.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        folder = publish(tmp_path_factory.mktemp("published") / "dataset")
        push("data", folder, NAME, private=False, gated=False, api=client(running, "owner"))
        yield running


@pytest.fixture
def author(server: Running) -> HfApi:
    return client(server, "author")


def give(api: Any, source: Path, **options: Any) -> tuple[Contributed, str]:
    said: list[str] = []
    options.setdefault("agree", lambda licence: True)
    return contribute(source, NAME, api=api, say=said.append, **options), "\n".join(said)


def pull_requests(api: HfApi) -> list[Any]:
    return list(api.get_repo_discussions(NAME, repo_type="dataset", discussion_type="pull_request"))


def test_pairs_come_as_one_file_in_one_open_pull_request_that_names_where_they_are_from(
    server: Running, author: HfApi, place: Path, tmp_path: Path
):
    import pyarrow as pa

    given = rows(9, pictures=True)[:5]
    bad = {**given[0], "category": "weather"}
    pq.write_table(pa.Table.from_pylist([*given, bad]), place / "a.parquet")
    head = author.repo_info(NAME, repo_type="dataset").sha
    contributed, said = give(author, place)
    assert (contributed.state, contributed.passed, contributed.failed) == ("opened", 5, 1)
    assert "unknown_category" in said and given[0]["unsafe_prompt"] not in said
    details = author.get_discussion_details(NAME, contributed.number, repo_type="dataset")
    assert details.status == "open" and details.is_pull_request and details.author == "author"
    text = details.events[0].content
    assert "community:author" in text and "apache-2.0" in text and head in text and "unknown\\_category 1" in text
    assert not [row for row in given if row["unsafe_prompt"] in text or row["safe_prompt"] in text]
    assert author.repo_info(NAME, repo_type="dataset").sha == head
    reference = f"refs/pr/{contributed.number}"
    before = set(author.list_repo_files(NAME, repo_type="dataset"))
    after = set(author.list_repo_files(NAME, repo_type="dataset", revision=reference))
    assert after - before == {contributed.name} and contributed.name.startswith("contributions/author/")
    path = author.hf_hub_download(
        NAME, contributed.name, repo_type="dataset", revision=reference, local_dir=tmp_path / "back"
    )
    file = pq.ParquetFile(path)
    assert file.metadata.row_group(0).num_rows <= 100
    provenance = read_provenance(file.schema_arrow.metadata)
    assert provenance["user"] == "author" and provenance["licence"] == "apache-2.0" and provenance["revision"] == head
    assert provenance["rows"] == 5 and provenance["left_out"] == {"unknown_category": 1}
    held = file.read().to_pylist()
    assert {row["source"] for row in held} == {"community:author"}
    assert {row["unsafe_prompt"] for row in held} == {row["unsafe_prompt"] for row in given}
    # What was written passes the same checks again, as a review makes them.
    published = fetch_published(NAME, tmp_path / "published", api=author)
    with check_rows(Reading(Path(path)), published, Options("author")) as checked:
        assert checked.all_pass, checked.table()
        assert {row["unsafe_image"] for row in checked.passed_rows()} == {row["unsafe_image"] for row in given}


def test_the_same_rows_again_find_the_pull_request_that_is_open_or_was_merged(
    server: Running, author: HfApi, place: Path
):
    write_jsonl(place / "a.jsonl", rows(20)[10:14])
    first, _ = give(author, place)
    (place / "a.jsonl").rename(place / "b.jsonl")
    second, _ = give(author, place)
    assert (first.state, second.state) == ("opened", "already open")
    assert (first.number, first.name) == (second.number, second.name)
    client(server, "owner").merge_pull_request(NAME, first.number, repo_type="dataset")
    third, _ = give(author, place)
    assert (third.state, third.number, third.name) == ("already merged", None, first.name)


def test_somebody_elses_pull_request_with_the_same_file_name_is_not_taken_for_ones_own(
    server: Running, author: HfApi, place: Path
):
    from huggingface_hub import CommitOperationAdd

    write_jsonl(place / "a.jsonl", rows(24)[14:17])
    dry, _ = give(author, place, dry_run=True)
    assert dry.state == "dry run"
    first, _ = give(author, place)
    author.change_discussion_status(NAME, first.number, "closed", repo_type="dataset")
    stranger = client(server, "stranger")
    copied = stranger.create_commit(
        NAME,
        [CommitOperationAdd(first.name, b"something else")],
        commit_message="Take the name",
        repo_type="dataset",
        create_pr=True,
    )
    second, _ = give(author, place)
    assert second.state == "opened" and second.number not in (first.number, copied.pr_num)


def test_a_draft_that_a_killed_run_left_is_opened(server: Running, author: HfApi, place: Path, tmp_path: Path):
    """As a run leaves it that ends between the commit and the change of status."""
    from huggingface_hub import CommitOperationAdd

    write_jsonl(place / "a.jsonl", rows(30)[17:20])
    published = fetch_published(NAME, tmp_path / "published", api=author)
    with check_rows(Reading(place), published, Options("author")) as checked:
        written = write_contribution(checked, tmp_path, {"user": "author"})
    draft = author.create_pull_request(NAME, "Contribute 3 pairs", repo_type="dataset")
    author.create_commit(
        NAME,
        [CommitOperationAdd(written.name, written.path)],
        commit_message="Add them",
        repo_type="dataset",
        revision=f"refs/pr/{draft.num}",
    )
    assert author.get_discussion_details(NAME, draft.num, repo_type="dataset").status == "draft"
    contributed, _ = give(author, place)
    assert (contributed.state, contributed.number) == ("already open", draft.num)
    assert author.get_discussion_details(NAME, draft.num, repo_type="dataset").status == "open"


def test_a_dry_run_only_reads_and_needs_no_token(server: Running, author: HfApi, place: Path):
    write_jsonl(place / "a.jsonl", rows(30)[20:22])
    before = len(pull_requests(author))
    contributed, said = give(client(server, None), place, dry_run=True, agree=lambda licence: pytest.fail("asked"))
    assert contributed.state == "dry run" and contributed.passed == 2 and "2  of 2 rows pass" in said
    assert len(pull_requests(author)) == before


def test_nothing_is_opened_where_nothing_passes_or_the_licence_is_not_agreed_to(
    server: Running, author: HfApi, place: Path
):
    before = len(pull_requests(author))
    good = rows(30)[22]
    write_jsonl(place / "a.jsonl", [{**good, "category": "weather"}])
    contributed, _ = give(author, place, agree=lambda licence: pytest.fail("asked"))
    assert contributed.state == "nothing passes" and contributed.failed == 1
    write_jsonl(place / "a.jsonl", [good])
    with pytest.raises(HubError, match=r"apache-2\.0; agree to that with --licence-agreed"):
        give(author, place, agree=lambda licence: False)
    with pytest.raises(HubError, match="log in"):
        give(client(server, None), place)
    with pytest.raises(HubError, match="team/none"):
        contribute(place, "team/none", lambda licence: True, api=author, say=print)
    with pytest.raises(RecipeError, match="no such file or folder"):
        give(author, place / "none.jsonl")
    assert len(pull_requests(author)) == before


def test_judges_see_the_pictures_when_they_are_asked(author: HfApi, place: Path):
    import pyarrow as pa

    from recipes import JudgeConfig

    given = rows(34, pictures=True)[24:28]
    swapped = {**given[3], "unsafe_image": given[3]["safe_image"], "safe_image": given[3]["unsafe_image"]}
    pq.write_table(pa.Table.from_pylist([*given[:3], swapped]), place / "a.parquet")
    contributed, said = give(author, place, dry_run=True, judge=JudgeConfig())
    assert (contributed.passed, contributed.failed) == (3, 1)
    assert list(contributed.report["reasons"]) == ["unsafe_picture_is_safe"] and "a.parquet 4" in said


@pytest.mark.slow
def test_a_run_killed_at_any_moment_and_run_again_leaves_one_pull_request(
    server: Running, author: HfApi, place: Path, tmp_path: Path
):
    write_jsonl(place / "a.jsonl", rows(40)[30:33])
    command = [sys.executable, "-m", "coprov2", "contribute", str(place), "--to", NAME, "--licence-agreed"]
    environment = {
        **os.environ,
        "HF_ENDPOINT": server.url,
        "HF_TOKEN": "hf_author_token",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
        "PYTHONPATH": str(ROOT),
    }
    before = {discussion.num for discussion in pull_requests(author)}
    for seconds in (1.5, 3.0, 4.5, 6.0):
        run = subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + seconds
        while run.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        if run.poll() is None:
            run.send_signal(signal.SIGKILL)
        run.wait()
    ended = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    new = {discussion.num: discussion.status for discussion in pull_requests(author)}
    assert [status for number, status in new.items() if number not in before] == ["open"]


def test_the_verb_says_what_it_did_and_ends_with_1_where_nothing_passes(
    server: Running, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from typer.testing import CliRunner

    from coprov2 import app

    author = client(server, "author")
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: author)
    write_jsonl(place / "a.jsonl", [rows(36)[33], {"category": "weather"}])
    report = tmp_path / "report.json"
    arguments = ["contribute", str(place / "a.jsonl"), "--to", NAME, "--report", str(report)]
    ended = CliRunner().invoke(app, [*arguments, "--dry-run"])
    assert ended.exit_code == 0 and "1  of 2 rows pass" in ended.output and "dry run" in ended.output
    assert json.loads(report.read_text())["reasons"].keys() == {"missing_field"}
    # Nobody is there to be asked.
    ended = CliRunner().invoke(app, arguments)
    assert ended.exit_code == 1 and "--licence-agreed" in str(ended.exception)
    ended = CliRunner().invoke(app, [*arguments, "--licence-agreed"])
    assert ended.exit_code == 0 and "opened, pull request" in ended.output
    write_jsonl(place / "a.jsonl", [{"category": "weather"}])
    ended = CliRunner().invoke(app, [*arguments, "--licence-agreed"])
    assert ended.exit_code == 1 and "nothing passes" in ended.output


def test_the_same_rows_give_the_same_bytes_and_other_rows_another_name(
    place: Path, published: Published, tmp_path: Path
):
    made = rows(6)
    names = []
    for number, given in enumerate((made[:4], made[3::-1], made[:3])):
        write_jsonl(place / "a.jsonl", given)
        with check_rows(Reading(place), published, Options("ada")) as checked:
            names.append(write_contribution(checked, tmp_path / str(number), {"user": "ada"}))
    first, second, third = names
    assert (first.name, first.sha256) == (second.name, second.sha256) and third.name != first.name
    assert first.path.read_bytes() == second.path.read_bytes()


@pytest.mark.parametrize(
    "held", [None, {}, {METADATA: b"{"}, {METADATA: b"[1]"}, {METADATA: b"[" * 50_000}, {METADATA: b"\xff"}]
)
def test_provenance_that_is_none_is_none(held: Any):
    assert read_provenance(held) == {}


def test_the_licence_is_the_cards(tmp_path: Path):
    card = tmp_path / "README.md"
    assert licence_of(card) is None
    for text, licence in (
        ("---\nlicense: cc-by-4.0\n---\n", "cc-by-4.0"),
        ("---\nlicense: other\nlicense_name: ours\n---\n", "ours"),
        ("---\nlicense: [a, b]\n---\n", None),
        ("---\nlicense: !!python/object:os.system x\n---\n", None),
        ("no metadata", None),
    ):
        card.write_text(text)
        assert licence_of(card) == licence


def test_of_two_runs_at_once_one_pull_request_stays(
    server: Running, author: HfApi, place: Path, monkeypatch: pytest.MonkeyPatch
):
    """The other run opens its own between this one's look and its commit."""
    write_jsonl(place / "a.jsonl", rows(44)[36:39])
    other: list[Contributed] = []
    commit = author.create_commit

    def late(*args: Any, **options: Any) -> Any:
        if not other:
            other.append(give(client(server, "author"), place)[0])
        return commit(*args, **options)

    monkeypatch.setattr(author, "create_commit", late)
    contributed, _ = give(author, place)
    assert other[0].state == "opened"
    assert (contributed.state, contributed.number) == ("already open", other[0].number)
    holding = [
        discussion
        for discussion in pull_requests(author)
        if contributed.name in author.list_repo_files(NAME, repo_type="dataset", revision=f"refs/pr/{discussion.num}")
    ]
    assert sorted(discussion.status for discussion in holding) == ["closed", "open"]
