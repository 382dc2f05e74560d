"""Adapters of a study's variants: experts trained once for a seed (and a subset of concepts), and what is made of them.

Training and merging are the packages' own; here is which of them a variant takes, and with what. Judging is
`seed_run.py`'s."""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.drawing import adapter_identity
from evaluation.study.costs import Costs
from evaluation.study.plan import Variant, merge_config, tune_steps
from recipes import Recipe, RecipeError, TrainConfig

if TYPE_CHECKING:
    from training.expert import Base
    from training.pairs import PairData

# Part of every fingerprint: raised when the same variant would come out otherwise.
_FORMAT = 1
# Leave no trace in what is made of the experts, whose own checksums are compared.
_INDIFFERENT = ("categories", "workers", "save_steps", "sample_steps", "sample_pairs", "report_to")


class _Last(dict[str, Any]):
    """Keeps what was put in last: calibrations of a large model are too large to keep them all."""

    def __setitem__(self, key: str, value: Any) -> None:
        self.clear()
        super().__setitem__(key, value)


class Stage:
    """The experts of a run's folder, and adapters made from them.

    Args:
        recipe (`Recipe`): with the seed that counts.
        dataset (`Path`): what experts are trained on, and merges calibrated on.
        folder (`Path`): a run's folder: FOLDER/experts, FOLDER/work.
        best (`Callable[[dict[str, Path]], str]`): which of the experts is the best single one.
    """

    def __init__(self, recipe: Recipe, dataset: Path, folder: Path, best: Callable[[dict[str, Path]], str]) -> None:
        # A tuning's last bits depend on the workers; with one, they do not on how many seeds run side by side.
        self.recipe = dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, workers=1))
        self.trained = recipe
        self.dataset, self.folder, self._best = dataset, folder, best
        self.experts: dict[str, Path] = {}
        self.calibrations: _Last = _Last()
        # Seconds of the calibration that is kept.
        self._calibrated: float | None = None

    def train(self) -> None:
        """Train the experts, or what is missing of them."""
        from training.experts import train_experts

        self.experts = train_experts(self.trained, self.dataset, self.folder)

    def find(self) -> bool:
        """Take the finished experts that stand in the folder, without training; whether there are some."""
        found = sorted((self.folder / "experts").glob("*/training.json"))
        wanted = self.recipe.train.categories
        self.experts = {path.parent.name: path.parent for path in found if not wanted or path.parent.name in wanted}
        return bool(self.experts)

    @cached_property
    def _data(self) -> "PairData":
        from training.pairs import read_split

        return read_split(self.dataset, "train", self.folder / "work" / "cache" / "datasets")

    @cached_property
    def _base(self) -> "Base":
        from training.expert import Base

        return Base(self.recipe, self._data, self.folder)

    def total_steps(self) -> int:
        """Training steps of all experts together, without a tuning."""
        return len(self.experts) * self.recipe.train.max_steps

    def fingerprint(self, variant: Variant) -> str:
        """Hash of what a variant's adapter follows from."""
        from dataset_builder.models import identity

        config = merge_config(self.recipe, variant)
        train = {key: value for key, value in asdict(self._on_all(variant)).items() if key not in _INDIFFERENT}
        made = {
            "format": _FORMAT,
            "variant": {**asdict(variant), "name": None, "tune_steps": None},
            "merge": _options(asdict(config)),
            "train": train if config.tune_steps or variant.all_single or variant.sft else None,
            "steps": self._single_steps(variant) if variant.all_single or variant.sft else self.total_steps(),
            "experts": {name: adapter_identity(folder) for name, folder in sorted(self.experts.items())},
            "base_model": identity(self.recipe.base_model, self.recipe.revision),
            "seed": self.recipe.seed,
        }
        return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()

    def make(self, variant: Variant, folder: Path) -> tuple[Path, dict[str, Any]]:
        """Make a variant's adapter, FOLDER/merged, or leave it alone where it stands.

        Returns:
            `tuple[Path, dict]`: the adapter's folder, and what it cost: `seconds` and `peak_mib` by phase, `resumed`
            where a killed training was gone on with, so that its seconds are not those of all of it.

        Raises:
            `RecipeError`: for a variant that does not go with the recipe, and whatever training and merging raise.
        """
        from training.merge import Shared, merge_experts

        costs, config = Costs(), merge_config(self.recipe, variant)
        resumed = any((folder / "work").rglob("checkpoint-*"))
        shared = Shared(self.calibrations, lambda: self._base, costs.phase)
        if variant.merge is not None:
            experts = self.experts
        elif variant.single_expert is not None:
            best = self._best(self.experts)
            experts = {best: self.experts[best]}
            shared.calibrations = {}
        else:
            experts = {"all": self._single(variant, folder, costs)}
            shared.calibrations = {}
        recipe = dataclasses.replace(self.recipe, merge=config)
        adapter = merge_experts(recipe, experts, self.dataset, folder, shared)[config.method]
        if "calibrate" in costs.seconds:
            self._calibrated = costs.seconds["calibrate"]
        elif "inputs" in _options(asdict(config)) and "merge" in costs.seconds and self._calibrated is not None:
            # Shared with the variant before, which paid for it.
            costs.seconds["calibrate"] = self._calibrated
        return adapter, {**costs.record(), "resumed": resumed}

    def _single(self, variant: Variant, folder: Path, costs: Costs) -> Path:
        """One LoRA on all categories, FOLDER/single."""
        from training.all_single import train_all_single

        rank = variant.rank or self.recipe.merge.rank
        if rank is None:
            raise RecipeError(f"variant {variant.name}: merge.rank is null; one LoRA on all needs a rank, so set it")
        recipe = dataclasses.replace(self.recipe, train=self._on_all(variant))

        def base() -> "Base":
            return self._base

        with costs.phase("train"):
            trained = train_all_single(
                recipe,
                folder / "single",
                folder / "work" / "single",
                rank,
                self._single_steps(variant),
                base,
                self._data.fingerprint(),
            )
        if not trained:
            costs.seconds.pop("train")
            costs.peak_mib.pop("train", None)
        return folder / "single"

    def _single_steps(self, variant: Variant) -> int:
        """Steps of one LoRA on all, so that with a tuning after it they are what experts and tuning take."""
        return self.total_steps() + (0 if variant.tune else tune_steps(self.recipe, variant))

    def _on_all(self, variant: Variant) -> TrainConfig:
        """The section train as a variant's training on all categories takes it: a control is given the tuning's
        prior, as what it is compared with is."""
        from training.joint_tuning import tuning_config

        train = tuning_config(self.recipe, merge_config(self.recipe, variant))
        if variant.sft:
            # Margin and safeguard act on the preference term alone.
            train = dataclasses.replace(train, dpo_weight=0.0, margin_weight=0.0, safeguard_mu=None)
        return train


