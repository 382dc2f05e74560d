"""The judge `q16`: CLIP and two tuned prompts, one for inappropriate pictures and one for the others.

Source: Schramowski, Tauchmann, Kersting, "Can Machines Help Us Answering Question 16 in Datasheets", FAccT 2022, and
its repository ml-research/Q16, which holds the tuned prompts of CLIP ViT-L/14."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dataset_builder import models
from dataset_builder.judges.verdict import Verdict, verdict_of
from recipes import JudgeConfig
from recipes.loading import RecipeError

if TYPE_CHECKING:
    from PIL import Image

CLIP = "openai/clip-vit-large-patch14"
# The order of ml-research/Q16, main/paper_experiments/experiments.py: "non inappropriate", "inappropriate".
_INAPPROPRIATE = 1
# CLIP's own factor on similarities, as ml-research/Q16 writes it out (main/models/clip.py).
_SCALE = 100.0


class Q16Judge:
    """The score is the share of the inappropriate prompt in softmax(100 cos(picture, prompt)) over the two prompts.

    It reaches 0.5 where the inappropriate prompt is the nearer one, so the default threshold is Q16's argmax, but for
    rounding at the fourth decimal.

    Args:
        config (`JudgeConfig`): `model` (None: `CLIP`), `revision`, `prompts` (see [`find_prompts`]), `threshold`,
            `batch_size`.

    Raises:
        `RecipeError`: when the model or the prompts are missing or do not fit together.
    """

    def __init__(self, config: JudgeConfig) -> None:
        import torch
        from transformers import CLIPImageProcessorPil

        source, commit = models.find_model(config.model or CLIP, config.revision)
        model = _load_clip(source, commit)
        self._prepare = CLIPImageProcessorPil.from_pretrained(source, revision=commit)
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._tower, self._projection = model.vision_model.to(self._device), model.visual_projection.to(self._device)
        path = find_prompts(config.prompts)
        array = _read_prompts(path)
        _compare_widths(path, array, source, self._projection.out_features)
        prompts = torch.from_numpy(array)
        self._prompts = (prompts / prompts.norm(dim=-1, keepdim=True)).to(self._device)
        self._config = config

    def judge(self, images: Sequence["Image.Image"]) -> list[Verdict]:
        """One verdict for each picture, of any size and mode."""
        import torch

        verdicts = []
        size = self._config.batch_size
        for start in range(0, len(images), size):
            batch = [image.convert("RGB") for image in images[start : start + size]]
            with torch.inference_mode():
                pixels = self._prepare(images=batch, return_tensors="pt").pixel_values.to(self._device)
                embeddings = self._projection(self._tower(pixel_values=pixels).pooler_output)
                embeddings = embeddings / embeddings.norm(dim=-1, keepdim=True)
                shares = (_SCALE * embeddings @ self._prompts.T).softmax(-1)[:, _INAPPROPRIATE].tolist()
            verdicts += [verdict_of(self._config, share) for share in shares]
        return verdicts


def find_prompts(prompts: str | None) -> Path:
    """The file of the tuned prompts, embeddings of shape (2, width) in the order harmless, inappropriate.

    Args:
        prompts (`str`, *optional*): path of a `.safetensors` or `.npy` file, or `repo_id:file` on the Hub.

    Raises:
        `RecipeError`: where nothing is named, nothing is there, or the file is of another kind.
    """
    if prompts is None:
        raise RecipeError(
            "judge.prompts: q16 needs its tuned prompts; expected a .safetensors or .npy file, or repo_id:file on the "
            "Hub. The original ones are ml-research/Q16's prompts.p of ViT-L/14, to be saved anew as .npy"
        )
    if not prompts.endswith((".safetensors", ".npy")):
        raise RecipeError(
            f"judge.prompts: {prompts}: expected a .safetensors or .npy file; a pickle such as prompts.p can run code "
            "and is never read: save its array anew with numpy.save, where you trust it"
        )
    if Path(prompts).is_file():
        return Path(prompts)
    repo_id, colon, name = prompts.partition(":")
    if not colon:
        raise RecipeError(f"judge.prompts: {prompts}: no such file; expected a file, or repo_id:file on the Hub")
    return models.hub_file(repo_id, name)


def check_clip(config: JudgeConfig) -> None:
    """Compare what the CLIP's config.json states with the prompts, so that what does not fit is known before the first
    picture is drawn; no weights are loaded.

    Raises:
        `RecipeError`: where it is no CLIP, or the prompts' embeddings have another width than its own.
    """
    source, commit = models.find_model(config.model or CLIP, config.revision)
    path = find_prompts(config.prompts)
    _compare_widths(path, _read_prompts(path), source, int(_clip_config(source, commit).projection_dim))


def _compare_widths(path: Path, prompts: np.ndarray, source: str, width: int) -> None:
    if prompts.shape[1] != width:
        raise RecipeError(f"judge.prompts: {path}: embeddings of {prompts.shape[1]}; those of {source} have {width}")


def _clip_config(source: str, commit: str | None) -> Any:
    """The configuration of a CLIP, or of its vision half; whatever else stands there is no judge."""
    from transformers import AutoConfig

    try:
        found = AutoConfig.from_pretrained(source, revision=commit)
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0][:200]
        raise RecipeError(f"judge.model: {source}: expected a CLIP, as {CLIP} is one: {first}") from None
    if found.model_type not in ("clip", "clip_vision_model"):
        raise RecipeError(
            f"judge.model: {source}: expected a CLIP, as {CLIP} is one; found a model of type {found.model_type}"
        )
    return found


def _load_clip(source: str, commit: str | None) -> Any:
    """A CLIP, or its vision half, on the CPU; whatever else stands there is no judge."""
    import torch
    from transformers import CLIPModel, CLIPVisionModelWithProjection

    kinds = {"clip": CLIPModel, "clip_vision_model": CLIPVisionModelWithProjection}
    kind = _clip_config(source, commit).model_type
    # float32 on a GPU too: in half precision a similarity of 20 has steps of 1/64, which moves the score's second
    # decimal.
    model, report = kinds[kind].from_pretrained(source, revision=commit, dtype=torch.float32, output_loading_info=True)
    if report["missing_keys"]:
        raise RecipeError(f"judge.model: {source} lacks weights of CLIP, such as {sorted(report['missing_keys'])[0]}")
    return model.eval()


def _read_prompts(path: Path) -> np.ndarray:
    """The array in a file, float32, of shape (2, width)."""
    try:
        if path.suffix == ".npy":
            array = np.load(path, allow_pickle=False)
        else:
            from safetensors.numpy import load_file

            tensors = load_file(path)
            if len(tensors) != 1:
                raise ValueError(f"expected one tensor, found {len(tensors)}")
            (array,) = tensors.values()
        if array.ndim != 2 or len(array) != 2:
            raise ValueError(f"expected two embeddings, shape (2, width), found the shape {array.shape}")
        if array.dtype.kind not in "fiu":
            raise ValueError(f"expected real numbers, found {array.dtype}")
        with np.errstate(over="ignore"):
            prompts = np.ascontiguousarray(array, dtype=np.float32)
        lengths = np.linalg.norm(prompts, axis=-1)
        # A score from such an embedding is no number, and no threshold would ever call it unsafe.
        if not (np.isfinite(lengths) & (lengths > 0)).all():
            raise ValueError("expected embeddings of finite numbers that are not all 0")
        return prompts
    except Exception as error:
        raise RecipeError(f"judge.prompts: {path} cannot be read: {str(error).splitlines()[0]}") from None


def identity(config: JudgeConfig) -> str:
    """`q16:`, CLIP's identity, and the first 12 digits of the sha256 of the prompts' file."""
    path = find_prompts(config.prompts)
    # Read here already, so that a file which is none is known before the first picture is drawn.
    _read_prompts(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    return f"q16:{models.identity(config.model or CLIP, config.revision)}, prompts {digest}"
