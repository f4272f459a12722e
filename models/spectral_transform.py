"""Short-time Fourier transforms as layers: levels of audio for an encoder, shaped noise from a decoder.

Frame i of a transform with hop h lies in the middle of samples i * h to (i + 1) * h, so that frames and hops agree.
Spectra are scaled so that white noise of unit variance has unit power in every bin. All layers stream exactly.

    audio (batch, channels, samples), features (batch, features, frames)
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.streaming import LayerStream, WindowStream, layer_stream

NOISE_KEY = 20_240_207
QUIETEST_POWER = 1e-9
"""Power of a bin that is not told from silence, -90 dB."""
LOUDEST_LOG_LEVEL = 3.7
"""Bound of the logarithm of a bin's level; a full-scale sine has 2.9 at a window of 2,048."""
SHAPES_PER_BIN = 7
"""Numbers that shape a bin: two levels, two coherent complex numbers, and a width."""


class Windows(nn.Module, ABC):
    """Base of layers that see overlapping windows of audio: (batch, channels, samples) -> (batch, features, frames)."""

    def __init__(self, length: int, hop: int) -> None:
        super().__init__()
        self.length, self.hop = length, hop

    @property
    def padding(self) -> int:
        """Samples of silence before and after, which put a frame in the middle of its hop."""
        return (self.length - self.hop) // 2

    def forward(self, audio: Tensor) -> Tensor:
        return self._apply_unpadded(F.pad(audio, (self.padding, self.padding)))

    def streamed(self) -> LayerStream:
        """Build the form that carries on from chunk to chunk."""
        return WindowStream(self._apply_unpadded, self.length, self.hop, self.padding)

    def _apply_unpadded(self, audio: Tensor) -> Tensor:
        with torch.autocast(audio.device.type, enabled=False):
            return self.of_windows(audio.float().unfold(-1, self.length, self.hop))

    @abstractmethod
    def of_windows(self, windows: Tensor) -> Tensor:
        """(batch, channels, frames, length) -> (batch, features, frames)."""


