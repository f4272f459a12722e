"""A user's own audio: a folder with captions beside the files, or a manifest.

- A folder: every audio file in it and below; `song.txt` beside `song.wav` holds captions, one a line, and `song.json`
  any metadata. A folder with a `manifest.jsonl` or `manifest.csv` in it is read by that.
- A manifest: `.jsonl` (an object a line) or `.csv` (with a header) with a column `path` (relative to the manifest, or
  absolute) and any metadata fields. `data.captions` says how they become prompts.

A training draw is one random crop; the files come in an order shuffled anew for every pass. A file that cannot be
read is named and counted, and the next one of the order takes its place; more of them than the set share stop the
run. Crops know where they are: `seconds_start` in the file, `seconds_total` its length, `num_samples` without padding.
"""

import csv
import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from data.audio import AUDIO_SUFFIXES, AudioFile
from data.captions import make_prompt
from data.loading import Item, crop_item, random_generator
from models.errors import UserError

logger = logging.getLogger(__name__)

MANIFEST_NAMES = ("manifest.jsonl", "manifest.csv")
PATH_FIELDS = ("path", "audio", "audio_path", "file", "file_name", "filename", "filepath")

# Beyond so many files their headers are not looked at beforehand.
_CHECKED_FILES = 1_000
_CROPS_PER_VALIDATION_FILE = 4

_ORDER, _CROP, _VALIDATION = 11, 12, 13


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """One audio file and what is known about it."""

    path: Path
    """Where it is."""
    name: Path
    """Its path inside the data set."""
    metadata: dict[str, Any] | None = None
    """Fields of its manifest line; none: sidecars beside the file are read when it is drawn."""

    def read_metadata(self) -> dict[str, Any]:
        """Return the manifest's fields, or the sidecars'.

        Raises:
            UserError: a sidecar that is not what its suffix says.
        """
        if self.metadata is not None:
            return self.metadata
        metadata: dict[str, Any] = {}
        json_path, text_path = self.path.with_suffix(".json"), self.path.with_suffix(".txt")
        if json_path.is_file():
            metadata.update(_parse_object(_read_text(json_path), str(json_path)))
        if text_path.is_file():
            metadata["prompts"] = [line.strip() for line in _read_text(text_path).splitlines() if line.strip()]
        return metadata


def list_entries(source: str | Path) -> list[Entry]:
    """List the audio files of a folder or manifest, in the same order on every machine.

    Raises:
        FileNotFoundError: no such folder or manifest.
        UserError: no audio in it, or a manifest line that cannot be used.
    """
    source = Path(source)
    if source.is_dir():
        manifests = [source / name for name in MANIFEST_NAMES if (source / name).is_file()]
        entries = _list_manifest(manifests[0]) if manifests else _list_folder(source)
    elif source.is_file():
        entries = _list_manifest(source)
    else:
        raise FileNotFoundError(f"no such audio folder or manifest: {source}")
    if not entries:
        raise UserError(f"no audio in {source}: expected files ending in {' '.join(AUDIO_SUFFIXES)}")
    return entries


