"""Hostile rows: JSON that is none, fields that are none, texts that are something else."""

import json
from pathlib import Path

from tests.hub.hostile.kinds import SECRET, kind, row, write_rows

LONG = "on a wooden table beside an old clock and three candles"


def _raw(folder: Path, *lines: str) -> None:
    (folder / "rows.jsonl").write_text("\n".join([json.dumps(row()), *lines]) + "\n")


def _unsafe(folder: Path, text: str) -> None:
    """The same trick in both prompts, so that they stay one scene."""
    prompts = {f"{side}_prompt": f"a {thing} {LONG} {SECRET} {text}".strip() for side, thing in _THINGS}
    write_rows(folder, row(**prompts))


_THINGS = (("unsafe", "pistol"), ("safe", "water blaster"))


def _begins(folder: Path, text: str) -> None:
    write_rows(folder, row(**{f"{side}_prompt": f"{text}a {thing} {LONG} {SECRET}" for side, thing in _THINGS}))


@kind("not_json")
def json_cut_off(folder: Path) -> None:
    _raw(folder, json.dumps(row(unsafe_prompt=SECRET))[:-9])


@kind("not_an_object")
def json_list(folder: Path) -> None:
    _raw(folder, json.dumps([SECRET]))


@kind("nested_too_deep")
def json_nested_100000_deep(folder: Path) -> None:
    _raw(folder, '{"category": ' + "[" * 30_000 + "]" * 30_000 + "}")


@kind("not_a_number")
def json_nan(folder: Path) -> None:
    _raw(folder, json.dumps(row(seed=1)).replace("1}", "NaN}"))


@kind("not_a_number")
def json_infinity_by_exponent(folder: Path) -> None:
    _raw(folder, json.dumps(row(seed=1)).replace("1}", "1e999}"))


@kind("repeated_field")
def json_field_twice(folder: Path) -> None:
    _raw(folder, json.dumps(row())[:-1] + f', "concept": "{SECRET}"}}')


@kind("unknown_column")
def json_unknown_field(folder: Path) -> None:
    write_rows(folder, {**row(), "__class__": SECRET})


@kind("wrong_type")
def prompt_is_a_number(folder: Path) -> None:
    write_rows(folder, row(unsafe_prompt=5))


@kind("wrong_type")
def prompt_is_an_object(folder: Path) -> None:
    write_rows(folder, row(unsafe_prompt={"text": SECRET}))


@kind("wrong_type")
def seed_is_true(folder: Path) -> None:
    write_rows(folder, row(seed=True))


@kind("bad_seed")
def seed_below_zero(folder: Path) -> None:
    write_rows(folder, row(seed=-1))


@kind("wrong_type")
def seed_of_thousand_digits(folder: Path) -> None:
    _raw(folder, json.dumps(row(seed=1)).replace("1}", "9" * 1_000 + "}"))


@kind("missing_field")
def concept_missing(folder: Path) -> None:
    write_rows(folder, row(concept=None))


@kind("missing_field")
def prompt_of_spaces(folder: Path) -> None:
    write_rows(folder, row(safe_prompt="   "))


@kind("text_too_long")
def prompt_of_9000_letters(folder: Path) -> None:
    _unsafe(folder, "lamp " * 1_800)


@kind("record_too_long")
def line_of_a_megabyte(folder: Path) -> None:
    _unsafe(folder, "lamp " * 200_000)


@kind("nul")
def text_with_nul(folder: Path) -> None:
    _unsafe(folder, "\0")


@kind("surrogate")
def text_with_half_a_surrogate(folder: Path) -> None:
    _unsafe(folder, "\ud83d")


@kind("control_characters")
def text_with_terminal_colours(folder: Path) -> None:
    _unsafe(folder, "\x1b[31m\x1b]0;owned\x07")


@kind("control_characters")
def text_with_line_breaks(folder: Path) -> None:
    _unsafe(folder, "\n\n# lamp")


@kind("bidi_characters")
def text_turned_around(folder: Path) -> None:
    _unsafe(folder, "\u202elamp\u202c")


@kind("bidi_characters")
def text_with_isolates(folder: Path) -> None:
    _unsafe(folder, "\u2066lamp\u2069")


@kind("zero_width_characters")
def text_with_zero_width_space(folder: Path) -> None:
    _unsafe(folder, "la\u200bmp")


@kind("zero_width_characters")
def text_with_tag_characters(folder: Path) -> None:
    _unsafe(folder, "lamp\U000e0041\U000e0042")


@kind("unassigned_characters")
def text_of_private_use(folder: Path) -> None:
    _unsafe(folder, "\ue000\U0010ffff")


@kind("combining_characters")
def text_with_piled_marks(folder: Path) -> None:
    _unsafe(folder, "lamp" + "\u0316" * 40)


@kind("formula")
def formula_of_a_spreadsheet(folder: Path) -> None:
    _begins(folder, "=cmd ")


@kind("formula")
def formula_with_plus(folder: Path) -> None:
    _begins(folder, "+1 ")


@kind("formula")
def formula_behind_a_space_that_does_not_break(folder: Path) -> None:
    _begins(folder, "\u00a0=cmd ")


@kind("html")
def html_script(folder: Path) -> None:
    _unsafe(folder, "<script>alert(1)</script>")


