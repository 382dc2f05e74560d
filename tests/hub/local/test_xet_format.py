"""Xorbs and shards: what a client packs comes back, and no bytes make the reader crash or take memory."""

import io
import random
import struct
import tracemalloc

import lz4.frame
import pytest

from hub.local import xet_format
from hub.local.xet_format import Segment, XetFormatError, hash_text, read_index, read_shard, unpack

A, B = bytes(range(32)), bytes(range(32, 64))
LAST = b"\xff" * 32 + bytes(16)


def chunk(
    data: bytes, scheme: int = 0, length: int | None = None, packed: bytes | None = None, version: int = 0
) -> bytes:
    grouped = b"".join(data[group::4] for group in range(4))
    if packed is None:
        packed = {0: data, 1: lz4.frame.compress(data), 2: lz4.frame.compress(grouped)}[scheme]
    stated = len(data) if length is None else length
    return (
        bytes([version]) + len(packed).to_bytes(3, "little") + bytes([scheme]) + stated.to_bytes(3, "little") + packed
    )


def shard(*files: tuple[bytes, list[tuple[bytes, int, int, int]]], flags: int = 3 << 30, end: bytes = LAST) -> bytes:
    out = b"HFRepoMetaData\0".ljust(32, b"U") + struct.pack("<QQ", 2, 0)
    for sha, segments in files:
        out += A + struct.pack("<IIQ", flags, len(segments), 0)
        for xorb, start, stop, length in segments:
            out += xorb + struct.pack("<4I", 0, length, start, stop)
        if flags >> 31:
            out += bytes(48) * len(segments)
        if flags >> 30 & 1:
            out += sha + bytes(16)
    return out + end


