"""Audio files out, written as the sound is made: wav, flac and ogg whose header is valid after every write.

Samples beyond [-1, 1] are kept in float wav; the integer and lossy formats clip them at full scale, count them, and
say so once at the end. Nothing is normalised and nothing below full scale is changed. A float32 or 16-bit wav that
grows past 4 GiB turns from RIFF into RF64 (EBU Tech 3306), for which its header keeps room from the start.
"""

import logging
import struct
from pathlib import Path
from types import TracebackType
from typing import Literal

import numpy as np
import soundfile
import torch

from data.audio import SAMPLE_RATE
from models.errors import UserError

logger = logging.getLogger(__name__)

WRITER_SUFFIXES = (".wav", ".flac", ".ogg")

Encoding = Literal["int16", "float32"]

# libsndfile's Vorbis encoder overflows the stack on long writes.
_PIECE_SAMPLES = 16_384
_LARGEST_RIFF_BYTES = 0xFFFF_FFFF


class AudioWriter:
    """Writes stereo audio to a file piece by piece; the suffix chooses the format.

    Args:
        path: ends in .wav, .flac (16-bit) or .ogg (Vorbis); its folder must exist.
        sample_rate: Hz.
        encoding: of a wav file's samples.

    Raises:
        UserError: an unknown suffix; audio that is not (2, samples) or not finite.
        FileNotFoundError: the folder does not exist.
    """

    def __init__(self, path: str | Path, sample_rate: int = SAMPLE_RATE, encoding: Encoding = "int16") -> None:
        self.path = Path(path)
        suffix = self.path.suffix.lower()
        if suffix not in WRITER_SUFFIXES:
            raise UserError(f"cannot write {self.path}: expected a name ending in {', '.join(WRITER_SUFFIXES)}")
        if not self.path.parent.is_dir():
            raise FileNotFoundError(f"cannot write {self.path}: the folder {self.path.parent} does not exist")
        self.sample_rate = sample_rate
        self.num_samples = 0
        self.num_clipped = 0
        self._sink: _WavSink | _FlacSink | soundfile.SoundFile
        if suffix == ".wav":
            self._dtype = np.dtype("<f4" if encoding == "float32" else "<i2")
            self._sink = _WavSink(self.path, sample_rate, self._dtype)
        elif suffix == ".flac":
            self._dtype = np.dtype("<i2")
            self._sink = _FlacSink(self.path, sample_rate)
        else:
            self._dtype = np.dtype("<f4")
            self._sink = soundfile.SoundFile(self.path, "w", sample_rate, 2, "VORBIS", format="OGG")
        self._clips = not (suffix == ".wav" and encoding == "float32")
        self._closed = False

    def __enter__(self) -> "AudioWriter":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def write(self, audio: np.ndarray | torch.Tensor) -> None:
        """Append audio (2, samples), float; afterwards the file is playable as it is."""
        samples = audio.detach().float().cpu().numpy() if isinstance(audio, torch.Tensor) else np.asarray(audio)
        if samples.ndim != 2 or samples.shape[0] != 2:
            raise ValueError(f"audio must have the shape (2, samples), got {tuple(samples.shape)}")
        if not np.isfinite(samples).all():
            raise UserError(f"cannot write {self.path}: the audio holds values that are not finite")
        for start in range(0, samples.shape[1], _PIECE_SAMPLES):
            self._sink.write(self._encode(samples[:, start : start + _PIECE_SAMPLES].T))
        self._sink.flush()
        self.num_samples += samples.shape[1]

    def close(self) -> None:
        """Finish the file; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        self._sink.close()
        if self.num_clipped:
            logger.warning(
                "%s: %d of %d values were beyond full scale and were clipped",
                self.path,
                self.num_clipped,
                2 * self.num_samples,
            )

    def _encode(self, samples: np.ndarray) -> np.ndarray:
        """Convert (samples, 2) to the file's sample type, contiguous."""
        if self._clips:
            self.num_clipped += int((np.abs(samples) > 1).sum())
            samples = np.clip(samples, -1, 1)
        if self._dtype.kind == "i":
            samples = np.minimum(np.rint(samples * 32_768.0), 32_767.0)
        return np.ascontiguousarray(samples, dtype=self._dtype)


