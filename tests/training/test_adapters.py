"""Adapter files: stock diffusers reads them to the same network, whatever alpha is; same tensors, same bytes."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from training.adapters import (
    WEIGHTS_NAME,
    AdapterError,
    checksum,
    load_into,
    load_lora,
    lora_layers,
    open_lora,
    save_lora,
    sorted_layers,
    write_adapter,
    write_layers,
)

KV = ["attn2.to_k", "attn2.to_v"]
ALL = ["to_q", "to_k", "to_v", "to_out.0"]


def _trained(unet: nn.Module, **changes: object) -> nn.Module:
    """A peft model whose B is not zero."""
    model = get_peft_model(unet, LoraConfig(**{"r": 4, "lora_alpha": 10, "target_modules": KV, **changes}))
    generator = torch.Generator().manual_seed(0)
    for _, b, _ in lora_layers(model).values():
        nn.init.normal_(b.weight, std=0.5, generator=generator)
    return model.eval()


def _inputs() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        "sample": torch.randn(2, 4, 8, 8, generator=generator),
        "timestep": torch.tensor([5, 800]),
        "encoder_hidden_states": torch.randn(2, 24, 16, generator=generator),
    }


@pytest.mark.parametrize("targets", [KV, ALL])
@pytest.mark.parametrize("alpha", [4, 10])
def test_stock_diffusers_draws_the_same_picture(
    new_pipeline: Callable, tmp_path: Path, targets: list[str], alpha: int
) -> None:
    model = _trained(new_pipeline().unet, target_modules=targets, lora_alpha=alpha)
    save_lora(tmp_path, model)
    drawn = {}
    for name in ("peft", "stock", "base"):
        pipeline = new_pipeline()
        if name == "stock":
            pipeline.load_lora_weights(str(tmp_path))
        elif name == "peft":
            pipeline.unet = model.get_base_model()
        generator = torch.Generator().manual_seed(1)
        drawn[name] = torch.from_numpy(
            pipeline("a cat", num_inference_steps=3, generator=generator, height=16, width=16, output_type="np").images
        )
    assert torch.equal(drawn["stock"], drawn["peft"])
    assert not torch.allclose(drawn["stock"], drawn["base"], atol=1e-3)


def test_layers_of_different_ranks_and_alphas_reload_in_stock_diffusers(new_pipeline: Callable, tmp_path: Path) -> None:
    model = _trained(new_pipeline().unet, rank_pattern={"attn2.to_v": 2}, alpha_pattern={"attn2.to_v": 7})
    save_lora(tmp_path, model)
    pipeline = new_pipeline()
    pipeline.load_lora_weights(str(tmp_path))
    with torch.no_grad():
        assert torch.equal(pipeline.unet(**_inputs()).sample, model(**_inputs()).sample)
    adapter = load_lora(tmp_path)
    assert {adapter.rank(name) for name in adapter.layers} == {2, 4}
    assert {adapter.scaling(name) for name in adapter.layers} == {2.5, 3.5}


def test_folded_layers_add_the_same_weight(new_pipeline: Callable, tmp_path: Path) -> None:
    model = _trained(new_pipeline().unet)
    save_lora(tmp_path, model)
    adapter = load_lora(tmp_path)
    write_adapter(tmp_path / "folded", adapter.folded())
    folded = load_lora(tmp_path / "folded")
    for name in adapter.layers:
        a, b = adapter.layers[name]
        fa, fb = folded.layers[name]
        assert folded.scaling(name) == 1.0
        torch.testing.assert_close(fb @ fa, adapter.scaling(name) * (b @ a))


def test_the_same_tensors_give_the_same_bytes(tmp_path: Path) -> None:
    metadata = {"one": "1", "two": "2", "three": "3", "four": "4"}
    # safetensors itself orders the metadata anew in each call.
    for turn in range(8):
        names = ["x.a", "x.b"] if turn % 2 else ["x.b", "x.a"]
        layers = {name: (torch.ones(2, 3), torch.ones(4, 2)) for name in names}
        write_adapter(tmp_path / str(turn), layers, metadata, alpha=5)
        metadata = dict(reversed(metadata.items()))
    assert len({checksum(tmp_path / str(turn)) for turn in range(8)}) == 1
    assert [path.name for path in (tmp_path / "0").iterdir()] == [WEIGHTS_NAME]


def test_the_file_names_alpha_and_keeps_free_metadata(tmp_path: Path) -> None:
    write_adapter(tmp_path, {"x.to_k": (torch.ones(2, 3), torch.ones(4, 2))}, {"coprov2": "violence"}, alpha=5)
    with safe_open(tmp_path / WEIGHTS_NAME, "pt") as file:
        config = json.loads(file.metadata()["lora_adapter_metadata"])
    assert config["unet.r"] == 2 and config["unet.lora_alpha"] == 5
    adapter = load_lora(tmp_path)
    assert adapter.metadata == {"coprov2": "violence"}
    assert adapter.alpha == {"x.to_k": 5.0}


def test_a_peft_folder_is_read_as_well(new_pipeline: Callable, tmp_path: Path) -> None:
    model = _trained(new_pipeline().unet, rank_pattern={"attn2.to_v": 2}, alpha_pattern={"attn2.to_v": 7})
    model.save_pretrained(tmp_path / "peft")
    save_lora(tmp_path / "diffusers", model)
    peft, diffusers = load_lora(tmp_path / "peft"), load_lora(tmp_path / "diffusers")
    assert peft.alpha == diffusers.alpha
    assert peft.layers.keys() == diffusers.layers.keys()
    for name, (a, b) in peft.layers.items():
        assert torch.equal(a, diffusers.layers[name][0]) and torch.equal(b, diffusers.layers[name][1])


def test_a_file_of_stock_diffusers_without_alpha_has_scaling_1(new_pipeline: Callable, tmp_path: Path) -> None:
    pipeline = new_pipeline()
    name = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
    state = {f"{name}.lora_A.weight": torch.ones(3, 16), f"{name}.lora_B.weight": torch.ones(16, 3)}
    pipeline.save_lora_weights(str(tmp_path), unet_lora_layers=state)
    assert load_lora(tmp_path).scaling(name) == 1.0


def test_load_into_restores_the_network(new_pipeline: Callable, tmp_path: Path) -> None:
    model = _trained(new_pipeline().unet)
    save_lora(tmp_path, model)
    other = get_peft_model(new_pipeline().unet, LoraConfig(r=4, lora_alpha=10, target_modules=KV)).eval()
    load_into(other, load_lora(tmp_path))
    with torch.no_grad():
        assert torch.equal(other(**_inputs()).sample, model(**_inputs()).sample)


def test_what_does_not_fit_is_refused(new_pipeline: Callable, tmp_path: Path) -> None:
    save_lora(tmp_path, _trained(new_pipeline().unet))
    for config in (LoraConfig(r=4, lora_alpha=10, target_modules=ALL), LoraConfig(r=4, target_modules=KV)):
        with pytest.raises(AdapterError):
            load_into(get_peft_model(new_pipeline().unet, config), load_lora(tmp_path))
    with pytest.raises(AdapterError, match="different ranks"):
        write_adapter(tmp_path, {"x": (torch.ones(2, 3), torch.ones(4, 3))})
    with pytest.raises(AdapterError, match="at least one layer"):
        write_adapter(tmp_path, {})
    with pytest.raises(AdapterError, match=f"no {WEIGHTS_NAME}"):
        load_lora(tmp_path / "nowhere")
    with pytest.raises(AdapterError, match="no LoRA layer"):
        save_lora(tmp_path, new_pipeline().unet)


def test_layers_written_one_by_one_give_the_same_bytes(tmp_path):
    layers = {
        "unet_block.to_q": (torch.randn(3, 5), torch.randn(4, 3)),
        "a.to_k": (torch.randn(2, 6), torch.randn(7, 2)),
        "text_encoder.layers.0.q_proj": (torch.randn(2, 5), torch.randn(4, 2)),
    }
    whole = write_adapter(tmp_path / "whole", layers, {"made": "by a test"})
    streamed = write_layers(
        tmp_path / "streamed", ((name, layers[name]) for name in sorted_layers(layers)), {"made": "by a test"}
    )
    assert streamed.read_bytes() == whole.read_bytes()
    assert [path.name for path in streamed.parent.iterdir()] == [WEIGHTS_NAME]
    with pytest.raises(AdapterError, match=r"in float32, found torch\.float16"):
        write_layers(tmp_path / "half", [("a", (torch.zeros(1, 2).half(), torch.zeros(2, 1).half()))])
    with pytest.raises(AdapterError, match="at least one layer of the denoiser"):
        write_layers(tmp_path / "none", [])
    assert not list((tmp_path / "half").iterdir())


def test_an_open_adapter_reads_what_a_loaded_one_holds(tmp_path):
    layers = {"a.to_k": (torch.randn(2, 6), torch.randn(7, 2)), "b.to_k": (torch.randn(3, 6), torch.randn(7, 3))}
    write_adapter(tmp_path, layers, alpha=6.0)
    lazy, held = open_lora(tmp_path), load_lora(tmp_path)
    assert list(lazy.layers) == list(held.layers) == list(layers)
    assert lazy.alpha == held.alpha
    for name in layers:
        for one, other in zip(lazy.folded_layer(name), held.folded()[name], strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("a", "b", "header", "message"),
    [
        ((4, 6), (5, 3), {}, r"A of \[4, 6\] and B of \[5, 3\], expected"),
        ((0, 6), (5, 0), {}, "with r from 1"),
        ((4, 6, 3, 3), (5, 4, 1, 1), {}, "expected .r, in. and .out, r."),
        ((4,), (5,), {}, "expected .r, in. and .out, r."),
        ((4, 6), (5, 4), {"lora_adapter_metadata": "{x"}, "of its header: not JSON"),
        ((4, 6), (5, 4), {"lora_adapter_metadata": "[1]"}, "found list, expected a JSON object"),
        ((4, 6), (5, 4), {"lora_adapter_metadata": '{"unet.lora_alpha": "much"}'}, "its alpha cannot be read"),
        ((4, 6), (5, 4), {"lora_adapter_metadata": '{"unet.lora_alpha": NaN}'}, "found the alpha nan"),
        ((4, 6), (5, 4), {"lora_adapter_metadata": '{"unet.alpha_pattern": {"^(": 1}}'}, "its alpha cannot be read"),
    ],
)
def test_files_that_are_no_adapter_are_named(tmp_path, a, b, header, message):
    tensors = {"unet.to_q.lora_A.weight": torch.zeros(a), "unet.to_q.lora_B.weight": torch.zeros(b)}
    save_file(tensors, tmp_path / WEIGHTS_NAME, metadata=header)
    with pytest.raises(AdapterError, match=message):
        open_lora(tmp_path)


def test_damaged_files_are_named(tmp_path):
    path = write_adapter(tmp_path, {"to_q": (torch.zeros(2, 6), torch.zeros(5, 2))})
    for content in (path.read_bytes()[:-8], b"no safetensors at all", b""):
        path.write_bytes(content)
        with pytest.raises(AdapterError, match="not a whole safetensors file"):
            open_lora(tmp_path)
    path.rename(tmp_path / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match=r"adapter_config\.json: no such file"):
        open_lora(tmp_path)


def test_scaling_a_half_precision_layer_does_not_overflow(tmp_path):
    layers = {"to_q": (torch.ones(2, 6).half(), torch.full((5, 2), 4e4).half())}
    write_adapter(tmp_path, layers, alpha=8)
    _, b = open_lora(tmp_path).folded_layer("to_q")
    assert b.eq(4e4 * 4).all()
