"""Text engines: one protocol, their registry, and the reading of what they reply.

An engine's own module is imported when it is loaded, so that torch is not needed to know what a build would do."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import jsonschema

from dataset_builder import models
from dataset_builder.templates import Messages
from recipes import LLMConfig
from recipes.loading import unknown_name

Reason = Literal["empty", "truncated", "invalid_json", "schema"]


@dataclass(frozen=True)
class Failure:
    """A request without a usable reply.

    `reason`: `empty` (no text), `truncated` (no end within `max_new_tokens`), `invalid_json`, or `schema` (JSON that
    the schema refuses). The reply itself is not kept."""

    reason: Reason


class TextEngine(Protocol):
    """Anything that answers chat requests with JSON."""

    def generate(
        self, requests: Sequence[Messages], json_schema: dict[str, Any], seeds: Sequence[int]
    ) -> list[dict[str, Any] | Failure]:
        """One reply, or one failure, for each request.

        Args:
            requests (`Sequence[Messages]`): chat messages, as dicts of `role` and `content`; one batch.
            json_schema (`dict`): what a reply must satisfy. An engine may decode by it; replies are validated anyway.
            seeds (`Sequence[int]`): one for each request; the same batch with the same seeds gives the same replies.
        """
        ...


@dataclass(frozen=True)
class Engine:
    """An entry of the registry: `load` makes the engine, `identity` says what will have written a row (`repo@revision`)
    and does so without loading anything."""

    load: Callable[[LLMConfig], TextEngine]
    identity: Callable[[LLMConfig], str]


def _transformers(config: LLMConfig) -> TextEngine:
    from dataset_builder.transformers_engine import TransformersEngine

    return TransformersEngine(config)


def _model_identity(config: LLMConfig) -> str:
    return models.identity(config.model, config.revision, kind="llm")


ENGINES: dict[str, Engine] = {"transformers": Engine(_transformers, _model_identity)}


def find_engine(config: LLMConfig) -> Engine:
    """The registry's entry that `config.engine` names. Raises `RecipeError` where there is none."""
    if config.engine not in ENGINES:
        raise unknown_name("llm.engine", config.engine, ENGINES)
    return ENGINES[config.engine]


def read_reply(text: str, json_schema: dict[str, Any], complete: bool = True) -> dict[str, Any] | Failure:
    """The JSON object in an engine's reply.

    Args:
        text (`str`): the reply; a Markdown fence around the JSON is taken off.
        json_schema (`dict`): what the object must satisfy.
        complete (`bool`, *optional*, defaults to `True`): whether the engine ended the reply by itself.
    """
    text = text.strip()
    if text.startswith("```"):
        text = text.partition("\n")[2].rstrip("`").strip()
    if not text:
        return Failure("empty")
    try:
        # Not strict: a raw line break inside a string is a slip that cleaning mends.
        value = json.loads(text, strict=False)
    except ValueError:
        return Failure("invalid_json" if complete else "truncated")
    if not isinstance(value, dict) or not jsonschema.Draft202012Validator(json_schema).is_valid(value):
        return Failure("schema")
    return value
