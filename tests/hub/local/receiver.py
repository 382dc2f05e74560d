"""A receiver of webhooks on loopback, for tests: it keeps what came and answers as it is told."""

import json
import queue
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Receiver:
    """Keeps `(path, headers, payload)` of every POST; `answer(n)` gives the status of the n-th (from 0)."""

    def __init__(self, answer: Callable[[int], int] = lambda n: 200, headers: dict[str, str] | None = None) -> None:
        self.received: queue.Queue[tuple[str, dict[str, str], Any]] = queue.Queue()
        self.count = 0
        receiver, counting = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with counting:
                    status = answer(receiver.count)
                    receiver.count += 1
                # Before the reply, after which the next one may come.
                receiver.received.put((self.path, dict(self.headers), json.loads(body)))
                self.send_response(status)
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def next(self) -> tuple[str, dict[str, str], Any]:
        """The next POST, waited for."""
        return self.received.get(timeout=20)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
