"""The dataset card: written from the dataset's own files and manifest, so that it cannot say what they do not."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from cards.citation import citation
from cards.escaping import Safe, plain
from cards.facts import DatasetFacts, dataset_facts
from cards.figure import FIGURE, write_figure
from cards.gating import gating
from cards.vocabulary import size_category
from cards.writing import environment, repository_name, write_card
from evaluation.scene_readers import is_harmless
from recipes import Recipe
from recipes.recipe import PublishConfig

CHANGELOG = "CHANGELOG.md"
MEANINGS = {
    "pair_id": "content hash of both prompts and of what drew them; the same in every version",
    "category": "harm category",
    "concept": "the concept the pair is about",
    "unsafe_prompt": "prompt that asks for something harmful",
    "safe_prompt": "the same scene with a harmless counterpart in its place",
    "unsafe_image": "picture of the unsafe prompt",
    "safe_image": "picture of the safe prompt, from the same seed",
    "unsafe_verdict": "what the judges say of the unsafe picture",
    "safe_verdict": "what the judges say of the safe picture",
    "seed": "seed of both pictures",
    "llm": "model that wrote the prompts",
    "t2i": "model that drew the pictures",
    "source": "`synthetic`, or `community:USER` for a contributed pair",
}
SPLIT_MEANINGS = {
    "train": "for training",
    "validation": "for choosing settings",
    "test": "unseen prompts of concepts that stand in train",
    "test_unseen_concepts": "concepts that stand in no other split",
}
ROLES = {"llm": "prompts written by", "t2i": "pictures drawn by", "judge": "pictures judged by"}
# A pair that a contribution to the emoji world could hold; elsewhere the card shows no prompt, not even a made-up one.
EXAMPLE = {
    "category": "violence",
    "concept": "pistol",
    "unsafe_prompt": "a drawing of a pistol beside a quiet lake",
    "safe_prompt": "a drawing of a water blaster beside a quiet lake",
}


def _type(kind: Any) -> str:
    """A column's type in few words."""
    from datasets import ClassLabel, Features, Image, List

    if isinstance(kind, ClassLabel):
        return f"ClassLabel of {len(kind.names)}"
    if isinstance(kind, List):
        return f"list of {_type(kind.feature)}"
    if isinstance(kind, dict | Features):
        return "{" + ", ".join(f"{name}: {_type(inner)}" for name, inner in kind.items()) + "}"
    return "Image" if isinstance(kind, Image) else str(kind.dtype)


def _read(dataset: Path, config: str) -> tuple[dict[str, str], dict[str, Counter[str]]]:
    """Types of the columns, and rows by split and category, of a config."""
    import pyarrow.parquet as pq
    from datasets import ClassLabel, Features

    from dataset_builder.schema import shards_by_split

    types: dict[str, str] = {}
    counts: dict[str, Counter[str]] = {}
    for split, files in shards_by_split(dataset, config).items():
        for path in files:
            features = Features.from_arrow_schema(pq.read_schema(path))
            types = types or {name: _type(kind) for name, kind in features.items()}
            label = features["category"]
            values = pq.read_table(path, columns=["category"])["category"].to_pylist()
            names = label.int2str(values) if isinstance(label, ClassLabel) else values
            counts.setdefault(split, Counter()).update(names)
    return types, counts


def _example(harmless: bool, categories: list[str]) -> Safe:
    """A line of JSON: an example of a contributed pair."""
    example = EXAMPLE
    if not harmless or EXAMPLE["category"] not in categories:
        names = ("concept", "unsafe_prompt", "safe_prompt")
        example = {"category": plain(categories[0]), **{name: name.upper().replace("_", " ") for name in names}}
    # In ASCII, and so on one line with nothing in it that turns the direction of the text or ends the block.
    return Safe(json.dumps(example).replace("`", "\\u0060").replace("<", "\\u003c"))


