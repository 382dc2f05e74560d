"""A prompt set's prompts: read, checked row by row, and counted.

An error names file and row, and never quotes a prompt. What a set is stands in `evaluation.prompt_sets.definition`;
COCO's captions are read by `evaluation.prompt_sets.coco`, the Hub's and a dataset's here."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dataset_builder.block_list import blocked_by
from dataset_builder.keys import clean
from dataset_builder.schema import MANIFEST
from dataset_builder.tables import Table, missing_columns, open_table
from evaluation.prompt_sets.definition import FOLDER, Columns, PromptSet
from recipes import RecipeError

ONE_CATEGORY = "all"
_MOST_SEED = 2**63 - 1


class NotAtHandError(RecipeError):
    """Something that an evaluation needs and nobody gave; its rows stay empty, with this text as the reason."""


@dataclass(frozen=True)
class Prompt:
    """One prompt: its `id` in the set, its `text` on one line, its `category`, and its own `seed` where the set gives
    one."""

    id: str
    text: str
    category: str
    seed: int | None = None

    @property
    def categories(self) -> list[str]:
        """The categories apart, where several are joined by commas; `all` where nothing stands between them."""
        return list(dict.fromkeys(part.strip() for part in self.category.split(",") if part.strip())) or [ONE_CATEGORY]


@dataclass(frozen=True)
class LoadedSet:
    """A prompt set that was read.

    Args:
        definition (`PromptSet`): what it is.
        prompts (`list[Prompt]`): those that may be drawn, in the set's order.
        sha256 (`str`): [`checksum`] of all prompts, the refused ones too, with seeds where they are drawn with.
        rows (`int`): how many were read.
        refused (`list[tuple[str, str]]`): ids that the hard block refuses, each with its rule.
        source (`str`): what was read: a file's name, or `repo@commit`.
        loaded (`Loader kind`): how it was read, which a file that a user gave in another shape decides.
    """

    definition: PromptSet
    prompts: list[Prompt]
    sha256: str
    rows: int
    refused: list[tuple[str, str]]
    source: str
    loaded: str


@dataclass(frozen=True)
class _Row:
    """A row as it was read: `where` names file and row for errors, `refused` the hard block's rule where the reader
    knows of one, as by what stands beside the prompt."""

    where: str
    prompt: Any
    category: Any
    id: Any
    seed: Any
    refused: str | None = None


def checksum(prompts: Iterable[Prompt], seeds: bool = False) -> str:
    """SHA-256, in hex, of a set's normalised prompts: for each a line of JSON with id, prompt and category, and with
    the seed where `seeds` says that pictures are drawn with it."""
    digest = hashlib.sha256()
    for prompt in prompts:
        line: dict[str, Any] = {"id": prompt.id, "prompt": prompt.text, "category": prompt.category}
        if seeds:
            line["seed"] = prompt.seed
        digest.update((json.dumps(line, ensure_ascii=False, sort_keys=True) + "\n").encode())
    return digest.hexdigest()


def load_prompts(
    definition: PromptSet,
    given: Path | None = None,
    any_rows: bool = False,
    pinned: str | None = None,
    seeds: bool = False,
) -> LoadedSet:
    """Read a prompt set.

    Args:
        definition (`PromptSet`): which.
        given (`Path`, *optional*): a file or folder of the user's, which takes the place of the definition's source: a
            CSV, JSON-lines or Parquet table, COCO's captions JSON, or the folder of a CoProV2 dataset.
        any_rows (`bool`, *optional*, defaults to `False`): whether another number of rows than the set's is taken.
        pinned (`str`, *optional*): the checksum that the prompts must have, beside the definition's.
        seeds (`bool`, *optional*, defaults to `False`): whether the set's own seeds are drawn with, and so belong to
            the checksum that is given and pinned; the definition's is of the prompts alone.

    Raises:
        `NotAtHandError`: where nothing was given and the set's own source cannot be had.
        `RecipeError`: for a file that does not hold what the set is, by file and row.
    """
    rows, source, kind = _open(definition, given, any_rows)
    checked = list(_checked(rows))
    prompts = [one for one, _ in checked]
    if not prompts:
        raise RecipeError(f"{source}: holds no prompt; expected {definition.rows or 'at least one'}")
    if definition.rows is not None and len(prompts) != definition.rows and not any_rows:
        raise RecipeError(
            f"{source}: {len(prompts)} prompts, expected {definition.rows} of {definition.name}; give the whole set, "
            "or --any-rows, and the result's protocol says so"
        )
    found, plain = checksum(prompts, seeds), checksum(prompts)
    # Other rows are another set, of which the definition says nothing.
    stated = None if any_rows else definition.sha256
    for name, of_read, wanted in (("the definition's", plain, stated), ("the pinned", found, pinned)):
        if wanted is not None and of_read != wanted:
            raise RecipeError(
                f"{source}: the prompts of {definition.name} have the SHA-256 {of_read}, not {name} {wanted}; "
                "give the file that it was taken of"
            )
    # Whatever does not come with this project may hold anything, also under the name of a harmless set.
    asked = definition.unsafe or kind != "shipped"
    found_rules = ((one.id, rule or (blocked_by(one.category, one.text) if asked else None)) for one, rule in checked)
    refused = [(name, rule) for name, rule in found_rules if rule]
    names = {name for name, _ in refused}
    kept = [one for one in prompts if one.id not in names]
    return LoadedSet(definition, kept, found, len(prompts), refused, source, kind)


def _open(definition: PromptSet, given: Path | None, any_rows: bool) -> tuple[Iterator[_Row], str, str]:
    loader = definition.loader
    if given is not None:
        return _open_given(definition, given, any_rows)
    if loader.kind == "shipped":
        return _shipped(definition), str(loader.file), "shipped"
    if loader.kind == "hub":
        from evaluation.prompt_sets.hub_rows import open_hub

        records, source = open_hub(definition)
        return _of_records(records, loader.columns, source), source, "hub"
    what = {
        "coco": "the captions' JSON of COCO 2014 val",
        "dataset": "the folder of a dataset",
        "file": "a CSV, JSON-lines or Parquet file",
    }[loader.kind]
    raise NotAtHandError(f"{definition.name} is not at hand; give {what}: --prompts {definition.name}=PATH")


def _open_given(definition: PromptSet, given: Path, any_rows: bool) -> tuple[Iterator[_Row], str, str]:
    loader = definition.loader
    if given.is_dir():
        if not (given / MANIFEST).is_file():
            raise RecipeError(f"{given}: holds no {MANIFEST}; expected a file, or the folder of a CoProV2 dataset")
        return _of_dataset(given, loader.splits or ["test"]), given.name, "dataset"
    if not given.is_file():
        raise RecipeError(f"{given}: no such file; expected the prompts of {definition.name}")
    if loader.kind == "coco" and given.suffix.lower() == ".json":
        from evaluation.prompt_sets.coco import captions

        chosen = captions(given, loader, definition.rows, any_rows)
        return (_Row(f"{given}: image {key}", text, None, key, None) for key, text in chosen), given.name, "coco"
    columns = loader.columns if loader.kind in ("file", "hub", "shipped") else Columns()
    return _of_table(open_table(given), columns), given.name, "file"


def _shipped(definition: PromptSet) -> Iterator[_Row]:
    path = FOLDER / str(definition.loader.file)
    check_file(path, definition.loader.file_sha256)
    return _of_table(open_table(path), definition.loader.columns)


def check_file(path: Path, sha256: str | None) -> None:
    """Compare a shipped file with its checksum. Raises `RecipeError` where it is missing or another one."""
    if not path.is_file():
        raise RecipeError(f"{path}: no such file; it comes with the package: install it again")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if sha256 is not None and found != sha256:
        raise RecipeError(f"{path}: its SHA-256 is {found}, expected {sha256}; install the package again")


def _of_table(table: Table, columns: Columns) -> Iterator[_Row]:
    """The rows of a table. A user's own file may name its columns plainly: prompt, category, id."""

    def find(*names: str | None) -> str | None:
        return next((name.casefold() for name in names if name and name.casefold() in table.columns), None)

    prompt = find(columns.prompt, "prompt", "caption")
    if prompt is None:
        raise missing_columns(table, columns.prompt)
    wanted = {
        "prompt": prompt,
        "category": find(columns.category, "category"),
        "id": find(columns.id, "id"),
        "seed": find(columns.seed),
    }
    names = list(dict.fromkeys(name for name in wanted.values() if name))
    for chunk in table.chunks(names):
        _refuse_malformed(table)
        for index, number in enumerate(chunk.numbers):
            values = {key: chunk.columns[name][index] if name else None for key, name in wanted.items()}
            if values["id"] is None:
                values["id"] = number
            yield _Row(f"{table.path}: row {number}", **values)
    _refuse_malformed(table)


