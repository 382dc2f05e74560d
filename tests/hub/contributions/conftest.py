"""A published dataset, and what a contribution comes to when it is checked against it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hub.contributions.checks import Checked, Options, check_rows
from hub.contributions.limits import LIMITS
from hub.contributions.published import Published, published_folder
from hub.contributions.reading import Reading
from tests.hub.contributions.world import USER, publish

Check = Callable[..., Checked]


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """The published version."""
    return published_folder(publish(tmp_path_factory.mktemp("published") / "dataset"), "team/pairs", "0" * 40)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The folder of a contribution."""
    folder = tmp_path / "contribution"
    folder.mkdir()
    return folder


@pytest.fixture
def check(published: Published, place: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Check:
    """Checks a file, or the folder `place`; options of `Options` and `Limits` by name."""

    def run(source: Path = place, **given: Any) -> Checked:
        limits = replace(LIMITS, **{name: given.pop(name) for name in list(given) if hasattr(LIMITS, name)})
        checked = check_rows(Reading(source, limits=limits), published, Options(USER, tmp_path, limits=limits, **given))
        request.addfinalizer(lambda: checked.__exit__(None, None, None))
        return checked

    return run


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Rows as JSON lines; pictures are left out."""
    lines = [json.dumps({name: value for name, value in row.items() if not isinstance(value, bytes)}) for row in rows]
    path.write_text("\n".join(lines) + "\n", "utf8")
    return path
