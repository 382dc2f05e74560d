"""`coprov2 review --serve`: hears of pull requests by the Hub's webhook and comments on each reviewed commit once.

A payload only says where to look: the repository's name, held against a list, and a number. All else is read from the
Hub. What a webhook did not tell, because it was lost or this process was down, a sweep over the open pull requests
finds, at the start and every ten minutes."""

import hmac
import json
import queue
import threading
from collections.abc import Callable, Collection
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub.client import HubError, check_name, one_line
from hub.pull_requests import REPO_TYPE, Refused
from recipes import JudgeConfig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

# A payload of the Hub is about 2 kB; a discussion's text adds what people write.
MOST_BYTES = 256_000
BODY_SECONDS = 10.0
MOST_WAITING = 200
SWEEP_SECONDS = 600.0
# Pauses before a review that the Hub did not let through is tried again.
PAUSES = (2.0, 15.0, 60.0)
SHORTEST_SECRET = 16

Work = tuple[str, int]


class ReviewWorker:
    """Reviews pull requests one after the other, in a thread of its own.

    Args:
        repositories (`Collection[str]`): org/name of each dataset that is watched.
        judge (`JudgeConfig`, *optional*): judges that look at the pictures.
        api (`huggingface_hub.HfApi`, *optional*): the client, of an account that may comment.
        say (`Callable`, *optional*, defaults to `print`): takes each line of the log; none holds a text of a row.
        pauses (`tuple[float, ...]`, *optional*): seconds before each further attempt.
    """

    def __init__(
        self,
        repositories: Collection[str],
        judge: JudgeConfig | None = None,
        api: Any = None,
        say: Callable[[str], None] = print,
        pauses: tuple[float, ...] = PAUSES,
    ) -> None:
        from huggingface_hub import HfApi

        self.repositories = frozenset(map(check_name, repositories))
        self._api, self._judge, self._say, self._pauses = api or HfApi(), judge, say, pauses
        self._queue: queue.Queue[Work] = queue.Queue(MOST_WAITING)
        self._waiting: set[Work] = set()
        self._idle = 0.0
        self._lock, self._stopped = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="review", daemon=True)

    def start(self) -> None:
        """Begin with a sweep."""
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """Take no more work; a review that is under way may be cut off, and the next start does it again."""
        self._stopped.set()
        self._thread.join(timeout)

    def put(self, work: Work) -> bool:
        """Queue a pull request unless it waits already; False where the queue is full."""
        with self._lock:
            if work in self._waiting:
                return True
            try:
                self._queue.put_nowait(work)
            except queue.Full:
                return False
            self._waiting.add(work)
            return True

    def _run(self) -> None:
        self.sweep()
        while not self._stopped.is_set():
            try:
                work = self._queue.get(timeout=1.0)
            except queue.Empty:
                self._idle += 1.0
                if self._idle >= SWEEP_SECONDS:
                    self.sweep()
                continue
            with self._lock:
                # A push during the review queues it anew.
                self._waiting.discard(work)
            self._attempt(work)

    def sweep(self) -> None:
        """Queue the open pull requests of all repositories."""
        self._idle = 0.0
        for name in sorted(self.repositories):
            try:
                with one_line(name):
                    found = self._api.get_repo_discussions(
                        name, repo_type=REPO_TYPE, discussion_type="pull_request", discussion_status="open"
                    )
                    for discussion in islice(found, MOST_WAITING):
                        self.put((name, discussion.num))
            except HubError as error:
                self._say(f"{error}")
            except Exception as error:
                self._say(f"{name}: the list of pull requests cannot be read ({type(error).__name__})")

    def _attempt(self, work: Work) -> None:
        name, number = work
        for pause in (*self._pauses, None):
            try:
                self._say(f"{name} pull request {number}: {self.review_one(name, number)}")
                return
            except Refused as error:
                self._say(str(error))
                return
            except HubError as error:
                self._say(str(error))
            except Exception as error:
                # Its text may hold what a row says.
                self._say(f"{name} pull request {number}: {type(error).__name__} in {_place(error)}")
            if pause is None or self._stopped.wait(pause):
                self._say(f"{name} pull request {number}: put off until the next sweep")
                return

    def review_one(self, name: str, number: int) -> str:
        """Review a pull request and comment on it, unless its head has a comment already; says what was done."""
        from hub.review import comment, own_comments, review

        with one_line(f"{name} pull request {number}"):
            sha = str(self._api.repo_info(name, repo_type=REPO_TYPE, revision=f"refs/pr/{number}").sha)
            if sha in own_comments(self._api, name, number):
                return f"{sha} has its comment"
        result = review(name, number, self._judge, with_pairs=False, api=self._api)
        comment(result, self._api)
        return f"{result.report.sha}: {result.report.verdict}"


def _place(error: Exception) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else "an unknown place"


