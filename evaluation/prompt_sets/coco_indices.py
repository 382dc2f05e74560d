"""Which of COCO's captions are drawn: index lists, made from numbers alone and shipped as text.

An index is the place of an image among the 40,504 of COCO 2014 val, sorted by image id, from 0. The order is by the
SHA-256 of a stated text, so that anybody makes the same lists, and each list begins with the shorter one. The paper's
own list of 3,000 is not published; these are ours.

    python -m evaluation.prompt_sets.coco_indices            writes both lists beside this file
"""

import hashlib
from pathlib import Path

from recipes.writing import write_whole

IMAGES = 40_504
SIZES = {"coco_3k": 3_000, "coco_30k": 30_000}
_TEXT = "coprov2/coco-2014-val/{index}"


def hash_order(images: int) -> list[int]:
    """The indices 0..images - 1, sorted by the SHA-256 of `coprov2/coco-2014-val/<index>`."""
    return sorted(range(images), key=lambda index: hashlib.sha256(_TEXT.format(index=index).encode()).digest())


def list_text(size: int, images: int = IMAGES) -> str:
    """An index list as it is shipped: one index a line, in the order of `hash_order`."""
    return "".join(f"{index}\n" for index in hash_order(images)[:size])


def main() -> None:
    """Write the lists, and print their checksums for the definitions."""
    for name, size in SIZES.items():
        text = list_text(size)
        write_whole(Path(__file__).parent / f"{name}.txt", text)
        print(f"{name}.txt: {size} indices, sha256 {hashlib.sha256(text.encode()).hexdigest()}")


if __name__ == "__main__":
    main()
