"""The numbers that README, docs and cards state, measured again: does each lie in the interval of the new measurement?

`docs/claims.yaml` says where a number stands, which command measures it and where in that command's result it is found.
A number that nobody claimed is an error too, so that none is stated without a measurement."""

import json
import math
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluation.intervals import wilson
from recipes import RecipeError
from recipes.loading import fill, parse_yaml
from recipes.writing import write_whole

# What looks like a measured figure: a share, a difference in points, a ratio.
_FIGURE = re.compile(r"(?<![\w.])\d[\d,]*(?:\.\d+)?\s*(?:%|points?\b|times\b|x\b(?!\s*\d))")
_CODE = re.compile(r"```.*?```|`[^`\n]*`|<!--.*?-->", re.DOTALL)
# All of a number: the 2 of 12, or the 12 of 12.5, is another one.
_NUMBER = r"(?<![\d.,])(-?\d[\d,]*(?:\.\d+)?)(?![\d]|[.,]\d)"
# A step of a path into a result: a key, and for a list which entry.
_STEP = re.compile(r"([^.\[\]]+)(?:\[([^=\[\]]+)=([^\[\]]*)\])?(?:\.(?=.)|$)")
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


@dataclass
class Claims:
    """`docs/claims.yaml`: `sources` by name, `claims`, and `texts`, the files in which every figure must be claimed."""

    sources: dict[str, Any] = field(default_factory=dict)
    claims: list[Any] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Finding:
    """What became of a claim: the number that is stated, the measured one, its interval, and whether it holds."""

    claim: Claim
    stated: float
    value: float
    low: float
    high: float
    holds: bool


def read_claims(path: Path) -> tuple[dict[str, Source], list[Claim], list[str]]:
    """The sources, the claims and the texts of a claims file.

    Raises:
        `RecipeError`: for a file that is none, an unknown field, source or rule, or a text without one `{}`.
    """
    if not path.is_file():
        raise RecipeError(f"{path}: no such file; give one by --claims")
    whole: Claims = fill(Claims, parse_yaml(path.read_text("utf8"), str(path)) or {}, str(path), "")
    sources = {name: fill(Source, entry, str(path), f"sources.{name}") for name, entry in whole.sources.items()}
    for name, source in sources.items():
        if not source.command:
            raise RecipeError(f"{path}: sources.{name}.command: found no word, expected a command")
    claims = [fill(Claim, entry, str(path), f"claims[{index}]") for index, entry in enumerate(whole.claims)]
    for index, claim in enumerate(claims):
        where = f"{path}: claims[{index}]"
        if claim.source not in sources:
            raise RecipeError(f"{where}.source: found {claim.source!r}, expected one of {', '.join(sources)}")
        if claim.rule not in RULES:
            raise RecipeError(f"{where}.rule: found {claim.rule!r}, expected one of {', '.join(RULES)}")
        if claim.text.count("{}") != 1:
            raise RecipeError(f"{where}.text: expected one {{}} in place of the number, found {claim.text!r}")
        bounds = (("unit", claim.unit == 0, "another number than 0"), ("of", (claim.of or 1) < 1, "1 or more"))
        for name, wrong, expected in (*bounds, ("within", (claim.within or 1) < 1, "a factor of 1 or more")):
            if wrong or getattr(claim, name) == 0:
                raise RecipeError(f"{where}.{name}: found {getattr(claim, name)}, expected {expected}")
    return sources, claims, whole.texts


def stated(claim: Claim, root: Path) -> tuple[str, tuple[int, int]]:
    """The number as it stands in its file, and where.

    Raises:
        `RecipeError`: where the words are not found, or found more than once.
    """
    path = root / claim.file
    if not path.is_file():
        raise RecipeError(f"{path}: no such file; mend docs/claims.yaml")
    pattern = re.sub(r"(?:\\?\s)+", lambda _: r"\s+", re.escape(claim.text).replace(r"\{\}", _NUMBER))
    found = list(re.finditer(pattern, path.read_text("utf8")))
    if len(found) != 1:
        raise RecipeError(
            f"{claim.file}: found {len(found)} places like {claim.text!r}, expected 1; mend it or docs/claims.yaml"
        )
    return found[0][1], found[0].span(1)


def look_up(result: Any, at: str) -> Any:
    """What stands in a result at `rows[name=merged].measures.unsafe_rate`.

    Raises:
        `RecipeError`: where there is nothing, or for a path that is none.
    """
    node, steps = result, list(_STEP.finditer(at))
    if not at or "".join(step[0] for step in steps) != at:
        raise RecipeError(f"at: found {at!r}, expected keys joined by dots, with [key=value] for the entry of a list")
    for key, name, value in (step.groups() for step in steps):
        node = node.get(key) if isinstance(node, dict) else None
        if name and isinstance(node, list):
            node = next((entry for entry in node if isinstance(entry, dict) and str(entry.get(name)) == value), None)
        if node is None:
            raise RecipeError(f"{at}: the result has nothing at {key}{f'[{name}={value}]' if name else ''}")
    return node


