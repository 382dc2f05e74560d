"""Merged folders: what stock diffusers and peft make of them, that nothing is done twice, and clear errors."""

import copy
import json
import os
import subprocess
from contextlib import nullcontext
from itertools import pairwise

import pytest
import torch
import typer
from diffusers import StableDiffusionPipeline
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from typer.testing import CliRunner

from recipes import MergeConfig, Recipe, RecipeError
from recipes.check import MERGE_METHODS
from recipes.merge_plans import BEST_METHOD, planned_merges
from tests.training.merge_world import CATEGORIES, LAYERS, factors, write_dataset, write_experts
from training import comerge, merge_cli
from training.adapters import WEIGHTS_NAME, Adapter, load_lora, write_adapter
from training.calibration import Calibration, calibrate
from training.calibration_samples import choose_samples
from training.comerge import Statistics
from training.denoisers import denoiser_for
from training.low_rank import full
from training.merge import Shared, experts_of, merge_experts, merge_layers
from training.peft_merges import PEFT_METHODS, is_random, peft_merge


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_pipeline):
    """Folders of a base model, a dataset and experts."""
    folder = tmp_path_factory.mktemp("world")
    tiny_pipeline.save_pretrained(folder / "base")
    write_dataset(folder / "dataset")
    write_experts(folder / "experts")
    return folder


def recipe_for(world, **merge):
    return Recipe(base_model=str(world / "base"), merge=MergeConfig(**{"calibration_timesteps": [500], **merge}))


def experts_in(world):
    return {category: world / "experts" / category for category in CATEGORIES}


def deltas(folder):
    return {layer: full(product) for layer, product in load_lora(folder).folded().items()}


def no_calibration():
    raise AssertionError("this merge needs no calibration")


def test_merged_folder_in_stock_diffusers_adds_the_merged_updates(tmp_path, world):
    """The experts have alpha 6 and rank 4, so a lost alpha would show."""
    recipe = recipe_for(world, method="sum", compare=["comerge", "comerge:rank=3", "least_squares:rank=5,gain=2"])
    folders = merge_experts(recipe, experts_in(world), world / "dataset", tmp_path)
    x, hidden = torch.randn(2, 4, 16, 16), torch.randn(2, 24, 128)

    def predict(unet):
        with torch.no_grad():
            return unet(x, 500, hidden).sample

    base = StableDiffusionPipeline.from_pretrained(world / "base", safety_checker=None)
    plain = predict(base.unet)
    for folder in folders.values():
        by_hand = copy.deepcopy(base.unet)
        with torch.no_grad():
            for layer, delta in deltas(folder).items():
                by_hand.get_submodule(layer).weight += delta
        base.load_lora_weights(folder)
        stock = predict(base.unet)
        base.unload_lora_weights()
        torch.testing.assert_close(stock, predict(by_hand), atol=1e-4, rtol=1e-4)
        assert (stock - plain).abs().max() > 1e-2
    experts = [deltas(folder) for folder in experts_in(world).values()]
    for layer, delta in deltas(folders["sum"]).items():
        torch.testing.assert_close(delta, experts[0][layer] + experts[1][layer], atol=1e-5, rtol=1e-5)
        plain_b = load_lora(experts_in(world)["violence"]).layers[layer][1]
        assert not torch.allclose(plain_b, load_lora(experts_in(world)["violence"]).folded()[layer][1])


@pytest.mark.parametrize("method", ["comerge", "least_squares", "constrained", "subspace", "sum"])
def test_a_merge_of_one_expert_is_that_expert(tmp_path, world, tiny_pipeline, method):
    one = {"violence": world / "experts" / "violence"}
    # Least squares has nothing to shrink towards when safe inputs weigh nothing.
    recipe = recipe_for(world, method=method, safe_weight=0.0, ridge=1e-12)
    merged = deltas(merge_experts(recipe, one, world / "dataset", tmp_path)[method])
    prompts = [sample.prompt for sample in choose_samples(world / "dataset", list(one), 9, 0, False)]
    seen = denoiser_for(tiny_pipeline).encode_prompts([prompt for prompt in prompts if "pistol" in prompt])
    for layer, delta in deltas(one["violence"]).items():
        if method in ("comerge", "sum"):
            torch.testing.assert_close(merged[layer], delta, atol=1e-6, rtol=1e-5)
        elif "attn2" in layer:
            # Three prompts do not span all directions: it is that expert on what they do.
            x = seen["prompt_embeds"][["water" not in prompt for prompt in prompts if "pistol" in prompt]]
            torch.testing.assert_close(x @ merged[layer].T, x @ delta.T, atol=1e-3, rtol=1e-3)


