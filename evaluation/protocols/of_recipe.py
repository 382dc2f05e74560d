"""The protocol that a recipe's own evaluation follows: a run's dataset, drawn and judged as the recipe says."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from evaluation.prompt_sets.definition import PromptSet, load_definition
from evaluation.prompt_sets.loading import Prompt, checksum
from evaluation.prompts import Pair
from evaluation.protocols.protocol import Protocol, ProtocolRecord, content, digest, load_protocol
from recipes import Recipe

_EMOJI_WORLD = "emoji-world"
_RENDER = ("steps", "guidance_scale", "width", "height", "dtype", "batch_size")
# What a recipe's own evaluation takes of a protocol; a change of anything else would change nothing.
READ = (*_RENDER, "seed", "judge", "confidence", "limit")


def stated_protocol(recipe: Recipe, pairs: Mapping[str, Sequence[Pair]]) -> tuple[ProtocolRecord, dict[str, Any]]:
    """Name, hash and changes of the protocol, and what the hash was taken of.

    Args:
        recipe (`Recipe`): its sections `render`, `judge` and `evaluate`. One of the name emoji-world is compared with
            the shipped protocol of that name, and says what it changes; any other is a protocol of its own.
        pairs (`Mapping[str, Sequence[Pair]]`): all pairs of the splits, before a limit is applied.
    """
    shipped = load_protocol(_EMOJI_WORLD)
    values = {name: getattr(recipe.render, name) for name in _RENDER}
    values |= {"judge": recipe.judge, "confidence": recipe.evaluate.confidence, "limit": recipe.evaluate.max_prompts}
    values["seed"] = recipe.seed
    splits = list(recipe.evaluate.splits)
    definition = load_definition(shipped.prompt_set)
    changed: list[str] = []
    if recipe.name == _EMOJI_WORLD:
        before = asdict(shipped)
        after = asdict(replace(shipped, **values))
        for name in values:
            if after[name] != before[name]:
                changed.append(f"{name}={recipe.judge.name if name == 'judge' else after[name]}")
        if splits != definition.loader.splits:
            changed.append(f"splits={'+'.join(splits)}")
        if recipe.render.safety_checker:
            changed.append("safety_checker=True")
        protocol = replace(shipped, **values, changed=changed)
    else:
        definition = _dataset(recipe.name)
        title, source = "The test splits of the run's own dataset", "the recipe's sections render, judge and evaluate"
        protocol = replace(
            shipped, **values, name=f"recipe {recipe.name}", title=title, source=source, prompt_set=definition.name
        )
    definition = replace(definition, loader=replace(definition.loader, splits=splits))
    prompts = (
        Prompt(pair.pair_id, text, f"{split}/{pair.category}", pair.seed)
        for split, rows in pairs.items()
        for pair in rows
        # The safe prompts are drawn as well.
        for text in (pair.unsafe_prompt, pair.safe_prompt)
    )
    stated = content(protocol, definition, checksum(prompts, seeds=protocol.seed_rule == "row"))
    if recipe.render.safety_checker:
        # It blackens pictures that a judge then finds safe. Named protocols draw without one, and do not state it.
        stated["safety_checker"] = True
    return ProtocolRecord(name=protocol.shown, sha256=digest(stated), changed=list(protocol.changed)), stated


def _dataset(recipe: str) -> PromptSet:
    shipped = load_definition("emoji_world")
    about = "Both prompts of each pair of the test splits; the folder of a dataset is given."
    return replace(
        shipped,
        name="dataset",
        title="Test splits of a dataset",
        about=about,
        source=f"the recipe {recipe}",
        licence="",
    )


def emoji_world_recipe(recipe: Recipe, protocol: Protocol) -> Recipe:
    """`recipe` with the settings of `protocol`, for drawing and judging as it says."""
    assert protocol.judge is not None
    render = replace(recipe.render, **{name: getattr(protocol, name) for name in _RENDER})
    evaluate = replace(recipe.evaluate, max_prompts=protocol.limit, confidence=protocol.confidence, experts=False)
    return replace(
        recipe, name=_EMOJI_WORLD, seed=protocol.seed, render=render, judge=protocol.judge, evaluate=evaluate
    )
