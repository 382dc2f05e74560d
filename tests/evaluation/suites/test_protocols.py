"""Protocols: their files, hashes, changes, and the protocol of a recipe's own evaluation."""

import dataclasses
from pathlib import Path

import pytest

from evaluation.prompt_sets.definition import load_definition
from evaluation.prompts import Pair
from evaluation.protocols.of_recipe import stated_protocol
from evaluation.protocols.protocol import FOLDER, content, differences, digest, list_protocols, load_protocol
from evaluation.suites.run import load_protocols, picture_seed
from evaluation.suites.suite import list_suites, load_suite
from recipes import Recipe, RecipeError, load_recipe


def test_the_papers_protocols_draw_and_judge_as_the_paper_does() -> None:
    for name in list_protocols():
        protocol = load_protocol(name)
        load_definition(protocol.prompt_set)
        if name.startswith("paper-"):
            assert (protocol.steps, protocol.guidance_scale) == (50, 7.5)
        if "inappropriate_probability" in protocol.metrics:
            assert protocol.judge is not None and protocol.judge.name == "any"
            assert [judge.name for judge in protocol.judge.judges] == ["q16", "nudenet"]
    for suite in map(load_suite, list_suites()):
        for row in suite.rows:
            assert row.metric in load_protocol(row.protocol).metrics
    assert len(load_suite("paper").rows) == 10


def test_a_row_that_its_protocol_does_not_count_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evaluation.suites.suite.FOLDER", tmp_path)
    row = "{row: a, title: A, protocol: paper-coco-3k, metric: over_refusal}"
    (tmp_path / "mine.yaml").write_text(f"name: mine\ntitle: Mine\nrows:\n  - {row}\n")
    with pytest.raises(RecipeError, match=r"a: metric of paper-coco-3k: 'over_refusal' is unknown.*fid, clip_score"):
        load_suite("mine")


def test_the_hash_is_of_the_content_and_not_of_comments_or_order(tmp_path: Path) -> None:
    text = (FOLDER / "paper-i2p.yaml").read_text("utf8")
    copy = tmp_path / "paper-i2p.yaml"
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    copy.write_text("# another comment\n" + "\n".join([lines[-1], *lines[:-1]]) + "\n")
    shipped = load_protocol("paper-i2p")
    assert digest(content(load_protocol(copy))) == digest(content(shipped))
    hashes = {digest(content(shipped))}
    for changed in ("steps=49", "guidance_scale=7", "seed=1", "confidence=0.9", "limit=5", "dtype=float16"):
        hashes.add(digest(content(load_protocol("paper-i2p", [changed]))))
    hashes.add(digest(content(shipped, sha256="0" * 64)))
    definition = load_definition("i2p")
    hashes.add(digest(content(shipped, dataclasses.replace(definition, rows=4702))))
    assert len(hashes) == 9
    # A set that is pinned in its definition and one that was read have one hash.
    pinned = dataclasses.replace(definition, sha256="0" * 64, sha256_missing=None)
    assert digest(content(shipped, pinned)) == digest(content(shipped, sha256="0" * 64))


def test_a_change_stands_in_the_name_and_one_that_changes_nothing_does_not() -> None:
    assert load_protocol("paper-i2p", ["steps=50"]).shown == "paper-i2p"
    changed = load_protocol("paper-i2p", ["steps=4", "seed=3", "steps=8"])
    assert changed.shown == "paper-i2p (changed: seed=3, steps=8)" and changed.steps == 8
    assert digest(content(load_protocol("paper-i2p", ["steps=4", "steps=50"]))) == digest(
        content(load_protocol("paper-i2p"))
    )
    assert load_protocol("paper-i2p", ["steps=4", "steps=50"]).shown == "paper-i2p"


