"""The step `screen`: drops pairs whose prompts are not what a pair's prompts must be, each with the first reason
found."""

import re
import unicodedata
from collections.abc import Iterator
from functools import cached_property

import numpy as np
from tqdm import tqdm

from dataset_builder.block_list import blocked_by
from dataset_builder.keys import UNSPACED, normalise, split_words
from dataset_builder.languages import is_in, letters_of
from dataset_builder.rows import Rows, batched
from dataset_builder.scene_distance import PAIRS_A_BATCH, Prompts, SceneSimilarity, too_many_edits
from dataset_builder.schema import Row
from dataset_builder.step import Step
from dataset_builder.taxonomy import Taxonomy
from recipes import BuildConfig


class Screen(Step):
    """Drops pairs for the reasons `blocked: RULE`, `empty`, `characters` (letters of no language that is asked for),
    `too_long`, `language`, `same_prompts`, `unsafe_lacks_concept`, `safe_names_concept` (its own or another of the
    taxonomy), `unsafe_names_unseen_concept` (it would show an expert what `test_unseen_concepts` keeps from it) and
    `too_different`."""

    name = "screen"
    needs = ("pair_id", "category", "concept", "unsafe_prompt", "safe_prompt")

    def run(self, rows: Rows) -> Iterator[Row]:
        if self.workshop.recipe.build.scene_distance == "embedding":
            yield from self._run_with_embeddings(rows)
            return
        for row in tqdm(rows, desc="screen", unit="pair"):
            reason = self.reason(row)
            if reason is None and too_many_edits(normalise(row["unsafe_prompt"]), normalise(row["safe_prompt"])):
                reason = "too_different"
            if reason:
                self.drop(row["pair_id"], reason)
            else:
                yield row

    def _run_with_embeddings(self, rows: Rows) -> Iterator[Row]:
        """Two readings: the first compares the prompts of the pairs that have passed so far. Holds 5 bytes a row."""
        build = self.workshop.recipe.build
        assert build.embedding_model is not None
        reasons: list[str | None] = [None]
        found = np.zeros(len(rows), np.uint8)
        similarities = np.full(len(rows), -1.0, np.float32)

        def passed() -> Iterator[tuple[int, Prompts]]:
            for number, row in enumerate(rows):
                reason = self.reason(row)
                if reason not in reasons:
                    reasons.append(reason)
                found[number] = reasons.index(reason)
                if reason is None:
                    yield number, (row["unsafe_prompt"], row["safe_prompt"])

        worker = SceneSimilarity(build.embedding_model, build.embedding_revision)
        for _, answers in self.workshop.executor.map(worker, batched(passed(), PAIRS_A_BATCH)):
            for number, similarity in answers:
                similarities[number] = similarity
        for number, row in enumerate(rows):
            reason = reasons[found[number]]
            if reason is None and similarities[number] < build.min_similarity:
                reason = "too_different"
            if reason:
                self.drop(row["pair_id"], reason)
            else:
                yield row

    def reason(self, row: Row) -> str | None:
        """Why a row is dropped, or None; the distance of its prompts is left to others."""
        return self._rules.reason(row)

    def concepts_in(self, prompt: str) -> set[str]:
        """As [`ScreeningRules.concepts_in`]."""
        return self._rules.concepts_in(prompt)

    @cached_property
    def _rules(self) -> "ScreeningRules":
        return ScreeningRules(self.workshop.plan.taxonomy, self.workshop.recipe.build)


class ScreeningRules:
    """What a single pair's prompts must be, apart from their distance.

    Args:
        taxonomy (`Taxonomy`): whose concepts prompts name.
        build (`BuildConfig`): max_words, max_characters and languages.
    """

    def __init__(self, taxonomy: Taxonomy, build: BuildConfig) -> None:
        self._taxonomy, self._build = taxonomy, build

    def reason(self, row: Row) -> str | None:
        """Why a row fails: the first of the reasons of [`Screen`] but `too_different`, or None. A concept that the
        taxonomy lacks counts as one of it for this row."""
        build = self._build
        unsafe, safe = pair = row["unsafe_prompt"], row["safe_prompt"]
        rule = blocked_by(row["category"], row["concept"], *pair)
        if rule:
            return f"blocked: {rule}"
        if not normalise(unsafe) or not normalise(safe):
            return "empty"
        if not all(self._letters.fullmatch(unicodedata.normalize("NFC", prompt)) for prompt in pair):
            return "characters"
        if any(len(split_words(p)) > build.max_words or len(p) > build.max_characters for p in pair):
            return "too_long"
        if not all(is_in(prompt, self._languages) for prompt in pair):
            return "language"
        if normalise(unsafe) == normalise(safe):
            return "same_prompts"
        named = self.concepts_in(unsafe)
        if row["concept"] not in named and not self._names_new(row["concept"], unsafe):
            return "unsafe_lacks_concept"
        if self.concepts_in(safe) or self._names_new(row["concept"], safe):
            return "safe_names_concept"
        if any(name in self._unseen for name in named - {row["concept"]}):
            return "unsafe_names_unseen_concept"
        return None

    def concepts_in(self, prompt: str) -> set[str]:
        """The taxonomy's concepts that `prompt` names, by name or alias; in English in the plural too."""
        return {self._owners[match[1]] for match in self._pattern.finditer(normalise(prompt))}

    def _names_new(self, concept: str, prompt: str) -> bool:
        name = normalise(concept)
        return name not in self._owners and bool(name) and self._naming(name).search(normalise(prompt)) is not None

    @cached_property
    def _languages(self) -> list[str]:
        return self._build.languages or self._taxonomy.languages

    @cached_property
    def _letters(self) -> re.Pattern[str]:
        return letters_of(self._languages)

    @cached_property
    def _owners(self) -> dict[str, str]:
        concepts = (concept for _, concept in self._taxonomy.concepts())
        return {normalise(name): concept.name for concept in concepts for name in concept.names}

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        # The longest first, so that a name that contains another one wins over it.
        names = sorted(self._owners, key=lambda name: (-len(name), name))
        # Without a name there is nothing to find, and an empty choice would match everywhere.
        return self._naming(*names) if names else re.compile(r"(?!)")

    def _naming(self, *names: str) -> re.Pattern[str]:
        plural = "(?:s|es)?" if "en" in self._languages else ""
        # Scripts without spaces have no ends of words either.
        before, after = rf"(?<![^\W{UNSPACED}])", rf"(?![^\W{UNSPACED}])"
        return re.compile(rf"{before}({'|'.join(map(re.escape, names))}){plural}{after}")

    @cached_property
    def _unseen(self) -> set[str]:
        return {concept.name for _, concept in self._taxonomy.concepts() if concept.unseen}
