"""How a raw path finds its endpoint, and what a hostile one finds."""

from pathlib import Path

import pytest

from hub.local.call import Call
from hub.local.errors import Refusal
from hub.local.routing import Endpoint, Router, split_path
from tests.hub.local.in_process import Site


def _never(call: Call) -> None:
    raise AssertionError


def _router(*patterns: str) -> Router:
    return Router([Endpoint("GET", pattern, _never) for pattern in patterns])  # type: ignore[arg-type]


def test_a_path_is_split_before_it_is_unquoted() -> None:
    router = _router("api/{type}/{namespace}/{name}/tree/{revision}/{path*}")
    _, params = router.find("GET", "/api/datasets/a/b/tree/refs%2Fpr%2F1/x%2Fy/z%20")
    assert params == {"type": "dataset", "namespace": "a", "name": "b", "revision": "refs/pr/1", "path": "x/y/z "}


def test_a_suffix_belongs_to_the_pattern() -> None:
    router = _router("{namespace}/{name}.git/info/refs", "{namespace}/{name}/info/refs")
    assert router.find("GET", "/a/b.git/info/refs")[1]["name"] == "b"
    assert router.find("GET", "/a/b/info/refs")[1]["name"] == "b"


@pytest.mark.parametrize("namespace", ["api", "login", "Organizations", "lfs", "settings"])
def test_a_reserved_word_is_no_namespace(namespace: str) -> None:
    with pytest.raises(Refusal) as refused:
        _router("{namespace}/{name}/resolve/{revision}/{path*}").find("GET", f"/{namespace}/b/resolve/main/x")
    assert refused.value.status == 404


def test_another_method_is_405_and_names_those_there_are() -> None:
    with pytest.raises(Refusal) as refused:
        _router("a/{b}").find("DELETE", "/a/c")
    assert (refused.value.status, refused.value.headers["Allow"]) == (405, "GET")


@pytest.mark.parametrize("raw", ["/a%", "/a%2", "/a%zz", "/%ff", "/%C3%28", "/a%00b", "/a%0Ab", "/a%7F"])
def test_a_path_that_is_no_text_is_refused(raw: str) -> None:
    with pytest.raises(Refusal) as refused:
        split_path(raw)
    assert refused.value.status == 400


@pytest.fixture
def site(tmp_path: Path) -> Site:
    site = Site(tmp_path / "hub")
    site.make()
    return site


ONE_SEGMENT = [
    "/api/models/gpt2",
    "/api/models/gpt2/revision/main",
    "/api/models/gpt2/tree/main",
    "/gpt2/resolve/main/config.json",
    "/datasets/mnist/resolve/main/x",
]


@pytest.mark.parametrize("target", ONE_SEGMENT)
@pytest.mark.parametrize(("who", "status"), [(None, 401), ("stranger", 404)])
def test_a_name_of_one_segment_is_a_repository_that_is_not_there(
    site: Site, target: str, who: str | None, status: int
) -> None:
    answer = site.ask("GET", target, who)
    assert (answer.status, answer.code) == (status, "RepoNotFound")


HOSTILE = [
    "/datasets/team/data/resolve/main/../../../../users.yaml",
    "/datasets/team/data/resolve/main/..%2f..%2f..%2fusers.yaml",
    "/datasets/team/data/resolve/main/%2e%2e/%2e%2e/users.yaml",
    "/datasets/team/data/resolve/main//etc/passwd",
    "/datasets/team/data/resolve/main/.git/config",
    "/datasets/team/data/resolve/..%2f..%2fHEAD/x",
    "/datasets/team/data/resolve/refs%2f..%2f..%2fconfig/x",
    "/datasets/team/data/resolve/main/a\\..\\b",
    "/datasets/team%2f..%2fteam/data/resolve/main/.gitattributes",
    "/datasets/../datasets/team/data/resolve/main/.gitattributes",
    "/api/datasets/team/data/tree/main/..",
    "/api/datasets/team/..%2f..%2f..",
    "/users.yaml",
    "/hub.sqlite",
    "/repos",
    "/lfs/..%2f..%2fusers.yaml?token=x",
    "/",
    "//",
    "/api",
]


@pytest.mark.parametrize("target", HOSTILE)
def test_a_path_that_climbs_out_finds_nothing(site: Site, target: str) -> None:
    answer = site.ask("GET", target, "owner")
    assert answer.status in (400, 404, 422), answer
    assert b"hf_" not in answer.body and b"root:" not in answer.body


def test_a_long_url_is_refused_before_it_is_looked_at(site: Site) -> None:
    assert site.ask("GET", "/api/" + "a" * 9000, "owner").status == 414


def test_every_answer_names_its_request_and_forbids_guessing_types(site: Site) -> None:
    for target in ("/api/whoami-v2", "/nothing"):
        answer = site.ask("GET", target, "owner")
        assert len(answer.headers["x-request-id"]) == 16
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_an_unexpected_error_is_a_500_without_details(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr(site.hub, "find", fail)
    answer = site.ask("GET", "/api/datasets/team/data", "owner")
    assert answer.status == 500
    assert answer.headers["x-request-id"] in answer.json["error"]
    said = capsys.readouterr().err
    assert b"secret" not in answer.body and "secret" not in said
    assert answer.headers["x-request-id"] in said and "RuntimeError" in said