def read_secret(path: Path) -> bytes:
    """The webhook's secret in a file.

    Raises:
        `HubError`: where there is none, or it is short enough to be guessed.
    """
    try:
        secret = path.read_bytes().strip()
    except OSError as error:
        raise HubError(f"{path}: the webhook's secret cannot be read ({error.strerror})") from None
    if len(secret) < SHORTEST_SECRET:
        raise HubError(
            f"{path}: a secret of {len(secret)} bytes, expected {SHORTEST_SECRET} or more; make one by "
            "`python -c 'import secrets; print(secrets.token_urlsafe(32))'`"
        )
    return secret


def work_in(payload: Any, repositories: Collection[str]) -> list[Work]:
    """The pull requests that a payload speaks of, in repositories that are watched; nothing else of it is taken.

    It is of the Hub's form (HUB.md): `repo{type,name}` with `discussion{num,isPullRequest}`, or with
    `updatedRefs[{ref}]`, which names refs/pr/N when somebody pushed to a pull request."""
    if not isinstance(payload, dict) or not isinstance(repo := payload.get("repo"), dict):
        return []
    name = repo.get("name")
    if repo.get("type") != REPO_TYPE or not isinstance(name, str) or name not in repositories:
        return []
    numbers: list[Any] = []
    discussion, refs = payload.get("discussion"), payload.get("updatedRefs")
    if isinstance(discussion, dict) and discussion.get("isPullRequest") is True:
        numbers.append(discussion.get("num"))
    for ref in refs[:20] if isinstance(refs, list) else []:
        text = ref.get("ref") if isinstance(ref, dict) else None
        if isinstance(text, str) and text.startswith("refs/pr/") and text[8:].isascii() and text[8:].isdigit():
            numbers.append(int(text[8:16]))
    return [(name, n) for n in dict.fromkeys(filter(_is_number, numbers))]


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 10**8


def create_app(worker: ReviewWorker, secret: bytes) -> "Starlette":
    """The webhook as a Starlette application: POST /webhook, and GET /health.

    Answers 403 for a wrong secret, before the body is read; 413 and 408 for a body that is too large or too slow; 400
    for one that is no JSON; 503 while the queue is full, so that the Hub tries again; otherwise 202."""
    import asyncio

    from starlette.applications import Starlette
    from starlette.requests import ClientDisconnect
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    async def webhook(request: "Request") -> "Response":
        given = request.headers.get("x-webhook-secret", "").encode("latin-1", "replace")
        if not hmac.compare_digest(given, secret):
            return PlainTextResponse("wrong secret\n", 403)
        try:
            body = await asyncio.wait_for(_bounded(request), BODY_SECONDS)
        except (TimeoutError, ClientDisconnect):
            return PlainTextResponse("too slow\n", 408)
        if body is None:
            return PlainTextResponse("too large\n", 413)
        try:
            payload = json.loads(body)
        except (ValueError, RecursionError):
            return PlainTextResponse("not JSON\n", 400)
        put = [worker.put(work) for work in work_in(payload, worker.repositories)]
        if not all(put):
            return PlainTextResponse("busy\n", 503, {"Retry-After": "60"})
        return PlainTextResponse("heard\n", 202)

    async def health(request: "Request") -> "Response":
        return PlainTextResponse("reviewing\n")

    @asynccontextmanager
    async def lifespan(app: "Starlette") -> "AsyncIterator[None]":
        worker.start()
        try:
            yield
        finally:
            await asyncio.to_thread(worker.stop)

    routes = [Route("/webhook", webhook, methods=["POST"]), Route("/health", health, methods=["GET"])]
    return Starlette(routes=routes, lifespan=lifespan)


async def _bounded(request: "Request") -> bytes | None:
    """The body, or None once it is longer than `MOST_BYTES`, whatever its header said."""
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > MOST_BYTES:
            return None
    return body


def serve(
    repositories: Collection[str],
    secret_file: Path,
    host: str = "127.0.0.1",
    port: int = 8765,
    judge: JudgeConfig | None = None,
) -> None:
    """Serve until interrupted.

    Args:
        repositories (`Collection[str]`): org/name of each dataset that is watched.
        secret_file (`Path`): holds the secret that was given to the Hub with the webhook.
        host (`str`, *optional*, defaults to `"127.0.0.1"`), port (`int`, *optional*, defaults to 8765): where to
            listen. A proxy that speaks TLS stands in front of it when the Hub is elsewhere.
        judge (`JudgeConfig`, *optional*): judges that look at the pictures.

    Raises:
        `HubError`: for a bad secret or name.
    """
    import uvicorn

    secret = read_secret(secret_file)
    app = create_app(ReviewWorker(repositories, judge), secret)
    uvicorn.run(app, host=host, port=port, limit_concurrency=64, timeout_keep_alive=5, log_level="warning")
