"""Uploads by the real hf_xet against a server, and what the protocol's endpoints refuse."""

import hashlib
import http.client
import json
import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import hf_xet
import pytest

from hub.local.process import Running, start
from tests.hub.local.test_xet_format import A, B, chunk, shard

USERS = [
    {
        "name": "alice",
        "tokens": [{"token": "hf_alice_write", "role": "write"}, {"token": "hf_alice_read", "role": "read"}],
    },
    {"name": "bob", "tokens": [{"token": "hf_bob_write", "role": "write"}]},
]
RANDOM = random.Random(3)
DATA = RANDOM.randbytes(900_000)
TEXT = b"a pistol, a skull and a pill\n" * 60_000


class Hub:
    """A running server, its folder, and requests to it."""

    def __init__(self, root: Path, running: Running) -> None:
        self.root, self.running = root, running

    def ask(
        self, method: str, path: str, token: str | None = None, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        parts = urlsplit(path if path.startswith("http") else self.running.url + path)
        connection = http.client.HTTPConnection(parts.netloc, timeout=60)
        sent = {"Authorization": f"Bearer {token}"} if token else {}
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        connection.request(
            method, parts.path + (f"?{parts.query}" if parts.query else ""), data, sent | (headers or {})
        )
        response = connection.getresponse()
        raw = response.read()
        connection.close()
        return response.status, json.loads(raw) if raw else None

    def make(self, name: str, **options: Any) -> None:
        assert (
            self.ask("POST", "/api/repos/create", "hf_alice_write", {"name": name, "type": "dataset", **options})[0]
            == 200
        )

    def token(self, name: str, user: str = "hf_alice_write") -> dict[str, Any]:
        status, told = self.ask("GET", f"/api/datasets/alice/{name}/xet-write-token/main", user)
        assert status == 200, told
        return told

    def stored(self, data: bytes) -> bool:
        oid = hashlib.sha256(data).hexdigest()
        path = self.root / "lfs" / oid[:2] / oid[2:4] / oid
        return path.exists() and path.read_bytes() == data

    def claims(self, data: bytes) -> int:
        with sqlite3.connect(self.root / "hub.sqlite") as records:
            sql = "SELECT count(*) FROM lfs_claims WHERE oid = ?"
            return int(records.execute(sql, (hashlib.sha256(data).hexdigest(),)).fetchone()[0])

    def xorbs(self) -> list[Path]:
        return sorted(p for p in (self.root / "xet").glob("*/*"))


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    root = tmp_path_factory.mktemp("hub")
    with start(root, users=USERS) as running:
        found = Hub(root, running)
        found.make("data")
        found.make("other")
        found.make("hidden", visibility="private")
        yield found


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def upload(hub: Hub, name: str, *files: bytes, user: str = "hf_alice_write") -> list[str]:
    route = f"{hub.running.url}/api/datasets/alice/{name}/xet-write-token/main"
    session = hf_xet.XetSession()
    with session.new_upload_commit(
        token_refresh_url=route, token_refresh_headers={"authorization": f"Bearer {user}"}, custom_headers={}
    ) as commit:
        handles = [commit.start_upload_bytes(data, sha256=hf_xet.COMPUTE_SHA256) for data in files]
    return [handle.result().xet_info.sha256 for handle in handles]


def test_files_come_together_and_no_xorb_stays(hub: Hub, home: Path) -> None:
    files = [DATA, TEXT, b"", b"x"]
    assert upload(hub, "data", *files) == [hashlib.sha256(data).hexdigest() for data in files]
    assert all(hub.stored(data) and hub.claims(data) == 1 for data in files)
    assert hub.xorbs() == []


def test_a_client_that_sends_a_part_only_gets_its_file_whole(hub: Hub, home: Path) -> None:
    """The client names chunks of an earlier upload, whose xorb is gone: they are read from the LFS store."""
    first, more = RANDOM.randbytes(900_000), RANDOM.randbytes(200_000)
    upload(hub, "data", first)
    upload(hub, "other", first + more, more + first)
    assert hub.stored(first + more) and hub.stored(more + first) and hub.claims(first + more) == 1
    assert hub.xorbs() == []


def test_users_who_share_a_cache_do_not_share_xorbs(hub: Hub, home: Path) -> None:
    data = RANDOM.randbytes(500_000)
    upload(hub, "data", data)
    upload(hub, "data", data + b"bob", user="hf_bob_write")
    assert hub.stored(data + b"bob")


def test_a_client_that_counts_on_what_is_gone_is_told_and_succeeds_the_second_time(hub: Hub, home: Path) -> None:
    data = RANDOM.randbytes(500_000)
    upload(hub, "data", data)
    with sqlite3.connect(hub.root / "hub.sqlite") as records:
        records.execute("DELETE FROM xet_ranges")
    with pytest.raises(ConnectionError, match="400"):
        upload(hub, "data", data + b"more")
    assert not hub.stored(data + b"more")
    upload(hub, "data", data + b"more")
    assert hub.stored(data + b"more")


def test_tokens_are_for_those_who_may_open_a_pull_request(hub: Hub) -> None:
    route = "/api/datasets/alice/{}/xet-write-token/main"
    assert hub.ask("GET", route.format("data"))[0] == 401
    assert hub.ask("GET", route.format("data"), "hf_alice_read")[0] == 403
    assert hub.ask("GET", route.format("data"), "hf_bob_write")[0] == 200
    assert hub.ask("GET", route.format("hidden"), "hf_bob_write") == hub.ask(
        "GET", route.format("none"), "hf_bob_write"
    )
    assert hub.ask("GET", route.format("hidden"), "hf_bob_write")[0] == 404
    for revision in ("None", "refs%2Fpr%2F1"):
        assert (
            hub.ask("GET", f"/api/datasets/alice/data/xet-write-token/{revision}?create_pr=1", "hf_bob_write")[0] == 200
        )


def test_a_token_opens_its_place_only(hub: Hub) -> None:
    alice, bob, before = hub.token("data"), hub.token("data", "hf_bob_write"), hub.xorbs()
    assert alice["casUrl"] != bob["casUrl"]
    body, xorb = chunk(b"skull"), "0" * 64
    assert hub.ask("POST", f"{bob['casUrl']}/v1/xorbs/default/{xorb}", alice["accessToken"], body)[0] == 403
    assert hub.ask("POST", f"{alice['casUrl']}/v1/xorbs/default/{xorb}", None, body)[0] == 401
    assert hub.ask("POST", f"{alice['casUrl']}/v1/xorbs/default/{xorb}", "hf_alice_write", body)[0] == 401
    changed = alice["accessToken"][:-1] + ("0" if alice["accessToken"][-1] != "0" else "1")
    assert hub.ask("POST", f"{alice['casUrl']}/v1/shards", changed, shard())[0] == 401
    assert hub.xorbs() == before


def test_a_token_dies_with_its_repository_and_with_the_right(hub: Hub) -> None:
    hub.make("gone")
    token = hub.token("gone")
    hub.ask("DELETE", "/api/repos/delete", "hf_alice_write", {"name": "gone", "type": "dataset"})
    assert hub.ask("POST", f"{token['casUrl']}/v1/shards", token["accessToken"], shard())[0] == 404
    hub.make("closing")
    token = hub.token("closing", "hf_bob_write")
    assert hub.ask("PUT", "/api/datasets/alice/closing/settings", "hf_alice_write", {"visibility": "private"})[0] == 200
    assert hub.ask("POST", f"{token['casUrl']}/v1/shards", token["accessToken"], shard())[0] == 404


def sent(hub: Hub, *, name: str = "data", user: str = "hf_alice_write", xorbs: dict[bytes, bytes], body: bytes) -> int:
    from hub.local.xet_format import hash_text

    token = hub.token(name, user)
    for key, data in xorbs.items():
        assert (
            hub.ask("POST", f"{token['casUrl']}/v1/xorbs/default/{hash_text(key)}", token["accessToken"], data)[0]
            == 200
        )
    return hub.ask("POST", f"{token['casUrl']}/v1/shards", token["accessToken"], body)[0]


def raw(data: bytes) -> bytes:
    """A sha256 as a shard spells it: its hex digits read as four little-endian numbers."""
    digits = hashlib.sha256(data).hexdigest()
    return b"".join(bytes.fromhex(digits[at : at + 16])[::-1] for at in range(0, 64, 16))


def test_a_file_with_another_checksum_is_not_stored(hub: Hub) -> None:
    key = b"\1" * 32
    wrong = shard((raw(b"pistol"), [(key, 0, 1, 5)]))
    assert sent(hub, xorbs={key: chunk(b"skull")}, body=wrong) == 400
    assert not hub.stored(b"pistol") and not hub.stored(b"skull") and not list((hub.root / "tmp").iterdir())
    assert sent(hub, xorbs={}, body=shard((raw(b"skull"), [(key, 0, 1, 5)]))) == 200
    assert hub.stored(b"skull")


def test_nobody_builds_a_file_from_another_users_xorb(hub: Hub) -> None:
    key = b"\2" * 32
    assert sent(hub, name="hidden", xorbs={key: chunk(b"secret pill") + chunk(b"rest")}, body=shard()) == 200
    part = shard((raw(b"secret pill"), [(key, 0, 1, 11)]))
    assert sent(hub, user="hf_bob_write", xorbs={}, body=part) == 400
    assert sent(hub, name="hidden", xorbs={}, body=part) == 200
    assert sent(hub, user="hf_bob_write", xorbs={}, body=part) == 400
    assert hub.claims(b"secret pill") == 1
    # A file of that checksum from his own bytes is his to store.
    assert sent(hub, user="hf_bob_write", xorbs={key: chunk(b"secret pill")}, body=part) == 200
    assert hub.claims(b"secret pill") == 2


def test_a_xorb_goes_when_all_of_its_chunks_are_stored(hub: Hub) -> None:
    key = b"\3" * 32
    xorb = chunk(b"one ") + chunk(b"two ", 1) + chunk(b"three")
    before = hub.xorbs()
    assert sent(hub, xorbs={key: xorb}, body=shard((raw(b"two three"), [(key, 1, 3, 9)]))) == 200
    assert len(hub.xorbs()) == len(before) + 1
    assert sent(hub, xorbs={}, body=shard((raw(b"one two "), [(key, 0, 2, 8)]))) == 200
    assert hub.xorbs() == before
    # Chunks 0 to 3 lie in two objects now.
    whole = shard((raw(b"one two threeone "), [(key, 0, 3, 13), (key, 0, 1, 4)]))
    assert sent(hub, xorbs={}, body=whole) == 200
    assert hub.stored(b"one two threeone ")


REFUSED = {
    "no shard": b"no shard",
    "cut off": shard((A, [(B, 0, 1, 5)]))[:-20],
    "unknown xorb": shard((A, [(A, 0, 1, 5)])),
    "wrong length": shard((raw(b"many skulls"), [(b"\4" * 32, 0, 1, 6)])),
    "past the xorb": shard((raw(b"many skulls"), [(b"\4" * 32, 0, 2, 5)])),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_wrong_shard_is_answered_with_400(hub: Hub, name: str) -> None:
    assert sent(hub, xorbs={b"\4" * 32: chunk(b"skull")}, body=REFUSED[name]) == 400


def test_wrong_xorbs_are_refused_and_leave_nothing(hub: Hub) -> None:
    token, before = hub.token("data"), hub.xorbs()
    url = f"{token['casUrl']}/v1/xorbs/default/"
    assert hub.ask("POST", url + "5" * 64, token["accessToken"], b"no xorb at all, but long enough")[0] == 400
    assert hub.ask("POST", url + "G" * 64, token["accessToken"], chunk(b"x"))[0] == 400
    assert hub.ask("POST", url + "..%2F..%2Fhub.sqlite", token["accessToken"], chunk(b"x"))[0] == 400
    assert hub.ask("POST", url + "5" * 64, token["accessToken"], b"", {"Content-Length": str(80 << 20)})[0] == 413
    assert hub.xorbs() == before


def test_what_is_not_served_is_a_404_so_that_clients_fall_back(hub: Hub) -> None:
    token = hub.token("data")
    for method, path in (
        ("GET", "v1/chunks/default/" + "0" * 64),
        ("POST", "v2/shards"),
        ("POST", "v1/xorb-grants/default/0"),
    ):
        assert hub.ask(method, f"{token['casUrl']}/{path}", None)[0] == 404
