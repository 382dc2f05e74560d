"""The two binary formats of a Xet upload: xorbs (packed chunks of files) and shards (which chunks make up which file).

Layouts follow the public specification (https://huggingface.co/docs/xet: "Xorb Formation & Serialization Format" and
"MDB Shard File Format Specification"). Everything here reads bytes that anybody may have sent: each length is checked
before memory is taken for it, and decompression stops at the length that a chunk's header states. Where bytes are kept
and who may use them is `xet.py`'s.
"""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

# Limits of the specification, in bytes: chunking cuts at 128 KiB at the latest; a xorb and a shard end at 64 MiB. For a
# xorb that is what its chunks hold: their headers and the footer, some 50 bytes a chunk, come on top.
CHUNK_BYTES = 128 * 1024
XORB_BYTES = 65 * 1024 * 1024
SHARD_BYTES = 64 * 1024 * 1024
XORB_CHUNKS = 8 * 1024

_SHARD_TAG = b"HFRepoMetaData\0"
_SHARD_HEADER = 48  # tag of 32 bytes, version u64, footer length u64
_ENTRY = 48  # every record of a shard has this length
_LAST = b"\xff" * 32  # the hash that ends a section
_WITH_VERIFICATION = 1 << 31
_WITH_SHA256 = 1 << 30
_CHUNK_HEADER = 8  # version u8, packed length u24, scheme u8, length u24
_XORB_FOOTER = b"XETBLOB"  # stands where the next chunk's header would
_RAW, _LZ4, _GROUPED_LZ4 = 0, 1, 2


class XetFormatError(ValueError):
    """Bytes that are no xorb or shard, or go past a limit; the message says where, never what the bytes hold."""


@dataclass(frozen=True)
class Segment:
    """Chunks `start` to `end` (exclusive) of the xorb `xorb` (64 hex digits), `length` bytes when unpacked."""

    xorb: str
    start: int
    end: int
    length: int