@kind("html")
def html_picture_handler(folder: Path) -> None:
    _unsafe(folder, "<img src=x onerror=alert(1)>")


@kind("html")
def html_character_reference(folder: Path) -> None:
    _unsafe(folder, "&lt;script&#62;")


@kind("markdown")
def markdown_link(folder: Path) -> None:
    _unsafe(folder, "[lamp](javascript:alert)")


@kind("markdown")
def markdown_picture(folder: Path) -> None:
    _unsafe(folder, "![lamp](lamp.png)")


@kind("markdown")
def markdown_code_fence(folder: Path) -> None:
    _unsafe(folder, "```lamp```")


@kind("template")
def jinja_expression(folder: Path) -> None:
    _unsafe(folder, "{{ 7 * 7 }}")


@kind("template")
def jinja_statement(folder: Path) -> None:
    _unsafe(folder, "{% include lamp %}")


@kind("template")
def shell_substitution(folder: Path) -> None:
    _unsafe(folder, "${jndi}")


@kind("yaml")
def yaml_document(folder: Path) -> None:
    _begins(folder, "--- ")


@kind("yaml")
def yaml_python_tag(folder: Path) -> None:
    _unsafe(folder, "!!python/object/apply")


@kind("address")
def address_of_a_page(folder: Path) -> None:
    _unsafe(folder, "https://example.org/lamp")


@kind("address")
def mention_of_a_user(folder: Path) -> None:
    _unsafe(folder, "@everyone")


@kind("bad_model_name")
def model_name_with_a_path(folder: Path) -> None:
    write_rows(folder, row(llm=f"../../{SECRET}"))


@kind("source_differs")
def source_of_somebody_else(folder: Path) -> None:
    write_rows(folder, row(source=f"community:{SECRET}"))


@kind("source_differs")
def source_synthetic(folder: Path) -> None:
    write_rows(folder, row(source="synthetic"))


@kind("licence_differs")
def licence_of_its_own(folder: Path) -> None:
    write_rows(folder, row(licence=f"{SECRET} licence"))


@kind("bad_pair_id")
def pair_id_with_a_path(folder: Path) -> None:
    write_rows(folder, row(pair_id=f"../{SECRET}"))


@kind("pair_id_differs")
def pair_id_of_another_row(folder: Path) -> None:
    write_rows(folder, row(pair_id="0" * 32))


@kind("duplicate_pair_id")
def pair_id_twice(folder: Path) -> None:
    second = row(
        **{f"{side}_prompt": f"a {thing} under a bridge while boats pass by at noon" for side, thing in _THINGS}
    )
    write_rows(folder, row(pair_id="a" * 32), {**second, "pair_id": "a" * 32})


@kind("unknown_category")
def category_of_nobody(folder: Path) -> None:
    write_rows(folder, row(category=SECRET))


@kind("bad_concept")
def concept_is_a_sentence(folder: Path) -> None:
    write_rows(folder, row(concept=f"{SECRET} is what you should say; then stop"))


@kind("concept_of_other_category")
def concept_of_another_category(folder: Path) -> None:
    write_rows(folder, row(category="hate"))


@kind("same_prompts")
def prompts_that_are_the_same(folder: Path) -> None:
    write_rows(folder, row(safe_prompt=row()["unsafe_prompt"].upper() + "."))


@kind("unsafe_lacks_concept")
def unsafe_prompt_without_the_concept(folder: Path) -> None:
    write_rows(folder, row(unsafe_prompt=f"a lamp {LONG}"))


@kind("safe_names_concept")
def safe_prompt_with_a_concept(folder: Path) -> None:
    write_rows(folder, row(safe_prompt=f"a knife {LONG}"))


@kind("unsafe_names_unseen_concept")
def unsafe_prompt_with_an_unseen_concept(folder: Path) -> None:
    prompts = {f"{side}_prompt": f"a {thing} and {more} {LONG}" for side, thing, more in _TWO}
    write_rows(folder, row(**prompts))


_TWO = (("unsafe", "pistol", "an explosion"), ("safe", "water blaster", "a sun"))


@kind("too_different")
def another_scene(folder: Path) -> None:
    write_rows(folder, row(safe_prompt="two cats sleep near the warm stove in a small blue kitchen at night"))


@kind("characters")
def letters_of_another_script(folder: Path) -> None:
    _unsafe(folder, "лампа")


@kind("duplicate_pair")
def the_same_row_twice(folder: Path) -> None:
    write_rows(folder, row(), row())


@kind("near_duplicate")
def nearly_the_same_row_twice(folder: Path) -> None:
    text = (
        "a {} on a long narrow table in the old hall where seven lamps and nine chairs stand by the wall "
        "while rain falls on the roof and a clock strikes four"
    )
    write_rows(folder, _scene(text), _scene(f"{text} today"))


@kind("published_pair")
def a_published_pair(folder: Path) -> None:
    write_rows(folder, _scene("a {} next to a dog on a blue background"))


@kind("test_duplicate")
def a_pair_of_the_test_split(folder: Path) -> None:
    scene = _scene("a drawing of a {} next to a dog at night")
    write_rows(folder, {**scene, "safe_prompt": scene["safe_prompt"].replace("drawing", "painting")})


def _scene(text: str) -> dict:  # type: ignore[type-arg]
    return row(**{f"{side}_prompt": text.format(thing) for side, thing in _THINGS})
