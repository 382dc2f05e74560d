"""A CLIP of transformers and its image embeddings, for CLIPScore and for features."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from recipes import RecipeError

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image


def load_clip(name: str, revision: str | None, device: str, text: bool) -> tuple[Any, Any]:
    """A CLIP in float32, and its image processor.

    Args:
        name (`str`), revision (`str`, *optional*): folder, or Hub id with its commit, tag or branch.
        device (`str`): where it computes.
        text (`bool`): whether its text half is needed; without, a vision half alone will do.

    Raises:
        `RecipeError`: where there is none, it is another model, or weights are missing.
    """
    import torch
    from transformers import AutoConfig, CLIPImageProcessorPil, CLIPModel, CLIPVisionModelWithProjection

    from dataset_builder import models

    kinds = {"clip": CLIPModel} | ({} if text else {"clip_vision_model": CLIPVisionModelWithProjection})
    source, commit = models.find_model(name, revision)
    try:
        kind = AutoConfig.from_pretrained(source, revision=commit).model_type
        if kind not in kinds:
            raise RecipeError(f"{name}: found a model of type {kind}, expected a CLIP ({' or '.join(kinds)})")
        options = {"revision": commit, "dtype": torch.float32, "output_loading_info": True}
        # Only safetensors: a pickle can run code.
        model, report = kinds[kind].from_pretrained(source, use_safetensors=True, **options)
        # The torchvision-free processor: torchvision is no dependency here.
        processor = CLIPImageProcessorPil.from_pretrained(source, revision=commit)
    except RecipeError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0][:200]
        raise RecipeError(f"{name}: no CLIP that can be loaded: {first}") from None
    if report["missing_keys"]:
        raise RecipeError(f"{name}: lacks weights of CLIP, such as {sorted(report['missing_keys'])[0]}")
    if report.get("mismatched_keys"):
        raise RecipeError(f"{name}: holds weights of a wrong shape, such as {sorted(report['mismatched_keys'])[0][0]}")
    return model.eval().to(device), processor


def image_embeddings(model: Any, processor: Any, images: Sequence["Image"], device: str) -> "torch.Tensor":
    """Projected embeddings (N, D) of RGB pictures, not normalised."""
    pixels = processor(images=list(images), return_tensors="pt").pixel_values.to(device)
    return model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)