@dataclass
class XetFile:
    """One file of a shard: its sha256 (64 hex digits) and, in order, the segments that it is made of."""

    sha256: str
    segments: list[Segment] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Length of the file in bytes."""
        return sum(segment.length for segment in self.segments)


@dataclass(frozen=True)
class Chunk:
    """Where a chunk lies in a xorb: offset of its packed bytes, their number, the scheme, the unpacked length."""

    offset: int
    packed: int
    scheme: int
    length: int


def hash_text(raw: bytes) -> str:
    """Spells 32 bytes of a Xet hash as text: four little-endian numbers of 64 bits in hex."""
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", raw))


def read_shard(data: bytes) -> list[XetFile]:
    """Reads which files a shard registers.

    Args:
        data (`bytes`): a shard as uploaded; its second section (what xorbs hold) is not needed and not read.

    Returns:
        `list[XetFile]`: the files in the shard's order.

    Raises:
        `XetFormatError`: no shard, cut off, an empty segment, or a file without sha256.
    """
    if len(data) > SHARD_BYTES:
        raise XetFormatError(f"a shard of {len(data)} bytes; the limit is {SHARD_BYTES}")
    if len(data) < _SHARD_HEADER or not data.startswith(_SHARD_TAG):
        raise XetFormatError("no shard: it does not begin with a shard's header")
    files: list[XetFile] = []
    at = _SHARD_HEADER
    while True:
        head = _entry(data, at)
        at += _ENTRY
        if head[:32] == _LAST:
            return files
        flags, number = struct.unpack_from("<II", head, 32)
        follow = number * (2 if flags & _WITH_VERIFICATION else 1) + (1 if flags & _WITH_SHA256 else 0)
        if at + follow * _ENTRY > len(data):
            raise XetFormatError(f"file {len(files)} states {number} segments, more than the shard holds")
        if not flags & _WITH_SHA256:
            raise XetFormatError(f"file {len(files)} has no sha256, by which repositories name files")
        # The sha256 is the last record; it is spelt like any Xet hash, as numbers, and so are its bytes.
        file = XetFile(hash_text(data[at + (follow - 1) * _ENTRY :][:32]))
        for index in range(number):
            raw = data[at + index * _ENTRY : at + (index + 1) * _ENTRY]
            _, length, start, end = struct.unpack_from("<4I", raw, 32)
            if not start < end <= XORB_CHUNKS or not 0 < length <= (end - start) * CHUNK_BYTES:
                raise XetFormatError(f"segment {index} of file {len(files)} is empty or longer than a xorb can be")
            file.segments.append(Segment(hash_text(raw[:32]), start, end, length))
        files.append(file)
        at += follow * _ENTRY


def _entry(data: bytes, at: int) -> bytes:
    if at + _ENTRY > len(data):
        raise XetFormatError("a shard that ends before its last file")
    return data[at : at + _ENTRY]


def read_index(xorb: BinaryIO) -> list[Chunk]:
    """Reads where the chunks of a xorb lie, by their headers alone.

    Args:
        xorb (`BinaryIO`): an open file that can be sought.

    Returns:
        `list[Chunk]`: 1 to 8,192 chunks in order.

    Raises:
        `XetFormatError`: no xorb, cut off, an unknown scheme, or a length over the limits.
    """
    total = xorb.seek(0, os.SEEK_END)
    if total > XORB_BYTES:
        raise XetFormatError(f"a xorb of {total} bytes; the limit is {XORB_BYTES}")
    chunks: list[Chunk] = []
    at = 0
    while at < total:
        xorb.seek(at)
        head = xorb.read(_CHUNK_HEADER)
        if head.startswith(_XORB_FOOTER):
            break
        if len(head) < _CHUNK_HEADER:
            raise XetFormatError("a xorb that ends inside a chunk's header")
        version, scheme = head[0], head[4]
        packed, length = int.from_bytes(head[1:4], "little"), int.from_bytes(head[5:8], "little")
        at += _CHUNK_HEADER
        if version != 0 or scheme not in (_RAW, _LZ4, _GROUPED_LZ4):
            raise XetFormatError(f"chunk {len(chunks)} has version {version} and scheme {scheme}; known: 0 and 0 to 2")
        if not 0 < length <= CHUNK_BYTES or not 0 < packed <= 2 * CHUNK_BYTES or at + packed > total:
            raise XetFormatError(f"chunk {len(chunks)} is empty, cut off or over {CHUNK_BYTES} bytes")
        if len(chunks) == XORB_CHUNKS:
            raise XetFormatError(f"a xorb of more than {XORB_CHUNKS} chunks")
        chunks.append(Chunk(at, packed, scheme, length))
        at += packed
    if not chunks:
        raise XetFormatError("a xorb without chunks")
    return chunks


def unpack(xorb: BinaryIO, chunks: list[Chunk]) -> Iterator[bytes]:
    """Yields the bytes of `chunks` one by one, each exactly as long as its header states.

    Raises:
        `XetFormatError`: a chunk that unpacks to another length, or not at all.
    """
    for chunk in chunks:
        xorb.seek(chunk.offset)
        packed = xorb.read(chunk.packed)
        if chunk.scheme == _RAW:
            data = packed
        else:
            data = _lz4(packed, chunk.length)
            if chunk.scheme == _GROUPED_LZ4:
                data = _regroup(data)
        if len(packed) != chunk.packed or len(data) != chunk.length:
            raise XetFormatError(f"a chunk of {chunk.length} bytes by its header unpacks to another length")
        yield data


def _lz4(packed: bytes, length: int) -> bytes:
    import lz4.frame

    frame = lz4.frame.LZ4FrameDecompressor()
    try:
        # One byte more than stated shows a frame that goes on, and is all that a bomb can make here.
        data: bytes = frame.decompress(packed, max_length=length + 1)
    except (RuntimeError, EOFError, ValueError) as error:
        raise XetFormatError("a chunk that is no LZ4 frame") from error
    if not frame.eof or frame.unused_data:
        raise XetFormatError("a chunk whose LZ4 frame does not end where the chunk does")
    return data


def _regroup(data: bytes) -> bytes:
    """Turns byte groups back: first all bytes at 0, 4, 8 .., then those at 1, 5, 9 .., then 2 .., then 3 .."""
    out = bytearray(len(data))
    at = 0
    for group in range(4):
        number = (len(data) - group + 3) // 4
        out[group::4] = data[at : at + number]
        at += number
    return bytes(out)
