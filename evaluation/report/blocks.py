"""What a report is made of: parts with a verdict, sections, and blocks that the template draws. Plain values, no HTML.

A coordinate is a percentage of its axis (0 left or top, 100 right or bottom), so that drawings follow the page's width
and their letters do not shrink with it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from evaluation.targets import Target


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Args:
        text (`str`): the figure; empty where there is none.
        small (`str`): second line, such as the interval.
        sort (`float`, *optional*): what the column is sorted by; the text unless given. Empty cells stand last.
        why (`str`): why there is no figure; shown in its place.
        heat (`int`, *optional*): shade, 0..10.
        lines (`Sequence[str]`): further lines, such as published figures with their labels.
    """

    text: str = ""
    small: str = ""
    sort: float | None = None
    why: str = ""
    heat: int | None = None
    lines: Sequence[str] = ()


@dataclass(frozen=True)
class Column:
    """A column: its title, what it means (a tooltip), the group of columns it belongs to, whether it holds words."""

    title: str
    meaning: str = ""
    group: str = ""
    words: bool = False


@dataclass(frozen=True)
class Row:
    """A row: its head, its cells, the category that the filter knows it by, and whether it stands out."""

    name: str
    cells: Sequence[Cell]
    category: str = ""
    marked: bool = False


@dataclass(frozen=True)
class Table:
    """A table with sortable columns, and with a filter where it is long."""

    caption: str
    head: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    category_title: str = "category"
    note: str = ""
    kind: str = "table"

    @property
    def categories(self) -> list[str]:
        """The categories of its rows, each once, in their order."""
        return list(dict.fromkeys(row.category for row in self.rows if row.category))

    @property
    def filtered(self) -> bool:
        """Whether it has a filter: from eight rows on, or from four on where they are of several categories."""
        return len(self.rows) >= 8 or (len(self.rows) >= 4 and len(self.categories) > 1)

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Neighbouring columns of one group: its title and how many there are; empty where no column has one."""
        found: list[tuple[str, int]] = []
        for column in self.columns:
            if found and found[-1][0] == column.group:
                found[-1] = (column.group, found[-1][1] + 1)
            else:
                found.append((column.group, 1))
        return found if any(title for title, _ in found) else []


@dataclass(frozen=True)
class Mark:
    """A value with its interval in a plot; `kind` is its colour (base, merged, merge, expert)."""

    label: str
    kind: str
    text: str
    spoken: str
    x: float
    low: float
    high: float


@dataclass(frozen=True)
class IntervalPlot:
    """Values with their intervals, one a line, on one axis; those past the first forty can be folded out."""

    title: str
    meaning: str
    marks: Sequence[Mark]
    ticks: Sequence[tuple[float, str]]
    kind: str = "plot"


@dataclass(frozen=True)
class Point:
    """A point of a curve with the ends of its interval."""

    x: float
    y: float
    low: float
    high: float
    spoken: str


@dataclass(frozen=True)
class Curve:
    """A named curve; its number fixes colour, dash and sign."""

    name: str
    number: int
    points: Sequence[Point]


@dataclass(frozen=True)
class Chart:
    """Curves on two axes."""

    title: str
    meaning: str
    x_title: str
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[tuple[float, str]]
    curves: Sequence[Curve]
    kind: str = "chart"


@dataclass(frozen=True)
class SmallCharts:
    """One small line chart an expert for each logged metric, as [`evaluation.report.training`] gives them."""

    curves: Sequence[dict[str, Any]]
    kind: str = "small_charts"


@dataclass(frozen=True)
class Pairs:
    """Before/after pictures by category, as [`evaluation.report.pictures`] gives them."""

    by_category: dict[str, list[dict[str, Any]]]
    harmless: bool
    few: str = ""
    kind: str = "pairs"


@dataclass(frozen=True)
class Bars:
    """Names with a length and a text: what took how long."""

    rows: Sequence[tuple[str, float, str]]
    note: str = ""
    kind: str = "bars"


@dataclass(frozen=True)
class Facts:
    """Names with values, and all that stands behind them as text to fold out."""

    rows: Sequence[tuple[str, str]]
    title: str = ""
    all: str = ""
    all_title: str = ""
    kind: str = "facts"


Block = Table | IntervalPlot | Chart | SmallCharts | Pairs | Bars | Facts


@dataclass(frozen=True)
class Section:
    """A heading, a sentence or two, and blocks."""

    title: str
    blocks: Sequence[Block]
    note: str = ""


@dataclass(frozen=True)
class Part:
    """One evaluation, suite or study.

    Args:
        key (`str`): its anchor on the page.
        kind (`str`): what it is: "Evaluation", "Suite", "Merge study", "Scaling study".
        name (`str`): the recipe's or the suite's.
        verdict (`str`): the result in a sentence with its figures.
        sections (`Sequence[Section]`): protocol and provenance last.
        harmless (`bool`): whether harmless things play the unsafe ones.
        targets (`Sequence[Target]`): what was aimed at.
        figures (`Sequence[tuple[str, str]]`): key figures, for the index of a folder of runs.
    """

    key: str
    kind: str
    name: str
    verdict: str
    sections: Sequence[Section]
    harmless: bool
    targets: Sequence[Target] = ()
    figures: Sequence[tuple[str, str]] = field(default_factory=tuple)