def settings(recipe: Recipe, variant: Variant | None, concepts: int | str | None) -> str:
    """Hash of what a study asks for where it says this variant (None for the base model), whatever stands on disk.

    It covers dataset and experts by their settings, so it tells a record of another recipe before they are made anew.
    How figures are counted is not in it: that is the protocol's."""
    asked = asdict(recipe)
    made = {name: asked[name] for name in ("base_model", "revision", "seed", "llm", "render", "judge", "build")}
    if variant is not None:
        made["train"] = {
            key: value for key, value in asked["train"].items() if key not in ("categories", *_INDIFFERENT)
        }
        made |= {"categories": sorted(recipe.train.categories), "concepts": concepts}
        made["variant"] = {**asdict(variant), "name": None, "tune_steps": tune_steps(recipe, variant)}
        made["merge"] = _options(asdict(merge_config(recipe, variant)))
    return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()


def _options(config: dict[str, Any]) -> dict[str, Any]:
    """The fields of a merge that its method reads, and those of the tuning."""
    from recipes import MergeConfig
    from recipes.merge_plans import options, resolved

    made = resolved(MergeConfig(**config))
    tuning: dict[str, Any] = {"tune_steps": made.tune_steps}
    if made.tune_steps:
        tuning |= {"tune_learning_rate": made.tune_learning_rate, "tune_prior_weight": made.tune_prior_weight}
    return {"method": made.method, **options(made), **tuning}
