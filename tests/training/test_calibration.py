"""Calibration: sums over portions are sums over everything, and they are of what the layers really see."""

import hashlib
import io
import itertools

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from diffusers import SD3Transformer2DModel
from PIL import Image
from torch import nn

from recipes import MergeConfig, RecipeError
from tests.training.merge_world import CATEGORIES, LAYERS, factors, write_dataset
from tests.training.test_comerge import brute_force
from training import comerge
from training.calibration import SECONDS, base_forward, calibrate, calibration_timesteps, see_prompt_alone
from training.calibration_samples import Sample, choose_samples
from training.comerge import Statistics, activations
from training.denoisers import denoiser_for
from training.low_rank import full


class Toy(nn.Module):
    """Two layers; `third` is fed what `first` is."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.third = nn.Linear(4, 5), nn.Linear(5, 3), nn.Linear(4, 2)

    def forward(self, x):
        return self.second(self.first(x).tanh()).sum() + self.third(x).sum()


TOY_LAYERS = {"first": (4, 5), "second": (5, 3), "third": (4, 2)}


def toy_experts():
    return {category: factors(seed, 2, TOY_LAYERS) for seed, category in enumerate(CATEGORIES)}


def toy_samples(count=5):
    samples = [
        Sample(f"{category}-{i}/{side}", side, category, "")
        for category in CATEGORIES
        for side in ("unsafe", "safe", "empty")
        for i in range(count)
    ]
    return sorted(samples, key=lambda sample: (sample.group, sample.key))


def toy_input(sample, timestep):
    seed = int(hashlib.sha256(f"{sample.key}{timestep}".encode()).hexdigest()[:8], 16)
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(seed))


def run_toy(config, batch_size, toy=None):
    toy = toy or Toy()

    def forward(batch, timestep):
        toy(torch.stack([toy_input(sample, timestep) for sample in batch]))

    return calibrate(toy, forward, toy_experts(), toy_samples(), config, batch_size)


def seen(samples, timesteps, expert=None):
    """layer -> (inputs, tokens, width): all at once, through a network whose weights hold the expert's update."""
    toy = Toy()
    x = torch.stack([toy_input(sample, timestep) for timestep in timesteps for sample in samples])
    with torch.no_grad():
        for layer, (a, b) in (expert or {}).items():
            toy.get_submodule(layer).weight += b @ a
        return {"first": x, "second": toy.first(x).tanh(), "third": x}


def gram(x):
    x = x.double().flatten(0, 1)
    return x.T @ x / len(x)


@pytest.mark.parametrize("inputs", ["base", "own"])
@pytest.mark.parametrize("unit", ["row", "rank", "weight"])
@pytest.mark.parametrize("sides", [["unsafe"], ["unsafe", "safe"]])
@pytest.mark.parametrize("batch_size", [2, 100])
def test_streaming_equals_all_at_once(inputs, unit, sides, batch_size):
    timesteps = [100, 900]
    config = MergeConfig(inputs=inputs, unit=unit, score_prompts=sides, calibration_timesteps=timesteps)
    found = run_toy(config, batch_size)
    experts, samples = toy_experts(), toy_samples()
    scored = [sample for sample in samples if sample.side in sides]
    for layer in TOY_LAYERS:
        scores = []
        for category in CATEGORIES:
            active = experts[category] if inputs == "own" else None
            scores.append(activations(experts[category][layer], seen(scored, timesteps, active)[layer], unit))
        expected = Statistics.of(torch.stack(scores))
        sums = found.scores(layer, [experts[category][layer] for category in CATEGORIES])
        torch.testing.assert_close(sums.wins, expected.wins)
        torch.testing.assert_close(sums.activation, expected.activation, rtol=1e-5, atol=1e-5)
        assert sums.inputs == expected.inputs
        for group in ("safe", "empty", *(f"unsafe/{category}" for category in CATEGORIES)):
            owner = group.partition("/")[2]
            active = experts[owner] if inputs == "own" and owner else None
            members = [sample for sample in samples if sample.group == group]
            torch.testing.assert_close(found.grams[layer][group], gram(seen(members, timesteps, active)[layer]))


