"""All experts of a recipe: finished ones stay, killed ones end with the same bytes, failed ones lose no other."""

import dataclasses
import importlib
import json
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from datasets import Dataset
from tqdm import tqdm
from typer.testing import CliRunner

import training.cli
import training.expert
import training.experts
from recipes import Recipe
from training.adapters import WEIGHTS_NAME, checksum
from training.config import ConfigError
from training.expert import Base, is_done, prior_of, train_expert
from training.experts import ExpertsError, train_experts
from training.metrics import METRICS
from training.pairs import PairData, PairsError, Picture, read_split
from training.reference import ReferenceCache
from training.workers import train_in_processes

Run = tuple[Recipe, Path, Path]


def _bytes(out: Path) -> dict[str, bytes]:
    """Every file of the experts' folders."""
    folder = out / "experts"
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_all_categories_are_trained_and_leave_adapter_and_record_only(run_folder: Run) -> None:
    recipe, dataset, out = run_folder
    experts = train_experts(recipe, dataset, out)
    assert list(experts) == ["violence", "hate", "shocking"]
    for category, folder in experts.items():
        assert folder == out / "experts" / category
        assert sorted(path.name for path in folder.iterdir()) == [WEIGHTS_NAME, "training.json"]
        record = json.loads((folder / "training.json").read_text())
        assert [entry["step"] for entry in record["history"]] == [3]
        assert set(METRICS) <= set(record["history"][0])
        assert record["pairs"] == 4 and record["category"] == category
        assert record["reference_gap"]["mean"] > 0
    assert len({checksum(folder) for folder in experts.values()}) == 3


def test_a_second_run_finds_everything_done(run_folder: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, dataset, out = run_folder
    first = train_experts(recipe, dataset, out)
    before = _bytes(out)
    monkeypatch.setattr(training.expert, "load_pipeline", lambda *_: pytest.fail("it loaded the model again"))
    recipe.train.save_steps, recipe.train.workers = 3, 2  # neither changes an expert
    assert train_experts(recipe, dataset, out) == first
    assert _bytes(out) == before


@pytest.mark.parametrize(
    "change", [{"learning_rate": 1e-3}, {"max_steps": 5}, {"prior_other_unsafe": True}, {"seed": 1}], ids=str
)
def test_another_setting_trains_anew(run_folder: Run, change: dict[str, Any]) -> None:
    recipe, dataset, out = run_folder
    recipe.train.categories = ["hate"]
    train_experts(recipe, dataset, out)
    before = checksum(out / "experts" / "hate")
    for name, value in change.items():
        setattr(recipe if name == "seed" else recipe.train, name, value)
    train_experts(recipe, dataset, out)
    assert checksum(out / "experts" / "hate") != before


def test_a_damaged_adapter_is_trained_anew(run_folder: Run) -> None:
    recipe, dataset, out = run_folder
    recipe.train.categories = ["hate"]
    train_experts(recipe, dataset, out)
    before = _bytes(out)
    path = out / "experts" / "hate" / WEIGHTS_NAME
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    train_experts(recipe, dataset, out)
    assert _bytes(out) == before


def test_an_experts_bytes_do_not_depend_on_which_others_are_trained(run_folder: Run) -> None:
    recipe, dataset, out = run_folder
    train_experts(recipe, dataset, out / "all")
    recipe.train.categories = ["shocking"]
    train_experts(recipe, dataset, out / "one")
    assert checksum(out / "all" / "experts" / "shocking") == checksum(out / "one" / "experts" / "shocking")


def test_the_base_is_as_it_was_after_an_expert(run_folder: Run) -> None:
    recipe, dataset, out = run_folder
    base = Base(recipe, read_split(dataset, "train", out / "cache"), out)
    before = {name: value.clone() for name, value in base.denoiser.model.state_dict().items()}
    train_expert(recipe, base, "hate", out, lambda _: None)
    after = base.denoiser.model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in after.items())


