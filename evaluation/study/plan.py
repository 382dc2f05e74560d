"""What a study compares: a YAML of groups of variants, read and checked. What a variant is made of, `making.py` knows.

The plans `merge` and `scaling` stand in `plans/`; a path to a file of one's own is as good."""

import dataclasses
import itertools
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recipes import MergeConfig, Recipe, RecipeError
from recipes.check import MERGE_METHODS, check
from recipes.loading import fill, find_file, read_mapping, unknown_name

PLANS = Path(__file__).parent / "plans"
KINDS = ("merge", "scaling")
BASE = "base"
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")


@dataclass(frozen=True)
class Variant:
    """One adapter that is compared.

    Args:
        name (`str`): small letters, digits, dashes; the name of its folder.
        merge (`dict[str, Any]`, *optional*): merge the experts: fields of the recipe's section `merge` in place of the
            recipe's; without `method` it is the recipe's own merge.
        single_expert (`str`, *optional*): `best`, the expert with the lowest unsafe rate over the validation prompts of
            all categories.
        all_single (`bool`, *optional*, defaults to `False`): one LoRA on the pairs of all categories from zero, of the
            merged rank, in as many steps as all experts and the joint tuning take together.
        sft (`bool`, *optional*, defaults to `False`): the same without the preference term.
        tune (`bool`, *optional*, defaults to `False`): followed by the recipe's joint tuning; the other two controls
            then take the experts' steps before it, so that the sum is the same.
        tune_steps (`int`, *optional*): of that tuning; None takes its group's, or the recipe's.
        rank (`int`, *optional*): of the adapter at most; None takes the recipe's `merge.rank`.
    """

    name: str
    merge: dict[str, Any] | None = None
    single_expert: str | None = None
    all_single: bool = False
    sft: bool = False
    tune: bool = False
    tune_steps: int | None = None
    rank: int | None = None

    @property
    def method(self) -> str:
        """What the table calls it; `recipe` for the recipe's own method, until a recipe says which."""
        if self.merge is not None:
            return str(self.merge.get("method", "recipe"))
        return "single_expert" if self.single_expert else "sft" if self.sft else "all_single"


@dataclass(frozen=True)
class Grid:
    """A variant for each combination of some options of `merge`, named NAME-value-value.

    Args:
        name (`str`): first part of the names.
        merge (`dict[str, Any]`): what all have in common.
        over (`dict[str, Any]`): option -> list of its values.
    """

    name: str
    merge: dict[str, Any]
    over: dict[str, Any]


@dataclass(frozen=True)
class Group:
    """Variants that are made with the same seeds and prompts.

    Args:
        name (`str`): of the group.
        variants (`list[Variant]`), grid (`Grid`, *optional*): what is compared.
        both (`bool`, *optional*, defaults to `False`): make each variant a second time with the joint tuning, as
            NAME-tuned.
        tune_steps (`int`, *optional*): steps of the joint tuning; None takes the recipe's `merge.tune_steps`. The more
            of them, the less is left of what merges differ in.
        seeds (`int`, *optional*): how many of the study's seeds; None takes all.
        prompts (`int`, *optional*): prompts a split at most; None takes what the recipe's `evaluate.max_prompts` says.
    """

    name: str
    variants: list[Variant] = field(default_factory=list)
    grid: Grid | None = None
    both: bool = False
    tune_steps: int | None = None
    seeds: int | None = None
    prompts: int | None = None


@dataclass(frozen=True)
class Plan:
    """A study.

    Args:
        name (`str`), kind (`str`): `merge` or `scaling`.
        reference (`str`): the variant that all others are tested against.
        groups (`list[Group]`): the first is worked through for all seeds before the second begins.
        concepts (`list[int | str]`): of a scaling study: numbers of concepts that are aligned, and `all`.
    """

    name: str
    kind: str
    reference: str
    groups: list[Group]
    concepts: list[int | str] = field(default_factory=list)

    @property
    def variants(self) -> list[Variant]:
        """All variants, in the plan's order."""
        return [variant for group in self.groups for variant in group.variants]


