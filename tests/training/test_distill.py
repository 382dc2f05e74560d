"""The distilled merge: what it fits, written out; what it leaves alone; and how a recipe comes by it."""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from recipes import MergeConfig, Recipe, RecipeError
from tests.training.merge_world import CATEGORIES, factors, write_dataset
from training.adapters import WEIGHTS_NAME, in_text_encoder, load_lora, write_adapter
from training.calibration_samples import Sample, choose_samples
from training.denoisers import denoiser_for
from training.distill import PromptNetworks, distill
from training.low_rank import Factors, full, stack, truncate
from training.merge import merge_experts

TEXT = "text_encoder.encoder.layers.0.self_attn.v_proj"
KEY = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
OTHER = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0"
Update = dict[str, Factors]


@pytest.fixture
def layers(tiny_pipeline: Any) -> dict[str, tuple[int, int]]:
    width = tiny_pipeline.text_encoder.config.hidden_size
    return {TEXT: (width, width), KEY: (width, 96), OTHER: (96, 96)}


@pytest.fixture
def experts(layers: dict[str, tuple[int, int]]) -> dict[str, Update]:
    return {category: factors(seed, layers=layers) for seed, category in enumerate(CATEGORIES)}


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    return choose_samples(write_dataset(tmp_path / "dataset"), CATEGORIES, 3, 0, False)


def summed(experts: Mapping[str, Update], rank: int = 8) -> Update:
    return {
        layer: truncate(stack([expert[layer] for expert in experts.values()]), rank) for layer in experts["violence"]
    }


def answers(pipeline: Any, prompts: list[str], update: Update | None) -> Tensor:
    """What `KEY` gives for prompts with the update added to copies of the weights: (prompts, tokens, 96)."""
    encoder, key = copy.deepcopy(pipeline.text_encoder), copy.deepcopy(pipeline.unet.get_submodule(KEY))
    if update is not None:
        value: nn.Module = encoder.get_submodule(TEXT.removeprefix("text_encoder."))
        with torch.no_grad():
            value.weight += full(update[TEXT])  # type: ignore[operator]
            key.weight += full(update[KEY])
    tokens = pipeline.tokenizer(
        prompts,
        padding="max_length",
        max_length=pipeline.tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    with torch.no_grad():
        return key(encoder(tokens)[0])


def objective(
    pipeline: Any, experts: Mapping[str, Update], samples: list[Sample], update: Update | None, config: MergeConfig
) -> float:
    """The docstring's formula, with the empty prompt's share in the safe ones."""

    def size(values: Tensor) -> float:
        return float(values.square().sum(-1).mean())

    def off(prompts: list[str], teacher: Update | None) -> float:
        return size(answers(pipeline, prompts, update) - answers(pipeline, prompts, teacher))

    unsafe = {c: [s.prompt for s in samples if s.group == f"unsafe/{c}"] for c in experts}
    norm = sum(
        size(answers(pipeline, prompts, experts[c]) - answers(pipeline, prompts, None)) for c, prompts in unsafe.items()
    ) / len(experts)
    apart = sum(off(prompts, experts[c]) for c, prompts in unsafe.items()) / len(experts)
    safe = off([s.prompt for s in samples if s.side == "safe"], None)
    silent = (1 - config.empty_share) * safe + config.empty_share * off([""], None)
    return (apart + config.distill_safe_weight * silent) / norm


def test_it_comes_nearer_to_the_experts_than_their_sum_and_than_nothing(
    tiny_pipeline: Any, experts: dict[str, Update], samples: list[Sample]
) -> None:
    config = MergeConfig(distill_steps=150, distill_learning_rate=0.02, distill_batch_size=6)
    start = summed(experts)
    found = distill(denoiser_for(tiny_pipeline), experts, start, samples, config, 0)
    before, after = (objective(tiny_pipeline, experts, samples, update, config) for update in (start, found))
    assert objective(tiny_pipeline, experts, samples, None, config) == pytest.approx(1, rel=1e-4)
    assert after < 0.5 * min(before, 1)
    # Ranks stay, and what sees more than the prompt is left as it was.
    assert list(found) == list(start) and all(len(a) == len(start[layer][0]) for layer, (a, _) in found.items())
    assert all(torch.equal(one, two) for one, two in zip(found[OTHER], start[OTHER], strict=True))
    assert not torch.equal(full(found[TEXT]), full(start[TEXT])) and not torch.equal(full(found[KEY]), full(start[KEY]))


def test_the_first_gradient_is_that_of_the_written_out_objective(
    tiny_pipeline: Any, experts: dict[str, Update], samples: list[Sample]
) -> None:
    """Adam's first step goes by the sign of each derivative: all of them are compared with finite differences."""
    config = MergeConfig(distill_steps=1, distill_learning_rate=1e-3, distill_batch_size=6, distill_safe_weight=0.7)
    start = summed(experts)
    found = distill(denoiser_for(tiny_pipeline), experts, start, samples, config, 0)
    checked = 0
    for layer in (TEXT, KEY):
        for part in (0, 1):
            moved = (found[layer][part] - start[layer][part]).flatten()
            for place in range(0, moved.numel(), moved.numel() // 5):
                slopes = []
                for step in (1e-2, -1e-2):
                    pair = [factor.clone() for factor in start[layer]]
                    pair[part].view(-1)[place] += step
                    changed = {**start, layer: (pair[0], pair[1])}
                    slopes.append(objective(tiny_pipeline, experts, samples, changed, config))
                slope = (slopes[0] - slopes[1]) / 2e-2
                if abs(slope) > 1e-3:
                    checked += 1
                    assert moved[place] == pytest.approx(-1e-3 if slope > 0 else 1e-3, rel=1e-2), (layer, part, place)
    assert checked >= 10


def test_one_expert_whose_safe_prompts_do_not_count_stays_itself(
    tiny_pipeline: Any, experts: dict[str, Update], samples: list[Sample]
) -> None:
    config = MergeConfig(distill_steps=20, distill_safe_weight=0.0, distill_batch_size=3)
    alone = {"violence": experts["violence"]}
    mine = [sample for sample in samples if sample.category == "violence"]
    found = distill(denoiser_for(tiny_pipeline), alone, experts["violence"], mine, config, 0)
    assert objective(tiny_pipeline, alone, mine, found, config) < 1e-6


def test_the_base_model_is_left_as_it_was_and_the_order_of_experts_leaves_no_trace(
    tiny_pipeline: Any, experts: dict[str, Update], samples: list[Sample]
) -> None:
    config = MergeConfig(distill_steps=4, distill_batch_size=2)
    before = answers(tiny_pipeline, ["a pistol"], None)
    turned = dict(reversed(experts.items()))
    torch.manual_seed(3)
    state = torch.get_rng_state()
    one, other = (
        distill(denoiser_for(tiny_pipeline), order, summed(experts), samples, config, 5) for order in (experts, turned)
    )
    another = distill(denoiser_for(tiny_pipeline), experts, summed(experts), samples, config, 6)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[layer][0], other[layer][0]) for layer in one)
    assert not torch.equal(one[TEXT][0], another[TEXT][0])
    assert torch.equal(answers(tiny_pipeline, ["a pistol"], None), before)
    for module in (tiny_pipeline.unet.get_submodule(KEY), tiny_pipeline.text_encoder):
        assert not any(child._forward_hooks for child in module.modules())


