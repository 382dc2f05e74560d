"""The loss of a micro-batch from its predictions, all terms together; `losses.py` has the formulas.

A batch is [winners, losers, prior] along the first dimension, as `draws.BatchMaker` makes it."""

from typing import Any

import torch
from torch import Tensor

from training.config import DiffusionDPOConfig
from training.losses import LOSSES, PairErrors, denoising_error, prior_loss, weighted_mean
from training.metrics import step_metrics
from training.reference import ReferenceTerms
from training.safeguard import safeguard_scale, scale_gradient


def batch_loss(
    args: DiffusionDPOConfig,
    prediction: Tensor,
    error: Tensor,
    target: Tensor,
    terms: ReferenceTerms,
    inputs: dict[str, Any],
) -> tuple[Tensor, Tensor]:
    """The weighted sum of preference term, anchor and prior, and the metrics of `metrics.step_metrics`.

    Args:
        args (`DiffusionDPOConfig`): which terms there are, and their weights.
        prediction (`torch.Tensor`): the policy's, (rows, *latent).
        error (`torch.Tensor`): its denoising errors on winners and losers, in fp32, (2 * winners or rows,).
        target (`torch.Tensor`): (2 * winners or rows, *latent).
        terms (`ReferenceTerms`): the reference's part.
        inputs (`dict[str, Any]`): `weights` (winners,) and, with a margin, `gaps` (winners,).
    """
    weights = inputs["weights"]
    pairs = len(weights)
    errors, scale = pair_errors(args, prediction, error, target, terms, inputs)
    dpo = weighted_mean(preference(args, errors), weights) if args.dpo_weight > 0 else errors.chosen.new_zeros(())
    anchored = denoising_error(prediction[: len(terms.anchor)], terms.anchor)
    sft = weighted_mean(anchored.view(-1, pairs).mean(0), weights)
    prior = sft.new_zeros(())
    if terms.prior is not None and args.prior_weight > 0:
        prior = prior_loss(prediction[2 * pairs :], terms.prior).mean()
    # A term of weight 0 stays out of the sum: 0 times an overflow would be NaN.
    summed = ((args.dpo_weight, dpo), (args.sft_weight, sft), (args.prior_weight, prior))
    loss = torch.stack([weight * term for weight, term in summed if weight > 0]).sum()
    with torch.no_grad():
        metrics = step_metrics(args, (loss, dpo, sft, prior), errors, scale, weights)
    return loss, metrics


def pair_errors(
    args: DiffusionDPOConfig,
    prediction: Tensor,
    error: Tensor,
    target: Tensor,
    terms: ReferenceTerms,
    inputs: dict[str, Any],
) -> tuple[PairErrors, Tensor | None]:
    """What the preference term reads of a batch, and the safeguard's factors (winners,) where it is on."""
    pairs, scale = len(inputs["weights"]), None
    chosen, rejected = error[:pairs], error[pairs : 2 * pairs]
    if args.safeguard_mu is not None:
        residual = prediction[: 2 * pairs].detach().float() - target[: 2 * pairs].float()
        scale = safeguard_scale(residual[:pairs], residual[pairs:], args.safeguard_mu)
        rejected = scale_gradient(rejected, scale)
    known: dict[str, Tensor] = {}
    if terms.errors is not None:
        known = {"ref_chosen": terms.errors[:pairs], "ref_rejected": terms.errors[pairs:]}
        if terms.chosen is not None and LOSSES[args.loss_type].shift:
            known["chosen_shift"] = denoising_error(prediction[:pairs], terms.chosen)
    if "gaps" in inputs:
        known["margin"] = args.margin_weight * inputs["gaps"]
    return PairErrors(chosen, rejected, **known), scale


def preference(args: DiffusionDPOConfig, errors: PairErrors) -> Tensor:
    """The preference loss of each pair, (winners,)."""
    loss = LOSSES[args.loss_type]
    return loss(errors, args.beta, **{name: getattr(args, name) for name in loss.options})
