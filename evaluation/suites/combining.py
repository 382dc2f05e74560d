"""Results of several runs in one table. Figures under different protocols, or by different models, are never put into
one column."""

import json
from pathlib import Path
from typing import Any

from evaluation.protocols.protocol import differences
from recipes import RecipeError


def read_suite(path: Path) -> dict[str, Any]:
    """The results of a suite.

    Raises:
        `RecipeError`: where the file is missing or holds anything else.
    """
    if path.is_dir():
        path = path / "results.json"
    if not path.is_file():
        raise RecipeError(f"{path}: no such file; expected results of `coprov2 evaluate --suite`")
    try:
        value = json.loads(path.read_text("utf8"))
        ok = all({"row", "metric", "base", "aligned", "protocol"} <= set(row) for row in value["rows"])
    except (ValueError, KeyError, TypeError):
        ok = False
    if not ok or not isinstance(value.get("protocols"), dict) or not isinstance(value.get("provenance"), dict):
        raise RecipeError(f"{path}: holds no results of a suite; expected those of `coprov2 evaluate --suite`")
    return value


def combine(results: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of several results, each with `cells`: base and aligned figure by the name of the results.

    Args:
        results (`dict`): what [`read_suite`] gives, by name; a row that one of them lacks, or has empty, has no cell.

    Raises:
        `RecipeError`: where a row was measured under two protocols, or by different judges or feature models: the
            error names the fields that differ.
    """
    rows: dict[str, dict[str, Any]] = {}
    first: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {}
    for name, value in results.items():
        for row in value["rows"]:
            key = row["row"]
            made = rows.setdefault(
                key, {"row": key, "title": row.get("title", key), "metric": row["metric"], "cells": {}}
            )
            if row["base"] is None and row["aligned"] is None:
                continue
            if key in first:
                _same(key, first[key], (name, value, row))
            else:
                first[key] = (name, value, row)
                made["protocol"] = row["protocol"]
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
