"""What a conformance check gets: a running hub/local, its users, and a repository name and folder of its own.

Nothing here sets the client's environment; `conformance.py` starts the child process with it."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import get_session

MODES = ("direct", "redirect", "xet")
# Token by its holder: `maker` writes and belongs to the organisation `lab`; `reader` is a token of maker's that may
# only read; `guest` writes elsewhere; `nobody` is no token at all, and `forged` one that the hub does not know.
TOKENS: dict[str, str | bool] = {
    "maker": "hf_conformance_maker",
    "reader": "hf_conformance_reader",
    "guest": "hf_conformance_guest",
    "nobody": False,
    "forged": "hf_conformance_forged",
}
ORGANISATION = "lab"


@dataclass
class Request:
    """A request that the client's own session sent, as it got its answer."""

    method: str
    url: str
    status: int
    headers: dict[str, str]
    answer: dict[str, str]


@dataclass
class World:
    """The hub, and what belongs to one check.

    Args:
        url (`str`): of the API, on 127.0.0.1.
        cdn (`str`): of the LFS downloads: another host name in the mode `redirect`, else the same as `url`.
        mode (`str`): one of `MODES`.
        check (`str`): the check's name; its repositories are named by it.
        folder (`Path`): an empty folder.
        requests (`list[Request]`): what the client's session sent since the check began.
    """

    url: str
    cdn: str
    mode: str
    check: str
    folder: Path
    requests: list[Request] = field(default_factory=list)

    def api(self, who: str = "maker") -> HfApi:
        """The stock client of one of `TOKENS`."""
        return HfApi(endpoint=self.url, token=TOKENS[who])

    def name(self, suffix: str = "", owner: str = "maker") -> str:
        """A repository's name that no other check uses."""
        return f"{owner}/{self.check.replace('_', '-')[:80]}{suffix}"

    def make(self, kind: str = "dataset", suffix: str = "", owner: str = "maker", **settings: Any) -> str:
        """Create a repository and return its name."""
        name = self.name(suffix, owner)
        self.api("guest" if owner == "guest" else "maker").create_repo(name, repo_type=kind, **settings)
        return name

    def path(self, name: str) -> Path:
        """A path in the check's folder, whose parents exist."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def cache(self, who: str) -> Path:
        """A cache of its own for an identity, since a cached file would hide a refusal."""
        return self.folder / f"cache-{who}"

    @contextmanager
    def faults(self, *faults: dict[str, Any]) -> Iterator[Callable[[], list[dict[str, Any]]]]:
        """Let the server fail as `hub/local/faults.py` describes it; gives what it logged since, as far as it did."""
        hub = self.folder.parents[1]
        start = (hub / "requests.jsonl").stat().st_size

        def log() -> list[dict[str, Any]]:
            with (hub / "requests.jsonl").open("rb") as file:
                file.seek(start)
                return [json.loads(line) for line in file]

        (hub / "faults.json").write_text(json.dumps(faults))
        try:
            yield log
        finally:
            (hub / "faults.json").write_text("[]")

    def raw(self, method: str, path: str, who: str = "maker", **options: Any) -> Any:
        """A request by the client's session that is neither checked nor followed."""
        headers = dict(options.pop("headers", {}))
        if TOKENS[who]:
            headers["Authorization"] = f"Bearer {TOKENS[who]}"
        url = path if path.startswith("http") else f"{self.url}{path}"
        options.setdefault("follow_redirects", False)
        return get_session().request(method, url, headers=headers, **options)

    def sent(self, method: str, part: str = "") -> list[Request]:
        """The client's requests of a method whose URL contains a text."""
        return [request for request in self.requests if request.method == method and part in request.url]

    def command(self, *words: str, who: str = "maker", json_: bool = False, fails: bool = False) -> Any:
        """Run the stock `hf` command; its output, parsed where `json_` is set."""
        environment = {**os.environ, "HF_TOKEN": str(TOKENS[who] or "")}
        words = (*words, "--format", "json") if json_ else words
        done = subprocess.run(
            [str(Path(sys.executable).with_name("hf")), *words],
            env=environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert (done.returncode != 0) == fails, f"hf {' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return json.loads(done.stdout) if json_ else done.stdout + done.stderr

    def git(self, *words: str, cwd: Path | None = None, fails: bool = False) -> str:
        """Run git, which may ask nobody for a password; what it printed."""
        environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "GIT_CONFIG_NOSYSTEM": "1", "HOME": str(self.folder)}
        environment |= {"GIT_LFS_SKIP_SMUDGE": "1"}
        done = subprocess.run(
            ["git", *words], cwd=cwd or self.folder, env=environment, capture_output=True, text=True, timeout=120
        )
        assert (done.returncode != 0) == fails, f"git {' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def git_url(self, name: str, kind: str = "dataset", who: str = "nobody") -> str:
        """The address to clone from, with a token in it unless it is nobody's."""
        prefix = {"dataset": "datasets/", "space": "spaces/", "model": ""}[kind]
        scheme, host = self.url.split("://")
        user = f"user:{TOKENS[who]}@" if TOKENS[who] else ""
        return f"{scheme}://{user}{host}/{prefix}{name}"


def status_of(call: Callable[[], Any]) -> int:
    """The HTTP status with which the hub refuses a call of the client."""
    try:
        call()
    except HfHubHTTPError as error:
        assert error.response is not None
        return error.response.status_code
    raise AssertionError("the hub did not refuse it")


@dataclass
class Received:
    """A delivery of a webhook."""

    headers: dict[str, str]
    payload: dict[str, Any]


@contextmanager
def listener() -> Iterator[tuple[str, list[Received], threading.Condition]]:
    """A receiver of webhooks: its URL, what it received, and a condition that tells of each delivery."""
    received: list[Received] = []
    arrived = threading.Condition()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with arrived:
                received.append(Received({k.lower(): v for k, v in self.headers.items()}, json.loads(body)))
                arrived.notify_all()
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/hook", received, arrived
    finally:
        server.shutdown()
        server.server_close()
