"""Calibration: what the adapted layers of the base model see, collected for all experts in one pass.

Hooks on the layers turn each batch into running sums (Gram matrices, Co-Merge statistics) and drop it, so memory does
not grow with the number of prompts. What is done with the sums is left to `training.comerge` and
`training.least_squares`."""

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from tqdm import tqdm

from recipes import MergeConfig, RecipeError
from training.adapters import Adapter, in_text_encoder
from training.calibration_samples import EMPTY, SIDES, Sample
from training.comerge import Statistics, Unit, WeightSums, activations, input_sizes
from training.denoisers import Denoiser, DenoiserError
from training.low_rank import Factors, stack

INPUTS = ("base", "own")
BATCH_SIZE = 16

Second = Literal["grams", "projected"]
"""Second moments of a layer's inputs x: of all of them, `E[x x^T]` (in, in), or of what the stacked experts make of
them, `E[(A x) (A x)^T] = A G A^T` (R, R) with `A = [A_1; ..; A_K]`, which is all that a truncation of them reads."""
SECONDS: tuple[Second, ...] = get_args(Second)

Experts = Mapping[str, Mapping[str, Factors]]
"""category -> layer -> `(A, B)`."""


@dataclass
class Calibration:
    """The sums over all calibration inputs.

    Args:
        statistics (`dict[str, Statistics | WeightSums]`): layer -> Co-Merge statistics, experts in the order of their
            names; for single weights on the base model's inputs what they follow from.
        grams (`dict[str, dict[str, torch.Tensor]]`): layer -> group (see `Sample.group`) -> `E[x x^T]` over tokens and
            inputs, (in, in) in float64. Layers that are fed the same tensor share the matrices. Empty where they were
            not asked for: at the widths of Stable Diffusion they are gigabytes.
        projected (`dict[str, dict[str, torch.Tensor]]`): the same of `A x`, (R, R) in float64, A the experts' stacked
            in the order of their names. Empty where they were not asked for.
    """

    statistics: dict[str, Statistics | WeightSums]
    grams: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    projected: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    def has(self, seconds: Collection[Second]) -> bool:
        """Whether the second moments of these kinds were collected."""
        return all(getattr(self, kind) for kind in seconds)

    def scores(self, layer: str, products: Sequence[Factors]) -> Statistics:
        """Co-Merge statistics of a layer whose experts, in the order of their names, are `products`.

        Raises:
            `RecipeError`: for activations that are no numbers, which nobody wins.
        """
        found = self.statistics[layer]
        found = found.statistics(products) if isinstance(found, WeightSums) else found
        if not bool(torch.isfinite(found.activation).all()):
            raise RecipeError(
                f"merge method comerge: layer {layer}: activations of the experts are NaN or infinite; look for "
                "numbers that are very large, in the experts or in what the base model computes there"
            )
        return found

    def category_grams(self, layer: str, categories: Sequence[str], kind: Second = "grams") -> list[Tensor]:
        """`G_k` of each category, in their order, or its projection."""
        groups: dict[str, Tensor] = getattr(self, kind)[layer]
        return [groups[f"unsafe/{category}"] for category in categories]

    def safe_gram(self, layer: str, empty_share: float, kind: Second = "grams") -> Tensor:
        """`G_safe`, or its projection: safe prompts of all categories, of which the empty prompt stands for
        `empty_share` (0 to 1)."""
        groups: dict[str, Tensor] = getattr(self, kind)[layer]
        return (1 - empty_share) * groups["safe"] + empty_share * groups[EMPTY]


