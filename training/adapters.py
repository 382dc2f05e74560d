"""LoRA adapters on disk: diffusers' own file (`pytorch_lora_weights.safetensors`), with alpha, byte for byte the same
for the same tensors.

Any stock `pipe.load_lora_weights(folder)` reads what is written here. How the tensors come about is the trainer's and
the merge's concern."""

import hashlib
import json
import math
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from recipes.writing import whole_file, write_whole
from training.lora_formats import (
    KEY,
    PEFT_CONFIG,
    PEFT_WEIGHTS,
    WEIGHTS_NAME,
    AdapterError,
    alpha_of,
    component_of_peft,
    converted,
    peft_config,
    read_json_object,
    require_dtype,
    require_module_names,
    require_plain,
    weights_file,
)
from training.policy import Policy

# What a pipeline calls the network that the layers are of: the first part of every key.
COMPONENTS = ("unet", "transformer")
# Text encoders, whose layers may stand beside those of the denoiser.
TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
# Keys of the safetensors header: what diffusers hands to `LoraConfig`, and the tensor framework.
_CONFIG_KEY, _FORMAT_KEY = "lora_adapter_metadata", "format"


@dataclass(frozen=True)
class Adapter:
    """One LoRA adapter of a denoiser, and of text encoders if they were trained too, as it is stored.

    The weight that it adds to a layer is `scaling(layer) * B @ A`.

    Args:
        layers (`Mapping[str, tuple[torch.Tensor, torch.Tensor]]`): layer name in the denoiser (without the component),
            or `text_encoder.` or `text_encoder_2.` and the name in there -> (A of shape (r, in), B of shape (out, r)),
            sorted by name, unscaled.
        alpha (`dict[str, float]`): layer name -> LoRA alpha.
        metadata (`dict[str, str]`): free strings of the file's header.
        component (`str`, *optional*, defaults to `"unet"`): the denoiser's name in its pipeline, `unet` or
            `transformer`.
    """

    layers: Mapping[str, tuple[torch.Tensor, torch.Tensor]]
    alpha: dict[str, float]
    metadata: dict[str, str] = field(default_factory=dict)
    component: str = "unet"

    def rank(self, layer: str) -> int:
        """Rank of one layer."""
        return int(self.layers[layer][0].shape[0])

    def scaling(self, layer: str) -> float:
        """`alpha / rank` of one layer."""
        return self.alpha[layer] / self.rank(layer)

    def folded(self) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """The layers with their scaling multiplied into B, so that the added weight is plainly `B @ A`."""
        return {name: self.folded_layer(name) for name in self.layers}

    def folded_layer(self, layer: str) -> tuple[torch.Tensor, torch.Tensor]:
        """One layer of `folded`; the scaling is multiplied in float32 at least, as half precision would overflow."""
        a, b = self.layers[layer]
        return a, b.to(torch.promote_types(b.dtype, torch.float32)) * self.scaling(layer)

    def require_finite(self, told: str) -> None:
        """Raise an `AdapterError` that names the layer, behind `told`, where a weight is NaN, infinite or no float, or
        would be in float32 with the scaling multiplied in."""
        for name in self.layers:
            for side, tensor in zip("AB", self.layers[name], strict=True):
                if not tensor.is_floating_point():
                    raise AdapterError(f"{told}: layer {name}: {side} is of {tensor.dtype}, expected real numbers")
                wrong = tensor.numel() - int(torch.isfinite(tensor).sum())
                if wrong:
                    raise AdapterError(
                        f"{told}: layer {name}: {wrong} of the {tensor.numel()} numbers of {side} are NaN or infinite; "
                        "train it again"
                    )
            if not all(bool(torch.isfinite(part.float()).all()) for part in self.folded_layer(name)):
                raise AdapterError(
                    f"{told}: layer {name}: numbers of {self.alpha[name]:g} / {self.rank(name)} B A are beyond "
                    "float32; look at its alpha"
                )


