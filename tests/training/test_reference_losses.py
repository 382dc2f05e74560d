"""Stored answers of the reference with every family and every loss, and held-out pairs with losses that need none."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from tests.training.runs import rows_of_a_step
from tests.training.tiny_families import load
from training.config import ConfigError, DiffusionDPOConfig
from training.denoisers import DenoiserError, denoiser_for, module_hash
from training.losses import denoising_error
from training.pairs import PairsError
from training.trainer import DiffusionDPOTrainer

Config = Callable[..., DiffusionDPOConfig]
Folders = dict[str, Path]
# A larger beta would multiply the last bits by it.
FIXED: dict[str, Any] = {"sample_latents": False, "ref_draws": 2, "prompt_dropout": 0.3, "beta": 1.0, "resolution": 16}
MAPO: dict[str, Any] = {"loss_type": "mapo", "beta": 1.0}
NO_TERM: dict[str, Any] = {"dpo_weight": 0.0}


@pytest.fixture
def judged(two_sizes: Dataset) -> Dataset:
    verdicts = [
        [[{"judge": "one", "unsafe": s > 0.5, "score": s}] for s in scores] for scores in ([0.9, 0.7], [0.1] * 2)
    ]
    return two_sizes.add_column("unsafe_verdict", verdicts[0]).add_column("safe_verdict", verdicts[1])


@pytest.fixture
def new_trainer(folders: Folders, judged: Dataset, config: Config) -> Callable[..., DiffusionDPOTrainer]:
    """Makes a trainer whose adapter does something."""

    def make(family: str = "sdxl", eval_dataset: Dataset | None = None, **changes: object) -> DiffusionDPOTrainer:
        args = config(**{**FIXED, **changes})
        trainer = DiffusionDPOTrainer(load(folders[family]), args=args, train_dataset=judged, eval_dataset=eval_dataset)
        with torch.no_grad():
            for name, value in trainer.model.named_parameters():
                if "lora_" in name:
                    value.copy_(torch.linspace(-0.3, 0.3, value.numel()).view_as(value))
        trainer.model.eval()
        return trainer

    return make


def _losses(trainer: DiffusionDPOTrainer) -> list[float]:
    """Of ten batches of two pairs, which have four draws each: two sides and two fixed draws."""
    batches = [trainer._prepare_inputs(trainer.data_collator([number, number + 1])) for number in range(0, 20, 2)]
    with torch.no_grad():
        return [float(trainer.compute_loss(trainer.model, batch)) for batch in batches]


@pytest.mark.parametrize("family", ["sdxl", "sd3", "flux"])
def test_a_familys_stored_losses_are_those_computed_on_the_fly(new_trainer: Callable, family: str) -> None:
    changes = {"sft_target": "reference", "margin_weight": 2.0}
    stored, direct = new_trainer(family, precompute_ref_losses=True, **changes), new_trainer(family, **changes)
    batch = stored.data_collator([0, 1])
    assert {"ref_errors", "ref_anchor", "ref_prior", "gaps"} <= batch.keys()
    assert torch.equal(batch["gaps"], direct.data_collator([0, 1])["gaps"])
    losses = _losses(direct)
    assert _losses(stored) == pytest.approx(losses, rel=1e-5)
    assert len(set(losses)) > 1


@pytest.mark.parametrize("sft_target", ["data", "reference", "reference_both"])
@pytest.mark.parametrize("changes", [MAPO, NO_TERM], ids=str)
def test_no_errors_are_stored_where_no_loss_compares(
    new_trainer: Callable, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], sft_target: str
) -> None:
    settings = {**changes, "sft_target": sft_target}
    stored, direct = new_trainer(precompute_ref_losses=True, **settings), new_trainer(**settings)
    batch = stored.data_collator([0, 1])
    found = {name for name in batch if name.startswith("ref_")}
    assert found == {"ref_prior"} | ({"ref_anchor"} if sft_target != "data" else set())
    # One category: its pictures of the prior, and its anchors.
    shards = list((Path(stored.args.output_dir) / "cache" / "reference").iterdir())
    assert len(shards) == len(found)
    assert _losses(stored) == pytest.approx(_losses(direct), rel=1e-5)
    # Two pairs under two prompts and two pictures of the prior: the policy's pass alone.
    assert rows_of_a_step(stored, monkeypatch) == [10]


def test_a_loss_that_reads_whole_predictions_is_refused(config: Config) -> None:
    settings = {"precompute_ref_losses": True, "sample_latents": False, "loss_type": "dspo", "beta": 0.5}
    with pytest.raises(ConfigError, match=r"^precompute_ref_losses: .*'dspo' .* set precompute_ref_losses to F.*$"):
        config(**settings)
    assert config(**settings, dpo_weight=0.0).ref_draws == 4


def test_what_is_stored_is_of_one_resolution_and_one_framing(
    new_trainer: Callable, judged: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, original = [], DiffusionDPOTrainer._reference

    def counted(self: Any, noisy: torch.Tensor, *args: Any) -> torch.Tensor:
        calls.append(len(noisy))
        return original(self, noisy, *args)

    monkeypatch.setattr(DiffusionDPOTrainer, "_reference", counted)

    def rows(**changes: object) -> int:
        calls.clear()
        new_trainer(precompute_ref_losses=True, **changes)
        return sum(calls)

    # Two pairs, two sides and two draws, winners and losers, and the prior's two pictures with two draws.
    assert rows() == 16 + 4 and rows() == 0
    assert rows(resolution=24) == 20 and rows(resolution=24) == 0
    assert rows(resolution=16) == 0
    # The same latents, of which the network is told something else.
    maker = "training.draws.BatchMaker.image_conditioning"
    monkeypatch.setattr(maker, lambda self, image: {"time_ids": torch.zeros(6)})
    assert rows() == 20 and rows() == 0


def test_held_out_pictures_are_brought_to_the_resolution(
    new_trainer: Callable, judged: Dataset, pair_dataset: Dataset
) -> None:
    # 16x16 pixels beside pictures of two other sizes.
    trainer = new_trainer(eval_dataset=pair_dataset)
    batch = trainer._eval_maker.held_out_batch([0])
    assert batch["moments"].shape == (4, 8, 8, 8)
    assert batch["conditioning"]["time_ids"].tolist() == [[16.0, 16.0, 0.0, 0.0, 16.0, 16.0]] * 4
    with pytest.raises(PairsError, match="12 of 14 pairs have no"):
        new_trainer(eval_dataset=pair_dataset, margin_weight=1.0)


def test_held_out_pictures_of_another_size_need_a_resolution(
    folders: Folders, judged: Dataset, pair_dataset: Dataset, config: Config
) -> None:
    # Of one size among themselves.
    wide = Dataset.from_dict({**judged[:], "unsafe_image": judged["safe_image"][:]})
    with pytest.raises(DenoiserError, match=r"set train\.resolution"):
        DiffusionDPOTrainer(load(folders["sd15"]), args=config(), train_dataset=pair_dataset, eval_dataset=wide)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, {"rewards/margins", "rewards/accuracies"}),
        ({"loss_type": "dspo", "beta": 0.5}, {"rewards/margins", "rewards/accuracies"}),
        ({"margin_weight": 1.0}, {"rewards/margins", "rewards/accuracies"}),
        (MAPO, {"rewards/margins", "rewards/accuracies", "error/chosen", "error/rejected"}),
        (NO_TERM, {"error/chosen", "error/rejected"}),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else None,
)
def test_held_out_metrics_are_those_with_a_meaning(
    new_trainer: Callable, judged: Dataset, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], names: set[str]
) -> None:
    trainer = new_trainer(eval_dataset=judged, eval_draws=3, **changes)
    ran: list[int] = []
    original = trainer._reference
    monkeypatch.setattr(trainer, "_reference", lambda *args: ran.append(1) or original(*args))
    found = trainer.evaluate()
    assert {name.removeprefix("eval_") for name in found if "/" in name} == names
    assert bool(ran) == ("error/chosen" not in names)
    batch = trainer._eval_maker.held_out_batch(list(range(6)))
    noisy, target = trainer._noised(batch)
    with torch.no_grad():
        prediction = trainer.denoiser.predict(trainer.model, noisy, batch["timesteps"], batch["conditioning"])
    chosen, rejected = denoising_error(prediction, target).chunk(2)
    if not ran:
        assert found["eval_error/chosen"] == pytest.approx(float(chosen.mean()), rel=1e-4)
        assert found["eval_error/rejected"] == pytest.approx(float(rejected.mean()), rel=1e-4)
    if changes == MAPO:
        margin = -0.5 * float((chosen - rejected).mean())
        assert found["eval_rewards/margins"] == pytest.approx(margin, rel=1e-3)
        assert found["eval_loss"] > found["eval_error/chosen"]
    if changes == NO_TERM:
        assert found["eval_loss"] == pytest.approx(found["eval_error/chosen"], rel=1e-4)


def test_without_a_preference_term_the_winners_error_ends_the_training(
    new_trainer: Callable, judged: Dataset, config: Config, tmp_path: Path
) -> None:
    settings = {"early_stopping_patience": 1, "eval_steps": 1, "output_dir": str(tmp_path / "stopped")}
    assert config(**settings).metric_for_best_model == "rewards/margins" and config(**settings).greater_is_better
    trainer = new_trainer(eval_dataset=judged, max_steps=9, **settings, **NO_TERM)
    trainer.compute_metrics = lambda _: {"error/chosen": [3.0, 2.0, 2.5, *[1.0] * 6][trainer.state.global_step - 1]}
    trainer.train()
    assert trainer.state.global_step == 3 and trainer.state.best_global_step == 2


def test_a_denoiser_whose_config_differs_is_another_network(folders: Folders) -> None:
    first, second = (denoiser_for(load(folders["sdxl"])).model for _ in range(2))
    assert module_hash(first) == module_hash(second)
    second.register_to_config(norm_eps=1e-3)
    assert module_hash(first) != module_hash(second) and module_hash(first, 4) != module_hash(second, 4)
