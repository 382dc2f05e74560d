"""Make the folders of kinds: `python -m tests.hub.hostile.making FOLDER [KIND...]`."""

import sys
from pathlib import Path

from tests.hub.hostile import KINDS


def make(folder: Path, names: list[str]) -> None:
    """A folder of its name below `folder` for each of the kinds, or for all."""
    for name in names or KINDS:
        (folder / name).mkdir(parents=True)
        KINDS[name].make(folder / name)


if __name__ == "__main__":
    make(Path(sys.argv[1]), sys.argv[2:])
