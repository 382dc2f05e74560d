"""Texts that are no plain prose: characters that cannot be seen, and marks that some reader would act upon.

Whoever shows a text escapes it all the same. A prompt for a picture needs none of these, and what needs escaping in one
place is forgotten in another: datasets are opened in spreadsheets, put into templates and rendered as Markdown."""

import re
import unicodedata
from collections.abc import Sequence

from dataset_builder.keys import clean

# Turn the direction of writing (Unicode Standard Annex 9, 2.1 to 2.5, and the marks).
_BIDI = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_CONTROL = re.compile("[\x01-\x1f\x7f-\x9f\u2028\u2029]")
# Persian parts words by a joiner that has no width, and so do scripts of India.
_JOINERS = dict.fromkeys(("fa", "bn", "hi", "kn", "ml", "mr", "ne", "si", "ta", "te"), "\u200c\u200d")
_MOST_COMBINING = 3
_MARKS = [
    ("html", re.compile(r"<\s*[A-Za-z/!?]|&(?:#\d+|#x[0-9a-fA-F]+|[A-Za-z][A-Za-z0-9]*);")),
    ("markdown", re.compile(r"\]\s*[(\[:]|!\[|```|~~~|`[^`]+`|^#{1,6}\s|^\s*[>|]")),
    ("template", re.compile(r"\{\{|\{%|\{#|\$\{|<%|#\{")),
    ("yaml", re.compile(r"^(?:---|\.\.\.)|!!\w|!<|^[!&*%]\w")),
    ("formula", re.compile(r"^[=+\-@]")),
    (
        "address",
        re.compile(
            r"\b(?:https?|ftp|file|javascript|data|vbscript|mailto):\S|\bwww\.\w|//\w+\.\w|(?<!\w)@\w|\w@\w+\.\w",
            re.IGNORECASE,
        ),
    ),
]


def text_faults(text: str, languages: Sequence[str] = ("en",), prose: bool = True) -> list[str]:
    """What is wrong with a text, as codes of `hub.contributions.reasons.FIELDS`.

    Args:
        text (`str`): without blanks at its ends.
        languages (`Sequence[str]`, *optional*): ISO 639-1 codes; joiners without width are letters in some.
        prose (`bool`, *optional*, defaults to `True`): whether it is read by people; names of models have a pattern of
            their own instead of these marks.
    """
    # Nearly all texts are plain ASCII letters and end here.
    if text.isascii() and text.isprintable():
        return [code for code, pattern in _MARKS if pattern.search(text)] if prose else []
    found = [
        code
        for code, pattern in (
            ("surrogate", _SURROGATE),
            ("control_characters", _CONTROL),
            ("bidi_characters", _BIDI),
        )
        if pattern.search(text)
    ]
    if "\0" in text:
        found.insert(0, "nul")
    kinds = {letter: unicodedata.category(letter) for letter in set(text)}
    joiners = "".join(_JOINERS.get(code, "") for code in languages)
    if any(_is_unseen(letter, kind) and letter not in joiners for letter, kind in kinds.items()):
        found.append("zero_width_characters")
    if any(kind in ("Cn", "Co") for kind in kinds.values()):
        found.append("unassigned_characters")
    if _piled_up(text, kinds):
        found.append("combining_characters")
    if prose and "surrogate" not in found:
        # Fullwidth letters are letters, and wide blanks at the ends gone, once they are cleaned.
        plain = clean(text)
        found += [code for code, pattern in _MARKS if pattern.search(plain)]
    return found


def _is_unseen(letter: str, kind: str) -> bool:
    if kind == "Cf":
        return not _BIDI.match(letter)
    # Fillers and selectors that count as letters or marks, and show nothing.
    return letter in "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u3164\uffa0" or "\ufe00" <= letter <= "\ufe0f"


def _piled_up(text: str, kinds: dict[str, str]) -> bool:
    run = 0
    for letter in text:
        run = run + 1 if kinds[letter] in ("Mn", "Me") else 0
        if run > _MOST_COMBINING:
            return True
    return False
