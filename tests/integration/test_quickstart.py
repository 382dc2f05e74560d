"""The whole chain, small: it needs no network, a second run has nothing to do, kills change nothing."""

import hashlib
import json
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from datasets import load_dataset
from diffusers import StableDiffusionPipeline

from dataset_builder.models import model_folder
from tests.integration.conftest import start_quickstart

pytestmark = pytest.mark.slow


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_nothing_reaches_for_the_network(small_run: Path) -> None:
    assert not (small_run.parent / "scratch" / "attempts").exists()


def test_results_hold_every_model_with_intervals(small_run: Path) -> None:
    results = json.loads((small_run / "evaluation" / "results.json").read_text("utf8"))
    assert {"base", "merged", "expert/violence"} <= set(results["models"])
    for model in ("base", "merged"):
        for measure in ("unsafe_rate", "unsafe_rate_unseen_concepts", "counterpart_rate", "safe_fidelity"):
            value = results["models"][model][measure]
            assert value["low"] <= value["value"] <= value["high"] and value["n"] > 0
    assert results["seconds"] and results["provenance"]


def test_the_folders_load_with_stock_clients(small_run: Path) -> None:
    dataset = load_dataset(str(small_run / "dataset"))
    assert {"train", "validation", "test", "test_unseen_concepts"} == set(dataset)
    assert dataset["train"][0]["unsafe_image"].size == (64, 64)
    assert "unsafe_image" not in load_dataset(str(small_run / "dataset"), "prompts")["train"].column_names
    pipeline = StableDiffusionPipeline.from_pretrained(model_folder("t2i"))
    pipeline.load_lora_weights(str(small_run / "merged"))
    assert pipeline.get_active_adapters()


def test_no_prompt_stands_in_two_splits(small_run: Path) -> None:
    seen: dict[str, str] = {}
    for split, rows in load_dataset(str(small_run / "dataset"), "prompts").items():
        for row in rows:
            for prompt in (row["unsafe_prompt"], row["safe_prompt"]):
                assert seen.setdefault(prompt, split) == split


def test_the_report_is_self_contained(small_run: Path) -> None:
    page = (small_run / "report" / "index.html").read_text("utf8")
    assert "<script src" not in page and 'href="http' not in page.split("<body")[0]


def test_a_second_run_finds_everything_done(small_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(small_run, out, symlinks=True)
    before = digests(out / "dataset") | digests(out / "merged") | digests(out / "evaluation")
    started = time.monotonic()
    assert start_quickstart(out, tmp_path / "scratch").wait(timeout=120) == 0
    assert time.monotonic() - started < 20
    assert digests(out / "dataset") | digests(out / "merged") | digests(out / "evaluation") == before


def test_killed_anywhere_and_run_again_it_ends_with_the_same_bytes(small_run: Path, tmp_path: Path) -> None:
    out, moments = tmp_path / "out", random.Random(0)
    for _ in range(6):
        process = start_quickstart(out, tmp_path / "scratch")
        try:
            process.wait(timeout=moments.uniform(6, 22))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
    assert start_quickstart(out, tmp_path / "scratch").wait(timeout=500) == 0
    assert digests(out / "dataset") == digests(small_run / "dataset")
    weights = "pytorch_lora_weights.safetensors"
    assert (out / "merged" / weights).read_bytes() == (small_run / "merged" / weights).read_bytes()
    for expert in sorted((small_run / "experts").iterdir()):
        assert (out / "experts" / expert.name / weights).read_bytes() == (expert / weights).read_bytes()
