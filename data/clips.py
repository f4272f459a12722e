"""Whole clips by number, on their way to an encoder: the procedural corpus's or a user's folder's."""

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch.utils.data import DataLoader, Dataset

from data.audio import SAMPLE_RATE, AudioFile
from data.corpus import training_clip, validation_clip
from data.folder import UnreadableFiles, check_entries, list_entries, split_entries
from data.synthetic import KINDS, captions
from models.errors import UserError

CORPUS_CLIPS = 2_500
CORPUS_VALIDATION_CLIPS = 64
NUM_CAPTIONS = 16
"""Captions of a training clip of the corpus; a crop gets one of them."""

# Longer files are handed over by name, to be read piece by piece.
_LONGEST_HANDED_OVER_SAMPLES = 300 * SAMPLE_RATE


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatentDataConfig:
    """What is encoded."""

    folder: str | None = None
    """A folder of audio with captions, or a manifest (.jsonl, .csv); none: the procedural corpus."""
    kinds: tuple[str, ...] = ()
    """Sounds of the procedural corpus, one of which is in every training clip; empty: all."""
    num_workers: int = 1
    """Processes that draw or read ahead of the encoder; 0: none."""
    validation_share: float = 0.02
    """Share of a folder's files held out for validation, at least one (0 to 1)."""
    max_unreadable_share: float = 0.05
    """Stop when more than this share of the files cannot be read (0 to 1); a single file never stops the run."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "kinds", tuple(self.kinds))
        if unknown := [name for name in self.kinds if name not in KINDS]:
            raise UserError(f"data.kinds: no {', '.join(unknown)} in the corpus; it has {', '.join(KINDS)}")
        if self.kinds and self.folder is not None:
            raise UserError("data.kinds chooses from the procedural corpus: leave it out with data.folder")


@dataclasses.dataclass(frozen=True)
class WholeClip:
    """A clip on its way to the encoder."""

    about: dict[str, Any]
    audio: np.ndarray | Path
    """(2, samples) float32, or the file where it is to be read from."""
    file: int | None = None
    """Its number among the set's files."""


class ClipSet(Protocol):
    """Whole clips by number, in two splits."""

    def size(self, split: str) -> int: ...

    def origin(self) -> dict[str, Any]: ...

    def clip(self, split: str, index: int) -> WholeClip | None:
        """Return a clip; None leaves it out (and it has been named and counted)."""
        ...

    def leave_out(self, clip: WholeClip, error: Exception) -> None:
        """Name and count a clip that could not be read to its end; raises ValueError when there are too many."""
        ...

    def left_out(self) -> list[str]:
        """Names of the files that could not be read."""
        ...


class CorpusClips:
    """Clips of the procedural corpus, in many words each; validation clips are of its held-out part, of all kinds."""

    def __init__(self, clips: int | None, validation_clips: int | None, seed: int, kinds: tuple[str, ...] = ()) -> None:
        self.sizes = {
            "train": CORPUS_CLIPS if clips is None else clips,
            "validation": CORPUS_VALIDATION_CLIPS if validation_clips is None else validation_clips,
        }
        self.seed = seed
        self.kinds = kinds

    def size(self, split: str) -> int:
        return self.sizes[split]

    def origin(self) -> dict[str, Any]:
        return {"data": "data.synthetic", "seed": self.seed, "captions": NUM_CAPTIONS, "kinds": list(self.kinds)}

    def clip(self, split: str, index: int) -> WholeClip | None:
        is_training = split == "train"
        clip = training_clip(self.seed, index, self.kinds) if is_training else validation_clip(index)
        others = captions(clip.metadata["seed"], NUM_CAPTIONS - 1, kinds=self.kinds) if is_training else []
        about = {
            "metadata": {"prompts": [clip.prompt, *others], **clip.metadata},
            "name": f"{split}/{index}",
            "seconds_total": clip.metadata["seconds_total"],
        }
        return WholeClip(about, clip.audio)

    def leave_out(self, clip: WholeClip, error: Exception) -> None:  # noqa: ARG002 no file, nothing to leave out
        raise error

    def left_out(self) -> list[str]:
        return []


class FolderClips:
    """The files of a user's folder or manifest."""

    def __init__(self, data: LatentDataConfig, clips: int | None, validation_clips: int | None) -> None:
        assert data.folder is not None
        self.entries = list_entries(data.folder)
        training, validation = split_entries(self.entries, data.validation_share)
        self.files = {"train": training[:clips], "validation": validation[:validation_clips]}
        self.unreadable = UnreadableFiles([entry.name.as_posix() for entry in self.entries], data.max_unreadable_share)
        check_entries(self.entries, self.unreadable)

    def size(self, split: str) -> int:
        return len(self.files[split])

    def origin(self) -> dict[str, Any]:
        names = "\n".join(self.entries[file].name.as_posix() for split in self.files for file in self.files[split])
        return {"data": "folder", "files": hashlib.sha256(names.encode()).hexdigest()[:16]}

    def clip(self, split: str, index: int) -> WholeClip | None:
        file = self.files[split][index]
        entry = self.entries[file]
        try:
            with AudioFile(entry.path) as audio:
                about = {
                    "metadata": entry.read_metadata(), "name": entry.name.as_posix(), "seconds_total": audio.seconds
                }  # fmt: skip
                long = audio.num_samples > _LONGEST_HANDED_OVER_SAMPLES
                return WholeClip(about, entry.path if long else audio.read(), file)
        except (ValueError, OSError, ModuleNotFoundError) as error:
            self.unreadable.add(file, error)
            return None

    def leave_out(self, clip: WholeClip, error: Exception) -> None:
        assert clip.file is not None
        self.unreadable.add(clip.file, error)

    def left_out(self) -> list[str]:
        return self.unreadable.listed()


def open_clips(data: LatentDataConfig, clips: int | None, validation_clips: int | None, seed: int) -> ClipSet:
    """Open what a configuration names; `clips` None: all of a folder, or the corpus's usual number."""
    if data.folder is not None:
        return FolderClips(data, clips, validation_clips)
    return CorpusClips(clips, validation_clips, seed, data.kinds)


class _Clips(Dataset):
    """Clips for a DataLoader: position -> clip, None for one left out, or an error's message."""

    def __init__(self, clips: ClipSet, numbers: list[tuple[str, int]]) -> None:
        self.clips = clips
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, position: int) -> WholeClip | str | None:
        try:
            return self.clips.clip(*self.numbers[position])
        except (UserError, OSError) as error:
            return str(error)


def _unchanged(clip: Any) -> Any:
    return clip


def read_clips(source: ClipSet, numbers: list[tuple[str, int]], num_workers: int) -> Iterator[WholeClip | None]:
    """Read clips (split, index) ahead in other processes, in order; None for one left out.

    Raises:
        UserError: the set's own error, without a worker's traceback.
    """
    loader = DataLoader(_Clips(source, numbers), batch_size=None, num_workers=num_workers, collate_fn=_unchanged)
    for clip in loader:
        if isinstance(clip, str):
            raise UserError(clip)
        yield clip
