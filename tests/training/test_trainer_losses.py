"""The trainer under every loss: what it lowers, what it runs, what it logs, and what it refuses."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from recipes import Recipe
from recipes.check import check
from recipes.recipe import TrainConfig
from tests.training.runs import rows_of_a_step
from training.batch_loss import pair_errors
from training.cache import EncodedPairs
from training.config import ConfigError, DiffusionDPOConfig
from training.denoisers import denoiser_for
from training.expert import expert_config, fingerprint
from training.experts import train_experts
from training.losses import LOSSES, denoising_error
from training.metrics import METRICS
from training.pairs import PairData, PairsError, require_gaps
from training.trainer import DiffusionDPOTrainer, lora_config

Encoded = tuple[PairData, EncodedPairs]
LOSS_FIELDS = {
    "label_smoothing": ("robust", 0.3),
    "hinge_margin": ("hinge", 2.0),
    "dmpo_alpha": ("dmpo", 0.1),
    "mapo_weight": ("mapo", 0.5),
    "margin_weight": ("sigmoid", 2.0),
    "safeguard_mu": ("sigmoid", 0.9),
}


def _verdicts(scores: list[list[float]]) -> list[list[dict[str, Any]]]:
    return [[{"judge": f"judge {i}", "unsafe": s > 0.5, "score": s} for i, s in enumerate(row)] for row in scores]


@pytest.fixture
def judged(pair_dataset: Dataset) -> Dataset:
    """The pairs with two judges' verdicts, gaps 0.3 to 0.85."""
    unsafe = [[0.9, 0.7 + 0.02 * i] for i in range(len(pair_dataset))]
    safe = [[0.1, 0.9 - 0.08 * i] for i in range(len(pair_dataset))]
    judged = pair_dataset.add_column("unsafe_verdict", _verdicts(unsafe))
    return judged.add_column("safe_verdict", _verdicts(safe))


@pytest.fixture
def new_trainer(new_pipeline: Callable, encoded: Encoded, config: Callable) -> Callable[..., DiffusionDPOTrainer]:
    """Makes a trainer of the preference term alone."""

    def make(pairs: list[Any] | None = None, dtype: torch.dtype = torch.float32, **changes: object) -> Any:
        values = {"sft_weight": 0.0, "prior_weight": 0.0, "prior_batch_size": 0, "prompt_dropout": 0.0, **changes}
        pipeline = new_pipeline()
        return DiffusionDPOTrainer(
            denoiser_for(pipeline if dtype == torch.float32 else pipeline.to(dtype)),
            args=config(**values),
            train_dataset=pairs or encoded[0].pairs,
            encoded=encoded[1],
            peft_config=lora_config(4, 8, ["attn2.to_k", "attn2.to_v"]),
        )

    return make


def _history(trainer: DiffusionDPOTrainer) -> list[dict[str, float]]:
    return [entry for entry in trainer.state.log_history if "loss" in entry]


def _train_on_two_draws(trainer: DiffusionDPOTrainer) -> list[dict[str, float]]:
    """Train on the same two draws again and again; what was logged."""
    maker = trainer.data_collator
    trainer.data_collator = lambda numbers: maker([0, 1])
    trainer.train()
    return _history(trainer)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_training_lowers_every_loss(new_trainer: Callable, name: str) -> None:
    beta = 0.5 if name == "dspo" else 500.0
    history = _train_on_two_draws(new_trainer(loss_type=name, beta=beta, max_steps=12))
    assert history[-1]["loss"] < history[0]["loss"]
    assert all(entry["loss/dpo"] == entry["loss"] for entry in history)


def test_the_safeguard_keeps_the_winner_where_the_plain_loss_gives_it_up(new_trainer: Callable) -> None:
    changes = {
        mu: _train_on_two_draws(new_trainer(beta=2000.0, safeguard_mu=mu, max_steps=12))[-1]["error_change/chosen"]
        for mu in (None, 0.9)
    }
    assert changes[0.9] < 0 < changes[None]