class _StoredLayers(Mapping[str, tuple[torch.Tensor, torch.Tensor]]):
    """The layers of an open file: name -> (A, B), read at each look."""

    def __init__(self, file: Any, keys: dict[str, tuple[str, str]]) -> None:
        self._file, self._keys = file, keys

    def __getitem__(self, layer: str) -> tuple[torch.Tensor, torch.Tensor]:
        a, b = self._keys[layer]
        return self._file.get_tensor(a), self._file.get_tensor(b)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)

    def shapes(self, layer: str) -> tuple[list[int], list[int]]:
        """Of A and of B, from the header alone."""
        a, b = self._keys[layer]
        return self._file.get_slice(a).get_shape(), self._file.get_slice(b).get_shape()

    def dtypes(self, layer: str) -> tuple[str, str]:
        """Of A and of B, in safetensors' words."""
        a, b = self._keys[layer]
        return self._file.get_slice(a).get_dtype(), self._file.get_slice(b).get_dtype()


class _Header:
    """What the header of a file says of its layers, gathered one by one."""

    def __init__(self, folder: str | Path, component: str) -> None:
        if component not in COMPONENTS:
            raise AdapterError(f"{folder}: component {component!r}, expected one of {', '.join(COMPONENTS)}")
        self._folder, self._component = folder, component
        self._ranks: dict[str, dict[str, int]] = {}
        self._alphas: dict[str, dict[str, float]] = {}

    def add(
        self, name: str, factors: tuple[torch.Tensor, torch.Tensor], alpha: float | None
    ) -> list[tuple[str, torch.Tensor]]:
        """The two tensors of a layer under their keys; alpha None is the rank."""
        a, b = factors
        if a.shape[0] != b.shape[1]:
            raise AdapterError(
                f"{name}: A of {tuple(a.shape)} and B of {tuple(b.shape)} have different ranks; "
                "expected (r, in) and (out, r)"
            )
        owner, own_name = _place(name, self._component)
        self._ranks.setdefault(owner, {})[own_name] = int(a.shape[0])
        self._alphas.setdefault(owner, {})[own_name] = float(a.shape[0] if alpha is None else alpha)
        sides = (("A", a), ("B", b))
        return [(f"{owner}.{own_name}.lora_{side}.weight", x.detach().cpu().contiguous()) for side, x in sides]

    def metadata(self, told: Mapping[str, str] | None) -> dict[str, str]:
        """The strings of the header; `AdapterError` if there was no layer of the denoiser."""
        if self._component not in self._ranks:
            raise AdapterError(f"{self._folder}: an adapter needs at least one layer of the denoiser, got none")
        config: dict[str, Any] = {}
        for owner in self._ranks:
            config |= _lora_config(self._ranks[owner], self._alphas[owner], owner)
        return {**(told or {}), _FORMAT_KEY: "pt", _CONFIG_KEY: json.dumps(config, indent=2, sort_keys=True)}


def in_text_encoder(layer: str) -> bool:
    """Whether a layer of `Adapter.layers` is one of a text encoder."""
    return layer.partition(".")[0] in TEXT_ENCODERS


def write_adapter(
    folder: str | Path,
    layers: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
    metadata: Mapping[str, str] | None = None,
    alpha: Mapping[str, float] | float | None = None,
    component: str = "unet",
) -> Path:
    """Write `layers` as a diffusers LoRA file; the same tensors give the same bytes.

    Args:
        folder (`str` or `Path`): made if it is missing; the file is put there in one move.
        layers (`Mapping[str, tuple[torch.Tensor, torch.Tensor]]`): name, as in `Adapter` -> (A of (r, in), B of
            (out, r)).
        metadata (`Mapping[str, str]`, *optional*): free strings for the header, provenance for instance.
        alpha (`float` or `Mapping[str, float]`, *optional*): LoRA alpha of all layers or of each; None means the
            rank of each layer, so a scaling of 1.
        component (`str`, *optional*, defaults to `"unet"`): what the pipeline calls the denoiser: the keys' prefix.

    Returns:
        `Path`: the written file.

    Raises:
        `AdapterError`: if there is no layer of the denoiser, or the two matrices of a layer do not fit together, or for
            another component.
    """
    tensors: dict[str, torch.Tensor] = {}
    header = _Header(folder, component)
    for name in sorted(layers):
        for key, tensor in header.add(name, layers[name], alpha.get(name) if isinstance(alpha, Mapping) else alpha):
            tensors[key] = tensor
    path = Path(folder) / WEIGHTS_NAME
    write_atomically(path, _serialise(tensors, header.metadata(metadata)))
    return path


