"""Pictures of the base model and of the base model with an adapter, for the same prompts and seeds.

Draws through `dataset_builder.renderer`. Those that a dataset brings along are `evaluation.stored`'s, judging is
`evaluation.judging`'s."""

import hashlib
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.prompts import Request
from recipes import Recipe, RecipeError

if TYPE_CHECKING:
    from PIL.Image import Image

    from dataset_builder.pictures import PictureStore

WEIGHTS = "pytorch_lora_weights.safetensors"


def adapter_identity(folder: Path) -> str:
    """`sha256:` and the first 16 digits of an adapter's weights file.

    Raises:
        `RecipeError`: where the folder has no such file.
    """
    path = folder / WEIGHTS
    if not path.is_file():
        raise RecipeError(f"{path}: no such file; expected an adapter folder of `coprov2 train` or `coprov2 merge`")
    return "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()[:16]


class Drawn(Sequence["Image"]):
    """Pictures of a store in an order of their own. One is read each time it is asked for: a split of pictures need not
    fit into memory."""

    def __init__(self, store: "PictureStore", keys: list[str]) -> None:
        self._store, self._keys = store, keys

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, place: Any) -> Any:
        """The picture at a place, or those of a slice."""
        if isinstance(place, slice):
            return Drawn(self._store, self._keys[place])
        return self._store.get(self._keys[place])


class Drawer:
    """Draws requests with the recipe's base model, with or without an adapter.

    Args:
        recipe (`Recipe`): its base model and its section `render`.
        base (`str`): identity of the base model.
        pictures (`Path`): folder in which drawn pictures are kept, by content.

    The pipeline is loaded at the first picture that is drawn. An adapter is loaded by stock `load_lora_weights` and
    unloaded again, never fused: subtracting fused weights would leave the base model changed in its last bits, and the
    next model's pictures with it.
    """

    def __init__(self, recipe: Recipe, base: str, pictures: Path) -> None:
        self.recipe, self.base, self.pictures = recipe, base, pictures
        # Any, because load_lora_weights stands in a mixin that most pipelines have and their base class has not.
        self._pipeline: Any = None

    def draw(self, requests: list[Request], adapter: Path | None, desc: str) -> Drawn:
        """The pictures of `requests`, in their order; those already kept are not drawn again."""
        from dataset_builder.pictures import PictureStore

        keys = self.draw_kept([request.wanted for request in requests], adapter, desc)
        return Drawn(PictureStore(self.pictures), keys)

    def draw_again(self, wanted: list[tuple[str, int]]) -> "list[Image]":
        """The base model's pictures of prompts and seeds, whatever is kept, and kept nowhere: in the store they would
        stand among pictures of other batches."""
        from dataset_builder.renderer import Renderer

        with self._with_adapter(None) as pipeline:
            renderer = Renderer(pipeline, self.recipe.render, self._identity(None))
            return renderer.render([prompt for prompt, _ in wanted], [seed for _, seed in wanted])

    def require_fit(self, wanted: list[tuple[str, int]], adapter: Path) -> None:
        """Load an adapter and take it out again, unless all its pictures of `wanted`, prompts and seeds, are kept:
        whoever draws much before asks first.

        Raises:
            `RecipeError`: where it, or a layer of it, does not fit the base model.
        """
        from dataset_builder.pictures import PictureStore

        if PictureStore(self.pictures).missing(self.keys(wanted, adapter)):
            with self._with_adapter(adapter):
                pass

    def _identity(self, adapter: Path | None) -> str:
        return self.base if adapter is None else f"{self.base}+{adapter_identity(adapter)}"

    def drawn_by(self, adapter: Path | None) -> str:
        """Identity of the base model, or of it with an adapter, under the recipe's settings."""
        from dataset_builder.renderer import renderer_identity

        return renderer_identity(self._identity(adapter), self.recipe.render)

    def keys(self, wanted: list[tuple[str, int]], adapter: Path | None) -> list[str]:
        """Keys of pictures in the store, drawn or not, in the order of `wanted`."""
        from dataset_builder.pictures import picture_key

        drawn_by = self.drawn_by(adapter)
        return [picture_key(drawn_by, prompt, seed) for prompt, seed in wanted]

    def draw_kept(self, wanted: list[tuple[str, int]], adapter: Path | None, desc: str) -> list[str]:
        """Draw prompts with their seeds into the store, without holding pictures in memory.

        Args:
            wanted (`list[tuple[str, int]]`): prompts and seeds.
            adapter (`Path`, *optional*): of the model that draws; None is the base model.
            desc (`str`): name of the progress bar.

        Returns:
            `list[str]`: keys of the pictures in the store, in the order of `wanted`. Where all stand already, no model
            is loaded.
        """
        from dataset_builder.pictures import PictureStore
        from dataset_builder.renderer import Renderer, draw_missing

        store, keys = PictureStore(self.pictures), self.keys(wanted, adapter)
        if not store.missing(keys):
            return keys
        with self._with_adapter(adapter) as pipeline:
            renderer = Renderer(pipeline, self.recipe.render, self._identity(adapter))
            return draw_missing(renderer, wanted, store, desc)

    @contextmanager
    def _with_adapter(self, adapter: Path | None) -> Iterator[Any]:
        if self._pipeline is None:
            from dataset_builder.models import load_pipeline

            self._pipeline = load_pipeline(self.recipe.base_model, self.recipe.revision, self.recipe.render.dtype)
        if adapter is None:
            yield self._pipeline
            return
        from diffusers.utils import logging
        from safetensors import SafetensorError

        path, before, verbosity = adapter / WEIGHTS, _parameters(self._pipeline), logging.get_verbosity()
        # It would warn that an adapter of the UNet holds nothing for the text encoder, which is as it should be.
        # Of what cannot be loaded the error below says enough.
        logging.set_verbosity(logging.CRITICAL)
        try:
            try:
                # The name is given because the client may not look for it while it is offline.
                self._pipeline.load_lora_weights(str(adapter), weight_name=WEIGHTS)
            except (AttributeError, KeyError, ValueError, RuntimeError, OSError, SafetensorError) as error:
                # The first line alone says what kind of error; the second names the first layer.
                lines = [line.strip() for line in str(error).strip().splitlines()] or [type(error).__name__]
                raise RecipeError(
                    f"{path}: cannot be loaded into {self.recipe.base_model}: {' '.join(lines[:2])[:300]}; give an "
                    "adapter of this base model"
                ) from error
            finally:
                logging.set_verbosity(verbosity)
            _require_whole(self._pipeline, path, _parameters(self._pipeline) - before, self.recipe.base_model)
            _require_finite(path)
            yield self._pipeline
        finally:
            # A pipeline without the mixin has refused above.
            if hasattr(self._pipeline, "unload_lora_weights"):
                self._pipeline.unload_lora_weights()


