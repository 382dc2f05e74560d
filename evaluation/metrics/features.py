"""Features of pictures, for FID, KID and drift: from a TorchScript file, an Inception-v3 checkpoint, or a CLIP.

Nothing is downloaded but a CLIP that is named by its Hub id."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from recipes import RecipeError

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

Kind = Literal["torchscript", "safetensors", "clip"]
BATCH = 32


def pixels_of(image: "Image", row: int) -> np.ndarray:
    """A picture of any mode and size as uint8 (height, width, 3); transparency is dropped, as the judges drop it.

    Raises:
        `RecipeError`: where its mode has no RGB form; `row` names it.
    """
    try:
        pixels = np.asarray(image.convert("RGB"))
    except (OSError, ValueError) as error:
        found = f"of mode {image.mode} and {image.width} x {image.height} pixels"
        raise RecipeError(f"picture {row}, {found}: cannot be read as RGB: {str(error).splitlines()[0]}") from None
    if not pixels.size:
        raise RecipeError(f"picture {row}: found {image.width} x {image.height} pixels, expected at least one")
    return pixels


class FeatureNet:
    """A network that gives each picture one vector.

    Args:
        identity (`str`): for a file `sha256:` and its digest; for a CLIP `repo@commit` or `folder@digest`.
        dimension (`int`): numbers a picture.
        protocol (`str`): what is done to a picture before the network sees it, in words.
        compute: features (n, dimension) of uint8 pictures (height, width, 3), at most `BATCH` of one size each.

    The last bits of a feature depend on how many pictures are computed at once: cut portions from the whole ordered
    list, not from what is missing after a kill, where results have to be equal to the bit.
    """

    def __init__(
        self, identity: str, dimension: int, protocol: str, compute: Callable[[list[np.ndarray]], "torch.Tensor"]
    ) -> None:
        self.identity, self.dimension, self.protocol = identity, dimension, protocol
        self._compute = compute

    def features(self, images: Sequence["Image"]) -> np.ndarray:
        """float64 (N, dimension), in the order of `images`, which may be of any mode and size; (0, dimension) of none.

        Raises:
            `RecipeError`: for a picture that cannot be read, or for which the network gives no finite numbers; both
                are named by their place in `images`.
        """
        import torch

        found = np.empty((len(images), self.dimension), np.float64)
        for start in range(0, len(images), BATCH):
            part = [pixels_of(image, start + row) for row, image in enumerate(images[start : start + BATCH])]
            by_size: dict[tuple[int, ...], list[int]] = {}
            for row, pixels in enumerate(part):
                by_size.setdefault(pixels.shape, []).append(row)
            for rows in by_size.values():
                with torch.inference_mode():
                    values = self._compute([part[row] for row in rows])
                if tuple(values.shape) != (len(rows), self.dimension):
                    raise RecipeError(
                        f"{self.identity}: found features of shape {tuple(values.shape)} for {len(rows)} pictures, "
                        f"expected {(len(rows), self.dimension)}"
                    )
                found[[start + row for row in rows]] = values.double().cpu().numpy()
        wrong = np.flatnonzero(~np.isfinite(found).all(axis=1))
        if len(wrong):
            raise RecipeError(
                f"{self.identity}: picture {wrong[0]}: the features are no finite numbers ({len(wrong)} of "
                f"{len(images)} pictures)"
            )
        return found


def load_features(path: Path, kind: Kind, device: str = "cpu") -> FeatureNet:
    """Load a feature network.

    Args:
        path (`Path`): for `torchscript` and `safetensors` the file; for `clip` a folder, or a Hub id written as a path.
        kind: `torchscript`: the FID networks that people have, called with uint8 pictures (N, 3, height, width) of
            their own size, with `return_features=True` where its `forward` takes that. **TorchScript is code**: the
            file runs on this machine with all of your rights, so name only one that you trust; none is ever found or
            downloaded by itself. `safetensors`: [`evaluation.metrics.inception.Inception`]. Pictures are resized to
            299 x 299 (bilinear, half-pixel centres, no antialiasing, aspect ratio not kept) and scaled to -1..1 as
            2 x / 255 - 1, the protocol of the PyTorch port of FID; the TensorFlow original places pixels half a pixel
            apart and scales by (x - 128) / 128, which moves FID by little, but moves it. `clip`: the projected image
            embedding of a CLIP of transformers, not normalised, after the CLIP's own resize and crop.
        device (`str`, *optional*, defaults to `cpu`): where it computes, in float32.

    Raises:
        `RecipeError`: where the file is missing, of another kind, or does not fit; the first wrong tensor is named.
    """
    if kind not in get_args(Kind):
        raise RecipeError(f"features: found the kind {kind!r}, expected one of {', '.join(get_args(Kind))}")
    if kind == "clip":
        return _clip(path, device)
    if not path.is_file():
        raise RecipeError(f"{path}: no such file; expected a feature network of the kind {kind}")
    with path.open("rb") as file:
        identity = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
    return _torchscript(path, identity, device) if kind == "torchscript" else _inception(path, identity, device)


def _inception(path: Path, identity: str, device: str) -> FeatureNet:
    import torch
    import torch.nn.functional as f

    from evaluation.metrics.inception import SIDE, Inception

    network = Inception(path, device)

    def compute(pictures: list[np.ndarray]) -> torch.Tensor:
        pixels = torch.from_numpy(np.stack(pictures)).to(device).permute(0, 3, 1, 2).float() / 255
        pixels = f.interpolate(pixels, (SIDE, SIDE), mode="bilinear", align_corners=False)
        return network(2 * pixels - 1)

    return FeatureNet(identity, network.dimension, "bilinear to 299 x 299, 2x - 1", compute)


def _torchscript(path: Path, identity: str, device: str) -> FeatureNet:
    import torch

    try:
        module = torch.jit.load(str(path), map_location=device).eval()
    except (RuntimeError, ValueError, OSError) as error:
        first = str(error).strip().splitlines()[0][:200]
        raise RecipeError(f"{path}: no TorchScript file that can be loaded: {first}") from None
    takes = {argument.name for argument in module.forward.schema.arguments}
    options = {"return_features": True} if "return_features" in takes else {}

    def compute(pictures: list[np.ndarray]) -> torch.Tensor:
        pixels = torch.from_numpy(np.stack(pictures)).to(device).permute(0, 3, 1, 2).contiguous()
        try:
            values = module(pixels, **options)
        except RuntimeError as error:
            # The last line is the message; those before it quote the network's own source.
            last = str(error).strip().splitlines()[-1][:200]
            raise RecipeError(f"{path}: the network fails on uint8 pictures of {tuple(pixels.shape)}: {last}") from None
        if not isinstance(values, torch.Tensor) or values.ndim < 2:
            raise RecipeError(f"{path}: the network gives {_shown(values)}, expected features of shape (N, D)")
        # Some give (N, D, 1, 1).
        return values.flatten(1) if values[0].numel() == values.shape[1] else values

    with torch.inference_mode():
        values = compute([np.zeros((299, 299, 3), np.uint8)])
    if values.ndim != 2 or len(values) != 1:
        raise RecipeError(f"{path}: the network gives {_shown(values)} for one picture, expected the shape (1, D)")
    return FeatureNet(identity, values.shape[1], "the network's own, from uint8 pixels", compute)


def _shown(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return type(value).__name__ if shape is None else f"the shape {tuple(shape)}"


def _clip(path: Path, device: str) -> FeatureNet:
    import torch
    from PIL import Image

    from dataset_builder import models
    from evaluation.metrics.clip import image_embeddings, load_clip

    model, processor = load_clip(str(path), None, device, text=False)

    def compute(pictures: list[np.ndarray]) -> torch.Tensor:
        return image_embeddings(model, processor, [Image.fromarray(pixels) for pixels in pictures], device)

    dimension = int(model.visual_projection.out_features)
    return FeatureNet(models.identity(str(path)), dimension, "CLIP's own resize and crop", compute)
