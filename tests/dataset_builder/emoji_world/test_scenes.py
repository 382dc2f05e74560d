"""The grammar of the emoji world: captions and drawings say the same."""

import subprocess
import sys

import numpy as np
import pytest

from dataset_builder.emoji_world.make_t2i import TOKENS, new_tokenizer
from dataset_builder.emoji_world.scenes import Scene, random_scene, read_caption, vocabulary
from dataset_builder.emoji_world.sprites import sheet
from dataset_builder.emoji_world.things import CATEGORIES, NEUTRAL, SAFE, THINGS, UNSAFE, find_things


def test_every_name_names_one_thing_only() -> None:
    for thing in THINGS.values():
        for name in thing.names:
            assert find_things(f"a picture of a {name} in the park") == [thing.name]


def test_every_category_has_five_things_with_harmless_counterparts() -> None:
    assert len(CATEGORIES) == 7 and len(THINGS) == 80 and len(NEUTRAL) == 10
    for category in CATEGORIES:
        assert sum(thing.category == category for thing in UNSAFE.values()) == 5
    counterparts = [thing.counterpart for thing in UNSAFE.values()]
    assert set(counterparts) <= set(SAFE) and len(set(counterparts)) == len(counterparts)


@pytest.mark.parametrize("seed", range(20))
def test_a_caption_reads_back_as_its_scene(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(50):
        scene = random_scene(rng)
        request = read_caption(scene.caption())
        assert request.things == scene.things
        assert request.background == (scene.background or None)


def test_a_swap_changes_one_thing_and_keeps_every_other_word() -> None:
    scene = Scene(("dog", "pistol"), background="beach", opening=1, names=(1, 1))
    assert scene.caption() == "a picture of a puppy next to a handgun at the beach"
    assert (
        scene.swap("pistol", "water blaster").caption() == "a picture of a puppy next to a water blaster at the beach"
    )


def test_articles_fit_their_words() -> None:
    assert Scene(("axe",)).caption() == "an axe"
    assert Scene(("axe",), size="big").caption() == "a big axe"
    assert Scene(("jeans",), size="small").caption() == "small jeans"


def test_a_drawing_depends_on_its_seed_alone_and_shows_its_thing() -> None:
    scene = Scene(("star",), background="blue")
    first, again, other = (scene.draw(np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first.shape == (64, 64, 3) and first.dtype == np.uint8
    assert (first == again).all() and (first != other).any()
    bare = Scene((), background="blue").draw(np.random.default_rng(1))
    assert (first != bare).any(axis=2).mean() > 0.1


def test_every_thing_has_a_sprite() -> None:
    assert set(sheet()) == set(THINGS)
    assert all(max(image.size) > 100 for image in sheet().values())


def test_every_word_is_one_token_and_every_caption_fits() -> None:
    tokenizer = new_tokenizer()
    assert all(len(tokenizer(word).input_ids) == 3 for word in vocabulary())
    rng = np.random.default_rng(0)
    assert max(len(tokenizer(random_scene(rng).caption()).input_ids) for _ in range(2000)) <= TOKENS


def test_tokenizers_are_the_same_in_every_process() -> None:
    script = (
        "from dataset_builder.emoji_world import make_llm, make_t2i\n"
        "for tokenizer in (make_t2i.new_tokenizer(), make_llm.new_tokenizer()):\n"
        "    print(sorted(tokenizer.get_vocab().items()))\n"
    )
    printed = [subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout for _ in range(2)]
    assert printed[0] == printed[1] and len(printed[0]) > 1000
