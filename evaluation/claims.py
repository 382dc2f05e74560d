"""What README, docs and cards state, and where: the claims and tables of `docs/claims.yaml`, and what nobody claims.

Whether what is stated holds, `evidence.py` finds out."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from recipes import RecipeError
from recipes.loading import fill, parse_yaml

# What looks like a measured figure: a share, a difference in points, a ratio; alone, as the first of two before one
# unit ("98 to 99 %"), or as an interval in brackets behind a share.
_WRITTEN = r"(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:e[+-]?\d+)?"
_BETWEEN = r"(?:[\s*_\\]|&nbsp;)*"
_UNIT = r"(?:[%‰]|per ?cent\b|(?:percentage )?points?\b|pp\b|times\b|-?fold\b|(?:x\b|×)(?!\s*\d))"
_FIGURE = re.compile(
    rf"(?<![\w.]){_WRITTEN}(?:{_BETWEEN}{_UNIT}|(?={_BETWEEN}(?:to|and|or|[–-]){_BETWEEN}{_WRITTEN}{_BETWEEN}{_UNIT}))"
    rf"|(?<=% \(){_WRITTEN}(?= to {_WRITTEN}\))"
)
_CODE = re.compile(r"```.*?```|`[^`\n]*`|<!--.*?-->", re.DOTALL)
# All of a number: the 2 of 12, the 12 of 12.5 or the 5 of 1e5 is another one, and so is 2 with a typographic minus.
_NUMBER = r"(?<![\d.,−±])(?<!\de)(?<!\de[+-])(-?\d[\d,]*(?:\.\d+)?)(?!\d|[.,]\d|e[+-]?\d)"
# A cell of a table: a number, its unit, and the interval that may follow.
_IN_CELL = r"([+-]?\d[\d,]*(?:\.\d+)?(?:e-?\d+)?)"
_CELL = re.compile(rf"{_IN_CELL}[^\d()]*(?:\({_IN_CELL} to {_IN_CELL}\))?")
RULES = ("inside", "at_most", "at_least")


@dataclass(frozen=True)
class Source:
    """A command that measures.

    Args:
        command (`list[str]`): its words; `python` is this interpreter, `{out}` the folder of all results. It must go on
            where it was when it is run again, and answer at once when all is done.
        result (`str`): the JSON file that it leaves, relative to that folder.
    """

    command: list[str]
    result: str


@dataclass(frozen=True)
class Claim:
    """A number that stands in a text.

    Args:
        file (`str`): of the text, relative to the project.
        text (`str`): the words around the number, with `{}` in its place; any white space matches any other.
        source (`str`): which command measures it.
        at (`str`): where it stands in the result: keys joined by dots, `[key=value]` for the entry of a list.
        unit (`float`, *optional*, defaults to 1.0): the stated number times this is the measured one; 0.01 for percent.
        of (`int`, *optional*): trials that a bare share rests on; gives it Wilson's interval.
        within (`float`, *optional*): for what depends on the machine: the factor by which it may differ.
        rule (`str`, *optional*, defaults to `"inside"`): the number lies in the interval; `at_most`, `at_least`: the
            measured value does not pass the stated bound.
    """

    file: str
    text: str
    source: str
    at: str
    unit: float = 1.0
    of: int | None = None
    within: float | None = None
    rule: str = "inside"


@dataclass(frozen=True)
class Column:
    """Of a table: `at`, `unit`, `of`, `within` and `rule` as in [`Claim`]; what a row's `at` begins with stands before
    it."""

    at: str
    unit: float = 1.0
    of: int | None = None
    within: float | None = None
    rule: str = "inside"


@dataclass(frozen=True)
class Table:
    """A table in Markdown, each cell of some of its columns a claim.

    Args:
        file (`str`): of the text, relative to the project.
        under (`str`): a line of it, for instance a heading; the first table below is meant.
        source (`str`): which command measures it.
        at (`str`): where a row's figures stand in the result, `{name}` for what the row has in column `name`.
        columns (`list[Column]` by name): the columns that are claimed. A cell holds a number, its unit and, in
            brackets, its interval, which is claimed too; `-` says that nothing was measured.
    """

    file: str
    under: str
    source: str
    at: str
    columns: dict[str, Any]


@dataclass(frozen=True)
class Stated:
    """A claim with the number as it stands in its file (None for `-`), where, and the ends of the interval that stands
    beside it in a table."""

    claim: Claim
    text: str | None
    span: tuple[int, int]
    ends: tuple[str, str] | None = None


@dataclass
class Claims:
    """`docs/claims.yaml`.

    Args:
        sources (`dict[str, Source]`), claims (`list[Claim]`), tables (`list[Table]`): see there.
        texts (`list[str]`): the files in which every figure must be claimed.
    """

    sources: dict[str, Any] = field(default_factory=dict)
    claims: list[Any] = field(default_factory=list)
    tables: list[Any] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)


def read_claims(path: Path) -> Claims:
    """A claims file, checked.

    Raises:
        `RecipeError`: for a file that is none, an unknown field, source or rule, or a text without one `{}`.
    """
    if not path.is_file():
        raise RecipeError(f"{path}: no such file; give one by --claims")
    whole: Claims = fill(Claims, parse_yaml(path.read_text("utf8"), str(path)) or {}, str(path), "")
    whole.sources = {name: fill(Source, entry, str(path), f"sources.{name}") for name, entry in whole.sources.items()}
    for name, source in whole.sources.items():
        if not source.command:
            raise RecipeError(f"{path}: sources.{name}.command: found no word, expected a command")
    whole.claims = [fill(Claim, entry, str(path), f"claims[{index}]") for index, entry in enumerate(whole.claims)]
    for index, claim in enumerate(whole.claims):
        where = f"{path}: claims[{index}]"
        _check_source(claim.source, whole, where)
        if claim.text.count("{}") != 1:
            raise RecipeError(f"{where}.text: expected one {{}} in place of the number, found {claim.text!r}")
        _check_measure(claim, where)
    whole.tables = [_table(entry, str(path), f"tables[{index}]", whole) for index, entry in enumerate(whole.tables)]
    return whole


def _table(entry: Any, path: str, name: str, whole: Claims) -> Table:
    table: Table = fill(Table, entry, path, name)
    _check_source(table.source, whole, f"{path}: {name}")
    if not table.columns:
        raise RecipeError(f"{path}: {name}.columns: found none, expected the columns that are claimed")
    columns = {key: fill(Column, value, path, f"{name}.columns.{key}") for key, value in table.columns.items()}
    for key, column in columns.items():
        _check_measure(column, f"{path}: {name}.columns.{key}")
    return replace(table, columns=columns)


def _check_source(name: str, whole: Claims, where: str) -> None:
    if name not in whole.sources:
        raise RecipeError(f"{where}.source: found {name!r}, expected one of {', '.join(whole.sources)}")


def _check_measure(claim: Claim | Column, where: str) -> None:
    if claim.rule not in RULES:
        raise RecipeError(f"{where}.rule: found {claim.rule!r}, expected one of {', '.join(RULES)}")
    bounds = (("unit", claim.unit == 0, "another number than 0"), ("of", (claim.of or 1) < 1, "1 or more"))
    for name, wrong, expected in (*bounds, ("within", (claim.within or 1) < 1, "a factor of 1 or more")):
        if wrong or getattr(claim, name) == 0:
            raise RecipeError(f"{where}.{name}: found {getattr(claim, name)}, expected {expected}")


def all_stated(claims: Claims, root: Path) -> list[Stated]:
    """Every number that is claimed, those of the tables last.

    Raises:
        `RecipeError`: where one is not found, or found more than once.
    """
    found = [stated(claim, root) for claim in claims.claims]
    for table in claims.tables:
        found += table_cells(table, root)
    return found


def stated(claim: Claim, root: Path) -> Stated:
    """A number as it stands in its file.

    Raises:
        `RecipeError`: where the words are not found, or found more than once.
    """
    text = _text(claim.file, root)
    pattern = re.sub(r"(?:\\?\s)+", lambda _: r"\s+", re.escape(claim.text).replace(r"\{\}", _NUMBER))
    found = list(re.finditer(pattern, text))
    if len(found) != 1:
        raise RecipeError(
            f"{claim.file}: found {len(found)} places like {claim.text!r}, expected 1; mend it or docs/claims.yaml"
        )
    return Stated(claim, found[0][1], found[0].span(1))


def table_cells(table: Table, root: Path) -> list[Stated]:
    """The claims that the cells of a table are, row by row.

    Raises:
        `RecipeError`: where there is no such table or column, or a cell holds no number.
    """
    where = f"{table.file}: table under {table.under!r}"
    rows = _rows(_text(table.file, root), table.under, where)
    header = [cell for cell, _ in rows[0]]
    for name in table.columns:
        if name not in header:
            raise RecipeError(f"{where}: no column {name!r}, it has {', '.join(header)}; mend it or docs/claims.yaml")
    found = []
    for row in rows[1:]:
        cells = dict(zip(header, (cell for cell, _ in row), strict=True))
        try:
            at = table.at.format_map(cells)
        except (KeyError, IndexError, ValueError) as error:
            raise RecipeError(f"{where}: at: no column for {error} of {table.at!r}; mend docs/claims.yaml") from None
        for name, (cell, span) in zip(header, row, strict=True):
            if name not in table.columns:
                continue
            column: Column = table.columns[name]
            number = _CELL.fullmatch(cell)
            if number is None and cell != "-":
                raise RecipeError(
                    f"{where}: {row[0][0]}, {name}: found {cell!r}, expected a number or -, and after a number its "
                    "unit and an interval like (1.2 to 3.4) at most"
                )
            if "%" in cell and column.unit != 0.01:
                raise RecipeError(
                    f"{where}: {row[0][0]}, {name}: found {cell!r}, and {column.unit:g} as the unit of the column; "
                    "percent is 0.01: mend it or docs/claims.yaml"
                )
            words = f"{', '.join(cells[key] for key in header if f'{{{key}}}' in table.at)}: {name} {{}}"
            claim = Claim(
                table.file, words, table.source, f"{at}.{column.at}", column.unit, column.of, column.within, column.rule
            )
            ends = None if number is None or number[2] is None else (number[2], number[3])
            found.append(Stated(claim, None if number is None else number[1], span, ends))
    return found


def _rows(text: str, under: str, where: str) -> list[list[tuple[str, tuple[int, int]]]]:
    """The cells of the first table below a line, each with where it stands; the header first."""
    if [line.strip() for line in text.splitlines()].count(under.strip()) != 1:
        raise RecipeError(f"{where}: expected that line once; mend it or docs/claims.yaml")
    rows: list[list[tuple[str, tuple[int, int]]]] = []
    place, below = 0, False
    for line in text.splitlines(keepends=True):
        bare = line.strip()
        if rows and not bare:
            break
        if rows or (below and bare.startswith("|")):
            cells = [
                (found[0].strip(), (place + found.start(), place + found.end()))
                for found in re.finditer(r"(?<=\|)[^|\n]*(?=\|)", line)
            ]
            # Markdown is content with less, and a cell that is not read is not claimed.
            whole = bare.startswith("|") and bare.endswith("|") and len(cells) == len(rows[0] if rows else cells)
            if not whole:
                raise RecipeError(
                    f"{where}: found the line {bare[:60]!r}, expected as many cells as in the first, with | around "
                    "them, and an empty line after the table"
                )
            if not all(re.fullmatch(r":?-+:?", cell) for cell, _ in cells):
                rows.append(cells)
        below = below or line.strip() == under.strip()
        place += len(line)
    if len(rows) < 2:
        raise RecipeError(f"{where}: found no table with a row; mend it or docs/claims.yaml")
    return rows


def _text(file: str, root: Path) -> str:
    path = root / file
    if not path.is_file():
        raise RecipeError(f"{path}: no such file; mend docs/claims.yaml")
    return path.read_text("utf8")


def unclaimed(path: Path, spans: Iterable[tuple[int, int]]) -> list[str]:
    """Figures in a text outside its code that no claim covers, as `line 12: 98.1 %`."""
    if not path.is_file():
        raise RecipeError(f"{path}: no such file; mend texts in docs/claims.yaml")
    text = path.read_text("utf8")
    skipped = [match.span() for match in _CODE.finditer(text)]
    taken = [*spans, *skipped]
    return [
        f"line {text.count(chr(10), 0, match.start()) + 1}: {match[0]}"
        for match in _FIGURE.finditer(text)
        if not any(start <= match.start() < end for start, end in taken)
    ]