class LogSpectrum(Windows):
    """Log power of the bins of left, right, sum and difference: (batch, 2, samples) -> (batch, 4 * bins, frames)."""

    window: Tensor

    def __init__(self, length: int, hop: int) -> None:
        super().__init__(length, hop)
        self.num_features = 4 * (length // 2 + 1)
        register_window(self, length)

    def of_windows(self, windows: Tensor) -> Tensor:
        left, right = torch.fft.rfft(windows * self.window).unbind(dim=1)
        half = math.sqrt(0.5)
        views = torch.stack((left, right, half * (left + right), half * (left - right)), dim=1)
        return _level(_power(views)).transpose(2, 3).flatten(1, 2)


class ShortLevels(Windows):
    """Log power of a few bands at several steps of a hop, which tell when in the hop a sound begins.

    (batch, channels, samples) -> (batch, channels * steps * bands, frames), windows of 2 * hop / steps samples.
    """

    window: Tensor

    def __init__(self, hop: int, steps: int, num_bands: int) -> None:
        self.step = hop // steps
        super().__init__(hop + self.step, hop)
        self.num_bands = num_bands
        self.num_features = 2 * steps * num_bands
        register_window(self, 2 * self.step)

    def of_windows(self, windows: Tensor) -> Tensor:
        short = windows.unfold(-1, 2 * self.step, self.step) * self.window  # (batch, channels, frames, steps, length)
        power = _power(torch.fft.rfft(short))[..., 1:].unflatten(-1, (self.num_bands, -1)).mean(dim=-1)
        return _level(power).permute(0, 1, 3, 4, 2).flatten(1, 3)


class NoiseSynthesis(nn.Module):
    """Audio of shaped bins: (batch, SHAPES_PER_BIN * bins, frames) -> (batch, 2, frames * hop).

    Each bin of each channel is level * (z + n) / sqrt(1 + |z|^2): n is the spectrum of white noise, z a coherent part
    that the network sets, and a width mixes two noises for the sides. In training the noise is new every time; after it
    is a fixed endless sequence, addressed by the frame's position.
    """

    window: Tensor

    def __init__(self, length: int, hop: int) -> None:
        super().__init__()
        if length % hop:
            raise ValueError(f"the window must be a multiple of the hop, got {length} and {hop}")
        self.length, self.hop, self.num_bins = length, hop, length // 2 + 1
        register_window(self, length)

    @property
    def overlap(self) -> int:
        """Hops that a window covers."""
        return self.length // self.hop

    @property
    def padding(self) -> int:
        """Samples that the first frame covers before the first hop."""
        return (self.length - self.hop) // 2

    def forward(self, shapes: Tensor) -> Tensor:
        frames = self.frames(shapes, start=0)
        end = self.padding + shapes.shape[-1] * self.hop
        return self.overlap_add(frames)[..., self.padding : end]

    def frames(self, shapes: Tensor, start: int) -> Tensor:
        """Windowed waveforms of the frames from number `start` on, (batch, 2, frames, length)."""
        with torch.autocast(shapes.device.type, enabled=False):
            shapes = shapes.float().transpose(1, 2).unflatten(2, (SHAPES_PER_BIN, -1))  # (batch, frames, 7, bins)
            level, parts, width = shapes.split((2, 4, 1), dim=2)
            level = bounded(level).exp().transpose(1, 2)  # (batch, 2, frames, bins)
            real, imaginary = (4 * parts).transpose(1, 2).chunk(2, dim=1)
            noise = self._noise_spectrum(shapes, torch.sigmoid(width[:, :, 0] - 2), start)
            scale = level * (1 + real.square() + imaginary.square()).rsqrt()
            spectrum = torch.complex(scale * (real + noise.real), scale * (imaginary + noise.imag))
            synthesis = self.window * (self.hop / self.window.square().sum())
            return torch.fft.irfft(spectrum, n=self.length) * synthesis

    def overlap_add(self, frames: Tensor) -> Tensor:
        """(batch, 2, frames, length) -> (batch, 2, (frames + overlap - 1) * hop)."""
        parts = frames.unflatten(-1, (self.overlap, self.hop))
        last = self.overlap - 1
        total = sum(F.pad(parts[..., i, :], (0, 0, i, last - i)) for i in range(self.overlap))
        assert isinstance(total, Tensor)
        return total.flatten(2)

    def streamed(self) -> LayerStream:
        """Build the form that carries on from chunk to chunk."""
        return NoiseSynthesisStream(self)

    def _noise_spectrum(self, shapes: Tensor, width: Tensor, start: int) -> Tensor:
        """Spectra of noise for the two channels, (batch, 2, frames, bins); width (batch, frames, bins)."""
        batch, num_frames = shapes.shape[:2]
        num_hops = num_frames + self.overlap - 1
        if self.training:
            noise = torch.randn(batch, 2, num_hops * self.hop, device=shapes.device)
        else:
            noise = fixed_noise(start, num_hops, self.hop).to(shapes.device)
        first, second = torch.fft.rfft(noise.unfold(-1, self.length, self.hop) * self.window).unbind(dim=1)
        near, far = (1 - width.square()).sqrt(), width
        return torch.stack((near * first + far * second, near * first - far * second), dim=1)


class NoiseSynthesisStream(LayerStream):
    """Overlap-add that keeps what later frames still add to, and counts the frames for the noise."""

    carried = ("position", "tail")

    def __init__(self, layer: NoiseSynthesis) -> None:
        self.layer = layer
        self.position = 0  # frames so far
        self.tail: Tensor | None = None  # (batch, 2, (overlap - 1) * hop)

    def push(self, x: Tensor, last: bool) -> Tensor:
        layer, num_frames = self.layer, x.shape[-1]
        tail_length = (layer.overlap - 1) * layer.hop
        tail = x.new_zeros(len(x), 2, tail_length) if self.tail is None else self.tail
        total = F.pad(tail, (0, num_frames * layer.hop))
        if num_frames:
            total = total + layer.overlap_add(layer.frames(x, self.position))
        skipped = max(layer.padding - self.position * layer.hop, 0)
        end = num_frames * layer.hop
        self.position += num_frames
        self.tail = total[..., end:].clone()
        return total[..., skipped : end + layer.padding if last and self.position else end]

    def input_span(self, first: int, last: int) -> tuple[int, int]:
        layer = self.layer
        return -((layer.length - 1 - layer.padding - first) // layer.hop), (last + layer.padding) // layer.hop


class Join(nn.Module):
    """Several layers, all at one stride, on the same input; `join` makes one tensor of their outputs."""

    def __init__(self, *layers: nn.Module, join: Callable[[Sequence[Tensor]], Tensor]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.join = join

    def forward(self, x: Tensor) -> Tensor:
        return self.join([layer(x) for layer in self.layers])

    def streamed(self) -> LayerStream:
        """Build the form that carries on from chunk to chunk."""
        return JoinStream([layer_stream(layer) for layer in self.layers], self.join)


class JoinStream(LayerStream):
    """Several layers on the same input: outputs of the faster ones wait."""

    carried = ("waiting",)

    def __init__(self, layers: Sequence[LayerStream], join: Callable[[Sequence[Tensor]], Tensor]) -> None:
        self.layers = layers
        self.join = join
        self.waiting: list[Tensor] | None = None

    def inner(self) -> Sequence[LayerStream]:
        return self.layers

    def push(self, x: Tensor, last: bool) -> Tensor:
        outputs = [layer.push(x, last) for layer in self.layers]
        if self.waiting is not None:
            outputs = [torch.cat(pair, dim=-1) for pair in zip(self.waiting, outputs, strict=True)]
        num_ready = min(output.shape[-1] for output in outputs)
        self.waiting = [output[..., num_ready:].clone() for output in outputs]
        return self.join([output[..., :num_ready] for output in outputs])

    def input_span(self, first: int, last: int) -> tuple[int, int]:
        starts, ends = zip(*(layer.input_span(first, last) for layer in self.layers), strict=True)
        return min(starts), max(ends)


def concatenated(outputs: Sequence[Tensor]) -> Tensor:
    """Channels of all outputs, one after the other."""
    return torch.cat(list(outputs), dim=1)


def summed(outputs: Sequence[Tensor]) -> Tensor:
    """Sum of all outputs."""
    return torch.stack(list(outputs)).sum(dim=0)


def bounded(log_level: Tensor) -> Tensor:
    """Logarithm of a level, softly kept below `LOUDEST_LOG_LEVEL`."""
    return LOUDEST_LOG_LEVEL - F.softplus(LOUDEST_LOG_LEVEL - log_level)


def fixed_noise(start: int, num_hops: int, hop: int) -> Tensor:
    """Hops `start` to `start + num_hops` of an endless sequence of uniform noise of unit variance: (1, 2, samples).

    A counter-based generator makes it, so that any stretch can be had by itself.
    Source: Salmon et al. 2011 (Philox).
    """
    if hop % 2:
        raise ValueError(f"the hop must be even, got {hop}")
    bits = np.random.Philox(key=NOISE_KEY, counter=start * hop // 2).random_raw(num_hops * hop * 2)
    uniform = (bits >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)  # in [0, 1)
    noise = (uniform - np.float32(0.5)) * np.float32(math.sqrt(12))
    return torch.from_numpy(noise).view(1, num_hops * hop, 2).transpose(1, 2)


def register_window(layer: nn.Module, length: int) -> None:
    """Give a layer a Hann window of unit energy, which no checkpoint holds."""
    with torch.device("cpu"):
        window = torch.hann_window(length)
        layer.register_buffer("window", window / window.square().sum().sqrt(), persistent=False)


def _power(spectrum: Tensor) -> Tensor:
    return spectrum.real.square() + spectrum.imag.square()


def _level(power: Tensor) -> Tensor:
    """Log power, about -2 for silence and 4 for a full-scale tone."""
    return (power + QUIETEST_POWER).log() / 4 + 3