def write_layers(
    folder: str | Path,
    layers: Iterable[tuple[str, tuple[torch.Tensor, torch.Tensor]]],
    metadata: Mapping[str, str] | None = None,
    component: str = "unet",
) -> Path:
    """`write_adapter` for layers that are made one after the other: none is kept, so memory is that of one layer.

    Args:
        folder, metadata, component: as for `write_adapter`. Alpha is each layer's rank.
        layers (`Iterable`): (name, (A, B)) in the order of `sorted_layers`, all float32; the file then has the bytes
            that `write_adapter` gives it.

    Returns:
        `Path`: the written file.

    Raises:
        `AdapterError`: as for `write_adapter`, and for another dtype.
    """
    path = Path(folder) / WEIGHTS_NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    header, places, end = _Header(folder, component), {}, 0
    # The header stands first and is known last.
    data = path.with_name(f".{path.name}.{os.getpid()}.data.part")
    try:
        with data.open("wb") as file:
            for name, factors in layers:
                for key, tensor in header.add(name, factors, None):
                    if tensor.dtype != torch.float32:
                        raise AdapterError(f"{name}: layers are written one by one in float32, found {tensor.dtype}")
                    size = file.write(tensor.numpy().data)
                    places[key] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [end, end + size]}
                    end += size
        with whole_file(path, many_writers=True) as part, data.open("rb") as file, part.open("wb") as whole:
            whole.write(_header_bytes({"__metadata__": header.metadata(metadata), **places}))
            shutil.copyfileobj(file, whole)
    finally:
        data.unlink(missing_ok=True)
    return path


def sorted_layers(layers: Iterable[str], component: str = "unet") -> list[str]:
    """Layer names in the order in which a file holds them."""
    return sorted(layers, key=lambda name: ".".join(_place(name, component)))


def save_lora(
    folder: str | Path,
    model: nn.Module,
    metadata: Mapping[str, str] | None = None,
    adapter_name: str = "default",
    component: str = "unet",
) -> Path:
    """Write the LoRA of a peft model (or of a network that a LoRA was put into), and those of the text encoders of a
    `Policy`, as a diffusers LoRA file.

    Args:
        folder (`str` or `Path`): where to.
        model (`torch.nn.Module`): a `peft.PeftModel`, or a network with LoRA layers inside.
        metadata (`Mapping[str, str]`, *optional*): free strings for the header.
        adapter_name (`str`, *optional*, defaults to `"default"`): which of the model's adapters.
        component (`str`, *optional*, defaults to `"unet"`): what the pipeline calls the model, `Denoiser.component`.

    Returns:
        `Path`: the written file.
    """
    found = lora_layers(model, adapter_name)
    layers = {name: (a.weight, b.weight) for name, (a, b, _) in found.items()}
    # peft's scaling is alpha/r (or alpha/sqrt(r) with rslora); as alpha/r it means the same to every reader.
    alpha = {name: scaling * a.weight.shape[0] for name, (a, _, scaling) in found.items()}
    return write_adapter(folder, layers, metadata, alpha, component)


def load_lora(folder: str | Path) -> Adapter:
    """Read an adapter folder (or file) into memory; see `open_lora`."""
    adapter = open_lora(folder)
    return replace(adapter, layers={name: (a.clone(), b.clone()) for name, (a, b) in adapter.layers.items()})


