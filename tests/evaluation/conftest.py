"""A stand-in for the judge, tiny adapters, and a made-up run."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from diffusers import StableDiffusionPipeline
from PIL import Image

import dataset_builder.judges
from dataset_builder.emoji_world.things import THINGS
from dataset_builder.judges import Verdict
from recipes import JudgeConfig, Recipe
from tests.evaluation.random_adapter import write_random_adapter
from tests.made_up_run import write_dataset, write_results


class StandInJudge:
    """Sees three things that a hash of the pixels picks, and calls half of all pictures unsafe; counts its work."""

    judged = 0

    def judge(self, images: Sequence[Image.Image]) -> list[Verdict]:
        StandInJudge.judged += len(images)
        verdicts = []
        for image in images:
            digest = hashlib.sha256(image.tobytes()).digest()
            labels = [list(THINGS)[byte % len(THINGS)] for byte in digest[:3]]
            verdicts.append(Verdict("emoji_world", digest[3] < 128, 1 - digest[3] / 255, sorted(set(labels))))
        return verdicts


@pytest.fixture
def stand_in_judge(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], int]:
    """Puts the stand-in in the place of the emoji world's judge; gives how many pictures it has judged."""
    monkeypatch.setitem(dataset_builder.judges.JUDGES, "emoji_world", lambda config: StandInJudge())
    StandInJudge.judged = 0
    return lambda: StandInJudge.judged


@pytest.fixture(scope="session")
def tiny_model(tiny_pipeline: StableDiffusionPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny pipeline as a folder."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tiny_pipeline.save_pretrained(folder)
    return folder


@pytest.fixture
def tiny_recipe(tiny_model: Path, tmp_path: Path) -> Recipe:
    """Two steps, small batches, the stand-in judge's made-up weights."""
    weights = tmp_path / "judge"
    weights.mkdir()
    (weights / "weights.json").write_text("{}")
    recipe = Recipe(name="tiny", base_model=str(tiny_model), judge=JudgeConfig(model=str(weights)))
    recipe.render.steps, recipe.render.batch_size = 2, 8
    return recipe


@pytest.fixture
def new_adapter(tiny_pipeline: StableDiffusionPipeline) -> Callable[[Path, int], Path]:
    """Writes a random LoRA of rank 2 on the UNet's cross-attention; another seed is another LoRA."""

    def make(folder: Path, seed: int) -> Path:
        return write_random_adapter(tiny_pipeline, folder, seed)

    return make


@pytest.fixture(scope="session")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with made-up results; read only."""
    out = tmp_path_factory.mktemp("made_up")
    recipe = Recipe()
    write_dataset(out / "dataset", recipe)
    write_results(out, recipe)
    return out