def weigh(claim: Claim, text: str, measured: Any) -> Finding:
    """Compare a stated number with what was measured: a number, or an estimate with `value`, `low`, `high`.

    A stated number stands for all that round to it: 1.6 for 1.55 to 1.65. Without interval, `of` or `within` a bare
    number must agree to the digits that are stated.

    Raises:
        `RecipeError`: if neither was found, or NaN, infinity, or an interval without its value.
    """
    number = float(text.replace(",", "")) * claim.unit
    half = 0.5 * 10.0 ** -len(text.partition(".")[2]) * claim.unit
    if isinstance(measured, dict) and {"value", "low", "high"} <= measured.keys():
        ends = [measured[key] for key in ("low", "value", "high")]
        if not all(_is_finite(end) for end in ends) or not ends[0] <= ends[1] <= ends[2]:
            raise RecipeError(f"{claim.at}: found low, value, high of {ends}, expected finite numbers in this order")
        low, value, high = map(float, ends)
    elif _is_finite(measured):
        value = low = high = float(measured)
        if claim.of is not None:
            if not 0 <= value <= 1:
                raise RecipeError(f"{claim.at}: found {value}, expected a share from 0 to 1, as the claim says `of`")
            estimate = wilson(round(value * claim.of), claim.of)
            assert estimate is not None
            low, high = estimate["low"], estimate["high"]
        if claim.within is not None:
            low, high = sorted((value / claim.within, value * claim.within))
    else:
        found = measured if isinstance(measured, float) else type(measured).__name__
        raise RecipeError(f"{claim.at}: found {found}, expected a number or an estimate")
    if claim.rule == "at_most":
        holds = value <= number + half
    elif claim.rule == "at_least":
        holds = value >= number - half
    else:
        holds = low <= number + half and number - half <= high
    return Finding(claim, number, value, low, high, holds)


def _is_finite(number: Any) -> bool:
    return isinstance(number, (int, float)) and not isinstance(number, bool) and math.isfinite(number)


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


def measure(sources: dict[str, Source], out: Path) -> dict[str, Any]:
    """Run the commands one after the other; their results by name.

    Raises:
        `RecipeError`: where one fails or leaves no result; what the others made is kept.
    """
    results = {}
    for name, source in sources.items():
        words = [word.replace("{out}", str(out)) for word in source.command]
        words = [sys.executable if word == "python" else word for word in words]
        print(f"evidence: {name}: {' '.join(source.command)}", flush=True)
        try:
            code = subprocess.run(words).returncode
        except OSError as error:
            raise RecipeError(f"source {name}: {words[0]} cannot be started: {error.strerror}") from None
        path = out / source.result
        if code or not path.is_file():
            raise RecipeError(
                f"source {name}: {' '.join(source.command)} ended with {code} and left {path.name} "
                f"{'behind' if path.is_file() else 'not behind'}; mend it and run this again"
            )
        try:
            results[name] = json.loads(path.read_text("utf8"))
        except ValueError as error:
            raise RecipeError(f"source {name}: {path}: not JSON ({error}); delete it and run this again") from None
    return results


def check_evidence(root: Path, claims_file: Path, out: Path, only: list[str]) -> tuple[list[Finding], list[str]]:
    """Measure, compare, write ROOT/docs/EVIDENCE.md.

    Args:
        root (`Path`): the project.
        claims_file (`Path`): as `read_claims` takes it.
        out (`Path`): folder of the commands' results, kept from run to run.
        only (`list[str]`): sources to measure; empty means all. With some left out no file is written.

    Returns:
        `tuple`: the findings, and the figures that no claim covers.
    """
    sources, claims, texts = read_claims(claims_file)
    unknown = [name for name in only if name not in sources]
    if unknown:
        raise RecipeError(f"--source: found {unknown[0]!r}, expected one of {', '.join(sources)}")
    places = [stated(claim, root) for claim in claims]
    spans: dict[str, list[tuple[int, int]]] = {}
    for claim, (_, span) in zip(claims, places, strict=True):
        spans.setdefault(claim.file, []).append(span)
    loose = [f"{file}, {place}" for file in texts for place in unclaimed(root / file, spans.get(file, []))]
    wanted = {name: source for name, source in sources.items() if not only or name in only}
    out.mkdir(parents=True, exist_ok=True)
    results = measure(wanted, out)
    findings = [
        weigh(claim, text, look_up(results[claim.source], claim.at))
        for claim, (text, _) in zip(claims, places, strict=True)
        if claim.source in results
    ]
    if not only:
        write_whole(root / "docs" / "EVIDENCE.md", evidence_page(sources, findings, loose))
    return findings, loose


def evidence_page(sources: dict[str, Source], findings: list[Finding], loose: list[str]) -> str:
    """docs/EVIDENCE.md: each claim with its new measurement."""
    failed = sum(not finding.holds for finding in findings)
    lines = [
        "# Evidence",
        "",
        "Written by `make evidence`, which measures every number below again and fails if a stated one lies outside of "
        "the new interval. `docs/claims.yaml` says what is measured how.",
        "",
        f"{len(findings)} numbers, {len(findings) - failed} hold, {failed} do not; {len(loose)} without a measurement.",
        "",
        "| where | stated | measured | interval | by | holds |",
        "|---|---|---|---|---|---|",
    ]
    for finding in findings:
        claim = finding.claim
        value, low, high = (_shown(number / claim.unit) for number in (finding.value, finding.low, finding.high))
        words = claim.text.replace("{}", f"**{_shown(finding.stated / claim.unit)}**").replace("|", r"\|").strip()
        bound = {"at_most": "at most ", "at_least": "at least ", "inside": ""}[claim.rule]
        range_ = f"{low} to {high}" if low != high else "-"
        cells = [f"{claim.file}: {words}", f"{bound}{_shown(finding.stated / claim.unit)}", value, range_, claim.source]
        lines.append("| " + " | ".join([*cells, "yes" if finding.holds else "**no**"]) + " |")
    lines += ["", *(f"- Without a measurement: {place}" for place in loose)]
    lines += ["", "| by | command |", "|---|---|"]
    lines += [f"| {name} | `{' '.join(source.command)}` |" for name, source in sources.items()]
    return "\n".join(lines) + "\n"


def _shown(number: float) -> str:
    return f"{number:.4g}"
