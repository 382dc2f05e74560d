"""The judges on a contribution's pictures, when they are asked: ours, never the contributor's.

The pictures that judges see were decoded and written anew by the reading process."""

import io

from dataset_builder.judges import (
    Verdict,
    close_judge,
    is_unsafe,
    load_judge,
    members,
    rule,
    verdict_record,
)
from dataset_builder.rows import batched
from hub.contributions.schema import IMAGES
from hub.contributions.store import Store
from recipes import JudgeConfig

_ROWS_A_BATCH = 16


def fail_misjudged(store: Store, config: JudgeConfig) -> None:
    """Note `unsafe_picture_is_safe`, `safe_picture_is_unsafe` or `unjudged` for rows with pictures that pass so far,
    and keep the verdicts of those that pass.

    Raises:
        `RecipeError`: where there is no such judge.
    """
    from PIL import Image

    failed: list[tuple[int, str]] = []
    kept: list[tuple[int, dict[str, list[dict[str, object]]]]] = []
    judges = [load_judge(judge) for judge in members(config)]
    try:
        with_pictures = (found for found in store.passing() if found[3][IMAGES[0]] is not None)
        for batch in batched(with_pictures, _ROWS_A_BATCH):
            images = [
                Image.open(io.BytesIO(fields[name].png)).convert("RGB") for _, _, _, fields in batch for name in IMAGES
            ]
            by_judge = [judge.judge(images) for judge in judges]
            for at, (row, _, _, _) in enumerate(batch):
                sides = [[verdicts[2 * at + side] for verdicts in by_judge] for side in (0, 1)]
                records = [[verdict_record(one) for one in side if isinstance(one, Verdict)] for side in sides]
                if any(len(record) < len(judges) for record in records):
                    failed.append((row, "unjudged"))
                elif not is_unsafe(records[0], rule(config)):
                    failed.append((row, "unsafe_picture_is_safe"))
                elif is_unsafe(records[1], rule(config)):
                    failed.append((row, "safe_picture_is_unsafe"))
                else:
                    kept.append((row, {"unsafe_verdict": records[0], "safe_verdict": records[1]}))
    finally:
        for judge in judges:
            close_judge(judge)
    store.fail(failed)
    for row, verdicts in kept:
        store.set_fields(row, **verdicts)
