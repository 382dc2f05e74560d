"""The constrained merge: the smallest update that gives every expert exactly its share. Pure functions on the tensors
of one layer; `training.calibration` collects the Gram matrices."""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import lsq_linear
from torch import Tensor
from transformers.utils import logging

from training.least_squares import CategoryWeight, category_weights, ridge_term, total_gram
from training.low_rank import Factors, stack

logger = logging.get_logger(__name__)

# No part of the merge is longer than this many times what its expert alone would take.
MOST = 10.0
# Eigenvalues of the experts' correlations below the first are rounding, and so are shares below the second.
_ROUNDING, _NO_SHARE = 1e-12, 1e-9
# The library's own bound is the number of experts, which an active set of many contradicting ones goes past.
_ITERATIONS = 1000


def constrained(
    products: Sequence[Factors],
    grams: Sequence[Tensor],
    safe: Tensor,
    *,
    safe_weight: float = 6.0,
    ridge: float = 1e-4,
    category_weight: CategoryWeight = "energy",
) -> tuple[Factors, Tensor]:
    """Merge the experts of one layer under one linear condition for each.

    With `W_k`, `G_k`, `G_safe`, `c_k`, l and e as in `least_squares`, W solves

        min_W  tr(W C W^T)   subject to   E_k <W x, W_k x> = E_k |W_k x|^2  for every k,
        C = sum_k c_k G_k + l G_safe + e I,

    so the share that `least_squares.kept` measures is 1 for every expert, and what else W does, on safe inputs and on
    unsafe ones, is as little as that allows. The objective is the one of `least_squares`: its only other term that
    depends on W, `-2 sum_k c_k tr(W G_k W_k^T)`, is a constant under the conditions. `restore` of least squares
    divides each part by its own share, which leaves the shares off 1 where categories meet; here all are solved at
    once. In array processing this is the linearly constrained minimum variance beamformer (Frost, "An algorithm for
    linearly constrained adaptive array processing", Proceedings of the IEEE 60(8), 1972).

    The condition of k reads `tr(W G_k W_k^T) = E_k` with `E_k = tr(W_k G_k W_k^T)`. With multipliers `2 g_k` the
    Lagrangian's gradient, `2 W C - 2 sum_k g_k W_k G_k`, vanishes at

        W = sum_k g_k W_k G_k C^-1,   and the conditions are   N g = E,   N_kj = tr(W_j G_j C^-1 G_k W_k^T).

    As `W_k = B_k A_k`, W is exactly one LoRA of the stacked rank, `A = [g_1 A_1 G_1 C^-1; ..]`, `B = [B_1, ..]`: with
    `C = L L^T` and `H_k = A_k G_k L^-T` the matrix N is made of blocks of `H H^T` and `B^T B`, and the (out, in) matrix
    is never formed.

    N holds inner products, so it is positive semi-definite. It is singular
    - where an expert does nothing on its own inputs: E_k is 0, its condition holds whatever W is, and g_k is 0;
    - where experts coincide (`W_k G_k` the same): their conditions are one, and they share its multiplier evenly;
    - where experts contradict each other (`W_k G_k = -W_j G_j`): no W fulfils both conditions.
    Near the last case multipliers grow without bound, and W with them. So g_k is held within `MOST` times
    `E_k / N_kk`, the multiplier that expert k would have alone, by which W never costs more than that expert:
    `tr(W C W^T) = E_k^2 / N_kk <= tr(W_k C W_k^T)`, by the Cauchy-Schwarz inequality. A bound u_k on `|g_k|` is the
    dual of the penalty `2 u_k |E_k <W x, W_k x> - E_k|` in place of condition k: there is always one best W, it is the
    constrained one where no bound is reached, and a condition whose bound is reached is missed by as little as the
    penalty makes it.

    Args:
        products (`Sequence[Factors]`): K experts `(A_k (r_k, in), B_k (out, r_k))`.
        grams (`Sequence[torch.Tensor]`): K matrices (in, in), one per expert, means over inputs.
        safe (`torch.Tensor`): (in, in), mean over safe inputs.
        safe_weight, ridge, category_weight: as for `least_squares`.

    Returns:
        `tuple[Factors, torch.Tensor]`: the merge at its exact rank, in the dtype of the experts, and C (in, in) in
        float64. The conditions hold to the rounding of that dtype; a truncation to a lower rank takes from the shares.
    """
    total = total_gram(grams, safe, safe_weight, category_weights(products, grams, category_weight))
    total = total + ridge_term(total, ridge)
    cholesky = torch.linalg.cholesky(total)
    halves, energies = [], []
    for (a, b), gram in zip(products, grams, strict=True):
        seen = a.double() @ gram.double()
        halves.append(torch.linalg.solve_triangular(cholesky, seen.T, upper=False).T)
        energies.append(float(((seen @ a.double().T) * (b.double().T @ b.double())).sum()))
    multipliers = _multipliers(halves, [b.double() for _, b in products], energies)
    parts = []
    for half, (a, b), multiplier in zip(halves, products, multipliers, strict=True):
        silenced = torch.linalg.solve_triangular(cholesky.T, half.T, upper=True).T
        parts.append(((multiplier * silenced).to(a.dtype), b))
    return stack(parts), total


def _multipliers(halves: Sequence[Tensor], ups: Sequence[Tensor], energies: Sequence[float]) -> list[float]:
    """The g_k of `constrained`: K numbers, from H_k (r_k, in), B_k (out, r_k) and E_k.

    They maximise `2 g^T E - g^T N g` within their bounds. In units in which N has ones on its diagonal this is a
    least-squares problem in bounds, solved by an active-set method.
    """
    normal = np.array(
        [
            [float(((one @ other.T) * (up.T @ other_up)).sum()) for other, other_up in zip(halves, ups, strict=True)]
            for one, up in zip(halves, ups, strict=True)
        ]
    )
    wanted = np.array(energies)
    if not (np.isfinite(normal).all() and np.isfinite(wanted).all()):
        raise np.linalg.LinAlgError("what the experts do to their inputs is beyond float64")
    lengths = np.sqrt(normal.diagonal().clip(min=0))
    # An expert of next to nothing beside the others is noise of the arithmetic, and has no direction.
    active = (lengths > 0) & (wanted > np.finfo(float).tiny)
    result = np.zeros(len(energies))
    if active.any():
        scale = lengths[active]
        target = wanted[active] / scale
        values, vectors = np.linalg.eigh(normal[np.ix_(active, active)] / np.outer(scale, scale))
        roots, turned = np.sqrt(values.clip(min=_ROUNDING)), vectors.T @ target
        # Parts that coincide share the work evenly: what their difference seems to be asked for is rounding.
        turned[(values < _ROUNDING) & (np.abs(turned) < _NO_SHARE * np.linalg.norm(target))] = 0.0
        bounds = (-MOST * target, MOST * target)
        root = roots[:, None] * vectors.T
        found = lsq_linear(root, turned / roots, bounds, method="bvls", tol=1e-14, max_iter=_ITERATIONS)
        if not found.success:
            logger.warning(
                f"constrained: the shares of {int(active.sum())} experts are not settled after {_ITERATIONS} "
                f"iterations (optimality {found.optimality:.1e}); the layer's merge is near the constrained one"
            )
        result[active] = found.x / scale
    return [float(multiplier) for multiplier in result]
