"""The step `write`: the dataset's folder as it stands on the Hub, byte for byte the same for the same plan.

Parquet files of both configs, the front matter of README.md that tells `load_dataset` where they lie (the card is
written by `cards`), and last the manifest `coprov2.json`, whose presence says that the folder is whole."""

import json
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import asdict
from typing import Any

from tqdm import tqdm

from dataset_builder.card_metadata import refresh_card
from dataset_builder.rows import Rows
from dataset_builder.schema import MANIFEST, SPLITS, Row
from dataset_builder.shards import Picture, remove_other_files, write_shards
from dataset_builder.step import Step
from recipes.writing import write_whole


class Write(Step):
    """Writes the rows, in the order of split, category, concept and pair_id. Splits without rows have no file.

    Always runs: what it makes stands in the dataset's folder, where it may have been damaged since."""

    name = "write"
    always = True
    needs = ("pair_id", "category", "concept", "unsafe_prompt", "safe_prompt", "seed", "split", "unsafe_picture")

    def run(self, rows: Rows) -> Iterator[Row]:
        folder = self.workshop.dataset
        folder.mkdir(parents=True, exist_ok=True)
        # Without a manifest the folder counts as unfinished, whatever happens from here on.
        (folder / MANIFEST).unlink(missing_ok=True)
        categories = [category.name for category in self.workshop.plan.taxonomy.categories]
        counts: dict[str, Counter[str]] = {split: Counter() for split in SPLITS}

        def place(row: Row) -> str:
            split, category = SPLITS.index(row["split"]), categories.index(row["category"])
            return f"{split}{category:06d}{row['concept']}\0{row['pair_id']}"

        def counted() -> Generator[Row, None, None]:
            with closing(rows.sorted_by(place, self.workshop.work)) as in_order:
                for row in tqdm(in_order, desc="dataset", unit="row", total=len(rows)):
                    counts[row["split"]][row["category"]] += 1
                    yield row

        with closing(counted()) as counting:
            files = write_shards(folder, counting, categories, self._picture)
        remove_other_files(folder, files)
        refresh_card(folder)
        manifest = json.dumps(self._manifest(counts, files), indent=2, ensure_ascii=False) + "\n"
        write_whole(folder / MANIFEST, manifest)
        yield from rows

    def _picture(self, row: Row, side: str) -> Picture:
        return self.workshop.pictures.png(row[f"{side}_picture"]), f"{row['pair_id']}_{side}.png"

    def _manifest(self, counts: dict[str, Counter[str]], files: dict[str, dict[str, Any]]) -> dict[str, Any]:
        plan = self.workshop.plan
        by_category = {split: dict(counts[split]) for split in SPLITS}
        concepts = {
            category.name: {
                "seen": [concept.name for concept in category.concepts if not concept.unseen],
                "unseen": [concept.name for concept in category.concepts if concept.unseen],
            }
            for category in plan.taxonomy.categories
        }
        content, judge = plan.content(), plan.block_template
        return {
            "name": plan.recipe.name,
            "version": plan.recipe.build.version,
            "fingerprint": plan.fingerprint(),
            "code": plan.code,
            "models": content["models"],
            "taxonomy": {
                "name": plan.taxonomy.name,
                "version": plan.taxonomy.version,
                "concepts": concepts,
                # What other spellings mean, for those who check further pairs against this version.
                "languages": plan.taxonomy.languages,
                "aliases": {
                    "categories": {category.name: category.aliases for category in plan.taxonomy.categories},
                    "concepts": {concept.name: concept.aliases for _, concept in plan.taxonomy.concepts()},
                },
                **({"expanded_from": plan.given_taxonomy.name} if plan.given_taxonomy else {}),
            },
            "template": {"name": plan.template.name, "version": plan.template.version},
            "block_template": judge and {"name": judge.name, "version": judge.version},
            "recipe": content["recipe"],
            "rows": {split: sum(counts.values()) for split, counts in by_category.items()},
            "rows_by_category": by_category,
            "steps": [asdict(report) for report in self.workshop.reports],
            "files": files,
        }
