"""The values that the fields of a recipe may have, beyond their types.

Names that belong to a registry of another package (engines, judges, steps, losses) are checked there."""

import dataclasses
import re
from collections.abc import Callable, Iterator
from typing import Any

from recipes.recipe import Recipe

Rule = tuple[Callable[[Any], bool], str]
MERGE_METHODS = (
    *("comerge", "least_squares", "constrained", "subspace", "distill", "best", "sum"),
    # peft's.
    *("linear", "cat", "svd", "ties", "ties_svd", "dare_linear", "dare_linear_svd", "dare_ties", "dare_ties_svd"),
    *("magnitude_prune", "magnitude_prune_svd"),
)
SPLITS = ("train", "validation", "test", "test_unseen_concepts")


def _at_least(least: float) -> Rule:
    return lambda value: value is None or value >= least, f"{least} or more"


def _above(bound: float) -> Rule:
    return lambda value: value > bound, f"above {bound}"


def _between(low: float, high: float) -> Rule:
    return lambda value: low <= value <= high, f"{low} to {high}"


def _inside(low: float, high: float) -> Rule:
    return lambda value: low < value < high, f"above {low} and below {high}"


def _one_of(*names: str) -> Rule:
    return lambda value: value in names, f"one of {', '.join(names)}"


_text: Rule = (lambda value: bool(value.strip()), "some text")
_not_empty: Rule = (lambda value: bool(value), "at least one")
_multiple_of_8: Rule = (lambda value: value >= 8 and value % 8 == 0, "a multiple of 8, 8 or more")
_tag: Rule = (
    lambda value: value[:1] == "v" and len(parts := value[1:].split(".")) == 3 and all(p.isdecimal() for p in parts),
    "a tag vMAJOR.MINOR.PATCH",
)
_name: Rule = (lambda value: bool(value.strip()) and "/" not in value, "a name without a slash")
# No user, password or query, which could hold a key.
_server: Rule = (
    lambda value: value is None or re.fullmatch(r"https?://[^/\s@?#]+(/[^\s@?#]*)?", value) is not None,
    "an address such as http://127.0.0.1:8000/v1, without a key",
)

