"""What the store of xorbs keeps, for how long, and what its users' clients are told when something is dropped."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hub.local.errors import Refusal
from hub.local.hub import LocalHub
from hub.local.xet_format import Segment, XetFormatError
from hub.local.xet_store import UNUSED_SECONDS, UnknownXorb, XetStore
from tests.hub.local.test_xet_format import chunk

XORB = "0" * 64
OID = "ab" * 32
BYTES = chunk(b"one ") + chunk(b"two ", 1) + chunk(b"three")


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LocalHub]:
    found = LocalHub(tmp_path)
    yield found
    found.close()


def read(store: XetStore, *segments: Segment, user: str = "alice") -> bytes:
    with store.reader(user) as pieces:
        return b"".join(piece for segment in segments for piece in pieces(segment))


def store_object(hub: LocalHub, data: bytes) -> None:
    path = hub.lfs.path(OID)
    path.parent.mkdir(parents=True)
    path.write_bytes(data)


def test_a_segment_is_read_from_its_xorb_or_from_objects(hub: LocalHub) -> None:
    store, whole = hub.xet, Segment(XORB, 0, 3, 13)
    assert store.receive("alice", XORB, [BYTES[:7], BYTES[7:]])
    assert not store.receive("alice", XORB, [BYTES])
    assert read(store, whole, Segment(XORB, 1, 2, 4)) == b"one two threetwo "
    store_object(hub, b"threeone two ")
    store.note([(OID, [Segment(XORB, 2, 3, 5), Segment(XORB, 0, 2, 8)])], "alice")
    assert not list((hub.root / "xet").glob("*/*"))
    assert read(store, whole) == b"one two three"
    with pytest.raises(UnknownXorb):
        read(store, whole, user="bob")
    with pytest.raises(XetFormatError):
        read(store, Segment(XORB, 0, 3, 12))
    with pytest.raises(UnknownXorb):
        read(store, Segment(XORB, 0, 4, 13))


def test_a_xorb_stays_until_its_last_chunk_is_in_an_object(hub: LocalHub) -> None:
    store = hub.xet
    store.receive("alice", XORB, [BYTES])
    store_object(hub, b"two threeone ")
    store.note([(OID, [Segment(XORB, 1, 3, 9)])], "alice")
    assert list((hub.root / "xet").glob("*/*"))
    store.note([(OID, [Segment(XORB, 1, 3, 9), Segment(XORB, 0, 1, 4)])], "alice")
    assert not list((hub.root / "xet").glob("*/*"))


def test_unused_xorbs_go_after_an_hour_and_the_place_with_them(hub: LocalHub) -> None:
    store = hub.xet
    store.receive("alice", XORB, [BYTES])
    places = {user: store.place(user) for user in ("alice", "bob")}
    now = time.time()
    assert store.drop_unused(now) == 0 and store.place("alice") == places["alice"]
    folder = next((hub.root / "xet").iterdir())
    os.utime(folder, (now - UNUSED_SECONDS - 1,) * 2)
    assert store.drop_unused(now + 1) == 0, "it looks once in five minutes"
    assert store.drop_unused(now + 600) == 1
    assert store.place("alice") != places["alice"] and store.place("bob") == places["bob"]
    assert not folder.exists()


def test_what_pointed_to_a_lost_object_is_forgotten(hub: LocalHub) -> None:
    store = hub.xet
    store.receive("alice", XORB, [BYTES])
    store_object(hub, b"one two three")
    store.note([(OID, [Segment(XORB, 0, 3, 13)])], "alice")
    place = store.place("alice")
    store.forget_objects(["cd" * 32])
    assert store.place("alice") == place and read(store, Segment(XORB, 0, 1, 4)) == b"one "
    store.forget_objects([OID])
    assert store.place("alice") != place
    with pytest.raises(UnknownXorb):
        read(store, Segment(XORB, 0, 1, 4))


def test_an_object_that_is_gone_or_too_short_ends_in_the_same_error(hub: LocalHub) -> None:
    store = hub.xet
    store.receive("alice", XORB, [BYTES])
    store.note([(OID, [Segment(XORB, 0, 3, 13)])], "alice")
    for data in (None, b"one"):
        if data is not None:
            store_object(hub, data)
        with pytest.raises(UnknownXorb):
            read(store, Segment(XORB, 0, 3, 13))


def test_what_is_no_xorb_is_refused_and_leaves_nothing(hub: LocalHub) -> None:
    with pytest.raises(Refusal, match=XORB):
        hub.xet.receive("alice", XORB, [b"no xorb, whatever its length may be"])
    assert not list((hub.root / "xet").glob("*/*")) and not list((hub.root / "xet").glob("*/.*"))


def test_many_xorbs_are_read_with_few_open_files(hub: LocalHub) -> None:
    names = [f"{number:064x}" for number in range(100)]
    for name in names:
        hub.xet.receive("alice", name, [chunk(name.encode())])
    with hub.xet.reader("alice") as pieces:
        before = len(os.listdir("/proc/self/fd"))
        for name in [*names, *reversed(names)]:
            assert b"".join(pieces(Segment(name, 0, 1, 64))) == name.encode()
        assert len(os.listdir("/proc/self/fd")) <= before + 16
