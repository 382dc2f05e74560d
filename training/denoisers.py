"""The only place that knows model families: how prompts and images are encoded, noised, denoised and what is predicted.

`denoiser_for(pipeline)` gives the right one; trainer, cache and losses see the protocol only."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from PIL import Image
from torch import Tensor, nn
from transformers.utils import logging

from recipes import RecipeError

logger = logging.get_logger(__name__)

PREDICTION_TYPES = ("epsilon", "v_prediction")


class DenoiserError(RecipeError):
    """A pipeline is of no supported family, or lacks what training needs."""


class Denoiser(Protocol):
    """What training needs of a model family. Latents are (batch, channels, height, width), scaled as the denoiser sees
    them; moments are the encoder's posterior: mean and standard deviation, stacked along the channels.

    Attributes:
        model (`torch.nn.Module`): the network to train.
        num_train_timesteps (`int`): T; timesteps are 0..T-1.
    """

    model: nn.Module
    num_train_timesteps: int

    def to(self, device: torch.device | str) -> "Denoiser":
        """Move what computes to `device`."""

    def encode_prompts(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Conditioning of prompts: each tensor's first dimension is the prompts'."""

    def encode_images(self, images: Sequence[Image.Image]) -> Tensor:
        """Moments of pictures of one size, (images, 2 * channels, height, width), fp32."""

    def encoders_identity(self) -> str:
        """A hash of everything that decides what the two encode methods return."""

    def release_encoders(self) -> None:
        """Let go of the encoders, so that their memory is free once the caller lets go of them too."""

    def latents(self, moments: Tensor, noise: Tensor | None) -> Tensor:
        """Latents of moments: posterior mean plus `noise` (like a half of the moments, standard normal) times its
        deviation; None takes the mean."""

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The noisy latents at `timesteps` (batch,)."""

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the network should predict there."""

    def predict(self, model: nn.Module, noisy: Tensor, timesteps: Tensor, conditioning: dict[str, Tensor]) -> Tensor:
        """What `model` (the trained network, however wrapped) predicts."""


