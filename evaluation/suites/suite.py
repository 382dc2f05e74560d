"""What a suite is: rows, each a metric under a protocol; and the figures that others published, beside them."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evaluation.protocols.protocol import METRICS, load_protocol
from recipes.loading import RecipeError, fill, find_file, read_mapping, unknown_name

FOLDER = Path(__file__).parent
_PUBLISHED = "published"


@dataclass
class SuiteRow:
    """One row: its name in results, its title, its protocol and the metric."""

    row: str
    title: str
    protocol: str
    metric: str


@dataclass
class Suite:
    """A suite: `name` as in its file, a title, and its rows in order."""

    name: str
    title: str
    rows: list[SuiteRow]

    @property
    def protocols(self) -> list[str]:
        """The protocols of its rows, each once."""
        return list(dict.fromkeys(row.protocol for row in self.rows))


@dataclass
class Source:
    """Where a published figure stands."""

    title: str
    where: str


@dataclass
class Figure:
    """A figure that others published.

    Args:
        row (`str`, *optional*): the row that it stands beside; None where its prompt set is none of a suite's.
        source (`str`): a name of the file's sources. method (`str`): what was measured.
        base_model (`str`, *optional*): None where the source does not state it.
        value (`float`): with the method; base (`float`, *optional*): without it.
        note (`str`): what is known of the protocol.
    """

    row: str | None
    source: str
    method: str
    base_model: str | None
    value: float
    base: float | None
    note: str


@dataclass
class Published:
    """All published figures."""

    sources: dict[str, Any]
    figures: list[Figure]


def list_suites() -> list[str]:
    """Names of the suites that are shipped."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml") if path.stem != _PUBLISHED)


def load_suite(name: str) -> Suite:
    """Read a suite by its name.

    Raises:
        `RecipeError`: for a name that is none, and for rows that do not fit together.
    """
    if name not in list_suites():
        raise unknown_name("--suite", name, list_suites())
    path = FOLDER / f"{name}.yaml"
    suite = fill(Suite, read_mapping(path), str(path))
    names = [row.row for row in suite.rows]
    for row in suite.rows:
        if row.metric not in METRICS:
            raise unknown_name(f"{path}: {row.row}: metric", row.metric, METRICS)
        counted = load_protocol(row.protocol).metrics
        if row.metric not in counted:
            raise unknown_name(f"{path}: {row.row}: metric of {row.protocol}", row.metric, counted)
        if names.count(row.row) > 1:
            raise RecipeError(f"{path}: {row.row}: stands twice; rows must differ")
    return suite


def published_figures() -> list[dict[str, Any]]:
    """The published figures as results hold them: the fields of [`Figure`], and its source's title and place."""
    path = find_file(_PUBLISHED, FOLDER, "file of published figures")
    found = fill(Published, read_mapping(path), str(path))
    sources = {name: fill(Source, value, str(path), f"sources.{name}") for name, value in found.sources.items()}
    for index, figure in enumerate(found.figures):
        if figure.source not in sources:
            raise unknown_name(f"{path}: figures[{index}].source", figure.source, sources)
    return [
        {**asdict(figure), "source": f"{sources[figure.source].title} ({sources[figure.source].where})"}
        for figure in found.figures
    ]
