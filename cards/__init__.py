"""Cards: the README of a dataset or adapter repository, with typed metadata. Sending them is left to `hub`."""

from cards.adapter_card import write_adapter_card
from cards.dataset_card import write_dataset_card

__all__ = ["write_adapter_card", "write_dataset_card"]
