"""Sections of a card that people write by hand: they outlive every rewriting, the card's own and that on the Hub.

A section stands between `<!-- by hand: NAME -->` and `<!-- end by hand -->`, each on a line of its own, below the
metadata."""

import re

from cards.escaping import plain
from recipes import RecipeError

_SECTION = re.compile(
    r"^<!-- by hand: (?P<name>[\w -]+) -->\n(?P<text>.*?)^<!-- end by hand -->$", re.DOTALL | re.MULTILINE
)
_MARKER = re.compile(r"^<!-- (?:by hand: [\w -]+|end by hand) -->$", re.MULTILINE)
# The metadata as the Hub cuts them off (huggingface_hub.repocard.REGEX_YAML_BLOCK), in a text with plain line ends.
FRONT = re.compile(r"\A\s*---\n(?P<yaml>.*?)\n---[ \t]*(?:\n|\Z)", re.DOTALL)
_HEAD, _TAIL = "<!-- by hand: {} -->\n", "<!-- end by hand -->"


def plain_lines(text: str) -> str:
    """A card with plain line ends: the website's editor may write those of Windows, and editors a byte order mark."""
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def _split(card: str) -> tuple[str, str]:
    """A card's metadata with its dashes, and its body: names in the metadata are no markers."""
    found = FRONT.match(card)
    return (card[: found.end()], card[found.end() :]) if found else ("", card)


def sections_by_hand(text: str, where: str) -> dict[str, str]:
    """The sections of a card that were written by hand, by name; those that nobody has written in are empty.

    Raises:
        `RecipeError`: where markers are not in pairs, or a name stands twice: a rewrite would lose text.
    """
    body = _split(plain_lines(text))[1]
    sections: dict[str, str] = {}
    for match in _SECTION.finditer(body):
        if match["name"] in sections or _MARKER.search(match["text"]):
            raise RecipeError(
                f"{where}: the section by hand {match['name']!r} is not closed or stands twice; mend it first"
            )
        sections[match["name"]] = match["text"]
    if len(_MARKER.findall(body)) != 2 * len(sections):
        raise RecipeError(
            f"{where}: found {len(_MARKER.findall(body))} markers for {len(sections)} sections by hand; expected each "
            "to begin with <!-- by hand: NAME --> and to end with <!-- end by hand -->, on lines of their own"
        )
    return sections


def _with_sections(fresh: str, kept: dict[str, str], where: str) -> str:
    fresh = plain_lines(fresh)
    here = sections_by_hand(fresh, where)
    head, body = _split(fresh)

    def refill(match: re.Match[str]) -> str:
        return _HEAD.format(match["name"]) + kept.get(match["name"], match["text"]) + _TAIL

    body = _SECTION.sub(refill, body)
    for name, text in kept.items():
        if name not in here and text.strip():
            body = f"{body.rstrip()}\n\n{_HEAD.format(name)}{text}{_TAIL}\n"
    return head + body


def keep_sections(fresh: str, old: str, where: str) -> str:
    """`fresh` with the text of the sections by hand of `old`; a section that `fresh` lacks is added at its end.

    Raises:
        `RecipeError`: where the markers of one of them are not in pairs.
    """
    kept = {name: text for name, text in sections_by_hand(old, where).items() if text.strip()}
    return _with_sections(fresh, kept, where)


def merge_remote_sections(local_card_text: str, remote_card_text: str, base_card_text: str | None = None) -> str:
    """A card to be sent, with what people wrote by hand in the one that stands on the Hub.

    Of two texts of a section the one that holds the other wins, so that nothing that somebody wrote gets lost; with
    the card that both began from, the one that was changed wins, also where it was made shorter.

    Args:
        local_card_text (`str`): of the card to be sent; all but its sections by hand stays as it is.
        remote_card_text (`str`): of the card on the Hub.
        base_card_text (`str`, *optional*): of the card that both were made from, such as that of the last version.

    Returns:
        `str`: the card to be sent.

    Raises:
        `RecipeError`: where the two differ and neither holds the other (or both were changed since the base card), or
            markers are not in pairs. The texts themselves are not part of the message.
    """
    ours = sections_by_hand(local_card_text, "README.md")
    theirs = sections_by_hand(remote_card_text, "README.md on the Hub")
    base = None if base_card_text is None else sections_by_hand(base_card_text, "README.md of the last version")
    merged = {
        name: _merged(name, ours.get(name, ""), theirs.get(name, ""), None if base is None else base.get(name, ""))
        for name in {**ours, **theirs}
    }
    return _with_sections(local_card_text, merged, "README.md")


def _merged(name: str, ours: str, theirs: str, base: str | None) -> str:
    if ours.strip() == theirs.strip():
        return ours
    if base is not None and base.strip() == theirs.strip():
        return ours
    if base is not None and base.strip() == ours.strip():
        return theirs
    # Without a base, the longer of the two may only have grown; with one, both have changed.
    if ours.strip() in theirs:
        return theirs
    if theirs.strip() in ours:
        return ours
    raise RecipeError(
        f"README.md: the section by hand {plain(name)!r} differs from the one on the Hub ({len(ours.splitlines())} "
        f"lines here, {len(theirs.splitlines())} there), and neither holds the other; put into the one here what "
        "should stand of both, with the Hub's text in it as it is, and try again"
    )
