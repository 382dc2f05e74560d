"""Run a suite of prompt sets: draw base and aligned model under each protocol, measure, and write results.json.

A row whose prompt set or model is not at hand stays empty with the reason; a file that somebody gave and that is wrong
is an error before anything is drawn. Killed at any moment, the same command goes on and ends in the same results."""

import hashlib
import json
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from dataset_builder.disk import disk_full_said
from dataset_builder.keys import seed_from
from evaluation.alone import alone
from evaluation.drawing import Drawer, adapter_identity
from evaluation.prompt_sets.definition import list_sets, load_definition
from evaluation.prompt_sets.loading import LoadedSet, NotAtHandError, Prompt, load_prompts, sample
from evaluation.prompts import refused_record
from evaluation.protocols.protocol import NEEDS, Protocol, change, content, load_protocol, record
from evaluation.suites.bench import Bench, Measured, Pictures
from evaluation.suites.distances import real_features, real_statistics
from evaluation.suites.examples import FILE, write_suite_examples
from evaluation.suites.measuring import METRICS, PROCEDURE, identities
from evaluation.suites.portions import PortionStore
from evaluation.suites.roles import Models
from evaluation.suites.suite import Suite, SuiteRow, published_figures
from evaluation.verdict_store import VerdictStore
from recipes import Recipe, RecipeError
from recipes.loading import unknown_name
from recipes.writing import read_json, write_json

NO_ADAPTER = "aligned: no adapter was given (--adapter DIR)"
_PACKAGES = ("torch", "diffusers", "transformers", "peft", "numpy", "pillow", "nudenet")


@dataclass
class Given:
    """What a user gives to a suite.

    Args:
        base (`str`): the base model: a Hub id, a folder, or `emoji-world`. revision (`str`, *optional*): of a Hub id.
        adapter (`Path`, *optional*): folder of the aligned model's LoRA.
        prompts (`dict[str, Path]`): files or folders by prompt set. pins (`dict[str, str]`): checksums by prompt set.
        models (`dict[str, Path]`): by role.
        overrides (`list[str]`): changes to all protocols, as `field=value`.
        limit (`int`, *optional*): prompts a set at most.
        any_rows (`bool`): whether sets of another number of rows are taken.
    """

    base: str
    revision: str | None = None
    adapter: Path | None = None
    prompts: dict[str, Path] = field(default_factory=dict)
    pins: dict[str, str] = field(default_factory=dict)
    models: dict[str, Path] = field(default_factory=dict)
    overrides: list[str] = field(default_factory=list)
    limit: int | None = None
    any_rows: bool = False


@dataclass
class _Task:
    """A protocol with its prompts, or the reason why there are none."""

    protocol: Protocol
    stated: dict[str, Any]
    loaded: LoadedSet | None
    missing: str | None
    prompts: list[Prompt]


def load_protocols(names: list[str], overrides: list[str], limit: int | None) -> dict[str, Protocol]:
    """Protocols by name, with the same changes to all; what single metrics read, such as a judge, leaves those without
    it as they are: their figures stay those of the same protocol."""
    shipped = {name: load_protocol(name) for name in names}
    single = {field for fields in NEEDS.values() for field in fields}

    def those_of(override: str) -> list[str]:
        field = override.partition("=")[0].partition(".")[0]
        # Where none has it all take it, and say so or refuse it.
        return [name for name in names if field not in single or getattr(shipped[name], field) is not None] or names

    found = {}
    for name in names:
        own = [one for one in overrides if name in those_of(one)]
        found[name] = change(shipped[name], [*own, *([f"limit={limit}"] if limit is not None else [])])
    return found


