"""The steps `render`, `judge` and `keep`: both pictures of a pair, what the judge says of them, and what follows."""

from dataclasses import asdict

from tqdm import tqdm

from dataset_builder.judges import Verdict, load_judge, verdict_record
from dataset_builder.keys import content_key, seed_from
from dataset_builder.ledger import Record
from dataset_builder.models import load_pipeline
from dataset_builder.pictures import picture_key
from dataset_builder.renderer import Renderer, draw_missing
from dataset_builder.schema import Row
from dataset_builder.step import Step

_PICTURES_A_BATCH = 64


class Render(Step):
    """Adds `seed`, which derives from the pair's name and is that of both pictures, and the pictures' names in the
    store."""

    name = "render"
    needs = ("pair_id", "unsafe_prompt", "safe_prompt")
    gives = ("seed", "unsafe_picture", "safe_picture")

    def run(self, rows: list[Row]) -> list[Row]:
        recipe, store = self.workshop.recipe, self.workshop.pictures
        identity = self.workshop.plan.identities.renderer
        drawn = []
        for row in rows:
            seed = seed_from(row["pair_id"], recipe.seed)
            names = {
                f"{side}_picture": picture_key(identity, row[f"{side}_prompt"], seed) for side in ("unsafe", "safe")
            }
            drawn.append({**row, "seed": seed, **names})
        if store.missing([row[name] for row in drawn for name in ("unsafe_picture", "safe_picture")]):
            pipeline = load_pipeline(recipe.base_model, recipe.revision, recipe.render.dtype)
            renderer = Renderer(pipeline, recipe.render, self.workshop.plan.identities.t2i)
            requests = [(row[f"{side}_prompt"], row["seed"]) for row in drawn for side in ("unsafe", "safe")]
            draw_missing(renderer, requests, store, "pictures")
        self.notes["pictures"] = 2 * len(drawn)
        return drawn


class JudgePictures(Step):
    """Adds `unsafe_verdict` and `safe_verdict`: lists with one verdict, as the dataset's columns hold them."""

    name = "judge"
    needs = ("unsafe_picture", "safe_picture")
    gives = ("unsafe_verdict", "safe_verdict")

    def run(self, rows: list[Row]) -> list[Row]:
        config, ledger = self.workshop.recipe.judge, self.workshop.ledger
        settings = (self.workshop.plan.identities.judge, config.threshold)
        pictures = list(dict.fromkeys(row[name] for row in rows for name in ("unsafe_picture", "safe_picture")))
        keys = {picture: content_key("verdict", *settings, picture) for picture in pictures}
        records = ledger.get(self.name, list(keys.values()))
        judge = None
        with tqdm(total=len(pictures), initial=len(records), desc="verdicts", unit="picture") as bar:
            for start in range(0, len(pictures), _PICTURES_A_BATCH):
                batch = pictures[start : start + _PICTURES_A_BATCH]
                if all(keys[picture] in records for picture in batch):
                    continue
                judge = judge or load_judge(config)
                verdicts = judge.judge([self.workshop.pictures.get(picture) for picture in batch])
                new = [
                    Record(keys[picture], "done", payload=asdict(verdict))
                    for picture, verdict in zip(batch, verdicts, strict=True)
                ]
                ledger.put(self.name, new)
                bar.update(sum(record.key not in records for record in new))
                records |= {record.key: record for record in new}
        verdict = {name: verdict_record(Verdict(**records[keys[name]].payload)) for name in pictures}
        judged = [
            {**row, "unsafe_verdict": [verdict[row["unsafe_picture"]]], "safe_verdict": [verdict[row["safe_picture"]]]}
            for row in rows
        ]
        self.notes["unsafe_pictures_of_unsafe_prompts"] = sum(is_unsafe(row["unsafe_verdict"]) for row in judged)
        self.notes["unsafe_pictures_of_safe_prompts"] = sum(is_unsafe(row["safe_verdict"]) for row in judged)
        return judged


class Keep(Step):
    """Drops pairs of train and validation whose unsafe picture no judge calls unsafe (`unsafe_picture_is_safe`) or
    whose safe picture some judge calls unsafe (`safe_picture_is_unsafe`). Test pairs all stay, or the base model's rate
    could not be measured on them; their verdicts mark them."""

    name = "keep"
    needs = ("pair_id", "split", "unsafe_verdict", "safe_verdict")

    def run(self, rows: list[Row]) -> list[Row]:
        kept = []
        for row in rows:
            if row["split"] in ("train", "validation") and not is_unsafe(row["unsafe_verdict"]):
                self.drop(row["pair_id"], "unsafe_picture_is_safe")
            elif row["split"] in ("train", "validation") and is_unsafe(row["safe_verdict"]):
                self.drop(row["pair_id"], "safe_picture_is_unsafe")
            else:
                kept.append(row)
        return kept


def is_unsafe(verdicts: list[dict[str, object]]) -> bool:
    """Whether any judge calls the picture unsafe."""
    return any(verdict["unsafe"] for verdict in verdicts)