@pytest.mark.parametrize("name", ["sigmoid", "cdpo"])
def test_step_0_is_exactly_ln_2_with_a_policy_in_bf16(new_trainer: Callable, name: str) -> None:
    trainer = new_trainer(dtype=torch.bfloat16, loss_type=name, beta=5000.0, max_steps=1)
    assert trainer.denoiser.model.dtype == torch.bfloat16
    trainer.train()
    entry = _history(trainer)[0]
    assert entry["loss/dpo"] == pytest.approx(math.log(2), rel=1e-7)
    assert entry["rewards/margins"] == entry["error_change/chosen"] == 0.0
    batch = trainer._prepare_inputs(trainer.data_collator([0, 1]))
    noisy, target = trainer._noised(batch)
    prediction = trainer.denoiser.predict(trainer.model, noisy, batch["timesteps"], batch["conditioning"])
    terms = trainer._computed_terms(noisy, target, batch)
    errors, _ = pair_errors(trainer.args, prediction, denoising_error(prediction, target), target, terms, batch)
    assert prediction.dtype == torch.bfloat16
    assert errors.chosen.dtype == errors.ref_chosen.dtype == torch.float32


def test_the_safeguard_leaves_the_loss_and_changes_the_step(new_trainer: Callable) -> None:
    trainers = {mu: new_trainer(safeguard_mu=mu, max_steps=1) for mu in (None, 0.0, 1.0)}
    for trainer in trainers.values():
        trainer.train()
    plain, none_kept, all_kept = (_history(trainer)[0] for trainer in trainers.values())
    assert plain["loss"] == none_kept["loss"] == all_kept["loss"]
    assert "safeguard/scale" not in plain and all_kept["safeguard/scale"] < none_kept["safeguard/scale"] <= 1
    assert plain["grad_norm"] != all_kept["grad_norm"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        # Two pairs under two prompts are eight rows; the reference's pass comes first.
        ({}, [8, 8]),
        ({"loss_type": "mapo"}, [8]),
        ({"loss_type": "mapo", "safeguard_mu": 0.9}, [8]),
        ({"loss_type": "mapo", "prior_weight": 1.0, "prior_batch_size": 3}, [3, 11]),
        ({"loss_type": "mapo", "sft_weight": 1.0, "sft_target": "reference"}, [4, 8]),
        ({"loss_type": "mapo", "sft_weight": 1.0, "sft_target": "reference_both"}, [8, 8]),
        ({"dpo_weight": 0.0, "sft_weight": 1.0}, [8]),
        ({"loss_type": "dspo", "beta": 0.5, "prior_weight": 1.0, "prior_batch_size": 3}, [11, 11]),
    ],
    ids=str,
)
def test_the_reference_runs_only_on_what_needs_it(
    new_trainer: Callable, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], expected: list[int]
) -> None:
    assert rows_of_a_step(new_trainer(**changes), monkeypatch) == expected


def test_the_prior_is_the_same_whether_or_not_the_reference_sees_the_pairs(new_trainer: Callable) -> None:
    priors = []
    for name in ("sigmoid", "mapo"):
        trainer = new_trainer(loss_type=name, prior_weight=1.0, prior_batch_size=3, max_steps=1)
        with torch.no_grad():
            for parameter in trainer.model.parameters():
                if parameter.requires_grad:
                    parameter += 0.1
        trainer.train()
        priors.append(_history(trainer)[0]["loss/prior"])
    assert priors[0] == pytest.approx(priors[1], rel=1e-5) and priors[0] > 0


