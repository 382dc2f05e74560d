"""The adapter card: what the LoRA is for, how to load it, how it was merged, and what was measured."""

import hashlib
import re
from pathlib import Path
from typing import Any

from cards.adapter_results import (
    MEASURES,
    check_results,
    dataset_version,
    eval_results,
    protocol_of,
    result_rows,
    shows_harmless,
)
from cards.citation import citation
from cards.escaping import Safe, literal, plain
from cards.facts import AdapterFacts, adapter_facts
from cards.gallery import place_examples, place_picture
from cards.gating import ADAPTER_PROMPT, gating
from cards.writing import environment, repository_name, write_card
from evaluation.drawing import WEIGHTS, adapter_identity
from recipes import Recipe, RecipeError

_COMMIT = re.compile(r"[0-9a-f]{40}")


def usage(recipe: Recipe, repository: str, base: str | None = None, version: str | None = None) -> Safe:
    """Python that loads the base model and the adapter and draws a picture: an import and three statements.

    Args:
        recipe (`Recipe`): its base model and revision.
        repository (`str`): of the adapter.
        base (`str`, *optional*): identity of the base model, `repo@commit`, which pins the commit.
        version (`str`, *optional*): the adapter's tag.
    """
    if recipe.base_model == "emoji-world":
        # The emoji world's models come with the package, not from the Hub.
        loaded = 'from dataset_builder.models import load_pipeline\n\npipe = load_pipeline("emoji-world")'
        prompt = "a picture of a knife next to a dog in the park"
    else:
        # Of a folder only the name is shown: where it stands is nobody's business, and nobody else's place.
        name, revision = recipe.base_model, recipe.revision
        if Path(name).is_dir():
            name, revision = Path(name).name, None
        elif base is not None and "@" in base:
            revision = base.split("@")[1]
        pinned = f", revision={literal(revision)}" if revision else ""
        loaded = (
            "from diffusers import DiffusionPipeline\n\n"
            f"pipe = DiffusionPipeline.from_pretrained({literal(name)}{pinned})"
        )
        prompt = "a photo of a market in the rain"
    pinned = f", revision={literal(version)}" if version else ""
    return Safe(
        f"{loaded}\npipe.load_lora_weights({literal(repository)}{pinned})\nimage = pipe({literal(prompt)}).images[0]"
    )


def loss_options(recipe: Recipe) -> dict[str, Any]:
    """The settings of the preference loss beyond beta that were in effect: name -> value."""
    from training.losses import LOSSES

    train = recipe.train
    options = {name: getattr(train, name) for name in LOSSES[train.loss_type].options}
    if train.margin_weight > 0:
        options["margin_weight"] = train.margin_weight
    if train.safeguard_mu is not None:
        options["safeguard_mu"] = train.safeguard_mu
    return options


def _check_names(dataset_revision: str | None, new_version: str | None) -> None:
    if dataset_revision is not None and not _COMMIT.fullmatch(dataset_revision):
        raise RecipeError(
            f"the dataset's revision: found {plain(dataset_revision)!r}, expected a commit of 40 hexadecimal digits; a "
            "tag's commit stands in `hf datasets info`"
        )
    if new_version is not None:
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id

        try:
            validate_repo_id(new_version)
        except HFValidationError as error:
            raise RecipeError(f"the new version: not a repository's name: {plain(error)}") from None


