"""The metadata of a card: YAML between two lines `---` at the head of README.md, read bounded and checked.

Checked is what the Hub documents (docs/hub: model-cards, datasets-cards, repositories-licenses, datasets-gated,
datasets-manual-configuration); a key that is not listed here may hold anything."""

import functools
import math
import re
from collections.abc import Callable
from datetime import date
from typing import TYPE_CHECKING, Any

import yaml

from hub.local.names import MAX_CARD

if TYPE_CHECKING:
    from hub.local.git_store import GitStore

MAX_DEPTH = 40
MAX_NODES = 50_000
MAX_BITS = 1024  # of a whole number
_HEAD = re.compile(r"\ufeff?\s*---[ \t]*\r?\n(.*?)(?:\r?\n)?^---[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)
_BEGINNING = re.compile(r"\ufeff?\s*---[ \t]*\r?\n")
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# docs/hub/repositories-licenses.md.
_LICENSES = """
    afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0
    bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5
    cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0
    cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0
    cdla-permissive-2.0 cdla-sharing-1.0 creativeml-openrail-m deepfloyd-if-license ecl-2.0 epl-1.0 epl-2.0 etalab-2.0
    eupl-1.1 eupl-1.2 fair-noncommercial-research-license gemma gfdl gpl gpl-2.0 gpl-3.0 grok2-community h-research
    intel-research isc lgpl lgpl-2.1 lgpl-3.0 lgpl-lr llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 lppl-1.3c mit
    mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1 openmdw-1.0 openrail openrail++ osl-3.0 other pddl postgresql unknown
    unlicense wtfpl zlib
"""
LICENSES = frozenset(_LICENSES.split())
_RELATIONS = ("adapter", "finetune", "merge", "quantized")
_FIELD_KINDS = ("text", "checkbox", "date_picker", "country", "select")


class NotMetadata(Exception):
    """A card's head that cannot be read: the message names line and reason, never the text."""


def read_metadata(text: str) -> dict[str, Any] | None:
    """The metadata of a card's text as JSON values (dates become texts); None where there is none.

    Raises:
        `NotMetadata`: for what is not a mapping in YAML, and for aliases, over-long and over-deep ones.
    """
    match = _HEAD.match(text[: MAX_CARD + 16])
    if match is None:
        if len(text) > MAX_CARD and _BEGINNING.match(text):
            raise NotMetadata(f"more than {MAX_CARD} bytes, or without an end")
        return None
    if len(match[1].encode("utf8", "replace")) > MAX_CARD:
        raise NotMetadata(f"more than {MAX_CARD} bytes")
    try:
        _check_events(match[1])
        found = yaml.load(match[1], _LOADER)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}: " if mark is not None else ""
        raise NotMetadata(f"{where}not YAML: {_plain(error.problem)}") from None
    except (yaml.YAMLError, ValueError, RecursionError, TypeError, ArithmeticError, LookupError, AttributeError):
        # The last three: what the parser makes of `!!int ''`, `!!bool x`, `!!timestamp x` and a number in base 60.
        raise NotMetadata("not YAML") from None
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise NotMetadata("not a mapping")
    plain: dict[str, Any] = _json(found)
    return plain


def _plain(problem: str | None) -> str:
    # A problem may quote the text; what is quoted is left out.
    return re.sub(r"'[^']*'|\"[^\"]*\"", "...", problem or "cannot be read")[:120]


def _check_events(text: str) -> None:
    depth = nodes = 0
    for event in yaml.parse(text, _LOADER):
        if isinstance(event, yaml.AliasEvent):
            # An alias of aliases multiplies: small to send, without end to write out.
            raise NotMetadata("aliases are not taken")
        nodes += isinstance(event, yaml.NodeEvent)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH or nodes > MAX_NODES:
            raise NotMetadata(f"deeper than {MAX_DEPTH} or more than {MAX_NODES} values")


def _json(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(_json(key)): _json(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_json(item) for item in value]
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        # In hexadecimal digits a number may be longer than Python writes one out.
        raise NotMetadata(f"a whole number of more than {MAX_BITS} bits")
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _text_or_texts(value: Any) -> bool:
    return _is_text(value) or _are_texts(value)


_WORDS: dict[Callable[[Any], bool], str] = {
    _is_text: "a text",
    _are_texts: "a list of texts",
    _text_or_texts: "a text or a list of texts",
}
_TEXT = """
    pretty_name license_name license_link library_name pipeline_tag thumbnail new_version instance_prompt
    paperswithcode_id extra_gated_prompt extra_gated_heading extra_gated_description extra_gated_button_content
"""
_TEXTS = "tags task_categories task_ids datasets metrics"
_EITHER = """
    language base_model size_categories annotations_creators language_creators multilinguality source_datasets
"""
_KINDS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(_TEXT.split(), _is_text),
    **dict.fromkeys(_TEXTS.split(), _are_texts),
    **dict.fromkeys(_EITHER.split(), _text_or_texts),
}


