"""The quickstart: every stage of a recipe in order, each resumed or skipped when it is done, and what came of it.

The stages stand in their packages and are imported when they run, so a finished run answers in a moment."""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dataset_builder.disk import disk_full_said
from evaluation.table import text_table
from evaluation.targets import check_targets
from recipes import Recipe
from recipes.writing import read_json, write_json, write_whole

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("recipes", "dataset_builder", "training", "evaluation", "cards", "hub")
_SOURCES = (".py", ".yaml", ".j2", ".json", ".safetensors", ".png", ".txt")


@dataclass(frozen=True)
class Run:
    """A run: its recipe, with the seed that counts, and its folder."""

    recipe: Recipe
    out: Path

    @property
    def dataset(self) -> Path:
        """The dataset folder."""
        return self.out / "dataset"

    @property
    def picture(self) -> Path:
        """The before/after picture."""
        return self.out / "report" / "picture.png"


def _build(run: Run) -> None:
    from dataset_builder.build import build

    build(run.recipe, run.out)


def _train(run: Run) -> None:
    from training.experts import train_experts

    train_experts(run.recipe, run.dataset, run.out)


def _experts(run: Run) -> dict[str, Path]:
    """The finished experts of this recipe; the folder may hold others of an earlier one."""
    wanted = run.recipe.train.categories
    found = {path.parent.name: path.parent for path in sorted((run.out / "experts").glob("*/training.json"))}
    return {name: folder for name, folder in found.items() if not wanted or name in wanted}


def _merge(run: Run) -> None:
    from training.merge import merge_experts

    merge_experts(run.recipe, _experts(run), run.dataset, run.out)


def _evaluate(run: Run) -> None:
    from evaluation.evaluate import evaluate
    from recipes.merge_plans import planned_merges

    adapters: dict[str, Path | None] = {"base": None, "merged": run.out / "merged"}
    for name in planned_merges(run.recipe):
        if name != run.recipe.merge.method:
            adapters[f"merge/{name}"] = run.out / "merges" / name
    if run.recipe.evaluate.experts:
        adapters.update({f"expert/{category}": folder for category, folder in _experts(run).items()})
    evaluate(run.recipe, run.dataset, adapters, run.out)


def read_results(out: Path) -> dict[str, Any]:
    """OUT/evaluation/results.json."""
    results: dict[str, Any] = json.loads((out / "evaluation" / "results.json").read_text("utf8"))
    return results


def _cards(run: Run) -> None:
    from cards import write_adapter_card, write_dataset_card
    from evaluation.picture import write_picture

    write_picture(run.out)
    write_dataset_card(run.recipe, run.dataset)
    results, merged = read_results(run.out), run.out / "merged"
    write_adapter_card(run.recipe, merged, results, picture=run.picture, examples=run.out / "evaluation")


def _report(run: Run) -> None:
    from evaluation.report import write_report

    write_report(run.out)


def _publish(run: Run) -> None:
    from hub.local_publishing import publish_locally

    publish_locally(run.recipe, run.out)


# Name, what it does, and the files, as patterns below OUT, that it leaves behind.
STAGES: list[tuple[str, Callable[[Run], None], tuple[str, ...]]] = [
    ("build", _build, ("dataset/coprov2.json", "dataset/*/*.parquet")),
    ("train", _train, ("experts/*/pytorch_lora_weights.safetensors", "experts/*/training.json")),
    (
        "merge",
        _merge,
        ("merged/*.safetensors", "merged/coprov2.json", "merges/*/*.safetensors", "merges/*/coprov2.json"),
    ),
    ("evaluate", _evaluate, ("evaluation/results.json", "evaluation/examples.json", "evaluation/examples/*.png")),
    ("cards", _cards, ("dataset/README.md", "dataset/images/*", "merged/README.md", "merged/images/*")),
    ("report", _report, ("report/index.html", "report/picture.png")),
    ("publish", _publish, ("hub.json",)),
]


def _digest(paths: list[Path], root: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode())
        if path.name == "results.json":
            # Its times are no part of what was found.
            results = {**json.loads(path.read_text("utf8")), "seconds": None}
            digest.update(json.dumps(results, sort_keys=True).encode())
            continue
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def code_digest() -> str:
    """sha256 over the source, the recipes and the shipped models: what a finished stage was made by."""
    paths = [path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.suffix in _SOURCES]
    return _digest(paths, ROOT)