def _refuse_malformed(table: Table) -> None:
    if table.malformed:
        number, reason = table.malformed[0]
        raise RecipeError(f"{table.path}: row {number}: {reason}; mend the row")


def _of_records(records: Iterable[dict[str, Any]], columns: Columns, source: str) -> Iterator[_Row]:
    for number, record in enumerate(records, 1):
        for name in (columns.prompt, columns.category, columns.id, columns.seed):
            if name is not None and name not in record:
                raise RecipeError(f"{source}: no column {name}; found {', '.join(map(str, record))[:200]}")
        yield _Row(
            f"{source}: row {number}",
            record[columns.prompt],
            record[columns.category] if columns.category else None,
            record[columns.id] if columns.id else number,
            record[columns.seed] if columns.seed else None,
        )


def _of_dataset(folder: Path, splits: Sequence[str]) -> Iterator[_Row]:
    from evaluation.prompts import scan_pairs

    for split in splits:
        for pair, rule in scan_pairs(folder, split):
            where = f"{folder}: {split}: pair {pair.pair_id}"
            yield _Row(where, pair.unsafe_prompt, pair.category, pair.pair_id, pair.seed, rule)


def _checked(rows: Iterable[_Row]) -> Iterator[tuple[Prompt, str | None]]:
    """Each row as a prompt, with the rule that its reader says refuses it.

    Raises:
        `RecipeError`: for a prompt that is no text or is empty, a name that stands twice, and a seed that is none.
    """
    seen: dict[str, str] = {}
    for row in rows:
        if not isinstance(row.prompt, str):
            raise RecipeError(f"{row.where}: the prompt is {type(row.prompt).__name__}, expected text")
        text = clean(row.prompt)
        # A prompt of marks that are not seen, such as zero-width spaces, asks for nothing either.
        if not any(letter.isprintable() for letter in text if letter != " "):
            raise RecipeError(f"{row.where}: the prompt is empty; take the row out, or mend it")
        name = clean(str(row.id)) if isinstance(row.id, str | int) and not isinstance(row.id, bool) else ""
        if not name:
            raise RecipeError(f"{row.where}: the id is {type(row.id).__name__} or empty, expected text or a number")
        if name in seen:
            first = seen[name].rpartition(": ")[2]
            raise RecipeError(f"{row.where}: the id {name[:60]!r} stands twice, first in {first}; ids must differ")
        seen[name] = row.where
        category = ONE_CATEGORY if row.category is None else row.category
        if not isinstance(category, str):
            raise RecipeError(f"{row.where}: the category is {type(category).__name__}, expected text")
        try:
            f"{text}{name}{category}".encode()
        except UnicodeEncodeError:
            # JSON can escape it; no file can hold it.
            raise RecipeError(f"{row.where}: holds half a surrogate pair; mend the row") from None
        yield Prompt(name, text, clean(category) or ONE_CATEGORY, _seed(row)), row.refused


