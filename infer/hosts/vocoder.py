"""A mel vocoder and a change of the sample rate, streamed exactly: joined chunks are the whole piece's output.

HiFi-GAN is local in time, so it runs in the streamed layers of `models.streaming`. Its first transposed convolution has
a kernel of odd overhang, so that the whole piece is a little longer than `mel hop * frames`; the end is cut there.

Sources: Kong et al. 2020 (HiFi-GAN), section 2.2; Smith & Gossett 1984 (bandlimited interpolation).
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.streaming import (
    ChainStream,
    LayerStream,
    PointwiseStream,
    ResidualStream,
    SumStream,
    conv_stream,
    conv_transpose_stream,
)

FINAL_SLOPE = 0.01
"""Slope of the leaky ReLU before the last convolution: PyTorch's default, which HiFi-GAN leaves there."""


class Scale(nn.Module):
    """x times a constant."""

    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


def vocoder_stream(vocoder: Any) -> LayerStream:
    """Build the streamed form of transformers' SpeechT5HifiGan without normalisation of its input.

    It takes log-mel frames (batch, bins, frames) and gives waveforms (batch, 1, samples).
    """
    slope, num_kernels = vocoder.config.leaky_relu_slope, vocoder.num_kernels
    layers: list[LayerStream] = [conv_stream(vocoder.conv_pre)]
    for level, up_sampling in enumerate(vocoder.upsampler):
        blocks = vocoder.resblocks[level * num_kernels : (level + 1) * num_kernels]
        layers += [
            _leaky_relu(slope),
            conv_transpose_stream(up_sampling),
            SumStream([_residual_block(block, slope) for block in blocks]),
            PointwiseStream(Scale(1 / num_kernels)),
        ]
    return ChainStream([*layers, _leaky_relu(FINAL_SLOPE), conv_stream(vocoder.conv_post), PointwiseStream(nn.Tanh())])


def _residual_block(block: Any, slope: float) -> LayerStream:
    branches = (
        [_leaky_relu(slope), conv_stream(dilated), _leaky_relu(slope), conv_stream(plain)]
        for dilated, plain in zip(block.convs1, block.convs2, strict=True)
    )
    return ChainStream([ResidualStream(ChainStream(branch)) for branch in branches])


def _leaky_relu(slope: float) -> LayerStream:
    return PointwiseStream(nn.LeakyReLU(slope))


class ResamplerStream(LayerStream):
    """Waveforms (batch, 1, samples) from one sample rate to another by a windowed sinc.

    Its state is a tensor, which a stream's file can hold; a sample of the output depends on `zeros` zero crossings of
    the sinc on either side. A piece of n samples becomes ceil(n * target / source).
    """

    carried = ("kept", "num_inputs", "num_outputs")

    def __init__(self, source: int, target: int, zeros: int = 32, rolloff: float = 0.97):
        divisor = math.gcd(source, target)
        self.source, self.target = source // divisor, target // divisor
        cutoff = min(self.source, self.target) * rolloff / self.source  # of the source's Nyquist frequency
        self.half = math.ceil(zeros / cutoff)  # input samples on either side
        # Output j of a period of `target` stands at input j * source / target.
        phase = torch.arange(self.target, dtype=torch.float64)[:, None] * self.source / self.target
        tap = torch.arange(-self.half, self.half + self.source, dtype=torch.float64)[None]
        x = ((tap - phase) * cutoff).clamp(-zeros, zeros)
        kernel = cutoff * torch.sinc(x) * torch.cos(x * math.pi / (2 * zeros)) ** 2
        self.kernel = kernel[:, None].float()  # (target, 1, taps)
        self.kept: Tensor | None = None
        self.num_inputs = self.num_outputs = 0

    def push(self, x: Tensor, last: bool) -> Tensor:
        self.num_inputs += x.shape[-1]
        x = torch.cat((x.new_zeros(len(x), 1, self.half) if self.kept is None else self.kept, x), dim=-1)
        if last:
            x = F.pad(x, (0, self.half + self.source))
        num_periods = max(0, (x.shape[-1] - self.kernel.shape[-1]) // self.source + 1)
        self.kept = x[..., num_periods * self.source :].clone()
        if not num_periods:
            return x[..., :0]
        periods = F.conv1d(x, self.kernel.to(x), stride=self.source)  # (batch, target, periods)
        y = periods.transpose(1, 2).flatten(1)[:, None]
        if last:
            y = y[..., : -(-self.num_inputs * self.target // self.source) - self.num_outputs]
        self.num_outputs += y.shape[-1]
        return y

    def input_span(self, first: int, last: int) -> tuple[int, int]:
        start, end = (index // self.target * self.source for index in (first, last))
        return start - self.half, end + self.half + self.source - 1
