"""The published version that a contribution is checked against: manifest, card and prompts, at one commit."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from dataset_builder.schema import FOLDERS, MANIFEST, SPLITS, shards_by_split
from dataset_builder.taxonomy import Category, Concept, Taxonomy, check_taxonomy
from evaluation.prompts import read_manifest
from hub.client import HubError, check_name, one_line, read_tree
from hub.contributions.limits import LIMITS
from hub.folders import CARD
from recipes import BuildConfig, RecipeError

_COLUMNS = ["pair_id", "unsafe_prompt", "safe_prompt"]
_ROWS_A_READ = 8_192
# Fields of the recipe's section `build` that checks read, with what each must be.
_BUILD: dict[str, Any] = {
    "max_words": lambda value: isinstance(value, int) and 0 < value <= 10_000,
    "max_characters": lambda value: isinstance(value, int) and 0 < value <= LIMITS.text,
    "near_duplicate": lambda value: isinstance(value, int | float) and 0 < value <= 1,
    "languages": lambda value: isinstance(value, list) and all(re.fullmatch("[a-z]{2}", str(code)) for code in value),
    "scene_distance": lambda value: value in ("edits", "embedding"),
}
_MOST_CARD = 1 << 20


@dataclass(frozen=True)
class PublishedPrompts:
    """Some thousands of published pairs of one split: their names and prompts, side by side."""

    split: str
    pair_ids: list[str] = field(repr=False)
    unsafe: list[str] = field(repr=False)
    safe: list[str] = field(repr=False)


@dataclass(frozen=True)
class Published:
    """A published version.

    Args:
        repository, revision (`str`): org/name and its commit; empty for a folder.
        version (`str`, *optional*): as the manifest states it.
        folder (`Path`): where coprov2.json, README.md and prompts/*.parquet lie.
        manifest (`dict`): coprov2.json.
        taxonomy (`Taxonomy`): the manifest's, with its aliases as far as it states them. A category without concepts,
            as imported data has them, takes any concept.
        build (`BuildConfig`): the recipe's limits on prompts: max_words, max_characters, languages, near_duplicate.
        licence (`str`, *optional*): of the card.
        t2i, renderer (`str`): identities of the model that draws for this dataset, and of it with its settings.
    """

    repository: str
    revision: str
    version: str | None
    folder: Path
    manifest: dict[str, Any] = field(repr=False)
    taxonomy: Taxonomy = field(repr=False)
    build: BuildConfig = field(repr=False)
    licence: str | None
    t2i: str
    renderer: str

    @property
    def languages(self) -> tuple[str, ...]:
        """ISO 639-1 codes of what prompts are written in."""
        return tuple(self.build.languages or self.taxonomy.languages)

    def prompts(self) -> Iterator[PublishedPrompts]:
        """All published pairs, split by split.

        Raises:
            `HubError`: for a file that is no Parquet file with the columns of the config `prompts`.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        for split, paths in shards_by_split(self.folder, "prompts").items():
            for path in paths:
                try:
                    with pq.ParquetFile(path, arrow_extensions_enabled=False) as file:
                        for batch in file.iter_batches(_ROWS_A_READ, columns=_COLUMNS, use_threads=False):
                            yield PublishedPrompts(split, *(batch.column(name).to_pylist() for name in _COLUMNS))
                except (pa.ArrowException, KeyError, OSError, UnicodeDecodeError):
                    raise HubError(
                        f"{path}: is no Parquet file with the columns {', '.join(_COLUMNS)}; fetch it again"
                    ) from None


def published_folder(folder: Path, repository: str = "", revision: str = "") -> Published:
    """The published version in a folder, such as one that `coprov2 pull` made.

    Args:
        folder (`Path`): with coprov2.json, prompts/*.parquet and, where there is one, README.md.
        repository, revision (`str`, *optional*): org/name and the commit that it holds.

    Raises:
        `HubError`: where manifest, card or prompts are missing or are not what they must be.
    """
    path = folder / MANIFEST
    try:
        manifest = read_manifest(folder)
        shards_by_split(folder, "prompts")
        models = _mapping(manifest, "models")
        t2i = str(models.get("t2i", "unknown"))
        return Published(
            repository,
            revision,
            version if isinstance(version := manifest.get("version"), str) else None,
            folder,
            manifest,
            _taxonomy(manifest, str(path)),
            _build(manifest, str(path)),
            licence_of(folder / CARD),
            t2i,
            str(models.get("renderer", t2i)),
        )
    except HubError:
        raise
    except RecipeError as error:
        raise HubError(str(error)) from None
    except (AttributeError, TypeError, KeyError, ValueError, RecursionError):
        raise HubError(f"{path}: is no manifest of a CoProV2 dataset; build or fetch it again") from None


def fetch_published(name: str, out: Path, revision: str = "main", api: Any = None) -> Published:
    """Fetch manifest, card and the config `prompts` of a dataset repository, all at one commit.

    Args:
        name (`str`): org/name.
        out (`Path`): folder to fetch into.
        revision (`str`, *optional*, defaults to `"main"`): branch, tag or commit; resolved once.
        api (`huggingface_hub.HfApi`, *optional*): the client.

    Raises:
        `HubError`: where the Hub refuses, or the repository is no dataset of CoProV2.
    """
    from huggingface_hub import HfApi

    check_name(name)
    api = api or HfApi()
    with one_line(name):
        commit = api.repo_info(name, repo_type="dataset", revision=revision).sha
        tree = read_tree(api, name, "dataset", commit)
        prompts = f"{FOLDERS['prompts']}/"
        wanted = [path for path in tree if path in (MANIFEST, CARD)]
        wanted += [path for path in tree if path.startswith(prompts) and path.endswith(".parquet")]
        if MANIFEST not in wanted:
            raise HubError(f"{name}: holds no {MANIFEST}, so it is no dataset of CoProV2; push one first")
        api.snapshot_download(name, repo_type="dataset", revision=commit, local_dir=out, allow_patterns=wanted)
    return published_folder(out, name, commit)


def licence_of(card: Path) -> str | None:
    """The licence in a card's metadata: its id, or where that is `other` the name that stands beside it; None where
    there is no card, or none in it."""
    if not card.is_file() or card.stat().st_size > _MOST_CARD:
        return None
    match = re.match(r"---\n(.*?)\n---\n", card.read_text("utf8", errors="replace"), re.DOTALL)
    try:
        metadata = yaml.safe_load(match[1]) if match else None
    except (yaml.YAMLError, RecursionError):
        return None
    if not isinstance(metadata, dict):
        return None
    licence = metadata.get("license")
    if licence == "other":
        licence = metadata.get("license_name", licence)
    return licence if isinstance(licence, str) else None


def _mapping(value: Any, name: str) -> dict[str, Any]:
    found = value.get(name, {})
    return found if isinstance(found, dict) else {}


def _build(manifest: dict[str, Any], where: str) -> BuildConfig:
    given = _mapping(_mapping(manifest, "recipe"), "build")
    build = BuildConfig()
    assert _BUILD.keys() <= {item.name for item in fields(build)}
    for name, fits in _BUILD.items():
        if name in given:
            if not fits(given[name]):
                raise HubError(f"{where}: recipe.build.{name} is {str(given[name])[:40]!r}; build it again")
            setattr(build, name, given[name])
    return build


def _taxonomy(manifest: dict[str, Any], where: str) -> Taxonomy:
    """The taxonomy as the manifest states it; categories alone where it states no concepts."""
    stated = _mapping(manifest, "taxonomy")
    aliases = _mapping(stated, "aliases")
    other, names = _mapping(aliases, "categories"), _mapping(aliases, "concepts")
    categories = []
    for category, concepts in _mapping(stated, "concepts").items():
        both = [(name, unseen) for part, unseen in (("seen", False), ("unseen", True)) for name in concepts[part]]
        made = [Concept(str(name), [str(alias) for alias in names.get(name, [])], unseen) for name, unseen in both]
        categories.append(Category(str(category), "", made, [str(alias) for alias in other.get(category, [])]))
    taxonomy = Taxonomy(str(stated.get("name", "")), str(stated.get("version", "")), categories)
    if "languages" in stated:
        taxonomy.languages = [str(code) for code in stated["languages"]]
    if not categories:
        counts = _mapping(manifest, "rows_by_category")
        found = sorted({str(name) for split in SPLITS for name in _mapping(counts, split)})
        if not found:
            raise HubError(f"{where}: states no categories, neither by taxonomy nor by rows; build it again")
        taxonomy.categories = [Category(name, "", []) for name in found]
        return taxonomy
    check_taxonomy(taxonomy, where)
    return taxonomy
