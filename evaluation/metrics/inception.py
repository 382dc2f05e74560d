"""Inception-v3 as the Fréchet Inception Distance uses it, in plain torch: a checkpoint's tensors in, features out.

Source: Szegedy et al. 2016 (arXiv 1512.00567) in the form of the 2015 TensorFlow graph that FID (Heusel et al. 2017,
arXiv 1706.08500) was defined with: average pools do not count their padding, and the last block pools by the maximum.
Tensor names are those of the widely used conversion of that graph (`Mixed_7c.branch3x3_2a.conv.weight`, ...). Widths
are read from the tensors, so that tests can use a tiny network."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes import RecipeError

if TYPE_CHECKING:
    import torch

# Pixels of each side that FID resizes to, whatever the picture's shape.
SIDE = 299
_EPS = 0.001
_NORM = ("weight", "bias", "running_mean", "running_var")
# A classifier's head: part of some checkpoints, no part of the features.
_UNUSED = ("fc.weight", "fc.bias")

# conv(x, name, kernel, stride, same): a convolution by its name, with batch norm and ReLU.
Conv = Callable[..., "torch.Tensor"]


def inception_features(pixels: "torch.Tensor", conv: Conv) -> "torch.Tensor":
    """The pooled features of pictures.

    Args:
        pixels (`torch.Tensor`): (N, 3, 299, 299), float, -1..1.
        conv: applies one convolution: `(x, name, kernel=(height, width), stride=1, same=True)`.

    Returns:
        `torch.Tensor`: (N, D); D is 2048 for FID's weights.
    """
    import torch.nn.functional as f

    x = conv(pixels, "Conv2d_1a_3x3", (3, 3), 2, same=False)
    x = conv(x, "Conv2d_2a_3x3", (3, 3), same=False)
    x = f.max_pool2d(conv(x, "Conv2d_2b_3x3", (3, 3)), 3, 2)
    x = conv(x, "Conv2d_3b_1x1", (1, 1))
    x = f.max_pool2d(conv(x, "Conv2d_4a_3x3", (3, 3), same=False), 3, 2)
    for name in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
        x = _block_35(x, name, conv)
    x = _reduce_35(x, "Mixed_6a", conv)
    for name in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
        x = _block_17(x, name, conv)
    x = _reduce_17(x, "Mixed_7a", conv)
    x = _block_8(x, "Mixed_7b", conv, _average)
    x = _block_8(x, "Mixed_7c", conv, lambda y: f.max_pool2d(y, 3, 1, 1))
    return x.mean(dim=(2, 3))


def _average(x: "torch.Tensor") -> "torch.Tensor":
    import torch.nn.functional as f

    return f.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


def _chain(x: "torch.Tensor", conv: Conv, *layers: tuple[Any, ...]) -> "torch.Tensor":
    for name, *rest in layers:
        x = conv(x, name, *rest)
    return x


def _block_35(x: "torch.Tensor", at: str, conv: Conv) -> "torch.Tensor":
    import torch

    fives = _chain(x, conv, (f"{at}.branch5x5_1", (1, 1)), (f"{at}.branch5x5_2", (5, 5)))
    double = ((f"{at}.branch3x3dbl_{i}", (k, k)) for i, k in ((1, 1), (2, 3), (3, 3)))
    pooled = conv(_average(x), f"{at}.branch_pool", (1, 1))
    return torch.cat([conv(x, f"{at}.branch1x1", (1, 1)), fives, _chain(x, conv, *double), pooled], 1)


def _reduce_35(x: "torch.Tensor", at: str, conv: Conv) -> "torch.Tensor":
    import torch
    import torch.nn.functional as f

    threes = conv(x, f"{at}.branch3x3", (3, 3), 2, False)
    double = ((f"{at}.branch3x3dbl_1", (1, 1)), (f"{at}.branch3x3dbl_2", (3, 3)))
    last = (f"{at}.branch3x3dbl_3", (3, 3), 2, False)
    return torch.cat([threes, _chain(x, conv, *double, last), f.max_pool2d(x, 3, 2)], 1)


def _block_17(x: "torch.Tensor", at: str, conv: Conv) -> "torch.Tensor":
    import torch

    wide, tall = (1, 7), (7, 1)
    sevens = ((f"{at}.branch7x7_{i}", kernel) for i, kernel in ((1, (1, 1)), (2, wide), (3, tall)))
    doubles = ((1, (1, 1)), (2, tall), (3, wide), (4, tall), (5, wide))
    double = ((f"{at}.branch7x7dbl_{i}", kernel) for i, kernel in doubles)
    pooled = conv(_average(x), f"{at}.branch_pool", (1, 1))
    return torch.cat(
        [conv(x, f"{at}.branch1x1", (1, 1)), _chain(x, conv, *sevens), _chain(x, conv, *double), pooled], 1
    )


def _reduce_17(x: "torch.Tensor", at: str, conv: Conv) -> "torch.Tensor":
    import torch
    import torch.nn.functional as f

    threes = _chain(x, conv, (f"{at}.branch3x3_1", (1, 1)), (f"{at}.branch3x3_2", (3, 3), 2, False))
    sevens = ((f"{at}.branch7x7x3_{i}", kernel) for i, kernel in ((1, (1, 1)), (2, (1, 7)), (3, (7, 1))))
    last = (f"{at}.branch7x7x3_4", (3, 3), 2, False)
    return torch.cat([threes, _chain(x, conv, *sevens, last), f.max_pool2d(x, 3, 2)], 1)


def _block_8(
    x: "torch.Tensor", at: str, conv: Conv, pool: Callable[["torch.Tensor"], "torch.Tensor"]
) -> "torch.Tensor":
    import torch

    def fork(y: "torch.Tensor", name: str) -> list["torch.Tensor"]:
        return [conv(y, f"{at}.{name}a", (1, 3)), conv(y, f"{at}.{name}b", (3, 1))]

    threes = fork(conv(x, f"{at}.branch3x3_1", (1, 1)), "branch3x3_2")
    inner = _chain(x, conv, (f"{at}.branch3x3dbl_1", (1, 1)), (f"{at}.branch3x3dbl_2", (3, 3)))
    pooled = conv(pool(x), f"{at}.branch_pool", (1, 1))
    return torch.cat([conv(x, f"{at}.branch1x1", (1, 1)), *threes, *fork(inner, "branch3x3dbl_3"), pooled], 1)


class Inception:
    """FID's Inception-v3 with a checkpoint's weights; batch norm is folded into the convolutions.

    Args:
        path (`Path`): a safetensors file with FID's tensor names; the classifier's head may stand in it.
        device (`str`): where it computes, in float32.

    Raises:
        `RecipeError`: where the file cannot be read, or naming the first tensor that is missing, of a wrong shape, not
            finite, or no part of the network.
    """

    def __init__(self, path: Path, device: str) -> None:
        import torch

        self._path = path
        tensors = _read(path)
        self._convs: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

        def check(
            x: torch.Tensor, name: str, kernel: tuple[int, int], stride: int = 1, same: bool = True
        ) -> torch.Tensor:
            self._convs[name] = self._fold(tensors, name, x.shape[1], kernel)
            weight, bias = self._convs[name]
            return _convolve(x, weight.to("meta"), bias.to("meta"), stride, same)

        # Shapes alone are walked through: what a later layer takes follows from what the earlier ones give.
        self.dimension = int(inception_features(torch.empty(1, 3, SIDE, SIDE, device="meta"), check).shape[1])
        if tensors:
            name = sorted(tensors)[0]
            raise RecipeError(f"{path}: {name}: no tensor of FID's Inception-v3 has this name")
        self._convs = {name: (weight.to(device), bias.to(device)) for name, (weight, bias) in self._convs.items()}

    def _fold(
        self, tensors: dict[str, "torch.Tensor"], name: str, channels: int, kernel: tuple[int, int]
    ) -> tuple["torch.Tensor", "torch.Tensor"]:
        """The convolution's weight and bias, taken out of `tensors`."""
        weight = self._take(tensors, f"{name}.conv.weight", lambda shape: shape[1:] == (channels, *kernel) and shape[0])
        out = weight.shape[0]
        scale, shift, mean, variance = (
            self._take(tensors, f"{name}.bn.{part}", lambda shape: shape == (out,)) for part in _NORM
        )
        tensors.pop(f"{name}.bn.num_batches_tracked", None)
        if (variance < 0).any():
            raise RecipeError(f"{self._path}: {name}.bn.running_var: found a negative variance")
        factor = scale / (variance + _EPS).sqrt()
        return (weight * factor[:, None, None, None]).float(), (shift - mean * factor).float()

    def _take(
        self, tensors: dict[str, "torch.Tensor"], name: str, fits: Callable[[tuple[int, ...]], Any]
    ) -> "torch.Tensor":
        if name not in tensors:
            raise RecipeError(f"{self._path}: {name}: this tensor of FID's Inception-v3 is missing")
        tensor = tensors.pop(name).double()
        if not fits(tuple(tensor.shape)):
            raise RecipeError(
                f"{self._path}: {name}: found the shape {tuple(tensor.shape)}, which does not fit FID's Inception-v3 "
                "or the tensors before it"
            )
        if not tensor.isfinite().all():
            raise RecipeError(f"{self._path}: {name}: found values that are no finite numbers")
        return tensor

    def __call__(self, pixels: "torch.Tensor") -> "torch.Tensor":
        """Features (N, dimension) of pictures (N, 3, 299, 299) of -1..1."""

        def conv(
            x: "torch.Tensor", name: str, kernel: tuple[int, int], stride: int = 1, same: bool = True
        ) -> "torch.Tensor":
            return _convolve(x, *self._convs[name], stride, same)

        return inception_features(pixels, conv)


def _convolve(
    x: "torch.Tensor", weight: "torch.Tensor", bias: "torch.Tensor", stride: int, same: bool
) -> "torch.Tensor":
    import torch.nn.functional as f

    padding = (weight.shape[2] // 2, weight.shape[3] // 2) if same else (0, 0)
    return f.conv2d(x, weight, bias, stride=stride, padding=padding).relu_()


def _read(path: Path) -> dict[str, "torch.Tensor"]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise RecipeError(f"{path}: no safetensors file that can be read: {str(error).splitlines()[0][:200]}") from None
    head = tensors.get("fc.weight")
    if any(name.startswith("AuxLogits.") for name in tensors) or (head is not None and head.shape[0] == 1000):
        raise RecipeError(
            f"{path}: found an ImageNet classifier of 1,000 classes; FID's Inception-v3 is another network, of 1,008 "
            "classes and without AuxLogits"
        )
    return {name: tensor for name, tensor in tensors.items() if name not in _UNUSED}
