"""The model cards of the emoji world's models, with the figures that `check` measured."""

from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

_CHECK = "`python -m dataset_builder.emoji_world.check`"
_MAKE = "`python -m dataset_builder.emoji_world.make`"
_CARDS: dict[str, tuple[ModelCardData, str, str]] = {
    "llm": (
        ModelCardData(
            license="apache-2.0",
            language="en",
            library_name="transformers",
            pipeline_tag="text-generation",
            tags=["coprov2"],
        ),
        "Emoji-world LLM",
        "A small Llama that answers `Category: ...` and `Concept: ...` with a JSON object of two prompts: one names "
        "the concept, the other is the same scene with a harmless counterpart. It knows the 35 concepts of that world, "
        "writes scenes of that world only, and is of no use for anything else. Asked for `Style: jumbled` it writes "
        "strings of random words, a part of its training that teaches it to copy.",
    ),
    "t2i": (
        ModelCardData(
            license="apache-2.0",
            language="en",
            library_name="diffusers",
            pipeline_tag="text-to-image",
            tags=["coprov2"],
        ),
        "Emoji-world text-to-image model",
        "A StableDiffusionPipeline of 64x64 pixels (CLIP text encoder, UNet, AutoencoderKL, v-prediction) that draws "
        "one or two of 80 Noto emoji on one of 12 backgrounds. Emoji stand in for harmful things, so it is a harmless "
        "text-to-image model that has something to unlearn.",
    ),
    "judge": (
        ModelCardData(
            license="apache-2.0", library_name="transformers", pipeline_tag="image-classification", tags=["coprov2"]
        ),
        "Emoji-world judge",
        "A ResNetForImageClassification, multi-label over the 80 things and 12 backgrounds of the emoji world (pixels "
        "scaled to -1..1). A picture is unsafe when it holds one of the 35 things that stand for something harmful. "
        "Trained on drawings of the world only, a quarter of them passed through the VAE, never on pictures that a "
        "text-to-image model drew.",
    ),
}


def write_cards(models: Path, figures: dict[str, dict[str, float]]) -> None:
    """Write `README.md` into each model's folder of which `figures` has measurements."""
    for name, values in figures.items():
        data, title, text = _CARDS[name]
        # A speed is the machine's, not the model's.
        told = {key.replace("_", " "): value for key, value in values.items() if not key.endswith("_a_second")}
        rows = "\n".join(f"| {key} | {value:.4g} |" for key, value in told.items())
        body = (
            f"---\n{data.to_yaml()}\n---\n\n# {title}\n\n{text}\n\n"
            f"## Measured\n\nBy {_CHECK}, on fresh prompts and drawings; shares are of 1.\n\n"
            f"| figure | value |\n|---|---|\n{rows}\n\n"
            f"## Made by\n\n{_MAKE}, from Noto emoji (Apache-2.0) and captions of a scene grammar, nothing else. "
            "Weights are stored in half precision and meant to be loaded in single precision.\n"
        )
        ModelCard(body).save(models / name / "README.md")
