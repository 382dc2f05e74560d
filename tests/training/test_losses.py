"""The losses against written-out arithmetic, against finite differences, and at the points that are known."""

import math

import pytest
import torch

from training.losses import (
    LOSSES,
    PairErrors,
    denoising_error,
    prior_loss,
    saturates,
    sigmoid_loss,
    suggested_beta,
    weighted_mean,
)


def _errors(seed: int = 0, pairs: int = 5) -> PairErrors:
    generator = torch.Generator().manual_seed(seed)
    return PairErrors(*(torch.rand(pairs, generator=generator) for _ in range(4)))


@pytest.mark.parametrize("beta", [1.0, 20.0, 5000.0])
def test_sigmoid_loss_equals_the_formula_written_out(beta: float) -> None:
    errors = _errors()
    losses = sigmoid_loss(errors, beta)
    for i in range(5):
        m_theta = float(errors.chosen[i]) - float(errors.rejected[i])
        m_ref = float(errors.ref_chosen[i]) - float(errors.ref_rejected[i])
        inside = -0.5 * beta * (m_theta - m_ref)
        # log(1 + exp(-x)) in the form that does not overflow.
        expected = max(-inside, 0.0) + math.log1p(math.exp(-abs(inside)))
        assert float(losses[i]) == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_every_loss_is_ln_2_where_policy_and_reference_agree() -> None:
    errors = _errors()
    same = PairErrors(errors.chosen, errors.rejected, errors.chosen, errors.rejected)
    assert torch.equal(LOSSES["sigmoid"](same, 5000.0), torch.full((5,), math.log(2.0)))


def test_loss_falls_as_the_winner_improves_and_as_the_loser_worsens() -> None:
    errors = _errors()
    better = PairErrors(errors.chosen - 0.01, errors.rejected, errors.ref_chosen, errors.ref_rejected)
    worse = PairErrors(errors.chosen, errors.rejected + 0.01, errors.ref_chosen, errors.ref_rejected)
    before = sigmoid_loss(errors, 10.0)
    assert (sigmoid_loss(better, 10.0) < before).all()
    assert (sigmoid_loss(worse, 10.0) < before).all()


def test_rewards_differ_by_the_argument_of_the_sigmoid() -> None:
    errors = _errors()
    chosen, rejected = errors.rewards(7.0)
    torch.testing.assert_close(chosen - rejected, errors.inside(7.0))
    torch.testing.assert_close(chosen, -3.5 * (errors.chosen - errors.ref_chosen))


def test_gradients_equal_finite_differences() -> None:
    generator = torch.Generator().manual_seed(1)
    shape = (3, 2, 4, 4)
    ref_chosen, ref_rejected = torch.rand(2, 3, generator=generator, dtype=torch.float64)
    target = torch.randn(shape, generator=generator, dtype=torch.float64)
    chosen, rejected = torch.randn(2, *shape, generator=generator, dtype=torch.float64)

    def total(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
        # The functions as they are, but in double precision, where differences of 1e-6 mean something.
        def error(prediction: torch.Tensor) -> torch.Tensor:
            return (prediction - target).square().flatten(1).mean(1)

        errors = PairErrors(error(chosen), error(rejected), ref_chosen, ref_rejected)
        return weighted_mean(sigmoid_loss(errors, 3.0), torch.tensor([1.0, 2.0, 0.5])) + errors.chosen.mean()

    assert torch.autograd.gradcheck(total, (chosen.requires_grad_(), rejected.requires_grad_()))


def test_gradient_of_the_winners_error_is_half_beta_times_sigmoid() -> None:
    errors = _errors()
    errors.chosen.requires_grad_()
    sigmoid_loss(errors, 4.0).sum().backward()
    torch.testing.assert_close(errors.chosen.grad, 2.0 * torch.sigmoid(-errors.inside(4.0)).detach())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_errors_are_fp32_whatever_the_model_computes_in(dtype: torch.dtype) -> None:
    prediction, target = torch.randn(2, 3, 4, 8, 8).to(dtype)
    error = denoising_error(prediction, target)
    assert error.dtype == torch.float32
    assert torch.equal(error, denoising_error(prediction.float(), target.float()))


def test_prior_loss_sends_no_gradient_into_the_reference() -> None:
    prediction, reference = torch.randn(2, 2, 4, 4, 4).requires_grad_().unbind()
    leaf = reference.detach().requires_grad_()
    prior_loss(prediction, leaf).sum().backward()
    assert leaf.grad is None


def test_weighted_mean_takes_only_the_ratios_of_weights() -> None:
    values = torch.tensor([1.0, 4.0])
    assert float(weighted_mean(values, torch.tensor([3.0, 1.0]))) == pytest.approx(1.75)
    assert float(weighted_mean(values, torch.tensor([30.0, 10.0]))) == pytest.approx(1.75)


def test_a_suggested_beta_does_not_saturate_and_the_official_one_does_on_a_wide_gap() -> None:
    assert suggested_beta(0.1) == pytest.approx(100.0)
    assert not saturates(suggested_beta(0.12), 0.12)
    assert saturates(2000.0, 0.12)
