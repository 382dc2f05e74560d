"""What the quickstart writes loads in an environment that has datasets and diffusers with their needs, and not us: from
its folders, and by tag from the Hub at HF_ENDPOINT, here hub/local.

It installs packages, so it stands behind the marker `stock`: `make test-stock`."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from dataset_builder.models import model_folder
from hub.local.process import start

pytestmark = [pytest.mark.stock, pytest.mark.timeout(1500)]
ROOT = Path(__file__).parents[2]
TOKENS = {"write": "hf_stock_maker_writes", "read": "hf_stock_maker_reads"}
USERS = [{"name": "maker", "tokens": [{"name": r, "token": t, "role": r} for r, t in TOKENS.items()]}]

SCRIPT = """
import importlib.util, sys
for ours in ("recipes", "dataset_builder", "training", "cards", "hub"):
    assert importlib.util.find_spec(ours) is None, ours
options = {"revision": sys.argv[4]} if len(sys.argv) > 4 else {}
from datasets import load_dataset
rows = load_dataset(sys.argv[1], split="train", **options)
print(rows.num_rows, rows[0]["safe_image"].size)
first = next(iter(load_dataset(sys.argv[1], split="train", streaming=True, **options)))
assert first["pair_id"] == rows[0]["pair_id"]
import torch
from diffusers import DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained(sys.argv[3])
def draw():
    return pipe("a picture of a pistol on the grass", num_inference_steps=4, height=64, width=64,
                generator=torch.Generator().manual_seed(0), output_type="pt").images
before = draw()
pipe.load_lora_weights(sys.argv[2], **options)
after = draw()
assert (before - after).abs().max() > 0, "the adapter changes nothing"
print("loaded", pipe.get_active_adapters(), f"{(before - after).abs().mean():.6f}")
"""


@pytest.fixture(scope="module")
def stock_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that holds what the three commands install."""
    folder = tmp_path_factory.mktemp("stock")
    venv.create(folder / "env", with_pip=True)
    python = folder / "env" / "bin" / "python"
    # peft is what diffusers needs for load_lora_weights; the cap on torch is that of pyproject.toml.
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "torch<2.14", "datasets", "diffusers", "transformers", "peft"],
        check=True,
    )
    assert python != Path(sys.executable)
    return python


def run_script(python: Path, folder: Path, *words: object, **variables: str) -> str:
    """Run `SCRIPT` in an empty folder; what it printed."""
    folder.mkdir(exist_ok=True)
    (folder / "script.py").write_text(SCRIPT, "utf8")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and k != "PYTHONPATH"}
    environment |= {"HF_HOME": str(folder / "huggingface"), "HF_HUB_DISABLE_TELEMETRY": "1", **variables}
    done = subprocess.run(
        [python, "script.py", *map(str, words)], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "loaded" in done.stdout
    return done.stdout


def test_dataset_and_adapter_load_without_this_project(stock_python: Path, small_run: Path, tmp_path: Path) -> None:
    run_script(stock_python, tmp_path / "here", small_run / "dataset", small_run / "merged", model_folder("t2i"))


def test_both_repositories_load_by_tag_from_the_hub(stock_python: Path, small_run: Path, tmp_path: Path) -> None:
    with start(tmp_path / "hub", users=USERS) as server:
        hub = {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "home")}
        environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
        environment |= hub | {"HF_TOKEN": TOKENS["write"], "PYTHONPATH": str(ROOT)}
        for kind, folder, name in (("data", "dataset", "maker/pairs"), ("adapter", "merged", "maker/adapter")):
            push = [sys.executable, "-m", "coprov2", "push", kind, str(small_run / folder), "--to", name]
            done = subprocess.run(
                [*push, "--tag", "v1.0.0"], env=environment, cwd=tmp_path, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stderr[-3000:]
        published = run_script(
            stock_python,
            tmp_path / "published",
            *("maker/pairs", "maker/adapter", model_folder("t2i"), "v1.0.0"),
            HF_ENDPOINT=server.url,
            HF_TOKEN=TOKENS["read"],
        )
    # The same rows and the same change of the same picture as from the folders that were published.
    local = run_script(
        stock_python, tmp_path / "local", small_run / "dataset", small_run / "merged", model_folder("t2i")
    )
    assert published == local
