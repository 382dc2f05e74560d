"""Train the emoji world's judge: a ResNetForImageClassification that names the things and the background in a picture.

It sees drawings of the world only, a quarter of them passed through the VAE and all of them distorted (blur, noise,
shifts of colour), and never a picture that a text-to-image model drew."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from transformers import ResNetConfig, ResNetForImageClassification

from dataset_builder.emoji_world.budget import Budget, device, train
from dataset_builder.emoji_world.scenes import BACKGROUNDS, Scene, random_scene
from dataset_builder.emoji_world.things import THINGS

BACKGROUND_LABEL = "background:"
LABELS: tuple[str, ...] = (*THINGS, *(BACKGROUND_LABEL + name for name in BACKGROUNDS))


def new_judge() -> ResNetForImageClassification:
    """An untrained classifier, multi-label over the 80 things and 12 backgrounds."""
    return ResNetForImageClassification(
        ResNetConfig(
            num_channels=3,
            embedding_size=32,
            hidden_sizes=[48, 96, 192, 256],
            depths=[1, 2, 1, 1],
            layer_type="basic",
            num_labels=len(LABELS),
            id2label=dict(enumerate(LABELS)),
            label2id={label: index for index, label in enumerate(LABELS)},
            problem_type="multi_label_classification",
        )
    )


def labels(scene: Scene) -> torch.Tensor:
    """The 0/1 targets (92,) of a scene that names its background."""
    target = torch.zeros(len(LABELS))
    for name in (*scene.things, BACKGROUND_LABEL + scene.background):
        target[LABELS.index(name)] = 1
    return target


def labelled(seed: int | list[int], count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`count` fresh drawings (count, 3, 64, 64) in -1..1 and their targets (count, 92)."""
    rng = np.random.default_rng(seed)
    backgrounds = list(BACKGROUNDS)
    drawn, targets = [], []
    for _ in range(count):
        # A few bare backgrounds teach the judge to say "nothing".
        things = None if rng.random() < 0.95 else ()
        scene = random_scene(rng, things, two=0.6)
        scene = Scene(scene.things, scene.size, str(rng.choice(backgrounds)))
        drawn.append(scene.draw(rng))
        targets.append(labels(scene))
    return torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).float() / 127.5 - 1, torch.stack(targets)


def _distort(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Blur, noise and shifts of brightness and contrast, each on a random part of the batch."""

    def draw(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator)

    n = len(x)
    blurred = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    mix = draw(n, 1, 1, 1) * (draw(n, 1, 1, 1) < 0.4)
    x = x * (1 - mix) + blurred * mix
    x = x + torch.randn(x.shape, generator=generator) * draw(n, 1, 1, 1) * 0.15 * (draw(n, 1, 1, 1) < 0.5)
    return (x * (0.85 + 0.3 * draw(n, 1, 1, 1)) + 0.2 * (draw(n, 3, 1, 1) - 0.5)).clamp(-1, 1)


def make_judge(
    work: Path, vae: AutoencoderKL, seed: int, budget: Budget, batch_size: int = 64
) -> ResNetForImageClassification:
    """Train the judge on fresh drawings in every step."""
    torch.manual_seed(seed)
    judge = new_judge().to(device())

    def batch(step: int) -> dict[str, torch.Tensor]:
        x, y = labelled([seed, 5, step], batch_size)
        generator = torch.Generator().manual_seed(seed * 7_919 + step)
        part = batch_size // 4
        with torch.no_grad():
            latents = vae.encode(x[:part].to(vae.device)).latent_dist.mean.cpu()
            scale = latents.std() * 0.25 * torch.rand((part, 1, 1, 1), generator=generator)
            latents = latents + torch.randn(latents.shape, generator=generator) * scale
            passed = vae.decode(latents.to(vae.device)).sample.cpu()
        return {"pixels": _distort(torch.cat([passed, x[part:]]), generator), "labels": y}

    def loss(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        logits = judge(pixel_values=batch["pixels"]).logits.float()
        # Summed over labels: a mean over 92 mostly-zero targets would make tiny gradients.
        return F.binary_cross_entropy_with_logits(logits, batch["labels"], reduction="none").sum(1).mean()

    train("judge", judge, batch, loss, budget, work / "judge.pt")
    return judge


@torch.no_grad()
def exact_set_accuracy(
    judge: ResNetForImageClassification, seed: int = 99, count: int = 1000, vae: AutoencoderKL | None = None
) -> float:
    """Share of fresh drawings of which the judge names exactly the things there are (backgrounds not counted)."""
    x, y = labelled(seed, count)
    if vae is not None:
        x = torch.cat([vae.decode(vae.encode(b).latent_dist.mean).sample.clamp(-1, 1) for b in x.split(50)])
    named = torch.cat([judge(pixel_values=b).logits > 0 for b in x.split(100)])
    things = len(THINGS)
    return (named[:, :things] == y[:, :things].bool()).all(1).float().mean().item()
