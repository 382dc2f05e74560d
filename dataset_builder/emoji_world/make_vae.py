"""Train the emoji world's AutoencoderKL: 64x64 pixels <-> 16x16 latents of 4 channels."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from dataset_builder.emoji_world.budget import Budget, device, train
from dataset_builder.emoji_world.scenes import random_scene


def new_vae() -> AutoencoderKL:
    """An untrained AutoencoderKL of the emoji world's size."""
    return AutoencoderKL(
        block_out_channels=(16, 32, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=64,
        mid_block_add_attention=False,
    )


def pictures(seed: int, count: int, two: float = 0.6) -> torch.Tensor:
    """`count` random world pictures: float tensor (count, 3, 64, 64) in -1..1, made from `seed` alone."""
    rng = np.random.default_rng(seed)
    drawn = np.stack([random_scene(rng, two=two).draw(rng) for _ in range(count)])
    return torch.from_numpy(drawn).permute(0, 3, 1, 2).float() / 127.5 - 1


def _edges(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x[..., 1:, :] - x[..., :-1, :], x[..., :, 1:] - x[..., :, :-1]


def make_vae(work: Path, seed: int, budget: Budget, batch_size: int = 16) -> AutoencoderKL:
    """Train a VAE: squared + 0.2 absolute + 0.1 edge error + 2e-4 KL (EMA of weights as the budget says)."""
    torch.manual_seed(seed)
    vae = new_vae().to(device())

    def loss(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        x = batch["pixels"]
        posterior = vae.encode(x).latent_dist
        y = vae.decode(posterior.sample()).sample.float()
        edge = sum((a - b).abs().mean() for a, b in zip(_edges(y), _edges(x), strict=True))
        return (
            F.mse_loss(y, x)
            + 0.2 * F.l1_loss(y, x)
            + 0.1 * edge
            + 2e-4 * posterior.kl().mean() / posterior.mean[0].numel()
        )

    def batch(step: int) -> dict[str, torch.Tensor]:
        return {"pixels": pictures(seed * 1_000_003 + step, batch_size)}

    train("vae", vae, batch, loss, budget, work / "vae.pt")
    with torch.no_grad():
        sample = torch.cat([vae.encode(pictures(seed + 1 + i, 64).to(vae.device)).latent_dist.mean for i in range(4)])
    vae.register_to_config(scaling_factor=round(1 / sample.std().item(), 5))
    return vae


def psnr(vae: AutoencoderKL, seed: int = 77, count: int = 256) -> float:
    """Peak signal-to-noise ratio in dB of encoding (mean) and decoding `count` fresh pictures."""
    x = pictures(seed, count)
    with torch.no_grad():
        y = torch.cat([vae.decode(vae.encode(b.to(vae.device)).latent_dist.mean).sample for b in x.split(32)]).cpu()
    return float(10 * torch.log10(4 / F.mse_loss(y.clamp(-1, 1), x)))
