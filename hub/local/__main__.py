"""`python -m hub.local --root DIR`: the server without the rest of the project."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from hub.local.errors import LocalHubError

if TYPE_CHECKING:
    from hub.local.hub import LocalHub


DESCRIPTION = """A Hub-compatible server for one machine: repositories, pull requests, gating and LFS in one folder.
Users, organizations and tokens stand in DIR/users.yaml, which the first start writes with one user and one token and
which is read again whenever it changes. Clients need HF_ENDPOINT and HF_TOKEN, nothing else."""


def announce(hub: "LocalHub") -> None:
    """Say on the terminal where the hub is and, the first time, its token."""
    print(f"serving {hub.root} at {hub.origin}" + (f", LFS files from {hub.cdn_origin}" if hub.cdn_origin else ""))
    if hub.first_token:
        print(f"first token, of the user admin, shown once and kept in {hub.root / 'users.yaml'}: {hub.first_token}")
    print(f"clients: export HF_ENDPOINT={hub.origin}", flush=True)


def _announce_to_parent(hub: "LocalHub") -> None:
    print(json.dumps({"url": hub.origin, "cdn_url": hub.cdn_origin, "token": hub.first_token}), flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Read the options and serve; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m hub.local", description=DESCRIPTION)
    parser.add_argument("--root", type=Path, required=True, help="the hub's folder, made where there is none")
    parser.add_argument("--port", type=int, default=8080, help="0 takes a free one")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen at; nobody else reaches the default")
    parser.add_argument("--cdn-port", type=int, help="give LFS files from this port, by redirect to signed URLs")
    parser.add_argument("--origin", help="what URLs begin with, where clients reach the server by another name")
    parser.add_argument("--open-readme", action="store_true", help="leave README.md readable under gating")
    parser.add_argument("--faults", type=Path, help="for tests: a JSON list of faults to play (see faults.py)")
    parser.add_argument("--request-log", type=Path, help="for tests: a JSONL file with a line a request")
    parser.add_argument("--child", action="store_true", help="announce as JSON; end when standard input closes")
    options = parser.parse_args(arguments)
    from hub.local.process import end_with_parent
    from hub.local.server import serve

    if options.child:
        end_with_parent()
    ready = _announce_to_parent if options.child else announce
    try:
        ports = (options.host, options.port, options.cdn_port)
        for_tests = (options.faults, options.request_log)
        serve(options.root, *ports, options.origin, ready, options.open_readme, *for_tests)
    except LocalHubError as error:
        print(f"hub: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
