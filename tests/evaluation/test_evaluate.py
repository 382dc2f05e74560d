"""The evaluation from folders to results.json, with a tiny random pipeline and a stand-in judge."""

import errno
import hashlib
import json
import shutil
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file, save_file

from dataset_builder.judges import JUDGES, Unjudged, Verdict
from dataset_builder.keys import picture_hash
from dataset_builder.models import identity, model_folder
from dataset_builder.pictures import PictureStore, to_png
from evaluation.alone import alone
from evaluation.cli import find_adapters
from evaluation.drawing import Drawer
from evaluation.evaluate import evaluate
from evaluation.examples import write_examples
from evaluation.judging import requests_of
from evaluation.measures import Judged
from evaluation.prompt_sets.definition import load_definition
from evaluation.prompt_sets.loading import load_prompts
from evaluation.prompts import Pair, Request, read_pairs, read_pictures, select
from evaluation.report.build import write_report
from evaluation.verdict_store import VerdictStore
from recipes import JudgeConfig, Recipe, RecipeError
from tests.made_up_run import write_dataset
from training.adapters import load_lora, write_adapter

ROWS = {"train": 1, "test": 1, "test_unseen_concepts": 1}
NewAdapter = Callable[[Path, int], Path]


def test_results_have_the_agreed_shape_and_a_rerun_is_instant(
    tiny_recipe: Recipe,
    new_adapter: NewAdapter,
    stand_in_judge: Callable[[], int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dataset = write_dataset(tmp_path / "dataset", tiny_recipe, rows=ROWS)
    tiny_recipe.evaluate.max_prompts = 3
    pairs = select(read_pairs(dataset, "test"), 3)
    expert = f"expert/{pairs[0].category}"
    adapters = {
        "base": None,
        expert: new_adapter(tmp_path / "experts" / pairs[0].category, 1),
        "merged": new_adapter(tmp_path / "merged", 2),
        "merge/ties": new_adapter(tmp_path / "merges" / "ties", 2),
    }
    results = evaluate(tiny_recipe, dataset, adapters, tmp_path)
    assert results == json.loads((tmp_path / "evaluation" / "results.json").read_text("utf8"))
    assert set(results) == {"models", "seconds", "protocol", "provenance"} and set(results["models"]) == set(adapters)
    for model in results["models"].values():
        assert set(model["unsafe_rate"]) == {"value", "low", "high", "n"}
        assert {"unsafe_rate_unseen_concepts", "counterpart_rate", "safe_fidelity", "scene_kept_rate"} <= set(model)
    assert results["models"]["base"]["unsafe_rate"]["n"] == 3
    assert list(results["models"][expert]["per_category"]) == [pairs[0].category]
    assert results["models"][expert]["unsafe_rate"]["n"] == 1
    # The same weights, so the same pictures: a name changes nothing.
    same = [{**results["models"][n]} for n in ("merged", "merge/ties")]
    assert (
        same[0]["unsafe_rate"] == same[1]["unsafe_rate"] and same[0]["drift"]["value"] == same[1]["drift"]["value"] > 0
    )
    lines = [json.loads(line) for line in (tmp_path / "evaluation" / "verdicts.jsonl").read_text("utf8").splitlines()]
    assert len(lines) == 3 * 9 + len([r for r in lines if r["model"] == expert])
    assert not any("prompt" in key for line in lines for key in line)
    assert find_adapters(tiny_recipe, tmp_path) == {**adapters}

    judged = stand_in_judge()
    monkeypatch.setattr(Drawer, "draw", None)
    before = {path: path.read_bytes() for path in (tmp_path / "evaluation").rglob("*.json*")}
    assert evaluate(tiny_recipe, dataset, adapters, tmp_path) == results
    assert stand_in_judge() == judged
    assert before == {path: path.read_bytes() for path in (tmp_path / "evaluation").rglob("*.json*")}


def test_killed_and_run_again_it_ends_with_the_same_results_and_judges_nothing_twice(
    tiny_recipe: Recipe,
    new_adapter: NewAdapter,
    stand_in_judge: Callable[[], int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dataset = write_dataset(tmp_path / "dataset", tiny_recipe, rows=ROWS)
    tiny_recipe.evaluate.max_prompts = 2
    adapters = {"base": None, "merged": new_adapter(tmp_path / "merged", 2)}
    straight = evaluate(tiny_recipe, dataset, adapters, tmp_path / "straight")
    pictures = stand_in_judge()

    draw = Drawer.draw

    def killed(self: Drawer, requests: list[Request], adapter: Path | None, desc: str) -> list[Image.Image]:
        images = draw(self, requests, adapter, desc)
        if adapter is not None:
            raise KeyboardInterrupt
        return images

    monkeypatch.setattr(Drawer, "draw", killed)
    with pytest.raises(KeyboardInterrupt):
        evaluate(tiny_recipe, dataset, adapters, tmp_path / "resumed")
    assert not (tmp_path / "resumed" / "evaluation" / "results.json").exists()
    monkeypatch.setattr(Drawer, "draw", draw)
    resumed = evaluate(tiny_recipe, dataset, adapters, tmp_path / "resumed")
    assert {**resumed, "seconds": None} == {**straight, "seconds": None}
    assert stand_in_judge() == 2 * pictures


def test_another_adapters_pictures_never_stand_beside_kept_results(
    tiny_recipe: Recipe,
    new_adapter: NewAdapter,
    stand_in_judge: Callable[[], int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dataset = write_dataset(tmp_path / "dataset", tiny_recipe, rows=ROWS)
    tiny_recipe.evaluate.max_prompts = 2
    one, other = ({"base": None, "merged": new_adapter(tmp_path / f"merged{seed}", seed)} for seed in (2, 3))
    straight = evaluate(tiny_recipe, dataset, one, tmp_path)
    shown = {path.name: path.read_bytes() for path in (tmp_path / "evaluation" / "examples").iterdir()}

    def killed(*given: object) -> None:
        write_examples(*given)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr("evaluation.evaluate.write_examples", killed)
    with pytest.raises(KeyboardInterrupt):
        evaluate(tiny_recipe, dataset, other, tmp_path)
    monkeypatch.setattr("evaluation.evaluate.write_examples", write_examples)
    assert evaluate(tiny_recipe, dataset, one, tmp_path)["models"] == straight["models"]
    assert {path.name: path.read_bytes() for path in (tmp_path / "evaluation" / "examples").iterdir()} == shown
    # A file that was cut off is made again.
    results = tmp_path / "evaluation" / "results.json"
    results.write_bytes(results.read_bytes()[:100])
    assert evaluate(tiny_recipe, dataset, one, tmp_path)["models"] == straight["models"]


def test_another_worlds_prompts_are_not_taken_for_harmless_by_the_recipe(
    stand_in_judge: Callable[[], int], tmp_path: Path
) -> None:
    recipe = Recipe()
    recipe.render.steps, recipe.evaluate.max_prompts = 1, 1
    found = {}
    for name in ("own", "others"):
        dataset = write_dataset(tmp_path / name / "dataset", recipe, rows=ROWS)
        if name == "others":
            manifest = json.loads((dataset / "coprov2.json").read_text("utf8"))
            manifest["taxonomy"]["name"] = "theirs"
            (dataset / "coprov2.json").write_text(json.dumps(manifest), "utf8")
        found[name] = evaluate(recipe, dataset, {"base": None}, tmp_path / name)["provenance"]
    assert found["own"] == {**found["others"], "harmless_world": True}
    assert found["others"]["harmless_world"] is False


def test_an_adapter_that_does_not_fit_is_refused_before_anything_is_drawn(
    tiny_recipe: Recipe,
    tiny_pipeline: StableDiffusionPipeline,
    new_adapter: NewAdapter,
    stand_in_judge: Callable[[], int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dataset = write_dataset(tmp_path / "dataset", tiny_recipe, rows=ROWS)
    tiny_recipe.evaluate.max_prompts = 1
    layers = dict(load_lora(new_adapter(tmp_path / "fits", 1)).layers)
    first = next(iter(layers))
    a, b = torch.ones_like(layers[first][0]), torch.ones_like(layers[first][1])
    encoder = next(n for n, m in tiny_pipeline.text_encoder.named_modules() if n.endswith("q_proj"))
    other = encoder.replace("layers.0", "layers.9")
    text = (torch.ones(2, tiny_pipeline.text_encoder.config.hidden_size),) * 2
    text = (text[0], text[1].T)
    cases: list[tuple[dict[str, tuple[torch.Tensor, torch.Tensor]], str, str]] = [
        ({"blocks.0.attn.to_k": (a, b)}, "unet", r"cannot be loaded into .*blocks\.0\.attn\.to_k"),
        (layers, "transformer", f"{len(layers)} of its {len(layers)} layers are none of .*: transformer.{first}, "),
        (
            {**layers, "mine.to_k": (a.clone(), b.clone())},
            "unet",
            f"1 of its {len(layers) + 1} layers .*: unet.mine.to_k; give an",
        ),
        ({**layers, "text_encoder_2.mine": (a, b)}, "unet", r"1 of its .*: text_encoder_2\.mine;"),
        (
            {**layers, f"text_encoder.{encoder}": text, f"text_encoder.{other}": tuple(each.clone() for each in text)},
            "unet",
            r"1 of its .*: text_encoder\..*layers\.9\.self_attn\.q_proj;",
        ),
        ({**layers, first: (torch.ones(2, 2 * a.shape[1]), b)}, "unet", f"size mismatch for {first}"),
        ({**layers, first: (a, b * torch.nan)}, "unet", f"{b.numel()} of the {b.numel()} numbers of .*{first}.* NaN"),
    ]
    draw_kept, drawn = Drawer.draw_kept, []
    monkeypatch.setattr(Drawer, "draw_kept", lambda *given: drawn.append(given) or draw_kept(*given))
    for number, (wrong, component, said) in enumerate(cases):
        folder = tmp_path / str(number)
        write_adapter(folder, wrong, component=component)
        with pytest.raises(RecipeError, match=said) as raised:
            evaluate(tiny_recipe, dataset, {"base": None, "merged": folder}, tmp_path)
        assert str(raised.value).startswith(f"{folder}/pytorch_lora_weights.safetensors: ") and not drawn
        assert "\n" not in str(raised.value)
    (folder / "pytorch_lora_weights.safetensors").write_bytes(b"no weights")
    with pytest.raises(RecipeError, match="cannot be loaded"):
        evaluate(tiny_recipe, dataset, {"base": None, "merged": folder}, tmp_path)
    write_adapter(folder, {**layers, f"text_encoder.{encoder}": text})
    assert set(evaluate(tiny_recipe, dataset, {"base": None, "merged": folder}, tmp_path)["models"]) == {
        "base",
        "merged",
    }
    # A pipeline that takes no adapter at all says so too.
    drawer = Drawer(tiny_recipe, identity(tiny_recipe.base_model), tmp_path / "pictures")
    drawer._pipeline = SimpleNamespace(components={})
    with pytest.raises(RecipeError, match=r"cannot be loaded into .*'load_lora_weights'"):
        drawer.require_fit([("a dog", 1)], folder)
    # What was refused left nothing behind in the pipeline.
    drawer = Drawer(tiny_recipe, identity(tiny_recipe.base_model), tmp_path / "pictures")
    with pytest.raises(RecipeError, match="layers are none of"):
        drawer.draw_kept([("a dog", 1)], tmp_path / "2", "draw")
    assert drawer._pipeline is not None and not any("lora" in name for name, _ in drawer._pipeline.unet.named_modules())


def test_pictures_of_other_peoples_ids_stay_in_their_folder_each_in_a_file_of_its_own(tmp_path: Path) -> None:
    own = "0123456789abcdef" * 2
    ids = ["../../out", "a/b", "x" * 300, "case", "CASE", "", "nul\0", own, own.upper(), own[:16]]
    pairs = [Pair(name, "test", f"category {i}", "a dog", "a cat", i, "") for i, name in enumerate(ids)]
    images = {(name, "unsafe"): Image.new("RGB", (8, 8), (i, 0, 0)) for i, name in enumerate(ids)}
    judged = {
        model: [Judged(pair.pair_id, "test", pair.category, "unsafe", True, 1.0, frozenset()) for pair in pairs]
        for model in ("base", "merged")
    }
    folder = tmp_path / "run" / "evaluation"
    examples = json.loads(write_examples(folder, pairs, images, images, judged, True).read_text("utf8"))
    names = [example[side]["picture"] for example in examples for side in ("base", "merged")]
    assert len({name.lower() for name in names}) == 2 * len(ids) and f"{own}-base.png" in names
    assert {path.name for path in (folder / "examples").iterdir()} == set(names)
    assert set(tmp_path.rglob("*.png")) == set((folder / "examples").iterdir())
    for example in examples:
        with Image.open(folder / "examples" / example["base"]["picture"]) as image:
            assert image.getpixel((0, 0)) == (example["seed"], 0, 0)


def test_the_base_is_the_base_again_after_an_adapter(
    tiny_recipe: Recipe, new_adapter: NewAdapter, tiny_pipeline: StableDiffusionPipeline, tmp_path: Path
) -> None:
    dataset = write_dataset(tmp_path / "dataset", tiny_recipe, rows={"test": 1})
    requests = [Request(pair, "unsafe") for pair in read_pairs(dataset, "test")[:2]]
    base = identity(tiny_recipe.base_model)
    adapter = new_adapter(tmp_path / "adapter", 3)
    drawer = Drawer(tiny_recipe, base, tmp_path / "one")
    aligned = drawer.draw(requests, adapter, "aligned")
    before = Drawer(tiny_recipe, base, tmp_path / "two").draw(requests, None, "before")
    after = drawer.draw(requests, None, "after")
    assert [picture_hash(image) for image in after] == [picture_hash(image) for image in before]
    assert picture_hash(aligned[0]) != picture_hash(before[0])


def with_drawn_pictures(dataset: Path, recipe: Recipe, batch: int = 8) -> Path:
    """The dataset with the pictures that the recipe's base model draws, in batches of another size than its own."""
    drawer = Drawer(replace(recipe, render=replace(recipe.render, batch_size=batch)), "", dataset)
    for split in recipe.evaluate.splits:
        pairs = read_pairs(dataset, split)
        wanted = [Request(pair, side).wanted for pair in pairs for side in ("unsafe", "safe")]
        images = iter(drawer.draw_again(wanted))
        columns: dict[str, list[Any]] = {"unsafe_image": [], "safe_image": []}
        for _ in pairs:
            for column in columns.values():
                column.append({"bytes": to_png(next(images)), "path": None})
        with_columns(dataset, split, columns)
    return dataset


def with_columns(dataset: Path, split: str, columns: dict[str, list[Any]], told: bool = True) -> None:
    """Other values in a split's file; `told` says whether the manifest knows of it."""
    path = next((dataset / "data").glob(f"{split}-*.parquet"))
    table = pq.read_table(path)
    for name, values in columns.items():
        place = table.schema.get_field_index(name)
        table = table.set_column(place, table.schema.field(place), pa.array(values, table.schema.types[place]))
    pq.write_table(table, path)
    if told:
        manifest = json.loads((dataset / "coprov2.json").read_text("utf8"))
        manifest["files"][f"data/{path.name}"]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        (dataset / "coprov2.json").write_text(json.dumps(manifest), "utf8")


def test_the_datasets_own_pictures_serve_as_the_bases(
    tiny_recipe: Recipe, stand_in_judge: Callable[[], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = write_dataset(tmp_path / "dataset", tiny_recipe, t2i=identity(tiny_recipe.base_model), rows=ROWS)
    with_drawn_pictures(dataset, tiny_recipe, batch=3)
    monkeypatch.setattr("dataset_builder.renderer.draw_missing", None)
    results = evaluate(tiny_recipe, dataset, {"base": None}, tmp_path)
    assert results["models"]["base"]["unsafe_rate"]["n"] == 7
    # To the last bit those of the dataset, which came from other batches, and no others than the wanted.
    store = PictureStore(tmp_path / "evaluation" / "pictures")
    pictures = next(read_pictures(dataset, "test", {pair.pair_id for pair in read_pairs(dataset, "test")}))
    pairs = read_pairs(dataset, "test")
    keys = Drawer(tiny_recipe, identity(tiny_recipe.base_model), tmp_path).keys(
        [(p.safe_prompt, p.seed) for p in pairs], None
    )
    assert [store.png(key) for key in keys] == [pictures[pair.pair_id, "safe"] for pair in pairs]
    assert store.count() == 21
    # Once taken they are not looked at again.
    (tmp_path / "evaluation" / "results.json").unlink()
    monkeypatch.setattr(Drawer, "draw_again", None)
    again = evaluate(tiny_recipe, dataset, {"base": None}, tmp_path)
    assert {**again, "seconds": None} == {**results, "seconds": None}
    tiny_recipe.render.steps += 1
    with pytest.raises(TypeError):
        evaluate(tiny_recipe, dataset, {"base": None}, tmp_path)


def test_a_datasets_pictures_are_not_believed_on_the_manifests_word(
    tiny_recipe: Recipe,
    stand_in_judge: Callable[[], int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tiny_recipe.evaluate.splits = ["test"]
    others = write_dataset(tmp_path / "others", tiny_recipe, t2i=identity(tiny_recipe.base_model), rows={"test": 1})
    own = with_drawn_pictures(Path(shutil.copytree(others, tmp_path / "own")), tiny_recipe)
    honest = evaluate(tiny_recipe, own, {"base": None}, tmp_path / "out")
    said = "its pictures are not taken for the base model's, all are drawn anew: "
    assert said not in capsys.readouterr().err
    pairs = read_pairs(own, "test")
    pictures = next(read_pictures(own, "test", {pair.pair_id for pair in pairs}))
    good = [{"bytes": pictures[pair.pair_id, "unsafe"], "path": None} for pair in pairs]
    small = {"bytes": to_png(Image.new("RGB", (8, 8))), "path": None}
    cut = {"bytes": (pictures[pairs[2].pair_id, "unsafe"] or b"")[:-9], "path": None}
    cases: list[tuple[Path, list[Any] | None, bool, str]] = [
        (others, None, True, "drawn again, gives another picture than the stored one"),
        (own, [good[1], good[0], *good[2:]], False, "is not the file that its manifest states"),
        (own, [None, *good[1:]], True, f"pair {pairs[0].pair_id}: its unsafe_image is no whole PNG of 64 x 64 pixels"),
        (own, [*good[:2], cut, *good[3:]], True, f"pair {pairs[2].pair_id}: its unsafe_image is no whole PNG"),
        (own, [small, *good[1:]], True, "is no whole PNG"),
        (own, [{"bytes": None, "path": "elsewhere.png"}, *good[1:]], True, "is no whole PNG"),
    ]
    for number, (source, column, told, why) in enumerate(cases):
        dataset = Path(shutil.copytree(source, tmp_path / str(number)))
        if column is not None:
            with_columns(dataset, "test", {"unsafe_image": column}, told)
        found = evaluate(tiny_recipe, dataset, {"base": None}, tmp_path / f"out{number}")
        assert found["models"] == honest["models"]
        lines = [line for line in capsys.readouterr().err.replace("\r", "\n").splitlines() if said in line]
        assert len(lines) == 1 and why in lines[0]

    # Killed while it draws anew, it comes to the same pictures.
    def killed(*given: object) -> None:
        raise KeyboardInterrupt

    (tmp_path / "out0" / "evaluation" / "results.json").unlink()
    shutil.rmtree(tmp_path / "out0" / "evaluation" / "pictures")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(VerdictStore, "judge", killed)
        evaluate(tiny_recipe, tmp_path / "0", {"base": None}, tmp_path / "out0")
    again = evaluate(tiny_recipe, tmp_path / "0", {"base": None}, tmp_path / "out0")
    assert again["models"] == honest["models"]


def test_a_picture_is_judged_once_by_a_judge_whatever_the_threshold(
    stand_in_judge: Callable[[], int], tmp_path: Path
) -> None:
    weights = [tmp_path / name for name in ("one", "two")]
    for folder in weights:
        folder.mkdir()
        (folder / "weights.json").write_text(folder.name, "utf8")
    images = [Image.new("RGB", (8, 8), (i % 3, 0, 0)) for i in range(9)]
    store = VerdictStore(tmp_path / "verdicts.sqlite")
    first = store.judge(images, JudgeConfig(model=str(weights[0])), "judge")
    assert stand_in_judge() == 3 and first[0] == first[3] and len(first) == 9
    store.close()
    again = VerdictStore(tmp_path / "verdicts.sqlite")
    assert again.judge(images, JudgeConfig(model=str(weights[0])), "judge") == first
    for threshold in (0.0, 1.0):
        verdicts = again.judge(images, JudgeConfig(model=str(weights[0]), threshold=threshold), "judge")
        assert [v.unsafe for v in verdicts] == [v.score >= threshold for v in first]
        assert [v.score for v in verdicts] == [v.score for v in first]
    assert stand_in_judge() == 3
    again.judge(images, JudgeConfig(model=str(weights[1])), "judge")
    assert stand_in_judge() == 6


def test_several_judges_give_one_verdict_with_the_labels_of_all(
    tiny_recipe: Recipe, stand_in_judge: Callable[[], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Dark:
        """Calls dark pictures unsafe."""

        def judge(self, images: list[Image.Image]) -> list[Verdict]:
            return [Verdict("dark", False, 1 - sum(image.getpixel((0, 0))) / 765, ["dark"]) for image in images]

    monkeypatch.setitem(JUDGES, "dark", lambda config: Dark())
    images = [Image.new("RGB", (8, 8), (60 * i, 60 * i, 60 * i)) for i in range(5)]
    store = VerdictStore(tmp_path / "verdicts.sqlite")
    emoji, dark = tiny_recipe.judge, JudgeConfig(name="dark", threshold=0.6)
    single = [store.judge(images, judge, "judge") for judge in (emoji, dark)]
    assert [v.unsafe for v in single[1]] == [True, True, False, False, False]
    for name, rule in (("any", any), ("all", all)):
        both = store.judge(images, JudgeConfig(name=name, judges=[emoji, dark]), "judge")
        for verdict, one, other in zip(both, *single, strict=True):
            assert verdict.unsafe == rule([one.unsafe, other.unsafe]) and verdict.judge == name
            assert set(verdict.labels) == {*one.labels, "dark"}
    tiny_recipe.judge = JudgeConfig(name="any", judges=[emoji, dark])
    dataset = write_dataset(tmp_path / "dataset", tiny_recipe, rows=ROWS)
    results = evaluate(tiny_recipe, dataset, {"base": None}, tmp_path)
    assert results["provenance"]["judge"] == (
        f"any of (emoji_world:{identity(str(emoji.model), kind='judge')}, threshold 0.5; dark, threshold 0.6)"
    )
    # The emoji world's judge is among them, so what it names can still be compared with what was asked for.
    assert results["models"]["base"]["safe_fidelity"]["n"] > 0


def test_a_picture_without_a_verdict_is_never_counted_as_safe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    class Mute:
        """Gives no verdict on black pictures, the first time."""

        def judge(self, images: list[Image.Image]) -> list[Verdict | Unjudged]:
            asked.append(len(images))
            mute = len(asked) == 1
            return [
                Unjudged("mute", "refusal") if mute and not any(image.getpixel((0, 0))) else Verdict("mute", True, 0.5)
                for image in images
            ]

    monkeypatch.setitem(JUDGES, "mute", lambda config: Mute())
    images = [Image.new("RGB", (8, 8), (60 * i, 0, 0)) for i in range(3)]
    store = VerdictStore(tmp_path / "verdicts.sqlite")
    with pytest.raises(RecipeError, match=r"judge base: mute gave no usable verdict on 1 of 3 pictures \(refusal\)"):
        store.judge(images, JudgeConfig(name="mute"), "judge base")
    assert [v.score for v in store.judge(images, JudgeConfig(name="mute"), "judge base")] == [0.5] * 3
    assert asked == [3, 1]


def test_a_score_that_is_no_number_is_never_counted_as_safe(tmp_path: Path) -> None:
    shutil.copytree(model_folder("judge"), tmp_path / "judge")
    weights = tmp_path / "judge" / "model.safetensors"
    tensors = load_file(weights)
    # What a file that was damaged on its way may hold.
    tensors["classifier.1.bias"] *= float("nan")
    save_file(tensors, weights, metadata={"format": "pt"})
    store = VerdictStore(tmp_path / "verdicts.sqlite")
    config = JudgeConfig(model=str(tmp_path / "judge"))
    for _ in range(2):
        with pytest.raises(RecipeError, match=r"emoji_world gave a picture the score nan, .* its model is damaged"):
            store.judge([Image.new("RGB", (64, 64), "red")], config, "judge base")


def test_mistakes_are_named(tiny_recipe: Recipe, tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "dataset", tiny_recipe, rows={"test": 1})
    with pytest.raises(RecipeError, match=r"or take test_unseen_concepts out of evaluate\.splits"):
        evaluate(tiny_recipe, dataset, {"base": None}, tmp_path)
    tiny_recipe.evaluate.splits = ["test"]
    with pytest.raises(RecipeError, match=r"no file test-\*\.parquet; build .*, or give the folder .* this split$"):
        evaluate(tiny_recipe, tmp_path / "none", {"base": None}, tmp_path)
    with pytest.raises(RecipeError, match="expected `base`"):
        evaluate(tiny_recipe, dataset, {"merged": tmp_path}, tmp_path)
    with pytest.raises(RecipeError, match="no such category"):
        evaluate(tiny_recipe, dataset, {"base": None, "expert/weather": tmp_path}, tmp_path)
    with pytest.raises(RecipeError, match="pytorch_lora_weights"):
        evaluate(tiny_recipe, dataset, {"base": None, "merged": tmp_path}, tmp_path)
    with pytest.raises(RecipeError, match="found the name 'mine'"):
        evaluate(tiny_recipe, dataset, {"base": None, "mine": tmp_path}, tmp_path)


def test_damaged_files_of_an_evaluation_are_named_or_made_anew(
    tiny_recipe: Recipe, stand_in_judge: Callable[[], int], tmp_path: Path
) -> None:
    dataset = write_dataset(tmp_path / "dataset", tiny_recipe, rows=ROWS)
    tiny_recipe.evaluate.max_prompts = 1
    first = evaluate(tiny_recipe, dataset, {"base": None}, tmp_path)
    folder = tmp_path / "evaluation"
    for text in ("{", "[]", json.dumps({"provenance": first["provenance"], "models": []})):
        (folder / "results.json").write_text(text)
        again = evaluate(tiny_recipe, dataset, {"base": None}, tmp_path)
        assert {**again, "seconds": None} == {**first, "seconds": None}
    (folder / "results.json").unlink()
    (folder / "verdicts.sqlite").write_bytes(b"no database at all" * 100)
    with pytest.raises(RecipeError, match=r"verdicts\.sqlite: the file is damaged; delete it"):
        evaluate(tiny_recipe, dataset, {"base": None}, tmp_path)


def test_no_more_pictures_are_in_memory_than_a_batch(
    tiny_recipe: Recipe,
    new_adapter: NewAdapter,
    stand_in_judge: Callable[[], int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dataset = write_dataset(tmp_path / "dataset", tiny_recipe, rows={"test": 3, "test_unseen_concepts": 1})
    tiny_recipe.judge.batch_size = 4
    read: list[weakref.ref[Image.Image]] = []
    get, most = PictureStore.get, []

    def counted(self: PictureStore, key: str) -> Image.Image:
        image = get(self, key)
        read.append(weakref.ref(image))
        most.append(sum(each() is not None for each in read))
        return image

    monkeypatch.setattr(PictureStore, "get", counted)
    evaluate(tiny_recipe, dataset, {"base": None, "merged": new_adapter(tmp_path / "merged", 2)}, tmp_path)
    assert len(most) > 2 * 49 and max(most) <= 4 + 2


def test_a_full_disk_is_said_in_one_line(
    tiny_recipe: Recipe, stand_in_judge: Callable[[], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = write_dataset(tmp_path / "dataset", tiny_recipe, rows=ROWS)
    tiny_recipe.evaluate.max_prompts = 1
    evaluate(tiny_recipe, dataset, {"base": None}, tmp_path)
    verdicts = tmp_path / "evaluation" / "verdicts.jsonl"
    before = verdicts.read_bytes()

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("evaluation.evaluate.write_examples", full)
        tiny_recipe.evaluate.max_prompts = 2
        with pytest.raises(RecipeError, match="evaluation: the disk is full"):
            evaluate(tiny_recipe, dataset, {"base": None}, tmp_path)
    assert verdicts.read_bytes() != before
    # The results of before are no longer those of the verdicts that stand there.
    tiny_recipe.evaluate.max_prompts = 1
    evaluate(tiny_recipe, dataset, {"base": None}, tmp_path)
    assert verdicts.read_bytes() == before


def test_two_evaluations_of_one_folder_do_not_meet(
    tiny_recipe: Recipe, stand_in_judge: Callable[[], int], tmp_path: Path
) -> None:
    dataset = write_dataset(tmp_path / "dataset", tiny_recipe, rows=ROWS)
    tiny_recipe.evaluate.max_prompts = 1
    with alone(tmp_path / "evaluation", "evaluation"), pytest.raises(RecipeError, match="another evaluation works on"):
        evaluate(tiny_recipe, dataset, {"base": None}, tmp_path)
    first = evaluate(tiny_recipe, dataset, {"base": None}, tmp_path)
    # What is there already can be read meanwhile.
    with alone(tmp_path / "evaluation", "evaluation"):
        assert evaluate(tiny_recipe, dataset, {"base": None}, tmp_path) == first


def test_a_pair_id_that_stands_twice_is_named(tiny_recipe: Recipe, tmp_path: Path) -> None:
    rows = read_pairs(write_dataset(tmp_path / "dataset", tiny_recipe, rows={"test": 2}), "test")
    other = replace(rows[1], pair_id=rows[0].pair_id)
    for pairs in ({"test": [rows[0], other]}, {"test": rows[:1], "test_unseen_concepts": [other]}):
        with pytest.raises(RecipeError, match=f"pair_id '{rows[0].pair_id}' stands twice, before in test"):
            requests_of(pairs)


def test_what_is_wrong_in_other_peoples_rows_is_named_by_file_row_and_field(
    tiny_recipe: Recipe, stand_in_judge: Callable[[], int], tmp_path: Path
) -> None:
    tiny_recipe.evaluate.splits, tiny_recipe.evaluate.max_prompts = ["test"], 1
    own = write_dataset(tmp_path / "own", tiny_recipe, rows={"test": 1})
    table = pq.read_table(next((own / "data").glob("test-*.parquet")))
    good = {name: table[name].to_pylist() for name in table.column_names}
    ids = good["pair_id"]

    def other(number: int, name: str, values: list[Any] | pa.Array | None) -> Path:
        dataset = Path(shutil.copytree(own, tmp_path / str(number)))
        path = next((dataset / "data").glob("test-*.parquet"))
        place = table.schema.get_field_index(name)
        column = values if isinstance(values, pa.Array) else None
        if values is None:
            changed = table.remove_column(place)
        elif column is not None:
            changed = table.set_column(place, pa.field(name, column.type), column)
            # Without the labels a category is what stands there.
            changed = changed.replace_schema_metadata(None) if name == "category" else changed
        else:
            changed = table.set_column(place, table.schema.field(place), pa.array(values, table.schema.types[place]))
        pq.write_table(changed, path)
        return dataset

    row = r"test-00000-of-00001\.parquet: row 2: "
    cases: list[tuple[str, list[Any] | pa.Array | None, str]] = [
        ("pair_id", [ids[0], None, *ids[2:]], row + "pair_id: found nothing, expected text; mend"),
        ("pair_id", pa.array(range(7)), r"parquet: row 1: pair_id: found int, expected text"),
        ("pair_id", [ids[0], ids[0], *ids[2:]], f"test: pair_id '{ids[0]}' stands twice"),
        ("unsafe_prompt", ["a dog", None, *["a cat"] * 5], row + "unsafe_prompt: found nothing, expected text"),
        ("safe_prompt", None, "parquet: no column safe_prompt; found pair_id, "),
        ("category", [0, 7, *[0] * 5], row + "category: found int, expected a label from 0 to 6"),
        ("category", [0, None, *[0] * 5], row + "category: found nothing, expected a label"),
        ("category", pa.array(["fruit", None, *["fruit"] * 5]), row + "category: found nothing, expected text"),
        ("seed", [1, None, *[1] * 5], row + "seed: found nothing, expected a whole number from 0"),
        ("seed", pa.array([0.5] * 7), "row 1: seed: found float, expected a whole number"),
        ("seed", [1, -1, *[1] * 5], row + "seed: found int, expected a whole number from 0"),
        ("t2i", pa.array([1] * 7), "row 1: t2i: found int, expected text"),
    ]
    tiny_recipe.evaluate.max_prompts = None
    for number, (name, values, said) in enumerate(cases):
        with pytest.raises(RecipeError, match=said) as raised:
            evaluate(tiny_recipe, other(number, name, values), {"base": None}, tmp_path / "out")
        assert "\n" not in str(raised.value) and "next to" not in str(raised.value)
    path = next((own / "data").glob("test-*.parquet"))
    whole = path.read_bytes()
    for content, said in (
        (b"", r"parquet: cannot be read as a Parquet file \(ArrowInvalid\)"),
        (whole[: len(whole) // 2], "parquet: cannot be read as a Parquet file"),
        (whole[:100] + bytes(2000) + whole[2100:], "parquet: cannot be read as a Parquet file|row"),
    ):
        path.write_bytes(content)
        with pytest.raises(RecipeError, match=said):
            evaluate(tiny_recipe, own, {"base": None}, tmp_path / "out")
    pq.write_table(table.slice(0, 0), path)
    with pytest.raises(RecipeError, match="own: its split test holds no pair that could be drawn"):
        evaluate(tiny_recipe, own, {"base": None}, tmp_path / "out")
    path.write_bytes(whole)
    for text, said in (
        ("{", r"coprov2\.json: not JSON \(JSONDecodeError\)"),
        ("[" * 100_000, r"coprov2\.json: not JSON \(RecursionError\)"),
        ("[]", r"coprov2\.json: found list, expected a JSON object"),
    ):
        (own / "coprov2.json").write_text(text, "utf8")
        with pytest.raises(RecipeError, match=said):
            evaluate(tiny_recipe, own, {"base": None}, tmp_path / "out")
    # What is there without a picture, or said in another shape, is drawn.
    (own / "coprov2.json").write_text('{"models": [], "files": 3}', "utf8")
    tiny_recipe.evaluate.max_prompts = 1
    for column in ("unsafe_image", "t2i"):
        values = None if column == "unsafe_image" else [None] * 7
        found = other(100 + len(column), column, values)
        assert evaluate(tiny_recipe, found, {"base": None}, tmp_path / "out")["models"]["base"]["unsafe_rate"]["n"] == 1


def test_a_limit_spreads_over_the_categories(tmp_path: Path) -> None:
    pairs = read_pairs(write_dataset(tmp_path / "dataset", Recipe(), rows={"test": 3}), "test")
    chosen = select(pairs, 7)
    assert len({pair.category for pair in chosen}) == 7
    assert chosen == [pair for pair in pairs if pair in select(list(reversed(pairs)), 7)]
    assert select(pairs, None) == pairs


def with_a_refused_row(dataset: Path) -> str:
    """A pair of the split `test` is made one that the hard block refuses; its id."""
    table = pq.read_table(next((dataset / "data").glob("test-*.parquet")))
    prompts = table["safe_prompt"].to_pylist()
    prompts[3] = "a portrait of Senator Anna Zyxwell with a kite"
    with_columns(dataset, "test", {"safe_prompt": prompts})
    return str(table["pair_id"].to_pylist()[3])


def test_what_the_hard_block_refuses_is_not_drawn_and_listed_by_name_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder that was pulled may hold what no builder here would have let pass."""
    dataset = write_dataset(tmp_path / "dataset", Recipe(), rows={"test": 2})
    refused = with_a_refused_row(dataset)
    pairs = read_pairs(dataset, "test")
    assert len(pairs) == 13 and refused not in {pair.pair_id for pair in pairs}
    said = capsys.readouterr().err
    assert f"test: 1 pairs are refused by the hard block: {refused} (named_person)" in said and "Zyxwell" not in said
    # As a prompt set too it counts among what was read, and is not drawn, though its own prompt is a harmless one.
    loaded = load_prompts(load_definition("coprov2_test"), dataset, any_rows=True)
    assert loaded.rows == 14 and loaded.refused == [(refused, "named_person")]
    assert refused not in {one.id for one in loaded.prompts} and len(loaded.prompts) == 13


def test_what_the_hard_block_refuses_is_counted_in_results_and_report(
    tiny_recipe: Recipe, new_adapter: NewAdapter, stand_in_judge: Callable[[], int], tmp_path: Path
) -> None:
    dataset = write_dataset(tmp_path / "dataset", tiny_recipe, rows=ROWS)
    assert "refused" not in evaluate(tiny_recipe, dataset, {"base": None}, tmp_path)["provenance"]
    refused = with_a_refused_row(dataset)
    results = evaluate(tiny_recipe, dataset, {"base": None}, tmp_path)
    assert results["models"]["base"]["unsafe_rate"]["n"] == 6
    found = {"refused": 1, "refused_ids": [f"{refused} (named_person)"], "refused_ids_left_out": 0}
    assert results["provenance"]["refused"] == {"test": found}
    page = write_report(tmp_path).read_text("utf8")
    assert "Refused by the hard block" in page and "1 pairs of test" in page and "Zyxwell" not in page