def run_suite(suite: Suite, given: Given, out: Path) -> dict[str, Any]:
    """Run a suite; its results stand in OUT/suites/<suite>/results.json.

    Args:
        suite (`Suite`): which rows. given (`Given`): models, adapter and prompts. out (`Path`): the folder of the run.

    Returns:
        `dict`: `suite`, `title`, `rows`, `protocols` (what each hash was taken of), `published_elsewhere` and
        `provenance`. All of it is the same for the same inputs; where the file is there for them, it is returned.

    Raises:
        `RecipeError`: for a file, a model or a setting that does not fit, for a full disk, and where another process
            works on the suites of OUT.
    """
    from dataset_builder.models import identity

    for option, names in (("--prompts", given.prompts), ("--pin", given.pins)):
        for name in names:
            if name not in list_sets():
                raise unknown_name(option, name, list_sets())
    for override in given.overrides:
        if override.partition("=")[0].partition(".")[0] == "metrics":
            # It would change the hash alone, and set figures apart that were measured alike.
            raise RecipeError(
                f"--set {override}: the rows of the suite {suite.name} say what is measured; leave it out"
            )
    tasks = _tasks(suite, given)
    models = Models(given.models)
    needs = {row.row: _needs(models, tasks[row.protocol], row) for row in suite.rows}
    base_model = identity(given.base, given.revision)
    provenance = {
        "procedure": PROCEDURE,
        "base_model": base_model,
        "adapter": None if given.adapter is None else adapter_identity(given.adapter),
        "protocols": {name: record(task.protocol, task.stated) for name, task in tasks.items()},
        "prompt_sets": {name: _set_record(task) for name, task in tasks.items()},
        "models": {row: found if isinstance(found, dict) else None for row, found in needs.items()},
        "empty": {row: found if isinstance(found, str) else None for row, found in needs.items()},
        "versions": versions(),
    }
    folder = out / "suites" / suite.name
    path = folder / "results.json"
    done = read_json(path)
    if done.get("provenance") == provenance and (folder / FILE).is_file():
        return done
    # All suites of a run's folder share pictures, verdicts and numbers.
    with disk_full_said(folder), alone(out / "suites", "suite"):
        rows = _measure(suite, given, tasks, models, needs, base_model, out / "suites")
        published = published_figures()
        for row in rows:
            row["published"] = [figure for figure in published if figure["row"] == row["row"]]
        results = {
            "suite": suite.name,
            "title": suite.title,
            "rows": rows,
            "protocols": {name: task.stated for name, task in tasks.items()},
            "published_elsewhere": [figure for figure in published if figure["row"] is None],
            "provenance": provenance,
        }
        write_json(path, results)
    return results


def drawn_digest(names: Iterable[str]) -> str:
    """The first 16 hex digits of the SHA-256 of the sorted names of what was drawn: a hash of a protocol does not tell
    which prompts the hard block refused."""
    return hashlib.sha256(json.dumps(sorted(names)).encode()).hexdigest()[:16]


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that figures depend on, by name; those that are not installed are left
    out."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _tasks(suite: Suite, given: Given) -> dict[str, _Task]:
    protocols = load_protocols(suite.protocols, given.overrides, given.limit)
    used = {protocol.prompt_set for protocol in protocols.values()}
    for option, names in (("--prompts", given.prompts), ("--pin", given.pins)):
        for name in names:
            if name not in used:
                raise RecipeError(f"{option} {name}: no row of the suite {suite.name} draws it; leave it out")
    tasks = {}
    for name, protocol in protocols.items():
        definition = load_definition(protocol.prompt_set)
        key = definition.name
        try:
            loaded = load_prompts(
                definition,
                given.prompts.get(key),
                given.any_rows,
                given.pins.get(key),
                seeds=protocol.seed_rule == "row",
            )
        except NotAtHandError as error:
            tasks[name] = _Task(protocol, content(protocol, definition), None, str(error), [])
            continue
        if definition.rows is not None and loaded.rows != definition.rows:
            # Another set than the published one, so its checksum says nothing either.
            protocol.changed.append(f"rows={loaded.rows} of {definition.rows}")
            definition = replace(definition, rows=loaded.rows)
        stated = content(protocol, definition, loaded.sha256)
        prompts = sample(loaded.prompts, protocol.limit, protocol.seed)
        missing = None if prompts else f"the hard block refuses all {loaded.rows} prompts"
        tasks[name] = _Task(protocol, stated, loaded, missing, prompts)
    return tasks


def _needs(models: Models, task: _Task, row: SuiteRow) -> dict[str, str] | str:
    """The identities of the models that a row needs, or the reason why it stays empty."""
    reasons = [task.missing] if task.missing else []
    try:
        found = identities(models, task.protocol, row.metric)
    except NotAtHandError as error:
        reasons.append(str(error))
    return "; ".join(reasons) if reasons else found


def _set_record(task: _Task) -> dict[str, Any]:
    loaded = task.loaded
    found: dict[str, Any] = {"name": task.protocol.prompt_set, "missing": task.missing}
    if loaded is None:
        return found
    return found | {
        "source": loaded.source,
        "loaded": loaded.loaded,
        "rows": loaded.rows,
        "sha256": loaded.sha256,
        "drawn": len(task.prompts),
        **refused_record([f"{name[:80]} ({rule})" for name, rule in loaded.refused]),
    }


