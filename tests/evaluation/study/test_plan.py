"""Plans: what is refused by name, and what the shipped ones hold."""

from dataclasses import replace
from pathlib import Path

import pytest

from evaluation.study.plan import Group, Plan, Variant, load_plan, merge_config, tune_steps
from evaluation.study.running import Study
from evaluation.study.subsets import nested_order
from recipes import Recipe, RecipeError, load_recipe

GOOD = """
name: mine
kind: merge
reference: one
groups:
  - name: main
    variants:
      - {name: one, merge: {method: ties}}
"""


def written(folder: Path, old: str = "", new: str = "") -> Path:
    path = folder / "plan.yaml"
    path.write_text(GOOD.replace(old, new) if old else GOOD, "utf8")
    return path


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("kind: merge", "kind: merge\nspeed: 3", "speed: unknown field"),
        ("{name: one, merge:", "{name: one, tuned: true, merge:", "groups[0].variants[0].tuned: unknown field"),
        ("kind: merge", "kind: sorting", "kind: 'sorting' is unknown"),
        ("reference: one", "reference: two", "reference: 'two' is unknown"),
        ("name: one", "name: base", "variant 'base': expected a name"),
        ("name: one", "name: ../one", "variant '../one': expected a name"),
        ("merge: {method: ties}", "tune: true", "variant one: expected one of merge"),
        ("merge: {method: ties}", "merge: {}, sft: true", "found 2 of them"),
        ("merge: {method: ties}", "single_expert: worst", "single_expert: 'worst' is unknown"),
        ("{method: ties}", "{method: ties, tune_steps: 3}", "merge.tune_steps: not a merge option here"),
        ("    variants:", "    seeds: 0\n    variants:", "main: seeds: found 0"),
        ("    variants:", "    tune_steps: 0\n    variants:", "main: tune_steps: found 0"),
        ("kind: merge", "kind: merge\nconcepts: [3]", "concepts: found [3], expected none"),
        ("kind: merge", "kind: merge\nconcepts: [3, all, 3]", "concepts: 3 stands twice"),
        ("groups:", "groups:\n  - name: main\n    variants: [{name: two, sft: true}]", "groups: 'main' stands twice"),
        ("merge: {method: ties}", "merge: {method: ties}, rank: 0", "main: rank: found 0, expected 1 or more"),
        (
            "    variants:",
            "    both: true\n    variants:\n      - {name: two, sft: true, tune: true}",
            "two: tune: both",
        ),
        ("    variants:", "    grid: {name: g, merge: {}, over: {unti: [row]}}\n    variants:", "'unti' is unknown"),
    ],
)
def test_a_mistake_in_a_plan_is_refused_by_name(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(RecipeError) as error:
        load_plan(written(tmp_path, old, new), "merge")
    assert said in str(error.value) and str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_a_plan_of_the_other_kind_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="coprov2 study merge"):
        load_plan(written(tmp_path), "scaling")


def test_a_groups_tuning_holds_for_all_its_variants_that_have_none_of_their_own(tmp_path: Path) -> None:
    variants = """    tune_steps: 30
    variants:
      - {name: two, merge: {method: svd}, tune: true, tune_steps: 7}
"""
    main, other = load_plan(written(tmp_path, "    variants:\n", variants), "merge").variants, Recipe()
    other.merge.tune_steps = 100
    assert [(variant.name, tune_steps(other, variant)) for variant in main] == [("two", 7), ("one", 30)]
    assert [merge_config(other, variant).tune_steps for variant in main] == [7, 0]
    assert tune_steps(other, load_plan(written(tmp_path), "merge").variants[0]) == 100


def test_a_wrong_method_or_option_is_refused_before_anything_runs(tmp_path: Path) -> None:
    for options, said in (("{method: tise}", "did you mean ties"), ("{method: ties, density: 2}", "merge.density")):
        plan = load_plan(written(tmp_path, "{method: ties}", options), "merge")
        with pytest.raises(RecipeError, match=said):
            Study(plan, Recipe(), tmp_path, [0])


