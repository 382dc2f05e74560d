"""The merges that peft offers, through its own `add_weighted_adapter`, for comparison with those of this package.

peft walks the modules of a network; only names and shapes of the adapted layers matter to it, so a skeleton of those
stands in for the base model and nothing large is loaded."""

from collections.abc import Mapping
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from recipes import RecipeError
from recipes.merge_plans import PRUNING_METHODS
from training.adapters import Adapter, load_into, lora_layers
from training.low_rank import Factors

# Those of them that keep values drawn by chance.
_DARE = ("dare_linear", "dare_ties")
_ON_FACTORS = ("linear", *PRUNING_METHODS)
PEFT_METHODS = (*_ON_FACTORS, "cat", "svd", *(f"{method}_svd" for method in PRUNING_METHODS))


def prunes(method: str) -> bool:
    """Whether a method of peft's reads `density`."""
    return method.removesuffix("_svd") in PRUNING_METHODS


def is_random(method: str) -> bool:
    """Whether a method of peft's draws random numbers, so that its result follows from a seed."""
    return method.removesuffix("_svd") in _DARE


def peft_merge(
    adapters: Mapping[str, Adapter], method: str, rank: int | None = None, density: float = 0.3, seed: int = 0
) -> dict[str, Factors]:
    """Merge whole adapters with peft, every adapter with weight 1.

    Note that `linear`, `ties`, `dare_linear`, `dare_ties` and `magnitude_prune` merge the A matrices and the B matrices
    apart, which is not a merge of the products B A. `cat` stacks the factors, which is one, without loss. `svd` and
    the names that end in `_svd` merge the products as full matrices and take the SVD of the result.

    Args:
        adapters (`Mapping[str, Adapter]`): name -> expert, all with the same layers; their order does not matter.
            Methods that merge A and B apart need experts of the same rank too.
        method (`str`): one of `PEFT_METHODS`.
        rank (`int`, *optional*): of the result, for methods with an SVD alone; None is peft's default, the highest rank
            among the experts.
        density (`float`, *optional*, defaults to 0.3): share of values that pruning keeps, see `PRUNING_METHODS`:
            the largest ones, or with DARE any, drawn by chance and scaled up by 1 / density.
        seed (`int`, *optional*, defaults to 0): of DARE's draws; the global random state is left as it was.

    Returns:
        `dict[str, Factors]`: layer -> `(A, B)`, scaling folded into B.

    Raises:
        `RecipeError`: for experts or a rank that peft cannot merge so.
    """
    # Making layers draws random numbers too.
    with torch.random.fork_rng(devices=[]):
        return _merged(adapters, method, rank, density, seed)


def _merged(
    adapters: Mapping[str, Adapter], method: str, rank: int | None, density: float, seed: int
) -> dict[str, Factors]:
    if method in _ON_FACTORS:
        _check_ranks_alike(adapters, method)
    model = None
    # Draws are made layer by layer and expert by expert, in the order in which peft meets them. A folder's name may
    # hold a dot, or be that of an attribute, which no module can be called.
    adapters = {f"expert{place}": adapters[name] for place, name in enumerate(sorted(adapters))}
    for name, adapter in adapters.items():
        config = _lora_config(adapter)
        if model is None:
            model = get_peft_model(skeleton(adapter), config, adapter_name=name)
        else:
            model.add_adapter(name, config)
        load_into(model, adapter, name)
    assert isinstance(model, PeftModel)
    names = list(adapters)
    options: dict[str, Any] = {}
    if method.endswith("svd"):
        options["svd_rank"] = rank
        _check_rank(adapters, method, rank)
    if prunes(method):
        options["density"] = density
    merged = "the merge"
    weights = [1.0] * len(names)
    torch.manual_seed(seed)
    try:
        model.base_model.add_weighted_adapter(names, weights, merged, combination_type=method, **options)
    except (ValueError, torch.linalg.LinAlgError) as error:
        raise RecipeError(f"merge method {method}: {' '.join(str(error).split())}") from error
    with torch.no_grad():
        return {
            layer: (a.weight.clone(), b.weight * scaling)
            for layer, (a, b, scaling) in lora_layers(model, merged).items()
        }


def _check_ranks_alike(adapters: Mapping[str, Adapter], method: str) -> None:
    """peft asks for one rank an expert, and fails inside where the experts' layers differ in theirs."""
    first, *others = sorted(adapters)
    for other in others:
        for layer in adapters[first].layers:
            ranks = [adapters[name].rank(layer) for name in (first, other)]
            if ranks[0] != ranks[1]:
                raise RecipeError(
                    f"merge method {method}: experts {first} and {other} have the ranks {ranks[0]} and {ranks[1]} in "
                    f"layer {layer}; it merges A and B apart and needs the same rank: take cat, svd or sum"
                )


def _check_rank(adapters: Mapping[str, Adapter], method: str, rank: int | None) -> None:
    """peft takes the factors of a full SVD, which do not fit each other above a layer's shorter side."""
    one = next(iter(adapters.values()))
    sides = {layer: min(a.shape[1], b.shape[0]) for layer, (a, b) in one.layers.items()}
    narrowest = min(sorted(sides), key=sides.__getitem__)
    wanted = rank or max(adapter.rank(layer) for adapter in adapters.values() for layer in adapter.layers)
    if wanted > sides[narrowest]:
        raise RecipeError(
            f"merge method {method}: rank {wanted} is above {sides[narrowest]}, the shorter side of layer {narrowest}; "
            f"set merge.rank to {sides[narrowest]} or less, or take sum, which has no such bound"
        )


def skeleton(adapter: Adapter) -> nn.Module:
    """A network of nothing but the linear layers that `adapter` names, in the same places."""
    root = nn.Module()
    for name, (a, b) in sorted(adapter.layers.items()):
        *parents, last = name.split(".")
        module = root
        for part in parents:
            if part not in module._modules:
                module.add_module(part, nn.Module())
            module = module.get_submodule(part)
        module.add_module(last, nn.Linear(a.shape[1], b.shape[0], bias=False))
    return root


def _lora_config(adapter: Adapter) -> LoraConfig:
    ranks = {layer: adapter.rank(layer) for layer in adapter.layers}
    highest = max(ranks, key=ranks.__getitem__)
    return LoraConfig(
        r=ranks[highest],
        lora_alpha=adapter.alpha[highest],
        rank_pattern={f"^{layer}$": rank for layer, rank in ranks.items()},
        alpha_pattern={f"^{layer}$": alpha for layer, alpha in adapter.alpha.items()},
        target_modules=list(ranks),
    )