@dataclass(frozen=True)
class Unit:
    """One variant of one seed.

    Args:
        seed (`int`), group (`str`): of the study.
        variant (`Variant`, *optional*): None for the base model.
        prompts (`int`, *optional*): prompts a split at most.
        concepts (`int` or `str`, *optional*): of a scaling study: how many are aligned, or `all`.
    """

    seed: int
    group: str
    variant: Variant | None
    prompts: int | None
    concepts: int | str | None = None

    @property
    def name(self) -> str:
        """Of the variant's folder."""
        name = BASE if self.variant is None else self.variant.name
        return name if self.concepts is None or self.variant is None else f"concepts-{self.concepts}/{name}"

    def folder(self, out: Path) -> Path:
        """OUT/seed-N/variants/NAME."""
        return out / f"seed-{self.seed}" / "variants" / self.name


def kind_of(variant: Variant | None) -> str:
    """Variants of one kind take about as long to make."""
    return BASE if variant is None else f"{variant.method}{', tuned' if variant.tune else ''}"


def load_plan(name_or_path: str | Path, kind: str) -> Plan:
    """Read a plan, its grids and pairs of variants spelled out.

    Raises:
        `RecipeError`: naming file and field, for an unknown field, name or method, or a plan of another kind.
    """
    path = find_file(name_or_path, PLANS, "plan")
    plan = fill(Plan, read_mapping(path), str(path))
    if plan.kind not in KINDS:
        raise unknown_name(f"{path}: kind", plan.kind, KINDS)
    if plan.kind != kind:
        raise RecipeError(f"{path}: kind: found {plan.kind}; run it by `coprov2 study {plan.kind}`")
    plan = dataclasses.replace(plan, groups=[_spelled_out(group, f"{path}: {group.name}") for group in plan.groups])
    _check(plan, str(path))
    return plan


def _spelled_out(group: Group, where: str) -> Group:
    variants = list(group.variants)
    if group.grid is not None:
        known = {field.name for field in dataclasses.fields(MergeConfig)}
        for option, values in group.grid.over.items():
            if option not in known:
                raise unknown_name(f"{where}: grid.over", option, sorted(known))
            if not isinstance(values, list) or not values:
                raise RecipeError(f"{where}: grid.over.{option}: expected a list of values, found {values!r}")
        for values in itertools.product(*group.grid.over.values()):
            chosen = dict(zip(group.grid.over, values, strict=True))
            name = "-".join([group.grid.name, *(str(value).replace("_", "") for value in values)])
            variants.append(Variant(name, merge={**group.grid.merge, **chosen}))
    if group.both:
        tuned = next((variant.name for variant in variants if variant.tune), None)
        if tuned is not None:
            raise RecipeError(
                f"{where}: variant {tuned}: tune: both makes it with and without the tuning; leave one out"
            )
        variants = [
            made
            for variant in variants
            for made in (variant, dataclasses.replace(variant, name=f"{variant.name}-tuned", tune=True))
        ]
    variants = [
        dataclasses.replace(variant, tune_steps=group.tune_steps) if variant.tune_steps is None else variant
        for variant in variants
    ]
    return dataclasses.replace(group, variants=variants, grid=None, both=False)


