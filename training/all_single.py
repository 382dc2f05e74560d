"""The control beside experts and merge: one LoRA trained on the pairs of all categories from zero, without any expert.

The loss is the recipe's, and so are batch, schedule and peak rate; rank and steps are the caller's, who compares at
equal rank and equal total steps."""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from dataset_builder.models import identity
from recipes import Recipe
from recipes.writing import write_json
from training.adapters import checksum, write_adapter
from training.expert import Base
from training.joint_tuning import train_on_all
from training.merge import PROVENANCE, is_done

# Goes up when the same settings come to give another adapter.
_FORMAT = 1
_INDIFFERENT = ("categories", "max_steps", "rank", "save_steps", "sample_steps", "sample_pairs", "report_to")


def train_all_single(
    recipe: Recipe, folder: Path, work: Path, rank: int, steps: int, base: Callable[[], Base], pairs: str
) -> bool:
    """Train the control, or leave it alone where the folder holds it already; a killed training is gone on with.

    Args:
        recipe (`Recipe`): train, base_model, revision and seed. With `train.dpo_weight` 0 it is the control without the
            preference term, the winner's anchor and the prior alone.
        folder (`Path`): of the adapter: diffusers' file, and `coprov2.json` with what it was made from.
        work (`Path`): of the checkpoints, removed at the end.
        rank (`int`), steps (`int`): at least 1. The LoRA's `alpha / rank` is that of the experts.
        base (`Callable`): gives the frozen model, the pairs and the caches; called only if there is training to do.
        pairs (`str`): hash of the pairs, `PairData.fingerprint()`.

    Returns:
        `bool`: whether anything was trained.
    """
    settings = {key: value for key, value in dataclasses.asdict(recipe.train).items() if key not in _INDIFFERENT}
    provenance = {
        "kind": "all-single adapter",
        "base_model": identity(recipe.base_model, recipe.revision),
        "seed": recipe.seed,
        "steps": steps,
        "rank": rank,
        "scaling": recipe.train.alpha / recipe.train.rank,
        "settings": settings,
        "pairs": pairs,
    }
    text = json.dumps({"format": _FORMAT, **provenance}, sort_keys=True)
    fingerprint = hashlib.sha256(text.encode()).hexdigest()
    if is_done(folder, fingerprint):
        return False
    known = base()
    layers = train_on_all(recipe, steps, recipe.train.learning_rate, rank, known, work, fingerprint)
    # A folder that is half new must not pass for done.
    (folder / PROVENANCE).unlink(missing_ok=True)
    write_adapter(folder, layers, {"coprov2": "one LoRA on all categories"}, component=known.denoiser.component)
    write_json(folder / PROVENANCE, {**provenance, "weights": checksum(folder), "fingerprint": fingerprint})
    return True
