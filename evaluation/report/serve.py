"""`coprov2 report serve`: an index of the runs below a folder, their reports and pictures. Reads, and writes nothing.

An address names a run by a key that the server made, never a file: what is not in its list of runs is not there. A
report that stands on disk may be anyone's, so it is served in a sandbox without an origin and without network."""

from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.report.build import PAGE, PICTURE
from evaluation.report.page import policy, render, render_page
from evaluation.report.runs import Run, Shown, find_runs, has_picture, read_plain, readable_parts, show
from recipes import RecipeError

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

HOST = "127.0.0.1"
PNG = b"\x89PNG\r\n\x1a\n"
HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
# What a report may do whoever wrote it: run its own script in an origin of its own, and fetch nothing.
SANDBOX = (
    "sandbox allow-scripts; default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# Indexes of so many runs are kept, each until its results change.
KEPT = 500


class Runs:
    """The runs below a folder, read anew for each request; what a run's results say is kept until they change."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._shown: OrderedDict[tuple[str, float], Shown] = OrderedDict()

    def all(self) -> list[Shown]:
        """All runs, the newest first."""
        found = []
        for run in find_runs(self.root):
            key = (run.key, run.changed)
            if key not in self._shown:
                self._shown[key] = show(self.root, run)
            self._shown.move_to_end(key)
            # A picture may come and go while the results stay.
            found.append(replace(self._shown[key], run=run, picture=has_picture(self.root, run)))
        while len(self._shown) > max(KEPT, len(found)):
            self._shown.popitem(last=False)
        return sorted(found, key=lambda shown: (-shown.run.changed, shown.run.name))

    def get(self, key: str) -> Run | None:
        """The run with this key."""
        return next((run for run in find_runs(self.root) if run.key == key), None)


def make_app(root: Path) -> "Starlette":
    """The application that serves the runs below `root`, for GET and HEAD, to this machine's own names only.

    Raises:
        `RecipeError`: where `root` is no folder.
    """
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.responses import HTMLResponse, PlainTextResponse, Response
    from starlette.routing import Route

    if not root.is_dir():
        raise RecipeError(f"{root}: no such folder; give the folder that holds the runs")
    runs = Runs(root)

    def headers(security: str) -> dict[str, str]:
        return {**HEADERS, "Content-Security-Policy": security}

    # Plain functions: starlette runs them in threads, so that reading files holds nobody else up.
    def index(request: "Request") -> "Response":
        text = render("index.html.j2", "'self' data:", runs=runs.all(), title=root.resolve().name)
        return HTMLResponse(text, headers=headers(policy("'self' data:") + "; frame-ancestors 'none'"))

    def report(request: "Request") -> "Response":
        run = runs.get(request.path_params["key"])
        if run is None:
            return _missing()
        stored = None if run.outdated else read_plain(root, run.folder / PAGE)
        if stored is not None:
            return Response(stored, media_type="text/html", headers=headers(SANDBOX))
        return HTMLResponse(render_page(readable_parts(root, run)), headers=headers(SANDBOX))

    def picture(request: "Request") -> "Response":
        run = runs.get(request.path_params["key"])
        content = None if run is None else read_plain(root, run.folder / PICTURE)
        if content is None or not content.startswith(PNG):
            return _missing()
        return Response(content, media_type="image/png", headers=headers("default-src 'none'"))

    def _missing() -> "Response":
        return PlainTextResponse("There is no such page.\n", 404, headers=headers("default-src 'none'"))

    def _broken(request: "Request", error: Exception) -> "Response":
        text = str(error).replace(str(root), "")
        return PlainTextResponse(f"{text}\n", 500, headers=headers("default-src 'none'"))

    def _not_found(request: "Request", error: Exception) -> "Response":
        return _missing()

    handlers: Any = {RecipeError: _broken, OSError: _broken, 404: _not_found}
    return Starlette(
        routes=[
            Route("/", index),
            Route("/runs/{key:str}/report.html", report),
            Route("/runs/{key:str}/picture.png", picture),
        ],
        # A page elsewhere whose name was turned to this machine may not read what is served here.
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"], www_redirect=False)],
        exception_handlers=handlers,
    )


def serve(root: Path, port: int) -> None:
    """Serve the runs below `root` on the loopback address until stopped.

    Args:
        root (`Path`): the folder.
        port (`int`): 1 to 65535, or 0 for any free one.

    Raises:
        `RecipeError`: where `root` is no folder or the port is taken.
    """
    import socket

    import uvicorn

    app = make_app(root)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except (OSError, OverflowError) as error:
            raise RecipeError(f"--port {port}: cannot be listened on ({error}); give another one") from None
        print(f"{root}: http://{HOST}:{listener.getsockname()[1]}/ (stop with Ctrl-C)", flush=True)
        uvicorn.Server(uvicorn.Config(app, log_level="warning", server_header=False)).run(sockets=[listener])