def card_body(
    recipe: Recipe,
    facts: DatasetFacts,
    types: dict[str, str],
    counts: dict[str, Counter[str]],
    configs: list[str],
    licence: str,
    changelog: bool = False,
) -> str:
    """The Markdown of a dataset card.

    Args:
        recipe (`Recipe`): its section `publish`; a warning is left out where it and the manifest are the emoji world's.
        facts (`DatasetFacts`): of the manifest.
        types (`dict[str, str]`): type by column. counts (`dict[str, Counter]`): rows by split and category.
        configs (`list[str]`): that the dataset has. licence (`str`): the Hub's name of it.
        changelog (`bool`): whether the repository has a CHANGELOG.md.
    """
    categories = sorted({name for split in counts.values() for name in split})
    harmless = is_harmless(recipe) and facts.emoji_world
    repository = repository_name(recipe, recipe.publish.dataset, "dataset")
    title = facts.name or recipe.name
    fingerprint = ("fingerprint", facts.fingerprint) if facts.fingerprint else None
    return (
        environment()
        .get_template("dataset.md.j2")
        .render(
            recipe=recipe,
            facts=facts,
            harmless=harmless,
            repository=repository,
            title=title,
            citation=citation(f"CoProV2, {title}", repository, "datasets/", facts.version, fingerprint),
            roles=[(name, facts.models[role]) for role, name in ROLES.items() if role in facts.models],
            columns=[(name, kind, Safe(MEANINGS.get(name, ""))) for name, kind in types.items()],
            configs=configs,
            categories=categories,
            counts=counts,
            meanings=SPLIT_MEANINGS,
            totals={name: sum(split[name] for split in counts.values()) for name in categories},
            total=sum(sum(split.values()) for split in counts.values()),
            render={**_render(recipe), **facts.render},
            near_duplicate=facts.near_duplicate or recipe.build.near_duplicate,
            figure=Safe(FIGURE),
            example=_example(harmless, categories),
            licence=licence,
            changelog=Safe(CHANGELOG) if changelog else None,
        )
    )


def _render(recipe: Recipe) -> dict[str, Any]:
    return {name: getattr(recipe.render, name) for name in ("width", "height", "steps", "guidance_scale")}


def write_dataset_card(recipe: Recipe, dataset: Path) -> Path:
    """Write README.md and `images/splits.png` of a dataset folder.

    Args:
        recipe (`Recipe`): its section `publish`; a warning is left out where it and the manifest are the emoji world's.
        dataset (`Path`): folder with the Parquet files and `coprov2.json`; a CHANGELOG.md in it is linked.

    Returns:
        `Path`: of README.md. Sections between `<!-- by hand: NAME -->` and `<!-- end by hand -->` are kept.

    Raises:
        `RecipeError`: where files are missing, the manifest holds a field of another type, or the recipe names
            repositories that cannot be.
    """
    from huggingface_hub import DatasetCardData

    from dataset_builder.card_metadata import card_metadata
    from dataset_builder.schema import configs_of

    facts = dataset_facts(dataset)
    configs = configs_of(facts.files)
    types, counts = _read(dataset, configs[0])
    # What others made is not the recipe's: neither its harmlessness nor its default licence can be said of it.
    imported = facts.imported is not None
    harmless = is_harmless(recipe) and facts.emoji_world
    licence = recipe.publish.licence
    licence = "unknown" if imported and licence == PublishConfig().licence else licence
    tags = ["safety", "preference", "dpo", "text-to-image", "coprov2"]
    data = DatasetCardData(
        pretty_name=plain(f"CoProV2, {facts.name or recipe.name}"),
        license=licence,
        language=["en"],
        task_categories=["text-to-image"],
        size_categories=[size_category(sum(sum(split.values()) for split in counts.values()))],
        annotations_creators=["machine-generated"],
        language_creators=["machine-generated"],
        multilinguality=["monolingual"],
        source_datasets=["extended|other" if imported else "original"],
        tags=tags if harmless else [*tags, "not-for-all-audiences"],
        **card_metadata(dataset, configs),
        **gating(recipe, harmless),
    )
    body = card_body(recipe, facts, types, counts, configs, licence, (dataset / CHANGELOG).is_file())
    write_figure(counts, dataset / FIGURE)
    return write_card(dataset / "README.md", data.to_yaml(), body)
