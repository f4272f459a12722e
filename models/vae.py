"""The variational autoencoder: stereo 44.1 kHz audio <-> latents 1,024 times shorter.

Encoder and decoder of the Descript Audio Codec without its quantiser, as in Stable Audio: Snake activations, three
dilated residual units a level, strided convolutions between levels. Every operation is local in time, so both
directions can be streamed exactly (`models.streaming`).

    audio    (batch, audio_channels, samples)
    latents  (batch, latent_channels, frames), samples = frames * hop_length

Latents that leave `encode` and `posterior` are normalised with the mean and standard deviation per channel that were
measured on the training set after training; `decode` takes normalised latents.

Source: Evans et al. 2024 (arXiv 2402.04825), section 3.1; Kumar et al. 2023 (arXiv 2306.06546).
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.parametrize import is_parametrized

from models.checkpoint import load_part, load_weights, save_part
from models.errors import UserError
from models.meta import without_weights
from models.snake import Snake
from models.vae_layers import (
    ChannelGains,
    ResidualUnit,
    ShapedBands,
    ShapedTones,
    Sum,
    band_levels,
    down_sampling,
    lapped_transform,
    shaped_noise,
    tone_branch,
    tone_levels,
    up_sampling,
)

MIN_STD = 1e-4


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    sample_rate: int = 44_100
    """Samples per second of the audio the model is trained on."""
    audio_channels: int = 2
    """Channels of the audio, 2 for stereo."""
    latent_channels: int = 64
    """Channels of the latents."""
    hop_length: int = 1024
    """Samples per latent frame; must be the stem's stride times the product of the strides."""
    stem_stride: int = 1
    """Stride of the first and the last convolution. 1 is the paper's. An even one above 1 leaves no layer at the full
    sample rate: both convolutions start as an orthonormal lapped transform, which makes small models train faster."""
    encoder_width: int = 128
    """Channels after the encoder's first convolution; every level doubles them."""
    encoder_strides: tuple[int, ...] = (4, 4, 8, 8)
    """Down-sampling factor of each encoder level."""
    decoder_width: int = 1536
    """Channels after the decoder's first convolution; every level halves them."""
    decoder_strides: tuple[int, ...] = (8, 8, 4, 4)
    """Up-sampling factor of each decoder level."""
    dilations: tuple[int, ...] = (1, 3, 9)
    """Dilation of the residual units of a level."""
    band_levels: bool = False
    """Whether the levels of frequency bands (`stem_stride` and `hop_length` of them) are explicit: shown to the encoder
    in dB, and set by the decoder on bands of noise. The paper has the networks learn them."""
    initial_log_std: float = -3.0
    """Bias of the posterior's scale before softplus, at the start of training."""

    def __post_init__(self) -> None:
        for name in ("encoder_strides", "decoder_strides", "dilations"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in ("encoder_strides", "decoder_strides"):
            strides = getattr(self, name)
            product = self.stem_stride * math.prod(strides)
            if product != self.hop_length or min(strides, default=0) < 2:
                raise UserError(
                    f"{name} must be at least 2 each and multiply to the hop length {self.hop_length}, "
                    f"got {strides}, stem {self.stem_stride} = {product}"
                )
        if self.stem_stride != 1 and self.stem_stride % 2:
            raise UserError(f"stem_stride must be 1 or even, got {self.stem_stride}")
        if self.band_levels and self.stem_stride % 4:
            raise UserError(f"with band_levels stem_stride must be a multiple of 4, got {self.stem_stride}")
        if self.decoder_width % 2 ** len(self.decoder_strides):
            raise UserError(
                f"decoder_width must halve {len(self.decoder_strides)} times without remainder, "
                f"got {self.decoder_width}"
            )


def encoder_layers(config: VAEConfig) -> nn.Sequential:
    """Audio to the posterior's parameters: (batch, audio_channels, samples) -> (batch, 2 latent_channels, frames)."""
    width, stem = config.encoder_width, config.stem_stride
    if stem == 1:
        layers: list[nn.Module] = [nn.Conv1d(config.audio_channels, width, kernel_size=7, padding=3)]
    else:
        layers = [down_sampling(config.audio_channels, width, stem)]
    for stride in config.encoder_strides:
        layers += [ResidualUnit(width, dilation) for dilation in config.dilations]
        layers += [Snake(width), down_sampling(width, 2 * width, stride)]
        width *= 2
    if config.band_levels:
        coarse = band_levels(config.audio_channels, stem, math.prod(config.encoder_strides), width)
        fine = band_levels(config.audio_channels, config.hop_length, 1, width)
        tones = tone_levels(config.audio_channels, config.hop_length, config.sample_rate, width)
        layers = [Sum(nn.Sequential(*layers), coarse, fine, tones)]
    layers += [Snake(width), nn.Conv1d(width, width, kernel_size=3, padding=1)]
    layers += [nn.Conv1d(width, 2 * config.latent_channels, kernel_size=1)]
    return nn.Sequential(*layers)


def decoder_layers(config: VAEConfig) -> nn.Sequential:
    """Latents to audio: (batch, latent_channels, frames) -> (batch, audio_channels, samples)."""
    width, audio_channels = config.decoder_width, config.audio_channels
    layers: list[nn.Module] = [nn.Conv1d(config.latent_channels, width, kernel_size=7, padding=3)]
    for stride in config.decoder_strides:
        layers += [Snake(width), up_sampling(width, width // 2, stride)]
        width //= 2
        layers += [ResidualUnit(width, dilation) for dilation in config.dilations]
    layers += [Snake(width)]
    if config.band_levels:  # without a tanh: saturated, it has no gradient, and gains get there in one bad step
        waveforms = nn.Sequential(
            ChannelGains(width, audio_channels),
            up_sampling(audio_channels * width, audio_channels, config.stem_stride, groups=audio_channels),
        )
        coarse = shaped_noise(width, config.stem_stride, audio_channels)
        fine = shaped_noise(config.decoder_width, config.hop_length, audio_channels)
        first, *trunk = layers
        branches = nn.Sequential(*trunk, Sum(waveforms, coarse)), nn.Sequential(Snake(config.decoder_width), *fine)
        sizes = config.latent_channels, config.decoder_width // 2, config.hop_length, audio_channels
        return nn.Sequential(Sum(nn.Sequential(first, Sum(*branches)), tone_branch(*sizes, config.sample_rate)))
    if config.stem_stride == 1:
        layers += [nn.Conv1d(width, audio_channels, kernel_size=7, padding=3)]
    else:
        layers += [up_sampling(width, audio_channels, config.stem_stride)]
    return nn.Sequential(*layers, nn.Tanh())


@dataclass(frozen=True)
class Posterior:
    """Diagonal Gaussian over latents: mean and std, each (batch, latent_channels, frames)."""

    mean: Tensor
    std: Tensor

    def sample(self, generator: torch.Generator | Sequence[torch.Generator] | None = None) -> Tensor:
        """Draw latents; the noise comes from one generator, from one for each sample, or from the global one."""
        shape, dtype, device = self.mean.shape, self.mean.dtype, self.mean.device
        if generator is None:
            noise = torch.randn_like(self.mean)
        elif isinstance(generator, torch.Generator):
            noise = torch.randn(shape, generator=generator, device=generator.device, dtype=dtype)
        else:
            noise = torch.stack([torch.randn(shape[1:], generator=g, device=g.device, dtype=dtype) for g in generator])
        return self.mean + self.std * noise.to(device)

    def kl(self) -> Tensor:
        """Divergence from N(0, 1): summed over channels, mean over batch and time, without the factor 1/2."""
        variance = self.std.square()
        return (self.mean.square() + variance - variance.log() - 1).sum(dim=1).mean()


def _convolutions(network: nn.Module) -> list[nn.Conv1d | nn.ConvTranspose1d]:
    return [module for module in network.modules() if isinstance(module, nn.Conv1d | nn.ConvTranspose1d)]


class VAE(nn.Module):
    """Fully-convolutional autoencoder; see the module's header for tensors."""

    latent_mean: Tensor
    latent_std: Tensor

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder_layers(config)
        self.decoder = decoder_layers(config)
        self.register_buffer("latent_mean", torch.zeros(config.latent_channels, 1))
        self.register_buffer("latent_std", torch.ones(config.latent_channels, 1))
        self._initialise()

    @property
    def hop_length(self) -> int:
        """Samples per latent frame."""
        return self.config.hop_length

    def num_frames(self, num_samples: int) -> int:
        """Latent frames that hold `num_samples` samples; the last frame may be partly padding."""
        return -(-num_samples // self.hop_length)

    def from_stereo(self, audio: Tensor) -> Tensor:
        """Stereo audio (..., 2, samples) as the model takes it: folded to one channel for a mono model."""
        return audio.mean(dim=-2, keepdim=True) if self.config.audio_channels == 1 else audio

    def raw_posterior(self, audio: Tensor) -> Posterior:
        """Encode without normalisation, as the training losses need it: (batch, channels, samples) -> Posterior.

        Audio whose length is no multiple of the hop is padded with silence at its end.
        """
        if audio.ndim != 3 or audio.shape[1] != self.config.audio_channels:
            raise ValueError(
                f"audio must be (batch, {self.config.audio_channels}, samples), got shape {tuple(audio.shape)}"
            )
        audio = F.pad(audio, (0, -audio.shape[-1] % self.hop_length))
        return self.raw_posterior_of(self.encoder(audio))

    def raw_posterior_of(self, encoded: Tensor) -> Posterior:
        """Posterior that the encoder's output (batch, 2 latent_channels, frames) stands for, not normalised."""
        mean, scale = encoded.chunk(2, dim=1)  # (batch, latent_channels, frames) each
        return Posterior(mean, F.softplus(scale) + MIN_STD)

    def posterior(self, audio: Tensor) -> Posterior:
        """Posterior over normalised latents: (batch, channels, samples) -> Posterior."""
        return self.normalise(self.raw_posterior(audio))

    def normalise(self, raw: Posterior) -> Posterior:
        """Posterior over normalised latents from one over raw latents."""
        return Posterior((raw.mean - self.latent_mean) / self.latent_std, raw.std / self.latent_std)

    def encode(self, audio: Tensor, sample: bool = False, generator: torch.Generator | None = None) -> Tensor:
        """Encode to normalised latents: (batch, channels, samples) -> (batch, latent_channels, frames).

        Args:
            sample: draw from the posterior instead of taking its mean.
            generator: source of the posterior's noise.
        """
        posterior = self.posterior(audio)
        return posterior.sample(generator) if sample else posterior.mean

    def denormalise(self, latents: Tensor) -> Tensor:
        """Normalised latents to what the decoder's layers take: (batch, latent_channels, frames) -> same."""
        return latents * self.latent_std + self.latent_mean

    def decode(self, latents: Tensor) -> Tensor:
        """Decode normalised latents: (batch, latent_channels, frames) -> (batch, channels, frames * hop_length)."""
        return self.decoder(self.denormalise(latents))

    @property
    def tone_branch(self) -> nn.Sequential:
        """The part of the decoder that makes tones, of a model with `band_levels`."""
        return cast(nn.Sequential, cast(Sum, self.decoder[0]).layers[1])  # see decoder_layers

    def tone_amplitudes(self, raw_latents: Tensor) -> Tensor:
        """What the decoder sets its tones to, (batch, audio_channels, tones, frames), of a model with `band_levels`.

        The tones are `models.vae_layers.quarter_tones_hz`; 1 is the amplitude of a full-scale sine.
        """
        branch = self.tone_branch  # ends with the tones and their synthesis
        return cast(ShapedTones, branch[-2]).amplitudes(branch[:-2](raw_latents))

    def forward(self, audio: Tensor) -> tuple[Tensor, Posterior]:
        """Reconstruct from a posterior sample, as in training: audio -> (reconstruction, raw posterior)."""
        posterior = self.raw_posterior(audio)
        return self.decoder(posterior.sample())[..., : audio.shape[-1]], posterior

    def set_latent_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Store mean and std per channel of the raw latents over the training set, each (latent_channels,)."""
        if not (torch.isfinite(mean).all() and torch.isfinite(std).all() and (std > 0).all()):
            raise UserError("latent statistics must be finite and the std positive; has the VAE been trained?")
        self.latent_mean.copy_(mean.view_as(self.latent_mean))
        self.latent_std.copy_(std.view_as(self.latent_std))

    def add_weight_norm(self) -> "VAE":
        """Re-parametrise every convolution but the posterior's projection, for training. Idempotent."""
        for convolution in self._normed_convolutions():
            if not is_parametrized(convolution):
                weight_norm(convolution)
        return self

    @torch.no_grad()
    def folded(self) -> "VAE":
        """Return a copy for inference, weight-norm folded into plain weights."""
        plain = VAE(self.config).to(self.latent_mean.device)
        state = {key: value for key, value in self.state_dict().items() if ".parametrizations." not in key}
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
                state[f"{name}.weight"] = module.weight
        plain.load_state_dict(state)
        return plain.eval().requires_grad_(False)

    def save(self, folder: str | Path, dtype: torch.dtype = torch.float16) -> None:
        """Write part "vae" of a checkpoint folder. Weight-norm must have been folded."""
        if any(is_parametrized(convolution) for convolution in self._normed_convolutions()):
            raise ValueError("fold the weight-norm before saving: save folded()")
        save_part(folder, "vae", asdict(self.config), self, dtype)

    @classmethod
    def load(cls, folder: str | Path) -> "VAE":
        """Read part "vae" of a checkpoint folder, on the CPU, for inference.

        Raises:
            FileNotFoundError: the folder is not a checkpoint.
            UserError: the weights do not fit the configuration.
        """
        config, state = load_part(folder, "vae")
        with without_weights():
            vae = cls(VAEConfig(**config))
        load_weights(vae, state, folder)
        return vae.eval().requires_grad_(False)

    def _normed_convolutions(self) -> Sequence[nn.Conv1d | nn.ConvTranspose1d]:
        projection = _convolutions(self.encoder)[-1]
        return [m for m in _convolutions(self) if m is not projection]

    @torch.no_grad()
    def _initialise(self) -> None:
        """Fan-in normal weights, quiet residual branches and output, small posterior std.

        Without it a small VAE cannot overfit one batch: default initialisation under weight-norm leaves -0.1 dB of
        signal-to-noise ratio after 160 steps, this start 11.6 dB.
        """
        for convolution in _convolutions(self):
            fan_in = convolution.in_channels // convolution.groups * convolution.kernel_size[0]
            if isinstance(convolution, nn.ConvTranspose1d):
                fan_in //= convolution.stride[0]
            nn.init.normal_(convolution.weight, std=fan_in**-0.5)
            nn.init.zeros_(convolution.bias) if convolution.bias is not None else None
        for unit in self.modules():
            if isinstance(unit, ResidualUnit):
                cast(nn.Conv1d, unit.block[-1]).weight.mul_(0.3)
            elif isinstance(unit, ChannelGains | ShapedBands):
                unit.initialise()
        first, projection = _convolutions(self.encoder)[0], _convolutions(self.encoder)[-1]
        output = _convolutions(self.decoder)[-1]
        if self.config.stem_stride > 1:
            output = [c for c in _convolutions(self.decoder) if isinstance(c, nn.ConvTranspose1d)][-1]
            basis = lapped_transform(self.config.stem_stride, self.config.audio_channels)
            for convolution in (first, output):
                weight = convolution.weight.unflatten(0, (convolution.groups, -1))  # (groups, rows, channels, kernel)
                rows = min(len(basis), weight.shape[1])
                weight[:, :rows] = basis[:rows].unflatten(1, (convolution.groups, -1)).transpose(0, 1)
        output.weight.mul_(0.1)
        assert projection.bias is not None
        projection.bias[self.config.latent_channels :].fill_(self.config.initial_log_std)
