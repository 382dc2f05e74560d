"""Exact and near duplicates among millions of prompts: MinHash proposes pairs, the exact Jaccard similarity decides.

Prompts are numbered in the order in which they are added, and live in arrays on disk. Two are near-duplicates when the
Jaccard similarity of their sets of word 2-grams is the threshold or more. Who keeps which is left to
`dataset_builder.deduplicate` and to the audit."""

import math
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, combinations_with_replacement
from pathlib import Path
from types import TracebackType

import numpy as np

from dataset_builder.shingles import Shingles, batches

# Share of pairs at the threshold that the bands may overlook.
MISSED = 5e-4
# Values of a signature at most, and values a band at most: longer bands propose fewer pairs that are not similar.
_MOST_VALUES, _LONGEST_BAND = 128, 8
# Prompts of one bucket whose pairs are all compared. In larger ones, which come from templates, the rarest 2-grams
# propose the pairs, by ones first, then by twos and threes that are shared.
_BUCKET = 128
_SHARED = (1, 2, 3)
_MOST_COMBINATIONS = 64
# Pairs of sizes that a prompt of a crowd may stand in on average: more, at low thresholds, cost more than they part.
_MOST_SIZES = 12
# Keys of a crowd that are in memory at a time.
_ENTRIES = 2**21
_MIX = np.uint64(0x9E3779B97F4A7C15)


def bands_for(threshold: float) -> tuple[int, int]:
    """(bands, values a band) of the signatures: b bands of r values propose a pair of similarity s with the probability
    1 - (1 - s^r)^b (Leskovec, Rajaraman, Ullman: Mining of Massive Datasets, 3.4). The largest r is taken whose b, for
    a share of `MISSED` at the threshold, stays within the signature."""
    fitting = (1, 1)
    for values in range(1, _LONGEST_BAND + 1):
        chance = threshold**values
        bands = 1 if chance >= 1 else math.ceil(math.log(MISSED) / math.log1p(-chance))
        if values == 1 or bands * values <= _MOST_VALUES:
            fitting = bands, values
    return fitting


