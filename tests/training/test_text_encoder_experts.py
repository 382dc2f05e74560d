"""The recipe's way with trained text encoders: experts, merges by every method, the joint tuning, stock diffusers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import save_file
from torch import Tensor, nn

from recipes import MergeConfig, Recipe, RecipeError
from recipes.check import MERGE_METHODS
from tests.training.merge_world import CATEGORIES, factors, write_dataset
from training.adapters import (
    COMPONENTS,
    WEIGHTS_NAME,
    AdapterError,
    checksum,
    in_text_encoder,
    load_lora,
    write_adapter,
)
from training.calibration import adapted_networks, base_forward, calibrate
from training.calibration_samples import choose_samples
from training.denoisers import denoiser_for
from training.dry_run import dry_run
from training.expert import Base, expert_config, train_expert
from training.experts import train_experts
from training.low_rank import Factors, full
from training.merge import merge_experts
from training.pairs import read_split

Run = tuple[Recipe, Path, Path]
# One layer of CLIP in the base model of `run_folder`.
TEXT_LAYERS = [f"text_encoder.encoder.layers.0.self_attn.{name}_proj" for name in ("k", "out", "q", "v")]


@pytest.fixture
def run(run_folder: Run) -> Run:
    recipe, dataset, out = run_folder
    recipe.train.train_text_encoder = True
    recipe.train.categories = ["violence", "hate"]
    recipe.train.batch_size, recipe.train.max_steps = 1, 2
    # Rank 2 and alpha 4 are the fixture's.
    return recipe, dataset, out


def _deltas(folder: Path) -> dict[str, Tensor]:
    return {layer: full(product) for layer, product in load_lora(folder).folded().items()}


def _stock_deltas(recipe: Recipe, folder: Path) -> dict[str, Tensor]:
    """What an adapter adds to the weights of the base model in stock diffusers."""
    pipeline: Any = DiffusionPipeline.from_pretrained(recipe.base_model)
    pipeline.load_lora_weights(str(folder))
    found = {}
    for component, network in pipeline.components.items():
        prefix = "" if component in COMPONENTS else f"{component}."
        for name, module in network.named_modules() if isinstance(network, nn.Module) else ():
            if isinstance(module, BaseTunerLayer):
                found[prefix + name] = module.get_delta_weight(module.active_adapters[0]).detach()
    return found


def test_an_experts_bytes_do_not_depend_on_which_others_are_trained_and_the_base_is_left_clean(run: Run) -> None:
    recipe, dataset, out = run
    train_experts(recipe, dataset, out / "all")
    recipe.train.categories = ["hate"]
    data = read_split(dataset, "train", out / "cache")
    base = Base(recipe, data, out / "one")
    networks = {"unet": base.denoiser.model, **base.denoiser.text_encoders}
    before = {
        name: {key: value.clone() for key, value in module.state_dict().items()} for name, module in networks.items()
    }
    train_expert(recipe, base, "hate", out / "one", lambda _: None)
    assert checksum(out / "all" / "experts" / "hate") == checksum(out / "one" / "experts" / "hate")
    for name, module in networks.items():
        after = module.state_dict()
        assert after.keys() == before[name].keys() and not hasattr(module, "peft_config")
        assert all(torch.equal(value, before[name][key]) for key, value in after.items())
    layers = load_lora(out / "one" / "experts" / "hate").layers
    assert [layer for layer in layers if in_text_encoder(layer)] == TEXT_LAYERS and len(layers) > len(TEXT_LAYERS)
    # B has left its zeros.
    assert all(layers[layer][1].any() for layer in TEXT_LAYERS)


@pytest.mark.slow
def test_workers_train_the_same_experts(run: Run) -> None:
    recipe, dataset, out = run
    train_experts(recipe, dataset, out / "one")
    recipe.train.workers = 2
    train_experts(recipe, dataset, out / "two")
    for category in recipe.train.categories:
        assert checksum(out / "two" / "experts" / category) == checksum(out / "one" / "experts" / category)


def test_sample_pictures_are_drawn_with_the_trained_encoders_and_change_nothing(run: Run) -> None:
    recipe, dataset, out = run
    recipe.train.categories = ["hate"]
    recipe.render.steps, recipe.render.height, recipe.render.width = 2, 16, 16
    train_experts(recipe, dataset, out / "plain")
    recipe.train.sample_steps, recipe.train.sample_pairs = 1, 1
    train_experts(recipe, dataset, out / "sampled")
    assert len(list((out / "sampled" / "experts" / "hate" / "samples").iterdir())) == 3
    assert checksum(out / "sampled" / "experts" / "hate") == checksum(out / "plain" / "experts" / "hate")


def test_a_dry_run_counts_the_encoders_in(run: Run) -> None:
    recipe, dataset, _ = run
    assert dry_run(recipe, dataset).seconds_a_step > 0


def test_the_recipe_hands_the_option_on_and_it_is_off_by_default(tmp_path: Path) -> None:
    recipe = Recipe()
    assert not expert_config(recipe, "hate", tmp_path).train_text_encoder
    recipe.train.train_text_encoder = True
    assert expert_config(recipe, "hate", tmp_path).train_text_encoder


def test_every_merge_takes_the_encoders_layers_along_and_stock_diffusers_loads_them(run: Run) -> None:
    recipe, dataset, out = run
    experts = train_experts(recipe, dataset, out)
    recipe.merge.method = "sum"
    recipe.merge.compare = [*sorted(set(MERGE_METHODS) - {"sum"}), "comerge:inputs=own", "svd:rank=3"]
    recipe.merge.calibration_prompts, recipe.merge.calibration_timesteps = 2, [300, 600]
    recipe.merge.distill_steps, recipe.merge.distill_batch_size = 3, 2
    merged = merge_experts(recipe, experts, dataset, out)
    assert len(merged) == len(MERGE_METHODS) + 2
    singles = [_deltas(folder) for folder in experts.values()]
    for method, folder in merged.items():
        deltas, stock = _deltas(folder), _stock_deltas(recipe, folder)
        assert set(deltas) == set(stock) == set(singles[0]) and set(TEXT_LAYERS) <= set(deltas)
        for layer, delta in deltas.items():
            torch.testing.assert_close(stock[layer], delta, rtol=1e-4, atol=1e-7)
        assert any(deltas[layer].any() for layer in TEXT_LAYERS), method
    for layer, delta in _deltas(merged["sum"]).items():
        torch.testing.assert_close(delta, singles[0][layer] + singles[1][layer], rtol=1e-4, atol=1e-7)


def test_the_encoders_layers_are_calibrated_on_what_they_see(tmp_path: Path, tiny_pipeline: Any) -> None:
    """Gram matrices of the encoder's inputs, written out; with an expert switched on, its layers reach the UNet."""
    denoiser = denoiser_for(tiny_pipeline)
    width = tiny_pipeline.text_encoder.config.hidden_size
    layers = {"text_encoder.encoder.layers.0.self_attn.v_proj": (width, width)}
    layers |= {"down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k": (128, 96)}
    text, key = layers
    experts: dict[str, dict[str, Factors]] = {
        category: factors(seed, layers=layers) for seed, category in enumerate(CATEGORIES)
    }
    write_adapter(tmp_path / "expert", experts["violence"])
    samples = choose_samples(write_dataset(tmp_path / "dataset"), CATEGORIES, 2, 0, False)
    network = adapted_networks(denoiser, load_lora(tmp_path / "expert"))
    ran: list[int] = []
    forward = base_forward(denoiser, 0, "noise")

    def counted(batch: Any, timestep: int) -> None:
        ran.append(timestep)
        forward(batch, timestep)

    found = {
        inputs: calibrate(
            network, counted, experts, samples, MergeConfig(inputs=inputs, calibration_timesteps=[300, 600])
        )
        for inputs in ("base", "own")
    }
    # Both layers see nothing but the prompt.
    assert set(ran) == {300}
    for group in ("safe", "unsafe/violence"):
        prompts = [sample.prompt for sample in samples if sample.group == group]
        seen: list[Tensor] = []
        module: nn.Module = tiny_pipeline.text_encoder.get_submodule(text.removeprefix("text_encoder."))
        hook = module.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
        denoiser.encode_prompts(prompts)
        hook.remove()
        rows = seen[0].double().flatten(0, -2)
        for calibration in found.values():
            torch.testing.assert_close(calibration.grams[text][group], rows.T @ rows / len(rows), rtol=1e-5, atol=1e-5)
    grams = [found[inputs].grams[key]["unsafe/violence"] for inputs in ("base", "own")]
    assert not torch.allclose(*grams, rtol=1e-3)


