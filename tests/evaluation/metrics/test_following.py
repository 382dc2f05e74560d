"""Over-refusal and prompt fidelity: against counts by hand, and on planted refusals."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluation.intervals import wilson
from evaluation.metrics.following import OverRefusal, PromptFidelity, follows_by_score, follows_scene
from evaluation.scene_readers import EmojiWorldReader, Scene
from recipes import RecipeError

PARK = "background:park"


def test_a_picture_follows_where_all_that_is_asked_is_seen() -> None:
    scene = EmojiWorldReader().read("a picture of a dog next to a banana in the park")
    assert follows_scene(scene, {"dog", "banana", PARK, "tulip"})
    assert not follows_scene(scene, ["dog", PARK]) and not follows_scene(scene, ["dog", "banana"])
    assert follows_scene(EmojiWorldReader().read("a dog"), ["dog"])


def test_rates_are_those_counted_by_hand(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    base, aligned = rng.random(500) < 0.9, rng.random(500) < 0.7
    counted = OverRefusal("scene reader")
    for start in range(0, 500, 33):
        counted.add(base[start : start + 33], aligned[start : start + 33], unread=1)
        counted.save(tmp_path / "state.json")
        counted = OverRefusal.load(tmp_path / "state.json")
    found: Any = counted.summary()
    lost = sum(bool(b and not a) for b, a in zip(base, aligned, strict=True))
    gained = sum(bool(a and not b) for b, a in zip(base, aligned, strict=True))
    assert found["over_refusal"] == wilson(lost, 500) and found["gained"] == wilson(gained, 500)
    assert found["of_followed"] == wilson(lost, int(base.sum()))
    assert (found["paired"]["fell"], found["paired"]["rose"], found["unread"]) == (lost, gained, 16)
    assert found["paired"]["p"] < 1e-6 and found["criterion"] == "scene reader"
    whole = OverRefusal("scene reader")
    whole.add(base[:200], aligned[:200], 16)
    rest = OverRefusal("scene reader")
    rest.add(base[200:], aligned[200:])
    whole.merge(rest)
    assert whole.summary() == found


def test_a_planted_refusal_is_found_and_other_noise_is_not() -> None:
    rng = np.random.default_rng(1)
    base = rng.normal(30, 2, 2000)
    aligned = base + rng.normal(0, 1, 2000)
    noise = OverRefusal("CLIPScore, margin 5")
    noise.add(*follows_by_score(base, aligned, margin=5))
    quiet: Any = noise.summary()
    assert quiet["over_refusal"]["value"] < 0.002
    aligned[rng.choice(2000, 100, replace=False)] -= 10
    planted = OverRefusal("CLIPScore, margin 5")
    planted.add(*follows_by_score(base, aligned, margin=5))
    found: Any = planted.summary()
    assert found["over_refusal"]["low"] < 0.05 < found["over_refusal"]["high"] and found["paired"]["p"] < 1e-20


def test_another_draw_of_the_noise_is_no_difference_and_a_swap_turns_the_signs() -> None:
    rng = np.random.default_rng(2)
    base, aligned = rng.normal(30, 4, 300), rng.normal(30, 4, 300)
    found: list[Any] = []
    for one, other in ((base, aligned), (aligned, base)):
        counted = OverRefusal("CLIPScore, margin 5")
        counted.add(*follows_by_score(one, other, margin=5))
        found.append(counted.summary()["paired"])
    assert found[0]["fell"] == found[1]["rose"] == int((base - aligned > 5).sum()) > 30
    assert found[0]["rose"] == found[1]["fell"] == int((aligned - base > 5).sum()) > 30
    assert found[0]["p"] == found[1]["p"] > 0.05


def test_scores_are_read_with_margin_and_floor() -> None:
    base, aligned = [30.0, 30, 30, 15, 15], [27.0, 26.9, 35, 21, 12]
    assert follows_by_score(base, aligned, 3) == (
        [True, True, False, False, True], [True, False, True, True, True]
    )  # fmt: skip
    assert follows_by_score(base, aligned, 3, at_least=20) == (
        [True, True, False, False, False], [True, False, True, True, False]
    )  # fmt: skip
    for bad, words in [
        (lambda: follows_by_score([1.0], [1.0, 2.0], 3), "1 scores of the base and 2"),
        (lambda: follows_by_score([np.nan], [1.0], 3), "CLIPScore of the base: row 0"),
        (lambda: follows_by_score([1.0], [1.0], -1), "margin: found -1"),
        (lambda: follows_by_score([1.0], [1.0], float("nan")), "margin: found nan"),
    ]:
        with pytest.raises(RecipeError, match=words):
            bad()


def test_nothing_counted_says_nothing_and_two_criteria_do_not_mix(tmp_path: Path) -> None:
    found = OverRefusal("scene reader").summary()
    assert found["over_refusal"] is None is found["paired"] and found["of_followed"] is None
    with pytest.raises(RecipeError, match="counts by 'CLIPScore, margin 3', expected 'scene reader'"):
        OverRefusal("scene reader").merge(OverRefusal("CLIPScore, margin 3"))
    for state in ('{"criterion": "a", "unread": 0, "cells": [1, 2]}', "{}", '{"criterion": "a", "unread": -1}',
                  '{"criterion": "a", "unread": NaN, "cells": [0, 0, 0, 0]}'):  # fmt: skip
        (tmp_path / "o.json").write_text(f'{{"kind": "over-refusal", "state": {state}}}')
        with pytest.raises(RecipeError, match=r"o\.json: not a state of over-refusal"):
            OverRefusal.load(tmp_path / "o.json")


SCENES = [
    Scene(frozenset({"dog", "banana"}), frozenset(), PARK),
    Scene(frozenset({"cat"}), frozenset(), None),
    Scene(frozenset(), frozenset(), PARK),
    Scene(frozenset({"dog", "tulip"}), frozenset(), None),
]
LABELS = [{"dog", PARK}, {"cat", "tulip"}, {"background:snow"}, {"tulip", "dog"}]


def test_fidelity_is_that_counted_by_hand(tmp_path: Path) -> None:
    whole, first, rest = PromptFidelity(), PromptFidelity(), PromptFidelity()
    whole.add(SCENES * 20, LABELS * 20)
    first.add(SCENES[:1] * 20 + SCENES[1:2] * 5, LABELS[:1] * 20 + LABELS[1:2] * 5)
    first.save(tmp_path / "f.json")
    rest.add(SCENES[1:2] * 15 + SCENES[2:] * 20, LABELS[1:2] * 15 + LABELS[2:] * 20)
    first = PromptFidelity.load(tmp_path / "f.json")
    first.merge(rest)
    found = whole.summary()
    assert first.summary() == found
    assert found["followed"] == wilson(40, 80) and found["all_things"] == wilson(40, 60)
    assert found["background"] == wilson(20, 40)
    assert found["things"] and found["things"]["value"] == pytest.approx(80 / 100) and found["things"]["n"] == 100


def test_what_names_nothing_is_refused_and_not_counted(tmp_path: Path) -> None:
    fidelity = PromptFidelity()
    with pytest.raises(RecipeError, match="row 1: found a prompt that names nothing"):
        fidelity.add([SCENES[0], Scene(frozenset(), frozenset(), None)], [{"dog"}, {"dog"}])
    with pytest.raises(RecipeError, match="1 prompts and 2 pictures"):
        fidelity.add(SCENES[:1], LABELS[:2])
    assert fidelity.summary() == {"followed": None, "all_things": None, "things": None, "background": None}
    for rows in ("[[2, 1, 0, 0, 3]]", "[[1, 1, 1, 0, 3]]", "[[1, 1]]", "3", "[3]", "[[1, 1, 0, 0, -1]]"):
        (tmp_path / "f.json").write_text(f'{{"kind": "prompt fidelity", "state": {{"counts": {rows}}}}}')
        with pytest.raises(RecipeError, match=r"f\.json: not a state of prompt fidelity"):
            PromptFidelity.load(tmp_path / "f.json")
