"""A user's own audio: a folder with captions beside the files, or a manifest.

- A folder: every audio file in it and below, links followed, each real file once. Captions of `song.wav` stand in
  `song.txt`, `song.caption.txt`, `song.caption` or `song.wav.txt`, one a line; `song.json` holds any metadata. A folder
  with a `manifest.jsonl`, `.json`, `.csv` or `.tsv` in it is read by that.
- A manifest: see `data.manifest`. `data.captions` says how its fields become prompts.

A training draw is one random crop; the files come in an order shuffled anew for every pass. A file that cannot be
read is named and counted, and the next one of the order takes its place; more of them than the set share stop the
run. Crops know where they are: `seconds_start` in the file, `seconds_total` its length, `num_samples` without padding.
"""

import dataclasses
import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

import torch

from data.audio import AUDIO_SUFFIXES, AudioFile
from data.augmentation import AugmentationConfig, augment
from data.captions import Captioner, CaptionError, check_metadata, find_captions
from data.loading import Item, crop_item, random_generator
from data.manifest import MANIFEST_NAMES, parse_object, read_manifest
from data.text_files import check_text, read_lines, read_text, readable
from models.errors import UserError

logger = logging.getLogger(__name__)

# Beyond so many files their headers and captions are not looked at beforehand.
_CHECKED_FILES = 1_000
_CROPS_PER_VALIDATION_FILE = 4

_ORDER, _CROP, _VALIDATION, _AUGMENT = 11, 12, 13, 14


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """One audio file and what is known about it."""

    path: Path
    """Where it is."""
    name: Path
    """Its path inside the data set, as text that can be written anywhere."""
    metadata: dict[str, Any] | None = None
    """Fields of its manifest line; none: sidecars are read when it is drawn."""
    sidecars: tuple[Path, ...] = ()
    """Files beside it with its captions and metadata."""

    def read_metadata(self) -> dict[str, Any]:
        """Return the manifest's fields, or the sidecars'.

        Raises:
            UserError: a sidecar that is not what its suffix says.
        """
        if self.metadata is not None:
            return self.metadata
        metadata: dict[str, Any] = {}
        prompts: list[str] = []
        for path in self.sidecars:
            if path.suffix.lower() == ".json":
                fields = parse_object(read_text(path), readable(path))
                check_text(json.dumps(fields, ensure_ascii=False), readable(path))
                check_metadata(fields, readable(path))
                metadata.update(fields)
            else:
                prompts += read_lines(path)
        return metadata | ({"prompts": prompts} if prompts else {})


def list_entries(source: str | Path) -> list[Entry]:
    """List the audio files of a folder or manifest, in the same order on every machine.

    Raises:
        FileNotFoundError: no such folder or manifest.
        UserError: no audio in it, or a manifest line that cannot be used.
    """
    source = Path(source)
    if source.is_dir():
        manifests = [source / name for name in MANIFEST_NAMES if (source / name).is_file()]
        entries = _list_manifest(manifests[0]) if manifests else list_folder(source)
    elif source.is_file():
        entries = _list_manifest(source)
    else:
        raise FileNotFoundError(f"no such audio folder or manifest: {source}")
    if not entries:
        raise UserError(f"no audio in {source}: expected files ending in {' '.join(AUDIO_SUFFIXES)}")
    return entries


def split_entries(entries: list[Entry], validation_share: float) -> tuple[list[int], list[int]]:
    """Return the indices of the training and of the validation files: a share chosen by their names, at least one.

    Several lines of a manifest about one file are on one side. A single file serves as both; a share of 0 holds
    nothing out.
    """
    everything = list(range(len(entries)))
    files: dict[Any, list[int]] = {}
    for index, entry in enumerate(entries):
        files.setdefault(_identity(entry.path), []).append(index)
    if validation_share == 0:
        return everything, []
    if len(files) == 1:
        return everything, everything

    def name_hash(indices: list[int]) -> bytes:
        return hashlib.sha256(entries[indices[0]].name.as_posix().encode()).digest()

    by_hash = sorted(files.values(), key=name_hash)
    num_held_out = min(len(files) - 1, max(1, round(validation_share * len(files))))
    held_out = sorted(index for indices in by_hash[:num_held_out] for index in indices)
    return sorted(set(everything) - set(held_out)), held_out


