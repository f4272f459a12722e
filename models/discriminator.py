"""Discriminators for the VAE: complex spectrograms at several resolutions.

Source: Defossez et al. 2022 (EnCodec, arXiv 2210.13438), section 3.4; sizes of the Stable Audio VAE.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

DILATIONS = (1, 2, 4)
SLOPE = 0.2


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    audio_channels: int = 2
    """Channels of the audio."""
    num_filters: int = 32
    """Channels of the convolutions."""
    window_lengths: tuple[int, ...] = (2048, 1024, 512, 256, 128)
    """Length in samples of the spectrogram window of each scale; the hop is a quarter."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "window_lengths", tuple(self.window_lengths))


class ScaleDiscriminator(nn.Module):
    """Convolutions over one complex spectrogram; real and imaginary parts are channels."""

    window: Tensor

    def __init__(self, config: DiscriminatorConfig, window_length: int) -> None:
        super().__init__()
        self.window_length = window_length
        self.register_buffer("window", torch.hann_window(window_length), persistent=False)
        width = config.num_filters
        self.layers = nn.ModuleList([_convolution(2 * config.audio_channels, width, (3, 9))])
        self.layers += [_convolution(width, width, (3, 9), stride=(1, 2), dilation=(d, 1)) for d in DILATIONS]
        self.layers += [_convolution(width, width, (3, 3))]
        self.output = _convolution(width, 1, (3, 3))
        self.activation = nn.LeakyReLU(SLOPE)

    def forward(self, audio: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Audio (batch, channels, samples) -> (logits (batch, 1, time, bins), features of every layer)."""
        x = self.spectrogram(audio)
        features = []
        for layer in self.layers:
            x = self.activation(layer(x))
            features.append(x)
        return self.output(x), features

    def spectrogram(self, audio: Tensor) -> Tensor:
        """Audio (batch, channels, samples) -> real and imaginary parts (batch, 2 channels, time, bins)."""
        batch, channels, _ = audio.shape
        spectrum = torch.stft(
            audio.flatten(0, 1).float(),
            self.window_length,
            hop_length=self.window_length // 4,
            window=self.window,
            normalized=True,
            return_complex=True,
        )  # (batch * channels, bins, time)
        parts = torch.view_as_real(spectrum).unflatten(0, (batch, channels))  # (batch, channels, bins, time, 2)
        return parts.permute(0, 1, 4, 3, 2).flatten(1, 2)


class Discriminator(nn.Module):
    """One discriminator a spectrogram resolution."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        self.scales = nn.ModuleList([ScaleDiscriminator(config, length) for length in config.window_lengths])

    def forward(self, audio: Tensor) -> tuple[list[Tensor], list[list[Tensor]]]:
        """Audio (batch, channels, samples) -> logits of every scale, features of every scale and layer."""
        results = [scale(audio) for scale in self.scales]
        return [logits for logits, _ in results], [features for _, features in results]


def _convolution(
    in_channels: int,
    out_channels: int,
    kernel: tuple[int, int],
    stride: tuple[int, int] = (1, 1),
    dilation: tuple[int, int] = (1, 1),
) -> nn.Module:
    padding = (dilation[0] * (kernel[0] - 1) // 2, dilation[1] * (kernel[1] - 1) // 2)
    return weight_norm(nn.Conv2d(in_channels, out_channels, kernel, stride, padding, dilation))
