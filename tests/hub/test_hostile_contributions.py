"""Every kind of hostile contribution is refused with its own reason, at bounded memory and time, by the checks of
`contribute` and again by `review`; nothing of it is run, and nothing of it is shown."""

import json
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from hub.contributions.reasons import REASONS
from hub.local.process import Running
from hub.pull_requests import REFUSALS
from hub.review import review
from hub.review_report import markdown, page, terminal, to_json
from tests.hub.contributions.world import publish
from tests.hub.hostile import KINDS, SECRET, USER
from tests.hub.hostile.checking import MARKS
from tests.hub.review_world import NAME, OWNER, client, open_pull_request, place, serving

pytestmark = pytest.mark.slow

# Bytes that the checking process, and any child of it, may hold at most: Python with Arrow and numpy takes 130 MB.
MOST_OF_PARENT = 300 << 20
MOST_OF_CHILD = 400 << 20
# What the look at names and sizes finds before any file is read.
EARLIER = {"unknown_file": "file_type", "empty_file": "no_bytes"}
# Tens of megabytes to send; once, by the test of the checks, is enough.
LONG = {"csv_of_a_million_rows", "parquet_of_a_million_rows"}
PUSHABLE = [name for name, kind in KINDS.items() if kind.pushable and name not in LONG]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish(tmp_path_factory.mktemp("published"))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, published: Path) -> dict[str, dict[str, Any]]:
    """What the checks of `contribute` said of each kind, from one process for all of them."""
    work = tmp_path_factory.mktemp("kinds")
    out = work / "results.json"
    subprocess.run([sys.executable, "-m", "tests.hub.hostile.making", str(work)], check=True)
    command = [sys.executable, "-m", "tests.hub.hostile.checking", str(published), str(work), str(out)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert SECRET not in ended.stdout + ended.stderr
    found: dict[str, dict[str, Any]] = json.loads(out.read_text())
    return found


def test_there_are_enough_kinds_and_each_reason_is_a_known_one() -> None:
    assert len(KINDS) >= 60 and {kind.reason for kind in KINDS.values()} <= set(REASONS)
    assert len({kind.reason for kind in KINDS.values()}) >= 60


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", KINDS)
def test_it_is_refused_with_its_own_reason(results: dict[str, dict[str, Any]], name: str) -> None:
    kind, result = KINDS[name], results[name]
    assert "error" not in result, result
    assert kind.reason in result["reasons"] and not result["all_pass"]
    assert not result["executed"]
    assert not [mark for mark in (SECRET, *MARKS) if mark in result["said"]]
    assert result["peak"] < MOST_OF_PARENT and result["children_peak"] < MOST_OF_CHILD
    assert result["cpu_seconds"] < kind.seconds


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, published: Path) -> Iterator[Running]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        patch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        with serving(tmp_path_factory.mktemp("hub") / "root", published) as running:
            yield running


class _Tags(HTMLParser):
    """The tags, attributes and links of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.links += [value or "" for name, value in attrs if name in ("href", "src", "action", "srcset")]


@pytest.mark.parametrize("name", PUSHABLE)
def test_review_refuses_it_too(server: Running, tmp_path: Path, name: str) -> None:
    kind, folder = KINDS[name], tmp_path / name
    folder.mkdir()
    kind.make(folder)
    files = {place(path.relative_to(folder).as_posix()): path.read_bytes() for path in folder.rglob("*")}
    author, owner = client(server, USER), client(server, OWNER)
    number = open_pull_request(author, files)
    result = review(NAME, number, api=owner)
    author.change_discussion_status(NAME, number, "closed", repo_type="dataset")
    report = result.report
    codes = {*(one.code for one in report.refusals), *(one.reason for one in report.refused), *report.reasons}
    assert EARLIER.get(kind.reason, kind.reason) in codes and not report.passes
    assert codes <= {*REASONS, *REFUSALS}
    assert not (tmp_path / f"{name}.executed").exists()
    texts = [terminal(report), markdown(report), to_json(report), page(report, result.pairs)]
    for text in texts:
        assert not [mark for mark in (SECRET, *MARKS) if mark in text]
    assert all(text.isascii() for text in texts[:1] + texts[2:3])
    assert "@" not in texts[1] and "](" not in texts[1] and texts[1].count("<") == 1
    tags = _Tags(texts[3])
    assert not tags.tags & {"script", "iframe", "object", "embed", "link", "a", "form", "svg", "base"}
    assert not [one for one in tags.attributes if one.startswith("on")]
    assert all(link.startswith("data:image/jpeg;base64,") for link in tags.links)
