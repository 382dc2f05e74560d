"""Features and CLIPScore: against networks written out, on pictures of every mode, and on files that do not fit."""

import hashlib
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from evaluation.metrics.clip_score import load_clip_score
from evaluation.metrics.features import load_features
from recipes import RecipeError
from tests.evaluation.metrics.tiny_networks import (
    NotNumbers,
    Plain,
    WithOption,
    write_clip,
    write_inception,
    write_torchscript,
)


def pictures(n: int = 3, size: tuple[int, int] = (20, 16), seed: int = 0) -> list[Image.Image]:
    rng = np.random.default_rng(seed)
    return [Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)) for _ in range(n)]


def odd_ones() -> list[Image.Image]:
    """Pictures of other modes and of one pixel."""
    image = pictures(1)[0]
    return [image.convert(mode) for mode in ("L", "RGBA", "P", "1", "LA", "CMYK")] + [Image.new("RGB", (1, 1), "red")]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "tiny")


def test_an_inception_gives_the_features_of_the_written_out_one(tmp_path: Path) -> None:
    reference = write_inception(tmp_path / "fid.safetensors")
    network = load_features(tmp_path / "fid.safetensors", "safetensors")
    images = [*pictures(2), *pictures(1, (31, 7))]
    found = network.features(images)
    assert network.dimension == 18 and found.shape == (3, 18) and found.dtype == np.float64
    assert network.identity == "sha256:" + hashlib.sha256((tmp_path / "fid.safetensors").read_bytes()).hexdigest()
    for image, row in zip(images, found, strict=True):
        x = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float()
        x = torch.nn.functional.interpolate(x, (299, 299), mode="bilinear", align_corners=False)
        with torch.no_grad():
            expected = reference(x / 127.5 - 1)[0].numpy()
        assert row == pytest.approx(expected, abs=1e-4 * float(np.abs(expected).max()))
    assert np.ptp(found, axis=0).max() > 0.01


def test_features_do_not_depend_on_portions_and_none_are_none(tmp_path: Path) -> None:
    network = load_features(write_torchscript(tmp_path / "net.pt", WithOption()), "torchscript")
    images = [*pictures(35), *pictures(4, (8, 8)), *pictures(2)]
    whole = network.features(images)
    parts = np.concatenate([network.features(images[start : start + 3]) for start in range(0, 41, 3)])
    assert whole == pytest.approx(parts, rel=1e-6)
    assert whole[36] == pytest.approx(np.r_[np.asarray(images[36]).mean((0, 1)), np.asarray(images[36]).max((0, 1))])
    assert network.features([]).shape == (0, 6)


def test_a_torchscript_is_asked_for_features_where_it_takes_that(tmp_path: Path) -> None:
    with_option = load_features(write_torchscript(tmp_path / "a.pt", WithOption()), "torchscript")
    plain = load_features(write_torchscript(tmp_path / "b.pt", Plain()), "torchscript")
    assert (with_option.dimension, plain.dimension) == (6, 3)
    assert with_option.features(pictures(2))[:, :3] == pytest.approx(plain.features(pictures(2)))


@pytest.mark.parametrize("kind", ["safetensors", "torchscript", "clip"])
def test_pictures_of_every_mode_and_size_have_features(tmp_path: Path, clip: Path, kind: str) -> None:
    write_inception(tmp_path / "fid.safetensors")
    write_torchscript(tmp_path / "net.pt", Plain())
    path = {"safetensors": tmp_path / "fid.safetensors", "torchscript": tmp_path / "net.pt", "clip": clip}[kind]
    network = load_features(path, kind)  # type: ignore[arg-type]
    found = network.features(odd_ones())
    assert found.shape == (7, network.dimension) and np.isfinite(found).all()
    assert found == pytest.approx(network.features([image.convert("RGB") for image in odd_ones()]))


