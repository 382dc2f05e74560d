"""Pictures of the base model and of the base model with an adapter, for the same prompts and seeds.

Draws through `dataset_builder.renderer`, and takes the base model's pictures from the dataset where they are the same
ones; judging them is left to `evaluation.evaluate`."""

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.prompts import Request
from recipes import Recipe, RecipeError

if TYPE_CHECKING:
    from PIL.Image import Image

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


def decode(png: bytes) -> "Image":
    """The picture in an encoded file, as RGB."""
    from PIL import Image

    return Image.open(io.BytesIO(png)).convert("RGB")


def dataset_pictures_hold(recipe: Recipe, manifest: dict[str, Any], base: str, requests: list[Request]) -> bool:
    """Whether the dataset's pictures are what this recipe's base model would draw: same model, same settings."""
    from dataset_builder.renderer import renderer_identity

    drawn_by = manifest.get("models", {}).get("renderer")
    same_settings = drawn_by == renderer_identity(base, recipe.render)
    return same_settings and all(request.pair.t2i == base and request.stored is not None for request in requests)


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

    def draw(self, requests: list[Request], adapter: Path | None, desc: str) -> "list[Image]":
        """The pictures of `requests`, in their order; those already kept are not drawn again."""
        from dataset_builder.pictures import PictureStore

        store = PictureStore(self.pictures)
        wanted = [(request.prompt, request.pair.seed) for request in requests]
        return [store.get(key) for key in self.draw_kept(wanted, adapter, desc)]

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
        from dataset_builder.pictures import PictureStore, picture_key
        from dataset_builder.renderer import Renderer, draw_missing, renderer_identity

        identity = self.base if adapter is None else f"{self.base}+{adapter_identity(adapter)}"
        store = PictureStore(self.pictures)
        drawn_by = renderer_identity(identity, self.recipe.render)
        keys = [picture_key(drawn_by, prompt, seed) for prompt, seed in wanted]
        if not store.missing(keys):
            return keys
        with self._with_adapter(adapter) as pipeline:
            return draw_missing(Renderer(pipeline, self.recipe.render, identity), wanted, store, desc)

    @contextmanager
    def _with_adapter(self, adapter: Path | None) -> Iterator[Any]:
        if self._pipeline is None:
            from dataset_builder.models import load_pipeline

            self._pipeline = load_pipeline(self.recipe.base_model, self.recipe.revision, self.recipe.render.dtype)
        if adapter is None:
            yield self._pipeline
            return
        from diffusers.utils import logging

        verbosity = logging.get_verbosity()
        # It would warn that an adapter of the UNet holds nothing for the text encoder, which is as it should be.
        logging.set_verbosity_error()
        try:
            # The name is given because the client may not look for it while it is offline.
            self._pipeline.load_lora_weights(str(adapter), weight_name=WEIGHTS)
        except (AttributeError, KeyError, ValueError, RuntimeError, OSError) as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
            raise RecipeError(
                f"{adapter / WEIGHTS}: cannot be loaded into {self.recipe.base_model}: {first}; give an adapter of "
                "this base model"
            ) from error
        finally:
            logging.set_verbosity(verbosity)
        try:
            yield self._pipeline
        finally:
            self._pipeline.unload_lora_weights()


def pixel_drift(image: "Image", base: "Image") -> float:
    """Mean absolute difference of two pictures of one size, as a share of the pixel range, 0..1."""
    import numpy as np

    if image.size != base.size:
        raise ValueError(f"pictures of {image.size} and {base.size} pixels cannot be compared")
    a, b = np.asarray(image, np.float32), np.asarray(base, np.float32)
    return float(np.abs(a - b).mean() / 255)
