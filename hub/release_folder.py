"""The folder of a new version: shards, manifest, changelog, card, all from the published version and what is taken in.

Nothing here talks to a Hub. The same published version and the same contributions give the same bytes."""

import copy
import dataclasses
import json
import shutil
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from cards import write_dataset_card
from dataset_builder.audit import audit
from dataset_builder.keys import normalise
from dataset_builder.schema import MANIFEST, SPLITS, shards_by_split
from hub.changelog import section, with_section
from hub.client import HubError
from hub.compact import compact, count_rows
from hub.contributed_splits import UNSEEN
from hub.folders import CHANGELOG, LocalFile, check_folder
from hub.merged_contributions import ContributedFile, TakenRows
from recipes import Recipe
from recipes.loading import fill
from recipes.writing import write_whole

# What a manifest keeps of the recipe that a dataset was built by.
_SECTIONS = ("name", "base_model", "revision", "seed", "llm", "render", "judge", "build")


@dataclass(frozen=True)
class Change:
    """What a version changes: its number and the parent's, pairs that come in with the files they come from, pair ids
    that go, and other changes in words; `rewrite` is whether all shards are written anew."""

    version: str
    bump: str
    parent_version: str
    parent_commit: str
    files: Sequence[ContributedFile]
    withdrawn: Sequence[str]
    notes: Sequence[str]
    rewrite: bool = False


def recipe_of(manifest: Mapping[str, Any], card: str, base: Recipe, name: str) -> Recipe:
    """The recipe that a published dataset's card is written by: `base` with what the manifest says of the build, with
    the repository's name, and with the card's licence and whether it asks for access.

    Args:
        manifest (`Mapping`): of the published version.
        card (`str`): text of its README.md.
        base (`Recipe`): for everything that the manifest does not state.
        name (`str`): org/name.

    Raises:
        `RecipeError`: where what the manifest states is of another type.
    """
    recipe = copy.deepcopy(base)
    stored = manifest.get("recipe")
    if isinstance(stored, dict):
        known = _known(Recipe, {key: stored[key] for key in _SECTIONS if key in stored})
        told = fill(Recipe, known, f"{name}: {MANIFEST}", "recipe")
        for key in known:
            setattr(recipe, key, getattr(told, key))
    recipe.publish.namespace, _, recipe.publish.dataset = name.partition("/")
    front = card.partition("---\n")[2].partition("\n---")[0]
    try:
        metadata = yaml.safe_load(front)
    except yaml.YAMLError:
        metadata = None
    if isinstance(metadata, dict):
        recipe.publish.licence = str(metadata.get("license") or recipe.publish.licence)
        recipe.publish.gated = recipe.publish.gated or "extra_gated_prompt" in metadata
    return recipe


def _known(cls: Any, mapping: Mapping[str, Any]) -> dict[str, Any]:
    """`mapping` without fields that a recipe does not have today: older and newer code wrote manifests too."""
    hints = typing.get_type_hints(cls)
    kept: dict[str, Any] = {}
    for key, value in mapping.items():
        if key in hints:
            inner = dataclasses.is_dataclass(hints[key]) and isinstance(value, Mapping)
            kept[key] = _known(hints[key], value) if inner else value
    return kept


def write_folder(
    published: Path,
    out: Path,
    manifest: dict[str, Any],
    taken: TakenRows | None,
    categories: list[str],
    change: Change,
    recipe: Recipe,
) -> tuple[dict[str, Any], dict[str, LocalFile]]:
    """Write a new version's folder, whole and checked.

    Args:
        published (`Path`): folder of the published version, checked.
        out (`Path`): the new folder; what stands there goes.
        manifest (`dict`): of the published version.
        taken (`TakenRows`, *optional*): the pairs that come in.
        categories (`list[str]`): behind the class labels.
        change (`Change`): what the version is.
        recipe (`Recipe`): for the card.

    Returns:
        The new manifest, and the folder's files by name.

    Raises:
        `HubError`: where a prompt, or a near-duplicate of one, would stand in two splits, or no pair would be left.
    """
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    _copy_the_rest(published, out)
    added = taken.counts() if taken else {}
    rows = taken.by_split() if taken else iter(())
    files = compact(
        published, out, manifest["files"], rows, added, set(change.withdrawn), categories, rewrite_all=change.rewrite
    )
    if not files:
        raise HubError("no pair would be left; a version needs some, so withdraw fewer, or delete the repository")
    fresh = _manifest(manifest, files, count_rows(out, "prompts"), added, change)
    if taken:
        fresh["taxonomy"] = _with_new_concepts(manifest.get("taxonomy"), taken.concepts(UNSEEN), categories)
    _check_leaks(out, manifest)
    write_whole(out / MANIFEST, json.dumps(fresh, indent=2, ensure_ascii=False) + "\n")
    text = section(change.version, fresh["release"], fresh["rows"], change.notes)
    before = published / CHANGELOG
    write_whole(
        out / CHANGELOG, with_section(before.read_text("utf8") if before.is_file() else "", change.version, text)
    )
    write_dataset_card(recipe, out)
    return fresh, check_folder("data", out)


