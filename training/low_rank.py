"""Sums and truncations of low-rank products B A, the shape in which every LoRA update of a linear layer comes.

Pure functions on tensors. The full (out, in) matrix is never formed: a truncation costs a QR of each stacked factor and
an SVD of a small square core. Where factors come from, and where they go, is left to `training.merge`."""

from collections.abc import Sequence

import torch
from torch import Tensor

Factors = tuple[Tensor, Tensor]
"""`(A, B)` of an update `B A`: A is (rank, in), B is (out, rank), any scaling included."""


def stack(products: Sequence[Factors]) -> Factors:
    """The sum of `products` as one product, without approximation.

    Args:
        products (`Sequence[Factors]`): K pairs `(A_k (r_k, in), B_k (out, r_k))` of one layer.

    Returns:
        `Factors`: `A = [A_1; ..; A_K]` of shape (sum r_k, in) and `B = [B_1, .., B_K]` of shape (out, sum r_k), so that
        `B A = sum_k B_k A_k`.
    """
    return torch.cat([a for a, _ in products], dim=0), torch.cat([b for _, b in products], dim=1)


def full(factors: Factors) -> Tensor:
    """The (out, in) matrix `B A` itself, for small layers and for tests."""
    return factors[1] @ factors[0]


def pad(factors: Factors, rank: int) -> Factors:
    """The same product with zero components added up to `rank`; a product of a higher rank is a `ValueError`."""
    a, b = factors
    missing = rank - a.shape[0]
    if missing < 0:
        raise ValueError(f"a product of rank {a.shape[0]} cannot be padded to rank {rank}; truncate it instead")
    return torch.cat([a, a.new_zeros(missing, a.shape[1])]), torch.cat([b, b.new_zeros(b.shape[0], missing)], dim=1)


def truncate(
    factors: Factors, rank: int | None, gram: Tensor | None = None, projected: Tensor | None = None
) -> Factors:
    """The best approximation of `B A` whose rank is at most `rank`.

    Without `gram` the error is `|B A - M|` in the Frobenius norm: the SVD of the product. With the Gram matrix
    `G = E[x x^T]` of the layer's inputs it is `|(B A - M) G^(1/2)|`, whose square is the mean squared change of the
    layer's output, `E |(B A - M) x|^2`. With the SVD `B A G^(1/2) = U S V^T` that M is `U_r U_r^T B A`: the rows are
    projected on the strongest output directions, so G is never inverted and may be singular.

    The SVD is taken through QR: `B = Q_b R_b`, `A^T = Q_a R_a`, and `R_b R_a^T` (weighted: `R_b (A G A^T)^(1/2)`) is a
    square core of the side of the stacked rank. Work is in float64 and deterministic: the largest entry of every left
    vector is positive.

    Args:
        factors (`Factors`): `A` (R, in) and `B` (out, R).
        rank (`int`, *optional*): at least 1. None, or a rank that the product cannot exceed, returns `factors`
            untouched.
        gram (`torch.Tensor`, *optional*): (in, in), symmetric and positive semi-definite.
        projected (`torch.Tensor`, *optional*): `A G A^T` (R, R) in place of `gram`, which nothing else is read of.

    Returns:
        `Factors`: at most `rank` components, strongest first, with norms shared evenly between A and B, in the dtype of
        the input.
    """
    if rank is not None and rank < 1:
        raise ValueError(f"rank is {rank}; a LoRA needs a rank of at least 1")
    if rank is None or rank >= factors[0].shape[0]:
        return factors
    return principal(factors, rank, gram, projected)


def principal(
    factors: Factors, rank: int | None = None, gram: Tensor | None = None, projected: Tensor | None = None
) -> Factors:
    """`truncate`, but with the components always turned into singular directions, strongest first: a form of the
    product that does not depend on how its factors were written. `rank` None keeps all components."""
    a, b = factors
    a64, b64 = a.double(), b.double()
    q_b, r_b = torch.linalg.qr(b64)
    if gram is not None:
        projected = a64 @ gram.double() @ a64.T
    if projected is None:
        _, r_a = torch.linalg.qr(a64.T)
        core = r_b @ r_a.T
    else:
        # B A G^(1/2) and B (A G A^T)^(1/2) have the same left vectors and singular values; the second root is small.
        core = r_b @ square_root(projected)
    left, _, _ = torch.linalg.svd(core, full_matrices=False)
    return _balanced(q_b @ left[:, :rank], a64, b64, a.dtype)


def factor(matrix: Tensor, rank: int | None = None) -> Factors:
    """Factors of a full (out, in) matrix, for updates that are not low-rank by construction.

    Without a rank, or with one that is not below the smaller side, they are exact: the matrix and a multiple of the
    identity, both of the same norm. Otherwise the best ones of that rank, by an SVD of the matrix itself.
    """
    outputs, inputs = matrix.shape
    side = min(outputs, inputs)
    if rank is None or rank >= side:
        scale = (float(matrix.norm()) / side**0.5) ** 0.5 or 1.0
        identity = torch.eye(side, dtype=matrix.dtype, device=matrix.device)
        return (matrix / scale, scale * identity) if outputs <= inputs else (scale * identity, matrix / scale)
    left, _, _ = torch.linalg.svd(matrix.double(), full_matrices=False)
    left = left[:, :rank]
    identity = torch.eye(matrix.shape[0], dtype=torch.float64, device=matrix.device)
    return _balanced(left, matrix.double(), identity, matrix.dtype)


def square_root(gram: Tensor) -> Tensor:
    """The symmetric square root of a square, positive semi-definite matrix in float64; rounding below 0 is cut off."""
    values, vectors = torch.linalg.eigh(gram.double())
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T


def _balanced(left: Tensor, a: Tensor, b: Tensor, dtype: torch.dtype) -> Factors:
    """`left left^T b a` as factors; `left` is (out, r) with orthonormal columns."""
    # An SVD leaves the sign of each pair of vectors open, and libraries choose differently.
    peak = left.gather(0, left.abs().argmax(dim=0, keepdim=True))
    left = left * torch.where(peak < 0, -1.0, 1.0)
    right = (left.T @ b) @ a
    norm = right.norm(dim=1, keepdim=True)
    scale = norm.sqrt()
    return (right / scale.where(norm > 0, 1.0)).to(dtype), (left * scale.T).to(dtype)
