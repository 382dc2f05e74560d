"""The numbers that README, docs and cards state, measured again: does each lie in the interval of the new measurement?

`docs/claims.yaml` says where a number stands, which command measures it and where in that command's result it is found
(`claims.py`). A number that nobody claimed is an error too, so that none is stated without a measurement."""

import json
import math
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.claims import Claim, Source, all_stated, read_claims, unclaimed
from evaluation.intervals import wilson
from recipes import RecipeError
from recipes.writing import write_whole

# A step of a path into a result: a key, and for a list which entry.
_STEP = re.compile(r"([^.\[\]]+)(?:\[([^=\[\]]+)=([^\[\]]*)\])?(?:\.(?=.)|$)")


@dataclass(frozen=True)
class Finding:
    """What became of a claim: the number that is stated, the measured one, its interval, whether it holds, and the
    interval that is stated beside it."""

    claim: Claim
    stated: float
    value: float
    low: float
    high: float
    holds: bool
    ends: tuple[float, float] | None = None

    @property
    def shown(self) -> str:
        """What is stated, in the text's unit."""
        unit = self.claim.unit
        interval = "" if self.ends is None else f" ({_shown(self.ends[0] / unit)} to {_shown(self.ends[1] / unit)})"
        return _shown(self.stated / unit) + interval


def look_up(result: Any, at: str) -> Any:
    """What stands in a result at `rows[name=merged].measures.unsafe_rate`.

    Raises:
        `RecipeError`: where there is nothing, or more than one entry of that name (a study has a row of the base model
            under each protocol), or for a path that is none.
    """
    node, steps = result, list(_STEP.finditer(at))
    if not at or "".join(step[0] for step in steps) != at:
        raise RecipeError(f"at: found {at!r}, expected keys joined by dots, with [key=value] for the entry of a list")
    for key, name, value in (step.groups() for step in steps):
        node = node.get(key) if isinstance(node, dict) else None
        if name and isinstance(node, list):
            found = [entry for entry in node if isinstance(entry, dict) and str(entry.get(name)) == value]
            if len(found) > 1:
                raise RecipeError(f"{at}: the result has {len(found)} entries {key}[{name}={value}], expected one")
            node = next(iter(found), None)
        if node is None:
            raise RecipeError(f"{at}: the result has nothing at {key}{f'[{name}={value}]' if name else ''}")
    return node


def weigh(claim: Claim, text: str, measured: Any, interval: tuple[str, str] | None = None) -> Finding:
    """Compare a stated number with what was measured: a number, an estimate with `value` (or `difference`), `low` and
    `high`, or a list, which stands for how many it holds.

    A stated number stands for all that round to it: 1.6 for 1.55 to 1.65. Without interval, `of` or `within` a bare
    number must agree to the digits that are stated. A stated `interval` must hold its number, and be at least
    half and at most twice as wide as the measured one.

    Raises:
        `RecipeError`: if neither was found, or NaN, infinity, or an interval without its value.
    """
    number, half = _read(text, claim.unit)
    if isinstance(measured, list):
        measured = len(measured)
    if isinstance(measured, dict) and "difference" in measured:
        measured = {"value": measured["difference"], **measured}
    if isinstance(measured, dict) and {"value", "low", "high"} <= measured.keys():
        ends = [measured[key] for key in ("low", "value", "high")]
        if not all(_is_finite(end) for end in ends) or not ends[0] <= ends[1] <= ends[2]:
            raise RecipeError(f"{claim.at}: found low, value, high of {ends}, expected finite numbers in this order")
        low, value, high = map(float, ends)
        width = high - low
    elif _is_finite(measured):
        value = low = high = float(measured)
        if claim.of is not None:
            if not 0 <= value <= 1:
                raise RecipeError(f"{claim.at}: found {value}, expected a share from 0 to 1, as the claim says `of`")
            estimate = wilson(round(value * claim.of), claim.of)
            assert estimate is not None
            low, high = estimate["low"], estimate["high"]
        width = high - low
        if claim.within is not None:
            low, high = sorted((value / claim.within, value * claim.within))
    else:
        found = measured if isinstance(measured, float) else type(measured).__name__
        raise RecipeError(f"{claim.at}: found {found}, expected a number or an estimate")
    # A negative unit turns the numbers around: who fell by at most 5 points has -5 or more.
    if claim.rule != "inside":
        holds = value <= number + half if (claim.rule == "at_most") == (claim.unit > 0) else value >= number - half
    else:
        holds = low <= number + half and number - half <= high
    if interval is None:
        return Finding(claim, number, value, low, high, holds)
    (first, below), (last, above) = (_read(end, claim.unit) for end in interval)
    holds = holds and first - below <= number + half and number - half <= last + above
    holds = holds and 0.5 * width <= last - first + below + above
    holds = holds and last - first - below - above <= 2 * width
    return Finding(claim, number, value, low, high, holds, (first, last))


def _read(text: str, unit: float) -> tuple[float, float]:
    """A stated number, and half of its last digit, in the unit of what is measured."""
    digits, _, exponent = text.partition("e")
    half = 0.5 * 10.0 ** (int(exponent or 0) - len(digits.partition(".")[2]))
    return float(text.replace(",", "")) * unit, half * abs(unit)


def _is_finite(number: Any) -> bool:
    return isinstance(number, (int, float)) and not isinstance(number, bool) and math.isfinite(number)


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
    claims = read_claims(claims_file)
    unknown = [name for name in only if name not in claims.sources]
    if unknown:
        raise RecipeError(f"--source: found {unknown[0]!r}, expected one of {', '.join(claims.sources)}")
    places = all_stated(claims, root)
    spans: dict[str, list[tuple[int, int]]] = {}
    for place in places:
        spans.setdefault(place.claim.file, []).append(place.span)
    loose = [f"{file}, {found}" for file in claims.texts for found in unclaimed(root / file, spans.get(file, []))]
    wanted = {name: source for name, source in claims.sources.items() if not only or name in only}
    out.mkdir(parents=True, exist_ok=True)
    results = measure(wanted, out)
    findings = []
    for place in places:
        if place.claim.source not in results:
            continue
        if place.text is None:
            _require_nothing(place.claim, results[place.claim.source])
        else:
            findings.append(
                weigh(place.claim, place.text, look_up(results[place.claim.source], place.claim.at), place.ends)
            )
    if not only:
        write_whole(root / "docs" / "EVIDENCE.md", evidence_page(claims.sources, findings, loose))
    return findings, loose


def _require_nothing(claim: Claim, result: Any) -> None:
    """That there is nothing where a table has `-`."""
    try:
        measured = look_up(result, claim.at)
    except RecipeError:
        return
    raise RecipeError(f"{claim.file}: {claim.text.replace('{}', '-')}: measured {measured}; state it")


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
        cells = [f"{claim.file}: {words}", f"{bound}{finding.shown}", value, range_, claim.source]
        lines.append("| " + " | ".join([*cells, "yes" if finding.holds else "**no**"]) + " |")
    lines += ["", *(f"- Without a measurement: {place}" for place in loose)]
    lines += ["", "| by | command |", "|---|---|"]
    lines += [f"| {name} | `{' '.join(source.command)}` |" for name, source in sources.items()]
    return "\n".join(lines) + "\n"


def _shown(number: float) -> str:
    return f"{number:.4g}"
