"""Training: CoProV2 -> `DiffusionDPOTrainer` -> one LoRA safety expert per category -> Co-Merge -> one LoRA."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from training.config import DiffusionDPOConfig
    from training.experts import train_experts
    from training.trainer import DiffusionDPOTrainer

__all__ = ["DiffusionDPOConfig", "DiffusionDPOTrainer", "train_experts"]

_HOME = {
    "DiffusionDPOConfig": "training.config",
    "DiffusionDPOTrainer": "training.trainer",
    "train_experts": "training.experts",
}


def __getattr__(name: str) -> Any:
    # On first use: the trainer's imports take seconds, which the merge and the command line need not spend.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
