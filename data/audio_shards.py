"""Audio in WebDataset shards: tar files of any number and size, read in sequence from disks, web servers or commands.

A sample is an audio file with its metadata (`.json`) or captions (`.txt`) of the same name. URLs are local paths,
folders, `http(s)://...` or `pipe:COMMAND` (for object stores), with `{000..127}` for a range. The `webdataset` library
opens, unpacks and groups; order, shares of processes, resuming and what happens to damage are settled here:

- The shards of every pass come in an order drawn from (seed, pass), and are dealt to the readers (rank x worker) in
  turn, on from pass to pass, so that each is read once a pass and no reader is ever without. With fewer shards than
  readers, every reader reads all and keeps its own samples.
- Within a shard, samples go through a shuffle buffer, drawn from (seed, pass, shard).
- A reader's place is (shards begun, samples taken of the present one) for each source: enough to go on exactly.
"""

import dataclasses
import hashlib
import json
import logging
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from webdataset.shardlists import expand_urls
from webdataset.tariterators import group_by_keys, tar_file_expander, url_opener

from data.audio import AUDIO_SUFFIXES, AudioFile
from data.captions import check_metadata
from data.loading import random_generator
from data.manifest import parse_object
from data.text_files import check_text
from models.errors import UserError

logger = logging.getLogger(__name__)

SHUFFLE_BYTES = 128 << 20
"""Audio that a shuffle buffer holds; samples leave it when it is full."""
VALIDATION_BYTES = 512 << 20
"""Audio that is kept in memory for validation, about."""
_TEXT_ENDINGS = (".caption.txt", ".txt", ".caption")
_ORDER, _SHUFFLE, _SOURCE = 31, 32, 33
_JUDGED_SAMPLES = 200
_NAMED = 5


@dataclasses.dataclass(frozen=True)
class Sample:
    """One sample of a shard, not decoded."""

    name: str
    """Shard and key, for messages."""
    key: str
    """Its name in the shard."""
    audio: bytes
    """The audio file."""
    suffix: str
    """The audio file's suffix, such as ".flac"."""
    metadata: dict[str, Any]
    """Fields of its JSON, and "prompts" of its text."""

    @property
    def path(self) -> Path:
        """Its path where it was packed, or its key."""
        path = self.metadata.get("path")
        return Path(path if isinstance(path, str) and path else self.key)

    def open(self) -> AudioFile:
        """Open the audio for reading parts of it."""
        return AudioFile(self.audio, name=self.name + self.suffix)


class LeftOut:
    """Samples that one process left out: named, counted, and an error when they are too many.

    Args:
        max_share: more than this share of the samples (and more than one) that cannot be read stops the run.
    """

    def __init__(self, max_share: float) -> None:
        self.max_share = max_share
        self.num_seen = 0
        self.num_unread = 0
        self.names: dict[str, str] = {}

    def add(self, name: str, reason: str) -> None:
        """Count what cannot be read, and name it once.

        Raises:
            UserError: it is too many.
        """
        self.num_unread += 1
        if name not in self.names:
            self.names[name] = reason
            logger.warning("left out %s: %s (%d of %d)", name, reason, self.num_unread, self.num_seen)
        if len(self.names) > 1 and self.num_unread > self.max_share * max(self.num_seen, _JUDGED_SAMPLES):
            raise UserError(
                f"{self.num_unread} of {self.num_seen} samples cannot be read, more than data.max_unreadable_share "
                f"{self.max_share:g} allows: {', '.join(list(self.names)[:_NAMED])}; the last one: {reason}"
            )


def expand(specs: str | Sequence[str]) -> list[str]:
    """Return the URLs that patterns and folders stand for, in order.

    Raises:
        FileNotFoundError: a local shard is missing.
        UserError: a local shard breaks off, or there is none.
    """
    urls = []
    for spec in [specs] if isinstance(specs, str) else specs:
        if is_local(spec) and Path(spec).is_dir():
            urls += [str(path) for path in sorted(Path(spec).glob("*.tar"))]
        else:
            urls += expand_urls(spec)
    if not urls:
        raise UserError(f"no shards in {specs}: expected names ending in .tar, or a folder of them")
    for url in urls:
        if is_local(url):
            _check_local(Path(url.removeprefix("file:")))
    return urls


