"""Whole clips by number, on their way to an encoder. `data.clips` opens what there is."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch.utils.data import DataLoader, Dataset

from models.errors import UserError


@dataclasses.dataclass(frozen=True)
class WholeClip:
    """A clip on its way to the encoder."""

    about: dict[str, Any]
    audio: np.ndarray | Path
    """(2, samples) float32, or the file where it is to be read from."""
    file: int | None = None
    """Its number among the set's files."""
    part: int = 0
    """Which set of a mixture it is from."""


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
