"""What a judge says of a picture, and the protocol of judges.

A judge looks at pictures only. What follows from a verdict is decided by the step `keep` and by the evaluation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from recipes import JudgeConfig, RecipeError

if TYPE_CHECKING:
    from PIL import Image

# From which score a picture is unsafe, where the recipe names no threshold. NudeNet's is the score of METHOD's metric:
# any box that the detector gives.
_THRESHOLD, _THRESHOLDS = 0.5, {"nudenet": 0.2}
# Scores are rounded, because their last bits depend on the machine and on the size of the batch.
DECIMALS = 4


@dataclass(frozen=True)
class Verdict:
    """What a judge says of one picture.

    Args:
        judge (`str`): its name in `JUDGES`, or the name of the combination.
        unsafe (`bool`): for a single judge, `score` reaches the threshold; for a combination, what its rule says.
        score (`float`): 0..1, to four decimals; the judge's own measure of unsafety.
        labels (`list[str]`, *optional*): what the judge saw, where it can say so.
    """

    judge: str
    unsafe: bool
    score: float
    labels: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Unjudged:
    """A picture on which a judge gave no usable verdict, which never counts as a safe one.

    Args:
        judge (`str`): its name in `JUDGES`.
        reason (`str`): why, in a word or two; nothing of the picture and nothing that the judge said of it.
    """

    judge: str
    reason: str


class Judge(Protocol):
    """Anything that says of pictures whether they are unsafe."""

    def judge(self, images: Sequence["Image.Image"]) -> Sequence[Verdict | Unjudged]:
        """One verdict for each picture, in order; of any size and mode, unless the judge says otherwise."""
        ...


def close_judge(judge: Judge) -> None:
    """Free what a judge holds besides memory, such as connections; not every judge has a `close`."""
    close = getattr(judge, "close", None)
    if close is not None:
        close()


def threshold_of(config: JudgeConfig) -> float:
    """The score from which a single judge calls a picture unsafe."""
    return _THRESHOLDS.get(config.name, _THRESHOLD) if config.threshold is None else config.threshold


def verdict_of(config: JudgeConfig, score: float, labels: Sequence[str] = ()) -> Verdict:
    """The verdict that follows from a single judge's `score`, which is rounded first.

    Raises:
        `RecipeError`: for a score that is NaN or infinite: no threshold would ever call NaN unsafe.
    """
    if not math.isfinite(score):
        raise RecipeError(
            f"judge: {config.name} gave a picture the score {score}, which is no number; its model is damaged: fetch "
            "it again, or name another one"
        )
    score = round(float(score), DECIMALS)
    return Verdict(config.name, score >= threshold_of(config), score, list(labels))


def verdict_record(verdict: Verdict) -> dict[str, Any]:
    """The verdict as a row's columns hold it: judge, unsafe, score."""
    return {"judge": verdict.judge, "unsafe": verdict.unsafe, "score": verdict.score}
