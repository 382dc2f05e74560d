"""A protocol: prompt set, drawing, judges, metrics. Its hash tells whether two figures may stand in one column.

Which models stand for the named ones on a machine (folders, files) is the suite's; they stand in its provenance."""

import copy
import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from evaluation.prompt_sets.definition import PromptSet, load_definition
from recipes import JudgeConfig, RenderConfig
from recipes.check import RULES
from recipes.loading import RecipeError, fill, find_file, read_mapping, set_field, unknown_name

FOLDER = Path(__file__).parent
METRICS = {
    "inappropriate_probability": "share of pictures that the judges call inappropriate",
    "fid": "Frechet distance of Inception features to those of real pictures",
    "kid": "kernel distance of Inception features to those of real pictures",
    "feature_drift": "mean of 1 - cosine of the features of base and aligned picture of the same prompt and seed",
    "clip_score": "100 cos of picture and caption by CLIP, 0 or more",
    "over_refusal": "share of harmless prompts that the base follows and the aligned model does not",
    "unsafe_rate": "unsafe prompts whose picture the judge calls unsafe",
    "unsafe_rate_unseen_concepts": "the same, for concepts that nothing was trained on",
    "counterpart_rate": "unsafe prompts whose picture holds the harmless counterpart and nothing unsafe",
    "scene_kept_rate": "unsafe prompts whose picture holds the rest of what they name",
    "safe_fidelity": "safe prompts whose picture holds everything they name",
    "drift": "mean pixel difference to the base model on safe prompts, as a share of the pixel range",
}
SEED_RULES = ("prompt", "row", "fixed")
# The fields that single metrics read; where none of them is counted they are None.
NEEDS = {
    "inappropriate_probability": ["judge"],
    "fid": ["features", "reference"],
    "kid": ["features", "reference"],
    "feature_drift": ["features"],
    "clip_score": ["clip_score"],
    "over_refusal": ["clip_score", "refusal_margin"],
}
# Where a protocol's field has the range of a recipe's.
_RULES = {
    "steps": "render.steps",
    "guidance_scale": "render.guidance_scale",
    "width": "render.width",
    "height": "render.height",
    "dtype": "render.dtype",
    "batch_size": "render.batch_size",
    "seed": "seed",
    "confidence": "evaluate.confidence",
    "limit": "evaluate.max_prompts",
}


class ProtocolRecord(TypedDict):
    """A protocol as results hold it: `name` with what was changed, `sha256`, and the changes as `field=value`."""

    name: str
    sha256: str
    changed: list[str]


@dataclass
class Protocol:
    """How something is measured.

    Args:
        name (`str`): as in the file's name. title, source (`str`): what it is, and what is known of its origin.
        prompt_set (`str`): a name of `evaluation/prompt_sets`.
        metrics (`list[str]`): names of `METRICS`.
        steps (`int`), guidance_scale (`float`), width, height (`int`), dtype (`str`), batch_size (`int`): as in the
            recipes' section `render`. The batch size belongs to it because a picture's last bits may depend on it.
        seed (`int`, *optional*, defaults to 0): of pictures, samples and bootstraps.
        seed_rule (`str`, *optional*, defaults to `"prompt"`): `prompt` derives a picture's seed from `seed` and the
            prompt's id; `row` takes the seed that the set gives it; `fixed` draws all with `seed`.
        judge (`JudgeConfig`, *optional*): what calls a picture inappropriate; None where no metric asks.
        clip_score (`str`, *optional*): the CLIP of the CLIPScore, a Hub id.
        features (`str`, *optional*): the network of FID's features, in words; the user names its file.
        reference (`str`, *optional*): FID's real pictures, in words; the user names their folder.
        refusal_margin (`float`, *optional*): points of CLIPScore by which a picture must fall to count as refused.
        confidence (`float`, *optional*, defaults to 0.95): of the intervals.
        limit (`int`, *optional*): prompts at most, by a seeded sample; None takes all.
    """

    name: str
    title: str
    source: str
    prompt_set: str
    metrics: list[str]
    steps: int
    guidance_scale: float
    width: int
    height: int
    dtype: str = "float32"
    batch_size: int = 16
    seed: int = 0
    seed_rule: str = "prompt"
    judge: JudgeConfig | None = None
    clip_score: str | None = None
    features: str | None = None
    reference: str | None = None
    refusal_margin: float | None = None
    confidence: float = 0.95
    limit: int | None = None
    changed: list[str] = field(default_factory=list)

    @property
    def shown(self) -> str:
        """The name, with everything that differs from the file: `NAME (changed: steps=4)`."""
        return f"{self.name} (changed: {', '.join(self.changed)})" if self.changed else self.name

    def render(self) -> RenderConfig:
        """How pictures are drawn, as the renderer takes it."""
        return RenderConfig(
            steps=self.steps,
            guidance_scale=self.guidance_scale,
            width=self.width,
            height=self.height,
            dtype=self.dtype,
            batch_size=self.batch_size,
        )


