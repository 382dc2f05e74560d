"""The subspace merge: each expert keeps the input directions that are its own category's, gives up those that safe
prompts and the other categories use, and the sum of what is left is the merge. Pure functions on the tensors of one
layer; `training.calibration` collects the Gram matrices."""

from collections.abc import Sequence

import torch
from torch import Tensor

from training.least_squares import CategoryWeight, Restore, category_weights, restored, ridge_term, total_gram
from training.low_rank import Factors, stack


def subspace(
    products: Sequence[Factors],
    grams: Sequence[Tensor],
    safe: Tensor,
    *,
    safe_weight: float = 6.0,
    others_weight: float = 1.0,
    sharpness: float = 2.0,
    ridge: float = 1e-4,
    category_weight: CategoryWeight = "energy",
    restore: Restore = "category",
) -> tuple[Factors, Tensor]:
    """Merge the experts of one layer after each has been silenced outside its own category.

    With `W_k`, `G_k`, `G_safe` and `c_k` as in `least_squares`, let `P_k = c_k G_k` be the inputs that expert k is for
    and `H_k = o sum_(j != k) c_j G_j + l G_safe + e I` those it is not for. The update that is nearest to the expert on
    the first and to nothing on the second,

        min_V  tr((V - W_k) P_k (V - W_k)^T) + tr(V H_k V^T),   is   V_k = W_k P_k (P_k + H_k)^-1.

    In coordinates in which both are diagonal, `H_k = L L^T` and `L^-1 P_k L^-T = Q diag(m) Q^T`, the entries of
    `z = Q^T L^-1 x` are uncorrelated on both sides, and m_i says how many times more of direction i there is on the
    expert's own inputs. There the same solution reads

        V_k = (W_k L Q) diag(f(m)) Q^T L^-1,   f(m) = m / (1 + m),

    a Wiener filter on input directions. Its slope is a choice: `f(m) = m^s / (1 + m^s)` has the same middle, one half
    at m = 1, and tends to the selection of whole directions, 1 above and 0 below, as the sharpness s grows. A selected
    direction is then kept at its full length instead of being shrunk and scaled up again, and a direction that is
    mostly somebody else's is dropped instead of being kept in part.

    The merge is `sum_k V_k`. For s = 1 and o = 1 it is `least_squares`, because `P_k + H_k` is then one C for all k:
    the joint solution is a sum of experts that were each silenced. What this method adds is o, how much an expert minds
    the other categories, and s.

    Args:
        products (`Sequence[Factors]`): K experts `(A_k (r_k, in), B_k (out, r_k))`.
        grams (`Sequence[torch.Tensor]`): K matrices (in, in), one per expert, means over inputs.
        safe (`torch.Tensor`): (in, in), mean over safe inputs.
        safe_weight (`float`, *optional*, defaults to 6.0): l, at least 0.
        others_weight (`float`, *optional*, defaults to 1.0): o, at least 0.
        sharpness (`float`, *optional*, defaults to 2.0): s, above 0.
        ridge, category_weight, restore: as for `least_squares`; e is relative to the mean diagonal entry of
            `sum_k c_k G_k + l G_safe`.

    Returns:
        `tuple[Factors, torch.Tensor]`: the merge at its exact rank, the sum of the experts' ranks, in their dtype, and
        `sum_k c_k G_k + l G_safe + e I` (in, in) in float64, the metric to truncate in. The cost is an
        eigendecomposition of an (in, in) matrix for each expert.
    """
    if others_weight < 0:
        raise ValueError(f"others_weight is {others_weight}; it must be at least 0")
    if sharpness <= 0:
        raise ValueError(f"sharpness is {sharpness}; it must be above 0")
    weights = category_weights(products, grams, category_weight)
    total = total_gram(grams, safe, safe_weight, weights)
    floor = ridge_term(total, ridge)
    everyone = total_gram(grams, safe, 0.0, weights)
    parts = []
    for (a, b), gram, weight in zip(products, grams, weights, strict=True):
        own = weight * (gram.double() + gram.double().T) / 2
        foreign = others_weight * (everyone - own) + (total - everyone) + floor
        parts.append((_filtered(a.double(), own, foreign, sharpness), b.double()))
    dtype = products[0][0].dtype
    merged = stack([(a.to(dtype), b.to(dtype)) for a, b in restored(parts, products, grams, restore)])
    return merged, total + floor


def _filtered(a: Tensor, own: Tensor, foreign: Tensor, sharpness: float) -> Tensor:
    """`A L Q diag(f(m)) Q^T L^-1`, (r, in); see `subspace`."""
    cholesky = torch.linalg.cholesky(foreign)
    half = torch.linalg.solve_triangular(cholesky, own, upper=False)
    whitened = torch.linalg.solve_triangular(cholesky, half.T, upper=False)
    ratios, directions = torch.linalg.eigh((whitened + whitened.T) / 2)
    # Rounding may leave a ratio a little below 0; the logarithm of the smallest number gives a share of 0 for both.
    kept = torch.sigmoid(sharpness * ratios.clamp_min(torch.finfo(ratios.dtype).tiny).log())
    turned = (a @ cholesky @ directions) * kept @ directions.T
    return torch.linalg.solve_triangular(cholesky, turned, upper=False, left=False)
