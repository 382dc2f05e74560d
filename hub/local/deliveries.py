"""Delivery of webhooks in the background: bounded queues, a few threads, a deadline, a few tries. Nothing here can hold
up a request of the server, and nothing is kept: a delivery that a killed server had not made is lost."""

import contextlib
import heapq
import http.client
import itertools
import logging
import socket
import threading
import time
from collections import deque
from dataclasses import dataclass
from urllib.parse import urlsplit

_log = logging.getLogger(__name__)

WORKERS = 4
QUEUED = 1000
DEADLINE = 10.0
PAUSES = (0.5, 5.0)
STOP = 1.0


@dataclass(frozen=True)
class Delivery:
    """One POST: `body` is JSON; `secret` goes into the header X-Webhook-Secret."""

    webhook: str
    url: str
    secret: str | None
    body: bytes


class Deliveries:
    """Threads that make deliveries: those of one webhook one after the other, those of different webhooks in turn. A
    thread never waits for the next try of a delivery, so that a dead receiver takes nothing from the others.

    Args:
        pauses (`tuple` of `float`, *optional*, defaults to `(0.5, 5.0)`): seconds before the second try, the third
            and so on; a reply of 408, 429 or 5xx, or none at all, is tried again, any other is final. Redirects are not
            followed.
        deadline (`float`, *optional*, defaults to `10.0`): seconds that a try may take, whatever the receiver does.
        queued (`int`, *optional*, defaults to `1000`): deliveries a webhook may have waiting, and all of them four
            times as many; more are dropped, which is logged and counted in `dropped`.
    """

    def __init__(self, pauses: tuple[float, ...] = PAUSES, deadline: float = DEADLINE, queued: int = QUEUED) -> None:
        self.pauses, self.deadline = pauses, deadline
        self.delivered = self.failed = self.dropped = 0
        self._queued = queued
        self._changed = threading.Condition()
        self._stopping = False
        # By webhook, what waits; the first of them is being tried. A webhook has at most one place in `_due`: when its
        # next try may be made, a number that keeps the order of equals, the webhook, and the tries made so far.
        self._waiting: dict[str, deque[Delivery]] = {}
        self._due: list[tuple[float, int, str, int]] = []
        self._order = itertools.count()
        self._threads: list[threading.Thread] = []

    def add(self, delivery: Delivery) -> bool:
        """Queue a delivery; returns at once, False where there is no room."""
        with self._changed:
            if not self._threads:
                self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(WORKERS)]
                for thread in self._threads:
                    thread.start()
            waiting = self._waiting.setdefault(delivery.webhook, deque())
            if len(waiting) >= self._queued or sum(map(len, self._waiting.values())) >= 4 * self._queued:
                self.dropped += 1
                _log.warning("webhook %s: dropped a delivery, %d are waiting", delivery.webhook, len(waiting))
                if not waiting:
                    del self._waiting[delivery.webhook]
                return False
            waiting.append(delivery)
            if len(waiting) == 1:
                self._plan(delivery.webhook, 0.0, 0)
        return True

    def stop(self) -> None:
        """End the threads; what waits is lost. One that waits for a receiver ends with the process."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        end = time.monotonic() + STOP
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    def _plan(self, webhook: str, pause: float, tries: int) -> None:
        heapq.heappush(self._due, (time.monotonic() + pause, next(self._order), webhook, tries))
        self._changed.notify()

    def _next(self) -> tuple[Delivery, int] | None:
        """The next delivery to try, waited for, and the tries made so far; None when it is time to end."""
        with self._changed:
            while not self._stopping:
                pause = self._due[0][0] - time.monotonic() if self._due else None
                if pause is not None and pause <= 0:
                    _, _, webhook, tries = heapq.heappop(self._due)
                    return self._waiting[webhook][0], tries
                self._changed.wait(pause)
        return None

    def _work(self) -> None:
        while (found := self._next()) is not None:
            delivery, tries = found
            done = self._try(delivery, tries + 1)
            with self._changed:
                if done is None and tries < len(self.pauses):
                    self._plan(delivery.webhook, self.pauses[tries], tries + 1)
                    continue
                self.delivered, self.failed = self.delivered + (done is True), self.failed + (done is not True)
                waiting = self._waiting[delivery.webhook]
                waiting.popleft()
                if waiting:
                    self._plan(delivery.webhook, 0.0, 0)
                else:
                    del self._waiting[delivery.webhook]

    def _try(self, delivery: Delivery, attempt: int) -> bool | None:
        """Whether it was delivered; None where another try may help."""
        try:
            status: int | str = post(delivery, self.deadline)
        except (OSError, http.client.HTTPException, ValueError) as error:
            status = type(error).__name__
        if isinstance(status, int) and 200 <= status < 300:
            return True
        _log.warning("webhook %s: try %d answered %s", delivery.webhook, attempt, status)
        return None if isinstance(status, str) or status >= 500 or status in (408, 429) else False


def post(delivery: Delivery, deadline: float) -> int:
    """Make one POST and return the status of the reply, whose body is not read.

    Raises:
        `OSError`, `http.client.HTTPException`: where there is no reply, or none before the deadline.
    """
    parts = urlsplit(delivery.url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=deadline)
    headers = {"Content-Type": "application/json", "User-Agent": "coprov2-hub", "Connection": "close"}
    if delivery.secret is not None:
        headers["X-Webhook-Secret"] = delivery.secret
    # The timeout of a socket is that of one read: a receiver that sends a byte now and then would never meet it.
    timer = threading.Timer(deadline, _cut, (connection,))
    timer.daemon = True
    timer.start()
    try:
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("POST", target, delivery.body, headers)
        return connection.getresponse().status
    finally:
        timer.cancel()
        connection.close()


def _cut(connection: http.client.HTTPConnection) -> None:
    sock = connection.sock
    if sock is not None:
        with contextlib.suppress(OSError):  # closed meanwhile
            sock.shutdown(socket.SHUT_RDWR)