class UnreadableFiles:
    """Which files could not be read; shared between worker processes.

    Args:
        names: of all files.
        max_share: more than this share of unreadable files (and more than one) stops the run.
    """

    def __init__(self, names: list[str], max_share: float) -> None:
        self.names = names
        self.max_share = max_share
        self._flags = torch.zeros(len(names), dtype=torch.uint8).share_memory_()

    def __contains__(self, index: int) -> bool:
        return bool(self._flags[index])

    def __len__(self) -> int:
        return int(self._flags.sum())

    def listed(self) -> list[str]:
        """Names of the unreadable files found so far."""
        return [self.names[index] for index in self._flags.nonzero().flatten().tolist()]

    def add(self, index: int, error: Exception) -> None:
        """Name and count a file; raises ValueError when there are too many."""
        if index in self:
            return
        self._flags[index] = 1
        count, total = len(self), len(self.names)
        logger.warning("left out %s: %s (%d of %d files unreadable)", self.names[index], error, count, total)
        if count == total or (count > 1 and count > self.max_share * total):
            raise UserError(
                f"{count} of {total} audio files cannot be read, more than data.max_unreadable_share "
                f"{self.max_share:g} allows: {_some(self.listed())}; the last one: {error}"
            )


class FolderSource:
    """Random crops of a folder's files; see `data.loading.Source`."""

    items_per_draw = 1

    def __init__(
        self,
        folder: str | Path,
        seed: int,
        crop_samples: int,
        num_validation: int,
        validation_share: float,
        max_unreadable_share: float,
        captioner: Captioner | None = None,
        augmentation: AugmentationConfig = AugmentationConfig(),  # noqa: B008
    ) -> None:
        self.seed = seed
        self.captioner = captioner or Captioner()
        self.augmentation = augmentation
        self.crop_samples = crop_samples
        self.entries = list_entries(folder)
        self.training, self.validation = split_entries(self.entries, validation_share)
        self.num_validation = min(num_validation, _CROPS_PER_VALIDATION_FILE * len(self.validation))
        self.unreadable = UnreadableFiles([entry.name.as_posix() for entry in self.entries], max_unreadable_share)
        self._order: tuple[int, list[int]] = (-1, [])
        check_entries(self.entries, self.unreadable)
        logger.info("%d files held out for validation", len(self.validation))

    def draw(self, index: int) -> list[Item]:
        epoch, position = divmod(index, len(self.training))
        if self._order[0] != epoch:
            order = random_generator(self.seed, _ORDER, epoch).permutation(len(self.training))
            self._order = (epoch, [self.training[k] for k in order])
        return [self._first_readable(self._order[1], position, (self.seed, _CROP, index), self.augmentation)]

    def draw_validation(self, index: int) -> Item:
        return self._first_readable(self.validation, index % len(self.validation), (_VALIDATION, index), None)

    def _first_readable(
        self, order: list[int], position: int, key: tuple[int, ...], augmentation: AugmentationConfig | None
    ) -> Item:
        """Return a crop of the first file from a place in the order on that can be read and has a prompt."""
        for step in range(len(order)):
            file = order[(position + step) % len(order)]
            if file in self.unreadable:
                continue
            try:
                item = self._random_crop(self.entries[file], key, augmentation)
            except CaptionError:
                raise
            except (ValueError, OSError, ModuleNotFoundError) as error:
                self.unreadable.add(file, error)
            else:
                if item is not None:
                    return item
        raise UserError(f"none of these files can be read: {_some([self.entries[file].name for file in order])}")

    def _random_crop(self, entry: Entry, key: tuple[int, ...], augmentation: AugmentationConfig | None) -> Item | None:
        generator = random_generator(*key)
        with AudioFile(entry.path) as file:
            start = int(generator.integers(0, max(0, file.num_samples - self.crop_samples), endpoint=True))
            audio = file.read(start, self.crop_samples)
            seconds_total = file.seconds
        prompt = self.captioner(entry.read_metadata(), generator, entry.name)
        if prompt is None:
            return None
        if augmentation is not None:
            audio = augment(audio, augmentation, random_generator(*key, _AUGMENT))
        return crop_item(audio, self.crop_samples, start, seconds_total, prompt)


