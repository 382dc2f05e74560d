"""The taxonomy: harm categories and their concepts, read from YAML and checked."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from recipes.loading import RecipeError, fill, find_file, read_mapping

_FOLDER = Path(__file__).with_name("taxonomies")
_CATEGORY_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass
class Concept:
    """What a pair is about.

    Args:
        name (`str`): unique in the taxonomy.
        aliases (`list[str]`, *optional*): other names, by which screening recognises the concept too.
        unseen (`bool`, *optional*, defaults to `False`): kept from the experts, for `test_unseen_concepts`.
        counterpart (`str`, *optional*): a harmless replacement, as a hint for the text engine.
    """

    name: str
    aliases: list[str] = field(default_factory=list)
    unseen: bool = False
    counterpart: str | None = None

    @property
    def names(self) -> list[str]:
        """The name and the aliases."""
        return [self.name, *self.aliases]


@dataclass
class Category:
    """A harm category: `name` (lower case, digits and _: it names folders and class labels), `definition` in one
    sentence, and its concepts."""

    name: str
    definition: str
    concepts: list[Concept]


@dataclass
class Taxonomy:
    """Categories under a `name` and a `version`."""

    name: str
    version: str
    categories: list[Category]

    def concepts(self) -> Iterator[tuple[Category, Concept]]:
        """Every concept with its category, in the file's order."""
        for category in self.categories:
            for concept in category.concepts:
                yield category, concept


def load_taxonomy(name_or_path: str) -> Taxonomy:
    """Load a taxonomy by the name of a shipped one or by path.

    Raises:
        `RecipeError`: for unknown or missing fields, names that stand twice or are empty, and empty categories.
    """
    path = find_file(name_or_path, _FOLDER, "taxonomy")
    taxonomy = fill(Taxonomy, read_mapping(path), str(path))
    if not taxonomy.categories:
        raise RecipeError(f"{path}: categories: found none, expected at least one")
    owners: dict[str, str] = {}
    categories: set[str] = set()
    for index, category in enumerate(taxonomy.categories):
        where = f"{path}: categories[{index}]"
        if not _CATEGORY_NAME.fullmatch(category.name):
            raise RecipeError(f"{where}.name: expected lower-case letters, digits and _, found {category.name!r}")
        if category.name in categories:
            raise RecipeError(f"{where}.name: the category {category.name} stands twice")
        categories.add(category.name)
        if all(concept.unseen for concept in category.concepts):
            raise RecipeError(
                f"{where}.concepts: {category.name} has no concept to train on, expected one without unseen"
            )
        for concept in category.concepts:
            for name in concept.names:
                if not name.strip():
                    raise RecipeError(f"{where}.concepts: an empty name or alias in {category.name}")
                label = f"{category.name}/{concept.name}"
                if name.casefold() in owners:
                    raise RecipeError(f"{where}.concepts: {name!r} names both {owners[name.casefold()]} and {label}")
                owners[name.casefold()] = label
    return taxonomy