def faults(text: str, kind: str) -> tuple[list[str], list[str]]:
    """The errors and warnings of a card.

    Args:
        text (`str`): of README.md.
        kind (`str`): model, dataset or space.
    """
    try:
        found = read_metadata(text)
    except NotMetadata as error:
        return [f"Invalid YAML metadata: {error}"], []
    if not found:
        return [], ["empty or missing yaml metadata in repo card"]
    errors = [
        f'"{key}" must be {_WORDS[fits]}'
        for key, fits in _KINDS.items()
        if found.get(key) is not None and not fits(found[key])
    ]
    errors += _license(found) + _gating(found)
    if kind == "dataset":
        errors += _configs(found)
    if kind == "model":
        errors += _model(found)
    return errors, []


def _license(found: dict[str, Any]) -> list[str]:
    value = found.get("license")
    given = value if isinstance(value, list) else [value]
    if value is None or all(isinstance(item, str) and item in LICENSES for item in given):
        return []
    return ['"license" must be one of the identifiers that the Hub lists (apache-2.0, cc-by-4.0, ..., other)']


def _gating(found: dict[str, Any]) -> list[str]:
    fields = found.get("extra_gated_fields")
    if fields is None:
        return []
    if not isinstance(fields, dict):
        return ['"extra_gated_fields" must be a mapping of names to kinds']
    errors = []
    for number, value in enumerate(fields.values(), 1):
        kind = value.get("type") if isinstance(value, dict) else value
        options = value.get("options") if isinstance(value, dict) else None
        if kind not in _FIELD_KINDS or (kind == "select" and not (isinstance(options, list) and options)):
            kinds = ", ".join(_FIELD_KINDS)
            errors.append(f'"extra_gated_fields": field {number} must be {kinds} (select with options)')
    return errors


def _configs(found: dict[str, Any]) -> list[str]:
    errors: list[str] = []
    configs = found.get("configs")
    if configs is not None and not (isinstance(configs, list) and all(isinstance(item, dict) for item in configs)):
        return ['"configs" must be a list of mappings']
    names: list[str] = []
    for number, config in enumerate(configs or [], 1):
        name, files = config.get("config_name"), config.get("data_files")
        if not isinstance(name, str) or not name:
            errors.append(f'"configs": number {number} must have a "config_name"')
        elif name in names:
            errors.append(f'"configs": number {number} has the "config_name" of another')
        else:
            names.append(name)
        if files is not None and not _data_files(files):
            said = '"data_files" must be a path, a list of paths, or a list of split and path'
            errors.append(f'"configs": number {number}: {said}')
    info = found.get("dataset_info")
    infos = info if isinstance(info, list) else [info]
    if info is not None and not all(isinstance(item, dict) for item in infos):
        errors.append('"dataset_info" must be a mapping or a list of mappings')
    return errors


def _data_files(value: Any) -> bool:
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        return all(_is_text(item.get("split")) and _text_or_texts(item.get("path")) for item in value)
    return _text_or_texts(value) or (isinstance(value, dict) and all(_text_or_texts(item) for item in value.values()))


def _model(found: dict[str, Any]) -> list[str]:
    errors = []
    relation = found.get("base_model_relation")
    if relation is not None and relation not in _RELATIONS:
        errors.append(f'"base_model_relation" must be one of {", ".join(_RELATIONS)}')
    index = found.get("model-index")
    if index is not None and not (isinstance(index, list) and all(isinstance(item, dict) for item in index)):
        errors.append('"model-index" must be a list of mappings')
    for number, item in enumerate(index if not errors and index else [], 1):
        if not isinstance(item.get("results"), list):
            errors.append(f'"model-index": number {number} must have a list of "results"')
    widget = found.get("widget")
    if widget is not None and not isinstance(widget, list):
        errors.append('"widget" must be a list')
    return errors


def card_data(store: "GitStore", commit: str) -> dict[str, Any]:
    """The metadata of README.md at a commit; empty where there is none that can be read."""
    entry = store.entry(commit, "README.md")
    if entry is None or entry.folder:
        return {}
    return _card_of_blob(str(store.path), entry.oid, store)


def _card_of_blob(path: str, oid: str, store: "GitStore") -> dict[str, Any]:
    return _cached(_Key(path, oid, store))


class _Key:
    """A blob, which never changes, with the store to read it from; equal by path and id alone."""

    def __init__(self, path: str, oid: str, store: "GitStore") -> None:
        self.key, self.oid, self.store = (path, oid), oid, store

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self.key == other.key


@functools.lru_cache(maxsize=256)
def _cached(key: _Key) -> dict[str, Any]:
    if key.store.blob(key.oid).pointer is not None:
        return {}
    try:
        return read_metadata(key.store.read(key.oid).decode("utf8", "replace")) or {}
    except NotMetadata:
        return {}
