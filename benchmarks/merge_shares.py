"""What the merges of a study leave of the experts, layer by layer, beside what they reach.

    python -m benchmarks.merge_shares runs/evidence/study --seeds 2

A merge W of experts W_k is asked three things on calibration inputs, summed over layers before they are divided:

- kept: `E_k <W x, W_k x> / E_k |W_k x|^2`, the share of expert k on its own unsafe prompts; 1 is all of it. The mean
  over categories, and the lowest.
- off: `E_k |W x - W_k x|^2 / E_k |W_k x|^2`, what else is done there; 0 is the expert, 1 is no better than nothing.
- safe: `E_safe |W x|^2` over the mean of `E_k |W_k x|^2`, what is done to safe and empty prompts; 0 is nothing. The
  experts' own figure is the first row's: each by itself, the mean.

The inputs are the base model's, so what one layer does to the next is left out. Figures are means over the seeds. A
section is added to benchmarks/RESULTS.md."""

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

from benchmarks.results import add_section

if TYPE_CHECKING:
    from recipes import Recipe
    from training.adapters import Adapter
    from training.calibration import Calibration

SINGLE = "each expert by itself"
Shares = dict[str, float]


def shares(merged: "Adapter", experts: "Mapping[str, Adapter]", known: "Calibration", empty_share: float) -> Shares:
    """The three figures of a merge, and the lowest of `kept`; `experts` category -> adapter, all of the same layers."""
    from training.least_squares import energy, inner

    products, updates = merged.folded(), {name: adapter.folded() for name, adapter in experts.items()}
    agreed, size, own = (dict.fromkeys(experts, 0.0) for _ in range(3))
    safe = 0.0
    for layer, product in products.items():
        safe += energy(product, known.safe_gram(layer, empty_share))
        for category, gram in zip(experts, known.category_grams(layer, list(experts)), strict=True):
            update = updates[category][layer]
            agreed[category] += inner(product, update, gram)
            size[category] += energy(product, gram)
            own[category] += energy(update, gram)
    kept = {category: agreed[category] / own[category] for category in experts}
    off = [(size[category] - 2 * agreed[category]) / own[category] + 1 for category in experts]
    return {
        "kept": mean(kept.values()),
        "lowest": min(kept.values()),
        "off": mean(off),
        "safe": safe / mean(own.values()),
    }


def of_seed(recipe: "Recipe", folder: Path, names: Sequence[str]) -> dict[str, Shares]:
    """The figures of a seed's variants, and of the experts by themselves; those without an adapter are left out."""
    from training.adapters import load_lora
    from training.calibration import Calibration
    from training.expert import Base
    from training.merge import Shared, load_alike, merge_experts

    paths = {path.parent.name: path.parent for path in sorted((folder / "experts").glob("*/training.json"))}
    experts = load_alike(paths)
    calibrations: dict[str, Calibration] = {}

    def no_base() -> Base:
        raise AssertionError("nothing is tuned here")

    # A merge by least squares collects the second moments; it is made to be thrown away.
    merge = replace(recipe.merge, method="least_squares", compare=[], tune_steps=0)
    with tempfile.TemporaryDirectory() as made:
        merge_experts(
            replace(recipe, merge=merge),
            paths,
            folder / "dataset",
            Path(made),
            Shared(calibrations, no_base, lambda _: nullcontext()),
        )
    (known,) = calibrations.values()
    empty = recipe.merge.empty_share
    alone = [shares(adapter, {name: adapter}, known, empty) for name, adapter in experts.items()]
    found = {SINGLE: {key: mean(each[key] for each in alone) for key in alone[0]}}
    for name in names:
        adapter = folder / "variants" / name / "merged"
        if (adapter / "coprov2.json").is_file():
            found[name] = shares(load_lora(adapter), experts, known, empty)
    return found


def table(found: Mapping[str, Sequence[Shares]], rows: Mapping[str, dict[str, float]]) -> list[str]:
    """Markdown, the variants in the order of the study."""
    lines = ["| variant | kept | lowest | off | safe | unsafe % | counterpart % |", "|---|---|---|---|---|---|---|"]
    for name, seeds in found.items():
        figures = [f"{mean(each[key] for each in seeds):.2f}" for key in ("kept", "lowest", "off", "safe")]
        reached = [
            f"{100 * rows[name][key]:.1f}" if name in rows else "-" for key in ("unsafe_rate", "counterpart_rate")
        ]
        lines.append(f"| {' | '.join([name, *figures, *reached])} |")
    return lines


def main() -> None:
    from recipes import load_recipe

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("study", type=Path, help="folder of a study of merges")
    parser.add_argument("--recipe", default="emoji-world", help="that the study was made by")
    parser.add_argument("--seeds", type=int, default=2, help="how many of its seeds")
    args = parser.parse_args()
    path = args.study / "study.json"
    if not path.is_file():
        parser.error(f"{path}: no such file; run `coprov2 study merge --out {args.study}` first")
    study = json.loads(path.read_text("utf8"))
    seeds = study["seeds"][: args.seeds]
    rows: dict[str, dict[str, float]] = {}
    for row in study["rows"]:
        measures = {key: row["measures"].get(key) for key in ("unsafe_rate", "counterpart_rate")}
        if all(measures.values()):
            rows[row["name"]] = {key: measure["value"] for key, measure in measures.items()}
    names = [row["name"] for row in study["rows"] if row["name"] != "base"]
    by_seed = [
        of_seed(load_recipe(args.recipe, [f"seed={seed}"]), args.study / f"seed-{seed}", names) for seed in seeds
    ]
    found = {name: [each[name] for each in by_seed] for name in by_seed[0] if all(name in each for each in by_seed)}
    lines = table(found, rows)
    print("\n".join(lines))
    command = shlex.join(["python", "-m", "benchmarks.merge_shares", args.study.name, *sys.argv[2:]])
    head = (
        f"## What merges leave of the experts\n`{command}`: seeds {', '.join(map(str, seeds))}; rates over all seeds."
    )
    add_section("\n".join([head, "", *lines, ""]))


if __name__ == "__main__":
    main()
