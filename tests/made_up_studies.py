"""Made-up results of a suite, a merge study and a scaling study, for tests of the report: long names, empty cells."""

import copy
from pathlib import Path
from typing import Any

import numpy as np

from dataset_builder.emoji_world.things import CATEGORIES
from evaluation.intervals import wilson
from recipes.writing import write_json

PROTOCOL = {"name": "emoji-world", "sha256": "c0ffee" * 10 + "beef", "changed": []}
PROVENANCE = {
    "base_model": "coprov2/emoji-world-t2i@0123456789ab",
    "judge": "emoji_world coprov2/emoji-world-judge@0123456789ab threshold 0.5",
    "harmless_world": True,
    "versions": {"coprov2": "0.1.0", "torch": "2.13"},
}


def _rate(rng: np.random.Generator, share: float, n: int) -> dict[str, Any]:
    return dict(wilson(int(rng.binomial(n, share)), n) or {})


def write_suite(out: Path) -> Path:
    """OUT/suites/paper/results.json with ten rows: some full, some empty, with published figures."""
    rng = np.random.default_rng(3)
    published = [
        {"method": "AlignGuard", "source": "CASG (CVPR 2026)", "base_model": "SD1.5", "base": 42.2, "value": 13.7},
        {"method": "AlignGuard", "source": "SPOT (arXiv 2602.00616)", "value": 8, "note": "its own seeds"},
        {
            "method": "SLD",
            "source": "PSAlign (its own tables)",
            "base": 38.0,
            "value": 18.2,
            "note": "as in its source",
        },
        {"method": "ESD-u", "source": "PSAlign (its own tables)", "base": 38.0, "value": 35.6, "note": "its own set"},
    ]
    sets = ["coprov2_test", "i2p", "unsafe_diffusion_1434", "unsafe_diffusion_904", "t2vsafetybench"]
    rows: list[dict[str, Any]] = []
    for i, name in enumerate(sets):
        row: dict[str, Any] = {
            "row": f"ip_{name}",
            "title": f"IP, {name}",
            "notes": ["a seeded sample of 1000 prompts"] if i == 0 else [],
            "prompt_set": name,
            "metric": "inappropriate_probability",
            "base": _rate(rng, 0.4, 1000),
            "aligned": _rate(rng, 0.1, 1000),
            "difference": {"value": -0.3, "low": -0.33, "high": -0.27, "n": 1000},
            "test": {"test": "McNemar, exact", "p": 1e-9, "n": 1000, "fell": 310, "rose": 10},
            "empty": None,
            "n": 1000,
            "drawn": "a",
            "published": published if i < 2 else [],
            "protocol": {**PROTOCOL, "name": f"paper_{name}", "changed": ["steps=4"] if i == 0 else []},
            "per_category": {c: {"base": _rate(rng, 0.4, 90), "aligned": _rate(rng, 0.1, 90)} for c in CATEGORIES[:5]},
        }
        if i > 2:
            row |= dict.fromkeys(("base", "aligned", "difference", "test", "per_category"))
            row["empty"] = f"the set {name} is not at hand; give --prompts {name}=FILE"
        rows.append(row)
    for metric, low in (("fid", 37.0), ("clip_score", 30.0)):
        for name in ("coco_3k", "coco_30k"):
            ends = [None, None] if metric == "fid" else [low - 1, low + 1]
            value = {"value": low, "low": ends[0], "high": ends[1], "n": 3000}
            full = name == "coco_3k"
            rows.append(
                {
                    "row": f"{metric}, {name}",
                    "prompt_set": name,
                    "metric": metric,
                    "base": value if full else None,
                    "aligned": {**value, "value": low + 0.5} if full else None,
                    "difference": None,
                    "test": None,
                    "empty": None if full else "no model of features was given",
                    "published": [],
                    "protocol": PROTOCOL,
                }
            )
    rows.append(
        {
            "row": "over-refusal",
            "prompt_set": "over_refusal",
            "metric": "over_refusal_rate",
            "base": None,
            "aligned": {"value": 0.02, "low": 0.0, "high": 0.07, "n": 105},
            "difference": None,
            "test": None,
            "empty": "the base is what refusal is measured from",
            "published": [],
            "protocol": PROTOCOL,
        }
    )
    path = out / "suites" / "paper" / "results.json"
    write_json(
        path,
        {
            "suite": "paper",
            "title": "ten rows",
            "rows": rows,
            "protocols": {"paper-i2p": {"name": "paper-i2p", "render": {"steps": 50}}},
            "published_elsewhere": [{"method": "SLD", "source": "PSAlign", "value": 20.4, "note": "FID on COCO-10K"}],
            "provenance": PROVENANCE,
        },
    )
    return path


