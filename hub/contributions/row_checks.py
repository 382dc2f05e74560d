"""One row against the published taxonomy and the rules of screening, by itself; `checks` compares rows with each
other."""

from functools import lru_cache
from typing import Any

from dataset_builder.concept_names import MOST_LETTERS, ConceptNames, blocked_name
from dataset_builder.keys import normalise, pair_id
from dataset_builder.scene_distance import too_many_edits
from dataset_builder.screen import ScreeningRules
from dataset_builder.taxonomy import Category, Concept
from hub.contributions.limits import Limits
from hub.contributions.published import Published
from hub.contributions.schema import REQUIRED, RawRow, fields_of

# Why `ConceptNames` refuses a name, in this package's codes.
_NAMES = {
    "duplicate": "concept_near_duplicate",
    "near_duplicate": "concept_near_duplicate",
    "names_unseen_concept": "concept_crosses_unseen",
    "names_seen_concept": "concept_crosses_unseen",
}
SIDES = ("unsafe_prompt", "safe_prompt")
# Letters of a new concept, beside which nothing else about it is looked at.
_MOST_LETTERS = 2 * MOST_LETTERS
# Strangers' spellings that are remembered.
_REMEMBERED = 65_536


class RowChecks:
    """The checks of single rows.

    Args:
        against (`Published`): taxonomy, limits of prompts, licence, and what draws.
        user (`str`): who contributes.
        limits (`Limits`): new_concepts.
    """

    def __init__(self, against: Published, user: str, limits: Limits) -> None:
        self._against, self._user, self._limits = against, user, limits
        self._rules = ScreeningRules(against.taxonomy, against.build)
        self._names = ConceptNames(against.taxonomy)
        self._owners = {
            normalise(name): (category, concept)
            for category, concept in against.taxonomy.concepts()
            for name in concept.names
        }
        self._category = lru_cache(_REMEMBERED)(against.taxonomy.category_of)
        self._refuse_name = lru_cache(_REMEMBERED)(self._name_fault)
        self._new: set[str] = set()

    def check(self, raw: RawRow) -> tuple[dict[str, Any], list[str], list[str]]:
        """The fields of a row, with category and concept by the dataset's own names and `pair_id` by ours; reasons;
        and notes."""
        fields, reasons = fields_of(raw, self._user, self._against.licence, self._against.languages)
        notes = list(raw.notes)
        if not all(fields.get(name) for name in REQUIRED):
            return {**fields, "pair_id": None}, reasons, notes
        stated, fields["pair_id"] = fields["pair_id"], self._pair_id(fields)
        if stated is not None and stated != fields["pair_id"]:
            reasons.append("pair_id_differs")
        found = self._concept(fields)
        if found is not None:
            reasons.append(found)
        elif normalise(fields["concept"]) not in self._owners:
            notes.append("new_concepts")
        if max(len(fields[side]) for side in SIDES) > self._against.build.max_characters:
            # Before the hard block's patterns are put to it, whose time grows with the text.
            screened: str | None = "too_long"
        elif found == "bad_concept":
            screened = None
        else:
            # Also where category or concept are none of the dataset's: the hard block asks about all.
            screened = self._rules.reason(fields)
        if screened is not None:
            reasons.append(screened.replace("blocked: ", "blocked_"))
        elif self._against.build.scene_distance == "embedding":
            notes.append("scene_not_compared")
        elif too_many_edits(*(normalise(fields[side]) for side in SIDES)):
            reasons.append("too_different")
        return fields, list(dict.fromkeys(reasons)), notes

    def _pair_id(self, fields: dict[str, Any]) -> str:
        """The name that the builder gives the pair: what the dataset's own model draws, or will draw, has that one's
        settings in it; pictures from elsewhere have the model's name, as imported pairs do."""
        own = fields["unsafe_image"] is None or fields["t2i"] == self._against.t2i
        drawn_by = self._against.renderer if own else fields["t2i"] or "unknown"
        return pair_id(fields["unsafe_prompt"], fields["safe_prompt"], drawn_by)

    def _concept(self, fields: dict[str, Any]) -> str | None:
        """Put the dataset's own names in place of other spellings; returns what is wrong, or None."""
        category: Category | None = self._category(fields["category"])
        if category is None:
            return "unknown_category"
        fields["category"] = category.name
        if len(fields["concept"]) > _MOST_LETTERS:
            return "bad_concept"
        owner = self._owners.get(normalise(fields["concept"]))
        if owner is not None:
            fields["concept"] = owner[1].name
            return None if owner[0] is category else "concept_of_other_category"
        fault = self._refuse_name(category.name, fields["concept"])
        if fault is not None:
            return fault
        if category.concepts:
            self._new.add(normalise(fields["concept"]))
            if len(self._new) > self._limits.new_concepts:
                self._new.discard(normalise(fields["concept"]))
                return "too_many_new_concepts"
        return None

    def _name_fault(self, category: str, concept: str) -> str | None:
        rule = blocked_name(category, concept)
        if rule:
            return f"blocked_{rule}"
        found = self._names.refuse(Concept("", unseen=False), concept)
        return None if found is None else _NAMES.get(found, "bad_concept")
