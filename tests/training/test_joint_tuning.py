"""The joint tuning after a merge: it goes on from the merge, is resumed exactly, and only where it is asked for."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import training.joint_tuning
from recipes import Recipe
from recipes.merge_plans import planned_merges
from training.adapters import WEIGHTS_NAME, load_lora
from training.experts import train_experts
from training.low_rank import full
from training.merge import merge_experts

Run = tuple[Recipe, Path, Path]


@pytest.fixture
def tuned(run_folder: Run) -> tuple[Recipe, Path, Path, dict[str, Path]]:
    """A recipe whose merge is tuned for four steps, beside the same merge untuned, and its experts."""
    recipe, dataset, out = run_folder
    recipe.merge.method, recipe.merge.compare = "sum", ["sum:gain=1"]
    recipe.merge.rank, recipe.merge.tune_steps, recipe.train.save_steps = 6, 4, 2
    return recipe, dataset, out, train_experts(recipe, dataset, out)


def deltas(folder: Path) -> dict[str, torch.Tensor]:
    return {layer: full(product) for layer, product in load_lora(folder).folded().items()}


def test_every_layer_moves_a_little_from_the_merge(tuned: tuple[Recipe, Path, Path, dict[str, Path]]) -> None:
    recipe, dataset, out, experts = tuned
    folders = merge_experts(recipe, experts, dataset, out)
    before, after = deltas(folders["sum-gain-1"]), deltas(folders["sum"])
    assert set(before) == set(after)
    for layer, delta in before.items():
        moved = (after[layer] - delta).norm() / delta.norm()
        assert 0 < moved < 10, layer
    record = json.loads((folders["sum"] / "coprov2.json").read_text("utf8"))
    assert record["tuning"]["steps"] == 4 and record["rank"] == 6
    assert json.loads((folders["sum-gain-1"] / "coprov2.json").read_text("utf8"))["tuning"] is None
    assert not (out / "work" / "tuning" / "sum").exists()


def test_a_rate_of_nearly_zero_leaves_the_merge(tuned: tuple[Recipe, Path, Path, dict[str, Path]]) -> None:
    recipe, dataset, out, experts = tuned
    recipe.merge.tune_learning_rate = 1e-12
    folders = merge_experts(recipe, experts, dataset, out)
    before, after = deltas(folders["sum-gain-1"]), deltas(folders["sum"])
    for layer, delta in before.items():
        torch.testing.assert_close(after[layer], delta, atol=1e-6, rtol=1e-4)


def test_broken_off_and_run_again_it_ends_with_the_same_bytes(
    tuned: tuple[Recipe, Path, Path, dict[str, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, dataset, out, experts = tuned
    straight = (merge_experts(recipe, experts, dataset, out)["sum"] / WEIGHTS_NAME).read_bytes()
    (out / "merged" / "coprov2.json").unlink()
    original = training.joint_tuning.ProgressCallback

    class Break(original):  # type: ignore[misc, valid-type]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 3:
                raise KeyboardInterrupt

    monkeypatch.setattr(training.joint_tuning, "ProgressCallback", Break)
    with pytest.raises(KeyboardInterrupt):
        merge_experts(recipe, experts, dataset, out)
    assert (out / "work" / "tuning" / "sum" / "checkpoint-2").is_dir()
    monkeypatch.setattr(training.joint_tuning, "ProgressCallback", original)
    assert (merge_experts(recipe, experts, dataset, out)["sum"] / WEIGHTS_NAME).read_bytes() == straight


def test_killed_while_its_checkpoints_are_removed_it_ends_with_the_same_bytes(
    tuned: tuple[Recipe, Path, Path, dict[str, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint without its optimizer would be gone on from without a word, to other bytes."""
    recipe, dataset, out, experts = tuned
    straight = (merge_experts(recipe, experts, dataset, out)["sum"] / WEIGHTS_NAME).read_bytes()
    (out / "merged" / "coprov2.json").unlink()
    work, remove = out / "work" / "tuning" / "sum", shutil.rmtree

    def killed(path: Any, *args: Any, **options: Any) -> None:
        remove(path if Path(path) != work else work / "checkpoint-4", *args, **options)
        if Path(path) == work:
            (work / "checkpoint-2" / "optimizer.pt").unlink()
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            merge_experts(recipe, experts, dataset, out)
    assert (work / "checkpoint-2").is_dir()
    assert (merge_experts(recipe, experts, dataset, out)["sum"] / WEIGHTS_NAME).read_bytes() == straight


def test_another_weight_of_the_prior_is_another_tuning(
    tuned: tuple[Recipe, Path, Path, dict[str, Path]],
) -> None:
    recipe, dataset, out, experts = tuned
    folders = merge_experts(recipe, experts, dataset, out)
    before, plain = deltas(folders["sum-gain-1"]), deltas(folders["sum"])
    # What train says already is no other tuning; another weight is, and goes on record.
    written = (out / "merged" / WEIGHTS_NAME).stat().st_mtime_ns
    recipe.merge.tune_prior_weight = recipe.train.prior_weight
    assert (merge_experts(recipe, experts, dataset, out)["sum"] / WEIGHTS_NAME).stat().st_mtime_ns == written
    recipe.merge.tune_prior_weight = recipe.train.prior_weight + 1000.0
    held = deltas(merge_experts(recipe, experts, dataset, out)["sum"])
    record = json.loads((folders["sum"] / "coprov2.json").read_text("utf8"))
    assert record["tuning"]["train"]["prior_weight"] == recipe.merge.tune_prior_weight
    assert any(not torch.equal(held[layer], plain[layer]) for layer in before)


def test_a_compared_merge_is_tuned_only_when_its_entry_says_so(run_folder: Run) -> None:
    recipe, _, _ = run_folder
    recipe.merge.tune_steps, recipe.merge.compare = 9, ["comerge", "ties:tune_steps=3"]
    assert {name: plan.tune_steps for name, plan in planned_merges(recipe).items()} == {
        recipe.merge.method: 9,
        **({"comerge": 0} if recipe.merge.method != "comerge" else {}),
        "ties-tune_steps-3": 3,
    }
