"""The shipped model's autoencoder: the paper's layers, and explicit levels of frequency bands; not in the paper.

For models too small to learn logarithms and noise from waveforms: the encoder is also shown the levels of frequency
bands and of quarter tones in dB, and the decoder shapes bands of noise and tones beside its own waveforms, each with a
gain of its own in every audio channel. The first and the last convolution start as an orthonormal lapped transform, so
that no layer works at the full sample rate.

All layers are local in time; `models.streaming` streams them exactly. Tensors are (batch, channels, time).

Source: tones and noise: Serra & Smith 1990, Engel et al. 2020 (arXiv 2001.04643).
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import reduce
from typing import ClassVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.errors import UserError
from models.streaming import (
    ConvTransposeStream,
    LayerStream,
    PointwiseLayer,
    SumStream,
    WindowStream,
    layer_stream,
    pad,
)
from models.vae_waveform import (
    ResidualUnit,
    Snake,
    check_halving,
    check_strides,
    convolutions,
    down_sampling,
    initialise,
    up_sampling,
)

NOISE_KEY = 20_240_207
QUIETEST_POWER = 1e-9
"""Band power that the encoder cannot tell from silence, -90 dB."""
LONG_WINDOW = 8
"""Hops in the window that the encoder hears tones with."""
FAINT_NOISE, FAINT_TONE = 0.05, 0.001
"""Amplitudes of the decoder's noise bands and tones before training."""


