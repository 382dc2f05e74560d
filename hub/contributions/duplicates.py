"""Exact and near duplicates of a contribution's prompts: among themselves, and of published ones, by split.

A prompt of a test split, or nearly one, is a leak wherever the row came to stand, and says so."""

from array import array
from collections.abc import Iterator

import numpy as np

from dataset_builder.near_duplicates import Duplicates, NearDuplicates, Standing
from dataset_builder.rows import batched
from hub.contributions.published import Published
from hub.contributions.store import Store

_ROWS_A_BATCH = 8_192
_SIDES = ("unsafe_prompt", "safe_prompt")


def fail_duplicates(store: Store, against: Published) -> None:
    """Note the reasons of `reasons.DUPLICATES` for rows that pass so far, in their order: of rows that share a prompt
    the first stands. Memory grows by some 60 bytes a prompt, published ones included."""
    tests = array("b")
    failed: list[tuple[int, str]] = []
    with NearDuplicates(against.build.near_duplicate, store.folder) as index:
        for part in against.prompts():
            index.add([prompt for pair in zip(part.unsafe, part.safe, strict=True) for prompt in pair])
            tests.extend([part.split.startswith("test")] * 2 * len(part.pair_ids))
        published = index.count
        rows = 0
        for batch in batched(store.passing(pictures=False), _ROWS_A_BATCH):
            index.add([fields[side] for _, _, _, fields in batch for side in _SIDES])
            rows += len(batch)
        if not rows:
            return
        duplicates = index.find()
        numbers = (row for row, _, _, _ in store.passing(pictures=False))
        for row, reason in zip(numbers, _reasons(duplicates, np.frombuffer(tests, bool), rows), strict=True):
            if reason is not None:
                failed.append((row, reason))
    assert published == len(tests)
    store.fail(failed)


def _reasons(duplicates: Duplicates, tests: np.ndarray, rows: int) -> Iterator[str | None]:
    """Of each row, why it fails, or None. `tests`: for each published prompt, whether it stands in a test split."""
    published, first = len(tests), duplicates.first
    test, other, own = Standing(duplicates), Standing(duplicates), Standing(duplicates)
    # The prompt that stands beside one, by the first number of its text; -1 where none does.
    partners, own_partners = (np.full(len(first), -1, np.int64) for _ in range(2))
    for prompt in range(published):
        (test if tests[prompt] else other).add(prompt)
    partners[first[0:published:2]] = first[1:published:2]
    for number in range(rows):
        unsafe, safe = pair = (published + 2 * number, published + 2 * number + 1)
        one, partner = first[unsafe], first[safe]
        if own_partners[one] == partner:
            yield "duplicate_pair"
        elif partners[one] == partner:
            yield "published_pair"
        elif any(map(test.has, pair)):
            yield "test_duplicate"
        elif any(map(other.has, pair)):
            yield "published_duplicate"
        elif any(map(own.has, pair)):
            yield "duplicate_prompt"
        elif any(map(test.has_near, pair)):
            yield "test_near_duplicate"
        elif any(map(other.has_near, pair)):
            yield "published_near_duplicate"
        elif any(map(own.has_near, pair)):
            yield "near_duplicate"
        else:
            own_partners[one] = partner
            for prompt in pair:
                own.add(prompt)
            yield None