def _seed(row: _Row) -> int | None:
    if row.seed is None:
        return None
    try:
        seed = int(row.seed)
        # Text is compared as it is: above 2^53 its number as a float would be another one.
        if isinstance(row.seed, float) and seed != row.seed:
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise RecipeError(f"{row.where}: the seed is no whole number; expected 0 to {_MOST_SEED}") from None
    if not 0 <= seed <= _MOST_SEED:
        raise RecipeError(f"{row.where}: the seed is {seed}, expected 0 to {_MOST_SEED}")
    return seed


def sample(prompts: Sequence[Prompt], limit: int | None, seed: int) -> list[Prompt]:
    """At most `limit` prompts, spread evenly over the categories, in the set's order; which ones depends on `seed` and
    on their ids alone."""
    if limit is None or limit >= len(prompts):
        return list(prompts)
    order = sorted(prompts, key=lambda one: hashlib.sha256(f"{seed}/{one.id}".encode()).digest())
    ranks: dict[str, int] = {}
    ranked = []
    for place, prompt in enumerate(order):
        ranks[prompt.category] = ranks.get(prompt.category, 0) + 1
        ranked.append((ranks[prompt.category], place, prompt.id))
    kept = {name for *_, name in sorted(ranked)[:limit]}
    return [prompt for prompt in prompts if prompt.id in kept]


def with_rows(definition: PromptSet, rows: int) -> PromptSet:
    """The definition of a set of which another number of rows was taken."""
    return replace(definition, rows=rows)
