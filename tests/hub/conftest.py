"""A fake Hub on loopback for each test, with the stock client pointed at it, and folders to send."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi

from cards import write_adapter_card, write_dataset_card
from recipes import Recipe
from tests.hub.fake_hub import FakeHub
from tests.made_up_run import T2I, write_dataset
from training.adapters import checksum, write_adapter


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    """The fake Hub; the client is online for it alone, and uploads by plain LFS."""
    server = FakeHub()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub_cache"))
    # Nobody else is there to collide with again.
    monkeypatch.setattr("hub.publishing._LONGEST_PAUSE", 0.0)
    yield server
    server.close()


@pytest.fixture
def api(hub: FakeHub) -> HfApi:
    """The stock client of the fake Hub."""
    return HfApi(endpoint=hub.url, token="hf_made_up")


@pytest.fixture(scope="session")
def _dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_dataset(tmp_path_factory.mktemp("send") / "dataset", Recipe(), rows={"train": 1, "test": 1})
    write_dataset_card(Recipe(), folder)
    return folder


@pytest.fixture
def dataset(_dataset: Path, tmp_path: Path) -> Path:
    """A dataset folder that is fit to be sent."""
    return Path(shutil.copytree(_dataset, tmp_path / "dataset"))


@pytest.fixture
def adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An adapter folder that is fit to be sent; its manifest states no version."""
    folder = tmp_path / "merged"
    write_adapter(folder, {"mid": (torch.ones(2, 4), torch.ones(4, 2))})
    (folder / "coprov2.json").write_text(json.dumps({"method": "comerge", "weights": checksum(folder)}))
    monkeypatch.setattr("dataset_builder.models.identity", lambda *args, **kwargs: T2I)
    write_adapter_card(Recipe(), folder, None)
    return folder
