"""Every bound on a contribution, in one place: what is larger is refused before it is decoded."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds of one contribution, and of the process that decodes it. `dataclasses.replace` makes other ones.

    Args:
        files (`int`): files in all.
        depth (`int`): folders above a file.
        name_bytes (`int`): UTF-8 bytes of a file's name with its folders.
        bytes (`int`): of all files together.
        table_bytes (`int`): of a JSONL, CSV or Parquet file.
        rows (`int`): of all files together.
        row_bytes (`int`): of a line of JSON or a record of CSV; Parquet rows hold pictures and are bounded by them.
        columns (`int`): of a table.
        column_name (`int`): characters of a column's name.
        text (`int`): characters of any text field; prompts are held to what the dataset's recipe allows besides.
        footer_bytes (`int`): of a Parquet file's footer.
        footer_items (`int`): entries of any list in that footer.
        row_groups (`int`): of a Parquet file.
        group_bytes (`int`): uncompressed bytes that a row group declares.
        ratio (`int`): uncompressed over compressed bytes, declared or found while decoding, from `ratio_from` bytes on.
        ratio_from (`int`): bytes below which no ratio is looked at.
        picture_bytes (`int`): of an encoded picture.
        side (`int`): pixels of a picture's longer side.
        least_side (`int`): pixels of its shorter side.
        pixels (`int`): of a picture.
        new_concepts (`int`): concepts that the published taxonomy lacks.
        memory (`int`): address space in bytes of the process that decodes.
        cpu_seconds (`int`): its processor time, for all files together.
        restarts (`int`): how often it is started anew after a file at which it died.
        silence_seconds (`float`): how long it may take to the next row.
        check_seconds (`float`): processor time for the checks of single rows, all together. An ordinary row takes half
            a millisecond, and one that is made for it a hundred times as long.
        listed (`int`): entries of each list in a report; what is left out is counted.
    """

    files: int = 20_000
    depth: int = 8
    name_bytes: int = 255
    bytes: int = 4 << 30
    table_bytes: int = 1 << 30
    rows: int = 200_000
    row_bytes: int = 64 << 10
    columns: int = 40
    column_name: int = 64
    text: int = 2_000
    footer_bytes: int = 8 << 20
    footer_items: int = 100_000
    row_groups: int = 4_096
    group_bytes: int = 512 << 20
    ratio: int = 200
    ratio_from: int = 16 << 20
    picture_bytes: int = 16 << 20
    side: int = 4_096
    least_side: int = 16
    pixels: int = 4_096 * 4_096
    new_concepts: int = 1_000
    memory: int = 2 << 30
    cpu_seconds: int = 900
    restarts: int = 4
    silence_seconds: float = 120.0
    check_seconds: float = 1_800.0
    listed: int = 1_000


LIMITS = Limits()
