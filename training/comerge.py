"""Co-Merge: one LoRA out of several experts, each unit taken from the expert that is most active in it.

Pure functions on the tensors of one layer, in the shape of `peft.utils.merge_utils`. Activations are collected by
`training.calibration`; whole adapters are read and written by `training.merge`.

This is a reconstruction. AlignGuard (arXiv 2412.10493) says only that it analyses "which expert has the highest
activation for each weight across all inputs" and merges "only the most active weights per expert"; no code was
released. Every choice the sentence leaves open is an option here."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from training.low_rank import Factors, factor, full, pad, principal, stack

Unit = Literal["row", "rank", "weight"]
Score = Literal["count", "mean"]
Selection = Literal["hard", "soft", "top_n"]

UNITS: tuple[str, ...] = get_args(Unit)
SCORES: tuple[str, ...] = get_args(Score)
SELECTIONS: tuple[str, ...] = get_args(Selection)
# To which counts of wins are told apart: sums of thirds and sevenths differ by more, their rounding is less.
_DECIMALS = 6


def prepare(products: Sequence[Factors], unit: Unit) -> list[Factors]:
    """The experts of one layer, written so that unit i means the same thing in each.

    Output rows and single weights do already. The order of a LoRA's rank components is an accident of its training, so
    for `"rank"` every expert is rewritten in its singular directions, strongest first, and padded to the highest rank.
    """
    if unit != "rank":
        return list(products)
    rank = max(a.shape[0] for a, _ in products)
    return [pad(principal(product), rank) for product in products]


def activations(product: Factors, x: Tensor, unit: Unit = "row") -> Tensor:
    """How active each unit of one expert is on each input.

    Args:
        product (`Factors`): `A` (r, in) and `B` (out, r) of the expert.
        x (`torch.Tensor`): (N, tokens, in) or (N, in), the layer's inputs; one row of N is one prompt at one timestep.
        unit (`str`, *optional*, defaults to `"row"`): `"row"`: `|(B A x)_i|`; `"rank"`: `|B_:c| |(A x)_c|`, the length
            of what component c adds to the output; `"weight"`: `|(B A)_ij| |x_j|`.

    Returns:
        `torch.Tensor`: (N, units), or (N, out, in) for `"weight"`; at least 0, averaged over tokens.
    """
    a, b = product
    x = (x if x.dim() == 3 else x[:, None]).to(a.dtype)
    if unit == "row":
        return (x @ a.T @ b.T).abs().mean(1)
    if unit == "rank":
        return (x @ a.T).abs().mean(1) * b.norm(dim=0)
    if unit == "weight":
        return full(product).abs() * x.abs().mean(1)[:, None, :]
    raise ValueError(f"unit is {unit!r}; it must be one of {', '.join(UNITS)}")


def input_sizes(x: Tensor) -> Tensor:
    """Mean `|x_j|` over tokens, (N, in): all that the activations of single weights take from the inputs."""
    return (x if x.dim() == 3 else x[:, None]).float().abs().mean(1)


def wins(scores: Tensor) -> Tensor:
    """How many inputs each expert wins in each unit.

    Args:
        scores (`torch.Tensor`): (K, N, *units), activations of K experts on the same N inputs.

    Returns:
        `torch.Tensor`: (K, *units) in float64, adding up to N over K. Experts that tie share the win, so that the
        result does not depend on their order.
    """
    best = (scores == scores.amax(0, keepdim=True)).double()
    return (best / best.sum(0, keepdim=True)).sum(1)


@dataclass
class Statistics:
    """What Co-Merge must know of one layer, as sums over inputs, so that inputs can come in portions of any size.

    Args:
        wins (`torch.Tensor`): (K, *units) float64, inputs won.
        activation (`torch.Tensor`): (K, *units) float64, sum of activations.
        inputs (`int`): inputs seen.
    """

    wins: Tensor
    activation: Tensor
    inputs: int

    @classmethod
    def of(cls, scores: Tensor) -> "Statistics":
        """Of one portion: `scores` is (K, N, *units), as `activations` gives them, stacked over experts."""
        return cls(wins(scores), scores.double().sum(1), scores.shape[1])

    @classmethod
    def of_weights(cls, products: Sequence[Factors], sizes: Tensor) -> "Statistics":
        """Of one portion, for single weights, whose activation `|W_ij| |x_j|` over all inputs would be (N, out, in).

        Args:
            products (`Sequence[Factors]`): K experts.
            sizes (`torch.Tensor`): (K, N, in), mean `|x_j|` over the tokens of each input of each expert.
        """
        magnitudes = torch.stack([full(product).abs() for product in products])
        won = torch.zeros_like(magnitudes, dtype=torch.float64)
        for size in sizes.unbind(1):
            won += wins((magnitudes * size[:, None, :])[:, None])
        return cls(won, magnitudes.double() * sizes.double().sum(1)[:, None, :], sizes.shape[1])

    def __add__(self, other: "Statistics") -> "Statistics":
        return Statistics(self.wins + other.wins, self.activation + other.activation, self.inputs + other.inputs)


@dataclass
class WeightSums:
    """What Co-Merge must know of a layer for single weights where all experts see the same inputs: two vectors.

    The activation of weight ij is `|W_k,ij|` times the size of x_j, so whoever has the largest `|W_k,ij|` wins every
    input in which x_j is not 0, and all tie in the others.

    Args:
        active (`torch.Tensor`): (in,) float64, inputs in which x_j is not 0 at all tokens.
        size (`torch.Tensor`): (in,) float64, sum over inputs of the mean `|x_j|` over tokens.
        inputs (`int`): inputs seen.
    """

    active: Tensor
    size: Tensor
    inputs: int

    @classmethod
    def of(cls, sizes: Tensor) -> "WeightSums":
        """Of one portion: `sizes` is (N, in), mean `|x_j|` over the tokens of each input."""
        return cls((sizes > 0).double().sum(0), sizes.double().sum(0), len(sizes))

    def __add__(self, other: "WeightSums") -> "WeightSums":
        return WeightSums(self.active + other.active, self.size + other.size, self.inputs + other.inputs)

    def statistics(self, products: Sequence[Factors]) -> Statistics:
        """The (K, out, in) sums themselves, of this one layer."""
        magnitudes = torch.stack([full(product).abs() for product in products])
        silent = (self.inputs - self.active) / len(products)
        won = wins(magnitudes[:, None]) * self.active + silent
        return Statistics(won, magnitudes.double() * self.size, self.inputs)


def masks(statistics: Statistics, score: Score = "count", selection: Selection = "hard", top_n: int = 2) -> Tensor:
    """How much of each expert's unit goes into the merged unit.

    Args:
        statistics (`Statistics`): of one layer, K experts.
        score (`str`, *optional*, defaults to `"count"`): rank the experts of a unit by inputs won, or by `"mean"`
            activation. The other of the two breaks ties; experts equal in both share the place.
        selection (`str`, *optional*, defaults to `"hard"`): the first expert alone; `"soft"`: all of them, weighted by
            score; `"top_n"`: the first `top_n`, weighted by score. `top_n` 1 is hard, `top_n` K is soft.
        top_n (`int`, *optional*, defaults to 2): at least 1.

    Returns:
        `torch.Tensor`: (K, *units) in float64, from 0 to 1, adding up to 1 over K.
    """
    if score not in SCORES:
        raise ValueError(f"score is {score!r}; it must be one of {', '.join(SCORES)}")
    if selection not in SELECTIONS:
        raise ValueError(f"selection is {selection!r}; it must be one of {', '.join(SELECTIONS)}")
    if top_n < 1:
        raise ValueError(f"top_n is {top_n}; it must be at least 1")
    mean = statistics.activation / max(statistics.inputs, 1)
    # Shared wins are fractions, and the last bits of their sums go by the order of the inputs.
    won = statistics.wins.round(decimals=_DECIMALS)
    first, second, scores = (won, mean, statistics.wins) if score == "count" else (mean, won, mean)
    if selection == "soft":
        share = torch.ones_like(scores)
    else:
        share = _share_of_places(first, second, 1 if selection == "hard" else top_n)
    weights = share if selection == "hard" else share * scores
    total = weights.sum(0, keepdim=True)
    # A unit in which no expert is ever active has no scores to weight by.
    return torch.where(total > 0, weights / total.where(total > 0, 1.0), share / share.sum(0, keepdim=True))


def _share_of_places(first: Tensor, second: Tensor, places: int) -> Tensor:
    """(K, *units): 1 for experts among the best `places`, 0 for those below, a fraction for ties at the border."""
    shares = []
    for mine, mine_second in zip(first, second, strict=True):
        ahead = ((first > mine) | ((first == mine) & (second > mine_second))).sum(0)
        tied = ((first == mine) & (second == mine_second)).sum(0)
        shares.append(((places - ahead) / tied).clamp(0, 1))
    return torch.stack(shares).double()


def merge(products: Sequence[Factors], masks: Tensor, unit: Unit = "row") -> Factors:
    """The merged update of one layer.

    Args:
        products (`Sequence[Factors]`): K experts, as `prepare` returns them.
        masks (`torch.Tensor`): (K, *units).
        unit (`str`, *optional*, defaults to `"row"`).

    Returns:
        `Factors`: for rows and rank components exactly one LoRA of the stacked rank, `A = [A_1; ..; A_K]` and
        `B = [M_1 B_1, .., M_K B_K]`. A mask over single weights leaves nothing low-rank: the (out, in) matrix is formed
        and factored by an SVD at its full rank, min(out, in).
    """
    if unit == "weight":
        dense = sum((mask * full((a.double(), b.double())) for (a, b), mask in zip(products, masks, strict=True)))
        return factor(torch.as_tensor(dense).to(products[0][0].dtype))
    if unit == "row":
        kept = [(a, b * mask[:, None].to(b)) for (a, b), mask in zip(products, masks, strict=True)]
    elif unit == "rank":
        kept = [(a, b * mask[None, :].to(b)) for (a, b), mask in zip(products, masks, strict=True)]
    else:
        raise ValueError(f"unit is {unit!r}; it must be one of {', '.join(UNITS)}")
    return stack(kept)
