"""Draw the pictures that a pull request lacks, as the published dataset's were drawn, and add them to it."""

import io
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dataset_builder.models import identity
from dataset_builder.pair_rendering import PairToDraw, PairWorker, seed_of_attempt
from dataset_builder.rows import batched
from dataset_builder.schema import Row
from hub.client import HubError, one_line, status_of
from hub.contributions.checks import Checked, Options, check_rows
from hub.contributions.published import Published
from hub.contributions.schema import IMAGES, OPTIONAL, REQUIRED, Picture, RawRow
from hub.contributions.writing import write_contribution
from hub.pull_requests import REPO_TYPE, PullRequest, Refused
from recipes import RenderConfig
from recipes.loading import fill


def render_missing(
    api: Any, pull_request: PullRequest, checked: Checked, published: Published, options: Options
) -> tuple[str, int]:
    """Replace the files of a pull request by one with the same pairs in which each has its pictures.

    Args:
        api (`huggingface_hub.HfApi`): the client, of somebody who may push to the pull request.
        pull_request (`PullRequest`): as it was reviewed.
        checked (`Checked`): its rows, which all pass.
        published (`Published`): whose manifest names the model, its settings and the seed.
        options (`Options`): as the rows were checked; the drawn ones are checked again.

    Returns:
        The commit on `refs/pr/N`, and how many pairs were drawn.

    Raises:
        `Refused`: `head_moved`.
        `HubError`: where the model is not the one that drew the dataset, a pair cannot be drawn, or the Hub refuses.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    where = f"{pull_request.repository} pull request {pull_request.number}"
    worker, seed = _worker(published)
    drawn = _Count()
    rows = _drawn(checked, worker, seed, published.t2i, drawn, where)
    with (
        TemporaryDirectory(prefix="coprov2-render-", dir=options.work) as folder,
        check_rows(rows, published, options) as complete,
    ):
        if not complete.all_pass:
            found = ", ".join(f"{code} {count}" for code, count in complete.counts.items())
            raise HubError(f"{where}: with its pictures drawn it does not pass: {found}; nothing was added to it")
        written = write_contribution(
            complete,
            Path(folder),
            {
                "user": pull_request.author,
                "licence": published.licence,
                "repository": pull_request.repository,
                "revision": pull_request.main,
                "version": published.version,
                "rendered": {"pull_request": pull_request.number, "reviewed": pull_request.sha, "pairs": drawn.pairs},
            },
        )
        operations: list[Any] = [CommitOperationAdd(written.name, written.path)]
        operations += [CommitOperationDelete(path) for path in pull_request.added if path != written.name]
        with one_line(where):
            try:
                info = api.create_commit(
                    pull_request.repository,
                    operations,
                    commit_message=f"Add the pictures of {drawn.pairs} pairs",
                    repo_type=REPO_TYPE,
                    revision=f"refs/pr/{pull_request.number}",
                    parent_commit=pull_request.sha,
                )
            except Exception as error:
                if status_of(error) == 412:
                    raise Refused("head_moved", where) from None
                raise
    return str(info.oid), drawn.pairs


class _Count:
    pairs = 0


def _worker(published: Published) -> tuple[PairWorker, int]:
    try:
        recipe = published.manifest["recipe"]
        model, revision = recipe["base_model"], recipe.get("revision")
        config, seed = fill(RenderConfig, recipe["render"], "coprov2.json", "render"), int(recipe["seed"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise HubError(
            f"{published.repository}: coprov2.json does not say how its pictures were drawn ({error!r}); "
            "let the contributor draw them"
        ) from None
    found = identity(model, revision)
    if found != published.t2i:
        raise HubError(
            f"{published.repository}: its pictures were drawn by {published.t2i}, and {model} is {found} here; "
            "fetch that model, or let the contributor draw the pictures"
        )
    return PairWorker(model, revision, config, found), seed


def _drawn(checked: Checked, worker: PairWorker, seed: int, t2i: str, count: _Count, where: str) -> Iterator[RawRow]:
    """All rows, with those drawn that have no pictures, a batch in memory at a time."""
    attempts = worker.config.max_attempts

    def to_draw(row: Row) -> PairToDraw:
        seeds = tuple(seed_of_attempt(row["pair_id"], seed, attempt) for attempt in range(attempts))
        return PairToDraw(row["pair_id"], row["unsafe_prompt"], row["safe_prompt"], seeds)

    for row in checked.passed_rows():
        if row.get("unsafe_image") is not None:
            pictures = {side: picture_of(row[side]) for side in IMAGES}
            yield _raw(row, {**{name: row.get(name) for name in OPTIONAL}, **pictures})
    worker.load()
    try:
        bare = (row for row in checked.passed_rows() if row.get("unsafe_image") is None)
        for rows in batched(bare, 32):
            for row, result in zip(rows, worker.answer([to_draw(row) for row in rows]), strict=True):
                if result.pngs is None:
                    raise HubError(
                        f"{where}: pair {row['pair_id']}: no picture came of {result.attempts} seeds ({result.fault}); "
                        "ask its author to take it out"
                    )
                count.pairs += 1
                pictures = dict(zip(IMAGES, map(picture_of, result.pngs), strict=True))
                yield _raw(row, {"llm": row.get("llm"), "seed": result.seed, "t2i": t2i, **pictures})
    finally:
        worker.close()


def _raw(row: Row, further: dict[str, Any]) -> RawRow:
    return RawRow(row["file"], row["number"], {**{name: row[name] for name in REQUIRED}, **further})


def picture_of(png: bytes) -> Picture:
    """A picture that our own encoder wrote, as the checks take it."""
    import numpy as np
    from PIL import Image

    from dataset_builder.keys import picture_hash
    from dataset_builder.picture_faults import fault_of

    with Image.open(io.BytesIO(png)) as image:
        pixels = image.convert("RGB")
    return Picture(png, *pixels.size, picture_hash(pixels), fault_of(np.asarray(pixels)))
