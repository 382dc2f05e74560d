"""Adapters of other programs: read as peft and stock diffusers read them, or refused in one line; never in part."""

import json
import math

import pytest
import torch
from safetensors.torch import save_file

from tests.training.test_adapters import _trained
from training.adapters import WEIGHTS_NAME, AdapterError, checksum, load_lora, lora_layers, open_lora, write_adapter
from training.lora_formats import require_plain

LAYER = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
ENCODER = "encoder.layers.0.self_attn.k_proj"


def deltas(adapter):
    return {name: b @ a for name, (a, b) in adapter.folded().items()}


def pair(rank=3, width=16, outputs=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rank, width, generator=generator), torch.randn(outputs, rank, generator=generator)


def stock(pipeline, folder):
    """layer -> what a stock pipeline adds to it."""
    pipeline.load_lora_weights(str(folder))
    found = {}
    for name, network in (("", pipeline.unet), ("text_encoder.", pipeline.text_encoder)):
        for layer, module in network.named_modules():
            if getattr(module, "lora_A", None):
                found[f"{name}{layer}"] = module.get_delta_weight(module.active_adapters[0])
    return found


def assert_read_as_stock(pipeline, folder, layers=2):
    expected = stock(pipeline, folder)
    found = {name.replace(".text_model.", "."): delta for name, delta in deltas(load_lora(folder)).items()}
    assert found.keys() == expected.keys() and len(found) == layers
    for name, delta in found.items():
        assert delta.any()
        torch.testing.assert_close(delta, expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("prefix", ["", "text_model."])
def test_files_of_diffusers_older_scripts_are_read_as_stock_diffusers_reads_them(new_pipeline, tmp_path, prefix):
    (a, b), (c, d) = pair(), pair(2, seed=1)
    tensors = {
        f"unet.{LAYER}.lora.down.weight": a,
        f"unet.{LAYER}.lora.up.weight": b,
        f"text_encoder.{prefix}{ENCODER}.lora_linear_layer.down.weight": c,
        f"text_encoder.{prefix}{ENCODER}.lora_linear_layer.up.weight": d,
    }
    save_file(tensors, tmp_path / WEIGHTS_NAME)
    assert_read_as_stock(new_pipeline(), tmp_path)


def test_processors_of_older_still_are_read_too(new_pipeline, tmp_path):
    a, b = pair()
    key = f"unet.{LAYER.removesuffix('.to_k')}.processor.to_k_lora"
    save_file({f"{key}.down.weight": a, f"{key}.up.weight": b}, tmp_path / WEIGHTS_NAME)
    assert_read_as_stock(new_pipeline(), tmp_path, 1)


def kohya(alpha=1.5):
    names = [f"lora_unet_{LAYER.replace('.', '_')}", f"lora_te_text_model_{ENCODER.replace('.', '_')}"]
    tensors = {}
    for seed, name in enumerate(names):
        a, b = pair(3 + seed, seed=seed)
        tensors |= {f"{name}.lora_down.weight": a, f"{name}.lora_up.weight": b, f"{name}.alpha": torch.tensor(alpha)}
    return tensors


def test_files_of_kohyas_scripts_are_read_with_their_alpha(new_pipeline, tmp_path):
    tensors = kohya()
    save_file(tensors, tmp_path / "of_a_script.safetensors", metadata={"ss_network_dim": "3"})
    unet = {key: tensor for key, tensor in tensors.items() if key.startswith("lora_unet")}
    save_file(unet, tmp_path / WEIGHTS_NAME)
    # Stock diffusers has no way for an encoder's layer of another alpha than its rank; the numbers are kohya's.
    assert_read_as_stock(new_pipeline(), tmp_path, 1)
    (tmp_path / WEIGHTS_NAME).unlink()
    found = deltas(load_lora(tmp_path))
    name = f"text_encoder.text_model.{ENCODER}"
    assert found.keys() == {LAYER, name}
    te = f"lora_te_text_model_{ENCODER.replace('.', '_')}"
    expected = 1.5 / 4 * tensors[f"{te}.lora_up.weight"] @ tensors[f"{te}.lora_down.weight"]
    torch.testing.assert_close(found[name], expected)
    half = {key: tensor.half() for key, tensor in tensors.items()}
    save_file(half, tmp_path / "of_a_script.safetensors")
    assert open_lora(tmp_path).layers[LAYER][1].dtype == torch.float32


@pytest.mark.parametrize("alpha", [None, {LAYER: 5.0, f"text_encoder.text_model.{ENCODER}": 6.0}])
@pytest.mark.parametrize("prefix", ["", "text_model."])
def test_what_is_written_of_an_encoder_is_loaded_by_stock_diffusers_under_either_name(
    new_pipeline, tmp_path, prefix, alpha
):
    """Kohya's and older files name a module around the encoder that today's has no more."""
    other = f"text_encoder.{prefix}{ENCODER.replace('k_proj', 'v_proj')}"
    layers = {LAYER: pair(), f"text_encoder.{prefix}{ENCODER}": pair(2, seed=1), other: pair(4, seed=2)}
    told = alpha and {layer: alpha.get(layer.replace("er.enc", "er.text_model.enc"), 7.0) for layer in layers}
    write_adapter(tmp_path, layers, alpha=told)
    assert_read_as_stock(new_pipeline(), tmp_path, 3)


def test_sdxl_of_kohya_is_numbered_as_diffusers_numbers_it(tmp_path):
    name = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
    a, b = pair()
    tensors = {f"{name}.lora_down.weight": a, f"{name}.lora_up.weight": b, f"{name}.alpha": torch.tensor(3.0)}
    save_file(tensors, tmp_path / WEIGHTS_NAME)
    (layer,) = open_lora(tmp_path).layers
    assert layer == "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"


def test_flux_of_kohya_is_cut_into_its_projections(tmp_path):
    a, b = pair(4, 3072, 3 * 3072)
    name = "lora_unet_double_blocks_0_img_attn_qkv"
    tensors = {f"{name}.lora_down.weight": a, f"{name}.lora_up.weight": b, f"{name}.alpha": torch.tensor(2.0)}
    save_file(tensors, tmp_path / WEIGHTS_NAME)
    adapter = load_lora(tmp_path)
    assert adapter.component == "transformer"
    assert list(adapter.layers) == [f"transformer_blocks.0.attn.to_{kind}" for kind in "kqv"]
    for place, kind in enumerate("qkv"):
        _, up = adapter.folded_layer(f"transformer_blocks.0.attn.to_{kind}")
        torch.testing.assert_close(up, b[3072 * place : 3072 * (place + 1)] / 2)


UNKNOWN = {
    "dora": ({"lora_unet_down_blocks_0_x.dora_scale": (4, 1)}, "lora_unet_down_blocks_0_x.dora_scale"),
    "loha": ({"lora_unet_down_blocks_0_x.hada_w1_a": (4, 3)}, "hada_w1_a"),
    "bias": ({f"unet.{LAYER}.lora_B.bias": (4,)}, r"lora_B\.bias"),
    "no side": ({f"unet.{LAYER}.lora.down.weight": (3, 4)}, "has A alone, expected A and B"),
    "alpha alone": ({"lora_unet_down_blocks_0_x.alpha": ()}, "has alpha alone"),
    "no network": ({"x.lora.down.weight": (3, 4), "x.lora.up.weight": (5, 3)}, r"tensor 'x\.lora_A\.weight', expected"),
    "sd3": (
        {"lora_unet_joint_blocks_0_x.lora_down.weight": (3, 4), "lora_unet_joint_blocks_0_x.lora_up.weight": (5, 3)},
        "lora_unet_joint_blocks_0_x.lora_down.weight' is of no network",
    ),
    "flux": (
        {"lora_unet_double_blocks_0_x.lora_down.weight": (3, 4), "lora_unet_double_blocks_0_x.lora_up.weight": (5, 3)},
        "cannot be converted by diffusers",
    ),
    "two numberings": (
        {
            f"lora_unet_{block}_transformer_blocks_0_attn2_to_k.lora_{side}.weight": shape
            for block in ("input_blocks_4_1", "down_blocks_0_attentions_0")
            for side, shape in (("down", (3, 4)), ("up", (5, 3)))
        },
        "converters leave some layers out",
    ),
    "convolution": (
        {"unet.x.lora.down.weight": (3, 4, 1, 1), "unet.x.lora.up.weight": (5, 3, 1, 1)},
        r"A of \[3, 4, 1, 1\] and B",
    ),
    "nothing": ({}, "holds no layer"),
}


@pytest.mark.parametrize("what", UNKNOWN)
def test_files_that_cannot_be_read_whole_are_refused_with_their_first_key(tmp_path, what):
    shapes, message = UNKNOWN[what]
    save_file({key: torch.ones(shape) for key, shape in shapes.items()}, tmp_path / WEIGHTS_NAME)
    with pytest.raises(AdapterError, match=rf"^[^\n]*{message}[^\n]*$"):
        open_lora(tmp_path)


@pytest.mark.parametrize("alphas", [{}, {"attn2.to_v": 7}])
def test_rank_stabilised_lora_is_scaled_as_peft_scales_it(new_pipeline, tmp_path, alphas):
    options = {"rank_pattern": {"attn2.to_v": 2}, "alpha_pattern": alphas, "use_rslora": True}
    model = _trained(new_pipeline().unet, **options)
    model.save_pretrained(tmp_path)
    adapter = load_lora(tmp_path)
    for name, (_, _, scaling) in lora_layers(model).items():
        assert adapter.scaling(name) == pytest.approx(scaling)
        assert not math.isclose(scaling, 10 / adapter.rank(name))
    # So says diffusers' header too.
    header = {"unet.r": 4, "unet.lora_alpha": 6, "unet.use_rslora": True, "unet.init_lora_weights": "gaussian"}
    a, b = pair(4)
    tensors = {f"unet.{LAYER}.lora_A.weight": a, f"unet.{LAYER}.lora_B.weight": b}
    save_file(tensors, tmp_path / WEIGHTS_NAME, metadata={"lora_adapter_metadata": json.dumps(header)})
    assert open_lora(tmp_path).scaling(LAYER) == pytest.approx(3.0)


NOT_PLAIN = [
    *({name: value} for name, value in {
        "use_dora": True, "lora_bias": True, "modules_to_save": ["conv_in"], "megatron_config": {"x": 1},
        "layer_replication": [[0, 2]], "trainable_token_indices": [1], "target_parameters": ["w"],
        "bias": "all", "peft_type": "LOHA", "use_rslora": "yes",
    }.items()),
    *({"init_lora_weights": how} for how in ("pissa", "pissa_niter_16", "olora", "corda", "loftq", "lora_ga", ["x"])),
]  # fmt: skip


@pytest.mark.parametrize("changes", NOT_PLAIN, ids=str)
def test_what_is_no_plain_pair_of_factors_is_refused(new_pipeline, tmp_path, changes):
    _trained(new_pipeline().unet).save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    config = json.loads(path.read_text("utf8"))
    assert open_lora(tmp_path).layers
    path.write_text(json.dumps(config | changes), "utf8")
    (name,) = changes
    with pytest.raises(AdapterError, match=rf"^{path}: {name}: found [^\n]*$"):
        open_lora(tmp_path)


@pytest.mark.parametrize("how", [True, False, None, "gaussian", "eva", "orthogonal", "mica"])
def test_starts_that_leave_the_base_alone_are_taken(how):
    require_plain({"init_lora_weights": how, "use_rslora": False, "bias": "none", "peft_type": "LORA"}, "x")


def test_configs_that_are_damaged_are_named(new_pipeline, tmp_path):
    _trained(new_pipeline().unet).save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    for text in ("[" * 100_000, '{"lora_alpha": ' + "[" * 100_000, "{", "3"):
        path.write_text(text)
        with pytest.raises(AdapterError, match=rf"^{path}: [^\n]*$"):
            open_lora(tmp_path)


def test_an_alpha_that_changes_makes_another_adapter(new_pipeline, tmp_path):
    _trained(new_pipeline().unet).save_pretrained(tmp_path)
    before = checksum(tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf8")) | {"lora_alpha": 3}))
    assert checksum(tmp_path) != before


def test_a_transformer_in_pefts_files_is_told_by_its_class_or_its_layers(tmp_path):
    for base, layer, component in (
        (None, "transformer_blocks.0.attn.to_q", "transformer"),
        (None, "down_blocks.0.to_q", "unet"),
        ("FluxTransformer2DModel", "x.to_q", "transformer"),
        ("UNet2DConditionModel", "transformer_blocks.0.to_q", "unet"),
        ("CLIPTextModel", "x.to_q", None),
    ):
        a, b = pair()
        name = f"base_model.model.{layer}"
        save_file({f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}, tmp_path / "adapter_model.safetensors")
        config = {"lora_alpha": 3, "auto_mapping": base and {"base_model_class": base}}
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
        if component is None:
            with pytest.raises(AdapterError, match="an adapter of CLIPTextModel, expected one of a UNet"):
                open_lora(tmp_path)
        else:
            assert open_lora(tmp_path).component == component


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.int8, torch.bool, torch.complex64])
@pytest.mark.parametrize("key", ["lora_A", "lora.down"])
def test_odd_numbers_are_refused(tmp_path, dtype, key):
    a, b = pair()
    other = {"lora_A": "lora_B", "lora.down": "lora.up"}[key]
    tensors = {f"unet.x.{key}.weight": a.to(dtype), f"unet.x.{other}.weight": b}
    save_file(tensors, tmp_path / WEIGHTS_NAME)
    with pytest.raises(AdapterError, match=r"layer \S+: A is of \w+, expected one of F64, F32, F16, BF16; save it"):
        open_lora(tmp_path)