@pytest.mark.parametrize("kind", ["merge", "scaling"])
def test_the_shipped_plans_fit_the_emoji_worlds_recipe(kind: str, tmp_path: Path) -> None:
    recipe = load_recipe("emoji-world")
    study = Study(load_plan(kind, kind), recipe, tmp_path, [0, 1, 2, 3, 4])
    assert len(study.undone()) == len(study.units())
    for _, variant in study.variants():
        config = merge_config(recipe, variant)
        assert config.rank == recipe.merge.rank and config.tune_steps == (
            tune_steps(recipe, variant) if variant.tune else 0
        )


def test_the_merge_plan_holds_every_combination_of_comerge_and_each_merge_with_and_without_tuning() -> None:
    plan = load_plan("merge", "merge")
    own, main, controls, grid = plan.groups
    assert [(variant.merge, variant.tune) for variant in own.variants] == [({}, True)]
    assert len(grid.variants) == len({str(variant.merge) for variant in grid.variants}) == 3 * 3 * 2 * 2
    names = {variant.name for variant in main.variants}
    assert all(f"{name}-tuned" in names for name in names if not name.endswith("-tuned"))
    assert {variant.method for variant in main.variants + controls.variants} >= {
        *(
            "comerge",
            "least_squares",
            "subspace",
            "distill",
            "linear",
            "sum",
            "svd",
            "ties",
            "dare_linear",
            "dare_ties",
        ),
        *("magnitude_prune", "single_expert", "all_single", "sft"),
    }


def units_of(plan: Plan, tmp_path: Path, **options: object) -> list[tuple[int, str]]:
    study = Study(plan, load_recipe("emoji-world"), tmp_path, [3, 4], **options)  # type: ignore[arg-type]
    return [(unit.seed, unit.name) for unit in study.units()]


def test_the_first_group_is_done_for_all_seeds_before_the_second(tmp_path: Path) -> None:
    units = units_of(load_plan("merge", "merge"), tmp_path)
    assert [unit for unit in units if unit[1] in ("base", "comerge", "sft", "comerge-row-hard-base-count")] == [
        *((3, "base"), (4, "base"), (3, "comerge"), (4, "comerge"), (3, "sft"), (4, "sft")),
        *((3, "comerge-row-hard-base-count"), (4, "comerge-row-hard-base-count")),
    ]
    assert units_of(load_plan("merge", "merge"), tmp_path, only=["sft"]) == [
        *((3, "base"), (3, "sft"), (4, "base"), (4, "sft"))
    ]
    with pytest.raises(RecipeError, match="did you mean"):
        units_of(load_plan("merge", "merge"), tmp_path, only=["stf"])


def test_the_base_model_is_judged_on_the_same_prompts_whatever_part_of_the_plan_is_asked_for(tmp_path: Path) -> None:
    plan = Plan("p", "merge", "sum", [Group("few", [Variant("sum", merge={"method": "sum"})], prompts=7), Group("all")])
    for listed, limit, expected in ((plan.groups, None, None), (plan.groups[:1], None, 7), (plan.groups, 5, 5)):
        study = Study(replace(plan, groups=listed), load_recipe("emoji-world"), tmp_path, [3], ["sum"], limit)
        assert [unit.prompts for unit in study.units()] == [expected, min(7, limit or 7)]


def test_subsets_of_concepts_are_nested_and_even_over_categories() -> None:
    concepts = {f"{c}-{n}-{i}": (str(c), f"thing {n}") for c in range(4) for n in range(5) for i in range(2)}
    order = nested_order(concepts, 7)
    assert sorted(order) == sorted(set(concepts.values())) and nested_order(concepts, 8) != order
    assert nested_order(dict(reversed(concepts.items())), 7) == order
    for size in range(1, 21):
        held = [category for category, _ in order[:size]]
        counts = [held.count(str(c)) for c in range(4)]
        assert max(counts) - min(counts) <= 1
