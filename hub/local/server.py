"""The server: every endpoint, run in threads behind uvicorn; errors as the Hub gives them; two ports where files are
given from another origin."""

import asyncio
import functools
import secrets
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import anyio
import anyio.from_thread
import anyio.to_thread
from starlette.requests import ClientDisconnect

from hub.local import (
    commits,
    discussions,
    gating,
    git_http,
    lfs,
    multipart,
    preupload,
    repositories,
    resolve,
    revisions,
    trees,
    webhooks,
    xet,
)
from hub.local.authentication import user_of
from hub.local.call import Call, answer
from hub.local.deliveries import Deliveries
from hub.local.errors import LocalHubError, Refusal, bad_request, repository_not_found
from hub.local.faults import Faults
from hub.local.hub import LocalHub
from hub.local.names import BODY_PAUSE, BODY_RATE, MAX_URL, header_text
from hub.local.recovery import recover
from hub.local.routing import Endpoint, Router

if TYPE_CHECKING:
    from starlette.responses import Response

ENDPOINTS: list[Endpoint] = [
    *repositories.ENDPOINTS,
    *trees.ENDPOINTS,
    *revisions.ENDPOINTS,
    *preupload.ENDPOINTS,
    *commits.ENDPOINTS,
    *lfs.ENDPOINTS,
    *resolve.ENDPOINTS,
    *discussions.ENDPOINTS,
    *gating.ENDPOINTS,
    *webhooks.ENDPOINTS,
    *multipart.ENDPOINTS,
    *xet.ENDPOINTS,
    *git_http.ENDPOINTS,
]
THREADS = 64  # requests that are answered at once; others wait
CONNECTIONS = 800  # at once; others get 503
# What a client still sends after it was refused is read up to here, so that it sees the answer and not a reset.
DRAIN = 16 << 20
DRAIN_SECONDS = 5.0


class Application:
    """The ASGI application of a hub.

    Args:
        hub (`LocalHub`): the hub.
        cdn_port (`int`, *optional*): the port where files are given and nothing else.
    """

    def __init__(self, hub: LocalHub, cdn_port: int | None = None) -> None:
        self.hub = hub
        self._router = Router(ENDPOINTS)
        self._cdn_router = Router(resolve.CDN_ENDPOINTS)
        self._cdn_port = cdn_port
        self._threads: anyio.CapacityLimiter | None = None

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        if self._threads is None:
            self._threads = anyio.CapacityLimiter(THREADS)
        body = _Body(receive)
        request_id = f"{secrets.token_hex(8)}"
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        make = functools.partial(self._answer, scope, headers, body, request_id)
        try:
            response: Response = await anyio.to_thread.run_sync(make, limiter=self._threads)
            await body.drain(DRAIN)
        except ClientDisconnect:
            return
        response.headers["X-Request-Id"] = request_id
        response.headers["X-Content-Type-Options"] = "nosniff"
        await response(scope, receive, send)

    def _answer(self, scope: dict[str, Any], headers: dict[str, str], body: "_Body", request_id: str) -> "Response":
        user = None
        try:
            raw, query = _address(scope)
            head = scope["method"] == "HEAD"
            router = self._cdn_router if scope["server"][1] == self._cdn_port else self._router
            endpoint, params = router.find("GET" if head else scope["method"], raw)
            user = None if endpoint and endpoint.signed else user_of(self.hub, headers)
            if endpoint is None:
                raise repository_not_found(user)
            receive = functools.partial(anyio.from_thread.run, body.next)
            method = endpoint.method
            return endpoint.handler(
                Call(self.hub, method, raw, params, query, headers, user, request_id, receive, head)
            )
        except Refusal as refusal:
            return refused(refusal)
        except ClientDisconnect:
            raise
        except Exception as error:
            # Only where it happened: an error's text may quote what was sent.
            where = traceback.extract_tb(error.__traceback__)[-3:]
            lines = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(where))
            print(f"hub: request {request_id}: {type(error).__name__} at {lines}", file=sys.stderr, flush=True)
            return refused(Refusal(500, f"Internal error; request {request_id}"))


def refused(refusal: Refusal) -> "Response":
    """The response that a refusal becomes."""
    headers = {"X-Error-Message": header_text(refusal.message), **refusal.headers}
    if refusal.code:
        headers["X-Error-Code"] = refusal.code
    if refusal.status == 401:
        headers["WWW-Authenticate"] = 'Basic realm="hub", charset="UTF-8"'
    return answer({"error": refusal.message, **refusal.body}, refusal.status, headers)


