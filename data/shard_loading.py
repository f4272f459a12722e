"""Training batches from audio shards: endless, each reader with its own samples, exactly resumable in mid-pass.

Counterpart of `data.loading`, whose streams draw by number; tar files can only be read in sequence. A reader is a
worker of a rank; its state is small and goes with every item, so that what the trainer has consumed, and not what was
prefetched, is what a checkpoint knows.
"""

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from data.audio_shards import LeftOut, Sample, expand
from data.augmentation import AugmentationConfig, augment
from data.captions import Captioner, CaptionError
from data.loading import (
    Batch,
    DrawError,
    Item,
    collate,
    crop_item,
    derived_seed,
    raise_draw_error,
    random_generator,
    unchanged,
)
from data.shard_order import HeldOut, Place, Reader, read_endlessly
from models.errors import UserError

logger = logging.getLogger(__name__)

_CROP, _VALIDATION, _SOURCE, _AUGMENT = 41, 42, 43, 44
_KEPT_STATES = 64


class ReaderState(NamedTuple):
    """Where a reader is: samples it has drawn, and its place in every source."""

    drawn: int
    places: tuple[Place, ...]


class ShardSource:
    """Random crops of the samples of one or several sources of shards.

    Args:
        shards: URL patterns, each a source.
        weights: how often each is drawn from, in proportion; none: all alike.
    """

    def __init__(
        self,
        shards: str | Sequence[str],
        weights: Sequence[float],
        seed: int,
        crop_samples: int,
        num_validation: int,
        validation_share: float,
        max_unreadable_share: float,
        captioner: Captioner | None = None,
        augmentation: AugmentationConfig = AugmentationConfig(),  # noqa: B008
    ) -> None:
        specs = [shards] if isinstance(shards, str) else list(shards)
        if weights and len(weights) != len(specs):
            raise UserError(f"data.shard_weights must have one value for each of {len(specs)} sources, got {weights}")
        self.seed = seed
        self.crop_samples = crop_samples
        self.left_out = LeftOut(max_unreadable_share)
        self.captioner = captioner or Captioner()
        self.augmentation = augmentation
        self.sources = [HeldOut(expand(spec), validation_share) for spec in specs]
        given = np.array(weights or [1.0] * len(specs))
        self.shares = given / given.sum()
        self._validation: list[Sample] = []
        wanted = -(-num_validation // len(self.sources))
        for source in self.sources if wanted else []:
            self._validation += source.samples(wanted, self.left_out)
        self._validation = [sample for sample in self._validation if self._has_prompt(sample)]
        self.num_validation = min(num_validation, len(self._validation))
        logger.info(
            "%d shards in %d sources; %d samples for validation",
            sum(len(source.training) for source in self.sources), len(self.sources), self.num_validation,
        )  # fmt: skip

    def start(self, before: Sequence[Sequence[Sequence[int]]] = (), count: int = 1) -> ReaderState:
        """Return the state in which every one of `count` readers begins.

        Args:
            before: places of all readers of an earlier run, whose number was another; shards they began are done.
        """
        places = []
        for index, source in enumerate(self.sources):
            num_shards, begun = len(source.training), [places[index][0] + 1 for places in before] or [0]
            dealt = sum(begun) if num_shards >= len(before) else max(begun)
            places.append(Place(-(-dealt // count) if num_shards >= count else dealt, 0))
        return ReaderState(0, tuple(places))

    def read(self, number: int, count: int, state: ReaderState) -> Iterator[tuple[Item, ReaderState]]:
        """Yield the items of reader `number` of `count` from a state on, without end, each with the state behind it."""
        drawn, places = state.drawn, list(state.places)
        streams = [
            read_endlessly(source, Reader(derived_seed(self.seed, index), number, count), self.left_out, place)
            for index, (source, place) in enumerate(zip(self.sources, places, strict=True))
        ]
        while True:
            chosen = self._choose(number, drawn)
            sample, places[chosen] = next(streams[chosen])
            item = self._try(sample, (self.seed, _CROP, number, drawn), self.augmentation)
            drawn += 1
            if item is not None:
                yield item, ReaderState(drawn, tuple(places))

    def draw_validation(self, index: int) -> Item:
        """Return validation item `index`; where one cannot be read, the next takes its place."""
        for step in range(len(self._validation)):
            item = self._try(self._validation[(index + step) % len(self._validation)], (_VALIDATION, index), None)
            if item is not None:
                return item
        raise UserError(f"none of the validation samples can be read: {self._validation[0].name}")

    def prompts(self) -> Iterator[str]:
        """Yield prompts of the training samples in the order of one reader, without decoding their audio."""
        streams = [
            read_endlessly(source, Reader(derived_seed(self.seed, index)), self.left_out, Place())
            for index, source in enumerate(self.sources)
        ]
        for drawn in itertools.count():
            sample, _ = next(streams[self._choose(0, drawn)])
            prompt = self.captioner(sample.metadata, random_generator(self.seed, _CROP, 0, drawn), sample.path)
            if prompt is not None:
                yield prompt

    def _has_prompt(self, sample: Sample) -> bool:
        return self.captioner(sample.metadata, random_generator(0), sample.path) is not None

    def _choose(self, number: int, drawn: int) -> int:
        if len(self.sources) == 1:
            return 0
        return int(random_generator(self.seed, _SOURCE, number, drawn).choice(len(self.sources), p=self.shares))

    def _try(self, sample: Sample, key: tuple[int, ...], augmentation: AugmentationConfig | None) -> Item | None:
        """Make an item; None for a sample that is left out."""
        generator = random_generator(*key)
        try:
            prompt = self.captioner(sample.metadata, generator, sample.path)
            if prompt is None:
                return None
            with sample.open() as file:
                start = int(generator.integers(0, max(0, file.num_samples - self.crop_samples), endpoint=True))
                audio = file.read(start, self.crop_samples)
                seconds = file.seconds
        except CaptionError:
            raise
        except (UserError, OSError, ModuleNotFoundError) as error:
            self.left_out.add(sample.name, str(error))
            return None
        if augmentation is not None:
            audio = augment(audio, augmentation, random_generator(*key, _AUGMENT))
        return crop_item(audio, self.crop_samples, start, seconds, prompt)


class _Lanes(IterableDataset):
    """The items of one rank's readers: each worker is one, and yields (lane, item, state behind it)."""

    def __init__(
        self, source: ShardSource, rank: int, world_size: int, rotation: int, states: list[ReaderState]
    ) -> None:
        self.source = source
        self.rank = rank
        self.world_size = world_size
        self.rotation = rotation
        self.states = states

    def __iter__(self) -> Iterator[tuple[int, Item, ReaderState] | DrawError]:
        worker = get_worker_info()
        lanes = len(self.states)
        lane = ((worker.id if worker is not None else 0) + self.rotation) % lanes
        try:
            number = self.rank * lanes + lane
            for item, state in self.source.read(number, self.world_size * lanes, self.states[lane]):
                yield lane, item, state
        except (UserError, OSError) as error:
            yield DrawError(error)


class ShardStream:
    """The endless training batches of one rank, from shards.

    Args:
        source: makes the items.
        batch_size: items in a batch.
        num_workers: processes that read ahead, each its own shards; 0 reads in this one.
        rank, world_size: which share of the shards this process sees.
        start_batch: asked for the first batch's number whenever iteration starts.
        saved: `state` of every rank's earlier stream at that batch; none: from the beginning.
    """

    def __init__(
        self,
        source: ShardSource,
        batch_size: int,
        num_workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
        start_batch: Callable[[], int] = lambda: 0,
        saved: list[dict[str, Any]] | None = None,
    ) -> None:
        self.source = source
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.rank = rank
        self.world_size = world_size
        self.start_batch = start_batch
        self._lanes = max(1, num_workers)
        self._states: dict[int, dict[str, Any]] = {start_batch(): self._start(saved)}
        for held_out in source.sources:
            num_shards, readers = len(held_out.training), self._lanes * world_size
            if num_shards < readers and rank == 0:
                logger.warning(
                    "%d shards for %d readers (%d processes of %d workers): each reads all of them and keeps its own "
                    "samples; more and smaller shards are read faster", num_shards, readers, world_size, self._lanes,
                )  # fmt: skip

    def _start(self, saved: list[dict[str, Any]] | None) -> dict[str, Any]:
        if saved is None:
            return {"rotation": 0, "lanes": [self.source.start()] * self._lanes}
        lanes = {len(rank["lanes"]) for rank in saved}
        if len(saved) == self.world_size and lanes == {self._lanes}:
            return saved[self.rank]
        logger.warning(
            "the checkpoint is of %d processes with %s workers, these are %d with %d: the rest of the shards that were "
            "begun is left out in this pass", len(saved), " or ".join(map(str, lanes)), self.world_size, self._lanes,
        )  # fmt: skip
        everyone = [places for rank in saved for _, places in rank["lanes"]]
        return {"rotation": 0, "lanes": [self.source.start(everyone, self.world_size * self._lanes)] * self._lanes}

    def state(self, batch: int) -> dict[str, Any]:
        """Return plain numbers that say where the readers were before batch number `batch`."""
        state = self._states[batch]
        lanes = [[lane[0], [list(place) for place in lane[1]]] for lane in state["lanes"]]
        return {"rotation": state["rotation"], "lanes": lanes}

    def __iter__(self) -> Iterator[Batch]:
        batch = self.start_batch()
        state = self._states[batch]
        lanes = [ReaderState(drawn, tuple(Place(*place) for place in places)) for drawn, places in state["lanes"]]
        rotation = state["rotation"]
        dataset = _Lanes(self.source, self.rank, self.world_size, rotation, list(lanes))
        ahead = max(2, -(-self.batch_size // self.num_workers)) if self.num_workers else None
        loader = iter(
            DataLoader(
                dataset, batch_size=None, num_workers=self.num_workers, prefetch_factor=ahead, collate_fn=unchanged
            )
        )
        while True:
            items = []
            for _ in range(self.batch_size):
                lane, item, lanes[lane] = raise_draw_error(next(loader))
                items.append(item)
            rotation = (rotation + self.batch_size) % self._lanes
            batch += 1
            self._states[batch] = {"rotation": rotation, "lanes": list(lanes)}
            self._states.pop(batch - _KEPT_STATES, None)
            yield collate(items)