def test_an_adapter_of_the_denoiser_alone_is_calibrated_there_alone(tmp_path: Path, tiny_pipeline: Any) -> None:
    write_adapter(tmp_path, factors(0))
    denoiser = denoiser_for(tiny_pipeline)
    assert adapted_networks(denoiser, load_lora(tmp_path)) is denoiser.model and not denoiser.text_encoders


def test_a_merge_is_tuned_with_its_encoders(run: Run) -> None:
    recipe, dataset, out = run
    experts = train_experts(recipe, dataset, out)
    recipe.merge.method, recipe.merge.compare = "sum", ["sum:gain=1"]
    recipe.merge.rank, recipe.merge.tune_steps, recipe.train.save_steps = 3, 2, 1
    merged = merge_experts(recipe, experts, dataset, out)
    before, after = _deltas(merged["sum-gain-1"]), _deltas(merged["sum"])
    assert set(before) == set(after) and set(TEXT_LAYERS) <= set(after)
    for layer, delta in before.items():
        assert 0 < (after[layer] - delta).norm() / delta.norm() < 10, layer


@pytest.mark.parametrize(("family", "encoders"), [("sdxl", 2), ("sd3", 2), ("flux", 1)])
def test_the_other_families_go_all_the_way(run: Run, folders: dict[str, Path], family: str, encoders: int) -> None:
    recipe, dataset, out = run
    recipe.base_model, recipe.train.max_steps = str(folders[family]), 1
    recipe.merge.method, recipe.merge.rank, recipe.merge.tune_steps = "least_squares", 3, 1
    recipe.merge.calibration_prompts, recipe.merge.calibration_timesteps = 1, [500]
    recipe.merge.distill_steps, recipe.merge.compare = 2, ["distill", "least_squares:gain=1"]
    folders = merge_experts(recipe, train_experts(recipe, dataset, out), dataset, out)
    for folder in (folders["least_squares"], folders["distill"]):
        deltas, stock = _deltas(folder), _stock_deltas(recipe, folder)
        assert set(deltas) == set(stock)
        assert len({layer.partition(".")[0] for layer in deltas if in_text_encoder(layer)}) == encoders
        for layer, delta in deltas.items():
            torch.testing.assert_close(stock[layer], delta, rtol=1e-4, atol=1e-7)
    # Fitting moves every encoder from the least squares that it starts from.
    start, fitted = _deltas(folders["least_squares-gain-1"]), _deltas(folders["distill"])
    moved = {layer.partition(".")[0] for layer in fitted if not torch.equal(fitted[layer], start[layer])}
    assert sum(in_text_encoder(f"{name}.x") for name in moved) == encoders


