"""The pictures of the cards: the figure of the splits, and an adapter's gallery."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cards.figure import FIGURE, INK, MOST_BARS, PAPER, SPLIT_COLOURS, bars, write_figure
from cards.gallery import EXAMPLES, place_examples
from recipes import RecipeError

COUNTS = {"train": {"hate": 2242, "a$b$ 🔫\u202e": 7}, "test": {"hate": 1143}}


def luminance(colour: str) -> float:
    """Relative luminance of a colour (WCAG 2.2)."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """Contrast of two colours, 1 to 21 (WCAG 2.2)."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_the_same_counts_give_the_same_bytes_whatever_the_machines_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import matplotlib

    first = write_figure(COUNTS, tmp_path / "a.png").read_bytes()
    assert write_figure(COUNTS, tmp_path / "b.png").read_bytes() == first
    with matplotlib.rc_context({"axes.facecolor": "black", "font.size": 30, "savefig.dpi": 30, "text.color": "red"}):
        assert write_figure(COUNTS, tmp_path / "c.png").read_bytes() == first
    assert b"matplotlib" not in first and write_figure({"train": {"hate": 1}}, tmp_path / "d.png").read_bytes() != first


def test_the_figure_reads_on_a_light_and_on_a_dark_page(tmp_path: Path) -> None:
    with Image.open(write_figure(COUNTS, tmp_path / FIGURE)) as image:
        assert image.width > 1000
        pixels = np.asarray(image.convert("RGBA"))
    # Its own opaque paper all around, so that the page behind it does not matter.
    assert (pixels[..., 3] == 255).all()
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    assert (edge[:, :3] == 255).all() and PAPER == "#ffffff"
    assert contrast(INK, PAPER) > 7
    # Neighbours in a bar are told apart by their lightness alone.
    shades = [luminance(colour) for colour in SPLIT_COLOURS]
    assert shades == sorted(shades)
    assert all(contrast(a, b) > 1.5 for a, b in pairwise(SPLIT_COLOURS))


def test_many_categories_share_a_bar_and_none_is_lost() -> None:
    counts = {
        "train": {f"c{index:03d}": index for index in range(100)},
        "test": {f"c{index:03d}": 1 for index in range(100)},
    }
    rows = bars(counts)
    assert len(rows) == MOST_BARS and rows[-1][0] == f"{100 - MOST_BARS + 1} others"
    assert [sum(values[at] for _, values in rows) for at in (0, 1)] == [sum(range(100)), 100]
    assert rows[0][0] == "c077" and [name for name, _ in rows[:-1]] == sorted(name for name, _ in rows[:-1])


@pytest.fixture
def evaluation(tmp_path: Path) -> Path:
    folder = tmp_path / "evaluation"
    (folder / "examples").mkdir(parents=True)
    examples: list[dict[str, Any]] = []
    for index in range(10):
        name = f"{index}-merged.png"
        Image.new("RGB", (64, 64), (index, 0, 0)).save(folder / "examples" / name)
        examples.append(
            {"category": "ab"[index % 2 if index < 4 else 0], "prompt": f"p{index}", "merged": {"picture": name}}
        )
    (folder / "examples.json").write_text(json.dumps(examples))
    return folder


def test_the_gallery_has_one_of_each_category_first_as_sharp_as_drawn(evaluation: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    (adapter / "images").mkdir(parents=True)
    (adapter / "images" / "example-9.png").write_bytes(b"of an earlier card")
    widget = place_examples(adapter, evaluation)
    assert [entry["text"] for entry in widget] == ["p0", "p1", "p2", "p3", "p4", "p5"] and len(widget) == EXAMPLES
    assert sorted(path.name for path in (adapter / "images").iterdir()) == [f"example-{at}.png" for at in range(1, 7)]
    with Image.open(adapter / widget[2]["output"]["url"]) as image:
        assert image.size == (256, 256) and image.getcolors() == [(65536, (2, 0, 0))]
    # Pictures that may not be shown leave none behind.
    assert place_examples(adapter, None) == [] and not list((adapter / "images").iterdir())


def test_examples_that_are_none_are_said(evaluation: Path, tmp_path: Path) -> None:
    for text in ("{", "[1]", '[{"category": "a", "merged": {"picture": "../../x.png"}}]'):
        (evaluation / "examples.json").write_text(text)
        with pytest.raises(RecipeError, match=r"examples\.json: no examples that can be shown"):
            place_examples(tmp_path / "adapter", evaluation)


def test_a_link_among_the_examples_brings_no_other_picture_into_the_card(evaluation: Path, tmp_path: Path) -> None:
    secret = tmp_path / "private.png"
    Image.new("RGB", (8, 8)).save(secret)
    first = evaluation / "examples" / "0-merged.png"
    first.unlink()
    first.symlink_to(secret)
    with pytest.raises(RecipeError, match=r"examples\.json: no examples that can be shown"):
        place_examples(tmp_path / "adapter", evaluation)
    assert not list(tmp_path.glob("adapter/images/*"))


def test_a_picture_that_would_fill_the_memory_is_said(
    evaluation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(RecipeError, match=r"no examples that can be shown \(DecompressionBombError\)"):
        place_examples(tmp_path / "adapter", evaluation)
