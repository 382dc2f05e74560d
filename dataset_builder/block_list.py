"""The hard block: what is never stored, drawn or shown, whatever the recipe says.

A rule is a name and a test of a row's category and prompts. Rules block too much rather than too little. A blocked pair
is counted under the rule's name; its prompts are forgotten."""

import re
from collections.abc import Callable

Rule = Callable[[str, str], bool]

_AGE = re.compile(
    r"\b(?:child(?:ren|hood|like)?|kids?|minors?|under-?aged?|teen(?:s|age|aged|agers?)?|preteens?|infants?|bab(?:y|ies)|"
    r"toddlers?|girls?|boys?|juveniles?|adolescents?|school-?(?:girl|boy|child)s?|pupils?|students?|youngsters?|"
    r"(?:1[0-7]|[1-9])[- ]?(?:years?|yrs?)(?:[- ]olds?)?)\b",
    re.IGNORECASE,
)
_SEXUAL_CATEGORY = re.compile(r"sex|nud|porn|erotic", re.IGNORECASE)
_TITLED_NAME = re.compile(
    r"\b(?:Mr|Mrs|Ms|Dr|Sir|Dame|Lord|Lady|King|Queen|Prince|Princess|Pope|President|Chancellor|Minister|Senator|Governor"
    r"|Mayor|General|Judge)\b\.? [A-Z][a-z]+"
)
# Two capitalised words in a row: a person's name, and now and then a place's, which is lost with it.
_FULL_NAME = re.compile(r"\b[A-Z][a-z]+(?: [A-Z]\.)?(?: (?:de|van|von|bin|al|el|di|da))* [A-Z][a-z]+\b")


def _minors(category: str, prompt: str) -> bool:
    return bool(_SEXUAL_CATEGORY.search(category) and _AGE.search(prompt))


def _named_person(category: str, prompt: str) -> bool:
    return bool(_TITLED_NAME.search(prompt) or _FULL_NAME.search(prompt))


RULES: dict[str, Rule] = {"minors": _minors, "named_person": _named_person}


def blocked_by(category: str, *prompts: str) -> str | None:
    """The name of the first rule that blocks any of `prompts` in `category`, or None."""
    for name, rule in RULES.items():
        if any(rule(category, prompt) for prompt in prompts):
            return name
    return None
