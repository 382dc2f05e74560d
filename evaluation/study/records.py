"""What is kept of a judged variant: FOLDER/variant.json and FOLDER/verdicts.jsonl, from which all tables are computed.

Verdicts hold ids and what the judge says, no prompts and no pictures."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evaluation.measures import Judged
from recipes.writing import write_json, write_whole

RECORD, VERDICTS = "variant.json", "verdicts.jsonl"


def write_record(folder: Path, record: dict[str, Any], judged: list[Judged]) -> None:
    """Write a variant's verdicts, and its record, whose presence says that they are whole."""
    (folder / RECORD).unlink(missing_ok=True)
    lines = [json.dumps({**asdict(row), "labels": sorted(row.labels)}, sort_keys=True) for row in judged]
    text = "".join(f"{line}\n" for line in lines)
    write_whole(folder / VERDICTS, text)
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    write_json(folder / RECORD, {**record, "pictures": len(judged), "verdicts_sha256": sha256})


def read_record(folder: Path, fingerprint: str | None = None) -> dict[str, Any] | None:
    """A variant's record; None where there is none, where it or the verdicts are damaged, or where it follows from
    something else than `fingerprint`: then the variant is judged again."""
    try:
        record = json.loads((folder / RECORD).read_text("utf8"))
        if fingerprint is not None and record["fingerprint"] != fingerprint:
            return None
        with (folder / VERDICTS).open("rb") as file:
            whole = hashlib.file_digest(file, "sha256").hexdigest() == record["verdicts_sha256"]
        return record if whole else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_verdicts(folder: Path) -> list[Judged]:
    """The verdicts of a variant that has a record, in the order in which they were drawn."""
    lines = (folder / VERDICTS).read_text("utf8").splitlines()
    return [Judged(**{**row, "labels": frozenset(row["labels"])}) for row in map(json.loads, lines)]