def study_row(name: str, rng: np.random.Generator, unsafe: float, tuned: bool | None, group: str) -> dict[str, Any]:
    """A row of a merge study."""
    measures: dict[str, Any] = {
        "unsafe_rate": _rate(rng, unsafe, 1505),
        "unsafe_rate_unseen_concepts": _rate(rng, min(1.0, unsafe + 0.03), 210),
        "counterpart_rate": _rate(rng, max(0.0, 0.9 - unsafe), 1505),
        "scene_kept_rate": _rate(rng, 0.97, 1400),
        "safe_fidelity": _rate(rng, 0.96, 1505),
        "fidelity_lost": {"value": 0.012, "low": 0.004, "high": 0.02, "n": 1505},
        "drift": {"value": 0.034, "low": 0.033, "high": 0.036, "n": 1505},
    }
    return {
        "name": name,
        "group": group,
        "method": name.removesuffix("-tuned"),
        "tuned": tuned,
        "rank": 28,
        "seeds": [0, 1, 2, 3, 4],
        "measures": measures,
        "per_seed": {str(seed): {"unsafe_rate": max(0.0, unsafe + 0.01 * (seed - 2))} for seed in range(5)},
        "per_category": {c: {"unsafe_rate": _rate(rng, unsafe, 215), "counterpart_rate": None} for c in CATEGORIES},
        "paired": {"difference": 0.02, "low": -0.01, "high": 0.05, "p": 0.0004, "p_holm": 0.012},
        "merge_seconds": 4.2,
        "tune_seconds": 31.5 if tuned else None,
        "peak_mib": 212.4,
    }


def write_study(out: Path, rows: int = 40) -> Path:
    """OUT/study.json of a merge study with about `rows` variants, most of them without and with tuning."""
    rng = np.random.default_rng(7)
    base = study_row("base", rng, 0.95, None, "reference")
    base |= {"rank": None, "paired": None, "merge_seconds": None, "peak_mib": None}
    base["measures"] |= {"drift": None, "fidelity_lost": None}
    variants = [base]
    names = ["least_squares", "linear", "cat", "svd", "ties", "dare_linear", "dare_ties", "magnitude_prune"]
    names += [f"comerge-{unit}-{how}-{score}-activations-of-base" for unit in ("row", "rank", "weight")
              for how in ("hard", "soft", "top_n") for score in ("count", "mean")]  # fmt: skip
    names += [f"grid-variant-with-a-rather-long-name-number-{i}" for i in range(rows)]
    for i, name in enumerate(names):
        if len(variants) >= rows:
            break
        group = "main" if i < 8 else "comerge grid"
        variants.append(study_row(name, rng, 0.08 + 0.02 * i % 0.8, False, group))
        if i % 5 != 4:
            variants.append(study_row(f"{name}-tuned", rng, 0.02 + 0.01 * i % 0.4, True, group))
    variants.append(copy.deepcopy(study_row("all_single", rng, 0.04, None, "controls")))
    variants[1]["paired"] = None
    variants[5]["measures"]["counterpart_rate"] = None
    path = out / "study.json"
    write_json(
        path,
        {
            "kind": "merge",
            "recipe": "emoji-world",
            "protocol": PROTOCOL,
            "seeds": [0, 1, 2, 3, 4],
            "confidence": 0.95,
            "reference": "least_squares",
            "rows": variants,
            "missing": [{"name": "sft", "seed": 3, "reason": "stopped before it was trained"}],
            "provenance": PROVENANCE,
        },
    )
    return path


def write_scaling(out: Path) -> Path:
    """OUT/study.json of a scaling study with three curves."""
    rng = np.random.default_rng(9)
    curves = []
    for name, start in (("all-single", 0.8), ("experts + Co-Merge, row, hard", 0.7), ("experts + least_squares", 0.6)):
        points = []
        for i, concepts in enumerate((5, 10, 20, 40, 42)):
            point: dict[str, Any] = {"concepts": concepts, "seeds": [0, 1, 2]}
            point["unsafe_rate"] = _rate(rng, start / (i + 1), 300)
            point["unsafe_rate_not_aligned"] = _rate(rng, min(1.0, 1.2 * start / (i + 1)), 300) if i < 4 else None
            point["counterpart_rate"] = _rate(rng, 0.5 + 0.08 * i, 300)
            point["safe_fidelity"] = _rate(rng, 0.97 - 0.01 * i, 300)
            points.append(point)
        curves.append({"name": name, "points": points})
    path = out / "study.json"
    study = {"kind": "scaling", "recipe": "emoji-world", "protocol": PROTOCOL, "seeds": [0, 1, 2], "confidence": 0.95}
    write_json(path, {**study, "curves": curves, "missing": [], "provenance": PROVENANCE})
    return path
