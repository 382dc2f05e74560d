"""The webhook: who may call it, what it takes from a payload, and that each reviewed commit gets one comment."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from hub.client import HubError
from hub.local.process import Running
from hub.review import own_comments
from hub.review_server import MOST_BYTES, MOST_WAITING, ReviewWorker, create_app, read_secret, work_in
from tests.hub.contributions.world import publish
from tests.hub.review_world import AUTHOR, NAME, client, honest, open_pull_request, place, serving

SECRET = b"a-secret-of-many-letters"
HEADERS = {"X-Webhook-Secret": SECRET.decode()}


def payload(number: Any = 3, name: Any = NAME, **changes: Any) -> dict[str, Any]:
    """As the Hub sends it."""
    return {
        "event": {"action": "create", "scope": "discussion"},
        "repo": {"type": "dataset", "name": name, "id": "0" * 24, "private": False},
        "discussion": {"num": number, "isPullRequest": True, "status": "open", "title": "Add pairs"},
        **changes,
    }


class Heard(ReviewWorker):
    """A worker that only takes notes."""

    def __init__(self) -> None:
        super().__init__([NAME], api=object())
        self.works: list[tuple[str, int]] = []

    def start(self) -> None:
        pass

    def stop(self, timeout: float = 5.0) -> None:
        pass

    def put(self, work: tuple[str, int]) -> bool:
        self.works.append(work)
        return len(self.works) < 3


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def web(heard: Heard) -> Iterator[TestClient]:
    with TestClient(create_app(heard, SECRET)) as test_client:
        yield test_client


def test_only_the_secret_opens(web: TestClient, heard: Heard) -> None:
    for headers in ({}, {"X-Webhook-Secret": ""}, {"X-Webhook-Secret": "a-secret"}, {"Authorization": "Bearer x"}):
        assert web.post("/webhook", json=payload(), headers=headers).status_code == 403
    assert not heard.works
    assert web.post("/webhook", json=payload(), headers=HEADERS).status_code == 202
    assert heard.works == [(NAME, 3)] and web.get("/health").status_code == 200


def test_a_body_is_bounded_and_must_be_json(web: TestClient, heard: Heard) -> None:
    assert web.post("/webhook", content=b" " * (MOST_BYTES + 1), headers=HEADERS).status_code == 413
    pieces = iter([b" " * 100_000] * 4)
    assert web.post("/webhook", content=pieces, headers=HEADERS).status_code == 413
    for body in (b"", b"{", b"\xff", b"[" * 100_000):
        assert web.post("/webhook", content=body, headers=HEADERS).status_code == 400
    assert not heard.works


def test_a_full_queue_asks_the_hub_to_come_again(web: TestClient) -> None:
    answers = [web.post("/webhook", json=payload(n), headers=HEADERS) for n in (1, 2, 3)]
    assert [answer.status_code for answer in answers] == [202, 202, 503] and answers[2].headers["Retry-After"]


@pytest.mark.parametrize(
    "value",
    [
        None, [], "x", {}, {"repo": None}, payload(name="team/other"), payload(name=["team/data"]), payload("3"),
        payload(True), payload(-1), payload(0), payload(10**30), payload(3.0), payload(discussion=[]),
        payload(discussion={"num": 3, "isPullRequest": False}), payload(repo={"type": "model", "name": NAME}),
        payload(discussion=None, updatedRefs=[{"ref": "refs/heads/main"}, {"ref": "refs/pr/../3"}, 5, {"ref": 5}]),
    ],
)  # fmt: skip
def test_nothing_else_is_taken_from_a_payload(value: Any) -> None:
    assert work_in(value, {NAME}) == []


def test_a_push_names_its_pull_request() -> None:
    pushed = payload(discussion=None, updatedRefs=[{"ref": "refs/pr/12", "oldSha": "a", "newSha": "b"}])
    assert work_in(pushed, {NAME}) == [(NAME, 12)]
    assert work_in(payload(4, updatedRefs=[{"ref": "refs/pr/4"}]), {NAME}) == [(NAME, 4)]


def test_a_short_secret_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("short\n")
    with pytest.raises(HubError, match="5 bytes, expected 16"):
        read_secret(tmp_path / "secret")
    with pytest.raises(HubError, match="cannot be read"):
        read_secret(tmp_path / "none")
    (tmp_path / "secret").write_bytes(SECRET + b"\n")
    assert read_secret(tmp_path / "secret") == SECRET


def test_what_waits_is_bounded_and_waits_once() -> None:
    worker = ReviewWorker([NAME], api=object())
    assert all(worker.put((NAME, 1)) for _ in range(5))
    assert all(worker.put((NAME, n)) for n in range(2, MOST_WAITING + 1))
    assert not worker.put((NAME, MOST_WAITING + 1)) and worker.put((NAME, 1))


def test_it_survives_errors_of_the_hub_and_says_no_more_than_their_place(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    worker = ReviewWorker([NAME], api=object(), say=said.append, pauses=(0.0, 0.0))
    outcomes: Iterator[Exception | str] = iter([HubError("the Hub answered 503"), ValueError("a pistol"), "done"])

    def review_one(name: str, number: int) -> str:
        outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(worker, "review_one", review_one)
    worker._attempt((NAME, 1))
    assert "done" in said[-1] and "503" in said[0] and "ValueError" in said[1] and "pistol" not in "".join(said)
    outcomes = iter([HubError("503")] * 3)
    worker._attempt((NAME, 1))
    assert "put off" in said[-1]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        patch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        published = publish(tmp_path_factory.mktemp("published"))
        with serving(tmp_path_factory.mktemp("hub") / "root", published) as running:
            yield running


def _wait(said: list[str], text: str, seconds: float = 90.0) -> None:
    end = time.monotonic() + seconds
    while not any(text in line for line in said):
        assert time.monotonic() < end, said
        time.sleep(0.05)


@pytest.mark.slow
def test_each_commit_gets_one_comment_whoever_asks_and_across_restarts(server: Running) -> None:
    author, bot = client(server, AUTHOR), client(server, "bot")
    first = open_pull_request(author, {place("a.jsonl"): honest()})
    said: list[str] = []
    # The sweep at the start finds what no webhook told.
    with TestClient(create_app(ReviewWorker([NAME], api=bot, say=said.append), SECRET)) as web:
        _wait(said, f"pull request {first}: ")
        second = open_pull_request(author, {place("b.jsonl"): b"{\n"})
        assert web.post("/webhook", content=json.dumps(payload(second)), headers=HEADERS).status_code == 202
        _wait(said, f"pull request {second}: ")
        web.post("/webhook", json=payload(second), headers=HEADERS)
        _wait(said, "has its comment")
    comments = [list(own_comments(bot, NAME, number).values()) for number in (first, second)]
    assert [len(found) for found in comments] == [1, 1]
    assert "Passes: all 3 rows" in comments[0][0].content and "not_json" in comments[1][0].content
    again: list[str] = []
    with TestClient(create_app(ReviewWorker([NAME], api=bot, say=again.append), SECRET)):
        _wait(again, f"pull request {first}: ")
        _wait(again, f"pull request {second}: ")
    assert all("has its comment" in line for line in again)
    assert [len(own_comments(bot, NAME, number)) for number in (first, second)] == [1, 1]