def split_entries(entries: list[Entry], validation_share: float) -> tuple[list[int], list[int]]:
    """Return the indices of the training and of the validation files: a share chosen by their names, at least one.

    A single file serves as both; a share of 0 holds nothing out.
    """
    everything = list(range(len(entries)))
    if validation_share == 0:
        return everything, []
    if len(entries) == 1:
        return everything, everything
    by_hash = sorted(everything, key=lambda i: hashlib.sha256(entries[i].name.as_posix().encode()).digest())
    held_out = min(len(entries) - 1, max(1, round(validation_share * len(entries))))
    return sorted(by_hash[held_out:]), sorted(by_hash[:held_out])


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
    ) -> None:
        self.seed = seed
        self.crop_samples = crop_samples
        self.entries = list_entries(folder)
        self.training, self.validation = split_entries(self.entries, validation_share)
        self.num_validation = min(num_validation, _CROPS_PER_VALIDATION_FILE * len(self.validation))
        self.unreadable = UnreadableFiles([entry.name.as_posix() for entry in self.entries], max_unreadable_share)
        self._order: tuple[int, list[int]] = (-1, [])
        self._check_headers()

    def draw(self, index: int) -> list[Item]:
        epoch, position = divmod(index, len(self.training))
        if self._order[0] != epoch:
            order = random_generator(self.seed, _ORDER, epoch).permutation(len(self.training))
            self._order = (epoch, [self.training[k] for k in order])
        return [self._first_readable(self._order[1], position, (self.seed, _CROP, index))]

    def draw_validation(self, index: int) -> Item:
        return self._first_readable(self.validation, index % len(self.validation), (_VALIDATION, index))

    def _first_readable(self, order: list[int], position: int, key: tuple[int, ...]) -> Item:
        for step in range(len(order)):
            file = order[(position + step) % len(order)]
            if file in self.unreadable:
                continue
            try:
                return self._random_crop(self.entries[file], key)
            except (ValueError, OSError, ModuleNotFoundError) as error:
                self.unreadable.add(file, error)
        raise UserError(f"none of these files can be read: {_some([self.entries[file].name for file in order])}")

    def _random_crop(self, entry: Entry, key: tuple[int, ...]) -> Item:
        generator = random_generator(*key)
        with AudioFile(entry.path) as file:
            start = int(generator.integers(0, max(0, file.num_samples - self.crop_samples), endpoint=True))
            audio = file.read(start, self.crop_samples)
            seconds_total = file.seconds
        prompt = make_prompt(entry.read_metadata(), generator, entry.name)
        return crop_item(audio, self.crop_samples, start, seconds_total, prompt)

    def _check_headers(self) -> None:
        if len(self.entries) > _CHECKED_FILES:
            logger.info("%d audio files", len(self.entries))
            return
        seconds = 0.0
        for index, entry in enumerate(self.entries):
            try:
                with AudioFile(entry.path) as file:
                    seconds += file.seconds
            except (ValueError, OSError, ModuleNotFoundError) as error:
                self.unreadable.add(index, error)
        logger.info(
            "%d audio files, %.2f h; %d held out for validation; %d unreadable",
            len(self.entries), seconds / 3600, len(self.validation), len(self.unreadable),
        )  # fmt: skip


def _list_folder(folder: Path) -> list[Entry]:
    found = []
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(parent, name) for name in files if not name.startswith(".")]
    paths = [path for path in found if path.suffix.lower() in AUDIO_SUFFIXES]
    entries = [Entry(path=path, name=path.relative_to(folder)) for path in paths]
    return sorted(entries, key=lambda entry: entry.name.as_posix())


def _list_manifest(manifest: Path) -> list[Entry]:
    readers: dict[str, Callable[[Path], Iterator[tuple[int, dict[str, Any]]]]] = {
        ".jsonl": _jsonl_rows, ".csv": _csv_rows
    }  # fmt: skip
    reader = readers.get(manifest.suffix.lower())
    if reader is None:
        raise UserError(f"{manifest} is no manifest: expected a name ending in .jsonl or .csv, or a folder")
    entries = []
    for line, row in reader(manifest):
        path = next((row[name] for name in PATH_FIELDS if row.get(name)), None)
        if not isinstance(path, str):
            raise UserError(f"{manifest}, line {line}: no path to an audio file; expected a field 'path'")
        entries.append(Entry(path=manifest.parent / path, name=Path(path), metadata=row))
    return entries


def _jsonl_rows(manifest: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, text in enumerate(_read_text(manifest).splitlines(), start=1):
        if text.strip():
            yield line, _parse_object(text, f"{manifest}, line {line}")


def _csv_rows(manifest: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    rows = csv.DictReader(_read_text(manifest).splitlines())
    for row in rows:
        yield rows.line_num, {name.strip(): value for name, value in row.items() if name is not None}


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: {error}") from error


def _parse_object(text: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{where} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{where} must be a JSON object, got {type(value).__name__}")
    return value


def _some(names: list[Any]) -> str:
    return ", ".join(str(name) for name in names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