def test_experts_that_adapt_no_text_encoder_keep_the_least_squares(tiny_pipeline: Any, samples: list[Sample]) -> None:
    start = factors(3)
    found = distill(denoiser_for(tiny_pipeline), {c: factors(1) for c in CATEGORIES}, start, samples, MergeConfig(), 0)
    assert all(found[layer] is start[layer] for layer in start)


def test_an_embedding_that_no_layer_reads_is_fitted_itself(
    tiny_pipeline: Any, experts: dict[str, Update], samples: list[Sample]
) -> None:
    few = {category: {layer: expert[layer] for layer in (TEXT, OTHER)} for category, expert in experts.items()}
    config = MergeConfig(distill_steps=100, distill_learning_rate=0.02, distill_batch_size=6)
    found = distill(denoiser_for(tiny_pipeline), few, summed(few), samples, config, 0)
    networks = PromptNetworks(denoiser_for(tiny_pipeline), found)

    def off(update: Update | None) -> float:
        with networks.hooked():
            total = 0.0
            for category, expert in few.items():
                prompts = [s.prompt for s in samples if s.group == f"unsafe/{category}"]
                given, right = (networks.embed_all(prompts, one)["prompt_embeds"] for one in (update, expert))
                total += float((given - right).square().sum())
            return total

    assert off(found) < 0.5 * off(None)


def test_experts_of_another_base_model_are_refused(tiny_pipeline: Any, samples: list[Sample]) -> None:
    strange = {"text_encoder.encoder.layers.9.self_attn.v_proj": (32, 32)}
    experts = {category: factors(1, layers=strange) for category in CATEGORIES}
    with pytest.raises(
        RecipeError, match=r"9\.self_attn\.v_proj of the experts \(\d+ to \d+\) does not fit .*no such layer"
    ):
        distill(denoiser_for(tiny_pipeline), experts, experts["violence"], samples, MergeConfig(), 0)


def test_a_recipe_says_how_and_the_record_holds_it(
    tmp_path: Path, tiny_pipeline: Any, experts: dict[str, Update]
) -> None:
    tiny_pipeline.save_pretrained(tmp_path / "base")
    dataset = write_dataset(tmp_path / "data")
    folders = {category: tmp_path / category for category in experts}
    for category, folder in folders.items():
        write_adapter(folder, experts[category])
    recipe = Recipe(base_model=str(tmp_path / "base"))
    recipe.merge = MergeConfig(
        method="distill",
        rank=3,
        distill_steps=2,
        distill_batch_size=2,
        calibration_prompts=2,
        calibration_timesteps=[9],
    )
    (merged,) = merge_experts(recipe, folders, dataset, tmp_path / "out").values()
    record = json.loads((merged / "coprov2.json").read_text("utf8"))
    assert record["method"] == "distill" and record["rank"] == 3 and record["options"]["distill_steps"] == 2
    assert any(in_text_encoder(layer) for layer in load_lora(merged).layers)
    written = (merged / WEIGHTS_NAME).stat().st_mtime_ns
    merge_experts(recipe, folders, dataset, tmp_path / "out")
    assert (merged / WEIGHTS_NAME).stat().st_mtime_ns == written
    plain = {layer: full(product) for layer, product in load_lora(merged).folded().items()}
    # `gain` is a factor on what was fitted, and another number of steps is another merge.
    recipe.merge.gain = 2.0
    (louder,) = merge_experts(recipe, folders, dataset, tmp_path / "louder").values()
    for layer, product in load_lora(louder).folded().items():
        torch.testing.assert_close(full(product), 2 * plain[layer], rtol=1e-4, atol=1e-6)
    recipe.merge.gain, recipe.merge.distill_steps = 1.0, 5
    merge_experts(recipe, folders, dataset, tmp_path / "out")
    assert (merged / WEIGHTS_NAME).stat().st_mtime_ns != written