def _measure(
    suite: Suite,
    given: Given,
    tasks: dict[str, _Task],
    models: Models,
    needs: dict[str, dict[str, str] | str],
    base: str,
    folder: Path,
) -> list[dict[str, Any]]:
    from dataset_builder.pictures import PictureStore

    drawers: dict[str, Drawer] = {}
    drawn: dict[str, Pictures] = {}
    verdicts = VerdictStore(folder / "verdicts.sqlite", keep_judges=True)
    bench = Bench(models, PictureStore(folder / "pictures"), verdicts, PortionStore(folder / "portions"))
    rows = []
    try:
        for row in suite.rows:
            # What is wrong is found before the first picture is drawn, however long the rows before it take.
            if isinstance(needs[row.row], dict):
                for prompt in tasks[row.protocol].prompts:
                    picture_seed(tasks[row.protocol].protocol, prompt)
                if row.metric == "fid":
                    real_statistics(bench)
                elif row.metric == "kid":
                    real_features(bench)
        for row in suite.rows:
            task, need = tasks[row.protocol], needs[row.row]
            measured, reason = Measured(), need if isinstance(need, str) else None
            if reason is None:
                if row.protocol not in drawn:
                    drawn[row.protocol] = _draw(given, task, base, folder / "pictures", drawers)
                try:
                    measured = METRICS[row.metric](bench, task.protocol, drawn[row.protocol], row.title)
                except NotAtHandError as error:
                    reason = str(error)
            rows.append(_row(row, task, measured, reason, given.adapter is not None))
        shown = {name: (tasks[name].protocol, pictures) for name, pictures in drawn.items()}
        seeds = {name: [picture_seed(of, prompt) for prompt in found.prompts] for name, (of, found) in shown.items()}
        # Pictures of this adapter must not stand beside the results of another one, wherever it is killed.
        (folder / suite.name / "results.json").unlink(missing_ok=True)
        write_suite_examples(folder / suite.name, bench, shown, seeds)
    finally:
        verdicts.close()
    return rows


def _draw(given: Given, task: _Task, base: str, pictures: Path, drawers: dict[str, Drawer]) -> Pictures:
    protocol = task.protocol
    render = protocol.render()
    # One pipeline for all protocols that draw alike.
    key = json.dumps(asdict(render), sort_keys=True)
    if key not in drawers:
        recipe = Recipe(name=protocol.name, base_model=given.base, revision=given.revision, render=render)
        drawers[key] = Drawer(recipe, base, pictures)
    wanted = [(prompt.text, picture_seed(protocol, prompt)) for prompt in task.prompts]
    drawer = drawers[key]
    if given.adapter is not None:
        drawer.require_fit(wanted, given.adapter)
    drawn = drawer.draw_kept(wanted, None, f"{protocol.name}: draw base")
    aligned = None
    if given.adapter is not None:
        aligned = drawer.draw_kept(wanted, given.adapter, f"{protocol.name}: draw aligned")
    return Pictures(task.prompts, drawn, aligned)


def picture_seed(protocol: Protocol, prompt: Prompt) -> int:
    """The seed that a prompt is drawn with, by the protocol's rule; the same for base and aligned model.

    Raises:
        `RecipeError`: where the rule takes the set's own seeds and the set gives none.
    """
    if protocol.seed_rule == "fixed":
        return protocol.seed
    if protocol.seed_rule == "row":
        if prompt.seed is None:
            raise RecipeError(
                f"seed_rule: row takes the seeds of {protocol.prompt_set}, which gives none for {prompt.id[:60]!r}; "
                "take prompt or fixed"
            )
        return prompt.seed
    return seed_from(protocol.seed, prompt.id)


def _row(row: SuiteRow, task: _Task, measured: Measured, reason: str | None, adapter: bool) -> dict[str, Any]:
    reasons = [reason] if reason is not None else [*measured.empty, *([] if adapter else [NO_ADAPTER])]
    notes = list(measured.notes)
    if task.protocol.limit is not None and len(task.prompts) < (len(task.loaded.prompts) if task.loaded else 0):
        notes.append(f"a seeded sample of {len(task.prompts)} prompts")
    if task.loaded is not None and task.loaded.refused:
        notes.append(f"{len(task.loaded.refused)} of {task.loaded.rows} prompts are refused by the hard block")
    return {
        "row": row.row,
        "title": row.title,
        "prompt_set": task.protocol.prompt_set,
        "metric": row.metric,
        "base": measured.base,
        "aligned": measured.aligned,
        "difference": measured.difference,
        "test": measured.test,
        "per_category": measured.per_category,
        "empty": "; ".join(reasons) or None,
        "notes": notes,
        "n": len(task.prompts) if reason is None else 0,
        "drawn": drawn_digest(prompt.id for prompt in task.prompts) if reason is None else None,
        "protocol": record(task.protocol, task.stated),
    }