def card_body(
    recipe: Recipe,
    facts: AdapterFacts,
    base: str,
    weights: str,
    results: dict[str, Any] | None = None,
    model: str = "merged",
    picture: str | None = None,
    gallery: bool = False,
    dataset_revision: str | None = None,
    new_version: str | None = None,
) -> str:
    """The Markdown of an adapter card.

    Args:
        base (`str`): identity of the base model. weights (`str`): sha256 of the weights file.
        picture (`str`, *optional*): name of the before/after picture in the folder.
        gallery (`bool`): whether the metadata name pictures, which the Hub shows where the card says `<Gallery />`.
        recipe, facts, results, model, dataset_revision, new_version: as for [`write_adapter_card`].
    """
    repository = repository_name(recipe, recipe.publish.adapter, "adapter")
    dataset = repository_name(recipe, recipe.publish.dataset, "dataset")
    provenance = results["provenance"] if results is not None else None
    return (
        environment()
        .get_template("adapter.md.j2")
        .render(
            recipe=recipe,
            facts=facts,
            harmless=shows_harmless(recipe, results),
            dataset=dataset,
            dataset_version=dataset_version(results),
            dataset_revision=dataset_revision,
            new_version=new_version,
            base=base,
            usage=usage(recipe, repository, base, facts.version),
            loss_options=loss_options(recipe),
            weights=weights,
            picture=Safe(picture) if picture else None,
            gallery=gallery,
            rows=result_rows(results, model),
            provenance=provenance,
            protocol=protocol_of(provenance) if provenance is not None else None,
            citation=citation(recipe.publish.adapter, repository, "", facts.version, ("weights sha256", weights)),
        )
    )


def write_adapter_card(
    recipe: Recipe,
    adapter: Path,
    results: dict[str, Any] | None,
    model: str = "merged",
    picture: Path | None = None,
    examples: Path | None = None,
    dataset_revision: str | None = None,
    new_version: str | None = None,
) -> Path:
    """Write README.md of an adapter folder.

    Args:
        recipe (`Recipe`): its base model and its sections `train`, `merge` and `publish`.
        adapter (`Path`): folder with `pytorch_lora_weights.safetensors` and, for a merge, `coprov2.json`.
        results (`dict`, *optional*): what `evaluation.evaluate.evaluate` returned; without it the card says nothing of
            results.
        model (`str`, *optional*, defaults to `"merged"`): whose results in `results["models"]` are the adapter's.
        picture (`Path`, *optional*): before/after picture, copied into the folder as `images/before_after.png`.
        examples (`Path`, *optional*): OUT/evaluation, whose example pictures become the card's gallery; in the emoji
            world only.
        dataset_revision (`str`, *optional*): commit of the dataset that it was trained on.
        new_version (`str`, *optional*): repository of the adapter that takes this one's place.

    Returns:
        `Path`: of README.md. Sections between `<!-- by hand: NAME -->` and `<!-- end by hand -->` are kept.

    Raises:
        `RecipeError`: where the weights are missing, `results` measured other weights or no such model, the manifest
            holds a field of another type, or a repository or commit is named that cannot be.
    """
    from huggingface_hub import ModelCardData

    from dataset_builder.models import identity

    measured = adapter_identity(adapter)
    facts = adapter_facts(adapter)
    _check_names(dataset_revision, new_version)
    if results is not None:
        check_results(results, model, measured, adapter)
    harmless = shows_harmless(recipe, results)
    base = identity(recipe.base_model, recipe.revision)
    dataset = repository_name(recipe, recipe.publish.dataset, "dataset")
    version = dataset_version(results)
    widget = place_examples(adapter, examples if harmless else None)
    weights = hashlib.sha256((adapter / WEIGHTS).read_bytes()).hexdigest()
    body = card_body(
        recipe,
        facts,
        base,
        weights,
        results,
        model,
        place_picture(adapter, picture),
        bool(widget),
        dataset_revision,
        new_version,
    )
    tags = ["text-to-image", "lora", "diffusers", "template:diffusion-lora", "safety", "coprov2"]
    trained_on = {"dataset": dataset, "dataset_version": version, "dataset_revision": dataset_revision}
    data = ModelCardData(
        model_name=recipe.publish.adapter if results is not None else None,
        base_model=base.split("@")[0],
        base_model_relation="adapter",
        library_name="diffusers",
        pipeline_tag="text-to-image",
        license=recipe.publish.licence,
        language=["en"],
        datasets=[dataset],
        tags=tags if harmless else [*tags, "not-for-all-audiences"],
        eval_results=eval_results(recipe, dataset, results, model, dataset_revision) if results is not None else None,
        widget=widget or None,
        new_version=new_version,
        coprov2={name: value for name, value in trained_on.items() if value},
        **gating(recipe, harmless, ADAPTER_PROMPT),
    )
    return write_card(adapter / "README.md", data.to_yaml(), body)


__all__ = ["MEASURES", "card_body", "loss_options", "usage", "write_adapter_card"]
