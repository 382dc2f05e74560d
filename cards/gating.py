"""What somebody who asks for access to a gated repository is told and asked, as keys of a card's metadata.

The keys and the types of the fields are the Hub's (its documentation, "Gated datasets" and "Gated models"); that the
repository asks at all is one of its settings, which `hub` makes."""

from typing import Any

from recipes import Recipe

HEADING = "Ask for access"
DESCRIPTION = "Each request is looked at by a person; an answer may take some days."
BUTTON = "Agree and ask for access"
PROMPT = (
    "These files hold text and pictures made to be harmful, so that text-to-image models can be trained not to draw "
    "such things. By asking for access you agree to use them for safety research and safety training only, to show "
    "them to nobody who has not agreed to see them, and not to use them to make a model less safe."
)
ADAPTER_PROMPT = (
    "This adapter was trained on text and pictures made to be harmful, to make a text-to-image model draw such things "
    "less often. By asking for access you agree to use it for safety research and for safer models only, and not to "
    "undo or invert what it does."
)
HARMLESS_PROMPT = (
    "Nothing in this repository is harmful: emojis play the part of harmful things. It asks for access as a repository "
    "with real data does, so that the way there can be tried."
)
FIELDS: dict[str, Any] = {
    "Affiliation": "text",
    "Country": "country",
    "Intended use": {
        "type": "select",
        "options": ["Safety research", "Safety training of a model", {"label": "Other", "value": "other"}],
    },
    "What you plan to do": "text",
    "I am of age and agree to the terms above": "checkbox",
}


def gating(recipe: Recipe, harmless: bool, prompt: str = PROMPT) -> dict[str, Any]:
    """The card's keys for access requests; none where the recipe gates nothing.

    Args:
        recipe (`Recipe`): its field `publish.gated`.
        harmless (`bool`): whether nothing in the repository is harmful, which its text then says.
        prompt (`str`, *optional*): the terms of a repository that is not harmless.
    """
    if not recipe.publish.gated:
        return {}
    return {
        "extra_gated_heading": HEADING,
        "extra_gated_description": DESCRIPTION,
        "extra_gated_prompt": HARMLESS_PROMPT if harmless else prompt,
        "extra_gated_fields": FIELDS,
        "extra_gated_button_content": BUTTON,
    }
