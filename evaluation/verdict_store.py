"""Scores kept by picture: each picture is judged once by a judge, however often it is drawn or asked for.

An SQLite file; a killed run loses at most one batch of scores, and they come out the same again. Thresholds and the
rule of a combination are applied to what is kept, so that changing them judges nothing again."""

import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from dataset_builder.disk import damage_said
from dataset_builder.keys import picture_hash
from recipes import JudgeConfig, RecipeError

if TYPE_CHECKING:
    from PIL.Image import Image

    from dataset_builder.judges import Judge, Verdict

_KEYS_PER_QUERY = 500


class VerdictStore:
    """Scores by (judge, picture).

    Args:
        path (`Path`): the SQLite file, made where it is missing.
        keep_judges (`bool`, *optional*, defaults to `False`): whether a judge stays loaded until `close`, for callers
            that hand over their pictures in portions.

    Raises:
        `RecipeError`: where the file is damaged, now or when verdicts are looked up.
    """

    def __init__(self, path: Path, keep_judges: bool = False) -> None:
        self._keep_judges = keep_judges
        self._judges: dict[str, Judge] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._db = sqlite3.connect(path)
        with damage_said(path):
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS verdicts "
                "(judge TEXT, picture TEXT, verdict TEXT, PRIMARY KEY (judge, picture))"
            )
            self._db.commit()

    def close(self) -> None:
        """Close the file, and the judges that were kept."""
        from dataset_builder.judges import close_judge

        while self._judges:
            close_judge(self._judges.popitem()[1])
        self._db.close()

    def judge(self, images: "Sequence[Image]", config: JudgeConfig, desc: str) -> "list[Verdict]":
        """The verdicts of the judge, or of the combination, that `config` describes, in the order of `images`.

        A judge is loaded only if it has not seen one of them. Pictures are taken from `images` as they are needed,
        first each for its hash and then those of a batch: they may be read from a disk.

        Raises:
            `RecipeError`: where a judge gives no usable verdict on some picture; the other verdicts are kept.
        """
        from dataset_builder.judges import Verdict, combine, members, verdict_of

        hashes = [picture_hash(image) for image in images]
        places = {name: place for place, name in enumerate(hashes)}
        found = [(judge, self._scores(judge, images, places, desc)) for judge in members(config)]
        verdicts = []
        for name in hashes:
            verdict = combine(config, [verdict_of(judge, *scores[name]) for judge, scores in found])
            assert isinstance(verdict, Verdict)
            verdicts.append(verdict)
        return verdicts

    def _kept(self, identity: str, names: list[str]) -> dict[str, dict[str, Any]]:
        """What is kept of pictures, by their hashes: looked up by key, as the file may hold many times as many."""
        kept: dict[str, dict[str, Any]] = {}
        for start in range(0, len(names), _KEYS_PER_QUERY):
            part = names[start : start + _KEYS_PER_QUERY]
            places = ",".join("?" * len(part))
            query = f"SELECT picture, verdict FROM verdicts WHERE judge = ? AND picture IN ({places})"
            with damage_said(self._path):
                found = self._db.execute(query, (identity, *part))
                kept |= {picture: json.loads(verdict) for picture, verdict in found}
        return kept

    def _scores(
        self, config: JudgeConfig, images: "Sequence[Image]", places: dict[str, int], desc: str
    ) -> dict[str, tuple[float, list[str]]]:
        """Score and labels by picture hash, from one judge; `places` are those of the hashes in `images`."""
        from dataset_builder.judges import Verdict, close_judge, load_judge, score_identity

        identity = score_identity(config)
        kept = self._kept(identity, list(places))
        # Sorted, so that batches are the same whatever order the pictures came in.
        todo = sorted(set(places) - set(kept))
        failed: dict[str, str] = {}
        judge = self._judges.get(identity) or load_judge(config) if todo else None
        if judge is not None and self._keep_judges:
            self._judges[identity] = judge
        with tqdm(total=len(todo), desc=desc, unit="picture", leave=False) as bar:
            for start in range(0, len(todo), config.batch_size):
                part = todo[start : start + config.batch_size]
                assert judge is not None
                for name, verdict in zip(part, judge.judge([images[places[name]] for name in part]), strict=True):
                    if not isinstance(verdict, Verdict):
                        failed[name] = verdict.reason
                        continue
                    # Rounded: the last bits depend on the size of the batch.
                    kept[name] = {"score": round(float(verdict.score), 5), "labels": sorted(verdict.labels)}
                    row = (identity, name, json.dumps(kept[name], sort_keys=True))
                    self._db.execute("INSERT OR REPLACE INTO verdicts VALUES (?, ?, ?)", row)
                self._db.commit()
                bar.update(len(part))
        if judge is not None and not self._keep_judges:
            close_judge(judge)
        if failed:
            raise RecipeError(
                f"{desc}: {config.name} gave no usable verdict on {len(failed)} of {len(places)} pictures "
                f"({', '.join(sorted(set(failed.values())))}); run it again to ask for these anew"
            )
        return {name: (entry["score"], entry["labels"]) for name, entry in kept.items()}
