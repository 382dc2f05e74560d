"""Deliveries of webhooks: tries, redirects, deadlines, bounds, and that nobody waits for them."""

import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from hub.local.deliveries import Deliveries, Delivery
from tests.hub.local.receiver import Receiver


@pytest.fixture
def receivers() -> Iterator[Callable[..., Receiver]]:
    made: list[Receiver] = []

    def make(*args: object, **kwargs: object) -> Receiver:
        made.append(Receiver(*args, **kwargs))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for receiver in made:
        receiver.close()


@pytest.fixture
def deliveries() -> Iterator[Deliveries]:
    deliveries = Deliveries(pauses=(0.01, 0.01), deadline=5.0)
    yield deliveries
    deliveries.stop()


def _delivery(url: str, body: object = None, webhook: str = "0", secret: str | None = None) -> Delivery:
    return Delivery(webhook, url, secret, json.dumps(body).encode())


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it did not come to be in 20 seconds"
        threading.Event().wait(0.005)


def test_a_delivery_carries_body_and_secret(receivers: Callable[..., Receiver], deliveries: Deliveries) -> None:
    receiver = receivers()
    assert deliveries.add(_delivery(f"{receiver.url}/hook?a=b", {"n": 1}, secret="s3cret"))
    path, headers, payload = receiver.next()
    assert (path, headers["X-Webhook-Secret"], payload) == ("/hook?a=b", "s3cret", {"n": 1})
    assert headers["Content-Type"] == "application/json"
    _until(lambda: deliveries.delivered == 1)


def test_deliveries_of_one_webhook_keep_their_order(receivers: Callable[..., Receiver], deliveries: Deliveries) -> None:
    receiver = receivers()
    for n in range(20):
        deliveries.add(_delivery(receiver.url, n))
    assert [receiver.next()[2] for _ in range(20)] == list(range(20))


@pytest.mark.parametrize("status", [500, 503, 429, 408])
def test_a_passing_failure_is_tried_again(
    receivers: Callable[..., Receiver], deliveries: Deliveries, status: int
) -> None:
    receiver = receivers(lambda n: status if n < 2 else 200)
    deliveries.add(_delivery(receiver.url))
    _until(lambda: deliveries.delivered == 1)
    assert receiver.count == 3


def test_tries_are_bounded(receivers: Callable[..., Receiver], deliveries: Deliveries) -> None:
    receiver = receivers(lambda n: 500)
    deliveries.add(_delivery(receiver.url))
    _until(lambda: deliveries.failed == 1)
    assert receiver.count == 3


@pytest.mark.parametrize("status", [400, 404, 410])
def test_a_final_answer_is_not_tried_again(
    receivers: Callable[..., Receiver], deliveries: Deliveries, status: int
) -> None:
    receiver = receivers(lambda n: status)
    deliveries.add(_delivery(receiver.url))
    _until(lambda: deliveries.failed == 1)
    assert receiver.count == 1


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(receivers: Callable[..., Receiver], deliveries: Deliveries, status: int) -> None:
    other = receivers()
    receiver = receivers(lambda n: status, headers={"Location": other.url})
    deliveries.add(_delivery(receiver.url, secret="s3cret"))
    _until(lambda: deliveries.failed == 1)
    assert (receiver.count, other.count) == (1, 0)


def test_nobody_there_is_a_failure_and_no_error(deliveries: Deliveries) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        deliveries.add(_delivery(f"http://127.0.0.1:{taken.getsockname()[1]}"))
        _until(lambda: deliveries.failed == 1)


def test_a_receiver_that_sends_a_byte_now_and_then_meets_the_deadline() -> None:
    deliveries = Deliveries(pauses=(), deadline=0.5)
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip() -> None:
            connection, _ = server.accept()
            with connection:
                while not done.wait(0.1):
                    try:
                        connection.sendall(b"X")
                    except OSError:
                        return

        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        begun = time.monotonic()
        deliveries.add(_delivery(f"http://127.0.0.1:{server.getsockname()[1]}"))
        _until(lambda: deliveries.failed == 1)
        assert time.monotonic() - begun < 5
        done.set()
        thread.join(5)
    deliveries.stop()


def test_a_full_queue_drops_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    deliveries = Deliveries(pauses=(), deadline=5.0, queued=2)
    with socket.create_server(("127.0.0.1", 0)) as silent, caplog.at_level(logging.WARNING):
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        begun = time.monotonic()
        added = [deliveries.add(_delivery(url, secret="s3cret")) for _ in range(10)]
        assert time.monotonic() - begun < 4, "adding waited for the receiver"
        assert added.count(False) == deliveries.dropped >= 7
        assert "dropped a delivery" in caplog.text and "s3cret" not in caplog.text
        deliveries.stop()


def test_a_slow_receiver_does_not_hold_up_another_webhook(receivers: Callable[..., Receiver]) -> None:
    deliveries = Deliveries(pauses=(), deadline=5.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        deliveries.add(_delivery(f"http://127.0.0.1:{silent.getsockname()[1]}", webhook="0"))
        receiver = receivers()
        begun = time.monotonic()
        deliveries.add(_delivery(receiver.url, webhook="1"))
        receiver.next()
        assert time.monotonic() - begun < 4
    deliveries.stop()


def test_dead_receivers_hold_up_no_other_webhook(receivers: Callable[..., Receiver]) -> None:
    # Far more of them than threads, each with deliveries that wait a minute for their second try.
    deliveries = Deliveries(pauses=(60.0,), deadline=5.0)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        dead = f"http://127.0.0.1:{taken.getsockname()[1]}"
    for number in range(20):
        for _ in range(3):
            deliveries.add(_delivery(dead, webhook=f"{number:x}"))
    receiver = receivers()
    begun = time.monotonic()
    deliveries.add(_delivery(receiver.url, webhook="ff"))
    receiver.next()
    assert time.monotonic() - begun < 10
    deliveries.stop()


def test_all_webhooks_together_have_a_bound() -> None:
    deliveries = Deliveries(pauses=(60.0,), deadline=5.0, queued=2)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        dead = f"http://127.0.0.1:{taken.getsockname()[1]}"
    added = [deliveries.add(_delivery(dead, webhook=f"{number:x}")) for number in range(20)]
    assert added.count(True) == 8 and deliveries.dropped == 12
    deliveries.stop()
