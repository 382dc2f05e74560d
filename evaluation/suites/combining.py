"""Results of several runs in one table. Figures under different protocols, or by different models, are never put into
one column."""

from pathlib import Path
from typing import Any

from evaluation.protocols.protocol import differences
from evaluation.report.reading import Node, clean, read_node
from recipes import RecipeError


def read_suite(path: Path) -> dict[str, Any]:
    """The results of a suite; they may be anyone's, so texts are cleaned of what a terminal would act on.

    Raises:
        `RecipeError`: where the file is missing or holds anything else: it names the field. A row that stands twice is
            refused too, for only one of its figures could be shown.
    """
    if path.is_dir():
        path = path / "results.json"
    if not path.is_file():
        raise RecipeError(f"{path}: no such file; expected results of `coprov2 evaluate --suite`")
    found = read_node(path)
    try:
        _check(found)
    except RecipeError as error:
        raise RecipeError(f"{error}, as in the results of `coprov2 evaluate --suite`") from None
    value: dict[str, Any] = _cleaned(found.value)
    return value


def _check(results: Node) -> None:
    """That everything that is read of the results is what it should be."""
    seen: set[str] = set()
    for row in results.need("rows").items():
        key = row.need("row")
        if not isinstance(key.value, str) or key.value in seen:
            raise key.wrong("the name of a row that stands once")
        seen.add(key.value)
        row.need("metric").text()
        if (pictures := row.get("n")) is not None:
            pictures.count()
        for side in ("base", "aligned"):
            if side not in row.value:
                raise Node(row.file, f"{row.place}.{side}", None).wrong("an estimate, or null where there is none")
            if (estimate := row.get(side)) is not None:
                estimate.need("value")
                estimate.estimate()
        protocol = row.need("protocol")
        for name in ("name", "sha256"):
            if not isinstance(protocol.need(name).value, str):
                raise protocol.need(name).wrong("text")
    if not seen:
        raise results.need("rows").wrong("at least one row")
    results.need("protocols").fields()
    models = results.need("provenance").get("models")
    if models is not None:
        models.fields()


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list):
        return [_cleaned(one) for one in value]
    if isinstance(value, dict):
        return {clean(key): _cleaned(one) for key, one in value.items()}
    return value


def combine(results: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of several results, each with `cells`: base and aligned figure by the name of the results.

    Args:
        results (`dict`): what [`read_suite`] gives, by name; a row that one of them lacks, or has empty, has no cell.

    Raises:
        `RecipeError`: where a row was measured under two protocols, by another metric or procedure, on other prompts,
            or by different judges or feature models: the error names the fields that differ.
    """
    rows: dict[str, dict[str, Any]] = {}
    first: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {}
    for name, value in results.items():
        for row in value["rows"]:
            key = row["row"]
            title = " ".join(str(row.get("title") or key).split())
            made = rows.setdefault(key, {"row": key, "title": title, "metric": row["metric"], "n": None, "cells": {}})
            if row["base"] is None and row["aligned"] is None:
                continue
            if key in first:
                _same(key, first[key], (name, value, row))
            else:
                first[key] = (name, value, row)
                made |= {"protocol": row["protocol"], "n": row.get("n")}
            made["cells"][name] = {"base": row["base"], "aligned": row["aligned"]}
    return list(rows.values())


def _same(
    key: str, one: tuple[str, dict[str, Any], dict[str, Any]], other: tuple[str, dict[str, Any], dict[str, Any]]
) -> None:
    (name, value, row), (name2, value2, row2) = one, other
    found: list[str] = []
    if row["protocol"]["sha256"] != row2["protocol"]["sha256"]:
        found = differences(_stated(value, row), _stated(value2, row2)) or ["sha256: of contents that are not stated"]
    else:
        found = differences(_models(value, row), _models(value2, row2), "models")
        # One protocol may hold several metrics; and results of an older procedure are other figures.
        found += differences(row["metric"], row2["metric"], "metric")
        # A dataset's evaluation has a number of its own beside the suites'.
        for number in ("procedure", "protocol"):
            found += differences(value["provenance"].get(number), value2["provenance"].get(number), number)
        # The hash covers what the hard block refuses too, and its rules are no part of a protocol.
        found += differences(row.get("n"), row2.get("n"), "n")
        found += differences(row.get("drawn"), row2.get("drawn"), "drawn prompts")
    if found:
        raise RecipeError(
            f"{key}: {name} ({row['protocol']['name']}) and {name2} ({row2['protocol']['name']}) are not of one "
            f"protocol and stand in no column together; they differ in {'; '.join(found)}"
        )


def _stated(value: dict[str, Any], row: dict[str, Any]) -> Any:
    return value["protocols"].get(row["protocol"]["name"].partition(" (changed")[0])


def _models(value: dict[str, Any], row: dict[str, Any]) -> Any:
    provenance = value["provenance"]
    return (provenance.get("models") or {}).get(row["row"]) or {"judge": provenance.get("judge")}