@dataclass(frozen=True, kw_only=True)
class BandsConfig:
    """Sizes of the shipped model's encoder and decoder; the hop length is the stem's stride times either's strides."""

    has_weight_norm: ClassVar[bool] = True

    stem_stride: int = 256
    """Stride of the first and the last convolution, and number of the bands of the finer time grid."""
    encoder_width: int = 256
    """Channels after the encoder's first convolution; every level doubles them."""
    encoder_strides: tuple[int, ...] = (4,)
    """Down-sampling factor of each encoder level."""
    decoder_width: int = 768
    """Channels after the decoder's first convolution; every level halves them."""
    decoder_strides: tuple[int, ...] = (4,)
    """Up-sampling factor of each decoder level."""
    dilations: tuple[int, ...] = (1, 3)
    """Dilation of the residual units of a level."""

    def __post_init__(self) -> None:
        for name in ("encoder_strides", "decoder_strides", "dilations"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        check_strides(self.encoder_strides, self.decoder_strides)
        check_halving(self.decoder_width, len(self.decoder_strides))
        if self.stem_stride < 4 or self.stem_stride % 4:
            raise UserError(f"stem_stride must be a multiple of 4, got {self.stem_stride}")

    @property
    def hop_length(self) -> int:
        """Samples per latent frame."""
        return self.stem_stride * math.prod(self.encoder_strides)

    def build(
        self, *, audio_channels: int, latent_channels: int, sample_rate: int, initial_log_std: float
    ) -> tuple[nn.Module, nn.Module]:
        """Build encoder and decoder; see `models.vae.VAELayers`."""
        encoder = bands_encoder(self, audio_channels, latent_channels, sample_rate)
        decoder = bands_decoder(self, audio_channels, latent_channels, sample_rate)
        initialise(encoder, initial_log_std)
        initialise(decoder)
        _start_as_lapped_transform(self, encoder, decoder, audio_channels)
        return encoder, decoder


def bands_encoder(config: BandsConfig, audio_channels: int, latent_channels: int, sample_rate: int) -> nn.Sequential:
    """Audio to the posterior's parameters: (batch, audio_channels, samples) -> (batch, 2 latent_channels, frames)."""
    width, stem = config.encoder_width, config.stem_stride
    layers: list[nn.Module] = [down_sampling(audio_channels, width, stem)]
    for stride in config.encoder_strides:
        layers += [ResidualUnit(width, dilation) for dilation in config.dilations]
        layers += [Snake(width), down_sampling(width, 2 * width, stride)]
        width *= 2
    coarse = band_levels(audio_channels, stem, math.prod(config.encoder_strides), width)
    fine = band_levels(audio_channels, config.hop_length, 1, width)
    tones = tone_levels(audio_channels, config.hop_length, sample_rate, width)
    layers = [Sum(nn.Sequential(*layers), coarse, fine, tones)]
    layers += [Snake(width), nn.Conv1d(width, width, kernel_size=3, padding=1)]
    layers += [nn.Conv1d(width, 2 * latent_channels, kernel_size=1)]
    return nn.Sequential(*layers)


def bands_decoder(config: BandsConfig, audio_channels: int, latent_channels: int, sample_rate: int) -> nn.Sequential:
    """Latents to audio: (batch, latent_channels, frames) -> (batch, audio_channels, samples).

    There is no tanh: saturated, it has no gradient, and gains get there in one bad step.
    """
    width = config.decoder_width
    first, layers = nn.Conv1d(latent_channels, width, kernel_size=7, padding=3), []
    for stride in config.decoder_strides:
        layers += [Snake(width), up_sampling(width, width // 2, stride)]
        width //= 2
        layers += [ResidualUnit(width, dilation) for dilation in config.dilations]
    layers += [Snake(width)]
    waveforms = nn.Sequential(
        ChannelGains(width, audio_channels),
        up_sampling(audio_channels * width, audio_channels, config.stem_stride, groups=audio_channels),
    )
    coarse = shaped_noise(width, config.stem_stride, audio_channels)
    fine = shaped_noise(config.decoder_width, config.hop_length, audio_channels)
    branches = nn.Sequential(*layers, Sum(waveforms, coarse)), nn.Sequential(Snake(config.decoder_width), *fine)
    tones = tone_branch(latent_channels, config.decoder_width // 2, config.hop_length, audio_channels, sample_rate)
    return nn.Sequential(Sum(nn.Sequential(first, Sum(*branches)), tones))


def tones_of(decoder: nn.Module) -> nn.Sequential:
    """The part of `bands_decoder` that makes tones."""
    return cast(nn.Sequential, cast(Sum, cast(nn.Sequential, decoder)[0]).layers[1])


def tone_amplitudes(decoder: nn.Module, raw_latents: Tensor) -> Tensor:
    """What `bands_decoder` sets its tones to, (batch, audio_channels, tones, frames).

    The tones are `quarter_tones_hz`; 1 is the amplitude of a full-scale sine.
    """
    branch = tones_of(decoder)  # ends with the tones and their synthesis
    return cast(ShapedTones, branch[-2]).amplitudes(branch[:-2](raw_latents))


@torch.no_grad()
def _start_as_lapped_transform(
    config: BandsConfig, encoder: nn.Module, decoder: nn.Module, audio_channels: int
) -> None:
    for unit in decoder.modules():
        if isinstance(unit, ChannelGains | ShapedBands):
            unit.initialise()
    first = convolutions(encoder)[0]
    output = [c for c in convolutions(decoder) if isinstance(c, nn.ConvTranspose1d)][-1]
    basis = lapped_transform(config.stem_stride, audio_channels)
    for convolution in (first, output):
        weight = convolution.weight.unflatten(0, (convolution.groups, -1))  # (groups, rows, channels, kernel)
        rows = min(len(basis), weight.shape[1])
        weight[:, :rows] = basis[:rows].unflatten(1, (convolution.groups, -1)).transpose(0, 1)
    output.weight.mul_(0.1)


class Sum(nn.Module):
    """The sum of what several layers, all at one stride, make of the same input."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        return reduce(torch.add, (layer(x) for layer in self.layers))

    def streamed(self) -> LayerStream:
        """The form that carries on from chunk to chunk."""
        return SumStream([layer_stream(layer) for layer in self.layers])


class Views(PointwiseLayer):
    """Left, right, sum and difference of stereo audio (batch, 2, time); mono stays as it is."""

    def forward(self, audio: Tensor) -> Tensor:  # (batch, 4 or 1, time)
        if audio.shape[1] != 2:
            return audio
        left, right = audio[:, :1], audio[:, 1:]
        half = math.sqrt(0.5)
        return torch.cat((left, right, half * (left + right), half * (left - right)), dim=1)


class WindowPower(nn.Module, ABC):
    """Power of bands in overlapping windows: (batch, channels, T) -> (batch, channels * bands, T / stride).

    Args:
        length: of a window (samples).
        stride: from window to window.
    """

    window: Tensor

    def __init__(self, length: int, stride: int) -> None:
        super().__init__()
        self.length = length
        self.stride = stride
        with torch.device("cpu"):  # no weight: no checkpoint fills it
            window = sine_window(length)
            self.register_buffer("window", window * (2 / window.sum()), persistent=False)

    @property
    def padding(self) -> int:
        """Samples of silence before and after, which put an output in the middle of its hop."""
        return (self.length - self.stride) // 2

    def forward(self, audio: Tensor) -> Tensor:
        return self.of_windows(F.pad(audio, (self.padding, self.padding)))

    def of_windows(self, padded: Tensor) -> Tensor:
        """Power of every whole window, (batch, channels, samples) -> (batch, channels * bands, windows)."""
        return self.power(padded.unfold(-1, self.length, self.stride)).transpose(2, 3).flatten(1, 2)

    def streamed(self) -> LayerStream:
        """The form that carries on from chunk to chunk."""
        return WindowStream(self.of_windows, self.length, self.stride, self.padding)

    @abstractmethod
    def power(self, windows: Tensor) -> Tensor:
        """(batch, channels, windows, length) -> (batch, channels, windows, bands); 1 for a full-scale sine."""


class BandPower(WindowPower):
    """A Fourier transform of 2 * num_bands samples under a sine window, hop num_bands, without the constant."""

    def __init__(self, num_bands: int) -> None:
        super().__init__(2 * num_bands, num_bands)

    def power(self, windows: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(windows * self.window)[..., 1:]
        return torch.view_as_real(spectrum).square().sum(dim=-1)


class TonePower(WindowPower):
    """A Fourier transform at the quarter tones under a sine window of `LONG_WINDOW` strides."""

    waves: Tensor

    def __init__(self, stride: int, sample_rate: int) -> None:
        super().__init__(LONG_WINDOW * stride, stride)
        with torch.device("cpu"):  # no weight: no checkpoint fills it
            steps = torch.arange(self.length, dtype=torch.float64)
            phases = 2 * math.pi / sample_rate * quarter_tones_hz(sample_rate) * steps[:, None]  # (length, tones)
            waves = torch.stack((phases.cos(), phases.sin()), dim=-1).flatten(1) * self.window[:, None]
        self.register_buffer("waves", waves.float(), persistent=False)

    def power(self, windows: Tensor) -> Tensor:
        with torch.autocast(windows.device.type, enabled=False):
            waves = windows @ self.waves
        return waves.unflatten(-1, (-1, 2)).square().sum(dim=-1)


class Level(PointwiseLayer):
    """Power to level, 0 to 1 for 90 dB below full scale to full scale."""

    def forward(self, power: Tensor) -> Tensor:
        return 1 - (power + QUIETEST_POWER).log() / math.log(QUIETEST_POWER)


def band_levels(audio_channels: int, num_bands: int, factor: int, width: int) -> nn.Sequential:
    """Audio to features of its band levels: (batch, audio_channels, T) -> (batch, width, T / num_bands / factor).

    The power of `num_bands` bands, averaged over `factor` steps, in dB, mixed.
    """
    mixing = _mixing(audio_channels, num_bands, width)
    return nn.Sequential(Views(), BandPower(num_bands), nn.AvgPool1d(factor), Level(), mixing)


def tone_levels(audio_channels: int, stride: int, sample_rate: int, width: int) -> nn.Sequential:
    """Audio to features of its levels at quarter tones: (batch, audio_channels, T) -> (batch, width, T / stride)."""
    mixing = _mixing(audio_channels, len(quarter_tones_hz(sample_rate)), width)
    return nn.Sequential(Views(), TonePower(stride, sample_rate), Level(), mixing)


def _mixing(audio_channels: int, num_bands: int, width: int) -> nn.Conv1d:
    """Bands of all views to features."""
    return nn.Conv1d((4 if audio_channels == 2 else audio_channels) * num_bands, width, kernel_size=1)


def inverse_softplus(y: float) -> float:
    """Return x of softplus(x) = y > 0."""
    return math.log(math.expm1(y))


class ChannelGains(PointwiseLayer):
    """A copy of the features for each audio channel, with gains of its own, so that a side is a gain.

    (batch, channels, time) -> (batch, audio_channels * channels, time). Gains are the softplus of a 1x1 convolution.
    """

    def __init__(self, channels: int, audio_channels: int) -> None:
        super().__init__()
        self.audio_channels = audio_channels
        self.gains = nn.Conv1d(channels, audio_channels * channels, kernel_size=1)

    def initialise(self) -> None:
        """Start from gains around 1."""
        nn.init.constant_(cast(Tensor, self.gains.bias), inverse_softplus(1.0))

    def forward(self, x: Tensor) -> Tensor:
        return x.repeat(1, self.audio_channels, 1) * F.softplus(self.gains(x))


class ShapedBands(nn.Module, ABC):
    """Carriers of bands, with gains that features set for each audio channel.

    (batch, channels, time) -> (batch, audio_channels * carriers, time). All audio channels hear the same carriers.
    Gains are the softplus of a 1x1 convolution: linear in dB where it is quiet, and without the bound that would
    leave too loud a start without gradient. Outside of training the carriers are a fixed sequence in time, so that
    the same latents give the same audio however they are cut.

    Args:
        channels: of the features.
        num_bands: gains of each audio channel.
        faint: gain before training.
        pace: factor before the softplus, which makes the gains learn that much faster than other layers do.
    """

    def __init__(self, channels: int, num_bands: int, audio_channels: int, faint: float, pace: float) -> None:
        super().__init__()
        self.num_bands = num_bands
        self.audio_channels = audio_channels
        self.faint = faint
        self.pace = pace
        self.gains = nn.Conv1d(channels, audio_channels * num_bands, kernel_size=1)

    def initialise(self) -> None:
        """Start from faint sound in every band."""
        self.gains.weight.div_(self.pace)
        nn.init.constant_(cast(Tensor, self.gains.bias), inverse_softplus(self.faint) / self.pace)

    @abstractmethod
    def carriers(self, start: int, length: int) -> Tensor:
        """Steps `start` to `start + length` of the fixed sequence: (1, carriers of a band, num_bands, length)."""

    @abstractmethod
    def random_carriers(self, x: Tensor) -> Tensor:
        """Carriers for a training step on features `x`: (batch or 1, carriers of a band, num_bands, time)."""

    def forward(self, x: Tensor) -> Tensor:
        return self._shape(x, self.random_carriers(x)) if self.training else self.from_step(x, 0)

    def streamed(self) -> LayerStream:
        """The form that carries on from chunk to chunk."""
        return ShapedBandsStream(self)

    def from_step(self, x: Tensor, start: int) -> Tensor:
        """Shape the fixed sequence from step `start` on."""
        return self._shape(x, self.carriers(start, x.shape[-1]).to(x))

    def amplitudes(self, x: Tensor) -> Tensor:
        """Gains that features set, (batch, audio_channels, num_bands, time)."""
        return F.softplus(self.pace * self.gains(x)).unflatten(1, (self.audio_channels, self.num_bands))

    def _shape(self, x: Tensor, carriers: Tensor) -> Tensor:
        return (self.amplitudes(x)[:, :, None] * carriers[:, None]).flatten(1, 3)


class ShapedNoise(ShapedBands):
    """Bands of noise; in training the noise is new every time."""

    def __init__(self, channels: int, num_bands: int, audio_channels: int) -> None:
        super().__init__(channels, num_bands, audio_channels, FAINT_NOISE, pace=2)

    def carriers(self, start: int, length: int) -> Tensor:
        return fixed_noise(self.num_bands, start, length)[:, None]

    def random_carriers(self, x: Tensor) -> Tensor:
        return torch.randn_like(x[:, :1, None].expand(-1, -1, self.num_bands, -1))


class ShapedTones(ShapedBands):
    """Sines of fixed frequencies, whose phases go on for ever, each as a cosine and a sine; see `shaped_tones`.

    Args:
        cycles: of each tone per step, (tones,) float64.
    """

    def __init__(self, channels: int, cycles: Tensor, audio_channels: int) -> None:
        super().__init__(channels, len(cycles), audio_channels, FAINT_TONE, pace=1)
        self.cycles = cycles  # no buffer, which `half()` would round

    def carriers(self, start: int, length: int) -> Tensor:
        steps = torch.arange(start, start + length, dtype=torch.float64)
        spread = 0.618 * torch.arange(self.num_bands, dtype=torch.float64).square()  # or they peak together, or chirp
        phases = 2 * math.pi * ((self.cycles[:, None] * steps + spread[:, None]) % 1)  # (tones, length)
        return torch.stack((phases.cos(), phases.sin()))[None]

    def random_carriers(self, x: Tensor) -> Tensor:
        return self.carriers(int(torch.randint(1 << 20, ())), x.shape[-1]).to(x)


class LappedSynthesis(nn.Module):
    """Audio of overlapping pieces: (batch, audio_channels * shapes, T) -> (batch, audio_channels, samples).

    A transposed convolution with fixed weights, which `models.streaming` streams as one.

    Args:
        shapes: of length 2 * stride, (audio_channels * shapes, 2 * stride); each audio channel has its own.
    """

    weight: Tensor

    def __init__(self, shapes: Tensor, audio_channels: int) -> None:
        super().__init__()
        stride = shapes.shape[-1] // 2
        self.register_buffer("weight", shapes[:, None].contiguous(), persistent=False)
        self.stride, self.groups = stride, audio_channels

    def forward(self, bands: Tensor) -> Tensor:
        return F.conv_transpose1d(bands, self.weight, None, self.stride, self.stride // 2, groups=self.groups)

    def streamed(self) -> LayerStream:
        """The form that carries on from chunk to chunk."""
        return ConvTransposeStream(self.weight, None, self.stride, self.stride // 2, groups=self.groups)


def shaped_noise(width: int, stride: int, audio_channels: int) -> nn.Sequential:
    """Noise shaped by features, in `stride` bands: (batch, width, T) -> (batch, audio_channels, T * stride).

    Every audio channel has all `audio_channels * stride` rows of `lapped_transform` for itself.
    """
    with torch.device("cpu"):  # no weight: no checkpoint fills it
        basis = lapped_transform(stride, audio_channels)  # (rows, audio channels, kernel)
    synthesis = LappedSynthesis(basis.transpose(0, 1).flatten(0, 1), audio_channels)
    return nn.Sequential(ShapedNoise(width, audio_channels * stride, audio_channels), synthesis)


def shaped_tones(width: int, stride: int, audio_channels: int, sample_rate: int) -> nn.Sequential:
    """Tones shaped by features: (batch, width, T) -> (batch, audio_channels, T * stride).

    Every tone is cut into pieces of 2 * stride samples under a Hann window, hop stride, whose phases fit together.
    """
    with torch.device("cpu"):
        cycles = quarter_tones_hz(sample_rate) / sample_rate  # per sample
        phases = 2 * math.pi * cycles[:, None] * torch.arange(2 * stride, dtype=torch.float64)  # (tones, kernel)
        shapes = torch.cat((phases.cos(), -phases.sin())) * sine_window(2 * stride).double().square()
    synthesis = LappedSynthesis(shapes.float().repeat(audio_channels, 1), audio_channels)
    return nn.Sequential(ShapedTones(width, cycles * stride, audio_channels), synthesis)


def tone_branch(latent_channels: int, width: int, stride: int, audio_channels: int, sample_rate: int) -> nn.Sequential:
    """Latents to tones by a network of their own: (batch, latent_channels, T) -> (batch, audio_channels, T * stride).

    Three layers, because which few of the tones are on is no linear matter.
    """
    hidden = (
        *(nn.Conv1d(latent_channels, width, kernel_size=3, padding=1), Snake(width)),
        *(nn.Conv1d(width, width, kernel_size=1), Snake(width)),
    )
    return nn.Sequential(*hidden, *shaped_tones(width, stride, audio_channels, sample_rate))


def quarter_tones_hz(sample_rate: int) -> Tensor:
    """Quarter tones of A4 = 440 Hz from C1 (33 Hz) to C8 (4.2 kHz), below 0.45 sample rates: (tones,) float64."""
    midi = torch.arange(24, 108.5, 0.5, dtype=torch.float64, device="cpu")
    hz = 440 * 2 ** ((midi - 69) / 12)
    return hz[hz < 0.45 * sample_rate]


def fixed_noise(num_bands: int, start: int, length: int) -> Tensor:
    """Steps `start` to `start + length` of an endless sequence of uniform noise of unit variance: (1, bands, length).

    A counter-based generator makes them, so that any stretch can be had by itself.
    """
    if num_bands % 4:
        raise ValueError(f"the number of noise bands must be a multiple of 4, got {num_bands}")
    bits = np.random.Philox(key=NOISE_KEY, counter=start * num_bands // 4).random_raw(length * num_bands)
    uniform = (bits >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)  # in [0, 1)
    noise = (uniform - np.float32(0.5)) * np.float32(math.sqrt(12))
    return torch.from_numpy(noise).view(1, length, num_bands).transpose(1, 2)


def sine_window(length: int) -> Tensor:
    """Window whose squares, moved by half of its length, add up to 1: (length,)."""
    return torch.sin(math.pi / length * (torch.arange(length) + 0.5))


def lapped_transform(stride: int, channels: int) -> Tensor:
    """Orthonormal basis of the modified discrete cosine transform: (channels * stride, channels, 2 * stride).

    Rows go from low to high frequency; for stereo each frequency has a row for the sum and one for the difference.
    Source: Princen & Bradley 1986, with a sine window.
    """
    n, k = torch.arange(2 * stride) + 0.5, torch.arange(stride)[:, None] + 0.5
    cosines = math.sqrt(2 / stride) * sine_window(2 * stride) * torch.cos(math.pi / stride * (n + stride / 2) * k)
    mixing = torch.tensor([[1.0, 1.0], [1.0, -1.0]]) / math.sqrt(2) if channels == 2 else torch.eye(channels)
    return torch.einsum("kn,rc->krcn", cosines, mixing).reshape(stride * channels, channels, 2 * stride)


class ShapedBandsStream(LayerStream):
    """Bands of noise or tones, which go on where they stopped."""

    carried = ("position",)

    def __init__(self, layer: "ShapedBands") -> None:
        self.layer = layer
        self.position = 0

    def push(self, x: Tensor, last: bool) -> Tensor:  # noqa: ARG002
        if x.shape[-1] == 0:  # there is no convolution of nothing
            return self.layer.from_step(pad(x, 1), self.position)[..., :0]
        shaped = self.layer.from_step(x, self.position)
        self.position += x.shape[-1]
        return shaped

    def input_span(self, first: int, last: int) -> tuple[int, int]:
        return first, last