def write_audio(
    path: str | Path, audio: np.ndarray | torch.Tensor, sample_rate: int = SAMPLE_RATE, encoding: Encoding = "int16"
) -> None:
    """Write audio (2, samples) to a new file."""
    with AudioWriter(path, sample_rate, encoding) as writer:
        writer.write(audio)


class _FlacSink:
    """A FLAC file that states its length while it grows; libFLAC writes it at the end only.

    STREAMINFO starts at byte 8: block size 16 bits twice, frame size 24 bits twice, then 64 bits of sample rate 20,
    channels 3, bits 5 and number of samples 36.
    """

    def __init__(self, path: Path, sample_rate: int) -> None:
        self._path = path
        self._file = soundfile.SoundFile(path, "w", sample_rate, 2, "PCM_16", format="FLAC")
        self._num_samples = 0

    def write(self, samples: np.ndarray) -> None:
        self._file.write(samples)
        self._num_samples += len(samples)

    def flush(self) -> None:
        self._file.flush()
        with self._path.open("r+b") as file:
            head = file.read(26)
            if head[:4] != b"fLaC":
                return
            block = struct.unpack(">H", head[8:10])[0]
            # The encoder holds a block back until the next one has begun.
            written = max(0, self._num_samples - 1) // block * block
            fields = struct.unpack(">Q", head[18:26])[0] >> 36 << 36 | written
            file.seek(18)
            file.write(struct.pack(">Q", fields))

    def close(self) -> None:
        self._file.close()


class _WavSink:
    """A wav file that may grow without limit.

    Layout: RIFF header 12 bytes, JUNK chunk 36 (becomes ds64), fmt chunk 26, fact chunk 12, data header 8, samples.
    """

    _HEADER_BYTES = 12 + 36 + 26 + 12 + 8

    def __init__(
        self, path: Path, sample_rate: int, dtype: np.dtype, largest_riff_bytes: int = _LARGEST_RIFF_BYTES
    ) -> None:
        self._file = path.open("wb")
        self._sample_rate = sample_rate
        self._dtype = dtype
        self._largest_riff_bytes = largest_riff_bytes
        self._data_bytes = 0
        self.flush()

    def write(self, samples: np.ndarray) -> None:
        self._data_bytes += self._file.write(samples.tobytes())

    def flush(self) -> None:
        """Bring the header up to date and hand everything to the system."""
        self._file.seek(0)
        self._file.write(self._header())
        self._file.seek(0, 2)
        self._file.flush()

    def close(self) -> None:
        self.flush()
        self._file.close()

    def _header(self) -> bytes:
        frame_bytes = 2 * self._dtype.itemsize
        num_samples = self._data_bytes // frame_bytes
        riff_bytes = self._HEADER_BYTES - 8 + self._data_bytes
        large = riff_bytes > self._largest_riff_bytes
        if large:
            tag, size_chunk = (
                b"RF64",
                struct.pack("<4sIQQQI", b"ds64", 28, riff_bytes, self._data_bytes, num_samples, 0),
            )
        else:
            tag = b"RIFF"
            size_chunk = struct.pack("<4sI28x", b"JUNK", 28)
        unknown = 0xFFFF_FFFF
        return b"".join(
            (
                struct.pack("<4sI4s", tag, unknown if large else riff_bytes, b"WAVE"),
                size_chunk,
                self._format_chunk(frame_bytes),
                struct.pack("<4sII", b"fact", 4, unknown if large else num_samples),
                struct.pack("<4sI", b"data", unknown if large else self._data_bytes),
            )
        )

    def _format_chunk(self, frame_bytes: int) -> bytes:
        format_tag = 3 if self._dtype.kind == "f" else 1
        return struct.pack(
            "<4sIHHIIHHH",
            b"fmt ",
            18,
            format_tag,
            2,
            self._sample_rate,
            self._sample_rate * frame_bytes,
            frame_bytes,
            8 * self._dtype.itemsize,
            0,
        )