def test_order_of_experts_leaves_no_trace(tmp_path, world):
    recipe = recipe_for(world, compare=[method for method in MERGE_METHODS if method != "comerge"])
    straight = merge_experts(recipe, experts_in(world), world / "dataset", tmp_path / "a")
    turned = merge_experts(recipe, dict(reversed(experts_in(world).items())), world / "dataset", tmp_path / "b")
    assert sorted(straight) == sorted(turned) == sorted(MERGE_METHODS)
    for method, folder in straight.items():
        for name in (WEIGHTS_NAME, "coprov2.json"):
            assert (folder / name).read_bytes() == (turned[method] / name).read_bytes()


def test_done_merges_are_skipped_and_others_are_not(tmp_path, world):
    def run(experts=None, **merge):
        merge = {"method": "sum", "compare": ["ties"], **merge}
        folders = merge_experts(recipe_for(world, **merge), experts or experts_in(world), world / "dataset", tmp_path)
        return {name: (folder / WEIGHTS_NAME).stat().st_mtime_ns for name, folder in folders.items()}

    first = run()
    assert run() == first
    # An option of another method changes nothing; one of ties changes ties alone.
    assert run(unit="weight", safe_weight=1.0) == first
    changed = run(density=0.7)
    assert changed["sum"] == first["sum"]
    assert changed["ties"] != first["ties"]
    # Damaged weights are made anew, with the same bytes.
    path = tmp_path / "merged" / WEIGHTS_NAME
    whole = path.read_bytes()
    path.write_bytes(whole[:-4] + b"oops")
    run(density=0.7)
    assert path.read_bytes() == whole
    # So is a merge of other experts.
    write_adapter(tmp_path / "other", factors(9), alpha=6.0)
    run({**experts_in(world), "violence": tmp_path / "other"}, density=0.7)
    assert path.read_bytes() != whole


@pytest.mark.parametrize("killed", ["merged_layers", "write_merge"])
def test_a_merge_that_was_killed_leaves_no_weights_of_the_one_before(tmp_path, world, monkeypatch, killed):
    """Whoever loads the folder looks at its weights alone."""
    folder = merge_experts(recipe_for(world, method="sum"), experts_in(world), world / "dataset", tmp_path)["sum"]

    def kill(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"training.merge.{killed}", kill)
    with pytest.raises(KeyboardInterrupt):
        merge_experts(recipe_for(world, method="sum", gain=2.0), experts_in(world), world / "dataset", tmp_path)
    assert not list(folder.iterdir())


def test_a_merge_killed_between_its_two_files_is_done_again(tmp_path, world, monkeypatch):
    recipe = recipe_for(world, method="sum")
    merge_experts(recipe, experts_in(world), world / "dataset", tmp_path)

    def killed(path, content):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("training.merge.write_atomically", killed)
        with pytest.raises(KeyboardInterrupt):
            merge_experts(recipe_for(world, method="sum", gain=2.0), experts_in(world), world / "dataset", tmp_path)
    assert not (tmp_path / "merged" / "coprov2.json").exists()
    merge_experts(recipe, experts_in(world), world / "dataset", tmp_path)
    fresh = merge_experts(recipe, experts_in(world), world / "dataset", tmp_path / "fresh")["sum"]
    assert (tmp_path / "merged" / WEIGHTS_NAME).read_bytes() == (fresh / WEIGHTS_NAME).read_bytes()


@pytest.mark.parametrize("record", ["[]", "null", '"x"', "{}", "[" * 100_000, '{"fingerprint": 3}', "\udcff"])
def test_a_record_that_is_none_makes_the_merge_anew(tmp_path, world, record):
    recipe = recipe_for(world, method="sum")
    folder = merge_experts(recipe, experts_in(world), world / "dataset", tmp_path)["sum"]
    told = (folder / "coprov2.json").read_bytes()
    (folder / "coprov2.json").write_text(record, "utf8", "surrogateescape")
    merge_experts(recipe, experts_in(world), world / "dataset", tmp_path)
    assert (folder / "coprov2.json").read_bytes() == told


