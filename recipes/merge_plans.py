"""Which merges a recipe asks for, and which of its options each method reads.

How they are made is `training.merge`'s."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from recipes.check import MERGE_METHODS, check
from recipes.loading import RecipeError, fill, parse_yaml, unknown_name
from recipes.recipe import MergeConfig, Recipe

# peft's methods that `density` means something to.
PRUNING_METHODS = ("ties", "dare_linear", "dare_ties", "magnitude_prune")
_CALIBRATED = ("inputs", "weighted_svd", "calibration_prompts", "calibration_timesteps", "calibration_latents")
_SILENCING = ("safe_weight", "empty_share", "ridge", "category_weight")
_DISTILLED = ("distill_steps", "distill_learning_rate", "distill_batch_size", "distill_safe_weight")
METHOD_OPTIONS: dict[str, tuple[str, ...]] = {
    "comerge": ("unit", "score", "selection", "top_n", "score_prompts", "safe_weight", "empty_share", *_CALIBRATED),
    "least_squares": (*_SILENCING, "restore", *_CALIBRATED),
    "constrained": (*_SILENCING, *_CALIBRATED),
    "distill": (*_SILENCING, "restore", *_DISTILLED, *_CALIBRATED),
    "subspace": (*_SILENCING, "restore", "others_weight", "sharpness", *_CALIBRATED),
    "sum": (),
    **dict.fromkeys(("linear", "cat", "svd"), ()),
    **{f"{method}{end}": ("density",) for method in PRUNING_METHODS for end in ("", "_svd")},
}
# What `best` stands for: the method with the lowest unsafe rate among those that keep what safe prompts show.
BEST_METHOD = "distill"
# What every method reads, and what its joint tuning does where there is one.
_FOR_ALL = ("rank", "gain", "tune_steps")
_TUNED = ("tune_learning_rate", "tune_prior_weight")


def planned_merges(recipe: Recipe) -> dict[str, MergeConfig]:
    """Every merge of a recipe with the options it is made with: the recipe's own method first.

    An entry of `merge.compare` is a method, or `method:field=value,field=value` for other options than the recipe's;
    its name is the entry with dashes for everything else, `comerge-unit-rank` for `comerge:unit=rank`. It takes the
    recipe's options but for `gain`, which is tuned to a method and so starts at 1, and `tune_steps`, which starts at 0.
    The names are those of the recipe; the method `best` is resolved in the options.

    Raises:
        `RecipeError`: for an unknown method, an unknown or wrong field, one that the method does not read, or two
            entries of one name.
    """
    plans = {recipe.merge.method: dataclasses.replace(recipe.merge, compare=[])}
    for entry in recipe.merge.compare:
        method, _, rest = entry.partition(":")
        name = re.sub(r"[^\w.]+", "-", entry).strip("-")
        where = f"merge.compare, {entry!r}"
        given: dict[str, Any] = {"gain": 1.0, "tune_steps": 0}
        fields: list[str] = []
        for part in filter(None, rest.split(",")):
            field, equals, value = part.partition("=")
            if not equals:
                raise RecipeError(f"{where}: expected method:field=value,field=value, found {part!r}")
            if field.strip() in fields:
                raise RecipeError(f"{where}: {field.strip()} stands twice")
            fields.append(field.strip())
            given[field.strip()] = parse_yaml(value, where)
        mapping = {**dataclasses.asdict(recipe.merge), "compare": [], **given}
        plan = fill(MergeConfig, {**mapping, "method": method}, where, "merge")
        _require_read(plan, fields, where)
        if name != recipe.merge.method and plans.setdefault(name, plan) != plan:
            raise RecipeError(f"{where}: another entry goes by the name {name} too; write one of them otherwise")
    for name, config in plans.items():
        if config.method not in MERGE_METHODS:
            raise unknown_name("merge.method", config.method, MERGE_METHODS)
        for field, problem in check(dataclasses.replace(recipe, merge=config)):
            if field.startswith("merge."):
                raise RecipeError(f"merge {name}: {field}: {problem}")
    return {name: resolved(config) for name, config in plans.items()}


def resolved(config: MergeConfig) -> MergeConfig:
    """`config` with the method that `best` stands for; any other one is left as it is."""
    return dataclasses.replace(config, method=BEST_METHOD) if config.method == "best" else config


def _require_read(plan: MergeConfig, fields: Sequence[str], where: str) -> None:
    """Refuse fields of an entry that would do nothing."""
    if plan.method not in MERGE_METHODS:
        return
    reads = [*_FOR_ALL, *METHOD_OPTIONS[resolved(plan).method], *(_TUNED if plan.tune_steps else ())]
    for field in fields:
        if field not in reads:
            why = "without tune_steps" if field in _TUNED else f"for the method {plan.method}"
            raise RecipeError(f"{where}: {field} does nothing {why}, which reads {', '.join(reads)}")


def options(config: MergeConfig) -> dict[str, Any]:
    """The fields of `config` that change what its method gives."""
    return {field: getattr(config, field) for field in ("rank", "gain", *METHOD_OPTIONS[config.method])}
