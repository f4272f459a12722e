"""Sound to where it is heard: files and pipes, progress, levels, interruption.

Pieces of audio (2, samples) are written as they are made, so that memory does not depend on the length and a stopped
run leaves what was made.
"""

import errno
import logging
import math
import os
import select
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol

import soundfile
from torch import Tensor
from tqdm import tqdm

from data.audio_writer import AudioWriter
from data.interrupts import Interrupts
from infer.outputs import claimed

logger = logging.getLogger(__name__)

RawFormat = Literal["s16le", "f32le"]

STDOUT = "-"
QUIET_DB = -45.0
"""Level (RMS, dB below full scale) under which a sound is named as nearly silent."""

PLAYERS = {
    "s16le": ("ffplay -f s16le -ar {rate} -ch_layout stereo -nodisp -", "aplay -f S16_LE -r {rate} -c 2"),
    "f32le": ("ffplay -f f32le -ar {rate} -ch_layout stereo -nodisp -", "aplay -f FLOAT_LE -r {rate} -c 2"),
}
"""Commands that play raw samples from their standard input, for each format."""


class Sink(Protocol):
    """Where sound goes."""

    def write(self, audio: Tensor, /) -> None:
        """Take the next audio (2, samples)."""
        ...


class RawSink:
    """Interleaved samples without a header on a file descriptor, standard output by default.

    A slow reader holds the stream back; when the reader goes away, `write` raises BrokenPipeError.
    """

    def __init__(self, encoding: RawFormat = "s16le", descriptor: int = 1):
        self.encoding = encoding
        self.descriptor = descriptor

    def __enter__(self) -> "RawSink":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Leave the descriptor open: it is not ours."""

    def write(self, audio: Tensor) -> None:
        """Write audio (2, samples); returns when all of it is handed over."""
        samples = audio.detach().float().cpu().T.contiguous()  # (samples, 2)
        if self.encoding == "s16le":
            data = (samples * 32_768).round().clamp(-32_768, 32_767).numpy().astype("<i2")
        else:
            data = samples.numpy().astype("<f4")
        view = memoryview(data.tobytes())
        while view:
            try:
                view = view[os.write(self.descriptor, view) :]
            except BlockingIOError:  # the other side made the pipe non-blocking, and it is full
                select.select([], [self.descriptor], [])


class FileSink:
    """A sound file that this process alone writes, from when it is entered.

    Raises:
        UserError: the file exists and may not be replaced, or another process writes it.
        OSError: it cannot be written, or the disk is full.
    """

    def __init__(self, path: Path, sample_rate: int, *, overwrite: bool = False):
        self.path = path
        self.sample_rate = sample_rate
        self._claim = claimed(path, overwrite)
        self._writer: AudioWriter | None = None

    def __enter__(self) -> "FileSink":
        self._claim.__enter__()
        self._writer = AudioWriter(self.path, self.sample_rate)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._guarded_close()
        finally:
            self._claim.__exit__(None, None, None)

    def write(self, audio: Tensor) -> None:
        """Append audio (2, samples); afterwards the file is playable as it is."""
        assert self._writer is not None, "enter the sink before writing"
        try:
            self._writer.write(audio)
        except soundfile.LibsndfileError as fault:
            raise _disk_error(self.path, fault) from None

    def _guarded_close(self) -> None:
        assert self._writer is not None
        try:
            self._writer.close()
        except soundfile.LibsndfileError as fault:
            raise _disk_error(self.path, fault) from None


def _disk_error(path: Path, fault: soundfile.LibsndfileError) -> OSError:
    """Libsndfile says no more than that writing failed: nearly always the disk is full."""
    return OSError(errno.ENOSPC, f"cannot write ({fault.error_string.rstrip('.')}), is the disk full", str(path))


def open_sink(
    out: str, sample_rate: int, raw_format: RawFormat = "s16le", *, overwrite: bool = False
) -> FileSink | RawSink:
    """Return the sink of the file `out`, or of standard output for "-"; a context manager."""
    return RawSink(raw_format) if out == STDOUT else FileSink(Path(out), sample_rate, overwrite=overwrite)


class LevelMeter:
    """The level of a sound from its pieces."""

    def __init__(self) -> None:
        self._sum = 0.0
        self._count = 0

    def push(self, audio: Tensor) -> None:
        """Take the next samples, of any shape."""
        self._sum += float(audio.double().square().sum())
        self._count += audio.numel()

    @property
    def db(self) -> float:
        """Root mean square so far (dB below full scale); minus infinity for silence."""
        return 10 * math.log10(self._sum / self._count) if self._sum else -math.inf

    def report(self, name: str) -> None:
        """Say so in one line where the sound is nearly silent."""
        if self._count and self.db < QUIET_DB:
            logger.warning(
                "%s is nearly silent (%.0f dBFS): the model may not know this sound, try other words or another seed",
                name,
                self.db,
            )


def play(pieces: Iterable[Tensor], sink: Sink, name: str, sample_rate: int, total_seconds: float | None = None) -> bool:
    """Write pieces (2, samples) to the sink as they come, with a progress bar.

    The bar shows the seconds made, the time left and the real-time factor: time taken over sound made, counted from
    the first sound on; below 1 is faster than real time.

    Args:
        total_seconds: length of the whole, None if it has no end.

    Ctrl-C and SIGTERM take effect between two pieces: what is under way is made and, into a file, written first. A
    second one takes effect at once.

    Returns:
        False if the reader went away before the end.
    """
    start = time.monotonic()
    first_sound = 0.0  # when the first sound was there
    first_seconds = seconds = 0.0  # its length, and all that was made
    meter = LevelMeter()
    length = "" if total_seconds is None else f" of {total_seconds:g}"
    remaining = " Ctrl-C ends it" if total_seconds is None else "|{bar}| {remaining} left"
    bar_format = f"{{desc}}: {{n:.1f}}{length} s {remaining}{{postfix}}"
    # Where there is no terminal every renewal is a line in a log.
    interval = 0.1 if sys.stderr.isatty() else 20.0
    try:
        with (
            Interrupts() as interrupts,
            tqdm(total=total_seconds, desc=name, bar_format=bar_format, mininterval=interval) as bar,
        ):
            for piece in _written(iter(pieces), sink, interrupts):
                meter.push(piece)
                seconds += piece.shape[-1] / sample_rate
                now = time.monotonic()
                if not first_sound and seconds:
                    first_sound, first_seconds = now, seconds
                elif seconds > first_seconds:
                    factor = (now - first_sound) / (seconds - first_seconds)
                    bar.set_postfix_str(f"real-time factor {factor:.2f}", refresh=False)
                bar.update(min(seconds, total_seconds or seconds) - bar.n)
    except BrokenPipeError:
        return False
    finally:
        elapsed = time.monotonic() - start
        waited = f", the first after {first_sound - start:.1f} s" if first_sound else ""
        sys.stderr.write(f"{name}: {seconds:.1f} s of sound in {elapsed:.1f} s{waited}\n")
        meter.report(name)
    return True


def _written(pieces: Iterator[Tensor], sink: Sink, interrupts: Interrupts) -> Iterator[Tensor]:
    """Write piece after piece and yield each; into a pipe outside of the hold, since its reader may never read."""
    may_wait = isinstance(sink, RawSink)
    while True:
        with interrupts.held():
            piece = next(pieces, None)
            if piece is not None and not may_wait:
                sink.write(piece)
        if piece is None:
            return
        if may_wait:
            sink.write(piece)
        yield piece
