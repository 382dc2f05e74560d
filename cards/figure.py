"""The picture of a dataset card: how many pairs each split holds, by category.

Dark text on white paper, so that it reads the same on a light and on a dark page; the same counts give the same
bytes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cards.escaping import plain
from recipes.writing import whole_file

FIGURE = "images/splits.png"
INK, PAPER, RULE = "#1e2026", "#ffffff", "#d5d8de"
# Told apart with any common colour blindness, and by lightness in grey: dark to light in the order of the splits.
SPLIT_COLOURS = ("#1f3b63", "#3d79b5", "#e08a1e", "#f3c96b")
# Categories with a bar of their own; the rest share one.
MOST_BARS = 24
_LONGEST_NAME = 22
# Pixels a unit of the figure's inches, and inches: about 1100 pixels wide, so that the text of 15 points reads at the
# full width of a page and at the 360 pixels of a telephone.
_DPI, _WIDTH, _BAR, _REST = 144, 7.6, 0.42, 1.15


def bars(counts: Mapping[str, Mapping[str, int]]) -> list[tuple[str, list[int]]]:
    """Rows of the figure: name, and pairs by split.

    Args:
        counts (`Mapping`): pairs by split and category.

    Returns:
        `list`: in the order of the categories' names; past `MOST_BARS` the smaller ones stand together in a last row.
    """
    names = sorted({name for split in counts.values() for name in split})
    rows = [(name, [split.get(name, 0) for split in counts.values()]) for name in names]
    if len(rows) <= MOST_BARS:
        return rows
    largest = sorted(rows, key=lambda row: -sum(row[1]))[: MOST_BARS - 1]
    kept = [row for row in rows if row in largest]
    rest = [row[1] for row in rows if row not in largest]
    return [*kept, (f"{len(rest)} others", [sum(column) for column in zip(*rest, strict=True)])]


def _drawable(name: str, font: Any) -> str:
    """A category's name as the figure's font can draw it; what it has no glyph for becomes a box."""
    text = plain(name)
    text = text if len(text) <= _LONGEST_NAME else text[: _LONGEST_NAME - 1] + "…"
    return "".join(letter if ord(letter) in font else "□" for letter in text)


def _draw(counts: Mapping[str, Mapping[str, int]]) -> Any:
    """The picture, as a matplotlib `Figure`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties, findfont, get_font
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    # matplotlib brings this family along. A name between dollars is no formula.
    family = "DejaVu Sans"
    glyphs = get_font(findfont(FontProperties(family=family))).get_charmap()
    text: dict[str, Any] = {"fontfamily": family, "fontsize": 14, "parse_math": False}
    rows = bars(counts)
    # Inches of margin, which the paper needs on a dark page.
    layout = ConstrainedLayoutEngine(w_pad=0.16, h_pad=0.12)
    figure = Figure(figsize=(_WIDTH, _REST + _BAR * len(rows)), dpi=_DPI, facecolor=PAPER, layout=layout)
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots()
    axes.set_facecolor(PAPER)
    places, left = range(len(rows)), [0] * len(rows)
    for index, split in enumerate(counts):
        widths = [values[index] for _, values in rows]
        style = {"height": 0.68, "color": SPLIT_COLOURS[index], "edgecolor": PAPER, "linewidth": 0.6}
        axes.barh(places, widths, left=left, label=split, **style)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    for place, total in enumerate(left):
        at = {"xy": (total, place), "xytext": (6, 0), "textcoords": "offset points", "va": "center"}
        axes.annotate(f"{total:,}", color=INK, **at, **text)
    axes.set_xlim(0, 1.16 * max(left, default=1) or 1)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(places, [_drawable(name, glyphs) for name, _ in rows], color=INK, **text)
    axes.tick_params(length=0)
    axes.set_xticks([])
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)
    axes.spines["left"].set_color(RULE)
    letters = {"family": family, "size": text["fontsize"]}
    figure.legend(loc="outside upper left", ncols=2, frameon=False, prop=letters, labelcolor=INK)
    return figure


def write_figure(counts: Mapping[str, Mapping[str, int]], path: Path) -> Path:
    """Draw pairs by category and split as a PNG.

    Args:
        counts (`Mapping`): pairs by split and category; splits in their order, four at most.
        path (`Path`): of the file, which is whole or not there.
    """
    from matplotlib import style

    # As matplotlib comes, whatever the machine's own settings are; no date and no version of the program in the file:
    # its bytes depend on the counts alone.
    with style.context("default"), whole_file(path) as part:
        _draw(counts).savefig(part, format="png", dpi=_DPI, facecolor=PAPER, metadata={"Software": None})
    return path
