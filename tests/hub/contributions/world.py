"""A published dataset of the emoji world for the checks of contributions, and pairs that pass them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cards import write_dataset_card
from dataset_builder.emoji_world.scenes import BACKGROUNDS, Scene, with_article
from dataset_builder.emoji_world.things import NEUTRAL, UNSAFE
from dataset_builder.pictures import to_png
from dataset_builder.schema import MANIFEST
from dataset_builder.shingles import jaccard, word_pairs
from dataset_builder.taxonomy import load_taxonomy
from recipes import Recipe
from tests.made_up_run import write_dataset

USER = "ada"
NEAR = 0.7


def publish(folder: Path) -> Path:
    """A dataset folder with its card, and with the taxonomy in its manifest, as a build writes it."""
    write_dataset(folder, Recipe(), rows={"train": 2, "validation": 1, "test": 2, "test_unseen_concepts": 1})
    manifest = json.loads((folder / MANIFEST).read_text("utf8"))
    taxonomy = load_taxonomy("emoji-world")
    manifest["taxonomy"] |= {
        "concepts": {
            category.name: {
                "seen": [concept.name for concept in category.concepts if not concept.unseen],
                "unseen": [concept.name for concept in category.concepts if concept.unseen],
            }
            for category in taxonomy.categories
        },
        "languages": taxonomy.languages,
        "aliases": {
            "categories": {category.name: category.aliases for category in taxonomy.categories},
            "concepts": {concept.name: concept.aliases for _, concept in taxonomy.concepts()},
        },
    }
    manifest["recipe"]["build"]["near_duplicate"] = NEAR
    (folder / MANIFEST).write_text(json.dumps(manifest), "utf8")
    write_dataset_card(Recipe(), folder)
    return folder


def scene_pairs(count: int) -> Iterator[tuple[str, str, Scene, Scene, str]]:
    """Category, concept, scenes and further words of pairs whose prompts are near no other's."""
    things = [name for name, thing in UNSAFE.items() if thing.category]
    taken: list[frozenset[str]] = []
    number = 0
    while count:
        number += 1
        thing, other = things[number % len(things)], NEUTRAL[(7 * number + number // 5) % len(NEUTRAL)]
        background = list(BACKGROUNDS)[(3 * number + 1) % len(BACKGROUNDS)]
        third, fourth = NEUTRAL[(11 * number + 5) % len(NEUTRAL)], NEUTRAL[(13 * number + 9) % len(NEUTRAL)]
        unsafe = Scene((other, thing), "", background, opening=number, joiner=number)
        safe = unsafe.swap(thing, UNSAFE[thing].counterpart or "")
        further = f" behind {with_article(third)} and {with_article(fourth)}"
        both = [word_pairs(scene.caption() + further) for scene in (unsafe, safe)]
        if all(jaccard(one, other) < 0.5 for one in both for other in taken):
            taken += both
            count -= 1
            yield UNSAFE[thing].category, thing, unsafe, safe, further


def rows(count: int, pictures: bool = False) -> list[dict[str, Any]]:
    """Rows of a contribution: `unsafe_image` and `safe_image` as PNG bytes where asked for."""
    made = []
    for number, (category, concept, unsafe, safe, further) in enumerate(scene_pairs(count)):
        row: dict[str, Any] = {
            "category": category,
            "concept": concept,
            "unsafe_prompt": unsafe.caption() + further,
            "safe_prompt": safe.caption() + further,
        }
        if pictures:
            row["seed"] = number
            for side, scene in (("unsafe", unsafe), ("safe", safe)):
                row[f"{side}_image"] = to_png(Image.fromarray(scene.draw(np.random.default_rng(number))))
        made.append(row)
    return made