def test_what_is_logged_is_what_has_a_meaning(new_trainer: Callable) -> None:
    logged = {}
    for label, changes in {
        "sigmoid": {},
        "mapo": {"loss_type": "mapo"},
        "sft": {"dpo_weight": 0.0, "sft_weight": 1.0},
    }.items():
        trainer = new_trainer(max_steps=1, **changes)
        trainer.train()
        logged[label] = _history(trainer)[0]
    assert set(METRICS) <= set(logged["sigmoid"])
    for label in ("mapo", "sft"):
        assert not any(name.startswith("error_change/") for name in logged[label])
        assert logged[label]["error/chosen"] > 0 and logged[label]["error/rejected"] > 0
    assert not any(name.startswith("rewards/") or name == "loss/dpo" for name in logged["sft"])
    assert logged["sft"]["loss"] == logged["sft"]["error/chosen"]
    rewards = logged["mapo"]["rewards/margins"]
    assert rewards == pytest.approx(
        -25.0 * (logged["mapo"]["error/chosen"] - logged["mapo"]["error/rejected"]), rel=1e-4
    )


def test_the_gap_is_the_difference_of_the_judges_means(judged: Dataset, tmp_path: Path) -> None:
    judged.to_parquet(tmp_path / "rows.parquet")
    read = Dataset.from_parquet(str(tmp_path / "rows.parquet"), cache_dir=str(tmp_path / "cache"))
    for data in (PairData(judged), PairData(read)):
        for i, pair in enumerate(data.pairs):
            assert pair.gap == pytest.approx((0.9 + 0.7 + 0.02 * i) / 2 - (0.1 + 0.9 - 0.08 * i) / 2)


def test_the_margin_is_the_formula_written_out(new_trainer: Callable, judged: Dataset) -> None:
    pairs = PairData(judged).pairs
    trainer = new_trainer(pairs, margin_weight=4.0, per_device_train_batch_size=3, max_steps=1)
    order = trainer.data_collator._pair_order
    trainer.train()
    # At step 0 the logit is minus the margin, for both terms of a pair alike.
    expected = sum(math.log1p(math.exp(4.0 * pairs[order[number]].gap)) for number in range(3)) / 3
    assert _history(trainer)[0]["loss/dpo"] == pytest.approx(expected, rel=1e-6)
    assert _history(trainer)[0]["rewards/margins"] == 0.0


def test_without_verdicts_a_margin_is_refused_in_one_line(new_trainer: Callable, judged: Dataset) -> None:
    with pytest.raises(PairsError) as error:
        new_trainer(margin_weight=1.0)
    assert "12 of 12 pairs have no unsafe_verdict and safe_verdict" in str(error.value) and "\n" not in str(error.value)
    rows = judged.to_list()
    rows[3]["safe_verdict"] = []
    pairs = PairData(Dataset.from_list(rows, features=judged.features)).pairs
    with pytest.raises(PairsError, match=r"1 of 12 pairs .*violence-03"):
        require_gaps(pairs)


def test_experts_with_a_margin_need_verdicts_before_anything_starts(
    run_folder: tuple[Recipe, Path, Path], judged: Dataset
) -> None:
    recipe, dataset, out = run_folder
    recipe.train.margin_weight, recipe.train.categories, recipe.train.max_steps = 1.0, ["hate"], 1
    with pytest.raises(PairsError, match="build the dataset with a judge"):
        train_experts(recipe, dataset, out)
    assert not (out / "experts").exists()
    judged.to_parquet(dataset / "data" / "train-00000-of-00001.parquet")
    assert list(train_experts(recipe, dataset, out)) == ["hate"]


