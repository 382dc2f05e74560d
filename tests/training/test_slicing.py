"""One picture at a time: the same loss, metrics and gradient as the whole batch at once, and one picture's graph."""

import math
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from recipes import Recipe
from training.cache import EncodedPairs
from training.config import ConfigError, DiffusionDPOConfig
from training.denoisers import denoiser_for
from training.expert import expert_config
from training.losses import LOSSES
from training.pairs import PairData
from training.slicing import GradientSum
from training.trainer import DiffusionDPOTrainer, lora_config

MOVED = 0.02
OPTIONS: dict[str, dict[str, Any]] = {
    **{name: {"loss_type": name} | ({"beta": 0.5} if name == "dspo" else {}) for name in sorted(LOSSES)},
    "uneven shares": {"unsafe_prompt_weight": 3.0, "safe_prompt_weight": 0.5},
    "no preference term": {"dpo_weight": 0.0},
    "the prior alone": {"dpo_weight": 0.0, "sft_weight": 0.0},
    "no prior": {"prior_weight": 0.0, "prior_batch_size": 0},
    "no anchor": {"sft_weight": 0.0},
    "the reference's anchor": {"sft_target": "reference"},
    "the reference's anchor on both": {"sft_target": "reference_both"},
    "that anchor alone": {"sft_target": "reference_both", "dpo_weight": 0.0},
    "safeguard": {"safeguard_mu": 0.5},
    "margin": {"margin_weight": 2.0},
    "stored reference": {"precompute_ref_losses": True, "sample_latents": False},
}


@pytest.fixture
def new_trainer(new_pipeline: Callable, encoded: tuple[PairData, EncodedPairs], config: Callable) -> Callable:
    def make(moved: float = MOVED, **changes: Any) -> DiffusionDPOTrainer:
        data, cache = encoded
        pairs = [replace(pair, gap=0.1 * index) for index, pair in enumerate(data.pairs)]
        trainer = DiffusionDPOTrainer(
            denoiser_for(new_pipeline()),
            args=config(**changes),
            train_dataset=pairs,
            encoded=cache,
            peft_config=lora_config(4, 8, ["to_q", "to_k", "to_v", "to_out.0"]),
        )
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, value in trainer.model.named_parameters():
                if "lora_B" in name:
                    value.copy_(moved * torch.randn(value.shape, generator=generator))
        return trainer

    return make


def _step(trainer: DiffusionDPOTrainer) -> tuple[float, torch.Tensor, torch.Tensor]:
    """Loss, gradient and metrics of two pairs under both their prompts."""
    loss = trainer.compute_loss(trainer.model, trainer._prepare_inputs(trainer.data_collator([0, 1])))
    loss.backward()
    gradient = torch.cat([value.grad.flatten() for value in trainer.model.parameters() if value.requires_grad])
    return float(loss.detach()), gradient, trainer._sums


@pytest.mark.parametrize("name", OPTIONS)
def test_loss_gradient_and_metrics_are_those_of_the_whole_batch(new_trainer: Callable, name: str) -> None:
    whole = _step(new_trainer(**OPTIONS[name]))
    sliced = _step(new_trainer(batch_slicing=True, **OPTIONS[name]))
    assert sliced[0] == pytest.approx(whole[0], rel=1e-5)
    assert float(whole[1].abs().max()) > 1e-5
    torch.testing.assert_close(sliced[1], whole[1], rtol=1e-3, atol=1e-5 * float(whole[1].abs().max()))
    torch.testing.assert_close(sliced[2], whole[2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("changes", [{}, {"bf16": True}], ids=str)
def test_the_preference_term_is_exactly_ln_2_at_step_0(new_trainer: Callable, changes: dict[str, Any]) -> None:
    trainer = new_trainer(0.0, batch_slicing=True, beta=5000.0, sft_weight=0.0, prior_weight=0.0, **changes)
    with trainer.accelerator.autocast():
        assert _step(trainer)[0] == pytest.approx(math.log(2), rel=1e-7)


@pytest.mark.parametrize("sft_target", ["reference", "reference_both"])
def test_one_picture_at_a_time_goes_through_the_network_and_its_graph_is_gone_before_the_next(
    new_trainer: Callable, monkeypatch: pytest.MonkeyPatch, sft_target: str
) -> None:
    trainer = new_trainer(batch_slicing=True, sft_target=sft_target)
    predict, before = trainer.denoiser.predict, []
    rows, alive = [], []

    def watched(model: Any, noisy: torch.Tensor, *others: Any) -> torch.Tensor:
        rows.append(len(noisy))
        alive.append(sum(one() is not None for one in before))
        prediction = predict(model, noisy, *others)
        if prediction.requires_grad:
            before.append(weakref.ref(prediction))
        return prediction

    monkeypatch.setattr(trainer.denoiser, "predict", watched)
    _step(trainer)
    assert len(before) == 4 + 4 + 2  # winners, losers, prior
    assert set(rows) == {1} and set(alive) == {0}


def test_training_goes_the_same_way(new_trainer: Callable) -> None:
    found = []
    for changes in ({}, {"batch_slicing": True, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 1}):
        # The prior of a micro-batch is its own: two pictures of one are one of each of two.
        size = 1 if changes else 2
        trainer = new_trainer(0.0, optim="sgd", learning_rate=0.1, prior_batch_size=size, **changes)
        trainer.train()
        found.append({name: value.detach() for name, value in trainer.model.named_parameters() if value.requires_grad})
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-4, atol=1e-6)


def test_a_sum_of_terms_with_a_value_that_is_known_has_the_gradient_of_the_whole() -> None:
    weights = [torch.nn.Parameter(torch.tensor([1.0, 2.0])), torch.nn.Parameter(torch.tensor(3.0))]

    def errors() -> tuple[torch.Tensor, torch.Tensor]:
        return (weights[0].square().sum() * weights[1]).view(1), (weights[0].sum() + weights[1].exp()).view(1)

    chosen, rejected = errors()
    expected = torch.autograd.grad((chosen * rejected.square()).sum(), weights)
    total = GradientSum(weights)
    chosen, rejected = errors()
    kept = total.of(rejected)
    known = rejected.detach().requires_grad_()
    total.add((chosen * known.square()).sum(), known, kept)
    # Gradient accumulation scales a loss before it goes back.
    (total.loss(torch.tensor(7.0)) / 2).backward()
    for parameter, gradient in zip(weights, expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient / 2)


def test_fp16_is_refused_and_a_recipe_sets_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="batch_slicing: takes gradients without fp16's loss scaling"):
        DiffusionDPOConfig(str(tmp_path), batch_slicing=True, fp16=True)
    recipe = Recipe()
    assert not expert_config(recipe, "violence", tmp_path).batch_slicing
    recipe.train.batch_slicing = True
    assert expert_config(recipe, "violence", tmp_path).batch_slicing
