"""The order of training data: an endless stream that is a pure function of (seed, position), and fixed validation sets.

A *source* makes items out of integers: `draw(index)` returns `items_per_draw` items (several crops of one clip, so
that a costly clip serves several times). Draws are gathered into blocks of `batch_size` draws, and a block gives
`items_per_draw` batches, each with one item of every draw: no batch holds two crops of the same clip. Blocks are dealt
to the ranks in turn, and within a rank the draws go round the worker processes, so neither the number of workers nor
their speed changes the order. Resuming is starting at a batch number.

An item is a dict of numpy arrays, numbers and strings; a batch is the same dict, stacked to tensors. Workers hand
numpy arrays over pipes, so no shared memory is needed (containers often have little).
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from data.audio import SAMPLE_RATE
from models.errors import UserError

Item = dict[str, Any]
Batch = dict[str, Any]

VALIDATION_CACHE_BYTES = 1 << 30


class ValidationSource(Protocol):
    """Where validation items come from: picklable, with no state that changes what it returns."""

    num_validation: int

    def draw_validation(self, index: int) -> Item:
        """Return validation item `index` of `num_validation`: always the same, whatever the training seed."""
        ...


class Source(ValidationSource, Protocol):
    """Where training items come from too, by number."""

    items_per_draw: int

    def draw(self, index: int) -> list[Item]:
        """Return training draw `index` (0, 1, ... without end)."""
        ...


def random_generator(*key: int) -> np.random.Generator:
    """Return the random generator that belongs to a key of non-negative integers, such as (seed, purpose, index)."""
    return np.random.default_rng(np.random.SeedSequence(key))


def derived_seed(*key: int) -> int:
    """Return a 63-bit seed that belongs to a key of non-negative integers."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))


def collate(items: list[Item]) -> Batch:
    """Stack items to a batch: arrays and numbers to tensors (floats to float32), strings to lists."""
    batch: Batch = {}
    for name, first in items[0].items():
        values = [item[name] for item in items]
        if isinstance(first, str):
            batch[name] = values
        elif isinstance(first, np.ndarray):
            batch[name] = torch.from_numpy(np.stack(values))
        else:
            dtype = torch.float32 if isinstance(first, float) else torch.int64
            batch[name] = torch.tensor(values, dtype=dtype)
    return batch


def crop_item(audio: np.ndarray, crop_samples: int, start: int, seconds_total: float, prompt: str) -> Item:
    """Make an audio item of a crop (2, up to crop_samples) that starts at sample `start`; its end becomes silence."""
    padded = np.zeros((2, crop_samples), dtype=np.float32)
    padded[:, : audio.shape[1]] = audio
    return {
        "audio": padded,
        "num_samples": audio.shape[1],
        "prompt": prompt,
        "seconds_start": start / SAMPLE_RATE,
        "seconds_total": float(seconds_total),
    }


class DrawError:
    """A source's error on its way out of a worker, without the traceback a DataLoader would wrap around it."""

    def __init__(self, error: Exception) -> None:
        self.message = str(error)


def unchanged(result: Any) -> Any:
    """Keep numpy arrays: as tensors they would cross from the workers in shared memory."""
    return result


def raise_draw_error(result: Any) -> Any:
    if isinstance(result, DrawError):
        raise UserError(result.message)
    return result


class _TrainingDraws(IterableDataset):
    """The draws of one rank from block `first_block` on, in order; worker w of n yields every n-th."""

    def __init__(self, source: Source, batch_size: int, rank: int, world_size: int, first_block: int) -> None:
        self.source = source
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size
        self.first_block = first_block

    def __iter__(self) -> Iterator[list[Item] | DrawError]:
        worker = get_worker_info()
        start, step = (worker.id, worker.num_workers) if worker is not None else (0, 1)
        for position in itertools.count(start, step):
            block, slot = divmod(position, self.batch_size)
            global_block = (self.first_block + block) * self.world_size + self.rank
            try:
                yield self.source.draw(global_block * self.batch_size + slot)
            except (ValueError, OSError) as error:
                yield DrawError(error)
                return


class TrainingStream:
    """The endless training batches of one rank; every `iter()` starts at the batch number `start_batch()` returns.

    Args:
        source: makes the items.
        batch_size: items in a batch.
        num_workers: processes that draw ahead; 0 draws in this one.
        rank, world_size: which share of the stream this process sees.
        start_batch: asked for the first batch number whenever iteration starts.
    """

    def __init__(
        self,
        source: Source,
        batch_size: int,
        num_workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
        start_batch: Callable[[], int] = lambda: 0,
    ) -> None:
        self.source = source
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.rank = rank
        self.world_size = world_size
        self.start_batch = start_batch

    def __iter__(self) -> Iterator[Batch]:
        first_block, skipped_batches = divmod(self.start_batch(), self.source.items_per_draw)
        draws = _TrainingDraws(self.source, self.batch_size, self.rank, self.world_size, first_block)
        # One block ahead in all, or the workers would idle while a block's batches are trained on.
        ahead = max(2, -(-self.batch_size // self.num_workers)) if self.num_workers else None
        loader = iter(
            DataLoader(
                draws, batch_size=None, num_workers=self.num_workers, prefetch_factor=ahead, collate_fn=unchanged
            )
        )
        while True:
            block = [raise_draw_error(next(loader)) for _ in range(self.batch_size)]
            for crop in range(skipped_batches, self.source.items_per_draw):
                yield collate([items[crop] for items in block])
            skipped_batches = 0


class _ValidationItems(Dataset):
    def __init__(self, source: ValidationSource, indices: list[int]) -> None:
        self.source = source
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> Item | DrawError:
        try:
            return self.source.draw_validation(self.indices[position])
        except (ValueError, OSError) as error:
            return DrawError(error)


class ValidationBatches:
    """The same batches every time; each is made once and kept in memory (up to 1 GiB).

    Every rank has the same number of items, so that ranks stay in step; the remainder is left out.
    """

    def __init__(
        self, source: ValidationSource, batch_size: int, num_workers: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        self.source = source
        self.batch_size = batch_size
        self.num_workers = num_workers
        per_rank = max(1, source.num_validation // world_size) if source.num_validation else 0
        self.indices = [(rank + world_size * n) % source.num_validation for n in range(per_rank)]
        self._kept: list[Batch] = []
        self._kept_bytes = 0

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        yield from self._kept
        made = len(self._kept)
        items = _ValidationItems(self.source, self.indices[made * self.batch_size :])
        if not len(items):
            return
        loader = DataLoader(items, batch_size=None, num_workers=self.num_workers, collate_fn=unchanged)
        results = (raise_draw_error(result) for result in loader)
        for number in range(made, len(self)):
            batch = collate(list(itertools.islice(results, self.batch_size)))
            size = sum(value.nbytes for value in batch.values() if isinstance(value, torch.Tensor))
            if len(self._kept) == number and self._kept_bytes + size <= VALIDATION_CACHE_BYTES:
                self._kept.append(batch)
                self._kept_bytes += size
            yield batch