def test_numbers_that_are_none_are_refused_by_picture(tmp_path: Path) -> None:
    network = load_features(write_torchscript(tmp_path / "net.pt", NotNumbers()), "torchscript")
    with pytest.raises(RecipeError, match=r"picture 2: the features are no finite numbers \(1 of 3 pictures\)"):
        network.features([*pictures(2), *pictures(1, (5, 9))])
    with pytest.raises(RecipeError, match="picture 0: found 0 x 3 pixels"):
        network.features([Image.new("RGB", (0, 3))])


def test_weights_that_do_not_fit_name_the_first_wrong_tensor(tmp_path: Path) -> None:
    write_inception(tmp_path / "good.safetensors")
    good, path = load_file(tmp_path / "good.safetensors"), tmp_path / "bad.safetensors"
    wide = torch.zeros(3, 5, 1, 1)
    for changes, words in [
        ({"Mixed_6c.branch7x7_2.conv.weight": None}, r"Mixed_6c\.branch7x7_2\.conv\.weight: .* is missing"),
        (
            {"Mixed_5c.branch1x1.conv.weight": wide},
            r"Mixed_5c\.branch1x1\.conv\.weight: found the shape \(3, 5, 1, 1\)",
        ),
        ({"Mixed_5b.branch5x5_2.bn.bias": torch.zeros(9)}, r"Mixed_5b\.branch5x5_2\.bn\.bias: found the shape \(9,\)"),
        ({"Conv2d_1a_3x3.bn.weight": torch.full((3,), torch.nan)}, r"Conv2d_1a_3x3\.bn\.weight: found values"),
        ({"Mixed_7c.branch_pool.bn.running_var": torch.full((3,), -1.0)}, "running_var: found a negative variance"),
        ({"Mixed_8a.conv.weight": wide}, r"Mixed_8a\.conv\.weight: no tensor of FID's Inception-v3"),
        ({"AuxLogits.conv0.conv.weight": wide}, "an ImageNet classifier of 1,000 classes"),
        ({"fc.weight": torch.zeros(1000, 18)}, "an ImageNet classifier of 1,000 classes"),
    ]:
        save_file({name: t for name, t in {**good, **changes}.items() if t is not None}, path)
        with pytest.raises(RecipeError, match=words) as caught:
            load_features(path, "safetensors")
        assert "\n" not in str(caught.value) and "bad.safetensors" in str(caught.value)
    bare = {name: t for name, t in good.items() if not name.startswith("fc.") and "num_batches" not in name}
    save_file({name: t.half() for name, t in bare.items()}, path)
    assert load_features(path, "safetensors").dimension == 18


def test_files_that_are_none_are_refused_in_one_line(tmp_path: Path, clip: Path) -> None:
    (tmp_path / "noise").write_bytes(b"\x80\x02noise" * 30)
    (tmp_path / "folder").mkdir()
    for path, kind in [
        (tmp_path / "none.pt", "torchscript"), (tmp_path / "none", "safetensors"), (tmp_path / "noise", "torchscript"),
        (tmp_path / "noise", "safetensors"), (tmp_path / "folder", "clip"), (tmp_path / "folder", "safetensors"),
        (clip / "model.safetensors", "safetensors"), (clip / "model.safetensors", "torchscript"), (clip, "pickle"),
    ]:  # fmt: skip
        with pytest.raises(RecipeError) as caught:
            load_features(path, kind)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value), str(caught.value)


def test_clip_features_are_those_of_its_vision_half(clip: Path) -> None:
    from transformers import CLIPImageProcessorPil, CLIPModel

    model, processor = CLIPModel.from_pretrained(clip).eval(), CLIPImageProcessorPil.from_pretrained(clip)
    network = load_features(clip, "clip")
    pixels = processor(images=pictures(4), return_tensors="pt").pixel_values
    with torch.no_grad():
        expected = model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output).numpy()
    assert network.dimension == 12 and network.identity.startswith("tiny@")
    assert network.features(pictures(4)) == pytest.approx(expected, abs=1e-5)


PROMPTS = ["a dog next to a banana in the park", "a cat", "two balloons and a tulip on the beach"]


