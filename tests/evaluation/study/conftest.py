"""A tiny world for studies: a random pipeline of 16 pixels, made-up datasets, real experts of a few steps."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

import dataset_builder.build
from dataset_builder.emoji_world.make_t2i import new_tokenizer
from evaluation.study.plan import Group, Plan, Variant
from evaluation.study.running import Study
from recipes import JudgeConfig, Recipe
from tests.made_up_run import write_dataset
from tests.training.tiny_families import make

ROWS = {"train": 4, "validation": 1, "test": 2, "test_unseen_concepts": 1}
NewStudy = Callable[..., Study]


@pytest.fixture(scope="session")
def smallest_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved pipeline of 16 x 16 pixels."""
    folder = tmp_path_factory.mktemp("model") / "smallest"
    make("plain", new_tokenizer(), prediction_type="v_prediction").save_pretrained(folder)
    return folder


@pytest.fixture
def study_recipe(smallest_model: Path, tmp_path: Path, stand_in_judge: Callable[[], int]) -> Recipe:
    """Two categories, two steps an expert, two of tuning; the stand-in judge's made-up weights."""
    weights = tmp_path / "judge"
    weights.mkdir()
    (weights / "weights.json").write_text("{}")
    recipe = Recipe(name="tiny", base_model=str(smallest_model), judge=JudgeConfig(model=str(weights)))
    render, train, merge = recipe.render, recipe.train, recipe.merge
    render.steps, render.height, render.width, render.batch_size = 2, 16, 16, 8
    train.categories, train.resolution, train.max_steps, train.batch_size = ["hate", "violence"], 16, 2, 2
    train.rank, train.alpha, train.prior_batch_size, train.save_steps, train.logging_steps = 2, 2, 2, 1, 1
    train.learning_rate, merge.rank, merge.tune_steps, merge.calibration_prompts = 0.1, 4, 2, 2
    merge.tune_prior_weight = 0.5
    return recipe


def build_made_up(recipe: Recipe, out: Path) -> Path:
    """Puts made-up rows in the place of a build; the seeds of their pictures follow the recipe's."""
    if not (out / "dataset" / "coprov2.json").is_file():
        write_dataset(out / "dataset", recipe, rows=ROWS)
    return out / "dataset"


@pytest.fixture
def made_up_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Builds are made up."""
    monkeypatch.setattr(dataset_builder.build, "build", build_made_up)
    assert os.environ["OMP_NUM_THREADS"] == "1"


@pytest.fixture
def new_study(study_recipe: Recipe, made_up_datasets: None, tmp_path: Path) -> NewStudy:
    """Makes a study of two seeds: a merge with and without tuning, and the controls."""
    variants = [
        Variant("comerge", merge={"method": "comerge"}),
        Variant("comerge-tuned", merge={"method": "comerge"}, tune=True),
        Variant("best-expert", single_expert="best"),
        Variant("all-single", all_single=True),
        Variant("sft", sft=True),
    ]

    def new(folder: str, plan: Plan | None = None, **changes: object) -> Study:
        plan = plan or Plan("tiny", "merge", "comerge-tuned", [Group("main", variants)])
        return Study(plan, study_recipe, tmp_path / folder, changes.pop("seeds", [0, 1]), **changes)  # type: ignore[arg-type]

    return new
