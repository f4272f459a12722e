"""Which clips of a data set are not worth training on: silent, too short, or there twice."""

import dataclasses
import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from data.audio import SAMPLE_RATE, AudioFile
from models.errors import UserError, check_bounds

_PIECE_SAMPLES = 1 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class FilterConfig:
    """What is left out."""

    min_seconds: float = 0.0
    """Shorter clips are left out (s); 0: none."""
    silence_db: float | None = -60.0
    """Clips whose loudest sample is below this are left out (dB of full scale); none: none."""
    duplicates: bool = True
    """Of clips with the same sound, whatever their format and tags, the first is kept."""

    def __post_init__(self) -> None:
        check_bounds("filter.min_seconds", self.min_seconds, 0, 86_400)
        if self.silence_db is not None:
            check_bounds("filter.silence_db", self.silence_db, -200, 0)


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What is known of a clip once all of it was decoded."""

    seconds: float
    peak: float
    """Largest magnitude of a sample, full scale is 1."""
    digest: str
    """Hash of its sound in 16 bits."""
    error: str | None = None
    """Why it cannot be read."""


def inspect(file: AudioFile) -> Inspection:
    """Decode all of a file.

    Raises:
        AudioReadError: it cannot be read to its end.
    """
    digest, peak = hashlib.sha256(), 0.0
    for piece in file.pieces(_PIECE_SAMPLES):
        peak = max(peak, float(np.abs(piece).max(initial=0)))
        digest.update(np.rint(piece.clip(-1, 1) * 32_767).astype("<i2").tobytes())
    return Inspection(file.num_samples / SAMPLE_RATE, peak, digest.hexdigest()[:32])


def reasons(config: FilterConfig, clips: Iterable[tuple[str, Inspection]]) -> dict[str, str]:
    """Return why clips are left out, by their names; clips are judged in the order given."""
    first: dict[str, str] = {}
    found: dict[str, str] = {}
    for name, clip in clips:
        level = 20 * np.log10(clip.peak) if clip.peak > 0 else -np.inf
        if clip.error is not None:
            found[name] = clip.error
        elif clip.seconds < config.min_seconds:
            found[name] = f"too short: {clip.seconds:.2f} s, less than {config.min_seconds:g}"
        elif config.silence_db is not None and level < config.silence_db:
            found[name] = f"silent: its peak is {level:.0f} dB, below {config.silence_db:g}"
        elif config.duplicates and first.setdefault(clip.digest, name) != name:
            found[name] = f"the same sound as {first[clip.digest]}"
    return found


def from_record(record: Any) -> Inspection:
    """Return an inspection that was written as JSON.

    Raises:
        UserError: it is none.
    """
    try:
        return Inspection(**record)
    except TypeError as error:
        raise UserError(f"no record of an inspection: {error}") from None
