"""Prompts as sets of word 2-grams: one by one, and by the million in arrays on disk.

In arrays a 2-gram is a 64-bit hash, so sets compare as numbers do: that any two of 10^7 different 2-grams have the same
hash has a probability of 3e-6."""

import hashlib
import mmap
import os
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np

from dataset_builder.keys import normalise, split_words

Items = TypeVar("Items", Sequence[str], np.ndarray)

# Marks for a prompt's start and end, odd multipliers that mix two words' hashes (golden ratio, and splitmix64's), and a
# bit that keeps hashes away from 0, which fills up rows of unequal length.
_START, _END = np.uint64(0x243F6A8885A308D3), np.uint64(0x13198A2E03707344)
_FIRST, _SECOND = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9)
_NOT_ZERO = np.uint64(1)
_MAP_WORDS = 4
# Pairs that are compared at a time.
_PAIRS = 16_384


def word_pairs(prompt: str) -> frozenset[str]:
    """The word 2-grams of a normalised prompt, with marks for its start and end."""
    words = ["<", *split_words(normalise(prompt)), ">"]
    return frozenset(f"{first} {second}" for first, second in pairwise(words))


def jaccard(first: frozenset[str], second: frozenset[str]) -> float:
    """Size of the intersection over size of the union."""
    return len(first & second) / len(first | second)


class Shingles:
    """The 2-gram sets of many prompts, numbered in the order in which they are added, in files of a folder.

    Args:
        folder (`Path`): where the files go, 8 bytes a word and 60 bytes a prompt; it must be there and be empty.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, BinaryIO] = {
            name: (folder / name).open("wb") for name in ("texts", "hashes", "sizes", "maps")
        }

    def add(self, prompts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Add `prompts`; returns their 2-gram hashes, uint64 (2-grams,), one prompt after the other, and the place of
        each prompt's first one, int64 (prompts,). A prompt has at least one 2-gram."""
        if not len(prompts):
            return np.zeros(0, np.uint64), np.zeros(0, np.int64)
        texts = [normalise(prompt) for prompt in prompts]
        digests = b"".join(hashlib.blake2b(text.encode("utf8"), digest_size=16).digest() for text in texts)
        hashes, starts = _hashes(texts)
        sizes = np.diff(starts, append=len(hashes)).astype(np.uint32)
        # The top eight bits of a hash name one of the map's 256.
        bits = hashes >> np.uint64(56)
        single = np.uint64(1) << (bits & np.uint64(63))
        words = [np.where(bits >> np.uint64(6) == word, single, np.uint64(0)) for word in range(_MAP_WORDS)]
        maps = np.stack([np.bitwise_or.reduceat(word, starts) for word in words], axis=1)
        self._files["texts"].write(digests)
        for name, values in (("hashes", hashes), ("sizes", sizes), ("maps", maps)):
            self._files[name].write(values.tobytes())
        return hashes, starts

    def end_adding(self) -> None:
        """End the adding: from here on sets can be read and compared."""
        for file in self._files.values():
            file.close()
        self._mapped: list[mmap.mmap] = []
        self.texts = self._read("texts", np.uint64, 2)
        self.sizes = self._read("sizes", np.uint32)
        self._files["hashes"] = (self._folder / "hashes").open("rb")
        self._maps = self._read("maps", np.uint64, _MAP_WORDS)
        self._starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.sizes, dtype=np.int64)])

    def close(self) -> None:
        """Close the files; the sets can no longer be read."""
        for file in self._files.values():
            file.close()

    def free(self) -> None:
        """Let go of the pages of the files that have been read: they count as this process's memory until then."""
        for mapped in self._mapped:
            mapped.madvise(mmap.MADV_DONTNEED)

    def _read(self, name: str, kind: type, columns: int | None = None) -> np.ndarray:
        path = self._folder / name
        if path.stat().st_size == 0:
            return np.zeros((0, columns) if columns else 0, kind)
        with path.open("rb") as file:
            self._mapped.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        values: np.ndarray = np.frombuffer(self._mapped[-1], kind)
        return values.reshape(-1, columns) if columns else values

    def of(self, members: np.ndarray) -> np.ndarray:
        """The hashes of `members`' sets, uint64 (members, size of the largest set), filled up with 0, which is none."""
        sizes = self.sizes[members].astype(np.int64)
        found = np.zeros((len(members), int(sizes.max(initial=1))), np.uint64)
        # Not through a map of the file: around each page that is touched the kernel maps fifteen more, and sets that
        # lie all over it would soon hold the whole file in memory.
        into, file = found.reshape(-1).view(np.uint8).data, self._files["hashes"].fileno()
        places = range(0, found.nbytes, found.shape[1] * 8)
        for place, start, size in zip(places, (self._starts[members] * 8).tolist(), (sizes * 8).tolist(), strict=True):
            os.preadv(file, [into[place : place + size]], start)
        return found

    def similar(self, first: np.ndarray, second: np.ndarray, threshold: float) -> np.ndarray:
        """For each pair of numbers, int64 (pairs,) each, whether the sets' Jaccard similarity is `threshold` or more.

        Sets of n and m members that similar differ in at most (1 - t) / (1 + t) * (n + m) members, and the bits in
        which their maps differ are never more; that settles most pairs at the cost of eight numbers."""
        total = np.empty(len(first), np.int64)
        near = np.empty(len(first), bool)
        # In slices: the maps of a million pairs would take 100 MB.
        for part in batches(np.arange(len(first)), 8 * _PAIRS):
            one, other = first[part], second[part]
            total[part] = self.sizes[one].astype(np.int64) + self.sizes[other]
            differ = np.bitwise_count(self._maps[one] ^ self._maps[other]).sum(axis=1)
            near[part] = differ <= (1 - threshold) / (1 + threshold) * total[part] + 1e-9
        left = np.flatnonzero(near)
        # Pairs of alike sizes together, so that little is compared with filling.
        left = left[np.argsort(total[left], kind="stable")]
        for start in range(0, len(left), _PAIRS):
            part = left[start : start + _PAIRS]
            both = np.concatenate([self.of(first[part]), self.of(second[part])], axis=1)
            both.sort(axis=1)
            shared = ((both[:, 1:] == both[:, :-1]) & (both[:, 1:] != 0)).sum(axis=1)
            near[part] = shared / (total[part] - shared) >= threshold
        return near


