"""The losses of Diffusion-DPO as pure functions of tensors, in fp32.

Nothing here knows models, prompts or noise: the inputs are denoising errors. A further preference loss is one function
under `@preference_loss("name")`."""

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class PairErrors:
    """Denoising errors of a batch of pairs, each a tensor of shape (pairs,) in fp32.

    `chosen` is the winner's (the safe image), `rejected` the loser's (the unsafe image); `ref_` marks the frozen
    reference, without gradients.
    """

    chosen: Tensor
    rejected: Tensor
    ref_chosen: Tensor
    ref_rejected: Tensor

    def rewards(self, beta: float) -> tuple[Tensor, Tensor]:
        """Implicit rewards of winner and loser: -0.5 * beta * (the policy's error - the reference's), each (pairs,)."""
        return -0.5 * beta * (self.chosen - self.ref_chosen), -0.5 * beta * (self.rejected - self.ref_rejected)

    def inside(self, beta: float) -> Tensor:
        """The argument of the sigmoid, (pairs,): the winner's reward minus the loser's.

        With m = chosen - rejected this is -0.5 * beta * (m_theta - m_ref), the official trainer's convention. The
        diffusers research script leaves the 0.5 out, so a beta of its convention is twice as strong as the same beta
        here.
        """
        margin, ref_margin = self.chosen - self.rejected, self.ref_chosen - self.ref_rejected
        return -0.5 * beta * (margin - ref_margin)


PreferenceLoss = Callable[[PairErrors, float], Tensor]
"""(errors, beta) -> loss of each pair, (pairs,)."""

LOSSES: dict[str, PreferenceLoss] = {}


def preference_loss(name: str) -> Callable[[PreferenceLoss], PreferenceLoss]:
    """Enter a function into `LOSSES`, from where `loss_type` picks it."""

    def enter(function: PreferenceLoss) -> PreferenceLoss:
        LOSSES[name] = function
        return function

    return enter


@preference_loss("sigmoid")
def sigmoid_loss(errors: PairErrors, beta: float) -> Tensor:
    """-log sigmoid(inside) for each pair: Diffusion-DPO (Wallace et al. 2023, eq. 14), as the official trainer of the
    paper (AlignGuard, repository Visualignment/SafetyDPO) computes it, but with policy and reference both in fp32.

    Exactly ln 2 wherever policy and reference agree. Its gradient with respect to the winner's error is
    0.5 * beta * sigmoid(-inside), and the loser's is the opposite.
    """
    return -F.logsigmoid(errors.inside(beta))


def denoising_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error over all but the first dimension, (batch,), in fp32 whatever the inputs' types.

    In half precision the rounding of these errors alone, times a beta of 5000, is noise of up to half a standard
    deviation on the logit.
    """
    return (prediction.float() - target.float()).square().flatten(1).mean(1)


def prior_loss(prediction: Tensor, reference: Tensor) -> Tensor:
    """Prior preservation: squared distance to the frozen reference's prediction, (batch,), in fp32."""
    return denoising_error(prediction, reference.detach())


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Mean of `values` (n,) with weights (n,), of which only the ratios count."""
    return (values * weights).sum() / weights.sum()


def suggested_beta(gap: float) -> float:
    """A beta to start from: 10 / `gap`, where `gap` is the mean |r_w - r_l| of the reference's errors.

    To turn a picture the policy must cross that gap, which moves the logit by beta / 2 * gap: about 5 with this beta,
    so the sigmoid is still open. A rule of thumb measured on the emoji world.
    """
    return 10.0 / max(gap, 1e-12)


def saturates(beta: float, gap: float) -> bool:
    """Whether crossing the reference gap takes the sigmoid to where its gradient is gone: beta / 2 * gap above 15."""
    return 0.5 * beta * gap > 15.0
