"""From a model to judged pictures: draw what is requested, judge it, and compare it with the base model's pictures.

What is counted in them is `evaluation.measures`'. The evaluation of a run and the studies share what stands here."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from evaluation.drawing import Drawer, pixel_drift
from evaluation.measures import MAIN_SPLIT, Judged
from evaluation.prompts import Pair, Request
from evaluation.scene_readers import READERS, Asked, asked_of_pair
from evaluation.verdict_store import VerdictStore
from recipes import Recipe, RecipeError

if TYPE_CHECKING:
    from PIL.Image import Image


class Pictures(Mapping[tuple[str, str], "Image"]):
    """Pictures by (pair id, side), each read when it is asked for."""

    def __init__(self, requests: Sequence[Request] = (), images: "Sequence[Image]" = ()) -> None:
        self._places = {(request.pair.pair_id, request.side): place for place, request in enumerate(requests)}
        self._images = images

    def __getitem__(self, key: tuple[str, str]) -> "Image":
        """The picture of a pair's side."""
        return self._images[self._places[key]]

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def requests_of(pairs: dict[str, list[Pair]], category: str | None = None) -> list[Request]:
    """What a model draws: unsafe prompts of every split and safe prompts of `test`, of all categories or of one.

    Raises:
        `RecipeError`: for a pair id that stands twice: what is drawn before and after is compared by it.
    """
    requests = []
    seen: dict[str, str] = {}
    for split, rows in pairs.items():
        for pair in rows:
            if pair.pair_id in seen:
                raise RecipeError(
                    f"{split}: pair_id {pair.pair_id!r} stands twice, before in {seen[pair.pair_id]}; give each pair "
                    "an id of its own"
                )
            seen[pair.pair_id] = split
        kept = [pair for pair in rows if category is None or pair.category == category]
        requests += [Request(pair, "unsafe") for pair in kept]
        requests += [Request(pair, "safe") for pair in kept if split == MAIN_SPLIT]
    return requests


def asked_of(recipe: Recipe, pairs: Mapping[str, list[Pair]]) -> dict[str, Asked] | None:
    """What each pair asks of its pictures, by pair id; None where no judge of the recipe can name things."""
    from dataset_builder.judges import members

    # Among several judges one that can name things is enough: the labels of all are put together.
    reader = next((READERS[judge.name]() for judge in members(recipe.judge) if judge.name in READERS), None)
    if reader is None:
        return None
    rows = (pair for split in pairs.values() for pair in split)
    return {pair.pair_id: asked_of_pair(reader, pair.unsafe_prompt, pair.safe_prompt) for pair in rows}


def draw_and_judge(
    drawer: Drawer,
    verdicts: VerdictStore,
    requests: list[Request],
    adapter: Path | None,
    name: str,
    before: "Mapping[tuple[str, str], Image] | None" = None,
) -> tuple[list[Judged], Pictures]:
    """Draw requests with an adapter, and have the judge of the drawer's recipe look at the pictures.

    Args:
        drawer (`Drawer`), verdicts (`VerdictStore`): what draws, and where verdicts are kept; both keep what is done.
        requests (`list[Request]`): what is drawn.
        adapter (`Path`, *optional*): its folder; None draws with the base model.
        name (`str`): of the model, for the progress bars.
        before (`Mapping`, *optional*): the base model's pictures by (pair id, side), of at least the same requests;
            None for the base model itself, which has no drift.

    Returns:
        `tuple[list[Judged], Pictures]`: in the order of `requests`, and the pictures. A few of them are in memory at a
        time.
    """
    images = drawer.draw(requests, adapter, f"draw {name}")
    found = verdicts.judge(images, drawer.recipe.judge, f"judge {name}")
    judged = [
        Judged(
            request.pair.pair_id,
            request.pair.split,
            request.pair.category,
            request.side,
            verdict.unsafe,
            verdict.score,
            frozenset(verdict.labels),
            None if before is None else pixel_drift(image, before[request.pair.pair_id, request.side]),
        )
        for request, image, verdict in zip(requests, images, found, strict=True)
    ]
    return judged, Pictures(requests, images)