def base_forward(
    denoiser: Denoiser, seed: int, latents: str = "image", resolution: int | None = None
) -> Callable[[Sequence[Sample], int], None]:
    """A function that runs the base model once on a batch of samples at one timestep.

    Its latents are those of the sample's picture (the posterior's mean, encoded once), noised to the timestep, or for
    `latents="noise"` pure noise of the size that the model was made for. The noise is seeded by `seed`, the sample's
    key and the timestep. Pictures are brought to `resolution` (pixels) as in training; None takes them as they are.
    """
    model = denoiser.model
    clean: dict[str, Tensor] = {}

    def encode(sample: Sample) -> Tensor:
        if sample.key not in clean:
            if sample.image is None:
                raise RecipeError(f"{sample.key}: no picture to calibrate on; set merge.calibration_latents=noise")
            try:
                moments = denoiser.encode_images([sample.image], resolution)
            except DenoiserError as error:
                raise RecipeError(f"{sample.key}: {error}") from error
            clean[sample.key] = denoiser.latents(moments, None)[0]
        return clean[sample.key]

    def forward(batch: Sequence[Sample], timestep: int) -> None:
        if not 0 <= timestep < denoiser.num_train_timesteps:
            last = denoiser.num_train_timesteps - 1
            raise RecipeError(f"merge.calibration_timesteps has {timestep}; it must be from 0 to {last}")
        timesteps = torch.full((len(batch),), timestep)
        if latents == "image":
            listed = [encode(sample) for sample in batch]
            sizes = [sample.image.size for sample in batch if sample.image is not None]
            for sample, mean, size in zip(batch, listed, sizes, strict=True):
                if mean.shape != listed[0].shape:
                    raise RecipeError(
                        f"{sample.key}: its picture has {size[0]}x{size[1]} pixels, that of {batch[0].key} has "
                        f"{sizes[0][0]}x{sizes[0][1]}; set train.resolution, to which all are brought"
                    )
            means = torch.stack(listed)
            shape = means.shape[1:]
            told = denoiser.image_conditioning(sizes, resolution)
        else:
            shape = torch.Size(denoiser.latents_shape)
            height, width = (side * denoiser.vae_scale_factor for side in shape[1:])
            told = denoiser.image_conditioning([(width, height)] * len(batch))
        noisy = torch.stack([_noise(f"{seed}/{sample.key}/{timestep}", shape) for sample in batch])
        if latents == "image":
            noisy = denoiser.add_noise(means, noisy, timesteps)
        conditioning = {**denoiser.encode_prompts([sample.prompt for sample in batch]), **told}
        device = next(model.parameters()).device
        conditioning = {name: value.to(device) for name, value in conditioning.items()}
        denoiser.predict(model, noisy.to(device), timesteps.to(device), conditioning)

    return forward


def _noise(key: str, shape: torch.Size) -> Tensor:
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "big")
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def adapted_networks(denoiser: Denoiser, adapter: Adapter) -> nn.Module:
    """What `calibrate` hooks into: the denoiser's network, and the text encoders too if the adapter has layers of them,
    each layer under its name in the adapter. `base_forward` runs both."""
    if not any(in_text_encoder(layer) for layer in adapter.layers):
        return denoiser.model
    return with_text_encoders(denoiser)


def with_text_encoders(denoiser: Denoiser) -> nn.Module:
    """The denoiser's network and its text encoders, which are kept from now on, in one module."""
    denoiser.keep_text_encoders()
    both = nn.Module()
    both._modules.update({**denoiser.model._modules, **denoiser.text_encoders})
    return both


def modules_of(network: nn.Module, layers: Mapping[str, Factors]) -> dict[str, nn.Linear]:
    """The module of each layer of an expert, in the expert's order.

    Raises:
        `RecipeError`: where `network` has no such layer, or one of another shape.
    """
    modules, found = dict(network.named_modules()), {}
    for name, (a, b) in layers.items():
        # Encoders had one more module around theirs once, and files of that time name it.
        module = modules.get(name) or modules.get(name.replace(".text_model.", ".", 1))
        if not isinstance(module, nn.Linear) or (module.out_features, module.in_features) != (len(b), a.shape[1]):
            raise RecipeError(
                f"layer {name} of the experts ({a.shape[1]} to {len(b)}) does not fit the base model, which has "
                f"{module or 'no such layer'} there; merge experts with the base model they were trained on"
            )
        found[name] = module
    return found


class _Layers:
    """Hooks on the adapted layers: each layer's input of the current pass, and an expert switched on for it."""

    def __init__(self, unet: nn.Module, experts: Experts) -> None:
        found = modules_of(unet, next(iter(experts.values())))
        self.names = list(found)
        self.seen: dict[str, Tensor] = {}
        self.active: str | None = None
        self._experts = experts
        self._handles = []
        for name, module in found.items():
            self._handles.append(module.register_forward_hook(self._hook(name)))

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor | None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            self.seen[name] = args[0]
            if self.active is None:
                return None
            a, b = self._experts[self.active][name]
            return output + (args[0] @ a.T.to(args[0])) @ b.T.to(args[0])

        return hook

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()


