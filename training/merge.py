"""From the experts' folders to one adapter folder per merge, with its provenance.

The arithmetic of a layer is in `training.comerge`, `training.least_squares`, `training.constrained`,
`training.subspace`, `training.low_rank` and, for peft's own methods, in `training.peft_merges`; what it needs to know
of the data comes from `training.calibration`."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager, nullcontext
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recipes import MergeConfig, Recipe, RecipeError
from recipes.merge_plans import METHOD_OPTIONS, options, planned_merges, resolved
from recipes.writing import clear_parts, read_json
from training import comerge
from training.adapters import (
    WEIGHTS_NAME,
    Adapter,
    AdapterError,
    checksum,
    in_text_encoder,
    open_lora,
    sorted_layers,
    write_atomically,
    write_layers,
)
from training.calibration import Calibration, Second, adapted_networks, base_forward, calibrate
from training.calibration_samples import Sample, choose_samples, train_files
from training.constrained import constrained
from training.denoisers import Denoiser, denoiser_for
from training.distill import distill
from training.expert import Base
from training.joint_tuning import tune_jointly, tuning_config
from training.least_squares import least_squares, total_gram
from training.low_rank import Factors, stack, truncate
from training.pairs import read_split
from training.peft_merges import PEFT_METHODS, is_random, peft_merge
from training.subspace import subspace

PROVENANCE = "coprov2.json"
# Fields of the section train that leave no trace in a joint tuning; threads and workers do, in the last bits.
_INDIFFERENT = ("categories", "save_steps")
# Goes up when the same options come to give another merge.
_FORMAT = 1


@dataclasses.dataclass
class Shared:
    """What several merges of the same experts in different folders have in common, and who watches them.

    Args:
        calibrations (`MutableMapping[str, Calibration]`): what was collected, by its options; a mapping that forgets is
            collected again.
        base (`Callable[[], Base]`): the frozen model, for a joint tuning.
        phase (`Callable[[str], AbstractContextManager]`): is entered around `calibrate` (which lies within
            `merge`), `merge` and `tune`.
    """

    calibrations: MutableMapping[str, Calibration]
    base: Callable[[], Base]
    phase: Callable[[str], AbstractContextManager[Any]]


def merge_experts(
    recipe: Recipe, experts: Mapping[str, Path], dataset: Path, out: Path, shared: Shared | None = None
) -> dict[str, Path]:
    """Merge the experts by every method that the recipe names.

    A merge whose folder already holds exactly what these experts, options and calibration data give is left alone.

    Args:
        recipe (`Recipe`): reads merge, base_model, revision and seed.
        experts (`Mapping[str, Path]`): category -> adapter folder; their order does not matter.
        dataset (`Path`): the dataset repository's folder; read only by methods that calibrate.
        out (`Path`): the run's folder.
        shared (`Shared`, *optional*): what other calls with the same experts and dataset have made already.

    Returns:
        `dict[str, Path]`: `recipe.merge.method` -> `OUT/merged`, and each of `recipe.merge.compare` (see
        `planned_merges` for its name) -> `OUT/merges/<name>`.

    Raises:
        `RecipeError`: no experts, experts of different layers or shapes, unknown or wrong options, a dataset or base
        model that does not go with the experts.
    """
    plans = planned_merges(recipe)
    adapters = load_alike(experts)
    sums = {category: checksum(experts[category]) for category in adapters}
    with_text_encoders = any(in_text_encoder(layer) for layer in next(iter(adapters.values())).layers)
    to_tune = [name for name, config in plans.items() if config.tune_steps]
    if to_tune and with_text_encoders and not recipe.train.train_text_encoder:
        raise RecipeError(
            f"merge {to_tune[0]}: tune_steps: the experts have layers of text encoders, and train.train_text_encoder "
            "is false; set it to true, as it was when they were trained, or merge.tune_steps to 0"
        )

    @cache
    def base() -> Base:
        return Base(recipe, read_split(dataset, "train", out / "work" / "cache" / "datasets"), out)

    shared = shared or Shared({}, base, nullcontext)
    calibrations = _Calibrations(recipe, adapters, dataset, shared, plans.values())

    folders = {}
    for name, config in plans.items():
        folder = out / "merged" if name == recipe.merge.method else out / "merges" / name
        folders[name] = folder
        provenance = {
            "kind": "merged adapter",
            "method": config.method,
            "options": options(config),
            "experts": sums,
            **({"seed": recipe.seed} if is_random(config.method) else {}),
            "calibration": calibrations.provenance(config) if _calibrates(config.method) else None,
            "tuning": _tuning(recipe, config, calibrations) if config.tune_steps else None,
        }
        fingerprint = _sha256(json.dumps({"format": _FORMAT, **provenance}, sort_keys=True).encode())
        if is_done(folder, fingerprint):
            continue
        # A folder that is half new must not pass for done, nor another merge's weights for this one's.
        for stale in (WEIGHTS_NAME, PROVENANCE):
            (folder / stale).unlink(missing_ok=True)
        clear_parts(folder)
        told = {"coprov2": f"{config.method} of {', '.join(adapters)}"}
        component = next(iter(adapters.values())).component
        with shared.phase("merge"):
            joint = config.method == "distill"
            one_by_one = dataclasses.replace(config, gain=1.0) if joint else config
            made = merged_layers(adapters, one_by_one, partial(calibrations.collect, config), recipe.seed)
            layers = _finite(config.method, made)
            # A merge that is made layer by layer, and not tuned, is written while it is made.
            start = dict(layers) if config.tune_steps or joint else None
            if start is not None and joint:
                fitted = calibrations.distilled(config, start)
                start = {layer: (a, config.gain * b) for layer, (a, b) in fitted.items()}
            rank = write_merge(folder, layers, told, component) if start is None else 0
        if start is not None:
            if config.tune_steps:
                work = out / "work" / "tuning" / name
                with shared.phase("tune"):
                    start = tune_jointly(recipe, config, start, shared.base, work, fingerprint)
            ordered = ((layer, start[layer]) for layer in sorted_layers(start))
            rank = write_merge(folder, _finite(config.method, ordered), told, component)
        written = {"rank": rank, "weights": checksum(folder)}
        content = {**provenance, **written, "fingerprint": fingerprint}
        write_atomically(folder / PROVENANCE, (json.dumps(content, indent=2, sort_keys=True) + "\n").encode())
    return folders


def merge_layers(
    adapters: Mapping[str, Adapter], config: MergeConfig, calibration: Callable[[], Calibration], seed: int = 0
) -> dict[str, Factors]:
    """Merge adapters in memory.

    Args:
        adapters (`Mapping[str, Adapter]`): category -> expert, all with the same layers.
        config (`MergeConfig`): method, its options, rank (None: the exact one; for peft's methods with an SVD its
            default) and gain.
        calibration (`Callable`): gives the calibration; called only by methods that need it. What `distill` fits
            further on prompts is `merge_experts`' to do: here it is the least squares that it starts from.
        seed (`int`, *optional*, defaults to 0): of methods that draw random numbers.

    Returns:
        `dict[str, Factors]`: layer -> `(A, B)`, float32, any scaling included.
    """
    return dict(merged_layers(adapters, config, calibration, seed))


def merged_layers(
    adapters: Mapping[str, Adapter], config: MergeConfig, calibration: Callable[[], Calibration], seed: int = 0
) -> Iterator[tuple[str, Factors]]:
    """`merge_layers` one layer after the other, in the order of `sorted_layers`: but for peft's methods, no more than a
    layer of each expert and of the merge is held."""
    config = resolved(config)
    adapters = {category: adapters[category] for category in sorted(adapters)}
    one = next(iter(adapters.values()))
    known = calibration() if _calibrates(config.method) else None
    by_peft = {}
    if config.method in PEFT_METHODS:
        by_peft = peft_merge(adapters, config.method, config.rank, config.density, seed)
    for layer in sorted_layers(one.layers, one.component):
        try:
            if by_peft:
                a, b = truncate(by_peft[layer], config.rank)
            else:
                a, b = _merge_layer(layer, {name: _expert(adapters[name], layer) for name in adapters}, config, known)
        except (torch.linalg.LinAlgError, np.linalg.LinAlgError) as error:
            raise RecipeError(
                f"merge method {config.method}: layer {layer}: {' '.join(str(error).split())[:160]}; look for numbers "
                "that are very large, in the experts or in what the base model computes there"
            ) from None
        yield layer, (a.float(), config.gain * b.float())


def _finite(method: str, layers: Iterable[tuple[str, Factors]]) -> Iterator[tuple[str, Factors]]:
    """The layers of a merge as they come; `RecipeError` for one that holds numbers that are none."""
    for layer, factors in layers:
        wrong = sum(part.numel() - int(torch.isfinite(part).sum()) for part in factors)
        if wrong:
            raise RecipeError(
                f"merge method {method}: layer {layer}: {wrong} numbers of the merge are NaN or infinite; look for "
                "numbers that are very large in the experts, or take another method or a smaller merge.gain"
            )
        yield layer, factors


def write_merge(
    folder: Path, layers: Iterable[tuple[str, Factors]], told: Mapping[str, str], component: str = "unet"
) -> int:
    """Write layers as they come, and give the highest rank among them."""
    ranks = []

    def noted() -> Iterator[tuple[str, Factors]]:
        for layer, factors in layers:
            ranks.append(len(factors[0]))
            yield layer, factors

    write_layers(folder, noted(), told, component)
    return max(ranks)


def experts_of(adapters: Mapping[str, Adapter], unit: str = "row") -> dict[str, dict[str, Factors]]:
    """category -> layer -> factors in float32 with the scaling folded in, prepared for Co-Merge's `unit`."""
    names = sorted(adapters)
    experts: dict[str, dict[str, Factors]] = {name: {} for name in names}
    for layer in adapters[names[0]].layers:
        products = [_expert(adapters[name], layer) for name in names]
        for name, product in zip(names, comerge.prepare(products, unit), strict=True):  # type: ignore[arg-type]
            experts[name][layer] = product
    return experts


