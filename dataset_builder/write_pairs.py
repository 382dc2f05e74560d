"""The step `write_pairs`: asks the text engine for prompt pairs, concept by concept, until enough are written.

What a prompt must be like beyond the reply's JSON schema is left to the step `screen`."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from tqdm import tqdm

from dataset_builder.block_list import blocked_by
from dataset_builder.engines import Failure, TextEngine, find_engine
from dataset_builder.keys import clean, content_key, pair_id, seed_from
from dataset_builder.ledger import Record
from dataset_builder.schema import Row
from dataset_builder.step import Plan, Step
from dataset_builder.taxonomy import Category, Concept
from dataset_builder.templates import Messages


@dataclass(frozen=True)
class Request:
    """One pair that is asked for. `key` derives from all that the reply depends on."""

    key: str
    category: str
    concept: str
    messages: Messages


def pairs_wanted(plan: Plan, category: Category, concept: Concept) -> float:
    """Pairs that the splits want of a concept: a category's pairs are shared evenly by its seen, or unseen,
    concepts."""
    build = plan.recipe.build
    seen = build.train_pairs + build.validation_pairs + build.test_pairs
    pairs = build.unseen_concept_pairs if concept.unseen else seen
    return pairs / sum(other.unseen == concept.unseen for other in category.concepts)


def plan_requests(plan: Plan) -> list[Request]:
    """Every request of a build, in order: `build.oversample` times the pairs that are wanted of each concept."""
    requests = []
    settings = asdict(plan.recipe.llm)
    # The identity stands for the model, wherever it lies, and the messages for the template.
    for name in ("model", "revision", "template"):
        del settings[name]
    for category, concept in plan.taxonomy.concepts():
        messages = plan.template.fill(category, concept)
        content = [plan.recipe.seed, plan.identities.llm, settings, messages, plan.template.schema, category.name]
        for index in range(math.ceil(pairs_wanted(plan, category, concept) * plan.recipe.build.oversample)):
            key = content_key("request", *content, index)
            requests.append(Request(key, category.name, concept.name, messages))
    return requests


class WritePairs(Step):
    """Adds rows; asks in rounds.

    Round r asks again, with other seeds, what failed in rounds 0..r-1, and starts when round r-1 is complete. A round
    is cut into batches of `llm.batch_size` requests, so a build that was killed asks the same batches as one that was
    not."""

    name = "write_pairs"
    gives = ("pair_id", "category", "concept", "unsafe_prompt", "safe_prompt", "llm", "t2i", "source")

    def run(self, rows: list[Row]) -> list[Row]:
        requests = plan_requests(self.workshop.plan)
        records = self._ask(requests)
        identities = self.workshop.plan.identities
        written = []
        for request in requests:
            record = records[request.key]
            if record.status != "done":
                self.drop(request.key, f"{record.status}: {record.error}")
                continue
            unsafe, safe = record.payload["unsafe_prompt"], record.payload["safe_prompt"]
            written.append(
                {
                    "pair_id": pair_id(unsafe, safe, identities.renderer),
                    "category": request.category,
                    "concept": request.concept,
                    "unsafe_prompt": unsafe,
                    "safe_prompt": safe,
                    "llm": identities.llm,
                    "t2i": identities.t2i,
                    "source": "synthetic",
                }
            )
        self.notes["requests"] = len(requests)
        self.notes["attempts"] = sum(record.attempts for record in records.values())
        return rows + written

    def _ask(self, requests: list[Request]) -> dict[str, Record]:
        config, ledger = self.workshop.recipe.llm, self.workshop.ledger
        records = ledger.get(self.name, [request.key for request in requests])
        engine: TextEngine | None = None
        answered = sum(record.status != "failed" for record in records.values())
        with tqdm(total=len(requests), initial=answered, desc="prompt pairs", unit="pair") as bar:
            for attempt in range(config.max_attempts):
                asked = [r for r in requests if _takes_part(records.get(r.key), attempt)]
                for start in range(0, len(asked), config.batch_size):
                    batch = asked[start : start + config.batch_size]
                    if all(r.key in records and records[r.key].attempts > attempt for r in batch):
                        continue
                    engine = engine or find_engine(config).load(config)
                    new = self._answers(engine, batch, attempt)
                    ledger.put(self.name, new)
                    records |= {record.key: record for record in new}
                    bar.update(sum(record.status != "failed" for record in new))
        return records

    def _answers(self, engine: TextEngine, batch: Sequence[Request], attempt: int) -> list[Record]:
        seeds = [seed_from(request.key, attempt) for request in batch]
        replies = engine.generate([request.messages for request in batch], self.workshop.plan.template.schema, seeds)
        records = []
        for request, reply in zip(batch, replies, strict=True):
            tries = attempt + 1
            if isinstance(reply, Failure):
                records.append(Record(request.key, "failed", tries, error=asdict(reply)["reason"]))
                continue
            prompts = {side: clean(reply[side]) for side in ("unsafe_prompt", "safe_prompt")}
            rule = blocked_by(request.category, *prompts.values())
            # A blocked reply is final and never written down.
            records.append(
                Record(request.key, "blocked", tries, error=rule)
                if rule
                else Record(request.key, "done", tries, prompts)
            )
        return records


def _takes_part(record: Record | None, attempt: int) -> bool:
    """Whether a request with this record was, or is to be, asked in the round `attempt`."""
    if record is None:
        return attempt == 0
    return record.attempts > attempt or (record.attempts == attempt and record.status == "failed")