def test_layers_fed_one_tensor_share_its_gram():
    grams = run_toy(MergeConfig(), 4).grams
    assert grams["third"] is grams["first"]
    assert grams["second"] is not grams["first"]


@pytest.mark.parametrize("inputs", ["base", "own"])
@pytest.mark.parametrize("unit", ["row", "rank"])
def test_projected_moments_are_those_of_what_the_stacked_experts_answer(inputs, unit):
    experts = toy_experts()
    for layer in TOY_LAYERS:
        prepared = comerge.prepare([experts[category][layer] for category in CATEGORIES], unit)
        for category, product in zip(CATEGORIES, prepared, strict=True):
            experts[category][layer] = product

    def run(*seconds):
        toy = Toy()

        def forward(batch, timestep):
            toy(torch.stack([toy_input(sample, timestep) for sample in batch]))

        config = MergeConfig(inputs=inputs, unit=unit)
        return calibrate(toy, forward, experts, toy_samples(), config, 4, seconds)

    both, alone, full_grams, none = run(*SECONDS), run("projected"), run("grams"), run()
    assert both.has(SECONDS) and not alone.has(["grams"]) and none.has([])
    assert not (alone.grams or full_grams.projected or none.grams or none.projected)
    for layer in TOY_LAYERS:
        a = torch.cat([experts[category][layer][0] for category in CATEGORIES]).double()
        assert torch.equal(none.statistics[layer].wins, both.statistics[layer].wins)
        for group, value in both.projected[layer].items():
            torch.testing.assert_close(value, a @ both.grams[layer][group] @ a.T)
            assert torch.equal(value, alone.projected[layer][group])
            assert torch.equal(both.grams[layer][group], full_grams.grams[layer][group])


def test_the_model_is_left_as_it_was():
    toy, x = Toy(), torch.randn(3, 4)
    before = toy(x)
    run_toy(MergeConfig(inputs="own"), 4, toy)
    assert torch.equal(toy(x), before)
    assert not any(module._forward_hooks for module in toy.modules())


def test_safe_gram_mixes_the_empty_prompt_in():
    found = run_toy(MergeConfig(), 4)
    groups = found.grams["first"]
    torch.testing.assert_close(found.safe_gram("first", 0.25), 0.75 * groups["safe"] + 0.25 * groups["empty"])
    assert found.category_grams("first", CATEGORIES)[1] is groups["unsafe/violence"]


def test_experts_of_another_model_are_refused():
    toy = Toy()
    toy.second = nn.Linear(5, 4)
    with pytest.raises(RecipeError, match="layer second of the experts"):
        run_toy(MergeConfig(), 4, toy)


@pytest.mark.parametrize("wrong", [{"inputs": "other"}, {"score_prompts": []}, {"calibration_timesteps": []}])
def test_wrong_options_are_named(wrong):
    with pytest.raises(RecipeError, match=f"merge.{next(iter(wrong))}"):
        run_toy(MergeConfig(**wrong), 4)


def test_the_choice_of_pairs_does_not_depend_on_their_order(tmp_path):
    straight = choose_samples(write_dataset(tmp_path / "a", 5), CATEGORIES, 2, 0, True)
    turned = choose_samples(write_dataset(tmp_path / "b", 5, backwards=True), CATEGORIES[::-1], 2, 0, True)
    assert [(s.key, s.prompt, s.category) for s in straight] == [(s.key, s.prompt, s.category) for s in turned]
    assert [s.image.tobytes() for s in straight] == [s.image.tobytes() for s in turned]
    groups = [sample.group for sample in straight]
    assert {group: groups.count(group) for group in groups} == {
        "empty": 4, "safe": 4, "unsafe/self_harm": 2, "unsafe/violence": 2
    }  # fmt: skip
    assert {sample.prompt for sample in straight if sample.side == "empty"} == {""}
    chosen = {tuple(s.key for s in choose_samples(tmp_path / "a", CATEGORIES, 2, seed, False)) for seed in range(8)}
    assert len(chosen) > 1


