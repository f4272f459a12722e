"""Pictures of sounds and of measurements.

matplotlib is loaded when the first picture is drawn, and never with `pyplot`: no picture needs a screen, or the backend
that a notebook names in MPLBACKEND.

audio (channels, samples), 44,100 Hz.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from data.audio import SAMPLE_RATE
from infer.metrics.spectra import frame_spectra, mel_bank

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FFT_SIZE, NUM_MELS = 2048, 128
LOWEST_DB = -100.0  # of the mel power of a full-scale tone
MAX_COLUMNS = 1200


def new_figure(width: float, height: float, dpi: int = 120) -> Figure:
    """Make an empty figure of so many inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=dpi, layout="constrained")


def mel_levels_db(audio: Tensor) -> np.ndarray:
    """Return the mel spectrogram in dB of a sound: (mels, frames), high frequencies on top."""
    hop = max(512, audio.shape[-1] // MAX_COLUMNS)
    power = frame_spectra(audio, FFT_SIZE, hop) @ mel_bank(FFT_SIZE, NUM_MELS, 20.0, norm=None) / (FFT_SIZE / 4) ** 2
    return 10 * torch.log10(power.T.flip(0) + 1e-12).numpy()


def write_spectrogram(path: Path, audio: Tensor) -> None:
    """Write an image without axes: time to the right, mel frequency up, level as brightness."""
    from matplotlib.image import imsave

    imsave(path, mel_levels_db(audio), vmin=LOWEST_DB, vmax=0.0, cmap="magma")


def draw_spectrograms(title: str, sounds: Mapping[str, Tensor]) -> Figure:
    """Draw the mel spectrograms of sounds, one above the other, with their names."""
    figure = new_figure(9, 1.3 * len(sounds) + 0.8)
    panels = figure.subplots(len(sounds), 1, squeeze=False)[:, 0]
    for axes, (label, audio) in zip(panels, sounds.items(), strict=True):
        extent = (0.0, audio.shape[-1] / SAMPLE_RATE, 0.0, 1.0)
        axes.imshow(mel_levels_db(audio), aspect="auto", extent=extent, vmin=LOWEST_DB, vmax=0.0, cmap="magma")
        axes.set_ylabel(label, rotation=0, horizontalalignment="right", verticalalignment="center")
        axes.set_yticks([])
    panels[0].set_title(title)
    panels[-1].set_xlabel("seconds")
    return figure