RULES: dict[str, Rule] = {
    "name": _text,
    "base_model": _text,
    "seed": _between(0, 2**31 - 1),
    "llm.batch_size": _at_least(1),
    "llm.temperature": _above(0),
    "llm.max_new_tokens": _at_least(1),
    "llm.max_attempts": _at_least(1),
    "llm.data_parallel": _at_least(1),
    "llm.max_model_len": _at_least(1),
    "llm.base_url": _server,
    "llm.concurrency": _at_least(1),
    "llm.timeout": _above(0),
    "llm.max_retries": _at_least(0),
    "llm.requests_per_minute": (lambda value: value is None or value > 0, "above 0, or null"),
    "llm.server_start_timeout": _above(0),
    "render.steps": _at_least(1),
    "render.guidance_scale": _at_least(0),
    "render.height": _multiple_of_8,
    "render.width": _multiple_of_8,
    "render.batch_size": (
        lambda value: value == "auto" or (isinstance(value, int) and value >= 1),
        "1 or more, or auto",
    ),
    "render.dtype": _one_of("float32", "float16", "bfloat16"),
    "render.max_attempts": _at_least(1),
    "build.expand_to": _at_least(1),
    "build.expand_template": _text,
    "judge.threshold": (lambda value: value is None or 0 <= value <= 1, "0 to 1"),
    "judge.batch_size": _at_least(1),
    "judge.max_side": _between(32, 4096),
    "judge.max_attempts": _at_least(1),
    "judge.base_url": _server,
    "judge.concurrency": _at_least(1),
    "judge.timeout": _above(0),
    "judge.max_retries": _at_least(0),
    "judge.requests_per_minute": (lambda value: value is None or value > 0, "above 0"),
    "build.steps": _not_empty,
    "build.train_pairs": _at_least(1),
    "build.validation_pairs": _at_least(0),
    "build.test_pairs": _at_least(0),
    "build.unseen_concept_pairs": _at_least(0),
    "build.oversample": _at_least(1),
    "build.max_words": _at_least(1),
    "build.near_duplicate": (lambda value: 0 < value <= 1, "above 0 and at most 1"),
    "build.version": _tag,
    "executor.actors": _at_least(1),
    "executor.cpus_per_actor": _at_least(1),
    "executor.gpus_per_actor": _at_least(0),
    "train.max_steps": _at_least(1),
    "train.batch_size": _at_least(1),
    "train.learning_rate": _above(0),
    "train.warmup_steps": _at_least(0),
    "train.rank": _at_least(1),
    "train.alpha": _at_least(1),
    "train.resolution": _at_least(8),
    "train.beta": _above(0),
    "train.label_smoothing": (lambda value: 0 <= value < 0.5, "0 or more and below 0.5"),
    "train.hinge_margin": _above(0),
    "train.dmpo_alpha": _inside(0, 0.5),
    "train.mapo_weight": _above(0),
    "train.margin_weight": _at_least(0),
    "train.safeguard_mu": (lambda value: value is None or 0 <= value <= 1, "0 to 1, or null"),
    "train.dpo_weight": _at_least(0),
    "train.sft_weight": _at_least(0),
    "train.sft_target": _one_of("data", "reference", "reference_both"),
    "train.prior_weight": _at_least(0),
    "train.unsafe_prompt_weight": _at_least(0),
    "train.safe_prompt_weight": _at_least(0),
    "train.prior_batch_size": _at_least(0),
    "train.prompt_dropout": _between(0, 1),
    "train.ref_draws": _at_least(1),
    "train.early_stopping": _at_least(0),
    "train.eval_steps": _at_least(1),
    "train.sample_steps": _at_least(0),
    "train.sample_pairs": _at_least(1),
    "train.save_steps": _at_least(1),
    "train.logging_steps": _at_least(1),
    "train.workers": _at_least(1),
    "train.threads": _at_least(1),
    "merge.method": _one_of(*MERGE_METHODS),
    "merge.compare": (
        lambda entries: all(entry.partition(":")[0] in MERGE_METHODS for entry in entries),
        f"each one of {', '.join(MERGE_METHODS)}, options after a colon",
    ),
    "merge.rank": _at_least(1),
    "merge.unit": _one_of("row", "rank", "weight"),
    "merge.score": _one_of("count", "mean"),
    "merge.selection": _one_of("hard", "soft", "top_n"),
    "merge.top_n": _at_least(1),
    "merge.inputs": _one_of("base", "own"),
    "merge.density": (lambda value: 0 < value <= 1, "above 0 and at most 1"),
    "merge.gain": _above(0),
    "merge.score_prompts": (lambda values: bool(values) and set(values) <= {"unsafe", "safe"}, "unsafe, safe or both"),
    "merge.safe_weight": _at_least(0),
    "merge.empty_share": _between(0, 1),
    "merge.others_weight": _at_least(0),
    "merge.sharpness": _above(0),
    "merge.ridge": _above(0),
    "merge.category_weight": _one_of("equal", "trace", "energy"),
    "merge.restore": _one_of("none", "all", "category"),
    "merge.distill_steps": _at_least(1),
    "merge.distill_learning_rate": _above(0),
    "merge.distill_batch_size": _at_least(1),
    "merge.distill_safe_weight": _at_least(0),
    "merge.calibration_latents": _one_of("image", "noise"),
    "merge.tune_steps": _at_least(0),
    "merge.tune_learning_rate": _above(0),
    "merge.tune_prior_weight": _at_least(0),
    "merge.calibration_prompts": _at_least(1),
    "merge.calibration_timesteps": (
        lambda values: bool(values) and all(0 <= value <= 999 for value in values),
        "at least one, each 0 to 999",
    ),
    "evaluate.splits": (
        lambda values: bool(values) and all(v in SPLITS for v in values),
        f"at least one of {', '.join(SPLITS)}",
    ),
    "evaluate.max_prompts": _at_least(1),
    # Nearer to 1 the quantile of an interval is 1 by rounding, and the interval without end.
    "evaluate.confidence": (lambda value: 0 < value <= 0.999999, "above 0 and at most 0.999999"),
    "publish.namespace": _name,
    "publish.dataset": _name,
    "publish.adapter": _name,
    "publish.licence": _text,
}


def check(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """The fields of `recipe` whose value cannot be, as (dotted name, what is wrong with it)."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(recipe):
        value = getattr(recipe, field.name)
        if dataclasses.is_dataclass(value):
            values |= {f"{field.name}.{inner.name}": getattr(value, inner.name) for inner in dataclasses.fields(value)}
        else:
            values[field.name] = value
    for name, (holds, expected) in RULES.items():
        if not holds(values[name]):
            yield name, _problem(name, expected, values[name])
    for index, judge in enumerate(recipe.judge.judges):
        for name in (field.name for field in dataclasses.fields(judge) if f"judge.{field.name}" in RULES):
            holds, expected = RULES[f"judge.{name}"]
            if not holds(value := getattr(judge, name)):
                yield f"judge.judges[{index}].{name}", _problem(name, expected, value)
    if recipe.build.scene_distance == "embedding" and not recipe.build.embedding_model:
        yield "build.embedding_model", "expected a Hub id or a folder, because build.scene_distance is embedding"


def _problem(name: str, expected: str, value: Any) -> str:
    # An address may hold a key.
    found = "one that is not repeated here" if name.endswith("base_url") else repr(value)
    return f"expected {expected}, found {found}"
