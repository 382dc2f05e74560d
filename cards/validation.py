"""A card's metadata checked without a Hub, the way the Hub documents them, before anything is sent.

What is wrong is said field by field, all of it at once. The Hub itself is asked besides, once a push: the client does
so before it uploads anything (`/api/validate-yaml`)."""

import math
import re
from collections.abc import Callable, Collection, Generator, Iterator
from typing import Any, Literal

import yaml

from cards.escaping import plain
from cards.sections import FRONT, plain_lines
from cards.vocabulary import (
    ANNOTATIONS_CREATORS,
    BASE_MODEL_RELATIONS,
    GATING_FIELD_TYPES,
    GATING_TEXTS,
    LANGUAGE_CREATORS,
    LICENCES,
    MULTILINGUALITY,
    SIZE_CATEGORIES,
    TASKS,
)
from recipes import RecipeError

CardKind = Literal["data", "adapter"]
# Characters of a card; ours have some ten thousand.
LONGEST = 1_000_000
REQUIRED: dict[str, tuple[str, ...]] = {
    "data": ("license", "configs"),
    "adapter": ("license", "base_model", "base_model_relation", "library_name", "pipeline_tag"),
}
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*|code|multilingual")
_SPLIT = re.compile(r"\w+(\.\w+)*")
_LICENCE_NAME = re.compile(r"[a-z0-9][a-z0-9.\-]*")
Problems = Iterator[tuple[str, str]]


