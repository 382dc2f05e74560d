"""The one Parquet file of a contribution: the same rows give the same bytes, and the same name."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataset_builder.keys import content_key
from dataset_builder.schema import IMAGE_COLUMNS, ROWS_PER_GROUP, Row
from hub.contributions.checks import Checked
from recipes.writing import whole_file

FOLDER = "contributions"
# Key of the Parquet file's own metadata, whose value is JSON.
METADATA = b"coprov2.contribution"
_TEXTS = ("pair_id", "category", "concept", "unsafe_prompt", "safe_prompt")
_FURTHER = ("seed", "llm", "t2i", "source")
# Bytes of pictures in a row group, which is in memory as a whole while it is written.
_GROUP_BYTES = 64 << 20
_MOST_PROVENANCE = 64 << 10


@dataclass(frozen=True)
class Written:
    """A file that was written: where, its name in the repository (`contributions/<user>/<hash>.parquet`), its rows, its
    bytes and its sha256."""

    path: Path
    name: str
    rows: int
    size: int
    sha256: str


def write_contribution(checked: Checked, folder: Path, provenance: dict[str, Any]) -> Written:
    """Write the rows that pass, in the order of their pair_id.

    Args:
        checked (`Checked`): with rows that pass.
        folder (`Path`): takes the file, at its name in the repository.
        provenance (`dict`): user, licence, repository, revision and version it was checked against, tool, counts.

    Returns:
        `Written`: the name's hash is that of the rows, whatever the provenance says.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    # A first reading, for what the name and the columns depend on.
    digest, pictures = hashlib.sha256(), False
    for row in checked.passed_rows(by_name=True):
        digest.update(content_key({name: row[name] for name in (*_TEXTS, *_FURTHER)}, row["contents"]).encode())
        pictures = pictures or bool(row["contents"])
    name = f"{FOLDER}/{provenance['user']}/{digest.hexdigest()[:32]}.parquet"
    schema = _schema(pictures, provenance)
    with (
        whole_file(folder / name) as part,
        pq.ParquetWriter(part, schema, write_page_index=True, use_content_defined_chunking=True) as writer,
    ):
        for group in _groups(checked.passed_rows(by_name=True)):
            records = [_record(row, pictures) for row in group]
            writer.write_table(pa.Table.from_pylist(records, schema=schema), row_group_size=ROWS_PER_GROUP)
    path = folder / name
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Written(path, name, checked.passed, path.stat().st_size, sha256)


def _schema(pictures: bool, provenance: dict[str, Any]) -> Any:
    from datasets import Features, Image, Value

    kinds: dict[str, Any] = {name: Value("string") for name in _TEXTS}
    if pictures:
        kinds |= {name: Image() for name in IMAGE_COLUMNS}
    kinds |= {name: Value("int64" if name == "seed" else "string") for name in _FURTHER}
    schema = Features(kinds).arrow_schema
    text = json.dumps(provenance, sort_keys=True, ensure_ascii=False)
    return schema.with_metadata({**(schema.metadata or {}), METADATA: text.encode("utf8")})


def _groups(rows: Iterator[Row]) -> Iterator[list[Row]]:
    group: list[Row] = []
    size = 0
    for row in rows:
        group.append(row)
        size += sum(len(row[name] or b"") for name in IMAGE_COLUMNS)
        if len(group) == ROWS_PER_GROUP or size > _GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _record(row: Row, pictures: bool) -> Row:
    record = {name: row[name] for name in (*_TEXTS, *_FURTHER)}
    if pictures:
        for name in IMAGE_COLUMNS:
            file = f"{row['pair_id']}_{name.removesuffix('_image')}.png"
            record[name] = None if row[name] is None else {"bytes": row[name], "path": file}
    return record


def read_provenance(metadata: dict[bytes, bytes] | None) -> dict[str, Any]:
    """The provenance in a Parquet file's metadata; it is the contributor's word and proves nothing.

    Args:
        metadata (`dict[bytes, bytes]`, *optional*): of the file's schema or footer.

    Returns:
        `dict`: empty where there is none, or none of the form that `write_contribution` gives it.
    """
    text = (metadata or {}).get(METADATA, b"")
    if not text or len(text) > _MOST_PROVENANCE:
        return {}
    try:
        found = json.loads(text.decode("utf8"))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
