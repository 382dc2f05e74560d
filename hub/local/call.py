"""One request as a handler sees it: checked parameters, the user, and a body that is bounded before it is read."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from hub.local.errors import Refusal, bad_request
from hub.local.names import MAX_FORM, MAX_JSON, MAX_JSON_DEPTH

if TYPE_CHECKING:
    from starlette.responses import Response

    from hub.local.hub import LocalHub
    from hub.local.users import User

Receive = Callable[[], bytes | None]


@dataclass
class Call:
    """A request.

    Args:
        hub (`LocalHub`): the hub it came to.
        method (`str`): GET, POST, PUT or DELETE; HEAD arrives as GET with `head` set.
        path (`str`): the raw path, as it came.
        params (`dict[str, str]`): what the endpoint's pattern found in the path, unquoted; `type` is the singular.
        query (`dict[str, list[str]]`): the query.
        headers (`Mapping[str, str]`): by lower-case name.
        user (`User`, *optional*): whose token it brought; None for none.
        request_id (`str`): names the request in logs and answers.
        receive: gives the next bytes of the body, None at its end; it blocks.
    """

    hub: "LocalHub"
    method: str
    path: str
    params: dict[str, str]
    query: dict[str, list[str]]
    headers: Mapping[str, str]
    user: "User | None"
    request_id: str
    receive: Receive
    head: bool = False
    read_whole: bool = field(default=False, init=False)

    def first(self, name: str, default: str = "") -> str:
        """The first value of a query's key."""
        return self.query.get(name, [default])[0]

    def flag(self, name: str) -> bool:
        """Whether a query's key says yes: 1, true, True."""
        return self.first(name).lower() in ("1", "true")

    def chunks(self, limit: int) -> Iterator[bytes]:
        """The body, streamed.

        Raises:
            `Refusal`: 413 as soon as more than `limit` bytes are announced or have come; 400 where the client left.
        """
        too_big = Refusal(413, f"Payload too large: at most {limit} bytes are taken here")
        announced = self.headers.get("content-length", "")
        if announced.isdigit() and int(announced) > limit:
            raise too_big
        count = 0
        while (chunk := self.receive()) is not None:
            count += len(chunk)
            if count > limit:
                raise too_big
            yield chunk
        self.read_whole = True

    def body(self, limit: int) -> bytes:
        """The whole body, at most `limit` bytes."""
        return b"".join(self.chunks(limit))

    def lines(self, limit: int, line_limit: int) -> Iterator[bytes]:
        """The lines of the body, none longer than `line_limit` bytes; empty ones are left out."""
        parts: list[bytes] = []  # of the line that has begun; joined once, however many pieces it comes in
        size = 0
        for chunk in self.chunks(limit):
            *whole, tail = chunk.split(b"\n")
            for end in whole:
                if size + len(end) > line_limit:
                    raise _long_line(line_limit)
                line = b"".join([*parts, end])
                parts, size = [], 0
                if line.strip():
                    yield line
            parts.append(tail)
            size += len(tail)
            if size > line_limit:
                raise _long_line(line_limit)
        line = b"".join(parts)
        if line.strip():
            yield line

    def json(self, limit: int = MAX_JSON) -> Any:
        """The body as JSON; an empty one is `{}`."""
        data = self.body(limit)
        return read_json(data) if data.strip() else {}

    def fields(self, limit: int = MAX_JSON) -> dict[str, Any]:
        """The body as a JSON object.

        Raises:
            `Refusal`: 400 where it is none.
        """
        found = self.json(limit)
        if not isinstance(found, dict):
            raise bad_request("Invalid JSON: expected an object")
        return found

    def form(self, limit: int = MAX_FORM) -> dict[str, list[str]]:
        """The body as an url-encoded form, or a JSON object of texts and lists of texts."""
        data = self.body(limit)
        if "json" in self.headers.get("content-type", ""):
            found = read_json(data)
            if not isinstance(found, dict):
                raise bad_request("Invalid JSON: expected an object")
            lists = {key: value if isinstance(value, list) else [value] for key, value in found.items()}
            if not all(isinstance(value, str | bool) for values in lists.values() for value in values):
                raise bad_request("Invalid JSON: expected texts and lists of texts")
            return {key: [str(value) for value in values] for key, values in lists.items()}
        try:
            return parse_qs(data.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=10_000)
        except ValueError:
            raise bad_request("Invalid form: not url-encoded UTF-8, or too many fields") from None


def _long_line(limit: int) -> Refusal:
    return Refusal(413, f"Payload too large: a line has more than {limit} bytes")


def read_json(data: bytes) -> Any:
    """JSON of bounded depth whose texts are Unicode.

    Raises:
        `Refusal`: 400 where it is not.
    """

    def no_constant(name: str) -> Any:
        raise ValueError(name)

    try:
        found = json.loads(data.decode("utf8"), parse_constant=no_constant)
    except (ValueError, RecursionError):
        raise bad_request("Invalid JSON") from None
    _check_json(found, MAX_JSON_DEPTH)
    return found


def _check_json(value: Any, depth: int) -> None:
    if depth < 0:
        raise bad_request(f"Invalid JSON: nested deeper than {MAX_JSON_DEPTH}")
    if isinstance(value, str):
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise bad_request("Invalid JSON: half of a surrogate pair is not text") from None
    elif isinstance(value, dict):
        for key, item in value.items():
            _check_json(key, depth)
            _check_json(item, depth - 1)
    elif isinstance(value, list):
        for item in value:
            _check_json(item, depth - 1)


def answer(data: Any, status: int = 200, headers: dict[str, str] | None = None) -> "Response":
    """A response of JSON."""
    from starlette.responses import Response

    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Response(text.encode(), status, {"Content-Type": "application/json; charset=utf-8", **(headers or {})})
