"""The stored answers of the reference are those that a step would compute for the same draws; steps compute none."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

import training.reference
from recipes import Recipe
from training.adapters import checksum
from training.cache import EncodedPairs
from training.config import ConfigError, DiffusionDPOConfig
from training.denoisers import denoiser_for
from training.experts import train_experts
from training.pairs import PairData, safe_pictures, unsafe_pictures
from training.trainer import DiffusionDPOTrainer, lora_config

Config = Callable[..., DiffusionDPOConfig]
Encoded = tuple[PairData, EncodedPairs]
FIXED: dict[str, Any] = {"sample_latents": False, "ref_draws": 2, "prompt_dropout": 0.3}


@pytest.fixture
def new_trainer(new_pipeline: Callable, encoded: Encoded, config: Config) -> Callable[..., DiffusionDPOTrainer]:
    def make(prediction_type: str = "epsilon", trainer: dict[str, Any] | None = None, **changes: object) -> Any:
        data, cache = encoded
        values: dict[str, Any] = {"train_dataset": data.pairs, "encoded": cache}
        values["peft_config"] = lora_config(4, 8, ["attn2.to_k", "attn2.to_v"])
        model = denoiser_for(new_pipeline(prediction_type))
        return DiffusionDPOTrainer(model, args=config(**{**FIXED, **changes}), **{**values, **(trainer or {})})

    return make


def _moved(trainer: DiffusionDPOTrainer) -> DiffusionDPOTrainer:
    """With an adapter that does something."""
    with torch.no_grad():
        for name, value in trainer.model.named_parameters():
            if "lora_" in name:
                value.copy_(torch.linspace(-0.3, 0.3, value.numel()).view_as(value))
    return trainer


def _loss(trainer: DiffusionDPOTrainer, numbers: list[int]) -> float:
    batch = trainer._prepare_inputs(trainer.data_collator(numbers))
    with torch.no_grad():
        return float(trainer.compute_loss(trainer.model.eval(), batch))


@pytest.mark.parametrize("sft_target", ["data", "reference", "reference_both"])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_stored_losses_are_those_computed_on_the_fly(
    new_trainer: Callable, prediction_type: str, sft_target: str
) -> None:
    # A larger beta would multiply the last bits by it.
    stored = _moved(new_trainer(prediction_type, sft_target=sft_target, beta=1.0, precompute_ref_losses=True))
    direct = _moved(new_trainer(prediction_type, sft_target=sft_target, beta=1.0))
    losses = [_loss(direct, [number, number + 1]) for number in range(0, 50, 2)]
    assert [_loss(stored, [number, number + 1]) for number in range(0, 50, 2)] == pytest.approx(losses, rel=1e-6)
    assert len(set(losses)) > 20


def test_stored_losses_are_the_same_bits_where_the_batches_have_one_shape(new_trainer: Callable) -> None:
    changes: dict[str, Any] = {"prior_weight": 0.0, "safe_prompt_weight": 0.0, "beta": 5000.0}
    stored = _moved(new_trainer(precompute_ref_losses=True, **changes))
    direct = _moved(new_trainer(**changes))
    # Eight pairs are 16 rows, and so are the winners and losers of four pairs with two draws each.
    for numbers in ([0, 1, 2, 3, 4, 5, 6, 7], [8, 9, 10, 11, 12, 13, 14, 15]):
        batch = stored.data_collator(numbers)
        assert len(batch["moments"]) == training.reference.ROWS
        assert _loss(stored, numbers) == _loss(direct, numbers)


def test_stored_predictions_are_the_same_bits_as_of_the_same_call(new_trainer: Callable, encoded: Encoded) -> None:
    trainer, data = new_trainer(precompute_ref_losses=True, sft_target="reference"), encoded[0]
    maker = trainer.data_collator
    pictures = [picture for picture in safe_pictures(data.pairs) if picture.group == "hate/safe"]
    draws = [maker.fixed_picture(picture, draw) for picture in pictures for draw in range(2)]
    batch = maker.stack(draws)
    noisy, _ = trainer._noised(batch)
    with torch.no_grad():
        expected = trainer._reference(noisy, batch["timesteps"], batch["conditioning"])
    found = maker.reference.batch([(data.pairs[0], "unsafe_prompt", 0)], [(p, d) for p in pictures for d in range(2)])
    assert torch.equal(found["ref_prior"], expected)


def test_no_step_runs_the_reference(new_trainer: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = new_trainer(precompute_ref_losses=True, sft_target="reference")
    direct = new_trainer(sft_target="reference")
    calls = {}
    for name, trainer in (("stored", stored), ("direct", direct)):
        predict, seen = trainer.denoiser.predict, []

        def counts(model: PeftModel, *args: Any, predict: Any = predict, seen: list[bool] = seen) -> torch.Tensor:
            seen.append(torch.is_grad_enabled())
            return predict(model, *args)

        trainer.denoiser.predict = counts
        trainer.train()
        calls[name] = seen
    # Per step the policy once, and without the cache the reference on the batch and on the winners again.
    assert calls["stored"] == [True] * 3
    assert calls["direct"] == [False, False, True] * 3


def test_training_on_stored_losses_ends_where_training_on_computed_ones_does(new_trainer: Callable) -> None:
    weights = []
    for stored in (True, False):
        trainer = new_trainer(precompute_ref_losses=stored, max_steps=8, sft_target="reference")
        trainer.train()
        weights.append({name: value for name, value in trainer.model.named_parameters() if "lora_" in name})
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=1e-3, atol=1e-4)


def test_a_pair_has_k_draws_and_then_the_first_again(new_trainer: Callable, encoded: Encoded) -> None:
    maker = new_trainer(prior_weight=0.0, safe_prompt_weight=0.0, ref_draws=3).data_collator
    size, timesteps = len(encoded[0].pairs), {}
    for turn in range(6):
        for number in range(turn * size, (turn + 1) * size):
            pair = str(maker([number])["moments"][0].tolist())
            timesteps.setdefault(pair, []).append(int(maker([number])["timesteps"][0]))
    assert len(timesteps) == size
    assert all(seen[:3] == seen[3:] for seen in timesteps.values())
    assert len({timestep for seen in timesteps.values() for timestep in seen}) > 30


def _calls(trainer_of: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> int:
    """Forward passes of the reference while a trainer is made."""
    count, original = 0, DiffusionDPOTrainer._reference

    def counts(self: Any, *args: Any) -> torch.Tensor:
        nonlocal count
        count += 1
        return original(self, *args)

    with monkeypatch.context() as patched:
        patched.setattr(DiffusionDPOTrainer, "_reference", counts)
        trainer_of()
    return count


def test_what_is_stored_is_found_again_and_only_while_it_holds(
    new_trainer: Callable, new_pipeline: Callable, encoded: Encoded, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"precompute_ref_losses": True, "sft_target": "reference"}

    def calls(prediction_type: str = "epsilon", trainer: dict[str, Any] | None = None, **changes: Any) -> int:
        return _calls(lambda: new_trainer(prediction_type, trainer, **{**settings, **changes}), monkeypatch)

    # Three categories of 4 pairs, 2 sides, 2 draws: 2 calls of 16 rows for the errors of each, 1 for its anchors, and
    # 1 for its 4 pictures of the prior.
    assert calls() == 3 * (2 + 1 + 1)
    assert calls() == calls(beta=7.0, max_steps=9, learning_rate=1e-4, loss_type="sigmoid") == 0
    assert calls(safe_prompt_weight=0.0) == 3 * (1 + 1)
    assert calls(data_seed=3) == calls("v_prediction") == 12
    # With one draw the errors of 4 pairs and 2 sides are one call.
    assert calls(ref_draws=1) == 3 * (1 + 1 + 1)
    other = new_pipeline().unet
    with torch.no_grad():
        other.conv_in.bias += 0.1
    assert calls(trainer={"ref_model": other}) == 12
    assert calls(trainer={"ref_model": new_pipeline().unet}) == 0
    # An expert of one category finds what the run over all categories has stored, and one with a wider prior only
    # lacks what is new in it.
    data = encoded[0]
    expert = {"train_dataset": data.of("hate"), "prior": safe_pictures(data.pairs)}
    assert calls(trainer=expert) == 0
    wider = {**expert, "prior": expert["prior"] + unsafe_pictures(data.of("violence"))}
    assert calls(trainer=wider) == 1


def test_inputs_that_change_are_refused(config: Config) -> None:
    with pytest.raises(ConfigError, match=r"precompute_ref_losses: .* set sample_latents to False"):
        config(precompute_ref_losses=True, sample_latents=True)
    with pytest.raises(ConfigError, match="ref_draws: 0, expected 1 or more"):
        config(ref_draws=0)
    assert config(precompute_ref_losses=True, sample_latents=False).ref_draws == 4
    assert config().ref_draws is None


def test_experts_share_what_is_stored(run_folder: tuple[Recipe, Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, dataset, out = run_folder
    recipe.train.precompute_ref_losses, recipe.train.ref_draws = True, 2
    recipe.train.sft_target, recipe.train.prior_other_unsafe = "reference", True
    experts = train_experts(recipe, dataset, out)
    shards = list((out / "work" / "cache" / "encoded" / "reference").iterdir())
    # Of each category: its errors, its anchors, its safe pictures, and its unsafe ones for the others.
    assert len(shards) == 3 * 4
    before = {category: checksum(folder) for category, folder in experts.items()}
    for folder in experts.values():
        (folder / "training.json").unlink()
    assert {category: checksum(folder) for category, folder in train_experts(recipe, dataset, out).items()} == before
    assert len(before) == len(set(before.values())) == 3