def batches(items: Items, size: int = 16_384) -> Iterator[Items]:
    """`items` in slices of `size`, which is what a call of `Shingles.add` takes at best."""
    return (items[start : start + size] for start in range(0, len(items), size))


def _hashes(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """2-gram hashes of normalised `texts`, without repetitions in a text, and the place of each text's first."""
    split = [split_words(text) or [""] for text in texts]
    vocabulary: dict[str, int] = {}
    numbers = np.fromiter(
        (vocabulary.setdefault(word, len(vocabulary)) for words in split for word in words), dtype=np.int64
    )
    digests = b"".join(hashlib.blake2b(word.encode("utf8"), digest_size=8).digest() for word in vocabulary)
    words = np.frombuffer(digests, np.uint64)[numbers]
    lengths = np.fromiter(map(len, split), np.int64, len(split))
    # A text of n words has n + 1 pairs: the words after the start mark, and the words before the end mark.
    ends = np.cumsum(lengths + 1)
    starts = ends - lengths - 1
    former, latter = np.empty(ends[-1], np.uint64), np.empty(ends[-1], np.uint64)
    is_start, is_end = np.zeros(len(former), bool), np.zeros(len(former), bool)
    is_start[starts] = is_end[ends - 1] = True
    former[is_start], former[~is_start] = _START, words
    latter[is_end], latter[~is_end] = _END, words
    hashes = (former * _FIRST) ^ (latter * _SECOND)
    hashes = (hashes ^ (hashes >> np.uint64(29))) * _FIRST
    hashes = (hashes ^ (hashes >> np.uint64(32))) | _NOT_ZERO
    # Sorted within its text, a repeated pair stands beside its first.
    owners = np.repeat(np.arange(len(texts)), lengths + 1)
    order = np.lexsort((hashes, owners))
    hashes = hashes[order]
    new = np.ones(len(hashes), bool)
    new[1:] = (hashes[1:] != hashes[:-1]) | (owners[1:] != owners[:-1])
    return hashes[new], np.searchsorted(owners[new], np.arange(len(texts)))
