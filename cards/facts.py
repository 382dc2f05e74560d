"""What the cards take from a manifest `coprov2.json`, by type: others may have written it, and a card states it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dataset_builder.schema import MANIFEST
from evaluation.prompts import read_manifest
from evaluation.scene_readers import is_emoji_world
from recipes import RecipeError

# Steps and reasons of a manifest that a card lists; a build has some ten of each.
MOST = 100


@dataclass(frozen=True)
class StepFacts:
    """A step of the build: rows in and out, and dropped rows by reason."""

    step: str
    rows_in: int
    rows_out: int
    drops: dict[str, int]


@dataclass(frozen=True)
class DatasetFacts:
    """What the manifest of a dataset states.

    Args:
        name, version, code, fingerprint (`str`, *optional*): of the dataset, and of the code that built it.
        models (`dict[str, str]`): identity by role (`llm`, `t2i`, `judge`).
        steps (`list[StepFacts]`): in their order.
        imported (`str`, *optional*): the format that it was imported from; None where it was built.
        render (`dict`): settings of the pictures. recipe, seed: by which it was built. near_duplicate: similarity from
            which two prompts count as one, where it is stated.
        files (`dict[str, Any]`): the Parquet files, by name.
        contributed (`int`): pairs that people contributed, of all versions so far.
        emoji_world (`bool`): whether the manifest says throughout that the emoji world's models made it.
    """

    name: str | None = None
    version: str | None = None
    code: str | None = None
    fingerprint: str | None = None
    models: dict[str, str] = field(default_factory=dict)
    steps: list[StepFacts] = field(default_factory=list)
    imported: str | None = None
    render: dict[str, Any] = field(default_factory=dict)
    recipe: str | None = None
    seed: int | None = None
    near_duplicate: float | None = None
    files: dict[str, Any] = field(default_factory=dict)
    contributed: int = 0
    emoji_world: bool = False


class _Reader:
    """Fields of a manifest by type; a value of another type ends in a `RecipeError` that names the field."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def get(self, holder: dict[str, Any], name: str, kind: Any, missing: Any, place: str = "") -> Any:
        value = holder.get(name)
        if value is None:
            return missing
        # bool is an int to Python, and no count.
        if not isinstance(value, kind) or isinstance(value, bool):
            wanted = kind.__name__ if isinstance(kind, type) else " or ".join(each.__name__ for each in kind)
            raise RecipeError(
                f"{self.path}: {place}{name} is of type {type(value).__name__}, expected {wanted}; build again"
            )
        return value

    def counts(self, value: dict[Any, Any], place: str) -> dict[str, int]:
        return {str(name): self.get(value, name, int, 0, place) for name in list(value)[:MOST]}


def dataset_facts(folder: Path) -> DatasetFacts:
    """The facts of a dataset folder's manifest.

    Raises:
        `RecipeError`: where it is missing, no JSON object, or holds a field of another type.
    """
    manifest, read = read_manifest(folder), _Reader(folder / MANIFEST)
    recipe = read.get(manifest, "recipe", dict, {})
    build = read.get(recipe, "build", dict, {}, "recipe.")
    imported = read.get(manifest, "import", dict, None)
    models = read.get(manifest, "models", dict, {})
    roles = [role for role in ("llm", "t2i", "judge") if role in models]
    steps = []
    for index, step in enumerate(read.get(manifest, "steps", list, [])[:MOST]):
        place = f"steps[{index}]."
        if not isinstance(step, dict):
            raise RecipeError(f"{read.path}: {place[:-1]} is of type {type(step).__name__}, expected dict; build again")
        drops = read.counts(read.get(step, "drops", dict, {}, place), f"{place}drops.")
        rows_in, rows_out = (read.get(step, name, int, 0, place) for name in ("rows_in", "rows_out"))
        steps.append(StepFacts(read.get(step, "step", str, "?", place), rows_in, rows_out, drops))
    return DatasetFacts(
        name=read.get(manifest, "name", str, None),
        version=read.get(manifest, "version", str, None),
        code=read.get(manifest, "code", str, None),
        fingerprint=read.get(manifest, "fingerprint", str, None),
        models={role: read.get(models, role, str, "?", "models.") for role in roles},
        steps=steps,
        imported=None if imported is None else read.get(imported, "format", str, "?", "import."),
        render=read.get(recipe, "render", dict, {}, "recipe."),
        recipe=read.get(recipe, "name", str, None, "recipe."),
        seed=read.get(recipe, "seed", int, None, "recipe."),
        near_duplicate=read.get(build, "near_duplicate", (int, float), None, "recipe.build."),
        files=read.get(manifest, "files", dict, {}),
        contributed=read.get(manifest, "contributed", int, 0),
        emoji_world=is_emoji_world(manifest),
    )


@dataclass(frozen=True)
class AdapterFacts:
    """What the manifest of an adapter states: the merge method with its options, the experts' names, the rank, and the
    joint tuning after the merge. All empty for an adapter that was not merged."""

    version: str | None = None
    method: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    experts: list[str] = field(default_factory=list)
    rank: int | None = None
    tuning: dict[str, Any] = field(default_factory=dict)


def adapter_facts(folder: Path) -> AdapterFacts:
    """The facts of an adapter folder's manifest, none where it has none.

    Raises:
        `RecipeError`: where it is no JSON object or holds a field of another type.
    """
    if not (folder / MANIFEST).is_file():
        return AdapterFacts()
    manifest, read = read_manifest(folder), _Reader(folder / MANIFEST)
    options, tuning = (read.get(manifest, name, dict, {}) for name in ("options", "tuning"))
    return AdapterFacts(
        version=read.get(manifest, "version", str, None),
        method=read.get(manifest, "method", str, None),
        options={str(name): value for name, value in list(options.items())[:MOST] if value is not None},
        experts=[str(name) for name in list(read.get(manifest, "experts", (dict, list), []))[:MOST]],
        rank=read.get(manifest, "rank", int, None),
        tuning={
            name: read.get(tuning, name, (int, float), 0, "tuning.") for name in ("steps", "learning_rate") if tuning
        },
    )
