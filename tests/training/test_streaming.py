"""A stream trains as pairs on disk do: each once a pass, in bounded memory, resumed bit for bit."""

import asyncio
import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from datasets import Dataset, IterableDataset, IterableDatasetDict, load_dataset
from datasets import Image as ImageFeature
from datasets.distributed import split_dataset_by_node
from PIL import Image
from transformers import TrainerCallback

from recipes import RecipeError
from tests.training.runs import train_until_cut
from training.adapters import checksum
from training.cache import EncodedPairs
from training.config import ConfigError, DiffusionDPOConfig
from training.denoisers import DenoiserError, denoiser_for
from training.pairs import PairData, PairsError
from training.streaming import GROUP, EncodedStream, Row, ShuffleBuffer
from training.trainer import DiffusionDPOTrainer, lora_config

ROWS = 44
SHADES = {"safe_image": 230, "unsafe_image": 25}


@pytest.fixture(scope="module")
def folder(pair_dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """44 pairs in four Parquet files; the pictures are those of the twelve pairs, shifted in colour."""
    root, rows = tmp_path_factory.mktemp("parquet"), []
    for index in range(ROWS):
        row = pair_dataset[index % len(pair_dataset)]
        changed = {"pair_id": f"pair-{index:02d}", "safe_prompt": f"{row['safe_prompt']}, {index}"}
        for name in ("unsafe_image", "safe_image"):
            changed[name] = Image.fromarray(np.asarray(row[name]) // 2 + index)
        rows.append({**row, **changed})
    whole = Dataset.from_list(rows, features=pair_dataset.features)
    for part in range(4):
        whole.shard(4, part).to_parquet(root / f"train-{part}.parquet")
    return root


@pytest.fixture
def stream(folder: Path) -> Callable[[], IterableDataset]:
    def stream() -> IterableDataset:
        files = sorted(str(path) for path in folder.iterdir())
        return load_dataset("parquet", data_files=files, split="train", streaming=True)

    return stream


@pytest.fixture
def run(new_pipeline: Callable, config: Callable[..., DiffusionDPOConfig], tmp_path: Path) -> Callable[..., Any]:
    def run(
        dataset: IterableDataset, name: str = "run", cut_at: int | None = None, trainer: Any = None, **changes: Any
    ) -> DiffusionDPOTrainer | None:
        """Train in a folder of its own from its last checkpoint on, up to the end or to `cut_at` micro-batches."""
        settings = {"max_steps": 5, "streaming_buffer": 10, "save_strategy": "steps", "save_steps": 2, **changes}
        made = DiffusionDPOTrainer(
            new_pipeline("v_prediction"),
            args=config(output_dir=str(tmp_path / name), **settings),
            train_dataset=dataset,
            peft_config=lora_config(2, 4, ["to_q", "to_k", "to_v", "to_out.0"]),
            **(trainer or {}),
        )
        if not train_until_cut(made, tmp_path / name, cut_at):
            return None
        made.save_model(str(tmp_path / name / "end"))
        return made

    return run


@pytest.fixture
def encoded_stream(new_pipeline: Callable, config: Callable[..., DiffusionDPOConfig]) -> Callable[..., EncodedStream]:
    def make(dataset: IterableDataset, buffer: int = 10, **changes: Any) -> EncodedStream:
        return EncodedStream(dataset, denoiser_for(new_pipeline()), config(streaming_buffer=buffer, **changes))

    return make


def _ids(stream: EncodedStream, numbers: range) -> list[str]:
    return [stream.take(number).pair.pair_id for number in numbers]


@pytest.mark.parametrize("buffer", [1, 10, 1000])
def test_each_pass_gives_each_pair_once_in_an_order_of_its_own(
    stream: Callable, encoded_stream: Callable, buffer: int
) -> None:
    ids = _ids(encoded_stream(stream(), buffer), range(2 * ROWS))
    assert sorted(ids[:ROWS]) == sorted(ids[ROWS:]) == [f"pair-{index:02d}" for index in range(ROWS)]
    # With a buffer of 1 the order is the stream's own; datasets shuffles the files of a later pass.
    assert (ids[:ROWS] == sorted(ids[:ROWS])) == (buffer == 1)
    assert buffer == 1 or ids[:ROWS] != ids[ROWS:]
    assert ids == _ids(encoded_stream(stream(), buffer), range(2 * ROWS))
    assert (ids == _ids(encoded_stream(stream(), buffer, seed=7), range(2 * ROWS))) == (buffer == 1)


def test_the_order_is_that_of_a_shuffle_buffer_written_out() -> None:
    buffer, held, given = ShuffleBuffer(4, 0, 0), [0, 1, 2, 3], []
    for following in [*range(4, 9), None, None, None, None]:
        buffer.fill(lambda row: row < 9)
        assert sorted(buffer.rows) == sorted(held)
        given.append(buffer.take())
        held.remove(given[-1])
        held += [] if following is None else [following]
    buffer.fill(lambda row: row < 9)
    assert buffer.rows == [] and sorted(given) == list(range(9)) and given != list(range(9))


@pytest.mark.parametrize("start", [3, 43, 44, 100])
@pytest.mark.parametrize("kind", ["plain", "filtered", "shuffled", "shared"])
def test_a_stream_goes_on_anywhere_with_the_same_bits(
    stream: Callable, encoded_stream: Callable, start: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What datasets waits for at the end of a shuffled pass.
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)

    def dataset() -> IterableDataset:
        if kind == "filtered":
            return stream().filter(lambda row: not row["pair_id"].endswith("7"))
        if kind == "shared":
            return split_dataset_by_node(stream(), 1, 3)
        return stream().shuffle(seed=3, buffer_size=9) if kind == "shuffled" else stream()

    buffer = 3 if kind == "shared" else 10
    straight = encoded_stream(dataset(), buffer)
    rows = [straight.take(number) for number in range(start)]
    # Training is ahead of what a checkpoint counts, by the batch that is fetched before it is asked for.
    ahead = [straight.take(number) for number in range(start, start + 5)]
    state = json.loads(json.dumps(straight.state_dict()))
    resumed = encoded_stream(dataset(), buffer)
    resumed.load_state_dict(state)
    for number in range(start, start + 50):
        row = ahead[number - start] if number < start + 5 else straight.take(number)
        _assert_equal(resumed.take(number), row)
    # A process's share is another one in the next pass, when datasets has shuffled the files.
    first = rows[: straight._sizes[0]] if straight._sizes else rows
    assert len({row.pair.pair_id for row in first}) == len(first)


def test_going_on_reads_from_the_last_place_known_and_not_from_the_start(
    stream: Callable, encoded_stream: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = encoded_stream(stream(), 3)
    _ids(straight, range(40))
    resumed = encoded_stream(stream(), 3)
    resumed.load_state_dict(straight.state_dict())
    read: list[str] = []
    encode = resumed._read_group

    def reads(wanted: set[int] | None) -> list[str]:
        read.extend(encode(wanted))
        return read

    monkeypatch.setattr(resumed, "_read_group", lambda wanted: reads(wanted)[-GROUP:])
    assert resumed.take(40).pair == straight.take(40).pair
    assert 0 < len(read) <= 2 * GROUP and "pair-00" not in read


def _assert_equal(one: Row, other: Row) -> None:
    assert one.pair == other.pair
    for key, tensors in one.pictures.items():
        for name, value in tensors.items():
            assert torch.equal(value, other.pictures[key][name])


def test_what_is_encoded_is_what_the_cache_has(
    stream: Callable, encoded_stream: Callable, folder: Path, new_pipeline: Callable, tmp_path: Path
) -> None:
    data = PairData(Dataset.from_parquet([str(path) for path in folder.iterdir()], cache_dir=str(tmp_path / "arrow")))
    cache = EncodedPairs(data, denoiser_for(new_pipeline()), tmp_path / "cache")
    streamed = encoded_stream(stream())
    rows = [streamed.take(number) for number in range(ROWS)]
    assert {row.pair for row in rows} == set(data.pairs)
    for row in rows:
        for key, tensors in row.pictures.items():
            torch.testing.assert_close(tensors["moments"], cache.moments(key), rtol=1e-4, atol=1e-5)


def test_pictures_that_the_stream_decodes_are_taken_as_they_are(
    stream: Callable, encoded_stream: Callable, tmp_path: Path
) -> None:
    """JPEG files must not be decoded and compressed once more on their way."""
    noise = {name: tmp_path / f"{name}.jpg" for name in ("unsafe_image", "safe_image")}
    for path in noise.values():
        Image.effect_noise((16, 16), 90).convert("RGB").save(path, quality=40)
    row = next(iter(stream())) | {name: {"path": None, "bytes": path.read_bytes()} for name, path in noise.items()}
    whole = Dataset.from_list([row], features=stream().features).to_iterable_dataset()
    streams = {
        "files": whole,
        "decoded in threads": whole.decode(num_threads=2),
        "decoded in threads, filtered": whole.decode(num_threads=2).filter(lambda row: True),
        "without features": whole.map(lambda row: row),
    }
    found = {name: encoded_stream(one).take(0) for name, one in streams.items()}
    expected = list(found.pop("files").pictures.values())
    for name, one in found.items():
        for ours, theirs in zip(one.pictures.values(), expected, strict=True):
            assert torch.equal(ours["moments"], theirs["moments"]), name


def test_training_on_a_stream_lowers_the_loss(run: Callable, stream: Callable) -> None:
    def plain(row: dict[str, Any]) -> dict[str, Any]:
        """Safe pictures are light, unsafe ones dark, so that there is something to learn."""
        return {name: Image.new("RGB", (16, 16), (shade,) * 3) for name, shade in SHADES.items()}

    settings = {"prompt_dropout": 0.0, "learning_rate": 1e-2, "beta": 100.0, "max_steps": 30}
    settings |= {"sft_weight": 0.0, "prior_weight": 0.0, "per_device_train_batch_size": 4}
    trainer = run(stream().map(plain, features=stream().features), save_strategy="no", **settings)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[0] == pytest.approx(np.log(2), rel=1e-6)
    assert np.mean(losses[-8:]) < 0.95 * np.mean(losses[:8])


def test_no_more_pairs_are_in_memory_than_the_buffer_and_the_batches_need(run: Callable, stream: Callable) -> None:
    alive: list[int] = []

    class Count(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            alive.append(sum(isinstance(thing, Row) for thing in gc.get_objects()))

    run(stream(), max_steps=30, streaming_buffer=5, trainer={"callbacks": [Count()]}, save_strategy="no")
    # The buffer, what is read ahead of it, and the batch of two.
    assert len(alive) == 30 and max(alive) <= 5 + GROUP - 1 + 2


@pytest.mark.parametrize("cut_at", [2, 4, 25])
def test_resumed_equals_straight_bit_for_bit(run: Callable, stream: Callable, tmp_path: Path, cut_at: int) -> None:
    settings = {"max_steps": 27, "save_steps": 3, "gap_pairs": 3}
    run(stream(), "straight", **settings)
    assert run(stream(), "cut", cut_at=cut_at, **settings) is None
    run(stream(), "cut", **settings)
    assert checksum(tmp_path / "cut" / "end") == checksum(tmp_path / "straight" / "end")


def test_resumed_equals_straight_with_accumulation(run: Callable, stream: Callable, tmp_path: Path) -> None:
    settings = {"max_steps": 6, "gradient_accumulation_steps": 4, "streaming_buffer": 3}
    run(stream(), "straight", **settings)
    assert run(stream(), "cut", cut_at=14, **settings) is None
    run(stream(), "cut", **settings)
    assert checksum(tmp_path / "cut" / "end") == checksum(tmp_path / "straight" / "end")


def test_the_draws_do_not_depend_on_the_buffer(run: Callable, stream: Callable) -> None:
    few, many = (run(stream(), f"{size}", max_steps=1, streaming_buffer=size) for size in (1, 40))
    batches = [trainer.data_collator([6, 7]) for trainer in (few, many)]
    for name in ("noise", "timesteps"):
        assert torch.equal(batches[0][name][:8], batches[1][name][:8])
    assert not torch.equal(batches[0]["moments"][:8], batches[1]["moments"][:8])


def test_the_prior_is_drawn_from_the_safe_pictures_in_the_buffer(run: Callable, stream: Callable) -> None:
    trainer = run(stream(), max_steps=1, prior_batch_size=6, prior_empty_share=0.0)
    maker = trainer.data_collator
    rows = maker.stream.at(2)
    safe = {row.pair.safe_prompt: row.pictures[row.pair.safe_image]["moments"] for row in rows}
    batch = maker([2, 3])
    prompts = trainer.denoiser.encode_prompts(list(safe))["prompt_embeds"]
    found = []
    for moments, prompt in zip(batch["moments"][-6:], batch["conditioning"]["prompt_embeds"][-6:], strict=True):
        of = next(index for index, one in enumerate(safe.values()) if torch.equal(one, moments))
        torch.testing.assert_close(prompt, prompts[of])
        found.append(of)
    assert len(set(found)) > 2


def test_each_distinct_prompt_of_a_batch_is_encoded_once(
    run: Callable, stream: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = run(stream(), max_steps=1)
    encode, seen = trainer.denoiser.encode_prompts, []
    monkeypatch.setattr(
        trainer.data_collator._at_hand, "_encode", lambda prompts: seen.extend(prompts) or encode(prompts)
    )
    trainer.data_collator([2, 3])
    assert len(seen) == len(set(seen)) and 4 <= len(seen) <= 8 and "" not in seen


def test_held_out_pairs_of_a_dataset_are_evaluated_and_stop_the_training(
    run: Callable, stream: Callable, pair_dataset: Dataset
) -> None:
    trainer = run(
        stream(),
        max_steps=12,
        early_stopping_patience=1,
        eval_steps=1,
        learning_rate=0.0,
        trainer={"eval_dataset": pair_dataset},
    )
    assert trainer.state.global_step == 2
    assert "eval_rewards/margins" in trainer.state.log_history[1]


def _error(run: Callable, dataset: IterableDataset, **changes: Any) -> str:
    with pytest.raises(RecipeError) as raised:
        run(dataset, "error", **changes)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_what_a_stream_cannot_do_is_refused_in_one_line(
    run: Callable, stream: Callable, encoded: tuple[PairData, EncodedPairs]
) -> None:
    assert "max_steps: -1" in _error(run, stream(), max_steps=-1)
    fixed = {"precompute_ref_losses": True, "sample_latents": False}
    assert "precompute_ref_losses: fixed draws" in _error(run, stream(), **fixed)
    assert "ref_draws: fixed draws" in _error(run, stream(), ref_draws=2)
    assert "dataloader_num_workers: 2" in _error(run, stream(), dataloader_num_workers=2)
    assert "train_text_encoder: the reference" in _error(run, stream(), train_text_encoder=True)
    assert "streaming_buffer: 0" in _error(run, stream(), streaming_buffer=0)
    assert "encoded: names pictures" in _error(run, stream(), trainer={"encoded": encoded[1]})
    assert "prior: names pictures" in _error(run, stream(), trainer={"prior": []})
    splits = {"train": stream(), "test": stream()}
    assert "train_dataset: a dataset of the splits train, test" in _error(run, IterableDatasetDict(splits))
    assert "eval_dataset: a stream" in _error(run, stream(), trainer={"eval_dataset": stream()})
    assert "early_stopping_patience: needs held-out" in _error(run, stream(), early_stopping_patience=1, eval_steps=1)
    assert "no unsafe_verdict" in _error(run, stream(), margin_weight=1.0)


@pytest.mark.parametrize("known", [True, False])
def test_a_missing_column_and_a_stream_without_rows_are_named(run: Callable, stream: Callable, known: bool) -> None:
    dataset = stream().remove_columns("safe_image")
    nothing = stream().filter(lambda row: False)
    if not known:
        dataset, nothing = dataset.map(lambda row: row), nothing.map(lambda row: row)
        assert dataset.column_names is None
    assert "no column 'safe_image' in the stream" in _error(run, dataset)
    assert "without rows" in _error(run, nothing)


@pytest.mark.parametrize("data", [b"no picture", b""])
def test_a_broken_picture_is_named_by_its_pair(encoded_stream: Callable, stream: Callable, data: bytes) -> None:
    rows = list(stream().cast_column("safe_image", ImageFeature(decode=False)).take(20))
    rows[13]["safe_image"] = {"bytes": data, "path": None}
    whole = Dataset.from_list(rows, features=stream().features).to_iterable_dataset()
    with pytest.raises(PairsError, match=r"^pair pair-13: safe_image cannot be read: UnidentifiedImageError"):
        _ids(encoded_stream(whole), range(20))
    # Decoded by the stream itself, only the neighbour is known.
    threads = whole.decode(num_threads=1).filter(lambda row: True)
    for ran_a_loop in (False, True):
        if ran_a_loop:
            # What every script does that fetched something first; datasets then ends in an error of its own.
            asyncio.run(asyncio.sleep(0))
        with pytest.raises(PairsError, match=r"the row after pair pair-\d\d cannot be read: UnidentifiedImageError"):
            _ids(encoded_stream(threads), range(20))


def test_pictures_of_two_sizes_are_named_by_the_pair(encoded_stream: Callable, stream: Callable) -> None:
    rows = list(stream().take(20))
    rows[17]["safe_image"] = rows[17]["unsafe_image"] = Image.new("RGB", (32, 32))
    whole = Dataset.from_list(rows, features=stream().features).to_iterable_dataset()
    with pytest.raises(DenoiserError, match=r"set (train\.)?resolution to"):
        _ids(encoded_stream(whole), range(20))
    assert len(_ids(encoded_stream(whole, resolution=16), range(20))) == 20


def test_a_checkpoint_of_another_order_or_kind_is_refused_in_one_line(
    run: Callable, stream: Callable, folder: Path, pair_dataset: Dataset, tmp_path: Path
) -> None:
    run(stream(), "error", max_steps=2)
    assert "streaming_buffer: 11, while the checkpoint's stream had 10" in _error(run, stream(), streaming_buffer=11)
    assert "per_device_train_batch_size: 1" in _error(run, stream(), per_device_train_batch_size=1)
    assert "reads no stream, the checkpoint's read one" in _error(run, pair_dataset)
    run(pair_dataset, "stored", max_steps=2)
    with pytest.raises(ConfigError, match="reads a stream, the checkpoint's read none"):
        run(stream(), "stored")


def test_a_stream_that_has_other_rows_each_time_is_refused(encoded_stream: Callable, stream: Callable) -> None:
    straight = encoded_stream(stream())
    _ids(straight, range(ROWS + 20))
    resumed = encoded_stream(stream().take(30))
    resumed.load_state_dict(straight.state_dict())
    with pytest.raises(PairsError, match="a stream must give the same rows each time"):
        _ids(resumed, range(20, 40))
