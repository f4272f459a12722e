"""An autoencoder in the domain of the short-time Fourier transform, which small budgets can train.

The encoder sees log spectra through ConvNeXt blocks, the decoder sets levels, coherence and width of every bin, which
are mixed with noise and transformed back. Tones have a path and latent channels of their own: measured peaks -> code ->
sines whose phase goes on (`models.tones`); the decoder of the bins sees the tones' code too, the encoder of the tones
sees the peaks alone. Rates: the hop of the transform 86 Hz, latents 43 Hz. Every layer is local in time.

Source: Siuzdak 2023 (Vocos, arXiv 2306.00814); Liu et al. 2022 (ConvNeXt, arXiv 2201.03545).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.errors import UserError
from models.spectral_transform import (
    SHAPES_PER_BIN,
    Join,
    LogSpectrum,
    NoiseSynthesis,
    ShortLevels,
    concatenated,
    summed,
)
from models.streaming import ChainStream, LayerStream, PointwiseLayer, ResidualStream, WindowStream, layer_stream
from models.tones import NUM_TONES, ToneBank, ToneFeatures, TonePeaks

TAPS = 7
HALF_WEIGHT_HZ = 700.0
"""Frequency above which principal components weigh levels less."""


@dataclass(frozen=True, kw_only=True)
class SpectralConfig:
    """Sizes of the encoder and decoder in the STFT domain."""

    has_weight_norm: ClassVar[bool] = False

    hop: int = 512
    """Samples from frame to frame of the transform."""
    window: int = 2048
    """Samples in a window of the transform."""
    short_steps: int = 4
    """Steps of a hop at which the encoder sees the levels of short windows."""
    short_bands: int = 32
    """Bands of the short windows."""
    width: int = 384
    """Features at the transform's rate."""
    latent_width: int = 512
    """Features at the latents' rate."""
    expansion: int = 3
    """Hidden features of a block relative to its features."""
    encoder_blocks: tuple[int, int] = (2, 2)
    """Blocks of the encoder at the transform's rate, then at the latents'."""
    decoder_blocks: tuple[int, int] = (2, 2)
    """Blocks of the decoder at the latents' rate, then at the transform's."""
    frames_per_latent: int = 2
    """Frames of the transform in a latent frame."""
    components: int = 32
    """Principal components of log spectra that the training starts from."""
    tone_channels: int = 32
    """Channels of the latents that are the tones' code."""
    tone_width: int = 256
    """Features of the tones' networks."""

    def __post_init__(self) -> None:
        for name in ("encoder_blocks", "decoder_blocks"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.window % self.hop or self.hop % (2 * self.short_steps):
            raise UserError(
                "window must be a multiple of hop, and hop of 2 * short_steps, got "
                f"{self.window}, {self.hop} and {self.short_steps}"
            )
        if (self.hop // self.short_steps) % self.short_bands:
            raise UserError(
                f"short_bands must divide hop / short_steps = {self.hop // self.short_steps}, got {self.short_bands}"
            )
        if self.components > self.width:
            raise UserError(f"components must be at most width, got {self.components} > {self.width}")

    @property
    def hop_length(self) -> int:
        """Samples per latent frame."""
        return self.hop * self.frames_per_latent

    def build(
        self, *, audio_channels: int, latent_channels: int, sample_rate: int, initial_log_std: float
    ) -> tuple[nn.Module, nn.Module]:
        """Build encoder and decoder; see `models.vae.VAELayers`."""
        if audio_channels != 2:
            raise UserError(f"the spectral autoencoder is for stereo, got audio_channels {audio_channels}")
        if latent_channels - self.tone_channels < self.components:
            raise UserError(
                "latent_channels must hold tone_channels and components, got "
                f"{latent_channels} < {self.tone_channels} + {self.components}"
            )
        encoder = SpectralEncoder(self, latent_channels - self.tone_channels, sample_rate)
        decoder = SpectralDecoder(self, latent_channels, sample_rate)
        for network in (encoder, decoder):
            initialise(network)
        encoder.set_log_std(initial_log_std)
        decoder.make_quiet()
        return encoder, decoder


class FeedForward(PointwiseLayer):
    """Norm, two linear layers with a GELU between them, and a gain for every channel."""

    def __init__(self, width: int, expansion: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, expansion * width)
        self.contract = nn.Linear(expansion * width, width)
        self.gain = nn.Parameter(torch.full((width,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.gelu(self.expand(self.norm(x.transpose(1, 2))), approximate="tanh")
        return (self.contract(hidden).float() * self.gain).transpose(1, 2)


class DepthwiseConv(nn.Module):
    """A filter of `TAPS` steps for every channel, zero-padded; several times faster here than a grouped convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.taps = nn.Parameter(torch.randn(TAPS, width, 1) * TAPS**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self._filtered(F.pad(x, (TAPS // 2, TAPS // 2)))

    def _filtered(self, padded: Tensor) -> Tensor:
        num_steps = padded.shape[-1] - TAPS + 1
        y = padded[..., :num_steps] * self.taps[0]
        for i in range(1, TAPS):
            y = torch.addcmul(y, padded[..., i : i + num_steps], self.taps[i])
        return y

    def streamed(self) -> LayerStream:
        """Build the form that carries on from chunk to chunk."""
        return WindowStream(self._filtered, TAPS, 1, TAPS // 2)


class Block(nn.Module):
    """ConvNeXt block: depthwise convolution in time and a feed-forward layer, added to the input."""

    def __init__(self, width: int, expansion: int) -> None:
        super().__init__()
        self.filter = DepthwiseConv(width)
        self.feed_forward = FeedForward(width, expansion)

    def forward(self, x: Tensor) -> Tensor:  # (batch, width, time) -> same
        return x + self.feed_forward(self.filter(x))

    def streamed(self) -> LayerStream:
        """Build the form that carries on from chunk to chunk."""
        return ResidualStream(ChainStream([layer_stream(self.filter), layer_stream(self.feed_forward)]))


class Interleave(nn.Module):
    """(batch, factor * channels, time) -> (batch, channels, time * factor)."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (self.factor, -1)).permute(0, 2, 3, 1).flatten(2)

    def streamed(self) -> LayerStream:
        """Build the form that carries on from chunk to chunk."""
        return InterleaveStream(self)


class InterleaveStream(LayerStream):
    """An interleaving layer, which needs no state."""

    def __init__(self, layer: Interleave) -> None:
        self.layer = layer

    def push(self, x: Tensor, last: bool) -> Tensor:  # noqa: ARG002
        return self.layer(x)

    def input_span(self, first: int, last: int) -> tuple[int, int]:
        return first // self.layer.factor, last // self.layer.factor


def blocks(width: int, expansion: int, count: int) -> Iterator[Block]:
    """Several ConvNeXt blocks."""
    return (Block(width, expansion) for _ in range(count))


class SpectralEncoder(nn.Module):
    """Audio (batch, 2, samples) to the posterior's parameters (batch, 2 * latent_channels, frames)."""

    def __init__(self, config: SpectralConfig, noise_channels: int, sample_rate: int) -> None:
        super().__init__()
        c = config
        self.spectrum = LogSpectrum(c.window, c.hop)
        self.features = Join(self.spectrum, ShortLevels(c.hop, c.short_steps, c.short_bands), join=concatenated)
        num_features = self.spectrum.num_features + 2 * c.short_steps * c.short_bands
        self.components = nn.Conv1d(num_features, c.components, 1)
        self.project = nn.Conv1d(num_features, c.width - c.components, 1)
        self.trunk = nn.Sequential(
            *blocks(c.width, c.expansion, c.encoder_blocks[0]),
            nn.Conv1d(c.width, c.latent_width, c.frames_per_latent, c.frames_per_latent),
            *blocks(c.latent_width, c.expansion, c.encoder_blocks[1]),
            nn.Conv1d(c.latent_width, 2 * noise_channels, 1),
        )
        self.peaks = TonePeaks(c.hop_length, sample_rate)
        self.tone_code = nn.Sequential(
            ToneFeatures(),
            nn.Conv1d(3 * NUM_TONES, c.tone_width, 1),
            GELU(),
            nn.Conv1d(c.tone_width, c.tone_width, 1),
            GELU(),
            nn.Conv1d(c.tone_width, 2 * c.tone_channels, 1),
        )
        self.components.requires_grad_(False)

    def forward(self, audio: Tensor) -> Tensor:
        return self.of_tones(audio, self.peaks(audio))

    def of_tones(self, audio: Tensor, tones: Tensor) -> Tensor:
        """Parameters from audio and its measured tones, of a training that needs the tones for itself too."""
        features = self.features(audio)
        features = torch.cat((self.components(features), self.project(features)), dim=1).float()
        return posterior_parameters((self.trunk(features), self.tone_code(tones)))

    def streamed(self) -> LayerStream:
        """Build the form that carries on from chunk to chunk."""
        first = Join(self.components, self.project, join=concatenated)
        noise, tones = nn.Sequential(self.features, first, self.trunk), nn.Sequential(self.peaks, self.tone_code)
        return layer_stream(Join(noise, tones, join=posterior_parameters))

    @torch.no_grad()
    def set_log_std(self, value: float) -> None:
        """Set the biases of the posterior's scales."""
        for layers in (self.trunk, self.tone_code):
            bias = cast(Tensor, cast(nn.Conv1d, layers[-1]).bias)
            bias[len(bias) // 2 :].fill_(value)


class SpectralDecoder(nn.Module):
    """Latents (batch, latent_channels, frames) to audio (batch, 2, frames * hop_length)."""

    def __init__(self, config: SpectralConfig, latent_channels: int, sample_rate: int) -> None:
        super().__init__()
        c = config
        self.synthesis = NoiseSynthesis(c.window, c.hop)
        self.trunk = nn.Sequential(
            nn.Conv1d(latent_channels, c.latent_width, 3, padding=1),
            *blocks(c.latent_width, c.expansion, c.decoder_blocks[0]),
            nn.Conv1d(c.latent_width, c.frames_per_latent * c.width, 1),
            Interleave(c.frames_per_latent),
            *blocks(c.width, c.expansion, c.decoder_blocks[1]),
            nn.Conv1d(c.width, SHAPES_PER_BIN * self.synthesis.num_bins, 1),
        )
        self.tone_net = nn.Sequential(
            nn.Conv1d(latent_channels, c.tone_width, 3, padding=1),
            GELU(),
            nn.Conv1d(c.tone_width, c.tone_width, 1),
            GELU(),
        )
        self.bank = ToneBank(c.tone_width, c.hop_length, sample_rate)
        self.num_tone_channels = c.tone_channels

    def forward(self, latents: Tensor) -> Tensor:
        return self.bins(latents) + self.bank(self.tone_net(latents))

    def bins(self, latents: Tensor) -> Tensor:
        """Audio without the tones."""
        return self.synthesis(self.trunk(latents))

    def tones(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Amplitudes (batch, 2, NUM_TONES, frames) and cents (batch, NUM_TONES, frames) of the tones."""
        return self.bank.tones(self.tone_net(latents))

    def streamed(self) -> LayerStream:
        """Build the form that carries on from chunk to chunk."""
        bins, tones = nn.Sequential(self.trunk, self.synthesis), nn.Sequential(self.tone_net, self.bank)
        return layer_stream(Join(bins, tones, join=summed))

    @torch.no_grad()
    def make_quiet(self) -> None:
        """Begin near silence, and with tones that depend on their code alone."""
        head = cast(nn.Conv1d, self.trunk[-1])
        head.weight.mul_(0.3)
        cast(Tensor, head.bias)[: 2 * self.synthesis.num_bins].fill_(-5.0)
        self.bank.initialise()
        cast(nn.Conv1d, self.tone_net[0]).weight[:, : -self.num_tone_channels].zero_()


class GELU(PointwiseLayer):
    """The Gaussian error linear unit, by its tanh formula."""

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x, approximate="tanh")


def posterior_parameters(parts: Sequence[Tensor]) -> Tensor:
    """Means of all parts, then scales of all parts; each part (batch, 2 * channels, frames) has its means first."""
    halves = [part.float().chunk(2, dim=1) for part in parts]
    return torch.cat([mean for mean, _ in halves] + [scale for _, scale in halves], dim=1)


@torch.no_grad()
def initialise(network: nn.Module) -> None:
    """Fan-in normal weights, no biases."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv1d | nn.Linear):
            nn.init.normal_(layer.weight, std=layer.weight[0].numel() ** -0.5)
            nn.init.zeros_(cast(Any, layer.bias))


@torch.no_grad()
def start_from_components(encoder: SpectralEncoder, decoder: SpectralDecoder, audio: Tensor) -> None:
    """Write the principal components of log spectra into the networks, which makes them a linear autoencoder of levels.

    The encoder's first layer of components is not trained after that.

    Args:
        audio: crops of the training set, (crops, 2, samples); about a hundred crops of a second.
    """
    count = len(encoder.components.weight)
    num_bins, num_levels = decoder.synthesis.num_bins, encoder.spectrum.num_features
    levels = torch.cat([encoder.spectrum(crops) for crops in audio.split(8)]).transpose(1, 2)
    levels = levels[:, : levels.shape[1] // 2 * 2].unflatten(1, (-1, 2)).mean(dim=2).flatten(0, 1)  # (rows, levels)
    mean = levels.mean(dim=0)
    hz = torch.linspace(0, encoder.peaks.sample_rate / 2, num_bins)
    weight = (HALF_WEIGHT_HZ / (HALF_WEIGHT_HZ + hz)).sqrt().repeat(num_levels // num_bins)
    weighted = (levels - mean) * weight
    vectors = torch.svd_lowrank(weighted, q=count + 8, niter=4)[2][:, :count]
    spread = (weighted @ vectors).std(dim=0)
    rows = (vectors / spread).T * weight  # (count, levels)
    encoder.components.weight.zero_()
    encoder.components.weight[:, :num_levels, 0] = rows
    cast(Tensor, encoder.components.bias).copy_(-rows @ mean)
    back = (vectors * spread).T / weight  # (count, levels)
    head = cast(nn.Conv1d, decoder.trunk[-1])
    head.weight[:, count:].mul_(0.3)
    head.weight[: 2 * num_bins, :count, 0] = 2 * back[:, : 2 * num_bins].T
    cast(Tensor, head.bias)[: 2 * num_bins] = 2 * (mean[: 2 * num_bins] - 3)
    _pass_on(encoder, decoder, count)


def _pass_on(encoder: SpectralEncoder, decoder: SpectralDecoder, count: int) -> None:
    """Let the first `count` features of every layer between the components and the head pass unchanged."""
    down = next(layer for layer in encoder.trunk if isinstance(layer, nn.Conv1d))
    out = cast(nn.Conv1d, encoder.trunk[-1])
    into, up = [layer for layer in decoder.trunk if isinstance(layer, nn.Conv1d)][:2]
    noise_channels = len(out.weight) // 2
    diagonal = torch.arange(count)
    for layer in (down, out, into):
        layer.weight[:count].zero_()
    down.weight[diagonal, diagonal] = 1 / down.kernel_size[0]
    out.weight[diagonal, diagonal] = 1
    out.weight[noise_channels:].mul_(0.1)
    into.weight[diagonal, diagonal, 1] = 1  # the middle of three taps
    rows = up.weight.unflatten(0, (-1, cast(nn.Conv1d, decoder.trunk[-1]).in_channels))
    rows[:, :count].zero_()
    rows[:, diagonal, diagonal] = 1