def open_lora(folder: str | Path) -> Adapter:
    """Open an adapter folder (or file); a layer's tensors are read when it is asked for.

    diffusers' file is looked for first, then peft's (`adapter_model.safetensors` and `adapter_config.json`), then any
    other; files of older scripts and of kohya's are converted, see `training.lora_formats`. A file that names no alpha
    has alpha = rank, which is what diffusers takes then too. The component is the first part of diffusers' keys; of a
    peft folder it follows from the class of the base model.

    Args:
        folder (`str` or `Path`): the folder, or the weights file itself.

    Returns:
        `Adapter`: its tensors on the CPU, in the stored type; they are pages of the file and not to be written to.

    Raises:
        `AdapterError`: if there is no such file, or it holds anything but linear LoRA layers of one denoiser and of
            its text encoders.
    """
    path = weights_file(folder)
    if path is None:
        raise AdapterError(f"{folder}: no {WEIGHTS_NAME} there; train or merge first, or name an adapter's folder")
    prefix, config, packed = "", None, None
    component: str | None = None
    if path.name == PEFT_WEIGHTS:
        prefix, config = "base_model.model.", peft_config(path.with_name(PEFT_CONFIG))
    try:
        file: Any = safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise AdapterError(
            f"{path}: not a whole safetensors file ({str(error)[:160]}); train or fetch it again"
        ) from None
    header = dict(file.metadata() or {})
    if config is None and any(KEY.match(key) is None for key in file.keys()):  # noqa: SIM118 (it is no mapping)
        file = converted(file, str(path))
    sides: dict[str, dict[str, str]] = {}
    for key in file.keys():  # noqa: SIM118
        match = KEY.match(key)
        if config is None and component is None and key.partition(".")[0] in COMPONENTS:
            component = key.partition(".")[0]
            prefix = f"{component}."
        of_denoiser = bool(prefix) and key.startswith(prefix)
        if match is None or not (of_denoiser or in_text_encoder(key)):
            expected = prefix or _either(COMPONENTS)
            raise AdapterError(f"{path}: tensor {key!r}, expected {expected}<layer>.lora_A.weight or lora_B.weight")
        layer = match["layer"].removeprefix(prefix) if of_denoiser else match["layer"]
        sides.setdefault(layer, {})[match["side"]] = key
    if not sides:
        raise AdapterError(f"{path}: holds no layer, expected <layer>.lora_A.weight and lora_B.weight")
    if all(in_text_encoder(layer) for layer in sides):
        raise AdapterError(f"{path}: layers of text encoders alone, expected {_either(COMPONENTS)} beside them")
    require_module_names(sides, str(path))
    halves = sorted(name for name, both in sides.items() if len(both) != 2)
    if halves:
        raise AdapterError(f"{path}: layers {halves} have only one of lora_A and lora_B")
    if config is not None:
        component = component_of_peft(config, sides, str(path))
    elif _CONFIG_KEY in header:
        packed = read_json_object(header[_CONFIG_KEY], f"{path}: {_CONFIG_KEY} of its header")
    layers = _StoredLayers(file, {name: (sides[name]["A"], sides[name]["B"]) for name in sorted(sides)})
    alpha = {}
    for name in layers:
        a, b = layers.shapes(name)
        if not (len(a) == len(b) == 2 and a[0] == b[1] >= 1 and min(a[1], b[0]) >= 1):
            raise AdapterError(
                f"{path}: layer {name}: A of {a} and B of {b}, expected (r, in) and (out, r) with r from 1"
            )
        for side, dtype in zip("AB", layers.dtypes(name), strict=True):
            require_dtype(dtype, f"{path}: layer {name}: {side}")
        owner, own_name = _place(name, component or "unet")
        if packed is not None:
            config = {key.partition(".")[2]: value for key, value in packed.items() if key.startswith(f"{owner}.")}
            require_plain(config, f"{path}: {_CONFIG_KEY} of its header")
        try:
            alpha[name] = alpha_of(own_name, a[0], config)
        except (TypeError, ValueError, AttributeError, OverflowError, re.error) as error:
            raise AdapterError(f"{path}: layer {name}: its alpha cannot be read ({str(error)[:160]})") from None
        if not math.isfinite(alpha[name]):
            raise AdapterError(f"{path}: layer {name}: found the alpha {alpha[name]}, expected a finite number")
    free = {key: value for key, value in header.items() if key not in (_FORMAT_KEY, _CONFIG_KEY)}
    return Adapter(layers, alpha, free, component or "unet")


def load_into(model: nn.Module, adapter: Adapter, adapter_name: str = "default") -> None:
    """Copy an adapter's tensors into the LoRA layers of `model` and of its text encoders, which must be the same ones.

    Raises:
        `AdapterError`: if layers, shapes or scalings differ.
    """
    found = lora_layers(model, adapter_name)
    if set(found) != set(adapter.layers):
        strange = sorted(set(found) ^ set(adapter.layers))
        raise AdapterError(
            f"the adapter's layers are not the model's: {strange[0]} (and {len(strange) - 1} more) differ"
        )
    with torch.no_grad():
        for name, (a, b, scaling) in found.items():
            stored_a, stored_b = adapter.layers[name]
            if a.weight.shape != stored_a.shape or scaling != adapter.scaling(name):
                raise AdapterError(
                    f"{name}: adapter of rank {stored_a.shape[0]} and scaling {adapter.scaling(name)}, model of rank "
                    f"{a.weight.shape[0]} and scaling {scaling}"
                )
            a.weight.copy_(stored_a)
            b.weight.copy_(stored_b)