def test_missing_data_is_named(tmp_path):
    with pytest.raises(RecipeError, match="no file data/train"):
        choose_samples(tmp_path, CATEGORIES, 2, 0, True)
    with pytest.raises(RecipeError, match=r"'hate' .*found: self_harm, violence"):
        choose_samples(write_dataset(tmp_path), ["hate"], 2, 0, False)


@pytest.mark.parametrize("latents", ["image", "noise"])
def test_on_a_pipeline(tmp_path, tiny_pipeline, latents):
    samples = choose_samples(write_dataset(tmp_path), CATEGORIES, 2, 0, latents == "image")
    denoiser = denoiser_for(tiny_pipeline)
    experts = {category: factors(seed) for seed, category in enumerate(CATEGORIES)}

    def run(timesteps):
        config = MergeConfig(calibration_timesteps=timesteps)
        return calibrate(denoiser.model, base_forward(denoiser, 0, latents), experts, samples, config)

    once, again, later = run([100]), run([100]), run([900])
    key, _, out = LAYERS
    for layer in LAYERS:
        assert torch.equal(once.statistics[layer].wins, again.statistics[layer].wins)
        for group, value in once.grams[layer].items():
            assert torch.equal(value, again.grams[layer][group])
    # Cross-attention sees the prompt's embedding at every timestep, self-attention sees the picture.
    for group, value in once.grams[key].items():
        prompts = [sample.prompt for sample in samples if sample.group == group]
        torch.testing.assert_close(value, gram(denoiser.encode_prompts(prompts)["prompt_embeds"]), rtol=1e-5, atol=1e-5)
        assert torch.equal(value, later.grams[key][group])
        assert not torch.allclose(once.grams[out][group], later.grams[out][group])


def test_timesteps_outside_the_model_are_refused(tmp_path, tiny_pipeline):
    denoiser = denoiser_for(tiny_pipeline)
    sample = Sample("violence-0/safe", "safe", "violence", "a banana")
    with pytest.raises(RecipeError, match="has 1000; it must be from 0 to 999"):
        base_forward(denoiser, 0, "noise")([sample], 1000)
    with pytest.raises(RecipeError, match=r"violence-0/safe: no picture .*calibration_latents=noise"):
        base_forward(denoiser, 0)([sample], 10)


def test_prompt_only_layers_are_run_at_one_timestep(tmp_path, tiny_pipeline):
    key, value, _ = LAYERS
    denoiser = denoiser_for(tiny_pipeline)
    experts = {
        category: {layer: factors(seed)[layer] for layer in (key, value)} for seed, category in enumerate(CATEGORIES)
    }
    samples = choose_samples(write_dataset(tmp_path), CATEGORIES, 2, 0, False)
    ran = []
    forward = base_forward(denoiser, 0, "noise")

    def counted(batch, timestep):
        ran.append(timestep)
        forward(batch, timestep)

    found = calibrate(denoiser.model, counted, experts, samples, MergeConfig(calibration_timesteps=[300, 600]))
    assert set(ran) == {300}
    assert found.statistics[key].inputs == 4


def test_which_layers_see_the_prompt_alone_is_asked_of_the_modules(tiny_pipeline):
    """`attn2` is cross-attention in a UNet, and in Stable Diffusion 3.5 a second self-attention."""
    ends = ("attn1.to_k", "attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0")
    block = "down_blocks.1.attentions.0.transformer_blocks.0"
    layers = [f"{block}.{end}" for end in ends]
    encoder = "text_encoder.encoder.layers.0.self_attn.k_proj"
    found = see_prompt_alone(tiny_pipeline.unet, [*layers, encoder])
    assert found == {f"{block}.attn2.to_k", f"{block}.attn2.to_v", encoder}
    transformer = SD3Transformer2DModel(
        sample_size=8, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=16, caption_projection_dim=16, pooled_projection_dim=16, pos_embed_max_size=16,
        dual_attention_layers=(0,),
    )  # fmt: skip
    dual = [f"transformer_blocks.0.attn2.{end}" for end in ("to_k", "to_v")]
    assert set(dual) <= dict(transformer.named_modules()).keys()
    assert not see_prompt_alone(transformer, dual)
    config = MergeConfig(calibration_timesteps=[300, 600])
    assert calibration_timesteps(transformer, dual, config) == [300, 600]
    assert calibration_timesteps(tiny_pipeline.unet, sorted(found), config) == [300]