class _Loader(yaml.SafeLoader):
    """YAML as the Hub reads it: a key that stands twice is an error, where PyYAML would keep the last. Aliases are
    refused too: a few lines of them stand for more than fits any memory, and no card needs them."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, "an alias (*), write it out", mark)
        return super().compose_node(parent, index)


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key, _ in node.value:
        name = loader.construct_object(key, deep=True)
        if not isinstance(name, str | int | float | bool):
            raise yaml.constructor.ConstructorError(None, None, "a key that is no text", key.start_mark)
        if name in seen:
            raise yaml.constructor.ConstructorError(None, None, f"the key {plain(name)!r} twice", key.start_mark)
        seen.add(name)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_metadata(text: str, where: str) -> dict[str, Any]:
    """The metadata at the top of a card.

    Args:
        text (`str`): the card. where (`str`): what an error calls it.

    Raises:
        `RecipeError`: where there are none, or no mapping of YAML that the Hub could read.
    """
    if len(text) > LONGEST:
        raise RecipeError(f"{where}: {len(text):,} characters, expected {LONGEST:,} at most")
    found = FRONT.match(plain_lines(text))
    if found is None:
        raise RecipeError(f"{where}: no metadata at its top between lines of ---; `coprov2 cards` writes it")
    try:
        metadata = yaml.load(found["yaml"], Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = f"line {mark.line + 2}: " if mark is not None else ""
        raise RecipeError(
            f"{where}: its metadata is not YAML ({at}{plain(getattr(error, 'problem', None) or 'unreadable')}); mend it"
        ) from None
    except (RecursionError, ValueError) as error:
        raise RecipeError(f"{where}: its metadata is not YAML ({type(error).__name__}); mend it") from None
    if not isinstance(metadata, dict):
        raise RecipeError(f"{where}: its metadata is of type {type(metadata).__name__}, expected keys with values")
    return metadata


def card_problems(metadata: dict[str, Any], kind: CardKind, files: Collection[str] | None = None) -> list[str]:
    """What is wrong with a card's metadata.

    Args:
        metadata (`dict`): as [`read_metadata`] gives it.
        kind (`str`): `data` or `adapter`.
        files (`Collection[str]`, *optional*): names of the repository's files; pictures that the metadata name must be
            among them.

    Returns:
        `list[str]`: one line each, `field: what was found and expected`; empty for a card in order.
    """
    found = [(name, "missing") for name in REQUIRED[kind] if metadata.get(name) in (None, "", [])]
    checks = [_common, _gating, *((_dataset,) if kind == "data" else (_model, _widget, _model_index))]
    for check in checks:
        found += check(metadata)
    if files is not None and kind == "adapter":
        found += _missing_files(metadata, files)
    return [f"{plain(name)}: {problem}" for name, problem in found]


def check_card(text: str, kind: CardKind, where: str, files: Collection[str] | None = None) -> None:
    """Check a card before it is sent.

    Raises:
        `RecipeError`: in one line, for all that is wrong with its metadata.
    """
    problems = card_problems(read_metadata(text, where), kind, files)
    if problems:
        said = "; ".join(problems)
        raise RecipeError(
            f"{where}: its metadata would not do on the Hub: {said}; mend it, or write it anew by `coprov2 cards`"
        )


def _said(value: Any) -> str:
    if isinstance(value, str) or value is None:
        # A problem is a line, not a page; the field's name says where the rest stands.
        return repr(value if value is None else plain(value)[:120])
    if isinstance(value, bool | int | float):
        return f"{plain(value)} of type {type(value).__name__}"
    return f"a value of type {type(value).__name__}"


def _texts(metadata: dict[str, Any], name: str) -> list[Any] | None:
    """A field that is one text or a list of texts, as a list; None where it is not there."""
    value = metadata.get(name)
    return None if value is None else value if isinstance(value, list) else [value]


def _each(metadata: dict[str, Any], name: str, fits: Callable[[str], bool], wanted: str) -> Problems:
    for value in _texts(metadata, name) or []:
        if not isinstance(value, str) or not fits(value):
            yield name, f"found {_said(value)}, expected {wanted}"


def _repository(name: str) -> bool:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def _common(metadata: dict[str, Any]) -> Problems:
    yield from _each(
        metadata, "license", LICENCES.__contains__, "an identifier of the Hub's list of licences, or other"
    )
    if "other" in (_texts(metadata, "license") or []):
        name, link = metadata.get("license_name"), metadata.get("license_link")
        if not isinstance(name, str) or not _LICENCE_NAME.fullmatch(name):
            yield "license_name", f"found {_said(name)}, expected a short name in small letters beside license: other"
        if not isinstance(link, str) or not link.strip():
            yield "license_link", f"found {_said(link)}, expected LICENSE or an address beside license: other"
    yield from _each(metadata, "language", lambda code: bool(_LANGUAGE.fullmatch(code)), "ISO 639 codes such as en")
    yield from _each(metadata, "tags", lambda tag: bool(tag.strip()) and len(tag) <= 100, "words as texts")
    tags = [tag for tag in _texts(metadata, "tags") or [] if isinstance(tag, str)]
    if len(set(tags)) < len(tags):
        yield "tags", "one stands twice"
    if metadata.get("pretty_name") is not None and not isinstance(metadata["pretty_name"], str):
        yield "pretty_name", f"found {_said(metadata['pretty_name'])}, expected a text"


def _gating(metadata: dict[str, Any]) -> Problems:
    for name in GATING_TEXTS:
        value = metadata.get(name)
        if value is not None and (not isinstance(value, str) or not value.strip()):
            yield name, f"found {_said(value)}, expected a text"
    if not isinstance(metadata.get("extra_gated_eu_disallowed", False), bool):
        yield "extra_gated_eu_disallowed", "expected true or false"
    fields = metadata.get("extra_gated_fields")
    if fields is None:
        return
    if not isinstance(fields, dict) or not fields:
        yield "extra_gated_fields", f"of type {type(fields).__name__}, expected names with types"
        return
    for name, field in fields.items():
        place = f"extra_gated_fields.{name}"
        kind = field.get("type") if isinstance(field, dict) else field
        if not isinstance(name, str) or kind not in GATING_FIELD_TYPES:
            yield place, f"found {_said(kind)}, expected one of {', '.join(GATING_FIELD_TYPES)}"
        elif kind == "select":
            options = field.get("options") if isinstance(field, dict) else None
            if not isinstance(options, list) or not options or not all(map(_is_option, options)):
                yield place, "expected options: a list of texts, or of label and value"


def _is_option(option: Any) -> bool:
    if isinstance(option, dict):
        return set(option) == {"label", "value"} and all(isinstance(part, str) for part in option.values())
    return isinstance(option, str) and bool(option.strip())


def _dataset(metadata: dict[str, Any]) -> Problems:
    for name, words in (
        ("task_categories", TASKS),
        ("size_categories", SIZE_CATEGORIES),
        ("annotations_creators", ANNOTATIONS_CREATORS),
        ("language_creators", LANGUAGE_CREATORS),
        ("multilinguality", MULTILINGUALITY),
    ):
        wanted = "a task of the Hub" if words is TASKS else f"one of {', '.join(words)}"
        yield from _each(metadata, name, words.__contains__, wanted)
    sources = lambda name: name.split("|")[0] in ("original", "extended") or _repository(name)  # noqa: E731
    yield from _each(metadata, "source_datasets", sources, "original, extended, extended|NAME or a dataset")
    splits = yield from _configs(metadata.get("configs"))
    yield from _dataset_info(metadata.get("dataset_info"), splits)


def _configs(configs: Any) -> Generator[tuple[str, str], None, dict[str, set[str]]]:
    """Problems of the field `configs`; gives the splits by config."""
    splits: dict[str, set[str]] = {}
    if configs is None:
        return splits
    if not isinstance(configs, list):
        yield "configs", f"of type {type(configs).__name__}, expected a list"
        return splits
    for index, config in enumerate(configs):
        place = f"configs[{index}]"
        name = config.get("config_name") if isinstance(config, dict) else None
        if not isinstance(name, str) or not name or name in splits:
            yield place, "expected a config_name of its own"
            continue
        files = config.get("data_files", [])
        splits[name] = set()
        for entry in files if isinstance(files, list) else [files]:
            split, path = (entry.get("split"), entry.get("path")) if isinstance(entry, dict) else ("train", entry)
            paths = path if isinstance(path, list) and path else [path]
            if not isinstance(split, str) or not _SPLIT.fullmatch(split):
                yield f"{place}.data_files", f"found the split {_said(split)}, expected letters, digits, _ and ."
            elif not all(isinstance(each, str) and each and not _leaves(each) for each in paths):
                yield f"{place}.data_files", f"the path of {split} is none inside the repository"
            else:
                splits[name].add(split)
    if sum(bool(config.get("default")) for config in configs if isinstance(config, dict)) > 1:
        yield "configs", "more than one is the default"
    return splits


def _leaves(path: str) -> bool:
    return path.startswith("/") or ".." in path.split("/") or "\\" in path


def _dataset_info(infos: Any, splits: dict[str, set[str]]) -> Problems:
    if infos is None:
        return
    for info in infos if isinstance(infos, list) else [infos]:
        if not isinstance(info, dict):
            yield "dataset_info", f"of type {type(info).__name__}, expected keys with values"
            continue
        name = info.get("config_name", "default")
        place = f"dataset_info.{name}" if isinstance(name, str) else "dataset_info"
        if not isinstance(name, str) or (splits and name not in splits):
            yield place, "no such config in configs"
        if not isinstance(info.get("features", []), list):
            yield f"{place}.features", "expected a list"
        stated = info.get("splits", [])
        if not isinstance(stated, list) or not all(isinstance(split, dict) for split in stated):
            yield f"{place}.splits", "expected a list of names and counts"
            continue
        for split in stated:
            counts = [split.get(key, 0) for key in ("num_bytes", "num_examples")]
            if not all(isinstance(count, int) and not isinstance(count, bool) and count >= 0 for count in counts):
                yield f"{place}.splits", f"the counts of {_said(split.get('name'))} are no whole numbers"
            if isinstance(name, str) and splits.get(name) and str(split.get("name")) not in splits[name]:
                yield f"{place}.splits", f"{_said(split.get('name'))} has no data_files in configs"


def _model(metadata: dict[str, Any]) -> Problems:
    wanted = "a repository, org/name"
    for name in ("base_model", "datasets", "new_version"):
        yield from _each(metadata, name, _repository, wanted)
    if isinstance(metadata.get("new_version"), list):
        yield "new_version", f"a list, expected {wanted}"
    for name, words in (("base_model_relation", BASE_MODEL_RELATIONS), ("pipeline_tag", TASKS)):
        value = metadata.get(name)
        if value is not None and (not isinstance(value, str) or value not in words):
            wanted_words = "a task of the Hub" if words is TASKS else f"one of {', '.join(words)}"
            yield name, f"found {_said(value)}, expected {wanted_words}"
    for name in ("library_name", "instance_prompt"):
        if metadata.get(name) is not None and not isinstance(metadata[name], str):
            yield name, f"found {_said(metadata[name])}, expected a text"


def _widget(metadata: dict[str, Any]) -> Problems:
    widget = metadata.get("widget", [])
    if not isinstance(widget, list):
        yield "widget", f"of type {type(widget).__name__}, expected a list"
        return
    for index, entry in enumerate(widget):
        output = entry.get("output", {}) if isinstance(entry, dict) else None
        url = output.get("url", "") if isinstance(output, dict) else None
        if not isinstance(entry, dict) or not isinstance(entry.get("text", ""), str):
            yield f"widget[{index}]", "expected a text and an output"
        elif not isinstance(url, str) or (not url.startswith("https://") and (_leaves(url) or ":" in url)):
            yield f"widget[{index}].output.url", "expected a file of the repository or an https address"


def _missing_files(metadata: dict[str, Any], files: Collection[str]) -> Problems:
    widget = metadata.get("widget")
    for entry in widget if isinstance(widget, list) else []:
        output = entry.get("output") if isinstance(entry, dict) else None
        url = output.get("url") if isinstance(output, dict) else None
        if isinstance(url, str) and url and not url.startswith("https://") and url.removeprefix("./") not in files:
            yield "widget", f"{_said(url)} is no file of the repository"


def _model_index(metadata: dict[str, Any]) -> Problems:
    index = metadata.get("model-index")
    if index is None:
        return
    from huggingface_hub.repocard_data import model_index_to_eval_results

    try:
        _, results = model_index_to_eval_results(index)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        yield "model-index", f"cannot be read ({type(error).__name__}: {plain(error)})"
        return
    for result in results:
        named = [result.task_type, result.dataset_type, result.dataset_name, result.metric_type]
        if not all(isinstance(part, str) and part for part in named):
            yield "model-index", "task.type, dataset.type, dataset.name and metric.type must be texts"
        value = result.metric_value
        if isinstance(value, bool) or not isinstance(value, int | float | str | dict):
            yield "model-index", f"{_said(result.metric_type)}: found {_said(value)}, expected a figure"
        elif isinstance(value, float) and not math.isfinite(value):
            yield "model-index", f"{_said(result.metric_type)}: is no finite number"
