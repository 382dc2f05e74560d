"""Load what was published by its tags with stock libraries, and compare it with the folders that it was made from.

Imports nothing of this project: it is run as a script, by the quickstart, with HF_ENDPOINT set. Prints one JSON object:
rows by split of both versions, whether each row and each weight is the one that was made."""

import argparse
import hashlib
import json
from typing import Any


def row_hashes(dataset: Any) -> dict[str, set[str]]:
    """A hash of each row by split, over every column; pictures by their pixels."""
    hashes: dict[str, set[str]] = {}
    for split, rows in dataset.items():
        hashes[split] = set()
        for row in rows:
            digest = hashlib.sha256()
            for name, value in sorted(row.items()):
                read = (value.size, value.convert("RGB").tobytes()) if hasattr(value, "tobytes") else value
                digest.update(f"{name}\0{read!r}\0".encode())
            hashes[split].add(digest.hexdigest())
    return hashes


def check_dataset(name: str, first: str, second: str, folder: str) -> dict[str, Any]:
    """Compare a dataset at two tags, the second with further rows, with the folder of the first."""
    from datasets import load_dataset

    made = row_hashes(load_dataset(folder))
    one = row_hashes(load_dataset(name, revision=first))
    other = row_hashes(load_dataset(name, revision=second))
    return {
        "rows": {
            tag: {split: len(rows) for split, rows in found.items()} for tag, found in ((first, one), (second, other))
        },
        "first_is_what_was_made": one == made,
        "second_holds_the_first": all(rows <= other.get(split, set()) for split, rows in one.items()),
    }


def check_adapter(name: str, tag: str, folder: str, base: str) -> dict[str, Any]:
    """Compare an adapter at a tag, as diffusers loads it, with the one in the folder."""
    from diffusers import DiffusionPipeline
    from transformers.utils import logging

    # transformers reports the layers of a text encoder's LoRA as missing before it fills them.
    logging.set_verbosity_error()
    pipe = DiffusionPipeline.from_pretrained(base)
    pipe.load_lora_weights(name, revision=tag, adapter_name="published")
    pipe.load_lora_weights(folder, weight_name="pytorch_lora_weights.safetensors", adapter_name="made")
    names = ("unet", "transformer", "text_encoder", "text_encoder_2")
    networks = {name: getattr(pipe, name) for name in names if getattr(pipe, name, None) is not None}
    weights = {f"{name}.{key}": value for name, one in networks.items() for key, value in one.named_parameters()}
    published = {key: value for key, value in weights.items() if ".published." in key}
    same = all(bool((value == weights[key.replace(".published.", ".made.")]).all()) for key, value in published.items())
    scalings = {
        layer.scaling["published"] == layer.scaling["made"]
        for network in networks.values()
        for layer in network.modules()
        if "published" in getattr(layer, "scaling", {})
    }
    return {"weights": len(published), "adapter_is_what_was_made": bool(published) and same and scalings == {True}}


def main() -> None:
    """Read the command line, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", nargs=4, metavar=("NAME", "TAG", "LATER_TAG", "FOLDER"), required=True)
    parser.add_argument("--adapter", nargs=4, metavar=("NAME", "TAG", "FOLDER", "BASE"), required=True)
    arguments = parser.parse_args()
    print(json.dumps({**check_dataset(*arguments.dataset), **check_adapter(*arguments.adapter)}))


if __name__ == "__main__":
    main()
