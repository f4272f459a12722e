"""Latents to sound as they come: streaming decode, limiter, files, pipes, callbacks, progress, interruption.

Chunks of latents (1, 64, frames) go in, pieces of audio (2, samples) at 44,100 Hz come out and are written at once, so
that memory does not depend on the length and a stopped run leaves what was made.
"""

import math
import os
import re
import select
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from data.audio import SAMPLE_RATE
from data.audio_writer import WRITER_SUFFIXES, AudioWriter
from data.interrupts import Interrupts
from infer.limiter import Limiter
from models.errors import UserError
from models.streaming import StreamingDecoder
from models.vae import VAE

RawFormat = Literal["s16le", "f32le"]

FADE_SECONDS = 0.02
STDOUT = "-"


class Sink(Protocol):
    """Where sound goes: `data.audio_writer.AudioWriter`, `RawSink`, `CallbackSink`, or anything with these two."""

    def write(self, audio: Tensor, /) -> None:
        """Take the next audio (2, samples)."""
        ...

    def close(self) -> None:
        """End the sound."""
        ...


class Decoding:
    """Latents (1, latent_channels, frames) in, limited audio (2, samples) out; joined, it is the decoding of the whole.

    `push` raises ValueError where the decoded audio is not finite.
    """

    def __init__(self, vae: VAE):
        self._device = vae.latent_mean.device
        self._decoder = StreamingDecoder(vae)
        self._limiter = Limiter()

    def push(self, latents: Tensor) -> Tensor:
        """Take the next frames and return the audio that is ready."""
        return self._limiter.push(finite_audio(self._decoder.push(latents)))

    def finish(self) -> Tensor:
        """End the sound: the remaining audio."""
        last = self._limiter.push(finite_audio(self._decoder.finish()))
        return torch.cat((last, self._limiter.finish()), dim=-1)

    def state_dict(self) -> dict[str, Any]:
        """Return what the next audio depends on besides the next latents."""
        return {"decoder": self._decoder.state_dict(), "limiter": self._limiter.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken, on whatever device."""
        self._decoder.load_state_dict(on_device(state["decoder"], self._device))
        self._limiter.load_state_dict(state["limiter"])


def on_device(values: Any, device: torch.device) -> Any:
    """Move all tensors in nested dicts and lists, as states are."""
    if isinstance(values, Tensor):
        return values.to(device)
    if isinstance(values, dict):
        return {name: on_device(value, device) for name, value in values.items()}
    if isinstance(values, list):
        return [on_device(value, device) for value in values]
    return values


def decode_stream(chunks: Iterable[Tensor], vae: VAE) -> Iterator[Tensor]:
    """Decode chunks (1, latent_channels, frames) to limited audio (2, samples), piece by piece.

    Joined, the pieces are the decoding of all latents at once. The last ones come when `chunks` ends.

    Raises:
        UserError: the decoded audio is not finite.
    """
    decoding = Decoding(vae)
    for chunk in chunks:
        yield decoding.push(chunk)
    yield decoding.finish()


def finite_audio(audio: Tensor) -> Tensor:
    """Take audio (1, 2, samples) off the device; ValueError where it is not finite."""
    if not bool(torch.isfinite(audio).all()):
        raise UserError("the model made sound that is not finite: its weights are damaged or its training diverged")
    return audio[0].float().cpu()


def cut(pieces: Iterable[Tensor], num_samples: int, fade_seconds: float = FADE_SECONDS) -> Iterator[Tensor]:
    """End the audio after `num_samples`, the last `fade_seconds` of it faded to silence."""
    done = 0
    for piece in pieces:
        piece = end_at(num_samples, done, piece, fade_seconds)
        done += piece.shape[1]
        yield piece
        if done == num_samples:
            return


def end_at(num_samples: int, done: int, piece: Tensor, fade_seconds: float = FADE_SECONDS) -> Tensor:
    """Cut a piece (2, samples) that follows `done` samples where the whole has `num_samples`, and fade its end."""
    fade_samples = min(round(fade_seconds * SAMPLE_RATE), num_samples)
    piece = piece[:, : num_samples - done]
    if done + piece.shape[1] <= num_samples - fade_samples:
        return piece
    left = num_samples - done - torch.arange(1, piece.shape[1] + 1)  # samples that follow each one
    return piece * torch.sin((left / max(fade_samples, 1)).clamp(max=1) * (math.pi / 2)) ** 2


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
        self.close()

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

    def close(self) -> None:
        """Leave the descriptor open: it is not ours."""


class CallbackSink:
    """Hands every piece of audio (2, samples) to a function, which may take its time: the stream waits."""

    def __init__(self, function: Callable[[Tensor], object]):
        self.function = function

    def write(self, audio: Tensor) -> None:
        """Call the function."""
        self.function(audio)

    def close(self) -> None:
        """There is nothing to close."""


PLAYERS = {
    "s16le": ("ffplay -f s16le -ar 44100 -ch_layout stereo -nodisp -", "aplay -f S16_LE -r 44100 -c 2"),
    "f32le": ("ffplay -f f32le -ar 44100 -ch_layout stereo -nodisp -", "aplay -f FLOAT_LE -r 44100 -c 2"),
}
"""Commands that play raw samples from their standard input, for each format."""


def open_sink(out: str, raw_format: RawFormat = "s16le") -> AudioWriter | RawSink:
    """Open the file `out`, or standard output for "-"; a context manager.

    Raises:
        UserError: the suffix is none that can be written.
        FileNotFoundError: the folder does not exist.
    """
    return RawSink(raw_format) if out == STDOUT else AudioWriter(out)


def check_output(path: Path) -> None:
    """Refuse a file that cannot be written, before anything expensive is done.

    Raises:
        UserError: the suffix is none that can be written, or the path is a folder.
        FileNotFoundError: the folder does not exist.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: the folder {path.parent} does not exist")
    if path.is_dir():
        raise UserError(f"cannot write {path}: it is a folder, give a file name")
    if path.suffix.lower() not in WRITER_SUFFIXES:
        raise UserError(f"cannot write {path}: expected a name ending in {', '.join(WRITER_SUFFIXES)}")


def check_seconds(seconds: float) -> None:
    """Refuse a length that is no length."""
    if not (math.isfinite(seconds) and seconds > 0):
        raise UserError(f"seconds must be a number above 0, got {seconds:g}")


def file_name(prompt: str, seed: int, suffix: str = ".wav") -> str:
    """Name a file after what is in it: heavy-rain-with-distant-thunder-0.wav."""
    words = re.sub(r"[^\w]+", "-", prompt.lower()).strip("-_")
    return f"{words[:60].rstrip('-_') or 'sound'}-{seed}{suffix}"


def play(pieces: Iterable[Tensor], sink: Sink, name: str, total_seconds: float | None = None) -> bool:
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
                seconds += piece.shape[1] / SAMPLE_RATE
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
    return True


def _written(pieces: Iterator[Tensor], sink: Sink, interrupts: Interrupts) -> Iterator[Tensor]:
    """Write piece after piece and yield each; into a pipe outside of the hold, since its reader may never read."""
    may_wait = not isinstance(sink, AudioWriter)
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
