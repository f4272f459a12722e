"""Which samples of audio shards are trained on, by which reader, in which order.

- The shards of every pass come in an order drawn from (seed, pass), and are dealt to the readers (rank x worker) in
  turn, on from pass to pass, so that each is read once a pass and no reader is ever without. With fewer shards than
  readers, every reader reads all and keeps its own samples.
- Within a shard, samples go through a shuffle buffer, drawn from (seed, pass, shard).
- A reader's place is (shards begun, samples taken of the present one) for each source: enough to go on exactly.
"""

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.audio_shards import LeftOut, Sample, name_hash, read_shard
from data.loading import random_generator
from models.errors import UserError

logger = logging.getLogger(__name__)

SHUFFLE_BYTES = 128 << 20
"""Audio that a shuffle buffer holds; samples leave it when it is full."""
VALIDATION_BYTES = 512 << 20
"""Audio that is kept in memory for validation, about."""
_ORDER, _SHUFFLE = 31, 32
_NAMED = 5


class HeldOut:
    """Which part of a source is kept from training: whole shards of many, or samples of few.

    Args:
        share: of the shards or samples, chosen by their names (0 to 1).
    """

    def __init__(self, urls: Sequence[str], share: float) -> None:
        by_hash = sorted(urls, key=lambda url: name_hash(Path(url).name))
        num_shards = int(share * len(urls))
        self.validation = by_hash[:num_shards] or (list(urls) if share else [])
        self.training = sorted(by_hash[num_shards:])
        self._share = 0.0 if num_shards else share

    def has(self, sample: Sample) -> bool:
        """Whether a sample of the training shards is held out."""
        return self._share > 0 and name_hash(sample.key) < self._share

    def samples(self, number: int, left_out: LeftOut) -> list[Sample]:
        """Read so many held-out samples, always the same; fewer if they are large, some of the training's if there are
        none."""
        found: list[Sample] = []
        others: list[Sample] = []
        size = 0
        for url in self.validation:
            for sample in read_shard(url, left_out):
                if self._share and not self.has(sample):
                    others += [sample] if len(others) < number else []
                    continue
                found.append(sample)
                size += len(sample.audio)
                if len(found) == number or size > VALIDATION_BYTES:
                    return found
        if not found and others:
            logger.warning("too few samples to hold some out: %d validate that are trained on", len(others))
        return found or others


class Place(NamedTuple):
    """How far a reader is in one source."""

    unit: int = 0
    """Shards it has begun, less one."""
    taken: int = 0
    """Samples it has taken of the present one."""


@dataclasses.dataclass(frozen=True)
class Reader:
    """One of the readers among whom a data set is divided."""

    seed: int
    number: int = 0
    count: int = 1

    def shard_of(self, unit: int, num_shards: int) -> tuple[int, int]:
        """Return pass and shard of its unit 0, 1, ..."""
        dealt = unit * self.count + self.number if num_shards >= self.count else unit
        number, position = divmod(dealt, num_shards)
        return number, int(random_generator(self.seed, _ORDER, number).permutation(num_shards)[position])

    def keeps(self, sample: int, unit: int, num_shards: int) -> bool:
        """Whether it takes a sample of a shard: all, but with fewer shards than readers every count-th."""
        return num_shards >= self.count or (sample + unit) % self.count == self.number


def read_endlessly(
    held_out: HeldOut, reader: Reader, left_out: LeftOut, place: Place
) -> Iterator[tuple[Sample, Place]]:
    """Yield one reader's training samples without end, each with the place behind it.

    Raises:
        UserError: a whole pass gives nothing.
    """
    unit, skipped, barren = *place, 0
    urls = held_out.training
    while True:
        number, shard = reader.shard_of(unit, len(urls))
        samples = (
            sample
            for index, sample in enumerate(read_shard(urls[shard], left_out))
            if reader.keeps(index, unit, len(urls)) and not held_out.has(sample)
        )
        taken = 0
        for sample in shuffled(samples, random_generator(reader.seed, _SHUFFLE, number, shard)):
            taken += 1
            if taken > skipped:
                yield sample, Place(unit, taken)
        barren = 0 if taken else barren + 1
        if barren > len(urls) * (reader.count if len(urls) < reader.count else 1):
            raise UserError(f"the shards give no samples to train on: {', '.join(urls[:_NAMED])}")
        unit, skipped = unit + 1, 0


def shuffled(samples: Iterator[Sample], generator: np.random.Generator, size: int = SHUFFLE_BYTES) -> Iterator[Sample]:
    """Yield samples in random order through a buffer of so many bytes of audio."""
    buffer: list[Sample] = []
    held = 0
    for sample in samples:
        buffer.append(sample)
        held += len(sample.audio)
        while held > size:
            taken = _take(buffer, generator)
            held -= len(taken.audio)
            yield taken
    while buffer:
        yield _take(buffer, generator)


def _take(buffer: list[Sample], generator: np.random.Generator) -> Sample:
    index = int(generator.integers(len(buffer)))
    buffer[index], buffer[-1] = buffer[-1], buffer[index]
    return buffer.pop()
