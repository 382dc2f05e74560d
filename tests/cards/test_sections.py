"""Sections by hand: they outlive a rewriting of the card and a push over the one on the Hub; nothing gets lost."""

import pytest

from cards.sections import keep_sections, merge_remote_sections, sections_by_hand
from recipes import RecipeError


def card(front: str = "license: mit", **sections: str) -> str:
    """A card with sections by name."""
    text = "".join(f"\n<!-- by hand: {name} -->\n{body}<!-- end by hand -->\n" for name, body in sections.items())
    return f"---\n{front}\n---\n\n# Title\n{text}\nThe end.\n"


def test_sections_are_found_by_name() -> None:
    assert sections_by_hand("<!-- by hand: a b -->\nx\n<!-- end by hand -->", "card") == {"a b": "x\n"}
    assert sections_by_hand("<!-- by hand: a -->\n<!-- end by hand -->", "card") == {"a": ""}
    fresh = card(a="default\n")
    assert keep_sections(fresh, "nothing", "card") == fresh


def test_names_in_the_metadata_and_inside_a_line_are_no_markers() -> None:
    front = "license: mit\npretty_name: |\n  x\n<!-- end by hand -->\n"
    text = card(front, a="x\n") + "In a line: <!-- by hand: b --> and <!-- end by hand -->.\n"
    assert sections_by_hand(text, "card") == {"a": "x\n"}


def test_line_ends_of_windows_and_a_byte_order_mark_lose_nothing() -> None:
    theirs = "\ufeff" + card(a="theirs\n").replace("\n", "\r\n")
    assert sections_by_hand(theirs, "card") == {"a": "theirs\n"}
    assert merge_remote_sections(card(a=""), theirs) == card(a="theirs\n")


def test_what_stands_on_the_hub_is_kept_and_the_rest_is_the_one_to_be_sent() -> None:
    ours, theirs = card("license: mit", a="", b=""), card("license: other", a="theirs\n", b="")
    assert merge_remote_sections(ours, theirs) == card("license: mit", a="theirs\n", b="")
    assert merge_remote_sections(card(a="ours\n"), card(a="")) == card(a="ours\n")
    assert merge_remote_sections(card(a="same\n"), card(a="same\n")) == card(a="same\n")
    assert merge_remote_sections(card(a="ours\n"), "# A card without sections\n") == card(a="ours\n")


def test_a_section_that_only_the_hub_has_is_added_at_the_end() -> None:
    merged = merge_remote_sections(card(a="ours\n"), card(thanks="To all.\n"))
    assert sections_by_hand(merged, "card") == {"a": "ours\n", "thanks": "To all.\n"}
    assert merge_remote_sections(merged, card(thanks="To all.\n")) == merged
    # One that stands there empty is none that anybody wrote in.
    assert merge_remote_sections(card(a="ours\n"), card(thanks="\n")) == card(a="ours\n")


def test_of_two_texts_the_one_that_holds_the_other_wins() -> None:
    short, long = card(a="One.\n"), card(a="One.\nTwo.\n")
    assert merge_remote_sections(short, long) == long
    assert merge_remote_sections(long, short) == long


def test_with_the_card_that_both_began_from_the_changed_one_wins() -> None:
    base, shorter, other = card(a="One.\nTwo.\n"), card(a="One.\n"), card(a="Three.\n")
    assert merge_remote_sections(shorter, base, base) == shorter
    assert merge_remote_sections(base, shorter, base) == shorter
    assert merge_remote_sections(base, other, base) == other
    assert merge_remote_sections(other, other, base) == other
    with pytest.raises(RecipeError):
        merge_remote_sections(shorter, other, base)


def test_a_conflict_is_said_by_the_sections_name_without_its_text() -> None:
    with pytest.raises(RecipeError) as caught:
        merge_remote_sections(card(limits="Ours.\n"), card(limits="Theirs.\nAnd more.\n"))
    said = str(caught.value)
    assert "'limits'" in said and "1 lines here, 2 there" in said and "try again" in said
    assert "\n" not in said and "Ours" not in said and "Theirs" not in said
    # The way out that it names.
    both = card(limits="Ours.\nTheirs.\nAnd more.\n")
    assert merge_remote_sections(both, card(limits="Theirs.\nAnd more.\n")) == both


@pytest.mark.parametrize(
    "broken",
    [
        "<!-- by hand: a -->\nx\n",
        "x\n<!-- end by hand -->\n",
        "<!-- by hand: a -->\n<!-- by hand: b -->\n<!-- end by hand -->\n<!-- end by hand -->\n",
        "<!-- by hand: a -->\n<!-- end by hand -->\n<!-- by hand: a -->\n<!-- end by hand -->\n",
    ],
)
def test_markers_that_do_not_pair_are_refused_on_either_side(broken: str) -> None:
    with pytest.raises(RecipeError, match=r"on the Hub: .*by hand"):
        merge_remote_sections(card(a=""), broken)
    with pytest.raises(RecipeError, match=r"^README\.md: .*by hand"):
        merge_remote_sections(broken, card(a=""))
