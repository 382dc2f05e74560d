"""LFS pointers: the small text that stands in git for an object of the LFS store (git-lfs, docs/spec.md)."""

import re
from dataclasses import dataclass

MAX_POINTER = 1024  # bytes; the specification's bound
_POINTER = re.compile(
    rb"version https://git-lfs\.github\.com/spec/v1\n(?:ext-[^\n]*\n)*"
    rb"oid sha256:([0-9a-f]{64})\nsize (0|[1-9][0-9]{0,17})\n?"
)


@dataclass(frozen=True)
class Pointer:
    """An object of the LFS store: its sha256 and its size in bytes; `length` is the pointer's own."""

    oid: str
    size: int
    length: int


def read_pointer(data: bytes) -> Pointer | None:
    """The pointer that `data` is, or None."""
    match = _POINTER.fullmatch(data) if len(data) <= MAX_POINTER else None
    return Pointer(match[1].decode(), int(match[2]), len(data)) if match else None


def pointer_text(oid: str, size: int) -> bytes:
    """The pointer to an object."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size}\n".encode()
