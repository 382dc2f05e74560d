"""What LoRA files of other programs look like: peft's folders with their config, and the keys of stock scripts.

Everything is brought to one form, pairs under `<network>.<layer>.lora_A.weight` and `lora_B.weight`, or refused in a
line. Opening files and holding layers is `training.adapters`'."""

import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from recipes import RecipeError

WEIGHTS_NAME = "pytorch_lora_weights.safetensors"
PEFT_WEIGHTS, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
KEY = re.compile(r"^(?P<layer>.+)\.lora_(?P<side>[AB])\.weight$")
# How scripts end the keys of a layer: today's, diffusers' older ones, and kohya's with its alpha.
_STOCK = re.compile(
    r"^(?P<layer>.+)(?P<end>\.lora_[AB]\.weight|\.alpha"
    r"|(?:\.lora_|\.lora\.|_lora\.|\.lora_linear_layer\.)(?:down|up)\.weight)$"
)
_DOWN = ("lora_A.weight", "down.weight")
_KOHYA = ("lora_unet_", "lora_te_", "lora_te1_", "lora_te2_")
_KOHYA_FLUX = re.compile(r"(double|single)(_transformer)?_blocks")
_KOHYA_UNET = re.compile(r"^lora_te\d?_|^lora_unet_((down|up|input|output)_blocks_|mid(dle)?_block_)")
# Fields of peft's LoraConfig under which the added weight is not a scaled B A, or not all that was trained.
_NOT_PLAIN = (
    *("use_dora", "lora_bias", "modules_to_save", "megatron_config", "layer_replication", "trainable_token_indices"),
    *("target_parameters", "alora_invocation_tokens", "use_qalora", "use_bdlora", "arrow_config", "monteclora_config"),
    *("kasa_config", "velora_config"),
)
# The ways to begin that leave the base model's weights as they were; pissa, olora, corda and others do not.
_PLAIN_STARTS = (None, True, False, "gaussian", "eva", "orthogonal", "mica")


# Of safetensors, in which a LoRA may be stored.
_DTYPES = ("F64", "F32", "F16", "BF16")


class AdapterError(RecipeError):
    """A folder is not a LoRA adapter, or the adapter does not fit the model."""


def weights_file(folder: str | Path) -> Path | None:
    """The weights of an adapter folder: diffusers' file, else peft's, else the only one in safetensors; a file is its
    own. None where there is none."""
    folder = Path(folder)
    if folder.is_file():
        return folder
    for name in (WEIGHTS_NAME, PEFT_WEIGHTS):
        if (folder / name).is_file():
            return folder / name
    others = [path for path in folder.glob("[!.]*.safetensors") if path.is_file()]
    return others[0] if len(others) == 1 else None


