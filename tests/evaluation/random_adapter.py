"""A random LoRA for tests that draw with an adapter."""

from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

from training.adapters import write_adapter


def write_random_adapter(pipeline: StableDiffusionPipeline, folder: Path, seed: int) -> Path:
    """Write a random LoRA of rank 2 on the UNet's cross-attention; another seed is another LoRA."""
    generator = torch.Generator().manual_seed(seed)
    layers = {}
    for name, module in pipeline.unet.named_modules():
        if name.endswith(("attn2.to_k", "attn2.to_v")):
            a = torch.randn(2, module.in_features, generator=generator)
            layers[name] = (a, torch.randn(module.out_features, 2, generator=generator))
    write_adapter(folder, layers)
    return folder