def lora_layers(model: nn.Module, adapter_name: str = "default") -> dict[str, tuple[nn.Module, nn.Module, float]]:
    """The LoRA layers of `model`, and of the text encoders of a `Policy`, sorted: name as in `Adapter` -> (module of A,
    module of B, scaling).

    Raises:
        `AdapterError`: if there is none.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    modules = dict(base.named_modules())
    if isinstance(model, Policy):
        for encoder, policy in model.text_encoders.items():
            modules |= {f"{encoder}.{name}": module for name, module in policy.get_base_model().named_modules()}
    found = {
        name: (module.lora_A[adapter_name], module.lora_B[adapter_name], float(module.scaling[adapter_name]))
        for name, module in sorted(modules.items())
        if isinstance(module, LoraLayer) and adapter_name in module.lora_A
    }
    if not found:
        raise AdapterError(f"the model has no LoRA layer of an adapter named {adapter_name!r}")
    return found


def checksum(folder: str | Path) -> str:
    """SHA-256 of what `open_lora` reads of an adapter folder, in hex: of the weights file, and of peft's config where
    it says what the weights are."""
    path = weights_file(folder) or Path(folder) / WEIGHTS_NAME
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    if path.name == PEFT_WEIGHTS:
        digest.update(path.with_name(PEFT_CONFIG).read_bytes())
    return digest.hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that at any moment it is there whole or not at all; several processes may write the same one."""
    write_whole(path, content, many_writers=True)


def _place(layer: str, component: str) -> tuple[str, str]:
    """The network that a layer is in, by its name in the pipeline, and the layer's name in there."""
    encoder, _, name = layer.partition(".")
    return (encoder, name) if in_text_encoder(layer) else (component, layer)


def _either(components: tuple[str, ...]) -> str:
    return " or ".join(f"{name}." for name in components)


def _lora_config(ranks: dict[str, int], alphas: dict[str, float], component: str) -> dict[str, Any]:
    """The arguments of the `LoraConfig` that diffusers makes on loading, prefixed with the component's name."""
    rank = Counter(ranks.values()).most_common(1)[0][0]
    alpha = Counter(alphas.values()).most_common(1)[0][0]

    # peft reads the keys of its patterns as regular expressions when they begin with ^. CLIP's encoder lost a module
    # around its layers that files still name: diffusers takes it off the keys when it loads them, not off the header.
    wrapped = "text_model." if component == TEXT_ENCODERS[0] else ""

    def pattern(name: str) -> str:
        bare = name.removeprefix(wrapped)
        return f"^{re.escape(name)}$" if bare == name else f"^({re.escape(wrapped)})?{re.escape(bare)}$"

    def plain(value: float) -> float | int:
        return int(value) if float(value).is_integer() else value

    config = {
        "r": rank,
        "lora_alpha": plain(alpha),
        "rank_pattern": {pattern(name): value for name, value in ranks.items() if value != rank},
        "alpha_pattern": {pattern(name): plain(value) for name, value in alphas.items() if value != alpha},
        "target_modules": sorted(name.removeprefix(wrapped) for name in ranks),
        "lora_dropout": 0.0,
        "bias": "none",
    }
    return {f"{component}.{key}": value for key, value in config.items()}


def _serialise(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> bytes:
    """safetensors with a sorted header: the library orders the metadata by a hash that changes from run to run."""
    raw = save(tensors, metadata=metadata)
    size = int.from_bytes(raw[:8], "little")
    return _header_bytes(json.loads(raw[8 : 8 + size])) + raw[8 + size :]


def _header_bytes(header: dict[str, Any]) -> bytes:
    """The beginning of a safetensors file."""
    header = {"__metadata__": dict(sorted(header.pop("__metadata__").items())), **dict(sorted(header.items()))}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf8")
    # The format wants the data to begin at a multiple of 8.
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
