"""One server for the tests of this folder, with users of every kind, and repositories of their own for each test."""

import itertools
from collections.abc import Callable, Iterator

import pytest

from hub.local.process import Running, start
from tests.hub.local.serving import ORGS, USERS, client

_NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with start(tmp_path_factory.mktemp("local") / "root", users=USERS, orgs=ORGS) as server:
        yield server


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stock client talks to servers, and uploads by plain LFS."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)


@pytest.fixture
def server(_server: Running, online: None) -> Running:
    """The server, with the stock client let online."""
    return _server


@pytest.fixture
def new_repository(server: Running) -> Callable[..., str]:
    """Makes a dataset repository of the organization `team` and gives its name."""

    def make(private: bool = False, gated: str | None = None) -> str:
        name = f"team/data-{next(_NUMBERS)}"
        api = client(server, "owner")
        api.create_repo(name, repo_type="dataset", private=private)
        if gated:
            api.update_repo_settings(name, repo_type="dataset", gated=gated)  # type: ignore[arg-type]
        return name

    return make