def _address(scope: dict[str, Any]) -> tuple[str, dict[str, list[str]]]:
    raw, query = scope["raw_path"].decode("latin-1"), scope["query_string"].decode("latin-1")
    if len(raw) + len(query) > MAX_URL:
        raise Refusal(414, f"URI too long: at most {MAX_URL} characters")
    try:
        return raw, parse_qs(query, keep_blank_values=True, errors="strict", max_num_fields=200)
    except ValueError:
        raise bad_request("Invalid query: not url-encoded UTF-8, or too many fields") from None


class _Body:
    """The body of a request, read chunk by chunk from the event loop.

    It must come at a rate that no thread waits on for long: whoever sends a byte a minute would hold one for days. Only
    the time spent waiting for the client counts: what the server makes of a chunk may take longer."""

    def __init__(self, receive: Any) -> None:
        self._receive = receive
        self._ended = False
        self._waited = 0.0
        self._count = 0

    async def next(self) -> bytes | None:
        while not self._ended:
            left, began = BODY_PAUSE + self._count / BODY_RATE - self._waited, time.monotonic()
            try:
                with anyio.fail_after(min(BODY_PAUSE, max(left, 0.0))):
                    message = await self._receive()
            except TimeoutError:
                self._ended = True
                raise Refusal(408, "Request timeout: the body comes too slowly") from None
            self._waited += time.monotonic() - began
            if message["type"] == "http.disconnect":
                self._ended = True
                raise ClientDisconnect
            self._ended = not message.get("more_body", False)
            if message.get("body"):
                self._count += len(message["body"])
                return bytes(message["body"])
        return None

    async def drain(self, limit: int) -> None:
        count = 0
        try:
            # A body that was announced and does not come holds the answer up no longer than this.
            with anyio.move_on_after(DRAIN_SECONDS):
                while count < limit and (chunk := await self.next()) is not None:
                    count += len(chunk)
        except Refusal:
            pass


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        `LocalHubError`: where the port is taken or the host is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named because asyncio turns Nagle's delay off only where it is: 40 ms a request otherwise.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(512)
    except OSError as error:
        listener.close()
        raise LocalHubError(f"{host}:{port}: cannot listen there: {error.strerror or error}") from None
    return listener


def serve(
    root: Path,
    host: str = "127.0.0.1",
    port: int = 8080,
    cdn_port: int | None = None,
    origin: str | None = None,
    ready: Callable[[LocalHub], None] | None = None,
    open_readme: bool = False,
    faults: Path | None = None,
    requests: Path | None = None,
) -> None:
    """Serve a hub until the process is told to end (SIGTERM, SIGINT).

    Args:
        root (`Path`): the hub's folder; made where there is none.
        host (`str`, *optional*, defaults to `127.0.0.1`): the address to listen at.
        port (`int`, *optional*, defaults to `8080`): the port; 0 takes a free one.
        cdn_port (`int`, *optional*): a second port that LFS files are given from, by redirect to signed URLs at the
            host name localhost; 0 takes a free one. Without it they are given directly.
        origin (`str`, *optional*): what URLs begin with, where clients reach the server by another name.
        ready (*optional*): called with the hub once both ports take connections.
        open_readme (`bool`, *optional*, defaults to `False`): whether gating leaves README.md readable.
        faults, requests (`Path`, *optional*): for tests: faults on order, and a log of requests (`faults.py`).

    Raises:
        `LocalHubError`: where the folder or a port is not to be had.
    """
    listener = listen(host, port)
    cdn = listen(host, cdn_port) if cdn_port is not None else None
    shown = f"[{host}]" if ":" in host else host
    url = origin or f"http://{shown}:{listener.getsockname()[1]}"
    cdn_url = None
    if cdn is not None:
        name = "localhost" if host.startswith("127.") else shown
        cdn_url = f"http://{name}:{cdn.getsockname()[1]}"
    hub = LocalHub(root, url.rstrip("/"), cdn_url, open_readme)
    deliveries = Deliveries()
    webhooks.attach(hub, deliveries)
    try:
        recover(hub)
        application: Any = Application(hub, cdn.getsockname()[1] if cdn else None)
        if faults or requests:
            application = Faults(application, faults, requests)
        asyncio.run(_serve(application, hub, listener, cdn, ready))
    finally:
        deliveries.stop()
        hub.close()


async def _serve(
    application: Any,
    hub: LocalHub,
    listener: socket.socket,
    cdn: socket.socket | None,
    ready: Callable[[LocalHub], None] | None,
) -> None:
    import uvicorn

    # One parser everywhere, whatever else is installed.
    options: dict[str, Any] = {"http": "h11", "ws": "none", "lifespan": "off", "timeout_keep_alive": 30}
    options |= {"log_level": "error", "access_log": False, "server_header": False, "proxy_headers": False}
    server = uvicorn.Server(
        uvicorn.Config(application, timeout_graceful_shutdown=5, limit_concurrency=CONNECTIONS, **options)
    )
    if ready is not None:
        ready(hub)
    await server.serve([listener, cdn] if cdn else [listener])