def check_entries(entries: list[Entry], unreadable: UnreadableFiles) -> None:
    """Look at the files of a not too large set, and log how many there are, how long, and how many lack a caption."""
    num, seconds, uncaptioned = len(entries), 0.0, []
    for index, entry in enumerate(entries):
        is_looked_at = num <= _CHECKED_FILES
        try:
            if is_looked_at:
                with AudioFile(entry.path) as file:
                    seconds += file.seconds
            metadata = entry.read_metadata() if is_looked_at else entry.metadata
            if not (entry.sidecars if metadata is None else find_captions(metadata)):
                uncaptioned.append(entry.name)
        except (ValueError, OSError, ModuleNotFoundError) as error:
            unreadable.add(index, error)
    length = f", {seconds / 3600:.2f} h" if num <= _CHECKED_FILES else ""
    logger.info("%d audio files%s; %d unreadable", num, length, len(unreadable))
    if uncaptioned:
        logger.warning(
            "%d of %d audio files have no caption, so that other metadata or their names become the prompt: %s",
            len(uncaptioned), num, _some(uncaptioned),
        )  # fmt: skip


def list_folder(folder: Path) -> list[Entry]:
    """List the audio files of a folder and below in the order of their names; each real file once.

    Links are followed; a second way to a file or folder (device and inode) is left out.
    """
    entries: list[Entry] = []
    seen_folders, seen_files = {_identity(folder)}, set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        places = [Path(parent, name) for name in sorted(folders) if not name.startswith(".")]
        places.sort(key=lambda place: place.is_symlink())  # the real folder names its files
        folders[:] = [place.name for place in places if _is_new(place, seen_folders)]
        beside = {name.lower(): name for name in sorted(files, reverse=True)}
        paths = [Path(parent, name) for name in sorted(files) if not name.startswith(".")]
        paths = [path for path in paths if path.suffix.lower() in AUDIO_SUFFIXES]
        for path in sorted(paths, key=lambda path: path.is_symlink()):
            if _is_new(path, seen_files):
                name = Path(readable(path.relative_to(folder)))
                entries.append(Entry(path=path, name=name, sidecars=_sidecars(path, set(files), beside)))
    return sorted(entries, key=lambda entry: entry.name.as_posix())


def _is_new(path: Path, seen: set[Any]) -> bool:
    identity = _identity(path)
    is_new = identity not in seen
    seen.add(identity)
    return is_new


def _identity(path: Path) -> Any:
    """What is the same for all names of a file: device and inode; the path where there is no file."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return str(path)
    return (status.st_dev, status.st_ino)


def _sidecars(path: Path, files: set[str], beside: dict[str, str]) -> tuple[Path, ...]:
    """Files of captions and metadata beside an audio file, whose suffixes may be in capitals.

    Args:
        files: all names in its folder.
        beside: the same by their names in lower case.
    """
    names = [path.stem + ending for ending in (".json", ".txt", ".caption.txt", ".caption")]
    names += [path.name + ending for ending in (".json", ".txt")]
    found = (name if name in files else beside.get(name.lower()) for name in names)
    return tuple(path.with_name(name) for name in dict.fromkeys(found) if name is not None)


def _list_manifest(manifest: Path) -> list[Entry]:
    rows = read_manifest(manifest)
    folder = manifest.parent
    return [
        Entry(path=path, name=path.relative_to(folder) if path.is_relative_to(folder) else path, metadata=row)
        for path, row in rows
    ]


def _some(names: list[Any]) -> str:
    return ", ".join(str(name) for name in names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