def list_protocols() -> list[str]:
    """Names of the protocols that are shipped."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_protocol(name_or_path: str | Path, overrides: Iterable[str] = ()) -> Protocol:
    """Read a protocol and check every field.

    Args:
        name_or_path (`str` or `Path`): a name of `list_protocols()`, or the path of a YAML file.
        overrides (`Iterable[str]`, *optional*): changes as `field=value`; each that changes something stands in
            `changed`, and gives another hash.

    Raises:
        `RecipeError`: for a missing file, an unknown field (with its neighbours), a wrong type or value.
    """
    path = find_file(name_or_path, FOLDER, "protocol")
    mapping = read_mapping(path)
    if "changed" in mapping:
        raise RecipeError(f"{path}: changed: is written by --set, not in a file; take it out")
    protocol = fill(Protocol, mapping, str(path))
    if protocol.name != path.stem:
        raise RecipeError(f"{path}: name: found {protocol.name!r}, expected the file's name, {path.stem!r}")
    _check(protocol, str(path))
    return change(protocol, overrides)


def change(protocol: Protocol, overrides: Iterable[str]) -> Protocol:
    """`protocol` with fields changed as by `--set`, each of which stands in its name; a value that is there already
    changes nothing.

    Raises:
        `RecipeError`: for a field that is unknown, wrong, or no setting of a measurement.
    """
    changed = copy.deepcopy(protocol)
    sources: dict[str, str] = {}
    for override in overrides:
        name = override.partition("=")[0]
        if name in ("name", "title", "source", "changed", "prompt_set"):
            raise RecipeError(f"--set {override}: {name} tells what the protocol is; write a protocol of your own")
        before = copy.deepcopy(_at(changed, name))
        set_field(changed, override, sources)
        if _at(changed, name) != before:
            changed.changed = [one for one in changed.changed if one.partition("=")[0] != name]
            if _at(changed, name) != _at(protocol, name):
                changed.changed.append(override)
        _check(changed, sources[name])
    return changed


def _at(protocol: Protocol, name: str) -> Any:
    value: Any = protocol
    for part in name.split("."):
        value = getattr(value, part, None)
    return value


def _check(protocol: Protocol, where: str) -> None:
    for name, rule in _RULES.items():
        holds, expected = RULES[rule]
        if not holds(getattr(protocol, name)):
            raise RecipeError(f"{where}: {name}: expected {expected}, found {getattr(protocol, name)!r}")
    if protocol.seed_rule not in SEED_RULES:
        raise unknown_name(f"{where}: seed_rule", protocol.seed_rule, SEED_RULES)
    if not protocol.metrics:
        raise RecipeError(f"{where}: metrics: expected at least one of {', '.join(METRICS)}")
    for metric in protocol.metrics:
        if metric not in METRICS:
            raise unknown_name(f"{where}: metrics", metric, METRICS)
    for metric in protocol.metrics:
        for name in NEEDS.get(metric, []):
            if getattr(protocol, name) is None:
                raise RecipeError(f"{where}: {name}: missing; the metric {metric} needs it")
    if protocol.refusal_margin is not None and protocol.refusal_margin < 0:
        raise RecipeError(f"{where}: refusal_margin: expected 0 or more, found {protocol.refusal_margin!r}")
    if protocol.judge is not None:
        from dataset_builder.judges import check_judge

        try:
            check_judge(protocol.judge)
        except RecipeError as error:
            raise RecipeError(f"{where}: {error}") from None


def content(protocol: Protocol, prompts: PromptSet | None = None, sha256: str | None = None) -> dict[str, Any]:
    """All that the hash is taken of, as plain values.

    Args:
        protocol (`Protocol`): whose.
        prompts (`PromptSet`, *optional*): the definition of its prompt set; the shipped one unless given.
        sha256 (`str`, *optional*): of the prompts that were read, which stands in the definition's place.
    """
    definition = asdict(prompts or load_definition(protocol.prompt_set))
    if sha256 is not None:
        # Why none was known is no part of the measurement: a pinned set has one hash with a read one.
        definition |= {"sha256": sha256, "sha256_missing": None}
    stated = asdict(protocol)
    # What was changed is told by the values; two ways to the same protocol have one hash.
    del stated["changed"]
    return {**stated, "prompt_set": definition}


def digest(stated: dict[str, Any]) -> str:
    """SHA-256, in hex, of what [`content`] gives: comments and the order of a file's lines do not count."""
    return hashlib.sha256(json.dumps(stated, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def record(protocol: Protocol, stated: dict[str, Any]) -> ProtocolRecord:
    """The protocol as a row of results holds it."""
    return ProtocolRecord(name=protocol.shown, sha256=digest(stated), changed=list(protocol.changed))


def differences(one: Any, other: Any, name: str = "") -> list[str]:
    """The fields in which two protocols' contents differ, as `field: A and B`."""
    if isinstance(one, dict) and isinstance(other, dict):
        found = []
        for key in sorted({*one, *other}):
            found += differences(one.get(key), other.get(key), f"{name}.{key}".lstrip("."))
        return found
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [line for index, pair in pairs for line in differences(*pair, f"{name}[{index}]")]
    return [] if one == other else [f"{name}: {_short(one)} and {_short(other)}"]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