def read_json_object(text: str | bytes, where: str) -> dict[str, Any]:
    """The object that `text` holds; `AdapterError`, which begins with `where`, for anything else."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"{where}: not JSON ({str(error)[:160]})") from None
    if not isinstance(found, dict):
        raise AdapterError(f"{where}: found {type(found).__name__}, expected a JSON object")
    return found


def peft_config(path: Path) -> dict[str, Any]:
    """The `adapter_config.json` at `path`, of a plain LoRA."""
    if not path.is_file():
        raise AdapterError(f"{path}: no such file; peft's folders have it beside {PEFT_WEIGHTS}")
    config = read_json_object(path.read_bytes(), str(path))
    require_plain(config, str(path))
    return config


def require_plain(config: Mapping[str, Any], where: str) -> None:
    """Refuse the arguments of a `LoraConfig` whose adapter cannot be read as pairs of factors and a scaling.

    Raises:
        `AdapterError`: beginning with `where` and naming the field.
    """
    kind, start = config.get("peft_type"), config.get("init_lora_weights")
    if kind not in (None, "LORA"):
        raise AdapterError(f"{where}: peft_type: found {kind!r}, expected LORA")
    for name in _NOT_PLAIN:
        if config.get(name):
            raise AdapterError(
                f"{where}: {name}: found {str(config[name])[:60]!r}; only plain LoRA, factors and an alpha, can be "
                f"merged; train without {name}"
            )
    if config.get("bias") not in (None, "none"):
        raise AdapterError(f"{where}: bias: found {str(config['bias'])[:60]!r}, expected none: biases are not merged")
    if not isinstance(start, str | bool | None) or start not in _PLAIN_STARTS:
        raise AdapterError(
            f"{where}: init_lora_weights: found {str(start)[:60]!r}, which changes the base model's weights; save it "
            "with peft's path_initial_model_for_weight_conversion, which makes a plain LoRA of it"
        )
    if not isinstance(config.get("use_rslora"), bool | None):
        raise AdapterError(f"{where}: use_rslora: found {str(config['use_rslora'])[:60]!r}, expected true or false")


def alpha_of(name: str, rank: int, config: Mapping[str, Any] | None) -> float:
    """The alpha of a layer, such that its scaling is alpha / rank; the rank itself where nothing names one.

    Args:
        name (`str`): of the layer, in its network. rank (`int`): from 1.
        config (`Mapping[str, Any]`, *optional*): arguments of its `LoraConfig`.
    """
    if config is None:
        return float(rank)
    alpha = config.get("lora_alpha")
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        # As in peft.utils.other.get_pattern_key.
        if re.match(pattern if pattern.startswith("^") else rf"(.*\.)?({pattern})$", name):
            alpha = value
            break
    if alpha is None:
        return float(rank)
    # Rank-stabilised LoRA scales by alpha / sqrt(rank).
    return float(alpha) * (math.sqrt(rank) if config.get("use_rslora") else 1.0)


def component_of_peft(config: Mapping[str, Any], layers: Iterable[str], where: str) -> str:
    """What a pipeline calls the network that a peft folder adapts, by its class or by how its layers are called."""
    mapping = config.get("auto_mapping")
    base = str((mapping.get("base_model_class") if isinstance(mapping, dict) else None) or "")
    if base and not re.search("UNet|Transformer", base):
        raise AdapterError(f"{where}: an adapter of {base[:60]}, expected one of a UNet or of a diffusion transformer")
    if "Transformer" in base:
        return "transformer"
    blocks = ("transformer_blocks.", "single_transformer_blocks.")
    return "transformer" if not base and any(layer.startswith(blocks) for layer in layers) else "unet"


def require_module_names(layers: Iterable[str], where: str) -> None:
    """Refuse names that no layer of a network has: with empty parts or odd letters, or those of a module's own
    attributes, such as `forward`."""
    for layer in layers:
        for part in layer.split("."):
            if re.fullmatch(r"[\w-]+", part) is None or hasattr(nn.Module, part):
                raise AdapterError(f"{where}: {layer[:160]!r} cannot be the name of a layer: {part[:60]!r} is none")


def require_dtype(dtype: str, told: str) -> None:
    """Refuse a tensor that is of no ordinary real numbers; `dtype` is safetensors' word for them."""
    if dtype not in _DTYPES:
        raise AdapterError(f"{told} is of {dtype}, expected one of {', '.join(_DTYPES)}; save it as float32 or float16")


