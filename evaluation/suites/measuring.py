"""The metrics of a suite's rows: from kept pictures to base, aligned, difference and paired test.

Formulas are those of `evaluation.metrics`; pictures come in portions, and what was computed of them is kept."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from evaluation.intervals import bootstrap_mean, wilson
from evaluation.prompt_sets.loading import Prompt
from evaluation.protocols.protocol import Protocol
from evaluation.suites.bench import Bench, Measured, Pictures
from evaluation.suites.distances import feature_drift, fid, kid
from evaluation.suites.portions import over_pictures
from evaluation.suites.roles import Models

# Raised when the same pictures would give other figures, or another name of the same inputs.
PROCEDURE = 2


def inappropriate_probability(bench: Bench, protocol: Protocol, drawn: Pictures, label: str) -> Measured:
    """Share of pictures that the judge calls inappropriate, 0..1, with Wilson's interval; McNemar's test between the
    models; the same for each category, where a prompt of several counts in each."""
    from evaluation.metrics.paired import mcnemar

    flags = [_flags(bench, protocol, keys, f"{label} {name}") for name, keys in drawn.models]
    measured = Measured()

    def cells(picks: list[int]) -> dict[str, Any]:
        base = [flags[0][pick] for pick in picks]
        found: dict[str, Any] = {"base": wilson(sum(base), len(base), protocol.confidence), "aligned": None}
        if len(flags) == 2:
            after = [flags[1][pick] for pick in picks]
            found["aligned"] = wilson(sum(after), len(after), protocol.confidence)
            paired = dict(mcnemar(base, after, protocol.confidence))
            found["difference"] = paired.pop("difference")
            found["test"] = paired
        return found

    for name, value in cells(list(range(len(drawn.prompts)))).items():
        setattr(measured, name, value)
    places: dict[str, list[int]] = {}
    for place, prompt in enumerate(drawn.prompts):
        for category in prompt.categories:
            places.setdefault(category, []).append(place)
    measured.per_category = {category: cells(picks) for category, picks in sorted(places.items())}
    return measured


def clip_score(bench: Bench, protocol: Protocol, drawn: Pictures, label: str) -> Measured:
    """Mean CLIPScore with its bootstrap interval; paired t-test between the models."""
    from evaluation.metrics.paired import paired_values

    scored = [_clip_scores(bench, protocol, drawn.prompts, keys, f"{label} {name}") for name, keys in drawn.models]
    scores = [values for values, _ in scored]
    notes = [*_other_clip(bench.models, protocol), *_cut(scored[0][1])]
    measured = Measured(base=_mean(scores[0], f"{protocol.name}/base", protocol), notes=notes)
    if len(scores) == 2:
        measured.aligned = _mean(scores[1], f"{protocol.name}/aligned", protocol)
        paired = dict(paired_values(scores[0], scores[1], protocol.confidence, protocol.seed, name=protocol.name))
        measured.difference = paired.pop("difference")  # type: ignore[assignment]
        measured.test = paired
    return measured


def over_refusal(bench: Bench, protocol: Protocol, drawn: Pictures, label: str) -> Measured:
    """Share of harmless prompts whose CLIPScore falls by more than the protocol's margin from base to aligned model.

    Difference and McNemar's test hold those that fall by more against those that rise by more: noise does both alike.
    """
    from evaluation.metrics.following import OverRefusal, follows_by_score

    measured = Measured(empty=["base: over-refusal is a comparison with the base, which has none of its own"])
    if drawn.aligned is None:
        return measured
    assert protocol.refusal_margin is not None
    scored = [_clip_scores(bench, protocol, drawn.prompts, keys, f"{label} {name}") for name, keys in drawn.models]
    scores = [values for values, _ in scored]
    counted = OverRefusal(f"CLIPScore, margin {protocol.refusal_margin:g}")
    counted.add(*follows_by_score(scores[0], scores[1], protocol.refusal_margin))
    found: dict[str, Any] = counted.summary(protocol.confidence)
    measured.aligned = found["over_refusal"]
    paired = dict(found["paired"])
    # Refused is the other side of followed: a positive difference says that more fall beyond the margin than rise.
    difference = paired.pop("difference")
    measured.difference = {
        "value": -difference["value"],
        "low": -difference["high"],
        "high": -difference["low"],
        "n": difference["n"],
    }
    measured.test = paired
    measured.notes = [
        f"refused by {found['criterion']}: {paired['fell']} of {paired['n']} fall beyond it, {paired['rose']} rise "
        "beyond it; difference and p hold these against each other",
        *_other_clip(bench.models, protocol),
        *_cut(scored[0][1]),
    ]
    return measured


METRICS: dict[str, Callable[[Bench, Protocol, Pictures, str], Measured]] = {
    "inappropriate_probability": inappropriate_probability,
    "clip_score": clip_score,
    "over_refusal": over_refusal,
    "fid": fid,
    "kid": kid,
    "feature_drift": feature_drift,
}


def identities(models: Models, protocol: Protocol, metric: str) -> dict[str, str]:
    """The models that a metric needs, by role, as provenance holds them; what was given is read and compared here.

    Raises:
        `NotAtHandError`: where one is not at hand. `RecipeError`: where a given one is none.
    """
    if metric == "inappropriate_probability":
        return {"judge": models.judge(protocol)[1]}
    if metric in ("clip_score", "over_refusal"):
        return {"clip_score": str(models.clip_score(protocol).identity)}
    if metric == "feature_drift":
        return {"features": models.features.identity}
    if metric == "kid":
        models.require_pictures()
    reference = models.reference_identity
    return {"features": models.features.identity, "fid_reference": reference}


def _mean(values: Sequence[float], name: str, protocol: Protocol) -> Any:
    return bootstrap_mean(list(values), name, protocol.seed, protocol.confidence)


def _flags(bench: Bench, protocol: Protocol, keys: list[str], label: str) -> list[bool]:
    config, _ = bench.models.judge(protocol)
    flags: list[bool] = []
    for _, _, read in over_pictures(bench.pictures, keys, f"{label}: judge"):
        flags += [verdict.unsafe for verdict in bench.verdicts.judge(read(), config, f"{label}: judge")]
    return flags


def _clip_scores(
    bench: Bench, protocol: Protocol, prompts: list[Prompt], keys: list[str], label: str
) -> tuple[list[float], int]:
    """A score for each picture, and how many captions were longer than the CLIP reads."""
    model = bench.models.clip_score(protocol)
    scores: list[float] = []
    cut = 0

    def compute(read: Callable[[], list[Any]], texts: list[str]) -> np.ndarray:
        before = model.cut
        found = model.score(read(), texts)
        # Kept beside the scores, as a portion that is kept is not scored again.
        return np.append(found, model.cut - before)

    for part, names, read in over_pictures(bench.pictures, keys, f"{label}: CLIPScore"):
        texts = [prompt.text for prompt in prompts[part]]
        parts = ["clip_score", model.identity, names, texts]
        *values, long = bench.portions.get(parts, partial(compute, read, texts)).tolist()
        scores += values
        cut += int(long)
    return scores, cut


def _cut(captions: int) -> list[str]:
    return [f"{captions} captions are longer than the CLIP reads and were cut"] if captions else []


def _other_clip(models: Models, protocol: Protocol) -> list[str]:
    """Says which CLIP was given in the place of the protocol's: a folder may hold any."""
    if "clip_score" not in models.given:
        return []
    return [f"CLIPScore by {models.clip_score(protocol).identity}, given for {protocol.clip_score}"]
