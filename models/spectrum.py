"""Power spectra with a cheap gradient.

The derivative of `torch.stft` costs ten to thirty times the transform itself on a CPU: it goes through complex
transforms of twice the size and scatters every frame by index. Here the gradient is what it is in mathematics, an
inverse real transform with overlap-add.

    audio (rows, samples), power (rows, bins, frames), bins = window / 2 + 1, hop = window / 4
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

OVERLAP = 4
"""Frames that cover a sample: the hop is the window over this."""


def power_spectrum(audio: Tensor, window: Tensor) -> Tensor:
    """Squared magnitude of `torch.stft`: hop of a quarter window, centred, mirrored ends, scaled by window ** -1/2.

    Args:
        audio: (rows, samples), more samples than half a window.
        window: its length must be a multiple of 4.
    """
    if torch.compiler.is_compiling():  # it loses the gradient of a function that works in place
        spectrum = _transform(audio, window)
        return spectrum.real.square() + spectrum.imag.square()
    return cast(Tensor, _PowerSpectrum.apply(audio, window))


def _transform(audio: Tensor, window: Tensor) -> Tensor:
    hop = len(window) // OVERLAP
    return torch.stft(audio, len(window), hop, window=window, normalized=True, return_complex=True)


class _PowerSpectrum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, audio: Tensor, window: Tensor) -> Tensor:
        spectrum = _transform(audio, window)
        ctx.save_for_backward(spectrum, window)
        ctx.num_samples = audio.shape[-1]
        return spectrum.real.square().addcmul_(spectrum.imag, spectrum.imag)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        spectrum, window = ctx.saved_tensors
        (gradient,) = gradients
        # d audio = 2 window * sum over bins of gradient * Re(spectrum * exp(+i angle)); irfft sums inner bins twice.
        weighted = torch.empty_like(spectrum)
        torch.mul(spectrum.real, gradient, out=weighted.real)
        torch.mul(spectrum.imag, gradient, out=weighted.imag)
        weighted[:, 0] *= 2
        weighted[:, -1] *= 2
        frames = torch.fft.irfft(weighted.transpose(1, 2), n=len(window), norm="forward")  # (rows, frames, window)
        frames *= window * len(window) ** -0.5
        return _unmirror(_overlap_add(frames), len(window) // 2, ctx.num_samples), None


def _overlap_add(frames: Tensor) -> Tensor:
    """Add frames (rows, frames, window), each a hop after the one before: (rows, samples)."""
    rows, num_frames, length = frames.shape
    parts = frames.view(rows, num_frames, OVERLAP, length // OVERLAP)
    total = F.pad(parts[:, :, 0], (0, 0, 0, OVERLAP - 1))  # (rows, hops, hop)
    for shift in range(1, OVERLAP):
        total[:, shift : shift + num_frames] += parts[:, :, shift]
    return total.flatten(1)


def _unmirror(gradient: Tensor, margin: int, num_samples: int) -> Tensor:
    """Gradient of mirroring `margin` samples at both ends: (rows, about num_samples + 2 margin) -> num_samples."""
    gradient = F.pad(gradient, (0, num_samples + 2 * margin - gradient.shape[1]))
    inner = gradient[:, margin : margin + num_samples].clone()
    inner[:, 1 : margin + 1] += gradient[:, :margin].flip(1)
    inner[:, num_samples - 1 - margin : num_samples - 1] += gradient[:, margin + num_samples :].flip(1)
    return inner