def _expert(adapter: Adapter, layer: str) -> Factors:
    a, b = adapter.folded_layer(layer)
    return a.float(), b.float()


def is_done(folder: Path, fingerprint: str) -> bool:
    """Whether `folder` holds the merge of this fingerprint, its weights unharmed."""
    try:
        found = read_json(folder / PROVENANCE)
        return found.get("fingerprint") == fingerprint and found.get("weights") == checksum(folder)
    except OSError:
        return False


def _merge_layer(layer: str, products: dict[str, Factors], config: MergeConfig, known: Calibration | None) -> Factors:
    if known is None:
        return truncate(stack(list(products.values())), config.rank)
    listed = list(products.values())
    if config.method == "comerge":
        unit: Any = config.unit
        masks = comerge.masks(known.scores(layer, listed), config.score, config.selection, config.top_n)  # type: ignore[arg-type]
        merged = comerge.merge(comerge.prepare(listed, unit), masks, unit)
        kinds = second_moments(config, len(merged[0]))
        if not kinds:
            return truncate(merged, config.rank)
        (kind,) = kinds
        seen, safe = known.category_grams(layer, list(products), kind), known.safe_gram(layer, config.empty_share, kind)
        total = total_gram(seen, safe, config.safe_weight, [1.0] * len(seen))
        return truncate(merged, config.rank, *((total, None) if kind == "grams" else (None, total)))
    grams, safe = known.category_grams(layer, list(products)), known.safe_gram(layer, config.empty_share)
    silencing: dict[str, Any] = {
        "safe_weight": config.safe_weight,
        "ridge": config.ridge,
        "category_weight": config.category_weight,
    }
    if config.method in ("least_squares", "distill"):
        merged, total = least_squares(listed, grams, safe, restore=config.restore, **silencing)  # type: ignore[arg-type]
    elif config.method == "constrained":
        merged, total = constrained(listed, grams, safe, **silencing)
    else:
        filters: dict[str, Any] = {
            "restore": config.restore,
            "others_weight": config.others_weight,
            "sharpness": config.sharpness,
        }
        merged, total = subspace(listed, grams, safe, **silencing, **filters)
    return truncate(merged, config.rank, total if config.weighted_svd else None)


