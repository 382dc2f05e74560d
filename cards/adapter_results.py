"""An evaluation's results as an adapter card states them: the model-index, the tables, and the protocol's name."""

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cards.escaping import Safe, plain
from evaluation.scene_readers import is_harmless
from recipes import Recipe, RecipeError

# Measures that stand in the model-index and in the card's table, and what each says.
MEASURES = {
    "unsafe_rate": "unsafe prompts whose picture the judge calls unsafe",
    "unsafe_rate_unseen_concepts": "the same, for concepts that nothing was trained on",
    "counterpart_rate": "unsafe prompts whose picture holds the harmless counterpart and nothing unsafe",
    "scene_kept_rate": "unsafe prompts whose picture holds the other thing and the background they name",
    "safe_fidelity": "safe prompts whose picture holds everything they name",
    "drift": "mean pixel difference to the base model on safe prompts, as a share of the pixel range",
}
# What two evaluations must share for their figures to be comparable.
_PROTOCOL_FIELDS = ("protocol", "judge", "render", "evaluate", "dataset", "prompts")


@dataclass(frozen=True)
class Protocol:
    """How results were measured: its name, and a hash of judge, settings and prompts, by which two results can be told
    to be of the same measurement."""

    name: str
    digest: str


def protocol_of(provenance: dict[str, Any]) -> Protocol:
    """The protocol of an evaluation.

    Args:
        provenance (`dict`): of `evaluation.evaluate.evaluate`: its `evaluation_protocol`; results that state none are
            named by their number `protocol`, and hashed over what they do state.

    Raises:
        `RecipeError`: where `evaluation_protocol` is no protocol.
    """
    named = provenance.get("evaluation_protocol")
    if named is not None:
        if not isinstance(named, dict) or not all(isinstance(named.get(key), str) for key in ("name", "sha256")):
            raise RecipeError("results: provenance.evaluation_protocol: expected `name` and `sha256`; evaluate again")
        return Protocol(plain(named["name"]), plain(named["sha256"])[:16])
    stated = {name: provenance.get(name) for name in _PROTOCOL_FIELDS}
    digest = hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()
    return Protocol(f"coprov2-{provenance.get('protocol', 1)}", digest[:16])


def dataset_version(results: dict[str, Any] | None) -> str | None:
    """The version of the dataset that results were measured on, where they say it."""
    version = results["provenance"]["dataset"].get("version") if results is not None else None
    return None if version is None else plain(version)


def shows_harmless(recipe: Recipe, results: dict[str, Any] | None) -> bool:
    """Whether a card needs no warning: the recipe is the emoji world's, and so is what was evaluated, where anything
    was."""
    return is_harmless(recipe) and (results is None or results["provenance"].get("harmless_world") is True)


def check_results(results: dict[str, Any], model: str, measured: str, adapter: Path) -> None:
    """That results hold a model, measured these weights, and are finite figures.

    Raises:
        `RecipeError`: where they do not.
    """
    if model not in results["models"]:
        raise RecipeError(
            f"results: no model {model!r}, found {', '.join(sorted(results['models']))}; evaluate it first"
        )
    found = results["provenance"]["adapters"].get(model)
    if found != measured:
        raise RecipeError(
            f"{adapter}: its weights are {measured}, but the results of {model!r} are of {found}; evaluate again"
        )
    for name in ("base", model):
        for measure in MEASURES:
            estimate = results["models"][name].get(measure)
            if estimate is not None and not all(math.isfinite(estimate[key]) for key in ("value", "low", "high")):
                raise RecipeError(f"results: {name}.{measure} is no finite number; evaluate again")


def eval_results(
    recipe: Recipe, dataset: str, results: dict[str, Any], model: str, dataset_revision: str | None
) -> list[Any]:
    """The measures as `huggingface_hub.EvalResult`, each with its interval, its number of pictures and the protocol.

    Args:
        recipe (`Recipe`): its name. dataset (`str`): repository of the dataset.
        results (`dict`): of `evaluation.evaluate.evaluate`. model (`str`): whose measures.
        dataset_revision (`str`, *optional*): commit of the dataset; its version stands there without it.
    """
    from huggingface_hub import EvalResult

    provenance = results["provenance"]
    protocol = protocol_of(provenance)
    found = []
    for measure, meaning in MEASURES.items():
        estimate = results["models"][model].get(measure)
        if estimate is None:
            continue
        unseen = measure.endswith("_unseen_concepts")
        bounds = {name: estimate[name] for name in ("low", "high", "n") if name in estimate}
        found.append(
            EvalResult(
                task_type="text-to-image",
                task_name="Text-to-image safety",
                dataset_type=dataset,
                dataset_name=plain(f"CoProV2, {recipe.name}"),
                dataset_config="default",
                dataset_split="test_unseen_concepts" if unseen else "test",
                dataset_revision=dataset_revision or dataset_version(results),
                metric_type=measure,
                metric_name=f"{meaning} (protocol {protocol.name})",
                metric_value=estimate["value"],
                metric_args={"protocol": protocol.name, "protocol_hash": protocol.digest, **bounds},
            )
        )
    return found


def _percent(estimate: dict[str, Any] | None, interval: bool = True) -> Safe:
    if not estimate:
        return Safe("–")
    value, low, high = (f"{100 * float(estimate[name]):.1f}" for name in ("value", "low", "high"))
    # The interval on a line of its own, which a narrow column does not break.
    return Safe(f"{value}&nbsp;%<br>({low}&nbsp;to&nbsp;{high})" if interval else f"{value}&nbsp;%")


def result_rows(results: dict[str, Any] | None, model: str) -> dict[str, list[tuple[str, Safe, Safe]]]:
    """The card's two tables: name, base model, and adapter, of each measure (`measures`) and category
    (`categories`); both empty without results."""
    if results is None:
        return {"measures": [], "categories": []}
    base, after = results["models"]["base"], results["models"][model]

    def categories() -> Iterator[tuple[str, Safe, Safe]]:
        for category, values in after.get("per_category", {}).items():
            before = base.get("per_category", {}).get(category, {})
            if values.get("unsafe_rate"):
                yield category, _percent(before.get("unsafe_rate"), False), _percent(values["unsafe_rate"], False)

    measures = [
        (meaning, _percent(base.get(name)), _percent(after[name]))
        for name, meaning in MEASURES.items()
        if after.get(name)
    ]
    return {"measures": measures, "categories": list(categories())}
