"""CoProV2 as preference data in TRL's words: prompt, chosen, rejected."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dataset_builder.schema import IMAGE_COLUMNS

if TYPE_CHECKING:
    from datasets import Dataset

SIDES = ("unsafe", "safe")


def to_preference(dataset: "Dataset", prompts: Sequence[str] = SIDES) -> "Dataset":
    """Preference pairs: whatever the prompt, the safe image is chosen over the unsafe one.

    Args:
        dataset (`datasets.Dataset`): a split of the config `default`.
        prompts (`Sequence[str]`, *optional*, defaults to `("unsafe", "safe")`): which prompt of a pair is the
            condition; with both, each pair gives two rows: first all of the first side, then all of the second.

    Returns:
        `datasets.Dataset` with the columns prompt, chosen, rejected, pair_id, category and side.

    Raises:
        `ValueError`: for an unknown side, or a dataset without the pictures.
    """
    from datasets import Value, concatenate_datasets

    if not prompts or any(side not in SIDES for side in prompts):
        raise ValueError(f"prompts: expected some of {', '.join(SIDES)}, found {list(prompts)}")
    missing = [column for column in IMAGE_COLUMNS if column not in dataset.column_names]
    if missing:
        raise ValueError(f"the dataset lacks {' and '.join(missing)}: load the config `default`, not `prompts`")
    parts = []
    for side in prompts:
        part = dataset.select_columns(["pair_id", "category", f"{side}_prompt", "safe_image", "unsafe_image"])
        part = part.rename_columns({f"{side}_prompt": "prompt", "safe_image": "chosen", "unsafe_image": "rejected"})
        parts.append(part.add_column("side", [side] * len(part), feature=Value("string")))
    return concatenate_datasets(parts).select_columns(["prompt", "chosen", "rejected", "pair_id", "category", "side"])