@pytest.mark.parametrize(
    "layer", ["forward", "x.forward.to_q", "x..y", "x.", "../x", "x/y", "a b", "x[0", "train", "x.to"]
)
def test_names_that_no_layer_has_are_refused(tmp_path, layer):
    a, b = pair()
    save_file({f"unet.{layer}.lora_A.weight": a, f"unet.{layer}.lora_B.weight": b}, tmp_path / WEIGHTS_NAME)
    with pytest.raises(AdapterError, match="cannot be the name of a layer"):
        open_lora(tmp_path)


@pytest.mark.parametrize(("width", "outputs"), [(0, 4), (4, 0)])
def test_layers_without_a_side_are_refused(tmp_path, width, outputs):
    write_adapter(tmp_path, {"x": (torch.ones(2, width), torch.ones(outputs, 2))})
    with pytest.raises(AdapterError, match=r"layer x: A of \[2, \d\] and B of \[\d, 2\], expected"):
        open_lora(tmp_path)


def test_headers_that_are_absurd_are_refused(tmp_path):
    deep = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
    for content in (len(deep).to_bytes(8, "little") + deep, (2**62).to_bytes(8, "little") + b"{}"):
        (tmp_path / WEIGHTS_NAME).write_bytes(content)
        with pytest.raises(AdapterError, match=r"^[^\n]*not a whole safetensors file[^\n]*$"):
            open_lora(tmp_path)
    a, b = pair()
    tensors = {"unet.x.lora_A.weight": a, "unet.x.lora_B.weight": b}
    save_file(tensors, tmp_path / WEIGHTS_NAME, metadata={"lora_adapter_metadata": "[" * 100_000})
    with pytest.raises(AdapterError, match="of its header: not JSON"):
        open_lora(tmp_path)
