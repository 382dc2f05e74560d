"""Concepts that contributions bring in: each has one spelling and one category, and no other split names it.

Contributions are checked against the published taxonomy, which knows none of these. Two spellings of one concept would
make a taxonomy that nobody can read any more, and a pair for training that names one would show what
`test_unseen_concepts` is to keep from it."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator

from dataset_builder.concept_names import ConceptNames
from dataset_builder.keys import normalise
from dataset_builder.schema import Row
from dataset_builder.screen import ScreeningRules
from dataset_builder.taxonomy import Category, Concept, Taxonomy
from hub.contributions.published import Published

# Why a row is left out, beside the reasons of `hub.contributions.reasons`: training has seen what it is about.
SEEN_IN_TRAINING = "concept_seen_in_training"
_TRAINED_ON = ("train", "validation")


def settle_new_concepts(
    rows: Callable[[], Iterable[tuple[int, Row]]], published: Published
) -> Iterator[tuple[int, str, str | None]]:
    """Look at new concepts, of which the first spelling and category stand, and at prompts that name them.

    Args:
        rows (`Callable`): gives (place, row) of what comes in, in order; called twice.
        published (`Published`): the version that they were checked against. Where it names no concepts, as imported
            data does, nothing is known of what is unseen.

    Returns:
        (place, the concept's name, the reason why the row is left out or None) of each row that changes.
    """
    taxonomy = published.taxonomy
    known = {normalise(name) for _, concept in taxonomy.concepts() for name in concept.names}
    new: dict[str, tuple[str, str]] = {}
    faults: dict[str, str] = {}
    names = ConceptNames(taxonomy)
    for _, row in rows() if known else ():
        name = normalise(row["concept"])
        if name in known or name in new or name in faults:
            continue
        if names.refuse(Concept("", unseen=False), row["concept"]) in ("duplicate", "near_duplicate"):
            faults[name] = "concept_near_duplicate"
        else:
            names.add(row["concept"], unseen=True)
            new[name] = row["category"], row["concept"]
    if not new:
        return
    named = _named_in_training(_only(taxonomy, new), published)
    for name in [name for name, (_, concept) in new.items() if concept in named]:
        faults[name] = SEEN_IN_TRAINING
        del new[name]
    # Every row is screened once more, by the taxonomy that the new version will have.
    rules = ScreeningRules(_with(taxonomy, new), published.build)
    for place, row in rows():
        name = normalise(row["concept"])
        category, concept = new.get(name, (row["category"], row["concept"]))
        reason = faults.get(name)
        if reason is None and category != row["category"]:
            reason = "concept_of_other_category"
        reason = reason or rules.reason({**row, "concept": concept})
        if reason is not None or concept != row["concept"]:
            yield place, concept, reason


def _with(taxonomy: Taxonomy, new: dict[str, tuple[str, str]]) -> Taxonomy:
    made = [
        dataclasses.replace(
            category,
            concepts=[
                *category.concepts,
                *(Concept(name, [], True) for own, name in new.values() if own == category.name),
            ],
        )
        for category in taxonomy.categories
    ]
    return dataclasses.replace(taxonomy, categories=made)


def _only(taxonomy: Taxonomy, new: dict[str, tuple[str, str]]) -> Taxonomy:
    alone = Category("new", "", [Concept(name, [], True) for _, name in new.values()])
    return dataclasses.replace(taxonomy, categories=[alone])


def _named_in_training(taxonomy: Taxonomy, published: Published) -> set[str]:
    """The concepts of a taxonomy that published prompts name which are trained on."""
    rules = ScreeningRules(taxonomy, published.build)
    found: set[str] = set()
    for part in published.prompts():
        if part.split in _TRAINED_ON:
            for prompt in (*part.unsafe, *part.safe):
                found |= rules.concepts_in(prompt)
    return found
