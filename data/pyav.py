"""m4a, aac and webm through PyAV: the one file that imports it. Same interface as an open `soundfile.SoundFile`."""

import importlib
import io
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from models.errors import UserError

# A decoder needs packets before the asked one to be in its stride (AAC: two frames, Opus: 80 ms).
_PRE_ROLL_SECONDS = 0.3


class PyavFile:
    """One audio stream of a file or of its content, read by seeking.

    Raises:
        ModuleNotFoundError: PyAV is not installed.
        UserError: it is no audio.
    """

    def __init__(self, source: Path | bytes, path: Path) -> None:
        try:
            av: Any = importlib.import_module("av")
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"reading {path} ({path.suffix}) needs PyAV: install the extra 'formats' (pip install -e '.[formats]')"
            ) from error
        self._path = path
        self._errors = (av.FFmpegError,)
        try:
            self._container = av.open(io.BytesIO(source) if isinstance(source, bytes) else str(source))
            self._stream = self._container.streams.audio[0]
        except (av.FFmpegError, IndexError) as error:
            raise UserError(f"cannot read {path}: no audio stream ({error})") from error
        self.samplerate = self._stream.rate
        self.channels = self._stream.channels
        self.frames = self._count_frames()
        self._position = 0

    def close(self) -> None:
        self._container.close()

    def seek(self, frame: int) -> None:
        self._position = frame

    def read(self, frames: int, dtype: str = "float32", always_2d: bool = True) -> np.ndarray:
        """Return up to `frames` frames from the position on, (frames, channels) float32."""
        assert dtype == "float32"
        assert always_2d
        start, stop = self._position, self._position + frames
        output = np.zeros((frames, self.channels), dtype=np.float32)
        filled = 0
        try:
            for first, block in self._blocks_from(start):
                low, high = max(first, start), min(first + len(block), stop)
                if low < high:
                    output[low - start : high - start] = block[low - first : high - first]
                    filled = max(filled, high - start)
                if first + len(block) >= stop:
                    break
        except self._errors as error:
            raise RuntimeError(str(error)) from error
        self._position = start + filled
        return output[:filled]

    def _count_frames(self) -> int:
        base = self._stream.time_base or Fraction(1, 1)
        if self._stream.duration is not None:
            return round(self._stream.duration * base * self.samplerate)
        if self._container.duration is not None:
            return round(Fraction(self._container.duration, 1_000_000) * self.samplerate)
        raise UserError(f"cannot read {self._path}: its length is unknown")

    def _blocks_from(self, start: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (first frame, (frames, channels) float32) from some place before `start` on."""
        base = self._stream.time_base or Fraction(1, self.samplerate)
        origin = self._stream.start_time or 0
        seconds = max(Fraction(0), Fraction(start, self.samplerate) - Fraction(_PRE_ROLL_SECONDS))
        self._container.seek(origin + int(seconds / base), stream=self._stream, backward=True)
        for frame in self._container.decode(self._stream):
            if frame.pts is None:
                continue
            yield round((frame.pts - origin) * base * self.samplerate), _to_float(frame.to_ndarray(), self.channels)


def _to_float(samples: np.ndarray, channels: int) -> np.ndarray:
    """Turn planar (channels, frames) or packed (1, frames * channels) samples to (frames, channels) float32."""
    if samples.dtype.kind in "iu":
        info = np.iinfo(samples.dtype)
        offset = 0.5 * (info.max + info.min + 1)
        samples = (samples.astype(np.float32) - np.float32(offset)) / np.float32(2.0 ** (info.bits - 1))
    planar = samples if samples.shape[0] == channels else samples.reshape(-1, channels).T
    return np.ascontiguousarray(planar.T, dtype=np.float32)