def test_experts_of_the_denoiser_alone_are_tuned_without_the_encoders(run: Run) -> None:
    recipe, dataset, out = run
    recipe.train.train_text_encoder = False
    experts = train_experts(recipe, dataset, out)
    recipe.merge.method, recipe.merge.tune_steps, recipe.train.train_text_encoder = "sum", 1, True
    assert not any(
        in_text_encoder(layer) for layer in load_lora(merge_experts(recipe, experts, dataset, out)["sum"]).layers
    )


def test_tuning_a_merge_without_the_encoders_that_it_has_is_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, dataset, out = run
    for seed, category in enumerate(recipe.train.categories):
        write_adapter(out / category, factors(seed, layers={TEXT_LAYERS[0]: (16, 16), "x.to_k": (16, 16)}))
    recipe.merge.method, recipe.merge.tune_steps, recipe.train.train_text_encoder = "sum", 1, False
    experts = {category: out / category for category in recipe.train.categories}
    with pytest.raises(RecipeError, match=r"^merge sum: tune_steps: .*train\.train_text_encoder is false; [^\n]*$"):
        merge_experts(recipe, experts, dataset, out)
    write_adapter(out / "hate", factors(1, layers={"x.to_k": (16, 16)}))
    with pytest.raises(RecipeError, match=f"differ in layer {TEXT_LAYERS[0]}: .*not adapted"):
        merge_experts(recipe, experts, dataset, out)


@pytest.mark.parametrize("component", ["unet", "transformer"])
def test_layers_of_encoders_are_written_beside_those_of_a_denoiser_each_with_its_alpha(
    tmp_path: Path, component: str
) -> None:
    names = ["text_encoder.a.q_proj", "text_encoder_2.a.q_proj", "a.to_q"]
    layers = {name: (torch.full((rank, 3), float(rank)), torch.ones(4, rank)) for rank, name in enumerate(names, 1)}
    alpha = dict(zip(names, (5.0, 6.0, 7.5), strict=True))
    write_adapter(tmp_path, layers, alpha=alpha, component=component)
    read = load_lora(tmp_path)
    assert read.alpha == alpha and read.component == component
    assert {name: read.rank(name) for name in names} == {name: rank for rank, name in enumerate(names, 1)}
    with pytest.raises(AdapterError, match="at least one layer of the denoiser"):
        write_adapter(tmp_path, {name: layers[name] for name in names[:2]})


def test_a_file_of_encoders_alone_or_of_a_third_encoder_is_refused(tmp_path: Path) -> None:
    def refused(encoder: str) -> str:
        tensors = {f"{encoder}.y.lora_{side}.weight": torch.ones(2, 2) for side in "AB"}
        save_file(tensors, tmp_path / WEIGHTS_NAME)
        with pytest.raises(AdapterError) as error:
            load_lora(tmp_path)
        return str(error.value)

    assert "layers of text encoders alone, expected unet. or transformer. beside them" in refused("text_encoder")
    assert "tensor 'text_encoder_3.y.lora_A.weight', expected unet. or transformer." in refused("text_encoder_3")
