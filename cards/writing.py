"""What both cards share in being written: the template environment, and the file.

The templates are rendered here, not by `RepoCard.from_template`: that has no way to escape what it inserts, and leaves
out in silence what a template names and nobody gave. The metadata are huggingface_hub's typed data."""

import functools
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from jinja2.runtime import Undefined

from cards.escaping import Safe, bibtex, cell, code, literal, plain, word
from cards.sections import keep_sections
from recipes import Recipe, RecipeError
from recipes.writing import write_whole


def _escaped(value: Any) -> str:
    # An `if` without `else` inside an expression gives an Undefined that stands for nothing.
    return "" if isinstance(value, Undefined) else value if isinstance(value, Safe) else cell(value)


@functools.cache
def environment() -> Environment:
    """Templates of cards/templates. Every value is escaped for a line of Markdown by itself; the filters `code`,
    `literal` (of Python), `word` (of a shell) and `bibtex` are for those places."""
    env = Environment(
        loader=PackageLoader("cards"),
        undefined=StrictUndefined,
        finalize=_escaped,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    env.filters.update(code=code, literal=literal, word=word, bibtex=bibtex)
    return env


def repository_name(recipe: Recipe, name: str, field: str) -> str:
    """namespace/name of the recipe's section `publish`, which snippets and links are made of.

    Args:
        recipe (`Recipe`): its field `publish.namespace`.
        name (`str`): of the repository. field (`str`): where it stands in `publish`.

    Raises:
        `RecipeError`: for a name that no repository of the Hub can have.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(f"{recipe.publish.namespace}/{name}")
    except HFValidationError as error:
        raise RecipeError(
            f"recipe {plain(recipe.name)!r}: publish.namespace and publish.{field}: not a repository's name: "
            f"{plain(error)}"
        ) from None
    return f"{recipe.publish.namespace}/{name}"


def write_card(path: Path, front: str, body: str) -> Path:
    """Write a card, keeping the sections by hand of the one that stands there; whole or not at all.

    Args:
        path (`Path`): of README.md.
        front (`str`): YAML without its dashes.
        body (`str`): Markdown.
    """
    text = f"---\n{front.strip()}\n---\n\n{body.strip()}\n"
    if path.is_file():
        text = keep_sections(text, path.read_text("utf8"), str(path))
    write_whole(path, text)
    return path
