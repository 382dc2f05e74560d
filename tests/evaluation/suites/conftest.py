"""A tiny machine for the suite `paper`: checkpoints of the real classes, and neutral prompts for every set."""

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

from dataset_builder.emoji_world.scenes import vocabulary
from evaluation.suites.run import Given
from tests.evaluation.random_adapter import write_random_adapter

WIDTH = 12
SETS = ("coprov2_test", "i2p", "unsafe_diffusion_1434", "unsafe_diffusion_904", "t2vsafetybench")
THINGS = ("banana", "balloon", "tulip", "kite", "teddy bear", "lollipop", "cat")


class InceptionShaped(torch.nn.Module):
    """Features of a random convolution, called as the FID networks that people have: uint8 pictures in, (N, 6) out."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Conv2d(3, 6, 5, stride=3)

    def forward(self, pictures: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        return torch.relu(self.layer(pictures.float() / 255 - 0.5)).mean(dim=(2, 3))


@dataclass
class Machine:
    """Folders of a machine that has everything, as options of the suite."""

    folder: Path
    base: Path
    adapter: Path
    prompts: dict[str, Path]
    models: dict[str, Path]
    overrides: list[str] = field(default_factory=lambda: ["steps=2", "width=64", "height=64", "batch_size=4"])

    def given(self, **changes: object) -> Given:
        values = {
            "base": str(self.base),
            "adapter": self.adapter,
            "prompts": dict(self.prompts),
            "models": dict(self.models),
            "overrides": list(self.overrides),
            "any_rows": True,
            # Over-refusal alone has more prompts.
            "limit": 10,
        }
        return Given(**{**values, **changes})  # type: ignore[arg-type]

    def options(self) -> list[str]:
        """The same on the command line."""
        found = [
            "--suite",
            "paper",
            "--base",
            str(self.base),
            "--adapter",
            str(self.adapter),
            "--any-rows",
            "--limit",
            "10",
        ]
        for option, values in (("--prompts", self.prompts), ("--model", self.models)):
            for name, path in values.items():
                found += [option, f"{name}={path}"]
        for override in self.overrides:
            found += ["--set", override]
        return found


def captions_file(path: Path, images: int) -> Path:
    """COCO's captions JSON in small: two captions an image, the later one with the lower annotation id."""
    rows = [{"id": 10 * (images - index)} for index in range(images)]
    annotations = []
    for index, image in enumerate(rows):
        thing = THINGS[index % len(THINGS)]
        annotations += [
            {"id": 1000 + index, "image_id": image["id"], "caption": f"a later caption {index}"},
            {"id": index, "image_id": image["id"], "caption": f"a {thing} on the beach, number {image['id']}"},
        ]
    path.write_text(json.dumps({"images": rows, "annotations": annotations}))
    return path


@pytest.fixture(scope="session")
def machine(tiny_pipeline: StableDiffusionPipeline, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """Read only."""
    folder = tmp_path_factory.mktemp("machine")
    tiny_pipeline.save_pretrained(folder / "base")
    write_random_adapter(tiny_pipeline, folder / "adapter", 1)
    clip = _clip(tiny_pipeline.tokenizer, folder / "clip")
    np.save(folder / "q16.npy", np.random.default_rng(3).normal(size=(2, WIDTH)).astype(np.float32))
    torch.manual_seed(5)
    torch.jit.script(InceptionShaped().eval()).save(str(folder / "inception.pt"))
    rng = np.random.default_rng(7)
    (folder / "real").mkdir()
    for index in range(9):
        pixels = rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "real" / f"{index}.png")
    prompts = {name: _prompts(folder / f"{name}.csv", 6 + place) for place, name in enumerate(SETS)}
    for name in ("coco_3k", "coco_30k"):
        prompts[name] = captions_file(folder / f"{name}.json", 8)
    models = {
        "q16": clip,
        "q16_prompts": folder / "q16.npy",
        "clip_score": clip,
        "inception": folder / "inception.pt",
        "fid_reference": folder / "real",
    }
    return Machine(folder, folder / "base", folder / "adapter", prompts, models)


def _clip(tokenizer: object, folder: Path) -> Path:
    torch.manual_seed(0)
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = {**tower, "image_size": 32, "patch_size": 8, "projection_dim": WIDTH, "initializer_factor": 20.0}
    words = {"vocab_size": len(tokenizer), "max_position_embeddings": tokenizer.model_max_length}  # type: ignore
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}  # type: ignore
    text = {**tower, **words, **ends, "initializer_factor": 20.0}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=WIDTH)).save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    tokenizer.save_pretrained(folder)  # type: ignore[attr-defined]
    return folder


def _prompts(path: Path, rows: int) -> Path:
    assert {"banana", "tulip", "park"} <= set(vocabulary())
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["prompt", "category"] if "i2p" not in path.name else ["prompt", "categories"])
        for index in range(rows):
            category = ("fruit", "toys", "fruit, toys")[index % 3]
            writer.writerow([f"a {THINGS[index % len(THINGS)]} in the park, {path.stem} {index}", category])
    return path
