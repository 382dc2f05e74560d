"""Random experts and a few pairs of the emoji world, for the tests of calibration and merge."""

from pathlib import Path

import torch
from datasets import Dataset
from PIL import Image

from dataset_builder.schema import features
from training.adapters import write_adapter

CATEGORIES = ["self_harm", "violence"]
LAYERS = {
    "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k": (128, 96),
    "up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_v": (128, 96),
    "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0": (96, 96),
}
THINGS = {"self_harm": ("a cigarette", "a lollipop"), "violence": ("a pistol", "a water pistol")}


def write_dataset(folder: Path, pairs: int = 3, backwards: bool = False) -> Path:
    """`pairs` pairs of each category as a dataset repository's train split."""
    rows = []
    for category in CATEGORIES:
        for index in range(pairs):
            unsafe, safe = (f"{thing} on background {index}" for thing in THINGS[category])
            shade = 40 * index + 20
            row = dict.fromkeys(features(CATEGORIES), None) | {
                "pair_id": f"{category}-{index}",
                "category": category,
                "unsafe_prompt": unsafe,
                "safe_prompt": safe,
                "unsafe_image": Image.new("RGB", (64, 64), (shade, 0, 0)),
                "safe_image": Image.new("RGB", (64, 64), (0, shade, 0)),
            }
            rows.append(row)
    if backwards:
        rows.reverse()
    for config, images in (("data", True), ("prompts", False)):
        kept = [{name: row[name] for name in features(CATEGORIES, images)} for row in rows]
        data = Dataset.from_list(kept, features=features(CATEGORIES, images))
        (folder / config).mkdir(parents=True)
        data.to_parquet(folder / config / "train-00000-of-00001.parquet")
    return folder


def factors(seed: int, rank: int = 4, layers: dict[str, tuple[int, int]] = LAYERS):
    """layer -> random `(A, B)`."""
    generator = torch.Generator().manual_seed(seed)
    return {
        layer: (torch.randn(rank, width, generator=generator), torch.randn(outputs, rank, generator=generator) / 4)
        for layer, (width, outputs) in layers.items()
    }


def write_experts(folder: Path, alpha: float = 6.0, **options: object) -> dict[str, Path]:
    """One random expert of rank 4 per category, alpha != rank."""
    for seed, category in enumerate(CATEGORIES):
        write_adapter(folder / category, factors(seed, **options), alpha=alpha)  # type: ignore[arg-type]
    return {category: folder / category for category in CATEGORIES}
