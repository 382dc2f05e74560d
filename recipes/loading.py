"""Read recipes: YAML into dataclasses, `--set` values on top, and an error that names the field and its neighbours.

The taxonomies and the prompt templates of the builder are read by the same functions. What a value may be stands in
`recipes/check.py`; what it means stands in `recipes/recipe.py`."""

import dataclasses
import difflib
import math
import re
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from recipes.check import check
from recipes.recipe import Recipe

T = TypeVar("T")
_FOLDER = Path(__file__).parent
_TYPE_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): "null"}


class RecipeError(ValueError):
    """A mistake in what a user wrote: a recipe, a taxonomy, a template, a `--set`. Its text is one clear line."""


class _Loader(yaml.SafeLoader):
    """YAML in which a key may stand once, and `1e-3` is a number as in YAML 1.2."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float | bool | None):
                raise yaml.constructor.ConstructorError(None, None, "a key must be plain text", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def parse_yaml(text: str, where: str) -> Any:
    """The value that `text` holds. Raises `RecipeError`, which begins with `where`, with the line of a syntax error."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise RecipeError(f"{where}{line}: not valid YAML: {getattr(error, 'problem', None) or error}") from None


def find_file(name_or_path: str | Path, folder: Path, kind: str) -> Path:
    """The file that a name (of `folder`'s YAML files, without `.yaml`) or a path stands for; `kind` is for the
    error."""
    shipped = folder / f"{name_or_path}.yaml"
    if shipped.parent == folder and shipped.is_file():
        return shipped
    path = Path(name_or_path)
    if path.is_file():
        return path
    names = sorted(file.stem for file in folder.glob("*.yaml"))
    raise RecipeError(
        f"{name_or_path}: no such {kind}{_did_you_mean(str(name_or_path), names)}. "
        f"Expected the path of a YAML file or one of: {', '.join(names) or 'none is shipped'}"
    )


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping that the YAML file `path` holds."""
    try:
        text = path.read_text("utf8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read: {error}") from None
    value = parse_yaml(text, str(path))
    if value is None:
        value = {}
    if not isinstance(value, dict):
        raise RecipeError(f"{path}: expected sections as `name: value`, found {_found(value)}")
    return value


def list_recipes() -> list[str]:
    """Names of the recipes that are shipped."""
    return sorted(file.stem for file in _FOLDER.glob("*.yaml"))


def load_recipe(name_or_path: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Load a recipe and check every field of it.

    Args:
        name_or_path (`str` or `Path`): a name of `list_recipes()`, or the path of a YAML file.
        overrides (`Iterable[str]`, *optional*): values as `section.field=value`, the value in YAML; later ones win.

    Raises:
        `RecipeError`: for a missing file, YAML that does not parse, an unknown field, a wrong type or value.
    """
    path = find_file(name_or_path, _FOLDER, "recipe")
    recipe = fill(Recipe, read_mapping(path), str(path))
    sources: dict[str, str] = {}
    for override in overrides:
        set_field(recipe, override, sources)
    for name, problem in check(recipe):
        raise RecipeError(f"{sources.get(name, path)}: {name}: {problem}")
    # It fills sections itself.
    from recipes.merge_plans import planned_merges

    try:
        planned_merges(recipe)
    except RecipeError as error:
        raise RecipeError(f"{sources.get('merge.compare', path)}: {error}") from None
    return recipe


def fill(cls: type[T], mapping: Mapping[str, Any], where: str, section: str = "") -> T:
    """Make a dataclass from a mapping, nested dataclasses and lists of them included.

    Args:
        cls (`type`): a dataclass whose fields are typed with bool, int, float, str, list, dict, None and dataclasses.
        mapping (`Mapping`): field names and values.
        where (`str`): what errors begin with: the file.
        section (`str`, *optional*): the dotted name of `mapping` in its file.

    Raises:
        `RecipeError`: for a field that is unknown, missing or of another type.
    """
    if not isinstance(mapping, Mapping):
        names = ", ".join(field.name for field in dataclasses.fields(_dataclass(cls)))
        raise RecipeError(f"{where}: {section}: expected a section with {names}; found {_found(mapping)}")
    hints = typing.get_type_hints(cls)
    for key in mapping:
        if key not in hints:
            raise _unknown(cls, str(key), mapping[key], where, section)
    values = {}
    for field in dataclasses.fields(_dataclass(cls)):
        name = f"{section}.{field.name}".lstrip(".")
        if field.name in mapping:
            values[field.name] = _convert(mapping[field.name], hints[field.name], where, name)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise RecipeError(f"{where}: {name}: missing; expected {_words(hints[field.name])}")
    return cls(**values)


