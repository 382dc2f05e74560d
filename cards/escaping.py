"""Text that others wrote, made safe for the place in a card where it stands.

Names of categories, models, recipes and users come from files that anybody may have written. Whatever stands in one is
shown as text: it starts no markup, link, formula, tag, code or section of the card."""

import re
import shlex
import unicodedata
from typing import Any

# Characters of a value that are shown; longer ones are cut, so that no name fills a page. The identity of several
# judges, with their models, commits, classes and thresholds, has some 300.
LONGEST = 600
# What no renderer of Markdown reads as markup. Backslashes would not do for all of these: the Hub typesets formulas
# before it reads Markdown, and a table is cut at `|` before anything else. `@` and `:` would begin a mention or a link.
_ENTITIES = {
    "&": "&amp;",
    "<": "&lt;",
    ">": "&gt;",
    "|": "&#124;",
    "\\": "&#92;",
    "$": "&#36;",
    "@": "&#64;",
    "`": "&#96;",
    "~": "&#126;",
    "^": "&#94;",
    "{": "&#123;",
    "}": "&#125;",
}
_UNSEEN = ("Cc", "Cf", "Cs", "Co")
_LINK = re.compile(r"(?i)\b(?P<host>www)\.|:(?=[/\w])")
_START = re.compile(r"^(?P<mark>[#+\-]|\d{1,9}[.)](?=\s|$))")


class Safe(str):
    """Text that may stand in a card as it is: it was escaped, or the project wrote it."""

    __slots__ = ()


def plain(value: Any) -> str:
    """A value as one line of text that can be seen: a control, format (so also text direction), surrogate or private
    character becomes U+FFFD, a line break a space; cut after `LONGEST` characters."""
    text = re.sub(r"\s+", " ", str(value))
    if len(text) > LONGEST:
        text = text[: LONGEST - 1] + "…"
    return "".join("�" if unicodedata.category(letter) in _UNSEEN else letter for letter in text)


def cell(value: Any) -> Safe:
    """A value for a line or a table's cell of Markdown: no markup, no border of a cell, no link, no HTML."""
    text = "".join(_ENTITIES.get(letter, letter) for letter in plain(value).strip())
    text = re.sub(r"([*_\[\]])", r"\\\1", text)
    text = _LINK.sub(lambda found: f"{found['host']}&#46;" if found["host"] else "&#58;", text)
    # A cell never begins a line, but text after a list's dash may: a heading or a list inside it.
    return Safe(_START.sub(lambda found: f"{found['mark'][:-1]}\\{found['mark'][-1]}", text))


def code(value: Any) -> Safe:
    """A value as inline code, safe inside a table."""
    text = plain(value).strip()
    if text and not re.search(r"[`<|\\$]|\{[{%#]", text):
        return Safe(f"`{text}`")
    # Nothing is escaped inside backticks, so what needs it stands in the tag that backticks give.
    return Safe(f"<code>{cell(text)}</code>")


def literal(value: str) -> Safe:
    """A string as a literal of Python, on one line, with everything escaped that is not printable or could end the
    block of code that it stands in."""
    text = repr(value).replace("`", "\\x60").replace("<", "\\x3c")
    return Safe(f'"{text[1:-1]}"' if text[0] == "'" and '"' not in text else text)


def word(value: str) -> Safe:
    """A string as one word of a shell's command line."""
    return Safe(shlex.quote(plain(value)))


def bibtex(value: Any) -> Safe:
    """A value inside a field of BibTeX: letters, digits and marks that neither TeX nor BibTeX reads."""
    return Safe(re.sub(r"[^\w .,:;/+()'!?-]|_", lambda found: "\\_" if found[0] == "_" else " ", plain(value)))
