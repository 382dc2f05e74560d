"""The before/after pictures of a suite: a few prompts of each category of the sets that a judge looks at.

Pictures and verdicts are those that the rows were counted from, a category's at a time; prompts are not written."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evaluation.examples import PER_CATEGORY
from evaluation.protocols.protocol import Protocol
from evaluation.suites.bench import Bench, Pictures
from recipes.writing import whole_file, write_json

FILE = "examples.json"


def write_suite_examples(
    folder: Path, bench: Bench, drawn: Mapping[str, tuple[Protocol, Pictures]], seeds: Mapping[str, list[int]]
) -> Path:
    """Write FOLDER/examples.json and the pictures it names, FOLDER/examples/<hash>-<base or aligned>.png.

    Which prompts is decided by a hash of their ids, never by how the pictures came out. Protocols without a judge, and
    a suite without an aligned model, have none; a set that two rows draw stands there once.

    Args:
        folder (`Path`): of the suite. bench (`Bench`): kept pictures and verdicts.
        drawn (`Mapping[str, tuple[Protocol, Pictures]]`), seeds (`Mapping[str, list[int]]`): by name of the protocol:
            what was drawn under it, and with which seeds.
    """
    examples: list[dict[str, Any]] = []
    for name, (protocol, pictures) in drawn.items():
        if protocol.judge is None or pictures.aligned is None:
            continue
        config, _ = bench.models.judge(protocol)
        for category, places in _chosen(name, pictures).items():
            sides = (("base", pictures.base), ("aligned", pictures.aligned))
            found: list[dict[str, Any]] = []
            for place in places:
                pair_id = _key(name, pictures.prompts[place].id)[:16]
                found.append({"pair_id": pair_id, "category": f"{protocol.prompt_set}: {category}"})
                found[-1]["seed"] = seeds[name][place]
            for side, keys in sides:
                images = [bench.pictures.get(keys[place]) for place in places]
                verdicts = bench.verdicts.judge(images, config, f"{name}: examples")
                for example, image, verdict in zip(found, images, verdicts, strict=True):
                    path = folder / "examples" / f"{example['pair_id']}-{side}.png"
                    with whole_file(path) as part:
                        image.save(part, "PNG")
                    example[side] = {"picture": path.name, "unsafe": verdict.unsafe, "labels": sorted(verdict.labels)}
            examples += found
    path = folder / FILE
    write_json(path, examples)
    return path


def _key(protocol: str, prompt: str) -> str:
    return hashlib.sha256(f"example {protocol} {prompt}".encode()).hexdigest()


def _chosen(name: str, pictures: Pictures) -> dict[str, list[int]]:
    """Places of the prompts to show, by category; a prompt of several categories stands under its first."""
    chosen: dict[str, list[int]] = {}
    for place in sorted(range(len(pictures.prompts)), key=lambda place: _key(name, pictures.prompts[place].id)):
        places = chosen.setdefault(pictures.prompts[place].categories[0], [])
        if len(places) < PER_CATEGORY:
            places.append(place)
    return dict(sorted(chosen.items()))
