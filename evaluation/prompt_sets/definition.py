"""What a prompt set is: its origin, licence, loader, number of rows and checksum, read from a YAML file.

The prompts themselves are read by `evaluation.prompt_sets.loading`; no set of harmful prompts is shipped, only how to
read it where somebody has it."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from recipes.loading import RecipeError, fill, find_file, read_mapping, unknown_name

FOLDER = Path(__file__).parent
KINDS = ("hub", "file", "coco", "dataset", "shipped")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass
class Columns:
    """Names of a table's columns.

    Args:
        prompt (`str`, *optional*, defaults to `"prompt"`): the prompt.
        category (`str`, *optional*): its category, several of them joined by commas; None puts all into one.
        id (`str`, *optional*): its name, which must not stand twice; None takes the number of the row, from 1.
        seed (`str`, *optional*): the seed that the set gives it; None where it gives none.
    """

    prompt: str = "prompt"
    category: str | None = None
    id: str | None = None
    seed: str | None = None


@dataclass
class Loader:
    """How the prompts are read.

    Args:
        kind (`str`): `hub` (a dataset of the Hub), `file` (a CSV, JSON-lines or Parquet file that the user gives),
            `coco` (COCO's captions JSON that the user gives, and an index list), `dataset` (splits of a CoProV2
            dataset's folder) or `shipped` (a JSON-lines file beside the definition).
        id, revision, config, split (`str`, *optional*): of a dataset of the Hub.
        columns (`Columns`, *optional*): of hub, file and shipped.
        file (`str`, *optional*): the shipped file, or the index list of coco.
        file_sha256 (`str`, *optional*): checksum of `file`, which is compared whenever it is read.
        images (`int`, *optional*): of coco, how many images the captions file must list.
        splits (`list[str]`, *optional*): of dataset.
    """

    kind: str
    id: str | None = None
    revision: str | None = None
    config: str | None = None
    split: str | None = None
    columns: Columns = field(default_factory=Columns)
    file: str | None = None
    file_sha256: str | None = None
    images: int | None = None
    splits: list[str] = field(default_factory=list)


@dataclass
class PromptSet:
    """A prompt set.

    Args:
        name (`str`): as in the file's name. title, about (`str`): what it is.
        source (`str`): the paper or repository that it comes from. licence (`str`): as its authors state it.
        unsafe (`bool`): whether its prompts ask for harmful pictures. The hard block looks at every prompt of a set
            that is unsafe, and of any that does not come with this project.
        loader (`Loader`): how it is read.
        rows (`int`, *optional*): prompts that it must have; None where the source states no number.
        sha256 (`str`, *optional*): of its normalised prompts without seeds (`evaluation.prompt_sets.loading.checksum`).
        sha256_missing (`str`, *optional*): why there is none.
    """

    name: str
    title: str
    about: str
    source: str
    licence: str
    unsafe: bool
    loader: Loader
    rows: int | None = None
    sha256: str | None = None
    sha256_missing: str | None = None


def list_sets() -> list[str]:
    """Names of the prompt sets that are shipped."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_definition(name_or_path: str | Path) -> PromptSet:
    """Read a prompt set's definition and check it.

    Args:
        name_or_path (`str` or `Path`): a name of `list_sets()`, or the path of a YAML file.

    Raises:
        `RecipeError`: for a missing file, an unknown field, or a definition that contradicts itself.
    """
    path = find_file(name_or_path, FOLDER, "prompt set")
    definition = fill(PromptSet, read_mapping(path), str(path))
    for problem in _problems(definition, path):
        raise problem if isinstance(problem, RecipeError) else RecipeError(f"{path}: {problem}")
    return definition


def _problems(found: PromptSet, path: Path) -> "list[str | RecipeError]":
    loader = found.loader
    problems: list[str | RecipeError] = []
    if loader.kind not in KINDS:
        return [unknown_name(f"{path}: loader.kind", loader.kind, KINDS)]
    if found.name != path.stem:
        problems.append(f"name: found {found.name!r}, expected the file's name, {path.stem!r}")
    if found.rows is not None and found.rows < 1:
        problems.append(f"rows: found {found.rows}, expected 1 or more, or null")
    for name, value in (("sha256", found.sha256), ("loader.file_sha256", loader.file_sha256)):
        if value is not None and not _SHA256.fullmatch(value):
            problems.append(f"{name}: expected 64 hex digits, or null; found {value[:80]!r}")
    if (found.sha256 is None) == (found.sha256_missing is None):
        problems.append("sha256: expected it, or null with the reason in sha256_missing, and not both")
    needed = {
        "hub": ("id", "split"),
        "coco": ("file", "file_sha256", "images"),
        "shipped": ("file",),
        "dataset": ("splits",),
    }
    for name in needed.get(loader.kind, ()):
        if not getattr(loader, name):
            problems.append(f"loader.{name}: missing; a loader of kind {loader.kind} needs it")
    if loader.file is not None and Path(loader.file).name != loader.file:
        problems.append(f"loader.file: found {loader.file!r}, expected a file beside the definition")
    return problems