def test_clip_score_is_a_hundred_cosines_written_out(clip: Path) -> None:
    from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

    model, processor = CLIPModel.from_pretrained(clip).eval(), CLIPImageProcessorPil.from_pretrained(clip)
    tokenizer, expected = CLIPTokenizer.from_pretrained(clip), []
    images = pictures(6, seed=4)
    for image, prompt in zip(images, PROMPTS * 2, strict=True):
        inputs = tokenizer([prompt], return_tensors="pt")
        with torch.no_grad():
            output = model(pixel_values=processor(images=[image], return_tensors="pt").pixel_values, **inputs)
        seen, said = output.image_embeds[0].double().numpy(), output.text_embeds[0].double().numpy()
        expected.append(max(0.0, 100 * float(seen @ said) / np.linalg.norm(seen) / np.linalg.norm(said)))
    scorer = load_clip_score(clip)
    found = scorer.score(images, PROMPTS * 2)
    assert found == pytest.approx(expected, abs=1e-3) and found.dtype == np.float64
    assert np.concatenate([scorer.score([i], [p]) for i, p in zip(images, PROMPTS * 2, strict=True)]) == pytest.approx(
        found, abs=1e-4
    )
    assert scorer.identity.startswith("tiny@") and (scorer.scored, scorer.cut) == (12, 0)
    assert scorer.score([], []).shape == (0,)
    turned = scorer.score(images[::-1], (PROMPTS * 2)[::-1])
    assert turned[::-1] == pytest.approx(found, abs=1e-4) and np.ptp(found) > 1e-3


def test_long_captions_are_cut_and_counted_and_not_shown(
    clip: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    scorer = load_clip_score(clip)
    words = "banana " * 100
    with caplog.at_level(logging.DEBUG):
        cut, same = scorer.score(pictures(1) * 2, [words, words + "dog park"])
    assert cut == pytest.approx(same, abs=1e-4)
    scorer.score(pictures(1), ["banana"])
    assert (scorer.cut, scorer.scored) == (2, 3)
    shown = capfd.readouterr()
    assert "banana" not in caplog.text + shown.out + shown.err


def test_scores_that_mean_nothing_are_refused_without_a_prompt(clip: Path, tmp_path: Path) -> None:
    scorer = load_clip_score(clip)
    for images, prompts, words in [
        (pictures(2), ["a cat"], "2 pictures and 1 prompts"),
        (pictures(2), ["a cat", "  "], "prompt 1: expected a text"),
        (pictures(1), [None], "prompt 0: expected a text"),
        ([Image.new("RGB", (3, 0))], ["a cat"], "picture 0: found 3 x 0 pixels"),
    ]:
        with pytest.raises(RecipeError, match=words) as caught:
            scorer.score(images, prompts)  # type: ignore[arg-type]
        assert "cat" not in str(caught.value)
    assert np.isfinite(scorer.score(odd_ones(), ["a cat"] * 7)).all()


def test_a_clip_that_lacks_a_part_is_refused(clip: Path, tmp_path: Path) -> None:
    for missing in ("tokenizer.json", "preprocessor_config.json", "model.safetensors", "config.json"):
        folder = shutil.copytree(clip, tmp_path / missing)
        (folder / missing).unlink()
        for other in ("vocab.json", "merges.txt") if missing == "tokenizer.json" else ():
            (folder / other).unlink(missing_ok=True)
        with pytest.raises(RecipeError) as caught:
            load_clip_score(folder)
        assert "\n" not in str(caught.value), str(caught.value)
    weights = load_file(clip / "model.safetensors")
    folder = shutil.copytree(clip, tmp_path / "half")
    save_file({k: v for k, v in weights.items() if k != "text_projection.weight"}, folder / "model.safetensors",
              metadata={"format": "pt"})  # fmt: skip
    with pytest.raises(RecipeError, match=r"lacks weights of CLIP, such as text_projection\.weight"):
        load_clip_score(folder)