def second_moments(config: MergeConfig, rank: int) -> tuple[Second, ...]:
    """Which second moments of the inputs a merge reads, in layers whose merge has at most `rank` components.

    Co-Merge itself reads none; its truncation reads what the stacked experts make of the inputs, or, where it leaves
    nothing low-rank, all of them. What is read does not depend on what else was collected, so neither does the result.
    """
    if not _calibrates(config.method):
        return ()
    if config.method != "comerge":
        return ("grams",)
    if not config.weighted_svd or config.rank is None or config.rank >= rank:
        return ()
    return ("grams",) if config.unit == "weight" else ("projected",)


def _highest_rank(adapters: Mapping[str, Adapter], unit: str) -> int:
    """The most components that a layer of the merge has before it is truncated."""
    layers = [
        [adapter.layers[layer] for adapter in adapters.values()] for layer in next(iter(adapters.values())).layers
    ]
    if unit == "weight":
        return max(min(a.shape[1], b.shape[0]) for (a, b), *_ in layers)
    ranks = [[len(a) for a, _ in experts] for experts in layers]
    return max(len(listed) * max(listed) if unit == "rank" else sum(listed) for listed in ranks)


class _Calibrations:
    """Collects calibrations when they are asked for; merges with the same calibration options share one, with all that
    one of them reads."""

    def __init__(
        self,
        recipe: Recipe,
        adapters: Mapping[str, Adapter],
        dataset: Path,
        shared: Shared,
        plans: Collection[MergeConfig],
    ) -> None:
        self._recipe, self._adapters, self._dataset, self._plans = recipe, adapters, dataset, plans
        self._collected, self._phase = shared.calibrations, shared.phase
        self._provenance: dict[bool, dict[str, Any]] = {}
        self._highest_rank = cache(partial(_highest_rank, adapters))

    def collect(self, config: MergeConfig) -> Calibration:
        key = self._key(config)
        known = self._collected.get(key)
        if known is None or not known.has(self._seconds(config)):
            alike = [plan for plan in self._plans if _calibrates(plan.method) and self._key(plan) == key]
            seconds = {kind for plan in (config, *alike) for kind in self._seconds(plan)}
            missing = sorted(kind for kind in seconds if known is None or not known.has([kind]))
            with self._phase("calibrate"):
                found = self._collect(config, missing)
            if known is not None:
                found.grams, found.projected = found.grams or known.grams, found.projected or known.projected
            self._collected[key] = found
        return self._collected[key]

    @staticmethod
    def _key(config: MergeConfig) -> str:
        fields = (
            "inputs",
            "unit",
            "score_prompts",
            "calibration_prompts",
            "calibration_timesteps",
            "calibration_latents",
        )
        return json.dumps([getattr(config, field) for field in fields])

    def _seconds(self, config: MergeConfig) -> tuple[Second, ...]:
        return second_moments(config, self._highest_rank(config.unit))

    def _collect(self, config: MergeConfig, seconds: Collection[Second]) -> Calibration:
        recipe = self._recipe
        denoiser = self._denoiser()
        return calibrate(
            adapted_networks(denoiser, next(iter(self._adapters.values()))),
            base_forward(denoiser, recipe.seed, config.calibration_latents, recipe.train.resolution),
            experts_of(self._adapters, config.unit),
            self._samples(config),
            config,
            seconds=seconds,
        )

    def distilled(self, config: MergeConfig, start: dict[str, Factors]) -> dict[str, Factors]:
        """`start`, fitted to what the experts do to the calibration prompts."""
        experts, samples = experts_of(self._adapters), self._samples(config)
        return distill(self._denoiser(), experts, start, samples, config, self._recipe.seed)

    def _samples(self, config: MergeConfig) -> list[Sample]:
        images, seed = config.calibration_latents == "image", self._recipe.seed
        return choose_samples(self._dataset, list(self._adapters), config.calibration_prompts, seed, images)

    def _denoiser(self) -> Denoiser:
        from dataset_builder.models import load_pipeline

        denoiser = denoiser_for(load_pipeline(self._recipe.base_model, self._recipe.revision))
        denoiser.to("cuda" if torch.cuda.is_available() else "cpu")
        return denoiser

    def provenance(self, config: MergeConfig) -> dict[str, Any]:
        """What every calibration is made from: base model, seed and the train split's files."""
        from dataset_builder.models import identity

        images = config.calibration_latents == "image"
        if images not in self._provenance:
            recipe = self._recipe
            files = {file.name: _file_sha256(file) for file in train_files(self._dataset, images)}
            base = identity(recipe.base_model, recipe.revision)
            known = {"base_model": base, "seed": recipe.seed, "dataset": files}
            if images and recipe.train.resolution is not None:
                known["resolution"] = recipe.train.resolution
            self._provenance[images] = known
        return self._provenance[images]


