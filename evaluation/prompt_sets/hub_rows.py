"""A prompt set that is a dataset of the Hub: its rows, at a commit that the result can name."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from evaluation.prompt_sets.definition import PromptSet
from recipes import RecipeError


def is_cached(repo: str) -> bool:
    """Whether some commit of a dataset's repository stands in the Hub client's cache."""
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type="dataset") / "snapshots"
    return folder.is_dir() and any(folder.iterdir())


def open_hub(definition: PromptSet) -> tuple[Iterator[dict[str, Any]], str]:
    """The rows of the definition's split, and `repo@commit`.

    Raises:
        `NotAtHandError`: where the Hub cannot be reached and nothing of it is cached, or refuses the dataset.
        `RecipeError`: where the dataset lacks the definition's columns.
    """
    from datasets import get_dataset_config_names, load_dataset
    from datasets.exceptions import DatasetsError
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    from huggingface_hub.utils import httpx

    from evaluation.prompt_sets.loading import NotAtHandError

    loader = definition.loader
    repo = str(loader.id)
    try:
        # Resolved first, so that what is read and what the result names are one commit.
        at = snapshot_download(repo, repo_type="dataset", revision=loader.revision, allow_patterns=["README.md"])
        commit = Path(at).name
        config = loader.config or get_dataset_config_names(repo, revision=commit)[0]
        rows = load_dataset(repo, config, revision=commit, split=loader.split)
    except (HfHubHTTPError, LocalEntryNotFoundError, httpx.TransportError, DatasetsError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise NotAtHandError(
            f"{definition.name} is not at hand: the Hub's dataset {repo} cannot be read ({reason[:160]}); "
            f"give it as a file: --prompts {definition.name}=FILE"
        ) from None
    columns = loader.columns
    wanted = [name for name in (columns.prompt, columns.category, columns.id, columns.seed) if name]
    missing = [name for name in wanted if name not in rows.column_names]
    if missing:
        raise RecipeError(f"{repo}@{commit}: no column {', '.join(missing)}; found {', '.join(rows.column_names)}")
    return iter(rows.select_columns(wanted)), f"{repo}@{commit}"
