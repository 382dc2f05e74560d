"""Every snippet of both cards runs as it is printed, in a process of its own, against a Hub that serves the folders."""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from huggingface_hub import HfApi

import dataset_builder.models
from cards import write_adapter_card, write_dataset_card
from hub.local.process import Running, start
from hub.push import push
from recipes import Recipe
from tests.made_up_run import ROWS, T2I, write_dataset
from training.adapters import checksum, write_adapter

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
LAYER = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
DATASET, ADAPTER, BASE = "coprov2/coprov2-emoji-world", "coprov2/coprov2-emoji-world-safety", "coprov2/tiny-base"


@dataclass
class Published:
    """A Hub with both repositories, and their cards as they were sent."""

    server: Running
    dataset: str
    adapter: str
    other_adapter: str
    place: Path

    def run(self, *command: str, user: str = "author") -> str:
        """Run a command as a user in a fresh environment and give its output."""
        home = self.place / f"home-{user}"
        names = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        programs = os.pathsep.join([str(self.place / "bin"), str(Path(sys.executable).parent), names["PATH"]])
        environment = {
            **names,
            "PATH": programs,
            "PYTHONPATH": str(ROOT),
            "HF_ENDPOINT": self.server.url,
            "HF_TOKEN": f"hf_{user}_token",
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }
        done = subprocess.run(command, cwd=self.place, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    def python(self, snippet: str, check: str) -> str:
        """Run a snippet of Python, and behind it a statement that prints what came of it."""
        (self.place / "snippet.py").write_text(f"{snippet}\n{check}\n", "utf8")
        return self.run(sys.executable, "snippet.py").strip()


def blocks(card: str, language: str) -> list[str]:
    """The snippets of a card in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", card, re.DOTALL | re.MULTILINE)


def write_lora(folder: Path, pipeline: StableDiffusionPipeline) -> None:
    module = pipeline.unet.get_submodule(LAYER)
    write_adapter(folder, {LAYER: (torch.ones(2, module.in_features), torch.ones(module.out_features, 2))})
    (folder / "coprov2.json").write_text(json.dumps({"method": "comerge", "weights": checksum(folder)}))


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, tiny_pipeline: StableDiffusionPipeline) -> Iterator[Published]:
    place = tmp_path_factory.mktemp("published")
    (place / "bin").mkdir()
    # The command of a checkout that was not installed.
    command = place / "bin" / "coprov2"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -c "from coprov2 import main; main()" "$@"\n')
    command.chmod(command.stat().st_mode | stat.S_IEXEC)
    users = [
        {"name": name, "tokens": [{"name": "all", "token": f"hf_{name}_token", "role": "write"}]}
        for name in ("owner", "author")
    ]
    orgs = [{"name": "coprov2", "members": {"owner": "admin"}}]
    with pytest.MonkeyPatch.context() as patch, start(place / "hub", users=users, orgs=orgs) as server:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        patch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        api = HfApi(endpoint=server.url, token="hf_owner_token")
        api.create_repo(BASE)
        tiny_pipeline.save_pretrained(place / "base")
        commit = api.upload_folder(repo_id=BASE, folder_path=place / "base").oid
        patch.setattr(dataset_builder.models, "identity", lambda *args, **kwargs: T2I)
        dataset = write_dataset_card(Recipe(), write_dataset(place / "dataset", Recipe()))
        push("data", place / "dataset", DATASET, private=False, api=api)
        write_lora(place / "adapter", dataset_builder.models.load_pipeline("emoji-world"))
        adapter = write_adapter_card(Recipe(), place / "adapter", None)
        push("adapter", place / "adapter", ADAPTER, private=False, api=api)
        patch.setattr(dataset_builder.models, "identity", lambda *args, **kwargs: f"{BASE}@{commit}")
        other = Recipe(base_model=BASE)
        other.publish.adapter = "other-safety"
        shutil.copytree(place / "adapter", place / "other")
        other_adapter = write_adapter_card(other, place / "other", None)
        push("adapter", place / "other", "coprov2/other-safety", private=False, api=api)
        for name, kind in ((DATASET, "dataset"), (ADAPTER, "model"), ("coprov2/other-safety", "model")):
            api.grant_access(name, "author", repo_type=kind)
        texts = [path.read_text("utf8") for path in (dataset, adapter, other_adapter)]
        yield Published(server, texts[0], texts[1], texts[2], place)


def test_the_dataset_cards_python_loads_both_configs_by_tag(published: Published) -> None:
    (snippet,) = blocks(published.dataset, "python")
    counts = {split: 7 * rows for split, rows in ROWS.items()}
    said = published.python(snippet, "print({s: len(r) for s, r in dataset.items()}, 'seed' in prompts['test'][0])")
    assert said == f"{counts} True"


@pytest.mark.parametrize("card", ["adapter", "other_adapter"])
def test_an_adapter_cards_python_draws_with_the_adapter(published: Published, card: str) -> None:
    (snippet,) = blocks(getattr(published, card), "python")
    assert len([line for line in snippet.splitlines() if line]) == 4
    said = published.python(snippet, "print(image.size, len(pipe.get_active_adapters()))")
    assert said == "(64, 64) 1"


@pytest.fixture
def pairs(published: Published) -> Callable[[], HfApi]:
    (example,) = blocks(published.dataset, "json")
    (published.place / "pairs.jsonl").write_text(example, "utf8")
    return lambda: HfApi(endpoint=published.server.url, token="hf_author_token")


def test_the_tools_commands_check_the_cards_example_and_open_a_pull_request(
    published: Published, pairs: Callable[[], HfApi], monkeypatch: pytest.MonkeyPatch
) -> None:
    tool, _ = blocks(published.dataset, "bash")
    said = published.run("bash", "-euo", "pipefail", "-c", tool)
    assert "dry run" in said and "opened" in said
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    opened = list(pairs().get_repo_discussions(DATASET, repo_type="dataset", author="author"))
    assert any(discussion.is_pull_request for discussion in opened)


def test_the_hubs_own_client_opens_a_pull_request_with_the_cards_example(
    published: Published, pairs: Callable[[], HfApi], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, plain = blocks(published.dataset, "bash")
    published.run("bash", "-euo", "pipefail", "-c", plain)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    api = pairs()
    found = [
        discussion.num
        for discussion in api.get_repo_discussions(DATASET, repo_type="dataset", author="author")
        if "contributions/author/pairs.jsonl"
        in api.list_repo_files(DATASET, repo_type="dataset", revision=f"refs/pr/{discussion.num}")
    ]
    assert len(found) == 1
    # What it asks of a reader stands in the files of the pull request, not in main.
    assert "contributions/author/pairs.jsonl" not in api.list_repo_files(DATASET, repo_type="dataset")


def test_the_pages_citations_are_entries_of_bibtex(published: Published) -> None:
    for card in (published.dataset, published.adapter):
        (entries,) = blocks(card, "bibtex")
        assert re.findall(r"^@(\w+)\{[\w-]+,$", entries, re.MULTILINE) == ["misc", "inproceedings"]
        assert entries.count("{") == entries.count("}")