@contextmanager
def _hooked(unet: nn.Module, experts: Experts) -> Iterator[_Layers]:
    layers = _Layers(unet, experts)
    try:
        yield layers
    finally:
        layers.remove()


class GramSums:
    """Running sums of `x x^T` by group, one per distinct input tensor, or with `projections`, matrices (R, in) by
    layer, of `P x x^T P^T`, one per layer."""

    def __init__(self, layers: Sequence[str], projections: Mapping[str, Tensor] | None = None) -> None:
        self._layers, self._projections = layers, projections
        self._source: dict[str, str] = {}
        self._sums: dict[str, dict[str, Tensor]] = {}
        self._tokens: dict[str, dict[str, int]] = {}

    def add(self, group: str, inputs: Mapping[str, Tensor]) -> None:
        if not self._source:
            # Queries, keys and values of self-attention share one tensor, and all cross-attention layers the prompt's.
            first: dict[int, str] = {}
            self._source = {layer: first.setdefault(id(inputs[layer]), layer) for layer in self._layers}
            if self._projections is not None:
                self._source = {layer: layer for layer in self._layers}
        for layer in dict.fromkeys(self._source.values()):
            x = inputs[layer].double().flatten(0, -2)
            if self._projections is not None:
                x = x @ self._projections[layer].T
            sums, tokens = self._sums.setdefault(layer, {}), self._tokens.setdefault(layer, {})
            sums[group] = sums[group] + x.T @ x if group in sums else x.T @ x
            tokens[group] = tokens.get(group, 0) + len(x)

    def means(self) -> dict[str, dict[str, Tensor]]:
        """layer -> group -> (in, in), or (R, R), on the CPU. The sums become the means: there is no room for both."""
        means = {
            source: {group: total.div_(self._tokens[source][group]).cpu() for group, total in sums.items()}
            for source, sums in self._sums.items()
        }
        return {layer: means[source] for layer, source in self._source.items()}


def calibrate(
    unet: nn.Module,
    forward: Callable[[Sequence[Sample], int], Any],
    experts: Experts,
    samples: Sequence[Sample],
    config: MergeConfig,
    batch_size: int = BATCH_SIZE,
    seconds: Collection[Second] = SECONDS[:1],
) -> Calibration:
    """Run the calibration samples through the model and sum up what its adapted layers see.

    With `config.inputs` `"base"` the experts are never switched on: all of them are judged on the base model's inputs,
    in one pass. With `"own"` each expert is judged on the inputs of a pass in which it is active; `G_k` comes from
    expert k's pass, the Grams of safe and empty prompts from the base model.

    Args:
        unet (`nn.Module`): holds the layers that the experts name; see `adapted_networks`.
        forward (`Callable`): runs `unet` on samples at a timestep, as `base_forward` gives it.
        experts (`Experts`): category -> layer -> factors, as `comerge.prepare` returns them for `config.unit`.
        samples (`Sequence[Sample]`): as `choose_samples` returns them.
        config (`MergeConfig`): reads inputs, unit, score_prompts (the sides on which Co-Merge counts) and
            calibration_timesteps.
        batch_size (`int`, *optional*, defaults to 16): samples of one group in a pass.
        seconds (`Collection[str]`, *optional*, defaults to `("grams",)`): which second moments to collect: grams,
            projected (of `experts`), both or none. The others stay empty.

    Raises:
        `RecipeError`: wrong options, or layers that the model does not have.
    """
    if config.inputs not in INPUTS:
        raise RecipeError(f"merge.inputs is {config.inputs!r}; it must be one of {', '.join(INPUTS)}")
    if not config.score_prompts or not set(config.score_prompts) <= set(SIDES):
        raise RecipeError(f"merge.score_prompts is {config.score_prompts}; it must list some of {', '.join(SIDES)}")
    if not config.calibration_timesteps:
        raise RecipeError("merge.calibration_timesteps is empty; give at least one timestep")
    unit = cast(Unit, config.unit)
    experts = {name: _moved(experts[name], unet) for name in sorted(experts)}
    statistics: dict[str, Any] = {}
    with _hooked(unet, experts) as layers, torch.no_grad():
        sums = {kind: GramSums(layers.names, _stacked(experts) if kind == "projected" else None) for kind in seconds}
        work = _batches(samples, calibration_timesteps(unet, layers.names, config), batch_size)
        total = sum(len(batch) for _, batch, _ in work)
        with tqdm(total=total, desc="calibrate", unit="input") as progress:
            for group, batch, timestep in work:
                scored = batch[0].side in config.score_prompts
                owner = batch[0].category if config.inputs == "own" and batch[0].side == "unsafe" else None
                passes: list[str | None] = list(experts) if config.inputs == "own" and scored else []
                scores: dict[str, list[Tensor]] = {}
                for active in dict.fromkeys([*passes, owner]):
                    layers.active = active
                    forward(batch, timestep)
                    if active == owner:
                        for kept in sums.values():
                            kept.add(group, layers.seen)
                    if scored and (config.inputs == "base" or active is not None):
                        for layer, x in layers.seen.items():
                            judged = experts if active is None else [active]
                            if unit == "weight":
                                values = [input_sizes(x)]
                            else:
                                values = [activations(experts[expert][layer], x, unit) for expert in judged]
                            scores.setdefault(layer, []).extend(values)
                    layers.seen.clear()
                for layer, values in scores.items():
                    portion: Statistics | WeightSums
                    if unit != "weight":
                        portion = Statistics.of(torch.stack(values))
                    elif config.inputs == "base":
                        portion = WeightSums.of(values[0])
                    else:
                        listed = [experts[expert][layer] for expert in experts]
                        portion = Statistics.of_weights(listed, torch.stack(values))
                    statistics[layer] = statistics[layer] + portion if layer in statistics else portion
                progress.update(len(batch))
        means = {kind: kept.means() for kind, kept in sums.items()}
        return Calibration({layer: _on_cpu(statistics[layer]) for layer in layers.names}, **means)