def _copy_the_rest(published: Path, out: Path) -> None:
    """Card, licence and pictures: the card so that its sections by hand are kept."""
    for path in sorted(published.iterdir()):
        if path.is_file() and path.name not in (MANIFEST, CHANGELOG):
            shutil.copyfile(path, out / path.name)
    if (published / "images").is_dir():
        shutil.copytree(published / "images", out / "images")


def _manifest(
    parent: dict[str, Any],
    files: dict[str, dict[str, Any]],
    counts: Mapping[str, Mapping[str, int]],
    added: dict[str, int],
    change: Change,
) -> dict[str, Any]:
    contributions = [file.facts() for file in change.files if file.taken or (file.left_out and file.is_done)]
    release = {
        "bump": change.bump,
        "code": _code(),
        "parent": {"version": change.parent_version, "commit": change.parent_commit},
        "added": added,
        "withdrawn": sorted(change.withdrawn),
        "contributions": contributions,
    }
    fresh = {
        **parent,
        "version": change.version,
        "rows": {split: sum(counts[split].values()) for split in SPLITS},
        "rows_by_category": {split: dict(sorted(counts[split].items())) for split in SPLITS},
        "contributed": int(parent.get("contributed") or 0) + sum(added.values()),
        "withdrawn": sorted({*(parent.get("withdrawn") or []), *change.withdrawn}),
        "release": release,
        "files": files,
    }
    if contributions:
        drops: dict[str, int] = {}
        for file in contributions:
            for reason, count in file["left_out"].items():
                drops[reason] = drops.get(reason, 0) + count
        step = {
            "step": f"release {change.version}",
            "rows_in": sum(file["rows"] for file in contributions),
            "rows_out": sum(added.values()),
            "drops": dict(sorted(drops.items())),
            "notes": {"waiting": sum(file["waiting"] for file in contributions)},
        }
        fresh["steps"] = [*(parent.get("steps") or []), step]
    return fresh


def _with_new_concepts(taxonomy: Any, taken: list[tuple[int, str]], categories: list[str]) -> Any:
    """The manifest's taxonomy with the concepts that came in as unseen ones: from now on screening keeps them out of
    the prompts of other splits. One that names no concepts, as that of imported data, stays as it is."""
    if not isinstance(taxonomy, dict) or not taxonomy.get("concepts"):
        return taxonomy
    concepts = {
        name: {kind: list(found) for kind, found in kinds.items()} for name, kinds in taxonomy["concepts"].items()
    }
    known = {normalise(name) for kinds in concepts.values() for found in kinds.values() for name in found}
    for number, concept in taken:
        if normalise(concept) not in known:
            concepts[categories[number]].setdefault("unseen", []).append(concept)
    return {**taxonomy, "concepts": concepts}


def _code() -> str:
    try:
        return f"coprov2 {version('coprov2')}"
    except PackageNotFoundError:
        return "coprov2"


def near_duplicate_of(manifest: Mapping[str, Any]) -> float:
    """The similarity from which prompts of a published dataset are near-duplicates: its recipe's, else 0.9."""
    build = (manifest.get("recipe") or {}).get("build") or {}
    near = build.get("near_duplicate", 0.9)
    return float(near) if isinstance(near, int | float) and 0 < near <= 1 else 0.9


def _check_leaks(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Refuse a folder in which a prompt, or a near-duplicate of one, stands in two splits; by the audit, which shares
    nothing with the way there but the search for near-duplicates."""
    sources = [f"{split}={path}" for split, paths in shards_by_split(folder, "prompts").items() for path in paths]
    found = audit(sources, pictures=False, near=near_duplicate_of(manifest))
    if found["leaks"]:
        shared = [*found["shared_between_splits"], *found["near_shared_between_splits"]]
        where = sorted({" and ".join(entry["splits"]) for entry in shared if entry["distinct"]})
        raise HubError(
            f"{found['leaks']} prompts would stand in two splits ({'; '.join(where)}), so nothing is released; "
            "`coprov2 audit` on the folder counts them, and --withdraw takes pairs away"
        )
