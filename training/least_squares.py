"""The least-squares merge: the one update that answers each expert's inputs as that expert would, and safe inputs with
nothing. Pure functions on the tensors of one layer; `training.calibration` collects the Gram matrices."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from training.low_rank import Factors, stack

CategoryWeight = Literal["equal", "trace", "energy"]
Restore = Literal["none", "all", "category"]
CATEGORY_WEIGHTS: tuple[str, ...] = get_args(CategoryWeight)
RESTORES: tuple[str, ...] = get_args(Restore)
# A category whose mean square is below this share of the largest one has next to nothing to say in the layer.
_FAINT = 0.03
# An expert of which less than this is left is not blown up any further.
_LEAST_KEPT = 0.1
# Below it the mean squares of a layer's inputs or outputs are none: nothing reads it, or no expert moved it.
_NOTHING = 1e-200


def category_weights(products: Sequence[Factors], grams: Sequence[Tensor], how: CategoryWeight) -> list[float]:
    """The weight c_k of each category in the objective of `least_squares`; their mean is 1.

    Args:
        products (`Sequence[Factors]`): K experts.
        grams (`Sequence[torch.Tensor]`): K matrices (in, in).
        how (`str`): `"equal"`: every category 1, its Gram being a mean over its own inputs; `"trace"`: inverse to the
            mean square of its inputs; `"energy"`: inverse to the mean square of its expert's outputs, so that a weak
            expert's relative error counts as much as a strong one's. Below 0.03 of the largest mean square a weight
            fades, to 0 for none: an expert that is all but empty would take the whole objective. In a layer that no
            expert has moved, or that has no inputs, every category counts 1.
    """
    if how not in CATEGORY_WEIGHTS:
        raise ValueError(f"category_weight is {how!r}; it must be one of {', '.join(CATEGORY_WEIGHTS)}")
    if how == "equal":
        return [1.0] * len(products)
    if how == "trace":
        sizes = [float(gram.trace()) for gram in grams]
    else:
        sizes = [energy(product, gram) for product, gram in zip(products, grams, strict=True)]
    largest = max(sizes)
    if largest < _NOTHING:
        # Nothing to tell the categories apart by, and the sum of the inverses would overflow.
        return [1.0] * len(products)
    counts = zip(sizes, _presence(sizes), strict=True)
    inverse = [presence / max(size, _FAINT * largest) for size, presence in counts]
    return [weight * len(inverse) / sum(inverse) for weight in inverse]


def _presence(sizes: Sequence[float]) -> list[float]:
    """1 for each of K mean squares, falling to 0 below `_FAINT` of the largest; all 1 where all are nothing."""
    largest = max(sizes)
    if largest < _NOTHING:
        return [1.0] * len(sizes)
    return [min(1.0, max(0.0, size) / (_FAINT * largest)) for size in sizes]


def inner(one: Factors, other: Factors, gram: Tensor) -> float:
    """`E <B A x, B' A' x> = tr(B A G A'^T B'^T)`: the agreement of two updates on inputs with Gram matrix `gram`."""
    (a, b), (other_a, other_b) = ((part.double() for part in product) for product in (one, other))
    return float(((a @ gram.double() @ other_a.T) * (b.T @ other_b)).sum())


def energy(product: Factors, gram: Tensor) -> float:
    """`E |B A x|^2`, the mean squared output of an update on inputs with Gram matrix `gram`."""
    return inner(product, product, gram)


def kept(merged: Factors, products: Sequence[Factors], grams: Sequence[Tensor]) -> list[float]:
    """The share of each expert's output on its own inputs that the merge gives, `E_k <W x, W_k x> / E_k |W_k x|^2`:
    1 is all of it. An expert that does nothing there counts as kept."""
    shares = []
    for product, gram in zip(products, grams, strict=True):
        size = energy(product, gram)
        shares.append(inner(merged, product, gram) / size if size > 0 else 1.0)
    return shares


def total_gram(grams: Sequence[Tensor], safe: Tensor, safe_weight: float, weights: Sequence[float]) -> Tensor:
    """`sum_k c_k G_k + l G_safe` in float64, (in, in): the metric in which the merge is the nearest one."""
    if safe_weight < 0:
        raise ValueError(f"safe_weight is {safe_weight}; it must be at least 0")
    total = safe_weight * safe.double()
    for gram, weight in zip(grams, weights, strict=True):
        total = total + weight * gram.double()
    return (total + total.T) / 2


def ridge_term(total: Tensor, ridge: float) -> Tensor:
    """`e I`, (in, in), with e = `ridge` (above 0) times the mean diagonal entry of `total` (in, in): Gram matrices of
    few prompts are singular."""
    if ridge <= 0:
        raise ValueError(f"ridge is {ridge}; it must be above 0")
    size = total.shape[0]
    # All-zero inputs leave the trace at 0, and any positive number then does.
    strength = ridge * (float(total.trace()) / size or 1.0)
    return strength * torch.eye(size, dtype=total.dtype, device=total.device)


def least_squares(
    products: Sequence[Factors],
    grams: Sequence[Tensor],
    safe: Tensor,
    *,
    safe_weight: float = 6.0,
    ridge: float = 1e-4,
    category_weight: CategoryWeight = "energy",
    restore: Restore = "category",
) -> tuple[Factors, Tensor]:
    """Merge the experts of one layer in closed form.

    With `W_k = B_k A_k` the expert of category k, `G_k = E[x x^T]` over the layer's inputs on unsafe prompts of k, and
    `G_safe` the same on safe prompts, the merged W minimises

        sum_k c_k E_k |W x - W_k x|^2 + l E_safe |W x|^2 + e |W|^2
          = sum_k c_k tr((W - W_k) G_k (W - W_k)^T) + l tr(W G_safe W^T) + e tr(W W^T).

    It is convex and quadratic; its gradient `2 sum_k c_k (W - W_k) G_k + 2 l W G_safe + 2 e W` vanishes at

        W = (sum_k c_k W_k G_k) C^-1,  C = sum_k c_k G_k + l G_safe + e I.

    Completing the square leaves `tr((M - W) C (M - W)^T)` plus a constant, so the best M of a lower rank is the
    truncation of W by the SVD weighted with C: `low_rank.truncate(W, rank, C)`. And since every W_k is `B_k A_k`, W is
    exactly one LoRA of the stacked rank, `A = [c_1 A_1 G_1 C^-1; ..]`, `B = [B_1, ..]`: the (out, in) matrix is never
    formed.

    Where two experts see the same input direction (the start token, articles, backgrounds) it averages
    them, and pulls them to 0 as far as safe prompts use that direction too; where only one category's prompts go, it
    is that expert. Safe prompts should include the empty one, for the unconditional branch of guidance is drawn
    with it in every picture.

    The pull shrinks what the experts do, by as much as unsafe and safe inputs are alike. `restore` undoes that by what
    is `kept` of each expert, in place of a factor found by trial: the direction of W is the least-squares one, its
    length is the experts'.

    Args:
        products (`Sequence[Factors]`): K experts `(A_k (r_k, in), B_k (out, r_k))`.
        grams (`Sequence[torch.Tensor]`): K matrices (in, in), one per expert, means over inputs.
        safe (`torch.Tensor`): (in, in), mean over safe inputs.
        safe_weight (`float`, *optional*, defaults to 6.0): l, at least 0.
        ridge (`float`, *optional*, defaults to 1e-4): e as a share of the mean diagonal entry of C, above 0: Gram
            matrices of few prompts are singular.
        category_weight (`str`, *optional*, defaults to `"energy"`): see `category_weights`.
        restore (`str`, *optional*, defaults to `"category"`): every expert's part of W is divided by the share of it
            that W keeps, ten times at most; `"all"`: W by the mean share, in which experts that are all but empty
            fade too; `"none"`: W as it is.

    Returns:
        `tuple[Factors, torch.Tensor]`: the merge at its exact rank, in the dtype of the experts, and C (in, in) in
        float64.
    """
    weights = category_weights(products, grams, category_weight)
    total = total_gram(grams, safe, safe_weight, weights)
    total = total + ridge_term(total, ridge)
    cholesky = torch.linalg.cholesky(total)
    parts = []
    for (a, b), gram, weight in zip(products, grams, weights, strict=True):
        seen = weight * a.double() @ gram.double()
        parts.append((torch.cholesky_solve(seen.T, cholesky).T, b.double()))
    dtype = products[0][0].dtype
    return stack([(a.to(dtype), b.to(dtype)) for a, b in restored(parts, products, grams, restore)]), total


def restored(
    parts: Sequence[Factors], products: Sequence[Factors], grams: Sequence[Tensor], how: Restore
) -> list[Factors]:
    """The parts of a merge scaled up again, by what their sum keeps of the experts.

    Args:
        parts (`Sequence[Factors]`): K updates whose sum is the merge.
        products, grams: of the experts, as for `kept`.
        how (`str`): see `least_squares`.
    """
    if how not in RESTORES:
        raise ValueError(f"restore is {how!r}; it must be one of {', '.join(RESTORES)}")
    shares = [1.0] * len(parts) if how == "none" else kept(stack(parts), products, grams)
    if how == "all":
        # What a faint expert's share is says more of the others than of it.
        presence = _presence([energy(product, gram) for product, gram in zip(products, grams, strict=True)])
        mean = sum(share * own for share, own in zip(shares, presence, strict=True)) / sum(presence)
        shares = [mean] * len(shares)
    return [(a / max(share, _LEAST_KEPT), b) for (a, b), share in zip(parts, shares, strict=True)]