def test_only_losses_that_go_flat_are_warned_of_a_large_beta(
    new_trainer: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr("training.trainer.logger.warning", said.append)
    for name in sorted(LOSSES):
        said.clear()
        trainer = new_trainer(loss_type=name, beta=min(1e6, 0.9 * LOSSES[name].beta_below), gap_pairs=2, max_steps=1)
        trainer.train()
        assert len(said) == (name in ("sigmoid", "hinge", "dmpo", "mapo")), name


def test_a_checkpoint_of_another_kind_of_loss_is_refused(new_trainer: Callable, tmp_path: Path) -> None:
    new_trainer(max_steps=1, save_strategy="steps", save_steps=1).train()
    other = new_trainer(max_steps=2, safeguard_mu=0.5)
    with pytest.raises(ConfigError) as error:
        other.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-1"))
    assert "safeguard_mu" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"label_smoothing": 0.5, "loss_type": "robust"}, "label_smoothing: 0.5, expected 0 or more and below 0.5"),
        ({"label_smoothing": 0.2}, "which does not read it; leave it out, or set loss_type to cdpo or robust"),
        ({"hinge_margin": 0.0, "loss_type": "hinge"}, "hinge_margin: 0.0, expected a number above 0"),
        ({"dmpo_alpha": 0.0, "loss_type": "dmpo"}, "dmpo_alpha: 0.0, expected above 0 and below 0.5"),
        ({"dmpo_alpha": float("nan"), "loss_type": "dmpo"}, "dmpo_alpha: nan"),
        ({"mapo_weight": -1.0, "loss_type": "mapo"}, "mapo_weight: -1.0, expected a number above 0"),
        ({"loss_type": "dspo"}, "beta: 50.0 with loss_type 'dspo', expected below 1"),
        ({"margin_weight": -0.5}, "margin_weight: -0.5, expected 0 or more"),
        ({"margin_weight": 1.0, "loss_type": "ipo"}, "takes no margin; set it to 0, or loss_type to one of"),
        ({"margin_weight": 1.0, "loss_type": "mapo"}, "margin_weight: 1.0 with loss_type 'mapo'"),
        ({"margin_weight": 1.0, "dpo_weight": 0.0}, "margin_weight: 1.0 with dpo_weight 0"),
        ({"safeguard_mu": 1.5}, "safeguard_mu: 1.5, expected 0 to 1, or None"),
        ({"safeguard_mu": 0.0, "dpo_weight": 0.0}, "safeguard_mu: 0.0 with dpo_weight 0"),
    ],
    ids=str,
)
def test_wrong_values_and_combinations_are_one_line(config: Callable, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as error:
        config(**changes)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_recipes_loss_settings_reach_the_experts_and_their_fingerprint(
    judged: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("training.expert.identity", lambda *args: "model")
    data, plain = PairData(judged), Recipe()
    for name, (loss_type, value) in LOSS_FIELDS.items():
        # The recipe's defaults are the trainer's.
        assert getattr(TrainConfig(), name) == DiffusionDPOConfig.__dataclass_fields__[name].default
        recipe = Recipe(train=TrainConfig(loss_type=loss_type, **{name: value}))
        found = expert_config(recipe, "hate", tmp_path)
        assert (found.loss_type, getattr(found, name)) == (loss_type, value)
        same_loss = Recipe(train=TrainConfig(loss_type=loss_type))
        assert fingerprint(recipe, data, "hate") != fingerprint(same_loss, data, "hate")
    with pytest.raises(ConfigError, match=r"train\.beta: 100\.0 with loss_type 'dspo'"):
        expert_config(Recipe(train=TrainConfig(loss_type="dspo")), "hate", tmp_path)
    # The judges' scores are part of what an expert follows from as soon as a margin reads them, and only then.
    without = PairData(judged.remove_columns(["unsafe_verdict", "safe_verdict"]))
    margin = Recipe(train=TrainConfig(margin_weight=1.0))
    assert fingerprint(plain, data, "hate") == fingerprint(plain, without, "hate")
    assert fingerprint(margin, data, "hate") != fingerprint(margin, without, "hate")


def test_a_recipes_loss_settings_have_ranges() -> None:
    wrong = {
        "label_smoothing": 0.5,
        "hinge_margin": 0.0,
        "dmpo_alpha": 0.5,
        "mapo_weight": 0.0,
        "margin_weight": -1.0,
        "safeguard_mu": 1.1,
    }
    assert wrong.keys() == LOSS_FIELDS.keys()
    assert not list(check(Recipe()))
    for name, value in wrong.items():
        assert [field for field, _ in check(Recipe(train=TrainConfig(**{name: value})))] == [f"train.{name}"]