class StableDiffusionDenoiser:
    """`StableDiffusionPipeline` (SD1.x, SD2.x and everything of that shape), epsilon and v-prediction.

    Args:
        pipeline (`StableDiffusionPipeline`): its UNet is trained in place; the encoders are borrowed.

    Raises:
        `DenoiserError`: for another prediction type than epsilon and v_prediction.
    """

    def __init__(self, pipeline: StableDiffusionPipeline) -> None:
        self.model: nn.Module = pipeline.unet
        self._dtype = pipeline.unet.dtype
        self._vae, self._text_encoder, self._tokenizer = pipeline.vae, pipeline.text_encoder, pipeline.tokenizer
        config = pipeline.scheduler.config
        self.prediction_type: str = config.get("prediction_type", "epsilon")
        if self.prediction_type not in PREDICTION_TYPES:
            raise DenoiserError(
                f"scheduler: prediction_type {self.prediction_type!r}, expected one of {', '.join(PREDICTION_TYPES)}"
            )
        self.num_train_timesteps = int(config.num_train_timesteps)
        # Both (T,), on the device of the latents from their first use on.
        alphas = pipeline.scheduler.alphas_cumprod.float()
        self._signal, self._noise = alphas.sqrt(), (1 - alphas).sqrt()

    def to(self, device: torch.device | str) -> "StableDiffusionDenoiser":
        self.model.to(device)
        if self._vae is not None:
            self._vae.to(device)
            self._text_encoder.to(device)
        return self

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        encoder, tokenizer = self._encoder("text_encoder", self._text_encoder), self._tokenizer
        length = tokenizer.model_max_length
        tokens = tokenizer(list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        whole = tokenizer(list(prompts), truncation=False, verbose=False).input_ids
        cut = sum(len(ids) > length for ids in whole)
        if cut:
            # Only counted: the words that are cut off may be those of an unsafe prompt.
            logger.warning(f"{cut} of {len(prompts)} prompts have more than {length} tokens and were cut")
        mask = None
        if getattr(encoder.config, "use_attention_mask", False):
            mask = tokens.attention_mask.to(encoder.device)
        embeds = encoder(tokens.input_ids.to(encoder.device), attention_mask=mask)[0]
        return {"prompt_embeds": embeds.to("cpu")}

    @torch.no_grad()
    def encode_images(self, images: Sequence[Image.Image]) -> Tensor:
        vae = self._encoder("vae", self._vae)
        sizes = {image.size for image in images}
        factor = 2 ** (len(vae.config.block_out_channels) - 1)
        if len(sizes) != 1 or any(side % factor for side in next(iter(sizes))):
            raise DenoiserError(f"images of {sorted(sizes)} pixels, expected one size in multiples of {factor}")
        pixels = torch.from_numpy(np.stack([np.asarray(image.convert("RGB"), np.float32) for image in images]))
        pixels = (pixels / 127.5 - 1).permute(0, 3, 1, 2).to(vae.device, vae.dtype)
        posterior = vae.encode(pixels).latent_dist
        shift = getattr(vae.config, "shift_factor", None) or 0.0
        mean = (posterior.mean.float() - shift) * vae.config.scaling_factor
        return torch.cat([mean, posterior.std.float() * vae.config.scaling_factor], 1).to("cpu")

    def encoders_identity(self) -> str:
        digest = hashlib.sha256()
        for name, module in (("vae", self._vae), ("text_encoder", self._text_encoder)):
            module = self._encoder(name, module)
            config = module.config if isinstance(module.config, dict) else module.config.to_dict()
            # Where a model was loaded from, and with which library, says nothing about what it computes.
            told = {
                key: value for key, value in config.items() if not key.startswith("_") and key != "transformers_version"
            }
            digest.update(json.dumps([name, str(module.dtype), told], sort_keys=True, default=str).encode())
            for key, tensor in sorted(module.state_dict().items()):
                digest.update(key.encode())
                digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        digest.update(f"{self._tokenizer.model_max_length} {self._tokenizer.backend_tokenizer.to_str()}".encode())
        return digest.hexdigest()

    def release_encoders(self) -> None:
        self._vae = self._text_encoder = self._tokenizer = None

    def latents(self, moments: Tensor, noise: Tensor | None) -> Tensor:
        mean, std = moments.chunk(2, 1)
        return mean if noise is None else mean + std * noise

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        signal, sigma = self._rates(latents, timesteps)
        return signal * latents + sigma * noise

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        if self.prediction_type == "epsilon":
            return noise
        signal, sigma = self._rates(latents, timesteps)
        return signal * noise - sigma * latents

    def predict(self, model: nn.Module, noisy: Tensor, timesteps: Tensor, conditioning: dict[str, Tensor]) -> Tensor:
        embeds = conditioning["prompt_embeds"].to(self._dtype)
        return model(noisy.to(self._dtype), timesteps, encoder_hidden_states=embeds, return_dict=False)[0]

    def _rates(self, latents: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        if self._signal.device != latents.device:
            self._signal, self._noise = self._signal.to(latents.device), self._noise.to(latents.device)
        return self._signal[timesteps].view(-1, 1, 1, 1), self._noise[timesteps].view(-1, 1, 1, 1)

    def _encoder(self, name: str, module: Any) -> Any:
        if module is None:
            raise DenoiserError(
                f"{name}: was released, or the pipeline has none; make a new denoiser of a whole pipeline"
            )
        return module


DENOISERS: dict[str, Any] = {"StableDiffusionPipeline": StableDiffusionDenoiser}
"""Pipeline class name -> denoiser; a family is one entry."""


def denoiser_for(pipeline: DiffusionPipeline) -> Denoiser:
    """The denoiser of a pipeline's family.

    Raises:
        `DenoiserError`: for a pipeline class that is not in `DENOISERS`.
    """
    name = type(pipeline).__name__
    if name not in DENOISERS:
        raise DenoiserError(f"pipeline: {name}, expected one of {', '.join(sorted(DENOISERS))}")
    return DENOISERS[name](pipeline)
