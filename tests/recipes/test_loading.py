"""Recipes: what is taken, and that every mistake is one line that names the field and its neighbours."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from recipes import Recipe, RecipeError, TrainConfig, list_recipes, load_recipe
from recipes.check import MERGE_METHODS, RULES, check
from recipes.loading import fill
from recipes.merge_plans import METHOD_OPTIONS, planned_merges


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "my.yaml"
        path.write_text(text, "utf8")
        return path

    return write


def message(error):
    text = str(error.value)
    assert "\n" not in text
    return text


def test_every_shipped_recipe_loads():
    assert "emoji-world" in list_recipes()
    for name in list_recipes():
        assert load_recipe(name).name == name


def test_fields_come_from_the_file_and_the_rest_keeps_its_default(write):
    recipe = load_recipe(write("name: mine\ntrain:\n  beta: 50\n  categories: [hate]\n"))
    assert recipe == Recipe(name="mine", train=TrainConfig(beta=50.0, categories=["hate"]))
    assert isinstance(recipe.train.beta, float)


def test_an_empty_file_is_the_default_recipe(write):
    assert load_recipe(write("# nothing\n")) == Recipe()


def test_overrides_win_over_the_file_and_later_ones_over_earlier(write):
    path = write("build:\n  train_pairs: 3\n")
    recipe = load_recipe(
        str(path),
        ["build.train_pairs=4", "build.train_pairs=5", "train.learning_rate=1e-3", "merge.compare=[ties, svd]",
         "merge.rank=8", "llm.revision=null", "seed=7"],
    )  # fmt: skip
    assert recipe.build.train_pairs == 5 and recipe.train.learning_rate == 0.001
    assert recipe.merge.compare == ["ties", "svd"] and recipe.merge.rank == 8 and recipe.seed == 7


def test_an_unknown_field_is_named_with_what_was_found_close_names_and_all_neighbours(write):
    path = write("build:\n  train_pair: 3\n")
    with pytest.raises(RecipeError) as error:
        load_recipe(path)
    text = message(error)
    assert text.startswith(
        f"{path}: build.train_pair: unknown field (found 3 (a whole number)); did you mean train_pairs"
    )
    assert "Fields of build: taxonomy, steps, train_pairs, validation_pairs" in text


def test_an_unknown_section_is_named_with_the_sections(write):
    with pytest.raises(RecipeError) as error:
        load_recipe(write("trian: {beta: 1}\n"))
    assert "trian: unknown field" in message(error) and "did you mean train?" in message(error)
    assert "Fields of recipe: name, base_model, revision, seed, llm" in message(error)


WRONG_TYPES = [
    ("seed: high", "seed: expected a whole number, found 'high' (text)"),
    ("seed: 1.5", "seed: expected a whole number, found 1.5 (a number)"),
    ("seed: true", "seed: expected a whole number, found True (true or false)"),
    ("name: 12", "name: expected text, found 12 (a whole number); put it in quotes"),
    ("render: {steps: null}", "render.steps: expected a whole number, found null"),
    ("train: {beta: strong}", "train.beta: expected a number, found 'strong' (text)"),
    ("train: {beta: .nan}", "train.beta: expected a number, found nan (a number)"),
    ("train: {beta: true}", "train.beta: expected a number, found True (true or false)"),
    ("evaluate: {experts: 1}", "evaluate.experts: expected true or false, found 1 (a whole number)"),
    ("evaluate: {max_prompts: few}", "evaluate.max_prompts: expected a whole number or null, found 'few' (text)"),
    ("build: {steps: write}", "build.steps: expected a list (of text each), found 'write' (text)"),
    ("build: {steps: [write, 3]}", "build.steps[1]: expected text, found 3 (a whole number)"),
    ("train: 5", "train: expected a section with categories, max_steps"),
    ("train: [beta]", "train: expected a section with categories, max_steps"),
]


@pytest.mark.parametrize(("text", "expected"), WRONG_TYPES)
def test_a_wrong_type_says_what_was_expected_and_found(write, text, expected):
    path = write(text)
    with pytest.raises(RecipeError) as error:
        load_recipe(path)
    assert message(error).startswith(f"{path}: {expected}")


WRONG_VALUES = [
    ("train.beta", "0", "above 0"),
    ("train.learning_rate", "-1e-3", "above 0"),
    ("train.prompt_dropout", "1.2", "0 to 1"),
    ("train.resolution", "4", "8 or more"),
    ("build.train_pairs", "0", "1 or more"),
    ("build.near_duplicate", "0", "above 0 and at most 1"),
    ("build.version", "1.0", "a tag vMAJOR.MINOR.PATCH"),
    ("build.oversample", "0.5", "1 or more"),
    ("judge.threshold", "1.5", "0 to 1"),
    ("render.dtype", "int8", "one of float32, float16, bfloat16"),
    ("render.height", "63", "a multiple of 8"),
    ("llm.temperature", "0", "above 0"),
    ("merge.method", "bset", "one of comerge"),
    ("merge.compare", "[ties, bset]", "each one of comerge"),
    ("merge.unit", "column", "one of row, rank, weight"),
    ("merge.score", "sum", "one of count, mean"),
    ("merge.selection", "best", "one of hard, soft, top_n"),
    ("merge.inputs", "other", "one of base, own"),
    ("merge.density", "0", "above 0 and at most 1"),
    ("merge.rank", "0", "1 or more"),
    ("merge.calibration_timesteps", "[1000]", "each 0 to 999"),
    ("evaluate.splits", "[tset]", "at least one of train, validation"),
    ("evaluate.confidence", "1", "above 0 and at most 0.999999"),
    ("evaluate.confidence", "0.9999999999999999", "above 0 and at most 0.999999"),
    ("publish.namespace", "a/b", "a name without a slash"),
    ("seed", "-1", "0 to 2147483647"),
]


@pytest.mark.parametrize(("name", "value", "expected"), WRONG_VALUES)
def test_a_wrong_value_names_the_field_and_what_may_stand_there(name, value, expected):
    quoted = f'"{value}"' if name == "build.version" else value
    with pytest.raises(RecipeError) as error:
        load_recipe("emoji-world", [f"{name}={quoted}"])
    assert message(error).startswith(f"--set {name}={quoted}: {name}: expected ") and expected in message(error)


@pytest.mark.parametrize(
    ("compare", "expected"),
    [
        ("ties:densty=1", "'ties:densty=1': merge.densty: unknown field"),
        ("ties:density", "expected method:field=value,field=value, found 'density'"),
        ("sum:rank=0", "merge sum-rank-0: merge.rank: expected 1 or more"),
        ("sum:unit=rank", "unit does nothing for the method sum, which reads rank, gain, tune_steps"),
        ("svd:density=0.5", "density does nothing for the method svd"),
        ("best:score=mean", "score does nothing for the method best"),
        ("comerge:method=sum", "method does nothing for the method comerge"),
        ("sum:tune_learning_rate=1", "tune_learning_rate does nothing without tune_steps"),
        ("sum:rank=1,rank=2", "rank stands twice"),
    ],
)
def test_compared_merges_are_checked_with_the_recipe(compare, expected):
    override = f"merge.compare=['{compare}']"
    with pytest.raises(RecipeError) as error:
        load_recipe("emoji-world", [override])
    assert message(error).startswith(f"--set {override}: merge") and expected in message(error)


def test_compared_merges_of_one_name_are_refused():
    both = "merge.compare=['least_squares:ridge=1e-4', 'least_squares:ridge=1e+4']"
    with pytest.raises(RecipeError, match="another entry goes by the name least_squares-ridge-1e-4 too"):
        load_recipe("emoji-world", [both])
    taken = (
        "merge.compare=['best:restore=all', 'ties_svd:density=0.5', 'sum:tune_steps=3,tune_learning_rate=1', sum, sum]"
    )
    assert list(planned_merges(load_recipe("emoji-world", [taken])))[1:] == [
        "best-restore-all", "ties_svd-density-0.5", "sum-tune_steps-3-tune_learning_rate-1", "sum",
    ]  # fmt: skip


def test_what_each_method_reads_is_known():
    assert METHOD_OPTIONS.keys() == set(MERGE_METHODS) - {"best"}


def test_a_wrong_value_in_the_file_names_the_file(write):
    path = write("train: {beta: 0.0}")
    with pytest.raises(RecipeError) as error:
        load_recipe(path)
    assert message(error) == f"{path}: train.beta: expected above 0, found 0.0"


def test_the_rules_are_about_fields_that_there_are_and_hold_for_the_defaults():
    recipe = dataclasses.asdict(Recipe())
    names = {f"{section}.{name}" for section, value in recipe.items() if isinstance(value, dict) for name in value}
    assert set(RULES) <= names | set(recipe)
    assert list(check(Recipe())) == []


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.beta", "expected section.field=value"),
        ("=3", "expected section.field=value"),
        ("train.bta=3", "train.bta: unknown field (found 3 (a whole number)); did you mean beta"),
        ("tran.beta=3", "tran: unknown field (found 3 (a whole number)); did you mean train?"),
        ("train.beta.x=3", "train.beta is a value, not a section"),
        ("train.beta=high", "train.beta: expected a number, found 'high' (text)"),
        ("train.beta=", "train.beta: expected a number, found null"),
        ("train.beta=[1", "not valid YAML"),
        ("train.beta={a: 1}", "train.beta: expected a number, found {'a': 1} (a mapping)"),
    ],
)
def test_a_mistake_in_an_override_is_told_as_one(override, expected):
    with pytest.raises(RecipeError) as error:
        load_recipe("emoji-world", [override])
    assert message(error).startswith(f"--set {override}") and expected in message(error)


def test_a_missing_recipe_lists_those_that_are_shipped():
    with pytest.raises(RecipeError) as error:
        load_recipe("emoji-wrld")
    assert "emoji-wrld: no such recipe; did you mean emoji-world?" in message(error)
    for name in list_recipes():
        assert name in message(error)


def test_a_syntax_error_names_file_line_and_column(write):
    path = write("name: x\ntrain: {beta: 1\nllm: 3\n")
    with pytest.raises(RecipeError) as error:
        load_recipe(path)
    assert message(error).startswith(f"{path}, line 3, column") and "not valid YAML" in message(error)


@pytest.mark.parametrize("text", ["train: {beta: 1}\ntrain: {beta: 2}\n", "train:\n  beta: 1\n  beta: 1\n"])
def test_a_key_that_stands_twice_is_an_error(write, text):
    with pytest.raises(RecipeError, match=r"stands twice"):
        load_recipe(write(text))


@pytest.mark.parametrize("text", ["[1, 2]", "just text", "3"])
def test_a_file_that_is_no_mapping_is_an_error(write, text):
    with pytest.raises(RecipeError, match="expected sections"):
        load_recipe(write(text))


def test_a_file_that_is_not_text_is_an_error(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="cannot be read"):
        load_recipe(path)


def test_a_tag_that_would_run_code_is_refused(write):
    with pytest.raises(RecipeError, match="not valid YAML"):
        load_recipe(write("name: !!python/object/apply:os.getcwd []"))


@dataclass
class Leaf:
    size: int
    note: str | None = None


@dataclass
class Tree:
    leaves: list[Leaf]
    table: dict[str, int] = field(default_factory=dict)


def test_fill_makes_nested_dataclasses_in_lists():
    assert fill(Tree, {"leaves": [{"size": 1}, {"size": 2, "note": "x"}]}, "f") == Tree([Leaf(1), Leaf(2, "x")])


def test_fill_names_the_place_in_a_list_and_a_missing_field():
    with pytest.raises(RecipeError, match=r"f: leaves\[1\]\.size: missing; expected a whole number"):
        fill(Tree, {"leaves": [{"size": 1}, {}]}, "f")
    with pytest.raises(RecipeError, match=r"f: leaves\[0\]\.sze: unknown field .*did you mean size\?"):
        fill(Tree, {"leaves": [{"sze": 1}]}, "f")


def test_the_schema_of_the_recipe_imports_nothing_of_the_other_packages():
    for path in Path(load_recipe.__code__.co_filename).parent.glob("*.py"):
        text = path.read_text("utf8")
        assert not any(
            f"{word} {name}" in text for word in ("import", "from") for name in ("dataset_builder", "training", "hub")
        )
