"""Endpoints and how a path finds its own: on the raw path, split at "/" before anything is unquoted.

A revision `refs%2Fpr%2F1` and a folder `a%2Fb` are one segment each. Patterns are segments too: `{name}` matches one,
`{path*}` the rest (one or more), `{name}.git` one that ends so; everything else matches itself. `{type}` matches
models, datasets or spaces and yields the singular."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING
from urllib.parse import unquote

from hub.local.call import Call
from hub.local.errors import Refusal, bad_request
from hub.local.names import PREFIX, RESERVED, TYPES

if TYPE_CHECKING:
    from starlette.responses import Response

Handler = Callable[[Call], "Response"]


@dataclass(frozen=True)
class Endpoint:
    """A method and a pattern, and the function that answers; `fixed` are parameters that the pattern implies.

    `signed` says that the Authorization header holds a token that the function reads itself, not a user's.
    """

    method: str
    pattern: str
    handler: Handler
    fixed: dict[str, str] = field(default_factory=dict)
    signed: bool = False

    @cached_property
    def segments(self) -> list[str]:
        """The pattern's segments."""
        return self.pattern.split("/")

    def match(self, segments: list[str]) -> dict[str, str] | None:
        """The parameters, where the unquoted segments of a path fit the pattern."""
        wanted = self.segments
        rest = wanted[-1].endswith("*}")
        if len(segments) < len(wanted) if rest else len(segments) != len(wanted):
            return None
        found = dict(self.fixed)
        for want, have in zip(wanted, segments, strict=False):
            if want[0] != "{":
                if want != have:
                    return None
                continue
            key, _, suffix = want[1:].partition("}")
            if key.endswith("*"):
                found[key[:-1]] = "/".join(segments[len(wanted) - 1 :])
                break
            value = have.removesuffix(suffix) if suffix else have
            if not value or (suffix and value == have) or (key == "type" and value not in TYPES):
                return None
            if key == "namespace" and value.lower() in RESERVED:
                return None
            found[key] = TYPES[value] if key == "type" else value
        return found


def page_endpoints(method: str, tail: str, handler: Handler) -> list[Endpoint]:
    """Endpoints under a repository's page, one a type: `{namespace}/{name}` + `tail` with its prefix."""
    return [
        Endpoint(method, f"{prefix}{{namespace}}/{{name}}{tail}", handler, {"type": kind})
        for kind, prefix in PREFIX.items()
    ]


_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


def split_path(raw: str) -> list[str]:
    """The segments of a raw path, each unquoted.

    Raises:
        `Refusal`: 400 for what is not percent-encoded UTF-8, and for control characters.
    """
    if _PERCENT.search(raw):
        raise bad_request("Invalid URL: a lone %")
    try:
        segments = [unquote(segment, errors="strict") for segment in raw.removeprefix("/").split("/")]
    except UnicodeDecodeError:
        raise bad_request("Invalid URL: not UTF-8") from None
    if any(c < " " or c == "\x7f" for segment in segments for c in segment):
        raise bad_request("Invalid URL: it holds a control character")
    return segments


class Router:
    """Finds the endpoint of a path among `endpoints`; the first that fits counts."""

    def __init__(self, endpoints: Iterable[Endpoint]) -> None:
        self.endpoints = list(endpoints)
        self._tails = {
            e.segments[4] for e in self.endpoints if e.pattern.startswith("api/{type}/") and len(e.segments) > 4
        }

    def find(self, method: str, raw: str) -> tuple[Endpoint | None, dict[str, str]]:
        """The endpoint and its parameters; None where the path names a repository with one segment, as `gpt2`.

        Raises:
            `Refusal`: 404 where no endpoint has such a path, 405 where one has it with another method.
        """
        segments = split_path(raw)
        allowed: list[str] = []
        for endpoint in self.endpoints:
            params = endpoint.match(segments)
            if params is not None:
                if endpoint.method == method:
                    return endpoint, params
                allowed.append(endpoint.method)
        if allowed:
            raise Refusal(405, "Method not allowed", headers={"Allow": ", ".join(sorted(set(allowed)))})
        if self._names_one_segment(segments):
            return None, {}
        raise Refusal(404, "Not found: no such endpoint")

    def _names_one_segment(self, segments: list[str]) -> bool:
        if segments[0] == "api":
            known = len(segments) > 2 and segments[1] in TYPES
            return known and (len(segments) == 3 or segments[3] in self._tails)
        short = segments[1:] if segments[0] in TYPES else segments
        return len(short) > 1 and short[1] in ("resolve", "raw", "info")