def _die(recipe: Recipe, dataset: Path, out: Path, place: str, count: int) -> None:
    """Train until the function at `place` is called for the `count`-th time, and be killed just before."""
    *owner_path, name = place.split(".")
    owner = importlib.import_module(".".join(owner_path[:2]))
    for part in owner_path[2:]:
        owner = getattr(owner, part)
    original, calls = getattr(owner, name), 0

    def kill(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(owner, name, kill)
    train_experts(recipe, dataset, out)


PLACES = [
    ("training.cache.write_atomically", 1),
    ("training.trainer.DiffusionDPOTrainer.training_step", 1),
    ("training.trainer.DiffusionDPOTrainer.training_step", 4),
    ("training.trainer.DiffusionDPOTrainer.training_step", 6),
    ("training.trainer.save_lora", 2),
    ("training.trainer.DiffusionDPOTrainer._save_optimizer_and_scheduler", 2),
    ("training.trainer.DiffusionDPOTrainer._save_rng_state", 1),
    ("training.trainer.write_atomically", 1),
    ("training.trainer.shutil.rmtree", 3),
    ("training.trainer.os.replace", 2),
    ("training.expert.save_lora", 1),
    ("training.expert._write_record", 2),
    ("training.expert.shutil.rmtree", 3),
]


@pytest.mark.slow
def test_killed_anywhere_and_run_again_gives_the_same_bytes(run_folder: Run) -> None:
    recipe, dataset, out = run_folder
    recipe.train.categories = ["violence", "hate"]
    train_experts(recipe, dataset, out / "straight")
    straight = _bytes(out / "straight")
    # A fork starts at once; where there is a GPU, which no fork survives, a fresh process does.
    context = multiprocessing.get_context("spawn" if torch.cuda.is_available() else "fork")
    for index, (place, count) in enumerate(PLACES):
        folder = out / str(index)
        process = context.Process(target=_die, args=(recipe, dataset, folder, place, count))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL, place
        train_experts(recipe, dataset, folder)
        assert _bytes(folder) == straight, place


@pytest.mark.slow
def test_workers_train_the_same_experts_and_a_failed_one_takes_no_other_along(run_folder: Run) -> None:
    recipe, dataset, out = run_folder
    recipe.train.categories = ["violence"]
    train_experts(recipe, dataset, out / "one")
    recipe = dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, workers=2))
    failed = train_in_processes(recipe, dataset, out / "two", ["violence", "nobody"], tqdm(disable=True))
    assert list(failed) == ["nobody"] and "train_dataset" in failed["nobody"]
    for category in recipe.train.categories:
        assert checksum(out / "two" / "experts" / category) == checksum(out / "one" / "experts" / category)
        record = (out / "two" / "experts" / category / "training.json").read_bytes()
        assert record == (out / "one" / "experts" / category / "training.json").read_bytes()