def test_provenance_says_what_was_merged(tmp_path, world):
    merge_experts(recipe_for(world, rank=5), experts_in(world), world / "dataset", tmp_path)
    told = json.loads((tmp_path / "merged" / "coprov2.json").read_text("utf8"))
    assert told["method"] == "comerge"
    assert told["rank"] == told["options"]["rank"] == 5
    assert list(told["experts"]) == CATEGORIES
    assert told["calibration"]["base_model"].startswith("base@")
    assert list(told["calibration"]["dataset"]) == ["train-00000-of-00001.parquet"]
    assert "density" not in told["options"]


@pytest.mark.parametrize(
    ("method", "rank"), [*((method, None) for method in PEFT_METHODS), ("svd", 6), ("dare_ties_svd", 6)]
)
def test_peft_methods_equal_peft_on_the_unet(world, tiny_pipeline, method, rank):
    adapters = {category: load_lora(folder) for category, folder in experts_in(world).items()}
    config = LoraConfig(r=4, lora_alpha=6, target_modules=list(LAYERS))
    model = get_peft_model(copy.deepcopy(tiny_pipeline.unet), config, adapter_name="violence")
    model.add_adapter("self_harm", config)
    for category, adapter in adapters.items():
        for layer, (a, b) in adapter.layers.items():
            module = model.base_model.model.get_submodule(layer)
            module.lora_A[category].weight.data.copy_(a)
            module.lora_B[category].weight.data.copy_(b)
    extra = {"density": 0.4, "svd_rank": rank}
    if is_random(method):
        # The draws of our run come in the order of our layers, those of this network in its own.
        extra["density"] = 1.0
    model.base_model.add_weighted_adapter(CATEGORIES, [1.0, 1.0], "merged", combination_type=method, **extra)
    config = MergeConfig(method=method, rank=rank, density=extra["density"], gain=0.5)
    merged = merge_layers(adapters, config, no_calibration)
    for layer, product in merged.items():
        expected = 0.5 * model.base_model.model.get_submodule(layer).get_delta_weight("merged")
        torch.testing.assert_close(full(product), expected, atol=1e-5, rtol=1e-5)
        assert len(product[0]) == (rank or (8 if method == "cat" else 4))


