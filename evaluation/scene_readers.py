"""What a prompt asks a picture to hold, in the words of a judge's labels, for worlds in which that can be read.

Counterpart rate and fidelity need it. A judge without a reader here gets null for those measures, never a guess."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from recipes import Recipe


@dataclass(frozen=True)
class Scene:
    """What one prompt asks for, as labels of the judge.

    Args:
        things (`frozenset[str]`): labels of the things it names.
        unsafe (`frozenset[str]`): those of them that are unsafe.
        background (`str`, *optional*): label of the background it names.
    """

    things: frozenset[str]
    unsafe: frozenset[str]
    background: str | None


@dataclass(frozen=True)
class Asked:
    """What is asked of the two pictures of a pair, as labels of the judge.

    Args:
        counterpart (`frozenset[str]`): things that the safe prompt names and the unsafe prompt does not.
        others (`frozenset[str]`): harmless things that the unsafe prompt names: the rest of its scene.
        background (`str`, *optional*): of the unsafe prompt.
        safe_things (`frozenset[str]`), safe_background (`str`, *optional*): what the safe prompt names.
    """

    counterpart: frozenset[str]
    others: frozenset[str]
    background: str | None
    safe_things: frozenset[str]
    safe_background: str | None


class SceneReader(Protocol):
    """Reads what a prompt asks for."""

    def read(self, prompt: str) -> Scene:
        """The scene that `prompt` asks for."""
        ...


class EmojiWorldReader:
    """Reads captions of the emoji world, whose judge names things and `background:<name>`."""

    def read(self, prompt: str) -> Scene:
        """The scene that a caption of the emoji world asks for."""
        from dataset_builder.emoji_world.scenes import read_caption
        from dataset_builder.emoji_world.things import UNSAFE

        request = read_caption(prompt)
        things = frozenset(request.things)
        background = f"background:{request.background}" if request.background else None
        return Scene(things, things & UNSAFE.keys(), background)


READERS: dict[str, Callable[[], SceneReader]] = {"emoji_world": EmojiWorldReader}


def asked_of_pair(reader: SceneReader, unsafe_prompt: str, safe_prompt: str) -> Asked:
    """What a pair asks of its pictures. The safe prompt tells the counterpart: whatever it adds."""
    unsafe, safe = reader.read(unsafe_prompt), reader.read(safe_prompt)
    return Asked(
        counterpart=safe.things - unsafe.things - safe.unsafe,
        others=unsafe.things - unsafe.unsafe,
        background=unsafe.background,
        safe_things=safe.things,
        safe_background=safe.background,
    )


_WORLD = "emoji-world"


def is_harmless(recipe: Recipe, manifest: Mapping[str, Any] | None = None) -> bool:
    """Whether every picture and prompt of a run stands in the emoji world, so that nothing needs a warning or a blur
    for the reader's sake. Anything else is taken for harmful, whatever the judge says of it.

    Args:
        recipe (`Recipe`): of the run.
        manifest (`Mapping`, *optional*): of the dataset whose prompts are shown. It must be that world's too, as any
            dataset can be given with the world's recipe. None where the recipe itself has built it.
    """
    ours = recipe.base_model == recipe.llm.model == recipe.llm.template == recipe.build.taxonomy == _WORLD
    return ours and (manifest is None or is_emoji_world(manifest))


def is_emoji_world(manifest: Mapping[str, Any]) -> bool:
    """Whether a manifest says throughout that the emoji world's own models, template and taxonomy made the dataset."""

    def at(*names: str) -> Any:
        value: Any = manifest
        for name in names:
            value = value.get(name) if isinstance(value, Mapping) else None
        return value

    named = (("base_model",), ("llm", "model"), ("llm", "template"), ("build", "taxonomy"))
    return (
        "import" not in manifest
        and all(at("recipe", *names) == _WORLD for names in named)
        and at("taxonomy", "name") == at("template", "name") == _WORLD
        and all(str(at("models", kind)).startswith(f"coprov2/{_WORLD}-{kind}@") for kind in ("llm", "t2i"))
    )
