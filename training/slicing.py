"""A batch's gradient from one picture at a time, exactly: the activations of one picture are all that is ever held.

A preference loss ties winner and loser together, but only through their errors, two numbers. So the loser goes first:
its error's own gradient is kept (as large as the LoRA), and its activations are let go. When the winner's error is
known too, so is the loss, and its slope in the loser's error is the factor on what was kept. Nothing is computed twice.

The name is diffusers' (`vae.enable_slicing`)."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from training.batch_loss import batch_loss
from training.config import DiffusionDPOConfig
from training.losses import denoising_error, prior_loss
from training.metrics import logged_metrics
from training.reference import ReferenceTerms

Predict = Callable[[Tensor, Tensor, dict[str, Tensor]], Tensor]
"""Noisy latents, timesteps and conditioning -> predictions, row by row."""


def sliced_loss(
    args: DiffusionDPOConfig,
    predict: Predict,
    parameters: Sequence[nn.Parameter],
    noisy: Tensor,
    target: Tensor,
    terms: ReferenceTerms,
    inputs: dict[str, Any],
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss and metrics of `batch_loss.batch_loss`, and the predictions (rows, *latent), without graphs.

    Args:
        args, target, terms, inputs: as there; `inputs` also has `timesteps` and `conditioning`.
        predict (`Predict`): the policy.
        parameters (sequence of `torch.nn.Parameter`): what is trained.
        noisy (`torch.Tensor`): (rows, *latent).
    """
    weights, names = inputs["weights"], logged_metrics(args)
    pairs, shares = len(weights), weights / weights.sum()
    total = GradientSum(parameters)
    metrics = torch.zeros(len(names), device=noisy.device)
    predictions: dict[int, Tensor] = {}

    def predicted(row: int) -> Tensor:
        prediction = predict(*(row_of(some, row) for some in (noisy, inputs["timesteps"], inputs["conditioning"])))
        predictions[row] = prediction.detach()
        return prediction

    # In functions, so that what they leave behind is gone before the next picture.
    def add_pair(winner: int) -> None:
        loser = winner + pairs
        anchored = args.sft_weight > 0 and len(terms.anchor) > pairs
        # Without a preference term and without an anchor nothing is learnt from the loser.
        with torch.set_grad_enabled(args.dpo_weight > 0 or anchored):
            rejected = predicted(loser)
            known = denoising_error(rejected, row_of(target, loser))
        gradient = total.of(known, keep=anchored) if args.dpo_weight > 0 and known.requires_grad else ()
        if anchored:
            # The loser's half of the pair's anchor; its value is counted below.
            half = denoising_error(rejected, row_of(terms.anchor, loser)).sum() / 2
            total.add(args.sft_weight * shares[winner] * half)
        known = known.detach().requires_grad_()
        del rejected
        chosen = predicted(winner)
        goal = torch.cat([row_of(target, winner), row_of(target, loser)])
        error = torch.cat([denoising_error(chosen, goal[:1]), known])
        own: dict[str, Any] = {name: row_of(inputs[name], winner) for name in ("weights", "gaps") if name in inputs}
        both = torch.cat([chosen, predictions[loser]])
        loss, some = batch_loss(args, both, error, goal, terms.of_pair(winner, pairs), own)
        total.add(shares[winner] * loss, known, gradient)
        metrics.add_(shares[winner] * some)

    def add_prior(row: int) -> None:
        prior = prior_loss(predicted(row), row_of(terms.prior, row - 2 * pairs)).sum() / (len(noisy) - 2 * pairs)
        total.add(args.prior_weight * prior)
        metrics[names.index("loss/prior")] += prior.detach()
        metrics[names.index("loss")] += args.prior_weight * prior.detach()

    for winner in range(pairs):
        add_pair(winner)
    for row in range(2 * pairs, len(noisy)):
        add_prior(row)
    loss = total.loss(metrics[names.index("loss")].clone())
    return loss, metrics, torch.cat([predictions[row] for row in range(len(noisy))])


class GradientSum:
    """The gradient of a sum of terms, whose graphs are freed term by term.

    Args:
        parameters (sequence of `torch.nn.Parameter`): with respect to which.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._parameters = list(parameters)
        self._gradients = [torch.zeros_like(parameter) for parameter in self._parameters]

    def of(self, value: Tensor, keep: bool = False) -> tuple[Tensor, ...]:
        """The gradient of one number, not added to the sum; its graph is freed unless another number needs it."""
        parameters = self._parameters
        return torch.autograd.grad(value, parameters, retain_graph=keep, allow_unused=True, materialize_grads=True)

    def add(self, term: Tensor, known: Tensor | None = None, gradient: Sequence[Tensor] = ()) -> None:
        """Add the gradient of one number, whose graph is freed.

        Args:
            term (`torch.Tensor`): the number. Without a graph it adds nothing.
            known (`torch.Tensor`, *optional*): a leaf that `term` may depend on, one number whose own graph is gone.
            gradient (sequence of `torch.Tensor`): of that number, from `of`; none if it does not count.
        """
        if not term.requires_grad:
            return
        inputs = [*self._parameters, known] if gradient else self._parameters
        found = torch.autograd.grad(term, inputs, allow_unused=True, materialize_grads=True)
        if gradient:
            *found, slope = found
            torch._foreach_add_(self._gradients, torch._foreach_mul(list(gradient), slope.squeeze()))
        torch._foreach_add_(self._gradients, list(found))

    def loss(self, value: Tensor) -> Tensor:
        """`value` as a scalar whose backward pass puts the sum into the parameters, as if it had a graph: gradient
        accumulation, clipping and DDP's hooks work on it as on any other loss."""
        return _WithGradient.apply(value, self._gradients, *self._parameters)  # type: ignore[no-any-return]


class _WithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: Sequence[Tensor], *parameters: nn.Parameter) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *torch._foreach_mul(ctx.gradients, outer[0])


def one_by_one(predict: Callable[..., Tensor], rows: Tensor, *others: Any) -> Tensor:
    """`predict(rows, *others)`, one row at a time; `others` are tensors, or dicts of tensors, with the same rows."""
    return torch.cat([predict(*(row_of(some, index) for some in (rows, *others))) for index in range(len(rows))])


def row_of(values: Any, index: int) -> Any:
    """Row `index` of a tensor or of a dict of tensors, as a batch of one."""
    if isinstance(values, dict):
        return {name: value[index : index + 1] for name, value in values.items()}
    return values[index : index + 1]