class Converted:
    """Tensors that stand for an open safetensors file."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors

    def keys(self) -> list[str]:
        """Their names."""
        return list(self._tensors)

    def get_tensor(self, key: str) -> Tensor:
        """One of them."""
        return self._tensors[key]

    def get_slice(self, key: str) -> "_Slice":
        """What is known of one without reading it."""
        return _Slice(self._tensors[key])


class _Slice:
    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor

    def get_shape(self) -> list[int]:
        return list(self._tensor.shape)

    def get_dtype(self) -> str:
        return {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}.get(
            self._tensor.dtype, str(self._tensor.dtype)
        )


def converted(file: Any, where: str) -> Converted:
    """The layers of a file of stock training scripts under today's keys.

    diffusers' own converters rename the layers: those of its older scripts (`.lora.down.weight`,
    `.lora_linear_layer.down.weight`) and of kohya's (`lora_unet_..` with `lora_down`, `lora_up` and `alpha`) for
    Stable Diffusion, SDXL and Flux. Alphas are multiplied into B.

    Args:
        file: an open safetensors file. where (`str`): what errors begin with.

    Raises:
        `AdapterError`: naming the first key that is no part of a linear LoRA layer, or that no converter knows.
    """
    layers: dict[str, dict[str, str]] = {}
    for key in sorted(file.keys()):
        match = _STOCK.match(key)
        if match is None:
            raise AdapterError(
                f"{where}: tensor {key[:160]!r}, expected <layer>.lora_A.weight and lora_B.weight, or the down, up and "
                "alpha of diffusers' and kohya's training scripts"
            )
        side = "alpha" if match["end"] == ".alpha" else "A" if match["end"].endswith(_DOWN) else "B"
        layers.setdefault(match["layer"], {})[side] = key
    tensors: dict[str, Tensor] = {}
    rows = 0
    for layer, keys in layers.items():
        if not {"A", "B"} <= keys.keys():
            raise AdapterError(f"{where}: layer {layer[:160]}: has {', '.join(sorted(keys))} alone, expected A and B")
        for side, key in keys.items():
            require_dtype(file.get_slice(key).get_dtype(), f"{where}: layer {layer[:160]}: {side}")
        down, up = file.get_tensor(keys["A"]), file.get_tensor(keys["B"])
        if down.dim() != 2 or up.dim() != 2 or not down.shape[0] == up.shape[1] >= 1:
            raise AdapterError(
                f"{where}: layer {layer[:160]}: A of {list(down.shape)} and B of {list(up.shape)}, expected (r, in) "
                "and (out, r) with r from 1"
            )
        if "alpha" in keys:
            up = _scaled(up, file.get_tensor(keys["alpha"]), f"{where}: {keys['alpha'][:160]}")
        tensors |= {keys["A"]: down, keys["B"]: up}
        rows += len(up)
    if any(key.startswith(_KOHYA) and not _kohya_known(key) for key in tensors):
        first = next(key for key in tensors if key.startswith(_KOHYA) and not _kohya_known(key))
        raise AdapterError(f"{where}: tensor {first[:160]!r} is of no network that diffusers' converters know")
    try:
        found = _renamed(tensors)
    except (ValueError, KeyError, IndexError, AttributeError, RuntimeError, AssertionError) as error:
        raise AdapterError(
            f"{where}: tensor {next(iter(tensors))[:160]!r} and others cannot be converted by diffusers "
            f"({' '.join(str(error).split())[:160]})"
        ) from None
    if rows != sum(len(tensor) for key, tensor in found.items() if key.endswith(".lora_B.weight")):
        raise AdapterError(
            f"{where}: tensor {next(iter(tensors))[:160]!r} and others: diffusers' converters leave some layers out"
        )
    return Converted(found)


def _scaled(up: Tensor, alpha: Tensor, where: str) -> Tensor:
    """B times alpha / rank."""
    if alpha.numel() != 1 or not math.isfinite(float(alpha)):
        raise AdapterError(f"{where}: expected one finite number, the layer's alpha")
    scaling = float(alpha) / up.shape[1]
    return up if scaling == 1.0 else up.to(torch.promote_types(up.dtype, torch.float32)) * scaling


def _kohya_known(key: str) -> bool:
    return bool(_KOHYA_FLUX.search(key) or _KOHYA_UNET.match(key))


def _renamed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """`tensors` under today's keys, by diffusers."""
    from diffusers.loaders.lora_pipeline import FluxLoraLoaderMixin, StableDiffusionLoraLoaderMixin
    from diffusers.utils.state_dict_utils import (
        StateDictType,
        convert_state_dict_to_peft,
        convert_unet_state_dict_to_peft,
    )

    given = dict(tensors)
    if any(map(_KOHYA_FLUX.search, given)) and any(key.startswith((*_KOHYA, "diffusion_model.")) for key in given):
        given = FluxLoraLoaderMixin.lora_state_dict(given)
    elif all(key.startswith(_KOHYA) for key in given):
        # The blocks of the original Stable Diffusion and SDXL are numbered by it.
        given, _ = StableDiffusionLoraLoaderMixin.lora_state_dict(
            given, unet_config=SimpleNamespace(layers_per_block=2)
        )
    encoders = {key: tensor for key, tensor in given.items() if key.startswith("text_encoder")}
    others = {key: tensor for key, tensor in given.items() if key not in encoders}
    for kind in (StateDictType.DIFFUSERS_OLD, StateDictType.DIFFUSERS):
        encoders = convert_state_dict_to_peft(encoders, original_type=kind)
    return {**convert_unet_state_dict_to_peft(others), **encoders}