def _networks(pipeline: Any) -> dict[str, Any]:
    from torch import nn

    return {name: part for name, part in pipeline.components.items() if isinstance(part, nn.Module)}


def _parameters(pipeline: Any) -> int:
    """Numbers in all networks of a pipeline together."""
    return sum(each.numel() for network in _networks(pipeline).values() for each in network.parameters())


def _require_whole(pipeline: Any, path: Path, taken: int, base_model: str) -> None:
    """Refuse an adapter of which the pipeline took fewer numbers than its file holds: the loader passes over layers
    that the base model does not have, or leaves all out, and says so in a warning at most."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        keys = [key for key in file.keys() if not key.endswith("alpha")]  # noqa: SIM118 (it is no mapping)
        if taken >= sum(math.prod(file.get_slice(key).get_shape()) for key in keys):
            return
    # transformers has left out this part of a text encoder's names, which files still have.
    layers = sorted({re.split(r"\.(?:lora|lokr)[._]", key)[0].replace(".text_model.", ".") for key in keys})
    found = {
        f"{name}.{layer}".replace(".text_model.", ".")
        for name, network in _networks(pipeline).items()
        for layer, module in network.named_modules()
        if isinstance(module, BaseTunerLayer)
    }
    strange = [layer for layer in layers if layer not in found] or layers
    named = ", ".join(strange[:3]) + (", ..." if len(strange) > 3 else "")
    raise RecipeError(
        f"{path}: {len(strange)} of its {len(layers)} layers are none of {base_model}: {named[:300]}; give an adapter "
        "of this base model"
    )


def _require_finite(path: Path) -> None:
    """Refuse an adapter with NaN or infinite weights: its pictures are one colour, and a judge may find them safe."""
    import torch
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        for key in file.keys():  # noqa: SIM118 (it is no mapping)
            # In float32, for not every 8-bit float can be asked.
            tensor = file.get_tensor(key).float()
            wrong = tensor.numel() - int(torch.isfinite(tensor).sum())
            if wrong:
                raise RecipeError(
                    f"{path}: {wrong} of the {tensor.numel()} numbers of {key} are NaN or infinite; train it again"
                )


def pixel_drift(image: "Image", base: "Image") -> float:
    """Mean absolute difference of two pictures of one size, as a share of the pixel range, 0..1."""
    import numpy as np

    if image.size != base.size:
        raise ValueError(f"pictures of {image.size} and {base.size} pixels cannot be compared")
    a, b = np.asarray(image, np.float32), np.asarray(base, np.float32)
    return float(np.abs(a - b).mean() / 255)