@dataclass
class Duplicates:
    """What `NearDuplicates.find` found among n prompts.

    `first` (int64, (n,)): the number of the first prompt with the same normalised text; all below is about those.
    `pairs` (int64, (m, 2)): near-duplicates, the lower number first, without repetitions.
    `crowds`: rising numbers of prompts that share so much that not all their pairs were compared: any two of a crowd
    may be near-duplicates too, which `similar` tells. They come from templates, and are rare."""

    threshold: float
    first: np.ndarray
    pairs: np.ndarray
    crowds: list[np.ndarray]
    shingles: Shingles

    def similar(self, one: int, others: np.ndarray) -> np.ndarray:
        """For each of `others` (int64, (k,)), whether it is a near-duplicate of `one`: bool (k,)."""
        return self.shingles.similar(np.full(len(others), one), others, self.threshold)

    def crowd_pairs(self) -> Iterator[np.ndarray]:
        """Near-duplicates in `crowds`, int64 (k, 2) each time, the lower number first. Compared are those that are near
        none before them with all after them: where a whole crowd is one group, as many pairs as it has prompts."""
        for crowd in self.crowds:
            near_an_earlier = np.zeros(len(crowd), bool)
            for place, prompt in enumerate(crowd.tolist()):
                if not near_an_earlier[place]:
                    near = place + 1 + np.flatnonzero(self.similar(prompt, crowd[place + 1 :]))
                    near_an_earlier[near] = True
                    yield np.stack([np.full(len(near), prompt), crowd[near]], axis=1)

    def groups(self) -> np.ndarray:
        """A group's number for each prompt, int64 (n,): the lowest number in it. Prompts are in one group when a chain
        of duplicates and near-duplicates leads from one to the other."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        count = len(self.first)
        copies = np.flatnonzero(self.first != np.arange(count))
        links = [np.stack([self.first[copies], copies], axis=1), self.pairs, *self.crowd_pairs()]
        one, other = np.concatenate(links).T
        graph = coo_array((np.ones(len(one), bool), (one, other)), shape=(count, count))
        _, labels = connected_components(graph, directed=False)
        _, lowest = np.unique(labels, return_index=True)
        return lowest[labels]


class Standing:
    """Prompts that stand, so that others can be told apart from them; prompts join one by one.

    Args:
        duplicates (`Duplicates`): of all the prompts that may be asked about, by their numbers.
    """

    def __init__(self, duplicates: Duplicates) -> None:
        self._duplicates = duplicates
        count = len(duplicates.first)
        self._stands = np.zeros(count, bool)
        both = np.concatenate([duplicates.pairs, duplicates.pairs[:, ::-1]])
        self._near, self._near_starts = _by_number(both[:, 0], both[:, 1], count)
        members = np.concatenate([np.zeros(0, np.int64), *duplicates.crowds])
        crowds = np.repeat(np.arange(len(duplicates.crowds)), [len(crowd) for crowd in duplicates.crowds])
        self._crowds, self._crowd_starts = _by_number(members, crowds, count)
        self._in_crowd = [array("q") for _ in duplicates.crowds]

    def has(self, prompt: int) -> bool:
        """Whether the same normalised text stands."""
        return bool(self._stands[self._duplicates.first[prompt]])

    def has_near(self, prompt: int) -> bool:
        """Whether a near-duplicate of `prompt`, other than the same text, stands."""
        first = self._duplicates.first[prompt]
        if self._stands[self._near[self._near_starts[first] : self._near_starts[first + 1]]].any():
            return True
        for crowd in self._crowds[self._crowd_starts[first] : self._crowd_starts[first + 1]]:
            standing = np.array(self._in_crowd[crowd], np.int64)
            if self._duplicates.similar(first, standing[standing != first]).any():
                return True
        return False

    def add(self, prompt: int) -> None:
        """From now on `prompt` stands."""
        first = self._duplicates.first[prompt]
        if not self._stands[first]:
            self._stands[first] = True
            for crowd in self._crowds[self._crowd_starts[first] : self._crowd_starts[first + 1]]:
                self._in_crowd[crowd].append(first)


class NearDuplicates:
    """Prompts, of which the duplicates are to be found. A context manager, which removes its files.

    Time grows with the number of prompts, and memory by some 50 bytes a prompt; the rest is on disk, about 280 bytes
    for a prompt of 12 words.

    `count` says how many have been added.

    Args:
        threshold (`float`): Jaccard similarity of word 2-grams, above 0 and at most 1, from which two prompts are
            near-duplicates. One pair in 2,000 that is just that similar is overlooked, of more similar ones fewer.
        folder (`Path`, *optional*): where the files go; defaults to the system's folder for temporary files.
    """

    def __init__(self, threshold: float, folder: Path | None = None) -> None:
        from datasketch import MinHash

        self.threshold = threshold
        self._place = tempfile.TemporaryDirectory(prefix="near_duplicates-", dir=folder)
        self._folder = Path(self._place.name)
        self._shingles = Shingles(self._folder)
        self.count = 0
        self._bands, self._values = bands_for(threshold)
        # The permutations are datasketch's; a whole batch is put through one at a time, where its MinHash puts one
        # text through all, which takes ten times as long.
        minhash = MinHash(num_perm=self._bands * self._values, seed=1, scheme="affine32")
        factors, terms = minhash.permutations
        self._permutations = list(zip(np.asarray(factors, np.uint32), np.asarray(terms, np.uint32), strict=True))
        self._keys = [(self._folder / f"band-{band}").open("wb") for band in range(self._bands)]

    def __enter__(self) -> "NearDuplicates":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._keys:
            file.close()
        self._shingles.close()
        self._place.cleanup()

    def add(self, prompts: Sequence[str]) -> None:
        """Add `prompts`, as they are written; case, white space and a closing full stop will not count."""
        self.count += len(prompts)
        for batch in batches(prompts):
            hashes, starts = self._shingles.add(batch)
            short = (hashes >> np.uint64(32)).astype(np.uint32)
            for band, file in enumerate(self._keys):
                key = np.zeros(len(starts), np.uint64)
                for factor, term in self._permutations[band * self._values : (band + 1) * self._values]:
                    least = np.minimum.reduceat(short * factor + term, starts)
                    key = (key ^ (key >> np.uint64(31)) ^ least) * _MIX
                file.write(key.tobytes())

    def find(self) -> Duplicates:
        """All duplicates among the prompts, which end with this call. What it returns reads the files: it is of use
        only until the context ends."""
        self._shingles.end_adding()
        first = _first_of_equals(self._shingles.texts)
        self._shingles.free()
        alive = np.flatnonzero(first == np.arange(len(first)))
        crowded = np.zeros(len(first), bool)
        found = np.zeros(0, np.int64)
        for file in self._keys:
            file.close()
            keys = np.fromfile(file.name, np.uint64)[alive]
            order = np.argsort(keys, kind="stable").astype(np.int32)
            keys = keys[order]
            pairs, crowds = self._compare(keys, alive[order])
            del keys, order
            found = np.union1d(found, pairs)
            for crowd in crowds:
                crowded[crowd] = True
            self._shingles.free()
        more, crowds = self._sift([np.flatnonzero(crowded)], [None])
        found, crowds = self._sift_by_sizes(np.union1d(found, more), crowds)
        pairs = np.stack([found >> 32, found & 0xFFFFFFFF], axis=1)
        self._shingles.free()
        return Duplicates(self.threshold, first, pairs, crowds, self._shingles)

    def _compare(self, keys: np.ndarray, prompts: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        """Compare prompts of equal keys, which stand in order: (near-duplicates as (lower << 32) + higher, sorted;
        the buckets that are too large for that)."""
        # Most keys are nobody else's; what is left of the arrays is small.
        same = keys[1:] == keys[:-1]
        shared = np.zeros(len(keys), bool)
        shared[1:] |= same
        shared[:-1] |= same
        keys, prompts = keys[shared], prompts[shared]
        edges = np.flatnonzero(keys[1:] != keys[:-1]) + 1
        starts, ends = np.concatenate([[0], edges]), np.concatenate([edges, [len(keys)]])
        sizes = ends - starts
        crowds = [np.sort(prompts[starts[run] : ends[run]]) for run in np.flatnonzero(sizes > _BUCKET)]
        small = (sizes > 1) & (sizes <= _BUCKET)
        end_of = np.repeat(np.where(small, ends, 0), sizes)
        places = np.flatnonzero(np.repeat(small, sizes))
        found = []
        step = 1
        while len(places := places[places + step < end_of[places]]):
            for part in batches(places, 2**18):
                one, other = prompts[part], prompts[part + step]
                near = self._shingles.similar(one, other, self.threshold)
                one, other = one[near], other[near]
                found.append((np.minimum(one, other) << 32) | np.maximum(one, other))
            step += 1
        return np.unique(np.concatenate(found)) if found else np.zeros(0, np.int64), crowds

    def _sift(self, crowds: list[np.ndarray], shared: list[int | None]) -> tuple[np.ndarray, list[np.ndarray]]:
        """Compare the prompts of each crowd that share rare 2-grams; `shared` is how many 2-grams, of all, similar ones
        of the crowd share at least, or None where that follows from the size of each. Returns as `_compare` does."""
        found = [np.zeros(0, np.int64)]
        work = list(zip(crowds, shared, strict=True))
        for rarest in _SHARED:
            waiting, left = work, {}
            for crowd, least in waiting:
                pairs, crowds = self._compare_by_rarest(crowd, rarest, least)
                found.append(pairs)
                # What a template's own 2-grams bring together, each of them brings together.
                left.update({(rest.tobytes(), least): (rest, least) for rest in crowds})
            work = list(left.values())
        return np.unique(np.concatenate(found)), list({crowd.tobytes(): crowd for crowd, _ in work}.values())

    def _sift_by_sizes(self, found: np.ndarray, crowds: list[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
        """`found` and the crowds that are left when those of two sizes at a time are sifted: of sets of n and m members
        that are similar it is known that they share t (n + m) / (1 + t), which parts prompts that share a template and
        are not near-duplicates, and else would be compared all with all."""
        t, left = self.threshold, []
        for crowd in crowds:
            sizes = self._shingles.sizes[crowd].astype(np.int64)
            kinds = np.unique(sizes).tolist()
            both = [(n, m) for n, m in combinations_with_replacement(kinds, 2) if n >= t * m - 1e-9]
            parts = [crowd[(sizes == n) | (sizes == m)] for n, m in both]
            if sum(map(len, parts)) > _MOST_SIZES * len(crowd):
                left.append(crowd)
                continue
            pairs, rest = self._sift(parts, [math.ceil(t * (n + m) / (1 + t) - 1e-9) for n, m in both])
            found = np.union1d(found, pairs)
            left += rest if sum(map(len, rest)) < len(crowd) else [crowd]
        return found, left

    def _compare_by_rarest(
        self, members: np.ndarray, shared: int, overlap: int | None
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """As `_compare`, for the prompts of a crowd, by their rarest 2-grams in it; overlooks none.

        A set of n that is similar to another shares a = ceil(t n) members with it or more, or `overlap`. With both
        sorted the same way, by rarity, they then share k of their first n - a + k (Wang, Li, Feng: Can we beat the
        prefix filtering?, SIGMOD 2012). So each set stands in one bucket for each k of those."""
        sizes = self._shingles.sizes[members].astype(np.int64)
        least = np.ceil(self.threshold * sizes - 1e-9).astype(np.int64)
        if overlap is not None:
            least = np.full(len(sizes), overlap)
        lengths = sizes - least + shared
        too_wide = any(math.comb(int(n), shared) > _MOST_COMBINATIONS for n in np.unique(lengths))
        if len(members) <= 1 or (shared > 1 and (too_wide or least.min() < shared)):
            return np.zeros(0, np.int64), [members] if len(members) > 1 else []
        counts = self._counts(members, sizes)
        entries = sum(math.comb(int(length), shared) for length in lengths)
        with KeyFiles(self._folder, math.ceil(entries / _ENTRIES)) as files:
            for length in np.unique(lengths):
                for part in batches(members[lengths == length], 2**14):
                    rarest = self._rarest(part, int(length), *counts)
                    for chosen in combinations(range(int(length)), shared):
                        key = np.zeros(len(part), np.uint64)
                        for place in chosen:
                            key = (key ^ (key >> np.uint64(31)) ^ rarest[:, place]) * _MIX
                        files.add(key, part)
            del counts
            found, crowds = [np.zeros(0, np.int64)], []
            for keys, owners in files.read():
                order = np.lexsort((owners, keys))
                pairs, large = self._compare(keys[order], owners[order])
                found.append(pairs)
                crowds += large
        return np.unique(np.concatenate(found)), crowds

    def _counts(self, members: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The 2-grams of `members`, sorted, and in how many of their sets each stands."""
        merged = np.zeros(0, np.uint64), np.zeros(0, np.int64)
        waiting: list[tuple[np.ndarray, np.ndarray]] = []
        for part in batches(members, 2**14):
            own = self._shingles.of(part)
            waiting.append(np.unique(own[own != 0], return_counts=True))
            # Rarely, for each merging reads all that was merged before.
            if sum(len(hashes) for hashes, _ in waiting) > max(len(merged[0]), _ENTRIES // 2):
                merged, waiting = _add_up([merged, *waiting]), []
        return _add_up([merged, *waiting])

    def _rarest(self, members: np.ndarray, length: int, hashes: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """The `length` rarest 2-grams of each of `members`, the rarest first: uint64 (members, length)."""
        own = self._shingles.of(members)
        places = np.searchsorted(hashes, own)
        rarity = np.where(own == 0, np.iinfo(np.int64).max, counts[np.minimum(places, len(counts) - 1)])
        order = np.lexsort((own, rarity), axis=1)[:, :length]
        return np.take_along_axis(own, order, axis=1)


class KeyFiles:
    """Keys and the prompts that they belong to, in files by key, so that equal keys come back together and only one
    file's entries are in memory at a time. A context manager, which removes the files.

    Args:
        folder (`Path`): where the files go.
        count (`int`): of files, at least 1.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self._place = tempfile.TemporaryDirectory(prefix="keys-", dir=folder)
        self._paths = [Path(self._place.name) / str(number) for number in range(max(count, 1))]
        self._files = [path.open("wb") for path in self._paths]

    def add(self, keys: np.ndarray, prompts: np.ndarray) -> None:
        """Add entries: `keys`, uint64 (n,), and `prompts`, int64 (n,)."""
        entries = np.stack([keys, prompts.astype(np.uint64)], axis=1)
        # By high bits: the low ones of a product say less.
        number = ((keys >> np.uint64(32)) % np.uint64(len(self._files))).astype(np.uint16)
        order = np.argsort(number, kind="stable")
        edges = np.searchsorted(number[order], np.arange(len(self._files) + 1))
        entries = entries[order]
        for file, start, end in zip(self._files, edges, edges[1:], strict=False):
            file.write(entries[start:end].tobytes())

    def read(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The entries of one file after the other: (keys, prompts)."""
        for file, path in zip(self._files, self._paths, strict=True):
            file.close()
            entries = np.fromfile(path, np.uint64).reshape(-1, 2)
            yield entries[:, 0], entries[:, 1].astype(np.int64)

    def __enter__(self) -> "KeyFiles":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files:
            file.close()
        self._place.cleanup()


def _add_up(counted: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Counts by hash, from several: (the hashes, sorted; how often each stands in all together)."""
    hashes = np.concatenate([hashes for hashes, _ in counted])
    order = np.argsort(hashes, kind="stable")
    hashes = hashes[order]
    counts = np.concatenate([counts for _, counts in counted])[order]
    starts = np.flatnonzero(np.concatenate([np.ones(min(len(hashes), 1), bool), hashes[1:] != hashes[:-1]]))
    return hashes[starts], np.add.reduceat(counts, starts) if len(starts) else counts


def _by_number(numbers: np.ndarray, values: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """`values` in the order of their `numbers`, below `count`, and where those of each number start."""
    order = np.argsort(numbers, kind="stable")
    # Numbers of prompts, and of pairs of them that memory holds, fit 32 bits.
    return values[order], np.searchsorted(numbers[order], np.arange(count + 1)).astype(np.int32)


def _first_of_equals(texts: np.ndarray) -> np.ndarray:
    """For each row of `texts`, uint64 (n, 2), the number of the first row that is the same."""
    order = np.lexsort((texts[:, 1], texts[:, 0]))
    ordered = texts[order]
    new = np.ones(len(order), bool)
    new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    # lexsort is stable: the first of equal rows in order is the first of all.
    first = np.empty(len(order), np.int64)
    first[order] = order[np.flatnonzero(new)[np.cumsum(new) - 1]]
    return first