def test_one_expert_that_fails_does_not_lose_the_others(run_folder: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, dataset, out = run_folder

    def fails(recipe: Recipe, data: PairData, category: str) -> list[Picture]:
        if category == "hate":
            raise RuntimeError("no memory\nand more lines")
        return prior_of(recipe, data, category)

    with monkeypatch.context() as patched:
        patched.setattr(training.expert, "prior_of", fails)
        with pytest.raises(ExpertsError) as error:
            train_experts(recipe, dataset, out)
    assert "1 of 3 experts failed" in str(error.value) and "hate: RuntimeError: no memory" in str(error.value)
    assert "\n" not in str(error.value)
    assert sorted(path.parent.name for path in out.glob(f"experts/*/{WEIGHTS_NAME}")) == ["shocking", "violence"]
    assert len(train_experts(recipe, dataset, out)) == 3


def test_the_prior_holds_all_categories_safe_sides_and_on_request_the_others_unsafe_ones(
    pair_dataset: Dataset,
) -> None:
    recipe, data = Recipe(), PairData(pair_dataset)
    assert {picture.prompt for picture in prior_of(recipe, data, "hate")} == {pair.safe_prompt for pair in data.pairs}
    recipe.train.prior_other_unsafe = True
    unsafe = {picture.prompt for picture in prior_of(recipe, data, "hate")} - {p.safe_prompt for p in data.pairs}
    assert unsafe == {pair.unsafe_prompt for pair in data.pairs if pair.category != "hate"}


def test_categories_without_pairs_are_errors_or_are_told(
    run_folder: Run, pair_dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, dataset, out = run_folder
    kept = pair_dataset.filter(lambda row: row["category"] != 1)
    kept.to_parquet(dataset / "data" / "train-00000-of-00001.parquet")
    said: list[str] = []
    monkeypatch.setattr(training.experts.logger, "warning", said.append)
    assert training.experts.wanted_categories(recipe, PairData(kept)) == ["violence", "shocking"]
    assert said == ["no expert for hate: no pairs in the train split"]
    for name in ("hate", "nobody"):
        recipe.train.categories = ["violence", name]
        with pytest.raises(PairsError, match=f"{name!r} has no pairs"):
            train_experts(recipe, dataset, out)
    assert not (out / "experts").exists()


@pytest.mark.parametrize(
    ("field", "value"),
    [("loss_type", "sigmoyd"), ("lr_scheduler", "lineer"), ("prior_batch_size", 0), ("target_modules", ["nothing"])],
)
def test_a_setting_that_cannot_be_used_is_one_line(run_folder: Run, field: str, value: object) -> None:
    recipe, dataset, out = run_folder
    setattr(recipe.train, field, value)
    with pytest.raises((ConfigError, ExpertsError)) as error:
        train_experts(recipe, dataset, out)
    assert "\n" not in str(error.value) and (field in str(error.value) or "SchedulerType" in str(error.value))


def test_the_command_trains_the_named_category(run_folder: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, dataset, out = run_folder
    config = out.parent / "recipe.yaml"
    config.write_text(f"name: mine\nbase_model: {recipe.base_model}\ntrain: {{max_steps: 1, batch_size: 1, rank: 2}}\n")
    app = typer.Typer()
    training.cli.register(app)
    options = ["--config", str(config), "--set", "train.prior_batch_size=1", "--set", "train.alpha=2"]
    options += ["--out", str(out), "--data", str(dataset), "--category", "hate"]
    result = CliRunner().invoke(app, options, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert f"hate: {out / 'experts' / 'hate'}" in result.output
    assert [path.name for path in (out / "experts").iterdir()] == ["hate"]


def test_an_expert_that_fails_when_its_lora_is_in_leaves_the_base_as_it_came(
    run_folder: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, dataset, out = run_folder
    train = dataclasses.replace(recipe.train, precompute_ref_losses=True, train_text_encoder=True, sample_latents=False)
    recipe = dataclasses.replace(recipe, train=train)
    expected = train_experts(recipe, dataset, out / "whole")
    fill, calls = ReferenceCache.fill, []

    def fails_once(self: ReferenceCache, *args: Any) -> None:
        calls.append(args)
        if len(calls) == 1:
            raise OSError("no space left")
        fill(self, *args)

    with monkeypatch.context() as patched:
        patched.setattr(ReferenceCache, "fill", fails_once)
        with pytest.raises(ExpertsError, match=r"1 of 3 experts failed.*OSError: no space left"):
            train_experts(recipe, dataset, out / "cut")
    done = [name for name in expected if (out / "cut" / "experts" / name / WEIGHTS_NAME).is_file()]
    assert len(done) == 2
    for name in done:
        assert checksum(out / "cut" / "experts" / name) == checksum(expected[name])


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "7", "[" * 100_000, '{"fingerprint": "a"}'])
def test_an_expert_whose_record_is_damaged_is_not_done(tmp_path, content):
    (tmp_path / WEIGHTS_NAME).write_bytes(b"weights")
    (tmp_path / "training.json").write_text(content)
    assert not is_done(tmp_path, "a")
