"""What the training benchmark trains: random Stable Diffusion pipelines, 1.5 and XL, of several sizes, and pairs.

Random weights do the same arithmetic as trained ones. The layouts are those of Stable Diffusion 1.5 and of
SDXL; a smaller size scales every width of UNet, VAE and text encoders by one factor, so that the shares of their costs
stay near those of the real model."""

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from datasets import Dataset, Features, Image, Value
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from PIL import Image as PILImage
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from dataset_builder.emoji_world.make_t2i import new_tokenizer


@dataclass(frozen=True)
class Text:
    """A CLIP text encoder's width, layers and heads."""

    width: int
    layers: int
    heads: int


@dataclass(frozen=True)
class Size:
    """One size of the benchmark.

    Args:
        name (`str`): on the command line.
        unet, vae (`tuple[int, ...]`): widths of the levels.
        text (`tuple[Text, ...]`): the text encoders: one for the layout of Stable Diffusion 1.5, two for SDXL's.
        groups, vae_groups (`int`): of the group norms.
        resolution (`int`): side of the pictures in pixels.
        batch (`int`): pairs in a step.
    """

    name: str
    unet: tuple[int, ...]
    vae: tuple[int, ...]
    text: tuple[Text, ...]
    groups: int
    vae_groups: int
    resolution: int
    batch: int

    @property
    def xl(self) -> bool:
        """Whether the layout is SDXL's. The peers train that one with gradient checkpointing."""
        return len(self.text) == 2


SIZES = {
    size.name: size
    for size in (
        # For tests: every part is there, a step takes a fraction of a second.
        Size("tiny", (16, 32, 64, 64), (8, 16, 32, 32), (Text(32, 2, 4),), 8, 4, 64, 2),
        Size("tiny-sdxl", (32, 64, 128), (8, 16, 32, 32), (Text(32, 2, 4), Text(64, 2, 4)), 8, 4, 64, 2),
        # Half of every width and half of the resolution: a step takes seconds on two CPU cores.
        Size("sd15-small", (160, 320, 640, 640), (64, 128, 256, 256), (Text(384, 12, 12),), 32, 32, 256, 1),
        Size("sd15", (320, 640, 1280, 1280), (128, 256, 512, 512), (Text(768, 12, 12),), 32, 32, 512, 4),
        Size("sdxl", (320, 640, 1280), (128, 256, 512, 512), (Text(768, 12, 12), Text(1280, 32, 20)), 32, 32, 1024, 2),
    )
}
# As in the official models: the tokens of a prompt, the heads of the first UNet and the width of a head of the second.
_TOKENS, _UNET_HEADS, _HEAD_WIDTH = 77, 8, 64
# SDXL is told six numbers of a picture, each as a sinusoid of this width.
_TIME_IDS, _TIME_ID_WIDTH = 6, 256


def new_pipeline(
    size: Size, dtype: torch.dtype = torch.float32, seed: int = 0
) -> StableDiffusionPipeline | StableDiffusionXLPipeline:
    """A random pipeline of `size` on the CPU, the same for the same seed and type.

    Args:
        dtype (`torch.dtype`): the networks are made in it, as `from_pretrained(..., dtype=...)` loads them, so that no
            copy in another type counts as anybody's peak memory.
    """
    tokenizer = new_tokenizer()
    tokenizer.model_max_length = _TOKENS
    with torch.random.fork_rng(), _default_dtype(dtype):
        torch.manual_seed(seed)
        unet = new_unet(size)
        vae = AutoencoderKL(
            block_out_channels=size.vae,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            norm_num_groups=size.vae_groups,
            scaling_factor=0.13025 if size.xl else 0.18215,
            # As in the copy of SDXL's autoencoder that runs in half precision.
            force_upcast=False,
        )
        configs = [
            CLIPTextConfig(
                vocab_size=49408,
                hidden_size=text.width,
                intermediate_size=4 * text.width,
                num_hidden_layers=text.layers,
                num_attention_heads=text.heads,
                projection_dim=text.width,
                max_position_embeddings=_TOKENS,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
            for text in size.text
        ]
        text_encoder = CLIPTextModel(configs[0]).eval()
        text_encoder_2 = CLIPTextModelWithProjection(configs[1]).eval() if size.xl else None
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    shared = {"vae": vae.eval(), "unet": unet.eval(), "scheduler": scheduler}
    if size.xl:
        return StableDiffusionXLPipeline(
            **shared,
            text_encoder=text_encoder,
            text_encoder_2=text_encoder_2,
            tokenizer=tokenizer,
            tokenizer_2=tokenizer,
            add_watermarker=False,
        )
    return StableDiffusionPipeline(
        **shared,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def new_unet(size: Size) -> UNet2DConditionModel:
    """The random denoiser of `size`; under `torch.device("meta")` its shapes alone."""
    width = sum(text.width for text in size.text)
    if not size.xl:
        return UNet2DConditionModel(
            sample_size=size.resolution // 8,
            block_out_channels=size.unet,
            cross_attention_dim=width,
            attention_head_dim=_UNET_HEADS,
            norm_num_groups=size.groups,
        )
    return UNet2DConditionModel(
        sample_size=size.resolution // 8,
        block_out_channels=size.unet,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        cross_attention_dim=width,
        attention_head_dim=tuple(max(1, level // _HEAD_WIDTH) for level in size.unet),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=_TIME_ID_WIDTH,
        # The second encoder's pooled embedding and the numbers.
        projection_class_embeddings_input_dim=size.text[1].width + _TIME_IDS * _TIME_ID_WIDTH,
        norm_num_groups=size.groups,
    )


def new_pairs(size: Size, count: int, seed: int = 0) -> Dataset:
    """`count` pairs with the columns that training reads; the pictures are smooth random ones, stored as PNG."""
    rng = np.random.default_rng(seed)
    scenes = ("in the park", "at the beach", "in the snow", "at night")
    rows = [
        {
            "pair_id": f"pair-{i:05d}",
            "category": "violence",
            "unsafe_prompt": f"a pistol {scenes[i % 4]}",
            "safe_prompt": f"a water pistol {scenes[i % 4]}",
            "unsafe_image": {"bytes": _png(size, rng), "path": None},
            "safe_image": {"bytes": _png(size, rng), "path": None},
        }
        for i in range(count)
    ]
    text, image = Value("string"), Image()
    features = Features(
        dict.fromkeys(("pair_id", "category", "unsafe_prompt", "safe_prompt"), text)
        | {"unsafe_image": image, "safe_image": image}
    )
    return Dataset.from_list(rows, features=features)


@contextlib.contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _png(size: Size, rng: np.random.Generator) -> bytes:
    side = size.resolution
    small = PILImage.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    file = io.BytesIO()
    small.resize((side, side), PILImage.Resampling.BICUBIC).save(file, "PNG")
    return file.getvalue()