@pytest.mark.parametrize("scheme", [0, 1, 2])
@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 10, 4099, 131072])
def test_what_was_packed_comes_back(scheme: int, length: int) -> None:
    data = random.Random(length).randbytes(length // 2) + bytes(length - length // 2)
    xorb = io.BytesIO(chunk(b"before") + chunk(data, scheme) + b"XETBLOB" + bytes(40))
    index = read_index(xorb)
    assert [c.length for c in index] == [6, length]
    assert list(unpack(xorb, index)) == [b"before", data]


def test_a_shard_tells_files_and_their_segments() -> None:
    data = shard((A, [(B, 0, 2, 70000), (A, 5, 6, 9)]), (B, []))
    one, empty = read_shard(data)
    assert one.sha256 == hash_text(A) and one.size == 70009
    assert one.segments == [Segment(hash_text(B), 0, 2, 70000), Segment(hash_text(A), 5, 6, 9)]
    assert empty.sha256 == hash_text(B) and empty.size == 0
    assert read_shard(shard((A, [(B, 0, 1, 5)]), flags=1 << 30))[0].segments == [Segment(hash_text(B), 0, 1, 5)]


def test_a_hash_is_spelt_as_four_numbers() -> None:
    assert hash_text(A) == "07060504030201000f0e0d0c0b0a090817161514131211101f1e1d1c1b1a1918"


WRONG_XORBS = {
    "nothing": b"",
    "no chunks": b"XETBLOB" + bytes(50),
    "header cut off": chunk(b"one") + b"\0\0",
    "chunk cut off": chunk(b"0123456789")[:-1],
    "version": chunk(b"one", version=1),
    "scheme": chunk(b"one", packed=b"one")[:4] + b"\x03" + chunk(b"one")[5:],
    "empty": chunk(b""),
    "too long": chunk(b"x", scheme=1, length=131073),
    "packed too long": chunk(b"x", packed=bytes(262145)),
    "too many chunks": chunk(b"x") * 8193,
}


@pytest.mark.parametrize("name", WRONG_XORBS)
def test_a_wrong_xorb_is_refused_by_its_headers(name: str) -> None:
    with pytest.raises(XetFormatError):
        read_index(io.BytesIO(WRONG_XORBS[name]))


WRONG_CHUNKS = {
    "raw longer": chunk(b"four", length=3),
    "raw shorter": chunk(b"four", length=5),
    "lz4 longer": chunk(b"four" * 100, scheme=1, length=399),
    "lz4 shorter": chunk(b"four" * 100, scheme=1, length=401),
    "no lz4": chunk(b"four", scheme=1, packed=b"this is no frame"),
    "lz4 cut off": chunk(b"four", scheme=1, packed=lz4.frame.compress(b"four")[:-2]),
    "bytes after the frame": chunk(b"four", scheme=2, packed=lz4.frame.compress(b"four") + b"more"),
    "a bomb": chunk(b"x", scheme=1, length=131072, packed=lz4.frame.compress(bytes(30_000_000))),
}


@pytest.mark.parametrize("name", WRONG_CHUNKS)
def test_a_wrong_chunk_is_refused_when_unpacked(name: str) -> None:
    xorb = io.BytesIO(WRONG_CHUNKS[name])
    with pytest.raises(XetFormatError):
        list(unpack(xorb, read_index(xorb)))


def test_a_bomb_takes_no_memory() -> None:
    xorb = io.BytesIO(WRONG_CHUNKS["a bomb"])
    index = read_index(xorb)
    tracemalloc.start()
    with pytest.raises(XetFormatError):
        list(unpack(xorb, index))
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()


WRONG_SHARDS = {
    "nothing": b"",
    "no header": b"x" * 200,
    "no end": shard((A, [(B, 0, 1, 5)]), end=b""),
    "end cut off": shard((A, [(B, 0, 1, 5)]))[:-1],
    "no sha256": shard((A, [(B, 0, 1, 5)]), flags=1 << 31),
    "segment of nothing": shard((A, [(B, 1, 1, 0)])),
    "segment backwards": shard((A, [(B, 2, 1, 5)])),
    "segment of no bytes": shard((A, [(B, 0, 1, 0)])),
    "segment past a xorb": shard((A, [(B, 0, 8193, 5)])),
    "segment of too many bytes": shard((A, [(B, 0, 1, 131073)])),
    "too many segments": shard(end=A + struct.pack("<IIQ", 3 << 30, 2**32 - 1, 0) + LAST),
}


@pytest.mark.parametrize("name", WRONG_SHARDS)
def test_a_wrong_shard_is_refused(name: str) -> None:
    with pytest.raises(XetFormatError):
        read_shard(WRONG_SHARDS[name])


def test_a_shard_past_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xet_format, "SHARD_BYTES", 100)
    with pytest.raises(XetFormatError, match="limit"):
        read_shard(bytes(101))


def test_random_damage_never_ends_in_another_error() -> None:
    """5,000 damaged xorbs and shards: each is read or refused."""
    seed = random.Random(5)
    text = b"pistol skull pill " * 200
    xorb = chunk(text, 1) + chunk(text, 2) + chunk(text) + chunk(text[:7], 1)
    whole = shard((A, [(B, 0, 2, 7000), (A, 5, 6, 9)]), (B, [(A, 0, 1, 1)]))
    refused = 0
    for _ in range(2500):
        for kind, data in (("xorb", bytearray(xorb)), ("shard", bytearray(whole))):
            for _ in range(seed.randint(1, 4)):
                data[seed.randrange(len(data))] = seed.randrange(256)
            data = data[: seed.randint(0, len(data))] if seed.random() < 0.3 else data
            try:
                if kind == "xorb":
                    file = io.BytesIO(data)
                    list(unpack(file, read_index(file)))
                else:
                    read_shard(bytes(data))
            except XetFormatError:
                refused += 1
    assert 1000 < refused < 5000


def test_a_xorb_of_64_mib_of_noise_is_taken_with_its_headers() -> None:
    # Headers and footer come on top of the 64 MiB that the chunks may hold.
    one = chunk(random.Random(0).randbytes(xet_format.CHUNK_BYTES), 0)
    full = io.BytesIO(one * 512)
    assert len(full.getvalue()) > 64 << 20
    assert len(read_index(full)) == 512