@pytest.mark.parametrize("unit", comerge.UNITS)
@pytest.mark.parametrize("inputs", ["base", "own"])
@pytest.mark.parametrize("sides", [["unsafe"], ["safe"], ["unsafe", "safe"]])
def test_co_merge_of_what_is_collected_equals_the_definition_written_out(unit, inputs, sides):
    """Prompts, timesteps, tokens and units in loops over full matrices, for every score and selection."""
    timesteps = [100, 900]
    config = MergeConfig(inputs=inputs, unit=unit, score_prompts=sides, calibration_timesteps=timesteps)
    products = toy_experts()
    prepared = {category: {} for category in CATEGORIES}
    for layer in TOY_LAYERS:
        listed = comerge.prepare([products[category][layer] for category in CATEGORIES], unit)
        prepared |= {c: prepared[c] | {layer: product} for c, product in zip(CATEGORIES, listed, strict=True)}
    toy = Toy()

    def forward(batch, timestep):
        toy(torch.stack([toy_input(sample, timestep) for sample in batch]))

    found = calibrate(toy, forward, prepared, toy_samples(), config, 3)
    scored = [sample for sample in toy_samples() if sample.side in sides]
    own = {c: seen(scored, timesteps, products[c] if inputs == "own" else None) for c in CATEGORIES}
    for layer in TOY_LAYERS:
        listed = [prepared[category][layer] for category in CATEGORIES]
        x = [own[category][layer] for category in CATEGORIES]
        for score, selection in itertools.product(comerge.SCORES, comerge.SELECTIONS):
            masks = comerge.masks(found.scores(layer, listed), score, selection, 1)
            merged = full(comerge.merge(listed, masks, unit))
            plain = [products[category][layer] for category in CATEGORIES]
            expected = brute_force(plain, x, unit, score, selection, 1)
            torch.testing.assert_close(merged, expected, atol=3e-5, rtol=1e-4)


def test_weight_sums_equal_the_activations_of_every_weight():
    """A column that some inputs leave at 0, and one that all do."""
    products = [factors(seed, 2, {"one": (4, 5)})["one"] for seed in range(3)]
    x = torch.randn(7, 6, 4)
    x[2:5, :, 1] = 0
    x[:, :, 3] = 0
    expected = Statistics.of(torch.stack([activations(product, x, "weight") for product in products]))
    sizes = comerge.input_sizes(x)
    shared = (comerge.WeightSums.of(sizes[:3]) + comerge.WeightSums.of(sizes[3:])).statistics(products)
    apart = Statistics.of_weights(products, sizes.expand(3, -1, -1))
    for sums in (shared, apart):
        torch.testing.assert_close(sums.wins, expected.wins)
        torch.testing.assert_close(sums.activation, expected.activation, rtol=1e-5, atol=1e-6)
        assert sums.inputs == 7


