"""The process in which the clients of one mode run; `conformance.py` starts it and sets its environment.

It prints a line of JSON a check as soon as the check has ended."""

import argparse
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import set_client_factory
from huggingface_hub.utils._http import default_client_factory

from tests.integration.hub_local.checks import CHECKS
from tests.integration.hub_local.world import Request, World

CHECK_TIMEOUT = 120
_requests: list[Request] = []


def _client() -> Any:
    """The client's own session, which writes down what it sends."""
    client = default_client_factory()

    def note(response: Any) -> None:
        sent = response.request
        headers, answer = (dict(one.headers.items()) for one in (sent, response))
        _requests.append(Request(sent.method, str(sent.url), response.status_code, headers, answer))

    client.event_hooks["response"].append(note)
    return client


def _expire(*_: Any) -> None:
    raise TimeoutError(f"the check took longer than {CHECK_TIMEOUT} s")


def main() -> None:
    """Run the checks that are named, one after the other."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--mode", required=True)
    parser.add_argument("--url", required=True)
    parser.add_argument("--cdn", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("names", nargs="+")
    given = parser.parse_args()
    # Only the outcomes go to the real standard output: libraries print to it too.
    outcomes, sys.stdout = os.fdopen(os.dup(1), "w"), sys.stderr
    os.dup2(2, 1)
    set_client_factory(_client)
    signal.signal(signal.SIGALRM, _expire)
    for name in given.names:
        folder = given.folder / name
        folder.mkdir(parents=True)
        _requests.clear()
        started, error = time.monotonic(), ""
        signal.alarm(CHECK_TIMEOUT)
        try:
            CHECKS[name].run(World(given.url, given.cdn, given.mode, name, folder, _requests))
        # What `pytest.raises` raises where nothing was raised is no Exception.
        except (Exception, pytest.fail.Exception):
            last = "".join(f"{sent.method} {sent.url}: {sent.status}\n" for sent in _requests[-6:])
            error = f"{traceback.format_exc()}\nits last requests:\n{last}"
        finally:
            signal.alarm(0)
        line = {"check": name, "seconds": round(time.monotonic() - started, 3), "error": error}
        print(json.dumps(line), file=outcomes, flush=True)


if __name__ == "__main__":
    main()
