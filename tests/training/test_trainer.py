"""Invariants of the trainer, on a random pipeline of a few thousand weights."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from diffusers import StableDiffusionPipeline

from training.cache import EncodedPairs
from training.config import ConfigError, DiffusionDPOConfig
from training.denoisers import denoiser_for
from training.losses import denoising_error
from training.metrics import METRICS
from training.pairs import PairData, Picture
from training.trainer import DiffusionDPOTrainer, lora_config

Config = Callable[..., DiffusionDPOConfig]
Encoded = tuple[PairData, EncodedPairs]
KV = lora_config(4, 8, ["attn2.to_k", "attn2.to_v"])


@pytest.fixture
def new_trainer(new_pipeline: Callable, encoded: Encoded, config: Config) -> Callable[..., DiffusionDPOTrainer]:
    def make(prediction_type: str = "epsilon", trainer: dict[str, Any] | None = None, **changes: object) -> Any:
        data, cache = encoded
        values: dict[str, Any] = {"train_dataset": data.pairs, "encoded": cache, "peft_config": KV}
        model = denoiser_for(new_pipeline(prediction_type))
        return DiffusionDPOTrainer(model, args=config(**changes), **{**values, **(trainer or {})})

    return make


def _batch(trainer: DiffusionDPOTrainer, numbers: list[int]) -> dict[str, Any]:
    return trainer._prepare_inputs(trainer.data_collator(numbers))


def _weights(trainer: DiffusionDPOTrainer) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in trainer.model.named_parameters()}


def _history(trainer: DiffusionDPOTrainer) -> list[dict[str, float]]:
    return [entry for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("beta", [1.0, 5000.0])
def test_the_preference_term_is_exactly_ln_2_at_step_0(
    new_trainer: Callable, prediction_type: str, beta: float
) -> None:
    trainer = new_trainer(prediction_type, beta=beta, sft_weight=0.0, prior_weight=0.0, max_steps=1)
    trainer.train()
    first = _history(trainer)[0]
    assert first["loss"] == pytest.approx(math.log(2), rel=1e-7) and first["loss/dpo"] == first["loss"]
    assert first["rewards/margins"] == first["error_change/chosen"] == first["loss/prior"] == 0.0


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_the_reference_equals_a_separate_unet_bit_for_bit(
    new_trainer: Callable, new_pipeline: Callable, prediction_type: str
) -> None:
    trainer, untouched = new_trainer(prediction_type), new_pipeline(prediction_type).unet
    trainer.train()
    batch = _batch(trainer, [0, 1])
    noisy, _ = trainer._noised(batch)
    with torch.no_grad():
        by_adapter_off = trainer._reference(noisy, batch["timesteps"], batch["conditioning"])
        by_copy = untouched(noisy, batch["timesteps"], batch["conditioning"]["prompt_embeds"]).sample
        policy = trainer.denoiser.predict(trainer.model, noisy, batch["timesteps"], batch["conditioning"])
    assert torch.equal(by_adapter_off, by_copy)
    assert not torch.allclose(policy, by_copy)


def test_a_given_ref_model_trains_as_adapter_off_does(new_trainer: Callable, new_pipeline: Callable) -> None:
    by_copy, by_adapter_off = new_trainer(trainer={"ref_model": new_pipeline().unet}), new_trainer()
    for trainer in (by_copy, by_adapter_off):
        trainer.train()
    assert _history(by_copy) == _history(by_adapter_off)
    _assert_equal(_weights(by_copy), _weights(by_adapter_off))


@pytest.mark.parametrize("sft_target", ["data", "reference", "reference_both"])
def test_the_loss_is_the_written_out_one(new_trainer: Callable, encoded: Encoded, sft_target: str) -> None:
    weights = {"dpo_weight": 0.5, "sft_weight": 2.0, "prior_weight": 3.0, "safe_prompt_weight": 3.0}
    trainer = new_trainer("v_prediction", **weights, sft_target=sft_target, prompt_dropout=0.0)
    trainer.train()
    model, numbers = trainer.model.eval(), [4, 5]
    batch = _batch(trainer, numbers)
    with torch.no_grad():
        found = float(trainer.compute_loss(model, batch))

    latents = trainer.denoiser.latents(batch["moments"], batch["posterior_noise"])
    alphas = StableDiffusionAlphas[batch["timesteps"]].view(-1, 1, 1, 1)
    noisy = alphas.sqrt() * latents + (1 - alphas).sqrt() * batch["noise"]
    target = alphas.sqrt() * batch["noise"] - (1 - alphas).sqrt() * latents

    def predict(index: int, conditioning: str = "conditioning") -> torch.Tensor:
        embeds = batch[conditioning]["prompt_embeds"][index : index + 1]
        return model(noisy[index : index + 1], batch["timesteps"][index], embeds).sample

    with torch.no_grad():
        policy = [predict(i) for i in range(10)]
        with model.disable_adapter():
            reference = [predict(i) for i in range(10)]
            anchors = list(target)
            if sft_target != "data":
                anchors = [predict(i, "anchor_conditioning") for i in range(4 if sft_target == "reference" else 8)]
                # Under the safe prompt (odd winners) that is the reference's prediction itself.
                assert torch.equal(anchors[1], reference[1]) and not torch.equal(anchors[0], reference[0])
    error = [float((p - target[i]).square().mean()) for i, p in enumerate(policy)]
    ref = [float((p - target[i]).square().mean()) for i, p in enumerate(reference)]
    # Two pairs, each under the unsafe (share 1) and the safe prompt (share 3), then two pictures of the prior.
    shares, dpo, sft = [1.0, 3.0, 1.0, 3.0], 0.0, 0.0
    for i, share in enumerate(shares):
        inside = -0.5 * 50.0 * ((error[i] - error[4 + i]) - (ref[i] - ref[4 + i]))
        dpo += share * math.log1p(math.exp(-inside)) / sum(shares)
        held = (i, 4 + i) if sft_target == "reference_both" else (i,)
        sft += share * sum(float((policy[j] - anchors[j]).square().mean()) for j in held) / len(held) / sum(shares)
    prior = sum(float((policy[i] - reference[i]).square().mean()) for i in (8, 9)) / 2
    assert found == pytest.approx(0.5 * dpo + 2.0 * sft + 3.0 * prior, rel=1e-4)


def test_the_reference_as_target_costs_nothing_where_the_prompt_is_dropped(new_trainer: Callable) -> None:
    """Without a prompt there is nothing to turn away from: the anchor holds the unconditional branch where it is."""
    trainer = new_trainer(sft_target="reference", prompt_dropout=1.0, dpo_weight=0.0, prior_weight=0.0, sft_weight=1.0)
    batch = _batch(trainer, [0, 1])
    with torch.no_grad():
        assert float(trainer.compute_loss(trainer.model, batch)) == 0.0


# Stable Diffusion's schedule, from its definition.
StableDiffusionAlphas = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2).cumprod(0)


def test_winner_and_loser_share_prompt_noise_and_timestep(new_trainer: Callable, encoded: Encoded) -> None:
    trainer = new_trainer(prompt_dropout=0.0, safe_prompt_weight=0.0)
    data, cache = encoded
    batch = trainer.data_collator([0, 1, 2])
    for name in ("noise", "timesteps"):
        assert torch.equal(batch[name][:3], batch[name][3:6])
        assert len({str(value.tolist()) for value in batch[name]}) == 5  # 3 pairs and 2 of the prior
    embeds = batch["conditioning"]["prompt_embeds"]
    assert torch.equal(embeds[:3], embeds[3:6])
    for row in range(3):
        fits = [
            pair
            for pair in data.pairs
            if torch.equal(batch["moments"][row], cache.moments(pair.safe_image))
            and torch.equal(batch["moments"][3 + row], cache.moments(pair.unsafe_image))
            and torch.equal(embeds[row], cache.prompt(pair.unsafe_prompt)["prompt_embeds"])
        ]
        assert len(fits) == 1


def test_timesteps_are_uniform_from_0_to_999(new_trainer: Callable) -> None:
    trainer = new_trainer(prior_batch_size=0, prior_weight=0.0)
    timesteps = torch.cat([trainer.data_collator([i])["timesteps"][:1] for i in range(3000)])
    assert timesteps.min() <= 3 and timesteps.max() >= 996 and timesteps.max() <= 999
    counts = torch.histc(timesteps.float(), 10, 0, 1000)
    # 300 expected in each tenth, standard deviation 16.4.
    assert counts.min() > 220 and counts.max() < 380


def test_each_pass_sees_each_pair_once_in_an_order_of_its_own(new_trainer: Callable, encoded: Encoded) -> None:
    trainer = new_trainer(prior_batch_size=0, prior_weight=0.0, safe_prompt_weight=0.0)
    data, cache = encoded
    names = {str(cache.moments(pair.safe_image).tolist()): pair.pair_id for pair in data.pairs}
    seen = [names[str(trainer.data_collator([i])["moments"][0].tolist())] for i in range(24)]
    assert sorted(seen[:12]) == sorted(seen[12:]) == sorted(pair.pair_id for pair in data.pairs)
    assert seen[:12] != seen[12:]


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_captions_are_dropped_by_their_shares(new_trainer: Callable, encoded: Encoded, share: float) -> None:
    trainer = new_trainer(prompt_dropout=share, prior_empty_share=1 - share, safe_prompt_weight=0.0)
    empty = encoded[1].prompt("")["prompt_embeds"]
    embeds = trainer.data_collator([0, 1])["conditioning"]["prompt_embeds"]
    assert [torch.equal(one, empty) for one in embeds] == [share == 1.0] * 4 + [share == 0.0] * 2


def test_latents_are_means_or_samples(new_trainer: Callable) -> None:
    assert "posterior_noise" not in new_trainer(sample_latents=False).data_collator([0])
    noise = new_trainer(sample_latents=True, safe_prompt_weight=0.0).data_collator([0])["posterior_noise"]
    assert not torch.equal(noise[0], noise[1])


def test_batch_2_equals_batch_1_with_two_accumulation_steps(new_trainer: Callable) -> None:
    # SGD, whose steps are proportional to the gradient: Adam would hide a wrong scale.
    shared = {"optim": "sgd", "learning_rate": 0.5, "max_steps": 4, "max_grad_norm": 0.0}
    whole = new_trainer(per_device_train_batch_size=2, prior_batch_size=2, **shared)
    halves = new_trainer(per_device_train_batch_size=1, prior_batch_size=1, gradient_accumulation_steps=2, **shared)
    start = _weights(whole)
    for trainer in (whole, halves):
        trainer.train()
    for name, value in _weights(whole).items():
        torch.testing.assert_close(_weights(halves)[name], value, rtol=1e-4, atol=1e-6)
    assert any(not torch.allclose(value, start[name], atol=1e-3) for name, value in _weights(whole).items())
    for ours, theirs in zip(_history(whole), _history(halves), strict=True):
        for name in METRICS:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-3, abs=1e-5)


def test_micro_batches_have_the_draws_of_the_whole_batch_and_their_gradients_add_up_to_its(
    new_trainer: Callable,
) -> None:
    whole, halves = new_trainer(prior_batch_size=4), new_trainer(prior_batch_size=2)
    batch = whole.data_collator([4, 5, 6, 7])
    first, second = halves.data_collator([4, 5]), halves.data_collator([6, 7])
    for name in ("moments", "noise", "timesteps", "posterior_noise"):
        # Two pairs with two sides each: four winners, four losers, two pictures of the prior.
        parts = [torch.cat([half[name][rows] for half in (first, second)]) for rows in _blocks(first)]
        assert torch.equal(torch.cat(parts), batch[name]), name
    gradients = []
    for trainer, batches in ((whole, [batch]), (halves, [first, second])):
        for one in batches:
            (trainer.compute_loss(trainer.model, trainer._prepare_inputs(one)) / len(batches)).backward()
        gradients.append({name: value.grad for name, value in trainer.model.named_parameters() if value.requires_grad})
    for name, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], value, rtol=1e-4, atol=1e-7)
    assert max(float(value.abs().max()) for value in gradients[0].values()) > 1e-3


def _blocks(batch: dict[str, Any]) -> list[slice]:
    """Winners, losers and prior of a batch."""
    pairs = len(batch["weights"])
    return [slice(0, pairs), slice(pairs, 2 * pairs), slice(2 * pairs, None)]


@pytest.mark.parametrize("targets", [["attn2.to_k", "attn2.to_v"], ["to_q", "to_k", "to_v", "to_out.0"]])
def test_every_trainable_parameter_changes_and_no_other_does(new_trainer: Callable, targets: list[str]) -> None:
    trainer = new_trainer(trainer={"peft_config": lora_config(4, 4, targets)})
    before = _weights(trainer)
    trainable = {name for name, value in trainer.model.named_parameters() if value.requires_grad}
    assert trainable == {name for name in before if "lora_" in name}
    modules = {name.partition(".lora_")[0] for name in trainable}
    assert all(any(name.endswith(f".{target}") for target in targets) for name in modules)
    assert len(modules) == 4 * (2 if len(targets) == 2 else 8)  # four transformer blocks
    trainer.train()
    for name, value in _weights(trainer).items():
        assert torch.equal(value, before[name]) == (name not in trainable), name


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_training_lowers_the_loss(new_trainer: Callable, prediction_type: str) -> None:
    trainer = new_trainer(prediction_type, max_steps=25, prompt_dropout=0.0, beta=500.0, learning_rate=2e-2)
    before = _mean_losses(trainer)
    trainer.train()
    after = _mean_losses(trainer)
    assert after["loss"] < before["loss"]
    assert after["loss/dpo"] < before["loss/dpo"] == pytest.approx(math.log(2), rel=1e-6)
    assert after["rewards/margins"] > 0


def _mean_losses(trainer: DiffusionDPOTrainer) -> dict[str, float]:
    """Means of the metrics over the first twelve draws."""
    trainer._sums.zero_()
    trainer._count = 0
    with torch.no_grad():
        for number in range(0, 12, 2):
            trainer.compute_loss(trainer.model, _batch(trainer, [number, number + 1]))
    means = dict(zip(METRICS, (trainer._sums / trainer._count).tolist(), strict=True))
    trainer._sums.zero_()
    trainer._count = 0
    return means


def test_a_stronger_prior_keeps_the_policy_closer_to_the_reference(new_trainer: Callable) -> None:
    distance = {}
    for weight in (0.01, 100.0):
        trainer = new_trainer(max_steps=12, prior_weight=weight, prior_batch_size=4)
        trainer.train()
        distance[weight] = _mean_losses(trainer)["loss/prior"]
    assert distance[100.0] < distance[0.01] / 2


def test_the_prior_is_what_is_given(new_trainer: Callable, encoded: Encoded) -> None:
    data, cache = encoded
    picture = Picture(data.pairs[0].unsafe_image, data.pairs[5].safe_prompt)
    batch = new_trainer(trainer={"prior": [picture]}, prior_empty_share=0.0).data_collator([0])
    for row in (-2, -1):
        assert torch.equal(batch["moments"][row], cache.moments(picture.image))
        assert torch.equal(batch["conditioning"]["prompt_embeds"][row], cache.prompt(picture.prompt)["prompt_embeds"])


def test_logged_metrics_are_means_and_consistent(new_trainer: Callable) -> None:
    every, third = new_trainer(max_steps=6, logging_steps=1), new_trainer(max_steps=6, logging_steps=3)
    for trainer in (every, third):
        trainer.train()
    assert len(_history(every)) == 6 and len(_history(third)) == 2
    for i, entry in enumerate(_history(third)):
        part = _history(every)[3 * i : 3 * i + 3]
        for name in METRICS:
            assert entry[name] == pytest.approx(sum(one[name] for one in part) / 3, rel=1e-4, abs=1e-6)
        assert entry["rewards/margins"] == pytest.approx(entry["rewards/chosen"] - entry["rewards/rejected"], abs=1e-5)
        assert entry["rewards/chosen"] == pytest.approx(-25.0 * entry["error_change/chosen"], rel=1e-3, abs=1e-6)
        assert 0 <= entry["rewards/accuracies"] <= 1


def test_the_reference_gap_is_measured_and_a_beta_that_saturates_is_called_so(
    new_trainer: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr("training.trainer.logger.warning", said.append)
    trainer = new_trainer(gap_pairs=20, max_steps=1, beta=1e-3)
    trainer.train()
    batch = trainer.data_collator.gap_batch(list(range(20)))
    noisy, target = trainer._noised(batch)
    with torch.no_grad():
        error = denoising_error(trainer._reference(noisy, batch["timesteps"], batch["conditioning"]), target)
    assert trainer.reference_gap == pytest.approx(float((error[:20] - error[20:]).abs().mean()), rel=1e-5)
    assert not said
    trainer.args.beta = 1e6
    trainer.train()
    assert len(said) == 1 and "saturates" in said[0]


def test_a_dataset_and_a_pipeline_are_all_that_is_needed(
    pair_dataset: Dataset, new_pipeline: Callable[..., StableDiffusionPipeline], config: Config, tmp_path: Path
) -> None:
    pipeline = new_pipeline()
    trainer = DiffusionDPOTrainer(pipeline, args=config(prior_weight=0.0), train_dataset=pair_dataset)
    trainer.train()
    trainer.save_model(str(tmp_path / "expert"))
    assert [path.name for path in (tmp_path / "expert").iterdir()] == ["pytorch_lora_weights.safetensors"]
    stock = new_pipeline()
    stock.load_lora_weights(str(tmp_path / "expert"))
    batch = _batch(trainer, [0])
    inputs = (batch["noise"], batch["timesteps"], batch["conditioning"]["prompt_embeds"])
    with torch.no_grad():
        assert torch.equal(stock.unet(*inputs).sample, trainer.model(*inputs).sample)


def test_what_was_trained_draws_the_same_picture_in_stock_diffusers_with_alpha_above_rank(
    pair_dataset: Dataset, new_pipeline: Callable[..., StableDiffusionPipeline], config: Config, tmp_path: Path
) -> None:
    pipeline = new_pipeline()
    trainer = DiffusionDPOTrainer(
        pipeline,
        args=config(beta=500.0, learning_rate=5e-2, max_steps=6),
        train_dataset=pair_dataset,
        peft_config=lora_config(2, 7, ["to_q", "to_k", "to_v", "to_out.0"]),
    )
    trainer.train()
    trainer.save_model(str(tmp_path / "expert"))
    stock, base = new_pipeline(), new_pipeline()
    stock.load_lora_weights(str(tmp_path / "expert"))
    drawn = [
        one("a clown in the park", num_inference_steps=3, generator=torch.Generator().manual_seed(1), output_type="pt")
        for one in (pipeline, stock, base)
    ]
    assert torch.equal(drawn[0].images, drawn[1].images)
    assert not torch.allclose(drawn[0].images, drawn[2].images, atol=1e-3)


def test_num_train_epochs_counts_passes_over_the_pairs(new_trainer: Callable) -> None:
    trainer = new_trainer(max_steps=-1, num_train_epochs=2, per_device_train_batch_size=4)
    trainer.train()
    assert trainer.state.global_step == 6  # 12 pairs, twice, 4 at a time


def test_what_cannot_work_is_refused_before_training(new_trainer: Callable, config: Config) -> None:
    with pytest.raises(ConfigError, match="target_modules"):
        new_trainer(trainer={"peft_config": lora_config(4, 4, ["no_such_layer"])})
    with pytest.raises(ConfigError, match="prior: empty"):
        new_trainer(trainer={"prior": []})
    with pytest.raises(ConfigError, match="train_dataset"):
        new_trainer(trainer={"train_dataset": []})
    with pytest.raises(ConfigError, match="train_dataset"):
        new_trainer(trainer={"encoded": None})
    denoiser = new_trainer().denoiser
    with pytest.raises(ConfigError, match="has an adapter already"):
        new_trainer().__class__(denoiser, args=config(prior_weight=0.0), train_dataset=[1], encoded=object())


def _assert_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