@pytest.mark.parametrize("unit", comerge.UNITS)
@pytest.mark.parametrize("inputs", ["base", "own"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_activations_that_are_no_numbers_are_refused(unit, inputs, value):
    """Nobody wins them: the experts would be averaged without a word."""

    class Overflowing(Toy):
        def forward(self, x):
            return self.second(torch.where(self.first(x).tanh() > -2, value, 0.0))

    toy = Overflowing()
    experts = {c: {layer: toy_experts()[c][layer] for layer in ("first", "second")} for c in CATEGORIES}

    def forward(batch, timestep):
        toy(torch.stack([toy_input(sample, timestep) for sample in batch]))

    found = calibrate(toy, forward, experts, toy_samples(), MergeConfig(unit=unit, inputs=inputs), 4, [])
    listed = {layer: [experts[category][layer] for category in CATEGORIES] for layer in ("first", "second")}
    assert found.scores("first", listed["first"]).inputs
    with pytest.raises(RecipeError, match=r"^merge method comerge: layer second: activations [^\n]* infinite; [^\n]*$"):
        found.scores("second", listed["second"])


def changed(folder, **fields):
    """A dataset whose first row of violence holds other fields, in types that take anything."""
    write_dataset(folder)
    for config in ("data", "prompts"):
        file = folder / config / "train-00000-of-00001.parquet"
        table = pq.read_table(file)
        rows = table.to_pylist()
        row = next(row for row in rows if row["pair_id"] == "violence-0")
        row |= {name: value for name, value in fields.items() if name in row}
        pq.write_table(pa.Table.from_pylist(rows, table.schema), file)
    return folder


def png(size=(64, 64)):
    data = io.BytesIO()
    Image.new("RGB", size).save(data, "PNG")
    return data.getvalue()


WRONG_ROWS = [
    ({"unsafe_image": None}, r"pair violence-0: unsafe_image: no picture .*=noise"),
    ({"safe_image": {"bytes": b"", "path": None}}, "pair violence-0: safe_image: no picture"),
    (
        {"safe_image": {"bytes": b"no picture", "path": None}},
        "pair violence-0: safe_image cannot be read .Unidentified",
    ),
    ({"safe_image": {"bytes": png()[:70], "path": None}}, "pair violence-0: safe_image cannot be read"),
    ({"safe_image": {"bytes": None, "path": "nowhere.png"}}, "safe_image cannot be read .FileNotFoundError"),
    ({"unsafe_prompt": None}, "pair violence-0: unsafe_prompt: found null, expected text"),
    ({"safe_prompt": None}, "pair violence-0: safe_prompt: found null, expected text"),
    ({"pair_id": "self_harm-1"}, r"row \d: pair self_harm-1: pair_id stands in category 'self_harm' and in 'violence'"),
    ({"pair_id": None}, r"row \d: pair_id is null"),
    ({"category": None}, "pair violence-0: category: found None"),
    ({"category": -1}, "pair violence-0: category: found -1"),
]


@pytest.mark.parametrize(("fields", "message"), WRONG_ROWS)
def test_rows_that_cannot_be_calibrated_on_are_named(tmp_path, fields, message):
    dataset = changed(tmp_path, **fields)
    with pytest.raises(RecipeError, match=rf"^{dataset / 'data'}/train-\S+: [^\n]*{message}[^\n]*$"):
        choose_samples(dataset, CATEGORIES, 9, 0, True)


def test_pictures_by_path_are_read(tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    image = {"bytes": None, "path": str(tmp_path / "a.png")}
    samples = choose_samples(changed(tmp_path / "set", unsafe_image=image), CATEGORIES, 9, 0, True)
    (sample,) = (sample for sample in samples if sample.key == "violence-0/unsafe")
    assert sample.image.size == (64, 64) and not any(sample.image.tobytes())


def test_files_that_are_none_are_named(tmp_path):
    dataset = write_dataset(tmp_path)
    file = dataset / "prompts" / "train-00000-of-00001.parquet"
    table = pq.read_table(file)
    pq.write_table(table.drop(["safe_prompt"]), file)
    with pytest.raises(RecipeError, match=f"^{file}: no column 'safe_prompt' to calibrate on"):
        choose_samples(dataset, CATEGORIES, 2, 0, False)
    file.write_bytes(b"PAR1 and no more")
    with pytest.raises(RecipeError, match=rf"^{file}: cannot be read as Parquet [^\n]*$"):
        choose_samples(dataset, CATEGORIES, 2, 0, False)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((96, 64), r"violence-0/safe: its picture has 96x64 pixels, that of \S+ has 64x64; set train.resolution"),
        ((65, 64), r"violence-0/safe: images of .* pixels, expected one size in multiples of"),
    ],
)
def test_pictures_of_several_sizes_are_named_and_brought_to_one_resolution(tmp_path, tiny_pipeline, size, message):
    dataset = changed(tmp_path, safe_image={"bytes": png(size), "path": None})
    samples = [s for s in choose_samples(dataset, CATEGORIES, 9, 0, True) if s.group == "safe"]
    denoiser = denoiser_for(tiny_pipeline)
    with pytest.raises(RecipeError, match=f"^{message}"):
        base_forward(denoiser, 0)(samples, 500)
    base_forward(denoiser, 0, resolution=64)(samples, 500)
