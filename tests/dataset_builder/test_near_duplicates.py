"""Duplicates and near-duplicates among many prompts: what the arrays find is what comparing all with all finds."""

import random
from itertools import combinations

import numpy as np
import pytest

from dataset_builder import near_duplicates
from dataset_builder.keys import normalise
from dataset_builder.near_duplicates import MISSED, NearDuplicates, bands_for
from dataset_builder.shingles import jaccard, word_pairs


def captions(seed, count, vocabulary=6):
    """Prompts of few different words, among them repeated ones, near ones, empty ones and templates."""
    rng = random.Random(seed)
    words = [f"word{n}" for n in range(vocabulary)] + ["ПЁС", "straße"]
    template = " ".join(f"fixed{n}" for n in range(24))
    prompts = [" ".join(rng.choices(words, k=rng.choice([0, 1, 2, 3, 11, 12, 25]))) for _ in range(count)]
    prompts += [f"{rng.choice(words)} {template} {rng.choice(words)} {rng.choice(words)}" for _ in range(count // 3)]
    for prompt in rng.sample(prompts, count // 2):
        parts = prompt.split()
        parts.insert(rng.randrange(len(parts) + 1), rng.choice(words))
        prompts += [" ".join(parts), prompt.upper() + "."]
    rng.shuffle(prompts)
    return prompts


def expected(prompts, threshold):
    """By comparing all with all: the first of equal texts, and the pairs of firsts that are near-duplicates."""
    firsts, first = {}, []
    for number, prompt in enumerate(prompts):
        first.append(firsts.setdefault(normalise(prompt), number))
    sets = {number: word_pairs(prompts[number]) for number in firsts.values()}
    return first, {(i, j) for i, j in combinations(sorted(sets), 2) if jaccard(sets[i], sets[j]) >= threshold}


@pytest.mark.parametrize("bucket", [128, 3, 1])
@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.9, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_what_is_found_is_what_comparing_all_with_all_finds(seed, threshold, bucket, monkeypatch):
    monkeypatch.setattr(near_duplicates, "_BUCKET", bucket)
    # Where everything is a crowd every pair is asked for one by one.
    prompts = captions(seed, 120 if bucket > 3 else 50)
    first, pairs = expected(prompts, threshold)
    with NearDuplicates(threshold) as index:
        for start in range(0, len(prompts), 50):
            index.add(prompts[start : start + 50])
        found = index.find()
        assert found.first.tolist() == first
        listed = {tuple(pair) for pair in found.pairs.tolist()}
        assert len(listed) == len(found.pairs) and listed <= pairs
        # A crowd's pairs are not listed, but told when asked.
        told = {
            (i, int(j))
            for crowd in found.crowds
            for i in crowd.tolist()
            for j in crowd[crowd > i][found.similar(i, crowd[crowd > i])]
        }
        assert told <= pairs and listed | told == pairs
        assert found.crowds or bucket > 1 or threshold == 1.0


@pytest.mark.parametrize("bucket", [128, 2])
def test_a_group_is_what_a_chain_of_near_duplicates_joins(bucket, monkeypatch):
    monkeypatch.setattr(near_duplicates, "_BUCKET", bucket)
    prompts = captions(7, 90)
    first, pairs = expected(prompts, 0.9)
    group = list(first)
    for _ in prompts:
        for i, j in pairs:
            low = min(group[i], group[j])
            group = [low if g in (group[i], group[j]) else g for g in group] if group[i] != group[j] else group
    with NearDuplicates(0.9) as index:
        index.add(prompts)
        assert index.find().groups().tolist() == group
    assert len(set(group)) < len(set(first))


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.9, 0.95, 1.0])
def test_the_bands_overlook_less_than_one_pair_in_a_thousand_at_the_threshold(threshold):
    bands, values = bands_for(threshold)
    assert (1 - threshold**values) ** bands <= MISSED < 1e-3
    assert bands * values <= 128 and (threshold == 1.0 or values >= 2)


def test_less_than_one_pair_in_a_thousand_is_missed_at_the_threshold():
    rng = random.Random(0)
    count = 8000
    # A set of 28 2-grams, and one with a further word: 27 are shared of 30.
    prompts = [" ".join(f"{rng.getrandbits(40):x}" for _ in range(27)) for _ in range(count)]
    assert jaccard(word_pairs(prompts[0]), word_pairs(f"{prompts[0]} more")) == 0.9
    with NearDuplicates(0.9) as index:
        index.add(prompts)
        index.add([f"{prompt} more" for prompt in prompts])
        pairs = index.find().pairs
    assert (pairs[:, 1] - pairs[:, 0] == count).all()
    assert count * 0.999 < len(pairs) <= count


def test_templates_do_not_take_quadratic_time():
    # 20,000 prompts that share 44 words: 2 * 10^8 pairs, all of them near-duplicates.
    words = [f"word{n}" for n in range(44)]
    prompts = [" ".join([*words[:20], f"other{n}", *words[20:]]) for n in range(20_000)]
    with NearDuplicates(0.9) as index:
        index.add(prompts)
        found = index.find()
        assert len(found.pairs) + sum(map(len, found.crowds)) < 4 * len(prompts)
        assert (found.groups() == 0).all()


def test_templates_whose_prompts_are_no_near_duplicates_do_not_take_quadratic_time():
    # They share 20 words and differ in one: a similarity of 20 / 24. All of them stand, and none is compared with all.
    words = [f"word{n}" for n in range(20)]
    prompts = [" ".join([*words[:10], f"other{n}", *words[10 + n % 2 :]]) for n in range(20_000)]
    with NearDuplicates(0.9) as index:
        index.add(prompts)
        found = index.find()
        assert len(found.pairs) == 0 and found.crowds == []


def test_no_prompts_have_no_duplicates(tmp_path):
    with NearDuplicates(0.9, tmp_path) as index:
        index.add([])
        found = index.find()
        assert (len(found.first), len(found.pairs), found.crowds, len(found.groups())) == (0, 0, [], 0)
    assert not list(tmp_path.iterdir())


def test_the_order_of_batches_changes_nothing():
    prompts = captions(3, 60)
    results = []
    for size in (1, 7, 1000):
        with NearDuplicates(0.7) as index:
            for start in range(0, len(prompts), size):
                index.add(prompts[start : start + size])
            results.append(index.find().pairs)
    assert np.array_equal(results[0], results[1]) and np.array_equal(results[0], results[2]) and len(results[0])
