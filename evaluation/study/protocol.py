"""Under which protocol the figures of a study hold: that of each seed's evaluation, and one for several seeds together.

A seed has prompts of its own, so each seed's measurement has the hash of `evaluation.protocols.of_recipe`. Figures that
pool seeds have the SHA-256 of the sorted hashes of those seeds, one a line; of a single seed the hash is its own, so
that it is comparable with an evaluation of that run. Figures over other seeds, or over another number of prompts, are
of another protocol, and stand in tables of their own."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict

from evaluation.prompts import Pair, read_pairs, select
from evaluation.protocols.of_recipe import stated_protocol
from evaluation.protocols.protocol import ProtocolRecord
from recipes import Recipe


class StudyProtocol(ProtocolRecord):
    """A protocol over seeds: name, hash and changes (a seed's number is none), and the hash of each seed."""

    seeds: dict[str, str]


class Written(TypedDict):
    """A protocol as study.json explains it: its hash, those of its seeds, and the settings that the first seed's hash
    was taken of."""

    sha256: str
    seeds: dict[str, str]
    settings: dict[str, Any]


def of_seed(
    recipe: Recipe, seed: int, limit: int | None, pairs: Mapping[str, Sequence[Pair]]
) -> tuple[ProtocolRecord, dict[str, Any]]:
    """The protocol of one seed's units, and what its hash was taken of.

    Args:
        recipe (`Recipe`), seed (`int`): of the study, and of the run.
        limit (`int`, *optional*): prompts a split at most.
        pairs (`Mapping[str, Sequence[Pair]]`): all pairs of the recipe's splits.
    """
    evaluate = replace(recipe.evaluate, max_prompts=limit)
    return stated_protocol(replace(recipe, seed=seed, evaluate=evaluate), pairs)


class Protocols:
    """The protocols of a study's figures; each is worked out once.

    Args:
        recipe (`Recipe`), out (`Path`): of the study.
    """

    def __init__(self, recipe: Recipe, out: Path) -> None:
        self._recipe, self._out = recipe, out
        self._pairs: dict[int, dict[str, list[Pair]]] = {}
        self._known: dict[tuple[int, int | None], tuple[ProtocolRecord, dict[str, Any]]] = {}
        # Name -> what was given out under it; with the hash's first digits where another has that name.
        self.written: dict[str, Written] = {}

    def pairs(self, seed: int) -> dict[str, list[Pair]]:
        """All test pairs of a seed by split, without pictures."""
        if seed not in self._pairs:
            dataset = self._out / f"seed-{seed}" / "dataset"
            splits = self._recipe.evaluate.splits
            self._pairs[seed] = {split: read_pairs(dataset, split) for split in splits}
        return self._pairs[seed]

    def ids(self, seed: int, limit: int | None) -> set[str]:
        """The pairs that are drawn at this limit."""
        return {pair.pair_id for rows in self.pairs(seed).values() for pair in select(rows, limit)}

    def sha256(self, seed: int, limit: int | None) -> str:
        """Hash of one seed's protocol."""
        return self._of(seed, limit)[0]["sha256"]

    def over(self, seeds: Iterable[int], limit: int | None) -> StudyProtocol:
        """The protocol of figures that pool `seeds`, of which there is at least one."""
        numbers = sorted(seeds)
        found = {seed: self._of(seed, limit) for seed in numbers}
        hashes = {str(seed): record["sha256"] for seed, (record, _) in found.items()}
        first, settings = found[numbers[0]]
        changed = [one for one in first["changed"] if len(numbers) == 1 or one.partition("=")[0] != "seed"]
        name = settings["name"] + (f" (changed: {', '.join(changed)})" if changed else "")
        sha256 = first["sha256"]
        if len(numbers) > 1:
            name += f", seeds {', '.join(map(str, numbers))}"
            sha256 = hashlib.sha256("\n".join(sorted(hashes.values())).encode()).hexdigest()
        # Of a recipe of one's own the name does not say what a group changes, such as its number of prompts.
        taken = self.written.get(name, {"sha256": sha256})["sha256"] != sha256
        key = f"{name} ({sha256[:12]})" if taken else name
        self.written[key] = Written(sha256=sha256, seeds=hashes, settings=settings)
        return StudyProtocol(name=name, sha256=sha256, changed=changed, seeds=hashes)

    def _of(self, seed: int, limit: int | None) -> tuple[ProtocolRecord, dict[str, Any]]:
        key = (seed, limit)
        if key not in self._known:
            self._known[key] = of_seed(self._recipe, seed, limit, self.pairs(seed))
        return self._known[key]
