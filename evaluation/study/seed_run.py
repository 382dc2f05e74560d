"""One seed of a study: dataset, experts, and the judged variants, all below OUT/seed-N and each done once."""

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from evaluation.drawing import Drawer
from evaluation.judging import Pictures, draw_and_judge, requests_of
from evaluation.measures import Judged
from evaluation.prompts import Pair, Request, prompts_sha256, read_pairs, select
from evaluation.stored import take_stored
from evaluation.study.making import Stage, settings
from evaluation.study.plan import BASE, Unit, Variant, kind_of, merge_config
from evaluation.study.protocol import of_seed
from evaluation.study.records import RECORD, read_record, read_seconds, write_record
from evaluation.study.subsets import concepts_of, nested_order, write_subset
from evaluation.verdict_store import VerdictStore
from recipes import Recipe, RecipeError
from recipes.writing import read_json, write_json

# Part of the fingerprints: raised when the same inputs would give other figures.
PROTOCOL = 1


class TooFewConcepts(RecipeError):
    """A subset cannot be had; the unit stands among what is missing."""


class SeedRun:
    """The work of one seed.

    Args:
        recipe (`Recipe`): of the study; its seed is replaced.
        out (`Path`): the study's folder.
        seed (`int`): of this run.
    """

    def __init__(self, recipe: Recipe, out: Path, seed: int) -> None:
        self.recipe, self.out, self.seed = replace(recipe, seed=seed), out, seed
        self.folder = out / f"seed-{seed}"
        self.dataset = self.folder / "dataset"
        # One at a time: a stage holds the base model and the caches of its pairs.
        self._stages: dict[int | str | None, Stage] = {}
        self._failed: dict[int | str | None, RecipeError] = {}
        self._pairs: dict[str, list[Pair]] = {}
        self._before: dict[int | None, Pictures] = {}
        self._drawer: Drawer | None = None
        self._verdicts: VerdictStore | None = None

    def close(self) -> None:
        """Close the store of verdicts."""
        if self._verdicts is not None:
            self._verdicts.close()

    def built(self) -> bool:
        """Whether the dataset stands."""
        return (self.dataset / "coprov2.json").is_file()

    def build(self) -> None:
        """Build the dataset, or finish building it."""
        from dataset_builder.build import build

        with noted_seconds(self.folder / "seconds.json", "build"):
            build(self.recipe, self.folder)

    def stage(self, concepts: int | str | None, train: bool = True) -> Stage:
        """The experts on some concepts, trained unless `train` is False.

        Raises:
            `TooFewConcepts`: where the dataset has no more than that many, `all` of which are a subset of their own.
        """
        if concepts in self._stages:
            return self._stages[concepts]
        folder, dataset = self.folder, self.dataset
        if isinstance(concepts, int):
            order = nested_order(concepts_of(self.dataset, "train"), self.seed)
            if concepts >= len(order):
                raise TooFewConcepts(f"the dataset has {len(order)} concepts, which are the point `all`")
            folder = self.folder / "concepts" / str(concepts)
            dataset = folder / "dataset"
            if train:
                write_subset(self.dataset, dataset, order[:concepts])
        stage = Stage(self.recipe, dataset, folder, self._best)
        if train:
            self._train(stage, concepts)
            self._stages = {concepts: stage}
        else:
            stage.find()
        return stage

    def _train(self, stage: Stage, concepts: int | str | None) -> None:
        """Train a stage's experts; what failed once is not tried again for each of its variants."""
        if concepts in self._failed:
            raise self._failed[concepts]
        try:
            with noted_seconds(self.folder / "seconds.json", f"train {concepts or 'all'}"):
                stage.train()
        except RecipeError as error:
            self._failed[concepts] = error
            raise

    def pairs(self, limit: int | None) -> dict[str, list[Pair]]:
        """The test prompts of each split of the recipe, at most `limit` a split."""
        splits = self.recipe.evaluate.splits
        for split in splits:
            if split not in self._pairs:
                self._pairs[split] = read_pairs(self.dataset, split)
        return {split: select(self._pairs[split], limit) for split in splits}

    def fingerprint(self, unit: Unit, stage: Stage | None) -> str:
        """Hash of what a unit's verdicts follow from: the adapter, and how its pictures are drawn and judged."""
        from dataset_builder.judges import judge_identity

        made = {
            "protocol": PROTOCOL,
            "adapter": None if stage is None or unit.variant is None else stage.fingerprint(unit.variant),
            "base_model": self.base,
            "render": asdict(self.recipe.render),
            "judge": judge_identity(self.recipe.judge),
            "prompts": prompts_sha256(self.pairs(unit.prompts)),
        }
        return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()

    @property
    def base(self) -> str:
        """Identity of the base model."""
        from dataset_builder.models import identity

        return identity(self.recipe.base_model, self.recipe.revision)

    def asks_for(self, unit: Unit, record: dict[str, Any]) -> bool:
        """Whether a record was made, or found to hold, under the study's present settings; one that does not say is
        taken at its word."""
        return record.get("settings", "") in ("", settings(self.recipe, unit.variant, unit.concepts))

    def is_done(self, unit: Unit) -> bool:
        """Whether a unit's record stands, is what the settings ask for and follows from what is there now; nothing is
        trained to find out."""
        if not self.built():
            return False
        try:
            stage = (
                None if unit.variant is None else self._stages.get(unit.concepts) or self.stage(unit.concepts, False)
            )
        except TooFewConcepts:
            return False
        if stage is not None and not stage.experts:
            return False
        record = read_record(unit.folder(self.out), self.fingerprint(unit, stage))
        return record is not None and self.asks_for(unit, record)

    def run(self, unit: Unit) -> bool:
        """Make and judge a unit; whether there was anything to do.

        Raises:
            `RecipeError`: whatever building, training, merging, drawing and judging raise.
        """
        if not self.built() or self._verdicts is None:
            self.build()
            self._verdicts = VerdictStore(self.folder / "verdicts.sqlite")
        stage = None if unit.variant is None else self.stage(unit.concepts)
        fingerprint, folder = self.fingerprint(unit, stage), unit.folder(self.out)
        under = {
            "settings": settings(self.recipe, unit.variant, unit.concepts),
            "protocol": of_seed(self.recipe, self.seed, unit.prompts, self._pairs)[0]["sha256"],
        }
        known = read_record(folder, fingerprint)
        if known is not None:
            if known != known | under:
                # Other settings gave the same adapter and pictures, or another protocol asks for no others; from now on
                # the record counts under these.
                write_json(folder / RECORD, known | under)
            return False
        adapter: Path | None = None
        costs: dict[str, Any] = {}
        if stage is not None and unit.variant is not None:
            adapter, costs = self._made(stage, unit.variant, folder)
        started = time.perf_counter()
        if adapter is None:
            judged, _ = self._judge_base(unit.prompts)
        else:
            requests = requests_of(self.pairs(unit.prompts))
            judged, _ = self._judge(requests, adapter, unit.name, self._base_pictures(unit.prompts))
        record = {
            "name": unit.name,
            "method": None if stage is None or unit.variant is None else _method(stage, unit.variant),
            "kind": kind_of(unit.variant),
            "seed": self.seed,
            "fingerprint": fingerprint,
            **under,
            "rank": None if adapter is None else _rank(adapter),
            "steps": None if stage is None else stage.total_steps(),
            "costs": costs,
            "evaluate_seconds": round(time.perf_counter() - started, 3),
        }
        write_record(folder, record, judged)
        return True

    def _made(self, stage: Stage, variant: Variant, folder: Path) -> tuple[Path, dict[str, Any]]:
        """The adapter, and what making it cost; kept apart, for a run that is killed while judging."""
        path = folder / "costs.json"
        adapter, costs = stage.make(variant, folder)
        known = read_json(path)
        if not costs["seconds"] and known:
            return adapter, known
        write_json(path, costs)
        return adapter, costs

    def _judge(
        self, requests: list[Request], adapter: Path | None, name: str, before: Pictures | None = None
    ) -> tuple[list[Judged], Pictures]:
        if self._drawer is None:
            self._drawer = Drawer(self.recipe, self.base, self.folder / "pictures")
        assert self._verdicts is not None
        if adapter is None:
            take_stored(self._drawer, self.dataset, requests)
        return draw_and_judge(self._drawer, self._verdicts, requests, adapter, name, before)

    def _judge_base(self, limit: int | None) -> tuple[list[Judged], Pictures]:
        return self._judge(requests_of(self.pairs(limit)), None, BASE)

    def _base_pictures(self, limit: int | None) -> Pictures:
        if limit not in self._before:
            _, self._before[limit] = self._judge_base(limit)
        return self._before[limit]

    def _best(self, experts: dict[str, Path]) -> str:
        """The expert with the lowest unsafe rate over all categories' validation prompts; of equals, the first."""
        pairs = read_pairs(self.dataset, "validation")
        if not pairs:
            raise RecipeError(f"{self.dataset}: no validation pair to choose the best expert on; set validation_pairs")
        requests = [Request(pair, "unsafe") for pair in pairs]
        rates = {}
        for name, folder in sorted(experts.items()):
            judged, _ = self._judge(requests, folder, f"expert {name}")
            rates[name] = sum(row.unsafe for row in judged) / len(judged)
        best = min(rates, key=lambda name: (rates[name], name))
        write_json(self.folder / "best_expert.json", {"best": best, "prompts": len(requests), "unsafe_rate": rates})
        return best


@contextmanager
def noted_seconds(path: Path, name: str) -> Iterator[None]:
    """Add the seconds of what happens inside to a JSON file of seconds by name."""
    started = time.perf_counter()
    try:
        yield
    finally:
        known = read_seconds(path)
        known[name] = round(known.get(name, 0.0) + time.perf_counter() - started, 3)
        write_json(path, known)


def _rank(adapter: Path) -> int:
    return int(json.loads((adapter / "coprov2.json").read_text("utf8"))["rank"])


def _method(stage: Stage, variant: Variant) -> str:
    """The method as the table names it: that of the recipe where the variant leaves it open."""
    return merge_config(stage.recipe, variant).method if variant.merge is not None else variant.method