def _check(plan: Plan, where: str) -> None:
    names = [variant.name for variant in plan.variants]
    for name in names:
        if not _NAME.fullmatch(name) or name == BASE:
            raise RecipeError(
                f"{where}: variant {name!r}: expected a name of small letters, digits and dashes other than {BASE}"
            )
    double = next((name for name in names if names.count(name) > 1), None)
    if double is not None:
        raise RecipeError(f"{where}: variant {double!r} stands twice; give one of them another name")
    if not names:
        raise RecipeError(f"{where}: groups: found no variant; expected at least one")
    if plan.reference not in (BASE, *names):
        raise unknown_name(f"{where}: reference", plan.reference, [BASE, *names])
    listed: dict[str, list[Any]] = {"groups": [group.name for group in plan.groups], "concepts": plan.concepts}
    for kind, found in listed.items():
        # What stands twice would be made, and counted, twice.
        again = next((one for one in found if found.count(one) > 1), None)
        if again is not None:
            raise RecipeError(f"{where}: {kind}: {again!r} stands twice; expected each once")
    for group in plan.groups:
        numbers = [("seeds", group.seeds), ("prompts", group.prompts), ("tune_steps", group.tune_steps)]
        numbers += [(name, getattr(one, name)) for one in group.variants for name in ("tune_steps", "rank")]
        for name, number in numbers:
            if number is not None and number < 1:
                raise RecipeError(f"{where}: {group.name}: {name}: found {number}, expected 1 or more, or null")
    for point in plan.concepts:
        if not (isinstance(point, int) and point >= 1) and point != "all":
            raise RecipeError(f"{where}: concepts: found {point!r}, expected whole numbers from 1 on, or all")
    if (plan.kind == "scaling") != bool(plan.concepts):
        wanted = "numbers of concepts" if plan.kind == "scaling" else "none, in a merge study"
        raise RecipeError(f"{where}: concepts: found {plan.concepts}, expected {wanted}")
    for variant in plan.variants:
        given = [variant.merge is not None, variant.single_expert is not None, variant.all_single, variant.sft]
        if sum(given) != 1:
            raise RecipeError(
                f"{where}: variant {variant.name}: expected one of merge, single_expert, all_single and sft, "
                f"found {sum(given)} of them"
            )
        if variant.single_expert not in (None, "best"):
            raise unknown_name(f"{where}: variant {variant.name}: single_expert", str(variant.single_expert), ["best"])
        for key in ("tune_steps", "compare", "rank"):
            if key in (variant.merge or {}):
                raise RecipeError(
                    f"{where}: variant {variant.name}: merge.{key}: not a merge option here; say tune and rank beside "
                    "merge, and have a variant for each merge"
                )


def tune_steps(recipe: Recipe, variant: Variant) -> int:
    """Steps of the joint tuning that a variant, or what it is compared with, is given."""
    return recipe.merge.tune_steps if variant.tune_steps is None else variant.tune_steps


def merge_config(recipe: Recipe, variant: Variant, where: str = "") -> MergeConfig:
    """The section `merge` that a variant is made with; for those that merge nothing, the sum of one.

    The recipe's `gain` is tuned to the recipe's method; another method starts at 1, as in `merge.compare`.

    Raises:
        `RecipeError`: for an unknown or wrong field, or a tuning where the recipe's `merge.tune_steps` is 0.
    """
    where = where or f"variant {variant.name}"
    if variant.tune and not tune_steps(recipe, variant):
        raise RecipeError(f"{where}: tune: the recipe's merge.tune_steps is 0; set it, or leave the tuned variants out")
    given = {"method": "sum"} if variant.merge is None else variant.merge
    method = given.get("method", recipe.merge.method)
    if method not in MERGE_METHODS:
        raise unknown_name(f"{where}: merge.method", str(method), MERGE_METHODS)
    mapping = {
        **dataclasses.asdict(recipe.merge),
        **({} if method == recipe.merge.method else {"gain": 1.0}),
        **given,
        "compare": [],
        "rank": variant.rank or recipe.merge.rank,
        "tune_steps": tune_steps(recipe, variant) if variant.tune else 0,
    }
    config = fill(MergeConfig, mapping, where, "merge")
    for name, problem in check(dataclasses.replace(recipe, merge=config)):
        if name.startswith("merge."):
            raise RecipeError(f"{where}: {name}: {problem}")
    return config