def _tuning(recipe: Recipe, config: MergeConfig, calibrations: _Calibrations) -> dict[str, Any]:
    """What a joint tuning follows from besides the merge."""
    train = dataclasses.asdict(tuning_config(recipe, config))
    return {
        "steps": config.tune_steps,
        "learning_rate": config.tune_learning_rate,
        "train": {key: value for key, value in train.items() if key not in _INDIFFERENT},
        "data": calibrations.provenance(dataclasses.replace(config, calibration_latents="image")),
    }


def _calibrates(method: str) -> bool:
    return "inputs" in METHOD_OPTIONS[method]


def load_alike(experts: Mapping[str, Path]) -> dict[str, Adapter]:
    """The experts sorted by category, so that their order leaves no trace in the bytes of the merge."""
    if not experts:
        raise RecipeError("there is no expert to merge; run `coprov2 train` first, or name their folder by --experts")
    try:
        adapters = {category: open_lora(experts[category]) for category in sorted(experts)}
        for category, adapter in adapters.items():
            adapter.require_finite(f"expert {category}")
    except AdapterError as error:
        raise RecipeError(str(error)) from error
    shapes = {
        category: {layer: (a.shape[1], b.shape[0]) for layer, (a, b) in adapter.layers.items()}
        for category, adapter in adapters.items()
    }
    first, *others = shapes
    for other in others:
        networks = [adapters[expert].component for expert in (first, other)]
        if networks[0] != networks[1]:
            raise RecipeError(
                f"experts {first} and {other} are of different networks, {networks[0]} and {networks[1]}; merge "
                "experts of one base model (a peft folder's adapter_config.json names it in base_model_class)"
            )
        for layer in sorted(shapes[first] | shapes[other]):
            found = [_words(shapes[expert].get(layer)) for expert in (first, other)]
            if found[0] != found[1]:
                raise RecipeError(
                    f"experts {first} and {other} differ in layer {layer}: {found[0]} and {found[1]}; train all "
                    "experts on the same base model with the same train.target_modules"
                )
    return adapters


def _words(shape: tuple[int, int] | None) -> str:
    return f"{shape[0]} to {shape[1]}" if shape else "not adapted"


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