def _left_behind(run: Run, patterns: tuple[str, ...]) -> str:
    return _digest([path for pattern in patterns for path in run.out.glob(pattern)], run.out)


def _note_seconds(run: Run, name: str, seconds: float) -> None:
    """Add to OUT/seconds.json, which keeps the order of the stages."""
    path = run.out / "seconds.json"
    known = read_json(path)
    known[name] = round(known.get(name, 0.0) + seconds, 3)
    ordered = {stage: known[stage] for stage, *_ in STAGES if stage in known}
    write_whole(path, json.dumps(ordered, indent=2) + "\n")


def run_stages(run: Run, say: Callable[[str], None] = print) -> list[str]:
    """Run the stages that are not done; returns their names.

    A stage is done when OUT/work/stages.json says that it ended with this recipe, this code and the same files of the
    stages before it, and the files that it left are unchanged since. It is run otherwise, and itself resumes what it
    had begun. A stage that was killed keeps no time; the time of every run that ended is added up in OUT/seconds.json.
    """
    path = run.out / "work" / "stages.json"
    noted: dict[str, dict[str, str]] = read_json(path)
    before = hashlib.sha256(json.dumps([asdict(run.recipe), code_digest()], sort_keys=True).encode()).hexdigest()
    ran = []
    for index, (name, stage, patterns) in enumerate(STAGES, 1):
        note = noted.get(name, {})
        if note.get("before") == before and note.get("after") == _left_behind(run, patterns):
            say(f"[{index}/{len(STAGES)}] {name}: done already")
        else:
            say(f"[{index}/{len(STAGES)}] {name}")
            started = time.perf_counter()
            try:
                stage(run)
            finally:
                _note_seconds(run, name, time.perf_counter() - started)
            ran.append(name)
            noted[name] = {"before": before, "after": _left_behind(run, patterns)}
            write_json(path, noted)
        before = hashlib.sha256(f"{before} {noted[name]['after']}".encode()).hexdigest()
    return ran


def published_line(run: Run) -> str:
    """What was published to the Hub on loopback, in one line."""
    told = json.loads((run.out / "hub.json").read_text("utf8"))
    rows = ", ".join(f"{tag} of {sum(splits.values())} pairs" for tag, splits in told["loaded"]["rows"].items())
    given = told.get("contribution")
    merged = f"; pull request {given['pull_request']} gave {given['passed']} pairs" if given else ""
    return (
        f"published on a Hub on loopback: {told['dataset']['name']} {rows}{merged}; {told['adapter']['name']} "
        f"{', '.join(told['adapter']['versions'])}; both loaded by tag, equal to what was made"
    )


def lines_to_load(run: Run) -> list[str]:
    """The two lines of Python that load what a run made, with stock libraries."""
    return [
        f'dataset = datasets.load_dataset("{run.dataset}")',
        f'pipe.load_lora_weights("{run.out / "merged"}", weight_name="pytorch_lora_weights.safetensors")',
    ]


def quickstart(
    recipe: Recipe, out: Path, seed: int | None = None, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Run a whole recipe and print what came of it.

    Args:
        recipe (`Recipe`): the recipe.
        out (`Path`): the run's folder.
        seed (`int`, *optional*): in place of the recipe's.
        say (`Callable`, *optional*, defaults to `print`): takes each line of what is told.

    Returns:
        `dict`: the results, as in OUT/evaluation/results.json, with the seconds of the stages.
    """
    if seed is not None:
        recipe.seed = seed
    out.mkdir(parents=True, exist_ok=True)
    run = Run(recipe, out)
    with disk_full_said(out):
        run_stages(run, say)
    results = read_results(out)
    seconds = json.loads((out / "seconds.json").read_text("utf8"))
    timed = {**results, "seconds": {**results["seconds"], **seconds}}
    if timed != results:
        write_json(out / "evaluation" / "results.json", timed)
    say("")
    say(text_table(results))
    say("")
    for target in check_targets(results["models"]):
        verdict = {True: "met", False: "MISSED", None: "not measured"}[target.met]
        say(f"{verdict}: {target.name} {target.measured or ''} (wanted {target.wanted})")
    say("")
    say("seconds: " + ", ".join(f"{name} {value:.1f}" for name, value in seconds.items()))
    say(published_line(run))
    say(f"its Hub again: coprov2 hub serve --root {out / 'hub'}")
    say(f"report: {out / 'report' / 'index.html'}")
    say("load what was made:")
    for line in lines_to_load(run):
        say(f"  {line}")
    return timed