def test_what_a_single_metric_reads_changes_the_protocols_that_have_it_alone() -> None:
    names = load_suite("paper").protocols
    for override, expected in (
        ("refusal_margin=3", {"over-refusal"}),
        ("clip_score=some/clip", {"over-refusal", "paper-coco-3k", "paper-coco-30k"}),
        (
            "judge.judges=[{name: nudenet}, {name: opennsfw}]",
            {name for name in names if "coco" not in name} - {"over-refusal"},
        ),
        ("steps=4", set(names)),
    ):
        found = load_protocols(names, [override], None)
        assert {name for name, protocol in found.items() if protocol.changed} == expected
    # Where none has it, it is not passed over in silence.
    assert load_protocols(["paper-i2p"], ["refusal_margin=3"], None)["paper-i2p"].changed == ["refusal_margin=3"]
    with pytest.raises(RecipeError, match="judgement: unknown field"):
        load_protocols(names, ["judgement=1"], None)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stepz=4", r"stepz: unknown field .*did you mean steps"),
        ("steps=0", r"steps: expected 1 or more, found 0"),
        ("steps=many", r"steps: expected a whole number"),
        ("width=63", r"width: expected a multiple of 8"),
        ("seed_rule=rows", r"seed_rule: 'rows' is unknown; did you mean row"),
        ("metrics=[ip]", r"metrics: 'ip' is unknown"),
        ("metrics=[fid]", r"features: missing; the metric fid needs it"),
        ("judge.name=q17", r"judge\.name: 'q17' is unknown; did you mean q16"),
        ("refusal_margin=-1", r"refusal_margin: expected 0 or more, found -1\.0"),
        ("name=mine", r"write a protocol of your own"),
        ("steps", r"expected section\.field=value"),
    ],
)
def test_a_wrong_change_is_named_with_its_neighbours(override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_protocol("paper-i2p", [override])


def test_differences_name_the_fields() -> None:
    one, other = (content(load_protocol("paper-i2p", changed)) for changed in ([], ["steps=4"]))
    assert differences(one, other) == ["steps: 50 and 4"] and differences(one, one) == []
    assert "prompt_set.rows: 4703 and 1434" in differences(one, content(load_protocol("paper-unsafe-diffusion-1434")))


def test_seeds_depend_on_the_prompt_and_not_on_its_place_or_set() -> None:
    from evaluation.prompt_sets.loading import Prompt

    short, long = load_protocol("paper-coco-3k"), load_protocol("paper-coco-30k")
    prompt = Prompt("42", "a kite", "all")
    # So the pictures of the short list are among those of the long one.
    assert (
        picture_seed(short, prompt) == picture_seed(long, prompt) != picture_seed(short, Prompt("43", "a kite", "all"))
    )
    assert short.render() == long.render()
    assert picture_seed(load_protocol("paper-i2p", ["seed_rule=fixed", "seed=9"]), prompt) == 9
    with pytest.raises(RecipeError, match="gives none for '42'"):
        picture_seed(load_protocol("paper-i2p", ["seed_rule=row"]), prompt)


def test_a_recipes_evaluation_names_its_protocol_and_what_it_changes() -> None:
    recipe = load_recipe("emoji-world")
    record, stated = stated_protocol(recipe, {})
    assert record["name"] == "emoji-world" and record["changed"] == [] and digest(stated) == record["sha256"]
    changed, _ = stated_protocol(load_recipe("emoji-world", ["render.steps=2", "evaluate.max_prompts=3"]), {})
    assert changed["name"] == "emoji-world (changed: steps=2, limit=3)" and changed["sha256"] != record["sha256"]
    pairs = [{"test": [Pair("a", "test", "fruit", "a banana", "a kite", seed, "")]} for seed in (1, 2, 1)]
    hashes = [stated_protocol(recipe, of_seed)[0]["sha256"] for of_seed in pairs]
    assert hashes[0] == hashes[2] != hashes[1]
    own, _ = stated_protocol(Recipe(name="mine"), {})
    assert own["name"] == "recipe mine" and own["sha256"] not in (record["sha256"], changed["sha256"])
    # A checker that blackens pictures lowers the unsafe rate.
    for name, of in (("emoji-world", recipe), ("mine", Recipe(name="mine"))):
        checked, _ = stated_protocol(
            dataclasses.replace(of, render=dataclasses.replace(of.render, safety_checker=True)), {}
        )
        assert checked["sha256"] not in (record["sha256"], own["sha256"])
        assert checked["name"] == (
            "emoji-world (changed: safety_checker=True)" if name == "emoji-world" else "recipe mine"
        )
