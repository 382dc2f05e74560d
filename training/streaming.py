"""Pairs that come as a stream: read once a pass, encoded when they come, shuffled in a buffer, never put on disk.

For data larger than the disk. What a step sees of them is `draws.py`'s; data that fits goes through `cache.py`."""

import hashlib
import io
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import Any

import numpy as np
from datasets import ClassLabel, IterableDataset
from datasets.distributed import split_dataset_by_node
from PIL import Image
from torch import Tensor
from transformers.utils import logging

from training.cache import images_at_once
from training.config import ConfigError, DiffusionDPOConfig
from training.denoisers import Denoiser, DenoiserError
from training.draws import seed_of
from training.pairs import COLUMNS, IMAGES, Pair, PairsError, chunks, picture_bytes, require_gaps, safety_gap

logger = logging.get_logger(__name__)

# Rows that are read and encoded together, counted from the start of a pass: the last bits of an encoding may depend on
# its batch, so a resumed run has to make the same batches.
GROUP = 8
# Places of a stream that a checkpoint remembers, the newest. A row stays in the buffer for as many rows as it holds, on
# average; one that stays longer than all these places apart (e**-32) costs a reading from the start of the pass.
_MARKS = 32
_RANDOMS = 1024
# What Pillow raises for files that are no pictures, and file systems for those that are not there.
_UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Row:
    """A pair of the stream and what the encoder says about its pictures: hash -> moments and image conditioning."""

    pair: Pair
    pictures: dict[str, Tensors]


@dataclass(frozen=True)
class Mark:
    """A place in a stream to go on from: `state` is the `IterableDataset.state_dict` before row `row` of pass `turn`,
    and `pair_ids` those of the group that follows."""

    turn: int
    row: int
    state: dict[str, Any]
    pair_ids: list[str]


class ShuffleBuffer:
    """The rows of one pass, by their numbers, in the order in which a buffer of `size` rows gives them out.

    Each time one of the rows in the buffer is drawn and the next of the stream takes its place; at the end of the pass
    the buffer runs empty, so each pass gives each row once. Which one is drawn follows from the seed, the pass and how
    many were drawn before, so the order can be found again without a row at hand.

    Args:
        size (`int`): rows in the buffer, 1 or more.
        seed (`int`): of the run.
        turn (`int`): number of the pass, from 0.

    Attributes:
        rows (`list[int]`): in the buffer now.
        entered (`int`): rows that are or were in it.
    """

    def __init__(self, size: int, seed: int, turn: int) -> None:
        self._size, self._seed, self._turn = size, seed, turn
        self.rows: list[int] = []
        self.entered = self._taken = 0
        self._randoms = np.empty(0)

    def fill(self, has: Callable[[int], bool]) -> None:
        """Let rows in up to the buffer's size; `has` says whether the stream has a row of that number."""
        while len(self.rows) < self._size and has(self.entered):
            self.rows.append(self.entered)
            self.entered += 1

    def take(self) -> int:
        """The number of the next row, which leaves the buffer."""
        block, place = divmod(self._taken, _RANDOMS)
        if place == 0:
            rng = np.random.default_rng(seed_of(self._seed, "stream", self._turn, block))
            self._randoms = rng.random(_RANDOMS)
        self._taken += 1
        drawn = int(self._randoms[place] * len(self.rows))
        self.rows[drawn], self.rows[-1] = self.rows[-1], self.rows[drawn]
        return self.rows.pop()