def _dataclass(cls: type) -> Any:
    return cls


def set_field(settings: Any, override: str, sources: dict[str, str]) -> None:
    """Change one field of `settings`, a dataclass as [`fill`] makes it, in place.

    Args:
        settings: the dataclass.
        override (`str`): `section.field=value`, the value in YAML.
        sources (`dict[str, str]`): where each field that was given came from; the field's is added.

    Raises:
        `RecipeError`: for a field that is unknown, or a value of another type.
    """
    where = f"--set {override}"
    name, equals, text = override.partition("=")
    if not equals or not name:
        raise RecipeError(f"{where}: expected section.field=value, for example --set build.train_pairs=8")
    value = parse_yaml(text, where)
    target: Any = settings
    *parents, last = name.split(".")
    section = ""
    for part in parents:
        if part not in typing.get_type_hints(type(target)):
            raise _unknown(type(target), part, value, where, section)
        target, section = getattr(target, part), f"{section}.{part}".lstrip(".")
        if not dataclasses.is_dataclass(target):
            raise RecipeError(f"{where}: {section} is a value, not a section: nothing is called {name}")
    hints = typing.get_type_hints(type(target))
    if last not in hints:
        raise _unknown(type(target), last, value, where, section)
    setattr(target, last, _convert(value, hints[last], where, name))
    sources[name] = where


def _convert(value: Any, hint: Any, where: str, name: str) -> Any:
    """`value` as the type `hint`, or an error; a whole number is a number, and true is no number."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        for option in arguments:
            if _is(value, option):
                return _convert(value, option, where, name)
    elif origin is list:
        if isinstance(value, list):
            return [_convert(item, arguments[0], where, f"{name}[{index}]") for index, item in enumerate(value)]
    elif dataclasses.is_dataclass(hint):
        return fill(typing.cast(type, hint), value, where, name)
    elif _is(value, hint):
        return float(value) if hint is float else value
    quote = "; put it in quotes" if hint is str and isinstance(value, bool | int | float) else ""
    raise RecipeError(f"{where}: {name}: expected {_words(hint)}, found {_found(value)}{quote}")


def _is(value: Any, hint: Any) -> bool:
    kind = typing.get_origin(hint) or hint
    if dataclasses.is_dataclass(kind):
        return isinstance(value, Mapping)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))


def _unknown(cls: type, key: str, value: Any, where: str, section: str) -> RecipeError:
    fields = list(typing.get_type_hints(cls))
    name = f"{section}.{key}".lstrip(".")
    return RecipeError(
        f"{where}: {name}: unknown field (found {_found(value)}){_did_you_mean(key, fields)}. "
        f"Fields of {section or cls.__name__.lower()}: {', '.join(fields)}"
    )


def _did_you_mean(word: str, names: list[str]) -> str:
    close = difflib.get_close_matches(word, names, n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def unknown_name(field: str, found: str, names: Iterable[str]) -> RecipeError:
    """The error for a `field` that names an entry of a registry which has none of that name."""
    known = list(names)
    return RecipeError(
        f"{field}: {found!r} is unknown{_did_you_mean(found, known)}. Expected one of: {', '.join(known)}"
    )


def _words(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_words(option) for option in arguments)
    if origin is list:
        return f"a list (of {_words(arguments[0])} each)"
    if dataclasses.is_dataclass(hint):
        return "a section"
    return _TYPE_WORDS.get(hint, "a mapping")


def _found(value: Any) -> str:
    if value is None:
        return "null"
    text = repr(value)
    kinds = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "text",
        list: "a list",
        dict: "a mapping",
    }
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({kinds.get(type(value), type(value).__name__)})"
