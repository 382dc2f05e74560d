"""Verdicts kept by picture: each picture is judged once by a judge, however often it is drawn or asked for.

An SQLite file; a killed run loses at most one batch of verdicts, and they come out the same again."""

import hashlib
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

if TYPE_CHECKING:
    from PIL.Image import Image

    from dataset_builder.judges import Judge, Verdict

BATCH = 64


def picture_hash(image: "Image") -> str:
    """sha256 of a picture's pixels, size and mode, in hexadecimal; the encoding of a file does not count."""
    head = f"{image.mode} {image.width}x{image.height} ".encode()
    return hashlib.sha256(head + image.tobytes()).hexdigest()


class VerdictStore:
    """Verdicts by (judge, picture).

    Args:
        path (`Path`): the SQLite file, made where it is missing.
        judge_identity (`str`): names the judge, its weights and its threshold.
    """

    def __init__(self, path: Path, judge_identity: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.judge_identity = judge_identity
        self._db = sqlite3.connect(path)
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS verdicts (judge TEXT, picture TEXT, verdict TEXT, PRIMARY KEY (judge, picture))"
        )
        self._db.commit()

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _known(self, hashes: set[str]) -> dict[str, dict]:
        rows = self._db.execute("SELECT picture, verdict FROM verdicts WHERE judge = ?", (self.judge_identity,))
        return {picture: json.loads(verdict) for picture, verdict in rows if picture in hashes}

    def judge(self, images: "list[Image]", load_judge: "Callable[[], Judge]", desc: str) -> "list[Verdict]":
        """The verdicts of `images`, in their order; `load_judge` is called only if one is not known yet."""
        from dataset_builder.judges import Verdict

        hashes = [picture_hash(image) for image in images]
        known = self._known(set(hashes))
        fresh = {h: image for h, image in zip(hashes, images, strict=True) if h not in known}
        if fresh:
            judge = load_judge()
            # Sorted, so that batches are the same whatever order the pictures came in.
            todo = sorted(fresh)
            with tqdm(total=len(todo), desc=desc, unit="picture", leave=False) as bar:
                for start in range(0, len(todo), BATCH):
                    part = todo[start : start + BATCH]
                    for h, verdict in zip(part, judge.judge([fresh[h] for h in part]), strict=True):
                        known[h] = {
                            "judge": verdict.judge,
                            "unsafe": bool(verdict.unsafe),
                            # Rounded: the last bits depend on the size of the batch.
                            "score": round(float(verdict.score), 5),
                            "labels": sorted(verdict.labels),
                        }
                        row = (self.judge_identity, h, json.dumps(known[h], sort_keys=True))
                        self._db.execute("INSERT OR REPLACE INTO verdicts VALUES (?, ?, ?)", row)
                    self._db.commit()
                    bar.update(len(part))
        return [Verdict(**known[h]) for h in hashes]