class EncodedStream:
    """Row after row of a stream in shuffled order, encoded, pass after pass.

    At most `streaming_buffer` rows are held, up to seven that are read ahead, and those of the batch at hand. Of a row
    the moments of its two pictures are held: 0.26 MB for pictures of 512 x 512 (Stable Diffusion), 1 MB for 1024 x 1024
    (SDXL), 4 MB for the 16 channels of Stable Diffusion 3 and Flux. The encoders stay in memory, on their device.

    Args:
        dataset (`datasets.IterableDataset`): with the columns `COLUMNS`, and `VERDICTS` for a margin. It must give the
            same rows in the same order whenever a pass is read; `set_epoch` is called with the number of the pass. With
            several processes each takes its share (`datasets.distributed.split_dataset_by_node`).
        denoiser (`Denoiser`): with its encoders, on the device that encodes.
        args (`DiffusionDPOConfig`): buffer, seed, resolution, processes.

    Raises:
        `PairsError`: for a missing column, a stream without rows, and a picture that cannot be read, by its pair.
        `DenoiserError`: for pictures of several sizes.
    """

    def __init__(self, dataset: IterableDataset, denoiser: Denoiser, args: DiffusionDPOConfig) -> None:
        label = (dataset.features or {}).get("category")
        self._names: list[str] | None = label.names if isinstance(label, ClassLabel) else None
        self._plain = _undecoded(dataset)
        self._dataset = self._plain
        if args.world_size > 1:
            self._dataset = split_dataset_by_node(self._plain, args.process_index, args.world_size)
        self._denoiser, self._args = denoiser, args
        self._buffer = ShuffleBuffer(args.streaming_buffer, args.seed, 0)
        self._rows: dict[int, Row] = {}
        self._iterator: Iterator[dict[str, Any]] = iter(())
        # The pass, the rows read in it, and the next number of `take`.
        self._turn, self._read, self._next = 0, 0, -1
        self._ended = False
        # Rows of each pass whose end was seen. A process's share may differ from pass to pass with the order of shards.
        self._sizes: list[int] = []
        self._marks: deque[Mark] = deque(maxlen=_MARKS)
        self._spacing = -(-args.streaming_buffer // GROUP) * GROUP
        self._shape: tuple[int, ...] | None = None
        columns = dataset.column_names
        if columns is None:
            # A stream that went through `map` does not say what it has.
            columns = list(next(iter(dataset), {}))
            if not columns:
                raise PairsError("train_dataset: a stream without rows, expected at least one pair")
        missing = [name for name in COLUMNS if name not in columns]
        if missing:
            raise PairsError(f"train_dataset: no column {missing[0]!r} in the stream, expected {', '.join(COLUMNS)}")

    def head(self, count: int) -> list[Row]:
        """The first `count` rows of the whole stream, or all that it has; what is in the buffer is read again then."""
        self._next = -1
        self._plain.set_epoch(0)
        self._plain.load_state_dict({})
        read = list(islice(self._plain, count))
        rows = [row for some in chunks(read, GROUP) for row in self._encoded(some)]
        if not rows:
            raise PairsError("train_dataset: a stream without rows, expected at least one pair")
        return rows

    def at(self, number: int) -> list[Row]:
        """The rows in the buffer when the `number`-th row is about to be drawn."""
        if number != self._next:
            self._seek(number)
        self._buffer.fill(self._has)
        if not self._buffer.rows:
            if self._read == 0:
                share = " for this process" if self._args.world_size > 1 else ""
                raise PairsError(f"train_dataset: a stream without rows{share}, expected at least one pair")
            self._open(self._turn + 1, None)
            self._buffer = ShuffleBuffer(self._args.streaming_buffer, self._args.seed, self._turn)
            self._buffer.fill(self._has)
        return [self._rows[row] for row in self._buffer.rows]

    def take(self, number: int) -> Row:
        """The `number`-th row of this process, counted over all passes. Numbers that follow each other are cheap; any
        other makes the stream be read again from the last place known before it."""
        self.at(number)
        self._next = number + 1
        return self._rows.pop(self._buffer.take())

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to find its rows again, as JSON takes it."""
        return {**self._settings(), "passes": self._sizes, "marks": [vars(mark) for mark in self._marks]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a `state_dict`; the next `take` goes on from there.

        Raises:
            `ConfigError`: if the order of the rows was another one then.
        """
        for name, now in self._settings().items():
            if state[name] != now:
                raise ConfigError(f"{name}: {now}, while the checkpoint's stream had {state[name]}; resume with that")
        self._sizes, self._next = list(state["passes"]), -1
        self._marks = deque((Mark(**mark) for mark in state["marks"]), maxlen=_MARKS)

    def _settings(self) -> dict[str, int]:
        args = self._args
        return {
            "streaming_buffer": args.streaming_buffer,
            "seed": args.seed,
            "per_device_train_batch_size": args.per_device_train_batch_size,
            "world_size": args.world_size,
        }

    def _seek(self, number: int) -> None:
        """Bring buffer and stream to where they are when the `number`-th row is about to be drawn."""
        starts = list(accumulate(self._sizes, initial=0))
        turn = bisect_right(starts, number) - 1
        place, size = number - starts[turn], self._sizes[turn] if turn < len(self._sizes) else None
        self._buffer = ShuffleBuffer(self._args.streaming_buffer, self._args.seed, turn)
        for _ in range(place):
            self._buffer.fill(lambda row: size is None or row < size)
            self._buffer.take()
        wanted = set(self._buffer.rows)
        first = min(wanted, default=self._buffer.entered)
        known = [mark for mark in self._marks if mark.turn == turn and mark.row <= first]
        mark = max(known, key=lambda one: one.row, default=None)
        self._open(turn, mark)
        self._read_on(wanted, mark)
        self._next = number

    def _read_on(self, wanted: set[int], mark: Mark | None) -> None:
        """Read up to where the buffer is, keeping the rows that are in it."""
        check = mark
        while self._read < self._buffer.entered:
            pair_ids = self._read_group(wanted)
            if check is not None and pair_ids != check.pair_ids:
                # A shuffle buffer of the stream's own is not in its state.
                logger.warning("the stream cannot go on from the middle of a pass; reading the pass from its start")
                self._marks.clear()
                self._open(self._turn, None)
            check = None
            if self._ended and self._read < self._buffer.entered:
                self._refuse_other_data()

    def _open(self, turn: int, mark: Mark | None) -> None:
        """Begin to read pass `turn`, from a mark on or from its start."""
        self._turn, self._read, self._ended = turn, 0 if mark is None else mark.row, False
        self._rows = {}
        self._dataset.set_epoch(turn)
        self._dataset.load_state_dict({} if mark is None else mark.state)
        self._iterator = iter(self._dataset)

    def _has(self, row: int) -> bool:
        while row >= self._read and not self._ended:
            self._read_group(None)
        return row < self._read

    def _read_group(self, wanted: set[int] | None) -> list[str]:
        """Read the next rows and encode them, if one of them is wanted or has never been in the buffer; None: all.

        Returns:
            `list[str]`: their pair_ids."""
        first, entered = self._read, self._buffer.entered
        state = self._dataset.state_dict() if first and first % self._spacing == 0 else None
        read: list[dict[str, Any]] = []
        try:
            read.extend(islice(self._iterator, GROUP))
        except (*_UNREADABLE, RuntimeError) as error:
            # datasets, which ends its decoding threads on an error, raises another over it where `asyncio.run` was
            # called before: "There is no current event loop".
            cause = error.__context__ if isinstance(error, RuntimeError) else error
            if not isinstance(cause, _UNREADABLE):
                raise
            # The stream decodes by itself here, so that the broken row stays unnamed.
            last = f"after pair {read[-1]['pair_id']}" if read else f"{first} of pass {self._turn}"
            raise PairsError(f"train_dataset: the row {last} cannot be read: {_first_line(cause)}") from error
        pair_ids = [str(row["pair_id"]) for row in read]
        if state is not None and read and (self._turn, first) not in {(mark.turn, mark.row) for mark in self._marks}:
            self._marks.append(Mark(self._turn, first, state, pair_ids))
        numbers = range(first, first + len(read))
        kept = [number for number in numbers if wanted is None or number in wanted or number >= entered]
        if kept:
            rows = dict(zip(numbers, self._encoded(read), strict=True))
            self._rows |= {number: rows[number] for number in kept}
        self._read += len(read)
        if len(read) < GROUP:
            self._ended = True
            if self._turn == len(self._sizes):
                self._sizes.append(self._read)
            if self._read != self._sizes[self._turn]:
                self._refuse_other_data()
        return pair_ids

    def _refuse_other_data(self) -> None:
        raise PairsError(
            f"train_dataset: pass {self._turn} of the stream ends after {self._read} rows, and had more or fewer when "
            "it was read before; a stream must give the same rows each time"
        )

    def _encoded(self, read: Sequence[dict[str, Any]]) -> list[Row]:
        """Rows of one group, their pictures encoded together."""
        pictures: dict[str, Image.Image] = {}
        pairs = []
        for row in read:
            hashes = {}
            for name in IMAGES:
                hashes[name], picture = _picture(row, name)
                pictures.setdefault(hashes[name], picture)
            category = row["category"]
            category = self._names[category] if self._names is not None else str(category)
            texts = (str(row["pair_id"]), category, row["unsafe_prompt"], row["safe_prompt"])
            pairs.append(Pair(*texts, **hashes, gap=safety_gap(row)))
        if self._args.margin_weight > 0:
            require_gaps(pairs)
        tensors = self._encode_pictures(pictures, pairs)
        return [Row(pair, {key: tensors[key] for key in (pair.safe_image, pair.unsafe_image)}) for pair in pairs]

    def _encode_pictures(self, pictures: dict[str, Image.Image], pairs: Sequence[Pair]) -> dict[str, Tensors]:
        resolution, found = self._args.resolution, dict[str, Tensors]()
        size = next(iter(pictures.values())).size if resolution is None else (resolution, resolution)
        for keys in chunks(list(pictures), images_at_once(size)):
            images = [pictures[key] for key in keys]
            moments = self._denoiser.encode_images(images, resolution)
            told = self._denoiser.image_conditioning([image.size for image in images], resolution)
            self._shape = self._shape or tuple(moments.shape[1:])
            if tuple(moments.shape[1:]) != self._shape:
                name = next(pair.pair_id for pair in pairs if keys[0] in (pair.safe_image, pair.unsafe_image))
                height, width = self._shape[1:]
                raise DenoiserError(
                    f"pair {name}: latents of {moments.shape[2]}x{moments.shape[3]} where those before are "
                    f"{height}x{width}; set resolution to bring the pictures to one size"
                )
            for index, key in enumerate(keys):
                # A copy: a slice would hold the whole batch as long as one of its pictures is in the buffer.
                one = {"moments": moments[index], **{name: value[index] for name, value in told.items()}}
                found[key] = {name: value.clone() for name, value in one.items()}
        return found


def _undecoded(dataset: IterableDataset) -> IterableDataset:
    """The stream with pictures as the bytes of their files, so that a broken one can be named, where it can be had.

    datasets decodes a remote stream in threads, as a `map` of its own. It is taken out where it is the last step; with
    a filter behind it, switching decoding off would make JPEG files of the decoded pictures again."""
    if dataset.features is None:
        return dataset
    plain = dataset.decode(False)
    step = plain._ex_iterable
    while step is not None:
        if getattr(step, "decoding_pool", None) is not None:
            return dataset
        step = getattr(step, "ex_iterable", None)
    return plain


def _picture(row: dict[str, Any], name: str) -> tuple[str, Image.Image]:
    """Hash and picture of a row's column, which holds a picture, or its file's bytes or path."""
    value = row[name]
    if isinstance(value, Image.Image):
        picture = value.convert("RGB")
        return hashlib.sha256(repr(picture.size).encode() + picture.tobytes()).hexdigest(), picture
    try:
        data = picture_bytes(row, name)
        return hashlib.sha256(data).hexdigest(), Image.open(io.BytesIO(data)).convert("RGB")
    except PairsError:
        raise
    except _UNREADABLE as error:
        raise PairsError(
            f"pair {row['pair_id']}: {name} cannot be read: {_first_line(error)}; mend the row, or filter it out of "
            "the stream"
        ) from error


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
