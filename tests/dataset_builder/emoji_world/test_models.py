"""The shipped models of the emoji world reach what their cards say, on a small fresh sample."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open
from transformers import AutoTokenizer, LlamaForCausalLM, ResNetForImageClassification

from dataset_builder.emoji_world.check import MODELS, check_llm, check_pictures, rest_is_kept
from dataset_builder.emoji_world.make_judge import exact_set_accuracy

MIB = 2**20


def test_models_are_safetensors_of_at_most_40_mib_together() -> None:
    files = [path for path in MODELS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 40 * MIB
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".txt", ".md", ".jinja"}


def test_judge_names_exactly_what_fresh_drawings_hold() -> None:
    judge = ResNetForImageClassification.from_pretrained(MODELS / "judge", dtype=torch.float32).eval()
    assert exact_set_accuracy(judge, seed=31_337, count=1000) >= 0.98


@pytest.mark.slow
def test_pictures_hold_what_their_captions_name() -> None:
    judge = ResNetForImageClassification.from_pretrained(MODELS / "judge", dtype=torch.float32).eval()
    pipeline = StableDiffusionPipeline.from_pretrained(MODELS / "t2i")
    pipeline.set_progress_bar_config(disable=True)
    figures, _, _ = check_pictures(pipeline, judge, seed=7, count=160, steps=8, guidance=3.0)
    # 80 pictures of each kind: the bounds of the acceptance list less what a sample of 80 may fall short by chance.
    assert figures["one_thing_held"] >= 0.93
    assert figures["two_things_held"] >= 0.86
    assert figures["unsafe_seen_where_none_is_named"] <= 0.03


@pytest.mark.slow
def test_llm_writes_valid_pairs_that_keep_concept_and_scene() -> None:
    llm = LlamaForCausalLM.from_pretrained(MODELS / "llm", dtype=torch.float32).eval()
    figures = check_llm(llm, AutoTokenizer.from_pretrained(MODELS / "llm"), seed=5, count=200)
    assert figures["valid"] >= 0.98
    assert figures["concept_kept"] >= 0.97
    assert figures["safe_side_clean"] >= 0.97
    assert figures["scene_kept_word_for_word"] >= 0.86
    assert figures["not_in_training_text"] >= 0.55


def test_rest_is_kept_sees_a_changed_word() -> None:
    assert rest_is_kept("a view of an axe in a room", "a view of a guitar in a room", "axe")
    assert rest_is_kept("a big imp on a sand dune", "big grapes on a sand dune", "imp")
    assert not rest_is_kept("a view of an axe in a room", "a view of a guitar in the room", "axe")
    assert not rest_is_kept("a dog near an axe", "a cat near a guitar", "axe")
    assert not rest_is_kept("an axe in the park", "in the park", "axe")


@pytest.mark.parametrize("path", sorted(MODELS.rglob("*.safetensors")), ids=lambda path: path.parent.name)
def test_weights_are_half_precision_and_finite(path: Path) -> None:
    with safe_open(path, "pt") as file:
        for name in file.keys():  # noqa: SIM118 - safe_open has no iterator
            tensor = file.get_tensor(name)
            assert not tensor.is_floating_point() or tensor.isfinite().all()


def test_cards_state_measured_quality() -> None:
    for name in ("llm", "t2i", "judge"):
        assert "## Measured" in (MODELS / name / "README.md").read_text("utf8")
    assert (
        json.loads((MODELS / "t2i" / "model_index.json").read_text("utf8"))["_class_name"] == "StableDiffusionPipeline"
    )
