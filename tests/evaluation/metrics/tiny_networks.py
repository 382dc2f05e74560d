"""Tiny feature networks with random weights: FID's Inception written out in modules, TorchScripts, a CLIP."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from dataset_builder.models import model_folder


class Unit(nn.Module):
    """Convolution, batch norm, ReLU; the parts' names are those of FID's weights."""

    def __init__(self, i: int, o: int, kernel: Any, stride: int = 1, padding: Any = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(i, o, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(o, eps=0.001)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.bn(self.conv(x)))


def mean_pool(x: torch.Tensor) -> torch.Tensor:
    """3 x 3 means over the pixels that are there: sums divided by how many lie within the border."""
    ones = torch.ones(x.shape[1], 1, 3, 3)
    here = F.conv2d(torch.ones_like(x[:1]), ones, padding=1, groups=x.shape[1])
    return F.conv2d(x, ones, padding=1, groups=x.shape[1]) / here


class ReferenceInception(nn.Module):
    """FID's Inception-v3, `w` channels a branch instead of dozens, layer after layer."""

    def __init__(self, w: int = 3, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.Conv2d_1a_3x3, self.Conv2d_2a_3x3 = Unit(3, w, 3, 2), Unit(w, w, 3)
        self.Conv2d_2b_3x3, self.Conv2d_3b_1x1 = Unit(w, 2 * w, 3, 1, 1), Unit(2 * w, w, 1)
        self.Conv2d_4a_3x3 = Unit(w, 2 * w, 3)
        i = 2 * w
        for name in ("5b", "5c", "5d"):
            units = {"branch1x1": Unit(i, w, 1), "branch5x5_1": Unit(i, w, 1), "branch5x5_2": Unit(w, w, 5, 1, 2)}
            units |= {"branch3x3dbl_1": Unit(i, w, 1), "branch3x3dbl_2": Unit(w, w + 1, 3, 1, 1)}
            units |= {"branch3x3dbl_3": Unit(w + 1, w, 3, 1, 1), "branch_pool": Unit(i, w + 1, 1)}
            self.add_module(f"Mixed_{name}", nn.ModuleDict(units))
            i = 4 * w + 1
        units = {"branch3x3": Unit(i, w, 3, 2), "branch3x3dbl_1": Unit(i, w, 1)}
        units |= {"branch3x3dbl_2": Unit(w, w, 3, 1, 1), "branch3x3dbl_3": Unit(w, w, 3, 2)}
        self.Mixed_6a = nn.ModuleDict(units)
        i = i + 2 * w
        row, column = ((1, 7), 1, (0, 3)), ((7, 1), 1, (3, 0))
        for name in ("6b", "6c", "6d", "6e"):
            units = {"branch1x1": Unit(i, w, 1), "branch7x7_1": Unit(i, w, 1)}
            units |= {"branch7x7_2": Unit(w, w, *row), "branch7x7_3": Unit(w, w, *column)}
            units |= {"branch7x7dbl_1": Unit(i, w, 1), "branch7x7dbl_2": Unit(w, w, *column)}
            units |= {"branch7x7dbl_3": Unit(w, w, *row), "branch7x7dbl_4": Unit(w, w, *column)}
            units |= {"branch7x7dbl_5": Unit(w, w, *row), "branch_pool": Unit(i, w, 1)}
            self.add_module(f"Mixed_{name}", nn.ModuleDict(units))
            i = 4 * w
        units = {"branch3x3_1": Unit(i, w, 1), "branch3x3_2": Unit(w, w, 3, 2), "branch7x7x3_1": Unit(i, w, 1)}
        units |= {"branch7x7x3_2": Unit(w, w, *row), "branch7x7x3_3": Unit(w, w, *column)}
        self.Mixed_7a = nn.ModuleDict(units | {"branch7x7x3_4": Unit(w, w, 3, 2)})
        i = i + 2 * w
        flat, tall = ((1, 3), 1, (0, 1)), ((3, 1), 1, (1, 0))
        for name in ("7b", "7c"):
            units = {"branch1x1": Unit(i, w, 1), "branch3x3_1": Unit(i, w, 1)}
            units |= {"branch3x3_2a": Unit(w, w, *flat), "branch3x3_2b": Unit(w, w, *tall)}
            units |= {"branch3x3dbl_1": Unit(i, w, 1), "branch3x3dbl_2": Unit(w, w, 3, 1, 1)}
            units |= {"branch3x3dbl_3a": Unit(w, w, *flat), "branch3x3dbl_3b": Unit(w, w, *tall)}
            self.add_module(f"Mixed_{name}", nn.ModuleDict(units | {"branch_pool": Unit(i, w, 1)}))
            i = 6 * w
        self.fc = nn.Linear(i, 1008)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # Larger than torch's own start, with which the last layers no longer tell one picture from another.
                nn.init.kaiming_normal_(module.weight)
            if isinstance(module, nn.BatchNorm2d):
                for tensor, low, high in ((module.weight, 0.5, 1.5), (module.running_var, 0.2, 0.6)):
                    nn.init.uniform_(tensor, low, high)
                for tensor in (module.bias, module.running_mean):
                    nn.init.normal_(tensor, 0.0, 0.2)
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features of pictures (N, 3, 299, 299) of -1..1."""
        x = F.max_pool2d(self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x))), 3, 2)
        x = F.max_pool2d(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)), 3, 2)
        for m in (self.Mixed_5b, self.Mixed_5c, self.Mixed_5d):
            double = m["branch3x3dbl_3"](m["branch3x3dbl_2"](m["branch3x3dbl_1"](x)))
            five = m["branch5x5_2"](m["branch5x5_1"](x))
            x = torch.cat([m["branch1x1"](x), five, double, m["branch_pool"](mean_pool(x))], 1)
        m = self.Mixed_6a
        double = m["branch3x3dbl_3"](m["branch3x3dbl_2"](m["branch3x3dbl_1"](x)))
        x = torch.cat([m["branch3x3"](x), double, F.max_pool2d(x, 3, 2)], 1)
        for m in (self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e):
            seven, double = m["branch7x7_3"](m["branch7x7_2"](m["branch7x7_1"](x))), x
            for k in range(1, 6):
                double = m[f"branch7x7dbl_{k}"](double)
            x = torch.cat([m["branch1x1"](x), seven, double, m["branch_pool"](mean_pool(x))], 1)
        m, seven = self.Mixed_7a, x
        for k in range(1, 5):
            seven = m[f"branch7x7x3_{k}"](seven)
        x = torch.cat([m["branch3x3_2"](m["branch3x3_1"](x)), seven, F.max_pool2d(x, 3, 2)], 1)
        for m, pool in ((self.Mixed_7b, mean_pool), (self.Mixed_7c, lambda y: F.max_pool2d(y, 3, 1, 1))):
            three, double = m["branch3x3_1"](x), m["branch3x3dbl_2"](m["branch3x3dbl_1"](x))
            threes = [m["branch3x3_2a"](three), m["branch3x3_2b"](three)]
            doubles = [m["branch3x3dbl_3a"](double), m["branch3x3dbl_3b"](double)]
            x = torch.cat([m["branch1x1"](x), *threes, *doubles, m["branch_pool"](pool(x))], 1)
        return x.mean(dim=(2, 3))


def write_inception(path: Path, w: int = 3, seed: int = 0) -> ReferenceInception:
    """Save a tiny Inception's tensors, the classifier's head among them; returns the network."""
    network = ReferenceInception(w, seed)
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, path)
    return network


class WithOption(nn.Module):
    """What a TorchScript FID network looks like: class scores, or features where it is asked for them."""

    def forward(self, images: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        assert images.dtype == torch.uint8
        x = images.float()
        if return_features:
            return torch.cat([x.mean(dim=(2, 3)), x.amax(dim=(2, 3))], 1)
        return torch.softmax(x.mean(dim=(2, 3)), 1)


class Plain(nn.Module):
    """One without the option, of shape (N, 3, 1, 1)."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.float().mean(dim=(2, 3), keepdim=True)


class NotNumbers(nn.Module):
    """One that gives NaN for pictures five pixels high."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        factor = float("nan") if images.shape[2] == 5 else 1.0
        return images.float().mean(dim=(2, 3)) * factor


def write_torchscript(path: Path, network: nn.Module) -> Path:
    """Save a scripted network."""
    torch.jit.script(network).save(str(path))
    return path


def write_clip(folder: Path, seed: int = 0) -> Path:
    """Save a tiny CLIP with its processor and the emoji world's tokenizer."""
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

    torch.manual_seed(seed)
    tokenizer = CLIPTokenizer.from_pretrained(model_folder("t2i") / "tokenizer")
    size = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = CLIPConfig(
        text_config={**size, **ends, "vocab_size": len(tokenizer), "max_position_embeddings": 77},
        vision_config={**size, "image_size": 16, "patch_size": 8},
        projection_dim=12,
    )
    CLIPModel(config).eval().save_pretrained(folder)
    sizes = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
    CLIPImageProcessorPil(**sizes).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
