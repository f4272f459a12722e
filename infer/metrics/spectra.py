"""Spectra of a sound in frames, and mel bands over them: what metrics, embedders and pictures share.

audio (channels, samples) or (samples,), a tensor or an array, 44,100 Hz unless told.
"""

from functools import lru_cache
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
import torchaudio
from torch import Tensor

Audio = Tensor | np.ndarray


def to_channels(audio: Audio) -> Tensor:
    """View audio as (channels, samples) float64 on the CPU."""
    tensor = torch.as_tensor(audio).detach().to("cpu", torch.float64)
    if tensor.ndim == 1:
        tensor = tensor[None]
    if tensor.ndim != 2 or tensor.shape[-1] == 0:
        raise ValueError(f"audio must be (channels, samples) or (samples,) and not empty, got {tuple(tensor.shape)}")
    return tensor


def frame_spectra(audio: Audio, window_samples: int, hop_samples: int, fft_samples: int | None = None) -> Tensor:
    """Power spectra of Hann-windowed frames, summed over channels: (frames, bins)."""
    channels = to_channels(audio)
    padded = F.pad(channels, (window_samples // 2, window_samples // 2 + hop_samples))
    frames = padded.unfold(-1, window_samples, hop_samples) * torch.hann_window(window_samples, dtype=torch.float64)
    return torch.fft.rfft(frames, n=fft_samples or window_samples).abs().square().sum(dim=0)


@lru_cache
def mel_bank(
    fft_size: int,
    num_bands: int,
    lowest_hz: float = 0.0,
    highest_hz: float = 22_050.0,
    norm: Literal["slaney"] | None = "slaney",
    sample_rate: int = 44_100,
) -> Tensor:
    """Triangles on Slaney's mel scale, of unit area with `norm`, otherwise of height 1: (bins, bands) float64."""
    bank = torchaudio.functional.melscale_fbanks(
        fft_size // 2 + 1, lowest_hz, highest_hz, num_bands, sample_rate, norm=norm, mel_scale="slaney"
    )
    return bank.double()