def calibration_timesteps(network: nn.Module, layers: Sequence[str], config: MergeConfig) -> list[int]:
    """The timesteps to run: the first alone where every layer sees nothing but the prompt or its embedding."""
    prompt_only = set(layers) <= see_prompt_alone(network, layers)
    return config.calibration_timesteps[:1] if prompt_only else list(config.calibration_timesteps)


def see_prompt_alone(network: nn.Module, layers: Iterable[str]) -> set[str]:
    """Those of an adapter's layers that are fed nothing but the prompt, or its embedding.

    Besides the text encoders' they are keys and values of cross-attention, which its module knows of itself: the
    `attn2` of a UNet is one, that of Stable Diffusion 3.5 a second self-attention.

    Args:
        network (`nn.Module`): holds the layers of the denoiser; see `adapted_networks`.
        layers (`Iterable[str]`): names as in `Adapter`.
    """
    crossing = {
        f"{name}.{end}"
        for name, module in network.named_modules()
        if getattr(module, "is_cross_attention", False)
        for end in ("to_k", "to_v")
    }
    return {layer for layer in layers if in_text_encoder(layer) or layer in crossing}


def _batches(samples: Sequence[Sample], timesteps: Sequence[int], size: int) -> list[tuple[str, list[Sample], int]]:
    batches = []
    for group, members in groupby(samples, key=lambda sample: sample.group):
        listed = list(members)
        for timestep in timesteps:
            batches += [(group, listed[i : i + size], timestep) for i in range(0, len(listed), size)]
    return batches


def _moved(layers: Mapping[str, Factors], unet: nn.Module) -> dict[str, Factors]:
    device = next(unet.parameters()).device
    return {layer: (a.float().to(device), b.float().to(device)) for layer, (a, b) in layers.items()}


def _stacked(experts: Experts) -> dict[str, Tensor]:
    """layer -> the experts' A, one below the other, (R, in) in float64."""
    one = next(iter(experts.values()))
    return {layer: stack([layers[layer] for layers in experts.values()])[0].double() for layer in one}


def _on_cpu(statistics: Statistics | WeightSums) -> Statistics | WeightSums:
    if isinstance(statistics, WeightSums):
        return WeightSums(statistics.active.cpu(), statistics.size.cpu(), statistics.inputs)
    return Statistics(statistics.wins.cpu(), statistics.activation.cpu(), statistics.inputs)
