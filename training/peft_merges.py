"""The merges that peft offers, through its own `add_weighted_adapter`, for comparison with those of this package.

peft walks the modules of a network; only names and shapes of the adapted layers matter to it, so a skeleton of those
stands in for the base model and nothing large is loaded."""

from collections.abc import Mapping
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from recipes import RecipeError
from training.adapters import Adapter, load_into, lora_layers
from training.low_rank import Factors

PEFT_METHODS = ("linear", "ties", "svd")


def peft_merge(
    adapters: Mapping[str, Adapter], method: str, rank: int | None = None, density: float = 0.3
) -> dict[str, Factors]:
    """Merge whole adapters with peft, every adapter with weight 1.

    Note that `linear` and `ties` merge the A matrices and the B matrices apart, which is not a merge of the products
    B A; `svd` sums the products and takes the SVD of the full matrix.

    Args:
        adapters (`Mapping[str, Adapter]`): name -> expert, all with the same layers; `linear` and `ties` need the same
            rank too.
        method (`str`): linear, ties or svd.
        rank (`int`, *optional*): of the result, for `svd` alone; None is peft's default, the highest rank among the
            experts.
        density (`float`, *optional*, defaults to 0.3): share of values that `ties` keeps.

    Returns:
        `dict[str, Factors]`: layer -> `(A, B)`, scaling folded into B.
    """
    model = None
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
    if method == "svd":
        options["svd_rank"] = rank
    elif method == "ties":
        options["density"] = density
    # The name of a category cannot hold a space, so it is free.
    merged = "the merge"
    try:
        model.base_model.add_weighted_adapter(names, [1.0] * len(names), merged, combination_type=method, **options)
    except ValueError as error:
        raise RecipeError(f"merge method {method}: {error}") from error
    with torch.no_grad():
        return {
            layer: (a.weight.clone(), b.weight * scaling)
            for layer, (a, b, scaling) in lora_layers(model, merged).items()
        }


def skeleton(adapter: Adapter) -> nn.Module:
    """A network of nothing but the linear layers that `adapter` names, in the same places."""
    root = nn.Module()
    for name, (a, b) in adapter.layers.items():
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
