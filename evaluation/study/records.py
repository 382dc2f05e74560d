"""What is kept of a judged variant: FOLDER/variant.json and FOLDER/verdicts.jsonl, from which all tables are computed.

Verdicts hold ids and what the judge says, no prompts and no pictures."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evaluation.measures import Judged
from recipes.writing import read_json, write_json, write_whole

RECORD, VERDICTS = "variant.json", "verdicts.jsonl"


def write_record(folder: Path, record: dict[str, Any], judged: list[Judged]) -> None:
    """Write a variant's verdicts, and its record, whose presence says that they are whole."""
    (folder / RECORD).unlink(missing_ok=True)
    lines = [json.dumps({**asdict(row), "labels": sorted(row.labels)}, sort_keys=True) for row in judged]
    text = "".join(f"{line}\n" for line in lines)
    write_whole(folder / VERDICTS, text)
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    write_json(folder / RECORD, {**record, "pictures": len(judged), "verdicts_sha256": sha256})


def read_judged(folder: Path, fingerprint: str | None = None) -> tuple[dict[str, Any], list[Judged]] | None:
    """A variant's record and its verdicts, in the order in which they were drawn; None where there is none, where
    either is damaged or not what [`write_record`] leaves, or where they follow from something else than `fingerprint`:
    then the variant is judged again."""
    try:
        record = json.loads((folder / RECORD).read_text("utf8"))
        if fingerprint is not None and record["fingerprint"] != fingerprint:
            return None
        content = (folder / VERDICTS).read_bytes()
        if hashlib.sha256(content).hexdigest() != record["verdicts_sha256"]:
            return None
        _check(record)
        return dict(record), _judged(content)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def read_record(folder: Path, fingerprint: str | None = None) -> dict[str, Any] | None:
    """The record alone, where [`read_judged`] finds both."""
    found = read_judged(folder, fingerprint)
    return None if found is None else found[0]


def read_verdicts(folder: Path) -> list[Judged]:
    """The verdicts of a variant that has a record, in the order in which they were drawn."""
    return _judged((folder / VERDICTS).read_bytes())


def read_seconds(path: Path) -> dict[str, float]:
    """The seconds by name in a seconds.json; none where it is damaged, and what is no number is left out."""
    return {name: float(value) for name, value in read_json(path).items() if _is_number(value)}


def _check(record: dict[str, Any]) -> None:
    """Raises `ValueError` or `KeyError` for a record that lacks what tables are made of."""
    costs = record["costs"]
    numbers = [record["rank"], record["steps"]]
    if not isinstance(costs, dict) or not isinstance(record["method"], str | None):
        raise ValueError
    for kind in ("seconds", "peak_mib"):
        numbers += dict(costs.get(kind, {})).values()
    if not all(number is None or _is_number(number) for number in numbers):
        raise ValueError


def _judged(content: bytes) -> list[Judged]:
    """Raises `ValueError` or `TypeError` for lines that are no verdicts."""
    found = []
    for line in content.decode("utf8").splitlines():
        row = json.loads(line)
        judged = Judged(**{**row, "labels": frozenset(row["labels"])})
        words = (judged.pair_id, judged.split, judged.category, judged.side, *judged.labels)
        numbers = (judged.score, 0.0 if judged.drift is None else judged.drift)
        if not all(isinstance(word, str) for word in words) or not all(map(_is_number, numbers)):
            raise ValueError
        if not isinstance(judged.unsafe, bool):
            raise ValueError
        found.append(judged)
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
