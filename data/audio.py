"""Audio files in: any segment by seeking, resampled, stereo.

Audio is (2, samples) float32 at 44,100 Hz, here as numpy arrays. libsndfile reads wav, flac, ogg, opus and mp3
sample-exactly from any offset; m4a, aac and webm go through PyAV (the extra `formats`). A segment is resampled with
the neighbourhood its filter needs, so it equals the same part of the whole file resampled.
"""

import contextlib
import functools
import io
import logging
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import soundfile
import soxr

from data.damaged_headers import Patched, look
from data.text_files import readable
from models.errors import UserError

logger = logging.getLogger(__name__)

SAMPLE_RATE = 44_100

SOUNDFILE_SUFFIXES = (".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".rf64", ".w64")
PYAV_SUFFIXES = (".m4a", ".mp4", ".aac", ".webm", ".mka")
AUDIO_SUFFIXES = SOUNDFILE_SUFFIXES + PYAV_SUFFIXES

# soxr's HQ filter reaches less than 20 ms at any rate from 8 kHz up (measured: below 1e-6 from 20 ms on).
_RESAMPLING_MARGIN_SECONDS = 0.05
# A file may end this much before the length in its header (encoders round): its end is then silence, not an error.
_TOLERATED_SHORTAGE_SECONDS = 0.1


# Compressed frames lean on those before them, so decoding starts this much earlier (frames): Vorbis overlaps its
# blocks, an mp3 frame's bits may lie several frames back. Without it 1 in 4 seeks starts with wrong samples.
_PRE_ROLL_FRAMES = {"OGG": 4_096, "MP3": 18_432}

# Floating-point samples beyond this (40 dB above full scale) are of another scale, as of 16-bit integers, or broken.
_LARGEST_SAMPLE = 100.0


class AudioReadError(UserError):
    """A file that is there but cannot be read as audio."""


def fold_to_stereo(audio: np.ndarray) -> np.ndarray:
    """Fold (samples, channels) to (samples, 2).

    Mono goes to both sides. Six channels are 5.1 in the order L R C LFE Ls Rs: ITU-R BS.775 with the centre and the
    surrounds at -3 dB, scaled so that it cannot clip, without the LFE. Any other count becomes its mean on both sides.
    """
    channels = audio.shape[1]
    if channels == 2:
        return audio
    if channels == 6:
        left, right, centre, _, left_surround, right_surround = audio.T
        shared = math.sqrt(0.5)
        sides = [left + shared * (centre + left_surround), right + shared * (centre + right_surround)]
        return np.stack(sides, axis=1) / np.float32(1 + 2 * shared)
    return np.repeat(audio.mean(axis=1, keepdims=True), 2, axis=1)


class AudioFile:
    """An open audio file, as if it were stereo at 44,100 Hz; only what `read` is asked for is decoded.

    Args:
        source: where it is, or its content.
        name: of a content, with the suffix that tells its format.

    Raises:
        AudioReadError: the content is not audio, or breaks off before its stated length.
        FileNotFoundError: no such file.
    """

    def __init__(self, source: str | Path | bytes, name: str | None = None) -> None:
        self.path = Path(name or "audio") if isinstance(source, bytes) else Path(source)
        self._source = source if isinstance(source, bytes) else self.path
        self._file = _open(self._source, self.path)
        self.source_rate = int(self._file.samplerate)
        self.num_channels = int(self._file.channels)
        self._num_frames = int(self._file.frames)
        if self._num_frames <= 0 or self.source_rate <= 0:
            self._file.close()
            raise AudioReadError(f"cannot read {readable(self.path)}: it holds no audio")
        self._pre_roll = _PRE_ROLL_FRAMES.get(getattr(self._file, "format", ""), 0)
        self._used = False
        """Whether something was read: see _read_frames."""
        self.num_samples = max(1, round(self._num_frames * SAMPLE_RATE / self.source_rate))

    def __enter__(self) -> "AudioFile":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    @property
    def seconds(self) -> float:
        """Length (s)."""
        return self.num_samples / SAMPLE_RATE

    def read(self, start: int = 0, num_samples: int | None = None) -> np.ndarray:
        """Return the audio (2, at most num_samples) float32 from sample `start` on; less only at the file's end.

        Args:
            start: first sample at 44,100 Hz, not past the end.
            num_samples: None reads to the end.
        """
        if not 0 <= start <= self.num_samples:
            raise UserError(f"start must be between 0 and {self.num_samples} samples, got {start}")
        stop = self.num_samples if num_samples is None else min(start + num_samples, self.num_samples)
        if stop <= start:
            return np.zeros((2, 0), dtype=np.float32)
        audio = self._read_frames(start, stop) if self.source_rate == SAMPLE_RATE else self._read_resampled(start, stop)
        if len(audio) < stop - start:
            audio = np.pad(audio, ((0, stop - start - len(audio)), (0, 0)))
        return np.ascontiguousarray(audio.T)

    def pieces(self, num_samples: int) -> Iterator[np.ndarray]:
        """Read all of it, (2, at most num_samples) at a time."""
        for start in range(0, self.num_samples, num_samples):
            yield self.read(start, num_samples)

    def _read_resampled(self, start: int, stop: int) -> np.ndarray:
        rate = self.source_rate
        # Start where a source frame and a sample coincide, or the segment would lie between the whole file's samples.
        period = rate // math.gcd(rate, SAMPLE_RATE)
        margin = math.ceil(_RESAMPLING_MARGIN_SECONDS * rate)
        first = max(0, start * rate // SAMPLE_RATE - margin) // period * period
        last = min(self._num_frames, math.ceil(stop * rate / SAMPLE_RATE) + margin)
        resampled = soxr.resample(self._read_frames(first, last), rate, SAMPLE_RATE, quality="HQ")
        offset = start - first * SAMPLE_RATE // rate
        return resampled[offset : offset + stop - start]

    def _read_frames(self, start: int, stop: int) -> np.ndarray:
        """Return source frames start..stop as (frames, 2) float32."""
        pre_roll = min(start, self._pre_roll)
        try:
            if self._used and self._pre_roll:
                # libsndfile can land elsewhere at a second seek in an ogg file.
                self._file.close()
                self._file = _open(self._source, self.path)
            self._used = True
            with _quiet_decoder() if getattr(self._file, "format", "") == "MP3" else contextlib.nullcontext():
                self._file.seek(start - pre_roll)
                frames = self._file.read(stop - start + pre_roll, dtype="float32", always_2d=True)[pre_roll:]
        except (soundfile.LibsndfileError, RuntimeError) as error:
            raise AudioReadError(
                f"cannot read {readable(self.path)} at {start / self.source_rate:.1f} s: {error}"
            ) from error
        missing_seconds = (stop - start - len(frames)) / self.source_rate
        if missing_seconds > _TOLERATED_SHORTAGE_SECONDS:
            raise AudioReadError(
                f"cannot read {readable(self.path)}: it ends {missing_seconds:.1f} s before the "
                f"{self._num_frames / self.source_rate:.1f} s its header states"
            )
        if not np.isfinite(frames).all():
            raise AudioReadError(f"cannot read {readable(self.path)}: samples that are not finite")
        if len(frames) and (peak := float(np.abs(frames).max())) > _LARGEST_SAMPLE:
            raise AudioReadError(f"cannot read {readable(self.path)}: samples up to {peak:g}, where full scale is 1")
        return fold_to_stereo(frames)


def read_audio(path: str | Path, start: int = 0, num_samples: int | None = None) -> np.ndarray:
    """Return (2, at most num_samples) float32 at 44,100 Hz from sample `start` of a file on."""
    with AudioFile(path) as file:
        return file.read(start, num_samples)


@contextlib.contextmanager
def _quiet_decoder() -> Iterator[None]:
    """Keep mpg123 from writing to standard error that it lacks the frames before a seek: the pre-roll is for that."""
    sys.stderr.flush()
    kept = os.dup(2)
    silence = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(silence, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(silence)


def _open(source: Path | bytes, name: Path):
    if isinstance(source, Path) and not source.is_file():
        raise FileNotFoundError(f"no such audio file: {readable(name)}")
    if name.suffix.lower() in PYAV_SUFFIXES:
        from data.pyav import PyavFile

        return PyavFile(source, name)
    with _binary(source) as file:
        patches, remark = look(file, file.seek(0, os.SEEK_END))
    if remark:
        _say_once(f"{readable(name)}: {remark}")
    # Bytes: a name that is not UTF-8 cannot be handed over as text. Windows has no such names.
    if patches:
        opened: Any = Patched(_binary(source), patches)
    elif isinstance(source, bytes):
        opened = _binary(source)
    else:
        opened = str(source) if os.name == "nt" else os.fsencode(source)
    try:
        with _quiet_decoder() if name.suffix.lower() == ".mp3" else contextlib.nullcontext():
            return soundfile.SoundFile(opened)
    except soundfile.LibsndfileError as error:
        raise AudioReadError(f"cannot read {readable(name)}: {error.error_string}") from error


def _binary(source: Path | bytes) -> BinaryIO:
    return io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")


@functools.cache
def _say_once(remark: str) -> None:
    logger.warning(remark)