@pytest.mark.parametrize(("sides", "rank"), [((8, 6), 7), ((6, 16), 12), ((3, 9), None)])
def test_peft_svds_above_a_layers_shorter_side_are_refused_with_the_rank_that_fits(sides, rank):
    """peft's own factors do not fit each other there, or it fails inside."""
    width, height = sides
    layers = {
        "wide": (torch.ones(4, 40), torch.ones(40, 4)),
        "narrow": (torch.ones(4, width), torch.ones(height, 4)),
    }
    experts = {name: Adapter(layers, dict.fromkeys(layers, 4.0), {}) for name in ("hate", "violence")}
    fits = min(sides)
    for method in ("svd", "ties_svd"):
        with pytest.raises(
            RecipeError, match=rf"^merge method {method}: [^\n]*layer narrow; set merge.rank to {fits} or"
        ):
            merge_layers(experts, MergeConfig(method=method, rank=rank), no_calibration)
        merged = merge_layers(experts, MergeConfig(method=method, rank=fits), no_calibration)
        assert full(merged["narrow"]).shape == (height, width)


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties", "dare_linear_svd", "dare_ties_svd"])
def test_dare_draws_what_the_seed_says_and_nothing_else(tmp_path, world, method):
    adapters = {category: load_lora(folder) for category, folder in experts_in(world).items()}

    def merged(seed, turned=False):
        order = dict(reversed(adapters.items())) if turned else adapters
        result = merge_layers(order, MergeConfig(method=method, density=0.4), no_calibration, seed)
        return torch.cat([full(result[layer]).flatten() for layer in sorted(result)])

    torch.manual_seed(1)
    before = torch.get_rng_state()
    once = merged(0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(merged(0), once)
    assert torch.equal(merged(0, turned=True), once)
    assert not torch.allclose(merged(1), once)
    # The recipe's seed is the one that counts, and a merge under another one is another merge.
    recipe = recipe_for(world, method=method, density=0.4)
    folder = merge_experts(recipe, experts_in(world), world / "dataset", tmp_path)[method]
    assert json.loads((folder / "coprov2.json").read_text("utf8"))["seed"] == 0
    first = (folder / WEIGHTS_NAME).read_bytes()
    recipe.seed = 5
    merge_experts(recipe, experts_in(world), world / "dataset", tmp_path)
    assert (folder / WEIGHTS_NAME).read_bytes() != first


def test_dare_keeps_the_expected_update(world):
    """A kept value is scaled by 1 / density: over many draws the mean is what is merged without pruning."""
    adapters = {category: load_lora(folder) for category, folder in experts_in(world).items()}
    layer = next(iter(LAYERS))
    plain = merge_layers(adapters, MergeConfig(method="linear"), no_calibration)[layer]
    draws = [
        merge_layers(adapters, MergeConfig(method="dare_linear", density=0.5), no_calibration, seed)[layer]
        for seed in range(60)
    ]
    for side in (0, 1):
        mean = torch.stack([draw[side] for draw in draws]).mean(0)
        # The draws of A and B are independent of each other: each value is off by its own size over sqrt(60).
        assert float((mean - plain[side]).norm() / plain[side].norm()) < 0.3


def test_cat_is_the_sum(world):
    adapters = {category: load_lora(folder) for category, folder in experts_in(world).items()}
    by_peft = merge_layers(adapters, MergeConfig(method="cat"), no_calibration)
    ours = merge_layers(adapters, MergeConfig(method="sum"), no_calibration)
    for layer, product in ours.items():
        torch.testing.assert_close(full(by_peft[layer]), full(product), atol=1e-5, rtol=1e-5)


def test_best_is_the_method_that_it_stands_for(tmp_path, world):
    recipe = recipe_for(world, method="best", safe_weight=2.0, compare=[BEST_METHOD, "best:rank=3"])
    folders = merge_experts(recipe, experts_in(world), world / "dataset", tmp_path)
    assert list(folders) == ["best", BEST_METHOD, "best-rank-3"]
    assert folders["best"] == tmp_path / "merged"
    told = [json.loads((folder / "coprov2.json").read_text("utf8")) for folder in folders.values()]
    assert [each["method"] for each in told] == [BEST_METHOD] * 3
    assert told[0] == told[1]
    assert told[2]["rank"] == 3
    assert (folders["best"] / WEIGHTS_NAME).read_bytes() == (folders[BEST_METHOD] / WEIGHTS_NAME).read_bytes()


def test_peft_methods_keep_each_layers_own_alpha(world):
    layers = factors(3)
    first, *_ = layers
    alpha = dict.fromkeys(layers, 4.0) | {first: 8.0}
    merged = peft_merge({"violence": Adapter(layers, alpha)}, "linear")
    for layer, (a, b) in layers.items():
        torch.testing.assert_close(full(merged[layer]), (2.0 if layer == first else 1.0) * b @ a, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", ["sum", "linear", "ties"])
def test_gain_scales_and_rank_truncates(world, method):
    adapters = {category: load_lora(folder) for category, folder in experts_in(world).items()}
    whole = merge_layers(adapters, MergeConfig(method=method), no_calibration)
    less = merge_layers(adapters, MergeConfig(method=method, rank=2, gain=3.0), no_calibration)
    for layer, product in whole.items():
        u, s, vh = torch.linalg.svd(full(product))
        expected = 3.0 * (u[:, :2] * s[:2]) @ vh[:2]
        torch.testing.assert_close(full(less[layer]), expected, atol=1e-4, rtol=1e-4)
        assert less[layer][0].shape[0] == 2


@pytest.mark.parametrize("method", ["comerge", "least_squares", "constrained", "subspace"])
def test_weighted_truncation_keeps_calibration_outputs_better_with_rank(tmp_path, world, method):
    entries = [f"{method}:rank={rank}" for rank in (1, 3, 6)]
    recipe = recipe_for(world, method=method, compare=entries)
    folders = merge_experts(recipe, experts_in(world), world / "dataset", tmp_path)
    exact, *cut = (deltas(folder) for folder in folders.values())
    pipeline = StableDiffusionPipeline.from_pretrained(world / "base", safety_checker=None)
    with torch.no_grad():
        hidden, _ = pipeline.encode_prompt(["a pistol on background 1", ""], "cpu", 1, False)
    layer = next(iter(LAYERS))
    errors = [float((hidden @ (exact[layer] - deltas_[layer]).T).norm()) for deltas_ in cut]
    assert all(more > less for more, less in pairwise(errors))


@pytest.mark.parametrize("method", ["comerge", "least_squares", "constrained", "subspace"])
@pytest.mark.parametrize("unit", comerge.UNITS)
def test_a_merge_is_truncated_in_the_metric_of_what_calibration_saw(method, unit):
    """Against an SVD of the full matrix, weighted by `sum_k G_k + l G_safe`, and the ridge where the method has one."""
    generator = torch.Generator().manual_seed(0)
    adapters = {
        category: Adapter(factors(seed, 2, {"one": (6, 5)}), {"one": 3.0}) for seed, category in enumerate(CATEGORIES)
    }
    stacked = torch.cat([layers["one"][0] for layers in experts_of(adapters, unit).values()]).double()
    groups = [*(f"unsafe/{category}" for category in CATEGORIES), "safe", "empty"]
    inputs = [torch.randn(9, 6, generator=generator, dtype=torch.float64) for _ in groups]
    seen = {group: (k + 1) * x.T @ x / 9 for k, (group, x) in enumerate(zip(groups, inputs, strict=True))}
    units = {"row": (5,), "rank": (2,), "weight": (5, 6)}[unit]
    sums = Statistics(*torch.rand(2, 2, *units, generator=generator, dtype=torch.float64), inputs=9)
    projected = {group: stacked @ gram @ stacked.T for group, gram in seen.items()}
    known = Calibration({"one": sums}, {"one": seen}, {"one": projected})
    options = {"safe_weight": 2.5, "empty_share": 0.3, "ridge": 1e-2, "category_weight": "equal"}
    config = MergeConfig(method=method, unit=unit, selection="soft", weighted_svd=True, **options)
    exact = full(merge_layers(adapters, config, lambda: known)["one"]).double()
    metric = seen[groups[0]] + seen[groups[1]] + 2.5 * (0.7 * seen["safe"] + 0.3 * seen["empty"])
    if method != "comerge":
        metric = metric + 1e-2 * metric.trace() / 6 * torch.eye(6, dtype=torch.float64)
    root = torch.linalg.cholesky(metric)
    u, s, vh = torch.linalg.svd(exact @ root)
    expected = (u[:, :2] * s[:2]) @ vh[:2] @ root.inverse()
    config.rank = 2
    cut = full(merge_layers(adapters, config, lambda: known)["one"]).double()
    torch.testing.assert_close(cut, expected, atol=1e-4, rtol=1e-4)
    config.weighted_svd = False
    assert not torch.allclose(full(merge_layers(adapters, config, lambda: known)["one"]).double(), cut, atol=1e-3)


def test_only_what_a_merge_reads_of_the_inputs_is_collected(tmp_path, world, monkeypatch):
    """Experts of rank 4: the merge by rows or components has rank 8 at most, that by weights 96."""
    asked = []

    def noted(*args, seconds, **options):
        asked.append(list(seconds))
        return calibrate(*args, seconds=seconds, **options)

    monkeypatch.setattr("training.merge.calibrate", noted)

    def run(out, method, *compare, shared=None):
        asked.clear()
        recipe = recipe_for(world, method=method, compare=list(compare), weighted_svd=True)
        folders = merge_experts(recipe, experts_in(world), world / "dataset", tmp_path / out, shared)
        return {name: (folder / WEIGHTS_NAME).read_bytes() for name, folder in folders.items()}

    run("a", "comerge", "comerge:rank=8", "comerge:rank=3,weighted_svd=false", "comerge:unit=rank,rank=8")
    assert asked == [[], []]
    by_weight = run("b", "comerge", "comerge:unit=weight", "comerge:unit=weight,rank=95")
    assert asked == [[], ["grams"]]
    assert len(by_weight) == 3
    # One pass for all that share one, and the same bytes as in a pass of its own, whatever came before.
    together = run("c", "comerge", "comerge:rank=3", "least_squares:rank=3", "constrained:rank=3", "subspace:rank=3")
    assert asked == [["grams", "projected"]]
    shared = Shared({}, lambda: None, lambda name: nullcontext())
    for number, entry in enumerate(["comerge", "comerge:rank=3", "least_squares:rank=3", "comerge:rank=3"]):
        apart = run(f"d{number}", "sum", entry, shared=shared)
        assert asked == [[[]], [["projected"]], [["grams"]], []][number]
        name = list(apart)[1]
        assert apart[name] == together[name]


def test_compared_merges_take_their_own_options(world):
    recipe = recipe_for(
        world,
        method="least_squares",
        gain=2.5,
        rank=8,
        compare=["comerge", "comerge:unit=rank,gain=2", "least_squares"],
    )
    plans = planned_merges(recipe)
    assert list(plans) == ["least_squares", "comerge", "comerge-unit-rank-gain-2"]
    assert [plan.gain for plan in plans.values()] == [2.5, 1.0, 2.0]
    assert [plan.unit for plan in plans.values()] == ["row", "row", "rank"]
    assert {plan.rank for plan in plans.values()} == {8}


@pytest.mark.parametrize(
    ("merge", "message"),
    [
        ({"method": "average"}, "'average' is unknown"),
        ({"compare": ["average"]}, "'average' is unknown"),
        ({"rank": 0}, "merge.rank: expected 1 or more, found 0"),
        ({"compare": ["sum:rank=0"]}, "merge sum-rank-0: merge.rank: expected 1 or more"),
        ({"compare": ["ties:densty=1"]}, "densty.*did you mean density"),
        ({"compare": ["ties:density"]}, "expected method:field=value"),
    ],
)
def test_wrong_settings_are_named(tmp_path, world, merge, message):
    with pytest.raises(RecipeError, match=message):
        merge_experts(recipe_for(world, **merge), experts_in(world), world / "dataset", tmp_path)


def test_experts_that_do_not_go_together_are_named(tmp_path, world):
    recipe = recipe_for(world, method="sum")
    with pytest.raises(RecipeError, match="there is no expert to merge"):
        merge_experts(recipe, {}, world / "dataset", tmp_path)
    fewer = dict(list(LAYERS.items())[:2])
    write_adapter(tmp_path / "fewer", factors(0, layers=fewer))
    write_adapter(tmp_path / "wider", factors(0, layers={layer: (640, out) for layer, (_, out) in LAYERS.items()}))
    for other, shapes in (("fewer", "not adapted and 96 to 96"), ("wider", "96 to 96 and 640 to 96")):
        with pytest.raises(RecipeError, match=rf"experts \w+ and \w+ differ in layer .*: {shapes}; train all"):
            experts = {"violence": world / "experts" / "violence", other: tmp_path / other}
            merge_experts(recipe, experts, world / "dataset", tmp_path)
    with pytest.raises(RecipeError, match=f"no {WEIGHTS_NAME} there"):
        merge_experts(recipe, {"violence": tmp_path / "nothing"}, world / "dataset", tmp_path)
    write_adapter(tmp_path / "rank2", factors(0, rank=2))
    different = {"violence": world / "experts" / "violence", "other": tmp_path / "rank2"}
    with pytest.raises(RecipeError, match=r"merge method linear: .*same r"):
        merge_experts(recipe_for(world, method="linear"), different, world / "dataset", tmp_path)
    assert merge_experts(recipe_for(world, method="sum"), different, world / "dataset", tmp_path).keys() == {"sum"}


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
def test_experts_of_different_networks_are_refused_whatever_they_are_called(tmp_path, names):
    """The merged file would be of the network of the expert whose name comes first."""
    layer = {"blocks.0.attn1.to_q": (torch.ones(2, 8), torch.ones(8, 2))}
    folders = [tmp_path / "unet", tmp_path / "transformer"]
    for folder in folders:
        write_adapter(folder, layer, component=folder.name)
    with pytest.raises(RecipeError, match=r"^experts a and b are of different networks, \w+ and \w+; merge [^\n]*$"):
        merge_experts(
            Recipe(merge=MergeConfig(method="sum")), dict(zip(names, folders, strict=True)), tmp_path, tmp_path
        )


@pytest.mark.parametrize("method", ["linear", "ties", "dare_linear", "dare_ties", "magnitude_prune"])
def test_layers_whose_ranks_differ_are_refused_where_factors_are_merged_apart(method):
    """Both experts have the highest rank 4, which is all that peft looks at."""
    ranks = {"hate": {"x": 4, "y": 2}, "violence": {"x": 2, "y": 4}}
    adapters = {}
    for name, by_layer in ranks.items():
        layers = {layer: (torch.ones(rank, 8), torch.ones(6, rank)) for layer, rank in by_layer.items()}
        adapters[name] = Adapter(layers, dict.fromkeys(layers, 4.0))
    told = rf"^merge method {method}: experts hate and violence have the ranks 4 and 2 in layer x; [^\n]* same rank"
    with pytest.raises(RecipeError, match=told):
        merge_layers(adapters, MergeConfig(method=method), no_calibration)
    summed = merge_layers(adapters, MergeConfig(method="sum"), no_calibration)
    for layer, product in merge_layers(adapters, MergeConfig(method="cat"), no_calibration).items():
        torch.testing.assert_close(full(product), full(summed[layer]))


def test_the_verb_merges_what_it_finds(tmp_path, world):
    app = typer.Typer()
    merge_cli.register(app)
    app.callback()(lambda: None)
    options = [
        "--out",
        str(tmp_path),
        "--data",
        str(world / "dataset"),
        "--set",
        "merge.compare=[ties]",
        "--set",
        "merge.tune_steps=0",
    ]
    done = CliRunner().invoke(app, ["merge", *options, "--experts", str(world / "experts"), "--method", "svd"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "merged" / WEIGHTS_NAME).is_file()
    assert (tmp_path / "merges" / "ties" / WEIGHTS_NAME).is_file()
    missing = CliRunner().invoke(app, ["merge", *options])
    assert isinstance(missing.exception, RecipeError)
    assert "found no expert" in str(missing.exception)

    part = tmp_path / "merged" / f".{WEIGHTS_NAME}.{os.getpid()}.part"
    part.symlink_to("/dev/full")
    full = CliRunner().invoke(app, ["merge", *options, "--experts", str(world / "experts"), "--method", "linear"])
    assert isinstance(full.exception, RecipeError) and "the disk is full" in str(full.exception)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("method", ["sum", "svd", "least_squares"])
def test_experts_with_numbers_that_are_none_are_named(tmp_path, world, method, value):
    layers = factors(0)
    name = next(iter(layers))
    layers[name][1][2, 1] = value
    write_adapter(tmp_path / "broken", layers)
    experts = {**experts_in(world), "broken": tmp_path / "broken"}
    with pytest.raises(RecipeError, match=rf"expert broken: layer {name}: 1 of the \d+ numbers of B are NaN"):
        merge_experts(recipe_for(world, method=method), experts, world / "dataset", tmp_path)
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize("method", ["comerge", "distill", "least_squares", "linear", "sum"])
def test_merges_with_numbers_that_are_none_are_refused_before_anything_is_written(tmp_path, world, method):
    recipe = recipe_for(world, method=method, gain=1e39, calibration_prompts=1)
    with pytest.raises(RecipeError, match=rf"^merge method {method}: layer \S+: \d+ numbers of the merge are NaN"):
        merge_experts(recipe, experts_in(world), world / "dataset", tmp_path)
    assert not list((tmp_path / "merged").glob("*")) + list((tmp_path / "merged").glob(".*"))


@pytest.mark.parametrize("method", ["svd", "ties_svd"])
def test_numbers_that_pefts_svd_does_not_survive_are_told_in_a_line(tmp_path, world, method):
    huge = {layer: (a * 1e30, b * 1e9) for layer, (a, b) in factors(0).items()}
    write_adapter(tmp_path / "huge", huge)
    experts = {**experts_in(world), "violence": tmp_path / "huge"}
    with pytest.raises(RecipeError, match=rf"^merge method {method}: [^\n]+$"):
        merge_experts(recipe_for(world, method=method), experts, world / "dataset", tmp_path)


def test_a_layer_that_cannot_be_solved_is_named(tmp_path, world, monkeypatch):
    def unsolvable(*args, **options):
        return torch.linalg.cholesky(-torch.eye(3))

    monkeypatch.setattr("training.merge.least_squares", unsolvable)
    recipe = recipe_for(world, method="least_squares", calibration_prompts=1)
    first = sorted(LAYERS)[0]
    with pytest.raises(RecipeError, match=rf"^merge method least_squares: layer {first}: linalg.cholesky[^\n]+$"):
        merge_experts(recipe, experts_in(world), world / "dataset", tmp_path)


def test_an_expert_whose_scaling_leaves_float32_is_named(tmp_path, world):
    write_adapter(tmp_path / "loud", factors(0), alpha=1e60)
    experts = {**experts_in(world), "violence": tmp_path / "loud"}
    with pytest.raises(RecipeError, match=r"^expert violence: layer \S+: numbers of 1e\+60 / 4 B A are beyond float32"):
        merge_experts(recipe_for(world, method="sum"), experts, world / "dataset", tmp_path)


def test_what_a_killed_merge_left_is_cleared(tmp_path, world):
    child = subprocess.Popen(["true"])
    child.wait()
    (tmp_path / "merged").mkdir()
    for name in (f".{WEIGHTS_NAME}.{child.pid}.data.part", f".coprov2.json.{child.pid}.part"):
        (tmp_path / "merged" / name).write_bytes(b"half")
    merge_experts(recipe_for(world, method="sum"), experts_in(world), world / "dataset", tmp_path)
    assert {path.name for path in (tmp_path / "merged").iterdir()} == {WEIGHTS_NAME, "coprov2.json"}


def test_an_expert_in_pefts_own_files_merges_as_the_same_one_in_diffusers(tmp_path, world):
    experts = experts_in(world)
    first = next(iter(experts))
    adapter = load_lora(experts[first])
    folder = tmp_path / "peft"
    folder.mkdir()
    tensors = {
        f"base_model.model.{layer}.lora_{side}.weight": tensor
        for layer, both in adapter.layers.items()
        for side, tensor in zip("AB", both, strict=True)
    }
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"r": 4, "lora_alpha": next(iter(adapter.alpha.values()))}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    recipe = recipe_for(world, method="sum")
    made = [
        merge_experts(recipe, {**experts, first: of}, world / "dataset", tmp_path / str(index))["sum"]
        for index, of in enumerate((experts[first], folder))
    ]
    assert (made[0] / WEIGHTS_NAME).read_bytes() == (made[1] / WEIGHTS_NAME).read_bytes()


def app_of_merge():
    app = typer.Typer()
    merge_cli.register(app)
    app.callback()(lambda: None)
    return app


def as_peft(folder, to):
    """An expert in peft's own files."""
    adapter = load_lora(folder)
    to.mkdir(parents=True)
    tensors = {
        f"base_model.model.{layer}.lora_{side}.weight": tensor
        for layer, both in adapter.layers.items()
        for side, tensor in zip("AB", both, strict=True)
    }
    save_file(tensors, to / "adapter_model.safetensors")
    (to / "adapter_config.json").write_text(json.dumps({"lora_alpha": next(iter(adapter.alpha.values()))}))


def test_the_verb_takes_experts_in_other_files_and_says_which(tmp_path, world):
    (tmp_path / "experts" / "none").mkdir(parents=True)
    (tmp_path / "experts" / "notes.txt").write_text("")
    first, second = CATEGORIES
    as_peft(world / "experts" / first, tmp_path / "experts" / first)
    write_adapter(tmp_path / "experts" / second, load_lora(world / "experts" / second).folded())
    (tmp_path / "experts" / second / WEIGHTS_NAME).rename(tmp_path / "experts" / second / "of_a_script.safetensors")
    sets = [f"merge.{field}" for field in ("compare=[]", "tune_steps=0", "method=sum")]
    options = [part for value in sets for part in ("--set", value)]
    done = CliRunner().invoke(app_of_merge(), ["merge", "--out", str(tmp_path), *options])
    assert done.exit_code == 0, done.output
    assert done.output.splitlines()[0] == (
        "experts: self_harm (adapter_model.safetensors), violence (of_a_script.safetensors); no adapter in none"
    )
    merged = merge_experts(recipe_for(world, method="sum"), experts_in(world), world / "dataset", tmp_path / "plain")
    expected = deltas(merged["sum"])
    for layer, delta in deltas(tmp_path / "merged").items():
        torch.testing.assert_close(delta, expected[layer], atol=1e-5, rtol=1e-5)


def test_an_alpha_that_changes_in_pefts_config_makes_the_merge_anew(tmp_path, world):
    experts = experts_in(world)
    as_peft(experts["violence"], tmp_path / "peft")
    recipe, taken = recipe_for(world, method="sum"), {**experts, "violence": tmp_path / "peft"}
    before = deltas(merge_experts(recipe, taken, world / "dataset", tmp_path)["sum"])
    (tmp_path / "peft" / "adapter_config.json").write_text('{"lora_alpha": 12}')
    after = deltas(merge_experts(recipe, taken, world / "dataset", tmp_path)["sum"])
    alone = deltas(experts["violence"])
    for layer, delta in after.items():
        torch.testing.assert_close(delta, before[layer] + alone[layer], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["v1.5 of hate", "forward", "keys"])
@pytest.mark.parametrize("method", ["linear", "svd"])
def test_experts_may_be_called_what_no_module_can(world, method, name):
    adapters = {category: load_lora(folder) for category, folder in experts_in(world).items()}
    expected = merge_layers(adapters, MergeConfig(method=method), no_calibration)
    called = {name: adapters["self_harm"], "violence": adapters["violence"]}
    for layer, product in merge_layers(called, MergeConfig(method=method), no_calibration).items():
        torch.testing.assert_close(full(product), full(expected[layer]))
