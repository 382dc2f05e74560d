"""What the metrics of a suite's rows take and give: the bench with models and stores, the pictures, the cells."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from evaluation.prompt_sets.loading import Prompt
from evaluation.suites.portions import PortionStore
from evaluation.suites.roles import Models
from evaluation.verdict_store import VerdictStore

if TYPE_CHECKING:
    from dataset_builder.pictures import PictureStore
    from evaluation.metrics.distance import GaussianStatistics
    from evaluation.metrics.feature_file import FeatureFile


@dataclass
class Pictures:
    """What was drawn under a protocol: the prompts, and the pictures' keys of base and aligned model in their order;
    `aligned` is None where no adapter was given."""

    prompts: list[Prompt]
    base: list[str]
    aligned: list[str] | None

    @property
    def models(self) -> list[tuple[str, list[str]]]:
        """The models by name, each with its pictures' keys."""
        return [("base", self.base), *([("aligned", self.aligned)] if self.aligned is not None else [])]


@dataclass
class Measured:
    """The cells of a row: estimates in the metric's own unit, the paired test, notes, and the same by category."""

    base: dict[str, Any] | None = None
    aligned: dict[str, Any] | None = None
    difference: dict[str, Any] | None = None
    test: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    per_category: dict[str, Any] = field(default_factory=dict)


@dataclass
class Bench:
    """What measuring needs: models, kept pictures, kept verdicts and kept numbers; `real` and `real_rows` are what
    `real_statistics` and `real_features` of [`evaluation.suites.distances`] have counted."""

    models: Models
    pictures: "PictureStore"
    verdicts: VerdictStore
    portions: PortionStore
    real: "GaussianStatistics | None" = None
    real_rows: "FeatureFile | None" = None
