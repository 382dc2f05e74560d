"""Which split a contributed pair goes to.

A release may not move a pair that is published, and what stands in a test split must stay unseen. So the choice depends
on the pair and on the published version only, never on what else is contributed or in which order."""

from collections.abc import Iterable, Mapping

from dataset_builder.keys import content_key, normalise
from dataset_builder.schema import Row

UNSEEN = "test_unseen_concepts"
# In which order the shares are laid out between 0 and 1.
_SHARED = ("test", "validation", "train")


class SplitChooser:
    """Chooses by concept, then by a hash of the pair.

    A concept of `test_unseen_concepts`, and one that no published pair is about, goes to `test_unseen_concepts`: had a
    pair of it been put into train, no later version could measure that concept as unseen, and adapters that were
    trained on earlier versions have not seen it. A concept of another split goes to train, validation or test, each
    with the share that it has in the published version. Where no published pair names its concept, as in imported data,
    nothing is known of what is unseen, and all go by shares.

    Args:
        rows (`Mapping[str, int]`): published pairs by split.
        concepts (`Iterable[tuple[str, str]]`): (split, concept) of published pairs, or of the taxonomy that they follow
            with its unseen concepts under `test_unseen_concepts`; may repeat.
    """

    def __init__(self, rows: Mapping[str, int], concepts: Iterable[tuple[str, str]]) -> None:
        seen: set[str] = set()
        unseen: set[str] = set()
        for split, concept in concepts:
            (unseen if split == UNSEEN else seen).add(normalise(concept))
        self._seen = seen
        self._named = bool((seen | unseen) - {""})
        counts = [max(0, int(rows.get(split, 0))) for split in _SHARED]
        # A version without any of these splits takes everything for training.
        self._counts = counts if any(counts) else [0, 0, 1]

    def choose(self, row: Row) -> str:
        """The split of a pair with `concept`, `unsafe_prompt` and `safe_prompt`."""
        if self._named and normalise(row["concept"]) not in self._seen:
            return UNSEEN
        # Of both prompts alone: the same pair drawn by another model goes the same way.
        key = content_key("split", normalise(row["unsafe_prompt"]), normalise(row["safe_prompt"]))
        point = int(key[:16], 16) * sum(self._counts) >> 64
        for split, count in zip(_SHARED, self._counts, strict=True):
            if point < count:
                return split
            point -= count
        raise AssertionError("a point lies below the sum of the counts")
