"""A body must come at a rate, and the server's own work on it does not count."""

import asyncio
from typing import Any

import pytest

from hub.local import server
from hub.local.errors import Refusal


async def _read(pause: float, work: float, chunks: int = 5) -> int:
    """Read a body that comes with a pause before each chunk, working after each; bytes that came."""
    left = chunks

    async def receive() -> dict[str, Any]:
        nonlocal left
        await asyncio.sleep(pause)
        left -= 1
        return {"type": "http.request", "body": b"x", "more_body": left > 0}

    body, count = server._Body(receive), 0
    while (chunk := await body.next()) is not None:
        count += len(chunk)
        await asyncio.sleep(work)
    return count


def test_work_between_chunks_is_not_the_clients_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "BODY_PAUSE", 2.0)
    assert asyncio.run(_read(0.0, 0.5)) == 5


def test_pauses_of_the_client_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "BODY_PAUSE", 0.5)
    with pytest.raises(Refusal) as caught:
        asyncio.run(_read(0.2, 0.0))
    assert caught.value.status == 408
