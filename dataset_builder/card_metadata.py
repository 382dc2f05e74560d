"""The front matter that belongs to the data: where each split lies, its rows and its sizes, read from the files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from dataset_builder.schema import CONFIGS, configs_yaml, shards_by_split
from recipes import RecipeError
from recipes.writing import write_whole

# Front matter without a field: huggingface_hub warns of a card that has none.
_EMPTY = "---\n{}\n---\n"


def card_metadata(folder: Path, configs: Sequence[str] = CONFIGS) -> dict[str, Any]:
    """`configs` and `dataset_info` of a dataset's folder, as `push_to_hub` of datasets writes them.

    `dataset_info` is more than information: datasets keeps the rows of a local folder in its cache under the folder's
    name and this front matter, so without it a folder that was built again could load as the one before. `num_bytes`
    is the size of the Parquet files' columns before compression.

    Args:
        folder (`Path`): of the dataset repository.
        configs (`Sequence[str]`, *optional*, defaults to both): those that it has; data that was imported without
            pictures has only `prompts`.

    Raises:
        `RecipeError`: if there is no Parquet file of a config.
    """
    # Late, so that a build that finds everything done need not wait for it.
    from datasets import DatasetInfo, Features, SplitDict, SplitInfo
    from datasets.info import DatasetInfosDict
    from huggingface_hub import DatasetCardData

    infos: dict[str, DatasetInfo] = {}
    for config in configs:
        splits, kinds, size = SplitDict(), None, 0
        for split, files in shards_by_split(folder, config).items():
            rows = held = 0
            # One footer at a time: those of a large dataset's thousands of files take hundreds of megabytes together.
            for path in files:
                footer = pq.read_metadata(path)
                kinds = kinds or Features.from_arrow_schema(footer.schema.to_arrow_schema())
                rows += footer.num_rows
                held += sum(footer.row_group(index).total_byte_size for index in range(footer.num_row_groups))
                size += path.stat().st_size
            splits.add(SplitInfo(split, held, rows))
        infos[config] = DatasetInfo(
            features=kinds,
            splits=splits,
            download_size=size,
            dataset_size=sum(split.num_bytes for split in splits.values()),
            config_name=config,
        )
    data = DatasetCardData()
    DatasetInfosDict(infos).to_dataset_card_data(data)
    return {
        "configs": configs_yaml(list(next(iter(infos.values())).splits or ()), list(infos)),
        "dataset_info": data.to_dict()["dataset_info"],
    }


def refresh_card(folder: Path, configs: Sequence[str] = CONFIGS) -> None:
    """Bring the front matter of README.md up to the data; all else that stands there stays. Writes it where it is not.

    Raises:
        `RecipeError`: for a README.md whose front matter is no YAML.
    """
    from huggingface_hub import DatasetCard

    path = folder / "README.md"
    try:
        card = DatasetCard(path.read_text("utf8") if path.is_file() else _EMPTY, ignore_metadata_errors=False)
    except Exception as error:
        raise RecipeError(f"{path}: its front matter cannot be read ({error}); mend or remove it") from None
    for key, value in card_metadata(folder, configs).items():
        card.data[key] = value
    write_whole(path, str(card))
