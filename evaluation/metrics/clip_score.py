"""CLIPScore: how well pictures and prompts agree, by a CLIP that the user names.

Source: Hessel et al. 2021 (arXiv 2104.08718), in the form that papers on text-to-image models print: 100 cos, and 0
where the cosine is negative; without the factor 2.5 of the original."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.metrics.clip import image_embeddings, load_clip
from evaluation.metrics.features import pixels_of
from recipes import RecipeError

if TYPE_CHECKING:
    from PIL.Image import Image

BATCH = 32


class ClipScore:
    """Scores pictures against prompts.

    Args:
        identity (`str`): the CLIP, as `repo@commit` or `folder@digest`: scores of two CLIPs do not compare.
        model, processor, tokenizer: of transformers.
        device (`str`): where it computes, in float32.

    Attributes:
        cut (`int`): prompts so far that were longer than the CLIP reads (77 tokens with both ends) and were cut.
        scored (`int`): prompts so far.
    """

    def __init__(self, identity: str, model: Any, processor: Any, tokenizer: Any, device: str) -> None:
        self.identity, self.cut, self.scored = identity, 0, 0
        self._model, self._processor, self._tokenizer, self._device = model, processor, tokenizer, device
        self.longest = int(model.config.text_config.max_position_embeddings)

    def score(self, images: Sequence["Image"], prompts: Sequence[str]) -> np.ndarray:
        """float64 (N,), 0..100: 100 times the cosine of each picture's and its prompt's embedding, not below 0.

        Raises:
            `RecipeError`: for as many prompts as there are not pictures, a prompt that is no text or is empty, a
                picture that cannot be read, or a score that is no number; each by its place, no prompt is quoted.
        """
        import torch
        from PIL import Image

        if len(images) != len(prompts):
            raise RecipeError(f"CLIPScore: found {len(images)} pictures and {len(prompts)} prompts, expected as many")
        for row, prompt in enumerate(prompts):
            if not isinstance(prompt, str) or not prompt.strip():
                raise RecipeError(f"CLIPScore: prompt {row}: expected a text that is not empty")
        scores = np.empty(len(images), np.float64)
        for start in range(0, len(images), BATCH):
            part = slice(start, start + BATCH)
            pictures = [Image.fromarray(pixels_of(image, start + row)) for row, image in enumerate(images[part])]
            with torch.inference_mode():
                seen = image_embeddings(self._model, self._processor, pictures, self._device)
                said = self._text_embeddings(list(prompts[part]))
                cosines = torch.nn.functional.cosine_similarity(seen.double(), said.double(), dim=-1)
            scores[part] = cosines.cpu().numpy()
        wrong = np.flatnonzero(~np.isfinite(scores))
        if len(wrong):
            raise RecipeError(f"CLIPScore: picture {wrong[0]}: {self.identity} gives no number for it or its prompt")
        self.scored += len(prompts)
        return np.clip(100 * scores, 0.0, 100.0)

    def _text_embeddings(self, prompts: list[str]) -> Any:
        # Padded to the full length always: what a batch holds beside a prompt then changes nothing.
        whole = self._tokenizer(prompts, verbose=False)["input_ids"]
        self.cut += sum(len(tokens) > self.longest for tokens in whole)
        tokens = self._tokenizer(
            prompts, padding="max_length", truncation=True, max_length=self.longest, return_tensors="pt"
        ).to(self._device)
        pooled = self._model.text_model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).pooler_output
        return self._model.text_projection(pooled)


def load_clip_score(model: str | Path, revision: str | None = None, device: str = "cpu") -> ClipScore:
    """Load a CLIP with its tokenizer.

    Args:
        model (`str` or `Path`): a folder or a Hub id; METHOD.md section 5 names
            `laion/CLIP-ViT-H-14-laion2B-s32B-b79K` for the figures of papers.
        revision (`str`, *optional*): commit, tag or branch of a Hub id.
        device (`str`, *optional*, defaults to `cpu`): where it computes.

    Raises:
        `RecipeError`: where there is no CLIP of both halves, or its tokenizer is missing or of another vocabulary.
    """
    from transformers import CLIPTokenizer

    from dataset_builder import models

    name = str(model)
    clip, processor = load_clip(name, revision, device, text=True)
    source, commit = models.find_model(name, revision)
    try:
        tokenizer = CLIPTokenizer.from_pretrained(source, revision=commit)
    except (OSError, ValueError, TypeError) as error:
        raise RecipeError(f"{name}: its tokenizer cannot be loaded: {str(error).splitlines()[0][:200]}") from None
    words = int(clip.config.text_config.vocab_size)
    # transformers makes an empty tokenizer of a folder without one, and every prompt then reads the same.
    if len(tokenizer) < 3 or len(tokenizer) > words:
        raise RecipeError(
            f"{name}: found a tokenizer of {len(tokenizer)} tokens, expected one for the {words} of its text encoder"
        )
    return ClipScore(models.identity(name, revision), clip, processor, tokenizer, device)
