"""The step `split`: shares a category's pairs between train, validation, test and test_unseen_concepts."""

from itertools import zip_longest

from dataset_builder.keys import content_key
from dataset_builder.schema import Row
from dataset_builder.step import Step


class Split(Step):
    """Adds `split`. Pairs beyond what the recipe asks for are dropped with the reason `surplus`; where there are fewer,
    the note `shortage` says how many are missing, by category and split.

    Pairs stand in the order of a hash of their name, and a category's concepts take turns, so every split holds its
    concepts as evenly as they come. Test is filled first, then validation, then train: a shortage costs training pairs
    before it costs the measure."""

    name = "split"
    needs = ("pair_id", "category", "concept")
    gives = ("split",)

    def run(self, rows: list[Row]) -> list[Row]:
        plan = self.workshop.plan
        build = plan.recipe.build
        seen = [("test", build.test_pairs), ("validation", build.validation_pairs), ("train", build.train_pairs)]
        unseen = [("test_unseen_concepts", build.unseen_concept_pairs)]
        shortage: dict[str, dict[str, int]] = {}
        splits: dict[str, str] = {}
        for category in plan.taxonomy.categories:
            for is_unseen, quotas in ((False, seen), (True, unseen)):
                concepts = [concept.name for concept in category.concepts if concept.unseen == is_unseen]
                waiting = self._take_turns([row for row in rows if row["category"] == category.name], concepts)
                for split, asked in quotas if concepts else []:
                    taken, waiting = waiting[:asked], waiting[asked:]
                    splits |= {row["pair_id"]: split for row in taken}
                    if len(taken) < asked:
                        shortage.setdefault(category.name, {})[split] = asked - len(taken)
        if shortage:
            self.notes["shortage"] = shortage
        kept = []
        for row in rows:
            if row["pair_id"] in splits:
                kept.append({**row, "split": splits[row["pair_id"]]})
            else:
                self.drop(row["pair_id"], "surplus")
        return kept

    def _take_turns(self, rows: list[Row], concepts: list[str]) -> list[Row]:
        seed = self.workshop.recipe.seed
        queues = [
            sorted((row for row in rows if row["concept"] == name), key=lambda row: content_key(seed, row["pair_id"]))
            for name in concepts
        ]
        return [row for turn in zip_longest(*queues) for row in turn if row is not None]