def is_local(url: str) -> bool:
    """Whether a URL is a path of this machine."""
    return url.startswith("file:") or not ("://" in url or url.startswith("pipe:"))


def _check_local(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"no such shard: {path}")
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 1_024))
        if file.read().strip(b"\0") or path.stat().st_size < 1_024:  # two empty blocks end a tar file
            raise UserError(f"shard {path} breaks off, or is no tar file: write it again, or leave it out")


def read_shard(url: str, left_out: LeftOut) -> Iterator[Sample]:
    """Yield a shard's samples in its order; what is damaged is named and counted.

    Raises:
        UserError: too much cannot be read.
    """

    def note(error: Exception) -> bool:
        left_out.add(url, f"{type(error).__name__}: {error}")
        return True

    try:
        (opened,) = url_opener([{"url": url}])
        stream = opened["stream"] = _Watched(opened["stream"])
        for members in group_by_keys(tar_file_expander([opened]), keys=split_name, handler=note):
            left_out.num_seen += 1
            name = f"{url}: {members['__key__']}"
            try:
                yield make_sample(name, members["__key__"], members)
            except (UserError, UnicodeDecodeError) as error:
                left_out.add(name, str(error))
        stream.finish()
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001 whatever servers and commands raise: this shard gives no more
        left_out.num_seen += 1
        left_out.add(f"the rest of {url}", " ".join(str(error.args[0] if error.args else error).split()))


class _Watched:
    """A stream of a tar file that must end as one: with two empty blocks, and without an error of its command."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._tail = b""

    def read(self, num_bytes: int) -> bytes:
        content = self._stream.read(num_bytes)
        self._tail = (self._tail + content)[-2 * tarfile.BLOCKSIZE :]
        return content

    def finish(self) -> None:
        """Read what is left, and raise what was wrong."""
        while self.read(1 << 16):
            pass
        self._stream.close()
        if len(self._tail) < 2 * tarfile.BLOCKSIZE or self._tail.strip(b"\0"):
            raise OSError("it breaks off")


def split_name(name: str) -> tuple[str, str] | tuple[None, None]:
    """Split a member's name into the sample's key and the member's ending, dots in the key included."""
    lower = name.lower()
    for ending in (*_TEXT_ENDINGS, ".json", *AUDIO_SUFFIXES):
        if lower.endswith(ending):
            key = name[: -len(ending)]
            if ending not in AUDIO_SUFFIXES:  # song.wav.json belongs to song.wav
                key = next((key[: -len(s)] for s in AUDIO_SUFFIXES if key.lower().endswith(s)), key)
            return key, ending[1:]
    key, dot, ending = name.rpartition(".")
    return (key, ending.lower()) if dot else (None, None)


def make_sample(name: str, key: str, members: dict[str, Any]) -> Sample:
    """Make a sample of its members by their endings.

    Raises:
        UserError: there is no audio among them, or the metadata have no meaning.
    """
    suffix = next((suffix for suffix in AUDIO_SUFFIXES if suffix[1:] in members), None)
    if suffix is None:
        found = ", ".join(one for one in members if not one.startswith("__"))
        raise UserError(f"it holds no audio, only {found}")
    metadata: dict[str, Any] = {}
    if "json" in members:
        metadata = parse_object(members["json"].decode("utf-8-sig"), name)
        check_text(json.dumps(metadata, ensure_ascii=False), name)
        check_metadata(metadata, name)
    texts = [members[ending[1:]].decode("utf-8-sig") for ending in _TEXT_ENDINGS if ending[1:] in members]
    if prompts := [line.strip() for text in texts for line in text.split("\n") if line.strip()]:
        metadata["prompts"] = prompts
    return Sample(name, key, members[suffix[1:]], suffix, metadata)


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


def name_hash(name: str) -> float:
    """A number in [0, 1) that belongs to a name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64


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
